--
-- Transactional event handlers.
--
-- Catches: events that are missed, doubled or seen in another order by some
-- handler, a filter that lets the wrong events through, a failing handler whose
-- command is stored all the same, events of a rolled back savepoint that reach
-- a read model, and a chain of commands whose events do not tell their cause.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA esrs_handlers_test;
SET search_path = esrs_handlers_test, public;
\set a '\'a0d10000-0000-4000-8000-00000000000a\''
\set b '\'a0d10000-0000-4000-8000-00000000000b\''
\set c '\'a0d10000-0000-4000-8000-00000000000c\''
\set d '\'a0d10000-0000-4000-8000-00000000000d\''

-- the events of a command are the elements of its "events", or itself
CREATE FUNCTION handle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE sql AS $$
    SELECT CASE WHEN command ? 'events' THEN
        (SELECT coalesce(array_agg(e ORDER BY n), '{}') FROM jsonb_array_elements(command -> 'events') WITH ORDINALITY AS x(e, n))
        ELSE ARRAY[command] END $$;
CREATE FUNCTION apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql AS
    $$SELECT jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1)$$;
SELECT esrs_register_aggregate('handlers_' || x, handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)')
  FROM unnest('{one,two,three}'::text[]) AS x;

-- a handler's trace: who saw what, in which order
CREATE TABLE log (n serial, who text, what text);
CREATE FUNCTION note(who text, e esrs_event) RETURNS void LANGUAGE sql AS $$
    INSERT INTO log (who, what) VALUES (who, format('%s %s/%s %s', e.aggregate, right(e.aggregate_id::text, 1), e.sequence_number, e.payload)) $$;
CREATE FUNCTION shown() RETURNS TABLE (who text, what text) LANGUAGE sql AS $$
    WITH gone AS (DELETE FROM log RETURNING n, who, what) SELECT who, what FROM gone ORDER BY n $$;

