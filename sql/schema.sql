--
-- from_event and to_event: events that are stored in another form than they have.
--
-- Catches: an event that is shown, folded or handled in its stored form; two functions that are no
-- inverses, whose event is stored all the same; a message about them that shows a value; a form of
-- the Rust library that is stored, typed or given back as another one.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA esrs_schema;
SET search_path = esrs_schema, public;
\pset null (null)
\set a '\'05ce0000-0000-4000-8000-00000000000a\''
\set b '\'05ce0000-0000-4000-8000-00000000000b\''

CREATE FUNCTION try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text; detail text; state text;
BEGIN
    EXECUTE statement;
    RETURN 'done';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, state = RETURNED_SQLSTATE;
    RETURN concat_ws(' | ', state, message, nullif(detail, ''));
END $$;
CREATE FUNCTION handle(state jsonb, command jsonb) RETURNS jsonb[] RETURN ARRAY[command];
CREATE FUNCTION apply(state jsonb, event jsonb) RETURNS jsonb RETURN jsonb_build_object('events', coalesce(state -> 'events', '[]') || jsonb_build_array(event));
CREATE TABLE log (n serial, who text, what text);
CREATE FUNCTION shown() RETURNS TABLE (who text, what text) LANGUAGE sql AS
    $$WITH gone AS (DELETE FROM log RETURNING *) SELECT who, what FROM gone ORDER BY n$$;
CREATE FUNCTION one(e esrs_event) RETURNS void LANGUAGE sql AS
    $$INSERT INTO log (who, what) VALUES ('one', format('%s/%s %s', right(e.aggregate_id::text, 1), e.sequence_number, e.payload))$$;
CREATE FUNCTION typed(e esrs_event[]) RETURNS void LANGUAGE sql AS
    $$INSERT INTO log (who, what) SELECT 'typed', string_agg(format('%s/%s %s', right(u.aggregate_id::text, 1), u.sequence_number, u.payload), ', ' ORDER BY u.position) FROM unnest(e) AS u$$;

