--
-- esrs_event_json: the message of an event, byte for byte as the Rust library
-- event_sourcing.rs writes it.
--
-- Catches: another order of members, white space, a fraction of a second with
-- too many or too few digits, the session's time zone or date style in the
-- message, escapes that serde does not write, and numbers that are not exact.
--
SET client_min_messages = warning;
CREATE SCHEMA esrs_event_json;
SET search_path = esrs_event_json, public;
\pset format unaligned
\pset tuples_only on

CREATE FUNCTION message(payload jsonb, occurred_on timestamptz DEFAULT '2026-11-23T09:47:00.123456Z',
                        sequence_number int DEFAULT 1, version int DEFAULT NULL) RETURNS text
RETURN esrs_event_json(('book', '0190A5D2-7C3E-7B1A-9F00-3A2B1C0D4E5F', '0b5e7c1e-0000-4000-8000-000000000001',
                        payload, occurred_on, sequence_number, version, 42, '{"meta": "data"}'));

-- the documented message
SELECT message('{"Bought": {"num_of_copies": 1}}');
SELECT message('{"Bought": {"num_of_copies": 1}}') =
    '{"id":"0190a5d2-7c3e-7b1a-9f00-3a2b1c0d4e5f","aggregate_id":"0b5e7c1e-0000-4000-8000-000000000001","payload":{"Bought":{"num_of_copies":1}},"occurred_on":"2026-11-23T09:47:00.123456Z","sequence_number":1,"version":null}'
    AS byte_for_byte;

-- version: null or a number, never absent
SELECT message('"Closed"', version => 3);
SELECT message('"Closed"', version => 0);
SELECT message('"Closed"', sequence_number => 2147483647, version => -2147483647);

-- times: 0, 3 or 6 digits of fraction, the shortest that is exact; UTC; and the
-- same by PostgreSQL's own means
CREATE FUNCTION written(t timestamptz) RETURNS text LANGUAGE sql AS
    $$SELECT message('""', t)::jsonb ->> 'occurred_on'$$;
CREATE FUNCTION oracle(t timestamptz) RETURNS text LANGUAGE sql AS $$
    SELECT to_char(t AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS' ||
        CASE WHEN extract(microseconds FROM t)::int % 1000000 = 0 THEN ''
             WHEN extract(microseconds FROM t)::int % 1000 = 0 THEN '.MS' ELSE '.US' END || '"Z"') $$;
CREATE TABLE vectors (given text, expected text);
INSERT INTO vectors VALUES
    ('2023-05-11 09:30:00+00', '2023-05-11T09:30:00Z'),
    ('2023-05-11 09:30:00.12+00', '2023-05-11T09:30:00.120Z'),
    ('2023-05-11 09:30:00.123456+00', '2023-05-11T09:30:00.123456Z'),
    ('2023-05-11 11:30:00.12345+02', '2023-05-11T09:30:00.123450Z'),
    ('0001-01-01 00:00:00+00', '0001-01-01T00:00:00Z'),
    ('2023-05-11 09:30:00.001+00', '2023-05-11T09:30:00.001Z'),
    ('2023-05-11 09:30:00.000001+00', '2023-05-11T09:30:00.000001Z'),
    ('2023-05-11 09:30:00.999999+00', '2023-05-11T09:30:00.999999Z'),
    ('2023-12-31 23:59:59.5+00', '2023-12-31T23:59:59.500Z'),
    ('2024-02-29 00:00:00+00', '2024-02-29T00:00:00Z'),
    ('1969-12-31 23:59:59.999+00', '1969-12-31T23:59:59.999Z'),
    ('1999-12-31 23:59:59.999999+00', '1999-12-31T23:59:59.999999Z'),
    ('9999-12-31 23:59:59.999999+00', '9999-12-31T23:59:59.999999Z');
SELECT given, written(given::timestamptz), written(given::timestamptz) = expected AS ok, oracle(given::timestamptz) = expected AS oracle FROM vectors;
-- years outside of 0 to 9999 with a sign: 1 BC is the year 0
SELECT written('10000-01-01 00:00:00+00'), written('294276-12-31 23:59:59.999999+00'),
       written('0001-12-31 23:59:59+00 BC'), written('0002-01-01 00:00:00+00 BC'), written('4713-11-24 00:00:00+00 BC');
-- what is no time
SELECT message('""', 'infinity');
SELECT message('""', '-infinity');
-- whatever the session's settings
BEGIN;
SET LOCAL TimeZone = 'Asia/Kathmandu';
SET LOCAL DateStyle = 'German, DMY';
SET LOCAL IntervalStyle = 'sql_standard';
SET LOCAL extra_float_digits = -15;
SET LOCAL bytea_output = 'escape';
SELECT count(*), bool_and(written(given::timestamptz) = expected) FROM vectors;
SELECT message('{"f": 0.1}');
ROLLBACK;

