--
-- What happens to an aggregate when its functions, its table, its schema or the
-- extension change or go: nothing is lost, each loss is told clearly, and there
-- is a way back.  Also adoption of tables that the Rust library made, and every
-- finding of esrs_check().
--
-- Fails if a drop takes events along, if a command goes on with a function, a
-- table or a state that is no more, if a repair does not repair, or if a foreign
-- table is taken for an events table.
--
-- The parts that change the extension itself run in databases of their own.
--
\set VERBOSITY terse
\set SHOW_CONTEXT never
\pset null '(null)'
SELECT current_database() AS regression \gset
SET client_min_messages = warning;
CREATE SCHEMA t_life;
CREATE SCHEMA t_life_two;
SET search_path = t_life, public;
CREATE ROLE regress_esrs_life_owner;
CREATE ROLE regress_esrs_life_user;
SET client_min_messages = notice;

CREATE FUNCTION try(statement text) RETURNS text
LANGUAGE plpgsql AS $$
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
CREATE FUNCTION command(aggregate text, n int DEFAULT 1) RETURNS text LANGUAGE sql AS
$$ SELECT try(format('SELECT esrs_handle_command(%L, ''11111111-1111-4111-8111-11111111111%s'', ''{"A": 1}'')', aggregate, n)) $$;
CREATE VIEW callbacks AS
SELECT adrelid::regclass AS events, pg_get_expr(adbin, adrelid) AS "default"
  FROM pg_attrdef WHERE pg_get_expr(adbin, adrelid) LIKE 'esrs.next_position(''lif%';