-- ------------------------------------------------------------------------
-- A schema for an aggregate that lives
-- ------------------------------------------------------------------------
SELECT esrs_register_aggregate('sc', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)');
SELECT esrs_register_handler('sc_one', '{sc}', 'one(esrs_event)');
SELECT esrs_handle_command('sc', :a, '{"Bought": {"copies": 1}}');
SELECT payload FROM esrs_persist('sc', :a, '{"\"Closed\""}');
-- the forms agree: nothing changes
CREATE FUNCTION pack(event jsonb) RETURNS jsonb RETURN event;
CREATE FUNCTION unpack(payload jsonb) RETURNS jsonb RETURN payload;
SELECT esrs_alter_aggregate('sc', '{"from_event": "pack(jsonb)", "to_event": "unpack(jsonb)"}');
SELECT state FROM esrs_load('sc', :a);
SELECT esrs_handle_command('sc', :a, '{"Bought": {"copies": 2}}');
-- another stored form: short names, and a note of who wrote it; the old one is still read
CREATE OR REPLACE FUNCTION pack(event jsonb) RETURNS jsonb RETURN
    CASE WHEN event = '"Closed"' THEN '"c"' ELSE jsonb_build_object('b', event #> '{Bought,copies}', 'by', 'pack') END;
CREATE OR REPLACE FUNCTION unpack(payload jsonb) RETURNS jsonb RETURN
    CASE WHEN payload = '"c"' THEN '"Closed"' WHEN payload ? 'b' THEN jsonb_build_object('Bought', jsonb_build_object('copies', payload -> 'b')) ELSE payload END;
TRUNCATE log;
SELECT esrs_handle_command('sc', :a, '{"Bought": {"copies": 3}}');
SELECT sequence_number, payload FROM esrs_persist('sc', :a, '{"{\"Bought\": {\"copies\": 4.0}}","\"Closed\""}');
SELECT sequence_number, payload FROM esrs_events('sc', :a);
SELECT sequence_number, payload FROM sc_events ORDER BY 1;
SELECT sequence_number, payload FROM esrs_feed('{sc}');
SELECT jsonb_array_length(state -> 'events') AS events, state -> 'events' -> 5 AS last FROM esrs_load('sc', :a);
SELECT * FROM shown();
-- an asynchronous handler asks for types of events, not of what is stored
SELECT esrs_register_handler('sc_typed', '{sc}', 'typed(esrs_event[])', mode => 'async', start_at => 'beginning', event_types => '{Closed,b}');
CALL esrs_run_handlers('sc_typed');
SELECT esrs_wait_for('sc_typed', timeout => '60s');
SELECT * FROM shown();
SELECT esrs_unregister_handler('sc_typed');
SELECT esrs_subscribe('sc_outside', '{sc}', start_at => 'beginning');
SELECT sequence_number, payload, esrs_event_json(e)::jsonb -> 'payload' = payload AS in_message FROM esrs_poll('sc_outside') AS e;
SELECT esrs_unsubscribe('sc_outside');
-- a dry run and a test see events only
SELECT esrs_decide('sc', :a, '"Closed"');
SELECT esrs_test('sc', '{"\"Closed\""}', '"Closed"', '{"\"Closed\""}');
-- off again: what is stored in the other form is an event as it is
SELECT esrs_alter_aggregate('sc', '{"from_event": null, "to_event": null}');
SELECT sequence_number, payload FROM esrs_events('sc', :a, 4);

-- a store without logic has forms as well
SELECT esrs_register_aggregate('sc_store', from_event => 'pack(jsonb)', to_event => 'unpack(jsonb)');
SELECT payload FROM esrs_persist('sc_store', :a, '{"\"Closed\""}');
SELECT payload FROM sc_store_events;
SELECT payload FROM esrs_events('sc_store', :a);

-- ------------------------------------------------------------------------
-- to_event that does what it must not
-- ------------------------------------------------------------------------
CREATE FUNCTION bad(payload jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    CASE payload ->> 'do'
        WHEN 'null' THEN RETURN NULL;
        WHEN 'jsonb null' THEN RETURN 'null';
        WHEN 'array' THEN RETURN jsonb_build_array(payload);
        WHEN 'number' THEN RETURN '1';
        WHEN 'string' THEN RETURN '"Fine"';
        WHEN 'raise' THEN RAISE 'cannot' USING ERRCODE = 'P0009';
        ELSE RETURN payload;
    END CASE;
END $$;
SELECT esrs_register_aggregate('sc_bad', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)');
CREATE TABLE cases (n int, what text, id uuid DEFAULT gen_random_uuid());
INSERT INTO cases SELECT n, what FROM unnest('{"null",jsonb null,array,number,string,raise}'::text[]) WITH ORDINALITY AS x(what, n);
SELECT count(*) FROM cases, esrs_persist('sc_bad', cases.id, ARRAY[jsonb_build_object('do', what)]);
SELECT esrs_alter_aggregate('sc_bad', '{"to_event": "bad(jsonb)"}');
SELECT what, count(*), x AS result FROM cases, LATERAL (VALUES (try(format('SELECT * FROM esrs_load(%L, %L)', 'sc_bad', id))),
    (try(format('SELECT * FROM esrs_lock_and_load(%L, %L)', 'sc_bad', id))), (try(format('SELECT * FROM esrs_events(%L, %L)', 'sc_bad', id))),
    (try(format('SELECT esrs_decide(%L, %L, %L)', 'sc_bad', id, '"X"'))), (try(format('SELECT esrs_handle_command(%L, %L, %L)', 'sc_bad', id, '"X"'))),
    (try(format('SELECT * FROM esrs_try_command(%L, %L, %L)', 'sc_bad', id, '"X"')))) AS y(x) GROUP BY n, what, x ORDER BY n, x;
SELECT try($$SELECT * FROM esrs_feed('{sc_bad}')$$);
-- a new event of such a form is refused
SELECT what, try(format('SELECT * FROM esrs_persist(%L, %L, ARRAY[%L::jsonb])', 'sc_bad', gen_random_uuid(), jsonb_build_object('do', what))) AS result FROM cases ORDER BY n;
\set SHOW_CONTEXT always
SELECT esrs_persist('sc_bad', :a, '{"{\"do\": \"number\"}"}');
\set SHOW_CONTEXT never
-- also by from_event, whose error tells that it was that
CREATE FUNCTION bad_from(event jsonb) RETURNS jsonb RETURN bad(event);
SELECT esrs_alter_aggregate('sc_bad', '{"from_event": "bad_from(jsonb)", "to_event": null}');
SELECT what, try(format('SELECT * FROM esrs_persist(%L, %L, ARRAY[%L::jsonb])', 'sc_bad', gen_random_uuid(), jsonb_build_object('do', what))) AS result FROM cases ORDER BY n;
\set SHOW_CONTEXT always
SELECT esrs_persist('sc_bad', :a, '{"{\"do\": \"null\"}"}');
SELECT esrs_persist('sc_bad', :a, '{"{\"do\": \"array\"}"}');
\set SHOW_CONTEXT never
SELECT count(*) FROM sc_bad_events;

-- ------------------------------------------------------------------------
-- No inverses: ZE005 tells where, and shows no value; nothing is stored
-- ------------------------------------------------------------------------
CREATE TABLE forms (n serial, event jsonb, back jsonb);
CREATE FUNCTION back(payload jsonb) RETURNS jsonb LANGUAGE sql STABLE SET search_path = esrs_schema, pg_temp AS
    $$SELECT CASE WHEN f IS NULL THEN payload ELSE f.back END FROM (VALUES (1)) AS x LEFT JOIN forms f ON f.event = payload LIMIT 1$$;
SELECT esrs_register_aggregate('sc_forms', to_event => 'back(jsonb)');
CREATE FUNCTION refused(wanted jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text := try(format('SELECT * FROM esrs_persist(%L, %L, ARRAY[%L, %L]::jsonb[])', 'sc_forms', gen_random_uuid(), '"First"', wanted));
BEGIN
    IF result NOT LIKE 'ZE005 | new event of aggregate "sc_forms" cannot be read back from its stored form | %' THEN
        RETURN result;
    END IF;
    RETURN split_part(result, ' | ', 3);
END $$;
INSERT INTO forms (event, back) VALUES
    -- missing, added, another
    ('{"Bought": {"copies": 1, "by": "s3cret"}}', '{"Bought": {"copies": 1}}'),
    ('{"Bought": {"copies": 2}}', '{"Bought": {"copies": 2, "by": "s3cret"}}'),
    ('{"Bought": {"copies": 3}}', '{"Bought": {"copies": 4}}'),
    ('{"Bought": {"copies": 4}}', '{"Bought": {"count": 4}}'),
    ('{"Bought": {"copies": 5}}', '{"Sold": {"copies": 5}}'),
    -- other types
    ('{"A": 1}', '{"A": "1"}'), ('{"A": null}', '{"A": false}'), ('{"A": {}}', '{"A": []}'), ('{"A": [1]}', '{"A": 1}'), ('{"A": 6}', '{"A": {"n": 6}}'), ('{"A": true}', '{"A": false}'),
    -- null is not missing
    ('{"A": 7, "b": null}', '{"A": 7}'), ('{"A": 8}', '{"A": 8, "b": null}'),
    -- the whole document, and strings
    ('{"s3cret": 1}', '"s3cret"'), ('"S3cret"', '{"S3cret": 1}'), ('"Opened"', '"Closed"'), ('{"Opened": 1}', '{}'), ('""', '"S3cret"'),
    -- arrays
    ('{"A": [1, 2, 3]}', '{"A": [1, 2]}'), ('{"A": [1, 2]}', '{"A": [1, 2, 3]}'), ('{"A": [1, [2, {"b": "s3cret"}]]}', '{"A": [1, [2, {"b": "S3CRET"}]]}'), ('{"A": [[]]}', '{"A": [{}]}'),
    -- as many as can be named, one more, many; what is in there counts as one
    ('{"a": 1, "b": 2, "c": 3}', '{"a": 2, "c": 4, "d": 5}'),
    ('{"a": 1, "b": 2, "c": 3, "d": 4}', '{"a": 0, "b": 0, "c": 0, "d": 0}'),
    ('{"a": [1, 2, 3, 4, 5, 6, 7, 8], "b": {"c": 1, "d": 2}}', '{"a": [0, 0, 0, 0, 0, 0, 0]}'),
    -- keys that are no names
    ('{"two words": 1}', '{"two words": 2}'), ('{"": 1}', '{"": 2}'), ('{"1st": 1}', '{"1st": 2}'), ('{"a.b": {"c\"d": 1}}', '{"a.b": {"c\"d": 2}}'), ('{"new\nline": 1}', '{"new\nline": 2}'),
    ('{"_x1": {"Ä": 1}}', '{"_x1": {"Ä": 2}}'), ('{"$": [0]}', '{"$": [1]}'), ('{"%s%n": 1}', '{"%s%n": 2}'), ('{"\u0001": 1}', '{"\u0001": 2}');
-- long ones are cut, between characters
INSERT INTO forms (event, back)
SELECT jsonb_build_object(key, 1), jsonb_build_object(key, 2)
  FROM unnest(ARRAY[repeat('x', 60), repeat('x', 61), repeat('ä', 30), 'x' || repeat('ä', 30), repeat('😀', 16), repeat('x', 59) || 'ä' || repeat('y', 5000)]) AS key;
-- long paths, too
CREATE FUNCTION nested(levels int, name text, value jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. levels LOOP value := jsonb_build_object(name || i, value); END LOOP;
    RETURN value;
END $$;
INSERT INTO forms (event, back) VALUES (nested(20, 'level_', '1'), nested(20, 'level_', '2')), (nested(99, 'l', '1'), nested(99, 'l', '2')),
    (nested(99, repeat('x', 70), '1'), nested(99, repeat('x', 70), '2'));
SELECT event, refused(event) FROM forms WHERE length(event::text) < 70 ORDER BY n;
SELECT length(event::text), refused(event) FROM forms WHERE length(event::text) >= 70 ORDER BY n;
SELECT count(*) AS with_values FROM forms WHERE refused(event) ~* 's3cret';
SELECT bool_and(convert_from(convert_to(refused(event), 'UTF8'), 'UTF8') <> '') AS whole_characters FROM forms;
-- equal as JSON is equal
INSERT INTO forms (event, back) VALUES ('{"n": 1.0}', '{"n": 1.00}'), ('{"a": 1, "b": 1e2}', '{"b": 100, "a": 1}');
SELECT event, refused(event) FROM forms WHERE back IN ('{"n": 1}', '{"b": 100, "a": 1}') ORDER BY n;
SELECT payload FROM sc_forms_events WHERE sequence_number = 2 ORDER BY position;
-- the same of a command: nothing is stored, no handler is called, no command_id is taken
SELECT esrs_alter_aggregate('sc', '{"from_event": "pack(jsonb)", "to_event": "unpack(jsonb)"}');
CREATE OR REPLACE FUNCTION unpack(payload jsonb) RETURNS jsonb RETURN jsonb_build_object('Bought', jsonb_build_object('copies', payload -> 'b', 'by', payload -> 'by'));
TRUNCATE log;
SELECT esrs_handle_command('sc', :b, '{"Bought": {"copies": 3}}', command_id => '05ce0000-cccc-4000-8000-000000000001');
\echo :SQLSTATE
SELECT esrs_try_command('sc', :b, '{"Bought": {"copies": 3}}');
\echo :SQLSTATE
SELECT (SELECT count(*) FROM sc_events WHERE aggregate_id = :b) AS events, (SELECT count(*) FROM log) AS handled,
       (SELECT count(*) FROM esrs.commands WHERE aggregate_id = :b) AS commands;
-- mended, it is taken
CREATE OR REPLACE FUNCTION unpack(payload jsonb) RETURNS jsonb RETURN jsonb_build_object('Bought', jsonb_build_object('copies', payload -> 'b'));
SELECT esrs_handle_command('sc', :b, '{"Bought": {"copies": 3}}', command_id => '05ce0000-cccc-4000-8000-000000000001');
SELECT * FROM shown();

-- ------------------------------------------------------------------------
-- The forms in which the Rust library stores events
-- ------------------------------------------------------------------------
CREATE TABLE rust (n serial, declared text, event jsonb);
INSERT INTO rust (declared, event) VALUES
    ('unit variant', '"Closed"'), ('newtype variant', '{"Renamed": "x"}'), ('newtype variant of None', '{"Renamed": null}'),
    ('newtype variant, u64', '{"Counted": 18446744073709551615}'), ('newtype variant, f64', '{"Weighed": 1.10}'),
    ('tuple variant', '{"Moved": [1, 2]}'), ('struct variant', '{"Bought": {"num_of_copies": 1}}'), ('struct variant without fields', '{"Bought": {}}'),
    ('internally tagged', '{"u": 10, "event_type": "incremented"}'), ('internally tagged, unit', '{"event_type": "closed"}'),
    ('adjacently tagged', '{"c": {"num_of_copies": 1}, "t": "Bought"}'), ('untagged', '{"add": 1}');
CREATE FUNCTION wrap(event jsonb) RETURNS jsonb RETURN jsonb_build_object('data', event);
CREATE FUNCTION unwrap(payload jsonb) RETURNS jsonb RETURN payload -> 'data';
SELECT esrs_register_aggregate('sc_rust', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)', event_type_path => 'event_type');
SELECT esrs_register_aggregate('sc_rust_2', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)', event_type_path => 'event_type',
                               from_event => 'wrap(jsonb)', to_event => 'unwrap(jsonb)');
-- as they are, and with a schema
DO $$
DECLARE
    r rust;
BEGIN
    FOR r IN SELECT * FROM rust ORDER BY n LOOP
        PERFORM esrs_handle_command(aggregate, '05ce0000-0000-4000-8000-00000000000a', r.event) FROM unnest('{sc_rust,sc_rust_2}'::text[]) AS aggregate;
    END LOOP;
END $$;
SELECT declared, s.payload::text = r.event::text AS stored, p.payload::text AS stored_by_schema, e.payload::text = r.event::text AND e2.payload::text = r.event::text AS back
  FROM rust r JOIN sc_rust_events s ON s.sequence_number = n JOIN sc_rust_2_events p ON p.sequence_number = n
  JOIN esrs_events('sc_rust', :a) AS e ON e.sequence_number = n JOIN esrs_events('sc_rust_2', :a) AS e2 ON e2.sequence_number = n ORDER BY n;
SELECT (SELECT state -> 'events' FROM esrs_load(aggregate, :a))::text = (SELECT jsonb_agg(event ORDER BY n) FROM rust)::text AS folded FROM unnest('{sc_rust,sc_rust_2}'::text[]) AS aggregate;
-- a handler asks for the type; a unit variant that is tagged inside has one only by event_type_path
SELECT esrs_register_handler('sc_rust_typed', '{sc_rust,sc_rust_2}', 'typed(esrs_event[])', mode => 'async', start_at => 'beginning', event_types => '{Closed,Renamed,incremented,closed,event_type}');
CALL esrs_run_handlers('sc_rust_typed');
SELECT esrs_wait_for('sc_rust_typed', timeout => '60s');
SELECT regexp_split_to_table(what, ', (?=a/)') AS what FROM shown();
-- structs: no event of esrs, but rows that a Rust application may have left; to_event makes events of them, or leaves them as they are
INSERT INTO sc_rust_events (id, aggregate_id, sequence_number, payload) SELECT gen_random_uuid(), :b, n, p FROM unnest(ARRAY['1', '[1, 2]', 'null', 'true']::jsonb[]) WITH ORDINALITY AS x(p, n);
SELECT sequence_number, payload FROM esrs_events('sc_rust', :b);
CREATE FUNCTION of_struct(payload jsonb) RETURNS jsonb RETURN CASE jsonb_typeof(payload) WHEN 'number' THEN jsonb_build_object('Number', payload) WHEN 'null' THEN '"Unit"' ELSE payload END;
SELECT esrs_alter_aggregate('sc_rust', '{"to_event": "of_struct(jsonb)"}');
SELECT sequence_number, payload FROM esrs_events('sc_rust', :b);
SELECT sequence_number, state FROM esrs_load('sc_rust', :b);
-- a command may not emit them
SELECT esrs_persist('sc_rust', :b, '{1}');
\echo :SQLSTATE

SELECT esrs_unregister_aggregate(name, drop_events => true) FROM unnest('{sc,sc_store,sc_bad,sc_forms,sc_rust,sc_rust_2}'::text[]) AS name;
DROP SCHEMA esrs_schema CASCADE;
