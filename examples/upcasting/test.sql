-- upcasting: payloads of older versions, read in today's form.

CREATE EXTENSION esrs;

-- Both aggregates count up and down.  An event names its type in a member of its own:
-- {"event_type": "incremented", "u": 10}.  In version 0 the number was called "i".
CREATE FUNCTION upsert_handle(state jsonb, command jsonb) RETURNS jsonb[]
RETURN ARRAY[CASE
    WHEN command ? 'Increment' THEN '{"event_type": "incremented"}' || (command -> 'Increment')
    WHEN command ? 'Decrement' THEN '{"event_type": "decremented"}' || (command -> 'Decrement')
    ELSE esrs_reject('UnknownCommand', 'there are Increment and Decrement') END];

CREATE FUNCTION upsert_apply(state jsonb, event jsonb) RETURNS jsonb IMMUTABLE
RETURN jsonb_build_object('n', (state -> 'n')::bigint
           + CASE event ->> 'event_type' WHEN 'incremented' THEN 1 ELSE -1 END * (event -> 'u')::bigint);

-- ---------------------------------------------------------------------------
-- One way: rewrite the JSON
-- ---------------------------------------------------------------------------

-- Only payloads of older versions come here, and those without a version; event_version
-- is today's.  What nobody can read is an error.
CREATE FUNCTION upsert_a_upcast(payload jsonb, version int) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = public, pg_temp AS $$
BEGIN
    IF coalesce(version, 0) <> 0 THEN
        RAISE 'invalid event version number: %', version USING ERRCODE = 'ZE004';
    END IF;
    IF (payload ->> 'event_type' IN ('incremented', 'decremented')) IS NOT TRUE THEN
        RAISE 'event has no type that is known' USING ERRCODE = 'ZE004';
    END IF;
    IF (payload @? 'strict $.i ? (@ >= 0 && @.floor() == @)') IS NOT TRUE THEN
        RAISE 'event has no "i" that is a number from 0 on' USING ERRCODE = 'ZE004';
    END IF;
    RETURN payload - 'i' || jsonb_build_object('u', payload -> 'i');
END $$;

SELECT esrs_register_aggregate('upsert_a', initial_state => '{"n": 0}',
    handle_command => 'upsert_handle(jsonb,jsonb)', apply_event => 'upsert_apply(jsonb,jsonb)',
    upcast => 'upsert_a_upcast(jsonb,int)', event_version => 1, event_type_path => 'event_type');

\set id '''0b5e7c1e-0000-4000-8000-000000000001'''
INSERT INTO upsert_a_events (id, aggregate_id, payload, occurred_on, sequence_number, version) VALUES
    (gen_random_uuid(), :id, '{"event_type": "incremented", "i": 10}', now(), 1, 0),
    (gen_random_uuid(), :id, '{"event_type": "incremented", "u": 11}', now(), 2, 1);
SELECT sequence_number, version, payload FROM esrs_events('upsert_a', :id);

-- A new event has today's version.
SELECT state, events[1].sequence_number, events[1].version
  FROM esrs_try_command('upsert_a', :id, '{"Decrement": {"u": 1}}');

-- ---------------------------------------------------------------------------
-- Another: decode the old type, and convert it
-- ---------------------------------------------------------------------------

-- What is to be decoded is a row type; domains say what it must have.
CREATE DOMAIN i64 AS bigint NOT NULL;
CREATE DOMAIN unsigned AS i64 CHECK (VALUE >= 0);
CREATE TYPE incremented_20230405 AS (event_type text, i i64);
CREATE TYPE incremented AS (event_type text, u unsigned);
CREATE TYPE decremented AS (event_type text, u unsigned);