CREATE FUNCTION decide(state jsonb, command jsonb) RETURNS jsonb[]
LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT ARRAY[command]; END;
CREATE FUNCTION evolve(state jsonb, event jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT jsonb_build_object('n', coalesce((state->>'n')::int, 0) + 1); END;
SELECT esrs_register_aggregate('lif', handle_command => 'decide(jsonb,jsonb)', apply_event => 'evolve(jsonb,jsonb)');
SELECT command('lif');

-- ------------------------------------------------------------------------
-- Functions
-- ------------------------------------------------------------------------
-- DROP is refused
\set VERBOSITY default
DROP FUNCTION evolve(jsonb, jsonb);
DROP FUNCTION decide(jsonb, jsonb);
\set VERBOSITY terse
SELECT command('lif');
-- replaced: the next command goes by the new one, with all old events
CREATE OR REPLACE FUNCTION evolve(state jsonb, event jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT jsonb_build_object('n', coalesce((state->>'n')::int, 0) + 100); END;
SELECT command('lif');
-- also in the transaction that replaces it, and back when that ends badly
BEGIN;
CREATE OR REPLACE FUNCTION evolve(state jsonb, event jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT jsonb_build_object('n', -1); END;
SELECT command('lif');
ROLLBACK;
SELECT command('lif');
BEGIN;
SAVEPOINT s;
CREATE OR REPLACE FUNCTION evolve(state jsonb, event jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT jsonb_build_object('n', -1); END;
SELECT command('lif');
ROLLBACK TO s;
SELECT command('lif');
COMMIT;
-- another function of the same name but other arguments is not it
CREATE FUNCTION evolve(state json, event json) RETURNS jsonb
LANGUAGE sql BEGIN ATOMIC SELECT 'null'::jsonb; END;
SELECT command('lif');
DROP FUNCTION evolve(json, json);
-- renamed and moved: followed; the catalog says so after esrs_check(), and dumps are right at once
ALTER FUNCTION evolve(jsonb, jsonb) RENAME TO "Evolve it";
ALTER FUNCTION decide(jsonb, jsonb) SET SCHEMA t_life_two;
SELECT command('lif');
SELECT * FROM callbacks;
SELECT count(*) FROM esrs_check() WHERE object = 'lif';
SELECT handle_command, apply_event FROM esrs_aggregates WHERE name = 'lif';
-- a rename, and then another option: the functions stay the right ones
ALTER FUNCTION "Evolve it"(jsonb, jsonb) RENAME TO evolve;
SELECT esrs_alter_aggregate('lif', '{"notify": "off"}');
SELECT handle_command, apply_event FROM esrs_aggregates WHERE name = 'lif';
ALTER FUNCTION t_life_two.decide(jsonb, jsonb) SET SCHEMA t_life;
SELECT count(*) FROM esrs_check() WHERE object = 'lif';
-- a function that takes the old name of a renamed one is not it
ALTER FUNCTION evolve(jsonb, jsonb) RENAME TO evolve_old;
CREATE FUNCTION evolve(state jsonb, event jsonb) RETURNS jsonb
LANGUAGE sql BEGIN ATOMIC SELECT '"impostor"'::jsonb; END;
SELECT command('lif');
SELECT count(*) FROM esrs_check() WHERE object = 'lif';
SELECT command('lif');
SELECT apply_event FROM esrs_aggregates WHERE name = 'lif';
DROP FUNCTION evolve(jsonb, jsonb);
ALTER FUNCTION evolve_old(jsonb, jsonb) RENAME TO evolve;
SELECT count(*) FROM esrs_check() WHERE object = 'lif';

-- DROP CASCADE: the default goes and nothing else; a clear error; the way back
SELECT count(*) AS n FROM lif_events \gset
DROP FUNCTION evolve(jsonb, jsonb) CASCADE;
SELECT count(*) = :n AS all_there FROM lif_events;
SELECT * FROM callbacks;
SELECT command('lif');
SELECT try($$SELECT * FROM esrs_load('lif', '11111111-1111-4111-8111-111111111111')$$);
SELECT left(try($$SELECT * FROM esrs_persist('lif', '11111111-1111-4111-8111-111111111111', ARRAY['{"A": 1}']::jsonb[])$$), 5);
SELECT left(try($$INSERT INTO lif_events (id, aggregate_id, payload) VALUES (gen_random_uuid(), gen_random_uuid(), '{}')$$), 5) AS not_null;
SELECT * FROM esrs_check() WHERE object = 'lif';
SELECT command('lif');
CREATE FUNCTION evolve(state jsonb, event jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT jsonb_build_object('n', coalesce((state->>'n')::int, 0) + 1); END;
-- created again alone does not do it
SELECT left(command('lif'), 5);
SELECT * FROM esrs_check() WHERE object = 'lif';
SELECT * FROM esrs_check() WHERE object = 'lif';
SELECT * FROM callbacks;
SELECT command('lif');
-- or name another
DROP FUNCTION evolve(jsonb, jsonb) CASCADE;
CREATE FUNCTION evolve_b(state jsonb, event jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT jsonb_build_object('b', coalesce((state->>'b')::int, 0) + 1); END;
SELECT esrs_alter_aggregate('lif', '{"apply_event": "evolve_b(jsonb,jsonb)"}');
SELECT command('lif');
-- the deciding function: esrs_check() also tells that everybody may EXECUTE the new one
DROP FUNCTION decide(jsonb, jsonb) CASCADE;
SELECT left(command('lif'), 5);
CREATE FUNCTION decide(state jsonb, command jsonb) RETURNS jsonb[]
LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT ARRAY[command]; END;
SELECT severity, problem FROM esrs_check() WHERE object = 'lif';
SELECT severity, problem FROM esrs_check() WHERE object = 'lif';
REVOKE EXECUTE ON FUNCTION decide(jsonb, jsonb) FROM PUBLIC;
-- a function that took its place but cannot be it, is not taken
DROP FUNCTION evolve_b(jsonb, jsonb) CASCADE;
CREATE FUNCTION evolve_b(state jsonb, event jsonb) RETURNS text
LANGUAGE sql BEGIN ATOMIC SELECT 'x'; END;
SELECT severity FROM esrs_check() WHERE object = 'lif';
SELECT left(command('lif'), 5);
DROP FUNCTION evolve_b(jsonb, jsonb) CASCADE;
CREATE FUNCTION evolve_b(state jsonb, event jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT jsonb_build_object('b', coalesce((state->>'b')::int, 0) + 1); END;
SELECT severity FROM esrs_check() WHERE object = 'lif';
SELECT command('lif');

-- ------------------------------------------------------------------------
-- The table
-- ------------------------------------------------------------------------
SELECT command('lif', 2);
ALTER TABLE lif_events RENAME TO "Lif's ""events""";
SELECT command('lif', 2);
SELECT events FROM esrs_aggregates WHERE name = 'lif';
ALTER TABLE "Lif's ""events""" SET SCHEMA t_life_two;
SELECT command('lif', 2);
SELECT sequence_number, state FROM esrs_load('lif', '11111111-1111-4111-8111-111111111112');
SELECT count(*) FROM esrs_events('lif', '11111111-1111-4111-8111-111111111112');
ALTER SCHEMA t_life_two RENAME TO "t life, two";
SELECT command('lif', 2);
SELECT events FROM esrs_aggregates WHERE name = 'lif';
SELECT left(try($$DELETE FROM "t life, two"."Lif's ""events"""$$), 5) AS code;
SELECT count(*) FROM esrs_check() WHERE object = 'lif';
SELECT esrs_delete('lif', '11111111-1111-4111-8111-111111111112');
SELECT esrs_alter_aggregate('lif', '{"notify": "commit"}');
SELECT command('lif', 3);
ALTER SCHEMA "t life, two" RENAME TO t_life_two;
ALTER TABLE t_life_two."Lif's ""events""" SET SCHEMA t_life;
ALTER TABLE "Lif's ""events""" RENAME TO lif_events;
-- columns, constraints and indexes may have other names, and more of them may come
ALTER TABLE lif_events RENAME CONSTRAINT lif_events_aggregate_id_sequence_number TO lif_pk;
ALTER TABLE lif_events ADD COLUMN note text DEFAULT 'x', ADD COLUMN computed int GENERATED ALWAYS AS (sequence_number * 2) STORED;
CREATE INDEX ON lif_events ((payload ->> 'A'));
SELECT command('lif', 3);
SELECT count(*) FROM esrs_check() WHERE object = 'lif';
ALTER TABLE lif_events DROP COLUMN note, DROP COLUMN computed;
SELECT command('lif', 3);
-- but the ones that esrs needs must be there as they were
ALTER TABLE lif_events RENAME COLUMN payload TO body;
SELECT command('lif', 3);
SELECT severity, problem, hint FROM esrs_check() WHERE object = 'lif';
ALTER TABLE lif_events RENAME COLUMN body TO payload;
SELECT command('lif', 3);
ALTER TABLE lif_events DROP CONSTRAINT lif_pk;
SELECT command('lif', 3);
SELECT severity, problem FROM esrs_check() WHERE object = 'lif';
ALTER TABLE lif_events ADD PRIMARY KEY (aggregate_id, sequence_number);
SELECT command('lif', 3);
-- the owner changes: appends run as the new one
GRANT USAGE, CREATE ON SCHEMA t_life TO regress_esrs_life_owner;
GRANT USAGE ON SCHEMA t_life TO regress_esrs_life_user;
GRANT EXECUTE ON FUNCTION decide(jsonb, jsonb) TO regress_esrs_life_user;
CREATE TABLE appended_by (role text);
GRANT INSERT ON appended_by TO PUBLIC;
CREATE FUNCTION by_whom() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t_life.appended_by VALUES (current_user); RETURN NULL; END $$;
CREATE TRIGGER by_whom AFTER INSERT ON lif_events FOR EACH ROW EXECUTE FUNCTION by_whom();
ALTER TABLE lif_events OWNER TO regress_esrs_life_owner;
SET ROLE regress_esrs_life_user;
-- whoever owns the table must be one who may command
SELECT command('lif', 3);
RESET ROLE;
GRANT EXECUTE ON FUNCTION decide(jsonb, jsonb) TO regress_esrs_life_owner;
SET ROLE regress_esrs_life_user;
SELECT command('lif', 3);
RESET ROLE;
SELECT * FROM appended_by;
ALTER TABLE lif_events OWNER TO CURRENT_USER;
DROP TRIGGER by_whom ON lif_events;

-- two aggregates in two schemas, one of them reached without search_path
SET search_path = t_life_two, public;
SELECT esrs_register_aggregate('lif_two', handle_command => 't_life.decide(jsonb,jsonb)', apply_event => 't_life.evolve_b(jsonb,jsonb)');
SET search_path = pg_catalog;
SELECT public.esrs_handle_command('lif_two', '11111111-1111-4111-8111-111111111111', '{"A": 1}');
SET search_path = t_life, public;
SELECT count(*) FROM t_life_two.lif_two_events;
DROP SCHEMA t_life_two CASCADE;
SELECT command('lif_two', 1);
SELECT severity, problem, hint FROM esrs_check() WHERE object = 'lif_two';
SELECT esrs_unregister_aggregate('lif_two');

-- dropped: told so, not even a table that takes its name is taken for it
ALTER TABLE lif_events RENAME TO lif_kept;
CREATE TABLE lif_events (LIKE lif_kept INCLUDING ALL);
SELECT command('lif', 3);
SELECT count(*) FROM lif_events;
DROP TABLE lif_events;
ALTER TABLE lif_kept RENAME TO lif_events;
SELECT command('lif', 3);
DROP TABLE lif_events;
SELECT command('lif', 3);
SELECT left(try($$SELECT esrs_register_aggregate('lif', if_not_exists => true)$$), 5);
CREATE TABLE lif_events (id uuid);
SELECT command('lif', 3);
SELECT try($$SELECT * FROM esrs_feed(ARRAY['lif'])$$);
SELECT severity, problem, hint FROM esrs_check() WHERE object = 'lif';
SELECT esrs_unregister_aggregate('lif', true);
-- what was not its table is still there
SELECT to_regclass('lif_events');
-- and cannot be adopted: it is none
SELECT try($$SELECT esrs_register_aggregate('lif')$$);
DROP TABLE lif_events;
SELECT esrs_register_aggregate('lif', handle_command => 'decide(jsonb,jsonb)', apply_event => 'evolve_b(jsonb,jsonb)');
SELECT command('lif');
-- DROP OWNED and DROP SCHEMA of functions: as DROP FUNCTION
CREATE SCHEMA t_life_functions;
CREATE FUNCTION t_life_functions.upcast(payload jsonb, version int) RETURNS jsonb
LANGUAGE sql BEGIN ATOMIC SELECT payload; END;
SELECT esrs_alter_aggregate('lif', '{"upcast": "t_life_functions.upcast(jsonb,int)"}');
DROP SCHEMA t_life_functions;
DROP SCHEMA t_life_functions CASCADE;
SELECT count(*) FROM lif_events;
SELECT left(command('lif'), 5);
SELECT problem FROM esrs_check() WHERE object = 'lif';
SELECT esrs_alter_aggregate('lif', '{"upcast": null}');
SELECT command('lif');

-- ------------------------------------------------------------------------
-- esrs_check(): findings that were not met above
-- ------------------------------------------------------------------------
-- the sequence behind the table, as after a careless restore: repaired
SELECT last_value AS before FROM esrs.position_seq \gset
SELECT setval('esrs.position_seq', 1) AS reset;
SELECT severity, object, problem ~ '^position \d+ in table t_life\.lif_events was ahead of the sequence$' AS told
  FROM esrs_check() WHERE object = 'lif';
SELECT count(*) FROM esrs_check() WHERE object = 'lif';
SELECT last_value >= (SELECT max(position) FROM lif_events) AS repaired FROM esrs.position_seq;
SELECT setval('esrs.position_seq', greatest(:before, (SELECT last_value FROM esrs.position_seq))) >= :before AS restored;
-- a callback whose meaning hangs on the search_path of whoever commands
CREATE FUNCTION loose(payload jsonb, version int) RETURNS jsonb LANGUAGE sql AS $$ SELECT payload $$;
SELECT esrs_alter_aggregate('lif', '{"upcast": "loose(jsonb,int)"}');
SELECT severity, problem, hint FROM esrs_check() WHERE object = 'lif';
ALTER FUNCTION loose(jsonb, int) SET search_path = pg_catalog, pg_temp;
SELECT count(*) FROM esrs_check() WHERE object = 'lif';
SELECT esrs_alter_aggregate('lif', '{"upcast": null}');
-- no guard
DROP TRIGGER esrs_append_only ON lif_events;
SELECT severity, problem, hint FROM esrs_check() WHERE object = 'lif';
SELECT esrs_alter_aggregate('lif', '{}');
-- a guard by another name is one; renamed or not it goes when it must
ALTER TRIGGER esrs_append_only ON lif_events RENAME TO guard;
SELECT count(*) FROM esrs_check() WHERE object = 'lif';
SELECT esrs_alter_aggregate('lif', '{"append_only": false}');
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'lif_events'::regclass;
UPDATE lif_events SET version = NULL WHERE false;
SELECT esrs_alter_aggregate('lif', '{"append_only": true}');
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'lif_events'::regclass;
SELECT left(try($$DELETE FROM lif_events$$), 5);
-- a lost default is repaired by the owner alone
ALTER TABLE lif_events ALTER COLUMN position DROP DEFAULT;
GRANT USAGE ON SCHEMA esrs TO regress_esrs_life_user;
GRANT EXECUTE ON FUNCTION esrs_check() TO regress_esrs_life_user;
SET ROLE regress_esrs_life_user;
SELECT severity, problem, hint FROM esrs_check() WHERE object = 'lif';
RESET ROLE;
SELECT severity, problem FROM esrs_check() WHERE object = 'lif';
-- the default of another aggregate is none
ALTER TABLE lif_events ALTER COLUMN position SET DEFAULT esrs.next_position('other');
SELECT left(command('lif'), 5);
SELECT severity FROM esrs_check() WHERE object = 'lif';
SELECT command('lif');
BEGIN READ ONLY;
SELECT count(*) FROM esrs_check();
ROLLBACK;
-- healthy: nothing
SELECT count(*) FROM esrs_check() WHERE object = 'lif';

-- ------------------------------------------------------------------------
-- Adoption of a table of the Rust library
-- ------------------------------------------------------------------------
-- its four migrations
CREATE TABLE IF NOT EXISTS lif_rust_events (
    id uuid NOT NULL,
    aggregate_id uuid NOT NULL,
    payload jsonb NOT NULL,
    occurred_on TIMESTAMPTZ NOT NULL DEFAULT current_timestamp,
    sequence_number INT NOT NULL DEFAULT 1,
    CONSTRAINT lif_rust_events_pkey PRIMARY KEY (id));
CREATE INDEX IF NOT EXISTS lif_rust_events_aggregate_id ON lif_rust_events USING btree (aggregate_id);
CREATE UNIQUE INDEX IF NOT EXISTS lif_rust_events_aggregate_id_sequence_number ON lif_rust_events (aggregate_id, sequence_number);
ALTER TABLE lif_rust_events ADD COLUMN IF NOT EXISTS version INT;
-- its clock went backwards within the first instance: 3 comes after 2 all the same
INSERT INTO lif_rust_events (id, aggregate_id, payload, occurred_on, sequence_number, version) VALUES
    ('aaaaaaaa-0000-4000-8000-000000000003', '0b5e7c1e-0000-4000-8000-000000000001', '{"A": 3}', '2020-01-01 00:00+00', 3, NULL),
    ('aaaaaaaa-0000-4000-8000-000000000001', '0b5e7c1e-0000-4000-8000-000000000001', '{"A": 1}', '2020-01-02 00:00+00', 1, NULL),
    ('aaaaaaaa-0000-4000-8000-000000000002', '0b5e7c1e-0000-4000-8000-000000000001', '{"A": 2}', '2020-01-04 00:00+00', 2, NULL),
    ('bbbbbbbb-0000-4000-8000-000000000001', 'f47ac10b-58cc-4372-a567-0e02b2c3d479', '"B"', '2020-01-03 00:00+00', 1, NULL);
-- the table is not rewritten
SELECT pg_relation_filenode('lif_rust_events') AS file \gset
\set VERBOSITY default
SELECT esrs_register_aggregate('lif_rust', handle_command => 'decide(jsonb,jsonb)', apply_event => 'evolve_b(jsonb,jsonb)');
\set VERBOSITY terse
SELECT pg_relation_filenode('lif_rust_events') = :file AS same_file;
\d lif_rust_events
SELECT adopted FROM esrs_aggregates WHERE name = 'lif_rust';
SELECT id, sequence_number, version, metadata FROM lif_rust_events ORDER BY position;
SELECT count(DISTINCT position) FROM lif_rust_events;
-- the feed tells the same order
SELECT id FROM esrs_feed(ARRAY['lif_rust']);
-- both write: the library with its six columns, esrs with a command
INSERT INTO lif_rust_events (id, aggregate_id, payload, occurred_on, sequence_number, version)
VALUES ('aaaaaaaa-0000-4000-8000-000000000004', '0b5e7c1e-0000-4000-8000-000000000001', '{"A": 4}', '2020-01-05 00:00+00', 4, NULL);
SELECT esrs_handle_command('lif_rust', '0b5e7c1e-0000-4000-8000-000000000001', '{"A": 5}');
INSERT INTO lif_rust_events (id, aggregate_id, payload, occurred_on, sequence_number, version)
VALUES ('aaaaaaaa-0000-4000-8000-000000000006', '0b5e7c1e-0000-4000-8000-000000000001', '{"A": 6}', '2020-01-05 00:00+00', 6, 2);
SELECT esrs_handle_command('lif_rust', '0b5e7c1e-0000-4000-8000-000000000001', '{"A": 7}');
-- what it reads
SELECT payload, sequence_number, version FROM lif_rust_events WHERE aggregate_id = '0b5e7c1e-0000-4000-8000-000000000001' ORDER BY sequence_number;
SELECT max(position) = (SELECT position FROM lif_rust_events WHERE sequence_number = 7) AS in_order FROM lif_rust_events;
-- a lost race has the constraint's name that its code looks for
DO $$
DECLARE
    c text;
BEGIN
    INSERT INTO t_life.lif_rust_events (id, aggregate_id, payload, sequence_number)
    VALUES (gen_random_uuid(), '0b5e7c1e-0000-4000-8000-000000000001', '{}', 7);
EXCEPTION WHEN unique_violation THEN
    GET STACKED DIAGNOSTICS c = CONSTRAINT_NAME;
    RAISE NOTICE '% %', SQLSTATE, c;
END $$;
-- a command takes the library's own lock too: the first 8 bytes of the id
BEGIN;
SELECT esrs_handle_command('lif_rust', 'f47ac10b-58cc-4372-a567-0e02b2c3d479', '{"B": 2}');
SELECT (classid::bigint << 32 | objid::bigint) AS key, objsubid, mode FROM pg_locks
 WHERE locktype = 'advisory' AND objsubid = 1 AND pid = pg_backend_pid();
SELECT ('x' || left(replace('f47ac10b-58cc-4372-a567-0e02b2c3d479', '-', ''), 16))::bit(64)::bigint AS of_the_library;
COMMIT;
BEGIN;
SELECT (esrs_lock_and_load('lif_rust', '0b5e7c1e-0000-4000-8000-000000000001')).sequence_number;
SELECT (classid::bigint << 32 | objid::bigint) AS key FROM pg_locks
 WHERE locktype = 'advisory' AND objsubid = 1 AND pid = pg_backend_pid();
COMMIT;
-- a table of esrs needs it not
BEGIN;
SELECT command('lif');
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND pid = pg_backend_pid();
COMMIT;
-- adopted once, adopted for ever: also when it is unregistered and registered again
SELECT esrs_unregister_aggregate('lif_rust');
SELECT esrs_register_aggregate('lif_rust', handle_command => 'decide(jsonb,jsonb)', apply_event => 'evolve_b(jsonb,jsonb)');
SELECT adopted FROM esrs_aggregates WHERE name = 'lif_rust';
BEGIN;
SELECT esrs_handle_command('lif_rust', '0b5e7c1e-0000-4000-8000-000000000001', '{"A": 8}');
SELECT (classid::bigint << 32 | objid::bigint) AS key FROM pg_locks
 WHERE locktype = 'advisory' AND objsubid = 1 AND pid = pg_backend_pid();
COMMIT;
SELECT count(*) AS indexes FROM pg_index WHERE indrelid = 'lif_rust_events'::regclass;
-- its migrations on a table that esrs made: nothing but one useless index
CREATE TABLE IF NOT EXISTS lif_events (id uuid NOT NULL, aggregate_id uuid NOT NULL, payload jsonb NOT NULL,
    occurred_on TIMESTAMPTZ NOT NULL DEFAULT current_timestamp, sequence_number INT NOT NULL DEFAULT 1, CONSTRAINT lif_events_pkey PRIMARY KEY (id));
CREATE INDEX IF NOT EXISTS lif_events_aggregate_id ON lif_events USING btree (aggregate_id);
CREATE UNIQUE INDEX IF NOT EXISTS lif_events_aggregate_id_sequence_number ON lif_events (aggregate_id, sequence_number);
ALTER TABLE lif_events ADD COLUMN IF NOT EXISTS version INT;
SELECT command('lif');
-- without the fourth migration
CREATE TABLE lif_older_events (id uuid PRIMARY KEY, aggregate_id uuid NOT NULL, payload jsonb NOT NULL,
    occurred_on TIMESTAMPTZ NOT NULL DEFAULT current_timestamp, sequence_number INT NOT NULL DEFAULT 1);
CREATE UNIQUE INDEX ON lif_older_events (aggregate_id, sequence_number);
SELECT esrs_register_aggregate('lif_older', unique_event_id => true);
SELECT attname, atttypid::regtype FROM pg_attribute WHERE attrelid = 'lif_older_events'::regclass AND attnum > 5 ORDER BY attnum;

-- the name of its index on positions may be taken
CREATE TABLE lif_taken_events (id uuid PRIMARY KEY, aggregate_id uuid NOT NULL, payload jsonb NOT NULL,
    occurred_on TIMESTAMPTZ NOT NULL DEFAULT current_timestamp, sequence_number INT NOT NULL DEFAULT 1);
CREATE UNIQUE INDEX lif_taken_events_position ON lif_taken_events (aggregate_id, sequence_number);
SELECT esrs_register_aggregate('lif_taken');
SELECT count(*) FROM pg_index WHERE indrelid = 'lif_taken_events'::regclass AND pg_get_indexdef(indexrelid) LIKE '%("position", aggregate_id)';

-- what is not adopted, and stays as it was
CREATE FUNCTION adopt(definition text, more text DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    answer text; columns_before bigint; columns_after bigint;
BEGIN
    EXECUTE definition;
    IF more IS NOT NULL THEN EXECUTE more; END IF;
    SELECT count(*) INTO columns_before FROM pg_attribute WHERE attrelid = 'lif_not_events'::regclass AND attnum > 0;
    answer := try('SELECT esrs_register_aggregate(''lif_not'')');
    SELECT count(*) INTO columns_after FROM pg_attribute WHERE attrelid = 'lif_not_events'::regclass AND attnum > 0;
    IF columns_before <> columns_after OR EXISTS (SELECT FROM esrs_aggregates WHERE name = 'lif_not') THEN
        answer := 'changed! ' || answer;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'XX001', MESSAGE = answer;
EXCEPTION WHEN SQLSTATE 'XX001' THEN
    RETURN SQLERRM;
END $$;
\set five 'id uuid NOT NULL, aggregate_id uuid NOT NULL, payload jsonb NOT NULL, occurred_on timestamptz NOT NULL, sequence_number int NOT NULL'
\pset format unaligned
\pset tuples_only on
SELECT adopt('CREATE TABLE lif_not_events (' || :'five' || ')');
SELECT adopt('CREATE TABLE lif_not_events (' || :'five' || ', PRIMARY KEY (id))', 'CREATE INDEX ON lif_not_events (aggregate_id, sequence_number)');
SELECT adopt('CREATE TABLE lif_not_events (' || :'five' || ', UNIQUE (sequence_number, aggregate_id))');
SELECT adopt('CREATE TABLE lif_not_events (' || :'five' || ', UNIQUE (aggregate_id, sequence_number, id))');
SELECT adopt('CREATE TABLE lif_not_events (' || :'five' || ')', 'CREATE UNIQUE INDEX ON lif_not_events (aggregate_id, sequence_number) WHERE sequence_number > 5');
SELECT adopt('CREATE TABLE lif_not_events (' || :'five' || ')', 'CREATE UNIQUE INDEX ON lif_not_events (aggregate_id, (sequence_number + 1))');
SELECT adopt('CREATE TABLE lif_not_events (' || :'five' || ', UNIQUE (aggregate_id, sequence_number) DEFERRABLE)');
SELECT adopt('CREATE TABLE lif_not_events (' || replace(:'five', 'payload jsonb', 'payload json') || ', UNIQUE (aggregate_id, sequence_number))');
SELECT adopt('CREATE TABLE lif_not_events (' || replace(:'five', 'aggregate_id uuid', 'aggregate_id text') || ', UNIQUE (aggregate_id, sequence_number))');
SELECT adopt('CREATE TABLE lif_not_events (' || replace(:'five', 'sequence_number int', 'sequence_number bigint') || ', UNIQUE (aggregate_id, sequence_number))');
SELECT adopt('CREATE TABLE lif_not_events (' || replace(:'five', 'timestamptz', 'timestamp') || ', UNIQUE (aggregate_id, sequence_number))');
SELECT adopt('CREATE TABLE lif_not_events (' || replace(:'five', 'payload jsonb NOT NULL, ', '') || ', UNIQUE (aggregate_id, sequence_number))');
SELECT adopt('CREATE TABLE lif_not_events (' || :'five' || ', version text, UNIQUE (aggregate_id, sequence_number))');
SELECT adopt('CREATE TABLE lif_not_events (' || :'five' || ', position int, UNIQUE (aggregate_id, sequence_number))');
SELECT adopt('CREATE TABLE lif_not_events (' || :'five' || ', metadata text, UNIQUE (aggregate_id, sequence_number))');
SELECT adopt('CREATE TABLE lif_not_events (' || replace(:'five', 'payload jsonb NOT NULL', 'payload jsonb') || ', UNIQUE (aggregate_id, sequence_number))');
SELECT adopt('CREATE UNLOGGED TABLE lif_not_events (' || :'five' || ', UNIQUE (aggregate_id, sequence_number))');
SELECT left(adopt('CREATE TABLE lif_not_events (' || :'five' || ', PRIMARY KEY (aggregate_id, sequence_number))',
    'INSERT INTO lif_not_events VALUES (gen_random_uuid(), gen_random_uuid(), ''{}'', now(), 0)'), 5);
SELECT adopt('CREATE VIEW lif_not_events AS SELECT 1 AS id');
SELECT adopt('CREATE MATERIALIZED VIEW lif_not_events AS SELECT 1 AS id');
SELECT adopt('CREATE SEQUENCE lif_not_events');
SELECT adopt('CREATE TABLE lif_not_events (' || :'five' || ', UNIQUE (aggregate_id, sequence_number)) PARTITION BY HASH (aggregate_id)');
\pset tuples_only off
\pset format aligned

-- ------------------------------------------------------------------------
-- The extension, in databases of their own
-- ------------------------------------------------------------------------
SET client_min_messages = warning;
SELECT count(esrs_unregister_aggregate(name, true)) FROM esrs_aggregates WHERE name LIKE 'lif%';
DROP SCHEMA t_life CASCADE;
DROP OWNED BY regress_esrs_life_owner, regress_esrs_life_user;
DROP ROLE regress_esrs_life_owner, regress_esrs_life_user;
SET client_min_messages = notice;
DROP DATABASE IF EXISTS regress_esrs_life;
CREATE DATABASE regress_esrs_life TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C';
ALTER DATABASE regress_esrs_life SET lc_messages TO 'C';
\c regress_esrs_life
\set VERBOSITY terse
\set SHOW_CONTEXT never

-- not installed
CREATE SCHEMA esrs;
CREATE EXTENSION esrs;
SELECT count(*) FROM pg_extension WHERE extname = 'esrs';
DROP SCHEMA esrs;
-- installed in a schema of choice: all public names are there, the internals where they always are
CREATE SCHEMA "Event sourcing";
CREATE EXTENSION esrs SCHEMA "Event sourcing";
SELECT DISTINCT n.nspname FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'esrs'
  JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE d.refclassid = 'pg_extension'::regclass ORDER BY 1;
ALTER EXTENSION esrs SET SCHEMA public;
CREATE FUNCTION decide(state jsonb, command jsonb) RETURNS jsonb[]
LANGUAGE sql BEGIN ATOMIC SELECT ARRAY[command]; END;
CREATE FUNCTION evolve(state jsonb, event jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT jsonb_build_object('n', coalesce((state->>'n')::int, 0) + 1); END;
CREATE TABLE seen (aggregate text, payload jsonb);
CREATE FUNCTION on_event(e "Event sourcing".esrs_event) RETURNS void LANGUAGE sql AS $$ INSERT INTO seen VALUES (e.aggregate, e.payload) $$;
CREATE FUNCTION on_events(e "Event sourcing".esrs_event[]) RETURNS void LANGUAGE sql AS $$ INSERT INTO seen SELECT aggregate, payload FROM unnest(e) $$;
SELECT "Event sourcing".esrs_register_aggregate('book', handle_command => 'decide(jsonb,jsonb)', apply_event => 'evolve(jsonb,jsonb)');
SELECT "Event sourcing".esrs_register_handler('one', ARRAY['book'], 'on_event("Event sourcing".esrs_event)');
SELECT "Event sourcing".esrs_register_handler('many', ARRAY['book'], 'on_events("Event sourcing".esrs_event[])');
SELECT handler FROM "Event sourcing".esrs_handlers ORDER BY ordinal;
SELECT "Event sourcing".esrs_handle_command('book', '11111111-1111-4111-8111-111111111111', '{"A": 1}');
SELECT ok, sequence_number, state, (events[1]).payload FROM "Event sourcing".esrs_try_command('book', '11111111-1111-4111-8111-111111111111', '{"A": 2}');
SELECT ok FROM "Event sourcing".esrs_handle_commands(ARRAY[('book', '11111111-1111-4111-8111-111111111112', '{"A": 1}', NULL, NULL, NULL)]::"Event sourcing".esrs_command[]);
SELECT sequence_number, state FROM "Event sourcing".esrs_load('book', '11111111-1111-4111-8111-111111111111');
SELECT position, payload FROM "Event sourcing".esrs_feed(ARRAY['book']);
SELECT count(*) FROM seen;
SELECT "Event sourcing".esrs_test('book', '{}', '{"A": 1}', ARRAY['{"A": 1}']::jsonb[]);
SELECT severity, object, problem FROM "Event sourcing".esrs_check();

-- DROP EXTENSION is refused as long as there are aggregates
DROP EXTENSION esrs;
SELECT "Event sourcing".esrs_handle_command('book', '11111111-1111-4111-8111-111111111111', '{"A": 3}');
-- CASCADE takes the default, the guard and what uses types of esrs; the events stay
SET client_min_messages = warning;
DROP EXTENSION esrs CASCADE;
SET client_min_messages = notice;
\d book_events
SELECT position, payload FROM book_events ORDER BY position;
SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY 1;
SELECT to_regnamespace('esrs');
-- a table is a table
UPDATE book_events SET version = 7 WHERE position = 1;
-- created again, in the same session, elsewhere: the table is adopted, and positions go on
CREATE EXTENSION esrs;
SELECT esrs_handle_command('book', '11111111-1111-4111-8111-111111111111', '{"A": 4}');
SELECT esrs_register_aggregate('book', handle_command => 'decide(jsonb,jsonb)', apply_event => 'evolve(jsonb,jsonb)');
SELECT esrs_handle_command('book', '11111111-1111-4111-8111-111111111111', '{"A": 4}');
SELECT sequence_number, position, payload FROM book_events ORDER BY position;
SELECT payload FROM esrs_feed(ARRAY['book'], after => 4);
SELECT adopted FROM esrs_aggregates;
-- without aggregates, and with a table that was released, it goes without CASCADE
SELECT esrs_unregister_aggregate('book');
DROP EXTENSION esrs;
SELECT count(*) FROM book_events;
CREATE EXTENSION esrs;
SELECT esrs_register_aggregate('book');
SELECT sequence_number, position FROM esrs_persist('book', '11111111-1111-4111-8111-111111111111', ARRAY['{"A": 5}']::jsonb[]);
-- an extension dropped and undone, as this session sees it
BEGIN;
DROP EXTENSION esrs CASCADE;
ROLLBACK;
SELECT sequence_number, position FROM esrs_persist('book', '11111111-1111-4111-8111-111111111111', ARRAY['{"A": 6}']::jsonb[]);
-- positions that are in the table already are believed, and the sequence moved beyond them
SELECT esrs_unregister_aggregate('book');
UPDATE book_events SET position = 1000000 WHERE sequence_number = 6;
SELECT esrs_register_aggregate('book');
SELECT sequence_number, position FROM esrs_persist('book', '11111111-1111-4111-8111-111111111111', ARRAY['{"A": 7}']::jsonb[]);

-- a database of another encoding is refused
\c :regression
\set VERBOSITY terse
DROP DATABASE regress_esrs_life;
CREATE DATABASE regress_esrs_life TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C';
ALTER DATABASE regress_esrs_life SET lc_messages TO 'C';
\c regress_esrs_life
\set VERBOSITY default
CREATE EXTENSION esrs;
SELECT esrs_register_aggregate('book');
\c :regression
DROP DATABASE regress_esrs_life;
