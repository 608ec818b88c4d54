--
-- esrs_events and the forms of a payload: upcast, to_event, from_event,
-- event_version.
--
-- Catches: events that are shown in their stored form, a deprecated event that
-- is shown or whose number is given to another one (the Rust library's defect
-- D1: appending fails for ever), a version that nobody knows read as if it were
-- known.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA esrs_events;
SET search_path = esrs_events, public;
\set a '\'e5e50000-0000-4000-8000-00000000000a\''
\set b '\'e5e50000-0000-4000-8000-00000000000b\''
\set c '\'e5e50000-0000-4000-8000-00000000000c\''
\set d '\'e5e50000-0000-4000-8000-00000000000d\''
\pset null (null)

-- the command is the event
CREATE FUNCTION handle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE sql AS $$SELECT ARRAY[command]$$;
CREATE FUNCTION apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql AS
    $$SELECT state || jsonb_build_object('types', coalesce(state -> 'types', '[]') || coalesce(event -> 'type', '"?"'))$$;
SELECT esrs_register_aggregate('events_plain', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)');

--
-- Ranges
--
SELECT count(*) FROM esrs_persist('events_plain', :a, (SELECT array_agg(jsonb_build_object('n', n)) FROM generate_series(1, 7) AS n),
                                  metadata => '{"actor": "me"}');
SELECT aggregate, aggregate_id, payload, sequence_number, version, metadata,
       id IS NOT NULL AND occurred_on IS NOT NULL AND position IS NOT NULL AS rest
  FROM esrs_events('events_plain', :a);
SELECT f, t, (SELECT string_agg(sequence_number::text, ',') FROM esrs_events('events_plain', :a, f, t)) AS numbers
  FROM (VALUES (1, NULL), (3, NULL), (3, 5), (5, 3), (7, 7), (8, NULL), (0, 2), (-5, 1), (NULL, 2), (1, 0), (1, -1),
               (1, 2147483647), (2147483647, 2147483647)) AS x(f, t);
SELECT count(*) FROM esrs_events('events_plain', :b);
-- more than are read at once, in order
SELECT count(*) FROM esrs_persist('events_plain', :b, (SELECT array_agg(jsonb_build_object('n', n) ORDER BY n) FROM generate_series(1, 1501) AS n));
SELECT count(*), bool_and(ordinality = sequence_number AND (payload ->> 'n')::int = sequence_number)
  FROM esrs_events('events_plain', :b) WITH ORDINALITY;
SELECT count(*), min(sequence_number), max(sequence_number) FROM esrs_events('events_plain', :b, 400, 1000);
-- within the transaction that made them
BEGIN;
SELECT esrs_handle_command('events_plain', :c, '{"type": "x"}');
SELECT sequence_number, payload FROM esrs_events('events_plain', :c);
ROLLBACK;
SELECT count(*) FROM esrs_events('events_plain', :c);
-- bad arguments
SELECT esrs_events(NULL, :a);
\echo :SQLSTATE
SELECT esrs_events('events_plain', NULL);
\echo :SQLSTATE
SELECT esrs_events('events_no_such', :a);
\echo :SQLSTATE

--
-- upcast: older payloads in today's form, in every place where events are read
--
CREATE FUNCTION upcast(payload jsonb, version int) RETURNS jsonb LANGUAGE sql AS $$
    SELECT CASE
        WHEN version IS NULL THEN payload || '{"upcast from": "none"}'
        WHEN version = 1 THEN payload || '{"upcast from": 1}'
        ELSE payload || '{"upcast from": "what?"}' END $$;
