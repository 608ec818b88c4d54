--
-- Deprecated events: upcast or to_event returns null.  They are left out, their numbers stay, and
-- the instance goes on.
--
-- Catches: defect D1 of the Rust library event_sourcing.rs, where an instance whose last event, or
-- whose every event, was deprecated cannot be appended to any more, or counts as unknown; a state
-- that still knows an event after it was deprecated, or does not know it again; a handler that is
-- called for one.
--
\set SHOW_CONTEXT never
\getenv abs_srcdir PG_ABS_SRCDIR
\set testlib :abs_srcdir '/testlib/esrs_testlib'
SET client_min_messages = warning;
CREATE SCHEMA esrs_deprecated;
SET search_path = esrs_deprecated, public;
\pset null (null)

CREATE FUNCTION id(letter text) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$SELECT ('0de90000-0000-4000-8000-00000000000' || letter)::uuid$$;
CREATE FUNCTION try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text; state text;
BEGIN
    EXECUTE statement;
    RETURN 'done';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, state = RETURNED_SQLSTATE;
    RETURN concat_ws(' | ', state, nullif(detail, ''));
END $$;

-- a command says what to emit; the state is what types it has seen
CREATE FUNCTION type_of(event jsonb) RETURNS text LANGUAGE sql IMMUTABLE
BEGIN ATOMIC SELECT CASE jsonb_typeof(event) WHEN 'string' THEN event #>> '{}' ELSE (SELECT min(k) FROM jsonb_object_keys(event) AS k) END; END;
CREATE FUNCTION decide(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE sql
BEGIN ATOMIC SELECT coalesce(array_agg(e ORDER BY n), '{}') FROM jsonb_array_elements(command -> 'emit') WITH ORDINALITY AS x(e, n); END;
CREATE FUNCTION evolve(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
BEGIN ATOMIC SELECT jsonb_build_object('seen', (state ->> 'seen') || type_of(event)); END;
-- which types are of no more use; replaced below
CREATE FUNCTION of_no_use(type text) RETURNS boolean LANGUAGE sql IMMUTABLE SET search_path = pg_catalog AS 'SELECT false';
CREATE FUNCTION upcast(payload jsonb, version int) RETURNS jsonb LANGUAGE sql IMMUTABLE SET search_path = esrs_deprecated, pg_temp AS
    $$SELECT CASE WHEN of_no_use(type_of(payload)) THEN NULL ELSE payload END$$;
CREATE FUNCTION to_event(payload jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE SET search_path = esrs_deprecated, pg_temp AS
    $$SELECT CASE WHEN of_no_use(type_of(payload)) THEN NULL ELSE payload END$$;


-- No worker: batches are run here, by CALL
\set wait 'DO $$BEGIN IF current_setting(''esrs.max_workers'') <> ''0'' THEN PERFORM pg_sleep(0.05); END IF; END$$;'
\set wait :wait :wait :wait :wait :wait :wait :wait :wait :wait
\set wait :wait :wait :wait :wait :wait :wait :wait :wait :wait
\set wait_again 'DO $$BEGIN IF current_setting(''esrs.max_workers'') = ''0'' THEN PERFORM pg_sleep(0.05); END IF; END$$;'
\set wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again
\set wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again
LOAD 'esrs';
ALTER SYSTEM SET esrs.max_workers = 0;
SELECT pg_reload_conf();
:wait
SHOW esrs.max_workers;
SELECT esrs_stop_workers() >= 0 AS stopped;

-- ------------------------------------------------------------------------
-- The story, to be told of several aggregates: B is in use, then it is not, then it is again
-- ------------------------------------------------------------------------
CREATE TABLE told (n serial, variant text, step text, line text);
CREATE TABLE log (n serial, who text, what text);
CREATE FUNCTION log_event(who text, e esrs_event) RETURNS void LANGUAGE sql
BEGIN ATOMIC INSERT INTO log (who, what) VALUES (who, right(e.aggregate_id::text, 1) || '/' || e.sequence_number); END;
CREATE FUNCTION at_once(e esrs_event) RETURNS void LANGUAGE sql BEGIN ATOMIC SELECT log_event('at once', e); END;
CREATE FUNCTION soon(e esrs_event) RETURNS void LANGUAGE sql BEGIN ATOMIC SELECT log_event('soon', e); END;
CREATE FUNCTION logged(who text) RETURNS text LANGUAGE sql AS
    $$WITH gone AS (DELETE FROM log WHERE log.who = logged.who RETURNING n, what) SELECT coalesce(string_agg(what, ' ' ORDER BY n), 'none') FROM gone$$;
CREATE FUNCTION shown(s esrs_state) RETURNS text RETURN
    CASE WHEN s IS NULL THEN 'none' ELSE format('%s number %s %s', right(s.aggregate_id::text, 1), s.sequence_number, s.state) END;
CREATE FUNCTION shown(r esrs_result) RETURNS text LANGUAGE sql AS
    $$SELECT format('%s number %s %s, events %s', right(r.aggregate_id::text, 1), r.sequence_number, r.state, coalesce(string_agg(e.sequence_number::text, ','), 'none')) FROM unnest(r.events) AS e$$;

-- all that can be read
CREATE PROCEDURE read(variant text, chapter text, aggregate text) LANGUAGE plpgsql AS $$
DECLARE
    differ bigint := 0;
BEGIN
    INSERT INTO told (variant, step, line)
    SELECT variant, chapter || ': load', shown(l) || ', events ' || coalesce((SELECT string_agg(sequence_number::text, ',') FROM esrs_events(aggregate, id(x))), 'none')
      FROM unnest('{a,b,c,d,e,f}'::text[]) AS x, esrs_load(aggregate, id(x)) AS l;
    COMMIT;
    INSERT INTO told (variant, step, line) SELECT variant, chapter || ': locked', shown(l) FROM unnest('{a,b,c,d,e,f}'::text[]) AS x, esrs_lock_and_load(aggregate, id(x)) AS l;
    COMMIT;
    INSERT INTO told (variant, step, line)
    SELECT variant, chapter || ': at numbers', string_agg(shown(l), '; ' ORDER BY n)
      FROM unnest('{a,b,d,f}'::text[]) AS x, generate_series(0, 4) AS n, esrs_load(aggregate, id(x), at_sequence => n) AS l GROUP BY x ORDER BY x;
    INSERT INTO told (variant, step, line)
    SELECT variant, chapter || ': at a time', string_agg(shown(l), '; ' ORDER BY t) FROM unnest('{infinity,-infinity}'::timestamptz[]) AS t, esrs_load(aggregate, id('d'), at_time => t) AS l;
    INSERT INTO told (variant, step, line)
    SELECT variant, chapter || ': feed', string_agg(right(aggregate_id::text, 1) || coalesce('/' || sequence_number, ' deleted'), ' ' ORDER BY n) FROM esrs_feed(ARRAY[aggregate]) WITH ORDINALITY AS f(g, id, aggregate_id, payload, occurred_on, sequence_number, version, position, metadata, n);
    INSERT INTO told (variant, step, line)
    SELECT variant, chapter || ': first page', string_agg(right(aggregate_id::text, 1) || '/' || sequence_number, ' ') FROM esrs_feed(ARRAY[aggregate], max => 3);
    COMMIT;
    INSERT INTO told (variant, step, line) SELECT variant, chapter || ': all states', string_agg(shown(s), '; ' ORDER BY s.aggregate_id) FROM esrs_states(aggregate) AS s;
    -- of an aggregate in SQL the same by the SQL aggregate that was made for it
    IF to_regprocedure(aggregate || '_state(jsonb,int)') IS NOT NULL THEN
        EXECUTE format('SELECT count(*) FROM esrs_states(%L) AS s JOIN (SELECT aggregate_id, %2$I(payload, version ORDER BY sequence_number) AS state FROM %I GROUP BY 1) AS t USING (aggregate_id)
                         WHERE s.state IS DISTINCT FROM t.state', aggregate, aggregate || '_state', aggregate || '_events') INTO differ;
    END IF;
    INSERT INTO told (variant, step, line) VALUES (variant, chapter || ': other states', differ);
    INSERT INTO told (variant, step, line) SELECT variant, chapter || ': verified', coalesce(string_agg(format('%s %s %s', severity, right(aggregate_id::text, 1), problem), '; '), 'well') FROM esrs_verify(aggregate);
    COMMIT;
END $$;
-- all that can be done
CREATE PROCEDURE write(variant text, chapter text, aggregate text) LANGUAGE plpgsql AS $$
DECLARE
    r record;
BEGIN
    -- expected_sequence means the number of the newest event, deprecated or not
    INSERT INTO told (variant, step, line)
    SELECT variant, chapter || ': expecting', format('%s %s: %s', x, n, try(format('SELECT esrs_handle_command(%L, %L, %L, expected_sequence => %s)', aggregate, id(x), '{"emit": ["A"]}', n)))
      FROM (VALUES ('a', 1), ('a', 0), ('d', 0), ('d', 1), ('e', 0), ('d', 3)) AS y(x, n);
    COMMIT;
    -- the next event takes the next number
    FOR r IN VALUES ('a', 2), ('b', 2), ('c', 3), ('d', 2), ('e', 1), ('f', 3) LOOP
        INSERT INTO told (variant, step, line) SELECT variant, chapter || ': append', shown(x) FROM esrs_try_command(aggregate, id(r.column1), '{"emit": ["A"]}', r.column2) AS x;
        COMMIT;
    END LOOP;
    INSERT INTO told (variant, step, line)
    SELECT variant, chapter || ': persist', string_agg(sequence_number::text, ',') FROM esrs_persist(aggregate, id('d'), '{"\"A\"","{\"A\": 1}"}', expected_sequence => 3);
    INSERT INTO told (variant, step, line) SELECT variant, chapter || ': several', shown(x) FROM esrs_handle_commands(
        ARRAY[(aggregate, id('e'), '{"emit": ["A"]}', 2, NULL, NULL), (aggregate, id('e'), '{"emit": []}', 3, NULL, NULL)]::esrs_command[]) AS x;
    COMMIT;
    -- one that is deprecated when it is new is refused, and what came with it
    INSERT INTO told (variant, step, line)
    VALUES (variant, chapter || ': new one', try(format('SELECT esrs_handle_command(%L, %L, %L)', aggregate, id('a'), '{"emit": ["A", "B"]}'))),
           (variant, chapter || ': new one', try(format('SELECT esrs_persist(%L, %L, %L)', aggregate, id('a'), '{"\"B\""}')));
    COMMIT;
END $$;
-- what was done under a command_id is not done again, whatever has become of its events
CREATE PROCEDURE repeat(variant text, chapter text, aggregate text) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO told (variant, step, line)
    SELECT variant, chapter || ': seen', shown(r) FROM (VALUES ('a', '["A"]', '1'), ('a', '[{"B": 1}]', '2'), ('e', '["B"]', '3'), ('f', '["A", "B", "B"]', '4')) AS x(letter, events, key),
           esrs_try_command(aggregate, id(letter), jsonb_build_object('emit', events::jsonb), command_id => id(key)) AS r;
    INSERT INTO told (variant, step, line)
    VALUES (variant, chapter || ': seen otherwise', left(try(format('SELECT esrs_handle_command(%L, %L, %L, command_id => %L)', aggregate, id('a'), '{"emit": ["A"]}', id('2'))), 5));
    COMMIT;
END $$;
-- what handlers and a subscription have got since they were asked before
CREATE PROCEDURE handle(variant text, chapter text, aggregate text) LANGUAGE plpgsql AS $$
DECLARE
    acked bigint;
BEGIN
    INSERT INTO told (variant, step, line) SELECT variant, chapter || ': behind', l.events_behind::text FROM esrs_lag l WHERE l.handler = aggregate || '_soon';
    COMMIT;
    CALL esrs_run_handlers(aggregate || '_soon');
    INSERT INTO told (variant, step, line) VALUES (variant, chapter || ': at once', logged('at once')), (variant, chapter || ': soon', logged('soon'));
    COMMIT;
    INSERT INTO told (variant, step, line)
    SELECT variant, chapter || ': poll', coalesce(string_agg(right(aggregate_id::text, 1) || coalesce('/' || sequence_number, ' deleted'), ' ' ORDER BY position), 'none') FROM esrs_poll(aggregate || '_poll', 100);
    COMMIT;
    PERFORM esrs_ack(aggregate || '_poll', (SELECT max(upper(r)) - 1 FROM esrs.checkpoints c, unnest(c.handed) AS r WHERE c.name = aggregate || '_poll'));
    COMMIT;
END $$;
CREATE PROCEDURE story(variant text, aggregate text, in_use text, not_in_use text) LANGUAGE plpgsql AS $$
DECLARE
    r record;
    line text;
BEGIN
    EXECUTE in_use;
    PERFORM esrs_register_handler(aggregate || '_once', ARRAY[aggregate], 'at_once(esrs_event)'),
            esrs_register_handler(aggregate || '_soon', ARRAY[aggregate], 'soon(esrs_event)', mode => 'async'),
            esrs_subscribe(aggregate || '_poll', ARRAY[aggregate]);
    COMMIT;
    -- each a command of its own, so that states are kept between them; but for the last
    FOR r IN VALUES ('a', '["A"]', '1'), ('a', '[{"B": 1}]', '2'), ('b', '["B"]', NULL), ('b', '["A"]', NULL), ('c', '["A"]', NULL), ('c', '["B"]', NULL), ('c', '["A"]', NULL),
                    ('d', '["B"]', NULL), ('d', '["B"]', NULL), ('e', '["B"]', '3'), ('f', '["A", "B", "B"]', '4') LOOP
        PERFORM esrs_handle_command(aggregate, id(r.column1), jsonb_build_object('emit', r.column2::jsonb), command_id => id(r.column3));
        COMMIT;
    END LOOP;
    CALL read(variant, 'in use', aggregate);
    INSERT INTO told (variant, step, line) VALUES (variant, 'in use: at once', logged('at once'));
    COMMIT;
    -- what it is about; the asynchronous handler and the subscription have got nothing so far
    EXECUTE not_in_use;
    COMMIT;
    CALL read(variant, 'not in use', aggregate);
    CALL write(variant, 'not in use', aggregate);
    CALL repeat(variant, 'not in use', aggregate);
    CALL read(variant, 'went on', aggregate);
    CALL handle(variant, 'went on', aggregate);
    -- in a transaction: the same after a rollback
    line := shown(esrs_lock_and_load(aggregate, id('d')));
    EXECUTE in_use;
    line := line || '; ' || (SELECT shown(x) FROM esrs_try_command(aggregate, id('d'), '{"emit": ["B"]}') AS x);
    line := line || '; ' || shown(esrs_lock_and_load(aggregate, id('d')));
    ROLLBACK;
    INSERT INTO told (variant, step, line) VALUES (variant, 'in a transaction', line);
    INSERT INTO told (variant, step, line) SELECT variant, 'rolled back', shown(x) FROM esrs_try_command(aggregate, id('d'), '{"emit": ["A"]}') AS x;
    COMMIT;
    EXECUTE in_use;
    COMMIT;
    CALL read(variant, 'in use again', aggregate);
    INSERT INTO told (variant, step, line) SELECT variant, 'in use again', shown(x) FROM esrs_try_command(aggregate, id('d'), '{"emit": ["B"]}') AS x;
    COMMIT;
    CALL repeat(variant, 'in use again', aggregate);
    EXECUTE not_in_use;
    COMMIT;
    CALL handle(variant, 'at last', aggregate);
    -- deletion counts them, and the id is free
    INSERT INTO told (variant, step, line)
    SELECT variant, 'deleted', x || ' ' || esrs_delete(aggregate, id(x)) FROM unnest('{d,e}'::text[]) AS x;
    COMMIT;
    INSERT INTO told (variant, step, line) SELECT variant, 'deleted', shown(l) FROM esrs_load(aggregate, id('d')) AS l;
    INSERT INTO told (variant, step, line) SELECT variant, 'begun anew', shown(x) FROM esrs_try_command(aggregate, id('d'), '{"emit": ["A"]}', 0) AS x;
    COMMIT;
    CALL read(variant, 'the end', aggregate);
    CALL handle(variant, 'the end', aggregate);
END $$;

-- ------------------------------------------------------------------------
-- Told of aggregates in SQL, whose upcast or to_event calls a function that is replaced, or whose
-- upcast comes and goes; and in C, with a state of its own and with one that is JSON
-- ------------------------------------------------------------------------
CREATE FUNCTION without_b(payload jsonb, version int) RETURNS jsonb LANGUAGE sql IMMUTABLE SET search_path = esrs_deprecated, pg_temp AS
    $$SELECT CASE WHEN type_of(payload) <> 'B' THEN payload END$$;
CREATE FUNCTION letters(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_letters' LANGUAGE C;
CREATE FUNCTION letters_upcast(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_letters_upcast' LANGUAGE C;
CREATE FUNCTION letters_json(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_letters_json' LANGUAGE C;
CREATE FUNCTION letters_json_schema(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_letters_json_schema' LANGUAGE C;
CREATE TABLE kinds (n serial, kind text, handler text, upcast text, to_event text, in_use text, not_in_use text);
INSERT INTO kinds (kind, handler, upcast, to_event, in_use, not_in_use) VALUES
    ('upcast', NULL, 'upcast(jsonb,int)', NULL, 'CREATE OR REPLACE FUNCTION of_no_use(type text) RETURNS boolean LANGUAGE sql IMMUTABLE SET search_path = pg_catalog AS $$SELECT false$$',
     'CREATE OR REPLACE FUNCTION of_no_use(type text) RETURNS boolean LANGUAGE sql IMMUTABLE SET search_path = pg_catalog AS $$SELECT type = ''B''$$'),
    ('alter', NULL, NULL, NULL, $$SELECT esrs_alter_aggregate(%L, '{"upcast": null}')$$, $$SELECT esrs_alter_aggregate(%L, '{"upcast": "without_b(jsonb,int)"}')$$),
    ('c', 'letters(internal)', NULL, NULL, $$SELECT esrs_alter_aggregate(%L, '{"handler": "letters(internal)"}')$$, $$SELECT esrs_alter_aggregate(%L, '{"handler": "letters_upcast(internal)"}')$$),
    ('c_json', 'letters_json(internal)', NULL, NULL, $$SELECT esrs_alter_aggregate(%L, '{"handler": "letters_json(internal)"}')$$, $$SELECT esrs_alter_aggregate(%L, '{"handler": "letters_json_schema(internal)"}')$$);
INSERT INTO kinds (kind, to_event, in_use, not_in_use) SELECT 'to_event', 'to_event(jsonb)', in_use, not_in_use FROM kinds WHERE kind = 'upcast';
CREATE PROCEDURE tell(mode text, snapshots int) LANGUAGE plpgsql AS $$
DECLARE
    k kinds;
    aggregate text;
BEGIN
    FOR k IN SELECT * FROM kinds ORDER BY n LOOP
        aggregate := concat_ws('_', 'dp', k.kind, mode);
        PERFORM esrs_register_aggregate(aggregate, handler => k.handler, handle_command => CASE WHEN k.handler IS NULL THEN 'decide(jsonb,jsonb)' END,
            apply_event => CASE WHEN k.handler IS NULL THEN 'evolve(jsonb,jsonb)' END, initial_state => CASE WHEN k.handler IS NULL THEN '{"seen": "."}'::jsonb END,
            upcast => k.upcast, to_event => k.to_event, snapshot_every => snapshots);
        COMMIT;
        CALL story(concat_ws('_', k.kind, mode), aggregate, format(k.in_use, aggregate), format(k.not_in_use, aggregate));
    END LOOP;
END $$;
SHOW esrs.state_cache_size;
CALL tell(NULL, NULL);
SELECT step, line FROM told WHERE variant = 'upcast' ORDER BY n;

-- all the others have told the same.  What they told otherwise, and what they left out:
CREATE FUNCTION numbered(variant text) RETURNS TABLE (nth bigint, step text, line text) LANGUAGE sql AS
    $$SELECT row_number() OVER (ORDER BY n), step, line FROM told WHERE told.variant = numbered.variant$$;
CREATE VIEW otherwise AS
SELECT v.variant, d.*
  FROM (SELECT DISTINCT variant FROM told WHERE variant <> 'upcast') AS v,
       LATERAL ((SELECT 'otherwise' AS how, * FROM numbered(v.variant) EXCEPT SELECT 'otherwise', * FROM numbered('upcast')) UNION ALL
                (SELECT 'left out', * FROM numbered('upcast') EXCEPT SELECT 'left out', * FROM numbered(v.variant))) AS d;
SELECT * FROM otherwise ORDER BY variant, nth, how;

-- ------------------------------------------------------------------------
-- The same without states kept between commands; from snapshots; from both
-- ------------------------------------------------------------------------
SET esrs.state_cache_size = 0;
CALL tell('cold', NULL);
CALL tell('snapshots', 1);
CALL tell('few_snapshots', 2);
RESET esrs.state_cache_size;
CALL tell('both', 1);
CALL tell('both_few', 2);
SELECT variant, count(*) AS lines FROM told GROUP BY variant ORDER BY min(n);
SELECT * FROM otherwise ORDER BY variant, nth, how;
-- there were snapshots: of every instance that has reached a multiple of that number
SELECT aggregate, count(*) FROM esrs.snapshots WHERE aggregate LIKE 'dp\_%' GROUP BY 1 ORDER BY 1;

DO $$BEGIN PERFORM esrs_unregister_aggregate(name, drop_events => true) FROM esrs_aggregates WHERE name LIKE 'dp\_%'; END$$;
DROP SCHEMA esrs_deprecated CASCADE;
ALTER SYSTEM RESET esrs.max_workers;
SELECT pg_reload_conf();
:wait_again
SHOW esrs.max_workers;
