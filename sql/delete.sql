--
-- esrs_delete: the only way to remove events.
--
-- Catches: a wrong count, delete handlers that do not run or run after an
-- error, a feed that does not tell, numbers that do not begin at 1 again,
-- remembered commands that make a new instance look old, and an instance that
-- comes back although it was deleted for good.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA esrs_delete;
SET search_path = esrs_delete, public;
\set a '\'de1e0000-0000-4000-8000-00000000000a\''
\set b '\'de1e0000-0000-4000-8000-00000000000b\''
\set c '\'de1e0000-0000-4000-8000-00000000000c\''
\set k '\'de1e0000-0000-4000-8000-0000000000ff\''

CREATE FUNCTION handle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE sql AS $$SELECT ARRAY[command]$$;
CREATE FUNCTION apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql AS
    $$SELECT jsonb_build_object('sum', coalesce((state ->> 'sum')::int, 0) + (event ->> 'n')::int)$$;
SELECT esrs_register_aggregate('delete_sum', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)');
SELECT esrs_register_aggregate('delete_other', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)');

-- two read models with delete handlers, and a handler without one
CREATE TABLE model (id uuid PRIMARY KEY, n int CHECK (n < 1000));
CREATE TABLE log (n serial, what text, id uuid, sequence_number int);
CREATE FUNCTION keep(e esrs_event) RETURNS void LANGUAGE sql AS $$
    INSERT INTO model VALUES (e.aggregate_id, (e.payload ->> 'n')::int)
    ON CONFLICT (id) DO UPDATE SET n = model.n + excluded.n;
    INSERT INTO log (what, id, sequence_number) VALUES ('event', e.aggregate_id, e.sequence_number) $$;
CREATE FUNCTION forget(id uuid) RETURNS void LANGUAGE sql AS $$
    DELETE FROM model WHERE model.id = forget.id;
    INSERT INTO log (what, id) VALUES ('first delete handler', forget.id) $$;