-- payloads: compact; escaped only what must be; / and what is not ASCII as they are
SELECT message('{"b": [1, 2.50, -0.0, 1e3, null, true, false], "a": {"c": {}, "d": []}}');
SELECT message($${"q\"uote": "back\\slash / slash", "control": "\b\f\n\r\t\u0001\u001f\u007f", "text": "ä € 😀 \u2028"}$$);
SELECT message('{"n": 123456789012345678901234567890.123456789, "min": -9223372036854775808, "u64": 18446744073709551615, "e": 1e-20}');
SELECT message('{}'), message('""'), message('"Closed"'), message('[1, {"x": "y"}]'), message('1'), message('null');
-- equal as JSON, always
SELECT bool_and(message(p)::jsonb -> 'payload' = p)
  FROM unnest(ARRAY['{"a": {"b": [1, "\u0001\"\\/", null]}}', '"\u00e9"', '{"": ""}', '{"x": 1.000}']::jsonb[]) AS p;

-- a deletion has a form of its own
SELECT esrs_event_json(('book', NULL, '0b5e7c1e-0000-4000-8000-000000000001', NULL, '2026-11-23T09:47:00.123456Z', NULL, NULL, 42, NULL));
-- null is null
SELECT esrs_event_json(NULL) IS NULL;
-- what is no event is refused: a missing payload, instance, time or number
\set VERBOSITY sqlstate
SELECT esrs_event_json(('book', '0190a5d2-7c3e-7b1a-9f00-3a2b1c0d4e5f', '0b5e7c1e-0000-4000-8000-000000000001', NULL, '2026-11-23T09:47:00Z', 1, NULL, 42, NULL));
SELECT esrs_event_json(('book', '0190a5d2-7c3e-7b1a-9f00-3a2b1c0d4e5f', NULL, '{}', '2026-11-23T09:47:00Z', 1, NULL, 42, NULL));
SELECT esrs_event_json(('book', '0190a5d2-7c3e-7b1a-9f00-3a2b1c0d4e5f', '0b5e7c1e-0000-4000-8000-000000000001', '{}', NULL, 1, NULL, 42, NULL));
SELECT esrs_event_json(('book', '0190a5d2-7c3e-7b1a-9f00-3a2b1c0d4e5f', '0b5e7c1e-0000-4000-8000-000000000001', '{}', '2026-11-23T09:47:00Z', NULL, NULL, 42, NULL));
SELECT esrs_event_json(('book', NULL, NULL, NULL, NULL, NULL, NULL, 42, NULL));
\set VERBOSITY default

-- of stored events: payload in its present form, whatever it is stored as
CREATE FUNCTION pack(event jsonb) RETURNS jsonb RETURN jsonb_build_object('packed', event);
CREATE FUNCTION unpack(payload jsonb) RETURNS jsonb RETURN payload -> 'packed';
CREATE FUNCTION handle(state jsonb, command jsonb) RETURNS jsonb[] RETURN ARRAY[command];
CREATE FUNCTION apply(state jsonb, event jsonb) RETURNS jsonb RETURN state;
SELECT esrs_register_aggregate('event_json_packed', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)',
                               from_event => 'pack(jsonb)', to_event => 'unpack(jsonb)', event_version => 7);
CREATE TABLE sent (message text);
CREATE FUNCTION send(e esrs_event) RETURNS void LANGUAGE sql AS 'INSERT INTO sent VALUES (esrs_event_json(e))';
SELECT esrs_register_handler('event_json_send', '{event_json_packed}', 'send(esrs_event)');
SELECT regexp_replace(esrs_event_json(e), '"occurred_on":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.(\d{3}|\d{6}))?Z"', '"occurred_on":"..."')
  FROM esrs_persist('event_json_packed', '0b5e7c1e-0000-4000-8000-000000000001', '{"{\"Bought\": {\"n\": 1}}"}',
                    event_ids => '{0190a5d2-7c3e-7b1a-9f00-3a2b1c0d4e5f}') AS e;
SELECT (SELECT esrs_event_json(e) FROM esrs_events('event_json_packed', '0b5e7c1e-0000-4000-8000-000000000001') AS e) = message AS events,
       (SELECT esrs_event_json(e) FROM esrs_feed('{event_json_packed}') AS e) = message AS feed,
       message ~ '"occurred_on":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.(\d{3}|\d{6}))?Z"' AS form
  FROM sent;

SELECT esrs_unregister_handler('event_json_send');
SELECT esrs_unregister_aggregate('event_json_packed', drop_events => true);
DROP SCHEMA esrs_event_json CASCADE;
