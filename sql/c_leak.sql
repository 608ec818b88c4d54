--
-- What callbacks forget is released: over 10,000 calls of each kind, neither
-- what malloc() has handed out nor the memory contexts of the backend grow.
--
-- Catches: json-c objects that an error, a rejection or a forgetful callback
-- leaves behind (plain json-c loses 17 kB a call here), and contexts or
-- functions that esrs itself does not release.
--
\set SHOW_CONTEXT never
\getenv abs_srcdir PG_ABS_SRCDIR
\set testlib :abs_srcdir '/testlib/esrs_testlib'
CREATE SCHEMA c_leak;
SET search_path = c_leak, public;
CREATE FUNCTION malloc_in_use() RETURNS bigint AS :'testlib', 'testlib_malloc_in_use' LANGUAGE C;
CREATE FUNCTION leaky(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_leaky' LANGUAGE C;
SELECT esrs_register_aggregate('c_leak', handler => 'leaky(internal)');
CREATE FUNCTION sql_decide(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE plpgsql AS $$
BEGIN
    CASE command->>'mode'
        WHEN 'fail' THEN RAISE division_by_zero;
        WHEN 'reject' THEN PERFORM esrs_reject('as_asked', 'rejected as asked', '{"a": 1}');
        ELSE RETURN '{}';
    END CASE;
END
$$;
CREATE FUNCTION sql_apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT state || event';
SELECT esrs_register_aggregate('c_leak_sql', handle_command => 'sql_decide(jsonb,jsonb)', apply_event => 'sql_apply(jsonb,jsonb)');

-- each does what it says
\set a '00000000-0000-0000-0000-00000000000a'
SELECT esrs_handle_command('c_leak', :'a', '{"mode": "fail"}');
SELECT ok, error->'detail' AS detail FROM esrs_try_command('c_leak', :'a', '{"mode": "reject"}');
SELECT esrs_handle_command('c_leak', :'a', '{"mode": "forget"}');
SELECT esrs_handle_command('c_leak', :'a', '{"mode": "emit"}');
SELECT esrs_handle_command('c_leak', :'a', '{"mode": "apply"}');
\set VERBOSITY terse
SELECT esrs_handle_command('c_leak', :'a', '{"mode": "cancel"}');
\echo :LAST_ERROR_SQLSTATE
SELECT esrs_handle_command('c_leak', :'a', '{"mode": "palloc"}');
\echo :LAST_ERROR_SQLSTATE
SELECT esrs_handle_command('c_leak', :'a', '{"mode": "malloc"}');
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY default
SELECT count(*) FROM c_leak_events;

CREATE TYPE used AS (malloc bigint, contexts bigint);
CREATE FUNCTION in_use() RETURNS used LANGUAGE sql AS
    'SELECT malloc_in_use(), sum(total_bytes)::bigint FROM pg_backend_memory_contexts';
CREATE FUNCTION growth(used used[]) RETURNS text LANGUAGE sql AS $$
    SELECT format('malloc %s, contexts %s',
                  CASE WHEN m < 65536 THEN 'does not grow' ELSE 'GREW BY ' || m END,
                  CASE WHEN c < 65536 THEN 'do not grow' ELSE 'GREW BY ' || c END)
      FROM (SELECT used[2].malloc - used[1].malloc, used[2].contexts - used[1].contexts) AS _ (m, c)
$$;

-- Calls through a function, with an instance of its own for each, and tells
-- what has grown since the first 500 calls.
CREATE PROCEDURE hammer(aggregate text, function text, mode text, n int) LANGUAGE plpgsql AS $$
DECLARE
    command jsonb := jsonb_build_object('mode', mode);
    calls text := format('SELECT %I($1, gen_random_uuid(), $2)', function);
    used used[]; raised int := 0;
BEGIN
    FOR i IN 1..n LOOP
        BEGIN
            EXECUTE calls USING aggregate, command;
        EXCEPTION WHEN division_by_zero OR query_canceled OR out_of_memory OR SQLSTATE 'ZE001' THEN
            raised := raised + 1;
        END;
        IF i % 500 = 0 THEN
            COMMIT;
        END IF;
        -- one statement for both, so that it costs the same twice
        IF i IN (500, n) THEN
            used := used || in_use();
        END IF;
    END LOOP;
    RAISE NOTICE '% of % raised; %', raised, n, growth(used);
END
$$;

-- Once for the caches: plans, and tables that grow with the locks of a transaction.
SET client_min_messages = warning;
CALL hammer('c_leak', 'esrs_handle_command', 'emit', 1000);
CALL hammer('c_leak', 'esrs_try_command', 'reject', 1000);
CALL hammer('c_leak_sql', 'esrs_try_command', 'reject', 1000);
RESET client_min_messages;
CALL hammer('c_leak', 'esrs_handle_command', 'fail', 10000);
CALL hammer('c_leak', 'esrs_try_command', 'fail', 10000);
CALL hammer('c_leak', 'esrs_handle_command', 'reject', 10000);
CALL hammer('c_leak', 'esrs_try_command', 'reject', 10000);
CALL hammer('c_leak', 'esrs_handle_command', 'forget', 10000);
CALL hammer('c_leak', 'esrs_try_command', 'forget', 10000);
CALL hammer('c_leak', 'esrs_handle_command', 'cancel', 10000);
CALL hammer('c_leak', 'esrs_try_command', 'cancel', 10000);
SET client_min_messages = warning;
CALL hammer('c_leak', 'esrs_handle_command', 'malloc', 1000);
RESET client_min_messages;
CALL hammer('c_leak', 'esrs_handle_command', 'malloc', 10000);
CALL hammer('c_leak', 'esrs_handle_command', 'emit', 2000);
CALL hammer('c_leak', 'esrs_handle_command', 'apply', 2000);
CALL hammer('c_leak_sql', 'esrs_handle_command', 'fail', 2000);
CALL hammer('c_leak_sql', 'esrs_try_command', 'reject', 2000);
CALL hammer('c_leak_sql', 'esrs_try_command', 'forget', 2000);
SELECT count(*) FROM c_leak_events;

-- and within one transaction, without savepoints: nothing but its end cleans up
CREATE FUNCTION in_one_transaction(n int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    used used[]; id uuid;
BEGIN
    FOR i IN 1..n LOOP
        -- few instances: each costs the transaction a lock
        id := lpad((i % 10)::text, 32, '0');
        PERFORM * FROM esrs_try_command('c_leak', id, '{"mode": "reject"}');
        PERFORM esrs_handle_command('c_leak', id, '{"mode": "forget"}');
        IF i IN (500, n) THEN
            used := used || in_use();
        END IF;
    END LOOP;
    RAISE NOTICE '% in one transaction; %', n, growth(used);
END
$$;
SET client_min_messages = warning;
SELECT in_one_transaction(1000);
RESET client_min_messages;
SELECT in_one_transaction(10000);

SET client_min_messages = warning;
SELECT esrs_unregister_aggregate('c_leak', true);
SELECT esrs_unregister_aggregate('c_leak_sql', true);
DROP SCHEMA c_leak CASCADE;
