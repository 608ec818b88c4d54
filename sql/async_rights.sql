--
-- Rights of asynchronous event handlers: as whom, and in which surroundings, they run; who
-- may run, stop and see them; what the code of one role cannot do to another's.
--
-- Catches: a handler, or what it leaves for the commit, that runs as whoever commands, as
-- whoever CALLs or as the worker's superuser, or becomes somebody else; names that whoever
-- commands puts in its way; what one role's handler leaves in the worker for another's;
-- texts of errors, which may hold payload, in front of others; a handler that changes
-- hands; events that are lost because the handler's role must not read them any more.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA esrs_async_rights;
SET search_path = esrs_async_rights, public;
\pset null (null)
\set a '\'a5750000-0000-4000-8000-00000000000a\''
CREATE ROLE regress_esrs_ar_owner;
CREATE ROLE regress_esrs_ar_other;
CREATE ROLE regress_esrs_ar_member IN ROLE regress_esrs_ar_owner;
CREATE ROLE regress_esrs_ar_nobody;
GRANT USAGE, CREATE ON SCHEMA esrs_async_rights TO regress_esrs_ar_owner, regress_esrs_ar_other;
GRANT USAGE ON SCHEMA esrs_async_rights TO PUBLIC;
GRANT USAGE ON SCHEMA esrs TO regress_esrs_ar_owner, regress_esrs_ar_other;
GRANT EXECUTE ON FUNCTION esrs.append_only(), esrs_register_aggregate(text, text, text, text, jsonb, text, text, text, int, int, text, text, boolean, boolean, text, text, boolean),
    esrs_alter_aggregate(text, jsonb), esrs_register_handler(text, text[], text, text, text, text[], boolean, text, int, int, text, int, text),
    esrs_alter_handler(text, jsonb), esrs_unregister_handler(text) TO regress_esrs_ar_owner, regress_esrs_ar_other;

-- who ran what, in which surroundings
CREATE TABLE ran (n serial, what text, cur text DEFAULT current_user, superuser boolean, info text);
GRANT INSERT, SELECT ON ran TO PUBLIC;
GRANT USAGE ON SEQUENCE ran_n_seq TO PUBLIC;
CREATE FUNCTION note_superuser() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN new.superuser := (SELECT rolsuper FROM pg_roles WHERE rolname = current_user); RETURN new; END $$;
CREATE TRIGGER note_superuser BEFORE INSERT ON ran FOR EACH ROW EXECUTE FUNCTION note_superuser();
CREATE FUNCTION shown() RETURNS TABLE (what text, cur text, info text) LANGUAGE sql AS
    $$WITH gone AS (DELETE FROM ran RETURNING *) SELECT what, cur, info FROM gone ORDER BY n$$;
CREATE FUNCTION try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    hint text;
BEGIN
    EXECUTE statement;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' HINT: ', SQLSTATE || ': ' || SQLERRM, nullif(hint, ''));
END $$;
CREATE FUNCTION put(aggregate text, VARIADIC events text[]) RETURNS bigint LANGUAGE sql AS
    $$SELECT count(*) FROM esrs_persist(aggregate, 'a5750000-0000-4000-8000-00000000000a', ARRAY(SELECT to_jsonb(e) FROM unnest(events) AS e))$$;

