--
-- Asynchronous event handlers that fail: retries, and then skip, park or stop; dead letters,
-- retried and discarded.  The worker is kept out: each batch is run here, by CALL.
--
-- Catches: an event that is given up too early or too late, or takes others with it; events of
-- an instance that are handled although an earlier one waits; a retry out of order, one that
-- loses an event, or handles it twice; effects of a failed attempt that remain.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA esrs_async_letters;
SET search_path = esrs_async_letters, public;
\pset null (null)
\set a '\'a5730000-0000-4000-8000-00000000000a\''
\set b '\'a5730000-0000-4000-8000-00000000000b\''
\set c '\'a5730000-0000-4000-8000-00000000000c\''

-- a reload reaches this session at one of the next statements, and ends the workers
\set wait 'DO $$BEGIN IF current_setting(''esrs.max_workers'') <> ''0'' THEN PERFORM pg_sleep(0.05); END IF; END$$;'
\set wait :wait :wait :wait :wait :wait :wait :wait :wait
\set wait :wait :wait :wait :wait :wait :wait :wait :wait
\set wait_again 'DO $$BEGIN IF current_setting(''esrs.max_workers'') = ''0'' THEN PERFORM pg_sleep(0.05); END IF; END$$;'
\set wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again
\set wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again
LOAD 'esrs';
ALTER SYSTEM SET esrs.max_workers = 0;
SELECT pg_reload_conf();
:wait
SHOW esrs.max_workers;
SELECT esrs_stop_workers() >= 0 AS stopped;
SELECT esrs_register_aggregate(name) FROM unnest('{al_one,al_two}'::text[]) AS name;
CREATE FUNCTION put(id uuid, VARIADIC events text[]) RETURNS bigint LANGUAGE sql AS
    $$SELECT count(*) FROM esrs_persist('al_one', id, ARRAY(SELECT to_jsonb(e) FROM unnest(events) AS e))$$;
CREATE TABLE log (n serial, what text);
CREATE FUNCTION shown() RETURNS TABLE (what text) LANGUAGE sql AS
    $$WITH gone AS (DELETE FROM log RETURNING n, what) SELECT string_agg(what, ', ' ORDER BY n) FROM gone$$;
