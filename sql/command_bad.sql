--
-- Commands that go wrong: bad arguments, callbacks that break their contract,
-- documents beyond the limits, transactions that cannot write.
--
-- Catches: a wrong SQLSTATE or a payload in a message, half stored events,
-- earlier work of the transaction that is lost, a session that is unusable
-- afterwards (a frame, an identity or a setting that is not put back), and
-- crashes.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_esrs_command_bad;
CREATE SCHEMA esrs_command_bad;
SET search_path = esrs_command_bad, public;

-- An aggregate that does what the command says.
CREATE FUNCTION bad_handle(state jsonb, command jsonb) RETURNS jsonb[]
LANGUAGE plpgsql AS $$
DECLARE
    good jsonb := '{"Added": 1}';
    next int := (command ->> 'n')::int + 1;
BEGIN
    CASE command ->> 'do'
        WHEN 'add' THEN
            RETURN ARRAY[good];
        WHEN 'null' THEN
            RETURN NULL;
        WHEN 'null_event' THEN
            RETURN ARRAY[good, NULL];
        WHEN 'emit' THEN
            RETURN ARRAY[good, command -> 'event'];
        WHEN 'long' THEN
            RETURN ARRAY[good, jsonb_build_object('Long', repeat('x', (command ->> 'n')::int))];
        WHEN 'nest' THEN
            RETURN ARRAY[good, ('{"Nested": ' || repeat('[', next - 2) || repeat(']', next - 2) || '}')::jsonb];
        WHEN 'raise' THEN
            RAISE division_by_zero;
        WHEN 'execute' THEN
            EXECUTE command ->> 'sql';
            RETURN ARRAY[good];
        WHEN 'commit' THEN
            COMMIT;
        WHEN 'rollback' THEN
            ROLLBACK;
        WHEN 'endless' THEN
            PERFORM esrs_handle_command('bad', ('bad00000-0000-4000-8000-' || lpad(next::text, 12, '0'))::uuid,
                                        jsonb_build_object('do', 'endless', 'n', next));
            RETURN ARRAY[good];
    END CASE;
END $$;

CREATE FUNCTION bad_apply(state jsonb, event jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
BEGIN
    IF event ? 'ApplyNull' THEN
        RETURN NULL;
    ELSIF event ? 'ApplyRaise' THEN
        RAISE 'cannot apply' USING ERRCODE = 'P0009';
    ELSIF event ? 'ApplyReject' THEN
        RAISE 'no' USING ERRCODE = 'ZE001';
    ELSIF event ? 'ApplyExecute' THEN
        EXECUTE event ->> 'ApplyExecute';
    END IF;
    RETURN jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + coalesce((event ->> 'Added')::int, 0));
END $$;

SELECT esrs_register_aggregate('bad', handle_command => 'bad_handle(jsonb,jsonb)', apply_event => 'bad_apply(jsonb,jsonb)');
SELECT esrs_register_aggregate('bad_store');
CREATE TABLE model (event_id uuid PRIMARY KEY);
CREATE FUNCTION keep_model(event esrs_event) RETURNS void LANGUAGE sql AS 'INSERT INTO model VALUES (event.id)';
SELECT esrs_register_handler('bad_model', '{bad}', 'keep_model(esrs_event)');

-- Everything that could be half stored.
CREATE VIEW everything AS
SELECT (SELECT count(*) FROM bad_events) AS events, (SELECT count(*) FROM model) AS model,
       (SELECT count(*) FROM bad_store_events) AS stored,
       (SELECT count(*) FROM esrs.commands WHERE aggregate = 'bad') AS commands,
       (SELECT count(*) FROM esrs.deletions WHERE aggregate = 'bad') AS deletions,
       current_user, session_user, current_setting('search_path') AS search_path,
       current_setting('synchronous_commit') AS synchronous_commit,
       current_setting('session_replication_role') AS session_replication_role,
       current_setting('row_security') AS row_security,
       current_setting('transaction_read_only') AS transaction_read_only;

