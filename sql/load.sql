--
-- esrs_load, esrs_lock_and_load and esrs_decide: state without a command.
--
-- Catches: a state of another moment than asked for, an unknown instance that
-- is an error or an empty state, a lock that is missing or not held, and a dry
-- run that writes.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA esrs_load;
SET search_path = esrs_load, public;
\set a '\'10ad0000-0000-4000-8000-00000000000a\''
\set b '\'10ad0000-0000-4000-8000-00000000000b\''
\set c '\'10ad0000-0000-4000-8000-00000000000c\''

CREATE TABLE trace (what text);
CREATE FUNCTION handle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE plpgsql AS $$
BEGIN
    IF command ? 'write' THEN
        -- a callback should not, but it may
        INSERT INTO trace VALUES ('written');
        PERFORM nextval('seq');
        PERFORM esrs_handle_command('load_sum', '10ad0000-0000-4000-8000-0000000000ff', '{"n": 1}');
    END IF;
    IF command ? 'refuse' THEN
        PERFORM esrs_reject('refused', 'no', '{"why": 1}', 'Ask later.');
    END IF;
    IF command ? 'raise' THEN
        RAISE division_by_zero;
    END IF;
    IF command ? 'bad' THEN
        RETURN ARRAY['1'::jsonb];
    END IF;
    RETURN ARRAY[command];
END $$;
CREATE FUNCTION apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql AS
    $$SELECT jsonb_build_object('sum', (state ->> 'sum')::int + coalesce((event ->> 'n')::int, 0))$$;
CREATE SEQUENCE seq;
SELECT esrs_register_aggregate('load_sum', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)',
                               initial_state => '{"sum": 0}');

-- a history with known times
INSERT INTO load_sum_events (id, aggregate_id, payload, occurred_on, sequence_number) VALUES
    (gen_random_uuid(), :a, '{"n": 1}', '2024-01-01 00:00:00+00', 1),
    (gen_random_uuid(), :a, '{"n": 10}', '2024-01-01 00:00:00+00', 2),
    (gen_random_uuid(), :a, '{"n": 100}', '2024-01-02 00:00:00+00', 3),
    (gen_random_uuid(), :a, '{"n": 1000}', '2024-01-03 00:00:00.000001+00', 4);

--
-- esrs_load
--
\pset null (null)
SELECT * FROM esrs_load('load_sum', :a);
-- an unknown instance: NULL, not the initial state
SELECT * FROM esrs_load('load_sum', :b);
SELECT esrs_load('load_sum', :b) IS NULL AS is_null;
-- at an event: after that one
SELECT n, l.sequence_number, l.state FROM generate_series(0, 5) AS n, esrs_load('load_sum', :a, n) AS l ORDER BY n;
SELECT * FROM esrs_load('load_sum', :a, at_sequence => 2147483647);
SELECT * FROM esrs_load('load_sum', :a, at_sequence => -1);
\echo :SQLSTATE
-- at a time: with all events that occurred up to and at it
SELECT t AT TIME ZONE 'UTC' AS at_time, l.sequence_number, l.state
  FROM unnest('{-infinity,2023-12-31 23:59:59.999999+00,2024-01-01 00:00:00+00,2024-01-02 00:00:00+00,2024-01-03 00:00:00+00,2024-01-03 00:00:00.000001+00,infinity}'::timestamptz[]) AS t,
       esrs_load('load_sum', :a, at_time => t) AS l ORDER BY t;
-- both: whichever comes first
SELECT * FROM esrs_load('load_sum', :a, 3, '2024-01-01 00:00:00+00');
SELECT * FROM esrs_load('load_sum', :a, 1, '2024-01-03 00:00:00+00');
-- the past does not change what a command sees
SELECT esrs_handle_command('load_sum', :a, '{"n": 10000}');
SELECT * FROM esrs_load('load_sum', :a, 2);
-- it sees the transaction's own events
BEGIN;
SELECT esrs_handle_command('load_sum', :b, '{"n": 1}');
SELECT * FROM esrs_load('load_sum', :b);
ROLLBACK;
SELECT esrs_load('load_sum', :b) IS NULL AS is_null;
-- ... within one statement too
BEGIN;
SELECT command.state ->> 'sum' AS command, (l).state ->> 'sum' AS loaded
  FROM (SELECT esrs_handle_command('load_sum', :b, '{"n": 1}') AS state OFFSET 0) AS command,
       LATERAL (SELECT esrs_load('load_sum', CASE WHEN command.state IS NOT NULL THEN :b::uuid END) AS l OFFSET 0) AS x;
