--
-- esrs_verify: is what is stored what it must be?
--
-- Catches: damage that is not found, found in the wrong place, or found more than once;
-- an alarm where everything is as it should be; a check that ends at the first
-- instance that cannot be folded; one that changes something, or is run by somebody who does not see
-- everything.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_esrs_owner;
CREATE ROLE regress_esrs_reader;
CREATE SCHEMA esrs_verify;
GRANT USAGE ON SCHEMA esrs_verify TO PUBLIC;
SET search_path = esrs_verify, public;
\pset null (null)
\getenv abs_srcdir PG_ABS_SRCDIR
\set testlib :abs_srcdir '/testlib/esrs_testlib'

CREATE FUNCTION try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text; code text; message text; detail text; hint text;
BEGIN
    EXECUTE statement INTO result;
    RETURN coalesce(nullif(result, ''), 'ok');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
        detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(E'\n', code || ': ' || message, '  DETAIL: ' || nullif(detail, ''),
                     '  HINT: ' || nullif(hint, ''));
END $$;
CREATE FUNCTION id(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS
    $$SELECT ('4e21f000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid$$;
CREATE FUNCTION n(id uuid) RETURNS int LANGUAGE sql IMMUTABLE AS $$SELECT right(id::text, 12)::int$$;
-- rows are told in the order in which they are found
CREATE FUNCTION findings(name text) RETURNS TABLE (severity text, n int, sequence_number int, problem text, hint text) LANGUAGE sql AS
    $$SELECT v.severity, n(v.aggregate_id), v.sequence_number, regexp_replace(regexp_replace(v.problem, 'position \d+(.*), \d+$', 'position P\1, Q'), 'position \d+ is that', 'position P is that'), v.hint FROM esrs_verify(name) AS v$$;

CREATE FUNCTION handle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE plpgsql SET search_path = esrs_verify, pg_temp AS $$
BEGIN
    IF command ? 'nothing' THEN RETURN '{}'; END IF;
    IF command ? 'refuse' THEN RAISE 'no' USING ERRCODE = 'ZE001', CONSTRAINT = 'no'; END IF;
    IF command ? 'many' THEN RETURN ARRAY(SELECT jsonb_build_object('n', i) FROM generate_series(1, (command ->> 'many')::int) AS i); END IF;
    RETURN ARRAY[command];
END $$;
CREATE FUNCTION apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    RETURN jsonb_build_object('sum', coalesce((state ->> 'sum')::int, 0) + (event ->> 'n')::int);
CREATE FUNCTION upcast(payload jsonb, version int) RETURNS jsonb LANGUAGE sql IMMUTABLE
    RETURN CASE WHEN payload ? 'old' THEN NULL ELSE payload END;

-- ------------------------------------------------------------------------
-- All is well
-- ------------------------------------------------------------------------
SELECT esrs_register_aggregate('vf', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)');
SET client_min_messages = notice;
-- nothing there
SELECT * FROM esrs_verify('vf');
SELECT esrs_handle_command('vf', id(1), '{"n": 1}');
SELECT * FROM esrs_verify('vf');
SET client_min_messages = warning;
SELECT esrs_handle_command('vf', id(1), '{"many": 3}');
SELECT count(*) FROM esrs_persist('vf', id(2), ARRAY['{"n": 1}', '{"n": 2}']::jsonb[]);
-- rolled back, wholly and in part
BEGIN;
SELECT esrs_handle_command('vf', id(1), '{"n": 1}', command_id => id(1001));
ROLLBACK;
BEGIN;
SELECT esrs_handle_command('vf', id(3), '{"n": 1}');
SAVEPOINT s;
SELECT esrs_handle_command('vf', id(3), '{"n": 2}', command_id => id(1002));
ROLLBACK TO s;
SELECT esrs_handle_command('vf', id(3), '{"n": 3}');
COMMIT;
-- deleted, begun anew, deleted for good
SELECT esrs_handle_command('vf', id(4), '{"many": 5}', command_id => id(1003));
SELECT esrs_delete('vf', id(4));
SELECT esrs_handle_command('vf', id(4), '{"n": 1}');
SELECT esrs_handle_command('vf', id(5), '{"many": 5}', command_id => id(1004));
SELECT esrs_delete('vf', id(5));
SELECT esrs_handle_command('vf', id(6), '{"many": 5}', command_id => id(1005));
SELECT esrs_delete('vf', id(6), permanent => true);
SELECT esrs_delete('vf', id(7), permanent => true);
-- commands without events: on an instance that is there, that is not there, that comes later; once more; rejected
SELECT esrs_handle_command('vf', id(1), '{"nothing": 1}', command_id => id(1006));
SELECT esrs_handle_command('vf', id(8), '{"nothing": 1}', command_id => id(1007));
SELECT esrs_handle_command('vf', id(9), '{"nothing": 1}', command_id => id(1008));
SELECT esrs_handle_command('vf', id(9), '{"n": 1}', command_id => id(1009));
SELECT esrs_handle_command('vf', id(9), '{"n": 1}', command_id => id(1009));
SELECT ok FROM esrs_try_command('vf', id(10), '{"refuse": 1}', command_id => id(1010));
SELECT ok FROM esrs_handle_commands(ARRAY[('vf', id(12), '{"n": 1}', NULL, NULL, id(1011)), ('vf', id(11), '{"n": 1}', NULL, NULL, NULL), ('vf', id(12), '{"n": 2}', 1, NULL, NULL)]::esrs_command[]);
SET client_min_messages = notice;
SELECT * FROM esrs_verify('vf');
SET client_min_messages = warning;
-- commands of handlers, from one instance to the next and back again: the positions of each ascend
CREATE FUNCTION passes_on(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    n int := e.payload ->> 'n';
BEGIN
    -- from 0 to 1, from there to 2 and back again; 3 gets something from each
    IF n > 100 THEN
        PERFORM esrs_handle_command('vf_nested', esrs_verify.id(CASE esrs_verify.n(e.aggregate_id) WHEN 1 THEN 2 ELSE 1 END), jsonb_build_object('n', n - 1));
        PERFORM esrs_handle_command('vf_nested', esrs_verify.id(3), '{"many": 2}');
    END IF;
END $$;
CREATE FUNCTION sets(e esrs_event[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF (e[1].payload ->> 'n')::int > 100 THEN
        PERFORM esrs_handle_command('vf_nested', esrs_verify.id(4), '{"many": 2}');
    END IF;
END $$;
SELECT esrs_register_aggregate('vf_nested', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)');
SELECT esrs_register_handler('vf_passes_on', '{vf_nested}', 'passes_on(esrs_event)');
SELECT esrs_register_handler('vf_sets', '{vf_nested}', 'sets(esrs_event[])');
SELECT esrs_handle_command('vf_nested', id(0), '{"n": 105}');
SELECT esrs_handle_command('vf_nested', id(0), '{"n": 103}');
SELECT n(aggregate_id), string_agg(payload ->> 'n', ' ' ORDER BY sequence_number) AS events,
       array_agg(position ORDER BY sequence_number) = array_agg(position ORDER BY position) AS ascending
  FROM vf_nested_events GROUP BY 1 ORDER BY 1;
SET client_min_messages = notice;
SELECT * FROM esrs_verify('vf_nested');
SET client_min_messages = warning;
-- deleted and begun anew within one transaction
BEGIN;
SELECT esrs_delete('vf_nested', id(0));
SELECT esrs_handle_command('vf_nested', id(0), '{"n": 102}');
COMMIT;
SELECT * FROM findings('vf_nested');
-- adopted tables: rows from before, whose clocks went back, and rows of the time without esrs
CREATE TABLE vf_adopted_events (id uuid PRIMARY KEY, aggregate_id uuid NOT NULL, payload jsonb NOT NULL,
    occurred_on timestamptz NOT NULL DEFAULT current_timestamp, sequence_number int NOT NULL DEFAULT 1, version int,
    UNIQUE (aggregate_id, sequence_number));
INSERT INTO vf_adopted_events (id, aggregate_id, payload, occurred_on, sequence_number)
    SELECT gen_random_uuid(), id(i), '{"n": 1}', '2024-01-01'::timestamptz + ((i * 7 + n * 13) % 11) * interval '1 day', n
      FROM generate_series(1, 5) AS i, generate_series(1, 6) AS n ORDER BY n DESC, i;
SELECT esrs_register_aggregate('vf_adopted', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)');
SELECT * FROM findings('vf_adopted');
SELECT esrs_handle_command('vf_adopted', id(1), '{"n": 1}');
INSERT INTO vf_adopted_events (id, aggregate_id, payload, sequence_number) VALUES (gen_random_uuid(), id(1), '{"n": 1}', 8), (gen_random_uuid(), id(6), '{"n": 1}', 1);
SELECT * FROM findings('vf_adopted');
SELECT esrs_unregister_aggregate('vf_adopted');
ALTER TABLE vf_adopted_events ALTER position DROP NOT NULL;
INSERT INTO vf_adopted_events (id, aggregate_id, payload, sequence_number) VALUES
    (gen_random_uuid(), id(6), '{"n": 1}', 3), (gen_random_uuid(), id(6), '{"n": 1}', 2), (gen_random_uuid(), id(7), '{"n": 1}', 1);
SELECT esrs_register_aggregate('vf_adopted', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)');
SELECT esrs_handle_command('vf_adopted', id(6), '{"n": 1}');
SET client_min_messages = notice;
SELECT * FROM esrs_verify('vf_adopted');
-- deprecated events, also all of an instance, are counted
SELECT esrs_alter_aggregate('vf', '{"upcast": "upcast(jsonb,int)"}');
SET client_min_messages = warning;
INSERT INTO vf_events (id, aggregate_id, payload, sequence_number) VALUES (gen_random_uuid(), id(13), '{"old": 1}', 1), (gen_random_uuid(), id(13), '{"old": 1}', 2), (gen_random_uuid(), id(2), '{"old": 1}', 3);
SELECT esrs_handle_command('vf', id(13), '{"n": 1}');
SET client_min_messages = notice;
SELECT * FROM esrs_verify('vf');
-- snapshots: of each number, of deprecated events, and gone with their instance
SELECT esrs_alter_aggregate('vf', '{"snapshot_every": 1}');
SELECT esrs_alter_aggregate('vf', '{"snapshots": "rebuild"}');
SELECT * FROM esrs_verify('vf');
SET client_min_messages = warning;
SELECT esrs_delete('vf', id(3)), esrs_delete('vf', id(13), permanent => true);
SELECT esrs_handle_command('vf', id(3), '{"n": 1}'), esrs_handle_command('vf', id(2), '{"many": 2}');
INSERT INTO vf_events (id, aggregate_id, payload, sequence_number) VALUES (gen_random_uuid(), id(2), '{"n": 1}', 6);
SELECT * FROM findings('vf');
-- made by other functions: not used, and no damage
CREATE OR REPLACE FUNCTION apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    RETURN jsonb_build_object('sum', coalesce((state ->> 'sum')::int, 0) + coalesce((event ->> 'n')::int, 0));
SET client_min_messages = notice;
SELECT * FROM esrs_verify('vf');
SET client_min_messages = warning;
SELECT esrs_alter_aggregate('vf', '{"snapshots": "rebuild"}');
SELECT * FROM findings('vf');
SELECT esrs_alter_aggregate('vf', '{"snapshot_every": null, "upcast": null}');
SELECT * FROM findings('vf');
-- events that may be changed
SELECT esrs_alter_aggregate('vf', '{"append_only": false}');
SELECT * FROM findings('vf');
SELECT esrs_alter_aggregate('vf', '{"append_only": true}');
-- C, with a struct and JSON, with and without snapshots; a store
CREATE FUNCTION letters(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_letters' LANGUAGE C;
CREATE FUNCTION letters_json_schema(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_letters_json_schema' LANGUAGE C;
CREATE FUNCTION letters_upcast(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_letters_upcast' LANGUAGE C;
CREATE FUNCTION counter(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_counter' LANGUAGE C;
CREATE FUNCTION bad_forms(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_bad_forms' LANGUAGE C;
SELECT esrs_register_aggregate('vf_c', handler => 'letters(internal)', snapshot_every => 2);
SELECT esrs_handle_command('vf_c', id(1), '{"emit": ["A", "B", "C"]}'), esrs_handle_command('vf_c', id(2), '{"emit": ["B"]}');
SELECT esrs_register_aggregate('vf_counter', handler => 'counter(internal)');
SELECT esrs_handle_command('vf_counter', id(1), '{"Many": 3}');
SELECT esrs_register_aggregate('vf_store');
SELECT count(*) FROM esrs_persist('vf_store', id(1), ARRAY['"B"', '"A"']::jsonb[]);
SET client_min_messages = notice;
SELECT name, v.* FROM unnest('{vf_c,vf_counter,vf_store}'::text[]) AS name LEFT JOIN LATERAL esrs_verify(name) AS v ON true;
SELECT esrs_alter_aggregate('vf_c', '{"handler": "letters_upcast(internal)"}');
SELECT esrs_alter_aggregate('vf_c', '{"snapshots": "rebuild"}');
SELECT * FROM esrs_verify('vf_c');
SET client_min_messages = warning;

-- ------------------------------------------------------------------------
-- Damage
-- ------------------------------------------------------------------------
SELECT esrs_register_aggregate('dm', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)', snapshot_every => 3);
-- the owner changes history, as he can if he must: with the guard off
CREATE PROCEDURE damage(statement text) LANGUAGE plpgsql AS $$
BEGIN
    ALTER TABLE dm_events DISABLE TRIGGER USER;
    EXECUTE statement;
    ALTER TABLE dm_events ENABLE ALWAYS TRIGGER esrs_append_only;
END $$;
-- five events in commands of three and two; then back to that
CREATE PROCEDURE afresh() LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM esrs.snapshots WHERE aggregate = 'dm';
    DELETE FROM esrs.commands WHERE aggregate = 'dm';
    DELETE FROM esrs.deletions WHERE aggregate = 'dm';
    CALL damage('DELETE FROM dm_events');
    FOR i IN 1 .. 4 LOOP
        PERFORM esrs_handle_command('dm', id(i), '{"many": 3}', command_id => id(2000 + i));
        PERFORM esrs_handle_command('dm', id(i), '{"many": 2}', command_id => id(3000 + i));
    END LOOP;
END $$;
CALL afresh();
SELECT * FROM findings('dm');
SELECT n(aggregate_id), sequence_number, state FROM esrs.snapshots WHERE aggregate = 'dm' ORDER BY 1;

-- numbers
CALL damage('DELETE FROM dm_events WHERE aggregate_id = id(2) AND sequence_number = 2');
CALL damage('DELETE FROM dm_events WHERE aggregate_id = id(3) AND sequence_number IN (1, 4)');
SELECT * FROM findings('dm');
CALL afresh();
CALL damage('UPDATE dm_events SET sequence_number = sequence_number + 10 WHERE aggregate_id = id(1) AND sequence_number > 3');
SELECT * FROM findings('dm');
-- the end is missing: a command that was seen tells, and a snapshot
CALL afresh();
CALL damage('DELETE FROM dm_events WHERE aggregate_id = id(2) AND sequence_number = 5');
CALL damage('DELETE FROM dm_events WHERE aggregate_id = id(3) AND sequence_number > 2');
DELETE FROM esrs.commands WHERE aggregate_id = id(3);
SELECT * FROM findings('dm');
-- an instance is missing altogether
CALL damage('DELETE FROM dm_events WHERE aggregate_id IN (id(1), id(4))');
SELECT * FROM findings('dm');
-- what the hints say does what it says
CALL afresh();
CALL damage('DELETE FROM dm_events WHERE aggregate_id = id(1)');
DELETE FROM esrs.commands WHERE aggregate_id = id(1);
SELECT * FROM findings('dm');
SELECT esrs_alter_aggregate('dm', '{"snapshots": "drop"}');
SELECT * FROM findings('dm');

-- positions: exchanged, and the same twice
CALL afresh();
CALL damage('UPDATE dm_events SET position = position + CASE sequence_number WHEN 2 THEN 1000 ELSE 990 END WHERE aggregate_id = id(1) AND sequence_number IN (2, 4)');
CALL damage('UPDATE dm_events AS e SET position = (SELECT min(position) FROM dm_events) + 1000000 - sequence_number WHERE aggregate_id = id(2)');
SELECT * FROM findings('dm');
CALL afresh();
BEGIN;
DROP INDEX dm_events_position;
CALL damage('UPDATE dm_events AS e SET position = (SELECT position FROM dm_events WHERE aggregate_id = id(3) AND sequence_number = 2) WHERE aggregate_id = id(3) AND sequence_number = 3');
SELECT try($$SELECT string_agg(f::text, E'\n') FROM findings('dm') AS f$$);
ROLLBACK;
-- numbers and positions of one instance are told once each, however much is wrong
CALL damage('UPDATE dm_events AS e SET sequence_number = 2 * sequence_number + 100, position = (SELECT max(position) FROM dm_events) - sequence_number WHERE aggregate_id = id(2)');
SELECT * FROM findings('dm');

-- folds: one row for each instance, and the others are looked at all the same
CALL afresh();
CALL damage($$UPDATE dm_events SET payload = '{"n": "x"}' WHERE aggregate_id = id(1) AND sequence_number IN (2, 3)$$);
CALL damage($$UPDATE dm_events SET payload = '{"n": "secret"}' WHERE aggregate_id = id(3) AND sequence_number = 5$$);
CALL damage($$UPDATE dm_events SET payload = '{"n": 99}' WHERE aggregate_id = id(4) AND sequence_number = 5$$);
SELECT * FROM findings('dm');
-- ... also by null, and a version that nobody knows
CREATE FUNCTION apply_null(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    RETURN CASE event ->> 'n' WHEN '99' THEN NULL WHEN 'x' THEN state WHEN 'secret' THEN state ELSE apply(state, event) END;
CALL damage($$UPDATE dm_events SET version = 7 WHERE aggregate_id = id(2) AND sequence_number = 4$$);
SELECT esrs_alter_aggregate('dm', '{"apply_event": "apply_null(jsonb,jsonb)", "event_version": 6, "upcast": "upcast(jsonb,int)"}');
SELECT * FROM findings('dm');
SELECT try(format('SELECT esrs_load(''dm'', id(%s))', i)) FROM generate_series(1, 4) AS i;
SELECT esrs_alter_aggregate('dm', '{"event_version": 7}');
SELECT * FROM findings('dm');
-- one that writes leaves nothing
CREATE TABLE trace (what text);
CREATE FUNCTION apply_writes(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql SET search_path = esrs_verify, pg_temp AS
    $$BEGIN INSERT INTO trace VALUES ('x'); IF event ->> 'n' = '2' THEN RAISE 'two'; END IF; RETURN state; END$$;
SELECT esrs_alter_aggregate('dm', '{"apply_event": "apply_writes(jsonb,jsonb)", "event_version": null, "upcast": null}');
SELECT * FROM findings('dm');
SELECT count(*) FROM trace;
-- one that does not end can be ended
CREATE FUNCTION apply_loops(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql SET search_path = esrs_verify, pg_temp AS
    $$BEGIN WHILE event ->> 'n' = '2' LOOP END LOOP; RETURN state; EXCEPTION WHEN OTHERS THEN RETURN state; END$$;
SELECT esrs_alter_aggregate('dm', '{"apply_event": "apply_loops(jsonb,jsonb)"}');
SET statement_timeout = '200ms';
SELECT * FROM esrs_verify('dm');
\echo :SQLSTATE
RESET statement_timeout;
SELECT esrs_alter_aggregate('dm', '{"apply_event": "apply(jsonb,jsonb)"}');

-- snapshots: edited
CALL afresh();
UPDATE esrs.snapshots SET state = '{"sum": 1000}' WHERE aggregate = 'dm' AND aggregate_id = id(1);
UPDATE esrs.snapshots SET sequence_number = 4 WHERE aggregate = 'dm' AND aggregate_id = id(2);
UPDATE esrs.snapshots SET event_id = (SELECT id FROM dm_events WHERE aggregate_id = id(3) AND sequence_number = 2), sequence_number = 2 WHERE aggregate = 'dm' AND aggregate_id = id(3);
UPDATE esrs.snapshots SET occurred_on = occurred_on - interval '1 us' WHERE aggregate = 'dm' AND aggregate_id = id(4);
SELECT * FROM findings('dm');
-- none of them is used
SET esrs.state_cache_size = 0;
SELECT i, l.sequence_number, l.state FROM generate_series(1, 4) AS i, esrs_load('dm', id(i)) AS l ORDER BY i;
-- ... and the next ones are right
SELECT count(esrs_handle_command('dm', id(i), '{"many": 3}')) FROM generate_series(1, 4) AS i;
SELECT * FROM findings('dm');
-- of another time: the instances were deleted and begun anew since
CALL afresh();
CREATE TEMP TABLE kept AS SELECT * FROM esrs.snapshots WHERE aggregate = 'dm';
SELECT esrs_delete('dm', id(2)), esrs_delete('dm', id(3)), esrs_delete('dm', id(4));
SELECT esrs_handle_command('dm', id(2), '{"many": 5}'), esrs_handle_command('dm', id(3), '{"many": 2}');
DELETE FROM esrs.snapshots WHERE aggregate = 'dm';
INSERT INTO esrs.snapshots SELECT * FROM kept;
SET client_min_messages = notice;
SELECT * FROM findings('dm');
SET client_min_messages = warning;
SELECT i, l.sequence_number, l.state FROM generate_series(1, 4) AS i, esrs_load('dm', id(i)) AS l ORDER BY i;
SELECT esrs_handle_command('dm', id(i), '{"n": 1}') FROM generate_series(2, 4) AS i;
RESET esrs.state_cache_size;
SELECT esrs_alter_aggregate('dm', '{"snapshots": "rebuild"}');
SELECT * FROM findings('dm');
-- the guard was off for a while: what was taken before is not relied upon any more
CALL afresh();
CALL damage($$UPDATE dm_events SET payload = '{"n": 50}' WHERE aggregate_id = id(3) AND sequence_number = 2$$);
SET client_min_messages = notice;
SELECT * FROM findings('dm');
SET client_min_messages = warning;
SELECT state FROM esrs_load('dm', id(3));
SELECT esrs_alter_aggregate('dm', '{"snapshots": "rebuild"}');
-- a fingerprint of the wrong length, and one of another time
UPDATE esrs.snapshots SET fingerprint = '\x00' WHERE aggregate = 'dm' AND aggregate_id = id(1);
UPDATE esrs.snapshots SET fingerprint = sha256('other') WHERE aggregate = 'dm' AND aggregate_id = id(2);
SET client_min_messages = notice;
SELECT * FROM findings('dm');
SET client_min_messages = warning;
-- not what the events give: a function that looks elsewhere, or forgets
CREATE TABLE factor AS SELECT 1 AS factor;
CREATE FUNCTION apply_factor(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql SET search_path = esrs_verify, pg_temp AS
    $$BEGIN RETURN jsonb_build_object('sum', coalesce((state ->> 'sum')::int, 0) + (SELECT factor FROM factor) * (event ->> 'n')::int); END$$;
SELECT esrs_alter_aggregate('dm', '{"apply_event": "apply_factor(jsonb,jsonb)"}');
CALL afresh();
SELECT * FROM findings('dm');
UPDATE factor SET factor = 2;
SELECT * FROM findings('dm');
SELECT esrs_alter_aggregate('dm', '{"snapshots": "rebuild"}');
SELECT * FROM findings('dm');
-- a fold that raises, and a snapshot from before: the snapshot is not judged
UPDATE factor SET factor = NULL;
SELECT * FROM findings('dm') WHERE n = 1;
DROP TABLE factor;
SELECT * FROM findings('dm') WHERE n = 1;
SELECT esrs_alter_aggregate('dm', '{"apply_event": "apply(jsonb,jsonb)"}');
-- in C
UPDATE esrs.snapshots SET state = '{"seen": ".forged"}' WHERE aggregate = 'vf_c';
SELECT * FROM findings('vf_c');
SELECT esrs_alter_aggregate('vf_c', '{"snapshot_every": null}');
SELECT * FROM findings('vf_c');
SELECT esrs_alter_aggregate('vf_c', '{"handler": "bad_forms(internal)"}');
INSERT INTO vf_c_events (id, aggregate_id, payload, sequence_number, version) VALUES (gen_random_uuid(), id(3), '{"to_event": "raise"}', 1, 2), (gen_random_uuid(), id(4), '{"upcast": "number"}', 1, 1),
    (gen_random_uuid(), id(5), '"A"', 1, 3), (gen_random_uuid(), id(6), '{"upcast": "null"}', 1, 1);
SET client_min_messages = notice;
SELECT * FROM findings('vf_c');
SET client_min_messages = warning;

-- rows of nobody: of a command, of a snapshot, of both; before, between and behind the instances
CALL afresh();
INSERT INTO esrs.commands (aggregate_id, aggregate, command_id, sha256, sequence_number, events) VALUES
    (id(0), 'dm', id(1), '\x00', 3, 1), (id(0), 'dm', id(2), '\x00', 7, 4), (id(9), 'dm', id(1), '\x00', 1, 1), (id(2), 'dm', id(1), '\x00', 6, 1),
    (id(9), 'other', id(1), '\x00', 1, 1), (id(8), 'dm', id(1), '\x00', 0, 0);
INSERT INTO esrs.snapshots (aggregate_id, aggregate, sequence_number, event_id, position, occurred_on, fingerprint, checksum, state) VALUES
    (id(0), 'dm', 6, id(1), 1, now(), '\x00', 0, '{}'), (id(7), 'dm', 1, id(1), 1, now(), '\x00', 0, '{}'), (id(7), 'other', 1, id(1), 1, now(), '\x00', 0, '{}');
SELECT * FROM findings('dm');
-- as many as are read at once, and more
INSERT INTO esrs.commands (aggregate_id, aggregate, command_id, sha256, sequence_number, events)
    SELECT id(n), 'dm', id(1), '\x00', n, 1 FROM generate_series(10, 1510) AS n;
SELECT esrs_handle_command('dm', id(1000), '{"n": 1}'), esrs_handle_command('dm', id(1600), '{"n": 1}');
SELECT count(*), count(DISTINCT n), min(n), max(n), string_agg(format('%s: %s', n, problem), E'\n') FILTER (WHERE n IN (9, 10, 508, 509, 510, 999, 1000, 1001, 1510, 1600)) AS some FROM findings('dm');
DELETE FROM esrs.commands WHERE aggregate = 'other';
DELETE FROM esrs.snapshots WHERE aggregate = 'other';
-- deleted for good, and there again
CALL afresh();
SELECT esrs_delete('dm', id(3), permanent => true), esrs_delete('dm', id(2));
INSERT INTO dm_events (id, aggregate_id, payload, sequence_number) VALUES (gen_random_uuid(), id(3), '{"n": 1}', 1), (gen_random_uuid(), id(2), '{"n": 1}', 1);
SELECT * FROM findings('dm');
-- everything at once, in the order in which it is met
CALL afresh();
SELECT esrs_delete('dm', id(9), permanent => true);
INSERT INTO dm_events (id, aggregate_id, payload, sequence_number) VALUES (gen_random_uuid(), id(9), '{"n": 1}', 3), (gen_random_uuid(), id(9), '{"n": "x"}', 2);
INSERT INTO esrs.commands (aggregate_id, aggregate, command_id, sha256, sequence_number, events) VALUES (id(9), 'dm', id(1), '\x00', 33, 1);
INSERT INTO esrs.snapshots (aggregate_id, aggregate, sequence_number, event_id, position, occurred_on, fingerprint, checksum, state)
    SELECT id(9), 'dm', 2, event_id, position, occurred_on, fingerprint, checksum, state FROM esrs.snapshots WHERE aggregate = 'dm' LIMIT 1;
SET client_min_messages = notice;
SELECT * FROM findings('dm');
SET client_min_messages = warning;

-- ------------------------------------------------------------------------
-- Who and when
-- ------------------------------------------------------------------------
CALL afresh();
SELECT md5(string_agg(s::text, ',' ORDER BY s::text)) AS before FROM (SELECT t::text FROM dm_events AS t UNION ALL SELECT t::text FROM esrs.snapshots AS t UNION ALL SELECT t::text FROM esrs.commands AS t) AS x (s) \gset
UPDATE esrs.snapshots SET checksum = 1 WHERE aggregate = 'dm' AND aggregate_id = id(2);
BEGIN READ ONLY;
SELECT * FROM findings('dm');
SAVEPOINT s;
SELECT count(*) FROM findings('dm');
ROLLBACK TO s;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT count(*) FROM findings('dm');
COMMIT;
-- it sees what the transaction has done
BEGIN;
SELECT esrs_handle_command('dm', id(2), '{"n": 1}');
SELECT * FROM findings('dm');
INSERT INTO dm_events (id, aggregate_id, payload, sequence_number) VALUES (gen_random_uuid(), id(20), '{"n": 1}', 2);
SELECT * FROM findings('dm');
ROLLBACK;
-- one cannot be run by one who does not see all
SET ROLE regress_esrs_reader;
SELECT try($$SELECT * FROM esrs_verify('dm')$$);
RESET ROLE;
GRANT SELECT ON dm_events TO regress_esrs_reader;
SET ROLE regress_esrs_reader;
SELECT severity, n(aggregate_id), sequence_number, problem FROM esrs_verify('dm');
SELECT try('SELECT * FROM esrs.snapshots'), try('SELECT * FROM esrs.commands');
RESET ROLE;
ALTER TABLE dm_events ENABLE ROW LEVEL SECURITY;
CREATE POLICY all_of_them ON dm_events FOR SELECT USING (true);
SET ROLE regress_esrs_reader;
SELECT try($$SELECT * FROM esrs_verify('dm')$$);
RESET ROLE;
SELECT count(*) FROM esrs_verify('dm');
ALTER TABLE dm_events DISABLE ROW LEVEL SECURITY;
-- nor does the fold run with more rights than the caller's
CREATE FUNCTION apply_who(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS
    $$BEGIN RAISE '%', current_user; END$$;
SELECT esrs_alter_aggregate('dm', '{"apply_event": "apply_who(jsonb,jsonb)"}');
SET ROLE regress_esrs_reader;
SELECT DISTINCT problem FROM esrs_verify('dm');
RESET ROLE;
SELECT esrs_alter_aggregate('dm', '{"apply_event": "apply(jsonb,jsonb)"}');
-- bad arguments
SELECT try($$SELECT * FROM esrs_verify(NULL)$$), try($$SELECT * FROM esrs_verify('no_such')$$);
BEGIN;
DROP TABLE dm_events;
SELECT try($$SELECT * FROM esrs_verify('dm')$$);
ROLLBACK;
-- all of them at once, as a nightly job would
SELECT a.name, v.severity, v.problem FROM esrs_aggregates AS a, LATERAL esrs_verify(a.name) AS v WHERE a.name ~ '^(vf|dm)' AND a.name <> 'vf_c' ORDER BY 1, v.aggregate_id;

DELETE FROM esrs.snapshots WHERE aggregate = 'dm';
DELETE FROM esrs.commands WHERE aggregate = 'dm';
SELECT esrs_unregister_aggregate(name, drop_events => true) FROM esrs_aggregates WHERE name ~ '^(vf|dm)' ORDER BY name;
DROP SCHEMA esrs_verify CASCADE;
DROP OWNED BY regress_esrs_owner, regress_esrs_reader;
DROP ROLE regress_esrs_owner, regress_esrs_reader;
