--
-- Snapshots of instances in esrs.snapshots.
--
-- Nothing is kept in the session here, but where it says so; each line shows the
-- number of the instance, its state, and how many events were applied for it.
--
-- Catches: a snapshot that is written too often, never, or outside of the command's
-- transaction; that a load does not use, or uses though it is later than what was
-- asked for, was edited, or was made by other functions than those of now; that
-- survives its instance or its events; that can be forged by who may command; or
-- that somebody reads who may not.
--
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
CREATE SCHEMA snapshots;
SET search_path = snapshots, public;
SET esrs.state_cache_size = 0;

CREATE FUNCTION id(int) RETURNS uuid LANGUAGE sql AS $$ SELECT lpad($1::text, 32, '0')::uuid $$;
CREATE SEQUENCE applied;
SELECT nextval('applied');
CREATE FUNCTION step(int) RETURNS int LANGUAGE sql SET search_path = snapshots, pg_temp AS $$ SELECT $1 $$;
CREATE FUNCTION handle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE plpgsql SET search_path = snapshots, public, pg_temp AS $$
BEGIN
    IF command ? 'add' THEN
        RETURN ARRAY[jsonb_build_object('added', command -> 'add')];
    ELSIF command ? 'emit' THEN
        RETURN ARRAY(SELECT jsonb_array_elements(command -> 'emit'));
    END IF;
    RAISE 'no' USING ERRCODE = 'ZE001', CONSTRAINT = 'no';
END $$;
CREATE FUNCTION apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql SET search_path = snapshots, public, pg_temp AS $$
BEGIN
    PERFORM nextval('applied');
    IF event ? 'pad' THEN
        RETURN state || jsonb_build_object('pad', repeat('x', (event ->> 'pad')::int));
    END IF;
    RETURN state || jsonb_build_object('sum', (state ->> 'sum')::int + step((event ->> 'added')::int));
END $$;
SELECT esrs_register_aggregate('snap_sum', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)', initial_state => '{"sum": 0}', snapshot_every => 3);

-- the tester's
CREATE FUNCTION shown(number int, state jsonb, applied bigint) RETURNS text LANGUAGE sql AS
    $$ SELECT format('%s: %s, %s applied', number, state - 'pad', applied) $$;
CREATE FUNCTION command(command jsonb, instance int DEFAULT 1, aggregate text DEFAULT 'snap_sum') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    before bigint := (SELECT last_value FROM snapshots.applied);
    r record;
BEGIN
    SELECT ok, sequence_number, state INTO r FROM public.esrs_try_command(aggregate, snapshots.id(instance), command);
    RETURN CASE WHEN NOT r.ok THEN 'rejected at ' ELSE '' END ||
        snapshots.shown(r.sequence_number, r.state, (SELECT last_value FROM snapshots.applied) - before);
END $$;
CREATE FUNCTION add(n int, instance int DEFAULT 1, aggregate text DEFAULT 'snap_sum') RETURNS text LANGUAGE sql AS
    $$ SELECT snapshots.command(jsonb_build_object('add', n), instance, aggregate) $$;
