-- What the owner of an events table puts on it must not reach further than the
-- owner's own rights.  Each part was a hole once: with the code that closes it
-- taken out, the role below becomes superuser, runs a function that it may not
-- execute, reads rows of another role, or crashes the server.
\set VERBOSITY terse
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_esrs_owner;
CREATE ROLE regress_esrs_one;
CREATE ROLE regress_esrs_two;
CREATE SCHEMA t_owner AUTHORIZATION regress_esrs_owner;
GRANT USAGE ON SCHEMA t_owner TO PUBLIC;
GRANT USAGE ON SCHEMA esrs TO regress_esrs_owner;
GRANT EXECUTE ON FUNCTION esrs.append_only() TO regress_esrs_owner;
GRANT EXECUTE ON FUNCTION
    esrs_register_aggregate(text, text, text, text, jsonb, text, text, text, int, int, text, text, boolean, boolean, text, text, boolean)
TO regress_esrs_owner;

SET ROLE regress_esrs_owner;
SET search_path = t_owner, public;
CREATE FUNCTION decide(state jsonb, command jsonb) RETURNS jsonb[]
LANGUAGE sql BEGIN ATOMIC SELECT ARRAY[command]; END;
CREATE FUNCTION evolve(state jsonb, event jsonb) RETURNS jsonb
LANGUAGE sql BEGIN ATOMIC SELECT state || event; END;
SELECT esrs_register_aggregate('own', handle_command => 'decide(jsonb,jsonb)', apply_event => 'evolve(jsonb,jsonb)');

