--
-- SQL functions that are one expression are planned once and not called: the same
-- results, rights, snapshots and errors.
--
-- Catches: plans that outlive what they were made of, or that serve another role or
-- search_path; functions that do not see what was done so far; states left by an error.
--
CREATE SCHEMA expression;
SET search_path = expression, public;
CREATE FUNCTION as_expressions() RETURNS boolean LANGUAGE sql AS
    $$SELECT count(*) > 0 FROM pg_backend_memory_contexts WHERE name = 'esrs expression'$$;
CREATE FUNCTION plus(a int, b int) RETURNS int LANGUAGE sql RETURN a + b;
CREATE FUNCTION xhandle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE sql
RETURN CASE WHEN (command ->> 'by')::int > 100 THEN NULL ELSE ARRAY[jsonb_build_object('by', 100 / (command ->> 'by')::int)] END;
CREATE FUNCTION xapply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql
BEGIN ATOMIC
    SELECT jsonb_build_object('n', plus((state ->> 'n')::int, (event ->> 'by')::int));
END;
REVOKE EXECUTE ON FUNCTION xhandle FROM PUBLIC;
SELECT esrs_register_aggregate('expression_x', handle_command => 'xhandle(jsonb,jsonb)', apply_event => 'xapply(jsonb,jsonb)', initial_state => '{"n": 0}');
\set a '00000000-0000-0000-0000-00000000000a'
SELECT esrs_handle_command('expression_x', :'a', '{"by": 1}'), as_expressions();
SELECT esrs_handle_command('expression_x', :'a', '{"by": 2}');

-- errors say where, and leave nothing
SELECT esrs_handle_command('expression_x', :'a', '{"by": 0}');
SELECT esrs_handle_command('expression_x', :'a', '{"by": 101}');
SELECT esrs_handle_command('expression_x', :'a', '{"by": "x"}');
SELECT ok, error ->> 'sqlstate' AS sqlstate FROM esrs_try_command('expression_x', :'a', '{"by": 4}');
DO $$
BEGIN
    FOR i IN 1 .. 3 LOOP
        BEGIN
            PERFORM esrs_handle_command('expression_x', '00000000-0000-0000-0000-00000000000a', '{"by": 0}');
        EXCEPTION WHEN division_by_zero THEN
            RAISE NOTICE '%', esrs_handle_command('expression_x', '00000000-0000-0000-0000-00000000000a', '{"by": 5}');
        END;
    END LOOP;
END $$;

