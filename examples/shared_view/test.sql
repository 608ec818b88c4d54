-- shared_view: two aggregates feed one view.

CREATE EXTENSION esrs;

-- Two aggregates of the same kind: the state is a sum, an event adds to it and carries an
-- id that both have in common.
CREATE FUNCTION add_handle(state jsonb, command jsonb) RETURNS jsonb[] RETURN ARRAY[command];
CREATE FUNCTION add_apply(state jsonb, event jsonb) RETURNS jsonb IMMUTABLE
    RETURN to_jsonb(state::int + (event -> 'v')::int);

SELECT esrs_register_aggregate('a', handle_command => 'add_handle(jsonb,jsonb)',
    apply_event => 'add_apply(jsonb,jsonb)', initial_state => '0');
SELECT esrs_register_aggregate('b', handle_command => 'add_handle(jsonb,jsonb)',
    apply_event => 'add_apply(jsonb,jsonb)', initial_state => '0');

-- One handler for both; event.aggregate says whose event it is.
CREATE TABLE shared_view (shared_id uuid PRIMARY KEY, aggregate_id_a uuid, aggregate_id_b uuid, sum int);

CREATE FUNCTION keep_shared_view(event esrs_event) RETURNS void BEGIN ATOMIC
    INSERT INTO shared_view AS s
    VALUES ((event.payload ->> 'shared_id')::uuid,
            CASE event.aggregate WHEN 'a' THEN event.aggregate_id END,
            CASE event.aggregate WHEN 'b' THEN event.aggregate_id END,
            (event.payload -> 'v')::int)
    ON CONFLICT (shared_id) DO UPDATE
    SET aggregate_id_a = coalesce(excluded.aggregate_id_a, s.aggregate_id_a),
        aggregate_id_b = coalesce(excluded.aggregate_id_b, s.aggregate_id_b),
        sum = s.sum + excluded.sum;
END;

SELECT esrs_register_handler('shared_view', '{a,b}', 'keep_shared_view(esrs_event)', mode => 'async');

\set id_a '''0b5e7c1e-0000-4000-8000-00000000000a'''
\set id_b '''0b5e7c1e-0000-4000-8000-00000000000b'''
\set shared '''0b5e7c1e-0000-4000-8000-000000000001'''

SELECT esrs_handle_command('a', :id_a, jsonb_build_object('v', 5, 'shared_id', :shared));
SELECT esrs_handle_command('b', :id_b, jsonb_build_object('v', 7, 'shared_id', :shared));
SELECT esrs_wait_for('shared_view', timeout => '60s');
SELECT aggregate_id_a = :id_a AS a, aggregate_id_b = :id_b AS b, sum
  FROM shared_view WHERE shared_id = :shared;

-- A view that comes later sees everything from the beginning.  In total order it gets the
-- events of both in the one order of the feed; set-based, all of a batch in one call.
CREATE TABLE journal (line int GENERATED ALWAYS AS IDENTITY, aggregate text, v int);

CREATE FUNCTION keep_journal(events esrs_event[]) RETURNS void BEGIN ATOMIC
    INSERT INTO journal (aggregate, v)
    SELECT e.aggregate, (e.payload -> 'v')::int
      FROM unnest(events) WITH ORDINALITY AS e ORDER BY e.ordinality;
END;

SELECT esrs_handle_command('a', :id_a, jsonb_build_object('v', -2, 'shared_id', :shared));
SELECT esrs_register_handler('journal', '{a,b}', 'keep_journal(esrs_event[])',
    mode => 'async', ordering => 'total', start_at => 'beginning');
SELECT esrs_handle_command('b', :id_b, jsonb_build_object('v', 1, 'shared_id', :shared));
SELECT esrs_wait_for('journal', timeout => '60s');
SELECT line, aggregate, v FROM journal ORDER BY line;
SELECT esrs_wait_for('shared_view', timeout => '60s');
SELECT sum FROM shared_view WHERE shared_id = :shared;