--
-- Event by event, and for each event in order of registration; set-based ones
-- last, once
--
CREATE FUNCTION z_first(e esrs_event) RETURNS void LANGUAGE sql AS $$SELECT note('first', e)$$;
CREATE FUNCTION set_based(e esrs_event[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO log (who, what) SELECT 'set', string_agg(x.payload::text, ' ' ORDER BY n) FROM unnest(e) WITH ORDINALITY AS x(aggregate, id, aggregate_id, payload, occurred_on, sequence_number, version, position, metadata, n);
END $$;
CREATE FUNCTION a_third(e esrs_event) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM note('third', e);
    -- what it returns does not matter
    RETURN 'done';
END $$;
SELECT esrs_register_handler('h_first', '{handlers_one}', 'z_first(esrs_event)');
SELECT esrs_register_handler('h_set', '{handlers_one}', 'set_based(esrs_event[])');
-- one handler for two aggregates: a shared view
SELECT esrs_register_handler('a_third', '{handlers_two,handlers_one}', 'a_third(esrs_event)');
SELECT esrs_handle_command('handlers_one', :a, '{"events": [{"x": 1}, "two", {"x": 3}]}');
SELECT * FROM shown();
SELECT esrs_handle_command('handlers_two', :a, '{"y": 1}');
SELECT * FROM shown();
SELECT esrs_handle_command('handlers_three', :a, '{"z": 1}');
SELECT * FROM shown();
-- none without events
SELECT esrs_handle_command('handlers_one', :a, '{"events": []}');
SELECT * FROM shown();
-- a handler sees all events of the command in the table, and what the one
-- before it has done
CREATE FUNCTION looks(e esrs_event) RETURNS void LANGUAGE sql AS $$
    INSERT INTO log (who, what) SELECT 'looks', format('at %s: %s stored, %s logged, state %s', e.sequence_number,
        (SELECT count(*) FROM handlers_one_events AS s WHERE s.aggregate_id = e.aggregate_id), (SELECT count(*) FROM log),
        (SELECT state FROM esrs_load('handlers_one', e.aggregate_id))) $$;
SELECT esrs_register_handler('h_looks', '{handlers_one}', 'looks(esrs_event)');
SELECT esrs_handle_command('handlers_one', :b, '{"events": [{"x": 1}, {"x": 2}]}');
SELECT * FROM shown();
SELECT esrs_unregister_handler('h_looks');
-- every column of the event
CREATE TABLE whole (e esrs_event);
CREATE FUNCTION keep_whole(e esrs_event) RETURNS void LANGUAGE sql AS 'INSERT INTO whole VALUES (e)';
SELECT esrs_register_handler('h_whole', '{handlers_one}', 'keep_whole(esrs_event)');
SELECT esrs_handle_command('handlers_one', :b, '{"x": 3}', metadata => '{"actor": "me"}');
SELECT (w.e).aggregate, (w.e).id = s.id AS id, (w.e).aggregate_id = s.aggregate_id AS aggregate_id, (w.e).payload,
       (w.e).occurred_on = s.occurred_on AS occurred_on, (w.e).sequence_number, (w.e).version, (w.e).position = s.position AS position, (w.e).metadata
  FROM whole AS w, handlers_one_events AS s WHERE s.id = (w.e).id;
SELECT esrs_unregister_handler('h_whole');
TRUNCATE log;

--
-- event_types: the default rule, and event_type_path
--
CREATE FUNCTION typed(e esrs_event) RETURNS void LANGUAGE sql AS $$SELECT note('typed', e)$$;
CREATE FUNCTION typed_set(e esrs_event[]) RETURNS void LANGUAGE sql AS
    $$INSERT INTO log (who, what) SELECT 'typed set', string_agg(x.payload::text, ' ') FROM unnest(e) AS x$$;
SELECT esrs_unregister_handler(name) FROM unnest('{h_first,h_set,a_third}'::text[]) AS name;
SELECT esrs_register_handler('h_typed', '{handlers_one}', 'typed(esrs_event)', event_types => '{Bought,Closed}');
SELECT esrs_register_handler('h_typed_set', '{handlers_one}', 'typed_set(esrs_event[])', event_types => '{Bought}');
-- a string, and the key of a one-key object, have a type; all others have none
SELECT esrs_handle_command('handlers_one', :c, '{"events": [{"Bought": {"n": 1}}, "Closed", {"Bought": 1, "Closed": 1}, "Bought",
    {"Returned": {"Bought": 1}}, {"bought": 1}, {}, "", {"Bought": null}, {"event_type": "Bought"}]}');
SELECT * FROM shown();
-- none of them: the set-based one is not called
SELECT esrs_handle_command('handlers_one', :c, '{"Other": 1}');
SELECT * FROM shown();
-- internally tagged: the path comes first, then the default rule
SELECT esrs_alter_aggregate('handlers_one', '{"event_type_path": "event_type"}');
SELECT esrs_handle_command('handlers_one', :c, '{"events": [{"event_type": "Bought", "n": 1}, {"event_type": "Bought"}, {"event_type": "Other", "Bought": 1},
    {"Bought": {"event_type": "Other"}}, "Closed", {"event_type": 1, "Bought": 1}, {"event_type": {"Bought": 1}}]}');
SELECT * FROM shown();
-- a path of several members
SELECT esrs_alter_aggregate('handlers_one', '{"event_type_path": "meta.type"}');
SELECT esrs_handle_command('handlers_one', :c, '{"events": [{"meta": {"type": "Bought"}, "n": 1}, {"meta": {"type": "Bought"}}, {"meta": {"type": "Other"}, "n": 2},
    {"meta": "Bought", "n": 3}, {"meta.type": "Bought", "n": 4}, {"Bought": 5}]}');
