--
-- Time travel: esrs_load at a number or a time, the SQL aggregates <name>_state,
-- and esrs_states.
--
-- Catches: a state of another moment than asked for, or of another instance or
-- aggregate; one that differs with the way it is made (folded, cached, from a
-- snapshot, in a query, all at once); an SQL aggregate that stays when it must go, goes when it
-- must stay, or is put in the place of somebody else's function; a payload or a
-- function that is reached without the right to it.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_esrs_owner;
CREATE ROLE regress_esrs_reader;
CREATE ROLE regress_esrs_tenant;
CREATE SCHEMA esrs_states;
GRANT USAGE ON SCHEMA esrs_states TO PUBLIC;
SET search_path = esrs_states, public;
SET timezone = 'UTC';
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
-- the last digit says which instance
CREATE FUNCTION id(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS
    $$SELECT ('57a7e000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid$$;

-- the state is what was seen, in its order
CREATE FUNCTION handle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE sql IMMUTABLE
    RETURN ARRAY[command];
CREATE FUNCTION apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    RETURN jsonb_build_object('seen', (state ->> 'seen') || (event ->> 'x'));

-- ------------------------------------------------------------------------
-- esrs_load: every moment, however the state is come by
-- ------------------------------------------------------------------------
CREATE SEQUENCE calls;
GRANT ALL ON SEQUENCE calls TO PUBLIC;
CREATE FUNCTION counted_apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql SET search_path = esrs_states, pg_temp AS
    $$BEGIN PERFORM nextval('calls'); RETURN apply(state, event); END$$;
SELECT esrs_register_aggregate('tt', handle_command => 'handle(jsonb,jsonb)', apply_event => 'counted_apply(jsonb,jsonb)',
                               initial_state => '{"seen": "."}', snapshot_every => 1000);
-- two at one time, and one whose clock went back
INSERT INTO tt_events (id, aggregate_id, payload, occurred_on, sequence_number) VALUES
    (id(101), id(1), '{"x": "a"}', '2024-01-01', 1), (id(102), id(1), '{"x": "b"}', '2024-01-01', 2),
    (id(103), id(1), '{"x": "c"}', '2024-01-03', 3), (id(104), id(1), '{"x": "d"}', '2024-01-02', 4),
    (id(105), id(1), '{"x": "e"}', '2024-01-05 00:00:00.000001', 5);
INSERT INTO tt_events (id, aggregate_id, payload, occurred_on, sequence_number) VALUES
    (id(201), id(2), '{"x": "z"}', '2024-01-04', 1);

CREATE VIEW moments AS
    SELECT s AS at_sequence, t::timestamptz AS at_time
      FROM unnest('{NULL,0,1,2,3,4,5,6,2147483647}'::int[]) AS s,
           unnest('{NULL,-infinity,2023-12-31 23:59:59.999999,2024-01-01,2024-01-01 12:00,2024-01-02,2024-01-03,2024-01-04,2024-01-05,2024-01-05 00:00:00.000001,2025-01-01,infinity}'::timestamp[]) AS t;
-- what it must be: the events up to the first one that is beyond a limit
CREATE VIEW truth AS
    SELECT at_sequence, at_time, (SELECT nullif(row(count(*), '{"seen": ".' || string_agg(x, '' ORDER BY n) || '"}')::text, '(0,)')
                FROM (SELECT sequence_number AS n, payload ->> 'x' AS x,
                             bool_or(occurred_on > coalesce(at_time, 'infinity')) OVER (ORDER BY sequence_number) AS late
                        FROM tt_events WHERE aggregate_id = id(1)) AS e
               WHERE NOT late AND n <= coalesce(at_sequence, 100)) AS state
      FROM moments;
CREATE FUNCTION wrong() RETURNS TABLE (at_sequence int, at_time timestamptz, expected text, loaded text) LANGUAGE sql VOLATILE AS $$
    SELECT * FROM (
        SELECT t.at_sequence, t.at_time, t.state, nullif(row(l.sequence_number, l.state)::text, '(,)')
          FROM truth AS t, esrs_load('tt', id(1), t.at_sequence, t.at_time) AS l) AS x (at_sequence, at_time, expected, loaded)
     WHERE replace(replace(expected, '"', ''), ' ', '') IS DISTINCT FROM replace(replace(loaded, '"', ''), ' ', '') $$;
CREATE FUNCTION folded(statement text) RETURNS int LANGUAGE plpgsql AS $$
DECLARE before bigint := nextval('calls');
BEGIN
    EXECUTE statement;
    RETURN nextval('calls') - before - 1;
END $$;
SELECT count(*) AS moments, count(DISTINCT state) AS states, count(*) FILTER (WHERE state IS NULL) AS before_the_first FROM truth;
-- some to look at
SELECT m.*, l.sequence_number, l.state
  FROM (VALUES (0, NULL::timestamptz), (2147483647, NULL), (NULL, '2023-12-31 23:59:59.999999'), (NULL, '2024-01-01'), (NULL, '2024-01-02'), (NULL, 'infinity'),
               (4, '2024-01-04'), (4, '2024-01-02'), (1, '2024-01-04'), (0, 'infinity'), (5, '-infinity')) AS m (at_sequence, at_time),
       esrs_load('tt', id(1), m.at_sequence, m.at_time) AS l;
SELECT try($$SELECT esrs_load('tt', id(1), at_sequence => -1)$$);
SELECT try($$SELECT esrs_load('tt', id(1), at_sequence => -2147483648, at_time => 'infinity')$$);
SELECT try($$SELECT esrs_load('tt', id(9), at_sequence => 1) IS NULL$$);

-- folded from the first event
SET esrs.state_cache_size = 0;
SELECT * FROM wrong();
SELECT folded($$SELECT esrs_load('tt', id(1))$$), folded($$SELECT esrs_load('tt', id(1), 3)$$) AS past;
-- cached
RESET esrs.state_cache_size;
SELECT * FROM wrong();
SELECT folded($$SELECT esrs_load('tt', id(1))$$), folded($$SELECT esrs_load('tt', id(1), 3)$$) AS past;
-- with a snapshot in the middle, at the end, and before the last
SET esrs.state_cache_size = 0;
BEGIN;
DELETE FROM esrs.snapshots WHERE aggregate = 'tt';
SELECT esrs_alter_aggregate('tt', '{"snapshot_every": 3}');
SELECT esrs_alter_aggregate('tt', '{"snapshots": "rebuild"}');
SELECT sequence_number, state FROM esrs.snapshots WHERE aggregate = 'tt';
SELECT * FROM wrong();
SELECT folded($$SELECT esrs_load('tt', id(1))$$), folded($$SELECT esrs_load('tt', id(1), 3)$$) AS past,
       folded($$SELECT esrs_load('tt', id(1), 6)$$) AS beyond;
SET LOCAL esrs.state_cache_size = '8MB';
SELECT * FROM wrong();
SELECT esrs_handle_command('tt', id(1), '{"x": "f"}');
SELECT * FROM wrong();
ROLLBACK;
SELECT * FROM wrong();
-- a snapshot in the middle of the stream: taken when number 3 was stored
DO $$BEGIN
    PERFORM esrs_alter_aggregate('tt', '{"snapshot_every": 3}');
    FOR i IN 1 .. 5 LOOP
        PERFORM esrs_handle_command('tt', id(3), jsonb_build_object('x', i));
    END LOOP;
END$$;
SELECT aggregate_id = id(3) AS is_3, sequence_number, state FROM esrs.snapshots WHERE aggregate = 'tt';
SELECT n, folded(format('SELECT esrs_load(''tt'', id(3), %s)', n)), l.sequence_number, l.state
  FROM generate_series(0, 6) AS n, esrs_load('tt', id(3), n) AS l ORDER BY n;
-- at the times of events: one command, one time
SELECT n, l.sequence_number, l.state
  FROM generate_series(1, 5) AS n, esrs_load('tt', id(3), at_time => (SELECT occurred_on FROM tt_events WHERE aggregate_id = id(3) AND sequence_number = n)) AS l
 WHERE n IN (1, 5) AND l.sequence_number >= n ORDER BY n;
SELECT l.sequence_number, l.state FROM esrs_load('tt', id(3), at_time => (SELECT min(occurred_on) - interval '1 us' FROM tt_events WHERE aggregate_id = id(3))) AS l;
RESET esrs.state_cache_size;

-- deprecated events keep their numbers; the state is that without them
CREATE FUNCTION no_b(payload jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    RETURN CASE WHEN payload ->> 'x' IN ('a', 'c', 'e') THEN NULL ELSE payload END;
SELECT esrs_alter_aggregate('tt', '{"to_event": "no_b(jsonb)"}');
SELECT n, l.sequence_number, l.state FROM generate_series(0, 6) AS n, esrs_load('tt', id(1), n) AS l ORDER BY n;
SELECT l.sequence_number, l.state FROM esrs_load('tt', id(1), at_time => '2024-01-04') AS l;
-- from a snapshot as well, be it of a deprecated event
SELECT esrs_alter_aggregate('tt', '{"snapshots": "rebuild"}');
SELECT n, l.sequence_number, l.state FROM generate_series(0, 6) AS n, esrs_load('tt', id(1), n) AS l ORDER BY n;
SELECT l.sequence_number, l.state FROM esrs_load('tt', id(1), at_time => '2024-01-04') AS l;
DROP FUNCTION wrong;
DROP VIEW truth, moments;
SELECT esrs_unregister_aggregate('tt', drop_events => true);

-- ------------------------------------------------------------------------
-- <name>_state: an aggregate of SQL
-- ------------------------------------------------------------------------
CREATE VIEW aggregates AS
    SELECT p.oid::regprocedure::text AS aggregate, a.aggtransfn::oid::regprocedure::text AS step, a.agginitval AS initial,
           p.proowner::regrole::text AS owner
      FROM pg_aggregate AS a JOIN pg_proc AS p ON p.oid = a.aggfnoid WHERE p.proname ~ '_state$' AND p.pronamespace = 'esrs_states'::regnamespace;
GRANT SELECT ON aggregates TO PUBLIC;
SELECT esrs_register_aggregate('st', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)',
                               initial_state => '{"seen": "."}');
SELECT * FROM aggregates ORDER BY 1;
INSERT INTO st_events (id, aggregate_id, payload, occurred_on, sequence_number)
    SELECT gen_random_uuid(), id(i), jsonb_build_object('x', chr(96 + n)), '2024-01-01'::timestamptz + n * interval '1 day' + i * interval '1 h', n
      FROM generate_series(1, 4) AS i, generate_series(1, i + 1) AS n ORDER BY n DESC, i;
SELECT aggregate_id, st_state(payload ORDER BY sequence_number) FROM st_events GROUP BY 1 ORDER BY 1;
SELECT aggregate_id, st_state(payload, version ORDER BY sequence_number) FROM st_events GROUP BY 1 ORDER BY 1;
-- differences between all ways to fold everything
CREATE FUNCTION ways(name text, plain boolean DEFAULT true) RETURNS TABLE (way text, missing bigint, wrong bigint) LANGUAGE plpgsql AS $$
DECLARE
    loads text := format('SELECT a, (l).sequence_number, (l).state FROM (SELECT a, esrs_load(%L, a) AS l FROM (SELECT DISTINCT aggregate_id AS a FROM %I) AS i OFFSET 0) AS x',
                         name, name || '_events');
    ways text[] := ARRAY[
        'esrs_states', format('SELECT aggregate_id, sequence_number, state FROM esrs_states(%L)', name),
        'state(payload, version)', format('SELECT aggregate_id, max(sequence_number), %I(payload, version ORDER BY sequence_number) FROM %I GROUP BY 1', name || '_state', name || '_events'),
        'state(payload)', format('SELECT aggregate_id, max(sequence_number), %I(payload ORDER BY sequence_number) FROM %I GROUP BY 1', name || '_state', name || '_events')];
BEGIN
    FOR i IN 1 .. CASE WHEN plain THEN 5 ELSE 3 END BY 2 LOOP
        way := ways[i];
        EXECUTE format('SELECT count(*) FROM (%s EXCEPT %s) AS x', loads, ways[i + 1]) INTO missing;
        EXECUTE format('SELECT count(*) FROM (%s EXCEPT %s) AS x', ways[i + 1], loads) INTO wrong;
        RETURN NEXT;
    END LOOP;
END $$;
SELECT * FROM ways('st');
-- the order decides
SELECT st_state(payload ORDER BY sequence_number DESC), st_state(payload, version ORDER BY sequence_number DESC) FROM st_events WHERE aggregate_id = id(4);
-- no event: no group; without GROUP BY the state before the first event
SELECT aggregate_id, st_state(payload) FROM st_events WHERE false GROUP BY 1;
SELECT st_state(payload), st_state(payload, version) FROM st_events WHERE false;
-- time travel by WHERE
SELECT t.day, e.aggregate_id, st_state(payload, version ORDER BY sequence_number)
  FROM (VALUES ('2024-01-02 01:00'::timestamptz), ('2024-01-03 02:00')) AS t (day) JOIN st_events AS e ON e.occurred_on <= t.day GROUP BY 1, 2 ORDER BY 1, 2;
SELECT aggregate_id, st_state(payload ORDER BY sequence_number) FILTER (WHERE sequence_number <= 2) FROM st_events GROUP BY 1 ORDER BY 1;
-- the state after each event
SELECT aggregate_id, sequence_number, st_state(payload) OVER w, st_state(payload, version) OVER w AS versioned
  FROM st_events WINDOW w AS (PARTITION BY aggregate_id ORDER BY sequence_number) ORDER BY 1, 2 LIMIT 6;
-- ... and what the last two would make of a new one
SELECT sequence_number, st_state(payload) OVER w, st_state(payload, version) OVER w AS versioned
  FROM st_events WHERE aggregate_id = id(4) WINDOW w AS (ORDER BY sequence_number ROWS 1 PRECEDING) ORDER BY 1;
-- a null of an outer join is no event
SELECT i, st_state(payload, version ORDER BY sequence_number), st_state(payload ORDER BY sequence_number) FILTER (WHERE payload IS NOT NULL) AS filtered
  FROM generate_series(3, 6) AS i LEFT JOIN st_events ON aggregate_id = id(i) GROUP BY 1 ORDER BY 1;
SELECT st_state(NULL, 1), st_state(NULL, NULL);
-- grouped by anything; sorted or hashed; within another
SELECT st_state(payload, version ORDER BY sequence_number, aggregate_id) FROM st_events WHERE sequence_number <= 2;
SELECT sequence_number, st_state(payload, version ORDER BY aggregate_id, sequence_number) FROM st_events GROUP BY GROUPING SETS ((sequence_number), ()) ORDER BY 1 NULLS LAST;
SET enable_hashagg = off;
SELECT * FROM ways('st');
SET enable_hashagg = on;
SET enable_sort = off;
SELECT * FROM ways('st');
RESET enable_sort;
-- where parallel plans are cheap
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SELECT set_config(name, 'regress', false) AS forced FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
SELECT * FROM ways('st');
SELECT count(*) FROM st_events AS e, LATERAL (SELECT st_state(payload, version) FROM st_events WHERE aggregate_id = e.aggregate_id AND sequence_number = 1) AS s (state) WHERE s.state = '{"seen": ".a"}';
SELECT set_config(name, 'off', false) AS forced FROM pg_settings WHERE name IN ('force_parallel_mode', 'debug_parallel_query');
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
-- in a view and a prepared statement
CREATE VIEW st_now AS SELECT aggregate_id, st_state(payload, version ORDER BY sequence_number) AS state FROM st_events GROUP BY 1;
PREPARE at(timestamptz) AS SELECT st_state(payload, version ORDER BY sequence_number) FROM st_events WHERE aggregate_id = id(4) AND occurred_on <= $1;
SELECT state FROM st_now ORDER BY aggregate_id LIMIT 1;
EXECUTE at('2024-01-04');

-- two aggregates in one query, each with its own functions: side by side where PostgreSQL tells them apart
CREATE FUNCTION apply_up(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    RETURN jsonb_build_object('seen', upper((state ->> 'seen') || (event ->> 'x')));
CREATE FUNCTION handle_up(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE sql IMMUTABLE RETURN ARRAY[command];
SELECT esrs_register_aggregate('su', handle_command => 'handle_up(jsonb,jsonb)', apply_event => 'apply_up(jsonb,jsonb)',
                               initial_state => '{"seen": "."}');
SELECT aggregate_id, st_state(payload ORDER BY sequence_number) AS st, su_state(payload ORDER BY sequence_number) AS su FROM st_events GROUP BY 1 ORDER BY 1 LIMIT 1;
SELECT aggregate_id, su_state(payload, version ORDER BY sequence_number) AS su, st_state(payload, version ORDER BY sequence_number) AS st FROM st_events GROUP BY 1 ORDER BY 1 LIMIT 1;
SELECT try($$SELECT st_state(payload, version) OVER w || su_state(payload, version) OVER w FROM st_events WINDOW w AS (ORDER BY sequence_number, aggregate_id)$$);
SELECT * FROM (SELECT st_state(payload ORDER BY sequence_number) AS st FROM st_events WHERE aggregate_id = id(1)) AS st,
              (SELECT su_state(payload ORDER BY sequence_number) AS su FROM st_events WHERE aggregate_id = id(1)) AS su;
SELECT aggregate_id, st_state(payload ORDER BY sequence_number) AS st, su_state(payload, version ORDER BY sequence_number) AS su FROM st_events GROUP BY 1 ORDER BY 1 LIMIT 1;
SELECT aggregate_id, st_state(payload ORDER BY sequence_number) AS st, su_state(payload ORDER BY sequence_number DESC) AS su FROM st_events GROUP BY 1 ORDER BY 1 LIMIT 1;
-- ... also one twice
SELECT aggregate_id, st_state(payload ORDER BY sequence_number) AS once, st_state(payload ORDER BY sequence_number) AS twice FROM st_events GROUP BY 1 ORDER BY 1 LIMIT 1;
SELECT esrs_alter_aggregate('su', '{"initial_state": {"seen": ":"}}');
SELECT aggregate_id, st_state(payload ORDER BY sequence_number) AS st, su_state(payload ORDER BY sequence_number) AS su FROM st_events GROUP BY 1 ORDER BY 1 LIMIT 1;

-- esrs.fold is nothing by itself, nor in an aggregate of another name
SELECT try($$SELECT esrs.fold('{}', '{"x": "a"}', 1)$$);
SELECT try($$SELECT esrs.fold(NULL, NULL, NULL)$$), try($$SELECT esrs.fold('{}', '{"x": "a"}')$$);
SELECT try($$SELECT st_state(esrs.fold('{}', payload, 1)) FROM st_events$$);
CREATE AGGREGATE my_fold(payload jsonb, version int) (SFUNC = esrs.fold, STYPE = jsonb, INITCOND = '{"seen": ""}');
CREATE AGGREGATE _state(payload jsonb, version int) (SFUNC = esrs.fold, STYPE = jsonb, INITCOND = '{"seen": ""}');
CREATE AGGREGATE nobody_state(payload jsonb, version int) (SFUNC = esrs.fold, STYPE = jsonb, INITCOND = '{"seen": ""}');
SELECT try($$SELECT my_fold(payload, version) FROM st_events$$);
SELECT try($$SELECT my_fold(payload, version) OVER () FROM st_events$$);
SELECT try($$SELECT _state(payload, version) FROM st_events$$);
SELECT try($$SELECT nobody_state(payload, version) FROM st_events$$);
DROP AGGREGATE my_fold(jsonb, int), _state(jsonb, int), nobody_state(jsonb, int);
-- of a name that is a C aggregate's, or a store's
CREATE FUNCTION counter(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_counter' LANGUAGE C;
SELECT esrs_register_aggregate('st_c', handler => 'counter(internal)');
SELECT esrs_register_aggregate('st_store');
SELECT aggregate FROM aggregates ORDER BY 1;
CREATE AGGREGATE st_c_state(payload jsonb, version int) (SFUNC = esrs.fold, STYPE = jsonb, INITCOND = '{}');
CREATE AGGREGATE st_store_state(payload jsonb, version int) (SFUNC = esrs.fold, STYPE = jsonb, INITCOND = '{}');
SELECT try($$SELECT st_c_state('{"Added": {"by": 1}}', 1)$$);
SELECT try($$SELECT st_store_state('{"Added": {"by": 1}}', 1)$$);
DROP AGGREGATE st_c_state(jsonb, int), st_store_state(jsonb, int);

-- versions: upcast, to_event, deprecated, and newer than known
CREATE FUNCTION upcast(payload jsonb, version int) RETURNS jsonb LANGUAGE sql IMMUTABLE
    RETURN CASE WHEN version IS NULL THEN CASE WHEN payload ->> 'x' <> 'b' THEN jsonb_build_object('x', upper(payload ->> 'x')) END
                ELSE jsonb_build_object('x', (payload ->> 'x') || version) END;
SET client_min_messages = notice;
-- nothing is told but what somebody has to know
SELECT esrs_alter_aggregate('st', '{"upcast": "upcast(jsonb,int)", "event_version": 3}');
SET client_min_messages = warning;
SELECT * FROM aggregates WHERE aggregate ~ '^st_' ORDER BY 1;
INSERT INTO st_events (id, aggregate_id, payload, sequence_number, version) VALUES
    (gen_random_uuid(), id(4), '{"x": "v"}', 6, 1), (gen_random_uuid(), id(4), '{"x": "w"}', 7, 2), (gen_random_uuid(), id(4), '{"x": "x"}', 8, 3);
SELECT aggregate_id, st_state(payload, version ORDER BY sequence_number) FROM st_events GROUP BY 1 ORDER BY 1;
SELECT * FROM ways('st', plain => false);
-- payloads alone do not say of which form they are
SELECT try($$SELECT st_state(payload) FROM st_events$$);
SELECT try($$SELECT st_state(payload) OVER () FROM st_events$$);
SELECT try($$SELECT st_state(payload, 4) FROM st_events$$);
INSERT INTO st_events (id, aggregate_id, payload, sequence_number, version) VALUES (gen_random_uuid(), id(5), '{"x": "y"}', 1, 4);
SELECT try($$SELECT st_state(payload, version) FROM st_events WHERE aggregate_id = id(5)$$);
SELECT try($$SELECT count(*) FROM esrs_states('st')$$);
-- the other instances are not concerned
SELECT st_state(payload, version ORDER BY sequence_number) FROM st_events WHERE aggregate_id = id(1);
SELECT esrs_alter_aggregate('st', '{"event_version": 4, "to_event": "no_b(jsonb)"}');
SELECT * FROM ways('st', plain => false);
SELECT aggregate_id, st_state(payload, version ORDER BY sequence_number) FROM st_events GROUP BY 1 ORDER BY 1;
-- to_event alone asks for no version
SELECT esrs_alter_aggregate('st', '{"event_version": null, "upcast": null}');
SELECT * FROM ways('st');
SELECT esrs_alter_aggregate('st', '{"to_event": null}');
SELECT * FROM ways('st');
-- a fold that raises is raised; so is null
CREATE FUNCTION apply_bad(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    RETURN CASE event ->> 'x' WHEN 'y' THEN NULL WHEN 'x' THEN to_jsonb(1 / (length(state ->> 'seen') - 8)) ELSE apply(state, event) END;
SELECT esrs_alter_aggregate('st', '{"apply_event": "apply_bad(jsonb,jsonb)"}');
SELECT try($$SELECT st_state(payload, version ORDER BY sequence_number) FROM st_events WHERE aggregate_id = id(5)$$);
SELECT try($$SELECT st_state(payload, version ORDER BY sequence_number) FROM st_events WHERE aggregate_id = id(4)$$);
SELECT try($$SELECT st_state(payload, version ORDER BY sequence_number) FROM st_events WHERE aggregate_id = id(2)$$);

-- ------------------------------------------------------------------------
-- It follows what is registered
-- ------------------------------------------------------------------------
CREATE FUNCTION apply_low(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    RETURN jsonb_build_object('low', (state ->> 'low') || (event ->> 'x'));
SELECT esrs_alter_aggregate('st', '{"apply_event": "apply_low(jsonb,jsonb)", "initial_state": {"low": "_"}}');
SELECT * FROM aggregates WHERE aggregate ~ '^st_' ORDER BY 1;
SELECT * FROM ways('st');
-- what was there before goes on with it
SELECT state FROM st_now ORDER BY aggregate_id LIMIT 1;
EXECUTE at('2024-01-04');
-- replaced, renamed or moved in its place: followed
CREATE OR REPLACE FUNCTION apply_low(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    RETURN jsonb_build_object('low', (state ->> 'low') || '-' || (event ->> 'x'));
ALTER FUNCTION apply_low RENAME TO apply_lower;
SELECT * FROM ways('st');
SELECT state FROM st_now ORDER BY aggregate_id LIMIT 1;
-- the initial state alone; by default it is {}
SELECT esrs_alter_aggregate('st', '{"initial_state": {"low": "it''s \"so\" \\ €"}}');
SELECT * FROM aggregates WHERE aggregate ~ '^st_' ORDER BY 1;
SELECT state FROM st_now ORDER BY aggregate_id LIMIT 1;
SELECT * FROM ways('st');
SELECT esrs_alter_aggregate('st', '{"initial_state": null}');
SELECT * FROM aggregates WHERE aggregate ~ '^st_' ORDER BY 1;
SELECT * FROM ways('st');
-- an option that is none of theirs leaves them alone
SELECT oid AS before FROM pg_proc WHERE proname = 'st_state' AND pronargs = 2 \gset
SELECT xmin AS xmin_before FROM pg_proc WHERE oid = :before \gset
SELECT esrs_alter_aggregate('st', '{"notify": "off"}');
SELECT xmin = :'xmin_before'::xid AS untouched FROM pg_proc WHERE oid = :before;
-- from and to C: gone, and back
SELECT esrs_alter_aggregate('st', '{"handler": "counter(internal)", "handle_command": null, "apply_event": null}');
DROP VIEW st_now;
SELECT esrs_alter_aggregate('st', '{"handler": "counter(internal)", "handle_command": null, "apply_event": null}');
SELECT aggregate FROM aggregates WHERE aggregate ~ '^st_' ORDER BY 1;
SELECT esrs_alter_aggregate('st', '{"handler": null, "handle_command": "handle(jsonb,jsonb)", "apply_event": "apply(jsonb,jsonb)", "initial_state": {"seen": "."}}');
SELECT * FROM ways('st');
-- a view of the plain form stays, and says what is wrong with it
CREATE VIEW st_plain AS SELECT aggregate_id, st_state(payload ORDER BY sequence_number) AS state FROM st_events GROUP BY 1;
SELECT esrs_alter_aggregate('st', '{"upcast": "upcast(jsonb,int)"}');
SELECT try($$SELECT state FROM st_plain WHERE aggregate_id = id(1)$$);
SELECT esrs_alter_aggregate('st', '{"upcast": null}');
SELECT try($$SELECT state FROM st_plain WHERE aggregate_id = id(1)$$);
-- what a view needs cannot go, which is told; nothing has changed then
SELECT try($$SELECT esrs_unregister_aggregate('st')$$);
SELECT name, kind FROM esrs_aggregates WHERE name = 'st';
SELECT * FROM ways('st');
DROP VIEW st_plain;
-- a user may drop one, or all; what happens then does not depend on it
DROP AGGREGATE st_state(jsonb);
SELECT esrs_alter_aggregate('st', '{"upcast": "upcast(jsonb,int)"}');
DROP AGGREGATE st_state(jsonb, int);
SELECT aggregate FROM aggregates WHERE aggregate ~ '^st_' ORDER BY 1;
SELECT esrs_alter_aggregate('st', '{"upcast": null, "initial_state": {"seen": ","}}');
SELECT * FROM aggregates WHERE aggregate ~ '^st_' ORDER BY 1;
-- a function lost with CASCADE, and made again
DROP FUNCTION apply(jsonb, jsonb) CASCADE;
SELECT aggregate FROM aggregates WHERE aggregate ~ '^st_' ORDER BY 1;
CREATE FUNCTION apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
    RETURN jsonb_build_object('seen', (state ->> 'seen') || (event ->> 'x'));
SELECT severity, object, problem FROM esrs_check() WHERE object = 'st';
SELECT * FROM aggregates WHERE aggregate ~ '^st_' ORDER BY 1;
SELECT * FROM ways('st');
-- the table was moved to another schema: they follow, with those who use them, and nothing is left over in the end
CREATE SCHEMA esrs_states_two;
CREATE VIEW st_now AS SELECT aggregate_id, st_state(payload, version ORDER BY sequence_number) AS state FROM st_events GROUP BY 1;
ALTER TABLE st_events SET SCHEMA esrs_states_two;
SELECT state FROM st_now ORDER BY aggregate_id LIMIT 1;
SELECT esrs_alter_aggregate('st', '{"initial_state": {"seen": ";"}}');
SELECT state FROM st_now ORDER BY aggregate_id LIMIT 1;
SELECT p.oid::regprocedure::text AS aggregate, a.agginitval FROM pg_aggregate AS a JOIN pg_proc AS p ON p.oid = a.aggfnoid WHERE p.proname = 'st_state' ORDER BY 1;
DROP VIEW st_now;
SELECT esrs_unregister_aggregate('st', drop_events => true);
SELECT p.oid::regprocedure::text AS left_over FROM pg_proc AS p WHERE p.proname = 'st_state' ORDER BY 1;
DROP SCHEMA esrs_states_two CASCADE;

-- unregistered: gone; registered with a rollback: none
SELECT esrs_unregister_aggregate('su', drop_events => true);
SELECT aggregate FROM aggregates ORDER BY 1;
BEGIN;
SELECT esrs_register_aggregate('su', handle_command => 'handle_up(jsonb,jsonb)', apply_event => 'apply_up(jsonb,jsonb)');
SELECT aggregate, initial FROM aggregates ORDER BY 1;
ROLLBACK;
SELECT aggregate FROM aggregates ORDER BY 1;

-- ------------------------------------------------------------------------
-- The name is taken
-- ------------------------------------------------------------------------
SET client_min_messages = notice;
CREATE FUNCTION tk_state(jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$SELECT '"mine"'::jsonb$$;
CREATE FUNCTION other(state jsonb, payload jsonb, version int) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$SELECT '"other"'::jsonb$$;
CREATE AGGREGATE tk_state(payload jsonb, version int) (SFUNC = other, STYPE = jsonb);
SELECT esrs_register_aggregate('tk', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)', initial_state => '{"seen": ""}');
SELECT esrs_handle_command('tk', id(1), '{"x": "a"}');
SELECT tk_state(payload), (SELECT tk_state(payload, version) FROM tk_events) AS versioned FROM tk_events;
SELECT state FROM esrs_states('tk');
-- they are in nobody's way later
SELECT esrs_alter_aggregate('tk', '{"initial_state": {"seen": "."}}');
SELECT esrs_alter_aggregate('tk', '{"upcast": "upcast(jsonb,int)"}');
SELECT esrs_alter_aggregate('tk', '{"upcast": null}');
SELECT esrs_unregister_aggregate('tk', drop_events => true);
SELECT p.oid::regprocedure::text AS still, p.prokind FROM pg_proc AS p WHERE p.proname = 'tk_state' ORDER BY 1;
DROP AGGREGATE tk_state(jsonb, int);
DROP FUNCTION tk_state(jsonb), other;
-- the form of other arguments is in nobody's way; a table or type of the name neither
CREATE FUNCTION tk_state(text) RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT 'mine'$$;
CREATE TABLE tk_state (a int);
SELECT esrs_register_aggregate('tk', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)', initial_state => '{"seen": ""}');
SELECT aggregate FROM aggregates ORDER BY 1;
SELECT esrs_unregister_aggregate('tk', drop_events => true);
DROP FUNCTION tk_state(text);
DROP TABLE tk_state;
-- an aggregate over esrs.fold that another role has put there before is a stranger's, too
GRANT USAGE ON SCHEMA esrs TO regress_esrs_reader;
GRANT CREATE ON SCHEMA esrs_states TO regress_esrs_reader, regress_esrs_owner;
SET ROLE regress_esrs_reader;
CREATE AGGREGATE tk_state(payload jsonb, version int) (SFUNC = esrs.fold, STYPE = jsonb, INITCOND = '{"seen": "forged"}');
RESET ROLE;
REVOKE USAGE ON SCHEMA esrs FROM regress_esrs_reader;
REVOKE CREATE ON SCHEMA esrs_states FROM regress_esrs_reader;
SELECT esrs_register_aggregate('tk', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)', initial_state => '{"seen": ""}');
SELECT * FROM aggregates ORDER BY 1;
SELECT esrs_unregister_aggregate('tk', drop_events => true);
SELECT * FROM aggregates ORDER BY 1;
DROP AGGREGATE tk_state(jsonb, int);
SET client_min_messages = warning;

-- ------------------------------------------------------------------------
-- Rights
-- ------------------------------------------------------------------------
GRANT EXECUTE ON FUNCTION esrs_register_aggregate(text, text, text, text, jsonb, text, text, text, int, int, text, text, boolean, boolean, text, text, boolean),
    esrs_alter_aggregate(text, jsonb), esrs_unregister_aggregate(text, boolean), esrs.append_only() TO regress_esrs_owner;
GRANT USAGE ON SCHEMA esrs TO regress_esrs_owner;
SET ROLE regress_esrs_owner;
CREATE FUNCTION r_handle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE sql IMMUTABLE RETURN ARRAY[command];
CREATE FUNCTION r_apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS
    $$BEGIN RETURN state || jsonb_build_object(event ->> 'x', current_user); END$$;
CREATE FUNCTION r_to_event(payload jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE RETURN payload;
SELECT esrs_register_aggregate('rt', handle_command => 'r_handle(jsonb,jsonb)', apply_event => 'r_apply(jsonb,jsonb)');
SELECT * FROM aggregates WHERE aggregate ~ '^rt_' ORDER BY 1;
SELECT esrs_handle_command('rt', id(1), '{"x": "a"}');
SELECT esrs_handle_command('rt', id(2), '{"x": "b"}');
-- a role without SELECT
SET ROLE regress_esrs_reader;
SELECT try(statement) FROM unnest(ARRAY[
    $$SELECT state FROM esrs_states('rt')$$, $$SELECT rt_state(payload) FROM rt_events$$, $$SELECT rt_state(payload, version) FROM rt_events$$,
    $$SELECT esrs_load('rt', id(1))$$]) AS statement;
-- ... which is not told from an aggregate that is not there before the name is looked up
SELECT try($$SELECT state FROM esrs_states('no_such')$$);
RESET ROLE;
-- a plain reader: all of it runs as himself
GRANT SELECT ON rt_events TO regress_esrs_reader;
SET ROLE regress_esrs_reader;
SELECT aggregate_id, sequence_number, state FROM esrs_states('rt') ORDER BY 1;
SELECT aggregate_id, rt_state(payload, version ORDER BY sequence_number) FROM rt_events GROUP BY 1 ORDER BY 1;
SELECT aggregate_id, rt_state(payload ORDER BY sequence_number) FROM rt_events GROUP BY 1 ORDER BY 1;
RESET ROLE;
-- without EXECUTE on apply_event nobody calls it with payloads of his own
REVOKE EXECUTE ON FUNCTION r_apply FROM PUBLIC;
SET ROLE regress_esrs_reader;
SELECT try($$SELECT rt_state('{"x": "forged"}', 1)$$);
SELECT try($$SELECT rt_state(payload, version) FROM rt_events WHERE false$$);
SELECT try($$SELECT rt_state(payload, version) FROM rt_events$$);
SELECT try($$SELECT rt_state(payload, version) OVER () FROM rt_events$$);
SELECT try($$SELECT rt_state('{"x": "forged"}')$$);
SELECT try($$SELECT rt_state(payload) OVER () FROM rt_events$$);
-- his own aggregate over esrs.fold gives him no more, nor others who call it
RESET ROLE;
GRANT USAGE ON SCHEMA esrs TO regress_esrs_reader;
CREATE SCHEMA esrs_states_his AUTHORIZATION regress_esrs_reader;
SET ROLE regress_esrs_reader;
CREATE AGGREGATE esrs_states_his.rt_state(payload jsonb, version int) (SFUNC = esrs.fold, STYPE = jsonb, INITCOND = '{"init": "his"}');
SELECT try($$SELECT esrs_states_his.rt_state('{"x": "forged"}', 1)$$);
SELECT try($$SELECT esrs_states_his.rt_state('{"x": "forged"}', 1) OVER ()$$);
RESET ROLE;
GRANT EXECUTE ON FUNCTION r_apply TO regress_esrs_reader;
SET ROLE regress_esrs_reader;
SELECT try($$SELECT esrs_states_his.rt_state('{"x": "forged"}', 1)$$);
-- it is not touched by what the owner does
RESET ROLE;
SET ROLE regress_esrs_owner;
SELECT esrs_alter_aggregate('rt', '{"initial_state": {"init": 1}}');
SELECT p.oid::regprocedure::text AS aggregate, a.agginitval, p.proowner::regrole FROM pg_aggregate AS a JOIN pg_proc AS p ON p.oid = a.aggfnoid WHERE p.proname = 'rt_state' ORDER BY 1;
-- EXECUTE on to_event is asked for, too
SELECT esrs_alter_aggregate('rt', '{"to_event": "r_to_event(jsonb)"}');
REVOKE EXECUTE ON FUNCTION r_to_event FROM PUBLIC;
SET ROLE regress_esrs_reader;
SELECT try($$SELECT rt_state('{"x": "forged"}', 1)$$);
SET ROLE regress_esrs_owner;
SELECT rt_state('{"x": "own"}', 1);
SELECT esrs_alter_aggregate('rt', '{"to_event": null}');
RESET ROLE;
-- a superuser alters: they stay their owner's
SELECT esrs_alter_aggregate('rt', '{"initial_state": {"init": 2}}');
SELECT * FROM aggregates WHERE aggregate ~ '^rt_' ORDER BY 1;

-- row security: a reader folds what he sees, and gets no snapshot of the rest
CREATE OR REPLACE FUNCTION r_apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS
    $$BEGIN RETURN state || jsonb_build_object(event ->> 'x', 1); END$$;
ALTER TABLE rt_events ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON rt_events FOR SELECT TO regress_esrs_tenant USING (payload ->> 'x' <> 'a');
GRANT SELECT ON rt_events TO regress_esrs_tenant;
GRANT EXECUTE ON FUNCTION r_apply TO regress_esrs_tenant;
SELECT esrs_handle_command('rt', id(1), '{"x": "c"}');
SELECT esrs_alter_aggregate('rt', '{"snapshot_every": 1}');
SELECT esrs_alter_aggregate('rt', '{"snapshots": "rebuild"}');
SELECT sequence_number, state FROM esrs.snapshots WHERE aggregate = 'rt' ORDER BY 1;
SET ROLE regress_esrs_tenant;
SELECT aggregate_id, sequence_number, state FROM esrs_states('rt');
SELECT * FROM ways('rt');
SET ROLE regress_esrs_reader;
SELECT aggregate_id, sequence_number, state FROM esrs_states('rt');
SELECT * FROM ways('rt');
SET ROLE regress_esrs_owner;
SELECT aggregate_id, sequence_number, state FROM esrs_states('rt');
SELECT * FROM ways('rt');
RESET ROLE;
-- another owner of the table, and what the hint says
GRANT EXECUTE ON FUNCTION r_handle TO regress_esrs_tenant;
ALTER TABLE rt_events OWNER TO regress_esrs_tenant;
SELECT try($$SELECT rt_state(payload ORDER BY sequence_number) FROM rt_events WHERE aggregate_id = id(2)$$);
ALTER AGGREGATE rt_state(jsonb) OWNER TO regress_esrs_tenant;
DROP AGGREGATE rt_state(jsonb, int);
SELECT esrs_alter_aggregate('rt', '{}');
SELECT * FROM aggregates WHERE aggregate ~ '^rt_' ORDER BY 1;
-- ... what the new owner may not make is left out
GRANT CREATE ON SCHEMA esrs_states TO regress_esrs_tenant;
SELECT esrs_alter_aggregate('rt', '{}');
GRANT USAGE ON SCHEMA esrs TO regress_esrs_tenant;
SELECT esrs_alter_aggregate('rt', '{}');
SELECT * FROM aggregates WHERE aggregate ~ '^rt_' ORDER BY 1;
SELECT * FROM ways('rt');
SELECT esrs_unregister_aggregate('rt', drop_events => true);
SELECT aggregate FROM aggregates ORDER BY 1;
DROP SCHEMA esrs_states_his CASCADE;

-- ------------------------------------------------------------------------
-- esrs_states: all instances of any aggregate
-- ------------------------------------------------------------------------
SELECT esrs_register_aggregate('es', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)', initial_state => '{"seen": "."}',
                               to_event => 'no_b(jsonb)');
-- empty
SELECT * FROM esrs_states('es');
SELECT count(*) FROM esrs_states('es', 'infinity');
INSERT INTO es_events (id, aggregate_id, payload, occurred_on, sequence_number) VALUES
    (gen_random_uuid(), id(1), '{"x": "1"}', '2024-01-01', 1), (gen_random_uuid(), id(1), '{"x": "a"}', '2024-01-02', 2),
    (gen_random_uuid(), id(1), '{"x": "2"}', '2024-01-05', 3), (gen_random_uuid(), id(1), '{"x": "3"}', '2024-01-03', 4),
    (gen_random_uuid(), id(2), '{"x": "a"}', '2024-01-02', 1), (gen_random_uuid(), id(2), '{"x": "c"}', '2024-01-04', 2),
    (gen_random_uuid(), id(3), '{"x": "4"}', '2024-01-06', 1);
-- one whose events are all deprecated has the initial state, and a number
SELECT * FROM esrs_states('es') ORDER BY 1;
SELECT * FROM ways('es', plain => false);
-- at a time: as esrs_load
SELECT t AS at_time, right(s.aggregate_id::text, 1) AS id, s.sequence_number, s.state,
       row(s.*) = row(l.*) AS as_loaded
  FROM unnest('{-infinity,2023-12-31,2024-01-01,2024-01-02,2024-01-03,2024-01-04,2024-01-05,2024-01-06,infinity}'::timestamptz[]) AS t,
       esrs_states('es', t) AS s, esrs_load('es', s.aggregate_id, at_time => t) AS l ORDER BY 1, 2;
SELECT * FROM esrs_states('es', at_time => NULL) EXCEPT SELECT * FROM esrs_states('es');
-- in C: a struct, JSON; and a store without logic
SELECT esrs_handle_command('st_c', id(i), jsonb_build_object('Add', jsonb_build_object('by', i * 10 + n))) FROM generate_series(1, 3) AS i, generate_series(1, 2) AS n ORDER BY i, n;
SELECT * FROM esrs_states('st_c') ORDER BY 1;
SELECT count(*) FROM esrs_states('st_c') AS s, esrs_load('st_c', s.aggregate_id) AS l WHERE s.state = l.state AND s.sequence_number = l.sequence_number;
CREATE FUNCTION letters(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_letters_json_schema' LANGUAGE C;
SELECT esrs_register_aggregate('st_l', handler => 'letters(internal)');
SELECT count(*) FROM esrs_persist('st_l', id(1), ARRAY['"A"', '"C"']::jsonb[]);
INSERT INTO st_l_events (id, aggregate_id, payload, sequence_number) VALUES (gen_random_uuid(), id(1), '"B"', 3), (gen_random_uuid(), id(2), '"B"', 1);
SELECT * FROM esrs_states('st_l') ORDER BY 1;
SELECT count(*) FROM esrs_persist('st_store', id(1), ARRAY['"A"', '"C"']::jsonb[]);
SELECT * FROM esrs_states('st_store');
SELECT * FROM esrs_states('st_store', '-infinity');
-- what the transaction has done is seen, what was rolled back is not
BEGIN;
SELECT esrs_handle_command('es', id(7), '{"x": "7"}');
SELECT sequence_number, state FROM esrs_states('es') WHERE aggregate_id = id(7);
SAVEPOINT s;
SELECT esrs_handle_command('es', id(7), '{"x": "8"}');
ROLLBACK TO s;
SELECT sequence_number, state FROM esrs_states('es') WHERE aggregate_id = id(7);
ROLLBACK;
SELECT count(*) FROM esrs_states('es') WHERE aggregate_id = id(7);
-- an error names the event, and reading goes on afterwards
\set SHOW_CONTEXT always
ALTER TABLE es_events DISABLE TRIGGER USER;
UPDATE es_events SET id = id(999) WHERE aggregate_id = id(3);
ALTER TABLE es_events ENABLE ALWAYS TRIGGER esrs_append_only;
CREATE FUNCTION apply_raises(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS
    $$BEGIN IF event ->> 'x' = '4' THEN RAISE division_by_zero; END IF; RETURN state; END$$;
SELECT esrs_alter_aggregate('es', '{"apply_event": "apply_raises(jsonb,jsonb)"}');
SELECT * FROM esrs_states('es');
\set SHOW_CONTEXT never
SELECT count(*) FROM esrs_states('es', '2024-01-05');
-- within one another, joined to itself, and with a LIMIT
SELECT esrs_alter_aggregate('es', '{"apply_event": "apply(jsonb,jsonb)"}');
SELECT count(*) FROM esrs_states('es') AS a JOIN esrs_states('es') AS b USING (aggregate_id, state);
SELECT count(*) FROM (SELECT 1 FROM esrs_states('es') LIMIT 1) AS x;
SELECT s.state FROM es_events AS e, LATERAL esrs_states('es', e.occurred_on) AS s WHERE e.aggregate_id = id(1) AND s.aggregate_id = id(1) ORDER BY e.sequence_number;
-- in the select list, too
SELECT (esrs_states('es')).sequence_number;
-- in a read-only transaction
BEGIN READ ONLY;
SELECT count(*) FROM esrs_states('es');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE;
SELECT count(*) FROM esrs_states('es');
COMMIT;
-- bad arguments
SELECT try(statement) FROM unnest(ARRAY[
    $$SELECT * FROM esrs_states(NULL)$$, $$SELECT * FROM esrs_states('')$$, $$SELECT * FROM esrs_states('st_c_events')$$,
    $$SELECT * FROM esrs_states('es', 'yesterday or so')$$]) AS statement;
-- the table is gone
BEGIN;
DROP TABLE es_events;
SELECT try($$SELECT * FROM esrs_states('es')$$);
ROLLBACK;

SELECT esrs_unregister_aggregate(name, drop_events => true) FROM esrs_aggregates WHERE name IN ('es', 'st_c', 'st_l', 'st_store') ORDER BY name;
SELECT aggregate FROM aggregates ORDER BY 1;
DROP SCHEMA esrs_states CASCADE;
DROP OWNED BY regress_esrs_owner, regress_esrs_reader, regress_esrs_tenant;
DROP ROLE regress_esrs_owner, regress_esrs_reader, regress_esrs_tenant;
