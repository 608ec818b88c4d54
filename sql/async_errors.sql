--
-- Asynchronous event handlers: bad arguments of every function, and handlers that fail in
-- odd ways.  The worker is kept out: each batch is run here, by CALL.
--
-- Catches: an argument that is taken though it makes no sense, or an error that does not say
-- what is wrong; an event that is given up although the failure was not its own (a deadlock,
-- a lock, its neighbours in the batch); a deferred constraint that fails the whole batch; a
-- handler whose function is gone, changes what it must not, or runs handlers itself; events
-- that are handled anew, or not at all, after a restore without checkpoints or sequence.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA esrs_async_errors;
SET search_path = esrs_async_errors, public;
\pset null (null)
\set a '\'a5740000-0000-4000-8000-00000000000a\''
\set b '\'a5740000-0000-4000-8000-00000000000b\''

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
CREATE ROLE regress_esrs_async_stranger;
SELECT esrs_register_aggregate(name) FROM unnest('{ae_one,ae_two}'::text[]) AS name;
CREATE FUNCTION put(id uuid, VARIADIC events text[]) RETURNS bigint LANGUAGE sql AS
    $$SELECT count(*) FROM esrs_persist('ae_one', id, ARRAY(SELECT to_jsonb(e) FROM unnest(events) AS e))$$;
CREATE TABLE log (n serial, what text);
CREATE FUNCTION shown() RETURNS TABLE (what text) LANGUAGE sql AS
    $$WITH gone AS (DELETE FROM log RETURNING n, what) SELECT string_agg(what, ', ' ORDER BY n) FROM gone$$;
CREATE FUNCTION one(e esrs_event) RETURNS void LANGUAGE sql
BEGIN ATOMIC INSERT INTO log (what) VALUES (right(e.aggregate_id::text, 1) || '/' || e.sequence_number); END;
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
                          'to \d+\.', 'to N.', 'g');
END $$;
SELECT esrs_register_handler('ae', '{ae_one}', 'one(esrs_event)', mode => 'async'),
       esrs_register_handler('ae_transactional', '{ae_two}', 'one(esrs_event)'),
       esrs_subscribe('ae_subscription', '{ae_one}');

-- ------------------------------------------------------------------------
-- Bad arguments
-- ------------------------------------------------------------------------
\pset format unaligned
\pset tuples_only on
SELECT options || E'\n' || try(format($$SELECT esrs_register_handler('ae_new', '{ae_one}', 'one(esrs_event)', mode => 'async', %s)$$, options))
  FROM unnest(ARRAY['ordering => ''partial''', 'partitions => 0', 'partitions => 65', 'partitions => -1', 'batch_size => 0', 'batch_size => 100001',
                    'on_error => ''ignore''', 'max_attempts => 0', 'start_at => ''''', 'start_at => ''end''', 'start_at => ''-1''', 'start_at => ''+1''',
                    'start_at => '' 1''', 'start_at => ''1.5''', 'start_at => ''0x10''', 'start_at => ''Now''', 'start_at => ''9223372036854775808''',
                    'start_at => ''9223372036854775807''', 'delete_handler => ''one(esrs_event)''', 'event_types => ''{}''']) AS options;