CREATE FUNCTION keep_more(events esrs_event[]) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION forget_more(uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO log (what, id) VALUES ('second delete handler', $1);
    IF current_setting('esrs_delete.fail', true) = 'on' THEN
        RAISE 'cannot forget' USING ERRCODE = 'P0009';
    END IF;
END $$;
CREATE FUNCTION ignore(e esrs_event) RETURNS void LANGUAGE sql AS '';
SELECT esrs_register_handler('delete_model', '{delete_sum}', 'keep(esrs_event)', delete_handler => 'forget(uuid)');
SELECT esrs_register_handler('delete_ignore', '{delete_sum}', 'ignore(esrs_event)');
-- set-based, with a filter: it is told of every deletion
SELECT esrs_register_handler('delete_more', '{delete_sum}', 'keep_more(esrs_event[])',
                             delete_handler => 'forget_more(uuid)', event_types => '{none}');

SELECT esrs_handle_command('delete_sum', :a, '{"n": 1}');
SELECT esrs_handle_command('delete_sum', :a, '{"n": 2}', command_id => :k);
SELECT esrs_handle_command('delete_sum', :b, '{"n": 10}');
SELECT esrs_handle_command('delete_other', :a, '{"n": 20}', command_id => :k);

-- the number of events; the second time there are none
SELECT esrs_delete('delete_sum', :a);
SELECT esrs_delete('delete_sum', :a);
SELECT esrs_delete('delete_sum', :c);
-- nothing else is touched: neither another instance nor the same id elsewhere
SELECT sequence_number, state FROM esrs_load('delete_sum', :a);
SELECT sequence_number, state FROM esrs_load('delete_sum', :b);
SELECT sequence_number, state FROM esrs_load('delete_other', :a);
SELECT count(*) FROM delete_sum_events;
-- the read model is told every time, in order of registration
SELECT * FROM model;
SELECT what, id, sequence_number FROM log ORDER BY n;

-- the feed: one row for the one deletion, without id, number and payload
\pset null (null)
SELECT aggregate, aggregate_id, id IS NULL AS no_id, sequence_number, payload, version, metadata, occurred_on > now() - interval '1 minute' AS recently
  FROM esrs_feed('{delete_sum,delete_other}') ORDER BY position;
\pset null ''

-- the id begins again at 1, and knows nothing of former commands
SELECT sequence_number, state FROM esrs_try_command('delete_sum', :a, '{"n": 7}', expected_sequence => 0, command_id => :k);
SELECT sequence_number, state FROM esrs_try_command('delete_sum', :a, '{"n": 7}', command_id => :k);
SELECT sequence_number, state FROM esrs_try_command('delete_other', :a, '{"n": 20}', command_id => :k);
SELECT * FROM model ORDER BY id;
SELECT aggregate_id, sequence_number, payload FROM esrs_feed('{delete_sum}') ORDER BY position;
SELECT esrs_delete('delete_sum', :a);
SELECT aggregate_id, sequence_number, payload FROM esrs_feed('{delete_sum}') ORDER BY position;

-- a savepoint that is rolled back takes the deletion with it
BEGIN;
SAVEPOINT s;
SELECT esrs_delete('delete_sum', :b);
SELECT sequence_number, state FROM esrs_load('delete_sum', :b);
ROLLBACK TO s;
SELECT sequence_number, state FROM esrs_load('delete_sum', :b);
SELECT esrs_handle_command('delete_sum', :b, '{"n": 1}');
COMMIT;
SELECT * FROM model ORDER BY id;

-- a delete handler that fails does so too
SET esrs_delete.fail = on;
SELECT esrs_delete('delete_sum', :b);
\echo :SQLSTATE
RESET esrs_delete.fail;
SELECT sequence_number, state FROM esrs_load('delete_sum', :b);
SELECT * FROM model ORDER BY id;
SELECT count(*) FROM esrs_feed('{delete_sum}');

-- in the transaction that made it
BEGIN;
SELECT esrs_handle_command('delete_sum', :c, '{"n": 1}');
SELECT esrs_delete('delete_sum', :c);
SELECT esrs_handle_command('delete_sum', :c, '{"n": 2}');
COMMIT;
SELECT sequence_number, payload FROM esrs_events('delete_sum', :c);
SELECT * FROM model WHERE id = :c;

--
-- For good
--
SELECT esrs_delete('delete_sum', :c, permanent => true);
SELECT esrs_handle_command('delete_sum', :c, '{"n": 1}');
\echo :SQLSTATE
SELECT * FROM esrs_try_command('delete_sum', :c, '{"n": 1}', expected_sequence => 0);
\echo :SQLSTATE
SELECT * FROM esrs_handle_commands(ARRAY[('delete_sum', :c, '{"n": 1}', NULL, NULL, NULL)]::esrs_command[]);
\echo :SQLSTATE
SELECT * FROM esrs_persist('delete_sum', :c, '{"{\"n\": 1}"}');
\echo :SQLSTATE
-- it is gone, not forbidden to ask for
SELECT esrs_load('delete_sum', :c) IS NULL AS gone;
SELECT count(*) FROM esrs_events('delete_sum', :c);
SELECT esrs_delete('delete_sum', :c);
-- the same id elsewhere lives
SELECT esrs_handle_command('delete_other', :c, '{"n": 1}');
-- also when it never existed, or was deleted before
SELECT esrs_delete('delete_sum', 'de1e0000-0000-4000-8000-00000000000d', true);
SELECT esrs_handle_command('delete_sum', 'de1e0000-0000-4000-8000-00000000000d', '{"n": 1}');
\echo :SQLSTATE
SELECT esrs_delete('delete_sum', :a, true);
SELECT esrs_handle_command('delete_sum', :a, '{"n": 1}');
\echo :SQLSTATE
-- to say it twice changes nothing: one row in the feed
SELECT count(*) FROM esrs_feed('{delete_sum}') WHERE aggregate_id = :c AND id IS NULL;
SELECT esrs_delete('delete_sum', :c, true);
SELECT count(*) FROM esrs_feed('{delete_sum}') WHERE aggregate_id = :c AND id IS NULL;

--
-- Bad arguments
--
SELECT esrs_delete(NULL, :b);
\echo :SQLSTATE
SELECT esrs_delete('delete_sum', NULL);
\echo :SQLSTATE
SELECT esrs_delete('delete_no_such', :b);
\echo :SQLSTATE
-- nobody else may delete
DELETE FROM delete_sum_events;
\echo :SQLSTATE

-- 1,200 events: more than are read at once
SELECT count(*) FROM esrs_persist('delete_sum', 'de1e0000-0000-4000-8000-00000000000e',
    (SELECT array_agg('{"n": 0}'::jsonb) FROM generate_series(1, 1200)));
SELECT sequence_number, state FROM esrs_load('delete_sum', 'de1e0000-0000-4000-8000-00000000000e');
SELECT esrs_delete('delete_sum', 'de1e0000-0000-4000-8000-00000000000e');
SELECT count(*) FROM delete_sum_events WHERE aggregate_id = 'de1e0000-0000-4000-8000-00000000000e';

SELECT esrs_unregister_handler(name) FROM esrs_handlers WHERE name LIKE 'delete\_%' ORDER BY name;
SELECT esrs_unregister_aggregate(name, drop_events => true) FROM unnest('{delete_sum,delete_other}'::text[]) AS name;
DROP SCHEMA esrs_delete CASCADE;
