-- book_sql: the aggregate of examples/book, written in PL/pgSQL.

CREATE EXTENSION esrs;

-- Decide: state and command -> events, or a rejection (SQLSTATE ZE001).
CREATE FUNCTION book_handle(state jsonb, command jsonb) RETURNS SETOF jsonb
LANGUAGE plpgsql AS $$
DECLARE
    leftover int := (state -> 'leftover')::int;
    copies   int := coalesce((command #> '{Buy,num_of_copies}')::int,
                             (command #> '{Return,num_of_copies}')::int);
BEGIN
    IF copies IS NULL THEN
        RAISE 'a book can be bought and returned'
            USING ERRCODE = 'ZE001', CONSTRAINT = 'UnknownCommand';
    ELSIF copies < 1 THEN
        RAISE 'number of copies must be positive'
            USING ERRCODE = 'ZE001', CONSTRAINT = 'InvalidNumber';
    ELSIF command ? 'Buy' AND copies > leftover THEN
        RAISE 'not enough copies left'
            USING ERRCODE = 'ZE001', CONSTRAINT = 'NotEnoughCopies',
                  DETAIL = jsonb_build_object('leftover', leftover);
    END IF;
    RETURN NEXT jsonb_build_object(CASE WHEN command ? 'Buy' THEN 'Bought' ELSE 'Returned' END,
                                   jsonb_build_object('num_of_copies', copies));
END $$;

-- Evolve: state and event -> state.
CREATE FUNCTION book_apply(state jsonb, event jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN jsonb_build_object('leftover', (state -> 'leftover')::int
        - coalesce(event #> '{Bought,num_of_copies}', '0')::int
        + coalesce(event #> '{Returned,num_of_copies}', '0')::int);
END $$;

SELECT esrs_register_aggregate('book',
    handle_command => 'book_handle(jsonb,jsonb)',
    apply_event    => 'book_apply(jsonb,jsonb)',
    initial_state  => '{"leftover": 10}');

-- A read model, kept up to date in the transaction of each command.
CREATE TABLE shelf (book uuid PRIMARY KEY, leftover int NOT NULL);

CREATE FUNCTION keep_shelf(event esrs_event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    change int := coalesce((event.payload #> '{Returned,num_of_copies}')::int,
                           -(event.payload #> '{Bought,num_of_copies}')::int);
BEGIN
    INSERT INTO shelf VALUES (event.aggregate_id, 10 + change)
    ON CONFLICT (book) DO UPDATE SET leftover = shelf.leftover + change;
END $$;

CREATE FUNCTION forget_shelf(book_id uuid) RETURNS void LANGUAGE sql AS $$
    DELETE FROM shelf WHERE book = book_id
$$;

SELECT esrs_register_handler('shelf', '{book}', 'keep_shelf(esrs_event)',
                             delete_handler => 'forget_shelf(uuid)');

-- A second one, which wants one kind of event only and all those of a command at once.
CREATE TABLE sold_out (book uuid, noticed int);

CREATE FUNCTION watch_sales(events esrs_event[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO sold_out
    SELECT e.aggregate_id, e.sequence_number
      FROM unnest(events) AS e JOIN shelf ON shelf.book = e.aggregate_id
     WHERE shelf.leftover = 0
$$;

SELECT esrs_register_handler('sold_out', '{book}', 'watch_sales(esrs_event[])',
                             event_types => '{Bought}');

-- The rules tested without a single stored event.
SELECT esrs_test('book', given => '{}',
                 "when" => '{"Buy": {"num_of_copies": 10}}',
                 "then" => ARRAY['{"Bought": {"num_of_copies": 10}}']::jsonb[]);
SELECT esrs_test('book', given => ARRAY['{"Bought": {"num_of_copies": 8}}']::jsonb[],
                 "when" => '{"Buy": {"num_of_copies": 3}}',
                 then_error => 'NotEnoughCopies');
SELECT esrs_test('book', given => ARRAY['{"Bought": {"num_of_copies": 8}}',
                                        '{"Returned": {"num_of_copies": 1}}']::jsonb[],
                 "when" => '{"Buy": {"num_of_copies": 3}}',
                 "then" => ARRAY['{"Bought": {"num_of_copies": 3}}']::jsonb[]);

\set book '''0b5e7c1e-0000-4000-8000-000000000001'''

-- Ten copies are there.  Four are bought.
SELECT esrs_handle_command('book', :book, '{"Buy": {"num_of_copies": 4}}');

-- Seven more would be too many.  The rejection is an error ...
\set SHOW_CONTEXT never
SELECT esrs_handle_command('book', :book, '{"Buy": {"num_of_copies": 7}}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE

-- ... or a row, and then the transaction goes on.
BEGIN;
SELECT ok, sequence_number, state, events, error
  FROM esrs_try_command('book', :book, '{"Buy": {"num_of_copies": 7}}');
SELECT ok, sequence_number, state, error
  FROM esrs_try_command('book', :book, '{"Buy": {"num_of_copies": 6}}');
COMMIT;

-- One copy comes back.
SELECT esrs_handle_command('book', :book, '{"Return": {"num_of_copies": 1}}');

-- What happened, what the state is now, and what it was after the first event.
SELECT sequence_number, payload FROM esrs_events('book', :book);
SELECT sequence_number, state FROM esrs_load('book', :book);
SELECT sequence_number, state FROM esrs_load('book', :book, at_sequence => 1);
SELECT leftover FROM shelf WHERE book = :book;
SELECT noticed FROM sold_out WHERE book = :book;

-- What would happen, if ...
SELECT * FROM esrs_decide('book', :book, '{"Buy": {"num_of_copies": 1}}');

-- Somebody who saw event 2 decides by it, too late.
SELECT esrs_handle_command('book', :book, '{"Buy": {"num_of_copies": 1}}', expected_sequence => 2);
\echo SQLSTATE :LAST_ERROR_SQLSTATE

-- A client that got no answer sends its command again: the same id, the same answer.
\set id '''c0000000-0000-4000-8000-000000000001'''
SELECT esrs_handle_command('book', :book, '{"Return": {"num_of_copies": 3}}', command_id => :id);
SELECT esrs_handle_command('book', :book, '{"Return": {"num_of_copies": 3}}', command_id => :id);
SELECT count(*) AS events FROM book_events;

-- Two books at once, or none.
SELECT aggregate_id, sequence_number, state
  FROM esrs_handle_commands(ARRAY[
           ('book', :book, '{"Buy": {"num_of_copies": 1}}', NULL, NULL, NULL),
           ('book', '0b5e7c1e-0000-4000-8000-000000000002', '{"Buy": {"num_of_copies": 2}}', NULL, NULL, NULL)
       ]::esrs_command[]);

-- All that happened, in one order over all books: what a subscriber reads.
SELECT aggregate_id, sequence_number, payload FROM esrs_feed('{book}');

-- What was before may still be on its way to being told.
SELECT esrs_stop_workers() >= 0 AS quiet;

-- The event bus: every session that listens is told, by the background worker soon after the
-- commit, or, as here, by the session that commits.
SELECT esrs_alter_aggregate('book', '{"notify": "commit"}');
LISTEN book_events;
\o | sed -E 's/"id":"[^"]*"/"id":"..."/; s/with PID [0-9]+/with PID .../'
SELECT esrs_handle_command('book', :book, '{"Buy": {"num_of_copies": 2}}');
\o
UNLISTEN book_events;

-- History is not for editing.
UPDATE book_events SET payload = '{"Bought": {"num_of_copies": 0}}';

-- A book is taken off the shelves, events and read model alike.
SELECT esrs_delete('book', :book);
SELECT * FROM shelf;
SELECT aggregate_id, id IS NULL AS deleted FROM esrs_feed('{book}');