SELECT statement || E'\n' || try(statement)
  FROM unnest(ARRAY[
    $$SELECT esrs_register_handler('ae_transactional', '{ae_one}', 'one(esrs_event)', mode => 'async')$$,
    $$SELECT esrs_register_handler('ae_subscription', '{ae_one}', 'one(esrs_event)', mode => 'async')$$,
    $$SELECT esrs_register_handler('ae_subscription', '{ae_one}', 'one(esrs_event)')$$,
    $$SELECT esrs_subscribe('ae', '{ae_one}')$$,
    $$SELECT esrs_subscribe('ae_transactional', '{ae_one}')$$,
    $$SELECT esrs_alter_handler('ae', '{"partitions": 65}')$$,
    $$SELECT esrs_alter_handler('ae', '{"partitions": "many"}')$$,
    $$SELECT esrs_alter_handler('ae', '{"start_at": "now"}')$$,
    $$SELECT esrs_alter_handler('ae', '{"status": "paused"}')$$,
    $$SELECT esrs_alter_handler('ae', '{"mode": "sync"}')$$,
    $$SELECT esrs_alter_handler('ae_subscription', '{}')$$,
    $$SELECT esrs_unregister_handler('ae_subscription')$$,
    $$CALL esrs_run_handlers('no_such')$$,
    $$CALL esrs_run_handlers('ae_subscription')$$,
    $$CALL esrs_run_handlers('')$$,
    $$CALL esrs_run_handlers('ae', 0)$$,
    $$CALL esrs_run_handlers('ae', -1)$$,
    $$CALL esrs_run_handlers(NULL, 0)$$,
    $$SELECT esrs_wait_for(NULL)$$,
    $$SELECT esrs_wait_for('no_such')$$,
    $$SELECT esrs_wait_for('ae_subscription')$$,
    $$SELECT esrs_wait_for('ae', NULL, NULL)$$,
    $$SELECT esrs_wait_for('ae', timeout => '-1 s')$$,
    $$SELECT esrs_pause_handler(NULL)$$,
    $$SELECT esrs_pause_handler('no_such')$$,
    $$SELECT esrs_pause_handler('ae_transactional')$$,
    $$SELECT esrs_resume_handler(NULL)$$,
    $$SELECT esrs_resume_handler('no_such')$$,
    $$SELECT esrs_resume_handler('ae_transactional')$$,
    $$SELECT esrs_reset_handler(NULL, 0)$$,
    $$SELECT esrs_reset_handler('ae', NULL)$$,
    $$SELECT esrs_reset_handler('ae', -1)$$,
    $$SELECT esrs_reset_handler('ae', 9223372036854775807)$$,
    $$SELECT esrs_reset_handler('no_such', 0)$$,
    $$SELECT esrs_reset_handler('ae_transactional', 0)$$,
    $$SELECT esrs_retry_dead_letters(NULL)$$,
    $$SELECT esrs_retry_dead_letters('no_such')$$,
    $$SELECT esrs_retry_dead_letters('ae_subscription')$$,
    $$SELECT esrs_discard_dead_letters(NULL)$$,
    $$SELECT esrs_discard_dead_letters('no_such')$$]) AS statement;
-- 42704 or 42809: not asynchronous
SELECT DISTINCT left(try(statement), 5) IN ('42704', '42809') AS refused
  FROM unnest(ARRAY[$$CALL esrs_run_handlers('ae_transactional')$$, $$SELECT esrs_wait_for('ae_transactional')$$,
                    $$SELECT esrs_retry_dead_letters('ae_transactional')$$, $$SELECT esrs_discard_dead_letters('ae_transactional')$$]) AS statement;
BEGIN READ ONLY;
SELECT statement || E'\n' || try(statement)
  FROM unnest(ARRAY[$$CALL esrs_run_handlers()$$, $$SELECT esrs_pause_handler('ae')$$, $$SELECT esrs_resume_handler('ae')$$, $$SELECT esrs_reset_handler('ae', 0)$$,
                    $$SELECT esrs_retry_dead_letters('ae')$$, $$SELECT esrs_discard_dead_letters('ae')$$,
                    $$CALL esrs_execute('ae_one', 'a5740000-0000-4000-8000-00000000000a', '{}')$$]) AS statement;
COMMIT;
\pset format aligned
\pset tuples_only off
SELECT esrs_unsubscribe('ae_subscription'), esrs_unregister_handler('ae_transactional'), esrs_unregister_handler('ae');

-- ------------------------------------------------------------------------
-- Failures that are not the event's: tried again for ever
-- ------------------------------------------------------------------------
CREATE VIEW lag AS
SELECT status, events_behind, attempts, retry_at IS NOT NULL AS retrying, last_error FROM esrs_lag WHERE handler = 'ae';
CREATE VIEW letters AS
SELECT right(aggregate_id::text, 1) || '/' || sequence_number AS event, state, attempts, sqlstate, message, detail FROM esrs_dead_letters WHERE handler = 'ae' ORDER BY position;
CREATE SEQUENCE calls;
CREATE TABLE code (code text);
CREATE FUNCTION raises(e esrs_event) RETURNS void LANGUAGE plpgsql SET search_path = esrs_async_errors, public, pg_temp AS $$
BEGIN
    INSERT INTO log (what) VALUES (right(e.aggregate_id::text, 1) || '/' || e.sequence_number);
    IF e.payload = '"x"' AND nextval('calls') <= 2 THEN
        RAISE 'not now' USING ERRCODE = (SELECT code FROM code);
    END IF;
