--
-- upcast, from_event and to_event in C: an aggregate with a history of its
-- payloads and a stored form of its own.
--
-- Catches: a reader that misses the upcast, an upcast of what needs none, a
-- deprecated event that is folded or whose number is given away, and a borrowed
-- part of a document that is released twice or too early.
--
\set SHOW_CONTEXT never
\getenv abs_srcdir PG_ABS_SRCDIR
\set testlib :abs_srcdir '/testlib/esrs_testlib'
CREATE SCHEMA c_versions;
SET search_path = c_versions, public;
\set a '00000000-0000-0000-0000-00000000000a'
\set b '00000000-0000-0000-0000-00000000000b'
CREATE FUNCTION versions(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_versions' LANGUAGE C;
SELECT esrs_register_aggregate('c_versions', handler => 'versions(internal)');

-- a history: without a version, of version 1 (deprecated), of version 2
INSERT INTO c_versions_events (id, aggregate_id, sequence_number, version, payload)
VALUES ('00000000-0000-0000-0000-000000000001', :'a', 1, NULL, '{"v0": {"First": {"n": 1.10}}}'),
       ('00000000-0000-0000-0000-000000000002', :'a', 2, 1, '{"v1": "Second"}'),
       ('00000000-0000-0000-0000-000000000003', :'a', 3, 2, '{"v2": "Third"}');
SELECT esrs_load('c_versions', :'a') \g /dev/null
SELECT sequence_number, jsonb_pretty(state) AS state FROM esrs_load('c_versions', :'a');

-- new events: the stored form and the version
SELECT esrs_handle_command('c_versions', :'a', '{"Fourth": [1.0]}') -> 2;
-- one that to_event would leave out is refused when it is new
SELECT esrs_handle_command('c_versions', :'a', '{"Hidden": true}');
\echo :LAST_ERROR_SQLSTATE
INSERT INTO c_versions_events (id, aggregate_id, sequence_number, version, payload)
VALUES ('00000000-0000-0000-0000-000000000005', :'a', 5, 3, '{"stored": {"Hidden": true}}');
SELECT esrs_handle_command('c_versions', :'a', '"Sixth"') -> 3;
SELECT sequence_number, version, payload FROM c_versions_events WHERE aggregate_id = :'a' ORDER BY sequence_number;
SELECT sequence_number, version, payload FROM esrs_events('c_versions', :'a');
SELECT sequence_number, jsonb_array_length(state) AS events FROM esrs_load('c_versions', :'a');
SELECT sequence_number, payload FROM esrs_feed(ARRAY['c_versions']) WHERE aggregate_id = :'a' ORDER BY 1;
-- a result shows events in today's form
SELECT payload FROM esrs_try_command('c_versions', :'b', '{"New": 1}'), unnest(events);
SELECT payload FROM esrs_persist('c_versions', :'b', ARRAY['"Stored"']::jsonb[]);
SELECT version, payload FROM c_versions_events WHERE aggregate_id = :'b' ORDER BY sequence_number;

--
-- A payload that the callbacks cannot read is named, not shown
--
\set SHOW_CONTEXT always
INSERT INTO c_versions_events (id, aggregate_id, sequence_number, version, payload)
VALUES ('00000000-0000-0000-0000-000000000013', :'b', 3, NULL, '{"secret": 1}');
SELECT esrs_load('c_versions', :'b');
\echo :LAST_ERROR_SQLSTATE
SELECT esrs_handle_command('c_versions', :'b', '"More"');
SELECT esrs_load('c_versions', :'b', at_sequence => 2) \g /dev/null
-- newer than the library
INSERT INTO c_versions_events (id, aggregate_id, sequence_number, version, payload)
VALUES ('00000000-0000-0000-0000-000000000021', '00000000-0000-0000-0000-00000000000c', 1, 4, '{"stored": "X"}');
SELECT esrs_load('c_versions', '00000000-0000-0000-0000-00000000000c');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM c_versions_events;

--
-- Callbacks that do not keep to the rules of forms, wherever they are read
--
SET client_min_messages = warning;
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
CREATE FUNCTION bad_forms(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_bad_forms' LANGUAGE C;
SELECT esrs_register_aggregate('c_bad_forms', handler => 'bad_forms(internal)');
CREATE TABLE cases (n serial, payload jsonb, id uuid DEFAULT gen_random_uuid());
INSERT INTO cases (payload) SELECT jsonb_build_object(callback, deed)
  FROM unnest('{upcast,to_event}'::text[]) AS callback, unnest('{"null",number,boolean,array,string,object,raise,nothing}'::text[]) AS deed;
INSERT INTO c_bad_forms_events (id, aggregate_id, version, payload) SELECT gen_random_uuid(), id, 1, payload FROM cases;
SELECT payload, count(*), x AS result FROM cases, LATERAL (VALUES (try(format('SELECT * FROM esrs_load(%L, %L)', 'c_bad_forms', id))),
    (try(format('SELECT * FROM esrs_lock_and_load(%L, %L)', 'c_bad_forms', id))), (try(format('SELECT * FROM esrs_events(%L, %L)', 'c_bad_forms', id))),
    (try(format('SELECT esrs_decide(%L, %L, %L)', 'c_bad_forms', id, '"X"'))), (try(format('SELECT esrs_handle_command(%L, %L, %L)', 'c_bad_forms', id, '"X"'))),
    (try(format('SELECT * FROM esrs_try_command(%L, %L, %L)', 'c_bad_forms', id, '"X"')))) AS y(x) GROUP BY n, payload, x ORDER BY n, x;
SELECT c.payload, (SELECT string_agg(e.payload::text, ', ') FROM esrs_events('c_bad_forms', id) AS e) AS events, l.sequence_number
  FROM cases c, esrs_load('c_bad_forms', id) AS l WHERE c.payload ->> 0 IS NULL AND c.payload::text ~ 'null|string|object' ORDER BY n;
-- a callback with an answer of another kind is named, with the event
UPDATE cases SET id = '0c0c0000-0000-4000-8000-000000000001' WHERE payload = '{"to_event": "array"}';
INSERT INTO c_bad_forms_events (id, aggregate_id, version, payload) SELECT id, id, 1, payload FROM cases WHERE payload = '{"to_event": "array"}';
SELECT esrs_load('c_bad_forms', '0c0c0000-0000-4000-8000-000000000001');
-- one that loops can be cancelled
INSERT INTO c_bad_forms_events (id, aggregate_id, version, payload) VALUES (gen_random_uuid(), :'a', 1, '{"upcast": "loop"}');
\set SHOW_CONTEXT never
SET statement_timeout = '100ms';
SELECT esrs_load('c_bad_forms', :'a');
SELECT esrs_handle_command('c_bad_forms', :'a', '"X"');
RESET statement_timeout;
-- new events: version 2 is not upcast; what does not come back as it was is told by its path, and not stored
SELECT count(*) FROM c_bad_forms_events;
SELECT callback, deed, try(format('SELECT * FROM esrs_try_command(%L, %L, %L)', 'c_bad_forms', :'b', jsonb_build_object(callback, deed))) AS result
  FROM unnest('{upcast,to_event,from_event}'::text[]) WITH ORDINALITY AS x(callback, n), unnest('{"null",number,boolean,array,string,object,raise,nothing}'::text[]) WITH ORDINALITY AS y(deed, m) ORDER BY n, m;
SELECT sequence_number, payload FROM c_bad_forms_events WHERE aggregate_id = :'b' ORDER BY 1;
\set SHOW_CONTEXT always
SELECT esrs_handle_command('c_bad_forms', :'b', '{"from_event": "object"}');
SELECT esrs_handle_command('c_bad_forms', :'b', '{"from_event": "null"}');

SELECT esrs_unregister_aggregate(name, true) FROM unnest('{c_versions,c_bad_forms}'::text[]) AS name;
DROP SCHEMA c_versions CASCADE;
