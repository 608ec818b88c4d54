-- schema: the form in which events are stored, apart from the form in which they are seen.

CREATE EXTENSION esrs;

-- The aggregates of this file remember their events, and emit those that they are told to.
CREATE FUNCTION list_handle(state jsonb, command jsonb) RETURNS SETOF jsonb
BEGIN ATOMIC
    SELECT value FROM jsonb_array_elements(command -> 'Emit');
END;

CREATE FUNCTION list_apply(state jsonb, event jsonb) RETURNS jsonb IMMUTABLE
RETURN jsonb_build_object('events', (state -> 'events') || jsonb_build_array(event));

-- ---------------------------------------------------------------------------
-- Adding a schema to an aggregate that has events
-- ---------------------------------------------------------------------------

SELECT esrs_register_aggregate('introducing_schema', initial_state => '{"events": []}',
    handle_command => 'list_handle(jsonb,jsonb)', apply_event => 'list_apply(jsonb,jsonb)');

\set id '''0b5e7c1e-0000-4000-8000-000000000001'''
SELECT count(*) FROM esrs_persist('introducing_schema', :id,
    ARRAY['"A"', '{"B": {"contents": "hello world"}}', '{"C": {"count": 42}}']::jsonb[]);

-- The forms agree, so nothing needs to be converted.  What none of the branches knows is
-- an error (20000): a CASE statement of PL/pgSQL without ELSE raises one.
CREATE FUNCTION introducing_from_event(event jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = public, pg_temp AS $$
BEGIN
    CASE
        WHEN event = '"A"' THEN RETURN '"A"';
        WHEN event ? 'B' THEN RETURN jsonb_build_object('B', event -> 'B');
        WHEN event ? 'C' THEN RETURN jsonb_build_object('C', event -> 'C');
    END CASE;
END $$;

CREATE FUNCTION introducing_to_event(stored jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = public, pg_temp AS $$
BEGIN
    CASE
        WHEN stored = '"A"' THEN RETURN '"A"';
        WHEN stored ? 'B' THEN RETURN jsonb_build_object('B', stored -> 'B');
        WHEN stored ? 'C' THEN RETURN jsonb_build_object('C', stored -> 'C');
    END CASE;
END $$;

SELECT esrs_alter_aggregate('introducing_schema',
    '{"from_event": "introducing_from_event(jsonb)", "to_event": "introducing_to_event(jsonb)"}');

SELECT count(*) FROM esrs_persist('introducing_schema', :id,
    ARRAY['"A"', '{"B": {"contents": "goodbye world"}}', '{"C": {"count": 42}}']::jsonb[]);
SELECT sequence_number, jsonb_array_length(state -> 'events') AS events
  FROM esrs_load('introducing_schema', :id);

-- A new event that the schema does not know is not stored.
SELECT esrs_handle_command('introducing_schema', :id, '{"Emit": [{"E": {}}]}');

-- ---------------------------------------------------------------------------
-- Deprecating events
-- ---------------------------------------------------------------------------

-- Before: A, B and C.
SELECT esrs_register_aggregate('schema_deprecation', initial_state => '{"events": []}',
    handle_command => 'list_handle(jsonb,jsonb)', apply_event => 'list_apply(jsonb,jsonb)',
    from_event => 'introducing_from_event(jsonb)', to_event => 'introducing_to_event(jsonb)');

SELECT count(*) FROM esrs_persist('schema_deprecation', :id,
    ARRAY['"A"', '{"B": {"contents": "goodbye world"}}', '{"C": {"count": 42}}']::jsonb[]);

-- three more instances: B comes last, it is the only event, it comes first
\set last '''0b5e7c1e-0000-4000-8000-000000000002'''
\set only '''0b5e7c1e-0000-4000-8000-000000000003'''
\set first '''0b5e7c1e-0000-4000-8000-000000000004'''
SELECT count(*) FROM esrs_persist('schema_deprecation', :last, ARRAY['"A"', '{"B": {"contents": "x"}}']::jsonb[]);
SELECT count(*) FROM esrs_persist('schema_deprecation', :only, ARRAY['{"B": {"contents": "x"}}']::jsonb[]);
SELECT count(*) FROM esrs_persist('schema_deprecation', :first, ARRAY['{"B": {"contents": "x"}}', '"A"']::jsonb[]);

-- After: B is gone, D is new.  B is told of here, and nowhere else.
CREATE FUNCTION deprecation_from_event(event jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = public, pg_temp AS $$
BEGIN
    CASE
        WHEN event = '"A"' OR event ? 'C' OR event ? 'D' THEN RETURN event;
    END CASE;
END $$;

CREATE FUNCTION deprecation_to_event(stored jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = public, pg_temp AS $$
BEGIN
    CASE
        WHEN stored = '"A"' OR stored ? 'C' OR stored ? 'D' THEN RETURN stored;
        WHEN stored ? 'B' THEN RETURN NULL;
    END CASE;
END $$;

-- Whose state will be another one?
SELECT aggregate_id, state -> 'events' AS now, new_state -> 'events' AS then, error
  FROM esrs_diff('schema_deprecation', to_event => 'deprecation_to_event(jsonb)');

SELECT esrs_alter_aggregate('schema_deprecation',
    '{"from_event": "deprecation_from_event(jsonb)", "to_event": "deprecation_to_event(jsonb)"}');

SELECT sequence_number, payload FROM esrs_events('schema_deprecation', :id);
SELECT count(*) FROM esrs_persist('schema_deprecation', :id,
    ARRAY['"A"', '{"C": {"count": 42}}', '{"D": {"contents": "this is the new events", "count": 21}}']::jsonb[]);
SELECT sequence_number, jsonb_array_length(state -> 'events') AS events
  FROM esrs_load('schema_deprecation', :id);

-- A deprecated event keeps its number, so the next one goes on behind it.  In the library
-- the last event that is *seen* counts: the first two of these can never be commanded again.
SELECT aggregate_id, sequence_number, state FROM esrs_load('schema_deprecation', :last);
SELECT aggregate_id, sequence_number, state FROM esrs_load('schema_deprecation', :only);
SELECT id AS instance, sequence_number, state
  FROM (VALUES (:last::uuid, 2), (:only, 1), (:first, 2)) AS x (id, n),
       esrs_try_command('schema_deprecation', id, '{"Emit": ["A"]}', expected_sequence => n);
SELECT aggregate_id, sequence_number, payload FROM schema_deprecation_events
 WHERE aggregate_id <> :id ORDER BY 1, 2;

-- All is in order: no row.
SET client_min_messages = warning;
SELECT * FROM esrs_verify('schema_deprecation');
RESET client_min_messages;

-- Nobody emits it any more.
SELECT esrs_handle_command('schema_deprecation', :id, '{"Emit": [{"B": {"contents": "again"}}]}');

-- ---------------------------------------------------------------------------
-- Upcasting
-- ---------------------------------------------------------------------------

-- Before: B has contents.
SELECT esrs_register_aggregate('schema_upcasting', initial_state => '{"events": []}',
    handle_command => 'list_handle(jsonb,jsonb)', apply_event => 'list_apply(jsonb,jsonb)',
    from_event => 'introducing_from_event(jsonb)', to_event => 'introducing_to_event(jsonb)');

SELECT count(*) FROM esrs_persist('schema_upcasting', :id,
    ARRAY['"A"', '{"B": {"contents": "goodbye world"}}', '{"C": {"count": 42}}']::jsonb[]);

-- After: B has contents and a count.  It is stored as D, so that the two are told apart.
CREATE FUNCTION upcasting_from_event(event jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = public, pg_temp AS $$
BEGIN
    CASE
        WHEN event = '"A"' OR event ? 'C' THEN RETURN event;
        WHEN event ? 'B' THEN RETURN jsonb_build_object('D', event -> 'B');
    END CASE;
END $$;

CREATE FUNCTION upcasting_to_event(stored jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE SET search_path = public, pg_temp AS $$
BEGIN
    CASE
        WHEN stored = '"A"' OR stored ? 'C' THEN RETURN stored;
        WHEN stored ? 'B' THEN RETURN jsonb_set(stored, '{B,count}', '1');
        WHEN stored ? 'D' THEN RETURN jsonb_build_object('B', stored -> 'D');
    END CASE;
END $$;

SELECT esrs_alter_aggregate('schema_upcasting',
    '{"from_event": "upcasting_from_event(jsonb)", "to_event": "upcasting_to_event(jsonb)"}');

SELECT count(*) FROM esrs_persist('schema_upcasting', :id,
    ARRAY['"A"', '{"C": {"count": 42}}', '{"B": {"contents": "this is the new events", "count": 21}}']::jsonb[]);
SELECT jsonb_array_length(state -> 'events') AS events, state #> '{events,1}' AS second
  FROM esrs_load('schema_upcasting', :id);
SELECT e.sequence_number, s.payload AS stored, e.payload AS event
  FROM esrs_events('schema_upcasting', :id) AS e
  JOIN schema_upcasting_events AS s USING (id) ORDER BY 1;

-- Functions that are no inverses are found out by the first event that they would change,
-- and nothing is stored.
CREATE OR REPLACE FUNCTION upcasting_from_event(event jsonb) RETURNS jsonb
IMMUTABLE RETURN event;
SELECT esrs_handle_command('schema_upcasting', :id, '{"Emit": [{"B": {"contents": "new", "count": 2}}]}');
SELECT sequence_number FROM esrs_load('schema_upcasting', :id);
