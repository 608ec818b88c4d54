--
-- Event handlers that command other aggregates.
--
-- Catches: handlers that see events in different orders, events of a nested
-- command that was rolled back in a read model, a chain without end, a handler
-- that changes the instance whose events it is handed, and events that do not
-- tell what caused them.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA esrs_nested;
SET search_path = esrs_nested, public;
\set a '\'0e57ed00-0000-4000-8000-00000000000a\''
\set b '\'0e57ed00-0000-4000-8000-00000000000b\''
\set c '\'0e57ed00-0000-4000-8000-00000000000c\''
\set d '\'0e57ed00-0000-4000-8000-00000000000d\''

-- the events of a command are the elements of its "events", or itself
CREATE FUNCTION handle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE plpgsql AS $$
BEGIN
    IF command ? 'refuse' THEN
        PERFORM esrs_reject('refused', 'no');
    END IF;
    RETURN CASE WHEN command ? 'events' THEN
        (SELECT coalesce(array_agg(e ORDER BY n), '{}') FROM jsonb_array_elements(command -> 'events') WITH ORDINALITY AS x(e, n))
        ELSE ARRAY[command] END;
END $$;
CREATE FUNCTION apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql AS
    $$SELECT jsonb_build_object('n', coalesce((state ->> 'n')::int, 0) + 1)$$;
SELECT esrs_register_aggregate('nested_' || x, handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)')
  FROM unnest('{one,two,three}'::text[]) AS x;

CREATE TABLE log (n serial, who text, what text);
CREATE FUNCTION note(who text, e esrs_event) RETURNS void LANGUAGE sql AS $$
    INSERT INTO log (who, what) VALUES (who, format('%s %s/%s %s', e.aggregate, right(e.aggregate_id::text, 1), e.sequence_number, e.payload ->> 'name')) $$;
CREATE FUNCTION shown() RETURNS TABLE (who text, what text) LANGUAGE sql AS $$
    WITH gone AS (DELETE FROM log RETURNING n, who, what) SELECT who, what FROM gone ORDER BY n $$;