-- code in an index, armed after the index was made, that a superuser's
-- esrs_check() must not run: at once, or by a deferred trigger at its commit
CREATE TABLE armed (b boolean);
CREATE TABLE trap (x int);
CREATE FUNCTION take_over() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE 'ALTER ROLE regress_esrs_owner SUPERUSER';
EXCEPTION WHEN insufficient_privilege THEN NULL;
END $$;
CREATE FUNCTION trap_fire() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM t_owner.take_over(); RETURN NULL; END $$;
CREATE CONSTRAINT TRIGGER trap AFTER INSERT ON trap DEFERRABLE INITIALLY DEFERRED
FOR EACH ROW EXECUTE FUNCTION trap_fire();
CREATE FUNCTION spring() RETURNS void LANGUAGE plpgsql AS $$
BEGIN INSERT INTO t_owner.trap VALUES (1); PERFORM t_owner.take_over(); END $$;
CREATE FUNCTION innocent(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF EXISTS (SELECT FROM t_owner.armed) THEN PERFORM t_owner.spring(); END IF;
    RETURN 1;
END $$;
CREATE INDEX own_expression ON own_events (innocent(1));
CREATE UNIQUE INDEX own_predicate ON own_events (aggregate_id, sequence_number) WHERE innocent(1) = 1;
CREATE UNIQUE INDEX own_id_predicate ON own_events (id) WHERE innocent(1) = 1;
CREATE INDEX own_position_predicate ON own_events (position) WHERE innocent(1) = 1;
INSERT INTO armed VALUES (true);
RESET ROLE;
SELECT severity, object FROM esrs_check() WHERE object = 'own';
SELECT esrs_alter_aggregate('own', '{"notify": "off"}');
SELECT rolname, rolsuper FROM pg_roles WHERE rolname = 'regress_esrs_owner';
SET ROLE regress_esrs_owner;
DROP INDEX own_expression, own_predicate, own_id_predicate, own_position_predicate;

-- the default of "position" is the owner's to set, also to functions that are
-- no callbacks, or that he may not execute
ALTER TABLE own_events ALTER position SET DEFAULT esrs.next_position('own', VARIADIC ARRAY['decide(jsonb,jsonb)'::regprocedure, 'pg_catalog.pg_stat_reset()'::regprocedure]);
SELECT esrs_handle_command('own', 'e5e50000-0000-4000-8000-000000000001', '{"n": 1}');
RESET ROLE;
CREATE FUNCTION t_owner.secret(jsonb, jsonb) RETURNS jsonb LANGUAGE sql BEGIN ATOMIC SELECT '{"secret": true}'::jsonb; END;
REVOKE EXECUTE ON FUNCTION t_owner.secret(jsonb, jsonb) FROM PUBLIC;
SET ROLE regress_esrs_owner;
ALTER TABLE own_events ALTER position SET DEFAULT esrs.next_position('own', VARIADIC ARRAY['decide(jsonb,jsonb)'::regprocedure, 'secret(jsonb,jsonb)'::regprocedure]);
SELECT esrs_handle_command('own', 'e5e50000-0000-4000-8000-000000000001', '{"n": 1}');
ALTER TABLE own_events ALTER position SET DEFAULT esrs.next_position('own', VARIADIC ARRAY['decide(jsonb,jsonb)'::regprocedure, 'evolve(jsonb,jsonb)'::regprocedure, 'evolve(jsonb,jsonb)'::regprocedure]);
SELECT esrs_handle_command('own', 'e5e50000-0000-4000-8000-000000000001', '{"n": 1}');
ALTER TABLE own_events ALTER position SET DEFAULT esrs.next_position('own', VARIADIC ARRAY['decide(jsonb,jsonb)'::regprocedure, 'evolve(jsonb,jsonb)'::regprocedure]);
SELECT esrs_handle_command('own', 'e5e50000-0000-4000-8000-000000000001', '{"n": 1}');

-- a payload that is null
ALTER TABLE own_events ALTER payload DROP NOT NULL;
INSERT INTO own_events (id, aggregate_id, payload, sequence_number)
VALUES (gen_random_uuid(), 'e5e50000-0000-4000-8000-000000000001', NULL, 2);
SELECT esrs_load('own', 'e5e50000-0000-4000-8000-000000000001');
SELECT esrs_handle_command('own', 'e5e50000-0000-4000-8000-000000000001', '{"n": 2}');
ALTER TABLE own_events DISABLE TRIGGER ALL;
DELETE FROM own_events WHERE payload IS NULL;
ALTER TABLE own_events ENABLE ALWAYS TRIGGER esrs_append_only;
RESET ROLE;

-- a table that somebody else made first is not adopted by a superuser
SET ROLE regress_esrs_owner;
CREATE TABLE taken_events (id uuid NOT NULL, aggregate_id uuid NOT NULL, payload jsonb NOT NULL,
    occurred_on timestamptz NOT NULL, sequence_number int NOT NULL, UNIQUE (aggregate_id, sequence_number));
RESET ROLE;
SELECT esrs_register_aggregate('taken');

-- nor one that is another aggregate's, by anybody
SET ROLE regress_esrs_owner;
ALTER TABLE own_events ALTER payload SET NOT NULL;
\set VERBOSITY default
ALTER TABLE own_events RENAME TO stolen_events;
SELECT esrs_register_aggregate('stolen');
ALTER TABLE stolen_events RENAME TO own_events;
\set VERBOSITY terse

-- a table from which others inherit: their rows would be events
CREATE TABLE child () INHERITS (own_events);
SELECT esrs_load('own', 'e5e50000-0000-4000-8000-000000000001');
DROP TABLE child;
SELECT sequence_number FROM esrs_load('own', 'e5e50000-0000-4000-8000-000000000001');
RESET ROLE;

-- a handler that became SECURITY DEFINER, and is everybody's
CREATE FUNCTION t_owner.on_event(esrs_event) RETURNS void LANGUAGE sql BEGIN ATOMIC SELECT; END;
SELECT esrs_register_handler('own_handler', '{own}', 't_owner.on_event(esrs_event)');
ALTER FUNCTION t_owner.on_event(esrs_event) SECURITY DEFINER;
\set VERBOSITY default
SELECT * FROM esrs_check() WHERE object = 'own_handler';
\set VERBOSITY terse
SELECT esrs_unregister_handler('own_handler');

-- a function that somebody else made in the place of a dropped one is not tied
-- to the aggregate by its name alone
GRANT CREATE ON SCHEMA t_owner TO regress_esrs_one;
DROP FUNCTION t_owner.evolve(jsonb, jsonb) CASCADE;
SET ROLE regress_esrs_one;
CREATE FUNCTION t_owner.evolve(state jsonb, event jsonb) RETURNS jsonb
LANGUAGE sql BEGIN ATOMIC SELECT '{"impostor": true}'::jsonb; END;
RESET ROLE;
SELECT severity, problem FROM esrs_check() WHERE object = 'own';
SELECT esrs_alter_aggregate('own', '{}');
SELECT esrs_handle_command('own', 'e5e50000-0000-4000-8000-000000000001', '{"n": 2}');
DROP FUNCTION t_owner.evolve(jsonb, jsonb);
SET ROLE regress_esrs_owner;
CREATE FUNCTION evolve(state jsonb, event jsonb) RETURNS jsonb
LANGUAGE sql BEGIN ATOMIC SELECT state || event; END;
RESET ROLE;
SELECT severity FROM esrs_check() WHERE object = 'own';
SELECT esrs_handle_command('own', 'e5e50000-0000-4000-8000-000000000001', '{"n": 2}');

-- a handler that no longer fits stops commands, not reading
ALTER FUNCTION t_owner.on_event(esrs_event) SECURITY INVOKER;
SELECT esrs_register_handler('own_handler', '{own}', 't_owner.on_event(esrs_event)');
ALTER FUNCTION t_owner.on_event(esrs_event) STRICT;
SELECT esrs_handle_command('own', 'e5e50000-0000-4000-8000-000000000001', '{"n": 3}');
SELECT count(*) FROM esrs_events('own', 'e5e50000-0000-4000-8000-000000000001');
SELECT severity, problem FROM esrs_check() WHERE object = 'own_handler';
SELECT esrs_unregister_handler('own_handler');

-- nor is a handler that somebody else made in the place of a dropped one
ALTER FUNCTION t_owner.on_event(esrs_event) CALLED ON NULL INPUT;
SELECT esrs_register_handler('own_handler', '{own}', 't_owner.on_event(esrs_event)');
DROP FUNCTION t_owner.on_event(esrs_event);
SET ROLE regress_esrs_one;
CREATE FUNCTION t_owner.on_event(esrs_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN RAISE WARNING 'the impostor runs as another role'; END $$;
RESET ROLE;
SELECT esrs_handle_command('own', 'e5e50000-0000-4000-8000-000000000001', '{"n": 4}');
SELECT severity, problem FROM esrs_check() WHERE object = 'own_handler';
SELECT esrs_alter_handler('own_handler', '{"handler": "t_owner.on_event(esrs_event)"}');
SELECT esrs_handle_command('own', 'e5e50000-0000-4000-8000-000000000001', '{"n": 4}');
SELECT esrs_unregister_handler('own_handler');

-- the views are for everybody, also where schemas are not
CREATE SCHEMA t_owner_private;
CREATE FUNCTION t_owner_private.on_event(esrs_event) RETURNS void LANGUAGE sql BEGIN ATOMIC SELECT; END;
SELECT esrs_register_handler('private_handler', '{own}', 't_owner_private.on_event(esrs_event)');
SET ROLE regress_esrs_two;
SELECT name, handler FROM esrs_handlers WHERE name = 'private_handler';
RESET ROLE;
SELECT esrs_unregister_handler('private_handler');
DROP SCHEMA t_owner_private CASCADE;

-- what an SQL function keeps must not outlive a change of role, or of search_path
CREATE TABLE t_owner.rows_of (t text, owner name);
INSERT INTO t_owner.rows_of VALUES ('of one', 'regress_esrs_one'), ('of two', 'regress_esrs_two');
ALTER TABLE t_owner.rows_of ENABLE ROW LEVEL SECURITY;
CREATE POLICY one ON t_owner.rows_of TO regress_esrs_one USING (owner = 'regress_esrs_one');
CREATE POLICY two ON t_owner.rows_of TO regress_esrs_two USING (owner = 'regress_esrs_two');
GRANT SELECT ON t_owner.rows_of TO regress_esrs_one, regress_esrs_two;
CREATE FUNCTION t_owner.decide_by_rows(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE sql
AS $$ SELECT array_agg(jsonb_build_object('seen', t)) FROM t_owner.rows_of $$;
SELECT esrs_register_aggregate('seen', handle_command => 't_owner.decide_by_rows(jsonb,jsonb)',
    apply_event => 't_owner.evolve(jsonb,jsonb)');
GRANT EXECUTE ON FUNCTION t_owner.decide_by_rows(jsonb, jsonb) TO regress_esrs_one, regress_esrs_two;
BEGIN;
SET LOCAL ROLE regress_esrs_one;
SELECT esrs_handle_command('seen', 'e5e50000-0000-4000-8000-000000000001', '{"look": 1}');
SET LOCAL ROLE regress_esrs_two;
SELECT esrs_handle_command('seen', 'e5e50000-0000-4000-8000-000000000002', '{"look": 1}');
COMMIT;

-- an aggregate whose table is gone belongs to whoever registered it
DROP TABLE t_owner.own_events;
GRANT EXECUTE ON FUNCTION esrs_unregister_aggregate(text, boolean) TO regress_esrs_one;
SET ROLE regress_esrs_one;
SELECT esrs_unregister_aggregate('own', true);
RESET ROLE;

SELECT esrs_unregister_aggregate('own');
SELECT esrs_unregister_aggregate('seen', true);
REVOKE ALL ON FUNCTION esrs_unregister_aggregate(text, boolean) FROM regress_esrs_one;
RESET search_path;
DROP SCHEMA t_owner CASCADE;
DROP OWNED BY regress_esrs_owner, regress_esrs_one, regress_esrs_two;
DROP ROLE regress_esrs_owner, regress_esrs_one, regress_esrs_two;
