--
-- Ordinary C functions where esrs calls functions of users: transactional event
-- handlers of both kinds, a delete handler, and an aggregate of C functions
-- that take and give jsonb.
--
-- Catches: an event or an array of them that is no proper datum, and a set or a
-- rejection that only SQL and PL/pgSQL functions can give.
--
\set SHOW_CONTEXT never
\getenv abs_srcdir PG_ABS_SRCDIR
\set testlib :abs_srcdir '/testlib/esrs_testlib'
CREATE SCHEMA c_handler;
SET search_path = c_handler, public;
CREATE TABLE c_handler_log (what text, aggregate text, sequence_number int, payload jsonb);

CREATE FUNCTION on_event(esrs_event) RETURNS void AS :'testlib', 'testlib_on_event' LANGUAGE C;
CREATE FUNCTION on_events(esrs_event[]) RETURNS void AS :'testlib', 'testlib_on_events' LANGUAGE C;
CREATE FUNCTION on_delete(uuid) RETURNS void AS :'testlib', 'testlib_on_delete' LANGUAGE C;
CREATE FUNCTION decide(jsonb, jsonb) RETURNS jsonb[] AS :'testlib', 'testlib_decide' LANGUAGE C;
CREATE FUNCTION decide_set(jsonb, jsonb) RETURNS SETOF jsonb AS :'testlib', 'testlib_decide_set' LANGUAGE C;
CREATE FUNCTION evolve(jsonb, jsonb) RETURNS jsonb AS :'testlib', 'testlib_evolve' LANGUAGE C IMMUTABLE;
CREATE FUNCTION tally(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_tally' LANGUAGE C;
\set a '00000000-0000-0000-0000-00000000000a'
\set b '00000000-0000-0000-0000-00000000000b'

--
-- handle_command and apply_event in C, by the SQL interface
--
SELECT esrs_register_aggregate('c_array', handle_command => 'decide(jsonb,jsonb)', apply_event => 'evolve(jsonb,jsonb)');
SELECT esrs_register_aggregate('c_set', handle_command => 'decide_set(jsonb,jsonb)', apply_event => 'evolve(jsonb,jsonb)',
                               initial_state => '{"begin": 1}');
SELECT esrs_handle_command('c_array', :'a', '{"x": 1.10}');
SELECT esrs_handle_command('c_array', :'a', '{"y": 2}');
SELECT esrs_handle_command('c_set', :'a', '{"x": 1}');
SELECT sequence_number, payload FROM c_set_events;
SELECT ok, sequence_number, error FROM esrs_try_command('c_array', :'a', '{"reject": 1}');
SELECT ok, sequence_number, error FROM esrs_try_command('c_set', :'a', '{"reject": 1}');
SELECT esrs_handle_command('c_set', :'a', '{"reject": 1}');
\echo :LAST_ERROR_SQLSTATE
SELECT esrs_decide('c_set', :'a', '{"z": 1}');
-- again and again through the kept function
SELECT count(*), max((SELECT sequence_number FROM esrs_try_command('c_set', :'b', jsonb_build_object('i', i))))
  FROM generate_series(1, 100) i;

--
-- Event handlers in C
--
SELECT esrs_register_aggregate('c_source', handler => 'tally(internal)');
SELECT esrs_register_handler('c_one', ARRAY['c_source', 'c_array'], 'on_event(esrs_event)', delete_handler => 'on_delete(uuid)');
SELECT esrs_register_handler('c_all', ARRAY['c_source'], 'on_events(esrs_event[])');
SELECT esrs_register_handler('c_pings', ARRAY['c_source'], 'on_events(esrs_event[])', event_types => ARRAY['Ping']);
SELECT esrs_handle_command('c_source', :'a', '{"Emit": ["Ping", {"Pong": 1.10}, "Ping"]}');
SELECT * FROM c_handler_log;
TRUNCATE c_handler_log;
SELECT esrs_handle_command('c_source', :'a', '{"Emit": []}');
SELECT esrs_handle_command('c_array', :'b', '{"z": null}');
SELECT * FROM esrs_persist('c_source', :'b', ARRAY['"Ping"']::jsonb[]) \g /dev/null
SELECT * FROM c_handler_log;
TRUNCATE c_handler_log;

--
-- A handler that fails takes the command with it
--
ALTER TABLE c_handler_log ADD CONSTRAINT no_third CHECK (sequence_number IS DISTINCT FROM 5);
SELECT esrs_handle_command('c_source', :'a', '{"Emit": ["Four", "Five"]}');
SELECT count(*) FROM c_handler_log;
SELECT (esrs_load('c_source', :'a')).sequence_number;
ALTER TABLE c_handler_log DROP CONSTRAINT no_third;
SELECT esrs_handle_command('c_source', :'a', '{"Emit": ["Four", "Five"]}');
TRUNCATE c_handler_log;

--
-- Deleting
--
SELECT esrs_delete('c_source', :'a');
SELECT * FROM c_handler_log;

SET client_min_messages = warning;
SELECT esrs_unregister_handler(name) FROM unnest(ARRAY['c_one', 'c_all', 'c_pings']) name;
SELECT esrs_unregister_aggregate(name, true) FROM unnest(ARRAY['c_array', 'c_set', 'c_source']) name;
DROP SCHEMA c_handler CASCADE;