-- the names of events that cannot be handled, and how often it was tried: the sequence keeps what is rolled back
CREATE TABLE broken (name text PRIMARY KEY);
CREATE SEQUENCE tries;
CREATE FUNCTION one(e esrs_event) RETURNS void LANGUAGE plpgsql SET search_path = esrs_async_letters, public, pg_temp AS $$
BEGIN
    INSERT INTO log (what) VALUES (right(e.aggregate_id::text, 1) || '/' || e.sequence_number);
    IF EXISTS (SELECT FROM broken WHERE name = e.payload #>> '{}') THEN
        PERFORM nextval('tries');
        RAISE 'cannot handle %', e.payload #>> '{}' USING ERRCODE = 'P0002', DETAIL = 'it is broken', HINT = 'mend it';
    END IF;
END $$;
CREATE FUNCTION many(e esrs_event[]) RETURNS void LANGUAGE plpgsql SET search_path = esrs_async_letters, public, pg_temp AS
    $$ BEGIN PERFORM one(u) FROM unnest(e) AS u; END $$;
CREATE FUNCTION gone(id uuid) RETURNS void LANGUAGE plpgsql SET search_path = esrs_async_letters, public, pg_temp AS $$
BEGIN
    INSERT INTO log (what) VALUES ('deleted ' || right(id::text, 1));
    IF EXISTS (SELECT FROM broken WHERE name = 'deletion') THEN
        RAISE 'cannot delete' USING ERRCODE = '23514';
    END IF;
END $$;
-- run a handler until it waits for nothing, ten seconds at most
CREATE PROCEDURE run(handler text) LANGUAGE plpgsql AS $$
DECLARE
    until timestamptz := clock_timestamp() + '10 s';
BEGIN
    LOOP
        CALL esrs_run_handlers(handler);
        EXIT WHEN NOT EXISTS (SELECT FROM esrs_lag l WHERE l.handler = run.handler AND l.retry_at IS NOT NULL) OR clock_timestamp() > until;
        PERFORM pg_sleep(0.02);
    END LOOP;
END $$;
CREATE VIEW lag AS
SELECT handler, status, events_behind, attempts, retry_at > now() - interval '1 min' AND retry_at < now() + interval '1 min' AS retry_soon, last_error FROM esrs_lag WHERE handler LIKE 'al%';
CREATE VIEW letters AS
SELECT handler, right(aggregate_id::text, 1) || '/' || coalesce(sequence_number::text, 'deleted') AS event, state, attempts, sqlstate, message
  FROM esrs_dead_letters WHERE handler LIKE 'al%' ORDER BY handler, position;
-- these name positions, which depend on other tests
SET client_min_messages = error;

-- ------------------------------------------------------------------------
-- skip: tried again after a pause, then given up; others are not held up longer
-- ------------------------------------------------------------------------
INSERT INTO broken VALUES ('x');
SELECT esrs_register_handler('al', '{al_one}', 'one(esrs_event)', mode => 'async', max_attempts => 3);
SELECT put(:a, 'first', 'x', 'third'), put(:b, 'first');
CALL esrs_run_handlers('al');
-- what is before it is handled, of the attempt itself nothing remains
SELECT * FROM shown();
SELECT * FROM lag;
SELECT * FROM letters;
-- not before its time, however often it is asked for
SELECT retry_at AS due FROM esrs_lag WHERE handler = 'al' \gset
CALL esrs_run_handlers('al');
CALL esrs_run_handlers('al');
SELECT attempts = 1 OR clock_timestamp() >= :'due' AS not_before FROM lag;
CALL run('al');
SELECT last_value AS tries FROM tries;
SELECT * FROM shown();
SELECT * FROM lag;
SELECT * FROM letters;
-- what it says of itself
SELECT d.aggregate, d.aggregate_id = :a AS id, d.event_id = e.id AS event_id, d.position = e.position AS position, d.detail,
       d.failed_at BETWEEN e.occurred_on AND now() AS failed_at, d.context
  FROM esrs_dead_letters d JOIN al_one_events e USING (position) WHERE handler = 'al';
-- the pauses grow: 200, 400, 800 ms
SELECT setval('tries', 1, false), esrs_alter_handler('al', '{"max_attempts": 4}'), put(:a, 'x');
CREATE PROCEDURE try_until(n int) LANGUAGE plpgsql AS $$
DECLARE
    until timestamptz := clock_timestamp() + '10 s';
BEGIN
    LOOP
        CALL esrs_run_handlers('al');
        EXIT WHEN n <= (SELECT attempts FROM lag) OR clock_timestamp() > until;
        PERFORM pg_sleep(0.02);
    END LOOP;
END $$;
CALL try_until(3);
SELECT attempts, retry_at - updated_at BETWEEN '400 ms' AND '800 ms' AS pause FROM esrs.checkpoints WHERE name = 'al';
-- one more; a success in between begins anew
TRUNCATE broken;
CALL run('al');
SELECT * FROM shown();
SELECT * FROM lag;
SELECT * FROM letters;
-- max_attempts 1: given up at once, each by itself; set-based ones as well
INSERT INTO broken VALUES ('x'), ('y');
SELECT esrs_alter_handler('al', '{"max_attempts": 1, "handler": "many(esrs_event[])"}'), setval('tries', 1, false);
SELECT put(:b, 'x', 'fine', 'y', 'fine', 'x');
CALL esrs_run_handlers('al');
SELECT * FROM shown();
SELECT * FROM letters;
-- retried: what still fails stays, and counts
DELETE FROM broken WHERE name = 'y';
SELECT esrs_retry_dead_letters('al');
SELECT * FROM shown();
SELECT * FROM letters;
-- in a transaction that is rolled back nothing has happened
TRUNCATE broken;
BEGIN;
SELECT esrs_retry_dead_letters('al');
SELECT * FROM shown();
ROLLBACK;
SELECT count(*) FROM letters;
-- one whose event does not exist any more is done with
SELECT esrs_delete('al_one', :b);
CALL esrs_run_handlers('al');
SELECT esrs_retry_dead_letters('al');
SELECT * FROM shown();
SELECT * FROM letters;
-- discarded
INSERT INTO broken VALUES ('x');
SELECT put(:c, 'x', 'fine', 'x');
CALL esrs_run_handlers('al');
SELECT count(*) FROM letters;
SELECT esrs_discard_dead_letters('al'), esrs_discard_dead_letters('al'), esrs_retry_dead_letters('al');
SELECT * FROM shown();
SELECT esrs_unregister_handler('al');

-- ------------------------------------------------------------------------
-- park: later events of the instance wait behind the one that was given up
-- ------------------------------------------------------------------------
SELECT esrs_register_handler('al', '{al_one}', 'one(esrs_event)', mode => 'async', on_error => 'park', max_attempts => 1, partitions => 3, delete_handler => 'gone(uuid)');
SELECT put(:a, 'fine', 'x', 'fine'), put(:b, 'fine'), put(:a, 'fine', 'y'), put(:c, 'fine');
CALL esrs_run_handlers('al');
SELECT unnest(string_to_array(what, ', ')) COLLATE "C" AS what FROM shown() ORDER BY 1;
SELECT * FROM letters;
-- still parked when more comes, and not even tried
SELECT put(:a, 'fine');
CALL esrs_run_handlers('al');
SELECT * FROM shown();
SELECT count(*) FROM letters WHERE state = 'parked';
-- retried while it still fails: what is parked is left alone
SELECT setval('tries', 1, false);
SELECT esrs_retry_dead_letters('al');
SELECT last_value, is_called FROM tries;
SELECT * FROM shown();
SELECT attempts, state, count(*) FROM letters GROUP BY 1, 2;
-- mended, but another one in the middle fails: up to there
INSERT INTO broken VALUES ('y');
DELETE FROM broken WHERE name = 'x';
SELECT esrs_retry_dead_letters('al');
SELECT * FROM shown();
SELECT * FROM letters;
TRUNCATE broken;
SELECT esrs_retry_dead_letters('al');
SELECT * FROM shown();
SELECT put(:a, 'fine');
CALL esrs_run_handlers('al');
SELECT * FROM shown();
-- a deletion is parked, and given up, like an event
INSERT INTO broken VALUES ('x'), ('deletion');
SELECT put(:b, 'x');
CALL esrs_run_handlers('al');
SELECT esrs_delete('al_one', :b), esrs_delete('al_one', :c);
SELECT put(:c, 'again');
CALL esrs_run_handlers('al');
SELECT * FROM shown();
SELECT * FROM letters;
SELECT event_id, sequence_number FROM esrs_dead_letters WHERE handler = 'al' AND sequence_number IS NULL;
TRUNCATE broken;
SELECT esrs_retry_dead_letters('al');
SELECT * FROM shown();
SELECT * FROM letters;
-- discarded: later events are handled again
INSERT INTO broken VALUES ('x');
SELECT put(:a, 'x', 'fine');
CALL esrs_run_handlers('al');
SELECT esrs_discard_dead_letters('al');
SELECT put(:a, 'fine');
CALL esrs_run_handlers('al');
SELECT what ~ '^a/\d+$' AS only_the_last FROM shown();
-- an instance of another aggregate with the same id is another
SELECT esrs_alter_handler('al', '{"aggregates": ["al_one", "al_two"], "partitions": 1}');
SELECT put(:a, 'x', 'fine'), (SELECT count(*) FROM esrs_persist('al_two', :a, '{"\"fine\""}'));
CALL esrs_run_handlers('al');
SELECT * FROM shown();
SELECT state, message FROM letters;
-- put back behind them they are handled as events again, not as letters
SELECT position AS x FROM esrs_dead_letters WHERE handler = 'al' AND state = 'dead' \gset
TRUNCATE broken;
SELECT esrs_reset_handler('al', :x - 1);
SELECT * FROM letters;
CALL esrs_run_handlers('al');
SELECT array_length(string_to_array(what, ','), 1) FROM shown();
SELECT esrs_unregister_handler('al');

-- ------------------------------------------------------------------------
-- stop: nothing goes on before somebody says so
-- ------------------------------------------------------------------------
INSERT INTO broken VALUES ('x');
SELECT esrs_register_handler('al', '{al_one}', 'one(esrs_event)', mode => 'async', on_error => 'stop', max_attempts => 2);
SELECT put(:a, 'fine', 'x', 'fine'), put(:b, 'fine');
CALL run('al');
SELECT * FROM lag;
SELECT status FROM esrs_handlers WHERE name = 'al';
SELECT array_length(string_to_array(what, ','), 1) FROM shown();
SELECT * FROM letters;
CALL esrs_run_handlers('al');
SELECT esrs_wait_for('al', timeout => '10ms');
SELECT * FROM shown();
-- resumed while it is still broken: as many attempts again
SELECT setval('tries', 1, false), esrs_resume_handler('al');
SELECT * FROM lag;
CALL run('al');
SELECT last_value FROM tries;
SELECT * FROM lag;
-- mended
TRUNCATE broken;
SELECT esrs_resume_handler('al');
CALL esrs_run_handlers('al');
SELECT array_length(string_to_array(what, ','), 1) FROM shown();
SELECT * FROM lag;
-- or passed over
INSERT INTO broken VALUES ('x');
SELECT put(:c, 'x', 'fine');
CALL run('al');
SELECT esrs_reset_handler('al', (SELECT position FROM al_one_events WHERE aggregate_id = :c AND payload = '"x"' ORDER BY position DESC LIMIT 1)), esrs_resume_handler('al');
CALL esrs_run_handlers('al');
SELECT array_length(string_to_array(what, ','), 1) FROM shown();
SELECT * FROM lag;

SELECT esrs_unregister_aggregate(name, drop_events => true) FROM unnest('{al_one,al_two}'::text[]) AS name;
SELECT count(*) FROM esrs.dead_letters WHERE handler = 'al';
DROP SCHEMA esrs_async_letters CASCADE;
ALTER SYSTEM RESET esrs.max_workers;
SELECT pg_reload_conf();
:wait_again
SHOW esrs.max_workers;
