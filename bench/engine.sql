-- engine.sql - what scripts/bench measures the set "engine" with, after streams.sql in the
-- same database, of which each measurement gets a copy.  psql variables: many and
-- projection, where the libraries of many.c and projection.c lie.
--
-- A thousand instances with ten events each, for each aggregate.

CREATE FUNCTION many_aggregate(internal) RETURNS esrs.aggregate_handler LANGUAGE c AS :'many';
REVOKE EXECUTE ON FUNCTION many_aggregate FROM PUBLIC;
SELECT esrs_register_aggregate('many', handler => 'many_aggregate(internal)');
SELECT fill(language, 10, 1000) FROM unnest('{C,SQL,PL/pgSQL}'::text[]) AS language;

CREATE TABLE target AS
SELECT language, i::int, id, gen_random_uuid() AS event_id
  FROM stream, unnest(instances) WITH ORDINALITY AS t (id, i);

-- What a handler does for an event: one row.
CREATE TABLE movements (position bigint, book uuid, copies int);
CREATE TABLE doing (position bigint, book uuid, copies int);
INSERT INTO doing SELECT i, id, 1 FROM target WHERE language = 'C';
CREATE FUNCTION bench_returned(esrs_event) RETURNS void LANGUAGE c AS :'projection';
CREATE FUNCTION on_nothing(e esrs_event) RETURNS void LANGUAGE plpgsql AS 'BEGIN END';
CREATE FUNCTION on_sql(e esrs_event) RETURNS void LANGUAGE sql AS $$
    INSERT INTO movements VALUES (e.position, e.aggregate_id, (e.payload #>> '{Returned,num_of_copies}')::int)
$$;
CREATE FUNCTION on_plpgsql(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO movements VALUES (e.position, e.aggregate_id, (e.payload #>> '{Returned,num_of_copies}')::int);
END $$;
CREATE FUNCTION on_set(e esrs_event[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO movements SELECT position, aggregate_id, (payload #>> '{Returned,num_of_copies}')::int FROM unnest(e);
END $$;

CREATE TABLE variant (name text PRIMARY KEY, per int, handler text, settings jsonb, statement text);
INSERT INTO variant
SELECT name, 1000, handler, settings::jsonb,
       format('SELECT count(esrs_handle_command(%L, id, ''{"Return": {"num_of_copies": 1}}'')) FROM target WHERE language = %L AND $1 > 0',
              aggregate, language)
  FROM (VALUES
    ('C', 'book_c', 'C', NULL, '{}'),
    ('C, once more', 'book_c', 'C', NULL, '{}'),
    ('C, by statements', 'book_c', 'C', NULL, '{"esrs.direct_append": "off"}'),
    ('C, nothing kept', 'book_c', 'C', NULL, '{"esrs.state_cache_size": "0"}'),
    ('SQL', 'book_sql', 'SQL', NULL, '{}'),
    ('PL/pgSQL', 'book_plpgsql', 'PL/pgSQL', NULL, '{}'),
    ('C, PL/pgSQL handler that does nothing', 'book_c', 'C', 'on_nothing(esrs_event)', '{}'),
    ('C, C handler', 'book_c', 'C', 'bench_returned(esrs_event)', '{}'),
    ('C, SQL handler', 'book_c', 'C', 'on_sql(esrs_event)', '{}'),
    ('C, PL/pgSQL handler', 'book_c', 'C', 'on_plpgsql(esrs_event)', '{}'),
    ('C, set-based handler', 'book_c', 'C', 'on_set(esrs_event[])', '{}')
  ) AS v (name, aggregate, language, handler, settings);
INSERT INTO variant VALUES
    ('raw, constant payload', 1000, NULL, '{}',
     $$INSERT INTO book_c_events (id, aggregate_id, payload, occurred_on, sequence_number)
       SELECT event_id, id, '{"Returned": {"num_of_copies": 1}}', clock_timestamp(), 10 + $1 FROM target WHERE language = 'C'$$),
    ('raw', 1000, NULL, '{}',
     $$INSERT INTO book_c_events (id, aggregate_id, payload, occurred_on, sequence_number)
       SELECT event_id, id, jsonb_build_object('Returned', jsonb_build_object('num_of_copies', i)), clock_timestamp(), 10 + $1
         FROM target WHERE language = 'C'$$),
    ('the handlers'' statement alone', 1000, NULL, '{}',
     $$DO 'DECLARE d doing; BEGIN FOR d IN SELECT * FROM doing LOOP INSERT INTO movements VALUES (d.position, d.book, d.copies); END LOOP; END'$$),
    ('C, 10,000 commands in one call', 10000, NULL, '{}',
     $$SELECT count(*) FROM esrs_handle_commands(ARRAY(
           SELECT ('book_c', id, '{"Return": {"num_of_copies": 1}}', NULL, NULL, NULL)::esrs_command
             FROM target, generate_series(1, 10) WHERE language = 'C')) WHERE $1 > 0$$),
    ('C, 10,000 events of one command', 10000, NULL, '{}',
     $$SELECT esrs_handle_command('many', gen_random_uuid(), '{"Emit": {"events": 10000}}') WHERE $1 > 0$$);

-- One statement a transaction; two to warm up, and then as many as are asked for.
CREATE PROCEDURE measure_engine(a_variant text, n int, INOUT cpu_us float8 DEFAULT NULL) LANGUAGE plpgsql AS $$
DECLARE
    v   variant;
    cpu float8;
BEGIN
    SELECT * INTO v FROM variant WHERE name = a_variant;
    PERFORM set_config(key, value, false) FROM jsonb_each_text(v.settings);
    IF v.handler IS NOT NULL THEN
        PERFORM esrs_register_handler('h', '{book_c}', v.handler);
    END IF;
    COMMIT;
    FOR i IN 1 .. n + 2 LOOP
        IF i = 3 THEN
            cpu := bench_cpu();
        END IF;
        IF v.statement ^@ 'DO' THEN
            EXECUTE v.statement;
        ELSE
            EXECUTE v.statement USING i;
        END IF;
        COMMIT;
    END LOOP;
    cpu_us := (bench_cpu() - cpu) / n / v.per;
END $$;
