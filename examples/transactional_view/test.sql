-- transactional_view: a view that is never behind, and can say no.

CREATE EXTENSION esrs;
CREATE FUNCTION note_handle(state jsonb, command jsonb) RETURNS jsonb[] RETURN ARRAY[command];
CREATE FUNCTION note_apply(state jsonb, event jsonb) RETURNS jsonb IMMUTABLE RETURN event;
SELECT esrs_register_aggregate('note', handle_command => 'note_handle(jsonb,jsonb)', apply_event => 'note_apply(jsonb,jsonb)');

CREATE TABLE view (id uuid PRIMARY KEY, content text);

CREATE FUNCTION keep_view(event esrs_event) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    IF event.payload ->> 'content' = 'error' THEN
        RAISE EXCEPTION 'this content is not for the view';
    END IF;
    INSERT INTO view VALUES (event.aggregate_id, event.payload ->> 'content')
    ON CONFLICT (id) DO UPDATE SET content = excluded.content;
END $$;
SELECT esrs_register_handler('view', '{note}', 'keep_view(esrs_event)');

\set id '''0b5e7c1e-0000-4000-8000-000000000001'''

-- The handler fails: the command fails, and no event is stored.
\set SHOW_CONTEXT never
SELECT esrs_handle_command('note', :id, '{"content": "error"}');
SELECT (SELECT count(*) FROM note_events) AS events, (SELECT count(*) FROM view) AS rows;

-- The next one is stored, and the row is there when the call returns.
SELECT sequence_number FROM esrs_try_command('note', :id, '{"content": "hello"}');
SELECT content FROM view WHERE id = :id;

-- A constraint on the view does the same without any code.
ALTER TABLE view ADD CONSTRAINT not_too_long CHECK (length(content) <= 10);
SELECT esrs_handle_command('note', :id, '{"content": "much too long"}');
SELECT (SELECT count(*) FROM note_events) AS events, (SELECT content FROM view WHERE id = :id);

-- Events and view are one transaction, also the caller's.
BEGIN;
SELECT sequence_number FROM esrs_try_command('note', :id, '{"content": "perhaps"}');
SELECT content FROM view WHERE id = :id;
ROLLBACK;
SELECT (SELECT count(*) FROM note_events) AS events, (SELECT content FROM view WHERE id = :id);
