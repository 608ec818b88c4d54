-- Rebuilds instance by instance by several background workers: each instance once, as the
-- caller, with his settings; what they raise comes to him.
--
-- Catches: instances that no worker or two of them do; code that runs with other rights or
-- settings than in the session; errors that are lost, or come in another encoding; a lock that a
-- worker leaves behind.
SET client_min_messages = notice;
CREATE EXTENSION IF NOT EXISTS esrs;
LOAD 'esrs';
ALTER SYSTEM SET esrs.max_workers = 0;
SELECT pg_reload_conf();
CREATE SCHEMA esrs_workers;
SET search_path = esrs_workers, public;
CREATE FUNCTION id(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT ('5a460000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid $$;
SELECT esrs_register_aggregate('rw');
CREATE TABLE model (id uuid PRIMARY KEY, n int, calls int, pid int, who text, settings text);
CREATE FUNCTION keep(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF e.payload ? 'bad' AND current_setting('test.bad', true) = 'on' THEN
        RAISE NOTICE 'now it comes: %', 'žluťoučký';
        RAISE 'cannot handle: %', 'žluťoučký' USING ERRCODE = 'ESR99', DETAIL = 'a detail', HINT = 'a hint';
    END IF;
    INSERT INTO esrs_workers.model AS m VALUES (e.aggregate_id, (e.payload ->> 'n')::int, 1, pg_backend_pid(), current_user,
        concat_ws(' ', current_setting('TimeZone'), current_setting('DateStyle'), current_setting('test.setting', true), current_setting('transaction_isolation')))
    ON CONFLICT (id) DO UPDATE SET n = m.n + excluded.n, calls = m.calls + 1, pid = excluded.pid, who = excluded.who, settings = excluded.settings;
END $$;
CREATE FUNCTION forget(id uuid) RETURNS void LANGUAGE sql AS $$ DELETE FROM esrs_workers.model m WHERE m.id = $1 $$;
SELECT esrs_register_handler('rw', '{rw}', 'keep(esrs_event)', delete_handler => 'forget(uuid)');
SELECT count(*) FROM generate_series(1, 2500) AS n, esrs_persist('rw', id(n), ARRAY['{"n": 7}', '{"n": -3}']::jsonb[]);
\set model 'SELECT count(*), sum(n) AS n, sum(calls) AS calls, count(DISTINCT pid) AS processes, bool_or(pid = pg_backend_pid()) AS here, min(who) AS who, min(settings) AS settings, max(settings) AS settings FROM model'
\set rebuild 'CALL esrs_rebuild(''rw'', strategy => ''per_aggregate'', workers => '
UPDATE model SET n = 1000;
SET TimeZone = 'Asia/Tokyo'; SET DateStyle = 'SQL, DMY'; SET test.setting = 'mine'; SET default_transaction_isolation = serializable;
:rebuild 3);
:model;
SELECT count(*) FROM pg_locks WHERE locktype = 'object' AND objsubid < 0;
SELECT count(*) FROM esrs.rebuilds;
RESET TimeZone; RESET DateStyle; RESET test.setting; RESET default_transaction_isolation;
-- a deleted instance, and one that has begun anew
SELECT esrs_delete('rw', id(1)), esrs_delete('rw', id(2));
SELECT count(*) FROM esrs_persist('rw', id(2), ARRAY['{"n": 1}']::jsonb[]);
INSERT INTO model VALUES (id(1), 5, 5);
:rebuild 2);
:model;

-- an error: told as it is, and gone on from
SELECT count(*) FROM esrs_persist('rw', id(3000), ARRAY['{"n": 1, "bad": true}']::jsonb[]);
UPDATE model SET n = 1000;
SET test.bad = on;
\set VERBOSITY default
\set SHOW_CONTEXT never
:rebuild 2);
\set SHOW_CONTEXT errors
SELECT handlers, min(share), max(share), min(shares) AS shares, bool_and(done) AS done, bool_or(instances > 0) AS begun FROM esrs.rebuilds GROUP BY handlers;
SELECT sum(instances) < 2501 AS not_all, sum(instances) = (SELECT count(*) FROM model WHERE n <> 1000) + 1 - (SELECT count(*) FROM model WHERE id = id(2) AND n = 1000) AS as_many_as_are_done FROM esrs.rebuilds;
RESET test.bad;
-- with fewer, it keeps the shares; with more, too
\set VERBOSITY terse
:rebuild 1);
\set VERBOSITY default
:model;

-- by whom, and what for
CREATE ROLE esrs_rw_owner;
CREATE ROLE esrs_rw_stranger;
GRANT ALL ON SCHEMA esrs_workers TO esrs_rw_owner;
GRANT USAGE ON SCHEMA esrs_workers TO esrs_rw_stranger;
GRANT USAGE ON SCHEMA esrs TO esrs_rw_owner;
GRANT EXECUTE ON FUNCTION esrs_register_handler(text, text[], text, text, text, text[], boolean, text, int, int, text, int, text) TO esrs_rw_owner;
ALTER TABLE model OWNER TO esrs_rw_owner;
ALTER FUNCTION keep OWNER TO esrs_rw_owner;
ALTER FUNCTION forget OWNER TO esrs_rw_owner;
ALTER TABLE rw_events OWNER TO esrs_rw_owner;
SELECT esrs_unregister_handler('rw');
SET ROLE esrs_rw_owner;
SELECT esrs_register_handler('rw', '{rw}', 'keep(esrs_event)', delete_handler => 'forget(uuid)');
:rebuild 2);
RESET ROLE;
:model;
SET ROLE esrs_rw_stranger;
:rebuild 2);
RESET ROLE;
:rebuild 2);
:model;
SELECT count(*) FROM pg_locks WHERE locktype = 'object' AND objsubid < 0;
:rebuild 0);
:rebuild 65);
CALL esrs_rebuild('rw', id(1), workers => 2);
CALL esrs_rebuild('rw', workers => 2);
CALL esrs_rebuild('rw', strategy => 'swap', tables => '{model}', workers => 2);

-- asynchronous: no more than there are partitions
SELECT esrs_unregister_handler('rw');
SELECT esrs_register_handler('rw', '{rw}', 'keep(esrs_event)', delete_handler => 'forget(uuid)', mode => 'async', partitions => 4);
TRUNCATE model;
CALL esrs_rebuild('rw', truncate => '{model}');
SELECT count(*) FROM esrs_persist('rw', id(4000), ARRAY['{"n": 1}']::jsonb[]);
UPDATE model SET n = 1000;
:rebuild 5);
:rebuild 2);
-- what it has not handled yet comes later
SELECT count(*), sum(n) FROM model;
CALL esrs_run_handlers('rw');
SELECT count(*), sum(n) FROM model;

ALTER SYSTEM RESET esrs.max_workers;
SELECT pg_reload_conf();
SELECT esrs_unregister_aggregate('rw', true);
DROP SCHEMA esrs_workers CASCADE;
DROP OWNED BY esrs_rw_owner, esrs_rw_stranger;
DROP ROLE esrs_rw_owner, esrs_rw_stranger;
