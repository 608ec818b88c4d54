-- demo.sql - the story that scripts/demo plays and scripts/test checks.
-- Lines that begin with --#, --@, --! or --? are explained in scripts/play.

--# A bookshop.  Create the extension in a database of its own.
--@ alice
CREATE EXTENSION esrs;

--# An aggregate decides: given its state and a command, which events happen?
--# Or it rejects the command.  Here in PL/pgSQL; C works as well.
CREATE FUNCTION book_handle(state jsonb, command jsonb) RETURNS jsonb[]
LANGUAGE plpgsql AS $$
DECLARE
    copies int;
BEGIN
    IF command ? 'Buy' THEN
        copies := command -> 'Buy' ->> 'num_of_copies';
        IF copies > (state ->> 'leftover')::int THEN
            RAISE 'not enough copies left'
                USING ERRCODE = 'ZE001', CONSTRAINT = 'NotEnoughCopies';
        END IF;
        RETURN ARRAY[jsonb_build_object('Bought', command -> 'Buy')];
    END IF;
    RETURN ARRAY[jsonb_build_object('Returned', command -> 'Return')];
END $$;

--# It evolves: given its state and an event, what is its next state?
CREATE FUNCTION book_apply(state jsonb, event jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_set(state, '{leftover}', to_jsonb((state ->> 'leftover')::int
        - coalesce((event -> 'Bought'   ->> 'num_of_copies')::int, 0)
        + coalesce((event -> 'Returned' ->> 'num_of_copies')::int, 0)))
$$;

--# Register both under a name.  The events will live in the table book_events.
SELECT esrs_register_aggregate('book',
    handle_command => 'book_handle(jsonb,jsonb)',
    apply_event    => 'book_apply(jsonb,jsonb)',
    initial_state  => '{"leftover": 10}');

--# A read model: a plain table, kept up to date by a transactional handler,
--# which runs for each event in the transaction of the command.
CREATE TABLE stock (book_id uuid PRIMARY KEY, leftover int NOT NULL);

CREATE FUNCTION keep_stock(event esrs_event) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO stock VALUES (event.aggregate_id,
        10 - coalesce((event.payload -> 'Bought'   ->> 'num_of_copies')::int, 0)
            + coalesce((event.payload -> 'Returned' ->> 'num_of_copies')::int, 0))
    ON CONFLICT (book_id) DO UPDATE SET leftover = stock.leftover
        - coalesce((event.payload -> 'Bought'   ->> 'num_of_copies')::int, 0)
        + coalesce((event.payload -> 'Returned' ->> 'num_of_copies')::int, 0)
$$;

SELECT esrs_register_handler('stock', ARRAY['book'], 'keep_stock(esrs_event)');

--# Bob, in a second session, wants to hear of new events.
--@ bob
LISTEN book_events;

--# Alice sends a command: lock, load the state, decide, store the events, update the read
--# model, tell the world.  One round trip; the answer is the new state.
--@ alice
--? {"leftover": 7}
SELECT esrs_handle_command('book', '10000000-0000-4000-8000-000000000001',
    '{"Buy": {"num_of_copies": 3}}');

--# A moment later Bob has been told, by a background worker: commands do not wait for
--# NOTIFY.  The notification is a hint: which event, not what.
--@ bob
--? Asynchronous notification "book_events"
SELECT 'anything new?' AS question FROM pg_sleep(1);

--# The event is stored, numbered within its book ...
--@ alice
--? {"Bought": {"num_of_copies": 3}}
SELECT sequence_number, payload FROM esrs_events('book', '10000000-0000-4000-8000-000000000001');

--# ... and the read model knows already.
--? 7
SELECT leftover FROM stock WHERE book_id = '10000000-0000-4000-8000-000000000001';

--# A command that the aggregate rejects changes nothing.
--! ZE001
--? not enough copies left
SELECT esrs_handle_command('book', '10000000-0000-4000-8000-000000000001',
    '{"Buy": {"num_of_copies": 8}}');

--# The same as a row instead of an error: the caller's transaction lives on.
--? NotEnoughCopies
SELECT ok, sequence_number, error FROM esrs_try_command('book',
    '10000000-0000-4000-8000-000000000001', '{"Buy": {"num_of_copies": 8}}');

--# Alice has seen one event and decides by that.  Meanwhile Bob is faster ...
--@ bob
--? {"leftover": 8}
SELECT esrs_handle_command('book', '10000000-0000-4000-8000-000000000001',
    '{"Return": {"num_of_copies": 1}}');

--# ... so her command is a version conflict: nothing happened, she may look again.
--@ alice
--! 40001
SELECT esrs_handle_command('book', '10000000-0000-4000-8000-000000000001',
    '{"Buy": {"num_of_copies": 1}}', expected_sequence => 1);

--# Looking again: the state is nothing but its events, folded.
--? {"leftover": 8}
SELECT sequence_number, state FROM esrs_load('book', '10000000-0000-4000-8000-000000000001');

--# As it was after the first event:
--? {"leftover": 7}
SELECT sequence_number, state FROM esrs_load('book',
    '10000000-0000-4000-8000-000000000001', at_sequence => 1);

--# An asynchronous handler runs in the background worker soon after the commit, each event
--# exactly once: a failing one never fails a command.  This one begins with the first event.
CREATE TABLE sales (book_id uuid PRIMARY KEY, copies int NOT NULL);

CREATE FUNCTION count_sales(event esrs_event) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO sales VALUES (event.aggregate_id, (event.payload -> 'Bought' ->> 'num_of_copies')::int)
    ON CONFLICT (book_id) DO UPDATE SET copies = sales.copies + excluded.copies
$$;

SELECT esrs_register_handler('sales', ARRAY['book'], 'count_sales(esrs_event)', mode => 'async',
    event_types => ARRAY['Bought'], start_at => 'beginning');

--# Who wants to read his own writes waits for it.
--? 3
SELECT esrs_wait_for('sales', timeout => '1 min');
SELECT copies FROM sales;

--# Events are facts: nobody changes them by hand.
--! ZE003
UPDATE book_events SET payload = '{"Bought": {"num_of_copies": 0}}';
