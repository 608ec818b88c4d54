--
-- Options of asynchronous event handlers: batch_size, event_types, delete_handler, ordering,
-- partitions, start_at and mode, when registered and when altered with part of the events
-- handled.  The worker is kept out: each batch is run here, by CALL.
--
-- Catches: an event that is lost or handled twice when a handler is divided into more or
-- fewer partitions, changes its mode or its function; an instance that is in two partitions;
-- a batch that is larger than it may be; a filter that holds the checkpoint back.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA esrs_async_options;
SET search_path = esrs_async_options, public;
\pset null (null)
\set a '\'a5710000-0000-4000-8000-00000000000a\''
\set b '\'a5710000-0000-4000-8000-00000000000b\''

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

SELECT esrs_register_aggregate(name) FROM unnest('{ao_one,ao_two}'::text[]) AS name;
CREATE FUNCTION put(aggregate text, id uuid, VARIADIC events jsonb[]) RETURNS int LANGUAGE sql AS
    $$SELECT max(sequence_number) FROM esrs_persist(aggregate, id, events)$$;
CREATE TABLE log (n serial, who text, what text, id uuid, number int, position bigint, tx xid8 DEFAULT pg_current_xact_id());
CREATE FUNCTION shown() RETURNS TABLE (who text, what text) LANGUAGE sql AS
    $$WITH gone AS (DELETE FROM log RETURNING n, who, what) SELECT who, what FROM gone ORDER BY n$$;
CREATE FUNCTION one(e esrs_event) RETURNS void LANGUAGE sql
BEGIN ATOMIC
    INSERT INTO log (who, what, id, number, position)
    SELECT 'one', format('%s/%s %s', right(e.aggregate_id::text, 1), e.sequence_number, e.payload), e.aggregate_id, e.sequence_number, e.position;
END;
CREATE FUNCTION two(e esrs_event) RETURNS void LANGUAGE plpgsql SET search_path = esrs_async_options, pg_temp AS
    $$ BEGIN INSERT INTO log (who, what) VALUES ('two', format('%s/%s', right(e.aggregate_id::text, 1), e.sequence_number)); END $$;
CREATE FUNCTION many(e esrs_event[]) RETURNS void LANGUAGE sql
BEGIN ATOMIC
    INSERT INTO log (who, what)
    SELECT 'many', string_agg(format('%s/%s', right(u.aggregate_id::text, 1), u.sequence_number), ' ' ORDER BY n)
      FROM unnest(e) WITH ORDINALITY AS u(aggregate, id, aggregate_id, payload, occurred_on, sequence_number, version, position, metadata, n);
END;
CREATE FUNCTION gone(id uuid) RETURNS void LANGUAGE sql
BEGIN ATOMIC INSERT INTO log (who, what) VALUES ('gone', right(id::text, 1)); END;
CREATE FUNCTION alter_handler(name text, options jsonb) RETURNS void LANGUAGE sql AS $$SELECT esrs_alter_handler(name, options)$$;

-- ------------------------------------------------------------------------
-- batch_size: how many events there are in an array, and in a transaction
-- ------------------------------------------------------------------------
SELECT esrs_register_handler('ao', '{ao_one}', 'many(esrs_event[])', mode => 'async', batch_size => 3);
SELECT put('ao_one', :a, '"1"', '"2"', '"3"', '"4"', '"5"', '"6"', '"7"', '"8"');
CALL esrs_run_handlers('ao', 1);
SELECT * FROM shown();
CALL esrs_run_handlers('ao');
SELECT what, count(*) OVER (PARTITION BY tx) AS in_transaction FROM log ORDER BY n;
TRUNCATE log;
SELECT alter_handler('ao', '{"batch_size": 100000}');
SELECT put('ao_one', :a, '"9"', '"10"', '"11"', '"12"');
CALL esrs_run_handlers('ao');
SELECT * FROM shown();
-- event by event; a batch begins none after 50 ms, but at least one
SELECT alter_handler('ao', '{"handler": "one(esrs_event)", "batch_size": 2}');
SELECT put('ao_one', :b, '"1"', '"2"', '"3"', '"4"', '"5"');
CALL esrs_run_handlers('ao', 1);
SELECT count(*) BETWEEN 1 AND 2 FROM shown();
CALL esrs_run_handlers('ao');
SELECT count(DISTINCT tx) >= 2 AS transactions, bool_and(number = least_number + n - least_n) AS in_order, max(number)
  FROM (SELECT *, min(number) OVER () AS least_number, min(n) OVER () AS least_n FROM log) AS l;
