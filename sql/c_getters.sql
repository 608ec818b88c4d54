--
-- The getters of esrs.h, on every type of value: what they give, and what they
-- say when the document is not as expected.
--
-- Catches: a getter that takes one type for another, clamps or rounds a number,
-- or shows a value in its error.
--
\set SHOW_CONTEXT never
\getenv abs_srcdir PG_ABS_SRCDIR
\set testlib :abs_srcdir '/testlib/esrs_testlib'
CREATE SCHEMA c_getters;
SET search_path = c_getters, public;
CREATE FUNCTION getters(internal) RETURNS esrs.aggregate_handler AS :'testlib', 'testlib_getters' LANGUAGE C;
SELECT esrs_register_aggregate('c_getters', handler => 'getters(internal)');

-- what a getter gives, or the error with its DETAIL
CREATE FUNCTION get(getter text, doc jsonb, key text = NULL, index int = 0) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    message text; detail text;
BEGIN
    RETURN (SELECT d->'got' FROM esrs_decide('c_getters', '00000000-0000-0000-0000-00000000000a',
        jsonb_build_object('get', getter, 'from', doc, 'key', key, 'index', index)) d);
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
    RETURN format('%s: %s. %s', SQLSTATE, message, detail);
END
$$;

--
-- Each getter on each type, as a member of an object
--
SELECT getter, doc, get(getter, jsonb_build_object('k', doc), 'k')
  FROM unnest(ARRAY['int64', 'double', 'number', 'bool', 'string', 'object', 'array', 'member',
                    'opt_int64', 'opt_bool', 'opt_string']) WITH ORDINALITY AS g(getter, i),
       unnest(ARRAY['1', '2.50', 'true', '"s"', '{"x": 1.10}', '[1, "a"]', 'null']::jsonb[])
           WITH ORDINALITY AS d(doc, j)
 ORDER BY i, j;

-- as the document itself
SELECT getter, doc, get(getter, doc)
  FROM unnest(ARRAY['int64', 'double', 'number', 'bool', 'string', 'object', 'array']) WITH ORDINALITY AS g(getter, i),
       unnest(ARRAY['1', 'true', '"s"', '{}', '[]']::jsonb[]) WITH ORDINALITY AS d(doc, j)
 ORDER BY i, j;

-- a member that is missing, and a document that has no members
SELECT getter, get(getter, '{"other": 1}', 'k') AS missing, get(getter, '[1]', 'k') AS no_object
  FROM unnest(ARRAY['int64', 'double', 'number', 'bool', 'string', 'object', 'array', 'member',
                    'opt_int64', 'opt_bool', 'opt_string']) WITH ORDINALITY AS g(getter, i)
 ORDER BY i;

--
-- Numbers at the edges
--
SELECT n, get('int64', n) AS int64, get('double', n) AS double, get('number', n) = format('"%s"', n) AS exact_text
  FROM unnest(ARRAY['0', '-1', '9223372036854775807', '-9223372036854775808', '9223372036854775808',
                    '-9223372036854775809', '1000000000000000001', '1.0', '1.000', '1.5', '-0.0', '1e3', '0.1',
                    '123456789012345678901234567890', '1e-5']::jsonb[]) WITH ORDINALITY AS t(n, i)
 ORDER BY i;
-- beyond a double
SELECT get('int64', '1e400'), get('number', '1e400') = format('"%s"', '1e400'::jsonb) AS exact_text;

--
-- Strings: the empty one, characters of several bytes, quotes
--
SELECT get('string', '{"": "", "k": "\u00e9\ud83d\ude00\"\\\n"}', 'k'), get('string', '{"": "empty"}', ''),
       get('string', '{"\u00e9": 1}', 'é');

--
-- Arrays
--
SELECT get('length', '[]'), get('length', '[1, [2, 3], {}]'), get('length', '{"a": 1}'), get('length', '"s"');
SELECT get('element', '[10, "b", [1.10], null]', NULL, i) FROM generate_series(-1, 4) i;
SELECT get('element', '{"a": 1}', NULL, 0);
SELECT get('array', '{"k": [[1], {"a": 2.0}, null, "s"]}', 'k');

--
-- Variants
--
SELECT doc, get('variant', doc)
  FROM unnest(ARRAY['"Unit"', '{"Newtype": 5}', '{"Struct": {"a": 1.0}}', '{"Tuple": [1, 2]}', '{"Null": null}',
                    '{}', '{"a": 1, "b": 2}', '[1]', '[]', '5', 'true', '""', '{"": 1}']::jsonb[]) WITH ORDINALITY AS t(doc, i)
 ORDER BY i;

--
-- A document that is NULL in C, as the content of a variant without one is, or
-- metadata that nobody passed: read as JSON null
--
SELECT getter, get(getter, 'null') AS document, get(getter, 'null', 'k') AS member
  FROM unnest(ARRAY['int64', 'double', 'number', 'bool', 'string', 'object', 'array', 'member', 'length', 'element', 'variant',
                    'opt_int64', 'opt_bool', 'opt_string']) WITH ORDINALITY AS g(getter, i)
 ORDER BY i;

SET client_min_messages = warning;
SELECT esrs_unregister_aggregate('c_getters', true);
DROP SCHEMA c_getters CASCADE;
