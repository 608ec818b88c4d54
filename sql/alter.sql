--
-- Changing and taking away aggregates: every option of esrs_alter_aggregate
-- set, left out and null, what it does to the table and to the next command,
-- and esrs_unregister_aggregate with and without events and handlers.
--
-- Fails if an option is not written or written though it was absent, if null
-- does not restore the default, if a refused change changes something, if a
-- stranger may change what is not his, or if unregistering takes away more or
-- less than it should.
--
\set VERBOSITY terse
\set SHOW_CONTEXT never
\pset null '(null)'
SET client_min_messages = warning;
CREATE SCHEMA t_alter;
SET search_path = t_alter, public;
CREATE ROLE regress_esrs_alter_owner;
CREATE ROLE regress_esrs_alter_other;
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

CREATE FUNCTION decide(state jsonb, command jsonb) RETURNS jsonb[]
LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT ARRAY[command]; END;
CREATE FUNCTION decide_twice(state jsonb, command jsonb) RETURNS SETOF jsonb
LANGUAGE sql IMMUTABLE AS $$ SELECT command UNION ALL SELECT command $$;
CREATE FUNCTION evolve(state jsonb, event jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT jsonb_build_object('n', coalesce((state->>'n')::int, 0) + 1); END;
CREATE FUNCTION evolve_tens(state jsonb, event jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT jsonb_build_object('n', coalesce((state->>'n')::int, 0) + 10); END;
CREATE FUNCTION upcast(payload jsonb, version int) RETURNS jsonb
LANGUAGE sql BEGIN ATOMIC SELECT CASE WHEN version IS NULL THEN payload || '{"old": true}' ELSE payload END; END;
CREATE FUNCTION pack(event jsonb) RETURNS jsonb
LANGUAGE sql BEGIN ATOMIC SELECT jsonb_build_object('packed', event); END;
CREATE FUNCTION unpack(payload jsonb) RETURNS jsonb
LANGUAGE sql BEGIN ATOMIC SELECT payload -> 'packed'; END;

CREATE VIEW row AS
SELECT to_jsonb(a) - 'registered_at' - 'events' AS options FROM esrs_aggregates a WHERE name = 'alt';
CREATE VIEW callbacks AS
SELECT pg_get_expr(adbin, adrelid) AS "default" FROM pg_attrdef
 WHERE adrelid = to_regclass('t_alter.alt_events') AND pg_get_expr(adbin, adrelid) LIKE 'esrs%';

-- ------------------------------------------------------------------------
-- Every option
-- ------------------------------------------------------------------------
SELECT esrs_register_aggregate('alt', handle_command => 'decide(jsonb,jsonb)', apply_event => 'evolve(jsonb,jsonb)');
SELECT options AS before FROM row \gset

-- the empty object changes nothing
SELECT esrs_alter_aggregate('alt', '{}');
SELECT options = :'before' AS unchanged FROM row;

-- each option alone: that one changes and no other; null takes it back
CREATE FUNCTION change(key text, value jsonb) RETURNS TABLE (changed text, taken_back boolean)
LANGUAGE plpgsql AS $$
DECLARE
    before jsonb := (SELECT options FROM row);
    after jsonb;
BEGIN
    PERFORM esrs_alter_aggregate('alt', jsonb_build_object(key, value));
    after := (SELECT options FROM row);
    SELECT string_agg(format('%s: %s -> %s', k, before -> k, after -> k), ', ' ORDER BY k) INTO changed
      FROM jsonb_object_keys(before) AS k WHERE before -> k <> after -> k;
    PERFORM esrs_alter_aggregate('alt', jsonb_build_object(key, NULL));
    taken_back := (SELECT options FROM row) = before;
    RETURN NEXT;
END $$;
SELECT o.key, c.* FROM (VALUES
    (1, 'initial_state', '{"n": 5}'::jsonb), (2, 'upcast', '"upcast(jsonb,int)"'), (3, 'from_event', '"pack(jsonb)"'),
    (4, 'to_event', '"unpack(jsonb)"'), (5, 'event_version', '7'), (6, 'event_id_format', '"v4"'),
    (7, 'event_type_path', '"kind"'), (8, 'unique_event_id', 'true'), (9, 'append_only', 'false'),
    (10, 'notify', '"off"'), (11, 'notify_payload', '"event"')) AS o(n, key, value), change(o.key, o.value) AS c
 ORDER BY n
\g (format=unaligned tuples_only=on)
-- so the table is as it was
\d alt_events

-- several at once, and then back
SELECT esrs_alter_aggregate('alt', '{"upcast": "upcast(jsonb,int)", "from_event": "pack(jsonb)", "to_event": "unpack(jsonb)",
    "initial_state": {"n": 100}, "event_version": 2, "notify": "commit", "notify_payload": "reference",
    "unique_event_id": true, "event_id_format": "v4", "event_type_path": "kind"}');
SELECT * FROM callbacks;
SELECT esrs_handle_command('alt', '11111111-1111-4111-8111-111111111111', '{"A": 1}');
SELECT payload, version, substr(id::text, 15, 1) AS id FROM alt_events;
SELECT payload, version FROM esrs_events('alt', '11111111-1111-4111-8111-111111111111');
SELECT esrs_alter_aggregate('alt', '{"upcast": null, "from_event": null, "to_event": null,
    "initial_state": null, "event_version": null, "notify": null, "notify_payload": null,
    "unique_event_id": null, "event_id_format": null, "event_type_path": null}');
SELECT options = :'before' AS unchanged FROM row;
SELECT * FROM callbacks;

-- an empty string for a function is no function, an absent one is not null
SELECT left(try($$SELECT esrs_alter_aggregate('alt', '{"upcast": ""}')$$), 5);

-- ------------------------------------------------------------------------
-- Functions
-- ------------------------------------------------------------------------
SELECT esrs_delete('alt', '11111111-1111-4111-8111-111111111111');
SELECT esrs_handle_command('alt', '11111111-1111-4111-8111-111111111112', '{"A": 1}');
-- another fold: the next command sees it, for old events too
SELECT esrs_alter_aggregate('alt', '{"apply_event": "evolve_tens(jsonb,jsonb)"}');
SELECT esrs_handle_command('alt', '11111111-1111-4111-8111-111111111112', '{"A": 1}');
-- another decision: it is closed to PUBLIC as the first was
SELECT esrs_alter_aggregate('alt', '{"handle_command": "decide_twice(jsonb,jsonb)"}');
SELECT esrs_handle_command('alt', '11111111-1111-4111-8111-111111111112', '{"A": 1}');
SELECT has_function_privilege('public', 'decide_twice(jsonb,jsonb)', 'EXECUTE');
SELECT * FROM callbacks;
-- what the table named before may be dropped now, what it names may not
DROP FUNCTION decide(jsonb, jsonb);
DROP FUNCTION decide_twice(jsonb, jsonb);
CREATE FUNCTION decide(state jsonb, command jsonb) RETURNS jsonb[]
LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT ARRAY[command]; END;
-- a function that cannot be it: nothing changes
SELECT options AS before FROM row \gset
SELECT try($$SELECT esrs_alter_aggregate('alt', '{"apply_event": "pack(jsonb)", "notify": "off"}')$$);
SELECT try($$SELECT esrs_alter_aggregate('alt', '{"apply_event": "gone(jsonb,jsonb)"}')$$);
SELECT try($$SELECT esrs_alter_aggregate('alt', '{"handle_command": null}')$$);
SELECT try($$SELECT esrs_alter_aggregate('alt', '{"apply_event": null}')$$);
SELECT options = :'before' AS unchanged FROM row;
-- to a store and back
SELECT esrs_alter_aggregate('alt', '{"handle_command": null, "apply_event": null}');
SELECT try($$SELECT esrs_handle_command('alt', '11111111-1111-4111-8111-111111111112', '{"A": 1}')$$);
SELECT sequence_number FROM esrs_persist('alt', '11111111-1111-4111-8111-111111111112', ARRAY['{"A": 1}']::jsonb[]);
SELECT * FROM callbacks;
SELECT esrs_alter_aggregate('alt', '{"handle_command": "decide(jsonb,jsonb)", "apply_event": "evolve(jsonb,jsonb)"}');
SELECT esrs_handle_command('alt', '11111111-1111-4111-8111-111111111112', '{"A": 1}');
-- to C and back
\getenv abs_srcdir PG_ABS_SRCDIR
\set testlib :abs_srcdir '/testlib/esrs_testlib'
CREATE FUNCTION c_counter(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'registration_counter' LANGUAGE C;
SELECT try($$SELECT esrs_alter_aggregate('alt', '{"handler": "c_counter(internal)"}')$$);
SELECT esrs_alter_aggregate('alt', '{"handler": "c_counter(internal)", "handle_command": null, "apply_event": null}');
SELECT esrs_handle_command('alt', '11111111-1111-4111-8111-111111111112', '{"Add": {}}');
SELECT kind FROM esrs_aggregates WHERE name = 'alt';
SELECT try($$SELECT esrs_alter_aggregate('alt', '{"initial_state": {}}')$$);
SELECT esrs_alter_aggregate('alt', '{"handler": null, "handle_command": "decide(jsonb,jsonb)", "apply_event": "evolve(jsonb,jsonb)"}');
SELECT esrs_handle_command('alt', '11111111-1111-4111-8111-111111111112', '{"A": 1}');

-- a function that becomes STRICT later is refused then: a strict upcast would
-- drop the events without version
SELECT esrs_alter_aggregate('alt', '{"upcast": "upcast(jsonb,int)"}');
ALTER FUNCTION upcast(jsonb, int) STRICT;
SELECT DISTINCT payload FROM esrs_events('alt', '11111111-1111-4111-8111-111111111112') ORDER BY 1;
SELECT severity FROM esrs_check() WHERE object = 'alt';
ALTER FUNCTION upcast(jsonb, int) CALLED ON NULL INPUT;
SELECT esrs_alter_aggregate('alt', '{"upcast": null}');

-- ------------------------------------------------------------------------
-- append_only and unique_event_id
-- ------------------------------------------------------------------------
SELECT count(*) AS n FROM alt_events \gset
SELECT left(try($$DELETE FROM alt_events$$), 5) AS code;
SELECT esrs_alter_aggregate('alt', '{"append_only": false}');
SELECT tgenabled, encode(tgargs, 'escape') FROM pg_trigger WHERE tgrelid = 'alt_events'::regclass;
BEGIN;
DELETE FROM alt_events WHERE sequence_number > 2;
-- nobody believes in the state of before
SELECT sequence_number, state FROM esrs_load('alt', '11111111-1111-4111-8111-111111111112');
SELECT esrs_handle_command('alt', '11111111-1111-4111-8111-111111111112', '{"A": 1}');
ROLLBACK;
BEGIN;
UPDATE alt_events SET payload = '{"B": 1}' WHERE sequence_number = 1;
SELECT payload FROM esrs_events('alt', '11111111-1111-4111-8111-111111111112', 1, 1);
TRUNCATE alt_events;
SELECT * FROM esrs_load('alt', '11111111-1111-4111-8111-111111111112');
ROLLBACK;
SELECT esrs_alter_aggregate('alt', '{"append_only": true}');
SELECT left(try($$DELETE FROM alt_events$$), 5) AS code;
SELECT left(try($$UPDATE alt_events SET version = 1$$), 5) AS code;
SELECT left(try($$TRUNCATE alt_events$$), 5) AS code;
SELECT count(*) = :n AS all_there FROM alt_events;
-- a guard that was dropped or disabled comes back with any change
DROP TRIGGER esrs_append_only ON alt_events;
SELECT esrs_alter_aggregate('alt', '{}');
SELECT left(try($$DELETE FROM alt_events$$), 5) AS code;
ALTER TABLE alt_events DISABLE TRIGGER esrs_append_only;
SELECT esrs_alter_aggregate('alt', '{}');
SELECT left(try($$DELETE FROM alt_events$$), 5) AS code;
ALTER TABLE alt_events ENABLE TRIGGER esrs_append_only;
SELECT esrs_alter_aggregate('alt', '{}');
SET session_replication_role = replica;
SELECT left(try($$DELETE FROM alt_events$$), 5) AS code;
RESET session_replication_role;

-- unique_event_id where ids are not unique: refused, nothing changes
SELECT esrs_alter_aggregate('alt', '{"append_only": false}');
INSERT INTO alt_events (id, aggregate_id, payload, sequence_number)
SELECT '22222222-2222-4222-8222-222222222222', '11111111-1111-4111-8111-111111111113', '{}', n FROM generate_series(1, 2) AS n;
SELECT left(try($$SELECT esrs_alter_aggregate('alt', '{"unique_event_id": true}')$$), 5) AS code;
SELECT unique_event_id FROM esrs_aggregates WHERE name = 'alt';
DELETE FROM alt_events WHERE id = '22222222-2222-4222-8222-222222222222';
SELECT esrs_alter_aggregate('alt', '{"unique_event_id": true}');
SELECT esrs_alter_aggregate('alt', '{"unique_event_id": true}');
SELECT indexrelid::regclass AS indexes_on_id FROM pg_index WHERE indrelid = 'alt_events'::regclass
   AND pg_get_indexdef(indexrelid) LIKE '%(id)';
-- also when the table was renamed in between
ALTER TABLE alt_events RENAME TO alt_history;
SELECT esrs_alter_aggregate('alt', '{"unique_event_id": false}');
SELECT count(*) AS indexes_on_id FROM pg_index WHERE indrelid = 'alt_history'::regclass
   AND pg_get_indexdef(indexrelid) LIKE '%(id)';
ALTER TABLE alt_history RENAME TO alt_events;
-- and when the index has gone by other ways
SELECT esrs_alter_aggregate('alt', '{"unique_event_id": true}');
DROP INDEX alt_events_id_idx;
SELECT esrs_alter_aggregate('alt', '{"unique_event_id": false}');
SELECT unique_event_id FROM esrs_aggregates WHERE name = 'alt';

-- ------------------------------------------------------------------------
-- What is refused
-- ------------------------------------------------------------------------
SELECT options AS before FROM row \gset
SELECT options, regexp_replace(try(format('SELECT esrs_alter_aggregate(''alt'', %L)', options)), E'\n.*', '') AS refused
  FROM unnest(ARRAY[
    '[]', '"append_only"', '1', 'null', '{"nosuch": 1}', '{"": 1}', '{"Append_only": true}', '{"append_only ": true}', '{"name": "x"}',
    '{"events": "x"}', '{"adopted": true}', '{"if_not_exists": true}', '{"notify": "off", "x\"; drop": 1}',
    '{"append_only": "true"}', '{"append_only": 1}', '{"append_only": []}', '{"unique_event_id": "x"}',
    '{"event_version": "1"}', '{"event_version": true}', '{"event_version": {}}', '{"event_version": -1}',
    '{"upcast": 1}', '{"upcast": ["upcast(jsonb,int)"]}', '{"handler": true}', '{"notify": 1}', '{"notify": "x"}', '{"notify_payload": "x"}',
    '{"notify_payload": {}}', '{"event_id_format": 4}', '{"event_id_format": "v9"}', '{"event_type_path": 1}',
    '{"snapshot_every": 0}']) AS options
\g (format=unaligned tuples_only=on)
SELECT options = :'before' AS unchanged FROM row;
SELECT try($$SELECT esrs_alter_aggregate('alt', NULL)$$);
SELECT try($$SELECT esrs_alter_aggregate(NULL, '{}')$$);
SELECT try($$SELECT esrs_alter_aggregate('nosuch', '{}')$$);
SELECT try($$SELECT esrs_alter_aggregate('alt', '{"nosuch": 1}')$$);
SELECT options, left(try(format('SELECT esrs_alter_aggregate(''alt'', %L)', options)), 5) AS code
  FROM unnest(ARRAY['{"event_version": 1.5}', '{"event_version": 2147483648}', '{"event_version": 1e400}', '{"event_version": 1.0}']) AS options;
SELECT event_version FROM esrs_aggregates WHERE name = 'alt';
SELECT esrs_alter_aggregate('alt', '{"event_version": null}');
BEGIN READ ONLY;
SELECT esrs_alter_aggregate('alt', '{}');
ROLLBACK;
BEGIN READ ONLY;
SELECT esrs_unregister_aggregate('alt');
ROLLBACK;
-- undone with its transaction, also for what this session keeps in mind
BEGIN;
SELECT esrs_alter_aggregate('alt', '{"event_version": 9}');
SELECT esrs_handle_command('alt', '11111111-1111-4111-8111-111111111114', '{"A": 1}');
SELECT version FROM alt_events WHERE aggregate_id = '11111111-1111-4111-8111-111111111114';
ROLLBACK;
SELECT esrs_handle_command('alt', '11111111-1111-4111-8111-111111111114', '{"A": 1}');
SELECT version FROM alt_events WHERE aggregate_id = '11111111-1111-4111-8111-111111111114';

-- only the owner may
GRANT USAGE ON SCHEMA t_alter TO regress_esrs_alter_owner, regress_esrs_alter_other;
GRANT USAGE ON SCHEMA esrs TO regress_esrs_alter_owner, regress_esrs_alter_other;
GRANT CREATE ON SCHEMA t_alter TO regress_esrs_alter_owner;
GRANT EXECUTE ON FUNCTION esrs_alter_aggregate(text, jsonb), esrs_unregister_aggregate(text, boolean),
    esrs.append_only() TO regress_esrs_alter_owner, regress_esrs_alter_other;
GRANT ALL ON alt_events TO regress_esrs_alter_other;
SET ROLE regress_esrs_alter_other;
SELECT try($$SELECT esrs_alter_aggregate('alt', '{}')$$);
SELECT try($$SELECT esrs_unregister_aggregate('alt')$$);
SELECT try($$SELECT esrs_unregister_aggregate('alt', true)$$);
RESET ROLE;
-- who owns the table may, and needs EXECUTE only on what he names anew
ALTER TABLE alt_events OWNER TO regress_esrs_alter_owner;
REVOKE EXECUTE ON FUNCTION evolve_tens(jsonb, jsonb) FROM PUBLIC;
SET ROLE regress_esrs_alter_owner;
SELECT try($$SELECT esrs_alter_aggregate('alt', '{"apply_event": "evolve_tens(jsonb,jsonb)"}')$$);
SELECT try($$SELECT esrs_alter_aggregate('alt', '{"append_only": true, "notify": "off"}')$$) AS result;
RESET ROLE;
-- and must be one who may command
GRANT EXECUTE ON FUNCTION decide(jsonb, jsonb) TO regress_esrs_alter_owner;
SET ROLE regress_esrs_alter_owner;
SELECT try($$SELECT esrs_alter_aggregate('alt', '{"append_only": true, "notify": "off"}')$$) AS result;
RESET ROLE;
SELECT append_only, notify FROM esrs_aggregates WHERE name = 'alt';
ALTER TABLE alt_events OWNER TO CURRENT_USER;

-- ------------------------------------------------------------------------
-- Unregistering
-- ------------------------------------------------------------------------
CREATE TABLE seen (who text, aggregate text);
CREATE FUNCTION both_seen(e esrs_event) RETURNS void LANGUAGE sql AS $$ INSERT INTO seen VALUES ('both', e.aggregate) $$;
CREATE FUNCTION one_seen(e esrs_event) RETURNS void LANGUAGE sql AS $$ INSERT INTO seen VALUES ('one', e.aggregate) $$;
SELECT esrs_register_aggregate('alt_two', handle_command => 'decide(jsonb,jsonb)', apply_event => 'evolve(jsonb,jsonb)');
SELECT esrs_register_handler('alt_both', ARRAY['alt', 'alt_two'], 'both_seen(esrs_event)');
SELECT esrs_register_handler('alt_one', ARRAY['alt'], 'one_seen(esrs_event)');
SELECT esrs_handle_command('alt', '11111111-1111-4111-8111-111111111115', '{"A": 1}', command_id => '33333333-3333-4333-8333-333333333333');
SELECT esrs_handle_command('alt_two', '11111111-1111-4111-8111-111111111115', '{"A": 1}');
SELECT esrs_delete('alt', '11111111-1111-4111-8111-111111111114');
SELECT * FROM seen ORDER BY 1, 2;
SELECT count(*) AS n FROM alt_events \gset

-- without events: the table stays, with all rows, as an ordinary table
SELECT esrs_unregister_aggregate('alt');
\d alt_events
SELECT count(*) = :n AS all_there FROM alt_events;
SELECT name, aggregates FROM esrs_handlers WHERE name LIKE 'alt\_%' ORDER BY name;
SELECT try($$SELECT esrs_handle_command('alt', '11111111-1111-4111-8111-111111111115', '{"A": 1}')$$);
SELECT try($$SELECT esrs_unregister_aggregate('alt')$$);
-- the shared handler keeps serving the other
TRUNCATE seen;
SELECT esrs_handle_command('alt_two', '11111111-1111-4111-8111-111111111115', '{"A": 1}');
SELECT * FROM seen;
-- nothing guards it now, and the functions are free
BEGIN;
UPDATE alt_events SET version = 1;
DROP FUNCTION evolve_tens(jsonb, jsonb);
ROLLBACK;
-- registered again it goes on where it was: states, numbers, positions, deletions, commands
SELECT max(position) AS newest FROM alt_two_events \gset
SELECT esrs_register_aggregate('alt', handle_command => 'decide(jsonb,jsonb)', apply_event => 'evolve(jsonb,jsonb)',
                               unique_event_id => true);
SELECT adopted FROM esrs_aggregates WHERE name = 'alt';
SELECT esrs_handle_command('alt', '11111111-1111-4111-8111-111111111115', '{"A": 1}');
SELECT esrs_handle_command('alt', '11111111-1111-4111-8111-111111111115', '{"A": 1}', command_id => '33333333-3333-4333-8333-333333333333');
SELECT sequence_number, position > :newest AS newer FROM alt_events WHERE aggregate_id = '11111111-1111-4111-8111-111111111115' ORDER BY 1;
SELECT count(*) FROM esrs_feed(ARRAY['alt']) WHERE id IS NULL AND aggregate_id = '11111111-1111-4111-8111-111111111114';
\d alt_events
-- and once more, with the unique index that the last registration left
SELECT esrs_unregister_aggregate('alt', false);
SELECT esrs_register_aggregate('alt', unique_event_id => true);
SELECT count(*) AS indexes_on_id FROM pg_index WHERE indrelid = 'alt_events'::regclass
   AND pg_get_indexdef(indexrelid) LIKE '%(id)';

-- with events: nothing is left
SELECT esrs_unregister_aggregate('alt', drop_events => true);
SELECT to_regclass('alt_events');
SELECT count(*) FROM esrs.commands WHERE aggregate = 'alt';
SELECT count(*) FROM esrs.deletions WHERE aggregate = 'alt';
SELECT esrs_register_aggregate('alt', handle_command => 'decide(jsonb,jsonb)', apply_event => 'evolve(jsonb,jsonb)');
SELECT esrs_handle_command('alt', '11111111-1111-4111-8111-111111111115', '{"A": 1}', command_id => '33333333-3333-4333-8333-333333333333');
SELECT count(*) FROM esrs_feed(ARRAY['alt']);
-- null is the default of drop_events; a view on the table keeps it from being dropped
CREATE VIEW on_alt AS SELECT * FROM alt_events;
SELECT try($$SELECT esrs_unregister_aggregate('alt', true)$$);
SELECT count(*) FROM alt_events;
DROP VIEW on_alt;
SELECT esrs_unregister_aggregate('alt', NULL);
SELECT count(*) FROM alt_events;
DROP TABLE alt_events;
-- a new table of that name knows nothing of the old one's commands and deletions
SELECT esrs_register_aggregate('alt', handle_command => 'decide(jsonb,jsonb)', apply_event => 'evolve(jsonb,jsonb)');
SELECT count(*) FROM esrs_feed(ARRAY['alt']);
SELECT sequence_number, cardinality(events) AS events
  FROM esrs_try_command('alt', '11111111-1111-4111-8111-111111111115', '{"A": 1}', command_id => '33333333-3333-4333-8333-333333333333');
SELECT count(*) FROM alt_events;
DROP TABLE alt_events;
SELECT esrs_unregister_aggregate('alt');
SELECT esrs_register_aggregate('alt', handle_command => 'decide(jsonb,jsonb)', apply_event => 'evolve(jsonb,jsonb)');
SELECT count(*) FROM esrs.commands WHERE aggregate = 'alt';
SELECT esrs_unregister_aggregate('alt', true);
-- undone
BEGIN;
SELECT esrs_unregister_aggregate('alt_two', true);
ROLLBACK;
SELECT esrs_handle_command('alt_two', '11111111-1111-4111-8111-111111111115', '{"A": 1}');
SELECT try($$SELECT esrs_unregister_aggregate(NULL)$$);
SELECT try($$SELECT esrs_unregister_aggregate('nosuch')$$);

-- a table that was dropped: told so, and gone with unregister
SELECT esrs_register_aggregate('alt_dropped', handle_command => 'decide(jsonb,jsonb)', apply_event => 'evolve(jsonb,jsonb)');
DROP TABLE alt_dropped_events;
SELECT try($$SELECT esrs_alter_aggregate('alt_dropped', '{"notify": "off"}')$$);
SELECT try($$SELECT esrs_handle_command('alt_dropped', '11111111-1111-4111-8111-111111111115', '{"A": 1}')$$);
SELECT esrs_unregister_aggregate('alt_dropped', true);
SELECT count(*) FROM esrs_aggregates WHERE name = 'alt_dropped';
-- a table that is another's by now is left alone
SELECT esrs_register_aggregate('alt_lost');
ALTER TABLE alt_lost_events ALTER COLUMN position DROP DEFAULT;
SELECT esrs_unregister_aggregate('alt_lost', true);
SELECT to_regclass('alt_lost_events');
-- unregistered by its own handler: an error or not, but nothing half done
CREATE FUNCTION alters(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN PERFORM esrs_unregister_aggregate(e.aggregate, true); END $$;
SELECT esrs_register_handler('alt_alters', ARRAY['alt_two'], 'alters(esrs_event)');
SELECT left(try($$SELECT esrs_handle_command('alt_two', '11111111-1111-4111-8111-111111111116', '{"A": 1}')$$), 5) IN ('55006', 'ZE006', '{"n":') AS sane;
SELECT count(*) <= 1 AS sane FROM esrs_aggregates WHERE name = 'alt_two';

-- ------------------------------------------------------------------------
SET client_min_messages = warning;
SELECT count(esrs_unregister_aggregate(name, true)) >= 0 AS done FROM esrs_aggregates WHERE name LIKE 'alt%';
DROP SCHEMA t_alter CASCADE;
REVOKE ALL ON SCHEMA esrs FROM regress_esrs_alter_owner, regress_esrs_alter_other;
REVOKE ALL ON FUNCTION esrs_alter_aggregate(text, jsonb), esrs_unregister_aggregate(text, boolean),
    esrs.append_only() FROM regress_esrs_alter_owner, regress_esrs_alter_other;
DROP ROLE regress_esrs_alter_owner, regress_esrs_alter_other;