SELECT * FROM shown();
-- an empty one: events have no types
SELECT esrs_alter_aggregate('handlers_one', '{"event_type_path": ""}');
SELECT esrs_handle_command('handlers_one', :c, '{"events": [{"Bought": {"n": 1}}, "Closed"]}');
SELECT * FROM shown();
SELECT esrs_alter_aggregate('handlers_one', '{"event_type_path": null}');
-- changed and removed at once
SELECT esrs_alter_handler('h_typed', '{"event_types": ["Other"]}');
SELECT esrs_handle_command('handlers_one', :c, '{"events": [{"Bought": 1}, {"Other": 1}]}');
SELECT * FROM shown();
SELECT esrs_alter_handler('h_typed', '{"event_types": null}');
SELECT esrs_unregister_handler('h_typed_set');
SELECT esrs_handle_command('handlers_one', :c, '{"events": [{"Bought": 1}, {"Other": 1}, {}]}');
SELECT * FROM shown();
SELECT esrs_unregister_handler('h_typed');

--
-- A handler that fails, or a constraint of the read model, takes the command
-- with it
--
CREATE TABLE stock (id uuid PRIMARY KEY, n int CONSTRAINT enough CHECK (n >= 0));
CREATE FUNCTION keep_stock(e esrs_event) RETURNS void LANGUAGE sql AS $$
    INSERT INTO stock VALUES (e.aggregate_id, (e.payload ->> 'n')::int)
    ON CONFLICT (id) DO UPDATE SET n = stock.n + (e.payload ->> 'n')::int $$;
