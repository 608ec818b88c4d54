--
-- esrs_handle_commands: several commands in one transaction.
--
-- Catches: results in another order than the input, a command that does not see
-- the one before it, a rejection that leaves the rest behind, and locks that
-- are too many or not there.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA esrs_commands_batch;
SET search_path = esrs_commands_batch, public;
\set a '\'ba7c0000-0000-4000-8000-00000000000a\''
\set b '\'ba7c0000-0000-4000-8000-00000000000b\''
\set c '\'ba7c0000-0000-4000-8000-00000000000c\''
\set k '\'ba7c0000-0000-4000-8000-0000000000ff\''

CREATE FUNCTION handle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE plpgsql AS $$
BEGIN
    IF (state ->> 'sum')::int + (command ->> 'n')::int < 0 THEN
        PERFORM esrs_reject('below_zero', 'sum would be below zero', jsonb_build_object('sum', state -> 'sum')::text);
    END IF;
    RETURN CASE WHEN command ->> 'n' = '0' THEN '{}' ELSE ARRAY[command] END;
END $$;
CREATE FUNCTION apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql AS
    $$SELECT jsonb_build_object('sum', (state ->> 'sum')::int + (event ->> 'n')::int)$$;
SELECT esrs_register_aggregate('batch_' || x, handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)',
                               initial_state => '{"sum": 0}') FROM unnest('{one,two}'::text[]) AS x;
CREATE TABLE log (n serial, what text);
CREATE FUNCTION note(e esrs_event) RETURNS void LANGUAGE sql AS
    $$INSERT INTO log (what) VALUES (format('%s %s/%s %s', e.aggregate, right(e.aggregate_id::text, 1), e.sequence_number, e.payload))$$;
SELECT esrs_register_handler('batch_log', '{batch_one,batch_two}', 'note(esrs_event)');

\pset null (null)
-- in input order, whatever the order of the locks; the same instance several
-- times, each command seeing the ones before; columns as of esrs_try_command
SELECT ok, aggregate_id, sequence_number, state, (SELECT jsonb_agg(e.payload) FROM unnest(events) AS e) AS events, error
  FROM esrs_handle_commands(ARRAY[
    ('batch_two', :c, '{"n": 5}', NULL, NULL, NULL),
    ('batch_one', :b, '{"n": 1}', 0, '{"actor": "me"}', :k),
    ('batch_two', :c, '{"n": -5}', 1, NULL, NULL),
    ('batch_one', :a, '{"n": 2}', NULL, NULL, NULL),
    ('batch_one', :b, '{"n": 0}', 1, NULL, NULL),
    ('batch_one', :b, '{"n": 1}', 0, '{"actor": "me"}', :k),
    ('batch_two', :a, '{"n": 3}', NULL, NULL, NULL)]::esrs_command[]);
SELECT payload, metadata FROM batch_one_events WHERE aggregate_id = :b;
-- handlers: command by command
SELECT what FROM log ORDER BY n;
-- one transaction: one xmin
SELECT count(DISTINCT xmin::text) FROM (SELECT xmin FROM batch_one_events UNION ALL SELECT xmin FROM batch_two_events) AS x;
SELECT esrs_event_json(events[1]) LIKE '{"id":"%' AS whole_events
  FROM esrs_handle_commands(ARRAY[('batch_one', :a, '{"n": 1}', NULL, NULL, NULL)]::esrs_command[]);
-- none
SELECT * FROM esrs_handle_commands('{}');
SELECT * FROM esrs_handle_commands(ARRAY[]::esrs_command[]);

-- a rejection raises, and nothing is stored of any of them
SELECT * FROM esrs_handle_commands(ARRAY[
    ('batch_one', :a, '{"n": 10}', NULL, NULL, NULL),
    ('batch_two', :c, '{"n": -1}', NULL, NULL, NULL),
    ('batch_one', :b, '{"n": 10}', NULL, NULL, NULL)]::esrs_command[]);
\echo :SQLSTATE
SELECT * FROM esrs_handle_commands(ARRAY[
    ('batch_one', :a, '{"n": 10}', NULL, NULL, :k),
    ('batch_one', :a, '{"n": 10}', 99, NULL, NULL)]::esrs_command[]);
\echo :SQLSTATE
SELECT state FROM esrs_load('batch_one', :a);
SELECT state FROM esrs_load('batch_two', :c);
SELECT count(*) FROM esrs.commands WHERE aggregate = 'batch_one' AND aggregate_id = :a;
-- earlier work of the transaction survives
BEGIN;
SELECT esrs_handle_command('batch_one', :c, '{"n": 7}');
SAVEPOINT s;
SELECT * FROM esrs_handle_commands(ARRAY[('batch_one', :c, '{"n": 1}', NULL, NULL, NULL), ('batch_one', :c, '{"n": -100}', NULL, NULL, NULL)]::esrs_command[]);
ROLLBACK TO s;
SELECT ok, sequence_number, state FROM esrs_handle_commands(ARRAY[('batch_one', :c, '{"n": 1}', NULL, NULL, NULL)]::esrs_command[]);
COMMIT;

