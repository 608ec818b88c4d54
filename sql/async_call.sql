--
-- Event handlers without a background worker: CALL esrs_run_handlers and CALL esrs_execute
-- wherever they can be called, and pausing, resuming and resetting handlers.
--
-- Catches: a CALL that cannot commit and fails, or runs handlers whose effects a rollback
-- takes away while the checkpoint stays; a command that is lost when a handler fails;
-- esrs_execute that handles events of other instances, out of order, or again later; a
-- paused handler that runs; a handler that is put back although it must not be.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA esrs_async_call;
SET search_path = esrs_async_call, public;
\pset null (null)
\set a '\'a5720000-0000-4000-8000-00000000000a\''
\set b '\'a5720000-0000-4000-8000-00000000000b\''
\set c '\'a5720000-0000-4000-8000-00000000000c\''

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
CREATE FUNCTION decide(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE plpgsql
SET search_path = esrs_async_call, public, pg_temp AS $$
BEGIN
    IF command ? 'refuse' THEN
        PERFORM esrs_reject('refused', 'no');
    ELSIF command ? 'break' THEN
        RAISE 'broken' USING ERRCODE = 'P0003';
    END IF;
    RETURN CASE WHEN command ? 'nothing' THEN '{}' ELSE ARRAY(SELECT jsonb_build_object('n', n) FROM generate_series(1, (command ->> 'events')::int) AS n) END;
END $$;
CREATE FUNCTION evolve(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql BEGIN ATOMIC SELECT event; END;
SELECT esrs_register_aggregate('ac', handle_command => 'decide(jsonb,jsonb)', apply_event => 'evolve(jsonb,jsonb)');
CREATE FUNCTION put(id uuid, n int) RETURNS bigint LANGUAGE sql AS
    $$SELECT count(*) FROM esrs_persist('ac', id, array_fill('"put"'::jsonb, ARRAY[n]))$$;
CREATE TABLE log (n serial, who text, what text, tx xid8 DEFAULT pg_current_xact_id());
CREATE FUNCTION shown() RETURNS TABLE (who text, what text, in_transaction bigint) LANGUAGE sql AS
    $$WITH gone AS (DELETE FROM log RETURNING *) SELECT who, what, count(*) OVER (PARTITION BY tx) FROM gone ORDER BY n$$;
CREATE FUNCTION one(e esrs_event) RETURNS void LANGUAGE sql
BEGIN ATOMIC INSERT INTO log (who, what) VALUES ('one', right(e.aggregate_id::text, 1) || '/' || e.sequence_number); END;
CREATE FUNCTION pairs(e esrs_event[]) RETURNS void LANGUAGE sql
BEGIN ATOMIC
    INSERT INTO log (who, what) SELECT 'pairs', string_agg(right(u.aggregate_id::text, 1) || '/' || u.sequence_number, ' ' ORDER BY position) FROM unnest(e) AS u;
END;
CREATE FUNCTION fails(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log (who) VALUES ('fails'); RAISE 'no'; END $$;
-- without the numbers of positions, which depend on other tests
CREATE FUNCTION try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text; detail text; hint text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN regexp_replace(concat_ws(E'\n', SQLSTATE || ': ' || message, '  DETAIL: ' || nullif(detail, ''), '  HINT: ' || nullif(hint, '')),
                          '(position|to) \d{2,}', '\1 N', 'g');
END $$;
-- one event, or a pair of them, a batch
SELECT esrs_register_handler('ac', '{ac}', 'pairs(esrs_event[])', mode => 'async', batch_size => 2);
SET client_min_messages = notice;

-- ------------------------------------------------------------------------
-- esrs_run_handlers
-- ------------------------------------------------------------------------
SELECT put(:a, 5);
CALL esrs_run_handlers();
SELECT * FROM shown();
SELECT put(:a, 5);
CALL esrs_run_handlers(max_batches => 2);
SELECT * FROM shown();
CALL esrs_run_handlers(NULL, NULL);
SELECT * FROM shown();
CALL esrs_run_handlers('ac');
SELECT * FROM shown();
-- by a DO block and by a procedure: as at top level
SELECT put(:a, 3);
DO $$ BEGIN CALL esrs_run_handlers('ac'); END $$;
SELECT * FROM shown();
SELECT put(:a, 3);
CREATE PROCEDURE outer_procedure() LANGUAGE plpgsql AS $$ BEGIN CALL esrs_run_handlers('ac'); COMMIT; CALL esrs_run_handlers('ac'); END $$;
CALL outer_procedure();
SELECT * FROM shown();
-- where nothing can be committed: one batch, in the transaction that there is
SELECT put(:a, 3);
BEGIN;
CALL esrs_run_handlers('ac');
SELECT * FROM shown();
ROLLBACK;
BEGIN;
CALL esrs_run_handlers('ac');
CALL esrs_run_handlers('ac');
CALL esrs_run_handlers('ac');
SELECT * FROM shown();
COMMIT;
SELECT put(:a, 12);
CREATE FUNCTION run() RETURNS text LANGUAGE plpgsql AS $$ BEGIN CALL esrs_run_handlers('ac'); RETURN 'ran'; END $$;
SELECT run();
SELECT * FROM shown();
DO $$ BEGIN CALL esrs_run_handlers('ac'); EXCEPTION WHEN division_by_zero THEN NULL; END $$;
SELECT * FROM shown();
DO $$ BEGIN CALL esrs_run_handlers('ac'); RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN NULL; END $$;
SELECT * FROM shown();
CREATE PROCEDURE definer() LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN CALL esrs_run_handlers('ac'); END $$;
CALL definer();
SELECT * FROM shown();
CREATE PROCEDURE setter() LANGUAGE plpgsql SET work_mem = '8MB' AS $$ BEGIN CALL esrs_run_handlers('ac'); END $$;
CALL setter();
SELECT * FROM shown();
CREATE TABLE t (i int);
CREATE FUNCTION fired() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN CALL esrs_run_handlers('ac', 1); RETURN NEW; END $$;
CREATE TRIGGER fired BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION fired();
INSERT INTO t VALUES (1);
SELECT * FROM shown();
CALL esrs_run_handlers('ac');
SELECT * FROM shown();
-- the snapshot must not be older than the bound
SELECT put(:a, 1);
BEGIN ISOLATION LEVEL REPEATABLE READ;
CALL esrs_run_handlers('ac');
\echo :SQLSTATE
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
CALL esrs_run_handlers();
\echo :SQLSTATE
ROLLBACK;
SELECT attempts, retry_at, last_error FROM esrs_lag WHERE handler = 'ac';
-- where it can commit it sees to that itself
SET default_transaction_isolation = serializable;
CALL esrs_run_handlers();
SELECT * FROM shown();
RESET default_transaction_isolation;
SELECT put(:a, 1);
BEGIN READ ONLY;
CALL esrs_run_handlers('ac');
\echo :SQLSTATE
ROLLBACK;
CALL esrs_run_handlers('ac');
SELECT * FROM shown();

-- ------------------------------------------------------------------------
-- Pause, resume, reset
-- ------------------------------------------------------------------------
SELECT esrs_pause_handler('ac');
SELECT put(:b, 3);
CALL esrs_run_handlers('ac');
CALL esrs_run_handlers();
CALL esrs_execute('ac', :b, '{"events": 1}') \gset
SELECT * FROM shown();
SELECT status, events_behind, oldest_unhandled = (SELECT min(occurred_on) FROM ac_events WHERE aggregate_id = :b) AS oldest, safe_position = head AS all_safe,
       position = (SELECT min(position) FROM ac_events WHERE aggregate_id = :b) - 1 AS before_them
  FROM esrs_lag WHERE handler = 'ac';
SELECT status FROM esrs_handlers WHERE name = 'ac';
-- again changes nothing; rolled back neither
SELECT esrs_pause_handler('ac');
BEGIN;
SELECT esrs_resume_handler('ac');
ROLLBACK;
CALL esrs_run_handlers('ac');
SELECT esrs_resume_handler('ac');
SELECT esrs_resume_handler('ac');
CALL esrs_run_handlers('ac');
SELECT * FROM shown();
SELECT status, events_behind, oldest_unhandled, position = head AS at_the_end FROM esrs_lag WHERE handler = 'ac';
-- back, forward, and to the beginning
SELECT position AS second FROM ac_events WHERE aggregate_id = :b AND sequence_number = 2 \gset
SELECT esrs_reset_handler('ac', :second);
SELECT events_behind FROM esrs_lag WHERE handler = 'ac';
CALL esrs_run_handlers('ac');
SELECT * FROM shown();
SELECT put(:c, 4);
SELECT position AS third FROM ac_events WHERE aggregate_id = :c AND sequence_number = 3 \gset
SELECT esrs_reset_handler('ac', :third);
CALL esrs_run_handlers('ac');
SELECT * FROM shown();
SELECT esrs_reset_handler('ac', 0);
CALL esrs_run_handlers('ac');
SELECT count(*) = (SELECT (count(*) + 1) / 2 FROM ac_events) AS all_of_them FROM shown();
-- paused it stays paused; what was ahead is forgotten
CALL esrs_execute('ac', :c, '{"events": 2}') \gset
SELECT * FROM shown();
SELECT esrs_pause_handler('ac'), esrs_reset_handler('ac', :third);
CALL esrs_run_handlers('ac');
SELECT esrs_resume_handler('ac');
CALL esrs_run_handlers('ac');
SELECT * FROM shown();
-- one that must not see events again goes forward only
SELECT esrs_alter_handler('ac', '{"replayable": false}');
\pset format unaligned
SELECT try($$SELECT esrs_reset_handler('ac', 0)$$);
\pset format aligned
SELECT put(:c, 1);
SELECT esrs_reset_handler('ac', (SELECT last_value FROM esrs.position_seq));
CALL esrs_run_handlers('ac');
SELECT * FROM shown();
CALL esrs_execute('ac', :c, '{"events": 2}') \gset
SELECT * FROM shown();
SELECT left(try($$SELECT esrs_reset_handler('ac', (SELECT last_value - 1 FROM esrs.position_seq))$$), 5);
SELECT esrs_alter_handler('ac', '{"replayable": null}');
CALL esrs_run_handlers('ac');
SELECT esrs_unregister_handler('ac');

-- ------------------------------------------------------------------------
-- esrs_execute
-- ------------------------------------------------------------------------
SELECT esrs_register_handler('ac_one', '{ac}', 'one(esrs_event)', mode => 'async');
SELECT put(:b, 1), put(:a, 1);
-- what was not handled of this instance comes first, others wait
CALL esrs_execute('ac', :a, '{"events": 2}') \gset
SELECT (r).ok, right((r).aggregate_id::text, 1) AS id, (r).sequence_number, (r).state, cardinality((r).events) AS events, (r).error FROM (SELECT :'result'::esrs_result AS r) AS x;
SELECT * FROM shown();
SELECT events_behind, position < head AS behind FROM esrs_lag WHERE handler = 'ac_one';
CALL esrs_run_handlers();
SELECT * FROM shown();
-- batch after batch, until all of them are handled
SELECT esrs_register_handler('ac_pairs', '{ac}', 'pairs(esrs_event[])', mode => 'async', batch_size => 2);
CALL esrs_execute('ac', :a, '{"events": 5}') \gset
SELECT * FROM shown() ORDER BY who, what;
SELECT esrs_unregister_handler('ac_pairs');
-- all arguments; a DO block and a procedure with variables, again and again
CREATE PROCEDURE buy(id uuid, n int) LANGUAGE plpgsql AS $$
DECLARE
    r esrs_result;
BEGIN
    FOR i IN 1 .. n LOOP
        CALL esrs_execute('ac', id, jsonb_build_object('events', i), (esrs_load('ac', id)).sequence_number, '{"actor": "me"}', gen_random_uuid(), r);
        RAISE INFO '% % handled %', r.ok, r.events[1].metadata ->> 'actor', (SELECT count(*) FROM log);
    END LOOP;
END $$;
CALL buy(:c, 3);
SELECT * FROM shown();
DO $$
DECLARE
    r esrs_result;
BEGIN
    CALL esrs_execute(aggregate => 'ac', aggregate_id => 'a5720000-0000-4000-8000-00000000000c', command => '{"events": 1}', result => r);
    RAISE INFO '% %', r.ok, r.sequence_number - (SELECT max(sequence_number) FROM ac_events WHERE aggregate_id = r.aggregate_id);
END $$;
SELECT * FROM shown();
-- rejected, without events, wrong, and repeated: no handler has anything to do
CALL esrs_execute('ac', :a, '{"refuse": 1}');
CALL esrs_execute('ac', :a, '{"nothing": 1}');
CALL esrs_execute('ac', :a, '{"break": 1}');
\echo :SQLSTATE
CALL esrs_execute('ac', :a, '{"events": 1}', 7777);
\echo :SQLSTATE
CALL esrs_execute('no_such', :a, '{"events": 1}');
\echo :SQLSTATE
CALL esrs_execute('ac', NULL, '{"events": 1}');
\echo :SQLSTATE
CALL esrs_execute('ac', :a, '{"events": 1}', command_id => :a) \gset
SELECT * FROM shown();
CALL esrs_execute('ac', :a, '{"events": 1}', command_id => :a) \gset
SELECT * FROM shown();
-- where nothing can be committed handlers run later, if there is something to handle
BEGIN;
CALL esrs_execute('ac', :a, '{"events": 1}') \gset
CALL esrs_execute('ac', :a, '{"refuse": 1}');
CALL esrs_execute('ac', :a, '{"nothing": 1}') \gset
ROLLBACK;
BEGIN;
CALL esrs_execute('ac', :a, '{"events": 1}') \gset
COMMIT;
CREATE FUNCTION execute() RETURNS int LANGUAGE plpgsql AS
    $$ DECLARE r esrs_result; BEGIN CALL esrs_execute('ac', 'a5720000-0000-4000-8000-00000000000a', '{"events": 1}', result => r); RETURN cardinality(r.events); END $$;
SELECT execute();
DO $$
DECLARE
    r esrs_result;
BEGIN
    CALL esrs_execute('ac', 'a5720000-0000-4000-8000-00000000000a', '{"events": 1}', result => r);
EXCEPTION WHEN division_by_zero THEN NULL;
END $$;
SELECT * FROM shown();
CALL esrs_run_handlers();
SELECT * FROM shown();
BEGIN ISOLATION LEVEL REPEATABLE READ;
CALL esrs_execute('ac', :a, '{"events": 1}') \gset
COMMIT;
SELECT * FROM shown();
SET default_transaction_isolation = 'repeatable read';
CALL esrs_execute('ac', :a, '{"events": 1}') \gset
RESET default_transaction_isolation;
SELECT * FROM shown();
CALL esrs_run_handlers();
SELECT * FROM shown();

-- a failing handler is a WARNING, and disturbs neither the command nor other handlers; it is tried again
SELECT esrs_unregister_handler('ac_one');
SELECT esrs_register_handler('ac_fails', '{ac}', 'fails(esrs_event)', mode => 'async', max_attempts => 1),
       esrs_register_handler('ac_pairs', '{ac}', 'pairs(esrs_event[])', mode => 'async', partitions => 8),
       esrs_register_handler('ac_one', '{ac}', 'one(esrs_event)', mode => 'async', event_types => '{other}');
CALL esrs_execute('ac', :a, '{"events": 2}') \gset
SELECT (:'result'::esrs_result).ok;
SELECT * FROM shown();
SELECT handler, count(*) FROM esrs_dead_letters WHERE handler LIKE 'ac%' GROUP BY handler;
SET client_min_messages = error;
CALL esrs_run_handlers('ac_fails');
SELECT handler, count(*) FROM esrs_dead_letters WHERE handler LIKE 'ac%' GROUP BY handler;
-- one that would unregister itself
SET client_min_messages = notice;
CREATE FUNCTION suicide(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM esrs_unregister_handler('ac_one'); INSERT INTO log (who) VALUES ('suicide'); END $$;
SELECT esrs_unregister_handler('ac_fails'), esrs_unregister_handler('ac_pairs'), esrs_alter_handler('ac_one', '{"handler": "suicide(esrs_event)", "event_types": null}');
CALL esrs_execute('ac', :a, '{"events": 1}') \gset
SELECT who FROM shown();

SET client_min_messages = warning;
SELECT esrs_unregister_aggregate('ac', drop_events => true);
DROP SCHEMA esrs_async_call CASCADE;
ALTER SYSTEM RESET esrs.max_workers;
SELECT pg_reload_conf();
:wait_again
SHOW esrs.max_workers;