CREATE FUNCTION fails(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF e.payload ? 'fail' THEN
        RAISE 'handler failed' USING ERRCODE = e.payload ->> 'fail';
    ELSIF e.payload ? 'set' THEN
        EXECUTE e.payload ->> 'set';
    END IF;
END $$;
SELECT esrs_register_handler('h_stock', '{handlers_one}', 'keep_stock(esrs_event)');
SELECT esrs_register_handler('h_fails', '{handlers_one}', 'fails(esrs_event)');
SELECT esrs_handle_command('handlers_one', :d, '{"n": 5}');
BEGIN;
SELECT esrs_handle_command('handlers_two', :d, '{"before": 1}');
SAVEPOINT s;
SELECT esrs_handle_command('handlers_one', :d, '{"events": [{"n": -1}, {"n": -5}]}');
\echo :SQLSTATE :LAST_ERROR_MESSAGE
ROLLBACK TO s;
SELECT esrs_handle_command('handlers_one', :d, '{"events": [{"n": 1}, {"n": 1, "fail": "P0009"}]}', command_id => :d);
\echo :SQLSTATE
ROLLBACK TO s;
-- the same command may come again: it was not recorded
SELECT esrs_handle_command('handlers_one', :d, '{"n": 1}', command_id => :d);
COMMIT;
-- a rejection by a handler is an error too, of esrs_try_command as well
SELECT ok FROM esrs_try_command('handlers_one', :d, '{"n": 1, "fail": "ZE001"}');
\echo :SQLSTATE
SELECT * FROM stock;
SELECT sequence_number, payload FROM handlers_one_events WHERE aggregate_id = :d ORDER BY 1;
SELECT count(*) FROM handlers_two_events WHERE aggregate_id = :d;
-- the context names the handler
\set SHOW_CONTEXT always
SELECT esrs_handle_command('handlers_one', :d, '{"n": 1, "fail": "P0009"}');
\set SHOW_CONTEXT never
-- settings are guarded in handlers too
SELECT esrs_handle_command('handlers_one', :d, '{"n": 1, "set": "SET search_path = public"}');
\echo :SQLSTATE
SELECT * FROM stock;
SELECT esrs_unregister_handler(name) FROM unnest('{h_stock,h_fails}'::text[]) AS name;

--
-- A handler that is dropped: a clear error; created again it works, without
-- reconnecting
--
CREATE FUNCTION come_and_go(e esrs_event) RETURNS void LANGUAGE sql AS $$SELECT note('first version', e)$$;
CREATE FUNCTION go(uuid) RETURNS void LANGUAGE sql AS $$INSERT INTO log (who, what) VALUES ('deleted', $1::text)$$;
SELECT esrs_register_handler('h_come_and_go', '{handlers_one}', 'come_and_go(esrs_event)', delete_handler => 'go(uuid)');
SELECT esrs_handle_command('handlers_one', :d, '{"come": 1}');
DROP FUNCTION come_and_go(esrs_event);
SELECT esrs_handle_command('handlers_one', :d, '{"come": 2}');
\echo :SQLSTATE
SELECT esrs_handle_command('handlers_two', :d, '{"other": 1}');
CREATE FUNCTION come_and_go(e esrs_event) RETURNS void LANGUAGE sql AS $$SELECT note('second version', e)$$;
SELECT esrs_handle_command('handlers_one', :d, '{"come": 3}');
CREATE OR REPLACE FUNCTION come_and_go(e esrs_event) RETURNS void LANGUAGE sql AS $$SELECT note('third version', e)$$;
SELECT esrs_handle_command('handlers_one', :d, '{"come": 4}');
SELECT * FROM shown();
-- the same for its delete handler
DROP FUNCTION go(uuid);
SELECT esrs_delete('handlers_one', :d);
\echo :SQLSTATE
SELECT count(*) > 0 AS still_there FROM handlers_one_events WHERE aggregate_id = :d;
CREATE FUNCTION go(uuid) RETURNS void LANGUAGE sql AS $$INSERT INTO log (who, what) VALUES ('deleted again', $1::text)$$;
SELECT esrs_delete('handlers_one', :d) > 0 AS deleted;
SELECT * FROM shown();
-- dropped and created again within one transaction
BEGIN;
DROP FUNCTION come_and_go(esrs_event);
SAVEPOINT s;
SELECT esrs_handle_command('handlers_one', :d, '{"come": 5}');
ROLLBACK TO s;
CREATE FUNCTION come_and_go(e esrs_event) RETURNS void LANGUAGE sql AS $$SELECT note('fourth version', e)$$;
SELECT esrs_handle_command('handlers_one', :d, '{"come": 6}');
ROLLBACK;
SELECT esrs_handle_command('handlers_one', :d, '{"come": 7}');
SELECT * FROM shown();
-- gone when the aggregate was read, and there again at the next command
DROP FUNCTION come_and_go(esrs_event);
SELECT count(*) > 0 AS read FROM esrs_events('handlers_one', :d);
SELECT esrs_handle_command('handlers_two', :d, '{"other": 2}');
CREATE FUNCTION come_and_go(e esrs_event) RETURNS void LANGUAGE sql AS $$SELECT note('fifth version', e)$$;
SELECT esrs_handle_command('handlers_one', :d, '{"come": 8}');
SELECT * FROM shown();
SELECT esrs_unregister_handler('h_come_and_go');
-- the same for one that takes all events at once
CREATE FUNCTION all_at_once(e esrs_event[]) RETURNS void LANGUAGE sql AS $$SELECT note('the set', e[1])$$;
SELECT esrs_register_handler('h_all_at_once', '{handlers_one}', 'all_at_once(esrs_event[])');
DROP FUNCTION all_at_once(esrs_event[]);
SELECT count(*) > 0 AS read FROM esrs_events('handlers_one', :d);
CREATE FUNCTION all_at_once(e esrs_event[]) RETURNS void LANGUAGE sql AS $$SELECT note('the set again', e[1])$$;
SELECT esrs_handle_command('handlers_one', :d, '{"come": 9}');
SELECT * FROM shown();
SELECT esrs_unregister_handler('h_all_at_once');

SELECT esrs_unregister_aggregate('handlers_' || x, drop_events => true) FROM unnest('{one,two,three}'::text[]) AS x;
DROP SCHEMA esrs_handlers_test CASCADE;
