-- eventual_view: an asynchronous event handler keeps a view up to date, after the commit.

CREATE EXTENSION esrs;

-- The aggregate has no state.  It refuses empty content, and that is all.
CREATE FUNCTION basic_handle(state jsonb, command jsonb) RETURNS jsonb[]
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    IF command ->> 'content' = '' THEN
        RAISE 'Empty content' USING ERRCODE = 'ZE001', CONSTRAINT = 'EmptyContent';
    END IF;
    RETURN ARRAY[jsonb_build_object('content', command -> 'content')];
END $$;

CREATE FUNCTION basic_apply(state jsonb, event jsonb) RETURNS jsonb IMMUTABLE RETURN state;

SELECT esrs_register_aggregate('basic',
    handle_command => 'basic_handle(jsonb,jsonb)',
    apply_event    => 'basic_apply(jsonb,jsonb)');

-- The view, and the handler that fills it.
CREATE TABLE basic_view (id uuid PRIMARY KEY, content text NOT NULL);

CREATE FUNCTION keep_view(event esrs_event) RETURNS void BEGIN ATOMIC
    INSERT INTO basic_view VALUES (event.aggregate_id, event.payload ->> 'content')
    ON CONFLICT (id) DO UPDATE SET content = excluded.content;
END;

CREATE FUNCTION forget_view(deleted uuid) RETURNS void BEGIN ATOMIC
    DELETE FROM basic_view WHERE id = deleted;
END;

SELECT esrs_register_handler('basic_view', '{basic}', 'keep_view(esrs_event)',
    mode => 'async', delete_handler => 'forget_view(uuid)', max_attempts => 2);

\set id '''0b5e7c1e-0000-4000-8000-000000000001'''

-- The sync way: command, commit, handlers, answer.  The row is there when CALL returns.
CALL esrs_execute('basic', :id, '{"content": "content"}') \gset
SELECT (:'result'::esrs_result).ok, (:'result'::esrs_result).sequence_number;
SELECT content FROM basic_view WHERE id = :id;

-- A rejection is a row, as with esrs_try_command.
CALL esrs_execute('basic', :id, '{"content": ""}') \gset
SELECT (:'result'::esrs_result).ok, (:'result'::esrs_result).error ->> 'name' AS error;

-- The async way: the command returns at once, a background worker does the rest.  Who
-- wants to see it waits for it.
SELECT esrs_handle_command('basic', :id, '{"content": "second"}');
SELECT esrs_wait_for('basic_view', timeout => '60s');
SELECT content FROM basic_view WHERE id = :id;

-- Nothing is lost while the handler does not run; a pause stands here for a crash between
-- commit and handler.
SELECT esrs_pause_handler('basic_view');
SELECT esrs_handle_command('basic', :id, '{"content": "third"}');
SELECT esrs_handle_command('basic', :id, '{"content": "fourth"}');
SELECT status, events_behind FROM esrs_lag WHERE handler = 'basic_view';
SELECT content FROM basic_view WHERE id = :id;
SELECT esrs_resume_handler('basic_view');
SELECT esrs_wait_for('basic_view', timeout => '60s');
SELECT content FROM basic_view WHERE id = :id;

-- A handler that fails never fails the command.  The event is tried again (here twice),
-- and then set aside, and the handler goes on with the next one.
ALTER TABLE basic_view ADD CONSTRAINT no_error CHECK (content <> 'error');
SELECT esrs_handle_command('basic', :id, '{"content": "error"}');
SELECT esrs_handle_command('basic', '0b5e7c1e-0000-4000-8000-000000000002', '{"content": "other"}');
SELECT esrs_wait_for('basic_view', timeout => '60s');
SELECT sequence_number, state, attempts, sqlstate FROM esrs_dead_letters;
SELECT content FROM basic_view ORDER BY id;

-- Once the reason is gone, it is handled after all.
ALTER TABLE basic_view DROP CONSTRAINT no_error;
SELECT esrs_retry_dead_letters('basic_view');
SELECT content FROM basic_view ORDER BY id;

-- Deletions reach the view in the same way.
SELECT esrs_delete('basic', :id);
SELECT esrs_wait_for('basic_view', timeout => '60s');
SELECT content FROM basic_view ORDER BY id;