CREATE TABLE seen (n serial, payload jsonb, version int);
CREATE FUNCTION see(e esrs_event) RETURNS void LANGUAGE sql AS 'INSERT INTO seen (payload, version) VALUES (e.payload, e.version)';
CREATE FUNCTION apply_up(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql AS
    $$SELECT state || jsonb_build_object('seen', coalesce(state -> 'seen', '[]') || coalesce(event -> 'upcast from', '"today"'))$$;
SELECT esrs_register_aggregate('events_up', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply_up(jsonb,jsonb)',
                               upcast => 'upcast(jsonb,int)', event_version => 2);
SELECT esrs_register_handler('events_seen', '{events_up}', 'see(esrs_event)');
INSERT INTO events_up_events (id, aggregate_id, payload, sequence_number, version) VALUES
    (gen_random_uuid(), :a, '{"type": "A"}', 1, NULL),
    (gen_random_uuid(), :a, '{"type": "B"}', 2, 1),
    (gen_random_uuid(), :a, '{"type": "C"}', 3, 2);
SELECT sequence_number, payload, version FROM esrs_events('events_up', :a);
SELECT * FROM esrs_load('events_up', :a);
-- a new event has the present version and is not upcast, neither now nor later
SELECT sequence_number, state, events[1].payload, events[1].version FROM esrs_try_command('events_up', :a, '{"type": "D"}');
SELECT sequence_number, payload, version FROM esrs_persist('events_up', :a, '{"{\"type\": \"E\"}"}');
SELECT * FROM seen ORDER BY n;
SELECT * FROM esrs_load('events_up', :a);
SELECT sequence_number, payload, version FROM esrs_feed('{events_up}') ORDER BY position;
SELECT sequence_number, payload, version FROM events_up_events ORDER BY 1;
-- a version newer than known: refused wherever it is read, told by its id
INSERT INTO events_up_events (id, aggregate_id, payload, sequence_number, version) VALUES
    ('e5e50000-0000-4000-8000-0000000000f1', :b, '{"type": "A", "secret": "s3cret"}', 1, 3);
\set SHOW_CONTEXT always
SELECT * FROM esrs_load('events_up', :b);
\echo :SQLSTATE
\set SHOW_CONTEXT never
SELECT * FROM esrs_handle_command('events_up', :b, '{"type": "D"}');
\echo :SQLSTATE
SELECT * FROM esrs_try_command('events_up', :b, '{"type": "D"}');
\echo :SQLSTATE
SELECT * FROM esrs_events('events_up', :b);
\echo :SQLSTATE
SELECT * FROM esrs_decide('events_up', :b, '{"type": "D"}');
\echo :SQLSTATE
SELECT count(*) FROM esrs_feed('{events_up}');
\echo :SQLSTATE
-- others are not affected; a later version of the functions knows it
SELECT count(*) FROM esrs_events('events_up', :a);
SELECT esrs_alter_aggregate('events_up', '{"event_version": 3}');
SELECT * FROM esrs_load('events_up', :b);
SELECT sequence_number, payload, version FROM esrs_events('events_up', :a);
-- a broken upcast names the event, not its payload
CREATE OR REPLACE FUNCTION upcast(payload jsonb, version int) RETURNS jsonb LANGUAGE plpgsql AS
    $$BEGIN RAISE 'cannot upcast' USING ERRCODE = 'P0009'; END$$;
INSERT INTO events_up_events (id, aggregate_id, payload, sequence_number, version) VALUES
    ('e5e50000-0000-4000-8000-0000000000f2', :c, '{"type": "A", "secret": "s3cret"}', 1, 1);
\set SHOW_CONTEXT always
SELECT * FROM esrs_events('events_up', :c);
\set SHOW_CONTEXT never
\echo :SQLSTATE

--
-- Deprecated events (upcast returns NULL) are left out; their numbers stay
--
CREATE FUNCTION without_b(payload jsonb, version int) RETURNS jsonb LANGUAGE sql AS
    $$SELECT CASE WHEN payload ->> 'type' IN ('B', 'C') THEN NULL ELSE payload END$$;
SELECT esrs_register_aggregate('events_less', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)',
                               initial_state => '{"initial": true}', upcast => 'without_b(jsonb,int)');
INSERT INTO events_less_events (id, aggregate_id, payload, sequence_number) VALUES
    -- the last one is deprecated
    (gen_random_uuid(), :a, '{"type": "A"}', 1), (gen_random_uuid(), :a, '{"type": "B"}', 2),
    -- the first
    (gen_random_uuid(), :b, '{"type": "B"}', 1), (gen_random_uuid(), :b, '{"type": "A"}', 2),
    -- the middle
    (gen_random_uuid(), :c, '{"type": "A"}', 1), (gen_random_uuid(), :c, '{"type": "B"}', 2), (gen_random_uuid(), :c, '{"type": "A"}', 3),
    -- all
    (gen_random_uuid(), :d, '{"type": "B"}', 1), (gen_random_uuid(), :d, '{"type": "C"}', 2);
SELECT l.*, (SELECT array_agg(sequence_number) FROM esrs_events('events_less', id)) AS numbers
  FROM unnest(ARRAY[:a, :b, :c, :d]::uuid[]) AS id, esrs_load('events_less', id) AS l ORDER BY id;
-- the number counts for expected_sequence, and the next event takes the next
SELECT esrs_handle_command('events_less', :a, '{"type": "A"}', expected_sequence => 1);
\echo :SQLSTATE
SELECT esrs_handle_command('events_less', :d, '{"type": "A"}', expected_sequence => 0);
\echo :SQLSTATE
SELECT r.aggregate_id, r.sequence_number, r.state
  FROM (VALUES (:a::uuid, 2), (:b, 2), (:c, 3), (:d, 2)) AS x(id, n), esrs_try_command('events_less', id, '{"type": "A"}', n) AS r
 ORDER BY id;
