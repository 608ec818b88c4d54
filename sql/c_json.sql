--
-- JSON through C: each document goes through the echo aggregate and comes back
-- equal, character by character of its jsonb text, or is refused before
-- anything is stored.
--
-- Catches: a conversion by way of text (clamps big integers, loses digits,
-- turns what is deep into null), doubles written with 17 digits, strings that
-- are no text, and limits that hold in one direction only.
--
\set SHOW_CONTEXT never
\getenv abs_srcdir PG_ABS_SRCDIR
\set testlib :abs_srcdir '/testlib/esrs_testlib'
CREATE SCHEMA c_json;
SET search_path = c_json, public;
SET client_min_messages = warning;
CREATE FUNCTION echo(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_echo' LANGUAGE C;
CREATE FUNCTION blind(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_blind' LANGUAGE C;
SELECT esrs_register_aggregate('c_echo', handler => 'echo(internal)');
SELECT esrs_register_aggregate('c_blind', handler => 'blind(internal)');
\set a '00000000-0000-0000-0000-00000000000a'

-- What is different from the document after it went through, in the result, in
-- the table, in a state folded anew, in a dry run: nothing, or it is named.
CREATE FUNCTION through(deed text, doc jsonb, expected jsonb = NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    this uuid := gen_random_uuid();
    want text := jsonb_build_object(deed, coalesce(expected, doc));
    command jsonb := jsonb_build_object(deed, doc);
    message text; detail text;
    result esrs_result;
    stored text; folded text; decided text;
BEGIN
    BEGIN
        SELECT * INTO result FROM esrs_try_command('c_echo', this, command);
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
        IF EXISTS (SELECT FROM c_echo_events WHERE aggregate_id = this) THEN
            RETURN 'STORED though refused';
        END IF;
        RETURN rtrim(format('%s: %s / %s', SQLSTATE, message, detail), ' /');
    END;
    SELECT payload INTO stored FROM c_echo_events WHERE aggregate_id = this;
    SELECT state INTO folded FROM esrs_load('c_echo', this);
    SELECT d INTO decided FROM esrs_decide('c_echo', this, command) d;
    IF stored IS DISTINCT FROM want THEN RETURN format('STORED %s', left(stored, 100)); END IF;
    IF result.state::text IS DISTINCT FROM want THEN RETURN format('RETURNED %s', left(result.state::text, 100)); END IF;
    IF result.events[1].payload::text IS DISTINCT FROM want THEN RETURN 'EVENT differs'; END IF;
    IF folded IS DISTINCT FROM want THEN RETURN format('FOLDED %s', left(folded, 100)); END IF;
    IF decided IS DISTINCT FROM want THEN RETURN format('DECIDED %s', left(decided, 100)); END IF;
    RETURN 'equal';
END
$$;

--
-- Documents that jsonb can hold: lent by esrs, copied by json-c, and parsed from
-- their text by esrs_json_parse()
--
CREATE TABLE documents (i int GENERATED ALWAYS AS IDENTITY, label text, doc jsonb);
INSERT INTO documents (label, doc) VALUES
    ('null', 'null'), ('true', 'true'), ('false', 'false'),
    ('0', '0'), ('-0', '-0'), ('-0.0', '-0.0'), ('1', '1'), ('-1', '-1'),
    ('0.1', '0.1'), ('1.0', '1.0'), ('1.10', '1.10'), ('1e5', '1e5'), ('1e-5', '1e-5'), ('1.50e3', '1.50e3'),
    ('pi, 30 digits', '3.14159265358979323846264338327'),
    ('30 digits', '123456789012345678901234567890'),
    ('20 digits and a half', '12345678901234567890.5'),
    ('2^53 + 1', '9007199254740993'),
    ('1000000000000000001', '1000000000000000001'),
    ('int64 max', '9223372036854775807'), ('int64 max + 1', '9223372036854775808'),
    ('int64 min', '-9223372036854775808'), ('int64 min - 1', '-9223372036854775809'),
    ('12345678901234567890', '12345678901234567890'),
    ('uint64 max', '18446744073709551615'), ('uint64 max + 1', '18446744073709551616'),
    ('1e20', '1e20'), ('1e30 + 1', '1000000000000000000000000000001'),
    ('1e308', '1e308'), ('1e400', '1e400'), ('-1e400', '-1e400'), ('1e-400', '1e-400'),
    ('1e131071', '1e131071'), ('1e-16383', '1e-16383'),
    ('one number in many', jsonb_build_array(1, 1.0, 1.00, 1e20, 0.10, -0.5)),
    ('empty string', '""'), ('slash', '"a/b</script>"'), ('escapes', '"\"\\\b\f\n\r\t"'),
    ('controls', '"\u0001\u001f\u007f"'), ('2 bytes', '"\u00e9"'), ('4 bytes', '"\ud83d\ude00"'),
    ('last character', '"\udbff\udfff"'), ('not a character', '"\uffff\ufdd0"'),
    ('joined characters', '"e\u0301 \u200d \ufeff"'),
    ('empty object', '{}'), ('empty array', '[]'), ('empty key', '{"": {"": []}}'),
    ('keys of all lengths', '{"b": 1, "a": 2, "aa": 3, "B": 4, "\u00e9": 5, "a/b": 6, "\"": 7}'),
    ('duplicate keys', '{"a": 1, "b": 2, "a": 3}'),
    ('nulls', '[null, [null], {"k": null}]'),
    ('mixture', '[1, "a", true, null, {"k": [{}, [], [[]]]}]'),
    ('string of 1 MB', to_jsonb(repeat('é/', 349525))),
    ('array of 10,000', (SELECT jsonb_agg(i * 1.10) FROM generate_series(1, 10000) i)),
    ('object of 10,000', (SELECT jsonb_object_agg('key ' || i, i) FROM generate_series(1, 10000) i));
SELECT label, through('Echo', doc) AS lent, through('Copy', doc) AS copied, through('Jsonb', doc) AS by_jsonb,
       through('Parse', to_jsonb(doc::text), doc) AS parsed
  FROM documents ORDER BY i;
-- a string is a document too
SELECT esrs_handle_command('c_echo', :'a', '"a/\u00e9\ud83d\ude00"');
SELECT payload FROM c_echo_events WHERE aggregate_id = :'a';

--
-- What json-c's parser takes and is no JSON, esrs_json_parse() refuses as jsonb
-- does
--
SELECT t AS text, split_part(through('Parse', to_jsonb(t)), ' /', 1) AS parsed
  FROM unnest(ARRAY['', ' ', 'NaN', 'nan', 'Infinity', '-Infinity', '01', '1.', '.5', '1e', '0x10', '1.5.5', '1 2', '+1',
                    '{"a":1}x', '[1,]', '{"a":1,}', '{''a'':1}', 'True', 'NULL', '/*c*/1', '1//c', E'"a\nb"', '"a',
                    '[', '{"a"}', '"\x41"', '"a\u0000b"', '{"a\u0000b":1,"a":2}', '"\ud83d"', '"\ude00"', '"\ud83d\u0041"',
                    '1e131072', '1e-16384', '1e999999999999']) WITH ORDINALITY AS t(t, i) ORDER BY i;

--
-- Values that only callbacks make: the shortest text of a double, and what
-- cannot be stored
--
SELECT name, through('Make', to_jsonb(name), expected) AS made
  FROM (VALUES (1, '0.1', '0.1'::jsonb), (2, '1e22', '1e22'), (3, '1e23', to_jsonb(1e23::float8)), (4, '100', '100'), (5, '-0', '0'),
               (6, 'greatest', '1.7976931348623157e308'), (7, 'least', '5e-324'), (8, 'third', '0.3333333333333333'),
               (9, 'int64 max', '9223372036854775807'), (10, 'int64 min', '-9223372036854775808'),
               (11, 'uint64 max', '18446744073709551615'), (12, 'uint64 int64 max + 1', '9223372036854775808'),
               (13, 'uint64 7', '7'), (14, 'text 1.10', '1.10'),
               (15, 'text 30 digits', '123456789012345678901234567890'), (16, 'changed', '0.1'),
               (17, 'nan', NULL), (18, 'infinity', NULL), (19, '-infinity', NULL), (20, 'text nan', NULL),
               (21, 'text junk', NULL), (22, 'text hexadecimal', NULL), (23, 'text too great', NULL),
               (24, 'NUL', NULL), (25, 'latin1', NULL), (26, 'cut', NULL), (27, 'overlong', NULL),
               (28, 'surrogate', NULL), (29, 'too great', NULL), (30, 'f5', NULL), (31, 'shift-jis', NULL),
               (32, 'slash', '"a/b"'), (33, 'control', '"\u0001\u001f\u007f"'), (34, 'emoji', '"\ud83d\ude00"'),
               (35, 'last', '"\udbff\udfff"'), (36, 'empty', '""'), (37, 'quote', '"\"\\\n"'))
       AS v(i, name, expected) ORDER BY i;
-- the same as keys; C's strings end at a NUL
SELECT name, regexp_replace(through('Key', to_jsonb(name)), '^STORED ', '') AS made
  FROM unnest(ARRAY['NUL', 'latin1', 'cut', 'overlong', 'surrogate', 'too great', 'shift-jis', 'slash', 'empty',
                    'quote', 'emoji']) WITH ORDINALITY AS n(name, i) ORDER BY i;

--
-- Depth: 100 containers are allowed and 101 are not, in both directions; at the
-- top is the object {"Echo": ...} itself
--
CREATE FUNCTION nested(depth int) RETURNS jsonb LANGUAGE sql AS
    $$ SELECT (repeat('[{"k":', depth / 2) || CASE depth % 2 WHEN 1 THEN '[]' ELSE '1' END || repeat('}]', depth / 2))::jsonb $$;
SELECT depth, through('Echo', nested(depth - 1)) AS lent FROM unnest(ARRAY[31, 32, 33, 99, 100, 101, 1000, 5000]) depth;
SELECT depth, left(through('Depth', to_jsonb(depth)), 50) AS made FROM unnest(ARRAY[100, 101, 5000]) depth;
-- a document that is too deep for callbacks does not get in by another door
SELECT esrs_persist('c_blind', :'a', ARRAY[jsonb_build_object('Echo', nested(100))]) \g /dev/null
SELECT esrs_handle_command('c_blind', :'a', '"Alive"') \g /dev/null
SELECT count(*) FROM c_blind_events WHERE payload ? 'Echo';
SET esrs.max_json_depth = 10;
SELECT depth, through('Echo', nested(depth - 1)) AS lent FROM unnest(ARRAY[10, 11]) depth;
SET esrs.max_json_depth = 1001;
RESET esrs.max_json_depth;

--
-- Size: strings and written-out digits count, in both directions
--
SET esrs.max_payload_size = '8kB';
SELECT size, through('Echo', to_jsonb(repeat('x', size))) AS lent FROM unnest(ARRAY[8000, 8200]) size;
SELECT size, left(through('Size', to_jsonb(size)), 40) AS made FROM unnest(ARRAY[8000, 8200, 1000000]) size;
SELECT through('Echo', '1e8000') AS lent, through('Echo', '1e8200') AS too_long;
SELECT through('Echo', jsonb_build_array(to_jsonb(repeat('x', 4000)), to_jsonb(repeat('y', 4300)))) AS in_all;
RESET esrs.max_payload_size;
-- 27 kB of text, 48 kB of jsonb, 393 MB of digits; a callback can make it too
SELECT through('Echo', ('[' || repeat('1e131071,', 2999) || '1e131071]')::jsonb) AS bomb;
SELECT through('Bomb', '3000') AS made;
SELECT esrs_handle_command('c_blind', :'a', '{"Bomb": 3000}') \g /dev/null
SELECT esrs_persist('c_blind', :'a', ARRAY[('{"Echo": [' || repeat('1e131071,', 2999) || '1e131071]}')::jsonb]) \g /dev/null
SELECT esrs_handle_command('c_blind', :'a', '"Alive"') \g /dev/null
SELECT count(*) FROM c_blind_events WHERE NOT payload = '"Alive"';
-- settings of a superuser
CREATE ROLE regress_esrs_c_json;
SET ROLE regress_esrs_c_json;
SET esrs.max_json_depth = 1000;
SET esrs.max_payload_size = '1GB';
SET esrs.max_payload_size = '17MB';
RESET ROLE;
DROP ROLE regress_esrs_c_json;

--
-- Metadata go the same way
--
SELECT esrs_handle_command('c_echo', :'a', '"With"', metadata => jsonb_build_object('n', 1.10, 'big', 1e20, 's', 'é/')) \g /dev/null
SELECT metadata FROM c_echo_events WHERE aggregate_id = :'a' AND payload = '"With"';

-- random documents, seeded
SELECT setseed(0.42);
CREATE FUNCTION anything(depth int) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    kind int := floor(random() * CASE WHEN depth > 0 THEN 9 ELSE 7 END);
BEGIN
    RETURN CASE kind
        WHEN 0 THEN 'null'::jsonb
        WHEN 1 THEN to_jsonb(random() < 0.5)
        WHEN 2 THEN to_jsonb((random() * 1e19 - 5e18)::numeric)
        WHEN 3 THEN to_jsonb(round((random() * 1000)::numeric, (random() * 8)::int))
        WHEN 4 THEN to_jsonb((random() * 1e9)::bigint::numeric * (random() * 1e18)::bigint)
        WHEN 5 THEN to_jsonb(random()::numeric * 10::numeric ^ (random() * 600 - 300)::int)
        WHEN 6 THEN to_jsonb((SELECT coalesce(string_agg(chr((1 + random() * 1000)::int), ''), '') FROM generate_series(1, (random() * 20)::int)))
        WHEN 7 THEN (SELECT coalesce(jsonb_agg(anything(depth - 1)), '[]') FROM generate_series(1, (random() * 5)::int))
        ELSE (SELECT coalesce(jsonb_object_agg('k' || (random() * 1000)::int, anything(depth - 1)), '{}') FROM generate_series(1, (random() * 5)::int))
    END;
END
$$;
CREATE TABLE random_documents AS SELECT i, anything(5) AS doc FROM generate_series(1, 150) i;
SELECT count(*) FILTER (WHERE through('Echo', doc) <> 'equal') AS lent_differs,
       count(*) FILTER (WHERE through('Copy', doc) <> 'equal') AS copied_differs,
       count(*) FILTER (WHERE through('Parse', to_jsonb(doc::text), doc) <> 'equal') AS parsed_differs
  FROM random_documents;

SELECT esrs_unregister_aggregate('c_echo', true);
SELECT esrs_unregister_aggregate('c_blind', true);
DROP SCHEMA c_json CASCADE;
