--
-- One command: esrs_handle_command and esrs_try_command.
--
-- Catches: results with wrong columns, a rejection that stores something or
-- aborts the caller's transaction, events that are lost, doubled or renumbered,
-- the three forms of a handle_command function being treated differently,
-- expected_sequence and command_id judged wrongly, metadata that does not reach
-- the events, and times that run backwards.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA esrs_command;
SET search_path = esrs_command, public;

\set a '\'c0000000-0000-4000-8000-00000000000a\''
\set b '\'c0000000-0000-4000-8000-00000000000b\''
\set c '\'c0000000-0000-4000-8000-00000000000c\''
\set d '\'c0000000-0000-4000-8000-00000000000d\''
\set e '\'c0000000-0000-4000-8000-00000000000e\''
\set k1 '\'d0000000-0000-4000-8000-000000000001\''
\set k2 '\'d0000000-0000-4000-8000-000000000002\''
\set k3 '\'d0000000-0000-4000-8000-000000000003\''

-- An account in PL/pgSQL.  Commands and events are externally tagged; a string
-- is one without data.
CREATE FUNCTION account_handle(state jsonb, command jsonb) RETURNS jsonb[]
LANGUAGE plpgsql AS $$
DECLARE
    arg jsonb;
BEGIN
    IF command = '"Close"' THEN
        RETURN ARRAY['"Closed"'::jsonb];
    ELSIF command = '"Nothing"' THEN
        RETURN '{}';
    ELSIF command ? 'Deposit' THEN
        RETURN ARRAY[jsonb_build_object('Deposited', command -> 'Deposit')];
    ELSIF command ? 'Split' THEN
        -- one event for each element, in the order of the array
        RETURN (SELECT array_agg(jsonb_build_object('Deposited', jsonb_build_object('amount', v)) ORDER BY n)
                  FROM jsonb_array_elements(command -> 'Split') WITH ORDINALITY AS x(v, n));
    ELSIF command ? 'Many' THEN
        RETURN (SELECT array_agg(jsonb_build_object('Deposited', jsonb_build_object('amount', n)) ORDER BY n)
                  FROM generate_series(1, (command ->> 'Many')::int) AS n);
    ELSIF command ? 'Withdraw' THEN
        IF (command #>> '{Withdraw,amount}')::numeric > (state ->> 'balance')::numeric THEN
            RAISE 'insufficient funds' USING
                ERRCODE = 'ZE001',
                CONSTRAINT = 'insufficient_funds',
                DETAIL = jsonb_build_object('balance', state -> 'balance')::text,
                HINT = 'Deposit first.';
        END IF;
        RETURN ARRAY[jsonb_build_object('Withdrawn', command -> 'Withdraw')];
    ELSIF command ? 'Refuse' THEN
        arg := command -> 'Refuse';
        PERFORM esrs_reject(arg ->> 'name', arg ->> 'message', arg ->> 'detail', arg ->> 'hint');
    ELSIF command = '"Raise"' THEN
        RAISE 'raised' USING ERRCODE = 'ZE001';
    END IF;
    RAISE 'unknown command';
END $$;

CREATE FUNCTION account_apply(state jsonb, event jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
    SELECT jsonb_build_object(
        'balance', (state ->> 'balance')::numeric
            + coalesce((event #>> '{Deposited,amount}')::numeric, 0)
            - coalesce((event #>> '{Withdrawn,amount}')::numeric, 0),
        'closed', (state ->> 'closed')::boolean OR event = '"Closed"')
$$;

SELECT esrs_register_aggregate('command_account',
    handle_command => 'account_handle(jsonb,jsonb)',
    apply_event => 'account_apply(jsonb,jsonb)',
    initial_state => '{"balance": 0, "closed": false}');

--
-- The result is the new state; the event is stored as it was emitted.
--
SELECT esrs_handle_command('command_account', :a, '{"Deposit": {"amount": 10}}');
SELECT esrs_handle_command('command_account', :a, '{"Withdraw": {"amount": 3}}');
SELECT aggregate_id, sequence_number, payload, version, metadata
  FROM command_account_events ORDER BY sequence_number;

-- several events of one command
SELECT esrs_handle_command('command_account', :a, '{"Split": [1, 2.50, 3]}');
-- none: nothing is stored, the state is returned, also of a new instance
SELECT esrs_handle_command('command_account', :a, '"Nothing"');
SELECT esrs_handle_command('command_account', :b, '"Nothing"');
-- a unit variant stays a string
SELECT esrs_handle_command('command_account', :a, '"Close"');
SELECT sequence_number, payload, jsonb_typeof(payload) AS type
  FROM command_account_events WHERE aggregate_id = :a ORDER BY sequence_number;
SELECT count(*) FROM command_account_events WHERE aggregate_id = :b;

-- a command without events draws no transaction id
BEGIN;
SELECT esrs_handle_command('command_account', :a, '"Nothing"');
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_xid;
COMMIT;

-- a rejection is an error
SELECT esrs_handle_command('command_account', :a, '{"Withdraw": {"amount": 1000}}');
\echo :SQLSTATE
-- ... with the name of the rejection where drivers find the constraint's
DO $$
DECLARE
    name text; message text; detail text; hint text;
BEGIN
    PERFORM esrs_handle_command('command_account', 'c0000000-0000-4000-8000-00000000000a',
                                '{"Withdraw": {"amount": 1000}}');
EXCEPTION WHEN SQLSTATE 'ZE001' THEN
    GET STACKED DIAGNOSTICS name = CONSTRAINT_NAME, message = MESSAGE_TEXT,
        detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RAISE WARNING 'name % message % detail % hint %', name, message, detail, hint;
END $$;

--
-- esrs_try_command: every column
--
\pset null (null)
SELECT r.ok, r.aggregate_id, r.sequence_number, r.state, r.error,
       array_length(r.events, 1) AS events,
       r.events[1].aggregate, r.events[1].aggregate_id = r.aggregate_id AS same_id,
       r.events[1].payload, r.events[1].sequence_number AS number,
       r.events[1].version, r.events[1].metadata
  FROM esrs_try_command('command_account', :a, '{"Deposit": {"amount": 5}}') AS r;
-- what it returns is what is stored
CREATE TEMP TABLE result AS SELECT * FROM esrs_try_command('command_account', :b, '{"Split": [1, 2]}');
SELECT count(*), bool_and(e = ('command_account', s.id, s.aggregate_id, s.payload, s.occurred_on,
                               s.sequence_number, s.version, s.position, s.metadata)::esrs_event) AS as_stored
  FROM result, unnest(result.events) AS e, command_account_events AS s WHERE s.id = e.id;
-- no events
SELECT ok, sequence_number, state, events, error
  FROM esrs_try_command('command_account', :b, '"Nothing"');
-- a rejection: no state, no events; the number is the present one
SELECT * FROM esrs_try_command('command_account', :b, '{"Withdraw": {"amount": 1000}}');
-- the caller's transaction lives on
BEGIN;
SELECT esrs_handle_command('command_account', :c, '{"Deposit": {"amount": 1}}');
SELECT ok FROM esrs_try_command('command_account', :c, '{"Withdraw": {"amount": 1000}}');
SELECT esrs_handle_command('command_account', :c, '{"Deposit": {"amount": 1}}');
COMMIT;
SELECT sequence_number, payload FROM command_account_events WHERE aggregate_id = :c ORDER BY 1;

-- the error: name, message, detail as JSON, detail as text, hint
SELECT error FROM esrs_try_command('command_account', :c, '"Raise"');
SELECT error FROM esrs_try_command('command_account', :c, '{"Refuse": {"message": "only a message"}}');
SELECT error FROM esrs_try_command('command_account', :c, '{"Refuse": {"name": "my_name", "message": "my message"}}');
SELECT error FROM esrs_try_command('command_account', :c, '{"Refuse": {"message": "refused", "detail": "{\"limit\": 1.50, \"list\": [1, null]}"}}');
SELECT error FROM esrs_try_command('command_account', :c, '{"Refuse": {"message": "refused", "detail": "[1, 2]"}}');
SELECT error FROM esrs_try_command('command_account', :c, '{"Refuse": {"message": "refused", "detail": "{not json}"}}');
SELECT error FROM esrs_try_command('command_account', :c, '{"Refuse": {"message": "refused", "detail": "just \"text\""}}');
SELECT error FROM esrs_try_command('command_account', :c, '{"Refuse": {"message": "refused", "hint": "a hint"}}');
-- only ZE001 is a rejection
SELECT ok FROM esrs_try_command('command_account', :c, '{"Unknown": 1}');
\echo :SQLSTATE
\pset null ''

--
-- Called in FROM, a function with a composite result runs once.
--
SELECT ok, sequence_number, state ->> 'balance' AS balance, error
  FROM esrs_try_command('command_account', :d, '{"Deposit": {"amount": 7}}');
SELECT count(*) AS once FROM command_account_events WHERE aggregate_id = :d;

--
-- 10,000 events from one command
--
SELECT sequence_number, state, array_length(events, 1)
  FROM esrs_try_command('command_account', :e, '{"Many": 10000}');
SELECT count(*), min(sequence_number), max(sequence_number), count(DISTINCT sequence_number) AS distinct_numbers,
       count(DISTINCT occurred_on) AS times, count(DISTINCT id) AS ids,
       bool_and((payload #>> '{Deposited,amount}')::int = sequence_number) AS in_order,
       bool_and(position - first = sequence_number - 1) AS positions_in_order
  FROM (SELECT *, min(position) OVER () AS first FROM command_account_events WHERE aggregate_id = :e) AS x;
SELECT sequence_number, state FROM esrs_load('command_account', :e);
SELECT esrs_handle_command('command_account', :e, '{"Deposit": {"amount": 1}}');

--
-- The forms of an aggregate in SQL: BEGIN ATOMIC with an array, SETOF, and
-- PL/pgSQL with SETOF.  All behave the same.
--
CREATE FUNCTION counter_atomic(state jsonb, command jsonb) RETURNS jsonb[]
LANGUAGE sql
BEGIN ATOMIC
    SELECT CASE
        WHEN command = '"Stop"' THEN ARRAY[esrs_reject('stopped', 'no more', '{"n": 1}', 'Try later.')]
        ELSE (SELECT coalesce(array_agg(jsonb_build_object('Added', n)), '{}')
                FROM generate_series(1, (command ->> 'Add')::int) AS n)
    END;
END;
CREATE FUNCTION counter_set(state jsonb, command jsonb) RETURNS SETOF jsonb
LANGUAGE sql
BEGIN ATOMIC
    SELECT esrs_reject('stopped', 'no more', '{"n": 1}', 'Try later.') WHERE command = '"Stop"'
    UNION ALL
    SELECT jsonb_build_object('Added', n) FROM generate_series(1, (command ->> 'Add')::int) AS n
     WHERE command <> '"Stop"';
END;
CREATE FUNCTION counter_plpgsql(state jsonb, command jsonb) RETURNS SETOF jsonb
LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. coalesce((command ->> 'Add')::int, 1) LOOP
        RETURN NEXT jsonb_build_object('Added', i);
        IF command = '"Stop"' THEN
            PERFORM esrs_reject('stopped', 'no more', '{"n": 1}', 'Try later.');
        END IF;
    END LOOP;
END $$;
CREATE FUNCTION counter_apply(state jsonb, event jsonb) RETURNS jsonb
LANGUAGE sql
BEGIN ATOMIC
    SELECT state || jsonb_build_object('sum', coalesce((state ->> 'sum')::int, 0) + (event ->> 'Added')::int);
END;
CREATE FUNCTION counter_apply_plpgsql(state jsonb, event jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
BEGIN
    state['sum'] := to_jsonb(coalesce((state ->> 'sum')::int, 0) + (event ->> 'Added')::int);
    RETURN state;
END $$;
SELECT esrs_register_aggregate('command_atomic', handle_command => 'counter_atomic(jsonb,jsonb)',
                               apply_event => 'counter_apply(jsonb,jsonb)');
SELECT esrs_register_aggregate('command_set', handle_command => 'counter_set(jsonb,jsonb)',
                               apply_event => 'counter_apply(jsonb,jsonb)');
SELECT esrs_register_aggregate('command_plpgsql', handle_command => 'counter_plpgsql(jsonb,jsonb)',
                               apply_event => 'counter_apply_plpgsql(jsonb,jsonb)');
SELECT name, r.ok, r.sequence_number, r.state,
       (SELECT jsonb_agg(e.payload ORDER BY e.sequence_number) FROM unnest(r.events) AS e) AS events, r.error
  FROM unnest('{command_atomic,command_set,command_plpgsql}'::text[]) AS name,
       unnest('{"{\"Add\": 3}","{\"Add\": 0}","\"Stop\"","{\"Add\": 1}"}'::jsonb[]) WITH ORDINALITY AS c(command, n),
       esrs_try_command(name, :a, c.command) AS r
 ORDER BY name, c.n;
-- the rejection of a pure SQL function as an error
SELECT esrs_handle_command('command_atomic', :a, '"Stop"');
\echo :SQLSTATE
SELECT esrs_handle_command('command_set', :a, '"Stop"');
\echo :SQLSTATE
-- and outside a command it is the same error; its message is required
SELECT esrs_reject('name', 'message');
\echo :SQLSTATE
SELECT esrs_reject(NULL, 'message', NULL, NULL);
\echo :SQLSTATE
SELECT esrs_reject('name', NULL);
\echo :SQLSTATE

--
-- expected_sequence
--
SELECT sequence_number FROM esrs_load('command_account', :c);
SELECT esrs_handle_command('command_account', :c, '{"Deposit": {"amount": 1}}', 2);
SELECT esrs_handle_command('command_account', :c, '{"Deposit": {"amount": 1}}', expected_sequence => 2);
\echo :SQLSTATE
SELECT esrs_handle_command('command_account', :c, '{"Deposit": {"amount": 1}}', expected_sequence => 4);
\echo :SQLSTATE
-- 0: must not exist yet
SELECT esrs_handle_command('command_account', :c, '{"Deposit": {"amount": 1}}', expected_sequence => 0);
\echo :SQLSTATE
SELECT esrs_handle_command('command_account', 'c0000000-0000-4000-8000-0000000000f0',
                           '{"Deposit": {"amount": 1}}', expected_sequence => 0);
SELECT esrs_handle_command('command_account', 'c0000000-0000-4000-8000-0000000000f1',
                           '{"Deposit": {"amount": 1}}', expected_sequence => 1);
\echo :SQLSTATE
SELECT esrs_handle_command('command_account', :c, '{"Deposit": {"amount": 1}}', expected_sequence => -1);
\echo :SQLSTATE
-- it is judged before the command, and it is no rejection
SELECT ok FROM esrs_try_command('command_account', :c, '"Raise"', expected_sequence => 7);
\echo :SQLSTATE
-- it is judged for a command without events too
SELECT esrs_handle_command('command_account', :c, '"Nothing"', expected_sequence => 7);
\echo :SQLSTATE
SELECT sequence_number, state FROM esrs_load('command_account', :c);

--
-- command_id: the same command again changes nothing and returns the state as
-- it was after it
--
SELECT esrs_handle_command('command_account', :c, '{"Deposit": {"amount": 100}}', command_id => :k1);
SELECT esrs_handle_command('command_account', :c, '{"Deposit": {"amount": 100}}', command_id => :k1);
-- also when its text differs
SELECT esrs_handle_command('command_account', :c, '{  "Deposit" : {"amount":100} }', command_id => :k1);
SELECT count(*) FROM command_account_events WHERE aggregate_id = :c;
-- and after further commands
SELECT esrs_handle_command('command_account', :c, '{"Deposit": {"amount": 1000}}');
SELECT ok, sequence_number, state, array_length(events, 1) AS events, events[1].payload, error
  FROM esrs_try_command('command_account', :c, '{"Deposit": {"amount": 100}}', command_id => :k1);
-- it is judged before expected_sequence: a retry comes with the old one
SELECT esrs_handle_command('command_account', :c, '{"Deposit": {"amount": 100}}', expected_sequence => 3, command_id => :k1);
SELECT sequence_number, state FROM esrs_load('command_account', :c);
-- another command
SELECT esrs_handle_command('command_account', :c, '{"Deposit": {"amount": 101}}', command_id => :k1);
\echo :SQLSTATE
SELECT ok FROM esrs_try_command('command_account', :c, '"Close"', command_id => :k1);
\echo :SQLSTATE
-- another instance, or another aggregate, knows nothing of it
SELECT esrs_handle_command('command_account', :d, '{"Deposit": {"amount": 101}}', command_id => :k1);
SELECT esrs_handle_command('command_atomic', :c, '{"Add": 1}', command_id => :k1);
-- a command without events is remembered
SELECT esrs_handle_command('command_account', :d, '"Nothing"', command_id => :k2);
SELECT esrs_handle_command('command_account', :d, '{"Deposit": {"amount": 1}}');
SELECT ok, sequence_number, state, events FROM esrs_try_command('command_account', :d, '"Nothing"', command_id => :k2);
SELECT esrs_handle_command('command_account', :d, '"Close"', command_id => :k2);
\echo :SQLSTATE
-- ... also of an instance that has none
SELECT esrs_handle_command('command_account', 'c0000000-0000-4000-8000-0000000000f2', '"Nothing"', command_id => :k2);
SELECT esrs_handle_command('command_account', 'c0000000-0000-4000-8000-0000000000f2', '{"Deposit": {"amount": 1}}');
SELECT esrs_handle_command('command_account', 'c0000000-0000-4000-8000-0000000000f2', '"Nothing"', command_id => :k2);
-- a rejected command is not: it may be accepted later
SELECT ok FROM esrs_try_command('command_account', :d, '{"Withdraw": {"amount": 500}}', command_id => :k3);
SELECT esrs_handle_command('command_account', :d, '{"Deposit": {"amount": 500}}');
SELECT ok, sequence_number FROM esrs_try_command('command_account', :d, '{"Withdraw": {"amount": 500}}', command_id => :k3);
-- what a savepoint takes back is forgotten
BEGIN;
SAVEPOINT s;
SELECT esrs_handle_command('command_account', :d, '{"Deposit": {"amount": 3}}',
                           command_id => 'd0000000-0000-4000-8000-000000000004');
ROLLBACK TO s;
SELECT esrs_handle_command('command_account', :d, '{"Deposit": {"amount": 4}}',
                           command_id => 'd0000000-0000-4000-8000-000000000004');
COMMIT;
SELECT payload FROM command_account_events
 WHERE metadata ->> 'command_id' = 'd0000000-0000-4000-8000-000000000004';
-- the same within one transaction
BEGIN;
SELECT esrs_handle_command('command_account', :d, '{"Deposit": {"amount": 5}}',
                           command_id => 'd0000000-0000-4000-8000-000000000005');
SELECT esrs_handle_command('command_account', :d, '{"Deposit": {"amount": 5}}',
                           command_id => 'd0000000-0000-4000-8000-000000000005');
COMMIT;
SELECT count(*) FROM command_account_events
 WHERE metadata ->> 'command_id' = 'd0000000-0000-4000-8000-000000000005';
-- what is kept of a command: no payload
SELECT aggregate_id, aggregate, command_id, length(sha256) AS sha256, sequence_number
  FROM esrs.commands WHERE aggregate LIKE 'command\_%' ORDER BY 1, 2, 3;

--
-- metadata: stored with each event; command_id is added
--
SELECT esrs_handle_command('command_account', 'c0000000-0000-4000-8000-0000000000f3', '{"Split": [1, 2]}',
    metadata => '{"actor": "alice", "correlation_id": "x", "nested": {"n": 1.10}}');
SELECT esrs_handle_command('command_account', 'c0000000-0000-4000-8000-0000000000f3', '{"Deposit": {"amount": 1}}',
    metadata => '{"actor": "bob", "command_id": "of the caller"}', command_id => :k1);
SELECT esrs_handle_command('command_account', 'c0000000-0000-4000-8000-0000000000f3', '{"Deposit": {"amount": 1}}',
    command_id => :k2);
SELECT esrs_handle_command('command_account', 'c0000000-0000-4000-8000-0000000000f3', '{"Deposit": {"amount": 1}}',
    metadata => '{}');
SELECT sequence_number, metadata FROM command_account_events
 WHERE aggregate_id = 'c0000000-0000-4000-8000-0000000000f3' ORDER BY 1;
-- it is no part of the command: a repetition may differ
SELECT sequence_number, events[1].metadata FROM esrs_try_command('command_account',
    'c0000000-0000-4000-8000-0000000000f3', '{"Deposit": {"amount": 1}}', metadata => '{"try": 2}', command_id => :k2);
-- an object only
SELECT esrs_handle_command('command_account', :d, '"Nothing"', metadata => '[]');
\echo :SQLSTATE
SELECT esrs_handle_command('command_account', :d, '"Nothing"', metadata => '"text"');
\echo :SQLSTATE
SELECT esrs_handle_command('command_account', :d, '"Nothing"', metadata => 'null');
\echo :SQLSTATE

--
-- occurred_on: one value a command, from the clock, never before the previous
-- event's
--
BEGIN;
SELECT esrs_handle_command('command_account', 'c0000000-0000-4000-8000-0000000000f4', '{"Split": [1, 2]}');
SELECT pg_sleep(0.001) IS NULL AS waited;
SELECT esrs_handle_command('command_account', 'c0000000-0000-4000-8000-0000000000f4', '{"Split": [3, 4]}');
COMMIT;
SELECT count(DISTINCT occurred_on) AS times,
       min(occurred_on) > now() - interval '1 minute' AND max(occurred_on) <= clock_timestamp() AS of_the_clock
  FROM command_account_events WHERE aggregate_id = 'c0000000-0000-4000-8000-0000000000f4';
SELECT bool_and(later) AS ordered FROM (
    SELECT occurred_on >= lag(occurred_on) OVER (ORDER BY sequence_number) AS later
      FROM command_account_events WHERE aggregate_id = 'c0000000-0000-4000-8000-0000000000f4') AS x;
-- a clock that was ahead: the next event is not before it, and not after
INSERT INTO command_account_events (id, aggregate_id, payload, occurred_on, sequence_number)
VALUES ('e0000000-0000-4000-8000-000000000001', 'c0000000-0000-4000-8000-0000000000f5',
        '{"Deposited": {"amount": 1}}', '2999-01-01 00:00:00+00', 1);
SELECT esrs_handle_command('command_account', 'c0000000-0000-4000-8000-0000000000f5', '{"Deposit": {"amount": 1}}');
SELECT sequence_number, occurred_on AT TIME ZONE 'UTC' AS occurred_on FROM command_account_events
 WHERE aggregate_id = 'c0000000-0000-4000-8000-0000000000f5' ORDER BY 1;

-- ids of events: version 7 by default, version 4 on request
SELECT count(DISTINCT id) = count(*) AS different, array_agg(DISTINCT substr(id::text, 15, 1)) AS versions
  FROM command_set_events;
SELECT esrs_alter_aggregate('command_set', '{"event_id_format": "v4"}');
SELECT esrs_handle_command('command_set', :b, '{"Add": 2}');
SELECT array_agg(DISTINCT substr(id::text, 15, 1)) AS versions FROM command_set_events WHERE aggregate_id = :b;

--
-- Everything stored is numbered 1..n, and the state is the fold.
--
SELECT count(*) FILTER (WHERE max <> count OR min <> 1) AS badly_numbered, count(*) AS instances
  FROM (SELECT max(sequence_number), min(sequence_number), count(*) FROM command_account_events GROUP BY aggregate_id) AS x;
SELECT count(*) FILTER (WHERE (l.state ->> 'balance')::numeric IS DISTINCT FROM x.balance) AS badly_folded
  FROM (SELECT aggregate_id, sum(coalesce((payload #>> '{Deposited,amount}')::numeric, 0)
                               - coalesce((payload #>> '{Withdrawn,amount}')::numeric, 0)) AS balance
          FROM command_account_events GROUP BY aggregate_id) AS x,
       esrs_load('command_account', x.aggregate_id) AS l;

SELECT esrs_unregister_aggregate(name, drop_events => true)
  FROM unnest('{command_account,command_atomic,command_set,command_plpgsql}'::text[]) AS name;
DROP SCHEMA esrs_command CASCADE;