-- null fields, told by the number of the command, and other bad arguments:
-- before anything is done
SELECT * FROM esrs_handle_commands(NULL);
\echo :SQLSTATE
SELECT * FROM esrs_handle_commands(ARRAY[NULL]::esrs_command[]);
\echo :SQLSTATE
SELECT * FROM esrs_handle_commands(ARRAY[('batch_one', :a, '{"n": 1}', NULL, NULL, NULL), (NULL, :a, '{"n": 1}', NULL, NULL, NULL)]::esrs_command[]);
\echo :SQLSTATE
SELECT * FROM esrs_handle_commands(ARRAY[('batch_one', :a, '{"n": 1}', NULL, NULL, NULL), ('batch_one', NULL, '{"n": 1}', NULL, NULL, NULL)]::esrs_command[]);
\echo :SQLSTATE
SELECT * FROM esrs_handle_commands(ARRAY[('batch_one', :a, NULL, NULL, NULL, NULL)]::esrs_command[]);
\echo :SQLSTATE
SELECT * FROM esrs_handle_commands(ARRAY[(NULL, NULL, NULL, NULL, NULL, NULL)]::esrs_command[]);
\echo :SQLSTATE
SELECT * FROM esrs_handle_commands(ARRAY[('batch_one', :a, '[]', NULL, NULL, NULL)]::esrs_command[]);
\echo :SQLSTATE
SELECT * FROM esrs_handle_commands(ARRAY[('batch_one', :a, '{"n": 1}', -1, NULL, NULL)]::esrs_command[]);
\echo :SQLSTATE
SELECT * FROM esrs_handle_commands(ARRAY[('batch_one', :a, '{"n": 1}', NULL, '[]', NULL)]::esrs_command[]);
\echo :SQLSTATE
SELECT * FROM esrs_handle_commands(ARRAY[('batch_one', :a, '{"n": 1}', NULL, NULL, NULL), ('batch_no_such', :a, '{"n": 1}', NULL, NULL, NULL)]::esrs_command[]);
\echo :SQLSTATE
SELECT state FROM esrs_load('batch_one', :a);

-- locks: one for each instance, sorted, however often it is named
BEGIN;
SELECT count(*) FROM esrs_handle_commands((SELECT array_agg(('batch_one', ('ba7c0000-0000-4000-8000-' || lpad((n % 10)::text, 12, '0'))::uuid, '{"n": 0}', NULL, NULL, NULL)::esrs_command)
                                             FROM generate_series(1, 100) AS n));
SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory';
SELECT mode FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'batch_one_events'::regclass ORDER BY mode;
ROLLBACK;
-- 256 instances: still one each
BEGIN;
SELECT count(*) FROM esrs_handle_commands((SELECT array_agg(('batch_one', ('ba7c0000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, '{"n": 0}', NULL, NULL, NULL)::esrs_command)
                                             FROM generate_series(1, 256) AS n));
SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory';
ROLLBACK;
-- more: one lock on the table instead, and it works all the same
BEGIN;
SELECT count(*), bool_and(ok), bool_and(state = '{"sum": 1}'), bool_and(right(aggregate_id::text, 4)::int = ordinality) AS in_order
  FROM esrs_handle_commands((SELECT array_agg(('batch_one', ('ba7c0000-0000-4000-8001-' || lpad(n::text, 12, '0'))::uuid, '{"n": 1}', 0, NULL, NULL)::esrs_command ORDER BY n)
                               FROM generate_series(1, 300) AS n)
                            || ('batch_two', 'ba7c0000-0000-4000-8001-000000000301', '{"n": 1}', 0, NULL, NULL)::esrs_command)
       WITH ORDINALITY;
SELECT count(*) AS instances FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory' AND objsubid = x'E546'::int - 65536;
SELECT mode FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'batch_one_events'::regclass AND mode = 'ShareRowExclusiveLock';
-- further commands of the transaction go on
SELECT esrs_handle_command('batch_one', 'ba7c0000-0000-4000-8001-000000000001', '{"n": 1}', 1);
COMMIT;
SELECT count(*), count(DISTINCT aggregate_id) FROM batch_one_events WHERE aggregate_id::text LIKE 'ba7c0000-0000-4000-8001-%';

SELECT esrs_unregister_handler('batch_log');
SELECT esrs_unregister_aggregate('batch_' || x, drop_events => true) FROM unnest('{one,two}'::text[]) AS x;
DROP SCHEMA esrs_commands_batch CASCADE;
