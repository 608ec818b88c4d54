--
-- Aggregates in C: the three kinds of state, events of all forms, rejections,
-- and what a callback learns about its call.
--
-- Catches: a state that is not folded from all events, a rejection that stores
-- something or loses a part of its answer, a time that differs from that of
-- the events, metadata that do not arrive, and a C callback that can be called
-- around esrs.
--
\set SHOW_CONTEXT never
\getenv abs_srcdir PG_ABS_SRCDIR
\set testlib :abs_srcdir '/testlib/esrs_testlib'
CREATE SCHEMA c_aggregate;
SET search_path = c_aggregate, public;

CREATE FUNCTION counter(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_counter' LANGUAGE C;
CREATE FUNCTION tally(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_tally' LANGUAGE C;
CREATE FUNCTION journal(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_journal' LANGUAGE C;
SELECT esrs_register_aggregate('c_counter', handler => 'counter(internal)');
SELECT esrs_register_aggregate('c_tally', handler => 'tally(internal)');
SELECT esrs_register_aggregate('c_journal', handler => 'journal(internal)');
SELECT name, kind, handler, handle_command, apply_event FROM esrs_aggregates WHERE name IN ('c_counter', 'c_tally', 'c_journal') ORDER BY name;

\set a '00000000-0000-0000-0000-00000000000a'
\set b '00000000-0000-0000-0000-00000000000b'

--
-- A struct as state
--
SELECT esrs_handle_command('c_counter', :'a', '{"Add": {"by": 5}}');
SELECT esrs_handle_command('c_counter', :'a', '{"Add": {"by": -2}}');
-- no event at all is an answer
SELECT esrs_handle_command('c_counter', :'a', '"Nothing"');
SELECT esrs_handle_command('c_counter', :'b', '"Nothing"');
-- a unit variant
SELECT esrs_handle_command('c_counter', :'a', '"Reset"');
SELECT sequence_number, version, payload FROM c_counter_events ORDER BY aggregate_id, sequence_number;
SELECT * FROM esrs_load('c_counter', :'a');
SELECT * FROM esrs_load('c_counter', :'a', at_sequence => 1);
SELECT * FROM esrs_load('c_counter', :'b');
SELECT ok, sequence_number, state, error,
       (SELECT array_agg(payload ORDER BY e.sequence_number) FROM unnest(events) e) AS events
  FROM esrs_try_command('c_counter', :'a', '{"Add": {"by": 1}}');
-- a dry run stores nothing
SELECT esrs_decide('c_counter', :'a', '{"Many": 3}');
SELECT count(*) FROM c_counter_events;
SELECT esrs_test('c_counter', ARRAY['{"Added": {"by": 7}}', '"Reset"']::jsonb[], '{"Add": {"by": 1}}',
                 ARRAY['{"Added": {"by": 1}}']::jsonb[]);
SELECT esrs_test('c_counter', '{}', '{"Add": {"by": -1}}', then_error => 'below_zero');

--
-- Rejections: name, message and detail; nothing is stored
--
SELECT ok, aggregate_id, sequence_number, state, events, jsonb_pretty(error) AS error
  FROM esrs_try_command('c_counter', :'a', '{"Add": {"by": -100}}');
SELECT ok, error FROM esrs_try_command('c_counter', :'a', '{"Buy": null}');
\set VERBOSITY verbose
DO $$
DECLARE
    message text; detail text; hint text; name text;
BEGIN
    PERFORM esrs_handle_command('c_counter', '00000000-0000-0000-0000-00000000000a', '{"Add": {"by": -100}}');
EXCEPTION WHEN SQLSTATE 'ZE001' THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
        hint = PG_EXCEPTION_HINT, name = CONSTRAINT_NAME;
    RAISE INFO '% / % / "%" / %', message, detail, hint, name USING ERRCODE = SQLSTATE;
END
$$;
\set VERBOSITY default
SELECT esrs_handle_command('c_counter', :'a', '{"Add": {"by": -100}}');
SELECT count(*) FROM c_counter_events;

--
-- A technical fault is an error of its own, also from esrs_try_command, with
-- the place but not the payload in its context
--
\set SHOW_CONTEXT always
SELECT * FROM esrs_try_command('c_counter', :'a', '{"Add": {"by": "secret"}}');
\echo :LAST_ERROR_SQLSTATE
\set SHOW_CONTEXT never

--
-- What a callback learns about its call
--
SELECT esrs_handle_command('c_counter', :'b', '"Show"', metadata => '{"actor": "alice", "n": 1.10}');
SELECT esrs_handle_command('c_counter', :'b', '"Show"', metadata => '{"actor": null}');
SELECT esrs_handle_command('c_counter', :'b', '"Show"');
SELECT sequence_number,
       payload->'Shown'->>'aggregate_id' = aggregate_id::text AS right_id,
       timestamptz '2000-01-01 00:00:00 UTC' + (payload->'Shown'->>'now_us')::bigint * interval '1 microsecond'
           = occurred_on AS right_time,
       payload->'Shown'->'actor' AS actor, payload->'Shown'->'metadata' AS seen,
       metadata
  FROM c_counter_events WHERE aggregate_id = :'b' ORDER BY sequence_number;

--
-- Many events from one command
--
SELECT esrs_handle_command('c_counter', :'a', '{"Many": 10000}');
SELECT count(*), min(sequence_number), max(sequence_number), count(DISTINCT occurred_on) AS times
  FROM c_counter_events WHERE aggregate_id = :'a' AND sequence_number > 4;
SELECT * FROM esrs_load('c_counter', :'a');

--
-- JSON as state
--
SELECT esrs_handle_command('c_tally', :'a', '{"Emit": []}');
SELECT esrs_handle_command('c_tally', :'a', '{"Emit": ["Ping", {"Pong": {"n": 1}}, "Ping"]}');
SELECT esrs_handle_command('c_tally', :'a', '{"Emit": [{"Pong": [1, 2.50, null]}]}');
SELECT * FROM esrs_load('c_tally', :'a');
SELECT esrs_handle_command('c_journal', :'a', '{"Emit": []}');
SELECT esrs_handle_command('c_journal', :'a', '{"Emit": ["One", "Two", "Three"]}');
SELECT esrs_handle_command('c_journal', :'a', '{"Emit": ["Four"]}');

--
-- Nobody calls a handler function, or makes one without PostgreSQL's gate
--
SELECT counter(NULL);
SELECT counter(1);
SELECT 'x'::esrs.aggregate_handler;
CREATE FUNCTION fake(internal) RETURNS esrs.aggregate_handler LANGUAGE sql AS 'SELECT NULL';
CREATE FUNCTION fake(internal) RETURNS esrs.aggregate_handler LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE ROLE regress_esrs_c_author;
GRANT ALL ON SCHEMA c_aggregate, esrs TO regress_esrs_c_author;
SET ROLE regress_esrs_c_author;
CREATE FUNCTION mine(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_counter' LANGUAGE C;
-- the right to command is the right to execute the handler function
SELECT esrs_handle_command('c_counter', :'a', '"Nothing"');
RESET ROLE;
GRANT EXECUTE ON FUNCTION counter(internal) TO regress_esrs_c_author;
SET ROLE regress_esrs_c_author;
SELECT esrs_handle_command('c_counter', :'b', '{"Add": {"by": 1}}');
RESET ROLE;

--
-- A function that is replaced is used from the next command on; one that is in
-- use is not dropped by accident
--
DROP FUNCTION tally(internal);
CREATE OR REPLACE FUNCTION tally(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_counter' LANGUAGE C;
SELECT esrs_handle_command('c_tally', :'b', '{"Add": {"by": 3}}');
SELECT esrs_handle_command('c_tally', :'b', '{"Add": {"by": 3}}');

SET client_min_messages = warning;
DROP OWNED BY regress_esrs_c_author;
DROP ROLE regress_esrs_c_author;
SELECT esrs_unregister_aggregate('c_counter', true);
SELECT esrs_unregister_aggregate('c_tally', true);
SELECT esrs_unregister_aggregate('c_journal', true);
DROP SCHEMA c_aggregate CASCADE;
