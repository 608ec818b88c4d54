--
-- Callbacks in C that do what they must not do, or what only looks so.
--
-- Catches: an answer that is none and is stored all the same, a reference
-- released twice (the sanitized run sees it at once), an error that takes more
-- with it than the command, a guarded setting changed behind the caller's back,
-- and a loop that cannot be cancelled.
--
\set SHOW_CONTEXT never
\getenv abs_srcdir PG_ABS_SRCDIR
\set testlib :abs_srcdir '/testlib/esrs_testlib'
CREATE SCHEMA c_misbehave;
SET search_path = c_misbehave, public;
CREATE FUNCTION misbehave(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_misbehave' LANGUAGE C;
CREATE FUNCTION null_init(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_null_init' LANGUAGE C;
CREATE FUNCTION null_to_json(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_null_to_json' LANGUAGE C;
CREATE FUNCTION null_from_event(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_null_from_event' LANGUAGE C;
CREATE FUNCTION number_from_event(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_number_from_event' LANGUAGE C;
SET client_min_messages = warning;
SELECT esrs_register_aggregate('c_misbehave', handler => 'misbehave(internal)');
SELECT esrs_register_aggregate('c_null_init', handler => 'null_init(internal)');
SELECT esrs_register_aggregate('c_null_to_json', handler => 'null_to_json(internal)');
SELECT esrs_register_aggregate('c_null_from_event', handler => 'null_from_event(internal)');
SELECT esrs_register_aggregate('c_number_from_event', handler => 'number_from_event(internal)');
RESET client_min_messages;
\set a '00000000-0000-0000-0000-00000000000a'
\set b '00000000-0000-0000-0000-00000000000b'

-- Has the deed done, in a savepoint and after other work of the transaction;
-- tells the outcome, and what it has stored.
CREATE FUNCTION deed(command jsonb, aggregate text = 'c_misbehave') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    this uuid := gen_random_uuid();
    message text; detail text; hint text; name text; outcome text;
    result esrs_result;
    stored jsonb; n int;
BEGIN
    BEGIN
        SELECT * INTO result FROM esrs_try_command(aggregate, this, command);
        outcome := CASE WHEN result.ok THEN 'ok' ELSE format('rejected %s', result.error - '{sqlstate,hint}'::text[]) END;
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
        outcome := format('%s: %s', SQLSTATE, message);
    END;
    EXECUTE format('SELECT jsonb_agg(payload ORDER BY sequence_number), count(*) FROM %I WHERE aggregate_id = $1',
                   aggregate || '_events') INTO stored, n USING this;
    RETURN outcome || CASE WHEN n = 0 THEN '' ELSE format(' -> %s', left(stored::text, 100)) END;
END
$$;

--
-- Answers that are none
--
SELECT d AS deed, deed(to_jsonb(d))
  FROM unnest(ARRAY['false_without_rejection', 'true_after_rejection', 'detail_before_rejection',
                    'rejects_after_emitting', 'rejects_twice', 'raises', 'raises_rejection',
                    'emits_null', 'emits_number', 'emits_array', 'emits_boolean', 'unheard_of']) d;
-- the whole error once, with its HINT
SELECT esrs_handle_command('c_misbehave', :'a', '"false_without_rejection"');
SELECT esrs_handle_command('c_misbehave', :'a', '"detail_before_rejection"');
-- a message of any length and in any bytes is text when it arrives
SELECT ok, octet_length(error->>'message') BETWEEN 500 AND 4001 AS length_ok,
       error->>'message' LIKE '.é%é%' AS text_ok
  FROM esrs_try_command('c_misbehave', :'a', '"rejects_at_length"');
DO $$
BEGIN
    PERFORM esrs_handle_command('c_misbehave', '00000000-0000-0000-0000-00000000000a', '"rejects_at_length"');
EXCEPTION WHEN SQLSTATE 'ZE001' THEN
    RAISE NOTICE '%', SQLERRM LIKE '.é%é%';
END
$$;
SELECT d AS deed, left(deed(to_jsonb(d)), 60) AS outcome
  FROM unnest(ARRAY['rejects_in_latin1', 'rejects_with_latin1_name', 'rejects_with_latin1_detail']) d;

--
-- Other callbacks that return nothing or nonsense
--
SELECT a AS aggregate, deed('"Event"', 'c_' || a)
  FROM unnest(ARRAY['null_init', 'null_to_json', 'null_from_event', 'number_from_event']) a;
SELECT t AS type, deed(jsonb_build_object('emits_type', t))
  FROM unnest(ARRAY['ReturnsNull', 'Raises', 'NotANumber', 'Emits', 'Rejects', 'Fine']) t;
-- an event that apply_event cannot take, stored without it: the instance
-- cannot be used, others can, and it can be seen up to there
SELECT sequence_number FROM esrs_persist('c_misbehave', :'b', ARRAY['"Fine"', '"Raises"', '"Fine"']::jsonb[]);
\set SHOW_CONTEXT always
\set VERBOSITY terse
SELECT esrs_load('c_misbehave', :'b');
SELECT esrs_handle_command('c_misbehave', :'b', '{"emits_type": "Fine"}');
\set VERBOSITY default
\set SHOW_CONTEXT never
SELECT * FROM esrs_load('c_misbehave', :'b', at_sequence => 1);
SELECT deed('{"emits_type": "Fine"}');

--
-- json-c: ownership is looked after
--
SELECT d AS deed, deed(to_jsonb(d))
  FROM unnest(ARRAY['attaches_twice', 'emits_twice', 'replaces_child', 'puts_what_is_attached', 'gets_its_own',
                    'puts_and_forgets', 'keeps_and_raises', 'attaches_to_itself', 'makes_a_ring']) d;
SELECT deed('{"puts_what_is_lent": {"k": ["v", 1.10]}}');
SELECT deed('{"sets_by_path": [1.10]}');
-- deep trees
SELECT depth, deed(jsonb_build_object('nests', depth)) LIKE 'ok%' AS stored,
       split_part(deed(jsonb_build_object('nests', depth)), ' ->', 1) AS outcome
  FROM unnest(ARRAY[99, 100, 101, 10000]) depth;
-- once more in a row: what was released twice would show by now
SELECT count(*), count(DISTINCT deed(to_jsonb(d)))
  FROM unnest(ARRAY['attaches_twice', 'emits_twice', 'replaces_child', 'puts_what_is_attached', 'gets_its_own',
                    'puts_and_forgets', 'keeps_and_raises']) d, generate_series(1, 50);

--
-- Many events
--
SELECT esrs_handle_command('c_misbehave', '00000000-0000-0000-0000-00000000000c', '{"emits_many": 10000}');
SELECT esrs_handle_command('c_misbehave', '00000000-0000-0000-0000-00000000000c', '{"emits_many": 0}');
SELECT count(*), count(DISTINCT sequence_number), max(sequence_number), bool_and(payload = jsonb_build_object('i', sequence_number - 1)) AS in_order
  FROM c_misbehave_events WHERE aggregate_id = '00000000-0000-0000-0000-00000000000c';

--
-- Settings that decide about rights, durability or visibility are guarded;
-- others are the callback's business
--
CREATE ROLE regress_esrs_c_misbehave;
SELECT s->>'name' AS setting, deed(jsonb_build_object('changes_setting', s))
  FROM unnest(ARRAY['{"name": "search_path", "value": "pg_temp"}',
                    '{"name": "synchronous_commit", "value": "off"}',
                    '{"name": "session_replication_role", "value": "replica"}',
                    '{"name": "row_security", "value": "off"}',
                    '{"name": "transaction_read_only", "value": "on"}',
                    '{"name": "role", "value": "regress_esrs_c_misbehave"}',
                    '{"name": "work_mem", "value": "128kB"}']::jsonb[]) s;
SELECT current_user = session_user AS same_user, current_setting('search_path'), current_setting('synchronous_commit'),
       current_setting('session_replication_role') AS replication_role, current_setting('row_security') AS row_security,
       current_setting('transaction_read_only') AS read_only, current_setting('work_mem');
RESET work_mem;
SELECT esrs_handle_command('c_misbehave', :'a', '{"changes_setting": {"name": "synchronous_commit", "value": "off"}}');
SHOW synchronous_commit;
DROP ROLE regress_esrs_c_misbehave;

--
-- A loop that checks for interrupts ends with a timeout; a recursion that
-- checks the stack ends by itself; the session goes on
--
SET statement_timeout = '50ms';
SELECT esrs_handle_command('c_misbehave', :'a', '"loops"');
RESET statement_timeout;
\set VERBOSITY terse
SELECT esrs_handle_command('c_misbehave', :'a', '"recurses"');
\set VERBOSITY default
SELECT esrs_handle_command('c_misbehave', :'a', '"switches_context"');
-- interrupts that are held are let go
SELECT esrs_handle_command('c_misbehave', :'a', '"holds_interrupts"');
SET statement_timeout = '50ms';
SELECT pg_sleep(1);
RESET statement_timeout;
-- an SPI connection that is left open would be taken for another one
SELECT esrs_handle_command('c_misbehave', :'a', '"forgets_spi_finish"');
DO $$ BEGIN
    PERFORM esrs_handle_command('c_misbehave', '00000000-0000-0000-0000-00000000000a', '"forgets_spi_finish"');
EXCEPTION WHEN SQLSTATE 'ZE005' THEN
    RAISE NOTICE '% (% rows)', SQLERRM, (SELECT count(*) FROM generate_series(1, 3));
END $$;

--
-- What aggregate callbacks must not do and cannot be kept from
--
-- a command on the very instance, or one that would wait for it, is refused
SELECT esrs_handle_command('c_misbehave', :'a', $$ {"runs": "SELECT esrs_handle_command('c_misbehave', '00000000-0000-0000-0000-00000000000a', '\"raises\"')"} $$);
SELECT esrs_handle_command('c_misbehave', :'a', $$ {"runs": "SELECT esrs_delete('c_misbehave', '00000000-0000-0000-0000-00000000000a')"} $$);
SELECT esrs_handle_command('c_misbehave', :'a', $$ {"runs": "SELECT esrs_persist('c_misbehave', '00000000-0000-0000-0000-00000000000a', '{}')"} $$);
-- another one works, and stays an error of its own
SELECT esrs_handle_command('c_misbehave', :'a', $$ {"runs": "SELECT esrs_handle_command('c_misbehave', '00000000-0000-0000-0000-00000000000d', '{\"emits_type\": \"Inner\"}')"} $$);
SELECT esrs_handle_command('c_misbehave', :'a', $$ {"runs": "SELECT esrs_handle_command('c_misbehave', '00000000-0000-0000-0000-00000000000d', '\"raises\"')"} $$);
SELECT esrs_handle_command('c_misbehave', :'a', '{"runs": "COMMIT"}');
SELECT count(*) FROM c_misbehave_events WHERE aggregate_id = '00000000-0000-0000-0000-00000000000d';

--
-- The transaction's other work survives the rollback to a savepoint, and the
-- instance goes on with the next number
--
CREATE TABLE other_work (n int);
BEGIN;
INSERT INTO other_work VALUES (1);
SELECT esrs_handle_command('c_misbehave', '00000000-0000-0000-0000-00000000000e', '{"emits_type": "First"}');
SAVEPOINT s;
SELECT esrs_handle_command('c_misbehave', '00000000-0000-0000-0000-00000000000e', '{"emits_type": "ReturnsNull"}');
ROLLBACK TO s;
SELECT esrs_handle_command('c_misbehave', '00000000-0000-0000-0000-00000000000e', '"keeps_and_raises"');
ROLLBACK TO s;
SELECT esrs_handle_command('c_misbehave', '00000000-0000-0000-0000-00000000000e', '{"emits_type": "Second"}');
INSERT INTO other_work VALUES (2);
COMMIT;
SELECT * FROM other_work;
SELECT sequence_number, payload FROM c_misbehave_events WHERE aggregate_id = '00000000-0000-0000-0000-00000000000e' ORDER BY 1;

SET client_min_messages = warning;
SELECT esrs_unregister_aggregate(a, true)
  FROM unnest(ARRAY['c_misbehave', 'c_null_init', 'c_null_to_json', 'c_null_from_event', 'c_number_from_event']) a;
DROP SCHEMA c_misbehave CASCADE;