-- three handlers of all aggregates: one notes, one does what the event says, one notes
CREATE FUNCTION before(e esrs_event) RETURNS void LANGUAGE sql AS $$SELECT note('before', e)$$;
CREATE FUNCTION acts(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF e.payload ? 'do' THEN
        EXECUTE e.payload ->> 'do';
        INSERT INTO log (who, what) VALUES ('acts', 'has done ' || (e.payload ->> 'name'));
    END IF;
END $$;
CREATE FUNCTION after(e esrs_event) RETURNS void LANGUAGE sql AS $$SELECT note('after', e)$$;
SELECT esrs_register_handler('nested_before', '{nested_one,nested_two,nested_three}', 'before(esrs_event)');
SELECT esrs_register_handler('nested_acts', '{nested_one,nested_two,nested_three}', 'acts(esrs_event)');
SELECT esrs_register_handler('nested_after', '{nested_one,nested_two,nested_three}', 'after(esrs_event)');

-- an event whose handler commands: command(aggregate, instance, event)
CREATE FUNCTION command(aggregate text, id text, event jsonb) RETURNS text LANGUAGE sql AS $$
    SELECT format('SELECT esrs_handle_command(%L, %L, %L)', aggregate, '0e57ed00-0000-4000-8000-00000000000' || id, event) $$;
CREATE FUNCTION event(name text, VARIADIC sql text[] DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_strip_nulls(jsonb_build_object('name', name, 'do', nullif(array_to_string(sql, ';'), ''))) $$;

--
-- The order: first all events of the outer command to all handlers, then those
-- of the nested ones, first come, first served
--
SELECT esrs_handle_command('nested_one', :a, jsonb_build_object('events', jsonb_build_array(
    event('A1', command('nested_two', 'b', event('B1', command('nested_three', 'c', event('C1'))))),
    event('A2', command('nested_two', 'b', event('B2')), command('nested_three', 'd', event('D1'))),
    event('A3'))));
SELECT * FROM shown();
-- they are stored as they were commanded
SELECT payload ->> 'name' AS name, sequence_number FROM esrs_feed('{nested_one,nested_two,nested_three}');
-- another instance of the same aggregate: the functions are called within themselves
SELECT esrs_handle_command('nested_one', :b, event('A1', command('nested_one', 'c', event('B1', command('nested_one', 'd', event('C1'))))));
SELECT * FROM shown();
-- a nested command that stores nothing, one that persists
SELECT esrs_handle_command('nested_one', :b, event('A2', command('nested_two', 'a', '{"events": []}'),
    $$SELECT esrs_persist('nested_two', '0e57ed00-0000-4000-8000-00000000000a', '{"{\"name\": \"P1\"}","{\"name\": \"P2\"}"}')$$));
SELECT * FROM shown();
-- several at once
SELECT esrs_handle_command('nested_one', :b, event('A3',
    $$SELECT * FROM esrs_handle_commands(ARRAY[('nested_two', '0e57ed00-0000-4000-8000-00000000000a', '{"name": "X"}', NULL, NULL, NULL),
                                               ('nested_three', '0e57ed00-0000-4000-8000-00000000000a', '{"name": "Y"}', NULL, NULL, NULL)]::esrs_command[])$$));
SELECT * FROM shown();

--
-- The instance that is being handled, up the whole chain
--
SELECT esrs_handle_command('nested_one', :a, event('A1', command('nested_one', 'a', event('A2'))));
\echo :SQLSTATE
SELECT esrs_handle_command('nested_one', :a, event('A1', command('nested_two', 'b', event('B1', command('nested_one', 'a', event('A2'))))));
\echo :SQLSTATE
SELECT esrs_handle_command('nested_one', :a, event('A1', $$SELECT esrs_delete('nested_one', '0e57ed00-0000-4000-8000-00000000000a')$$));
\echo :SQLSTATE
SELECT esrs_handle_command('nested_one', :a, event('A1', $$SELECT esrs_persist('nested_one', '0e57ed00-0000-4000-8000-00000000000a', '{}')$$));
\echo :SQLSTATE
-- the same id of another aggregate is another instance
SELECT esrs_handle_command('nested_one', :a, event('A4', command('nested_two', 'a', event('other'))));
SELECT * FROM shown();
SELECT sequence_number, payload ->> 'name' AS name FROM esrs_events('nested_one', :a);

--
-- Failures: all or nothing
--
SELECT esrs_handle_command('nested_one', :a, jsonb_build_object('events', jsonb_build_array(
    event('A1', command('nested_two', 'c', event('B1'))), event('A2', 'SELECT 1 / 0'))));
\echo :SQLSTATE
-- a rejection of a nested command is an error of the outer one
SELECT ok FROM esrs_try_command('nested_one', :a, event('A1', command('nested_two', 'c', '{"refuse": 1}')));
\echo :SQLSTATE
-- ... unless the handler takes it as a row
SELECT ok FROM esrs_try_command('nested_one', :c, event('A1',
    replace(command('nested_two', 'c', '{"refuse": 1}'), 'esrs_handle_command', 'esrs_try_command')));
SELECT * FROM shown();
SELECT count(*) FROM nested_two_events WHERE aggregate_id = :c;
-- nothing of a failed chain is dispatched by a later one
DO $$
BEGIN
    PERFORM esrs_handle_command('nested_one', '0e57ed00-0000-4000-8000-00000000000a', jsonb_build_object('events', jsonb_build_array(
        event('lost', command('nested_two', 'c', event('lost too'))), event('A2', 'SELECT 1 / 0'))));
EXCEPTION WHEN division_by_zero THEN
    PERFORM esrs_handle_command('nested_one', '0e57ed00-0000-4000-8000-00000000000a', event('kept', command('nested_two', 'c', event('kept too'))));
END $$;
SELECT * FROM shown();

--
-- A nested command in a block that rolls back: its events are neither stored
-- nor dispatched; those before and after it are
--
CREATE FUNCTION block(inner_sql text, fails boolean) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE inner_sql;
    IF fails THEN
        RAISE division_by_zero;
    END IF;
EXCEPTION WHEN division_by_zero OR SQLSTATE 'ZE001' THEN
    NULL;
END $$;
SELECT esrs_handle_command('nested_one', :d, event('A1',
    command('nested_two', 'd', event('first')),
    format('SELECT block(%L, true)', command('nested_two', 'd', event('rolled back', command('nested_three', 'd', event('never'))))),
    command('nested_two', 'd', event('second')),
    format('SELECT block(%L, false)', command('nested_two', 'd', event('in a block that succeeds'))),
    format('SELECT block(%L, false)', command('nested_two', 'd', '{"refuse": 1}')),
    command('nested_two', 'd', event('third'))));
SELECT * FROM shown();
SELECT sequence_number, payload ->> 'name' AS name FROM esrs_events('nested_two', :d);
-- blocks in blocks: the inner one succeeds, the outer one fails
SELECT esrs_handle_command('nested_one', :d, event('A2',
    format('SELECT block(%L, true)', format('SELECT block(%L, false)', command('nested_two', 'd', event('inner')))),
    format('SELECT block(%L, false)', format('SELECT block(%L, true)', command('nested_two', 'd', event('inner')))
        || ';' || command('nested_two', 'd', event('outer')))));
SELECT * FROM shown();
-- the outer command in a savepoint
BEGIN;
SAVEPOINT s;
SELECT esrs_handle_command('nested_one', :d, event('A3', command('nested_two', 'd', event('B'))));
ROLLBACK TO s;
SELECT esrs_handle_command('nested_one', :d, event('A4', command('nested_two', 'd', event('C'))));
COMMIT;
SELECT * FROM shown();

--
-- A handler that deletes what it has commanded: no event of it comes later
--
CREATE TABLE model (id uuid PRIMARY KEY, name text);
CREATE FUNCTION keep(e esrs_event) RETURNS void LANGUAGE sql AS $$
    INSERT INTO model VALUES (e.aggregate_id, e.payload ->> 'name') ON CONFLICT (id) DO UPDATE SET name = excluded.name $$;
CREATE FUNCTION forget(uuid) RETURNS void LANGUAGE sql AS $$DELETE FROM model WHERE id = $1$$;
SELECT esrs_register_handler('nested_model', '{nested_three}', 'keep(esrs_event)', delete_handler => 'forget(uuid)');
SELECT esrs_handle_command('nested_one', '0e57ed00-0000-4000-8000-000000000001', event('A1',
    $$SELECT esrs_handle_command('nested_three', '0e57ed00-0000-4000-8000-000000000002', '{"name": "short life"}')$$,
    $$SELECT esrs_delete('nested_three', '0e57ed00-0000-4000-8000-000000000002')$$));
SELECT count(*) AS stored FROM nested_three_events WHERE aggregate_id = '0e57ed00-0000-4000-8000-000000000002';
SELECT * FROM model;
TRUNCATE log;
-- and one whose delete handler commands
CREATE FUNCTION farewell(id uuid) RETURNS void LANGUAGE sql AS $$
    SELECT esrs_handle_command('nested_two', id, '{"name": "farewell"}') $$;
SELECT esrs_register_handler('nested_farewell', '{nested_three}', 'keep(esrs_event)', delete_handler => 'farewell(uuid)');
SELECT esrs_handle_command('nested_three', '0e57ed00-0000-4000-8000-000000000003', '{"name": "hello"}');
SELECT esrs_delete('nested_three', '0e57ed00-0000-4000-8000-000000000003');
SELECT * FROM shown();
SELECT esrs_unregister_handler(name) FROM unnest('{nested_model,nested_farewell}'::text[]) AS name;

--
-- Depth
--
CREATE FUNCTION chain(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    n int := (e.payload ->> 'n')::int;
BEGIN
    IF n < (e.payload ->> 'to')::int THEN
        PERFORM esrs_handle_command('nested_one', ('0e57ed00-0000-4000-8000-' || lpad((n + 1001)::text, 12, '0'))::uuid,
                                    e.payload || jsonb_build_object('n', n + 1));
    END IF;
END $$;
SELECT esrs_unregister_handler(name) FROM unnest('{nested_before,nested_acts,nested_after}'::text[]) AS name;
SELECT esrs_register_handler('nested_chain', '{nested_one}', 'chain(esrs_event)');
SHOW esrs.max_nesting;
SELECT esrs_handle_command('nested_one', '0e57ed00-0000-4000-8000-000000001001', '{"n": 1, "to": 8}');
SELECT array_agg((payload ->> 'n')::int ORDER BY position) FROM nested_one_events WHERE payload ? 'to';
SELECT esrs_handle_command('nested_one', '0e57ed00-0000-4000-8000-000000001001', '{"n": 1, "to": 9}');
\echo :SQLSTATE
SELECT esrs_handle_command('nested_one', '0e57ed00-0000-4000-8000-000000001001', '{"n": 1, "to": 1000000}');
\echo :SQLSTATE
SELECT count(*) FROM nested_one_events WHERE payload ? 'to';
SET esrs.max_nesting = 40;
SELECT esrs_handle_command('nested_one', '0e57ed00-0000-4000-8000-000000001001', '{"n": 1, "to": 40}');
RESET esrs.max_nesting;
SELECT count(*) FROM nested_one_events WHERE payload ? 'to';
SELECT esrs_unregister_handler('nested_chain');

--
-- Metadata: what caused an event
--
CREATE FUNCTION saga(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF e.aggregate <> 'nested_three' THEN
        PERFORM esrs_handle_command(CASE e.aggregate WHEN 'nested_one' THEN 'nested_two' ELSE 'nested_three' END,
            e.aggregate_id, jsonb_build_object('name', e.payload ->> 'name'), metadata => e.payload -> 'metadata',
            command_id => CASE WHEN e.payload ? 'id' THEN '0e57ed00-0000-4000-8000-0000000000ff'::uuid END);
    END IF;
END $$;
SELECT esrs_register_handler('nested_saga', '{nested_one,nested_two}', 'saga(esrs_event)');
SELECT esrs_handle_command('nested_one', '0e57ed00-0000-4000-8000-00000000000e', '{"name": "x"}',
    metadata => '{"correlation_id": "corr", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "actor": "alice"}');
SELECT e.aggregate, e.payload ->> 'name' AS name, cause.aggregate AS caused_by, cause.sequence_number = e.sequence_number AS of_the_same_number,
       e.metadata - 'causation_id' AS other_metadata
  FROM esrs_feed('{nested_one,nested_two,nested_three}') AS e
  LEFT JOIN esrs_feed('{nested_one,nested_two,nested_three}') AS cause ON cause.id::text = e.metadata ->> 'causation_id'
 WHERE e.aggregate_id = '0e57ed00-0000-4000-8000-00000000000e' ORDER BY e.position;
-- without any, only the cause; what the handler gives has precedence; command_id is added
SELECT esrs_handle_command('nested_one', '0e57ed00-0000-4000-8000-00000000000f', '{"events": [{"name": "y"},
    {"name": "z", "id": 1, "metadata": {"causation_id": "mine", "correlation_id": "mine", "traceparent": null, "more": [1]}}]}');
SELECT e.aggregate, e.payload ->> 'name' AS name, cause.aggregate AS caused_by, cause.payload ->> 'name' AS by_name,
       CASE WHEN cause.id IS NULL THEN e.metadata ELSE e.metadata - 'causation_id' END AS metadata
  FROM esrs_feed('{nested_one,nested_two,nested_three}') AS e
  LEFT JOIN esrs_feed('{nested_one,nested_two,nested_three}') AS cause ON cause.id::text = e.metadata ->> 'causation_id'
 WHERE e.aggregate_id = '0e57ed00-0000-4000-8000-00000000000f' ORDER BY e.position;
-- a handler of many events: the last one is the cause
CREATE FUNCTION saga_of_all(e esrs_event[]) RETURNS void LANGUAGE sql AS $$
    SELECT esrs_handle_command('nested_three', e[1].aggregate_id, '{"name": "of all"}') $$;
SELECT esrs_unregister_handler('nested_saga');
SELECT esrs_register_handler('nested_saga', '{nested_one}', 'saga_of_all(esrs_event[])');
SELECT esrs_handle_command('nested_one', '0e57ed00-0000-4000-8000-000000000010', '{"events": [{"name": "1"}, {"name": "2"}]}');
SELECT e.payload ->> 'name' AS name, cause.payload ->> 'name' AS caused_by
  FROM nested_three_events AS e JOIN nested_one_events AS cause ON cause.id::text = e.metadata ->> 'causation_id'
 WHERE e.aggregate_id = '0e57ed00-0000-4000-8000-000000000010';
-- a later command of the session has no cause
SELECT esrs_unregister_handler('nested_saga');
SELECT esrs_handle_command('nested_one', '0e57ed00-0000-4000-8000-000000000010', '{"name": "free"}');
SELECT metadata IS NULL AS none FROM nested_one_events WHERE payload ->> 'name' = 'free';

SELECT esrs_unregister_aggregate('nested_' || x, drop_events => true) FROM unnest('{one,two,three}'::text[]) AS x;
DROP SCHEMA esrs_nested CASCADE;