TRUNCATE log;
CREATE FUNCTION slow(e esrs_event) RETURNS void LANGUAGE sql
BEGIN ATOMIC INSERT INTO log (who) SELECT 'slow' FROM pg_sleep(0.04); END;
SELECT alter_handler('ao', '{"handler": "slow(esrs_event)", "batch_size": null}');
SELECT put('ao_one', :b, '"6"', '"7"', '"8"', '"9"', '"10"', '"11"');
CALL esrs_run_handlers('ao');
SELECT count(*), count(DISTINCT tx) > 1 AS divided FROM log;
TRUNCATE log;

-- ------------------------------------------------------------------------
-- What is left out: event types, deletions without a delete handler, deprecated events
-- ------------------------------------------------------------------------
SELECT alter_handler('ao', '{"handler": "one(esrs_event)", "event_types": ["Bought", "Sold"]}');
SELECT put('ao_one', :a, '{"Bought": 1}', '{"Returned": 1}', '"Sold"', '{"Bought": 2, "Sold": 2}');
SELECT esrs_delete('ao_one', :b);
CALL esrs_run_handlers('ao');
SELECT * FROM shown();
SELECT events_behind, position = head AS at_the_end FROM esrs_lag WHERE handler = 'ao';
SELECT alter_handler('ao', '{"event_types": null, "delete_handler": "gone(uuid)"}');
SELECT put('ao_one', :b, '{"Lent": 1}'), esrs_delete('ao_one', :b), put('ao_one', :b, '{"Lent": 2}');
CALL esrs_run_handlers('ao');
SELECT * FROM shown();
-- a set-based one: what is before, the deletion, what is after; also with a filter, and nothing before
SELECT alter_handler('ao', '{"handler": "many(esrs_event[])"}');
SELECT put('ao_one', :a, '"1"', '"2"'), esrs_delete('ao_one', :b), put('ao_one', :b, '"3"'), put('ao_one', :a, '"4"');
CALL esrs_run_handlers('ao');
SELECT * FROM shown();
SELECT alter_handler('ao', '{"event_types": ["wanted"]}');
SELECT put('ao_one', :a, '"not"'), esrs_delete('ao_one', :b), put('ao_one', :b, '"not"'), put('ao_one', :b, '"wanted"'), put('ao_one', :b, '"not"');
CALL esrs_run_handlers('ao');
SELECT * FROM shown();
-- no call at all for an empty set
SELECT put('ao_one', :a, '"not"', '"not"');
CALL esrs_run_handlers('ao');
SELECT * FROM shown();
SELECT alter_handler('ao', '{"event_types": null, "delete_handler": null}');

-- old versions come in their present form, deprecated ones not
CREATE FUNCTION upcast(payload jsonb, version int) RETURNS jsonb LANGUAGE sql
BEGIN ATOMIC SELECT CASE WHEN payload ? 'Removed' THEN NULL WHEN version IS NULL THEN jsonb_build_object('New', payload -> 'Old') ELSE payload END; END;
SELECT put('ao_one', :a, '{"Old": 1}', '{"Removed": 1}', '{"Old": 2}');
SELECT esrs_alter_aggregate('ao_one', '{"upcast": "upcast(jsonb,int)", "event_version": 2}');
SELECT alter_handler('ao', '{"handler": "one(esrs_event)", "event_types": ["New"]}');
CALL esrs_run_handlers('ao');
SELECT * FROM shown();
SELECT esrs_alter_aggregate('ao_one', '{"upcast": null, "event_version": null}');
SELECT alter_handler('ao', '{"event_types": null}');

