--
-- esrs_diff: other functions, tried on all of history.
--
-- Catches: a difference that is not told, or told of an instance that has none; one
-- instance whose fold fails and that hides all others; a candidate that leaves a trace, or
-- that is called by somebody who may not; a fold with a part of the old
-- functions and a part of the new ones; a caller who is shown differences of events that row security hides from him.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_esrs_owner;
CREATE ROLE regress_esrs_reader;
CREATE ROLE regress_esrs_bypass BYPASSRLS;
CREATE SCHEMA esrs_diff;
GRANT USAGE ON SCHEMA esrs_diff TO PUBLIC;
SET search_path = esrs_diff, public;
\pset null (null)
\getenv abs_srcdir PG_ABS_SRCDIR
\set testlib :abs_srcdir '/testlib/esrs_testlib'

CREATE FUNCTION try(statement text) RETURNS text LANGUAGE plpgsql AS $$
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
CREATE FUNCTION id(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS
    $$SELECT ('d1ff0000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid$$;
CREATE FUNCTION n(id uuid) RETURNS int LANGUAGE sql IMMUTABLE AS $$SELECT right(id::text, 12)::int$$;

CREATE FUNCTION handle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE sql IMMUTABLE RETURN ARRAY[command];
CREATE FUNCTION apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    RETURN jsonb_build_object('seen', (state ->> 'seen') || (event ->> 'x'));
SELECT esrs_register_aggregate('df', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)',
                               initial_state => '{"seen": "."}');
-- nothing there: nothing differs
SELECT * FROM esrs_diff('df', apply_event => 'apply(jsonb,jsonb)');
SELECT * FROM esrs_diff('df', initial_state => '{"other": 1}');
INSERT INTO df_events (id, aggregate_id, payload, sequence_number, version) VALUES
    (id(11), id(1), '{"x": "a"}', 1, NULL), (id(12), id(1), '{"x": "b"}', 2, NULL), (id(13), id(1), '{"x": "c"}', 3, 1),
    (id(21), id(2), '{"x": "a"}', 1, NULL),
    (id(31), id(3), '{"x": "d"}', 1, 2), (id(32), id(3), '{"x": "e"}', 2, 2),
    (id(41), id(4), '"unit"', 1, NULL);

-- ------------------------------------------------------------------------
-- What differs
-- ------------------------------------------------------------------------
SELECT pg_get_function_result('esrs_diff'::regproc) AS result;
-- the same functions, by name and in what they do
SELECT * FROM esrs_diff('df', apply_event => 'apply(jsonb,jsonb)');
SELECT * FROM esrs_diff('df', apply_event => 'esrs_diff.apply(pg_catalog.jsonb, jsonb)', initial_state => '{"seen": "."}');
CREATE FUNCTION apply_same(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS
    $$BEGIN RETURN json_build_object('seen', concat(state ->> 'seen', event ->> 'x')); END$$;
CREATE FUNCTION identity(payload jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE RETURN payload;
CREATE FUNCTION identity(payload jsonb, version int) RETURNS jsonb LANGUAGE sql IMMUTABLE RETURN payload;
SELECT n(aggregate_id), sequence_number, state, new_state, error FROM esrs_diff('df', apply_event => 'apply_same(jsonb,jsonb)') ORDER BY 1;
SELECT * FROM esrs_diff('df', upcast => 'identity(jsonb,int)', to_event => 'identity(jsonb)');
SELECT * FROM esrs_diff('df', event_version => 2);
-- numbers of another form are the same number
CREATE FUNCTION last(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE RETURN event;
CREATE FUNCTION last_number(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE RETURN jsonb_build_object('x', (event ->> 'x')::numeric + (event ->> 'x')::numeric - (event ->> 'x')::numeric, 'y', '{"b": 1, "a": [1, 2]}'::jsonb);
SELECT esrs_register_aggregate('df_number', handle_command => 'handle(jsonb,jsonb)', apply_event => 'last(jsonb,jsonb)');
SELECT esrs_handle_command('df_number', id(1), '{"y": {"a": [1, 2.00], "b": 1.0}, "x": 1.50}');
SELECT esrs_handle_command('df_number', id(2), '{"y": {"a": [2, 1], "b": 1}, "x": 1.50}');
SELECT n(aggregate_id), state, new_state FROM esrs_diff('df_number', apply_event => 'last_number(jsonb,jsonb)');

-- one that is different
CREATE FUNCTION apply_upper(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    RETURN jsonb_build_object('seen', (state ->> 'seen') || CASE event ->> 'x' WHEN 'b' THEN 'B' WHEN 'd' THEN 'D' ELSE event ->> 'x' END);
SELECT n(aggregate_id), sequence_number, state, new_state, error FROM esrs_diff('df', apply_event => 'apply_upper(jsonb,jsonb)') ORDER BY 1;
-- ... by position of the arguments, and with names that need quotes
CREATE FUNCTION "Apply, upper"(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE RETURN apply_upper(state, event);
SELECT count(*) FROM esrs_diff('df', '"Apply, upper"(jsonb,jsonb)');
-- the other arguments
SELECT n(aggregate_id), sequence_number, state, new_state, error FROM esrs_diff('df', initial_state => '{"seen": ":"}') ORDER BY 1;
CREATE FUNCTION upcast(payload jsonb, version int) RETURNS jsonb LANGUAGE sql IMMUTABLE
    RETURN jsonb_build_object('x', (payload ->> 'x') || coalesce(version, 0));
CREATE FUNCTION no_a(payload jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    RETURN CASE WHEN payload ->> 'x' ~ '^a' THEN NULL ELSE payload END;
SELECT n(aggregate_id), sequence_number, state, new_state, error FROM esrs_diff('df', upcast => 'upcast(jsonb,int)') ORDER BY 1;
SELECT n(aggregate_id), sequence_number, state, new_state, error FROM esrs_diff('df', upcast => 'upcast(jsonb,int)', event_version => 2) ORDER BY 1;
SELECT n(aggregate_id), sequence_number, state, new_state, error FROM esrs_diff('df', to_event => 'no_a(jsonb)') ORDER BY 1;
SELECT n(aggregate_id), sequence_number, state, new_state, error
  FROM esrs_diff('df', 'apply_upper(jsonb,jsonb)', 'upcast(jsonb,int)', 'no_a(jsonb)', '{"seen": ":"}', 2) ORDER BY 1;
-- a version that is newer than the candidate knows
SELECT n(aggregate_id), sequence_number, state, new_state, error FROM esrs_diff('df', event_version => 1) ORDER BY 1;
SELECT n(aggregate_id), error FROM esrs_diff('df', event_version => 0) ORDER BY 1;
-- what is registered stays, as far as nothing else is given
SELECT esrs_alter_aggregate('df', '{"to_event": "no_a(jsonb)", "upcast": "upcast(jsonb,int)", "event_version": 2}');
SELECT n(aggregate_id), sequence_number, state, new_state, error FROM esrs_diff('df', apply_event => 'apply_upper(jsonb,jsonb)') ORDER BY 1;
SELECT n(aggregate_id), sequence_number, state, new_state, error FROM esrs_diff('df', upcast => 'identity(jsonb,int)') ORDER BY 1;
SELECT * FROM esrs_diff('df', to_event => 'no_a(jsonb)');
-- the new state is what an alteration gives
CREATE TABLE told AS SELECT * FROM esrs_diff('df', apply_event => 'apply_upper(jsonb,jsonb)', to_event => 'identity(jsonb)');
CREATE TABLE before AS SELECT * FROM esrs_states('df');
SELECT esrs_alter_aggregate('df', '{"apply_event": "apply_upper(jsonb,jsonb)", "to_event": "identity(jsonb)"}');
SELECT count(*) FROM told;
SELECT n(s.aggregate_id), s.state AS really, b.state AS it_was FROM esrs_states('df') AS s JOIN before AS b USING (aggregate_id) LEFT JOIN told AS t USING (aggregate_id)
 WHERE s.state IS DISTINCT FROM coalesce(t.new_state, b.state) OR b.state IS DISTINCT FROM coalesce(t.state, s.state);
SELECT esrs_alter_aggregate('df', '{"apply_event": "apply(jsonb,jsonb)", "to_event": null, "upcast": null, "event_version": null}');

-- ------------------------------------------------------------------------
-- Candidates that are no good
-- ------------------------------------------------------------------------
-- raises for some: the others are told all the same
CREATE FUNCTION apply_raises(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    CASE event ->> 'x' WHEN 'c' THEN PERFORM 1 / 0; WHEN 'd' THEN RAISE 'd is "bad"' USING ERRCODE = 'XX123', DETAIL = 'secret'; ELSE END CASE;
    RETURN jsonb_build_object('seen', (state ->> 'seen') || upper(event ->> 'x'));
END $$;
SELECT n(aggregate_id), sequence_number, state, new_state, error FROM esrs_diff('df', apply_event => 'apply_raises(jsonb,jsonb)') ORDER BY 1;
-- returns null
CREATE FUNCTION apply_null(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql RETURN CASE event ->> 'x' WHEN 'b' THEN NULL ELSE apply(state, event) END;
SELECT n(aggregate_id), sequence_number, state, new_state, error FROM esrs_diff('df', apply_event => 'apply_null(jsonb,jsonb)') ORDER BY 1;
-- gives payloads that are no events
CREATE FUNCTION to_number(payload jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE RETURN '1'::jsonb;
SELECT n(aggregate_id), error FROM esrs_diff('df', to_event => 'to_number(jsonb)') ORDER BY 1 LIMIT 1;
-- refuses versions that it does not know
CREATE FUNCTION upcast_strict(payload jsonb, version int) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS
    $$BEGIN IF version = 1 THEN RAISE 'version % is unknown', version USING ERRCODE = 'ZE004'; END IF; RETURN payload; END$$;
SELECT n(aggregate_id), error FROM esrs_diff('df', upcast => 'upcast_strict(jsonb,int)') ORDER BY 1;
-- rejects, as only handle_command may
CREATE FUNCTION apply_rejects(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql RETURN esrs_reject('no', 'not this one');
SELECT n(aggregate_id), error FROM esrs_diff('df', apply_event => 'apply_rejects(jsonb,jsonb)') ORDER BY 1 LIMIT 1;
-- loops: the whole is cancelled, and the session goes on
CREATE FUNCTION apply_loops(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql AS
    $$BEGIN WHILE event ->> 'x' = 'd' LOOP END LOOP; RETURN state; EXCEPTION WHEN OTHERS THEN RETURN state; END$$;
SET statement_timeout = '200ms';
SELECT * FROM esrs_diff('df', apply_event => 'apply_loops(jsonb,jsonb)');
\echo :SQLSTATE
RESET statement_timeout;
SELECT count(*) FROM esrs_diff('df', apply_event => 'apply_upper(jsonb,jsonb)');
-- calls itself without end
CREATE FUNCTION apply_deep(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$BEGIN RETURN apply_deep(state, event); END$$;
SELECT n(aggregate_id), left(error, 64) AS error FROM esrs_diff('df', apply_event => 'apply_deep(jsonb,jsonb)') ORDER BY 1 LIMIT 1;
-- writes: nothing stays, whether it goes well, or raises afterwards, or catches its own errors
CREATE TABLE trace (what text);
CREATE FUNCTION apply_writes(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO trace VALUES (event ->> 'x');
    BEGIN
        INSERT INTO trace VALUES ('inner');
        PERFORM 1 / 0;
    EXCEPTION WHEN division_by_zero THEN
        INSERT INTO trace VALUES ('caught');
    END;
    PERFORM set_config('esrs_diff.setting', event ->> 'x', false);
    CREATE TEMP TABLE IF NOT EXISTS diff_temp (a int);
    EXECUTE 'CREATE OR REPLACE FUNCTION esrs_diff.helper() RETURNS int LANGUAGE sql AS $f$SELECT 2$f$';
    PERFORM esrs_handle_command('df', esrs_diff.id(77), '{"x": "nested"}');
    PERFORM esrs_delete('df', esrs_diff.id(2));
    IF event ->> 'x' = 'c' THEN RAISE 'enough'; END IF;
    RETURN esrs_diff.apply(state, event);
END $$;
CREATE FUNCTION helper() RETURNS int LANGUAGE sql AS $$SELECT 1$$;
SELECT esrs_load('df', id(77)) IS NULL AS unknown;
SELECT n(aggregate_id), sequence_number, state, new_state, error FROM esrs_diff('df', apply_event => 'apply_writes(jsonb,jsonb)') ORDER BY 1;
SELECT count(*) FROM trace;
SELECT helper(), to_regclass('diff_temp') AS temp, coalesce(current_setting('esrs_diff.setting', true), '') AS setting;
SELECT n(aggregate_id), count(*), max(sequence_number) FROM df_events GROUP BY 1 ORDER BY 1;
SELECT count(*) FROM esrs.deletions WHERE aggregate = 'df';
SELECT esrs_load('df', id(77)) IS NULL AS still_unknown;
SELECT l.sequence_number, l.state FROM esrs_load('df', id(2)) AS l;
-- nor in a transaction with work of its own
BEGIN;
INSERT INTO trace VALUES ('mine');
SAVEPOINT s;
SELECT esrs_handle_command('df', id(5), '{"x": "own"}');
SELECT n(aggregate_id), sequence_number, state, new_state, error FROM esrs_diff('df', apply_event => 'apply_writes(jsonb,jsonb)') ORDER BY 1 DESC LIMIT 2;
RELEASE s;
SELECT * FROM trace;
SELECT esrs_handle_command('df', id(5), '{"x": "more"}', expected_sequence => 1);
ROLLBACK;
SELECT count(*) FROM trace;
-- in a read-only transaction that is an error of the candidate's
BEGIN READ ONLY;
SELECT n(aggregate_id), error FROM esrs_diff('df', apply_event => 'apply_writes(jsonb,jsonb)') ORDER BY 1 LIMIT 1;
SELECT count(*) FROM esrs_diff('df', apply_event => 'apply_upper(jsonb,jsonb)');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT count(*) FROM esrs_diff('df', apply_event => 'apply_upper(jsonb,jsonb)');
COMMIT;
-- one that looks into history itself
CREATE FUNCTION apply_looks(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql STABLE AS
    $$SELECT jsonb_build_object('seen', (SELECT count(*) FROM esrs_diff('df_number', apply_event => 'last_number(jsonb,jsonb)')), 'states', (SELECT count(*) FROM esrs_states('df')))$$;
SELECT n(aggregate_id), new_state, error FROM esrs_diff('df', apply_event => 'apply_looks(jsonb,jsonb)') ORDER BY 1 LIMIT 1;

-- the present fold raises, or both do
SELECT esrs_alter_aggregate('df', '{"apply_event": "apply_raises(jsonb,jsonb)"}');
SELECT n(aggregate_id), sequence_number, state, new_state, error FROM esrs_diff('df', apply_event => 'apply(jsonb,jsonb)') ORDER BY 1;
SELECT n(aggregate_id), sequence_number, state, new_state, error FROM esrs_diff('df', apply_event => 'apply_null(jsonb,jsonb)') ORDER BY 1;
SELECT n(aggregate_id), sequence_number, state, new_state, error FROM esrs_diff('df', to_event => 'no_a(jsonb)') ORDER BY 1;
SELECT esrs_alter_aggregate('df', '{"apply_event": "apply(jsonb,jsonb)"}');

-- ------------------------------------------------------------------------
-- Arguments
-- ------------------------------------------------------------------------
CREATE FUNCTION strict_apply(state jsonb, event jsonb) RETURNS jsonb STRICT LANGUAGE sql RETURN state;
CREATE FUNCTION set_apply(state jsonb, event jsonb) RETURNS SETOF jsonb LANGUAGE sql AS 'SELECT state';
CREATE FUNCTION text_apply(state jsonb, event jsonb) RETURNS text LANGUAGE sql RETURN 'x';
CREATE FUNCTION pg_temp.temp_apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql RETURN state;
SELECT regexp_replace(try(statement), 'pg_temp_\d+', 'pg_temp_N') AS "refused with" FROM unnest(ARRAY[
    $$SELECT * FROM esrs_diff('df')$$,
    $$SELECT * FROM esrs_diff(NULL, apply_event => 'apply(jsonb,jsonb)')$$,
    $$SELECT * FROM esrs_diff('no_such', apply_event => 'apply(jsonb,jsonb)')$$,
    $$SELECT * FROM esrs_diff('df', apply_event => 'no_such(jsonb,jsonb)')$$,
    $$SELECT * FROM esrs_diff('df', apply_event => 'apply')$$,
    $$SELECT * FROM esrs_diff('df', apply_event => '')$$,
    $$SELECT * FROM esrs_diff('df', apply_event => 'identity(jsonb)')$$,
    $$SELECT * FROM esrs_diff('df', apply_event => 'handle(jsonb,jsonb)')$$,
    $$SELECT * FROM esrs_diff('df', apply_event => 'text_apply(jsonb,jsonb)')$$,
    $$SELECT * FROM esrs_diff('df', apply_event => 'strict_apply(jsonb,jsonb)')$$,
    $$SELECT * FROM esrs_diff('df', apply_event => 'set_apply(jsonb,jsonb)')$$,
    $$SELECT * FROM esrs_diff('df', apply_event => 'pg_temp.temp_apply(jsonb,jsonb)')$$,
    $$SELECT * FROM esrs_diff('df', apply_event => 'df_state(jsonb,int)')$$,
    $$SELECT * FROM esrs_diff('df', upcast => 'identity(jsonb)')$$,
    $$SELECT * FROM esrs_diff('df', event_version => -1)$$,
    $$SELECT * FROM esrs_diff('df', to_event => 'identity(jsonb,int)')$$]) AS statement;

-- ------------------------------------------------------------------------
-- Aggregates in C, and stores
-- ------------------------------------------------------------------------
CREATE FUNCTION tally(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_tally' LANGUAGE C;
CREATE FUNCTION letters(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_letters' LANGUAGE C;
CREATE FUNCTION letters_json(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_letters_json' LANGUAGE C;
CREATE FUNCTION letters_upcast(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_letters_upcast' LANGUAGE C;
CREATE FUNCTION bad_forms(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_bad_forms' LANGUAGE C;
CREATE FUNCTION incomplete(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'registration_incomplete' LANGUAGE C;
SELECT esrs_register_aggregate('df_c', handler => 'letters(internal)');
SELECT count(*) FROM esrs_persist('df_c', id(1), ARRAY['"A"', '"B"', '"C"']::jsonb[]);
SELECT count(*) FROM esrs_persist('df_c', id(2), ARRAY['"A"']::jsonb[]);
-- a struct and JSON: the same; another build
SELECT * FROM esrs_diff('df_c', handler => 'letters(internal)');
SELECT * FROM esrs_diff('df_c', handler => 'letters_json(internal)');
SELECT n(aggregate_id), sequence_number, state, new_state, error FROM esrs_diff('df_c', handler => 'letters_upcast(internal)');
-- from C to SQL
CREATE FUNCTION letters_apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    RETURN jsonb_build_object('seen', coalesce(state ->> 'seen', '-') || (event #>> '{}'));
CREATE FUNCTION no_b(payload jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE RETURN nullif(payload, '"B"');
SELECT * FROM esrs_diff('df_c', apply_event => 'letters_apply(jsonb,jsonb)', initial_state => '{"seen": "."}');
SELECT n(aggregate_id), state, new_state FROM esrs_diff('df_c', apply_event => 'letters_apply(jsonb,jsonb)');
SELECT n(aggregate_id), state, new_state FROM esrs_diff('df_c', apply_event => 'letters_apply(jsonb,jsonb)', initial_state => '{"seen": "."}', to_event => 'no_b(jsonb)');
-- ... of whose functions none are left over
SELECT esrs_alter_aggregate('df_c', '{"handler": "letters_upcast(internal)"}');
SELECT n(aggregate_id), state, new_state FROM esrs_diff('df_c', apply_event => 'letters_apply(jsonb,jsonb)', initial_state => '{"seen": "."}');
-- from SQL to C
SELECT esrs_alter_aggregate('df_c', '{"handler": null, "handle_command": "handle(jsonb,jsonb)", "apply_event": "letters_apply(jsonb,jsonb)", "initial_state": {"seen": "."}, "to_event": "no_b(jsonb)"}');
SELECT * FROM esrs_diff('df_c', handler => 'letters_upcast(internal)');
SELECT n(aggregate_id), state, new_state FROM esrs_diff('df_c', handler => 'letters(internal)');
-- C that raises
SELECT count(*) FROM esrs_persist('df_c', id(3), ARRAY['{"to_event": "raise"}', '{"to_event": "number"}']::jsonb[]);
SELECT count(*) FROM esrs_persist('df_c', id(4), ARRAY['{"to_event": "number"}']::jsonb[]);
SELECT n(aggregate_id), sequence_number, state, new_state, error FROM esrs_diff('df_c', handler => 'bad_forms(internal)') ORDER BY 1;
-- a store without logic: all instances have a state then, and did not before
SELECT esrs_register_aggregate('df_store', to_event => 'no_b(jsonb)');
SELECT count(*) FROM esrs_persist('df_store', id(1), ARRAY['"A"', '"C"']::jsonb[]);
SELECT n(aggregate_id), sequence_number, state, new_state, error FROM esrs_diff('df_store', apply_event => 'letters_apply(jsonb,jsonb)');
SELECT n(aggregate_id), sequence_number, state, new_state, error FROM esrs_diff('df_store', handler => 'letters(internal)');
SELECT try(statement) AS "refused with" FROM unnest(ARRAY[
    $$SELECT * FROM esrs_diff('df_store', upcast => 'identity(jsonb,int)')$$,
    $$SELECT * FROM esrs_diff('df_store', event_version => 1)$$,
    $$SELECT * FROM esrs_diff('df', handler => 'letters(internal)', apply_event => 'apply(jsonb,jsonb)')$$,
    $$SELECT * FROM esrs_diff('df', handler => 'letters(internal)', initial_state => '{}')$$,
    $$SELECT * FROM esrs_diff('df', handler => 'letters(internal)', event_version => 1)$$,
    $$SELECT * FROM esrs_diff('df', handler => 'apply(jsonb,jsonb)')$$,
    $$SELECT * FROM esrs_diff('df', handler => 'incomplete(internal)')$$,
    $$SELECT * FROM esrs_diff('df', apply_event => 'letters(internal)')$$]) AS statement;

-- ------------------------------------------------------------------------
-- Rights
-- ------------------------------------------------------------------------
GRANT SELECT ON df_events, df_c_events TO regress_esrs_reader, regress_esrs_bypass;
SET ROLE regress_esrs_owner;
SELECT try($$SELECT * FROM esrs_diff('df', apply_event => 'apply_upper(jsonb,jsonb)')$$);
SET ROLE regress_esrs_reader;
SELECT count(*) FROM esrs_diff('df', apply_event => 'apply_upper(jsonb,jsonb)');
RESET ROLE;
-- the functions that he names, he must be allowed to call; also those in C
REVOKE EXECUTE ON FUNCTION apply_upper, upcast, no_a, letters FROM PUBLIC;
SET ROLE regress_esrs_reader;
SELECT try(statement) AS "refused with" FROM unnest(ARRAY[
    $$SELECT * FROM esrs_diff('df', apply_event => 'apply_upper(jsonb,jsonb)')$$, $$SELECT * FROM esrs_diff('df', upcast => 'upcast(jsonb,int)')$$,
    $$SELECT * FROM esrs_diff('df', to_event => 'no_a(jsonb)')$$, $$SELECT * FROM esrs_diff('df', handler => 'letters(internal)')$$]) AS statement;
-- they run as himself
RESET ROLE;
CREATE FUNCTION apply_who(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$BEGIN RETURN jsonb_build_object('who', current_user); END$$;
SET ROLE regress_esrs_reader;
SELECT DISTINCT new_state FROM esrs_diff('df', apply_event => 'apply_who(jsonb,jsonb)');
RESET ROLE;
-- where row security hides events a difference would be a wrong one
ALTER TABLE df_events ENABLE ROW LEVEL SECURITY;
CREATE POLICY not_a ON df_events FOR SELECT TO regress_esrs_reader USING (payload ->> 'x' <> 'a');
SET ROLE regress_esrs_reader;
SELECT try($$SELECT * FROM esrs_diff('df', apply_event => 'apply_same(jsonb,jsonb)')$$);
SET ROLE regress_esrs_bypass;
SELECT count(*) FROM esrs_diff('df', apply_event => 'apply_who(jsonb,jsonb)');
RESET ROLE;
SELECT count(*) FROM esrs_diff('df', apply_event => 'apply_who(jsonb,jsonb)');
ALTER TABLE df_events DISABLE ROW LEVEL SECURITY;

-- ------------------------------------------------------------------------
-- More than is read at once: long streams and many instances
-- ------------------------------------------------------------------------
CREATE FUNCTION sum(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    RETURN jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + (event ->> 'n')::int);
CREATE FUNCTION sum_but(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO esrs_diff.trace VALUES ('long');
    IF event ->> 'n' IN ('499', '500', '501', '1000', '1700', '1999') THEN
        RAISE 'not %', event ->> 'n';
    END IF;
    RETURN esrs_diff.sum(state, event) || CASE WHEN event ->> 'n' = '2300' THEN '{"found": 1}' ELSE '{}' END::jsonb;
END $$;
SELECT esrs_register_aggregate('df_long', handle_command => 'handle(jsonb,jsonb)', apply_event => 'sum(jsonb,jsonb)');
-- instance 1 has what is read at once, 2 more than twice of it, then many with one event each
INSERT INTO df_long_events (id, aggregate_id, payload, sequence_number)
    SELECT gen_random_uuid(), id(CASE WHEN n <= 500 THEN 1 WHEN n <= 1600 THEN 2 ELSE n END), jsonb_build_object('n', n),
           CASE WHEN n <= 500 THEN n WHEN n <= 1600 THEN n - 500 ELSE 1 END FROM generate_series(1, 2400) AS n;
SELECT count(*) FROM esrs_states('df_long');
SELECT count(*) FROM esrs_diff('df_long', apply_event => 'sum(jsonb,jsonb)');
SELECT n(aggregate_id), sequence_number, state, new_state, error FROM esrs_diff('df_long', apply_event => 'sum_but(jsonb,jsonb)') ORDER BY 1;
SELECT count(*) FROM trace;
-- a result that does not fit into memory
SET work_mem = '64kB';
SELECT count(*), count(DISTINCT aggregate_id), sum((new_state ->> 'n')::int) - sum((state ->> 'n')::int) AS more FROM esrs_diff('df_long', initial_state => '{"n": 1}');
SELECT count(*), count(error) FROM esrs_diff('df_long', apply_event => 'apply_null(jsonb,jsonb)', initial_state => '{"seen": ""}');
RESET work_mem;
-- a part of the result is enough; by a cursor; in a block that catches; as often as one likes
SELECT n(aggregate_id) FROM esrs_diff('df_long', initial_state => '{"n": 1}') LIMIT 1;
BEGIN;
DECLARE c CURSOR FOR SELECT n(aggregate_id) FROM esrs_diff('df_long', initial_state => '{"n": 1}');
FETCH 2 FROM c;
SAVEPOINT s;
FETCH 1 FROM c;
ROLLBACK TO s;
FETCH 1 FROM c;
COMMIT;
DO $$
BEGIN
    FOR i IN 1 .. 5 LOOP
        BEGIN
            IF (SELECT count(*) FROM esrs_diff('df_long', apply_event => 'sum_but(jsonb,jsonb)')) <> 5 THEN RAISE WARNING 'not 5'; END IF;
            PERFORM 1 / 0;
        EXCEPTION WHEN division_by_zero THEN
        END;
    END LOOP;
END $$;
SELECT a.n FROM generate_series(1, 2) AS a (n), LATERAL esrs_diff('df_long', initial_state => jsonb_build_object('n', a.n - 1)) AS d WHERE n(d.aggregate_id) = 2400;

SELECT esrs_unregister_aggregate(name, drop_events => true) FROM esrs_aggregates WHERE name ~ '^df' ORDER BY name;
DROP SCHEMA esrs_diff CASCADE;
DROP OWNED BY regress_esrs_owner, regress_esrs_reader, regress_esrs_bypass;
DROP ROLE regress_esrs_owner, regress_esrs_reader, regress_esrs_bypass;