END $$;
-- until it waits for nothing, ten seconds at most
CREATE PROCEDURE run() LANGUAGE plpgsql AS $$
DECLARE
    until timestamptz := clock_timestamp() + '10 s';
BEGIN
    LOOP
        CALL esrs_run_handlers('ae');
        EXIT WHEN NOT EXISTS (SELECT FROM lag WHERE retrying) OR clock_timestamp() > until;
        PERFORM pg_sleep(0.02);
    END LOOP;
END $$;
CREATE PROCEDURE try_code(c text) LANGUAGE plpgsql AS $$
BEGIN
    TRUNCATE code;
    INSERT INTO code VALUES (c);
    PERFORM setval('calls', 1, false), put('a5740000-0000-4000-8000-00000000000a', 'fine', 'x');
    COMMIT;
    CALL run();
    RAISE INFO '%: % calls, % letters, handled %', c, (SELECT last_value FROM calls), (SELECT count(*) FROM letters), (SELECT what FROM shown());
END $$;
SELECT esrs_register_handler('ae', '{ae_one}', 'raises(esrs_event)', mode => 'async', max_attempts => 1, on_error => 'stop');
CALL try_code('40001');
CALL try_code('40P01');
CALL try_code('55P03');
CALL try_code('53100');
CALL try_code('53200');
CALL try_code('53400');
SELECT * FROM lag;
-- between two attempts: nobody's fault, so no event is named, and what is before it waits, too
SELECT setval('calls', 1, false), put(:b, 'fine', 'x', 'fine');
CALL esrs_run_handlers('ae');
SELECT * FROM lag;
SELECT failing FROM esrs.checkpoints WHERE name = 'ae';
SELECT * FROM shown();
CALL run();
SELECT * FROM shown();
-- cancelled: whoever has called the handler hears of it, and nothing is lost
SET statement_timeout = '100ms';
CREATE FUNCTION sleeps(e esrs_event) RETURNS void LANGUAGE sql
BEGIN ATOMIC INSERT INTO log (what) SELECT 'slept' FROM pg_sleep(0.2); END;
SELECT esrs_alter_handler('ae', '{"handler": "sleeps(esrs_event)"}'), put(:b, 'fine');
CALL esrs_run_handlers('ae');
\echo :SQLSTATE
RESET statement_timeout;
SELECT status, events_behind, attempts FROM lag;
CALL esrs_run_handlers('ae');
SELECT * FROM shown();

-- ------------------------------------------------------------------------
-- Failures of a batch, at its end, and of the handler as such
-- ------------------------------------------------------------------------
SET client_min_messages = error;
SELECT esrs_unregister_handler('ae');
-- only together: one by one they are handled
CREATE FUNCTION alone(e esrs_event[]) RETURNS void LANGUAGE plpgsql SET search_path = esrs_async_errors, public, pg_temp AS $$
BEGIN
    INSERT INTO log (what) VALUES (cardinality(e));
    IF cardinality(e) > 1 THEN
        RAISE 'one at a time';
    END IF;
