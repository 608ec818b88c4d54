--
-- Libraries and functions that do not fit: each is refused when it is
-- registered, with what is wrong and what to do; nothing is registered, and no
-- table is made.
--
-- Catches: a library called through a struct of another layout, memory beyond a
-- shorter struct taken for callbacks, and a library that can only be loaded
-- after esrs.
--
\getenv abs_srcdir PG_ABS_SRCDIR
\set testlib :abs_srcdir '/testlib/esrs_testlib'
\set early :abs_srcdir '/testlib/esrs_testlib_early'
\set alien :abs_srcdir '/testlib/esrs_testlib_alien'
CREATE SCHEMA c_mismatch;
SET search_path = c_mismatch, public;
\set a '00000000-0000-0000-0000-00000000000a'

--
-- Built for another major version of PostgreSQL: the server's own check.  Its
-- message has the path, hence the bare SQLSTATE.
--
\set VERBOSITY sqlstate
CREATE FUNCTION alien(internal) RETURNS esrs.aggregate_handler AS :'alien', 'testlib_alien' LANGUAGE C;
-- no such symbol, no such library
CREATE FUNCTION nothing(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_nothing' LANGUAGE C;
CREATE FUNCTION nowhere(internal) RETURNS esrs.aggregate_handler AS '/nonexistent/library', 'nowhere' LANGUAGE C;
\set VERBOSITY default

--
-- Not our struct
--
CREATE FUNCTION wrong_magic(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_wrong_magic' LANGUAGE C;
CREATE FUNCTION returns_nothing(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_returns_nothing' LANGUAGE C;
CREATE FUNCTION returns_null(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_returns_null' LANGUAGE C;
SELECT esrs_register_aggregate('c_mismatch', handler => 'wrong_magic(internal)');
\echo :LAST_ERROR_SQLSTATE
SELECT esrs_register_aggregate('c_mismatch', handler => 'returns_nothing(internal)');
\echo :LAST_ERROR_SQLSTATE
SELECT esrs_register_aggregate('c_mismatch', handler => 'returns_null(internal)');
\echo :LAST_ERROR_SQLSTATE

--
-- Another ABI version, and sizes that cannot be
--
CREATE FUNCTION newer_abi(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_newer_abi' LANGUAGE C;
CREATE FUNCTION older_abi(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_older_abi' LANGUAGE C;
CREATE FUNCTION size_zero(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_size_zero' LANGUAGE C;
CREATE FUNCTION size_cut(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_size_cut' LANGUAGE C;
-- the size of the struct may change, so it is not shown here
CREATE FUNCTION message_of(handler text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text; detail text; hint text;
BEGIN
    PERFORM esrs_register_aggregate('c_mismatch', handler => message_of.handler);
    RETURN 'registered';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN format(E'%s: %s\nDETAIL: %s\nHINT: %s', SQLSTATE, message,
                  regexp_replace(detail, '\d{2,} bytes', 'NN bytes', 'g'), hint);
END
$$;
\pset format unaligned
\pset tuples_only on
SELECT message_of('newer_abi(internal)');
SELECT message_of('older_abi(internal)');
SELECT message_of('size_zero(internal)');
SELECT message_of('size_cut(internal)');
\pset format aligned
\pset tuples_only off

--
-- A required member is missing
--
CREATE FUNCTION no_handle(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_no_handle' LANGUAGE C;
CREATE FUNCTION no_apply(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_no_apply' LANGUAGE C;
CREATE FUNCTION no_init(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_no_init' LANGUAGE C;
SELECT esrs_register_aggregate('c_mismatch', handler => 'no_handle(internal)');
\echo :LAST_ERROR_SQLSTATE
SELECT esrs_register_aggregate('c_mismatch', handler => 'no_apply(internal)');
\echo :LAST_ERROR_SQLSTATE
SELECT esrs_register_aggregate('c_mismatch', handler => 'no_init(internal)');
\echo :LAST_ERROR_SQLSTATE

--
-- The handler function itself fails: its own error comes through
--
CREATE FUNCTION raises(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_raises' LANGUAGE C;
SELECT esrs_register_aggregate('c_mismatch', handler => 'raises(internal)');
\echo :LAST_ERROR_SQLSTATE

--
-- Not a handler function: wrong argument, result, language or kind
--
CREATE FUNCTION no_argument() RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_counter' LANGUAGE C;
CREATE FUNCTION two_arguments(internal, internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_counter' LANGUAGE C;
CREATE FUNCTION wrong_argument(int) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_counter' LANGUAGE C;
CREATE FUNCTION wrong_result(internal) RETURNS internal AS :'testlib', 'testlib_counter' LANGUAGE C;
CREATE FUNCTION a_set(internal) RETURNS SETOF esrs.aggregate_handler AS :'testlib', 'testlib_counter' LANGUAGE C;
CREATE FUNCTION in_plpgsql() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
SELECT esrs_register_aggregate('c_mismatch', handler => 'no_argument()');
\echo :LAST_ERROR_SQLSTATE
SELECT esrs_register_aggregate('c_mismatch', handler => 'two_arguments(internal, internal)');
SELECT esrs_register_aggregate('c_mismatch', handler => 'wrong_argument(int)');
SELECT esrs_register_aggregate('c_mismatch', handler => 'wrong_result(internal)');
SELECT esrs_register_aggregate('c_mismatch', handler => 'a_set(internal)');
SELECT esrs_register_aggregate('c_mismatch', handler => 'in_plpgsql()');
SELECT esrs_register_aggregate('c_mismatch', handler => 'array_agg_transfn(internal, anynonarray)');
SELECT esrs_register_aggregate('c_mismatch', handler => 'missing(internal)');
\echo :LAST_ERROR_SQLSTATE
SELECT esrs_register_aggregate('c_mismatch', handler => 'not a signature');

--
-- A handler in C together with what belongs to SQL callbacks
--
CREATE FUNCTION whole(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_counter' LANGUAGE C;
SELECT esrs_register_aggregate('c_mismatch', handler => 'whole(internal)', initial_state => '{}');
\echo :LAST_ERROR_SQLSTATE
SELECT esrs_register_aggregate('c_mismatch', handler => 'whole(internal)', event_version => 1);

-- nothing of all this is left
SELECT count(*) FROM esrs_aggregates WHERE name = 'c_mismatch';
SELECT to_regclass('c_mismatch_events');

--
-- A shorter struct of the same ABI version is filled up with nulls, and what a
-- longer one has beyond ours is not used
--
CREATE FUNCTION short(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_short' LANGUAGE C;
CREATE FUNCTION long(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_long' LANGUAGE C;
SELECT esrs_register_aggregate('c_short', handler => 'short(internal)');
SELECT esrs_register_aggregate('c_long', handler => 'long(internal)');
SELECT esrs_handle_command('c_short', :'a', '{"Came": "short"}');
SELECT esrs_handle_command('c_long', :'a', '{"Came": "long"}');
SELECT payload, version FROM c_short_events UNION ALL SELECT payload, version FROM c_long_events;

--
-- A registered function that is replaced by one that does not fit: the next
-- command is refused, also in a new session, and nothing is stored
--
CREATE OR REPLACE FUNCTION short(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_wrong_magic' LANGUAGE C;
SELECT esrs_handle_command('c_short', :'a', '{"Came": "again"}');
\c -
SET search_path = c_mismatch, public;
SELECT esrs_handle_command('c_short', :'a', '{"Came": "again"}');
SELECT esrs_load('c_short', :'a');
SELECT payload FROM c_short_events;
CREATE OR REPLACE FUNCTION short(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_short' LANGUAGE C;
SELECT esrs_handle_command('c_short', :'a', '{"Came": "again"}');

--
-- Load order does not matter: in a new session the library comes first, with
-- every symbol bound at load
--
\c -
SET search_path = c_mismatch, public;
LOAD :'early';
CREATE FUNCTION esrs_is_loaded() RETURNS boolean AS :'early', 'testlib_esrs_is_loaded' LANGUAGE C;
SELECT esrs_is_loaded();
CREATE FUNCTION early(internal) RETURNS esrs.aggregate_handler AS :'early', 'testlib_early' LANGUAGE C;
SELECT esrs_is_loaded();
SELECT esrs_register_aggregate('c_early', handler => 'early(internal)');
SELECT esrs_is_loaded();
SELECT esrs_handle_command('c_early', :'a', '"Come"');

SET client_min_messages = warning;
SELECT esrs_unregister_aggregate('c_short', true);
SELECT esrs_unregister_aggregate('c_long', true);
SELECT esrs_unregister_aggregate('c_early', true);
DROP SCHEMA c_mismatch CASCADE;