SET ROLE regress_esrs_ar_owner;
CREATE FUNCTION decide(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE sql BEGIN ATOMIC SELECT ARRAY[command]; END;
CREATE FUNCTION evolve(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql BEGIN ATOMIC SELECT event; END;
SET client_min_messages = error;
SELECT esrs_register_aggregate('ar_one', handle_command => 'decide(jsonb,jsonb)', apply_event => 'evolve(jsonb,jsonb)');
SET client_min_messages = warning;
GRANT EXECUTE ON FUNCTION decide(jsonb, jsonb) TO regress_esrs_ar_nobody;
CREATE TABLE seen (what text);
-- unqualified on purpose: it means what it meant to the owner
CREATE FUNCTION plain(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO seen VALUES (e.payload #>> '{}');
    INSERT INTO ran (what, info) VALUES (e.payload #>> '{}', current_setting('search_path'));
END $$;
SELECT esrs_register_handler('ar', '{ar_one}', 'plain(esrs_event)', mode => 'async');

-- ------------------------------------------------------------------------
-- As the role that registered it, with its search_path, in the worker and by CALL
-- ------------------------------------------------------------------------
-- somebody who may command, and no more, with traps in his search_path
SET ROLE regress_esrs_ar_nobody;
CREATE TEMP TABLE seen (what text);
CREATE TEMP TABLE ran (what text, info text);
SELECT esrs_handle_command('ar_one', :a, '"commanded"');
CALL esrs_execute('ar_one', :a, '"executed"') \gset
SELECT count(*) FROM pg_temp.seen;
DROP TABLE pg_temp.seen, pg_temp.ran;
RESET ROLE;
SELECT esrs_wait_for('ar', timeout => '60s');
SELECT what, cur, superuser, info FROM ran ORDER BY n;
SELECT * FROM seen;
TRUNCATE ran;
CREATE SCHEMA esrs_async_trap;
CREATE TABLE esrs_async_trap.seen (what text);
CREATE FUNCTION esrs_async_trap.current_setting(text) RETURNS text LANGUAGE sql AS $$SELECT 'trapped'$$;
GRANT ALL ON SCHEMA esrs_async_trap TO PUBLIC;
GRANT ALL ON esrs_async_trap.seen TO PUBLIC;

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
SET search_path = esrs_async_trap, pg_catalog, esrs_async_rights, public;
CREATE TEMP TABLE seen (what text);
SELECT put('ar_one', 'called');
CALL esrs_run_handlers('ar');
SELECT put('ar_one', 'called with all');
CALL esrs_run_handlers();
-- in a block another role's handler is left alone: what it defers would run at our commit
BEGIN;
SELECT put('ar_one', 'in a block');
CALL esrs_run_handlers();
SELECT count(*) FROM esrs_async_rights.ran WHERE what = 'in a block';
SET LOCAL ROLE regress_esrs_ar_owner;
CALL esrs_run_handlers();
RESET ROLE;
SELECT count(*) FROM esrs_async_rights.ran WHERE what = 'in a block';
COMMIT;
CALL esrs_execute('ar_one', :a, '"executed"') \gset
SELECT count(*) FROM esrs_async_trap.seen;
SELECT count(*) FROM pg_temp.seen;
DROP TABLE pg_temp.seen;
SET search_path = esrs_async_rights, public;
SELECT what, cur, superuser, info FROM ran ORDER BY n;
TRUNCATE ran;
-- by a member of the role, as the role all the same
SET ROLE regress_esrs_ar_owner;
SELECT put('ar_one', 'x');
SET ROLE regress_esrs_ar_member;
CALL esrs_run_handlers('ar');
RESET ROLE;
SELECT * FROM shown();

-- ------------------------------------------------------------------------
-- Who may do what
-- ------------------------------------------------------------------------
SET ROLE regress_esrs_ar_owner;
CREATE FUNCTION fails(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'secret %', e.payload; END $$;
SELECT esrs_register_handler('ar_fails', '{ar_one}', 'fails(esrs_event)', mode => 'async', max_attempts => 1),
       esrs_register_handler('ar_stuck', '{ar_one}', 'fails(esrs_event)', mode => 'async', max_attempts => 1, on_error => 'stop');
SET client_min_messages = error;
SELECT put('ar_one', 'x');
CALL esrs_run_handlers();
SET client_min_messages = warning;
CREATE FUNCTION everything() RETURNS TABLE (what text, result text) LANGUAGE sql AS $$
    SELECT statement, esrs_async_rights.try(statement) FROM unnest(ARRAY[
        'CALL esrs_run_handlers(''ar'')', 'SELECT esrs_pause_handler(''ar'')', 'SELECT esrs_resume_handler(''ar'')',
        'SELECT esrs_reset_handler(''ar'', 0)', 'SELECT esrs_retry_dead_letters(''ar'')', 'SELECT esrs_discard_dead_letters(''ar'')',
        'SELECT esrs_wait_for(''ar'', timeout => ''0s'')', 'SELECT esrs_start_workers()', 'SELECT esrs_stop_workers()']) AS statement $$;
SELECT put('ar_one', 'not for strangers');
SET ROLE regress_esrs_ar_nobody;
SELECT * FROM everything();
CALL esrs_run_handlers();
SELECT handler, partition, status, position > 0 AS position, events_behind, oldest_unhandled, attempts, last_error FROM esrs_lag WHERE handler LIKE 'ar%';
SELECT count(*) FROM esrs_dead_letters WHERE handler LIKE 'ar%';
-- also not by a function that looks at rows before they are filtered
CREATE FUNCTION pg_temp.peek(t text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$ BEGIN RAISE WARNING 'seen: %', t; RETURN true; END $$;
SELECT count(*) FROM esrs_dead_letters WHERE pg_temp.peek(message);
SELECT count(*) FROM esrs_lag WHERE pg_temp.peek(last_error);
DROP FUNCTION pg_temp.peek(text);
SELECT try('SELECT * FROM esrs.dead_letters'), try('SELECT * FROM esrs.checkpoints'), try('SELECT * FROM esrs.handlers');
SET ROLE regress_esrs_ar_other;
SELECT count(*) FROM esrs_dead_letters WHERE handler LIKE 'ar%';
SELECT left(try($$SELECT esrs_alter_handler('ar', '{}')$$), 5), left(try($$SELECT esrs_unregister_handler('ar')$$), 5);
RESET ROLE;
SELECT * FROM shown();
SET ROLE regress_esrs_ar_member;
SELECT * FROM everything();
SELECT handler, events_behind, last_error FROM esrs_lag WHERE handler LIKE 'ar%';
SELECT handler, message FROM esrs_dead_letters WHERE handler LIKE 'ar%';
SET ROLE regress_esrs_ar_owner;
SELECT esrs_unregister_handler('ar_fails'), esrs_unregister_handler('ar_stuck');
RESET ROLE;
CALL esrs_run_handlers();
TRUNCATE ran;

-- a superuser's handler on somebody's aggregate: its owner must not lend it code of his own, nor make it run as the superuser
CREATE FUNCTION trusted(e esrs_event) RETURNS void LANGUAGE sql BEGIN ATOMIC INSERT INTO ran (what) VALUES ('trusted'); END;
SELECT esrs_register_handler('ar_super', '{ar_one}', 'trusted(esrs_event)', mode => 'async'), esrs_register_handler('ar_super_t', '{ar_one}', 'trusted(esrs_event)');
SET ROLE regress_esrs_ar_owner;
CREATE FUNCTION deletes(id uuid) RETURNS void LANGUAGE sql AS $$INSERT INTO ran (what) VALUES ('deleted')$$;
SELECT left(try($$SELECT esrs_alter_handler('ar_super', '{"handler": "plain(esrs_event)"}')$$), 5),
       left(try($$SELECT esrs_alter_handler('ar_super', '{"delete_handler": "deletes(uuid)"}')$$), 5),
       left(try($$SELECT esrs_alter_handler('ar_super_t', '{"mode": "async", "handler": "plain(esrs_event)"}')$$), 5),
       left(try($$SELECT esrs_alter_handler('ar_super_t', '{"mode": "async"}')$$), 5);
SELECT put('ar_one', 'x');
RESET ROLE;
CALL esrs_run_handlers();
SELECT what, cur = session_user AS mine FROM ran ORDER BY n;
TRUNCATE ran;
-- to be rid of it is the table owner's right
SET ROLE regress_esrs_ar_owner;
SELECT esrs_unregister_handler('ar_super'), esrs_unregister_handler('ar_super_t');

-- ------------------------------------------------------------------------
-- What runs at the end of the transaction runs as the handler's role, or not at all
-- ------------------------------------------------------------------------
CREATE TABLE late (i int);
CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO esrs_async_rights.ran (what, info) VALUES ('late ' || new.i, esrs_async_rights.try(
        CASE new.i WHEN 1 THEN 'SET ROLE postgres' WHEN 2 THEN 'SET SESSION AUTHORIZATION postgres' WHEN 3 THEN 'RESET ROLE' WHEN 4 THEN 'RESET SESSION AUTHORIZATION'
                   WHEN 5 THEN 'SET SESSION AUTHORIZATION DEFAULT' ELSE 'SET work_mem = ''64kB''' END));
    -- once more, past the end of the handler
    IF new.i < 6 THEN
        SET CONSTRAINTS ALL DEFERRED;
        INSERT INTO esrs_async_rights.late VALUES (new.i + 1);
    END IF;
    PERFORM set_config('esrs_async_rights.left_behind', 'by ' || current_user, false);
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late();
CREATE FUNCTION deferring(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO esrs_async_rights.late VALUES (1);
    INSERT INTO esrs_async_rights.ran (what, info) SELECT 'handler', esrs_async_rights.try(s)
      FROM unnest('{SET ROLE postgres,SET SESSION AUTHORIZATION postgres,RESET ROLE,RESET SESSION AUTHORIZATION,SET LOCAL ROLE NONE}'::text[]) AS s;
END $$;
CREATE FUNCTION held(i int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO esrs_async_rights.ran (what) VALUES ('held'); RETURN i; END $$;
CREATE FUNCTION holding(e esrs_event) RETURNS void LANGUAGE plpgsql AS
    $$ BEGIN EXECUTE format('DECLARE c%s CURSOR WITH HOLD FOR SELECT esrs_async_rights.held(i) FROM generate_series(1, 2) AS i', e.position); END $$;
SELECT esrs_alter_handler('ar', '{"handler": "deferring(esrs_event)", "max_attempts": 1}');
RESET ROLE;
-- the superuser runs it
SET client_min_messages = error;
SELECT put('ar_one', 'x');
CALL esrs_run_handlers('ar');
SELECT what, cur, info FROM shown();
SELECT current_setting('esrs_async_rights.left_behind', true) AS left_behind, current_setting('work_mem') = '64kB' AS work_mem;
CALL esrs_execute('ar_one', :a, '"x"') \gset
SELECT what, cur FROM shown() WHERE what LIKE 'late%';
-- also where it cannot commit, and by a retry
BEGIN;
SELECT put('ar_one', 'x');
CALL esrs_run_handlers('ar');
COMMIT;
SELECT count(*) FILTER (WHERE cur <> 'regress_esrs_ar_owner') AS as_others FROM shown();
CALL esrs_run_handlers('ar');
SELECT count(*) FILTER (WHERE cur <> 'regress_esrs_ar_owner') AS as_others FROM shown();
SELECT count(*) FROM esrs_dead_letters WHERE handler = 'ar';
SELECT esrs_alter_handler('ar', '{"handler": "fails(esrs_event)"}'), put('ar_one', 'x');
CALL esrs_run_handlers('ar');
SELECT esrs_alter_handler('ar', '{"handler": "deferring(esrs_event)"}');
DO $$ BEGIN PERFORM esrs_retry_dead_letters('ar'); EXCEPTION WHEN insufficient_privilege THEN NULL; END $$;
SELECT count(*) FILTER (WHERE cur <> 'regress_esrs_ar_owner') AS as_others FROM shown();
SELECT esrs_discard_dead_letters('ar') >= 0 AS discarded;
SELECT esrs_alter_handler('ar', '{"handler": "holding(esrs_event)"}'), put('ar_one', 'x');
CALL esrs_run_handlers('ar');
SELECT * FROM shown();
SELECT count(*) FROM pg_cursors WHERE is_holdable;
SELECT sqlstate, message FROM esrs_dead_letters WHERE handler = 'ar';
SELECT esrs_discard_dead_letters('ar');
-- and the worker
ALTER SYSTEM RESET esrs.max_workers;
SELECT pg_reload_conf();
:wait_again
SHOW esrs.max_workers;
SET client_min_messages = warning;
SET ROLE regress_esrs_ar_owner;
SELECT esrs_alter_handler('ar', '{"handler": "deferring(esrs_event)"}'), put('ar_one', 'x');
SELECT esrs_wait_for('ar', timeout => '60s');
RESET ROLE;
SELECT what, cur, info FROM shown();
SET ROLE regress_esrs_ar_owner;
SELECT esrs_alter_handler('ar', '{"handler": "holding(esrs_event)"}'), put('ar_one', 'x');
SELECT esrs_wait_for('ar', timeout => '60s');
SELECT sqlstate, message FROM esrs_dead_letters WHERE handler = 'ar';
SELECT esrs_discard_dead_letters('ar');
RESET ROLE;
SELECT * FROM shown();

-- ------------------------------------------------------------------------
-- What one role's handler leaves in the worker, another's does not find
-- ------------------------------------------------------------------------
SET ROLE regress_esrs_ar_owner;
CREATE FUNCTION leaves(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO esrs_async_rights.ran (what, info) VALUES ('leaves', pg_backend_pid());
    CREATE TEMP TABLE IF NOT EXISTS found (secret text);
    INSERT INTO found VALUES ('temporary');
    EXECUTE 'PREPARE found AS SELECT ''prepared''';
    PERFORM pg_advisory_lock(55750), set_config('esrs_async_rights.secret', 'setting', false), set_config('work_mem', '64kB', false);
    PERFORM setseed(0.5), nextval('esrs_async_rights.mine');
    INSERT INTO esrs_async_rights.late VALUES (6);
END $$;
CREATE SEQUENCE mine;
SELECT esrs_alter_handler('ar', '{"handler": "leaves(esrs_event)"}');
SET ROLE regress_esrs_ar_other;
SET client_min_messages = error;
SELECT esrs_register_aggregate('ar_two');
SET client_min_messages = warning;
CREATE FUNCTION looks(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    last text := esrs_async_rights.try('SELECT lastval()');
BEGIN
    INSERT INTO esrs_async_rights.ran (what, info) VALUES ('looks', pg_backend_pid());
    INSERT INTO esrs_async_rights.ran (what, info) SELECT 'sequence', last WHERE last NOT LIKE '55000%';
    INSERT INTO esrs_async_rights.ran (what, info) SELECT 'temporary table', relname FROM pg_class WHERE relname = 'found' AND pg_my_temp_schema() = relnamespace;
    INSERT INTO esrs_async_rights.ran (what, info) SELECT 'prepared statement', name FROM pg_prepared_statements;
    INSERT INTO esrs_async_rights.ran (what, info) SELECT 'cursor', name FROM pg_cursors WHERE is_holdable;
    INSERT INTO esrs_async_rights.ran (what, info) SELECT 'lock', objid FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory' AND objid = 55750;
    INSERT INTO esrs_async_rights.ran (what, info) SELECT 'setting', s FROM unnest(ARRAY[nullif(current_setting('esrs_async_rights.secret', true), ''),
        nullif(current_setting('esrs_async_rights.left_behind', true), ''), nullif(current_setting('work_mem'), '4MB')]) AS s WHERE s IS NOT NULL;
END $$;
SELECT esrs_register_handler('ar_looks', '{ar_two}', 'looks(esrs_event)', mode => 'async');
RESET ROLE;
SELECT put('ar_one', 'x');
SELECT esrs_wait_for('ar', timeout => '60s');
SELECT put('ar_two', 'x');
SELECT esrs_wait_for('ar_looks', timeout => '60s');
SELECT count(DISTINCT info) AS workers FROM ran WHERE what IN ('leaves', 'looks');
DELETE FROM ran WHERE what IN ('leaves', 'looks');
SELECT what, cur, info FROM shown();

-- ------------------------------------------------------------------------
-- A role that may not read the events any more: nothing runs, nothing is lost
-- ------------------------------------------------------------------------
SELECT esrs_alter_handler('ar_looks', '{"handler": "plain(esrs_event)"}');
GRANT INSERT ON seen TO regress_esrs_ar_other;
SELECT esrs_wait_for('ar_looks', timeout => '60s');
ALTER TABLE ar_two_events OWNER TO regress_esrs_ar_owner;
SELECT put('ar_two', 'kept');
-- the worker tries, and says why
CREATE FUNCTION said() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    until timestamptz := clock_timestamp() + '10 s';
BEGIN
    LOOP
        EXIT WHEN EXISTS (SELECT FROM esrs_lag WHERE handler = 'ar_looks' AND last_error IS NOT NULL) OR clock_timestamp() > until;
        PERFORM pg_sleep(0.02);
    END LOOP;
    RETURN (SELECT last_error FROM esrs_lag WHERE handler = 'ar_looks');
END $$;
SELECT said();
SELECT events_behind FROM esrs_lag WHERE handler = 'ar_looks';
SELECT * FROM shown();
GRANT SELECT ON ar_two_events TO regress_esrs_ar_other;
SELECT esrs_resume_handler('ar_looks');
SELECT esrs_wait_for('ar_looks', timeout => '60s');
SELECT * FROM shown();
-- row security would hide events, without a word
ALTER TABLE ar_two_events ENABLE ROW LEVEL SECURITY;
CREATE POLICY nothing ON ar_two_events FOR SELECT USING (false);
SELECT put('ar_two', 'kept, too');
SELECT said();
SELECT try($$SELECT esrs_wait_for('ar_looks', timeout => '0s')$$);
ALTER TABLE ar_two_events DISABLE ROW LEVEL SECURITY;
SELECT esrs_resume_handler('ar_looks');
SELECT esrs_wait_for('ar_looks', timeout => '60s');
SELECT * FROM shown();

SELECT esrs_unregister_aggregate(name, drop_events => true) FROM unnest('{ar_one,ar_two}'::text[]) AS name;
SELECT count(*) FROM esrs_handlers WHERE name LIKE 'ar%';
SELECT esrs_stop_workers() >= 0 AS stopped;
DROP SCHEMA esrs_async_trap CASCADE;
DROP SCHEMA esrs_async_rights CASCADE;
DROP OWNED BY regress_esrs_ar_owner, regress_esrs_ar_other, regress_esrs_ar_member, regress_esrs_ar_nobody CASCADE;
DROP ROLE regress_esrs_ar_owner, regress_esrs_ar_other, regress_esrs_ar_member, regress_esrs_ar_nobody;
