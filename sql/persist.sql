--
-- esrs_persist: events without a command.
--
-- Catches: events that are not numbered after those of commands, handlers that
-- do not run, ids that are not the caller's, an id that is stored twice or
-- shown in an error, and a sequence number that wraps.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA esrs_persist;
SET search_path = esrs_persist, public;
\set a '\'aaaa0000-0000-4000-8000-00000000000a\''
\set b '\'aaaa0000-0000-4000-8000-00000000000b\''
\set c '\'aaaa0000-0000-4000-8000-00000000000c\''

-- A store without logic: no functions at all.
SELECT esrs_register_aggregate('persist_store');
CREATE TABLE seen (aggregate text, aggregate_id uuid, sequence_number int, payload jsonb, metadata jsonb);
CREATE FUNCTION see(e esrs_event) RETURNS void LANGUAGE sql AS
    'INSERT INTO seen VALUES (e.aggregate, e.aggregate_id, e.sequence_number, e.payload, e.metadata)';
SELECT esrs_register_handler('persist_seen', '{persist_store}', 'see(esrs_event)');

\pset null (null)
-- objects and strings; ids of the caller
SELECT aggregate, id, aggregate_id, payload, sequence_number, version, metadata, position IS NOT NULL AS has_position
  FROM esrs_persist('persist_store', :a, ARRAY['{"Bought": {"n": 1.50}}', '"Closed"']::jsonb[],
                    event_ids => ARRAY['eeee0000-0000-4000-8000-000000000001', 'eeee0000-0000-4000-8000-000000000002']::uuid[]);
-- what it returns is what is stored
CREATE TEMP TABLE returned AS
    SELECT * FROM esrs_persist('persist_store', :a, '{"{\"n\": 3}"}', metadata => '{"actor": "me"}');
SELECT count(*), bool_and((r.id, r.aggregate_id, r.payload, r.occurred_on, r.sequence_number, r.position, r.metadata)
                       IS NOT DISTINCT FROM (s.id, s.aggregate_id, s.payload, s.occurred_on, s.sequence_number, s.position, s.metadata))
  FROM returned AS r JOIN persist_store_events AS s USING (aggregate_id, sequence_number);
-- none is none
SELECT * FROM esrs_persist('persist_store', :a, '{}');
SELECT sequence_number, payload, metadata FROM persist_store_events ORDER BY 1;
-- handlers saw them
SELECT * FROM seen ORDER BY sequence_number;
-- a store has events but no state, and takes no command
SELECT * FROM esrs_load('persist_store', :a);
SELECT * FROM esrs_lock_and_load('persist_store', :a);
SELECT * FROM esrs_load('persist_store', :b);
SELECT esrs_handle_command('persist_store', :a, '{"Buy": 1}');
\echo :SQLSTATE
SELECT * FROM esrs_try_command('persist_store', :a, '{"Buy": 1}');
\echo :SQLSTATE
SELECT * FROM esrs_decide('persist_store', :a, '{"Buy": 1}');
\echo :SQLSTATE
SELECT esrs_delete('persist_store', :a);
SELECT sequence_number FROM esrs_persist('persist_store', :a, '{"{\"again\": 1}"}');

--
-- Beside commands
--
CREATE FUNCTION handle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE sql AS $$SELECT ARRAY[command]$$;
CREATE FUNCTION apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql AS
    $$SELECT jsonb_build_object('sum', coalesce((state ->> 'sum')::int, 0) + (event ->> 'n')::int)$$;
SELECT esrs_register_aggregate('persist_sum', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)');
SELECT esrs_handle_command('persist_sum', :a, '{"n": 1}');
SELECT sequence_number FROM esrs_persist('persist_sum', :a, '{"{\"n\": 2}","{\"n\": 3}"}');
SELECT esrs_handle_command('persist_sum', :a, '{"n": 4}');
SELECT * FROM esrs_load('persist_sum', :a);

-- expected_sequence
SELECT sequence_number FROM esrs_persist('persist_sum', :a, '{"{\"n\": 1}"}', expected_sequence => 4);
SELECT sequence_number FROM esrs_persist('persist_sum', :a, '{"{\"n\": 1}"}', expected_sequence => 4);
\echo :SQLSTATE
SELECT sequence_number FROM esrs_persist('persist_sum', :a, '{"{\"n\": 1}"}', 0);
\echo :SQLSTATE
SELECT sequence_number FROM esrs_persist('persist_sum', :a, '{}', 7);
\echo :SQLSTATE
SELECT sequence_number FROM esrs_persist('persist_sum', :a, '{}', -1);
\echo :SQLSTATE
SELECT sequence_number FROM esrs_persist('persist_sum', :b, '{"{\"n\": 1}"}', 0);

-- one time, never before the newest event's
SELECT count(DISTINCT occurred_on) FROM esrs_persist('persist_sum', :b, '{"{\"n\": 1}","{\"n\": 1}"}');
SELECT bool_and(ok) FROM (SELECT occurred_on >= lag(occurred_on) OVER (ORDER BY sequence_number) AS ok
                            FROM persist_sum_events WHERE aggregate_id = :b) AS x;