SELECT sequence_number FROM esrs_persist('events_less', :d, '{"{\"type\": \"A\"}"}', expected_sequence => 3);
SELECT (SELECT array_agg(sequence_number) FROM esrs_events('events_less', id)) AS numbers
  FROM unnest(ARRAY[:a, :b, :c, :d]::uuid[]) AS id ORDER BY id;
SELECT * FROM esrs_load('events_less', :a, at_sequence => 2);
-- the feed leaves them out too
SELECT count(*) FROM esrs_feed('{events_less}') WHERE payload ->> 'type' = 'B';
SELECT count(*) FROM esrs_feed('{events_less}');

-- a new event that is deprecated at once would not be there when it is read: refused
SELECT esrs_handle_command('events_less', :a, '{"type": "B"}');
\echo :SQLSTATE
SELECT sequence_number FROM esrs_persist('events_less', :a, '{"{\"type\": \"A\"}","{\"type\": \"B\"}"}');
\echo :SQLSTATE
SELECT sequence_number FROM esrs_load('events_less', :a);

--
-- from_event and to_event: stored in another form than seen
--
CREATE FUNCTION pack(event jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    CASE event ->> 'type'
        WHEN 'null' THEN RETURN NULL;
        WHEN 'number' THEN RETURN '1';
        WHEN 'raise' THEN RAISE division_by_zero;
        WHEN 'long' THEN RETURN jsonb_build_object('packed', repeat('x', 2000));
        ELSE RETURN jsonb_build_object('packed', event);
    END CASE;
END $$;
CREATE FUNCTION unpack(payload jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT payload -> 'packed'$$;
CREATE FUNCTION upcast_packed(payload jsonb, version int) RETURNS jsonb LANGUAGE sql AS
    $$SELECT jsonb_set(payload, '{packed,upcast}', 'true')$$;
SELECT esrs_register_aggregate('events_packed', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)',
                               from_event => 'pack(jsonb)', to_event => 'unpack(jsonb)', upcast => 'upcast_packed(jsonb,int)',
                               event_version => 2);
-- first the upcast of the stored form, then to_event
INSERT INTO events_packed_events (id, aggregate_id, payload, version) VALUES (gen_random_uuid(), :a, '{"packed": {"type": "old"}}', 1);
SELECT state, events[1].payload FROM esrs_try_command('events_packed', :a, '{"type": "A"}');
SELECT payload, version FROM events_packed_events ORDER BY sequence_number;
SELECT payload FROM esrs_events('events_packed', :a);
SELECT payload FROM esrs_feed('{events_packed}');
SELECT payload FROM esrs_persist('events_packed', :a, '{"{\"type\": \"B\"}"}');
SELECT * FROM esrs_load('events_packed', :a);
-- what cannot be stored is not
SELECT esrs_handle_command('events_packed', :a, '{"type": "null"}');
\echo :SQLSTATE
SELECT esrs_handle_command('events_packed', :a, '{"type": "number"}');
\echo :SQLSTATE
SELECT esrs_handle_command('events_packed', :a, '{"type": "raise"}');
\echo :SQLSTATE
SELECT * FROM esrs_persist('events_packed', :a, '{"{\"type\": \"A\"}","{\"type\": \"null\"}"}');
\echo :SQLSTATE
SET esrs.max_payload_size = 1;
SELECT esrs_handle_command('events_packed', :a, '{"type": "long"}');
\echo :SQLSTATE
RESET esrs.max_payload_size;
SELECT count(*) FROM events_packed_events;
-- one that does not come back as it was
CREATE OR REPLACE FUNCTION unpack(payload jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT payload -> 'packed' || '{"and": "more"}'$$;
SELECT esrs_handle_command('events_packed', :a, '{"type": "A"}');
\echo :SQLSTATE
CREATE OR REPLACE FUNCTION unpack(payload jsonb) RETURNS jsonb LANGUAGE sql AS $$SELECT NULL::jsonb$$;
SELECT esrs_handle_command('events_packed', :a, '{"type": "A"}');
\echo :SQLSTATE
SELECT count(*) FROM events_packed_events;

SELECT esrs_unregister_handler('events_seen');
SELECT esrs_unregister_aggregate(name, drop_events => true)
  FROM unnest('{events_plain,events_up,events_less,events_packed}'::text[]) AS name;
DROP SCHEMA esrs_events CASCADE;
