--
-- Event handlers: every argument of esrs_register_handler with its checks,
-- esrs_alter_handler, esrs_unregister_handler, and the views.
--
-- Fails if a function that cannot be a handler is taken, if an option is lost
-- or written though absent, if handlers are called in another order than they
-- were registered in, if a filter lets the wrong events through, or if somebody
-- changes handlers of aggregates that are not his.
--
\set VERBOSITY terse
\set SHOW_CONTEXT never
\pset null '(null)'
SET client_min_messages = warning;
CREATE SCHEMA t_handler;
SET search_path = t_handler, public;
CREATE ROLE regress_esrs_handler_owner;
CREATE ROLE regress_esrs_handler_other;

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

SELECT esrs_register_aggregate('hnd_a'), esrs_register_aggregate('hnd_b');
SET client_min_messages = notice;
CREATE TABLE seen (n int GENERATED ALWAYS AS IDENTITY, who text, what text);
CREATE FUNCTION one(e esrs_event) RETURNS void
LANGUAGE sql BEGIN ATOMIC INSERT INTO t_handler.seen (who, what) VALUES ('one', e.aggregate || ' ' || e.payload); END;
CREATE FUNCTION two(e esrs_event) RETURNS void LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO t_handler.seen (who, what) VALUES ('two', e.aggregate || ' ' || e.payload); END $$;
CREATE FUNCTION many(e esrs_event[]) RETURNS void
LANGUAGE sql BEGIN ATOMIC INSERT INTO t_handler.seen (who, what) VALUES ('many', cardinality(e) || ' of ' || e[1].aggregate); END;
CREATE FUNCTION gone(id uuid) RETURNS void
LANGUAGE sql BEGIN ATOMIC INSERT INTO t_handler.seen (who, what) VALUES ('gone', id::text); END;
CREATE FUNCTION persist(aggregate text, VARIADIC events jsonb[]) RETURNS bigint LANGUAGE sql AS
$$ SELECT count(*) FROM esrs_persist(aggregate, '11111111-1111-4111-8111-111111111111', events) $$;
CREATE VIEW row AS
SELECT to_jsonb(h) - 'registered_at' - 'ordinal' AS options FROM esrs_handlers h WHERE name = 'hnd';

-- ------------------------------------------------------------------------
-- Registering
-- ------------------------------------------------------------------------
SELECT esrs_register_handler('hnd', ARRAY['hnd_a'], 'one(esrs_event)');
SELECT jsonb_pretty(options || jsonb_build_object('run_as', options ->> 'run_as' = current_user)) FROM row;
SELECT persist('hnd_a', '{"A": 1}', '"B"');
SELECT persist('hnd_b', '{"A": 1}');
SELECT who, what FROM seen ORDER BY n;
TRUNCATE seen;

-- everything given
SELECT esrs_register_handler('hnd_full', ARRAY['hnd_b', 'hnd_a'], 'many(esrs_event[])', mode => 'transactional',
    delete_handler => 'gone(uuid)', event_types => ARRAY['A', 'C'], replayable => false, ordering => 'total',
    partitions => 4, batch_size => 7, on_error => 'stop', max_attempts => 9, start_at => 'now');
SELECT mode, aggregates, handler, delete_handler, event_types, replayable, ordering, partitions, batch_size,
       on_error, max_attempts, start_at, run_as = current_user::regrole AS mine FROM esrs_handlers WHERE name = 'hnd_full';
SELECT persist('hnd_a', '{"A": 1}', '"B"', '"C"', '{"D": 1}');
SELECT persist('hnd_b', '"B"');
SELECT esrs_delete('hnd_b', '11111111-1111-4111-8111-111111111111');
SELECT who, what FROM seen ORDER BY n;
TRUNCATE seen;