-- Try something in a savepoint that is rolled back, after other work in the
-- same transaction, and look what is left of both.
CREATE FUNCTION probe(sql text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    good uuid := 'bad00000-0000-4000-8000-00000000600d';
    n int := (esrs_handle_command('bad', good, '{"do": "add"}') ->> 'n')::int;
    before everything;
    after everything;
    message text; detail text; hint text;
    outcome text := 'no error';
BEGIN
    SELECT * INTO before FROM everything;
    BEGIN
        EXECUTE sql;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
        outcome := SQLSTATE || ': ' || message || coalesce(E'\nDETAIL: ' || nullif(detail, ''), '')
            || coalesce(E'\nHINT: ' || nullif(hint, ''), '');
    END;
    SELECT * INTO after FROM everything;
    IF before IS DISTINCT FROM after THEN
        outcome := outcome || E'\nLEFT BEHIND: ' || before::text || ' -> ' || after::text;
    END IF;
    IF (SELECT sequence_number FROM esrs_load('bad', good)) IS DISTINCT FROM n THEN
        outcome := outcome || E'\nEARLIER WORK IS LOST';
    END IF;
    IF esrs_handle_command('bad', good, '{"do": "add"}') IS DISTINCT FROM jsonb_build_object('n', n + 1) THEN
        outcome := outcome || E'\nTHE NEXT COMMAND IS WRONG';
    END IF;
    RETURN outcome;
END $$;

\pset format unaligned
\pset tuples_only on

-- the probe itself notices
SELECT split_part(probe($$SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000001', '{"do": "add"}')$$), ':', 1);

--
-- Arguments
--
SELECT probe($$SELECT esrs_handle_command('no_such', 'bad00000-0000-4000-8000-000000000001', '{"do": "add"}')$$);
SELECT probe($$SELECT esrs_try_command('no_such', 'bad00000-0000-4000-8000-000000000001', '{"do": "add"}')$$);
SELECT probe($$SELECT esrs_handle_command('', 'bad00000-0000-4000-8000-000000000001', '{"do": "add"}')$$);
SELECT probe($$SELECT esrs_handle_command('BAD', 'bad00000-0000-4000-8000-000000000001', '{"do": "add"}')$$);
SELECT probe($$SELECT esrs_handle_command('bad_events; DROP TABLE model', 'bad00000-0000-4000-8000-000000000001', '{"do": "add"}')$$);
SELECT probe($$SELECT esrs_handle_command(rpad('bad', 64, 'x'), 'bad00000-0000-4000-8000-000000000001', '{"do": "add"}')$$);
SELECT probe($$SELECT esrs_handle_command(NULL, 'bad00000-0000-4000-8000-000000000001', '{"do": "add"}')$$);
SELECT probe($$SELECT esrs_handle_command('bad', NULL, '{"do": "add"}')$$);
SELECT probe($$SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000001', NULL)$$);
SELECT probe($$SELECT esrs_try_command(NULL, 'bad00000-0000-4000-8000-000000000001', '{"do": "add"}')$$);
SELECT probe($$SELECT esrs_try_command('bad', NULL, '{"do": "add"}')$$);
SELECT probe($$SELECT esrs_try_command('bad', 'bad00000-0000-4000-8000-000000000001', NULL)$$);
SELECT c, probe(format('SELECT esrs_handle_command(%L, %L, %L)', 'bad', 'bad00000-0000-4000-8000-000000000001', c))
  FROM unnest('{[],"[{\"do\": \"add\"}]",1,"null",true,-0.5}'::text[]) AS c;
SELECT probe($$SELECT esrs_try_command('bad', 'bad00000-0000-4000-8000-000000000001', '[]')$$);
SELECT probe($$SELECT esrs_handle_command('bad_store', 'bad00000-0000-4000-8000-000000000001', '{"do": "add"}')$$);

--
-- Callbacks that break their contract
--
SELECT command, probe(format('SELECT esrs_handle_command(%L, %L, %L)', 'bad', 'bad00000-0000-4000-8000-000000000001', command)),
       -- a technical fault is no rejection: it is an error of esrs_try_command too
       probe(format('SELECT esrs_handle_command(%L, %L, %L)', 'bad', 'bad00000-0000-4000-8000-000000000001', command))
     = probe(format('SELECT * FROM esrs_try_command(%L, %L, %L)', 'bad', 'bad00000-0000-4000-8000-000000000001', command)) AS same
  FROM unnest(ARRAY['{"do": "null"}', '{"do": "null_event"}', '{"do": "emit", "event": 1}',
                    '{"do": "emit", "event": []}', '{"do": "emit", "event": null}', '{"do": "emit", "event": false}',
                    '{"do": "raise"}', '{"do": "no such thing"}',
                    '{"do": "emit", "event": {"ApplyNull": 1}}', '{"do": "emit", "event": {"ApplyRaise": 1}}',
                    '{"do": "emit", "event": {"ApplyReject": 1}}',
                    '{"do": "commit"}', '{"do": "rollback"}']) AS command;

-- recursion: the instance itself, by every way
SELECT sql, probe(format('SELECT esrs_handle_command(%L, %L, %L)', 'bad', 'bad00000-0000-4000-8000-000000000001',
                         jsonb_build_object('do', 'execute', 'sql', sql)))
  FROM unnest(ARRAY[
    $$SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000001', '{"do": "add"}')$$,
    $$SELECT esrs_try_command('bad', 'bad00000-0000-4000-8000-000000000001', '{"do": "add"}')$$,
    $$SELECT * FROM esrs_handle_commands(ARRAY[('bad', 'bad00000-0000-4000-8000-000000000001', '{"do": "add"}', NULL, NULL, NULL)]::esrs_command[])$$,
    $$SELECT esrs_persist('bad', 'bad00000-0000-4000-8000-000000000001', '{"{\"Added\": 1}"}')$$,
    $$SELECT esrs_delete('bad', 'bad00000-0000-4000-8000-000000000001')$$]) AS sql;
-- ... also from apply_event
SELECT probe($$SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000001',
    '{"do": "emit", "event": {"ApplyExecute": "SELECT esrs_delete(''bad'', ''bad00000-0000-4000-8000-000000000001'')"}}')$$);
-- reading it is harmless
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000002',
    '{"do": "execute", "sql": "SELECT esrs_load(''bad'', ''bad00000-0000-4000-8000-000000000002'')"}');
-- and so is another instance
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000002',
    '{"do": "execute", "sql": "SELECT esrs_handle_command(''bad'', ''bad00000-0000-4000-8000-000000000003'', ''{\"do\": \"add\"}'')"}');
SELECT aggregate_id, sequence_number FROM bad_events
 WHERE aggregate_id IN ('bad00000-0000-4000-8000-000000000002', 'bad00000-0000-4000-8000-000000000003') ORDER BY position;
-- but not without end
SELECT probe($$SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000000', '{"do": "endless", "n": 0}')$$);
SET esrs.max_nesting = 1;
SELECT probe($$SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000000', '{"do": "endless", "n": 0}')$$);
SET esrs.max_nesting = 100;
SELECT probe($$SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000000', '{"do": "endless", "n": 0}')$$);
RESET esrs.max_nesting;

-- settings: the guarded ones
SELECT sql, probe(format('SELECT esrs_handle_command(%L, %L, %L)', 'bad', 'bad00000-0000-4000-8000-000000000001',
                         jsonb_build_object('do', 'execute', 'sql', sql)))
  FROM unnest(ARRAY[
    'SET ROLE regress_esrs_command_bad', 'SET LOCAL ROLE regress_esrs_command_bad',
    'SET SESSION AUTHORIZATION regress_esrs_command_bad',
    'SET search_path = pg_catalog', 'SET LOCAL search_path = pg_catalog',
    $$SELECT set_config('search_path', 'pg_catalog', true)$$,
    'SET synchronous_commit = off', 'SET row_security = off',
    'SET session_replication_role = replica', 'SET transaction_read_only = on',
    -- these PostgreSQL itself refuses there
    'SET TRANSACTION ISOLATION LEVEL SERIALIZABLE', 'SET transaction_deferrable = on']) AS sql;
SELECT probe($$SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000001',
    '{"do": "emit", "event": {"ApplyExecute": "SET search_path = pg_catalog"}}')$$);
-- outside of a savepoint too
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000001', '{"do": "execute", "sql": "SET search_path = pg_catalog"}');
SHOW search_path;
SELECT * FROM esrs_try_command('bad', 'bad00000-0000-4000-8000-000000000001', '{"do": "execute", "sql": "SET ROLE regress_esrs_command_bad"}');
SELECT current_user = session_user;
-- one that decides about nothing may be changed, and put back by itself all may
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000004', '{"do": "execute", "sql": "SET LOCAL work_mem = ''8MB''"}');
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000004',
    '{"do": "execute", "sql": "DO $x$ BEGIN SET ROLE regress_esrs_command_bad; RESET ROLE; END $x$"}');
ALTER FUNCTION bad_handle SET search_path = esrs_command_bad, public, pg_temp;
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000004', '{"do": "add"}');
ALTER FUNCTION bad_handle RESET search_path;

-- what it does to the aggregate itself
SELECT sql, probe(format('SELECT esrs_handle_command(%L, %L, %L)', 'bad', 'bad00000-0000-4000-8000-000000000001',
                         jsonb_build_object('do', 'execute', 'sql', sql)))
  FROM unnest(ARRAY['DROP FUNCTION bad_apply', 'DROP TABLE bad_events CASCADE',
                    'UPDATE bad_events SET sequence_number = 7', 'DELETE FROM bad_events', 'TRUNCATE bad_events']) AS sql;

-- what the error tells: aggregate, instance and callback, no payload
\set SHOW_CONTEXT always
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000001', '{"do": "raise", "secret": "s3cret"}');
-- of a stored event that cannot be applied, also the event
SELECT sequence_number FROM esrs_persist('bad', 'bad00000-0000-4000-8000-000000000009', '{"{\"ApplyRaise\": \"s3cret\"}"}',
                                         event_ids => '{e0000000-0000-4000-8000-000000000009}');
SELECT esrs_load('bad', 'bad00000-0000-4000-8000-000000000009');
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000009', '{"do": "add"}');
\set SHOW_CONTEXT never

--
-- Limits of documents
--
SET esrs.max_payload_size = 1;
SELECT probe(format('SELECT esrs_handle_command(%L, %L, %L)', 'bad', 'bad00000-0000-4000-8000-000000000001',
                    jsonb_build_object('do', 'add', 'x', repeat('x', 1024))));
SELECT probe(format('SELECT esrs_handle_command(%L, %L, %L, metadata => %L)', 'bad', 'bad00000-0000-4000-8000-000000000001',
                    '{"do": "add"}', jsonb_build_object('x', repeat('x', 1024))));
-- an event that the command makes larger
SELECT probe($$SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000001', '{"do": "long", "n": 1024}')$$);
-- keys count, and digits, of which a short number may have many
SELECT probe(format('SELECT esrs_handle_command(%L, %L, %L)', 'bad', 'bad00000-0000-4000-8000-000000000001',
                    jsonb_build_object('do', 'add', repeat('k', 1024), 1)));
SELECT split_part(probe($$SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000001', '{"do": "add", "x": 1e1024}')$$), ':', 1);
-- just within
SELECT probe($$SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000005', '{"do": "long", "n": 900}')$$) ~ 'LEFT BEHIND';
RESET esrs.max_payload_size;

SET esrs.max_json_depth = 3;
SELECT split_part(probe($$SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000001', '{"do": "add", "x": [[[1]]]}')$$), ':', 1);
SELECT split_part(probe($$SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000001', '{"do": "add"}', metadata => '{"x": {"y": {"z": {}}}}')$$), ':', 1);
-- an event that the command makes deeper
SELECT split_part(probe($$SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000001', '{"do": "nest", "n": 4}')$$), ':', 1);
SELECT probe($$SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000005', '{"do": "add", "x": [[1]]}')$$) ~ 'LEFT BEHIND';
RESET esrs.max_json_depth;
-- 100 levels by default
SELECT split_part(probe(format('SELECT esrs_handle_command(%L, %L, %L)', 'bad', 'bad00000-0000-4000-8000-000000000001',
                    '{"do": "add", "x": ' || repeat('[', 100) || repeat(']', 100) || '}')), ':', 1);
SELECT probe(format('SELECT esrs_handle_command(%L, %L, %L)', 'bad', 'bad00000-0000-4000-8000-000000000005',
                    '{"do": "add", "x": ' || repeat('[', 99) || repeat(']', 99) || '}')) ~ 'LEFT BEHIND';

-- what is stored can be read, and goes on, when the limit has become smaller
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000006', '{"do": "long", "n": 3000}');
SET esrs.max_payload_size = 1;
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000006', '{"do": "add"}');
SELECT sequence_number, state FROM esrs_load('bad', 'bad00000-0000-4000-8000-000000000006');
RESET esrs.max_payload_size;
-- limits are a superuser's
SET ROLE regress_esrs_command_bad;
SET esrs.max_payload_size = 1;
SET esrs.max_json_depth = 1;
SET esrs.max_nesting = 1;
RESET ROLE;
SET esrs.max_nesting = 0;
SET esrs.max_nesting = 101;
SET esrs.no_such_setting = 1;

--
-- A callback that is dropped or replaced between two calls
--
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000007', '{"do": "add"}');
-- refused, for the events table depends on it
\set VERBOSITY terse
DROP FUNCTION bad_apply(jsonb, jsonb);
DROP FUNCTION bad_handle(jsonb, jsonb);
\set VERBOSITY default
\echo :SQLSTATE
-- by force
BEGIN;
DROP FUNCTION bad_apply(jsonb, jsonb) CASCADE;
SAVEPOINT s;
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000007', '{"do": "add"}');
\echo :SQLSTATE
ROLLBACK TO s;
-- its events are there, and other work goes on
SELECT count(*) FROM bad_events WHERE aggregate_id = 'bad00000-0000-4000-8000-000000000007';
-- created again: esrs_check() mends the tie
CREATE FUNCTION bad_apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql AS
    $$SELECT jsonb_build_object('doubled', coalesce((state ->> 'doubled')::int, 0) + 2 * coalesce((event ->> 'Added')::int, 0))$$;
SELECT severity, object, problem, hint FROM esrs_check() WHERE severity <> 'warning' AND object ~ '\mbad';
SELECT count(*) FROM esrs_check() WHERE severity <> 'warning' AND object ~ '\mbad';
-- and the state is folded with the new function
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000007', '{"do": "add"}');
ROLLBACK;
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000007', '{"do": "add"}');
-- replaced: what counts is the present function, for the whole history
BEGIN;
CREATE OR REPLACE FUNCTION bad_apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql AS
    $$SELECT jsonb_build_object('tripled', coalesce((state ->> 'tripled')::int, 0) + 3 * coalesce((event ->> 'Added')::int, 0))$$;
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000007', '{"do": "add"}');
CREATE OR REPLACE FUNCTION bad_handle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE sql AS
    $$SELECT ARRAY['{"Added": 10}'::jsonb]$$;
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000007', '{"do": "null"}');
ROLLBACK;
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000007', '{"do": "add"}');
-- replaced while it runs: the call ends, and the next one is as the new function says
BEGIN;
SELECT jsonb_typeof(esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000007', jsonb_build_object('do', 'execute', 'sql',
    $$CREATE OR REPLACE FUNCTION bad_handle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE sql AS 'SELECT ARRAY[''{"Added": 100}''::jsonb]'$$)));
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000007', '{"do": "null"}');
ROLLBACK;
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000007', '{"do": "add"}');

--
-- Where nothing may be written
--
BEGIN READ ONLY;
SAVEPOINT s;
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000007', '{"do": "add"}');
\echo :SQLSTATE
ROLLBACK TO s;
SELECT esrs_try_command('bad', 'bad00000-0000-4000-8000-000000000007', '{"do": "add"}');
ROLLBACK TO s;
SELECT esrs_handle_commands('{}');
ROLLBACK TO s;
SELECT esrs_persist('bad', 'bad00000-0000-4000-8000-000000000007', '{}');
ROLLBACK TO s;
SELECT esrs_delete('bad', 'bad00000-0000-4000-8000-000000000007');
ROLLBACK TO s;
-- reading and deciding is no writing
SELECT sequence_number, state FROM esrs_load('bad', 'bad00000-0000-4000-8000-000000000007');
SELECT count(*) FROM esrs_events('bad', 'bad00000-0000-4000-8000-000000000007');
SELECT esrs_decide('bad', 'bad00000-0000-4000-8000-000000000007', '{"do": "add"}');
COMMIT;

--
-- Other isolation levels, in one session
--
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000008', '{"do": "add"}');
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000008', '{"do": "add"}', expected_sequence => 1);
SELECT sequence_number FROM esrs_try_command('bad', 'bad00000-0000-4000-8000-000000000008', '{"do": "add"}',
                                             command_id => 'd0000000-0000-4000-8000-000000000001');
SELECT sequence_number FROM esrs_try_command('bad', 'bad00000-0000-4000-8000-000000000008', '{"do": "add"}',
                                             command_id => 'd0000000-0000-4000-8000-000000000001');
SAVEPOINT s;
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000008', '{"do": "add"}');
ROLLBACK TO s;
SELECT sequence_number FROM esrs_lock_and_load('bad', 'bad00000-0000-4000-8000-000000000008');
SELECT sequence_number FROM esrs_persist('bad', 'bad00000-0000-4000-8000-000000000008', '{"{\"Added\": 1}"}');
SELECT esrs_delete('bad', 'bad00000-0000-4000-8000-000000000008');
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000008', '{"do": "add"}');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000008', '{"do": "add"}');
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-000000000008', '{"do": "add"}');
COMMIT;
SELECT sequence_number, (SELECT count(*) FROM model WHERE event_id = e.id) AS handled
  FROM bad_events AS e WHERE aggregate_id = 'bad00000-0000-4000-8000-000000000008' ORDER BY 1;

-- nothing of the target of all the failures
SELECT count(*) FROM bad_events WHERE aggregate_id = 'bad00000-0000-4000-8000-000000000001' AND sequence_number > 1;

DROP VIEW everything CASCADE;

-- another aggregate that a callback unregisters
SELECT esrs_handle_command('bad', 'bad00000-0000-4000-8000-00000000000a', jsonb_build_object('do', 'execute', 'sql',
    $$SELECT esrs_unregister_aggregate('bad_store', drop_events => true)$$));
SELECT esrs_persist('bad_store', 'bad00000-0000-4000-8000-00000000000a', '{}');

SELECT esrs_unregister_handler('bad_model');
SELECT esrs_unregister_aggregate('bad', drop_events => true);
DROP SCHEMA esrs_command_bad CASCADE;
DROP ROLE regress_esrs_command_bad;
