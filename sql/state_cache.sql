--
-- States that a session keeps between commands.
--
-- Each line shows the number of the instance, its state, and how many events were
-- applied for it: 1 for a command with one event whose instance was known.
--
-- Catches: a state that is used though its event is gone, or another one took its
-- number; that outlives the functions, the options, the table's guard or the
-- search_path that made it; that somebody sees who may not see its events; one that
-- an error has left half changed; and a cache that grows, or keeps nothing.
--
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
CREATE SCHEMA state_cache;
SET search_path = state_cache, public;

CREATE FUNCTION id(int) RETURNS uuid LANGUAGE sql AS $$ SELECT lpad($1::text, 32, '0')::uuid $$;
-- counts, also what is rolled back
CREATE SEQUENCE applied;
SELECT nextval('applied');
CREATE FUNCTION step(int) RETURNS int LANGUAGE sql AS $$ SELECT $1 $$;
CREATE FUNCTION handle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE plpgsql SET search_path = state_cache, public, pg_temp AS $$
BEGIN
    IF command ? 'add' THEN
        RETURN ARRAY[jsonb_build_object('added', command -> 'add')];
    ELSIF command ? 'emit' THEN
        RETURN ARRAY(SELECT jsonb_array_elements(command -> 'emit'));
    ELSIF command ? 'load' THEN
        RETURN ARRAY[jsonb_build_object('added', (SELECT coalesce(sum((l.state ->> 'sum')::int), 0)
            FROM jsonb_array_elements_text(command -> 'load') AS i, esrs_load('cache_sum', id(i::int)) AS l))];
    ELSIF command ? 'fault' THEN
        RAISE division_by_zero;
    END IF;
    RAISE 'no' USING ERRCODE = 'ZE001', CONSTRAINT = 'no';
END $$;
CREATE FUNCTION apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql SET search_path = state_cache, public, pg_temp AS $$
BEGIN
    PERFORM nextval('applied');
    IF event ? 'boom' THEN
        RAISE 'boom' USING ERRCODE = '22012';
    ELSIF event ? 'sleep' THEN
        PERFORM pg_sleep((event ->> 'sleep')::float);
    ELSIF event ? 'pad' THEN
        RETURN state || jsonb_build_object('pad', repeat('x', (event ->> 'pad')::int));
    END IF;
    RETURN state || jsonb_build_object('sum', (state ->> 'sum')::int + step((event ->> 'added')::int));
END $$;
SELECT esrs_register_aggregate('cache_sum', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)', initial_state => '{"sum": 0}');

-- what follows is the tester's, and does not care for the search_path
CREATE FUNCTION shown(number int, state jsonb, applied bigint) RETURNS text LANGUAGE sql AS
    $$ SELECT format('%s: %s, %s applied', number, state - 'pad', applied) $$;
CREATE FUNCTION command(command jsonb, instance int DEFAULT 1, aggregate text DEFAULT 'cache_sum') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    before bigint := (SELECT last_value FROM state_cache.applied);
    r record;
BEGIN
    SELECT ok, sequence_number, state INTO r FROM public.esrs_try_command(aggregate, state_cache.id(instance), command);
    RETURN CASE WHEN NOT r.ok THEN 'rejected at ' ELSE '' END ||
        state_cache.shown(r.sequence_number, r.state, (SELECT last_value FROM state_cache.applied) - before);
END $$;
CREATE FUNCTION add(n int, instance int DEFAULT 1, aggregate text DEFAULT 'cache_sum') RETURNS text LANGUAGE sql AS
    $$ SELECT state_cache.command(jsonb_build_object('add', n), instance, aggregate) $$;