-- Today's types, for every event that is read.
CREATE FUNCTION upsert_b_to_event(payload jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = public, pg_temp AS $$
BEGIN
    CASE payload ->> 'event_type'
        WHEN 'incremented' THEN RETURN to_jsonb(jsonb_populate_record(NULL::incremented, payload));
        WHEN 'decremented' THEN RETURN to_jsonb(jsonb_populate_record(NULL::decremented, payload));
    END CASE;
EXCEPTION
    WHEN case_not_found OR data_exception OR integrity_constraint_violation THEN
        RAISE 'event is none of today' USING ERRCODE = 'ZE004';
END $$;

-- The type that was different in version 0.
CREATE FUNCTION upsert_b_upcast(payload jsonb, version int) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = public, pg_temp AS $$
DECLARE
    old incremented_20230405;
BEGIN
    IF coalesce(version, 0) <> 0 THEN
        RAISE 'invalid event version number: %', version USING ERRCODE = 'ZE004';
    ELSIF payload ->> 'event_type' = 'incremented' THEN
        old := jsonb_populate_record(NULL::incremented_20230405, payload);
        RETURN to_jsonb((old.event_type, old.i)::incremented);
    END IF;
    RETURN payload;
EXCEPTION
    WHEN data_exception OR integrity_constraint_violation THEN
        RAISE 'event is none of version 0' USING ERRCODE = 'ZE004';
END $$;

SELECT esrs_register_aggregate('upsert_b', initial_state => '{"n": 0}',
    handle_command => 'upsert_handle(jsonb,jsonb)', apply_event => 'upsert_apply(jsonb,jsonb)',
    upcast => 'upsert_b_upcast(jsonb,int)', to_event => 'upsert_b_to_event(jsonb)',
    event_version => 1, event_type_path => 'event_type');

INSERT INTO upsert_b_events (id, aggregate_id, payload, occurred_on, sequence_number, version) VALUES
    (gen_random_uuid(), :id, '{"event_type": "incremented", "i": 10}', now(), 1, 0),
    (gen_random_uuid(), :id, '{"event_type": "incremented", "u": 11}', now(), 2, 1);
SELECT sequence_number, version, payload FROM esrs_events('upsert_b', :id);
SELECT state, events[1].sequence_number, events[1].version
  FROM esrs_try_command('upsert_b', :id, '{"Decrement": {"u": 1}}');

-- ---------------------------------------------------------------------------
-- Handlers see today's form, and the type that event_type_path leads to
-- ---------------------------------------------------------------------------

CREATE TABLE increments (aggregate text PRIMARY KEY, n int NOT NULL, sum bigint NOT NULL);

CREATE FUNCTION keep_increments(event esrs_event) RETURNS void BEGIN ATOMIC
    INSERT INTO increments VALUES (event.aggregate, 1, (event.payload -> 'u')::bigint)
    ON CONFLICT (aggregate) DO UPDATE SET n = increments.n + 1, sum = increments.sum + excluded.sum;
END;

SELECT esrs_register_handler('increments', '{upsert_a,upsert_b}', 'keep_increments(esrs_event)',
    mode => 'async', start_at => 'beginning', event_types => '{incremented}', max_attempts => 1);
SELECT esrs_wait_for('increments', timeout => '60s');
SELECT * FROM increments ORDER BY 1;

-- ---------------------------------------------------------------------------
-- What cannot be read is an error, not an event less
-- ---------------------------------------------------------------------------

CREATE TABLE bad (n int PRIMARY KEY, version int, payload jsonb NOT NULL);
INSERT INTO bad VALUES
    (1, NULL, '{"event_type": "incremented", "i": 10}'),        -- before versions: good
    (2, 2, '{"event_type": "incremented", "u": 10}'),           -- a version of tomorrow
    (3, -1, '{"event_type": "incremented", "i": 10}'),          -- one that never was
    (4, 0, '{"event_type": "incremented", "u": 10}'),           -- no i
    (5, 0, '{"event_type": "incremented", "i": -10}'),
    (6, 0, '{"event_type": "incremented", "i": 10.5}'),
    (7, 0, '{"event_type": "incremented", "i": "ten"}'),
    (8, 0, '{"event_type": "multiplied", "i": 10}'),
    (9, 0, '{"i": 10}'),
    (10, 0, '"incremented"');
INSERT INTO upsert_a_events (id, aggregate_id, payload, version)
SELECT gen_random_uuid(), ('0b5e7c1e-0000-4000-8000-' || lpad(n::text, 12, '9'))::uuid, payload, version FROM bad;
INSERT INTO upsert_b_events (id, aggregate_id, payload, version)
SELECT gen_random_uuid(), ('0b5e7c1e-0000-4000-8000-' || lpad(n::text, 12, '9'))::uuid, payload, version FROM bad;

CREATE FUNCTION read(aggregate text, n int) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RETURN (esrs_load(aggregate, ('0b5e7c1e-0000-4000-8000-' || lpad(n::text, 12, '9'))::uuid)).state;
EXCEPTION WHEN SQLSTATE 'ZE004' THEN
    RETURN SQLERRM;
END $$;
SELECT n, version, payload, read('upsert_a', n) AS a, read('upsert_b', n) AS b FROM bad ORDER BY n;

-- Their instances can neither be loaded nor commanded; others are not concerned.  A handler
-- gives them up as it gives up any event, and they stay there until somebody can read them.
SELECT esrs_wait_for('increments', timeout => '60s');
SELECT * FROM increments ORDER BY 1;
SELECT aggregate, sqlstate, count(*) FROM esrs_dead_letters GROUP BY 1, 2 ORDER BY 1;

-- esrs_verify finds them all.
SET client_min_messages = warning;
SELECT severity, right(aggregate_id::text, 2) AS id, sequence_number, problem FROM esrs_verify('upsert_a');
RESET client_min_messages;

-- ---------------------------------------------------------------------------
-- A chain of versions
-- ---------------------------------------------------------------------------

-- none, 0:  {"Set": {"amount": 12.5}}, and {"Viewed": {}}, which nobody wants any more
-- 1:        {"Set": {"cents": 1250}}
-- 2:        {"Priced": {"cents": 1250, "currency": "EUR"}}
--
-- A step for each version; the next one is a line more.  Steps are STRICT, so that one
-- that returns NULL, which deprecates, is the end of the chain.
CREATE FUNCTION price_0_to_1(payload jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = public, pg_temp AS $$
BEGIN
    CASE
        WHEN payload ? 'Set' THEN
            RETURN jsonb_build_object('Set', jsonb_build_object('cents',
                       ((payload #> '{Set,amount}')::numeric * 100)::int));
        WHEN payload ? 'Viewed' THEN RETURN NULL;
    END CASE;
END $$;

CREATE FUNCTION price_1_to_2(payload jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = public, pg_temp AS $$
BEGIN
    CASE
        WHEN payload ? 'Set' THEN
            RETURN jsonb_build_object('Priced', (payload -> 'Set') || '{"currency": "EUR"}');
    END CASE;
END $$;

CREATE FUNCTION price_upcast(payload jsonb, version int) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = public, pg_temp AS $$
BEGIN
    version := coalesce(version, 0);
    IF version < 1 THEN payload := price_0_to_1(payload); END IF;
    IF version < 2 THEN payload := price_1_to_2(payload); END IF;
    RETURN payload;
END $$;

CREATE FUNCTION price_handle(state jsonb, command jsonb) RETURNS jsonb[]
RETURN ARRAY[jsonb_build_object('Priced', command -> 'Price')];

CREATE FUNCTION price_apply(state jsonb, event jsonb) RETURNS jsonb IMMUTABLE
RETURN event -> 'Priced';

SELECT esrs_register_aggregate('price', event_version => 2, upcast => 'price_upcast(jsonb,int)',
    handle_command => 'price_handle(jsonb,jsonb)', apply_event => 'price_apply(jsonb,jsonb)');
INSERT INTO price_events (id, aggregate_id, payload, sequence_number, version) VALUES
    (gen_random_uuid(), :id, '{"Set": {"amount": 12}}', 1, NULL),
    (gen_random_uuid(), :id, '{"Set": {"amount": 12.5}}', 2, 0),
    (gen_random_uuid(), :id, '{"Viewed": {}}', 3, 0),
    (gen_random_uuid(), :id, '{"Set": {"cents": 1300}}', 4, 1),
    (gen_random_uuid(), :id, '{"Priced": {"cents": 1350, "currency": "EUR"}}', 5, 2);
SELECT esrs_handle_command('price', :id, '{"Price": {"cents": 1400, "currency": "CHF"}}');
SELECT sequence_number, version, payload FROM esrs_events('price', :id);
SELECT version, count(*) FROM price_events GROUP BY 1 ORDER BY 1;
