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

SET client_min_messages = warning;
SELECT esrs_unregister_aggregate('c_versions', true);
DROP SCHEMA c_versions CASCADE;
