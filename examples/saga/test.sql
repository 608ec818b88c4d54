-- saga: event handlers that command.

CREATE EXTENSION esrs;

-- ---------------------------------------------------------------------------
-- A saga: what was requested is registered, by an event handler
-- ---------------------------------------------------------------------------

CREATE FUNCTION saga_handle(state jsonb, command jsonb) RETURNS jsonb[]
RETURN ARRAY[CASE command WHEN '"RequestMutation"' THEN '"MutationRequested"'::jsonb
                          WHEN '"RegisterMutation"' THEN '"MutationRegistered"'
                          ELSE esrs_reject('UnknownCommand', 'a mutation can be requested and registered') END];

CREATE FUNCTION saga_apply(state jsonb, event jsonb) RETURNS jsonb IMMUTABLE RETURN state;

SELECT esrs_register_aggregate('saga',
    handle_command => 'saga_handle(jsonb,jsonb)',
    apply_event    => 'saga_apply(jsonb,jsonb)');

-- The handler commands the instance that the event is of.  Its side effect, the new event
-- and the note that the old one is handled are one transaction.
CREATE TABLE side_effects (saga uuid PRIMARY KEY, sequence_number int);

CREATE FUNCTION register_mutation(event esrs_event) RETURNS void
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO side_effects
    SELECT aggregate_id, sequence_number FROM esrs_load('saga', event.aggregate_id);
    PERFORM esrs_handle_command('saga', event.aggregate_id, '"RegisterMutation"');
END $$;

SELECT esrs_register_handler('saga', '{saga}', 'register_mutation(esrs_event)',
    mode => 'async', event_types => '{MutationRequested}', max_attempts => 1);

\set id '''0b5e7c1e-0000-4000-8000-000000000001'''
CALL esrs_execute('saga', :id, '"RequestMutation"', metadata => '{"correlation_id": "order 66"}') \gset
SELECT sequence_number, payload, metadata ->> 'correlation_id' AS correlation_id,
       (metadata ->> 'causation_id')::uuid = lag(id) OVER (ORDER BY sequence_number) AS caused_by_the_one_before
  FROM esrs_events('saga', :id);
SELECT * FROM side_effects;

-- If it fails after its command, the command is undone with it: no step is done by half.
ALTER FUNCTION register_mutation RENAME TO register_mutation_well;
CREATE FUNCTION register_mutation(event esrs_event) RETURNS void
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM register_mutation_well(event);
    RAISE 'the last line goes wrong';
END $$;
SELECT esrs_alter_handler('saga', '{"handler": "register_mutation(esrs_event)"}');

\set id '''0b5e7c1e-0000-4000-8000-000000000002'''
SELECT esrs_handle_command('saga', :id, '"RequestMutation"');
SELECT esrs_wait_for('saga', timeout => '60s');
SELECT sequence_number, payload FROM esrs_events('saga', :id);
SELECT count(*) FROM side_effects WHERE saga = :id;
SELECT message FROM esrs_dead_letters;

SELECT esrs_alter_handler('saga', '{"handler": "register_mutation_well(esrs_event)"}');
SELECT esrs_retry_dead_letters('saga');
SELECT sequence_number, payload FROM esrs_events('saga', :id);

-- ---------------------------------------------------------------------------
-- A process manager: what was reserved and is not collected in time expires
-- ---------------------------------------------------------------------------

CREATE FUNCTION reservation_handle(state jsonb, command jsonb) RETURNS jsonb[]
RETURN CASE WHEN command ? 'Reserve' THEN ARRAY[jsonb_build_object('Reserved', command -> 'Reserve')]
            WHEN state ->> 'status' <> 'reserved' THEN ARRAY[esrs_reject('NotReserved', 'it is not reserved')]
            WHEN command = '"Collect"' THEN ARRAY['"Collected"'::jsonb]
            ELSE ARRAY['"Expired"'::jsonb] END;

