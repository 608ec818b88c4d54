-- aggregate_deletion: an instance is deleted, and everybody hears of it.

CREATE EXTENSION esrs;
SELECT esrs_register_aggregate('note');

-- two views: one in the transaction of the command, one after it
CREATE TABLE view (id uuid PRIMARY KEY, content text);
CREATE TABLE late_view (LIKE view INCLUDING ALL);
CREATE FUNCTION keep_view(event esrs_event) RETURNS void BEGIN ATOMIC
    INSERT INTO view VALUES (event.aggregate_id, event.payload ->> 'content')
    ON CONFLICT (id) DO UPDATE SET content = excluded.content;
END;
CREATE FUNCTION keep_late_view(event esrs_event) RETURNS void BEGIN ATOMIC
    INSERT INTO late_view VALUES (event.aggregate_id, event.payload ->> 'content')
    ON CONFLICT (id) DO UPDATE SET content = excluded.content;
END;
-- what each of them does when an instance is deleted
CREATE FUNCTION forget_view(id uuid) RETURNS void BEGIN ATOMIC DELETE FROM view WHERE view.id = $1; END;
CREATE FUNCTION forget_late_view(id uuid) RETURNS void BEGIN ATOMIC DELETE FROM late_view WHERE late_view.id = $1; END;

SELECT esrs_register_handler('view', '{note}', 'keep_view(esrs_event)', delete_handler => 'forget_view(uuid)');
SELECT esrs_register_handler('late_view', '{note}', 'keep_late_view(esrs_event)', mode => 'async',
    delete_handler => 'forget_late_view(uuid)');
SELECT esrs_subscribe('outside', '{note}');

\set one '''0b5e7c1e-0000-4000-8000-000000000001'''
\set two '''0b5e7c1e-0000-4000-8000-000000000002'''
SELECT count(*) FROM esrs_persist('note', :one, ARRAY['{"content": "draft"}', '{"content": "first"}']::jsonb[]);
SELECT count(*) FROM esrs_persist('note', :two, ARRAY['{"content": "second"}']::jsonb[]);
SELECT esrs_wait_for('late_view', timeout => '60s');
SELECT (SELECT count(*) FROM note_events) AS events, (SELECT count(*) FROM view) AS view, (SELECT count(*) FROM late_view) AS late_view;

-- The events are gone, and so is the row of the transactional view, when the call returns.
SELECT esrs_delete('note', :one);
SELECT (SELECT count(*) FROM note_events) AS events, (SELECT count(*) FROM view) AS view;
SELECT esrs_wait_for('late_view', timeout => '60s');
SELECT count(*) AS late_view FROM late_view;

-- A program outside sees a deletion where the events were: there is nothing else left of them.
SELECT aggregate_id = :one AS one, sequence_number, payload, id IS NULL AS deleted FROM esrs_poll('outside');