CREATE FUNCTION load(instance int DEFAULT 1, aggregate text DEFAULT 'cache_sum', at_sequence int DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    before bigint := (SELECT last_value FROM state_cache.applied);
    r record;
BEGIN
    SELECT sequence_number, state INTO r FROM public.esrs_load(aggregate, state_cache.id(instance), at_sequence);
    RETURN state_cache.shown(r.sequence_number, r.state, (SELECT last_value FROM state_cache.applied) - before);
END $$;
-- the state as the events have it; forgets what was kept
CREATE FUNCTION truth(instance int DEFAULT 1, aggregate text DEFAULT 'cache_sum') RETURNS text LANGUAGE sql SET esrs.state_cache_size = 0 AS
    $$ SELECT state_cache.load(instance, aggregate) $$;
-- without the number of calls, where more or less of them would do
CREATE FUNCTION whatever(text) RETURNS text LANGUAGE sql AS $$ SELECT regexp_replace($1, ', \d+ applied', '') $$;
CREATE FUNCTION sqlstate(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RETURN 'done';
EXCEPTION WHEN OTHERS OR query_canceled THEN
    RETURN SQLSTATE;
END $$;

--
-- A command applies new events only, whatever came before
--
SELECT add(1);
SELECT add(2);
SELECT command('{"emit": [{"added": 3}, {"added": 4}]}');
SELECT load();
SELECT command('{"emit": []}');
SELECT * FROM esrs_lock_and_load('cache_sum', id(1));
SELECT add(5);
SELECT truth();
SELECT load();
-- the past is folded, and does not disturb what is kept
SELECT load(at_sequence => 2);
SELECT load();
-- what another way has stored is applied on top
SELECT count(*) FROM esrs_persist('cache_sum', id(1), ARRAY['{"added": 6}', '{"added": 7}']::jsonb[]);
SELECT add(8);
INSERT INTO cache_sum_events (id, aggregate_id, payload, occurred_on, sequence_number)
    VALUES (gen_random_uuid(), id(1), '{"added": 9}', now(), 9);
SELECT load();
-- a load is kept as well, and a dry run uses it
SELECT truth(), load();
SELECT last_value AS before FROM applied \gset
SELECT esrs_decide('cache_sum', id(1), '{"add": 1}');
SELECT last_value - :before AS applied FROM applied;
-- an instance without events, and many at once
SELECT load(2);
SELECT command('{"emit": []}', 2);
SELECT count(*), sum(sequence_number) FROM esrs_handle_commands((SELECT array_agg(('cache_sum', id(10 + i % 3), '{"add": 1}', NULL, NULL, NULL)::esrs_command) FROM generate_series(1, 9) AS i));
SELECT load(10), load(11), load(12);

--
-- Transactions that end otherwise
--
BEGIN;
SELECT add(100);
SELECT add(100);
ROLLBACK;
-- another event has the number
SELECT add(1);
SELECT truth();
BEGIN;
SELECT add(1);
SAVEPOINT s;
SELECT add(100);
ROLLBACK TO s;
SELECT add(1);
COMMIT;
SELECT add(1);
SELECT truth();
-- a block with an exception
DO $$
BEGIN
    PERFORM state_cache.add(1);
    BEGIN
        PERFORM state_cache.add(100);
        RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN
    END;
    PERFORM state_cache.add(1);
END $$;
SELECT load();
SELECT truth();
-- one that commits
DO $$
BEGIN
    PERFORM state_cache.add(1);
    COMMIT;
    PERFORM state_cache.add(100);
    ROLLBACK;
    PERFORM state_cache.add(1);
END $$;
SELECT load();
SELECT truth();
-- what was read in a transaction with an old snapshot
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT add(1);
SELECT add(1);
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT add(1);
ROLLBACK;
SELECT add(1);
SELECT truth();
-- at an error of COMMIT: a deferred constraint
CREATE TABLE refused (n int UNIQUE DEFERRABLE INITIALLY DEFERRED);
BEGIN;
SELECT add(100);
INSERT INTO refused VALUES (1), (1);
COMMIT;
SELECT load();

--
-- Deleted, and made anew up to the same number
--
SELECT add(1, 3), add(2, 3);
SELECT esrs_delete('cache_sum', id(3));
SELECT load(3);
SELECT add(10, 3), add(20, 3);
SELECT load(3);
SELECT esrs_delete('cache_sum', id(3));
SELECT count(*) FROM esrs_persist('cache_sum', id(3), ARRAY['{"added": 100}', '{"added": 200}']::jsonb[]);
SELECT load(3);
-- a deletion that is rolled back
BEGIN;
SELECT esrs_delete('cache_sum', id(3));
SELECT add(1, 3);
ROLLBACK;
SELECT add(1, 3);
SELECT truth(3);

--
-- The same ids again: an import that is mended and repeated
--
BEGIN;
SELECT count(*) FROM esrs_persist('cache_sum', id(4), ARRAY['{"added": 1}']::jsonb[], event_ids => ARRAY[id(1)]);
SELECT load(4);
ROLLBACK;
SELECT count(*) FROM esrs_persist('cache_sum', id(4), ARRAY['{"added": 100}']::jsonb[], event_ids => ARRAY[id(1)]);
SELECT load(4);
SELECT esrs_delete('cache_sum', id(4));
SELECT count(*) FROM esrs_persist('cache_sum', id(4), ARRAY['{"added": 1000}']::jsonb[], event_ids => ARRAY[id(1)]);
SELECT load(4);
SELECT truth(4);

--
-- Numbers with gaps, which only the owner can make, and fill
--
INSERT INTO cache_sum_events (id, aggregate_id, payload, occurred_on, sequence_number)
    VALUES (gen_random_uuid(), id(5), '{"added": 1}', now(), 1), (gen_random_uuid(), id(5), '{"added": 1}', now(), 3);
SELECT load(5);
INSERT INTO cache_sum_events (id, aggregate_id, payload, occurred_on, sequence_number)
    VALUES (gen_random_uuid(), id(5), '{"added": 100}', now(), 2);
SELECT load(5);
SELECT truth(5);

--
-- Refusals leave it where it is
--
SELECT load();
SELECT command('{"refuse": 1}');
SELECT sqlstate($$ SELECT esrs_handle_command('cache_sum', id(1), '{"refuse": 1}') $$);
SELECT load();
SELECT esrs_handle_command('cache_sum', id(1), '{"refuse": 1}');
SELECT load();
SELECT esrs_handle_command('cache_sum', id(1), '{"fault": 1}');
SELECT load();
SELECT sqlstate($$ SELECT esrs_handle_command('cache_sum', id(1), '{"add": 1}', expected_sequence => 1) $$);
SELECT load();
SELECT sqlstate($$ SELECT esrs_handle_command('cache_sum', id(1), '{"add": 1}', command_id => id(1)) $$);
SELECT sqlstate($$ SELECT esrs_handle_command('cache_sum', id(1), '{"add": 2}', command_id => id(1)) $$);
SELECT sqlstate($$ SELECT esrs_handle_command('cache_sum', id(1), '{"add": 1}', command_id => id(1)) $$);
SELECT load();
-- one that is remembered shows the state of then, and leaves that of now
SELECT add(1);
SELECT esrs_handle_command('cache_sum', id(1), '{"add": 1}', command_id => id(1)) = (SELECT state FROM esrs_load('cache_sum', id(1))) AS now;
SELECT load();

--
-- Errors in the middle
--
SELECT add(1, 6), add(2, 6);
SELECT sqlstate($$ SELECT esrs_handle_command('cache_sum', id(6), '{"emit": [{"added": 100}, {"boom": 1}, {"added": 100}]}') $$);
SELECT add(3, 6);
SELECT esrs_handle_command('cache_sum', id(6), '{"emit": [{"added": 100}, {"boom": 1}]}');
SELECT load(6);
-- while events are applied that somebody else has stored
BEGIN;
SELECT count(*) FROM esrs_persist('cache_sum', id(6), ARRAY['{"added": 100}', '{"boom": 1}']::jsonb[]);
SAVEPOINT s;
SELECT load(6);
ROLLBACK TO s;
ROLLBACK;
SELECT load(6);
-- cancelled
SET statement_timeout = '100ms';
SELECT esrs_handle_command('cache_sum', id(6), '{"emit": [{"added": 100}, {"sleep": 20}]}');
RESET statement_timeout;
SELECT load(6);
SELECT load(6);
-- an error behind it: a transactional handler that raises
CREATE FUNCTION on_event(e esrs_event) RETURNS void LANGUAGE plpgsql SET search_path = state_cache, public, pg_temp AS $$
BEGIN
    IF (e).payload = '{"added": 13}' THEN
        RAISE division_by_zero;
    ELSIF (e).payload = '{"added": 14}' THEN
        -- sees the event, and commands another instance that sees it too
        PERFORM set_config('state_cache.seen', load(7), false);
        PERFORM esrs_handle_command('cache_sum', id(8), '{"load": ["7"]}');
    END IF;
END $$;
SELECT esrs_register_handler('cache_handler', ARRAY['cache_sum'], 'on_event(esrs_event)');
SELECT add(1, 7);
SELECT sqlstate($$ SELECT esrs_handle_command('cache_sum', id(7), '{"add": 13}') $$);
SELECT add(2, 7);

--
-- Nested
--
-- a handler that loads the instance whose event it handles
SELECT add(14, 7);
SELECT current_setting('state_cache.seen');
SELECT load(7), load(8);
SELECT sqlstate($$ DO $x$ BEGIN PERFORM esrs_handle_command('cache_sum', id(7), '{"add": 14}'); RAISE division_by_zero; END $x$ $$);
SELECT load(7), load(8);
SELECT truth(7), truth(8);
-- handle_command that loads its own instance and others
SELECT load(7), load(8);
SELECT command('{"load": ["7"]}', 7);
SELECT load(7);
SELECT command('{"load": ["7", "8"]}', 8);
SELECT load(7), load(8);
SELECT truth(7), truth(8);
SELECT esrs_unregister_handler('cache_handler');

--
-- Functions
--
SELECT load(), add(1);
-- apply_event
CREATE OR REPLACE FUNCTION step(int) RETURNS int LANGUAGE sql AS $$ SELECT $1 * 10 $$;
SELECT add(1, 9), add(1, 9);
-- a function that it calls
CREATE OR REPLACE FUNCTION step(int) RETURNS int LANGUAGE sql AS $$ SELECT $1 * 2 $$;
SELECT add(1, 9);
SELECT load(9);
-- in a transaction, which is rolled back
BEGIN;
CREATE OR REPLACE FUNCTION step(int) RETURNS int LANGUAGE sql AS $$ SELECT $1 * 1000 $$;
SELECT load(9);
SELECT add(1, 9);
ROLLBACK;
SELECT load(9);
BEGIN;
SELECT load(9);
SAVEPOINT s;
DROP FUNCTION step(int);
CREATE FUNCTION step(bigint) RETURNS int LANGUAGE sql AS $$ SELECT 5 $$;
SELECT load(9);
ROLLBACK TO s;
SELECT load(9);
COMMIT;
-- what a function is besides its text
SELECT load(9);
ALTER FUNCTION step(int) CALLED ON NULL INPUT;
SELECT load(9);
ALTER FUNCTION apply RENAME TO applies;
SELECT load(9);
ALTER FUNCTION applies RENAME TO apply;
-- another initial state, other functions, another version
SELECT load(9);
SELECT esrs_alter_aggregate('cache_sum', '{"initial_state": {"sum": 1000}}');
SELECT load(9);
CREATE FUNCTION upcast(payload jsonb, version int) RETURNS jsonb LANGUAGE sql SET search_path = state_cache, pg_temp AS
    $$ SELECT CASE WHEN version IS NULL THEN jsonb_build_object('added', 7) ELSE payload END $$;
SELECT load(9);
SELECT esrs_alter_aggregate('cache_sum', '{"upcast": "upcast(jsonb,int)", "event_version": 1}');
SELECT load(9);
SELECT add(1, 9), load(9);
CREATE OR REPLACE FUNCTION upcast(payload jsonb, version int) RETURNS jsonb LANGUAGE sql SET search_path = state_cache, pg_temp AS
    $$ SELECT CASE WHEN version = 1 THEN payload END $$;
SELECT load(9);
SELECT load(9);
SELECT esrs_alter_aggregate('cache_sum', '{"upcast": null, "event_version": null, "initial_state": {"sum": 0}}');
SELECT load(9);
CREATE FUNCTION stored(event jsonb) RETURNS jsonb LANGUAGE sql SET search_path = state_cache, pg_temp AS $$ SELECT jsonb_build_object('added', event -> 'added') $$;
CREATE FUNCTION present(payload jsonb) RETURNS jsonb LANGUAGE sql SET search_path = state_cache, pg_temp AS $$ SELECT payload $$;
SELECT esrs_alter_aggregate('cache_sum', '{"from_event": "stored(jsonb)", "to_event": "present(jsonb)"}');
SELECT load(9), load(9);
CREATE OR REPLACE FUNCTION present(payload jsonb) RETURNS jsonb LANGUAGE sql SET search_path = state_cache, pg_temp AS
    $$ SELECT jsonb_build_object('added', (payload ->> 'added')::int * 3) $$;
SELECT load(9);
SELECT esrs_alter_aggregate('cache_sum', '{"from_event": null, "to_event": null}');
SELECT load(9), load(9);
-- another function as apply_event
CREATE FUNCTION apply_minus(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql SET search_path = state_cache, pg_temp AS
    $$ SELECT jsonb_build_object('sum', (state ->> 'sum')::int - (event ->> 'added')::int) $$;
SELECT load(9), load(9);
SELECT esrs_alter_aggregate('cache_sum', '{"apply_event": "apply_minus(jsonb,jsonb)"}');
SELECT load(9);
SELECT esrs_alter_aggregate('cache_sum', '{"apply_event": "apply(jsonb,jsonb)"}');
SELECT load(9);
-- the function that decides changes no state, and cannot be told from others
CREATE OR REPLACE FUNCTION step(int) RETURNS int LANGUAGE sql AS $$ SELECT $1 $$;

--
-- Names: functions that are not bound to a search_path
--
CREATE SCHEMA state_cache_1;
CREATE SCHEMA state_cache_2;
CREATE FUNCTION state_cache_1.factor() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION state_cache_2.factor() RETURNS int LANGUAGE sql AS $$ SELECT 100 $$;
CREATE FUNCTION apply_free(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM nextval('state_cache.applied');
    RETURN jsonb_build_object('sum', (state ->> 'sum')::int + (event ->> 'added')::int * factor());
END $$;
SELECT esrs_register_aggregate('cache_free', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply_free(jsonb,jsonb)', initial_state => '{"sum": 0}');
SET search_path = state_cache_1, state_cache, public;
SELECT add(1, 1, 'cache_free'), load(1, 'cache_free');
SET search_path = state_cache_2, state_cache, public;
SELECT load(1, 'cache_free');
SELECT load(1, 'cache_free');
BEGIN;
SET LOCAL search_path = state_cache_1, state_cache, public;
SELECT add(1, 1, 'cache_free');
COMMIT;
SELECT load(1, 'cache_free');
-- a schema that comes into the path
SET search_path = state_cache_0, state_cache_2, state_cache, public;
SELECT load(1, 'cache_free'), load(1, 'cache_free');
ALTER SCHEMA state_cache_1 RENAME TO state_cache_0;
SELECT load(1, 'cache_free');
SELECT truth(1, 'cache_free');
ALTER SCHEMA state_cache_0 RENAME TO state_cache_1;
SELECT load(1, 'cache_free');
-- a role
SET search_path = "$user", state_cache_2, state_cache, public;
CREATE ROLE regress_esrs_cache;
CREATE SCHEMA regress_esrs_cache AUTHORIZATION regress_esrs_cache;
CREATE FUNCTION regress_esrs_cache.factor() RETURNS int LANGUAGE sql AS $$ SELECT 1000 $$;
GRANT USAGE ON SCHEMA state_cache, state_cache_1, state_cache_2 TO regress_esrs_cache;
GRANT ALL ON ALL SEQUENCES IN SCHEMA state_cache TO regress_esrs_cache;
GRANT SELECT ON cache_sum_events, cache_free_events TO regress_esrs_cache;
SELECT load(1, 'cache_free');
SET ROLE regress_esrs_cache;
SELECT load(1, 'cache_free');
SELECT load(1, 'cache_free');
RESET ROLE;
SELECT load(1, 'cache_free');
-- a function that is bound is for everybody
SET search_path = state_cache, public;
SELECT truth(9), load(9);
SET search_path = "$user", state_cache_1, state_cache;
SELECT load(9);
SET ROLE regress_esrs_cache;
SELECT load(9);
RESET ROLE;
SET search_path = state_cache, public;
SELECT load(9);

-- bound, but not what it calls: its names mean what the caller's search_path says
CREATE FUNCTION times(int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
    PERFORM nextval('state_cache.applied');
    RETURN $1 * factor();
END $$;
CREATE FUNCTION apply_atomic(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql
    RETURN jsonb_build_object('sum', (state ->> 'sum')::int + times((event ->> 'added')::int));
SELECT esrs_register_aggregate('cache_atomic', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply_atomic(jsonb,jsonb)', initial_state => '{"sum": 0}');
SET search_path = state_cache_1, state_cache, public;
SELECT add(1, 1, 'cache_atomic'), load(1, 'cache_atomic');
SET search_path = state_cache_2, state_cache, public;
SELECT load(1, 'cache_atomic');
SET search_path = state_cache, public;
-- bound to a path in which the caller has a part
ALTER FUNCTION apply_free SET search_path = "$user", state_cache_1, state_cache;
SELECT load(1, 'cache_free');
SET ROLE regress_esrs_cache;
SELECT load(1, 'cache_free');
RESET ROLE;

--
-- Rights and row security
--
REVOKE SELECT ON cache_sum_events FROM regress_esrs_cache;
SELECT load(9);
SET ROLE regress_esrs_cache;
SELECT load(9);
RESET ROLE;
GRANT SELECT (id) ON cache_sum_events TO regress_esrs_cache;
SET ROLE regress_esrs_cache;
SELECT load(9);
RESET ROLE;
REVOKE SELECT (id) ON cache_sum_events FROM regress_esrs_cache;
GRANT SELECT ON cache_sum_events TO regress_esrs_cache;
SELECT truth(9);
-- who sees less neither takes what is kept, nor leaves anything
ALTER TABLE cache_sum_events ENABLE ROW LEVEL SECURITY;
CREATE POLICY even ON cache_sum_events TO regress_esrs_cache USING (sequence_number % 2 = 0);
SET ROLE regress_esrs_cache;
SELECT load(9);
RESET ROLE;
SELECT load(9);
SET ROLE regress_esrs_cache;
SELECT load(9);
SELECT load(9);
SET row_security = off;
SELECT load(9);
RESET row_security;
RESET ROLE;
SELECT load(9);
-- a command sees all
GRANT EXECUTE ON FUNCTION handle TO regress_esrs_cache;
SET ROLE regress_esrs_cache;
SELECT add(1, 9);
RESET ROLE;
ALTER TABLE cache_sum_events FORCE ROW LEVEL SECURITY;
SELECT truth(9);
SELECT add(1, 9);
ALTER TABLE cache_sum_events DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;
DROP POLICY even ON cache_sum_events;

--
-- The guard: where history can be changed nothing is kept
--
SELECT truth(9), load(9), load(9);
SELECT esrs_alter_aggregate('cache_sum', '{"append_only": false}');
SELECT load(9);
SELECT load(9);
UPDATE cache_sum_events SET payload = '{"added": 1}' WHERE aggregate_id = id(9) AND sequence_number = 1;
SELECT add(1, 9);
SELECT esrs_alter_aggregate('cache_sum', '{"append_only": true}');
SELECT load(9), load(9);
-- with TRUNCATE, in one transaction
SELECT add(1), load();
BEGIN;
SELECT esrs_alter_aggregate('cache_sum', '{"append_only": false}');
CREATE TEMPORARY TABLE saved AS SELECT * FROM cache_sum_events;
TRUNCATE cache_sum_events;
SELECT load();
UPDATE saved SET payload = '{"added": 2}' WHERE payload = '{"added": 1}';
INSERT INTO cache_sum_events TABLE saved;
SELECT esrs_alter_aggregate('cache_sum', '{"append_only": true}');
COMMIT;
SELECT load();
SELECT truth();
-- switched off and on again
SELECT load(9), load(9);
ALTER TABLE cache_sum_events DISABLE TRIGGER esrs_append_only;
SELECT load(9), load(9);
UPDATE cache_sum_events SET payload = '{"added": 1}' WHERE aggregate_id = id(9) AND sequence_number = 1;
ALTER TABLE cache_sum_events ENABLE ALWAYS TRIGGER esrs_append_only;
SELECT load(9), load(9);
BEGIN;
ALTER TABLE cache_sum_events DISABLE TRIGGER esrs_append_only;
UPDATE cache_sum_events SET payload = '{"added": 50}' WHERE aggregate_id = id(9) AND sequence_number = 1;
ALTER TABLE cache_sum_events ENABLE ALWAYS TRIGGER esrs_append_only;
COMMIT;
SELECT load(9), load(9);
-- what is rolled back has not happened
BEGIN;
ALTER TABLE cache_sum_events DISABLE TRIGGER esrs_append_only;
UPDATE cache_sum_events SET payload = '{"added": 500}' WHERE aggregate_id = id(9) AND sequence_number = 1;
SELECT load(9);
ROLLBACK;
SELECT whatever(load(9));
-- ENABLE alone lets session_replication_role through
ALTER TABLE cache_sum_events ENABLE TRIGGER esrs_append_only;
SELECT load(9), load(9);
SET session_replication_role = replica;
UPDATE cache_sum_events SET payload = '{"added": 5}' WHERE aggregate_id = id(9) AND sequence_number = 1;
RESET session_replication_role;
SELECT load(9), load(9);
-- dropped; made again, in a weak and in the right form
BEGIN;
DROP TRIGGER esrs_append_only ON cache_sum_events;
SELECT load(9), load(9);
CREATE TRIGGER esrs_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON cache_sum_events
    EXECUTE FUNCTION esrs.append_only('cache_sum', 'refuse');
SELECT load(9), load(9);
ALTER TABLE cache_sum_events ENABLE ALWAYS TRIGGER esrs_append_only;
SELECT load(9), load(9);
ROLLBACK;
SELECT esrs_alter_aggregate('cache_sum', '{}');
SELECT load(9), load(9);
SELECT severity, problem FROM esrs_check() WHERE object = 'cache_sum';

--
-- The table's definition
--
ALTER TABLE cache_sum_events ALTER COLUMN payload TYPE jsonb
    USING CASE WHEN aggregate_id = id(9) AND sequence_number = 1 THEN '{"added": 700}' ELSE payload END;
SELECT load(9);
SELECT truth(9);
-- moved and renamed
ALTER TABLE cache_sum_events SET SCHEMA state_cache_1;
SELECT whatever(load(9));
ALTER TABLE state_cache_1.cache_sum_events RENAME TO moved;
SELECT whatever(add(1, 9));
ALTER TABLE state_cache_1.moved RENAME TO cache_sum_events;
ALTER TABLE state_cache_1.cache_sum_events SET SCHEMA state_cache;
SELECT whatever(load(9));
-- a trigger on the table that stores something else: refused, or told as it is stored
CREATE FUNCTION redact() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.payload := '{"added": 7000}'; RETURN NEW; END $$;
CREATE TRIGGER redact BEFORE INSERT ON cache_sum_events FOR EACH ROW EXECUTE FUNCTION redact();
SELECT count(sqlstate($$ SELECT esrs_try_command('cache_sum', id(20), '{"add": 1}') $$));
DROP TRIGGER redact ON cache_sum_events;
SELECT coalesce((SELECT state ->> 'sum' = '7000' FROM esrs_load('cache_sum', id(20))), true) AS as_stored;
-- unregistered, and registered anew on the same events
SELECT load(7), load(7);
SELECT esrs_unregister_aggregate('cache_sum');
UPDATE cache_sum_events SET payload = '{"added": 10000}' WHERE aggregate_id = id(7) AND sequence_number = 1;
SELECT esrs_register_aggregate('cache_sum', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)', initial_state => '{"sum": 0}');
SELECT load(7), load(7);
-- a store keeps nothing, there is nothing to keep
SELECT esrs_register_aggregate('cache_store');
SELECT count(*) FROM esrs_persist('cache_store', id(1), ARRAY['{"a": 1}']::jsonb[]);
SELECT * FROM esrs_load('cache_store', id(1));
SELECT * FROM esrs_load('cache_store', id(1));

--
-- Memory
--
SHOW esrs.state_cache_size;
SET esrs.state_cache_size = -1;
SET ROLE regress_esrs_cache;
SET esrs.state_cache_size = '8MB';
RESET ROLE;
SELECT add(1, 100), load(100);
SET esrs.state_cache_size = 0;
SELECT load(100), load(100);
SELECT add(1, 100), add(1, 100);
RESET esrs.state_cache_size;
SELECT load(100), load(100);
CREATE VIEW kept AS SELECT count(*) AS n, coalesce(sum(total_bytes), 0) AS bytes
    FROM pg_backend_memory_contexts WHERE name = 'esrs instance' AND parent = 'esrs state cache';
SELECT n > 0 AS some FROM kept;
-- what is too large for it is not kept, and throws nothing out
SET esrs.state_cache_size = '64kB';
SELECT load(100), load(100);
SELECT command('{"emit": [{"added": 1}, {"pad": 100000}]}', 101);
SELECT load(101);
SELECT load(100);
SELECT command('{"emit": [{"pad": 1}]}', 101), load(101);
-- a small one holds the newest, and no more than it may
SELECT count(esrs_handle_command('cache_sum', id(i), '{"add": 1}')) FROM generate_series(1001, 1500) AS i;
SELECT n BETWEEN 10 AND 100 AS some, bytes <= 64 * 1024 AS bounded FROM kept;
SELECT load(1001), load(1500), load(1499);
-- used, it is new again
SELECT count(load(i)) FROM generate_series(1001, 1005) AS i;
SELECT count(load(i)) + count(load(1001)) AS n FROM generate_series(1006, 1400) AS i;
SELECT load(1001), load(1002);
-- lowered: what is too much goes at the next occasion
SET esrs.state_cache_size = '8MB';
SELECT count(load(i)) FROM generate_series(1001, 1500) AS i;
SELECT n >= 500 AS all FROM kept;
SELECT count(*) FROM generate_series(1001, 1500) AS i WHERE load(i) LIKE '%, 0 applied';
SET esrs.state_cache_size = '16kB';
SELECT load(1500);
SELECT n BETWEEN 1 AND 25 AS few, bytes <= 16 * 1024 AS bounded FROM kept;
-- a very small one
SET esrs.state_cache_size = '1kB';
SELECT load(1500), load(1500);
SELECT add(1, 1500), add(1, 1500);
SELECT n <= 1 AS few FROM kept;
RESET esrs.state_cache_size;
-- it does not grow with what it has seen
SET esrs.state_cache_size = '256kB';
SELECT count(esrs_handle_command('cache_sum', id(i), '{"add": 1}')) FROM generate_series(2001, 4000) AS i;
SELECT sum(total_bytes) AS before FROM pg_backend_memory_contexts WHERE name IN ('esrs state cache', 'esrs states') OR parent = 'esrs state cache' \gset
SELECT count(esrs_handle_command('cache_sum', id(i), '{"add": 1}')) FROM generate_series(4001, 8000) AS i;
SELECT count(load(i)) FROM generate_series(2001, 8000) AS i;
SELECT sum(total_bytes) <= :before + 8192 AS does_not_grow FROM pg_backend_memory_contexts WHERE name IN ('esrs state cache', 'esrs states') OR parent = 'esrs state cache';
RESET esrs.state_cache_size;

--
-- In C: a struct, JSON that is changed in place, JSON that is made anew
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set testlib :abs_srcdir '/testlib/esrs_testlib'
CREATE FUNCTION c_applied() RETURNS bigint AS :'testlib', 'testlib_applied' LANGUAGE C;
CREATE FUNCTION counter(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_counter' LANGUAGE C;
CREATE FUNCTION tally(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_tally' LANGUAGE C;
CREATE FUNCTION journal(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_journal' LANGUAGE C;
SELECT esrs_register_aggregate('cache_counter', handler => 'counter(internal)');
SELECT esrs_register_aggregate('cache_tally', handler => 'tally(internal)');
SELECT esrs_register_aggregate('cache_journal', handler => 'journal(internal)');
CREATE FUNCTION c_command(aggregate text, command jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    before bigint := c_applied();
    r record;
BEGIN
    SELECT ok, sequence_number, state INTO r FROM esrs_try_command(aggregate, id(1), command);
    RETURN CASE WHEN NOT r.ok THEN 'rejected at ' ELSE '' END || shown(r.sequence_number, r.state, c_applied() - before);
END $$;
CREATE FUNCTION c_load(aggregate text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    before bigint := c_applied();
    r record;
BEGIN
    SELECT sequence_number, state INTO r FROM esrs_load(aggregate, id(1));
    RETURN format('%s: %s, %s applied', r.sequence_number, r.state, c_applied() - before);
END $$;
CREATE FUNCTION c_truth(aggregate text) RETURNS text LANGUAGE sql SET esrs.state_cache_size = 0 AS $$ SELECT c_load(aggregate) $$;
SELECT c_command('cache_counter', '{"Add": {"by": 1}}');
SELECT c_command('cache_counter', '{"Add": {"by": 2}}');
SELECT c_command('cache_counter', '{"Many": 5}');
-- rejected, and a fault after which nobody knows what the state is
SELECT c_command('cache_counter', '{"Add": {"by": -100}}');
SELECT c_load('cache_counter');
SELECT esrs_handle_command('cache_counter', id(1), '{"Add": {"by": -100}}');
SELECT c_load('cache_counter');
SELECT esrs_handle_command('cache_counter', id(1), '{"Add": {"by": 1}}', expected_sequence => 1);
SELECT c_load('cache_counter');
SELECT esrs_handle_command('cache_counter', id(1), '"Fault"');
SELECT c_load('cache_counter');
SELECT esrs_handle_command('cache_counter', id(1), '"Break"');
SELECT c_load('cache_counter');
SELECT c_load('cache_counter');
BEGIN;
SELECT c_command('cache_counter', '"Reset"');
ROLLBACK;
SELECT c_command('cache_counter', '"Nothing"');
SELECT c_command('cache_counter', '"Nothing"');
SELECT c_truth('cache_counter');
-- documents of calls that are over
SELECT c_command('cache_tally', '{"Emit": [{"A": {"deep": [1, {"x": "y"}]}}, "B"]}');
SELECT c_command('cache_tally', '{"Emit": [{"A": {"deep": [2]}}]}');
SELECT c_command('cache_tally', '{"Emit": []}');
SELECT c_command('cache_tally', '{"Emit": [{"C": {"big": 123456789012345678901234567890.10}}]}');
SELECT c_load('cache_tally');
SELECT c_truth('cache_tally');
SELECT c_command('cache_journal', '{"Emit": ["A", "B"]}');
SELECT c_command('cache_journal', '{"Emit": ["C"]}');
BEGIN;
SELECT c_command('cache_journal', '{"Emit": ["D"]}');
ROLLBACK;
SELECT c_load('cache_journal');
SELECT c_truth('cache_journal');
-- another routine behind the function
SELECT c_load('cache_tally');
CREATE OR REPLACE FUNCTION tally(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_journal' LANGUAGE C;
SELECT c_load('cache_tally');
SELECT esrs_alter_aggregate('cache_journal', '{"handler": "counter(internal)"}');
SELECT c_load('cache_journal');
-- memory of a struct counts as well
SET esrs.state_cache_size = '64kB';
SELECT c_command('cache_counter', '{"Pad": 1000}'), c_load('cache_counter');
SELECT c_command('cache_counter', '{"Pad": 100000}'), c_load('cache_counter');
SELECT bytes <= 64 * 1024 AS bounded FROM kept;
RESET esrs.state_cache_size;

SELECT esrs_unregister_aggregate(name, true) FROM unnest('{cache_sum,cache_free,cache_atomic,cache_store,cache_counter,cache_tally,cache_journal}'::text[]) AS name;
DROP SCHEMA state_cache, state_cache_1, state_cache_2, regress_esrs_cache CASCADE;
DROP ROLE regress_esrs_cache;