-- null is the default of each
SELECT esrs_register_handler('hnd_nulls', ARRAY['hnd_a'], 'two(esrs_event)', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
SELECT mode, delete_handler, event_types, replayable, ordering, partitions, batch_size, on_error, max_attempts, start_at
  FROM esrs_handlers WHERE name = 'hnd_nulls';
-- called in the order of registration; set-based ones last, once
SELECT name FROM esrs_handlers WHERE name LIKE 'hnd%' ORDER BY ordinal;
SELECT persist('hnd_a', '{"A": 1}', '{"A": 2}');
SELECT who, what FROM seen ORDER BY n;
TRUNCATE seen;
-- registered anew it is the last
SELECT esrs_unregister_handler('hnd');
SELECT esrs_register_handler('hnd', ARRAY['hnd_a'], 'one(esrs_event)');
SELECT persist('hnd_a', '{"A": 1}');
SELECT who, what FROM seen ORDER BY n;
TRUNCATE seen;
-- one function may be several handlers
SELECT esrs_register_handler('hnd_again', ARRAY['hnd_a'], 'one(esrs_event)');
SELECT persist('hnd_a', '"X"');
SELECT who, what FROM seen ORDER BY n;
SELECT esrs_unregister_handler('hnd_again');
TRUNCATE seen;

-- ------------------------------------------------------------------------
-- What is refused
-- ------------------------------------------------------------------------
SELECT arguments, try(format('SELECT esrs_register_handler(%s)', arguments)) AS refused
  FROM unnest(ARRAY[
    'NULL, ARRAY[''hnd_a''], ''one(esrs_event)''',
    '''hnd_x'', NULL, ''one(esrs_event)''',
    '''hnd_x'', ''{}'', ''one(esrs_event)''',
    '''hnd_x'', ARRAY[''hnd_a'', NULL], ''one(esrs_event)''',
    '''hnd_x'', ARRAY[''hnd_a'', ''hnd_b'', ''hnd_a''], ''one(esrs_event)''',
    '''hnd_x'', ARRAY[''hnd_a'', ''nosuch''], ''one(esrs_event)''',
    '''hnd_x'', ARRAY[''hnd_a''], NULL',
    '''hnd'', ARRAY[''hnd_a''], ''one(esrs_event)''',
    '''hnd_x'', ARRAY[''hnd_a''], ''one(esrs_event)'', mode => ''sync''',
    '''hnd_x'', ARRAY[''hnd_a''], ''one(esrs_event)'', mode => ''''',
    '''hnd_x'', ARRAY[''hnd_a''], ''one(esrs_event)'', event_types => ''{}''',
    '''hnd_x'', ARRAY[''hnd_a''], ''one(esrs_event)'', event_types => ARRAY[''A'', NULL]',
    '''hnd_x'', ARRAY[''hnd_a''], ''one(esrs_event)'', ordering => ''random''',
    '''hnd_x'', ARRAY[''hnd_a''], ''one(esrs_event)'', partitions => 0',
    '''hnd_x'', ARRAY[''hnd_a''], ''one(esrs_event)'', batch_size => -1',
    '''hnd_x'', ARRAY[''hnd_a''], ''one(esrs_event)'', on_error => ''ignore''',
    '''hnd_x'', ARRAY[''hnd_a''], ''one(esrs_event)'', max_attempts => 0',
    '''hnd_x'', ARRAY[''hnd_a''], ''one(esrs_event)'', start_at => ''beginning''']) AS arguments
\g (format=unaligned tuples_only=on)

-- arrays of other shapes are lists
SELECT try($$SELECT esrs_register_handler('hnd_shape', '[5:6]={hnd_a,hnd_b}', 'one(esrs_event)')$$);
SELECT aggregates FROM esrs_handlers WHERE name = 'hnd_shape';
SELECT esrs_unregister_handler('hnd_shape');

-- functions that cannot be handlers: 42809, STRICT: 22023, missing: 42883
CREATE FUNCTION strict_one(e esrs_event) RETURNS void LANGUAGE sql STRICT AS $$ $$;
CREATE FUNCTION strict_gone(id uuid) RETURNS void LANGUAGE sql STRICT AS $$ $$;
CREATE FUNCTION set_one(e esrs_event) RETURNS SETOF int LANGUAGE sql AS $$ SELECT 1 $$;
CREATE FUNCTION two_args(e esrs_event, n int) RETURNS void LANGUAGE sql AS $$ $$;
CREATE FUNCTION json_arg(e jsonb) RETURNS void LANGUAGE sql AS $$ $$;
CREATE FUNCTION any_arg(e anyelement) RETURNS void LANGUAGE sql AS $$ $$;
CREATE FUNCTION rec_arg(e record) RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE FUNCTION state_arg(e esrs_state) RETURNS void LANGUAGE sql AS $$ $$;
CREATE FUNCTION variadic_events(VARIADIC e esrs_event[]) RETURNS void LANGUAGE sql AS $$ $$;
CREATE FUNCTION trig() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE PROCEDURE proc(e esrs_event) LANGUAGE sql AS $$ $$;
CREATE FUNCTION first_event(a esrs_event, b esrs_event) RETURNS esrs_event LANGUAGE sql AS $$ SELECT a $$;
CREATE AGGREGATE agg(esrs_event) (sfunc = first_event, stype = esrs_event);
SELECT signature, try(format('SELECT esrs_register_handler(''hnd_w'', ARRAY[''hnd_a''], %L)', signature)) AS refused
  FROM unnest(ARRAY['set_one(esrs_event)', 'two_args(esrs_event,int)', 'json_arg(jsonb)', 'any_arg(anyelement)', 'rec_arg(record)',
                    'state_arg(esrs_state)', 'trig()', 'proc(esrs_event)', 'agg(esrs_event)', 'gone(uuid)',
                    'strict_one(esrs_event)', 'nosuch(esrs_event)', 'one(esrs_event[])']) AS signature
\g (format=unaligned tuples_only=on)
SELECT signature, try(format('SELECT esrs_register_handler(''hnd_w'', ARRAY[''hnd_a''], ''one(esrs_event)'', delete_handler => %L)', signature)) AS refused
  FROM unnest(ARRAY['one(esrs_event)', 'json_arg(jsonb)', 'strict_gone(uuid)', 'nosuch(uuid)', 'proc(esrs_event)', '']) AS signature
\g (format=unaligned tuples_only=on)
-- any result type will do, its value is not looked at; nor is a VARIADIC array another
CREATE FUNCTION returns_int(e esrs_event) RETURNS int LANGUAGE sql AS $$ SELECT NULL::int $$;
SELECT esrs_register_handler('hnd_int', ARRAY['hnd_a'], 'returns_int(esrs_event)');
SELECT esrs_register_handler('hnd_variadic', ARRAY['hnd_a'], 'variadic_events(esrs_event[])');
SELECT persist('hnd_a', '"X"');
SELECT esrs_unregister_handler('hnd_int'), esrs_unregister_handler('hnd_variadic');
SELECT count(*) FROM esrs_handlers WHERE name IN ('hnd_x', 'hnd_w', 'hnd_shape');
TRUNCATE seen;

-- ------------------------------------------------------------------------
-- Altering
-- ------------------------------------------------------------------------
SELECT options AS before FROM row \gset
SELECT esrs_alter_handler('hnd', '{}');
SELECT options = :'before' AS unchanged FROM row;
CREATE FUNCTION change(key text, value jsonb, back jsonb) RETURNS TABLE (changed text, taken_back boolean)
LANGUAGE plpgsql AS $$
DECLARE
    before jsonb := (SELECT options FROM row);
    after jsonb;
BEGIN
    PERFORM esrs_alter_handler('hnd', jsonb_build_object(key, value));
    after := (SELECT options FROM row);
    SELECT string_agg(format('%s: %s -> %s', k, before -> k, after -> k), ', ' ORDER BY k) INTO changed
      FROM jsonb_object_keys(before) AS k WHERE before -> k <> after -> k;
    PERFORM esrs_alter_handler('hnd', jsonb_build_object(key, back));
    taken_back := (SELECT options FROM row) = before;
    RETURN NEXT;
END $$;
SELECT o.key, c.* FROM (VALUES
    (1, 'aggregates', '["hnd_b", "hnd_a"]'::jsonb, '["hnd_a"]'::jsonb), (2, 'handler', '"many(esrs_event[])"', '"one(esrs_event)"'),
    (3, 'delete_handler', '"gone(uuid)"', NULL), (4, 'event_types', '["A"]', NULL), (5, 'replayable', 'false', NULL),
    (6, 'ordering', '"total"', NULL), (7, 'partitions', '3', NULL), (8, 'batch_size', '5', NULL), (9, 'on_error', '"park"', NULL),
    (10, 'max_attempts', '2', NULL)) AS o(n, key, value, back), change(o.key, o.value, o.back) AS c
 ORDER BY n
\g (format=unaligned tuples_only=on)
SELECT esrs_alter_handler('hnd', '{"mode": "transactional"}');
SELECT esrs_alter_handler('hnd', '{"mode": null}');

-- the next event goes by it; the place in the order stays
SELECT esrs_unregister_handler('hnd_full');
SELECT esrs_alter_handler('hnd_nulls', '{"handler": "one(esrs_event)", "event_types": ["Q"]}');
SELECT esrs_alter_handler('hnd', '{"handler": "two(esrs_event)", "aggregates": ["hnd_a", "hnd_b"]}');
SELECT persist('hnd_a', '"Q"', '"R"'), persist('hnd_b', '"R"');
SELECT who, what FROM seen ORDER BY n;
TRUNCATE seen;
SELECT esrs_alter_handler('hnd', '{"handler": "one(esrs_event)", "aggregates": ["hnd_a"]}');
SELECT options = :'before' AS unchanged FROM row;

-- refused, and nothing changes
SELECT options, regexp_replace(try(format('SELECT esrs_alter_handler(''hnd'', %L)', options)), E'\n.*', '') AS refused
  FROM unnest(ARRAY['[]', '"x"', 'null', '{"nosuch": 1}', '{"name": "x"}', '{"start_at": "now"}', '{"run_as": "x"}', '{"ordinal": 1}',
    '{"aggregates": []}', '{"aggregates": null}', '{"aggregates": "hnd_a"}', '{"aggregates": [1]}', '{"aggregates": ["hnd_a", null]}',
    '{"aggregates": ["nosuch"]}', '{"aggregates": {"hnd_a": 1}}',
    '{"handler": null}', '{"handler": 1}', '{"handler": "nosuch(esrs_event)"}', '{"handler": "gone(uuid)"}',
    '{"delete_handler": "one(esrs_event)"}', '{"delete_handler": []}',
    '{"event_types": []}', '{"event_types": "A"}', '{"event_types": [["A"]]}', '{"event_types": [1]}',
    '{"mode": "x"}', '{"replayable": "yes"}', '{"ordering": "x"}', '{"partitions": 0}', '{"partitions": "1"}',
    '{"batch_size": 0}', '{"batch_size": 1.5}', '{"on_error": "x"}', '{"max_attempts": 0}', '{"max_attempts": 1, "batch_size": 0}']) AS options
\g (format=unaligned tuples_only=on)
SELECT options = :'before' AS unchanged FROM row;
SELECT try($$SELECT esrs_alter_handler('hnd', NULL)$$);
SELECT try($$SELECT esrs_alter_handler(NULL, '{}')$$);
SELECT try($$SELECT esrs_alter_handler('nosuch', '{}')$$);
SELECT try($$SELECT esrs_unregister_handler(NULL)$$);
SELECT try($$SELECT esrs_unregister_handler('nosuch')$$);
BEGIN READ ONLY;
SELECT esrs_register_handler('hnd_ro', ARRAY['hnd_a'], 'one(esrs_event)');
ROLLBACK;
BEGIN READ ONLY;
SELECT esrs_alter_handler('hnd', '{}');
ROLLBACK;
BEGIN READ ONLY;
SELECT esrs_unregister_handler('hnd');
ROLLBACK;

-- undone with the transaction, or the savepoint, that did it
BEGIN;
SELECT esrs_register_handler('hnd_undone', ARRAY['hnd_a'], 'two(esrs_event)');
SAVEPOINT s;
SELECT esrs_unregister_handler('hnd');
SELECT persist('hnd_a', '"T"');
ROLLBACK TO s;
SELECT persist('hnd_a', '"U"');
SELECT who, what FROM seen ORDER BY n;
ROLLBACK;
SELECT persist('hnd_a', '"V"');
SELECT who, what FROM seen ORDER BY n;
TRUNCATE seen;

-- ------------------------------------------------------------------------
-- The function of a handler
-- ------------------------------------------------------------------------
-- replaced: the next event calls the new one
CREATE OR REPLACE FUNCTION one(e esrs_event) RETURNS void
LANGUAGE sql BEGIN ATOMIC INSERT INTO t_handler.seen (who, what) VALUES ('new one', e.aggregate || ' ' || e.payload); END;
SELECT persist('hnd_a', '"W"');
SELECT who, what FROM seen ORDER BY n;
TRUNCATE seen;
-- dropped: the command fails, says why, and stores nothing; created again it works
DROP FUNCTION one(esrs_event);
SELECT count(*) AS n FROM hnd_a_events \gset
SELECT try($$SELECT persist('hnd_a', '"Y"')$$);
SELECT count(*) = :n AS unchanged FROM hnd_a_events;
SELECT severity, object, problem, hint FROM esrs_check() WHERE object IN ('hnd', 'hnd_nulls') ORDER BY object;
CREATE FUNCTION one(e esrs_event) RETURNS void
LANGUAGE sql BEGIN ATOMIC INSERT INTO t_handler.seen (who, what) VALUES ('third one', e.aggregate || ' ' || e.payload); END;
SELECT persist('hnd_a', '"Z"');
SELECT who, what FROM seen ORDER BY n;
SELECT count(*) FROM esrs_check() WHERE object IN ('hnd', 'hnd_nulls');
TRUNCATE seen;
-- renamed or of another kind: told so as well
ALTER FUNCTION one(esrs_event) RENAME TO renamed;
SELECT left(try($$SELECT persist('hnd_a', '"Z"')$$), 5);
SELECT DISTINCT severity FROM esrs_check() WHERE object IN ('hnd', 'hnd_nulls');
CREATE FUNCTION one(e esrs_event) RETURNS SETOF int LANGUAGE sql AS $$ SELECT 1 $$;
SELECT left(try($$SELECT persist('hnd_a', '"Z"')$$), 5);
SELECT DISTINCT severity FROM esrs_check() WHERE object IN ('hnd', 'hnd_nulls');
DROP FUNCTION one(esrs_event);
ALTER FUNCTION renamed(esrs_event) RENAME TO one;
SELECT persist('hnd_a', '"Z"');
-- of a set-based one, and of a delete handler
SELECT esrs_register_handler('hnd_full', ARRAY['hnd_a'], 'many(esrs_event[])', delete_handler => 'gone(uuid)');
DROP FUNCTION gone(uuid);
SELECT persist('hnd_a', '"Z"');
SELECT try($$SELECT esrs_delete('hnd_a', '11111111-1111-4111-8111-111111111111')$$);
SELECT count(*) > 0 AS kept FROM hnd_a_events;
SELECT severity, problem FROM esrs_check() WHERE object = 'hnd_full';
SELECT esrs_unregister_handler('hnd_full');

-- ------------------------------------------------------------------------
-- Who may
-- ------------------------------------------------------------------------
GRANT USAGE, CREATE ON SCHEMA t_handler TO regress_esrs_handler_owner, regress_esrs_handler_other;
GRANT USAGE ON SCHEMA esrs TO regress_esrs_handler_owner, regress_esrs_handler_other;
GRANT EXECUTE ON FUNCTION esrs_register_handler(text, text[], text, text, text, text[], boolean, text, int, int, text, int, text),
    esrs_alter_handler(text, jsonb), esrs_unregister_handler(text), esrs.append_only(),
    esrs_register_aggregate(text, text, text, text, jsonb, text, text, text, int, int, text, text, boolean, boolean, text, text, boolean)
    TO regress_esrs_handler_owner, regress_esrs_handler_other;
GRANT ALL ON hnd_a_events, hnd_b_events TO regress_esrs_handler_other;
SET ROLE regress_esrs_handler_owner;
SELECT esrs_register_aggregate('hnd_mine');
SELECT esrs_register_handler('hnd_own', ARRAY['hnd_mine'], 'one(esrs_event)');
-- only handlers of aggregates that are all one's own
SELECT try($$SELECT esrs_register_handler('hnd_mixed', ARRAY['hnd_mine', 'hnd_a'], 'one(esrs_event)')$$);
SELECT try($$SELECT esrs_alter_handler('hnd_own', '{"aggregates": ["hnd_mine", "hnd_a"]}')$$);
SELECT try($$SELECT esrs_alter_handler('hnd', '{"aggregates": ["hnd_mine"]}')$$);
SELECT try($$SELECT esrs_unregister_handler('hnd')$$);
RESET ROLE;
SELECT name, run_as FROM esrs_handlers WHERE name = 'hnd_own';
SET ROLE regress_esrs_handler_other;
SELECT try($$SELECT esrs_register_handler('hnd_theirs', ARRAY['hnd_a'], 'one(esrs_event)')$$);
SELECT try($$SELECT esrs_alter_handler('hnd_own', '{}')$$);
SELECT try($$SELECT esrs_unregister_handler('hnd_own')$$);
RESET ROLE;
-- and only functions that one may EXECUTE
REVOKE EXECUTE ON FUNCTION two(esrs_event) FROM PUBLIC;
SET ROLE regress_esrs_handler_owner;
SELECT try($$SELECT esrs_register_handler('hnd_closed', ARRAY['hnd_mine'], 'two(esrs_event)')$$);
SELECT try($$SELECT esrs_alter_handler('hnd_own', '{"handler": "two(esrs_event)"}')$$);
SELECT try($$SELECT esrs_unregister_handler('hnd_own')$$);
RESET ROLE;
-- PUBLIC keeps EXECUTE on handlers' functions: they are no right to command
SELECT has_function_privilege('public', 'one(esrs_event)', 'EXECUTE');

-- ------------------------------------------------------------------------
SET client_min_messages = warning;
SELECT count(esrs_unregister_aggregate(name, true)) FROM esrs_aggregates WHERE name LIKE 'hnd\_%';
SELECT name FROM esrs_handlers WHERE name LIKE 'hnd%';
DROP SCHEMA t_handler CASCADE;
DROP OWNED BY regress_esrs_handler_owner, regress_esrs_handler_other;
DROP ROLE regress_esrs_handler_owner, regress_esrs_handler_other;
