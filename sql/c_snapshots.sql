--
-- Snapshots of aggregates in C: a struct with state_from_json, and JSON.
--
-- Each line shows the number of the instance, its state, and how many events were
-- applied for it.  Nothing is kept in the session here, but where it says so.
--
-- Catches: a struct that is made anew otherwise than it was, or in memory that goes
-- away; a state_from_json that is no inverse, and is believed; JSON that loses
-- digits on its way; snapshots of one routine that another one takes; and memory
-- that restored states leave behind.
--
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
\getenv abs_srcdir PG_ABS_SRCDIR
\set testlib :abs_srcdir '/testlib/esrs_testlib'
CREATE SCHEMA c_snapshots;
SET search_path = c_snapshots, public;
SET esrs.state_cache_size = 0;

CREATE FUNCTION id(int) RETURNS uuid LANGUAGE sql AS $$ SELECT lpad($1::text, 32, '0')::uuid $$;
CREATE FUNCTION applied() RETURNS bigint AS :'testlib', 'testlib_applied' LANGUAGE C;
CREATE FUNCTION malloc_in_use() RETURNS bigint AS :'testlib', 'testlib_malloc_in_use' LANGUAGE C;
CREATE FUNCTION counter(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_counter' LANGUAGE C;
CREATE FUNCTION kept_counter(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_counter_kept' LANGUAGE C;
CREATE FUNCTION forgetful(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_counter_forgetful' LANGUAGE C;
CREATE FUNCTION tally(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_tally' LANGUAGE C;
CREATE FUNCTION journal(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_journal' LANGUAGE C;

CREATE FUNCTION command(aggregate text, command jsonb, instance int DEFAULT 1) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    before bigint := applied();
    r record;
BEGIN
    SELECT ok, sequence_number, state INTO r FROM esrs_try_command(aggregate, id(instance), command);
    RETURN format('%s%s: %s, %s applied', CASE WHEN NOT r.ok THEN 'rejected at ' END, r.sequence_number, r.state, applied() - before);
END $$;
CREATE FUNCTION load(aggregate text, instance int DEFAULT 1) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    before bigint := applied();
    r record;
BEGIN
    SELECT sequence_number, state INTO r FROM esrs_load(aggregate, id(instance));
    RETURN format('%s: %s, %s applied', r.sequence_number, r.state, applied() - before);
END $$;
CREATE FUNCTION kept(aggregate text, instance int DEFAULT 1) RETURNS text LANGUAGE sql AS
    $$ SELECT coalesce((SELECT format('kept %s: %s', sequence_number, state) FROM esrs.snapshots AS s WHERE s.aggregate = $1 AND s.aggregate_id = id($2)), 'nothing kept') $$;

--
-- A struct needs state_from_json
--
SELECT esrs_register_aggregate('csnap_counter', handler => 'counter(internal)', snapshot_every => 3);
\echo :LAST_ERROR_SQLSTATE
SELECT esrs_register_aggregate('csnap_counter', handler => 'counter(internal)');
SELECT esrs_alter_aggregate('csnap_counter', '{"snapshot_every": 3}');
SELECT esrs_alter_aggregate('csnap_counter', '{"snapshot_every": 3, "handler": "kept_counter(internal)"}');
SELECT command('csnap_counter', '{"Add": {"by": 1}}');
SELECT command('csnap_counter', '{"Add": {"by": 2}}');
SELECT command('csnap_counter', '{"Many": 2}'), kept('csnap_counter');
SELECT load('csnap_counter');
SELECT command('csnap_counter', '"Reset"'), kept('csnap_counter');
SELECT load('csnap_counter');
-- rejected, failed, broken, cancelled: the snapshot stays
SELECT command('csnap_counter', '{"Add": {"by": -100}}');
SELECT command('csnap_counter', '"Fault"');
SELECT command('csnap_counter', '"Break"');
SELECT kept('csnap_counter'), load('csnap_counter');
-- in the session as well: what was restored is kept, and changed further
SET esrs.state_cache_size = '1MB';
SELECT load('csnap_counter'), load('csnap_counter');
SELECT command('csnap_counter', '{"Many": 3}');
SELECT command('csnap_counter', '{"Add": {"by": 5}}');
BEGIN;
SELECT command('csnap_counter', '{"Many": 3}');
ROLLBACK;
-- from the snapshot again
SELECT kept('csnap_counter'), command('csnap_counter', '{"Add": {"by": 6}}');
SELECT command('csnap_counter', '{"Add": {"by": 7}}');
SET esrs.state_cache_size = 0;
SELECT load('csnap_counter');
-- the first snapshot, of a state with a null in it
SELECT esrs_alter_aggregate('csnap_counter', '{"snapshot_every": 1}');
SELECT command('csnap_counter', '"Nothing"', 2), kept('csnap_counter', 2);
SELECT command('csnap_counter', '{"Add": {"by": 1}}', 2), kept('csnap_counter', 2);
SELECT count(*) FROM esrs_verify('csnap_counter');
-- another routine behind the function; another function
CREATE OR REPLACE FUNCTION kept_counter(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_counter' LANGUAGE C;
SELECT load('csnap_counter'), command('csnap_counter', '"Nothing"');
SELECT command('csnap_counter', '{"Add": {"by": 1}}'), kept('csnap_counter');
CREATE OR REPLACE FUNCTION kept_counter(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_counter_kept' LANGUAGE C;
SELECT load('csnap_counter');
-- one with another kind of state, of the same library
CREATE OR REPLACE FUNCTION kept_counter(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_tally' LANGUAGE C;
SELECT load('csnap_counter');
CREATE OR REPLACE FUNCTION kept_counter(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_counter_kept' LANGUAGE C;
SELECT load('csnap_counter');
CREATE FUNCTION other_counter(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_counter_kept' LANGUAGE C;
SELECT command('csnap_counter', '{"Add": {"by": 1}}'), load('csnap_counter');
SELECT esrs_alter_aggregate('csnap_counter', '{"handler": "other_counter(internal)"}');
SELECT load('csnap_counter');
-- to one that cannot have them
SELECT esrs_alter_aggregate('csnap_counter', '{"handler": "counter(internal)"}');
\echo :LAST_ERROR_SQLSTATE
-- edited by hand
SELECT command('csnap_counter', '{"Add": {"by": 1}}');
SELECT load('csnap_counter') LIKE '%, 0 applied' AS used;
UPDATE esrs.snapshots SET state = '"not what the struct is made of"' WHERE aggregate = 'csnap_counter';
SELECT load('csnap_counter') LIKE '%, 14 applied' AS not_used;
SELECT problem FROM esrs_verify('csnap_counter');
SET client_min_messages = notice;
SELECT esrs_alter_aggregate('csnap_counter', '{"snapshots": "rebuild"}');
SET client_min_messages = warning;
SELECT load('csnap_counter') LIKE '%, 0 applied' AS used, load('csnap_counter', 2) LIKE '%, 0 applied' AS used_too;

--
-- state_from_json that is no inverse: commands go on, and none is taken
--
SELECT esrs_register_aggregate('csnap_forgetful', handler => 'forgetful(internal)', snapshot_every => 1);
SELECT command('csnap_forgetful', '{"Add": {"by": 10}}'), kept('csnap_forgetful');
SELECT command('csnap_forgetful', '{"Add": {"by": 1}}'), kept('csnap_forgetful');
SELECT load('csnap_forgetful');
-- one that raises
SELECT command('csnap_forgetful', '{"Add": {"by": 100}}'), kept('csnap_forgetful');
SELECT esrs_alter_aggregate('csnap_forgetful', '{"snapshots": "rebuild"}');
SELECT kept('csnap_forgetful'), load('csnap_forgetful');
SELECT command('csnap_forgetful', '"Reset"'), kept('csnap_forgetful');
SELECT load('csnap_forgetful');

--
-- JSON
--
SELECT esrs_register_aggregate('csnap_tally', handler => 'tally(internal)', snapshot_every => 1);
SELECT command('csnap_tally', '{"Emit": [{"A": {"deep": [1, {"x": "y"}]}}, "B"]}'), load('csnap_tally');
SELECT command('csnap_tally', '{"Emit": [{"A": {"big": 123456789012345678901234567890.10, "exact": 1.10, "text": "\u2603 \"\\"}}]}'), load('csnap_tally');
SELECT kept('csnap_tally');
SELECT command('csnap_tally', '{"Emit": ["C"]}'), load('csnap_tally');
SELECT esrs_register_aggregate('csnap_journal', handler => 'journal(internal)', snapshot_every => 2);
SELECT command('csnap_journal', '{"Emit": ["A"]}'), kept('csnap_journal');
SELECT command('csnap_journal', '{"Emit": ["B"]}'), kept('csnap_journal');
SELECT command('csnap_journal', '{"Emit": ["C"]}'), load('csnap_journal');
SELECT count(v) FROM unnest('{csnap_counter,csnap_forgetful,csnap_tally,csnap_journal}'::text[]) AS name, esrs_verify(name) AS v;

--
-- Memory does not grow with snapshots that are read and written, nor with states
-- that the session keeps
--
CREATE TYPE used AS (malloc bigint, contexts bigint);
CREATE FUNCTION in_use() RETURNS used LANGUAGE sql AS
    'SELECT malloc_in_use(), sum(total_bytes)::bigint FROM pg_backend_memory_contexts';
-- tells what has grown since the first 500 rounds
CREATE PROCEDURE hammer(n int) LANGUAGE plpgsql AS $$
DECLARE
    before used;
    after used;
BEGIN
    FOR i IN 1 .. n + 500 LOOP
        IF i IN (1, 500) THEN   -- measuring takes memory, too, the first time
            before := in_use();
        END IF;
        PERFORM esrs_load('csnap_counter', id(1));
        PERFORM esrs_load('csnap_tally', id(1));
        BEGIN
            PERFORM esrs_handle_command('csnap_counter', id(1), '{"Add": {"by": 1}}');
            PERFORM esrs_handle_command('csnap_tally', id(1), '{"Emit": ["C"]}');
            PERFORM esrs_handle_command('csnap_journal', id(1), '{"Emit": ["C", "D"]}');
            RAISE division_by_zero;
        EXCEPTION WHEN division_by_zero THEN
        END;
        BEGIN
            PERFORM esrs_handle_command('csnap_counter', id(1), '"Break"');
        EXCEPTION WHEN internal_error THEN
        END;
        COMMIT;
    END LOOP;
    after := in_use();
    RAISE WARNING 'malloc %, contexts %', CASE WHEN after.malloc - before.malloc < 65536 THEN 'does not grow' ELSE 'GREW BY ' || after.malloc - before.malloc END,
        CASE WHEN after.contexts - before.contexts < 65536 THEN 'do not grow' ELSE 'GREW BY ' || after.contexts - before.contexts END;
END $$;
CALL hammer(3000);
SET esrs.state_cache_size = '1MB';
CALL hammer(3000);

SELECT esrs_unregister_aggregate(name, true) FROM unnest('{csnap_counter,csnap_forgetful,csnap_tally,csnap_journal}'::text[]) AS name;
SELECT count(*) FROM esrs.snapshots WHERE aggregate LIKE 'csnap%';
DROP SCHEMA c_snapshots CASCADE;
