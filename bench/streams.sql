-- streams.sql - what scripts/bench measures the sets "streams" and "memory" with, in a
-- database of its own.  psql variable: cpu, where the library of cpu.c lies.
--
-- One bookshop, three times: in C (examples/book), in SQL and in PL/pgSQL.  Streams of all
-- lengths are in one table: that of a single short stream would be read by other plans.

CREATE EXTENSION esrs;
CREATE FUNCTION bench_cpu() RETURNS float8 LANGUAGE c AS :'cpu';

CREATE FUNCTION book_aggregate(internal) RETURNS esrs.aggregate_handler
    LANGUAGE c AS '$libdir/book';

CREATE FUNCTION book_sql_handle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE sql
BEGIN ATOMIC
    SELECT ARRAY[CASE
        WHEN (command #> '{Return,num_of_copies}')::int > 0
            THEN jsonb_build_object('Returned', command -> 'Return')
        WHEN (command #> '{Buy,num_of_copies}')::int BETWEEN 1 AND (state -> 'leftover')::int
            THEN jsonb_build_object('Bought', command -> 'Buy')
        ELSE esrs_reject('NotEnoughCopies', 'not enough copies left')
    END];
END;
CREATE FUNCTION book_sql_apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT jsonb_build_object('leftover', (state -> 'leftover')::int
        - coalesce(event #> '{Bought,num_of_copies}', '0')::int
        + coalesce(event #> '{Returned,num_of_copies}', '0')::int);
END;

CREATE FUNCTION book_plpgsql_handle(state jsonb, command jsonb) RETURNS SETOF jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (command #> '{Return,num_of_copies}')::int > 0 THEN
        RETURN NEXT jsonb_build_object('Returned', command -> 'Return');
    ELSIF (command #> '{Buy,num_of_copies}')::int BETWEEN 1 AND (state -> 'leftover')::int THEN
        RETURN NEXT jsonb_build_object('Bought', command -> 'Buy');
    ELSE
        RAISE 'not enough copies left' USING ERRCODE = 'ZE001', CONSTRAINT = 'NotEnoughCopies';
    END IF;
END $$;
CREATE FUNCTION book_plpgsql_apply(state jsonb, event jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN jsonb_build_object('leftover', (state -> 'leftover')::int
        - coalesce(event #> '{Bought,num_of_copies}', '0')::int
        + coalesce(event #> '{Returned,num_of_copies}', '0')::int);
END $$;

REVOKE EXECUTE ON FUNCTION book_aggregate, book_sql_handle, book_plpgsql_handle FROM PUBLIC;

SELECT esrs_register_aggregate('book_c', handler => 'book_aggregate(internal)');
SELECT esrs_register_aggregate('book_sql', handle_command => 'book_sql_handle(jsonb,jsonb)',
    apply_event => 'book_sql_apply(jsonb,jsonb)', initial_state => '{"leftover": 10}');
SELECT esrs_register_aggregate('book_plpgsql', handle_command => 'book_plpgsql_handle(jsonb,jsonb)',
    apply_event => 'book_plpgsql_apply(jsonb,jsonb)', initial_state => '{"leftover": 10}');

CREATE TABLE stream (
    language  text,
    events    int,
    aggregate text NOT NULL,
    instances uuid[] NOT NULL,
    PRIMARY KEY (language, events)
);
CREATE TABLE result (
    round     int,
    language  text,
    variant   text,
    events    int,
    operation text,
    calls     int,
    cpu_us    float8,
    wall_us   float8
);

-- Makes instances with that many events.
CREATE FUNCTION fill(a_language text, a_events int, a_instances int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name    text := 'book_' || CASE a_language WHEN 'PL/pgSQL' THEN 'plpgsql' ELSE lower(a_language) END;
    payload jsonb[] := (SELECT array_agg(jsonb_build_object(CASE i % 2 WHEN 1 THEN 'Bought' ELSE 'Returned' END,
                                                            '{"num_of_copies": 1}'::jsonb))
                          FROM generate_series(1, a_events) AS i);
    ids     uuid[] := (SELECT array_agg(gen_random_uuid()) FROM generate_series(1, a_instances));
BEGIN
    PERFORM count(*) FROM unnest(ids) AS id, esrs_persist(name, id, payload);
    INSERT INTO stream VALUES (a_language, a_events, name, ids);
END $$;

-- Commands on, and loads of, instances one after the other, in one statement.
CREATE FUNCTION run_commands(aggregate text, targets uuid[], OUT cpu_us float8, OUT wall_us float8)
LANGUAGE plpgsql AS $$
DECLARE
    cpu  float8 := bench_cpu();
    wall timestamptz := clock_timestamp();
BEGIN
    PERFORM count(esrs_handle_command(aggregate, id, '{"Return": {"num_of_copies": 1}}')) FROM unnest(targets) AS id;
    cpu_us := bench_cpu() - cpu;
    wall_us := extract(epoch FROM clock_timestamp() - wall) * 1e6;
END $$;
CREATE FUNCTION run_loads(aggregate text, targets uuid[], OUT cpu_us float8, OUT wall_us float8)
LANGUAGE plpgsql AS $$
DECLARE
    cpu  float8 := bench_cpu();
    wall timestamptz := clock_timestamp();
BEGIN
    PERFORM count(esrs_load(aggregate, id)) FROM unnest(targets) AS id;
    cpu_us := bench_cpu() - cpu;
    wall_us := extract(epoch FROM clock_timestamp() - wall) * 1e6;
END $$;

-- The instances in turn, so many times.
CREATE FUNCTION repeated(instances uuid[], times int) RETURNS uuid[] LANGUAGE sql
RETURN coalesce((SELECT array_agg(id ORDER BY i) FROM generate_series(1, times) AS i, unnest(instances) AS id), '{}');

-- Snapshots as they would be: none of an instance that has fewer events.
CREATE FUNCTION set_snapshots(a_language text, every int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name text := (SELECT aggregate FROM stream WHERE language = a_language LIMIT 1);
BEGIN
    PERFORM esrs_alter_aggregate(name, jsonb_build_object('snapshot_every', every));
    PERFORM esrs_alter_aggregate(name, jsonb_build_object('snapshots', CASE WHEN every IS NULL THEN 'drop' ELSE 'rebuild' END));
    ASSERT (SELECT count(*) FROM esrs.snapshots WHERE aggregate = name)
         = (SELECT coalesce(sum(cardinality(instances)), 0) FROM stream WHERE language = a_language AND events >= every),
           'there are not the snapshots that should be there';
END $$;

-- Transactions that are rolled back: the next one finds the streams as they were.  Before the
-- clock starts one holds the locks of the instances, and has their states in the cache where
-- there is one; an instance of its own has warmed up everything else.
--
-- cached: 1,000 commands on 20 instances, or 4 very long ones, in turn.  cold: one command an
-- instance.  With snapshots: as with the cache, but so many that each distance to the newest
-- snapshot is met equally often; loads at ten of the distances.
CREATE PROCEDURE measure(a_round int, a_language text, a_events int, a_variant text) LANGUAGE plpgsql AS $$
DECLARE
    s          stream;
    cached     boolean := a_variant ^@ 'cached';
    every      int := substring(a_variant FROM '[0-9]+');
    snapshots  boolean := coalesce(every <= a_events, false);
    hot        uuid[];
    targets    uuid[];
    new_id     uuid := gen_random_uuid();
    one        record;
    commands   record;
    ncommands  int;
    nloads     int := 0;
    load_cpu   float8 := 0;
    load_wall  float8 := 0;
BEGIN
    SELECT * INTO s FROM stream WHERE language = a_language AND events = a_events;
    hot := CASE WHEN cached OR snapshots THEN s.instances[1:20] ELSE s.instances END;
    PERFORM set_config('esrs.state_cache_size', CASE WHEN cached THEN '8MB' ELSE '0' END, false);
    PERFORM set_config('plan_cache_mode', 'force_generic_plan', false);
    COMMIT;

    PERFORM count(esrs_lock_and_load(s.aggregate, id)) FROM unnest(hot) AS id;
    PERFORM run_commands(s.aggregate, ARRAY[new_id]), run_loads(s.aggregate, ARRAY[new_id]);
    IF NOT snapshots THEN
        targets := repeated(hot, CASE WHEN cached THEN 1000 / cardinality(hot) ELSE 1 END);
        SELECT * INTO one FROM run_loads(s.aggregate, targets);
        nloads := cardinality(targets);
        load_cpu := one.cpu_us;
        load_wall := one.wall_us;
    END IF;
    targets := repeated(hot, CASE WHEN snapshots THEN every * greatest(1, 1000 / cardinality(hot) / every)
                                  WHEN cached THEN 1000 / cardinality(hot)
                                  ELSE 1 END);
    SELECT * INTO commands FROM run_commands(s.aggregate, targets);
    ncommands := cardinality(targets);
    ROLLBACK;

    IF snapshots THEN
        PERFORM count(esrs_lock_and_load(s.aggregate, id)) FROM unnest(hot) AS id;
        PERFORM run_commands(s.aggregate, ARRAY[new_id]), run_loads(s.aggregate, ARRAY[new_id]);
        targets := repeated(hot, greatest(1, 100 / cardinality(hot)));
        FOR i IN 0 .. 9 LOOP
            PERFORM run_commands(s.aggregate, repeated(hot, CASE i WHEN 0 THEN every / 20 ELSE every / 10 END));
            SELECT * INTO one FROM run_loads(s.aggregate, targets);
            nloads := nloads + cardinality(targets);
            load_cpu := load_cpu + one.cpu_us;
            load_wall := load_wall + one.wall_us;
        END LOOP;
        ROLLBACK;
    END IF;

    INSERT INTO result VALUES
        (a_round, a_language, a_variant, a_events, 'command', ncommands, commands.cpu_us, commands.wall_us),
        (a_round, a_language, a_variant, a_events, 'load', nloads, load_cpu, load_wall);
    COMMIT;
END $$;

-- Loads every instance once, a thousand in a transaction.
CREATE PROCEDURE touch(a_language text, a_events int) LANGUAGE plpgsql AS $$
DECLARE
    s stream;
BEGIN
    SELECT * INTO s FROM stream WHERE language = a_language AND events = a_events;
    COMMIT;
    FOR i IN 0 .. (cardinality(s.instances) - 1) / 1000 LOOP
        PERFORM count(esrs_load(s.aggregate, id)) FROM unnest(s.instances[i * 1000 + 1 : (i + 1) * 1000]) AS id;
        COMMIT;
    END LOOP;
END $$;

-- What a backend has that it shares with nobody, in kB.
CREATE FUNCTION bench_memory() RETURNS int LANGUAGE sql
RETURN substring(pg_read_file('/proc/self/status') FROM 'RssAnon:\s+([0-9]+)')::int;
