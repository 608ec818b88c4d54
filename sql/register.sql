--
-- Registration of aggregates: what the extension offers, every argument of
-- esrs_register_aggregate with its checks, and the table that it makes.
--
-- The first part fails if a function, an argument, a default, a result type, a
-- right or a comment of the SQL interface is not exactly what is documented.
-- The rest fails if a check is lost, raises another SQLSTATE or lets a hostile
-- name through, or if the events table has another shape than clients rely on.
--
\set VERBOSITY terse
\set SHOW_CONTEXT never
\pset null '(null)'
SET client_min_messages = warning;
CREATE SCHEMA t_register;
SET search_path = t_register, public;
SET client_min_messages = notice;

-- Runs a statement; its first column, or the error that it ended in.
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
-- What the extension offers
-- ------------------------------------------------------------------------

-- all functions that users call: names, arguments, defaults, results
\pset format unaligned
\pset tuples_only on
SELECT format(E'%s(%s)\n    -> %s', p.proname,
              CASE WHEN p.pronargs > 3
                   THEN E'\n      ' || replace(pg_get_function_arguments(p.oid), ', ', E',\n      ')
                   ELSE pg_get_function_arguments(p.oid) END,
              pg_get_function_result(p.oid))
  FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
       AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
       JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'esrs'
 WHERE p.pronamespace = e.extnamespace
 ORDER BY p.proname COLLATE "C";
\pset tuples_only off
\pset format aligned

CREATE VIEW members AS
SELECT p.*, p.pronamespace = e.extnamespace AS public
  FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
       AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
       JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'esrs';

-- how they are declared; the defaults were shown above
SELECT proname, kind, volatility, parallel, strict, definer, config
  FROM (SELECT proname, prokind AS kind, provolatile AS volatility, proparallel AS parallel,
               proisstrict AS strict, prosecdef AS definer, proconfig AS config FROM members) AS m
 WHERE (kind, volatility, parallel, strict, definer, config IS NULL)
    <> ('f', 'v', 'u', false, false, true)
 ORDER BY proname COLLATE "C";

-- none is SECURITY DEFINER, none has settings, all are in C but one with a BEGIN ATOMIC body
SELECT count(*) FILTER (WHERE prosecdef) AS definer,
       count(*) FILTER (WHERE proconfig IS NOT NULL) AS with_settings,
       count(*) FILTER (WHERE prolang <> (SELECT oid FROM pg_language WHERE lanname = 'c')) AS not_c
  FROM members;

-- each has a comment, and so have types, views, tables and sequences (none)
SELECT proname FROM members WHERE obj_description(oid, 'pg_proc') IS NULL;
SELECT objid::regclass AS without_comment
  FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'esrs'
 WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
   AND d.classid = 'pg_class'::regclass AND obj_description(d.objid, 'pg_class') IS NULL;
SELECT objid::regtype AS without_comment
  FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'esrs'
       JOIN pg_type t ON t.oid = d.objid
 WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND t.typelem = 0
   AND (t.typrelid = 0 OR (SELECT relkind FROM pg_class WHERE oid = t.typrelid) = 'c')
   AND d.classid = 'pg_type'::regclass AND obj_description(d.objid, 'pg_type') IS NULL;

-- what everybody may EXECUTE: commands, reads, tests and the default, nothing else
SELECT pronamespace::regnamespace::text COLLATE "C" AS schema, proname
  FROM members m
 WHERE EXISTS (SELECT FROM aclexplode(coalesce(m.proacl, acldefault('f', m.proowner)))
                WHERE grantee = 0 AND privilege_type = 'EXECUTE')
 ORDER BY 1, proname COLLATE "C";

-- what is not everybody's
SELECT pronamespace::regnamespace::text COLLATE "C" AS schema, proname
  FROM members m
 WHERE NOT EXISTS (SELECT FROM aclexplode(coalesce(m.proacl, acldefault('f', m.proowner)))
                    WHERE grantee = 0 AND privilege_type = 'EXECUTE')
 ORDER BY 1, proname COLLATE "C";

-- relations, and who may read them; the schema of internals is closed
SELECT c.oid::regclass::text COLLATE "C" AS relation, c.relkind,
       has_table_privilege('public', c.oid, 'SELECT') AS everybody_reads,
       has_table_privilege('public', c.oid, 'INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER, REFERENCES') AS everybody_writes
  FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
       AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
       JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'esrs'
 ORDER BY 1;
SELECT has_schema_privilege('public', 'esrs', 'USAGE') AS usage,
       has_schema_privilege('public', 'esrs', 'CREATE') AS creation;

