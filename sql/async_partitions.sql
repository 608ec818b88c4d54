--
-- Partitions of an asynchronous event handler, and its mode: altered with part of the events
-- handled.  The worker is kept out: each batch is run here, by CALL.
--
-- Catches: an event that is lost or handled twice when a handler is divided into more or
-- fewer partitions, or changes its mode; an instance that is in two partitions, or handled out
-- of order; a handler that becomes transactional and never sees what it had not handled.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA esrs_async_partitions;
SET search_path = esrs_async_partitions, public;
\pset null (null)

-- a reload reaches this session at one of the next statements, and ends the workers
\set wait 'DO $$BEGIN IF current_setting(''esrs.max_workers'') <> ''0'' THEN PERFORM pg_sleep(0.05); END IF; END$$;'
\set wait :wait :wait :wait :wait :wait :wait :wait :wait
\set wait :wait :wait :wait :wait :wait :wait :wait :wait
\set wait_again 'DO $$BEGIN IF current_setting(''esrs.max_workers'') = ''0'' THEN PERFORM pg_sleep(0.05); END IF; END$$;'
\set wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again
\set wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again
LOAD 'esrs';
ALTER SYSTEM SET esrs.max_workers = 0;
SELECT pg_reload_conf();
:wait
SHOW esrs.max_workers;
SELECT esrs_stop_workers() >= 0 AS stopped;