ROLLBACK;
-- bad arguments
SELECT esrs_load(NULL, :a);
\echo :SQLSTATE
SELECT esrs_load('load_sum', NULL);
\echo :SQLSTATE
SELECT esrs_load('load_no_such', :a);
\echo :SQLSTATE

--
-- esrs_lock_and_load
--
BEGIN;
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
SELECT * FROM esrs_lock_and_load('load_sum', :a);
SELECT count(*), bool_and(mode = 'ExclusiveLock' AND granted) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
-- again costs nothing; an instance that does not exist is locked all the same
SELECT * FROM esrs_lock_and_load('load_sum', :a);
SELECT esrs_lock_and_load('load_sum', :b) IS NULL AS is_null;
SELECT count(*), bool_and(mode = 'ExclusiveLock' AND granted) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
-- the lock is re-entrant: commands go on
SELECT esrs_handle_command('load_sum', :a, '{"n": 1}', expected_sequence => 5);
SELECT * FROM esrs_lock_and_load('load_sum', :a);
-- a rolled back savepoint releases what was locked in it
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT sequence_number FROM esrs_lock_and_load('load_sum', :a);
ROLLBACK TO s;
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
COMMIT;
-- reading with a lock is no writing
BEGIN READ ONLY;
SELECT * FROM esrs_lock_and_load('load_sum', :a);
COMMIT;
SELECT esrs_lock_and_load(NULL, :a);
\echo :SQLSTATE
SELECT esrs_lock_and_load('load_sum', NULL);
\echo :SQLSTATE
SELECT esrs_lock_and_load('load_no_such', :a);
\echo :SQLSTATE

--
-- esrs_decide: a dry run
--
SELECT * FROM esrs_decide('load_sum', :a, '{"n": 5}');
SELECT * FROM esrs_decide('load_sum', :c, '"Unit"');
-- it writes nothing, even if the callback does
SELECT * FROM esrs_decide('load_sum', :a, '{"write": 1}');
SELECT (SELECT count(*) FROM trace) AS trace, (SELECT count(*) FROM load_sum_events) AS events,
       esrs_load('load_sum', '10ad0000-0000-4000-8000-0000000000ff') IS NULL AS no_other;
-- a command does
SELECT esrs_handle_command('load_sum', :a, '{"write": 1}');
SELECT (SELECT count(*) FROM trace) AS trace, (SELECT count(*) FROM load_sum_events) AS events,
       esrs_load('load_sum', '10ad0000-0000-4000-8000-0000000000ff') IS NULL AS no_other;
-- not in a transaction that writes otherwise either, nor in a savepoint
BEGIN;
INSERT INTO trace VALUES ('mine');
SAVEPOINT s;
SELECT * FROM esrs_decide('load_sum', :a, '{"write": 1}');
RELEASE s;
SELECT * FROM trace ORDER BY 1;
ROLLBACK;
-- a rejection is an error, as are technical faults
SELECT * FROM esrs_decide('load_sum', :a, '{"write": 1, "refuse": 1}');
\echo :SQLSTATE
SELECT * FROM esrs_decide('load_sum', :a, '{"write": 1, "raise": 1}');
\echo :SQLSTATE
SELECT * FROM esrs_decide('load_sum', :a, '{"write": 1, "bad": 1}');
\echo :SQLSTATE
SELECT count(*) FROM trace;
-- bad arguments
SELECT esrs_decide(NULL, :a, '{}');
\echo :SQLSTATE
SELECT esrs_decide('load_sum', NULL, '{}');
\echo :SQLSTATE
SELECT esrs_decide('load_sum', :a, NULL);
\echo :SQLSTATE
SELECT esrs_decide('load_sum', :a, '[1]');
\echo :SQLSTATE
SELECT esrs_decide('load_no_such', :a, '{}');
\echo :SQLSTATE
-- one within the other
SELECT array_agg(d) FROM esrs_decide('load_sum', :a, '{"n": 1}') AS d, esrs_decide('load_sum', :a, d) AS e;

SELECT esrs_unregister_aggregate('load_sum', drop_events => true);
DROP SCHEMA esrs_load CASCADE;