-- the composite types
SELECT t.typname, a.attname, format_type(a.atttypid, a.atttypmod) AS type
  FROM pg_type t JOIN pg_class c ON c.oid = t.typrelid
       JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
 WHERE t.typname IN ('esrs_event', 'esrs_state', 'esrs_result', 'esrs_command')
   AND t.typnamespace = (SELECT extnamespace FROM pg_extension WHERE extname = 'esrs')
 ORDER BY t.typname, a.attnum;

-- the views
\d esrs_aggregates
\d esrs_handlers

-- no column of the catalogs makes pg_upgrade refuse the cluster
SELECT attrelid::regclass, attname
  FROM pg_attribute
 WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'esrs'::regnamespace)
   AND atttypid IN ('regproc'::regtype, 'regprocedure'::regtype, 'regoper'::regtype,
                    'regoperator'::regtype, 'regnamespace'::regtype, 'regconfig'::regtype,
                    'regdictionary'::regtype, 'regcollation'::regtype);

-- type of handler functions: it has no values
SELECT try($$SELECT 'x'::esrs.aggregate_handler$$);

-- ------------------------------------------------------------------------
-- The table that registration makes
-- ------------------------------------------------------------------------
CREATE FUNCTION decide(state jsonb, command jsonb) RETURNS jsonb[]
LANGUAGE sql IMMUTABLE AS $$ SELECT ARRAY[command] $$;
CREATE FUNCTION evolve(state jsonb, event jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$ SELECT jsonb_build_object('n', coalesce((state->>'n')::int, 0) + 1) $$;

SELECT esrs_register_aggregate('reg_shape', handle_command => 'decide(jsonb,jsonb)',
                               apply_event => 'evolve(jsonb,jsonb)');
SELECT pg_typeof(esrs_register_aggregate('reg_shape', if_not_exists => true));
\d reg_shape_events
-- storage, owner, access: an ordinary table of its creator, no member of the extension
SELECT relpersistence, relkind, relrowsecurity, relacl, relowner = current_user::regrole AS mine,
       EXISTS (SELECT FROM pg_depend WHERE objid = c.oid AND deptype IN ('e', 'x')) AS member
  FROM pg_class c WHERE oid = 'reg_shape_events'::regclass;
SELECT conname, contype, pg_get_constraintdef(oid) FROM pg_constraint
 WHERE conrelid = 'reg_shape_events'::regclass;
SELECT tgname, tgenabled, tgfoid::regprocedure, (tgtype & 1) = 0 AS per_statement,
       (tgtype & 2) <> 0 AS before, (tgtype & 4) <> 0 AS ins, (tgtype & 8) <> 0 AS del,
       (tgtype & 16) <> 0 AS upd, (tgtype & 32) <> 0 AS trunc
  FROM pg_trigger WHERE tgrelid = 'reg_shape_events'::regclass AND NOT tgisinternal;
SELECT attname, attnotnull, pg_get_expr(adbin, adrelid) AS "default"
  FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
 WHERE attrelid = 'reg_shape_events'::regclass AND attnum > 0 ORDER BY attnum;

-- what a registration without options means
SELECT to_jsonb(a) - 'registered_at' - 'registered_by' - 'events' AS "row" FROM esrs_aggregates a WHERE name = 'reg_shape';
SELECT events, registered_at BETWEEN now() - interval '10 minutes' AND now() AS registered FROM esrs_aggregates WHERE name = 'reg_shape';

-- ids: v7 by default, v4 on request; both of the RFC's variant
SELECT esrs_register_aggregate('reg_v4', handle_command => 'decide(jsonb,jsonb)',
                               apply_event => 'evolve(jsonb,jsonb)', event_id_format => 'v4');
SELECT esrs_handle_command('reg_shape', '11111111-1111-4111-8111-111111111111', '{"A": 1}');
SELECT esrs_handle_command('reg_v4', '11111111-1111-4111-8111-111111111111', '{"A": 1}');
SELECT substr(id::text, 15, 1) AS version, substr(id::text, 20, 1) IN ('8', '9', 'a', 'b') AS variant,
       abs(extract(epoch FROM occurred_on)
           - ('x' || substr(replace(id::text, '-', ''), 1, 12))::bit(48)::bigint / 1000.0) < 1 AS timed
  FROM reg_shape_events;
SELECT substr(id::text, 15, 1) AS version, substr(id::text, 20, 1) IN ('8', '9', 'a', 'b') AS variant
  FROM reg_v4_events;

-- the guard is there from the start; append_only => false lets through
SELECT try($$DELETE FROM reg_shape_events$$);
SELECT esrs_register_aggregate('reg_open', append_only => false);
SELECT tgname, tgenabled, encode(tgargs, 'escape') FROM pg_trigger
 WHERE tgrelid = 'reg_open_events'::regclass AND NOT tgisinternal;
SELECT count(*) FROM esrs_persist('reg_open', '11111111-1111-4111-8111-111111111111', ARRAY['{"A": 1}', '{"A": 2}']::jsonb[]);
DELETE FROM reg_open_events WHERE sequence_number = 2;
SELECT count(*) FROM reg_open_events;

-- unique_event_id
SELECT esrs_register_aggregate('reg_unique', unique_event_id => true);
SELECT indexrelid::regclass, indisunique, pg_get_indexdef(indexrelid) FROM pg_index
 WHERE indrelid = 'reg_unique_events'::regclass ORDER BY indexrelid::regclass::text COLLATE "C";
SELECT sequence_number FROM esrs_persist('reg_unique', '11111111-1111-4111-8111-111111111111', ARRAY['{"A": 1}']::jsonb[],
    event_ids => ARRAY['22222222-2222-4222-8222-222222222222']::uuid[]);
-- an id that is there already: 23505 of its own, not 40001, and no value in it
SELECT try($$SELECT * FROM esrs_persist('reg_unique', '11111111-1111-4111-8111-111111111112', ARRAY['{"A": 1}']::jsonb[],
    event_ids => ARRAY['22222222-2222-4222-8222-222222222222']::uuid[])$$);
-- without it the id is not unique
SELECT count(*) FROM esrs_persist('reg_open', '11111111-1111-4111-8111-111111111112', ARRAY['{"A": 1}', '{"A": 2}']::jsonb[],
    event_ids => ARRAY['22222222-2222-4222-8222-222222222222', '22222222-2222-4222-8222-222222222222']::uuid[]);

-- ------------------------------------------------------------------------
-- Arguments
-- ------------------------------------------------------------------------
CREATE FUNCTION upcast(payload jsonb, version int) RETURNS jsonb LANGUAGE sql AS $$ SELECT payload $$;
CREATE FUNCTION convert(payload jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT payload $$;
CREATE FUNCTION decide_set(state jsonb, command jsonb) RETURNS SETOF jsonb LANGUAGE sql AS $$ SELECT command $$;

-- all of them at once
SELECT esrs_register_aggregate('reg_all', handle_command => 'decide_set(jsonb,jsonb)',
    apply_event => 'evolve(jsonb,jsonb)', initial_state => '{"n": 10}', upcast => 'upcast(jsonb,int)',
    from_event => 'convert(jsonb)', to_event => 'convert(jsonb)', event_version => 3,
    snapshot_every => NULL, event_id_format => 'v4', event_type_path => 'type',
    unique_event_id => true, append_only => false, notify => 'off', notify_payload => 'event',
    if_not_exists => true);
SELECT name, events, kind, handle_command, apply_event, initial_state, upcast, from_event, to_event
  FROM esrs_aggregates WHERE name = 'reg_all';
SELECT event_version, snapshot_every, event_id_format, event_type_path, unique_event_id, append_only,
       notify, notify_payload, adopted FROM esrs_aggregates WHERE name = 'reg_all';
-- the default of "position" names all functions, in this order
SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = 'reg_all_events'::regclass
   AND adnum = (SELECT attnum FROM pg_attribute WHERE attrelid = 'reg_all_events'::regclass AND attname = 'position');
SELECT esrs_handle_command('reg_all', '11111111-1111-4111-8111-111111111111', '{"type": "A", "x": 1}');
SELECT version FROM reg_all_events;

-- null is the default of every argument that has one
SELECT esrs_register_aggregate('reg_nulls', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
                               NULL, NULL, NULL, NULL, NULL, NULL, NULL);
SELECT kind, event_version, event_id_format, event_type_path, unique_event_id, append_only, notify,
       notify_payload FROM esrs_aggregates WHERE name = 'reg_nulls';

-- a name must be given
SELECT try($$SELECT esrs_register_aggregate(NULL)$$);
-- values that are none
SELECT try(format('SELECT esrs_register_aggregate(''reg_bad'', %s)', argument))
  FROM unnest(ARRAY[
    'event_id_format => ''v5''', 'event_id_format => ''V7''', 'event_id_format => ''''',
    'notify => ''later''', 'notify => ''''', 'notify => ''COMMIT''',
    'notify_payload => ''all''', 'notify_payload => ''''',
    'event_version => -1', 'snapshot_every => 100', 'snapshot_every => 0',
    'initial_state => ''{}''', 'handler => ''''', 'handle_command => ''''']) AS argument;
-- event_version 0 is one; modes of notify
SELECT esrs_register_aggregate('reg_ver0', event_version => 0, notify => 'worker', notify_payload => 'reference');
SELECT esrs_register_aggregate('reg_commit', notify => 'commit');
SELECT name, event_version, notify, notify_payload FROM esrs_aggregates WHERE name IN ('reg_ver0', 'reg_commit') ORDER BY name;

-- an initial state may be any JSON, and the fold starts there
CREATE FUNCTION append(state jsonb, event jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$ SELECT state || event $$;
SELECT esrs_register_aggregate('reg_init', handle_command => 'decide(jsonb,jsonb)',
    apply_event => 'append(jsonb,jsonb)', initial_state => '["begin"]');
SELECT esrs_handle_command('reg_init', '11111111-1111-4111-8111-111111111111', '"go"');
SELECT esrs_register_aggregate('reg_init_null', handle_command => 'decide(jsonb,jsonb)',
    apply_event => 'append(jsonb,jsonb)', initial_state => 'null');
SELECT initial_state, initial_state IS NULL AS missing FROM esrs_aggregates WHERE name = 'reg_init_null';

-- duplicates
SELECT try($$SELECT esrs_register_aggregate('reg_shape')$$);
SELECT try($$SELECT esrs_register_aggregate('reg_shape', if_not_exists => false)$$);
SELECT esrs_register_aggregate('reg_shape', if_not_exists => true);
-- a name is unique in the database, not in a schema
CREATE SCHEMA t_register_other;
SET search_path = t_register_other, public;
SELECT t_register.try($$SELECT esrs_register_aggregate('reg_shape')$$);
SELECT esrs_register_aggregate('reg_shape', if_not_exists => true);
SELECT to_regclass('t_register_other.reg_shape_events');
SET search_path = t_register, public;
DROP SCHEMA t_register_other;

-- a table needs a schema that is there and not temporary
SET search_path = nowhere;
SELECT public.esrs_register_aggregate('reg_nowhere');
SET search_path = pg_temp;
SELECT public.esrs_register_aggregate('reg_temp');
SET search_path = t_register, public;
-- nor may it be made where nothing may be written
BEGIN READ ONLY;
SELECT esrs_register_aggregate('reg_read_only');
ROLLBACK;
BEGIN;
SELECT esrs_register_aggregate('reg_undone');
ROLLBACK;
SELECT count(*) FROM esrs_aggregates WHERE name IN ('reg_nowhere', 'reg_temp', 'reg_read_only', 'reg_undone');
SELECT to_regclass('reg_undone_events');
-- what failed left nothing behind
SELECT count(*) FROM esrs_aggregates WHERE name = 'reg_bad';
SELECT to_regclass('reg_bad_events');

-- ------------------------------------------------------------------------
-- Functions
-- ------------------------------------------------------------------------
\getenv abs_srcdir PG_ABS_SRCDIR
\set testlib :abs_srcdir '/testlib/esrs_testlib'
CREATE FUNCTION c_counter(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'registration_counter' LANGUAGE C;
CREATE FUNCTION c_incomplete(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'registration_incomplete' LANGUAGE C;

-- a handler in C goes with no function of SQL, no initial state and no version
SELECT argument, try(format('SELECT esrs_register_aggregate(''reg_combo'', handler => ''c_counter(internal)'', %s)', argument)) AS refused
  FROM unnest(ARRAY['handle_command => ''decide(jsonb,jsonb)''', 'apply_event => ''evolve(jsonb,jsonb)''',
                    'upcast => ''upcast(jsonb,int)''', 'from_event => ''convert(jsonb)''',
                    'to_event => ''convert(jsonb)''', 'initial_state => ''{}''', 'event_version => 1']) AS argument;
SELECT try($$SELECT esrs_register_aggregate('reg_combo', handler => 'c_incomplete(internal)')$$);
-- a decision needs a fold, and the other way round
SELECT try($$SELECT esrs_register_aggregate('reg_combo', handle_command => 'decide(jsonb,jsonb)')$$);
SELECT try($$SELECT esrs_register_aggregate('reg_combo', apply_event => 'evolve(jsonb,jsonb)')$$);
-- a store without logic may convert what it stores
SELECT esrs_register_aggregate('reg_store', upcast => 'upcast(jsonb,int)', from_event => 'convert(jsonb)',
                               to_event => 'convert(jsonb)', event_version => 1);
SELECT kind FROM esrs_aggregates WHERE name = 'reg_store';
SELECT try($$SELECT esrs_handle_command('reg_store', '11111111-1111-4111-8111-111111111111', '{"A": 1}')$$);
-- the handler in C works
SELECT esrs_register_aggregate('reg_c', handler => 'c_counter(internal)');
SELECT kind, handler FROM esrs_aggregates WHERE name = 'reg_c';
SELECT esrs_handle_command('reg_c', '11111111-1111-4111-8111-111111111111', '{"Add": {}}');

-- functions of every wrong kind, for each callback: 42809, and what it must be
CREATE FUNCTION one(jsonb) RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$;
CREATE FUNCTION one_set(jsonb) RETURNS SETOF jsonb LANGUAGE sql AS $$ SELECT $1 $$;
CREATE FUNCTION nothing() RETURNS jsonb LANGUAGE sql AS $$ SELECT 'null'::jsonb $$;
CREATE FUNCTION three(jsonb, jsonb, jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT $1 $$;
CREATE FUNCTION two_json(json, json) RETURNS jsonb LANGUAGE sql AS $$ SELECT $1::jsonb $$;
CREATE FUNCTION two_text(jsonb, jsonb) RETURNS text LANGUAGE sql AS $$ SELECT 'x' $$;
CREATE FUNCTION two_arrays(jsonb, jsonb) RETURNS SETOF jsonb[] LANGUAGE sql AS $$ SELECT ARRAY[$1] $$;
CREATE FUNCTION two_void(jsonb, jsonb) RETURNS void LANGUAGE sql AS $$ $$;
CREATE FUNCTION two_any(anyelement, anyelement) RETURNS jsonb LANGUAGE sql AS $$ SELECT 'null'::jsonb $$;
CREATE FUNCTION many(VARIADIC jsonb[]) RETURNS jsonb LANGUAGE sql AS $$ SELECT $1[1] $$;
CREATE FUNCTION outs(jsonb, jsonb, OUT a jsonb, OUT b jsonb) LANGUAGE sql AS $$ SELECT $1, $2 $$;
CREATE FUNCTION tab(jsonb, jsonb) RETURNS TABLE (a jsonb, b jsonb) LANGUAGE sql AS $$ SELECT $1, $2 $$;
CREATE FUNCTION two_bigint(jsonb, bigint) RETURNS jsonb LANGUAGE sql AS $$ SELECT $1 $$;
CREATE PROCEDURE proc(jsonb, jsonb) LANGUAGE sql AS $$ $$;
CREATE AGGREGATE agg(jsonb) (sfunc = jsonb_concat, stype = jsonb);
CREATE AGGREGATE agg2(jsonb, jsonb) (sfunc = three, stype = jsonb);
CREATE FUNCTION trig() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE FUNCTION internal_only(internal) RETURNS internal AS 'gin_extract_jsonb_path' LANGUAGE internal STRICT;
CREATE FUNCTION sql_handler(jsonb) RETURNS jsonb LANGUAGE sql AS $$ SELECT $1 $$;

SELECT callback, signature,
       try(format('SELECT esrs_register_aggregate(''reg_wrong'', %s => %L %s)', callback, signature,
                  CASE callback WHEN 'handle_command' THEN ', apply_event => ''evolve(jsonb,jsonb)'''
                                WHEN 'apply_event' THEN ', handle_command => ''decide(jsonb,jsonb)'''
                                ELSE '' END)) AS refused
  INTO TEMP wrong
  FROM unnest(ARRAY['handler', 'handle_command', 'apply_event', 'upcast', 'from_event', 'to_event']) AS callback,
       unnest(ARRAY['one(jsonb)', 'one_set(jsonb)', 'nothing()', 'three(jsonb,jsonb,jsonb)', 'two_json(json,json)',
                    'two_text(jsonb,jsonb)', 'two_arrays(jsonb,jsonb)', 'two_void(jsonb,jsonb)',
                    'two_any(anyelement,anyelement)', 'many(jsonb[])', 'outs(jsonb,jsonb)', 'tab(jsonb,jsonb)',
                    'two_bigint(jsonb,bigint)', 'proc(jsonb,jsonb)', 'agg(jsonb)', 'agg2(jsonb,jsonb)', 'trig()',
                    'row_number()', 'internal_only(internal)', 'c_counter(internal)']) AS signature
 WHERE (callback, signature) <> ('handler', 'c_counter(internal)');
SELECT left(refused, 5) AS code, count(*) FROM wrong GROUP BY 1;
-- all that is said of one of them
SELECT callback, refused FROM wrong WHERE signature = 'proc(jsonb,jsonb)' ORDER BY callback
\g (format=unaligned tuples_only=on)
-- and nothing else is said of the others
SELECT count(*) FROM wrong WHERE refused NOT LIKE '42809: function ' || signature || ' cannot be ' || callback || E'\n  DETAIL: %'
   AND refused NOT LIKE '42809: function ' || signature || E' is not an aggregate handler\n  DETAIL: %';

-- good for one callback and not for another
SELECT callback, try(format('SELECT esrs_register_aggregate(''reg_swap'', %s)', callback)) AS refused
  FROM unnest(ARRAY['handle_command => ''evolve(jsonb,jsonb)'', apply_event => ''evolve(jsonb,jsonb)''',
                    'handle_command => ''decide(jsonb,jsonb)'', apply_event => ''decide(jsonb,jsonb)''',
                    'handle_command => ''decide(jsonb,jsonb)'', apply_event => ''decide_set(jsonb,jsonb)''',
                    'upcast => ''convert(jsonb)''', 'from_event => ''upcast(jsonb,int)''',
                    'to_event => ''decide(jsonb,jsonb)''']) AS callback
\g (format=unaligned tuples_only=on)

-- STRICT functions: 22023
ALTER FUNCTION decide(jsonb, jsonb) STRICT;
SELECT try($$SELECT esrs_register_aggregate('reg_strict', handle_command => 'decide(jsonb,jsonb)', apply_event => 'evolve(jsonb,jsonb)')$$);
ALTER FUNCTION decide(jsonb, jsonb) CALLED ON NULL INPUT;
ALTER FUNCTION evolve(jsonb, jsonb) STRICT;
SELECT try($$SELECT esrs_register_aggregate('reg_strict', handle_command => 'decide(jsonb,jsonb)', apply_event => 'evolve(jsonb,jsonb)')$$);
ALTER FUNCTION evolve(jsonb, jsonb) CALLED ON NULL INPUT;
ALTER FUNCTION upcast(jsonb, int) STRICT;
SELECT try($$SELECT esrs_register_aggregate('reg_strict', upcast => 'upcast(jsonb,int)')$$);
ALTER FUNCTION upcast(jsonb, int) CALLED ON NULL INPUT;
ALTER FUNCTION convert(jsonb) STRICT;
SELECT try($$SELECT esrs_register_aggregate('reg_strict', from_event => 'convert(jsonb)')$$);
SELECT try($$SELECT esrs_register_aggregate('reg_strict', to_event => 'convert(jsonb)')$$);
ALTER FUNCTION convert(jsonb) CALLED ON NULL INPUT;
-- what the hint says helps
SELECT esrs_register_aggregate('reg_strict', upcast => 'upcast(jsonb,int)', to_event => 'convert(jsonb)');

-- functions that go with the session
CREATE FUNCTION pg_temp.upcast(payload jsonb, version int) RETURNS jsonb LANGUAGE sql AS $$ SELECT payload $$;
SELECT left(try($$SELECT esrs_register_aggregate('reg_gone', upcast => 'pg_temp.upcast(jsonb,int)')$$), 5);
-- functions that are not there, and signatures that are none
SELECT signature, left(try(format('SELECT esrs_register_aggregate(''reg_gone'', upcast => %L)', signature)), 5) AS code
  FROM unnest(ARRAY['gone(jsonb,int)', 'nowhere.upcast(jsonb,int)', 'upcast(jsonb)', 'upcast(jsonb,text)',
                    '"UPCAST"(jsonb,int)', repeat('x', 64) || '(jsonb,int)', '-', '0', '1', '4294967295',
                    'upcast(jsonb,nosuchtype)', 'upcast', 'upcast(jsonb,int', 'upcast(jsonb,int))', '', ' ', '(jsonb,int)',
                    'upcast(jsonb,int); DROP TABLE reg_shape_events', 'a.b.c.d(jsonb,int)']) AS signature;
SELECT left(try(format('SELECT esrs_register_aggregate(''reg_gone'', upcast => %L)', repeat('x', 5000) || '(jsonb,int)')), 5);
SELECT try($$SELECT esrs_register_aggregate('reg_gone', upcast => 'gone(jsonb,int)')$$);
-- several ways to write one signature
SELECT signature, try(format('SELECT esrs_register_aggregate(''reg_way_%s'', upcast => %L)', n, signature)) AS result
  FROM unnest(ARRAY['upcast(jsonb,int)', 'UPCAST(jsonb,int)', '"upcast"("jsonb",int4)', ' t_register.upcast ( pg_catalog.jsonb , integer ) '])
       WITH ORDINALITY AS w(signature, n);
SELECT DISTINCT upcast FROM esrs_aggregates WHERE name LIKE 'reg\_way\_%';

-- a signature is found on the caller's search_path, and kept with its schema
CREATE SCHEMA "t register's ""odd""";
CREATE FUNCTION "t register's ""odd"""."De,c(i)de"(state jsonb, command jsonb) RETURNS jsonb[]
LANGUAGE sql AS $$ SELECT ARRAY[command] $$;
SELECT esrs_register_aggregate('reg_odd', handle_command => '"t register''s ""odd"""."De,c(i)de"(jsonb,jsonb)',
                               apply_event => 'evolve(jsonb,jsonb)');
SELECT handle_command, apply_event FROM esrs_aggregates WHERE name = 'reg_odd';
SET search_path = pg_catalog;
SELECT public.esrs_handle_command('reg_odd', '11111111-1111-4111-8111-111111111111', '{"A": 1}');
SET search_path = t_register, public;
-- ------------------------------------------------------------------------
-- Names: each is refused (42602) or works with all that is made from it
-- ------------------------------------------------------------------------
CREATE TABLE hostile (n int GENERATED ALWAYS AS IDENTITY, name text, works boolean);
INSERT INTO hostile (name, works) VALUES
    -- fine
    ('a', true), ('_', true), ('__', true), ('_1', true), ('a1', true), ('book', true), ('snake_case_name', true),
    ('pg_', true), ('pg_class', true), ('pg_toast', true), ('esrs', true), ('esrs_events', true), ('x_events', true),
    -- words that SQL keeps for itself
    ('select', true), ('table', true), ('user', true), ('all', true), ('null', true), ('true', true), ('default', true),
    ('order', true), ('current_user', true), ('position', true), ('values', true), ('returning', true), ('public', true),
    ('drop', true), ('variadic', true), ('array', true), ('excluded', true), ('new', true), ('none', true),
    -- lengths
    (repeat('n', 39), true), (repeat('n', 40), true), (repeat('_', 40), true), (repeat('n', 41), false),
    (repeat('n', 62), false), (repeat('n', 63), false), (repeat('n', 64), false), (repeat('n', 65), false),
    (repeat('n', 128), false), (repeat('n', 100000), false), ('', false),
    -- 40 characters that differ only in the last one
    (repeat('d', 39) || '1', true), (repeat('d', 39) || '2', true),
    -- digits, cases, white space
    ('1', false), ('1a', false), ('0x41', false), ('9_9', false), ('A', false), ('Book', false), ('bOOK', false), ('BOOK', false),
    (' ', false), (' a', false), ('a ', false), ('a b', false), (E'a\n', false), (E'\n', false), (E'a\nb', false), (E'a\tb', false),
    (E'a\rb', false), (E'\u00A0', false), (E'a\u200Bb', false), (E'a\u0001', false), (E'a\u007f', false),
    -- quotes, SQL, formats, patterns
    ('"', false), ('""', false), ('"a"', false), ('''', false), ('a''b', false), ('a''''b', false), ('x"; drop', false),
    ('x"; DROP TABLE reg_shape_events; --', false), ('x''; DROP TABLE reg_shape_events; --', false), ('a;b', false), ('a--', false), ('/*', false), ('*/', false),
    ('a.b', false), ('public.a', false), ('"public"."a"', false), ('.', false), ('..', false), ('/', false), ('../a', false), ('a/b', false), ('\', false), ('a\b', false),
    ('%s', false), ('%n', false), ('%1$s', false), ('{}', false), ('$1', false), ('$$', false), ('a$b', false), (':a', false), ('a:b', false), ('@a', false), ('#', false),
    ('a-b', false), ('-', false), ('a,b', false), ('(a)', false), ('[a]', false), ('*', false), ('a+b', false), ('~', false), ('^a', false), ('a|b', false), ('=', false), ('`a`', false),
    -- letters beyond ASCII
    ('bücher', false), ('ß', false), ('ı', false), ('κ', false), ('книга', false), ('本', false), ('📚', false), (E'e\u0301', false), ('ａ', false),
    (repeat('本', 21), false), (repeat('📚', 16), false);
SELECT count(*) FROM hostile;

-- Registers a name, commands it, reads it, deletes the instance, and takes it away again.
CREATE FUNCTION use_name(given text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    events regclass; state jsonb; n int; fed int; code text;
BEGIN
    events := esrs_register_aggregate(given, handle_command => 'decide(jsonb,jsonb)',
                                      apply_event => 'evolve(jsonb,jsonb)', unique_event_id => true);
    IF (SELECT relname FROM pg_class WHERE oid = events) <> given || '_events' THEN
        RETURN 'wrong table';
    END IF;
    PERFORM esrs_handle_command(given, '11111111-1111-4111-8111-111111111111', '{"A": 1}');
    state := esrs_handle_command(given, '11111111-1111-4111-8111-111111111111', '{"A": 1}', 1);
    SELECT count(*) INTO n FROM esrs_events(given, '11111111-1111-4111-8111-111111111111');
    IF state <> '{"n": 2}' OR n <> 2 THEN
        RETURN 'wrong state';
    END IF;
    IF (SELECT l.state FROM esrs_load(given, '11111111-1111-4111-8111-111111111111') l) <> '{"n": 2}' THEN
        RETURN 'wrong load';
    END IF;
    -- the unique index is the one that decides about lost races
    BEGIN
        EXECUTE format('INSERT INTO %s (id, aggregate_id, payload, sequence_number) SELECT gen_random_uuid(), aggregate_id, payload, 1 FROM %s LIMIT 1', events, events);
        RETURN 'no unique index';
    EXCEPTION WHEN unique_violation THEN
        NULL;
    END;
    IF esrs_delete(given, '11111111-1111-4111-8111-111111111111') <> 2 THEN
        RETURN 'wrong count of deleted events';
    END IF;
    PERFORM esrs_alter_aggregate(given, '{"unique_event_id": false, "append_only": false}');
    PERFORM esrs_alter_aggregate(given, '{"unique_event_id": true, "append_only": null}');
    PERFORM esrs_unregister_aggregate(given, true);
    RETURN 'works';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE;
    RETURN code;
END $$;
-- names that do not do what they should (none), with what they do
SELECT n, left(name, 70) AS name, works, outcome
  FROM (SELECT *, use_name(name) AS outcome FROM hostile OFFSET 0) AS h
 WHERE outcome IS DISTINCT FROM CASE WHEN works THEN 'works' ELSE '42602' END
 ORDER BY n;
SELECT to_regclass('reg_shape_events');

-- all that works at once: nothing that is made from one name collides with another's
SELECT count(*) FROM (SELECT esrs_register_aggregate(name, unique_event_id => true) FROM hostile WHERE works) AS h;
SELECT count(esrs_unregister_aggregate(name, true)) FROM hostile WHERE works;

-- the message has no hostile text in it
SELECT try($$SELECT esrs_register_aggregate('x"; drop')$$);
SELECT try(format('SELECT esrs_register_aggregate(%L)', repeat('n', 41)));
SELECT try($$SELECT esrs_register_aggregate('')$$);

-- the same as names of event handlers
SELECT esrs_register_aggregate('reg_named');
CREATE TABLE seen (name text);
CREATE FUNCTION on_event(e esrs_event) RETURNS void LANGUAGE sql AS $$ INSERT INTO seen VALUES (e.aggregate) $$;
CREATE FUNCTION use_handler_name(given text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    code text;
BEGIN
    PERFORM esrs_register_handler(given, ARRAY['reg_named'], 'on_event(esrs_event)');
    PERFORM esrs_persist('reg_named', gen_random_uuid(), ARRAY['{"A": 1}']::jsonb[]);
    IF (SELECT count(*) FROM seen) <> 1 THEN
        RETURN 'not called';
    END IF;
    DELETE FROM seen;
    PERFORM esrs_alter_handler(given, '{"event_types": ["B"]}');
    PERFORM esrs_persist('reg_named', gen_random_uuid(), ARRAY['{"A": 1}']::jsonb[]);
    IF (SELECT count(*) FROM seen) <> 0 THEN
        RETURN 'called';
    END IF;
    PERFORM esrs_unregister_handler(given);
    RETURN 'works';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE;
    RETURN code;
END $$;
SELECT n, left(name, 70) AS name, works, outcome
  FROM (SELECT *, use_handler_name(name) AS outcome FROM hostile OFFSET 0) AS h
 WHERE outcome IS DISTINCT FROM CASE WHEN works THEN 'works' ELSE '42602' END
 ORDER BY n;

-- and where a name is looked up, it is not found, whatever it is
CREATE FUNCTION look_up(given text) RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
    statement text;
BEGIN
    FOREACH statement IN ARRAY ARRAY[
        'SELECT esrs_handle_command(%L, ''11111111-1111-4111-8111-111111111111'', ''{}'')',
        'SELECT * FROM esrs_persist(%L, ''11111111-1111-4111-8111-111111111111'', ARRAY[''{}'']::jsonb[])',
        'SELECT * FROM esrs_load(%L, ''11111111-1111-4111-8111-111111111111'')',
        'SELECT * FROM esrs_events(%L, ''11111111-1111-4111-8111-111111111111'')',
        'SELECT * FROM esrs_feed(ARRAY[%L])',
        'SELECT esrs_delete(%L, ''11111111-1111-4111-8111-111111111111'')',
        'SELECT esrs_alter_aggregate(%L, ''{}'')',
        'SELECT esrs_unregister_aggregate(%L)',
        'SELECT esrs_alter_handler(%L, ''{}'')',
        'SELECT esrs_unregister_handler(%L)',
        'SELECT esrs_register_handler(''reg_h'', ARRAY[%L], ''on_event(esrs_event)'')'] LOOP
        RETURN NEXT left(try(format(statement, given)), 5);
    END LOOP;
END $$;
SELECT code, count(*) FROM hostile, look_up(name) AS code GROUP BY 1 ORDER BY 1;

-- ------------------------------------------------------------------------
SET client_min_messages = warning;
SELECT count(esrs_unregister_aggregate(name, true)) FROM esrs_aggregates WHERE name LIKE 'reg\_%';
DROP SCHEMA "t register's ""odd""" CASCADE;
DROP SCHEMA t_register CASCADE;