SELECT esrs_register_aggregate(name) FROM unnest('{ap_one,ap_two}'::text[]) AS name;
CREATE TABLE log (n serial, aggregate text, id uuid, number int, tx xid8 DEFAULT pg_current_xact_id());
CREATE FUNCTION one(e esrs_event) RETURNS void LANGUAGE sql
BEGIN ATOMIC INSERT INTO log (aggregate, id, number) SELECT e.aggregate, e.aggregate_id, e.sequence_number; END;
CREATE FUNCTION many(e esrs_event[]) RETURNS void LANGUAGE sql
BEGIN ATOMIC INSERT INTO log (aggregate, id, number) SELECT u.aggregate, u.aggregate_id, u.sequence_number FROM unnest(e) AS u; END;
CREATE FUNCTION gone(id uuid) RETURNS void LANGUAGE sql
BEGIN ATOMIC INSERT INTO log (aggregate, id) VALUES ('deleted', id); END;
-- so many events for each of 60 instances, of both aggregates in turn
CREATE FUNCTION fill(rounds int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    FOR r IN 1 .. rounds LOOP
        PERFORM esrs_persist(a, lpad(to_hex(i), 32, '0')::uuid, ARRAY['"x"'::jsonb])
           FROM generate_series(1, 60) AS i, unnest('{ap_one,ap_two}'::text[]) AS a;
    END LOOP;
END $$;
CREATE FUNCTION ids() RETURNS TABLE (id uuid) LANGUAGE sql AS $$SELECT lpad(to_hex(i), 32, '0')::uuid FROM generate_series(1, 60) AS i$$;
-- what was handled: each event once, in order, none missing before another of its instance
CREATE VIEW handled AS
SELECT count(*) AS events, count(*) - count(DISTINCT (aggregate, id, number)) AS duplicates,
       count(*) FILTER (WHERE number <> expected) AS out_of_order
  FROM (SELECT *, row_number() OVER (PARTITION BY aggregate, id ORDER BY n) AS expected FROM log) AS l;
CREATE VIEW missing AS
SELECT count(*) AS missing FROM (SELECT 'ap_one', aggregate_id, sequence_number FROM ap_one_events
                                 UNION ALL SELECT 'ap_two', aggregate_id, sequence_number FROM ap_two_events
                                 EXCEPT SELECT aggregate, id, number FROM log) AS x;

-- ------------------------------------------------------------------------
-- Each instance belongs to one partition, of whatever number
-- ------------------------------------------------------------------------
SELECT fill(2);
SELECT esrs_register_handler('ap', '{ap_one,ap_two}', 'many(esrs_event[])', mode => 'async', partitions => 4, start_at => 'beginning', batch_size => 1000);
SELECT partition, status, events_behind > 0 AS has_some FROM esrs_lag WHERE handler = 'ap' ORDER BY partition;
SELECT sum(events_behind) FROM esrs_lag WHERE handler = 'ap';
CALL esrs_run_handlers('ap');
SELECT * FROM handled, missing;
-- one transaction a partition; all events of an id, of both aggregates, in one
SELECT count(DISTINCT tx) FROM log;
SELECT count(*) FROM (SELECT id FROM log GROUP BY id HAVING count(DISTINCT tx) > 1) AS x;
SELECT sum(events_behind), count(*) FILTER (WHERE position = head) AS at_the_end FROM esrs_lag WHERE handler = 'ap';
-- max_batches counts over all partitions
SELECT fill(1);
CALL esrs_run_handlers('ap', 1);
SELECT count(*) FILTER (WHERE events_behind = 0) AS done FROM esrs_lag WHERE handler = 'ap';
CALL esrs_run_handlers('ap', 2);
SELECT count(*) FILTER (WHERE events_behind = 0) AS done FROM esrs_lag WHERE handler = 'ap';
CALL esrs_run_handlers('ap');
SELECT * FROM handled, missing;

-- ------------------------------------------------------------------------
-- Divided anew while partitions are apart
-- ------------------------------------------------------------------------
CREATE PROCEDURE divide(n int) LANGUAGE plpgsql AS $$
DECLARE
    behind numeric;
BEGIN
    PERFORM fill(2);
    -- some partitions a batch or two ahead of others
    PERFORM esrs_alter_handler('ap', '{"batch_size": 7}');
    COMMIT;
    CALL esrs_run_handlers('ap', 5);
    behind := (SELECT sum(events_behind) FROM esrs_lag WHERE handler = 'ap');
    PERFORM esrs_alter_handler('ap', jsonb_build_object('partitions', n));
    COMMIT;
    RAISE INFO '% partitions, some events are left: %, as many as before: %', n, behind > 0, behind = (SELECT sum(events_behind) FROM esrs_lag WHERE handler = 'ap');
    CALL esrs_run_handlers('ap', 3);
END $$;
CALL divide(7);
CALL divide(1);
CALL divide(64);
CALL divide(2);
CALL divide(3);
SELECT * FROM handled;
SELECT esrs_alter_handler('ap', '{"batch_size": null, "partitions": null}');
SELECT partition FROM esrs_lag WHERE handler = 'ap';
CALL esrs_run_handlers('ap');
SELECT * FROM handled, missing;
SELECT partition, position = head AS at_the_end FROM esrs_lag WHERE handler = 'ap';
-- also with events ahead of the checkpoints, and with a deletion among them
SELECT esrs_alter_handler('ap', '{"partitions": 3, "handler": "one(esrs_event)", "delete_handler": "gone(uuid)"}');
BEGIN;
SELECT fill(1);
SELECT sum(esrs_delete('ap_two', id)) FROM ids() WHERE id::text > '00000000-0000-0000-0000-000000000038';
CALL esrs_run_handlers('ap');
COMMIT;
SELECT esrs_alter_handler('ap', '{"partitions": 5}');
CALL esrs_run_handlers('ap');
SELECT count(*), count(DISTINCT id) FROM log WHERE aggregate = 'deleted';
DELETE FROM log WHERE aggregate = 'deleted';
SELECT * FROM handled, missing;
-- the same number again changes nothing; a rolled back change neither
SELECT esrs_alter_handler('ap', '{"partitions": 5}');
BEGIN;
SELECT esrs_alter_handler('ap', '{"partitions": 9}');
ROLLBACK;
SELECT count(*) FROM esrs_lag WHERE handler = 'ap';
CALL esrs_run_handlers('ap');
SELECT * FROM handled, missing;
-- too far apart: refused, and nothing is lost
TRUNCATE log;
SELECT count(*) FROM esrs_persist('ap_one', '00000000-0000-0000-0000-000000000001', array_fill('"x"'::jsonb, ARRAY[10001]));
SELECT esrs_alter_handler('ap', '{"batch_size": 20000}');
SELECT fill(1);
CREATE FUNCTION partition_of(id uuid, n int) RETURNS bigint LANGUAGE sql AS $$SELECT (uuid_hash_extended(id, 0) & 2147483647) % n$$;
UPDATE esrs.checkpoints SET position = (SELECT last_value FROM esrs.position_seq)
 WHERE name = 'ap' AND partition = partition_of('00000000-0000-0000-0000-000000000001', 5);
SELECT esrs_alter_handler('ap', '{"partitions": 2}');
\echo :SQLSTATE
SELECT count(*) FROM esrs_lag WHERE handler = 'ap';
CALL esrs_run_handlers('ap');
SELECT esrs_alter_handler('ap', '{"partitions": 2}');
SELECT (SELECT count(*) FROM log) = 2 * count(*) AS all_others FROM ids() WHERE partition_of(id, 5) <> partition_of('00000000-0000-0000-0000-000000000001', 5);
TRUNCATE log;

-- ------------------------------------------------------------------------
-- Mode: a handler that is transactional has no position, one that is not has
-- ------------------------------------------------------------------------
SELECT count(*) FROM esrs_persist('ap_one', '00000000-0000-0000-0000-00000000000f', ARRAY['"later"'::jsonb]);
SELECT esrs_alter_handler('ap', '{"mode": "transactional"}');
\echo :SQLSTATE
SELECT mode FROM esrs_handlers WHERE name = 'ap';
CALL esrs_run_handlers('ap');
SELECT count(*) FROM log;
SELECT esrs_alter_handler('ap', '{"mode": "transactional"}');
SELECT count(*) FROM esrs.checkpoints WHERE name = 'ap';
SELECT count(*) FROM esrs_persist('ap_one', '00000000-0000-0000-0000-00000000000f', ARRAY['"at once"'::jsonb]);
SELECT count(*) FROM log;
CALL esrs_run_handlers('ap');
-- asynchronous again: from now on, not again what it has seen
BEGIN;
SELECT count(*) FROM esrs_persist('ap_one', '00000000-0000-0000-0000-00000000000f', ARRAY['"before"'::jsonb]);
SELECT count(*) FROM log;
SELECT esrs_alter_handler('ap', '{"mode": "async"}');
SELECT count(*) FROM esrs_persist('ap_one', '00000000-0000-0000-0000-00000000000f', ARRAY['"after"'::jsonb]);
SELECT count(*) FROM log;
COMMIT;
CALL esrs_run_handlers('ap');
SELECT count(*) FROM log;
SELECT partition, position = head AS at_the_end FROM esrs_lag WHERE handler = 'ap' ORDER BY partition;

DROP VIEW missing;
SELECT esrs_unregister_aggregate(name, drop_events => true) FROM unnest('{ap_one,ap_two}'::text[]) AS name;
SELECT count(*) FROM esrs.checkpoints WHERE name = 'ap';
DROP SCHEMA esrs_async_partitions CASCADE;
ALTER SYSTEM RESET esrs.max_workers;
SELECT pg_reload_conf();
:wait_again
SHOW esrs.max_workers;