-- a function that was put in place is replaced
CREATE OR REPLACE FUNCTION plus(a int, b int) RETURNS int LANGUAGE sql RETURN a + 2 * b;
SELECT esrs_load('expression_x', :'a');
CREATE OR REPLACE FUNCTION plus(a int, b int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN a + b; END';
SELECT esrs_load('expression_x', :'a');

-- rights of the functions in it, and of itself
\set VERBOSITY terse
CREATE ROLE expression_user;
GRANT USAGE ON SCHEMA expression TO expression_user;
GRANT SELECT ON expression_x_events TO expression_user;
REVOKE EXECUTE ON FUNCTION plus FROM PUBLIC;
SELECT esrs_load('expression_x', :'a');
SET ROLE expression_user;
SELECT esrs_load('expression_x', :'a');
RESET ROLE;
GRANT EXECUTE ON FUNCTION plus TO expression_user;
SET ROLE expression_user;
SELECT esrs_load('expression_x', :'a');
RESET ROLE;
REVOKE EXECUTE ON FUNCTION plus FROM expression_user;
SET ROLE expression_user;
SELECT esrs_load('expression_x', :'a');
RESET ROLE;
-- itself needs none, as in a trigger
GRANT EXECUTE ON FUNCTION plus TO expression_user;
REVOKE EXECUTE ON FUNCTION xapply FROM PUBLIC;
SET ROLE expression_user;
SELECT esrs_load('expression_x', :'a');
RESET ROLE;

\set VERBOSITY default
-- a text that is put in place means what its names mean for whoever calls
CREATE SCHEMA expression_one;
CREATE SCHEMA expression_two;
CREATE FUNCTION expression_one.who() RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT 'one'$$;
CREATE FUNCTION expression_two.who() RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT 'two'$$;
SET search_path = expression, public, expression_one;
CREATE FUNCTION asks() RETURNS text LANGUAGE sql AS 'SELECT who()';
CREATE FUNCTION yhandle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE sql RETURN ARRAY[jsonb_build_object('who', asks())];
CREATE FUNCTION yapply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql RETURN event;
REVOKE EXECUTE ON FUNCTION yhandle FROM PUBLIC;
SELECT esrs_register_aggregate('expression_y', handle_command => 'yhandle(jsonb,jsonb)', apply_event => 'yapply(jsonb,jsonb)');
SELECT esrs_handle_command('expression_y', :'a', '{}');
SET search_path = expression, public, expression_two;
SELECT esrs_handle_command('expression_y', :'a', '{}');
SET search_path = expression, public, expression_one;
SELECT esrs_handle_command('expression_y', :'a', '{}');
CREATE FUNCTION expression.who() RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT 'nearer'$$;
SELECT esrs_handle_command('expression_y', :'a', '{}');
DROP FUNCTION expression.who();
SELECT esrs_handle_command('expression_y', :'a', '{}');
SET search_path = expression, public;
SELECT esrs_handle_command('expression_y', :'a', '{}');

-- functions of the body see what the transaction has done so far, the event itself included
CREATE FUNCTION seen() RETURNS bigint LANGUAGE plpgsql STABLE AS 'BEGIN RETURN (SELECT count(*) FROM expression.expression_z_events); END';
CREATE FUNCTION zhandle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE sql RETURN ARRAY[jsonb_build_object('before', seen())];
CREATE FUNCTION zapply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql RETURN event || jsonb_build_object('at apply', seen());
REVOKE EXECUTE ON FUNCTION zhandle FROM PUBLIC;
SELECT esrs_register_aggregate('expression_z', handle_command => 'zhandle(jsonb,jsonb)', apply_event => 'zapply(jsonb,jsonb)');
SELECT esrs_handle_command('expression_z', gen_random_uuid(), '{}') FROM generate_series(1, 3);

-- a function whose call is in progress is called again
CREATE FUNCTION another() RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    RETURN expression.esrs_again();
END $$;
CREATE FUNCTION esrs_again() RETURNS jsonb LANGUAGE sql AS
    $$SELECT esrs_handle_command('expression_r', gen_random_uuid(), '{"deeper": false}')$$;
CREATE FUNCTION rhandle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE sql
RETURN ARRAY[CASE WHEN (command -> 'deeper')::boolean THEN jsonb_build_object('inner', another()) ELSE '{"inner": null}' END];
CREATE FUNCTION rapply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql RETURN event;
REVOKE EXECUTE ON FUNCTION rhandle FROM PUBLIC;
SELECT esrs_register_aggregate('expression_r', handle_command => 'rhandle(jsonb,jsonb)', apply_event => 'rapply(jsonb,jsonb)');
SELECT esrs_handle_command('expression_r', :'a', '{"deeper": true}');

-- who counts calls has them counted
SET track_functions = 'all';
BEGIN;
SELECT esrs_handle_command('expression_x', :'a', '{"by": 1}');
SELECT funcname, calls FROM pg_stat_xact_user_functions WHERE schemaname = 'expression' AND funcname IN ('xhandle', 'xapply') ORDER BY 1;
ROLLBACK;
RESET track_functions;

SET client_min_messages = warning;
SELECT esrs_unregister_aggregate(name, true) FROM unnest('{expression_x,expression_y,expression_z,expression_r}'::text[]) AS name;
SET search_path = public;
DROP SCHEMA expression, expression_one, expression_two CASCADE;
DROP ROLE expression_user;
