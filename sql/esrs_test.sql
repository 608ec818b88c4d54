--
-- esrs_test: given/when/then, one TAP line each.
--
-- Catches: a test that passes although the events or the rejection differ, one
-- that leaves traces, and lines that a TAP reader does not understand.
--
\set SHOW_CONTEXT never
\getenv abs_srcdir PG_ABS_SRCDIR
\set testlib :abs_srcdir '/testlib/esrs_testlib'
SET client_min_messages = warning;
CREATE SCHEMA esrs_esrs_test;
SET search_path = esrs_esrs_test, public;
\pset format unaligned
\pset tuples_only on

CREATE TABLE trace (what text);
CREATE FUNCTION handle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO trace VALUES ('called');
    IF command = '"Close"' THEN
        RETURN ARRAY['"Closed"'::jsonb];
    ELSIF command = '"Nothing"' THEN
        RETURN '{}';
    ELSIF command = '"Raise"' THEN
        RAISE division_by_zero;
    ELSIF (command -> 'Buy' ->> 'n')::int > (state ->> 'leftover')::int THEN
        PERFORM esrs_reject('not_enough', 'not enough copies left', '{"leftover": 0}');
    ELSIF command ? 'Refuse' THEN
        PERFORM esrs_reject(NULL, command ->> 'Refuse');
    END IF;
    RETURN ARRAY[jsonb_build_object('Bought', command -> 'Buy'), '"Seen"'];
END $$;
CREATE FUNCTION apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql AS
    $$SELECT jsonb_set(state, '{leftover}', to_jsonb((state ->> 'leftover')::int - coalesce((event -> 'Bought' ->> 'n')::int, 0)))$$;
SELECT esrs_register_aggregate('esrs_test_book', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)',
                               initial_state => '{"leftover": 10}');

-- events, exactly and in order
SELECT esrs_test('esrs_test_book', '{}', '{"Buy": {"n": 3}}', ARRAY['{"Bought": {"n": 3}}', '"Seen"']::jsonb[]);
SELECT esrs_test('esrs_test_book', '{}', '{"Buy": {"n": 3}}', ARRAY['"Seen"', '{"Bought": {"n": 3}}']::jsonb[]);
SELECT esrs_test('esrs_test_book', '{}', '{"Buy": {"n": 3}}', ARRAY['{"Bought": {"n": 3}}']::jsonb[]);
SELECT esrs_test('esrs_test_book', '{}', '{"Buy": {"n": 3}}', ARRAY['{"Bought": {"n": 4}}', '"Seen"']::jsonb[]);
SELECT esrs_test('esrs_test_book', '{}', '{"Buy": {"n": 3}}', '{}');
-- equal as JSON
SELECT esrs_test('esrs_test_book', '{}', '{"Buy": {"n": 3, "a": 1}}', ARRAY['{ "Bought": {"a": 1.0, "n":3} }', '"Seen"']::jsonb[]);
-- none
SELECT esrs_test('esrs_test_book', '{}', '"Nothing"', '{}');
SELECT esrs_test('esrs_test_book', '{}', '"Close"', '{"\"Closed\""}');
-- any
SELECT esrs_test('esrs_test_book', '{}', '{"Buy": {"n": 3}}');
SELECT esrs_test('esrs_test_book', '{}', '{"Buy": {"n": 11}}');
-- given events are folded, in order
SELECT esrs_test('esrs_test_book', '{"{\"Bought\": {\"n\": 8}}"}', '{"Buy": {"n": 2}}');
SELECT esrs_test('esrs_test_book', '{"{\"Bought\": {\"n\": 8}}","\"Seen\""}', '{"Buy": {"n": 3}}', then_error => 'not_enough');
SELECT esrs_test('esrs_test_book', NULL, '{"Buy": {"n": 10}}');
-- a rejection, by name or by message
SELECT esrs_test('esrs_test_book', '{}', '{"Buy": {"n": 11}}', then_error => 'not_enough');
SELECT esrs_test('esrs_test_book', '{}', '{"Buy": {"n": 11}}', then_error => 'not enough copies left');
SELECT esrs_test('esrs_test_book', '{}', '{"Buy": {"n": 11}}', then_error => 'another');
SELECT esrs_test('esrs_test_book', '{}', '{"Buy": {"n": 1}}', then_error => 'not_enough');
SELECT esrs_test('esrs_test_book', '{}', '{"Refuse": "so"}', then_error => 'so');
-- what TAP would misread: newlines, and # before TODO and SKIP
SELECT esrs_test('esrs_test_book', '{}', jsonb_build_object('Refuse', E'a\nnot ok # TODO b'), then_error => E'a\nnot ok # TODO b');
SELECT esrs_test('esrs_test_book', '{}', jsonb_build_object('Refuse', E'a\nok # SKIP b'), '{}');
SELECT esrs_test('esrs_test_book', '{}', jsonb_build_object(E'Bu\ny # TODO', 1), '{}');
-- technical faults are errors, not results
SELECT esrs_test('esrs_test_book', '{}', '"Raise"', then_error => 'division_by_zero');
\echo :SQLSTATE
SELECT esrs_test('esrs_test_book', '{"{\"Bought\": {\"n\": \"x\"}}"}', '{"Buy": {"n": 1}}');
\echo :SQLSTATE
-- no traces, also none of a function that writes
SELECT (SELECT count(*) FROM trace), (SELECT count(*) FROM esrs_test_book_events);