END $$;
SELECT esrs_register_handler('ae', '{ae_one}', 'alone(esrs_event[])', mode => 'async', max_attempts => 1);
SELECT put(:a, 'x', 'x', 'x');
CALL esrs_run_handlers('ae');
SELECT * FROM shown();
SELECT * FROM lag;
SELECT * FROM letters;
-- more than are tried one by one at once
SELECT count(*) FROM esrs_persist('ae_one', :a, array_fill('"x"'::jsonb, ARRAY[150]));
CALL esrs_run_handlers('ae');
SELECT length(what) - length(replace(what, '1', '')) AS handled FROM shown();
-- constraints that are deferred are checked before the batch ends: the event is found, and the rest goes on
CREATE TABLE names (name text, CONSTRAINT names_key UNIQUE (name) DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION names(e esrs_event) RETURNS void LANGUAGE sql BEGIN ATOMIC INSERT INTO names VALUES (e.payload #>> '{}'); END;
SELECT esrs_alter_handler('ae', '{"handler": "names(esrs_event)"}');
SELECT put(:a, 'joe', 'jim', 'joe', 'jack');
CALL esrs_run_handlers('ae');
SELECT name FROM names ORDER BY name COLLATE "C";
SELECT state, attempts, sqlstate, message FROM letters;
SELECT * FROM lag;
SELECT esrs_discard_dead_letters('ae');
-- what is mended within the batch is no failure
CREATE FUNCTION mends(e esrs_event) RETURNS void LANGUAGE sql
BEGIN ATOMIC DELETE FROM names WHERE name = 'joe' AND e.payload = '"mend"'; INSERT INTO names VALUES (e.payload #>> '{}'); END;
SELECT esrs_alter_handler('ae', '{"handler": "mends(esrs_event)"}');
SELECT put(:b, 'joe', 'mend');
CALL esrs_run_handlers('ae');
SELECT name FROM names ORDER BY name COLLATE "C";
SELECT count(*) FROM letters;
-- constraints stay deferred for each event, also after another one has failed
CREATE TABLE parents (name text PRIMARY KEY);
CREATE TABLE children (name text, parent text REFERENCES parents DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION families(e esrs_event) RETURNS void LANGUAGE plpgsql SET search_path = esrs_async_errors, public, pg_temp AS $$
BEGIN
    INSERT INTO children VALUES (e.payload #>> '{}', e.payload #>> '{}');
    INSERT INTO parents VALUES (e.payload #>> '{}');
    IF e.payload = '"x"' THEN
        RAISE 'no x';
    END IF;
END $$;
SELECT esrs_alter_handler('ae', '{"handler": "families(esrs_event)"}');
SELECT put(:b, '1', '2', 'x', '3', '4');
CALL esrs_run_handlers('ae');
SELECT string_agg(name, ' ' ORDER BY name) FROM children;
SELECT sqlstate, message FROM letters;
SELECT esrs_discard_dead_letters('ae');
-- settings that decide about rights, durability and visibility: ZE005; others are put back
CREATE FUNCTION sets(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('esrs_async_errors.mine', 'set', false), set_config('work_mem', '77kB', false);
    PERFORM set_config(e.payload ->> 'name', e.payload ->> 'value', false);
END $$;
SELECT esrs_alter_handler('ae', '{"handler": "sets(esrs_event)"}');
SELECT count(*) FROM esrs_persist('ae_one', :b, ARRAY(SELECT jsonb_build_object('name', split_part(s, '=', 1), 'value', split_part(s, '=', 2))
  FROM unnest('{search_path=public,row_security=off,synchronous_commit=off,transaction_read_only=on,session_replication_role=replica,role=regress_esrs_async_stranger,session_authorization=regress_esrs_async_stranger,work_mem=99kB}'::text[]) AS s));
CALL esrs_run_handlers('ae');
SELECT sqlstate, message FROM letters;
SELECT current_setting('search_path'), current_setting('row_security'), current_setting('synchronous_commit'), current_setting('session_replication_role'),
       current_setting('work_mem') IN ('77kB', '99kB') AS work_mem, current_setting('esrs_async_errors.mine', true) AS mine, current_user = session_user AS myself;
SELECT esrs_discard_dead_letters('ae');
-- handlers are not run by handlers; commands are, and theirs come later
CREATE FUNCTION nests(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    r esrs_result;
BEGIN
    CASE e.payload #>> '{}'
        WHEN 'run' THEN CALL esrs_run_handlers('ae');
        WHEN 'run all' THEN CALL esrs_run_handlers();
        WHEN 'retry' THEN PERFORM esrs_retry_dead_letters('ae');
        WHEN 'discard' THEN PERFORM esrs_discard_dead_letters('ae');
        WHEN 'register' THEN PERFORM esrs_register_handler('ae_new', '{ae_one}', 'one(esrs_event)');
        WHEN 'wait' THEN RAISE 'waited: %', esrs_wait_for('ae', timeout => '1ms');
        ELSE NULL;
    END CASE;
END $$;
SELECT esrs_alter_handler('ae', '{"handler": "nests(esrs_event)"}');
SELECT put(:b, 'run', 'run all', 'retry', 'discard', 'wait');
CALL esrs_run_handlers('ae');
SELECT sqlstate, message FROM letters;
SELECT esrs_discard_dead_letters('ae');
-- a function that is gone, is there again, and is a stranger's
CREATE FUNCTION comes(e esrs_event) RETURNS void LANGUAGE sql AS $$INSERT INTO esrs_async_errors.log (what) VALUES ('came')$$;
SELECT esrs_alter_handler('ae', '{"handler": "comes(esrs_event)"}');
SELECT put(:a, 'x');
CALL esrs_run_handlers('ae');
DROP FUNCTION comes(esrs_event);
SELECT put(:a, 'x');
CALL esrs_run_handlers('ae');
SELECT * FROM shown();
SELECT state, sqlstate, message FROM letters;
SELECT * FROM esrs_check() WHERE object = 'ae';
-- run with others it is a WARNING, and tried again later
SET client_min_messages = warning;
CALL esrs_run_handlers();
SET client_min_messages = error;
SELECT * FROM lag;
SELECT esrs_resume_handler('ae');
GRANT CREATE, USAGE ON SCHEMA esrs_async_errors TO regress_esrs_async_stranger;
SET ROLE regress_esrs_async_stranger;
CREATE FUNCTION comes(e esrs_event) RETURNS void LANGUAGE sql AS $$INSERT INTO esrs_async_errors.log (what) VALUES ('stranger as ' || current_user)$$;
RESET ROLE;
SELECT put(:a, 'x');
CALL esrs_run_handlers('ae');
SELECT * FROM shown();
SELECT state, sqlstate, message FROM letters;
DROP FUNCTION comes(esrs_event);
CREATE FUNCTION comes(e esrs_event) RETURNS void LANGUAGE sql AS $$INSERT INTO esrs_async_errors.log (what) VALUES ('came again')$$;
SELECT put(:a, 'x');
CALL esrs_run_handlers('ae');
SELECT * FROM shown();

-- ------------------------------------------------------------------------
-- After a restore: checkpoints without their rows, and beyond the sequence
-- ------------------------------------------------------------------------
SELECT esrs_discard_dead_letters('ae'), esrs_alter_handler('ae', '{"handler": "one(esrs_event)", "partitions": 2}'), put(:a, 'x'), put(:b, 'x');
DELETE FROM esrs.checkpoints WHERE name = 'ae';
CALL esrs_run_handlers('ae');
CALL esrs_run_handlers();
SELECT * FROM shown();
SELECT esrs_wait_for('ae', timeout => '10ms');
SELECT count(*) FROM esrs_lag WHERE handler = 'ae';
-- somebody has to say where to begin
SELECT * FROM esrs_check() WHERE object = 'ae';
SELECT esrs_reset_handler('ae', (SELECT max(position) - 1 FROM ae_one_events));
SELECT partition, events_behind FROM esrs_lag WHERE handler = 'ae' ORDER BY partition;
CALL esrs_run_handlers('ae');
SELECT what ~ '^b/\d+$' AS the_last FROM shown();
-- new events would be taken for old ones: the sequence is moved on behind the checkpoint
UPDATE esrs.checkpoints SET position = (SELECT last_value + 5000 FROM esrs.position_seq) WHERE name = 'ae';
CALL esrs_run_handlers('ae');
SELECT put(:b, 'x');
CALL esrs_run_handlers('ae');
SELECT what ~ '^b/\d+$' AS handled FROM shown();

-- dead letters do not vanish with a change of mode
SELECT esrs_alter_handler('ae', '{"handler": "nests(esrs_event)", "partitions": 1}'), put(:a, 'run');
CALL esrs_run_handlers('ae');
SELECT count(*) FROM letters;
SELECT left(try($$SELECT esrs_alter_handler('ae', '{"mode": "transactional"}')$$), 5);
SELECT count(*) FROM letters;

SELECT esrs_unregister_aggregate(name, drop_events => true) FROM unnest('{ae_one,ae_two}'::text[]) AS name;
REVOKE ALL ON SCHEMA esrs_async_errors FROM regress_esrs_async_stranger;
DROP SCHEMA esrs_async_errors CASCADE;
DROP ROLE regress_esrs_async_stranger;
ALTER SYSTEM RESET esrs.max_workers;
SELECT pg_reload_conf();
:wait_again
SHOW esrs.max_workers;
