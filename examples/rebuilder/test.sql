-- rebuilder: a read model is made anew by a new version of its handler.

CREATE EXTENSION esrs;
SELECT esrs_register_aggregate('note');

CREATE TABLE view (id uuid PRIMARY KEY, content text);

-- version 1 writes "x.v1"
CREATE FUNCTION keep_view(event esrs_event) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO view VALUES (event.aggregate_id, event.payload ->> 'content' || '.v1')
    ON CONFLICT (id) DO UPDATE SET content = excluded.content;
END $$;
CREATE FUNCTION forget_view(id uuid) RETURNS void BEGIN ATOMIC DELETE FROM view WHERE view.id = $1; END;
SELECT esrs_register_handler('view', '{note}', 'keep_view(esrs_event)', delete_handler => 'forget_view(uuid)');

\set one '''0b5e7c1e-0000-4000-8000-000000000001'''
\set two '''0b5e7c1e-0000-4000-8000-000000000002'''
\set three '''0b5e7c1e-0000-4000-8000-000000000003'''
SELECT count(*) FROM esrs_persist('note', :one, ARRAY['{"content": "draft"}', '{"content": "first"}']::jsonb[]);
SELECT count(*) FROM esrs_persist('note', :two, ARRAY['{"content": "second"}']::jsonb[]);
SELECT content FROM view ORDER BY id;

-- Version 2.  From now on events are handled by it; what is there stays as it is.
CREATE OR REPLACE FUNCTION keep_view(event esrs_event) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO view VALUES (event.aggregate_id, event.payload ->> 'content' || '.v2')
    ON CONFLICT (id) DO UPDATE SET content = excluded.content;
END $$;
SELECT count(*) FROM esrs_persist('note', :three, ARRAY['{"content": "third"}']::jsonb[]);
SELECT content FROM view ORDER BY id;

-- One instance
CALL esrs_rebuild('view', :one);
SELECT content FROM view ORDER BY id;

-- Instance by instance, each in a transaction of its own
CALL esrs_rebuild('view', strategy => 'per_aggregate');
SELECT content FROM view ORDER BY id;

-- All at once: in place, and beside the live table
UPDATE view SET content = 'wrong';
CALL esrs_rebuild('view');
SELECT content FROM view ORDER BY id;
UPDATE view SET content = 'wrong';
CALL esrs_rebuild('view', strategy => 'swap', tables => '{view}');
SELECT content FROM view ORDER BY id;

-- Was it needed?
SELECT count(*) FROM esrs_verify_handler('view', '{view}');

-- A handler that does something outside cannot do it again.
CREATE FUNCTION send_letter(event esrs_event) RETURNS void LANGUAGE plpgsql AS $$BEGIN END$$;
SELECT esrs_register_handler('letters', '{note}', 'send_letter(esrs_event)', replayable => false);
CALL esrs_rebuild('letters', :one);