-- of many events and by many tests, too; each is one line
SELECT count(*), count(DISTINCT line), min(line) FROM generate_series(1, 200) AS n,
       LATERAL (SELECT esrs_test('esrs_test_book', array_fill('{"Bought": {"n": 0}}'::jsonb, ARRAY[100]), '{"Buy": {"n": 10}}') AS line OFFSET n * 0) AS t;

-- an aggregate in C: with a state of its own, and with one that is JSON
CREATE FUNCTION counter(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_counter' LANGUAGE C;
CREATE FUNCTION letters(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_letters_json_schema' LANGUAGE C;
SELECT esrs_register_aggregate('esrs_test_c', handler => 'counter(internal)');
SELECT esrs_register_aggregate('esrs_test_c_json', handler => 'letters(internal)');
SELECT esrs_test('esrs_test_c', '{}', '{"Add": {"by": 2}}', ARRAY['{"Added": {"by": 2}}']::jsonb[]);
SELECT esrs_test('esrs_test_c', '{}', '{"Add": {"by": 2}}', ARRAY['{"Added": {"by": 3}}']::jsonb[]);
SELECT esrs_test('esrs_test_c', '{}', '"Nothing"', '{}');
SELECT esrs_test('esrs_test_c', ARRAY['{"Added": {"by": 2}}', '{"Added": {"by": 3}}']::jsonb[], '{"Add": {"by": -5}}');
SELECT esrs_test('esrs_test_c', ARRAY['{"Added": {"by": 2}}', '{"Added": {"by": 3}}']::jsonb[], '{"Add": {"by": -6}}', then_error => 'below_zero');
SELECT esrs_test('esrs_test_c', '{}', '{"Add": {"by": -6}}', then_error => 'counter is at 0 and cannot change by -6');
SELECT esrs_test('esrs_test_c', '{}', '{"Add": {"by": -6}}', then_error => 'above');
SELECT esrs_test('esrs_test_c', '{}', '{"Add": {"by": -6}}', '{}');
SELECT esrs_test('esrs_test_c', '{}', '{"Add": {"by": 1}}', then_error => 'below_zero');
SELECT esrs_test('esrs_test_c', '{}', '{"Add": {"by": "s3cret"}}', '{}');
\echo :SQLSTATE
SELECT esrs_test('esrs_test_c_json', '{"\"A\""}', '{"emit": ["A", {"C": 1}]}', ARRAY['"A"', '{"C": 1}']::jsonb[]);
SELECT esrs_test('esrs_test_c_json', '{}', '{"emit": []}', '{}');
SELECT esrs_test('esrs_test_c_json', '{}', '{"emit": []}', '{"\"A\""}');
SELECT (SELECT count(*) FROM esrs_test_c_events), (SELECT count(*) FROM esrs_test_c_json_events);

-- events are those of today: what is given is neither upcast nor turned by to_event, nor is what comes turned by from_event
CREATE FUNCTION wrap(event jsonb) RETURNS jsonb RETURN jsonb_build_object('stored', event);
CREATE FUNCTION unwrap(payload jsonb) RETURNS jsonb RETURN payload -> 'stored';
CREATE FUNCTION upcast(payload jsonb, version int) RETURNS jsonb RETURN jsonb_build_object('stored', jsonb_build_object('Bought', '{"n": 9}'::jsonb));
SELECT esrs_register_aggregate('esrs_test_forms', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)', initial_state => '{"leftover": 10}',
                               upcast => 'upcast(jsonb,int)', from_event => 'wrap(jsonb)', to_event => 'unwrap(jsonb)', event_version => 1);
SELECT esrs_test('esrs_test_forms', '{"{\"Bought\": {\"n\": 7}}"}', '{"Buy": {"n": 3}}', ARRAY['{"Bought": {"n": 3}}', '"Seen"']::jsonb[]);
SELECT esrs_test('esrs_test_forms', '{"{\"Bought\": {\"n\": 7}}"}', '{"Buy": {"n": 4}}', then_error => 'not_enough');

-- bad arguments
SELECT esrs_test(NULL, '{}', '"Close"');
\echo :SQLSTATE
SELECT esrs_test('esrs_test_no_such', '{}', '"Close"');
\echo :SQLSTATE
SELECT esrs_test('esrs_test_book', '{}', NULL);
\echo :SQLSTATE
SELECT esrs_test('esrs_test_book', '{}', '[]');
\echo :SQLSTATE
SELECT esrs_test('esrs_test_book', '{NULL}', '"Close"');
\echo :SQLSTATE
SELECT esrs_test('esrs_test_book', '{}', '"Close"', '{NULL}');
\echo :SQLSTATE
SELECT esrs_test('esrs_test_book', '{}', '"Close"', '{}', 'error');
\echo :SQLSTATE
-- given and then are events: objects or strings
\set VERBOSITY sqlstate
SELECT esrs_test('esrs_test_book', '{1}', '"Close"');
SELECT esrs_test('esrs_test_book', '{}', '"Close"', '{"[]"}');
\set VERBOSITY default
SELECT esrs_register_aggregate('esrs_test_store');
SELECT esrs_test('esrs_test_store', '{}', '"Close"');
\echo :SQLSTATE

SELECT esrs_unregister_aggregate(name, drop_events => true) FROM unnest('{esrs_test_book,esrs_test_store,esrs_test_c,esrs_test_c_json,esrs_test_forms}'::text[]) AS name;
DROP SCHEMA esrs_esrs_test CASCADE;
