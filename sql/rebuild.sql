--
-- esrs_rebuild(): read models made anew, of transactional and asynchronous handlers, with
-- each strategy, and everything that is refused.
--
-- Catches: the library's defect D2 (a deletion before every event, so that only the last one
-- counts); an event that is applied twice or not at all; rows of deleted instances that stay;
-- events out of order over several aggregates; a checkpoint that moves, or does not; a failed
-- rebuild that leaves a part of itself; a rebuild that goes on with another handler.
--
-- The worker is kept out: each batch is run here, by CALL.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA esrs_rebuild;
SET search_path = esrs_rebuild, public;
\pset null (null)
\set wait 'DO $$BEGIN IF current_setting(''esrs.max_workers'') <> ''0'' THEN PERFORM pg_sleep(0.05); END IF; END$$;'
\set wait :wait :wait :wait :wait :wait :wait :wait :wait
\set wait :wait :wait :wait :wait :wait :wait :wait :wait
LOAD 'esrs';
ALTER SYSTEM SET esrs.max_workers = 0;
SELECT pg_reload_conf();
:wait
SHOW esrs.max_workers;
SELECT esrs_stop_workers() >= 0 AS stopped;

CREATE FUNCTION id(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT format('0eb11d00-0000-4000-8000-%s', lpad(n::text, 12, '0'))::uuid $$;
-- bought or returned
CREATE FUNCTION put(aggregate text, n int, VARIADIC amounts int[]) RETURNS bigint LANGUAGE sql AS
    $$SELECT count(*) FROM esrs_persist(aggregate, id(n), ARRAY(SELECT jsonb_build_object('amount', a) FROM unnest(amounts) AS a))$$;
SELECT esrs_register_aggregate(name) FROM unnest('{rb_one,rb_two}'::text[]) AS name;

-- the read model: additive, so that an event too many or too few is seen
CREATE TABLE stock (id uuid PRIMARY KEY, amount int, events int);
CREATE FUNCTION on_stock(e esrs_event) RETURNS void LANGUAGE sql
BEGIN ATOMIC
    INSERT INTO stock VALUES (e.aggregate_id, (e.payload ->> 'amount')::int, 1)
    ON CONFLICT (id) DO UPDATE SET amount = stock.amount + excluded.amount, events = stock.events + 1;
END;
CREATE FUNCTION stock_deleted(aggregate_id uuid) RETURNS void LANGUAGE sql
BEGIN ATOMIC DELETE FROM stock WHERE id = aggregate_id; END;
SELECT esrs_register_handler('rb_stock', '{rb_one}', 'on_stock(esrs_event)', delete_handler => 'stock_deleted(uuid)');

-- is the model what the events say?
CREATE FUNCTION differs() RETURNS TABLE (what text, id uuid, amount bigint, events bigint) LANGUAGE sql AS $$
    WITH fold AS (SELECT aggregate_id, sum((payload ->> 'amount')::int), count(*) FROM esrs_rebuild.rb_one_events GROUP BY 1),
         live AS (SELECT s.id, s.amount::bigint, s.events::bigint FROM esrs_rebuild.stock AS s)
    SELECT 'missing', f.* FROM (TABLE fold EXCEPT TABLE live) AS f
    UNION ALL SELECT 'extra', l.* FROM (TABLE live EXCEPT TABLE fold) AS l
$$;
CREATE FUNCTION spoil() RETURNS void LANGUAGE sql AS $$
    UPDATE esrs_rebuild.stock SET amount = -1, events = events + 7;
    INSERT INTO esrs_rebuild.stock VALUES (esrs_rebuild.id(99), 99, 99) ON CONFLICT DO NOTHING
$$;
SELECT put('rb_one', 1, 4), put('rb_one', 2, 10), put('rb_one', 1, 3), put('rb_one', 2, 20, -5), put('rb_one', 1, -2);
TABLE stock ORDER BY id;

-- an instance that was deleted, with a row that somebody has forgotten
SELECT put('rb_one', 99, 1);
SELECT esrs_delete('rb_one', id(99));

-- ------------------------------------------------------------------------
-- A transactional handler, with each strategy
-- ------------------------------------------------------------------------
SELECT spoil();
SELECT count(*) FROM differs();
SET client_min_messages = notice;
CALL esrs_rebuild('rb_stock');
SET client_min_messages = warning;
SELECT * FROM differs();
TABLE stock ORDER BY id;

SELECT spoil();
CALL esrs_rebuild('rb_stock', strategy => 'per_aggregate');
SELECT * FROM differs();

-- the other instances stay as they are
SELECT spoil();
CALL esrs_rebuild('rb_stock', id(1));
TABLE stock ORDER BY id;
CALL esrs_rebuild('rb_stock', id(99), strategy => 'per_aggregate');
CALL esrs_rebuild('rb_stock', aggregate_id => id(2));
SELECT * FROM differs();
-- of one that never was
CALL esrs_rebuild('rb_stock', id(1000));
SELECT * FROM differs();

SELECT spoil();
CALL esrs_rebuild('rb_stock', truncate => '{stock}');
SELECT * FROM differs();

-- in a transaction, which takes it back; a cursor sees the old model
SELECT spoil();
BEGIN;
DECLARE c CURSOR FOR SELECT id FROM stock ORDER BY id;
SELECT put('rb_one', 3, 1000);
CALL esrs_rebuild('rb_stock');
SELECT * FROM differs();
SAVEPOINT s;
SELECT spoil();
CALL esrs_rebuild('rb_stock', id(1));
ROLLBACK TO s;
SELECT * FROM differs();
FETCH ALL FROM c;
ROLLBACK;
SELECT count(*) FROM differs();
DO $$BEGIN CALL esrs_rebuild('rb_stock'); END$$;
SELECT * FROM differs();
-- by a procedure of one's own, which may commit
CREATE PROCEDURE nightly() LANGUAGE plpgsql AS $$BEGIN CALL esrs_rebuild('rb_stock', strategy => 'per_aggregate'); END$$;
SELECT spoil();
CALL nightly();
SELECT * FROM differs();

-- more than is read at once, in each direction
SELECT count(put('rb_one', 1000 + n % 1700, n)) FROM generate_series(1, 3400) AS n;
SELECT spoil();
CALL esrs_rebuild('rb_stock');
SELECT count(*) FROM differs();
SELECT spoil();
CALL esrs_rebuild('rb_stock', strategy => 'per_aggregate');
SELECT count(*) FROM differs();

-- with another function than the one that has written it
CREATE OR REPLACE FUNCTION on_stock(e esrs_event) RETURNS void LANGUAGE sql
BEGIN ATOMIC
    INSERT INTO stock VALUES (e.aggregate_id, 2 * (e.payload ->> 'amount')::int, 1)
    ON CONFLICT (id) DO UPDATE SET amount = stock.amount + excluded.amount, events = stock.events + 1;
END;
CALL esrs_rebuild('rb_stock');
SELECT amount FROM stock WHERE id = id(1);
CREATE OR REPLACE FUNCTION on_stock(e esrs_event) RETURNS void LANGUAGE sql
BEGIN ATOMIC
    INSERT INTO stock VALUES (e.aggregate_id, (e.payload ->> 'amount')::int, 1)
    ON CONFLICT (id) DO UPDATE SET amount = stock.amount + excluded.amount, events = stock.events + 1;
END;
CALL esrs_rebuild('rb_stock', strategy => 'per_aggregate');
SELECT count(*) FROM differs();

-- ------------------------------------------------------------------------
-- Several aggregates, several handlers, arrays of events
-- ------------------------------------------------------------------------
CREATE TABLE log (n serial, what text);
CREATE FUNCTION shown() RETURNS text LANGUAGE sql AS
    $$WITH gone AS (DELETE FROM log RETURNING n, what) SELECT string_agg(what, ' ' ORDER BY n) FROM gone$$;
CREATE FUNCTION on_a(e esrs_event) RETURNS void LANGUAGE sql AS
    $$INSERT INTO log (what) VALUES (format('a:%s%s', e.aggregate, e.payload ->> 'amount'))$$;
CREATE FUNCTION on_b(e esrs_event) RETURNS void LANGUAGE sql AS
    $$INSERT INTO log (what) VALUES (format('b:%s%s', e.aggregate, e.payload ->> 'amount'))$$;
CREATE FUNCTION on_set(e esrs_event[]) RETURNS void LANGUAGE sql AS
    $$INSERT INTO log (what) SELECT format('set:[%s]', string_agg(x.aggregate || (x.payload ->> 'amount'), ' ' ORDER BY x.position)) FROM unnest(e) AS x$$;
SELECT esrs_register_aggregate(name) FROM unnest('{rb_x,rb_y}'::text[]) AS name;
-- registered in another order than that of their names
SELECT esrs_register_handler('rb_b', '{rb_y,rb_x}', 'on_b(esrs_event)'),
       esrs_register_handler('rb_set', '{rb_x,rb_y}', 'on_set(esrs_event[])'),
       esrs_register_handler('rb_a', '{rb_x}', 'on_a(esrs_event)');
SELECT put('rb_x', 1, 1), put('rb_y', 1, 2), put('rb_x', 2, 3, 4), put('rb_y', 2, 5);
SELECT shown();
CALL esrs_rebuild('rb_b', truncate => '{log}');
SELECT shown();
CALL esrs_rebuild('{rb_a,rb_b,rb_set}'::text[], truncate => '{log}');
SELECT shown();
CALL esrs_rebuild(ARRAY['rb_set'], truncate => '{log}');
SELECT shown();
-- the types that a handler wants are all it gets
SELECT esrs_alter_handler('rb_a', '{"event_types": ["none"]}');
CALL esrs_rebuild('rb_a', truncate => '{log}');
SELECT shown();

-- ------------------------------------------------------------------------
-- A failing event
-- ------------------------------------------------------------------------
CREATE FUNCTION on_fail(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF (e.payload ->> 'amount')::int = 3 AND current_setting('rb.fail', true) = 'yes' THEN RAISE 'three is too many'; END IF;
    INSERT INTO log (what) VALUES (e.payload ->> 'amount');
END $$;
CREATE FUNCTION fail_deleted(aggregate_id uuid) RETURNS void LANGUAGE sql AS $$INSERT INTO log (what) VALUES ('d' || right(aggregate_id::text, 1))$$;
SELECT esrs_register_handler('rb_fail', '{rb_x}', 'on_fail(esrs_event)', delete_handler => 'fail_deleted(uuid)');
INSERT INTO log (what) VALUES ('old');
SET rb.fail = 'yes';
\set SHOW_CONTEXT errors
\set VERBOSITY terse
CALL esrs_rebuild('rb_fail');
SELECT string_agg(what, ' ' ORDER BY n) FROM log;
DO $$
DECLARE context text;
BEGIN
    CALL esrs_rebuild('rb_fail');
EXCEPTION WHEN raise_exception THEN
    GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
    RAISE WARNING '%', regexp_replace(context, 'position \d+', 'position N');
END $$;
\set SHOW_CONTEXT never
\set VERBOSITY default
SELECT string_agg(what, ' ' ORDER BY n) FROM log;
-- instance by instance: what is done stays, and the next call goes on
CALL esrs_rebuild('rb_fail', strategy => 'per_aggregate');
SELECT string_agg(what, ' ' ORDER BY n) FROM log;
SELECT handlers, last_id, instances, events FROM esrs.rebuilds;
SET rb.fail = 'no';
SET client_min_messages = notice;
\set VERBOSITY terse
CALL esrs_rebuild('rb_fail', strategy => 'per_aggregate');
\set VERBOSITY default
SET client_min_messages = warning;
SELECT shown();
SELECT count(*) FROM esrs.rebuilds;
-- ... not if it is another handler by then, nor if it is not to
SET rb.fail = 'yes';
CALL esrs_rebuild('rb_fail', strategy => 'per_aggregate');
SET rb.fail = 'no';
CREATE OR REPLACE FUNCTION fail_deleted(aggregate_id uuid) RETURNS void LANGUAGE sql AS $$INSERT INTO log (what) VALUES ('D' || right(aggregate_id::text, 1))$$;
SELECT shown();
SET client_min_messages = notice;
CALL esrs_rebuild('rb_fail', strategy => 'per_aggregate');
SET client_min_messages = warning;
SELECT shown();
SET rb.fail = 'yes';
CALL esrs_rebuild('rb_fail', strategy => 'per_aggregate');
SET rb.fail = 'no';
SELECT shown();
SET client_min_messages = notice;
CALL esrs_rebuild('rb_fail', strategy => 'per_aggregate', resume => false);
SET client_min_messages = warning;
SELECT shown();
SELECT count(*) FROM esrs.rebuilds;
-- all in one makes an unfinished one pointless
SET rb.fail = 'yes';
CALL esrs_rebuild('rb_fail', strategy => 'per_aggregate');
SET rb.fail = 'no';
CALL esrs_rebuild('rb_fail');
SELECT count(*) FROM esrs.rebuilds;

-- a handler that does more than write its read model
CREATE FUNCTION on_command(e esrs_event) RETURNS void LANGUAGE sql AS $$SELECT esrs_rebuild.put('rb_y', 7, 7)$$;
SELECT esrs_register_handler('rb_command', '{rb_x}', 'on_command(esrs_event)');
CALL esrs_rebuild('rb_command', truncate => '{log}');
SELECT count(*) FROM rb_y_events WHERE aggregate_id = id(7);
SELECT put('rb_y', 8, 8);
-- ... or has a trigger do it, at once, for TRUNCATE, or deferred; or rebuild itself
CREATE FUNCTION note_command() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM esrs_rebuild.put('rb_y', 7, 7); RETURN NULL; END$$;
CREATE TRIGGER t AFTER INSERT ON log FOR EACH ROW EXECUTE FUNCTION note_command();
CALL esrs_rebuild('rb_b', truncate => '{log}');
DROP TRIGGER t ON log;
CREATE TRIGGER t AFTER TRUNCATE ON log FOR EACH STATEMENT EXECUTE FUNCTION note_command();
CALL esrs_rebuild('rb_b', truncate => '{log}');
DROP TRIGGER t ON log;
CREATE CONSTRAINT TRIGGER t AFTER INSERT ON log DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note_command();
CALL esrs_rebuild('rb_b', truncate => '{log}');
DROP TRIGGER t ON log;
CREATE FUNCTION note_rebuild() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN CALL public.esrs_rebuild('rb_a', truncate => '{esrs_rebuild.log}'); RETURN NULL; END$$;
CREATE TRIGGER t AFTER TRUNCATE ON log FOR EACH STATEMENT EXECUTE FUNCTION note_rebuild();
CALL esrs_rebuild('rb_b', truncate => '{log}');
DROP TRIGGER t ON log;
SELECT count(*) FROM rb_y_events WHERE aggregate_id = id(7);
-- afterwards it may again
SELECT put('rb_y', 9, 9);
-- advisory locks are the handler's, and not the rebuild's
CREATE FUNCTION on_unlock(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$BEGIN PERFORM pg_advisory_unlock_all(); END$$;
CREATE FUNCTION unlock_deleted(aggregate_id uuid) RETURNS void LANGUAGE plpgsql AS $$BEGIN END$$;
SELECT esrs_register_handler('rb_unlock', '{rb_x}', 'on_unlock(esrs_event)', delete_handler => 'unlock_deleted(uuid)');
CALL esrs_rebuild('rb_unlock', strategy => 'per_aggregate');
SELECT esrs_unregister_handler('rb_unlock');

-- ------------------------------------------------------------------------
-- An asynchronous handler
-- ------------------------------------------------------------------------
CREATE TABLE late (id uuid PRIMARY KEY, amount int, events int);
CREATE FUNCTION on_late(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF (e.payload ->> 'amount')::int = 13 AND current_setting('rb.fail', true) = 'yes' THEN RAISE 'no thirteens'; END IF;
    INSERT INTO esrs_rebuild.late VALUES (e.aggregate_id, (e.payload ->> 'amount')::int, 1)
    ON CONFLICT (id) DO UPDATE SET amount = late.amount + excluded.amount, events = late.events + 1;
END $$;
CREATE FUNCTION late_deleted(aggregate_id uuid) RETURNS void LANGUAGE sql
BEGIN ATOMIC DELETE FROM late WHERE id = aggregate_id; END;
SELECT esrs_register_handler('rb_late', '{rb_two}', 'on_late(esrs_event)', mode => 'async', delete_handler => 'late_deleted(uuid)',
                             partitions => 3, max_attempts => 1);
CREATE FUNCTION lag() RETURNS TABLE (behind numeric, attempts bigint) LANGUAGE sql AS
    $$SELECT sum(events_behind), sum(attempts) FROM esrs_lag WHERE handler = 'rb_late'$$;
SELECT put('rb_two', 1, 1, 2), put('rb_two', 2, 10);
CALL esrs_run_handlers('rb_late');
SELECT put('rb_two', 1, 4), put('rb_two', 3, 100);
TABLE late ORDER BY id;
SELECT * FROM lag();
-- instance by instance: what it has not handled yet is not for the rebuild
UPDATE late SET amount = -1;
CALL esrs_rebuild('rb_late', strategy => 'per_aggregate');
TABLE late ORDER BY id;
SELECT * FROM lag();
CALL esrs_run_handlers('rb_late');
TABLE late ORDER BY id;
-- one that esrs_execute() has had handled ahead of the checkpoint
CALL esrs_rebuild('rb_late', id(1));
TABLE late ORDER BY id;
-- all: the checkpoint is where it ends
SELECT put('rb_two', 2, 20);
UPDATE late SET amount = -1;
CALL esrs_rebuild('rb_late');
TABLE late ORDER BY id;
SELECT * FROM lag();
CALL esrs_run_handlers('rb_late');
TABLE late ORDER BY id;
-- what was given up is handled, if that works now
SET rb.fail = 'yes';
SELECT put('rb_two', 1, 13), put('rb_two', 2, 13);
SET client_min_messages = error;
CALL esrs_run_handlers('rb_late');
SET client_min_messages = warning;
SELECT right(aggregate_id::text, 1) AS id, sequence_number, state FROM esrs_dead_letters ORDER BY 1;
CALL esrs_rebuild('rb_late');
CALL esrs_rebuild('rb_late', id(1));
SELECT count(*) FROM esrs_dead_letters;
SET rb.fail = 'no';
CALL esrs_rebuild('rb_late', id(1));
SELECT right(aggregate_id::text, 1) AS id FROM esrs_dead_letters;
CALL esrs_rebuild('rb_late', truncate => ARRAY['late'::regclass]);
SELECT count(*) FROM esrs_dead_letters;
TABLE late ORDER BY id;
-- paused, it stays so
SELECT esrs_pause_handler('rb_late');
UPDATE late SET amount = -1;
CALL esrs_rebuild('rb_late');
SELECT status FROM esrs_handlers WHERE name = 'rb_late';
TABLE late ORDER BY id;
SELECT esrs_resume_handler('rb_late');
-- in total order
SELECT esrs_alter_handler('rb_late', '{"ordering": "total", "partitions": 1}');
UPDATE late SET amount = -1;
SELECT put('rb_two', 3, 200);
CALL esrs_rebuild('rb_late', strategy => 'per_aggregate');
TABLE late ORDER BY id;
CALL esrs_run_handlers('rb_late');
TABLE late ORDER BY id;

-- ------------------------------------------------------------------------
-- What is refused
-- ------------------------------------------------------------------------
SELECT esrs_register_handler('rb_once', '{rb_one}', 'on_a(esrs_event)', mode => 'async', replayable => false);
CALL esrs_rebuild('rb_once', truncate => '{log}');
CALL esrs_rebuild('rb_none');
CALL esrs_rebuild(NULL::text);
CALL esrs_rebuild('{}'::text[]);
CALL esrs_rebuild('{rb_a,NULL}'::text[]);
CALL esrs_rebuild('{rb_a,rb_b,rb_a}'::text[], truncate => '{log}');
CALL esrs_rebuild('{rb_stock,rb_late}'::text[]);
DO $$DECLARE names text[] := ARRAY(SELECT 'rb_' || n FROM generate_series(1, 33) AS n); BEGIN CALL esrs_rebuild(names); END$$;
CALL esrs_rebuild('rb_b');
CALL esrs_rebuild('rb_b', strategy => 'per_aggregate');
CALL esrs_rebuild('rb_stock', strategy => 'all');
CALL esrs_rebuild('rb_stock', strategy => NULL);
CALL esrs_rebuild('rb_stock', truncate => '{}');
CALL esrs_rebuild('rb_stock', truncate => '{NULL}');
CALL esrs_rebuild('rb_stock', id(1), truncate => '{stock}');
CALL esrs_rebuild('rb_stock', strategy => 'per_aggregate', truncate => '{stock}');
CALL esrs_rebuild('rb_stock', truncate => '{rb_one_events}');
CALL esrs_rebuild('rb_stock', truncate => '{999999999}');
CALL esrs_rebuild('rb_stock', max_rate => 0);
CALL esrs_rebuild('rb_stock', max_rate => -5);
BEGIN;
CALL esrs_rebuild('rb_stock', strategy => 'per_aggregate');
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
CALL esrs_rebuild('rb_stock');
ROLLBACK;
BEGIN READ ONLY;
CALL esrs_rebuild('rb_stock');
ROLLBACK;
-- nothing of this has changed anything
SELECT count(*) FROM differs();
SELECT count(*) FROM esrs.rebuilds;

-- a session whose default is another one is no matter
SET default_transaction_isolation = 'serializable';
CALL esrs_rebuild('rb_stock', strategy => 'per_aggregate');
CALL esrs_rebuild('rb_stock');
RESET default_transaction_isolation;

-- ------------------------------------------------------------------------
-- Rights
-- ------------------------------------------------------------------------
CREATE ROLE regress_esrs_rebuild_owner;
CREATE ROLE regress_esrs_rebuild_stranger;
GRANT USAGE, CREATE ON SCHEMA esrs_rebuild TO regress_esrs_rebuild_owner, regress_esrs_rebuild_stranger;
GRANT USAGE ON SCHEMA esrs TO regress_esrs_rebuild_owner;
GRANT EXECUTE ON FUNCTION esrs.append_only(), esrs_register_aggregate(text, text, text, text, jsonb, text, text, text, int, int, text, text, boolean, boolean, text, text, boolean),
    esrs_alter_aggregate(text, jsonb), esrs_register_handler(text, text[], text, text, text, text[], boolean, text, int, int, text, int, text),
    esrs_alter_handler(text, jsonb), esrs_unregister_handler(text) TO regress_esrs_rebuild_owner;
SET ROLE regress_esrs_rebuild_owner;
CREATE TABLE whose (who text);
CREATE FUNCTION on_whose(e esrs_event) RETURNS void LANGUAGE sql AS $$INSERT INTO whose VALUES (current_user)$$;
SELECT esrs_register_aggregate('rb_owned');
SELECT esrs_register_handler('rb_whose', '{rb_owned}', 'on_whose(esrs_event)');
SELECT put('rb_owned', 1, 1);
RESET ROLE;
-- as the role that registered it, whoever calls
CALL esrs_rebuild('rb_whose', truncate => '{whose}');
TABLE whose;
-- ... where nobody else commits
BEGIN;
CALL esrs_rebuild('rb_whose', truncate => '{whose}');
ROLLBACK;
BEGIN;
SET LOCAL ROLE regress_esrs_rebuild_owner;
CALL esrs_rebuild('rb_whose', truncate => '{whose}');
COMMIT;
CALL esrs_rebuild('{rb_a,rb_whose}'::text[], truncate => '{whose}');
-- not a table that this role may not empty
CALL esrs_rebuild('rb_whose', truncate => '{log}');
SET ROLE regress_esrs_rebuild_stranger;
CALL esrs_rebuild('rb_whose', truncate => '{whose}');
SELECT count(*) FROM esrs_progress_rebuild;
RESET ROLE;
TABLE whose;
-- a deferred trigger runs as the handler's role, not as whoever commits
SET ROLE regress_esrs_rebuild_owner;
CREATE TABLE deferred (who text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO esrs_rebuild.deferred VALUES (current_user); RETURN NULL; END$$;
CREATE CONSTRAINT TRIGGER t AFTER INSERT ON whose DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note();
RESET ROLE;
CALL esrs_rebuild('rb_whose', truncate => '{whose}');
TABLE deferred;

-- in progress nothing is left
SELECT count(*) FROM esrs_progress_rebuild;

SELECT esrs_unregister_aggregate(name, drop_events => true) FROM esrs_aggregates WHERE name LIKE 'rb\_%' ORDER BY name;
DROP SCHEMA esrs_rebuild CASCADE;
DROP OWNED BY regress_esrs_rebuild_owner, regress_esrs_rebuild_stranger;
DROP ROLE regress_esrs_rebuild_owner, regress_esrs_rebuild_stranger;
\set wait_again 'DO $$BEGIN IF current_setting(''esrs.max_workers'') = ''0'' THEN PERFORM pg_sleep(0.05); END IF; END$$;'
\set wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again
\set wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again
ALTER SYSTEM RESET esrs.max_workers;
SELECT pg_reload_conf();
:wait_again
SHOW esrs.max_workers;