CREATE FUNCTION reservation_apply(state jsonb, event jsonb) RETURNS jsonb IMMUTABLE
RETURN CASE WHEN event ? 'Reserved' THEN '{"status": "reserved"}'::jsonb
            ELSE jsonb_build_object('status', lower(event #>> '{}')) END;

SELECT esrs_register_aggregate('reservation',
    handle_command => 'reservation_handle(jsonb,jsonb)',
    apply_event    => 'reservation_apply(jsonb,jsonb)');

-- Commands that are to be issued later.  Who remembers one gives it an id, here that of
-- the event that called for it: so it cannot be remembered, or handled, twice.
CREATE TABLE due_commands (
    command_id   uuid PRIMARY KEY,
    due_at       timestamptz NOT NULL,
    aggregate    text NOT NULL,
    aggregate_id uuid NOT NULL,
    command      jsonb NOT NULL,
    last_error   text
);
CREATE INDEX ON due_commands (due_at);

CREATE FUNCTION manage_reservation(event esrs_event) RETURNS void BEGIN ATOMIC
    INSERT INTO due_commands
    SELECT event.id, (event.payload #>> '{Reserved,until}')::timestamptz, 'reservation',
           event.aggregate_id, '"Expire"'
     WHERE event.payload ? 'Reserved';
    DELETE FROM due_commands
     WHERE aggregate_id = event.aggregate_id AND event.payload = '"Collected"';
END;

SELECT esrs_register_handler('reservations', '{reservation}', 'manage_reservation(esrs_event)',
    mode => 'async');

-- Each due command in a transaction of its own, which also removes it.  Any number of
-- sessions may run this at once, from pg_cron or from a loop.
CREATE PROCEDURE run_due_commands() LANGUAGE plpgsql AS $$
DECLARE
    due due_commands;
BEGIN
    LOOP
        SELECT * INTO due FROM due_commands
         WHERE due_at <= clock_timestamp() ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED;
        EXIT WHEN NOT FOUND;
        BEGIN
            -- a rejection is an answer: it was collected in the last moment
            PERFORM esrs_try_command(due.aggregate, due.aggregate_id, due.command,
                                     command_id => due.command_id);
            DELETE FROM due_commands WHERE command_id = due.command_id;
        EXCEPTION WHEN OTHERS THEN
            -- the next ones must not wait for this one
            UPDATE due_commands SET due_at = clock_timestamp() + interval '1 minute', last_error = SQLERRM
             WHERE command_id = due.command_id;
        END;
        COMMIT;
    END LOOP;
END $$;

\set early '''0b5e7c1e-0000-4000-8000-000000000003'''
\set late '''0b5e7c1e-0000-4000-8000-000000000004'''
SELECT esrs_handle_command('reservation', :early, '{"Reserve": {"until": "2020-01-01 00:00:00+00"}}');
SELECT esrs_handle_command('reservation', :early, '"Collect"');
SELECT esrs_handle_command('reservation', :late, '{"Reserve": {"until": "2020-01-01 00:00:00+00"}}');
SELECT esrs_wait_for('reservations', timeout => '60s');
SELECT aggregate_id, command, due_at FROM due_commands;
CALL run_due_commands();
SELECT count(*) FROM due_commands;
SELECT state FROM esrs_load('reservation', :early);
SELECT state FROM esrs_load('reservation', :late);

-- Many at once, one of them hopeless, and three sessions that run them: each is
-- executed once, though the aggregate would take it any number of times.
INSERT INTO due_commands
SELECT gen_random_uuid(), now(), 'saga', gen_random_uuid(), '"RequestMutation"' FROM generate_series(1, 98);
INSERT INTO due_commands VALUES (gen_random_uuid(), now(), 'nobody', gen_random_uuid(), '{}');
\! for i in 1 2 3; do psql -X -q -c 'CALL run_due_commands()' & done; wait
SELECT aggregate, last_error FROM due_commands;
SELECT count(*) AS requests, count(DISTINCT aggregate_id) AS instances
  FROM saga_events WHERE payload = '"MutationRequested"';