--
-- Bad arguments
--
SELECT esrs_persist(NULL, :a, '{}');
\echo :SQLSTATE
SELECT esrs_persist('persist_sum', NULL, '{}');
\echo :SQLSTATE
SELECT esrs_persist('persist_sum', :a, NULL);
\echo :SQLSTATE
SELECT esrs_persist('persist_sum', :a, ARRAY['{"n": 1}', NULL]::jsonb[]);
\echo :SQLSTATE
SELECT esrs_persist('persist_sum', :a, ARRAY['{"n": 1}', '1']::jsonb[]);
\echo :SQLSTATE
SELECT esrs_persist('persist_sum', :a, ARRAY['[]']::jsonb[]);
SELECT esrs_persist('persist_sum', :a, ARRAY['null']::jsonb[]);
SELECT esrs_persist('persist_sum', :a, ARRAY['true']::jsonb[]);
SELECT esrs_persist('persist_sum', :a, '{"{\"n\": 1}"}', metadata => '1');
\echo :SQLSTATE
SELECT esrs_persist('persist_sum', :a, '{"{\"n\": 1}"}', event_ids => '{}');
\echo :SQLSTATE
SELECT esrs_persist('persist_sum', :a, '{"{\"n\": 1}"}',
                    event_ids => '{eeee0000-0000-4000-8000-000000000001,eeee0000-0000-4000-8000-000000000002}');
\echo :SQLSTATE
SELECT esrs_persist('persist_sum', :a, '{"{\"n\": 1}"}', event_ids => '{NULL}');
\echo :SQLSTATE
SELECT esrs_persist('persist_no_such', :a, '{}');
\echo :SQLSTATE
SELECT count(*) FROM persist_sum_events WHERE aggregate_id = :a;
-- an event that cannot be applied is not noticed here, for no state is made
SELECT sequence_number FROM esrs_persist('persist_sum', :c, '{"{\"n\": \"x\"}"}');
SELECT * FROM esrs_load('persist_sum', :c);
\echo :SQLSTATE
SELECT * FROM esrs_load('persist_sum', :b);

--
-- The id of an event is the caller's to choose, and unique on request; a
-- collision shows no values.
--
SELECT sequence_number FROM esrs_persist('persist_sum', :b, '{"{\"n\": 1}"}', event_ids => '{eeee0000-0000-4000-8000-000000000003}');
SELECT sequence_number FROM esrs_persist('persist_sum', :b, '{"{\"n\": 1}"}', event_ids => '{eeee0000-0000-4000-8000-000000000003}');
SELECT esrs_register_aggregate('persist_unique', unique_event_id => true);
SELECT sequence_number FROM esrs_persist('persist_unique', :a, '{"{\"n\": 1}"}', event_ids => '{eeee0000-0000-4000-8000-000000000003}');
SELECT sequence_number FROM esrs_persist('persist_unique', :b, '{"{\"n\": 1}"}', event_ids => '{eeee0000-0000-4000-8000-000000000003}');
\echo :SQLSTATE
SELECT sequence_number FROM esrs_persist('persist_unique', :b, '{"{\"n\": 1}","{\"n\": 1}"}',
                                         event_ids => '{eeee0000-0000-4000-8000-000000000004,eeee0000-0000-4000-8000-000000000004}');
\echo :SQLSTATE
SELECT aggregate_id, sequence_number, id FROM persist_unique_events;
-- nor does any other constraint that the table's owner has added
ALTER TABLE persist_unique_events ADD CONSTRAINT no_secrets CHECK (NOT payload ? 'secret');
SELECT sequence_number FROM esrs_persist('persist_unique', :b, '{"{\"secret\": \"s3cret\"}"}');
\echo :SQLSTATE

--
-- The last number of an instance: what would wrap is refused, and nothing else
-- is affected.
--
INSERT INTO persist_sum_events (id, aggregate_id, payload, sequence_number)
VALUES ('eeee0000-0000-4000-8000-000000000005', 'aaaa0000-0000-4000-8000-00000000000d', '{"n": 5}', 2147483646);
SELECT esrs_persist('persist_sum', 'aaaa0000-0000-4000-8000-00000000000d', '{"{\"n\": 1}","{\"n\": 1}"}');
\echo :SQLSTATE
SELECT sequence_number FROM esrs_persist('persist_sum', 'aaaa0000-0000-4000-8000-00000000000d', '{"{\"n\": 1}"}');
SELECT esrs_persist('persist_sum', 'aaaa0000-0000-4000-8000-00000000000d', '{"{\"n\": 1}"}');
\echo :SQLSTATE
SELECT esrs_handle_command('persist_sum', 'aaaa0000-0000-4000-8000-00000000000d', '{"n": 1}');
\echo :SQLSTATE
SELECT * FROM esrs_try_command('persist_sum', 'aaaa0000-0000-4000-8000-00000000000d', '{"n": 1}');
\echo :SQLSTATE
SELECT * FROM esrs_load('persist_sum', 'aaaa0000-0000-4000-8000-00000000000d');
SELECT sequence_number, payload FROM esrs_events('persist_sum', 'aaaa0000-0000-4000-8000-00000000000d', 2147483647);
SELECT esrs_handle_command('persist_sum', :b, '{"n": 1}');
SELECT esrs_delete('persist_sum', 'aaaa0000-0000-4000-8000-00000000000d');

SELECT esrs_unregister_handler('persist_seen');
SELECT esrs_unregister_aggregate(name, drop_events => true) FROM unnest('{persist_store,persist_sum,persist_unique}'::text[]) AS name;
DROP SCHEMA esrs_persist CASCADE;
