--
-- Asynchronous event handlers in the background worker: views over one and over several
-- aggregates, per event and set-based, in C, deletions, old versions of events, a saga, and
-- reading one's own writes.
--
-- Catches: an event that is not handled, twice, out of order or before its commit; one of a
-- transaction that was rolled back; a failing handler that fails the command; a saga's command
-- that does not tell its cause; esrs_wait_for that returns too early, or waits for itself.
--
\set SHOW_CONTEXT never
\getenv abs_srcdir PG_ABS_SRCDIR
\set testlib :abs_srcdir '/testlib/esrs_testlib'
SET client_min_messages = warning;
CREATE SCHEMA esrs_async;
SET search_path = esrs_async, public;
\pset null (null)
\set a '\'a5700000-0000-4000-8000-00000000000a\''
\set b '\'a5700000-0000-4000-8000-00000000000b\''
\set c '\'a5700000-0000-4000-8000-00000000000c\''

-- an account counts; a command is its event, or is rejected, or has none
CREATE FUNCTION decide(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE plpgsql
SET search_path = esrs_async, public, pg_temp AS $$
BEGIN
    IF command ? 'refuse' THEN
        PERFORM esrs_reject('refused', 'no');
    END IF;
    RETURN CASE WHEN command ? 'events' THEN
        (SELECT array_agg(e ORDER BY n) FROM jsonb_array_elements(command -> 'events') WITH ORDINALITY AS x(e, n))
        WHEN command ? 'nothing' THEN '{}' ELSE ARRAY[command] END;
END $$;
CREATE FUNCTION evolve(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql
BEGIN ATOMIC SELECT jsonb_build_object('events', coalesce((state ->> 'events')::int, 0) + 1); END;
SELECT esrs_register_aggregate(name, handle_command => 'decide(jsonb,jsonb)', apply_event => 'evolve(jsonb,jsonb)')
  FROM unnest('{as_account,as_other}'::text[]) AS name;
CREATE FUNCTION put(aggregate text, id uuid, VARIADIC events jsonb[]) RETURNS bigint LANGUAGE sql AS
    $$SELECT max(position) FROM esrs_persist(aggregate, id, events)$$;

CREATE TABLE log (n serial, who text, what text, tx xid8 DEFAULT pg_current_xact_id());
CREATE FUNCTION shown() RETURNS TABLE (who text, what text) LANGUAGE sql AS
    $$WITH gone AS (DELETE FROM log RETURNING n, who, what) SELECT who, what FROM gone ORDER BY n$$;
CREATE FUNCTION note(who text, e esrs_event) RETURNS void LANGUAGE sql
BEGIN ATOMIC
    INSERT INTO log (who, what) VALUES (who, format('%s %s/%s %s', e.aggregate, right(e.aggregate_id::text, 1), e.sequence_number, e.payload));
END;
CREATE FUNCTION one(e esrs_event) RETURNS void LANGUAGE sql BEGIN ATOMIC SELECT note('one', e); END;
CREATE FUNCTION many(e esrs_event[]) RETURNS void LANGUAGE sql
BEGIN ATOMIC
    INSERT INTO log (who, what)
    SELECT 'many', string_agg(format('%s/%s', right(x.aggregate_id::text, 1), x.sequence_number), ' ' ORDER BY x.n)
           || CASE WHEN count(*) <> max(x.n) OR NOT bool_and(x.rising) THEN ' IN WRONG ORDER' ELSE '' END
      FROM (SELECT u.*, u.position > lag(u.position, 1, 0::bigint) OVER (ORDER BY u.n) AS rising
              FROM unnest(e) WITH ORDINALITY AS u(aggregate, id, aggregate_id, payload, occurred_on, sequence_number, version, position, metadata, n)) AS x;
END;

-- ------------------------------------------------------------------------
-- A view that follows soon after the commit
-- ------------------------------------------------------------------------
SELECT esrs_register_handler('as_one', '{as_account}', 'one(esrs_event)', mode => 'async');
SELECT mode, ordering, partitions, batch_size, on_error, max_attempts, start_at, status, run_as = current_user::regrole AS mine
  FROM esrs_handlers WHERE name = 'as_one';
SELECT esrs_handle_command('as_account', :a, '{"opened": 1}');
SELECT esrs_wait_for('as_one', timeout => '60s');
SELECT * FROM shown();
-- several events of a command, in their order; another aggregate is none of its business
SELECT esrs_handle_command('as_account', :a, '{"events": [{"n": 2}, {"n": 3}, {"n": 4}]}');
SELECT esrs_handle_command('as_other', :a, '{"n": 0}');
SELECT esrs_wait_for('as_one', timeout => '60s');
SELECT * FROM shown();
-- not before the commit, and not at all after a rollback
BEGIN;
SELECT esrs_handle_command('as_account', :a, '{"n": 5}');
SELECT esrs_handle_command('as_account', :b, '{"n": 1}');
SAVEPOINT s;
SELECT esrs_handle_command('as_account', :b, '{"n": "rolled back"}');
ROLLBACK TO s;
SELECT pg_sleep(0.2);
SELECT * FROM shown();
COMMIT;
BEGIN;
SELECT esrs_handle_command('as_account', :a, '{"n": "rolled back"}');
ROLLBACK;
SELECT ok FROM esrs_try_command('as_account', :a, '{"refuse": 1}');
SELECT esrs_handle_command('as_account', :a, '{"nothing": 1}');
SELECT esrs_wait_for('as_one', timeout => '60s');
SELECT * FROM shown();
-- an INSERT by hand is an event like others
INSERT INTO as_account_events (id, aggregate_id, payload, sequence_number) VALUES (gen_random_uuid(), :a, '"by hand"', 6);
SELECT esrs_wait_for('as_one', timeout => '60s');
SELECT * FROM shown();

-- one that fails, fails nobody
CREATE FUNCTION fails(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log (who) VALUES ('fails'); RAISE 'no'; END $$;
SELECT esrs_register_handler('as_fails', '{as_account}', 'fails(esrs_event)', mode => 'async', max_attempts => 1);
SELECT esrs_handle_command('as_account', :b, '{"n": 2}');
SELECT esrs_wait_for('as_fails', timeout => '60s'), esrs_wait_for('as_one', timeout => '60s');
SELECT * FROM shown();
SELECT handler, sequence_number, state, attempts, message FROM esrs_dead_letters WHERE handler LIKE 'as\_%';
SELECT esrs_unregister_handler('as_fails');
-- cancelled (by a timeout, say) it is tried again, for ever: that is not the event's fault
CREATE SEQUENCE calls;
CREATE FUNCTION cancelled(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF nextval('calls') <= 2 THEN
        RAISE query_canceled;
    END IF;
    INSERT INTO log (who) VALUES ('not cancelled');
END $$;
SELECT esrs_register_handler('as_cancelled', '{as_account}', 'cancelled(esrs_event)', mode => 'async', max_attempts => 1);
SELECT esrs_handle_command('as_account', :b, '{"n": 3}');
SELECT esrs_wait_for('as_cancelled', timeout => '60s'), esrs_wait_for('as_one', timeout => '60s');
SELECT * FROM shown() ORDER BY who;
SELECT count(*) FROM esrs_dead_letters WHERE handler LIKE 'as\_%';
SELECT esrs_unregister_handler('as_cancelled');

-- ------------------------------------------------------------------------
-- Several aggregates into one view, set-based: all of a batch at once, by position
-- ------------------------------------------------------------------------
SELECT esrs_unregister_handler('as_one');
SELECT esrs_register_handler('as_many', '{as_account,as_other}', 'many(esrs_event[])', mode => 'async');
BEGIN;
SELECT put('as_other', :c, '"x"') < put('as_account', :a, '"x"', '"y"') AND put('as_account', :c, '"x"') < put('as_other', :c, '"y"') AS rising;
COMMIT;
SELECT esrs_wait_for('as_many', timeout => '60s');
SELECT * FROM shown();
SELECT esrs_unregister_handler('as_many');

-- ------------------------------------------------------------------------
-- Handlers in C, and a deletion between events of a set
-- ------------------------------------------------------------------------
CREATE TABLE c_handler_log (what text, aggregate text, sequence_number int, payload jsonb);
CREATE FUNCTION on_event(esrs_event) RETURNS void AS :'testlib', 'testlib_on_event' LANGUAGE C;
CREATE FUNCTION on_events(esrs_event[]) RETURNS void AS :'testlib', 'testlib_on_events' LANGUAGE C;
CREATE FUNCTION on_delete(uuid) RETURNS void AS :'testlib', 'testlib_on_delete' LANGUAGE C;
SELECT esrs_register_handler('as_c_one', '{as_account}', 'on_event(esrs_event)', mode => 'async', delete_handler => 'on_delete(uuid)');
BEGIN;
SELECT put('as_account', :c, '{"Ping": 1.10}', '"Pong"') > 0, esrs_delete('as_account', :c), put('as_account', :c, '"again"') > 0;
COMMIT;
SELECT esrs_wait_for('as_c_one', timeout => '60s');
SELECT * FROM c_handler_log;
TRUNCATE c_handler_log;
SELECT esrs_unregister_handler('as_c_one');
SELECT esrs_register_handler('as_c_all', '{as_account}', 'on_events(esrs_event[])', mode => 'async', delete_handler => 'on_delete(uuid)');
BEGIN;
SELECT put('as_account', :a, '"before"', '{"Ping": 1.10}') > 0, esrs_delete('as_account', :c), put('as_account', :c, '"again"') > 0,
       esrs_delete('as_account', :b);
COMMIT;
SELECT esrs_wait_for('as_c_all', timeout => '60s');
SELECT * FROM c_handler_log;
SELECT esrs_unregister_handler('as_c_all');

-- ------------------------------------------------------------------------
-- A saga: what happens to an account is told to others, and to itself
-- ------------------------------------------------------------------------
CREATE FUNCTION saga(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF e.payload ? 'ordered' THEN
        -- another aggregate, an instance of the same, and the same instance
        PERFORM esrs_handle_command('as_other', e.aggregate_id, jsonb_build_object('shipped', e.payload -> 'ordered'));
        PERFORM esrs_handle_command('as_account', 'a5700000-0000-4000-8000-00000000000d', '{"commission": 1}');
        PERFORM esrs_handle_command('as_account', e.aggregate_id, '{"confirmed": 1}');
    ELSIF e.payload ? 'confirmed' THEN
        -- the next step comes with the event of the last
        PERFORM esrs_handle_command('as_account', e.aggregate_id, '{"closed": 1}', metadata => '{"correlation_id": "its own"}');
    ELSIF e.payload ? 'wrong' THEN
        PERFORM esrs_handle_command('as_other', e.aggregate_id, '{"left over": 1}');
        PERFORM esrs_handle_command('as_account', e.aggregate_id, '{"refuse": 1}');
    END IF;
END $$;
SELECT esrs_register_handler('as_saga', '{as_account}', 'saga(esrs_event)', mode => 'async', max_attempts => 1);
SELECT last_value AS before FROM esrs.position_seq \gset
SELECT state FROM esrs_try_command('as_account', :a, '{"ordered": "book"}', metadata => '{"correlation_id": "order 1", "traceparent": "00-1", "actor": "me"}');
-- step by step: each is an event that the handler sees when it is committed
SELECT esrs_wait_for('as_saga', timeout => '60s'), esrs_wait_for('as_saga', timeout => '60s'), esrs_wait_for('as_saga', timeout => '60s');
SELECT aggregate, right(aggregate_id::text, 1) AS instance, sequence_number, payload, metadata - 'causation_id' AS metadata,
       (SELECT c.payload FROM esrs_feed('{as_account,as_other}', :before) AS c WHERE c.id::text = f.metadata ->> 'causation_id') AS cause
  FROM esrs_feed('{as_account,as_other}', :before) AS f;
-- a rejection in a saga is an error of the handler: nothing of the event's effects remains
SELECT last_value AS before FROM esrs.position_seq \gset
SELECT esrs_handle_command('as_account', :b, '{"wrong": 1}');
SELECT esrs_wait_for('as_saga', timeout => '60s');
SELECT aggregate, payload FROM esrs_feed('{as_account,as_other}', :before);
SELECT sqlstate, message, attempts, state FROM esrs_dead_letters WHERE handler = 'as_saga';
-- a set-based handler's command has the last event of the set as its cause
CREATE FUNCTION set_saga(e esrs_event[]) RETURNS void LANGUAGE plpgsql AS
    $$ BEGIN PERFORM esrs_handle_command('as_other', e[1].aggregate_id, jsonb_build_object('set of', cardinality(e))); END $$;
SELECT esrs_unregister_handler('as_saga');
SELECT esrs_register_handler('as_set_saga', '{as_account}', 'set_saga(esrs_event[])', mode => 'async');
SELECT last_value AS before FROM esrs.position_seq \gset
SELECT put('as_account', :b, '"first"', '"second"') > 0;
SELECT esrs_wait_for('as_set_saga', timeout => '60s');
SELECT payload, (SELECT c.payload FROM esrs_feed('{as_account}', :before) AS c WHERE c.id::text = f.metadata ->> 'causation_id') AS cause
  FROM esrs_feed('{as_other}', :before) AS f;
SELECT esrs_unregister_handler('as_set_saga');

-- ------------------------------------------------------------------------
-- Reading one's own writes
-- ------------------------------------------------------------------------
SELECT esrs_register_handler('as_one', '{as_account}', 'one(esrs_event)', mode => 'async');
SELECT put('as_account', :a, '"x"') AS mine \gset
SELECT esrs_wait_for('as_one', :mine, '60s');
SELECT count(*) FROM shown();
-- paused: false after the timeout; up to what is handled it returns at once
SELECT esrs_pause_handler('as_one');
SELECT put('as_account', :a, '"y"') AS next \gset
SELECT esrs_wait_for('as_one', timeout => '0s'), esrs_wait_for('as_one', :next, '50ms'), esrs_wait_for('as_one', :mine, '60s'), esrs_wait_for('as_one', 0, '60s');
SELECT esrs_resume_handler('as_one');
SELECT esrs_wait_for('as_one', :next, '60s');
-- in a transaction: not for what is not committed yet, but for what was before
BEGIN;
SELECT put('as_account', :a, '"z"') > 0 AS stored;
SELECT esrs_wait_for('as_one', :next, '60s');
SELECT esrs_wait_for('as_one');
\echo :SQLSTATE
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT esrs_wait_for('as_one');
\echo :SQLSTATE
ROLLBACK;
BEGIN READ ONLY;
SELECT esrs_wait_for('as_one', timeout => '60s');
COMMIT;

-- the command and its handlers in one call: when it returns, both have handled its events
CREATE FUNCTION total(e esrs_event) RETURNS void LANGUAGE sql BEGIN ATOMIC SELECT note('total', e); END;
SELECT esrs_register_handler('as_total', '{as_account,as_other}', 'total(esrs_event)', mode => 'async', ordering => 'total');
SELECT count(*) >= 0 AS emptied FROM shown();
CALL esrs_execute('as_account', :a, '{"executed": 1}') \gset
SELECT (:'result'::esrs_result).ok;
SELECT who, what ~ '"executed"' AS executed FROM shown() ORDER BY who;

-- nothing is left to be done, and nothing was found wrong
SELECT handler, partition, status, events_behind, oldest_unhandled, attempts, retry_at, last_error, position <= safe_position AS sane, safe_position <= head AS sound
  FROM esrs_lag WHERE handler LIKE 'as\_%';
SELECT * FROM esrs_check() WHERE object LIKE 'as\_%';
-- what is unregistered leaves nothing behind, nor does a handler whose last aggregate goes
SELECT esrs_unregister_aggregate(name, drop_events => true) FROM unnest('{as_account,as_other}'::text[]) AS name;
SELECT count(*) FROM esrs_handlers WHERE name LIKE 'as\_%';
SELECT count(*) FROM esrs.checkpoints WHERE name LIKE 'as\_%';
SELECT count(*) FROM esrs.dead_letters WHERE handler LIKE 'as\_%';
DROP SCHEMA esrs_async CASCADE;
