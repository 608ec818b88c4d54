--
-- Rights: who may call what, as whom callbacks, handlers and appends run, and
-- what append-only holds against.
--
-- Fails if a role can do what it was not given, or cannot do what it was; if a
-- callback or handler runs as another role than the caller; if a trigger of a
-- table's owner runs with the rights or the search_path of whoever commands; or
-- if events can be changed by accident.
--
\set VERBOSITY terse
\set SHOW_CONTEXT never
\pset null '(null)'
SET client_min_messages = warning;
CREATE ROLE regress_esrs_registrar;
CREATE ROLE regress_esrs_registrar_two;
CREATE ROLE regress_esrs_commander;
CREATE ROLE regress_esrs_reader;
CREATE ROLE regress_esrs_writer;
CREATE ROLE regress_esrs_eraser;
CREATE ROLE regress_esrs_stranger;
CREATE SCHEMA t_rights;
GRANT USAGE ON SCHEMA t_rights TO PUBLIC;
GRANT CREATE ON SCHEMA t_rights TO regress_esrs_registrar, regress_esrs_registrar_two;
SET search_path = t_rights, public;
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

-- ------------------------------------------------------------------------
-- The registrar: what a superuser grants him, as documented, and not less
-- ------------------------------------------------------------------------
SET ROLE regress_esrs_registrar;
SELECT try($$SELECT esrs_register_aggregate('rgt')$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION esrs_register_aggregate(text, text, text, text, jsonb, text, text, text, int, int, text, text, boolean, boolean, text, text, boolean),
    esrs_alter_aggregate(text, jsonb), esrs_unregister_aggregate(text, boolean),
    esrs_register_handler(text, text[], text, text, text, text[], boolean, text, int, int, text, int, text),
    esrs_alter_handler(text, jsonb), esrs_unregister_handler(text), esrs_check()
    TO regress_esrs_registrar, regress_esrs_registrar_two;
SET ROLE regress_esrs_registrar;
SELECT left(try($$SELECT esrs_register_aggregate('rgt')$$), 5) AS code;
RESET ROLE;
GRANT USAGE ON SCHEMA esrs TO regress_esrs_registrar, regress_esrs_registrar_two;
SET ROLE regress_esrs_registrar;
SELECT left(try($$SELECT esrs_register_aggregate('rgt')$$), 5) AS code;
RESET ROLE;
GRANT EXECUTE ON FUNCTION esrs.append_only() TO regress_esrs_registrar, regress_esrs_registrar_two;

-- who ran what
CREATE TABLE ran (n int GENERATED ALWAYS AS IDENTITY, what text, cur text, ses text);
GRANT INSERT ON ran TO PUBLIC;
CREATE FUNCTION note(what text) RETURNS void LANGUAGE sql AS
$$ INSERT INTO t_rights.ran (what, cur, ses) VALUES (what, current_user, session_user) $$;

SET ROLE regress_esrs_registrar;
CREATE FUNCTION decide(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS
$$ BEGIN PERFORM t_rights.note('handle_command'); RETURN ARRAY[command]; END $$;
CREATE FUNCTION evolve(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS
$$ BEGIN
    PERFORM t_rights.note('apply_event');
    RETURN jsonb_build_object('n', coalesce((state->>'n')::int, 0) + 1);
END $$;
CREATE FUNCTION on_event(e esrs_event) RETURNS void LANGUAGE plpgsql AS
$$ BEGIN PERFORM t_rights.note('handler'); END $$;
CREATE FUNCTION on_delete(id uuid) RETURNS void LANGUAGE plpgsql AS
$$ BEGIN PERFORM t_rights.note('delete_handler'); END $$;
-- EXECUTE of PUBLIC on the deciding function is revoked, with a notice
SELECT has_function_privilege('public', 'decide(jsonb,jsonb)', 'EXECUTE');
\set VERBOSITY default
SELECT esrs_register_aggregate('rgt', handle_command => 'decide(jsonb,jsonb)', apply_event => 'evolve(jsonb,jsonb)');
\set VERBOSITY terse
SELECT has_function_privilege('public', 'decide(jsonb,jsonb)', 'EXECUTE') AS decide,
       has_function_privilege('public', 'evolve(jsonb,jsonb)', 'EXECUTE') AS evolve;
SELECT tableowner FROM pg_tables WHERE tablename = 'rgt_events';
SELECT esrs_register_handler('rgt_on', ARRAY['rgt'], 'on_event(esrs_event)', delete_handler => 'on_delete(uuid)');
RESET ROLE;

-- a function that everybody may EXECUTE and that is another's: told what its owner must say
CREATE FUNCTION of_superuser(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE sql AS $$ SELECT ARRAY[command] $$;
SET ROLE regress_esrs_registrar;
SELECT try($$SELECT esrs_register_aggregate('rgt_two', handle_command => 'of_superuser(jsonb,jsonb)', apply_event => 'evolve(jsonb,jsonb)')$$);
SELECT try($$SELECT esrs_alter_aggregate('rgt', '{"handle_command": "of_superuser(jsonb,jsonb)"}')$$);
RESET ROLE;
REVOKE EXECUTE ON FUNCTION t_rights.of_superuser(pg_catalog.jsonb, pg_catalog.jsonb) FROM PUBLIC;
-- nor may he register what he may not call himself
SET ROLE regress_esrs_registrar;
SELECT try($$SELECT esrs_register_aggregate('rgt_two', handle_command => 'of_superuser(jsonb,jsonb)', apply_event => 'evolve(jsonb,jsonb)')$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION of_superuser(jsonb, jsonb) TO regress_esrs_registrar;
SET ROLE regress_esrs_registrar;
SELECT try($$SELECT esrs_register_aggregate('rgt_two', handle_command => 'of_superuser(jsonb,jsonb)', apply_event => 'evolve(jsonb,jsonb)')$$);
SELECT esrs_unregister_aggregate('rgt_two', true);
RESET ROLE;
-- nor where he may create no table, nor over another's table
CREATE SCHEMA t_rights_closed;
CREATE TABLE rgt_taken_events (id uuid NOT NULL, aggregate_id uuid NOT NULL, payload jsonb NOT NULL,
    occurred_on timestamptz NOT NULL DEFAULT now(), sequence_number int NOT NULL DEFAULT 1, version int,
    UNIQUE (aggregate_id, sequence_number));
GRANT ALL ON rgt_taken_events TO regress_esrs_registrar;
GRANT USAGE ON SCHEMA t_rights_closed TO regress_esrs_registrar;
SET ROLE regress_esrs_registrar;
SELECT try($$SELECT esrs_register_aggregate('rgt_taken')$$);
SET search_path = t_rights_closed, public;
SELECT t_rights.try($$SELECT esrs_register_aggregate('rgt_closed')$$);
SET search_path = t_rights, public;
RESET ROLE;
\d rgt_taken_events
DROP SCHEMA t_rights_closed;
-- another registrar has no right to it
SET ROLE regress_esrs_registrar_two;
SELECT left(try(statement), 60) AS refused FROM unnest(ARRAY[
    $$SELECT esrs_alter_aggregate('rgt', '{}')$$, $$SELECT esrs_unregister_aggregate('rgt')$$,
    $$SELECT esrs_register_handler('rgt_x', ARRAY['rgt'], 'on_event(esrs_event)')$$,
    $$SELECT esrs_alter_handler('rgt_on', '{}')$$, $$SELECT esrs_unregister_handler('rgt_on')$$,
    $$SELECT * FROM rgt_events$$]) AS statement;
RESET ROLE;
-- the internals stay closed to him
SET ROLE regress_esrs_registrar;
SELECT left(try(statement), 60) AS refused FROM unnest(ARRAY[
    $$SELECT * FROM esrs.aggregates$$, $$INSERT INTO esrs.handlers (name) VALUES ('x')$$, $$SELECT * FROM esrs.commands$$,
    $$SELECT * FROM esrs.deletions$$, $$SELECT nextval('esrs.position_seq')$$, $$SELECT setval('esrs.position_seq', 1)$$,
    $$SELECT * FROM esrs.position_seq$$, $$CREATE TABLE esrs.x ()$$]) AS statement;
RESET ROLE;

-- ------------------------------------------------------------------------
-- Roles by functions
-- ------------------------------------------------------------------------
GRANT EXECUTE ON FUNCTION decide(jsonb, jsonb) TO regress_esrs_commander;
GRANT SELECT ON rgt_events TO regress_esrs_reader;
GRANT INSERT ON rgt_events TO regress_esrs_writer;
GRANT DELETE ON rgt_events TO regress_esrs_eraser;

CREATE TABLE calls (n int GENERATED ALWAYS AS IDENTITY, function text, statement text);
GRANT SELECT ON calls TO PUBLIC;
INSERT INTO calls (function, statement) VALUES
    ('handle_command', $$SELECT esrs_handle_command('rgt', '11111111-1111-4111-8111-111111111111', '{"A": 1}')$$),
    ('try_command', $$SELECT ok FROM esrs_try_command('rgt', '11111111-1111-4111-8111-111111111111', '{"A": 1}')$$),
    ('handle_commands', $$SELECT ok FROM esrs_handle_commands(ARRAY[('rgt', '11111111-1111-4111-8111-111111111111', '{"A": 1}', NULL, NULL, NULL)]::esrs_command[])$$),
    ('decide', $$SELECT esrs_decide('rgt', '11111111-1111-4111-8111-111111111111', '{"A": 1}')$$),
    ('test', $$SELECT esrs_test('rgt', '{}', '{"A": 1}', ARRAY['{"A": 1}']::jsonb[])$$),
    ('persist', $$SELECT id IS NOT NULL FROM esrs_persist('rgt', '11111111-1111-4111-8111-111111111112', ARRAY['{"A": 1}']::jsonb[])$$),
    ('load', $$SELECT sequence_number > 0 FROM esrs_load('rgt', '11111111-1111-4111-8111-111111111111')$$),
    ('lock_and_load', $$SELECT sequence_number > 0 FROM esrs_lock_and_load('rgt', '11111111-1111-4111-8111-111111111111')$$),
    ('events', $$SELECT count(*) > 0 FROM esrs_events('rgt', '11111111-1111-4111-8111-111111111111')$$),
    ('feed', $$SELECT count(*) > 0 FROM esrs_feed(ARRAY['rgt'])$$),
    ('delete', $$SELECT esrs_delete('rgt', '11111111-1111-4111-8111-111111111112') >= 0$$),
    ('reject', $$SELECT esrs_reject('No', 'no')$$),
    ('event_json', $$SELECT esrs_event_json(NULL::esrs_event) IS NULL$$),
    ('register_aggregate', $$SELECT esrs_register_aggregate('rgt_by_' || right(current_user, 8), if_not_exists => true) IS NOT NULL$$),
    ('alter_aggregate', $$SELECT esrs_alter_aggregate('rgt', '{}')$$),
    ('unregister_aggregate', $$SELECT esrs_unregister_aggregate('rgt_by_' || right(current_user, 8), true)$$),
    ('register_handler', $$SELECT esrs_register_handler('rgt_by', ARRAY['rgt'], 'on_event(esrs_event)')$$),
    ('alter_handler', $$SELECT esrs_alter_handler('rgt_by', '{}')$$),
    ('unregister_handler', $$SELECT esrs_unregister_handler('rgt_by')$$),
    ('check', $$SELECT count(*) >= 0 FROM esrs_check()$$),
    ('view aggregates', $$SELECT count(*) > 0 FROM esrs_aggregates$$),
    ('view handlers', $$SELECT count(*) > 0 FROM esrs_handlers$$),
    ('insert', $$INSERT INTO rgt_events (id, aggregate_id, payload) VALUES (gen_random_uuid(), gen_random_uuid(), '{"A": 1}') RETURNING true$$),
    ('select', $$SELECT count(*) > 0 FROM rgt_events$$),
    ('update', $$UPDATE rgt_events SET version = 1$$),
    ('delete from', $$DELETE FROM rgt_events$$),
    ('truncate', $$TRUNCATE rgt_events$$),
    ('drop', $$DROP TABLE rgt_events$$);
SELECT esrs_handle_command('rgt', '11111111-1111-4111-8111-111111111111', '{"A": 1}');

CREATE TABLE answers (role text, n int, answer text);
GRANT INSERT ON answers TO PUBLIC;
DO $$
DECLARE
    r text;
BEGIN
    FOREACH r IN ARRAY ARRAY['stranger', 'commander', 'reader', 'writer', 'eraser', 'registrar_two', 'registrar'] LOOP
        EXECUTE 'SET ROLE regress_esrs_' || r;
        INSERT INTO answers SELECT r, n, left(try(statement), 5) FROM calls WHERE function <> 'drop' OR r <> 'registrar' ORDER BY n;
    END LOOP;
    RESET ROLE;
END $$;
INSERT INTO answers SELECT 'superuser', n, left(try(statement), 5) FROM calls WHERE function <> 'drop' ORDER BY n;
-- 42501 is a dot; anything else is shown
CREATE FUNCTION shown(answer text) RETURNS text LANGUAGE sql AS
$$ SELECT CASE answer WHEN '42501' THEN '.' WHEN 't' THEN 'yes' WHEN 'ok' THEN 'yes' ELSE CASE WHEN answer ~ '^[{(]' THEN 'yes' ELSE answer END END $$;
SELECT function,
       max(shown(answer)) FILTER (WHERE role = 'stranger') AS stranger, max(shown(answer)) FILTER (WHERE role = 'commander') AS commander,
       max(shown(answer)) FILTER (WHERE role = 'reader') AS reader, max(shown(answer)) FILTER (WHERE role = 'writer') AS writer,
       max(shown(answer)) FILTER (WHERE role = 'eraser') AS eraser, max(shown(answer)) FILTER (WHERE role = 'registrar_two') AS other,
       max(shown(answer)) FILTER (WHERE role = 'registrar') AS owner, max(shown(answer)) FILTER (WHERE role = 'superuser') AS super
  FROM calls JOIN answers USING (n) GROUP BY n, function ORDER BY n;

-- deciding as a dry run and testing are reading and commanding
GRANT EXECUTE ON FUNCTION decide(jsonb, jsonb) TO regress_esrs_reader;
SET ROLE regress_esrs_reader;
SELECT try($$SELECT esrs_decide('rgt', '11111111-1111-4111-8111-111111111111', '{"A": 1}')$$);
RESET ROLE;
REVOKE EXECUTE ON FUNCTION decide(jsonb, jsonb) FROM regress_esrs_reader;
-- a right that is taken away is gone at the next call, and comes with membership
SET ROLE regress_esrs_commander;
SELECT left(try($$SELECT esrs_handle_command('rgt', '11111111-1111-4111-8111-111111111113', '{"A": 1}')$$), 8);
RESET ROLE;
REVOKE EXECUTE ON FUNCTION decide(jsonb, jsonb) FROM regress_esrs_commander;
SET ROLE regress_esrs_commander;
SELECT try($$SELECT esrs_handle_command('rgt', '11111111-1111-4111-8111-111111111113', '{"A": 1}')$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION decide(jsonb, jsonb) TO regress_esrs_commander;
GRANT regress_esrs_commander TO regress_esrs_stranger;
SET ROLE regress_esrs_stranger;
SELECT left(try($$SELECT esrs_handle_command('rgt', '11111111-1111-4111-8111-111111111113', '{"A": 1}')$$), 8);
RESET ROLE;
REVOKE regress_esrs_commander FROM regress_esrs_stranger;

-- PUBLIC has EXECUTE again when the function was dropped and created: esrs_check() tells
GRANT EXECUTE ON FUNCTION decide(jsonb, jsonb) TO PUBLIC;
SELECT severity, problem, hint FROM esrs_check() WHERE object = 'rgt';
REVOKE EXECUTE ON FUNCTION t_rights.decide(pg_catalog.jsonb,pg_catalog.jsonb) FROM PUBLIC;
SELECT count(*) FROM esrs_check() WHERE object = 'rgt';

-- a commander sees the state his own command made, and no other
SET ROLE regress_esrs_commander;
SELECT esrs_handle_command('rgt', '11111111-1111-4111-8111-111111111113', '{"A": 1}') ? 'n' AS sees;
SELECT try($$SELECT * FROM esrs_load('rgt', '11111111-1111-4111-8111-111111111113')$$);
RESET ROLE;

-- nothing else is asked of a commander: no right on the schema, the table, the fold, or the handlers
CREATE SCHEMA t_rights_hidden;
CREATE FUNCTION t_rights_hidden.decide(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE sql AS $$ SELECT ARRAY[command] $$;
CREATE FUNCTION t_rights_hidden.evolve(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT event $$;
CREATE FUNCTION t_rights_hidden.on_event(e esrs_event) RETURNS void LANGUAGE sql AS $$ SELECT $$;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA t_rights_hidden FROM PUBLIC;
SET search_path = t_rights_hidden, public;
-- no notice here: there is nothing to revoke
SELECT esrs_register_aggregate('rgt_hidden', handle_command => 'decide(jsonb,jsonb)', apply_event => 'evolve(jsonb,jsonb)');
SELECT esrs_register_handler('rgt_hidden', ARRAY['rgt_hidden'], 'on_event(esrs_event)');
SET search_path = t_rights, public;
GRANT EXECUTE ON FUNCTION t_rights_hidden.decide(jsonb, jsonb) TO regress_esrs_commander;
SET ROLE regress_esrs_commander;
SELECT try($$SELECT * FROM t_rights_hidden.rgt_hidden_events$$);
SELECT try($$SELECT esrs_handle_command('rgt_hidden', '11111111-1111-4111-8111-111111111111', '{"A": 1}', command_id => '33333333-3333-4333-8333-333333333332')$$);
SELECT try($$SELECT esrs_handle_command('rgt_hidden', '11111111-1111-4111-8111-111111111111', '{"A": 1}', command_id => '33333333-3333-4333-8333-333333333332')$$);
RESET ROLE;

-- ------------------------------------------------------------------------
-- As whom
-- ------------------------------------------------------------------------
TRUNCATE ran;
SET ROLE regress_esrs_commander;
SELECT esrs_handle_command('rgt', '11111111-1111-4111-8111-111111111114', '{"A": 1}');
RESET ROLE;
SELECT DISTINCT what, cur, ses = session_user AS session FROM ran ORDER BY 1, 2;
TRUNCATE ran;
-- nobody has folded it before
SET esrs.state_cache_size = 0;
SET ROLE regress_esrs_reader;
SELECT sequence_number FROM esrs_load('rgt', '11111111-1111-4111-8111-111111111114');
RESET ROLE;
SET ROLE regress_esrs_eraser;
SELECT esrs_delete('rgt', '11111111-1111-4111-8111-111111111114');
RESET ROLE;
SET ROLE regress_esrs_writer;
SELECT sequence_number FROM esrs_persist('rgt', '11111111-1111-4111-8111-111111111114', ARRAY['{"A": 1}']::jsonb[]);
RESET ROLE;
SELECT DISTINCT what, cur FROM ran ORDER BY 1, 2;
TRUNCATE ran;
-- a handler of the registrar has the rights of who commands, not of its owner
SET ROLE regress_esrs_registrar;
CREATE TABLE private (n int);
CREATE OR REPLACE FUNCTION on_event(e esrs_event) RETURNS void LANGUAGE sql AS $$ INSERT INTO t_rights.private VALUES (1) $$;
RESET ROLE;
SET ROLE regress_esrs_commander;
SELECT try($$SELECT esrs_handle_command('rgt', '11111111-1111-4111-8111-111111111115', '{"A": 1}')$$);
RESET ROLE;
-- unless it is SECURITY DEFINER, as for any function
ALTER FUNCTION on_event(esrs_event) SECURITY DEFINER;
SET ROLE regress_esrs_commander;
SELECT left(try($$SELECT esrs_handle_command('rgt', '11111111-1111-4111-8111-111111111115', '{"A": 1}')$$), 8);
RESET ROLE;
SELECT count(*) FROM private;
SELECT esrs_unregister_handler('rgt_on');

-- the table's owner has triggers on it: they run as he, with a safe search_path,
-- whoever commands, and cannot become another role
SET ROLE regress_esrs_registrar;
CREATE TABLE spied (cur text, ses text, path text, became text);
CREATE FUNCTION spy() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    became text;
BEGIN
    BEGIN
        EXECUTE 'SET ROLE NONE';
        became := current_user;
    EXCEPTION WHEN OTHERS THEN
        became := SQLSTATE;
    END;
    INSERT INTO t_rights.spied VALUES (current_user, session_user, current_setting('search_path'), became);
    RETURN NEW;
END $$;
CREATE TRIGGER spy BEFORE INSERT ON rgt_events FOR EACH ROW EXECUTE FUNCTION spy();
CREATE TRIGGER spy_after AFTER INSERT ON rgt_events FOR EACH STATEMENT EXECUTE FUNCTION spy();
RESET ROLE;
SET ROLE regress_esrs_commander;
SELECT esrs_handle_command('rgt', '11111111-1111-4111-8111-111111111116', '{"A": 1}');
RESET ROLE;
SELECT esrs_handle_command('rgt', '11111111-1111-4111-8111-111111111116', '{"A": 1}');
SELECT cur, path, became, count(*) FROM spied GROUP BY 1, 2, 3;
-- nor with the rights of who deletes
SET ROLE regress_esrs_registrar;
DROP TRIGGER spy ON rgt_events;
DROP TRIGGER spy_after ON rgt_events;
CREATE TRIGGER spy BEFORE DELETE ON rgt_events FOR EACH STATEMENT EXECUTE FUNCTION spy();
RESET ROLE;
TRUNCATE spied;
SELECT esrs_delete('rgt', '11111111-1111-4111-8111-111111111116');
SELECT cur, path, became, count(*) FROM spied GROUP BY 1, 2, 3;
DROP TRIGGER spy ON rgt_events;
-- a trigger that does not let an event in is an error, not a loss
SET ROLE regress_esrs_registrar;
CREATE FUNCTION suppress() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER suppress BEFORE INSERT ON rgt_events FOR EACH ROW EXECUTE FUNCTION suppress();
RESET ROLE;
SELECT try($$SELECT esrs_handle_command('rgt', '11111111-1111-4111-8111-111111111117', '{"A": 1}')$$);
DROP TRIGGER suppress ON rgt_events;
-- names on the caller's search_path do not get between: neither functions nor operators nor tables
CREATE SCHEMA t_rights_trap;
CREATE FUNCTION t_rights_trap.trap(uuid, uuid) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
CREATE OPERATOR t_rights_trap.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = t_rights_trap.trap);
CREATE FUNCTION t_rights_trap.trap(text, text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
CREATE OPERATOR t_rights_trap.= (LEFTARG = text, RIGHTARG = text, FUNCTION = t_rights_trap.trap);
CREATE FUNCTION t_rights_trap.trap(int, int) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
CREATE OPERATOR t_rights_trap.>= (LEFTARG = int, RIGHTARG = int, FUNCTION = t_rights_trap.trap);
CREATE OPERATOR t_rights_trap.<= (LEFTARG = int, RIGHTARG = int, FUNCTION = t_rights_trap.trap);
CREATE FUNCTION t_rights_trap.max(bigint) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
CREATE TABLE t_rights_trap.rgt_events ();
SET search_path = t_rights_trap, pg_catalog, t_rights, public;
SELECT esrs_handle_command('rgt', '11111111-1111-4111-8111-111111111118', '{"A": 1}', command_id => '33333333-3333-4333-8333-333333333331');
SELECT esrs_handle_command('rgt', '11111111-1111-4111-8111-111111111118', '{"A": 1}', command_id => '33333333-3333-4333-8333-333333333331');
SELECT sequence_number FROM esrs_load('rgt', '11111111-1111-4111-8111-111111111118');
SELECT sequence_number FROM esrs_events('rgt', '11111111-1111-4111-8111-111111111118');
SELECT count(*) > 0 FROM esrs_feed(ARRAY['rgt']);
SELECT esrs_alter_aggregate('rgt', '{"event_version": 1}');
SELECT esrs_delete('rgt', '11111111-1111-4111-8111-111111111118');
SELECT count(*) FROM esrs_check() WHERE object OPERATOR(pg_catalog.=) 'rgt';
-- nor when a table is made or adopted
DROP TABLE t_rights_trap.rgt_events;
CREATE DOMAIN t_rights_trap.jsonb AS text;
CREATE DOMAIN t_rights_trap.uuid AS text;
CREATE TABLE t_rights_trap.rgt_old_events (id pg_catalog.uuid NOT NULL, aggregate_id pg_catalog.uuid NOT NULL, payload pg_catalog.jsonb NOT NULL,
    occurred_on timestamptz NOT NULL DEFAULT now(), sequence_number pg_catalog.int4 NOT NULL DEFAULT 1, PRIMARY KEY (aggregate_id, sequence_number));
INSERT INTO t_rights_trap.rgt_old_events (id, aggregate_id, payload)
VALUES ('33333333-3333-4333-8333-333333333331', '33333333-3333-4333-8333-333333333331', '{"A": 1}');
SELECT esrs_register_aggregate('rgt_trap', unique_event_id => true, append_only => false);
SELECT esrs_register_aggregate('rgt_old', unique_event_id => true);
SELECT attname, atttypid::pg_catalog.regtype FROM pg_attribute
 WHERE attrelid OPERATOR(pg_catalog.=) 't_rights_trap.rgt_old_events'::regclass AND attnum OPERATOR(pg_catalog.>) 5::int2 ORDER BY attnum;
SELECT esrs_alter_aggregate('rgt_trap', '{"unique_event_id": false, "append_only": true}');
SELECT esrs_unregister_aggregate('rgt_trap', true), esrs_unregister_aggregate('rgt_old', true);
SET search_path = t_rights, public;
DROP SCHEMA t_rights_trap CASCADE;

-- ------------------------------------------------------------------------
-- Row security: for readers, not for appends
-- ------------------------------------------------------------------------
SELECT esrs_handle_command('rgt', '22222222-2222-4222-8222-222222222221', '{"tenant": "a"}') -> 'n' AS n;
SELECT esrs_handle_command('rgt', '22222222-2222-4222-8222-222222222222', '{"tenant": "b"}') -> 'n' AS n;
ALTER TABLE rgt_events ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_a ON rgt_events FOR SELECT TO regress_esrs_reader USING (payload ->> 'tenant' = 'a');
SET ROLE regress_esrs_reader;
SELECT (esrs_load('rgt', '22222222-2222-4222-8222-222222222221')).state;
SELECT (esrs_load('rgt', '22222222-2222-4222-8222-222222222222')).state;
SELECT (esrs_lock_and_load('rgt', '22222222-2222-4222-8222-222222222222')).state;
SELECT payload FROM esrs_events('rgt', '22222222-2222-4222-8222-222222222221');
SELECT payload FROM esrs_events('rgt', '22222222-2222-4222-8222-222222222222');
SELECT payload FROM esrs_feed(ARRAY['rgt']) WHERE id IS NOT NULL;
SET row_security = off;
SELECT try($$SELECT * FROM esrs_events('rgt', '22222222-2222-4222-8222-222222222221')$$);
RESET row_security;
RESET ROLE;
-- a command of the same role folds all events: what it may do is decided by its function
GRANT EXECUTE ON FUNCTION decide(jsonb, jsonb) TO regress_esrs_reader;
SET ROLE regress_esrs_reader;
SELECT esrs_handle_command('rgt', '22222222-2222-4222-8222-222222222222', '{"tenant": "b"}') -> 'n' AS n;
RESET ROLE;
SET ROLE regress_esrs_commander;
SELECT esrs_handle_command('rgt', '22222222-2222-4222-8222-222222222222', '{"tenant": "b"}') -> 'n' AS n;
RESET ROLE;
-- also when the owner himself is subject to it
ALTER TABLE rgt_events FORCE ROW LEVEL SECURITY;
SET ROLE regress_esrs_commander;
SELECT esrs_handle_command('rgt', '22222222-2222-4222-8222-222222222222', '{"tenant": "b"}') -> 'n' AS n;
RESET ROLE;
ALTER TABLE rgt_events NO FORCE ROW LEVEL SECURITY;
ALTER TABLE rgt_events DISABLE ROW LEVEL SECURITY;

-- rights on columns are no right to read events
GRANT SELECT (id, payload) ON rgt_events TO regress_esrs_stranger;
SET ROLE regress_esrs_stranger;
SELECT left(try($$SELECT * FROM esrs_load('rgt', '22222222-2222-4222-8222-222222222222')$$), 5);
SELECT left(try($$SELECT * FROM esrs_events('rgt', '22222222-2222-4222-8222-222222222222')$$), 5);
SELECT left(try($$SELECT * FROM esrs_feed(ARRAY['rgt'])$$), 5);
RESET ROLE;
-- the feed of two aggregates needs SELECT on both
SELECT esrs_register_aggregate('rgt_secret');
SET ROLE regress_esrs_reader;
SELECT left(try($$SELECT * FROM esrs_feed(ARRAY['rgt', 'rgt_secret'])$$), 5);
RESET ROLE;

-- ------------------------------------------------------------------------
-- Append-only
-- ------------------------------------------------------------------------
SELECT count(*) AS n FROM rgt_events \gset
CREATE FUNCTION attack() RETURNS TABLE (statement text, answer text) LANGUAGE plpgsql AS $$
BEGIN
    FOR statement IN SELECT unnest(ARRAY[
        'UPDATE rgt_events SET payload = ''{}''', 'UPDATE rgt_events SET version = 1 WHERE false', 'UPDATE ONLY rgt_events SET version = 1',
        'DELETE FROM rgt_events', 'DELETE FROM rgt_events WHERE false', 'TRUNCATE rgt_events', 'TRUNCATE rgt_events, rgt_secret_events',
        'TRUNCATE rgt_secret_events CASCADE',
        'INSERT INTO rgt_events (id, aggregate_id, payload) VALUES (gen_random_uuid(), gen_random_uuid(), ''{}'') ON CONFLICT (aggregate_id, sequence_number) DO UPDATE SET payload = excluded.payload',
        'MERGE INTO rgt_events e USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE',
        'MERGE INTO rgt_events e USING (SELECT 1) s ON true WHEN MATCHED THEN UPDATE SET version = 1',
        'WITH d AS (DELETE FROM rgt_events RETURNING 1) SELECT count(*) FROM d']) LOOP
        answer := left(try(statement), 5);
        RETURN NEXT;
    END LOOP;
END $$;
GRANT ALL ON rgt_secret_events TO regress_esrs_registrar;
SET ROLE regress_esrs_registrar;
SELECT * FROM attack();
RESET ROLE;
-- a superuser
SELECT answer, count(*) FROM attack() GROUP BY 1;
-- whoever was granted everything
GRANT ALL ON rgt_events, rgt_secret_events TO regress_esrs_stranger;
SET ROLE regress_esrs_stranger;
SELECT answer, count(*) FROM attack() GROUP BY 1;
RESET ROLE;
-- also in a session that does not fire ordinary triggers
SET session_replication_role = replica;
SELECT answer, count(*) FROM attack() GROUP BY 1;
RESET session_replication_role;
-- by a foreign key that cascades
CREATE TABLE parents (id uuid PRIMARY KEY);
INSERT INTO parents SELECT DISTINCT aggregate_id FROM rgt_events;
ALTER TABLE rgt_events ADD FOREIGN KEY (aggregate_id) REFERENCES parents ON DELETE CASCADE ON UPDATE CASCADE;
SELECT left(try($$DELETE FROM parents$$), 5) AS code;
ALTER TABLE rgt_events DROP CONSTRAINT rgt_events_aggregate_id_fkey;
-- by an updatable view
CREATE VIEW through AS SELECT * FROM rgt_events;
SELECT left(try($$DELETE FROM through$$), 5) AS code;
DROP VIEW through;
SELECT count(*) = :n AS all_there FROM rgt_events;
SELECT try($$UPDATE rgt_events SET version = 1$$);
-- what a trigger or a handler does under esrs_delete is refused as well, but for the events themselves
CREATE FUNCTION sly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM t_rights.rgt_secret_events; RETURN NULL; END $$;
CREATE TRIGGER sly AFTER DELETE ON rgt_events FOR EACH STATEMENT EXECUTE FUNCTION sly();
SELECT left(try($$SELECT esrs_delete('rgt', '22222222-2222-4222-8222-222222222222')$$), 5) AS code;
DROP TRIGGER sly ON rgt_events;
CREATE FUNCTION sly_handler(id uuid) RETURNS void LANGUAGE sql AS $$ DELETE FROM t_rights.rgt_events $$;
SELECT esrs_register_handler('rgt_sly', ARRAY['rgt'], 'on_event(esrs_event)', delete_handler => 'sly_handler(uuid)');
SELECT left(try($$SELECT esrs_delete('rgt', '22222222-2222-4222-8222-222222222222')$$), 5) AS code;
SELECT esrs_unregister_handler('rgt_sly');
-- after an error under esrs_delete() the guard is up again
SELECT left(try($$DELETE FROM rgt_events$$), 5) AS code;
-- the guard's function by itself does nothing
SELECT try($$SELECT esrs.append_only()$$);
CREATE TABLE ordinary (n int);
CREATE TRIGGER wrong BEFORE DELETE ON ordinary FOR EACH STATEMENT EXECUTE FUNCTION esrs.append_only();
SELECT left(try($$DELETE FROM ordinary$$), 5);

-- on purpose: as the owner, with esrs_alter_aggregate, and back
SET ROLE regress_esrs_registrar;
SELECT esrs_alter_aggregate('rgt', '{"append_only": false}');
UPDATE rgt_events SET payload = '{"masked": true}' WHERE aggregate_id = '22222222-2222-4222-8222-222222222221';
DELETE FROM rgt_events WHERE aggregate_id = '22222222-2222-4222-8222-222222222222';
SELECT esrs_alter_aggregate('rgt', '{"append_only": true}');
SELECT try($$DELETE FROM rgt_events$$);
RESET ROLE;
SELECT payload FROM esrs_events('rgt', '22222222-2222-4222-8222-222222222221');
-- or by switching off the guard, which esrs_check() reports
ALTER TABLE rgt_events DISABLE TRIGGER esrs_append_only;
DELETE FROM rgt_events WHERE aggregate_id = '22222222-2222-4222-8222-222222222221';
SELECT severity, problem, hint FROM esrs_check() WHERE object = 'rgt';
SELECT esrs_alter_aggregate('rgt', '{}');
SELECT count(*) FROM esrs_check() WHERE object = 'rgt';
SELECT left(try($$DELETE FROM rgt_events$$), 5) AS code;

-- ------------------------------------------------------------------------
SET client_min_messages = warning;
SELECT count(esrs_unregister_aggregate(name, true)) > 0 AS done FROM esrs_aggregates WHERE name LIKE 'rgt%';
DROP SCHEMA t_rights, t_rights_hidden CASCADE;
DROP OWNED BY regress_esrs_registrar, regress_esrs_registrar_two, regress_esrs_commander, regress_esrs_reader,
    regress_esrs_writer, regress_esrs_eraser, regress_esrs_stranger;
DROP ROLE regress_esrs_registrar, regress_esrs_registrar_two, regress_esrs_commander, regress_esrs_reader,
    regress_esrs_writer, regress_esrs_eraser, regress_esrs_stranger;