CREATE FUNCTION load(instance int DEFAULT 1, aggregate text DEFAULT 'snap_sum', at_sequence int DEFAULT NULL, at_time timestamptz DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    before bigint := (SELECT last_value FROM snapshots.applied);
    r record;
BEGIN
    SELECT sequence_number, state INTO r FROM public.esrs_load(aggregate, snapshots.id(instance), at_sequence, at_time);
    RETURN snapshots.shown(r.sequence_number, r.state, (SELECT last_value FROM snapshots.applied) - before);
END $$;
-- the instance's snapshot
CREATE FUNCTION kept(instance int DEFAULT 1, aggregate text DEFAULT 'snap_sum') RETURNS text LANGUAGE sql AS
    $$ SELECT coalesce((SELECT format('kept %s: %s', sequence_number, state - 'pad') FROM esrs.snapshots AS s WHERE s.aggregate = $2 AND s.aggregate_id = snapshots.id($1)), 'nothing kept') $$;
CREATE FUNCTION sqlstate(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE statement;
    RETURN 'done';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE;
END $$;

--
-- When one is taken
--
SELECT i, add(i), kept() FROM generate_series(1, 7) AS i;
-- by a command with many events: the newest state
SELECT command('{"emit": [{"added": 1}, {"added": 1}, {"added": 1}, {"added": 1}]}'), kept();
SELECT command('{"emit": [{"added": 1}]}'), kept();
-- not by one without events, nor by one that is rejected
SELECT command('{"emit": []}'), command('{"no": 1}'), kept();
SELECT command('{"emit": []}', 2), kept(2);
-- by esrs_handle_commands
SELECT count(*) FROM esrs_handle_commands((SELECT array_agg(('snap_sum', id(2), '{"add": 1}', NULL, NULL, NULL)::esrs_command) FROM generate_series(1, 5) AS i));
SELECT kept(2);
-- not by who stores events otherwise, or reads; by the next command, which had much to read
SELECT count(*) FROM esrs_persist('snap_sum', id(3), ARRAY['{"added": 1}', '{"added": 1}', '{"added": 1}', '{"added": 1}']::jsonb[]);
SELECT load(3), kept(3);
SELECT sequence_number FROM esrs_lock_and_load('snap_sum', id(3));
SELECT esrs_decide('snap_sum', id(3), '{"add": 1}'), kept(3);
SELECT add(1, 3), kept(3);
-- with the state that is kept in the session nothing has to be read
SET esrs.state_cache_size = '1MB';
SELECT i, add(1, 4), kept(4) FROM generate_series(1, 7) AS i;
SET esrs.state_cache_size = 0;
-- each time
SELECT esrs_register_aggregate('snap_one', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)', initial_state => '{"sum": 0}', snapshot_every => 1);
SELECT i, add(1, 1, 'snap_one'), kept(1, 'snap_one') FROM generate_series(1, 3) AS i;
-- the same id in another aggregate is another instance
SELECT kept(), kept(1, 'snap_one');
SELECT name, snapshot_every FROM esrs_aggregates WHERE name LIKE 'snap%' ORDER BY name;

--
-- In the command's transaction, in the row's place
--
BEGIN;
SELECT add(100, 1, 'snap_one'), kept(1, 'snap_one');
SAVEPOINT s;
SELECT add(100, 1, 'snap_one'), kept(1, 'snap_one');
ROLLBACK TO s;
SELECT kept(1, 'snap_one');
ROLLBACK;
SELECT kept(1, 'snap_one');
SELECT sqlstate($$ DO $x$ BEGIN PERFORM snapshots.add(100, 1, 'snap_one'); RAISE division_by_zero; END $x$ $$), kept(1, 'snap_one');
SELECT load(1, 'snap_one');
\c -
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SET search_path = snapshots, public;
SET esrs.state_cache_size = 0;
BEGIN;
SELECT count(add(1, 1, 'snap_one')) FROM generate_series(1, 10);
SELECT pg_stat_get_xact_tuples_inserted(c) AS inserted, pg_stat_get_xact_tuples_updated(c) AS updated, pg_stat_get_xact_tuples_hot_updated(c) AS hot,
       pg_stat_get_xact_tuples_deleted(c) AS deleted FROM (SELECT 'esrs.snapshots'::regclass) AS x(c);
COMMIT;
SELECT kept(1, 'snap_one');

--
-- What it spares
--
SELECT load(), add(1), kept();
SELECT load();
SELECT sequence_number FROM esrs_lock_and_load('snap_sum', id(1));
-- in another session
\c -
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SET search_path = snapshots, public;
SELECT add(1);
SELECT add(1), kept();
\c -
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SET search_path = snapshots, public;
SELECT load();
SELECT load();
SET esrs.state_cache_size = 0;
-- in the past: where it is not later
SELECT n, load(at_sequence => n) FROM unnest('{0,1,14,15,16,99}'::int[]) AS n;
SELECT load(at_sequence => -1);
-- a command that was handled before
SELECT esrs_handle_command('snap_sum', id(5), '{"add": 1}', command_id => id(51));
SELECT esrs_handle_command('snap_sum', id(5), '{"add": 1}', command_id => id(5));
SELECT add(1, 5), add(1, 5), kept(5);
SELECT esrs_handle_command('snap_sum', id(5), '{"add": 1}', command_id => id(5));
SELECT kept(5);

-- by time; the clock went back once
INSERT INTO snap_sum_events (id, aggregate_id, payload, occurred_on, sequence_number)
SELECT id(60 + n), id(6), jsonb_build_object('added', n), timestamptz '2024-01-01 UTC' + day * interval '1 day', n
  FROM (VALUES (1, 1), (2, 9), (3, 3), (4, 12)) AS x(n, day);
SELECT day, load(6, at_time => timestamptz '2024-01-01 UTC' + day * interval '1 day') FROM unnest('{0,1,2,3,8,9,11,12,99}'::int[]) AS day;
CREATE TABLE before AS SELECT day, split_part(load(6, at_time => timestamptz '2024-01-01 UTC' + day * interval '1 day'), ',', 1) AS was FROM generate_series(0, 15) AS day;
-- with a snapshot of event 3, which is older than the event before it
INSERT INTO snap_sum_events (id, aggregate_id, payload, occurred_on, sequence_number)
SELECT id(70 + n), id(7), jsonb_build_object('added', n), timestamptz '2024-01-01 UTC' + day * interval '1 day', n
  FROM (VALUES (1, 1), (2, 9), (3, 3)) AS x(n, day);
SELECT esrs_alter_aggregate('snap_sum', '{"snapshots": "rebuild"}');
SELECT kept(7), occurred_on = '2024-01-10 UTC' AS latest FROM esrs.snapshots WHERE aggregate_id = id(7);
INSERT INTO snap_sum_events (id, aggregate_id, payload, occurred_on, sequence_number)
    VALUES (id(74), id(7), '{"added": 4}', '2024-01-13 UTC', 4);
SELECT day, load(7, at_time => timestamptz '2024-01-01 UTC' + day * interval '1 day') FROM unnest('{0,1,2,3,8,9,11,12,99}'::int[]) AS day;
SELECT count(*) FILTER (WHERE split_part(load(7, at_time => timestamptz '2024-01-01 UTC' + day * interval '1 day'), ',', 1) = was) FROM before;
SELECT load(7, 'snap_sum', 3, '2024-01-10 UTC'), load(7, 'snap_sum', 2, '2024-01-14 UTC'), load(7, 'snap_sum', 4, '2024-01-02 UTC');

--
-- Functions that count: after each change the snapshot is worthless, and the next
-- command replaces it
--
-- each line: the state by the snapshot that is there, and without it
CREATE FUNCTION right_after(change text, aggregate text DEFAULT 'snap_one', instance int DEFAULT 9) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    with_it jsonb;
    without jsonb;
    fresh boolean;
BEGIN
    EXECUTE change;
    SELECT state INTO with_it FROM esrs_load(aggregate, snapshots.id(instance));
    -- a command has it replaced
    PERFORM esrs_handle_command(aggregate, snapshots.id(instance), '{"add": 1}');
    SELECT state INTO without FROM esrs_load(aggregate, snapshots.id(instance));
    SELECT count(*) = 0 INTO fresh FROM esrs_verify(aggregate) AS v WHERE v.aggregate_id = snapshots.id(instance);
    RETURN concat_ws(', ', with_it, without, CASE WHEN fresh THEN 'right' ELSE 'WRONG' END);
END $$;
SELECT add(1, 9, 'snap_one');
SELECT right_after('SELECT 1');
-- apply_event, what it calls, and what that calls
CREATE OR REPLACE FUNCTION apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql SET search_path = snapshots, public, pg_temp AS $$
BEGIN
    PERFORM nextval('applied');
    IF event ? 'pad' THEN
        RETURN state || jsonb_build_object('pad', repeat('x', (event ->> 'pad')::int));
    END IF;
    RETURN state || jsonb_build_object('sum', (state ->> 'sum')::int + STEP((event ->> 'added')::int) * 2);
END $$;
SELECT load(9, 'snap_one'), add(1, 9, 'snap_one'), load(9, 'snap_one');
SELECT right_after($$ CREATE OR REPLACE FUNCTION step(int) RETURNS int LANGUAGE sql SET search_path = snapshots, pg_temp AS 'SELECT $1 * 10' $$);
SELECT right_after($$ CREATE FUNCTION inner_step(int) RETURNS int LANGUAGE sql SET search_path = snapshots, pg_temp AS 'SELECT $1 * 3';
                      CREATE OR REPLACE FUNCTION step(int) RETURNS int LANGUAGE plpgsql SET search_path = snapshots, pg_temp AS 'BEGIN RETURN inner_step($1); END' $$);
SELECT right_after($$ CREATE OR REPLACE FUNCTION inner_step(int) RETURNS int LANGUAGE sql SET search_path = snapshots, pg_temp AS 'SELECT $1 * 4' $$);
-- the same name with other arguments, or further to the front
SELECT right_after($$ CREATE FUNCTION inner_step(bigint) RETURNS int LANGUAGE sql SET search_path = snapshots, pg_temp AS 'SELECT 5' $$);
SELECT right_after($$ DROP FUNCTION inner_step(int) $$);
-- names in quotes, of their own kinds
CREATE FUNCTION "Quoted ""Step"""(int) RETURNS int LANGUAGE sql SET search_path = snapshots, pg_temp AS 'SELECT $1';
CREATE FUNCTION "Größe 2"(int) RETURNS int LANGUAGE sql SET search_path = snapshots, pg_temp AS 'SELECT $1';
CREATE FUNCTION a_name_that_has_just_as_many_letters_as_postgres_allows_which_i(int) RETURNS int LANGUAGE sql SET search_path = snapshots, pg_temp AS 'SELECT $1';
SELECT right_after($$ CREATE OR REPLACE FUNCTION step(int) RETURNS int LANGUAGE plpgsql SET search_path = snapshots, pg_temp AS 'BEGIN -- a comment with one "
    RETURN "Quoted ""Step"""($1) + "Größe 2"($1) + a_name_that_has_just_as_many_letters_as_postgres_allows_which_is_63($1); END' $$);
SELECT right_after($$ CREATE OR REPLACE FUNCTION "Größe 2"(int) RETURNS int LANGUAGE sql SET search_path = snapshots, pg_temp AS 'SELECT $1 * 2' $$);
SELECT right_after($$ CREATE OR REPLACE FUNCTION "Quoted ""Step"""(int) RETURNS int LANGUAGE sql SET search_path = snapshots, pg_temp AS 'SELECT $1 * 2' $$);
SELECT right_after($$ CREATE OR REPLACE FUNCTION a_name_that_has_just_as_many_letters_as_postgres_allows_which_i(int) RETURNS int LANGUAGE sql SET search_path = snapshots, pg_temp AS 'SELECT $1 * 2' $$);
-- a default of an argument
SELECT right_after($$ CREATE FUNCTION by_default(n int, by int DEFAULT 1) RETURNS int LANGUAGE sql SET search_path = snapshots, pg_temp AS 'SELECT $1 * $2';
                      CREATE OR REPLACE FUNCTION step(int) RETURNS int LANGUAGE plpgsql SET search_path = snapshots, pg_temp AS 'BEGIN RETURN by_default($1); END' $$);
SELECT right_after($$ CREATE OR REPLACE FUNCTION by_default(n int, by int DEFAULT 7) RETURNS int LANGUAGE sql SET search_path = snapshots, pg_temp AS 'SELECT $1 * $2' $$);
-- settings of a function
SELECT right_after($$ CREATE OR REPLACE FUNCTION step(int) RETURNS int LANGUAGE plpgsql SET search_path = snapshots, pg_temp AS $x$ BEGIN RETURN length(1.0::float8::text || float8 '0.1'::text) * $1; END $x$ $$);
SELECT right_after($$ ALTER FUNCTION step(int) SET extra_float_digits = -15 $$);
-- one that reads itself
SELECT right_after($$ CREATE OR REPLACE FUNCTION step(int) RETURNS int LANGUAGE plpgsql SET search_path = snapshots, pg_temp AS 'BEGIN RETURN CASE WHEN $1 > 1 THEN step($1 - 1) ELSE 1 END; END' $$);
-- an aggregate of functions
CREATE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '0');
SELECT right_after($$ CREATE OR REPLACE FUNCTION step(int) RETURNS int LANGUAGE plpgsql SET search_path = snapshots, pg_temp AS 'BEGIN RETURN (SELECT total(x) FROM unnest(ARRAY[$1]) AS x); END' $$);
SELECT right_after($$ CREATE OR REPLACE AGGREGATE total(int) (SFUNC = int4pl, STYPE = int, INITCOND = '100') $$);
SELECT right_after($$ CREATE OR REPLACE AGGREGATE total(int) (SFUNC = int4mi, STYPE = int, INITCOND = '100') $$);
-- a schema that comes into the path of a function
CREATE SCHEMA snapshots_later;
CREATE FUNCTION snapshots_later.coming(int) RETURNS int LANGUAGE sql AS 'SELECT $1 * 1000';
CREATE FUNCTION coming(int) RETURNS int LANGUAGE sql AS 'SELECT $1';
SELECT right_after($$ CREATE OR REPLACE FUNCTION step(int) RETURNS int LANGUAGE plpgsql SET search_path = snapshots_first, snapshots, pg_temp AS 'BEGIN RETURN coming($1); END' $$);
SELECT right_after($$ ALTER SCHEMA snapshots_later RENAME TO snapshots_first $$);
-- what does not change it leaves the snapshots as they are
SELECT add(1, 9, 'snap_one');
CREATE FUNCTION unrelated() RETURNS int LANGUAGE sql AS 'SELECT 1';
SELECT load(9, 'snap_one');
CREATE OR REPLACE FUNCTION handle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE plpgsql SET search_path = snapshots, public, pg_temp AS $$
BEGIN
    IF command ? 'add' THEN
        RETURN ARRAY[jsonb_build_object('added', command -> 'add')];
    ELSIF command ? 'emit' THEN
        RETURN ARRAY(SELECT jsonb_array_elements(command -> 'emit'));
    END IF;
    RAISE 'another no' USING ERRCODE = 'ZE001', CONSTRAINT = 'no';
END $$;
SELECT load(9, 'snap_one');
SELECT esrs_alter_aggregate('snap_one', '{"notify": "off", "snapshot_every": 2}');
SELECT load(9, 'snap_one');
SELECT esrs_alter_aggregate('snap_one', '{"notify": null, "snapshot_every": 1}');
SELECT right_after($$ CREATE OR REPLACE FUNCTION step(int) RETURNS int LANGUAGE sql SET search_path = snapshots, pg_temp AS 'SELECT $1' $$);
-- one that is changed back makes the old snapshots good again: they are right
CREATE OR REPLACE FUNCTION step(int) RETURNS int LANGUAGE sql SET search_path = snapshots, pg_temp AS 'SELECT $1 * 3';
SELECT load(9, 'snap_one');
CREATE OR REPLACE FUNCTION step(int) RETURNS int LANGUAGE sql SET search_path = snapshots, pg_temp AS 'SELECT $1';
SELECT load(9, 'snap_one');
SELECT DISTINCT length(fingerprint) FROM esrs.snapshots;
-- in one transaction: the old code, the new, the old
BEGIN;
SELECT add(1, 9, 'snap_one');
CREATE OR REPLACE FUNCTION step(int) RETURNS int LANGUAGE sql SET search_path = snapshots, pg_temp AS 'SELECT $1 * 9';
SELECT load(9, 'snap_one');
SELECT add(1, 9, 'snap_one'), kept(9, 'snap_one');
SELECT load(9, 'snap_one');
ROLLBACK;
SELECT load(9, 'snap_one');

-- a body that was parsed when it was created: by its dependencies
CREATE FUNCTION factor() RETURNS int LANGUAGE sql IMMUTABLE RETURN 1;
CREATE FUNCTION plus(a jsonb, b jsonb) RETURNS jsonb LANGUAGE plpgsql SET search_path = snapshots, pg_temp AS $$
BEGIN
    RETURN jsonb_build_object('sum', (a ->> 'sum')::int + (b ->> 'added')::int);
END $$;
CREATE OPERATOR <+> (FUNCTION = plus, LEFTARG = jsonb, RIGHTARG = jsonb);
CREATE FUNCTION apply_atomic(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql
BEGIN ATOMIC
    SELECT nextval('applied');
    SELECT state <+> jsonb_build_object('added', (event ->> 'added')::int * factor());
END;
SELECT esrs_register_aggregate('snap_atomic', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply_atomic(jsonb,jsonb)', initial_state => '{"sum": 0}', snapshot_every => 1);
SELECT add(1, 9, 'snap_atomic'), load(9, 'snap_atomic');
SELECT right_after($$ CREATE OR REPLACE FUNCTION factor() RETURNS int LANGUAGE sql IMMUTABLE RETURN 5 $$, 'snap_atomic');
SELECT right_after($$ CREATE OR REPLACE FUNCTION plus(a jsonb, b jsonb) RETURNS jsonb LANGUAGE sql RETURN jsonb_build_object('sum', (a ->> 'sum')::int - (b ->> 'added')::int) $$, 'snap_atomic');
-- and not by the names in it: a stranger of the name does not matter
CREATE FUNCTION snapshots_first.factor() RETURNS int LANGUAGE sql AS 'SELECT 77';
SELECT load(9, 'snap_atomic');

--
-- Options that count
--
SELECT add(1, 9, 'snap_one'), load(9, 'snap_one');
SELECT right_after($$ SELECT esrs_alter_aggregate('snap_one', '{"initial_state": {"sum": 1000}}') $$);
CREATE FUNCTION upcast(payload jsonb, version int) RETURNS jsonb LANGUAGE sql SET search_path = snapshots, pg_temp AS
    $$ SELECT CASE WHEN version IS NULL THEN jsonb_build_object('added', 7) ELSE payload END $$;
SELECT right_after($$ SELECT esrs_alter_aggregate('snap_one', '{"upcast": "upcast(jsonb,int)", "event_version": 1}') $$);
SELECT right_after($$ CREATE OR REPLACE FUNCTION upcast(payload jsonb, version int) RETURNS jsonb LANGUAGE sql SET search_path = snapshots, pg_temp AS
    'SELECT CASE WHEN version IS NOT NULL THEN payload END' $$);
SELECT kept(9, 'snap_one') LIKE 'kept %' AS kept, load(9, 'snap_one') LIKE '%, 0 applied' AS used;
SELECT esrs_alter_aggregate('snap_one', '{"event_version": 2}');
SELECT load(9, 'snap_one') LIKE '%, 0 applied' AS used;
SELECT right_after($$ SELECT esrs_alter_aggregate('snap_one', '{"upcast": null, "event_version": null, "initial_state": {"sum": 0}}') $$);
CREATE FUNCTION stored(event jsonb) RETURNS jsonb LANGUAGE sql SET search_path = snapshots, pg_temp AS $$ SELECT event $$;
CREATE FUNCTION present(payload jsonb) RETURNS jsonb LANGUAGE sql SET search_path = snapshots, pg_temp AS $$ SELECT CASE payload WHEN '{"added": 8}' THEN NULL ELSE payload END $$;
SELECT add(8, 9, 'snap_one'), load(9, 'snap_one');
SELECT right_after($$ SELECT esrs_alter_aggregate('snap_one', '{"from_event": "stored(jsonb)", "to_event": "present(jsonb)"}') $$);
SELECT right_after($$ SELECT esrs_alter_aggregate('snap_one', '{"from_event": null, "to_event": null}') $$);
CREATE FUNCTION apply_minus(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql
    RETURN jsonb_build_object('sum', (state ->> 'sum')::int - (event ->> 'added')::int);
SELECT right_after($$ SELECT esrs_alter_aggregate('snap_one', '{"apply_event": "apply_minus(jsonb,jsonb)"}') $$);
SELECT right_after($$ SELECT esrs_alter_aggregate('snap_one', '{"apply_event": "apply(jsonb,jsonb)"}') $$);

--
-- Events that are removed or changed
--
-- esrs_delete takes it along, and another instance of the id has one of its own
SELECT add(1, 10, 'snap_one'), add(1, 10, 'snap_one'), kept(10, 'snap_one');
BEGIN;
SELECT esrs_delete('snap_one', id(10)), kept(10, 'snap_one');
ROLLBACK;
SELECT kept(10, 'snap_one');
SELECT esrs_delete('snap_one', id(10)), kept(10, 'snap_one');
SELECT load(10, 'snap_one');
SELECT add(10, 10, 'snap_one'), kept(10, 'snap_one');
SELECT load(10, 'snap_one');
SELECT esrs_delete('snap_one', id(10), permanent => true), kept(10, 'snap_one');
SELECT esrs_delete('snap_one', id(11), permanent => true), kept(11, 'snap_one');
-- where history can be changed there are none
SELECT add(1, 12, 'snap_one'), add(2, 12, 'snap_one'), kept(12, 'snap_one');
BEGIN;
ALTER TABLE snap_one_events DISABLE TRIGGER esrs_append_only;
SELECT load(12, 'snap_one'), add(1, 12, 'snap_one'), kept(12, 'snap_one');
ROLLBACK;
SELECT load(12, 'snap_one');
ALTER TABLE snap_one_events DISABLE TRIGGER esrs_append_only;
UPDATE snap_one_events SET payload = '{"added": 100}' WHERE aggregate_id = id(12) AND sequence_number = 1;
ALTER TABLE snap_one_events ENABLE ALWAYS TRIGGER esrs_append_only;
SELECT load(12, 'snap_one');
SELECT add(1, 12, 'snap_one'), load(12, 'snap_one');
SET client_min_messages = notice;
SELECT esrs_alter_aggregate('snap_one', '{"append_only": false}');
SET client_min_messages = warning;
SELECT count(*) FROM esrs.snapshots WHERE aggregate = 'snap_one';
SELECT add(1, 12, 'snap_one'), kept(12, 'snap_one');
SELECT sqlstate($$ SELECT esrs_alter_aggregate('snap_one', '{"snapshots": "rebuild"}') $$);
UPDATE snap_one_events SET payload = '{"added": 200}' WHERE aggregate_id = id(12) AND sequence_number = 1;
SELECT esrs_alter_aggregate('snap_one', '{"append_only": true}');
SELECT load(12, 'snap_one'), add(1, 12, 'snap_one'), kept(12, 'snap_one');
SELECT load(12, 'snap_one');
ALTER TABLE snap_one_events ALTER COLUMN payload TYPE jsonb USING jsonb_build_object('added', (payload ->> 'added')::int * 1000);
SELECT load(12, 'snap_one');
SELECT count(*) FROM esrs_verify('snap_one');
-- TRUNCATE on purpose
BEGIN;
SELECT esrs_alter_aggregate('snap_one', '{"append_only": false}');
TRUNCATE snap_one_events;
SELECT esrs_alter_aggregate('snap_one', '{"append_only": true}');
COMMIT;
SELECT load(12, 'snap_one'), kept(12, 'snap_one');

--
-- Edited by hand: not used, and esrs_verify() says so
--
SELECT count(add(1, i, 'snap_one')) FROM generate_series(20, 28) AS i, generate_series(1, 2);
SELECT DISTINCT load(i, 'snap_one') FROM generate_series(20, 28) AS i;
-- that of another instance
DELETE FROM esrs.snapshots WHERE aggregate = 'snap_one' AND aggregate_id = id(28);
INSERT INTO esrs.snapshots SELECT (jsonb_populate_record(s, jsonb_build_object('aggregate_id', id(28)))).* FROM esrs.snapshots AS s WHERE aggregate = 'snap_one' AND aggregate_id = id(20);
UPDATE esrs.snapshots SET state = '{"sum": 100}' WHERE aggregate = 'snap_one' AND aggregate_id = id(20);
UPDATE esrs.snapshots SET sequence_number = 1 WHERE aggregate = 'snap_one' AND aggregate_id = id(21);
UPDATE esrs.snapshots SET event_id = (SELECT id FROM snap_one_events WHERE aggregate_id = id(22) AND sequence_number = 1) WHERE aggregate = 'snap_one' AND aggregate_id = id(22);
UPDATE esrs.snapshots SET fingerprint = sha256('') WHERE aggregate = 'snap_one' AND aggregate_id = id(23);
UPDATE esrs.snapshots SET fingerprint = 'short' WHERE aggregate = 'snap_one' AND aggregate_id = id(24);
UPDATE esrs.snapshots SET occurred_on = occurred_on - interval '1 day' WHERE aggregate = 'snap_one' AND aggregate_id = id(25);
UPDATE esrs.snapshots SET checksum = checksum + 1 WHERE aggregate = 'snap_one' AND aggregate_id = id(26);
UPDATE esrs.snapshots SET position = position + 1 WHERE aggregate = 'snap_one' AND aggregate_id = id(27);
SELECT i, load(i, 'snap_one') FROM generate_series(20, 28) AS i;
SET client_min_messages = notice;
SELECT severity, aggregate_id, sequence_number, problem, hint FROM esrs_verify('snap_one');
SET client_min_messages = warning;
-- the next command replaces it
SELECT i, add(1, i, 'snap_one'), load(i, 'snap_one') FROM generate_series(20, 28) AS i;
SELECT count(*) FROM esrs_verify('snap_one');
-- one whose instance is gone by other means than esrs_delete()
INSERT INTO esrs.snapshots SELECT (jsonb_populate_record(s, jsonb_build_object('aggregate_id', id(29)))).* FROM esrs.snapshots AS s WHERE aggregate = 'snap_one' AND aggregate_id = id(20);
SELECT load(29, 'snap_one');
SELECT severity, aggregate_id, sequence_number, problem FROM esrs_verify('snap_one');
SELECT add(1, 29, 'snap_one'), load(29, 'snap_one');
SELECT count(*) FROM esrs_verify('snap_one');

--
-- Options
--
SET client_min_messages = notice;
SELECT esrs_alter_aggregate('snap_one', '{"snapshots": "drop"}');
SELECT count(*) FROM esrs.snapshots WHERE aggregate = 'snap_one';
SELECT add(1, 20, 'snap_one'), kept(20, 'snap_one');
SELECT esrs_alter_aggregate('snap_one', '{"snapshots": "rebuild"}');
SELECT DISTINCT load(i, 'snap_one') FROM generate_series(20, 27) AS i;
SELECT esrs_alter_aggregate('snap_one', '{"snapshots": "drop", "snapshot_every": 4}');
SELECT count(*) FROM esrs.snapshots WHERE aggregate = 'snap_one';
SELECT snapshot_every FROM esrs_aggregates WHERE name = 'snap_one';
-- short instances need none
SELECT esrs_alter_aggregate('snap_one', '{"snapshots": "rebuild"}');
SELECT string_agg(aggregate_id::text, ' ') FROM esrs.snapshots WHERE aggregate = 'snap_one';
CREATE FUNCTION apply_ten(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql
    RETURN jsonb_build_object('sum', (state ->> 'sum')::int + 10 * (event ->> 'added')::int);
SELECT esrs_alter_aggregate('snap_one', '{"snapshots": "rebuild", "snapshot_every": 2, "apply_event": "apply_ten(jsonb,jsonb)"}');
SELECT kept(20, 'snap_one'), load(20, 'snap_one');
BEGIN;
SELECT esrs_alter_aggregate('snap_one', '{"snapshots": "drop"}');
ROLLBACK;
SELECT count(*) FROM esrs.snapshots WHERE aggregate = 'snap_one';
-- rebuilt in a transaction that has made events
BEGIN;
SELECT add(1, 20, 'snap_one');
SELECT esrs_alter_aggregate('snap_one', '{"snapshots": "rebuild"}');
SELECT kept(20, 'snap_one');
ROLLBACK;
SELECT kept(20, 'snap_one'), load(20, 'snap_one');
-- off: none is left, and none is taken
SELECT esrs_alter_aggregate('snap_one', '{"snapshot_every": null}');
SELECT count(*) FROM esrs.snapshots WHERE aggregate = 'snap_one';
SELECT add(1, 20, 'snap_one'), add(1, 20, 'snap_one'), kept(20, 'snap_one');
SELECT esrs_alter_aggregate('snap_one', '{"snapshots": "rebuild"}');
\echo :LAST_ERROR_SQLSTATE
SELECT esrs_alter_aggregate('snap_one', '{"snapshots": "drop"}');
SELECT esrs_alter_aggregate('snap_one', '{"snapshot_every": 2, "snapshots": "rebuild"}');
SELECT kept(20, 'snap_one');
SELECT sqlstate(format('SELECT esrs_alter_aggregate(%L, %L)', 'snap_one', o)), o FROM unnest(ARRAY['{"snapshots": "take"}', '{"snapshots": null}', '{"snapshots": true}',
    '{"snapshot_every": 0}', '{"snapshot_every": -1}', '{"snapshot_every": 1.5}', '{"snapshot_every": "2"}', '{"snapshot_every": 2147483648}']) AS o;
SELECT esrs_alter_aggregate('snap_one', '{"snapshot_every": 2147483647}');
SELECT add(1, 20, 'snap_one'), kept(20, 'snap_one');
SELECT esrs_alter_aggregate('no_such', '{"snapshots": "drop"}');
-- a registration with append_only false says that there will be none
SELECT esrs_register_aggregate('snap_open', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply_ten(jsonb,jsonb)', initial_state => '{"sum": 0}', snapshot_every => 1, append_only => false);
SELECT add(1, 1, 'snap_open'), kept(1, 'snap_open');
SELECT esrs_alter_aggregate('snap_open', '{"append_only": true}');
SELECT add(1, 1, 'snap_open'), kept(1, 'snap_open');
SET client_min_messages = warning;
-- unregistered, and registered again over the same events
SELECT esrs_unregister_aggregate('snap_open');
SELECT count(*) FROM esrs.snapshots WHERE aggregate = 'snap_open';
UPDATE snap_open_events SET payload = '{"added": 5}';
SELECT esrs_register_aggregate('snap_open', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply_ten(jsonb,jsonb)', initial_state => '{"sum": 0}', snapshot_every => 1);
SELECT load(1, 'snap_open'), add(1, 1, 'snap_open'), kept(1, 'snap_open');
DROP TABLE snap_open_events;
SELECT esrs_unregister_aggregate('snap_open');
SELECT count(*) FROM esrs.snapshots WHERE aggregate = 'snap_open';

--
-- What cannot have any
--
SELECT esrs_register_aggregate('snap_bad', snapshot_every => 1);
\echo :LAST_ERROR_SQLSTATE
SELECT esrs_register_aggregate('snap_bad', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)', snapshot_every => 0);
\echo :LAST_ERROR_SQLSTATE
CREATE FUNCTION apply_free(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT state $$;
SELECT esrs_register_aggregate('snap_bad', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply_free(jsonb,jsonb)', snapshot_every => 1);
\echo :LAST_ERROR_SQLSTATE
CREATE FUNCTION upcast_free(payload jsonb, version int) RETURNS jsonb LANGUAGE sql AS $$ SELECT payload $$;
CREATE FUNCTION to_free(payload jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT payload $$;
SELECT esrs_register_aggregate('snap_bad', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)', upcast => 'upcast_free(jsonb,int)', event_version => 1, snapshot_every => 1);
SELECT esrs_register_aggregate('snap_bad', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)', from_event => 'to_free(jsonb)', to_event => 'to_free(jsonb)', snapshot_every => 1);
-- without snapshots it is taken; then they cannot be switched on, until the function is bound
SELECT esrs_register_aggregate('snap_free', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply_free(jsonb,jsonb)');
SELECT esrs_alter_aggregate('snap_free', '{"snapshot_every": 1}');
ALTER FUNCTION apply_free SET search_path = snapshots, pg_temp;
SELECT esrs_alter_aggregate('snap_free', '{"snapshot_every": 1}');
SELECT add(1, 1, 'snap_free'), kept(1, 'snap_free');
SELECT esrs_alter_aggregate('snap_free', '{"upcast": "upcast_free(jsonb,int)", "event_version": 1}');
-- and when it is set free there are no more
ALTER FUNCTION apply_free RESET search_path;
SELECT add(1, 1, 'snap_free'), kept(1, 'snap_free');
SELECT esrs_alter_aggregate('snap_free', '{"snapshots": "rebuild"}');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM esrs_verify('snap_free');

--
-- What means the same for everybody: who may command cannot forge a snapshot
--
-- bound to a path in which the caller has a part
ALTER FUNCTION apply_free SET search_path = "$user", snapshots, pg_temp;
SELECT sqlstate($$ SELECT esrs_alter_aggregate('snap_free', '{"snapshot_every": 2}') $$);
-- types of his come first where pg_temp is not named
ALTER FUNCTION apply_free SET search_path = snapshots;
SELECT sqlstate($$ SELECT esrs_alter_aggregate('snap_free', '{"snapshot_every": 2}') $$);
ALTER FUNCTION apply_free SET search_path = '';
SELECT sqlstate($$ SELECT esrs_alter_aggregate('snap_free', '{"snapshot_every": 2}') $$);
-- a body that was parsed, and calls what is not bound
CREATE FUNCTION free_factor() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN rate(); END $$;
CREATE FUNCTION rate() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION apply_half(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql
    RETURN jsonb_build_object('sum', (state ->> 'sum')::int + (event ->> 'added')::int * free_factor());
SELECT sqlstate($$ SELECT esrs_register_aggregate('snap_half', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply_half(jsonb,jsonb)', initial_state => '{"sum": 0}', snapshot_every => 1) $$);
-- one that becomes so later
ALTER FUNCTION free_factor SET search_path = snapshots, pg_temp;
SELECT count(esrs_register_aggregate('snap_half', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply_half(jsonb,jsonb)', initial_state => '{"sum": 0}', snapshot_every => 1, if_not_exists => true));
SELECT add(1, 1, 'snap_half'), kept(1, 'snap_half');
ALTER FUNCTION free_factor RESET search_path;
CREATE ROLE regress_esrs_snap;
GRANT USAGE ON SCHEMA snapshots TO regress_esrs_snap;
GRANT EXECUTE ON FUNCTION handle TO regress_esrs_snap;
GRANT ALL ON SEQUENCE applied TO regress_esrs_snap;
CREATE SCHEMA snapshots_forged AUTHORIZATION regress_esrs_snap;
SET ROLE regress_esrs_snap;
CREATE FUNCTION snapshots_forged.rate() RETURNS int LANGUAGE sql AS $$ SELECT 1000 $$;
SET search_path = snapshots_forged, snapshots, public;
SELECT split_part(add(1, 2, 'snap_half'), ',', 1);
RESET ROLE;
SET search_path = snapshots, public;
SELECT load(2, 'snap_half');

--
-- Rights
--
SET ROLE regress_esrs_snap;
SELECT count(*) FROM esrs.snapshots;
\echo :LAST_ERROR_SQLSTATE
SELECT load();
\echo :LAST_ERROR_SQLSTATE
SELECT esrs_alter_aggregate('snap_sum', '{"snapshots": "drop"}');
\echo :LAST_ERROR_SQLSTATE
SELECT esrs_verify('snap_sum');
\echo :LAST_ERROR_SQLSTATE
-- who may command writes them; who may read uses them
SELECT add(1, 30) , add(1, 30), add(1, 30);
RESET ROLE;
SELECT kept(30);
GRANT SELECT ON snap_sum_events TO regress_esrs_snap;
SET ROLE regress_esrs_snap;
SELECT load(30);
RESET ROLE;
-- but not where row security applies to him
ALTER TABLE snap_sum_events ENABLE ROW LEVEL SECURITY;
CREATE POLICY even ON snap_sum_events TO regress_esrs_snap USING (sequence_number % 2 = 1);
SET ROLE regress_esrs_snap;
SELECT load(30);
SELECT add(1, 30);
RESET ROLE;
SELECT kept(30), load(30);
-- the owner of the table needs no right on the catalog
ALTER TABLE snap_sum_events DISABLE ROW LEVEL SECURITY;
GRANT CREATE ON SCHEMA snapshots TO regress_esrs_snap;
ALTER TABLE snap_sum_events OWNER TO regress_esrs_snap;
GRANT ALL ON ALL FUNCTIONS IN SCHEMA snapshots TO regress_esrs_snap;
GRANT EXECUTE ON FUNCTION esrs_alter_aggregate TO regress_esrs_snap;
SET ROLE regress_esrs_snap;
SELECT add(1, 30), load(30);
SET client_min_messages = notice;
SELECT esrs_alter_aggregate('snap_sum', '{"snapshots": "rebuild"}');
SELECT count(*) FROM esrs_verify('snap_sum');
SET client_min_messages = warning;
RESET ROLE;
REVOKE EXECUTE ON FUNCTION esrs_alter_aggregate FROM regress_esrs_snap;

--
-- A state that is too large
--
SHOW esrs.max_payload_size;
SELECT command('{"emit": [{"pad": 100}, {"added": 1}, {"added": 1}]}', 40), kept(40), load(40);
SET esrs.max_payload_size = '64kB';
SELECT command('{"emit": [{"pad": 65000}, {"added": 1}, {"added": 1}]}', 40), kept(40), load(40);
SELECT command('{"emit": [{"pad": 66000}, {"added": 1}, {"added": 1}]}', 40), kept(40), load(40);
-- one that was taken when more was allowed is not read
RESET esrs.max_payload_size;
SELECT command('{"emit": [{"pad": 2000000}, {"added": 1}, {"added": 1}]}', 40), kept(40), load(40);
SET esrs.max_payload_size = '64kB';
SELECT load(40);
RESET esrs.max_payload_size;
SELECT count(*) FROM esrs_verify('snap_sum');

SELECT esrs_unregister_aggregate(name, true) FROM unnest('{snap_sum,snap_one,snap_atomic,snap_free,snap_half}'::text[]) AS name;
SELECT count(*) FROM esrs.snapshots;
DROP SCHEMA snapshots, snapshots_first, snapshots_forged CASCADE;
DROP ROLE regress_esrs_snap;