-- ------------------------------------------------------------------------
-- Aggregates: several, in order of position, whatever the order of their names
-- ------------------------------------------------------------------------
-- of one that is added, what comes from now on
SELECT put('ao_two', :b, '"old"');
CALL esrs_run_handlers('ao');
SELECT alter_handler('ao', '{"handler": "many(esrs_event[])", "aggregates": ["ao_two", "ao_one"]}');
CALL esrs_run_handlers('ao');
SELECT * FROM shown();
SELECT put('ao_two', :a, '"x"'), put('ao_one', :a, '"x"'), put('ao_two', :b, '"x"'), put('ao_one', :a, '"z"'), esrs_delete('ao_two', :a), put('ao_two', :b, '"y"');
CALL esrs_run_handlers('ao');
SELECT * FROM shown();
SELECT esrs_unregister_handler('ao');

-- ------------------------------------------------------------------------
-- start_at
-- ------------------------------------------------------------------------
DELETE FROM esrs.deletions WHERE aggregate LIKE 'ao\_%';
SELECT esrs_unregister_aggregate(name, drop_events => true), esrs_register_aggregate(name) FROM unnest('{ao_one,ao_two}'::text[]) AS name;
SELECT put('ao_one', :a, '"1"', '"2"', '"3"');
SELECT position AS second FROM ao_one_events WHERE sequence_number = 2 \gset
SELECT esrs_register_handler('ao_' || start, '{ao_one}', 'many(esrs_event[])', mode => 'async', start_at => start) FROM unnest('{now,beginning,0}'::text[]) AS start;
SELECT esrs_register_handler('ao_second', '{ao_one}', 'many(esrs_event[])', mode => 'async', start_at => :'second');
SELECT esrs_register_handler('ao_head', '{ao_one}', 'many(esrs_event[])', mode => 'async', start_at => (SELECT last_value FROM esrs.position_seq)::text);
CALL esrs_run_handlers('ao_now');
SELECT * FROM shown();
CALL esrs_run_handlers('ao_beginning');
SELECT * FROM shown();
CALL esrs_run_handlers('ao_0');
SELECT * FROM shown();
CALL esrs_run_handlers('ao_second');
SELECT * FROM shown();
CALL esrs_run_handlers('ao_head');
SELECT * FROM shown();
SELECT put('ao_one', :a, '"4"');
-- all handlers, in the order of their registration
CALL esrs_run_handlers();
SELECT * FROM shown();
SELECT esrs_unregister_handler(name) FROM esrs_handlers WHERE name LIKE 'ao\_%';

-- ------------------------------------------------------------------------
-- ordering: a transaction's own events are visible to it, and not yet safe
-- ------------------------------------------------------------------------
SELECT esrs_register_handler('ao_aggregate', '{ao_one}', 'one(esrs_event)', mode => 'async', ordering => 'aggregate'),
       esrs_register_handler('ao_total', '{ao_one}', 'two(esrs_event)', mode => 'async', ordering => 'total');
BEGIN;
SELECT put('ao_one', :b, '"1"', '"2"');
CALL esrs_run_handlers();
SELECT * FROM shown();
ROLLBACK;
CALL esrs_run_handlers();
SELECT * FROM shown();
BEGIN;
SELECT put('ao_one', :b, '"1"', '"2"');
CALL esrs_run_handlers();
COMMIT;
CALL esrs_run_handlers();
SELECT * FROM shown();
-- altered with events ahead of the checkpoint, either way
BEGIN;
SELECT put('ao_one', :b, '"3"');
CALL esrs_run_handlers();
COMMIT;
SELECT alter_handler('ao_aggregate', '{"ordering": "total"}'), alter_handler('ao_total', '{"ordering": null}');
SELECT put('ao_one', :b, '"4"');
CALL esrs_run_handlers();
SELECT * FROM shown();
SELECT name, ordering FROM esrs_handlers WHERE name LIKE 'ao\_%' ORDER BY name;
SELECT esrs_unregister_handler(name) FROM esrs_handlers WHERE name LIKE 'ao\_%';

SELECT esrs_unregister_aggregate(name, drop_events => true) FROM unnest('{ao_one,ao_two}'::text[]) AS name;
DROP SCHEMA esrs_async_options CASCADE;
ALTER SYSTEM RESET esrs.max_workers;
SELECT pg_reload_conf();
:wait_again
SHOW esrs.max_workers;
