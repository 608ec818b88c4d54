--
-- NOTIFY: what is told at commit, byte for byte.
--
-- Catches: notifications before the commit or for what was rolled back, in
-- another order, on another channel, with other bytes than documented, payloads
-- that are told although nobody asked for them, and a transaction that cannot
-- be prepared for no reason.
--
-- psql shows a notification with the process id of its sender, and positions
-- depend on what was done before.  So its output goes through a filter that
-- takes the process id away, counts positions from where this file began, and
-- shortens runs of x.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA esrs_notify_test;
SET search_path = esrs_notify_test, public;
\set a '\'0071f100-0000-4000-8000-00000000000a\''
\set b '\'0071f100-0000-4000-8000-00000000000b\''
\set id1 '\'{0071f100-0000-7000-8000-000000000001}\''
\set id2 '\'{0071f100-0000-7000-8000-000000000002}\''
SELECT last_value + is_called::int - 1 AS base FROM esrs.position_seq \gset
\setenv BASE :base
\setenv FILTER 's/ received from server process with PID [0-9]+[.]$//; s/"(position|from|to)":([0-9]+)/sprintf(q("%s":%d), $1, $2 - $ENV{BASE})/ge; s/x{9,}/"<x " . length($&) . " times>"/ge'
\set filtered '| perl -pe "$FILTER"'
\pset format unaligned
\pset tuples_only on

CREATE FUNCTION handle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE plpgsql AS $$
BEGIN
    IF command ? 'other' THEN
        PERFORM esrs_persist('notify_two', '0071f100-0000-4000-8000-00000000000b', '{"{\"nested\": 1}"}');
    END IF;
    RETURN ARRAY[command];
END $$;
CREATE FUNCTION apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT state';
SELECT esrs_register_aggregate('notify_one', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)', notify => 'commit');
SELECT esrs_register_aggregate('notify_two', notify => 'commit');
LISTEN notify_one_events;
LISTEN notify_two_events;
SHOW esrs.notify;
SHOW esrs.notify_payload;

--
-- A reference: one an event, in order, at commit and not before
--
BEGIN;
SELECT payload FROM esrs_persist('notify_one', :a, '{"{\"secret\": 1}"}', event_ids => :id1);
SELECT payload FROM esrs_persist('notify_two', :b, '{"\"secret\""}', event_ids => :id2);
SELECT payload FROM esrs_persist('notify_one', :a, '{"{\"secret\": 2}"}', event_ids => '{0071f100-0000-7000-8000-000000000003}');
SELECT 'nothing yet';
\o :filtered
COMMIT;
\o
-- a deletion has no id, number or payload; one of nothing is not told
\o :filtered
SELECT esrs_delete('notify_one', :a);
SELECT esrs_delete('notify_one', :a);
SELECT esrs_delete('notify_one', '0071f100-0000-4000-8000-00000000000c', permanent => true);
\o
-- a command without events says nothing
\o :filtered
SELECT count(*) FROM esrs_persist('notify_one', :a, '{}');
\o
-- the id is that of the stored event; a nested command is told in order of storing
BEGIN;
SELECT esrs_handle_command('notify_one', :a, '{"other": 1}');
-- (ids of commands are made by the server: shown as their version)
\set filtered_ids '| perl -pe "$FILTER; s/\\"id\\":\\"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\\"/\\"id\\":\\"<v7>\\"/"'
\o :filtered_ids
COMMIT;
\o
-- another instance of the channel's aggregate
\o :filtered
SELECT payload FROM esrs_persist('notify_two', :a, '{"\"x\""}', event_ids => :id1);
\o

--
-- Off for an aggregate, and on again.  The setting is the server's: no session can
-- take it back from the worker.
--
SET esrs.notify = off;
SET esrs.notify_payload = event;
SELECT esrs_alter_aggregate('notify_two', '{"notify": "off"}');
\o :filtered
SELECT payload FROM esrs_persist('notify_two', :a, '{"\"off by option\""}');
SELECT payload FROM esrs_persist('notify_one', :a, '{"\"on\""}', event_ids => :id2);
SELECT esrs_delete('notify_two', :a);
\o
-- the worker would tell these
SELECT esrs_alter_aggregate('notify_two', '{"notify": "worker"}');
BEGIN;
SELECT payload FROM esrs_persist('notify_two', :a, '{"\"worker\""}', event_ids => :id1);
\o :filtered
ROLLBACK;
\o
SELECT esrs_alter_aggregate('notify_two', '{"notify": "commit"}');
-- what counts is the option when the event is stored
BEGIN;
SELECT payload FROM esrs_persist('notify_two', :a, '{"\"on\""}', event_ids => :id2);
SELECT esrs_alter_aggregate('notify_two', '{"notify": "off"}');
SELECT payload FROM esrs_persist('notify_two', :a, '{"\"off\""}');
\o :filtered
COMMIT;
\o
SELECT esrs_alter_aggregate('notify_two', '{"notify": "commit"}');

--
-- The whole event, on request: the message of esrs_event_json(), and the position
--
-- an event of the future fixes the time of those that come after it
INSERT INTO notify_one_events (id, aggregate_id, payload, occurred_on, sequence_number)
VALUES ('0071f100-0000-7000-8000-000000000009', :b, '{}', '2999-12-31 23:59:59.12+00', 1);
SELECT esrs_alter_aggregate(name, '{"notify_payload": "event"}') FROM unnest('{notify_one,notify_two}'::text[]) AS name;
\o :filtered
SELECT payload FROM esrs_persist('notify_one', :b, '{"{\"Bought\": {\"n\": 1.50, \"title\": \"\\u00e4 \\\\ / \\\"\"}}"}', event_ids => :id1);
SELECT payload FROM esrs_persist('notify_one', :b, '{"\"Closed\""}', metadata => '{"not": "told"}', event_ids => :id2);
SELECT esrs_delete('notify_two', :a);
\o
SELECT esrs_alter_aggregate('notify_one', '{"notify_payload": "reference"}');
\o :filtered
SELECT payload FROM esrs_persist('notify_one', :b, '{"\"Reopened\""}', event_ids => '{0071f100-0000-7000-8000-000000000003}');
\o
SELECT esrs_alter_aggregate('notify_one', '{"notify_payload": "event"}');
\o :filtered
SELECT payload FROM esrs_persist('notify_one', :b, '{"\"Closed\""}', event_ids => '{0071f100-0000-7000-8000-000000000004}');
\o
-- the form in which readers see it, not the stored one; with the version
CREATE FUNCTION pack(event jsonb) RETURNS jsonb RETURN jsonb_build_object('packed', event);
CREATE FUNCTION unpack(payload jsonb) RETURNS jsonb RETURN payload -> 'packed';
SELECT esrs_alter_aggregate('notify_one', '{"from_event": "pack(jsonb)", "to_event": "unpack(jsonb)", "event_version": 2}');
\o :filtered
SELECT payload FROM esrs_persist('notify_one', :b, '{"{\"seen\": 1}"}', event_ids => '{0071f100-0000-7000-8000-000000000005}');
\o
SELECT esrs_alter_aggregate('notify_one', '{"from_event": null, "to_event": null, "event_version": null}');
-- too long: a reference that says so.  The limit is 7,900 bytes.
BEGIN;
SELECT length(payload ->> 0) FROM esrs_persist('notify_one', :b, ARRAY[to_jsonb(repeat('x', 7900))], event_ids => '{0071f100-0000-7000-8000-000000000006}');
SELECT length(payload ->> 0) FROM esrs_persist('notify_one', :b, ARRAY[to_jsonb(repeat('x', 7600))], event_ids => '{0071f100-0000-7000-8000-000000000007}');
\o :filtered
COMMIT;
\o
-- about the limit: a few bytes less, and a few more
SELECT 7900 - octet_length(esrs_event_json(e)) - octet_length(format(',"position":%s', e.position)) + octet_length(e.payload ->> 0) AS fits
  FROM esrs_events('notify_one', :b) AS e WHERE id = '0071f100-0000-7000-8000-000000000007' \gset
\o | perl -pe "$FILTER; s/<x.*>/<fits>/"
SELECT length(payload ->> 0) > 0 FROM esrs_persist('notify_one', :b, ARRAY[to_jsonb(repeat('x', :fits - 4))], event_ids => '{0071f100-0000-7000-8000-000000000008}');
SELECT length(payload ->> 0) > 0 FROM esrs_persist('notify_one', :b, ARRAY[to_jsonb(repeat('x', :fits + 8))], event_ids => '{0071f100-0000-7000-8000-000000000009}');
\o
-- bytes count, not characters
\o :filtered
SELECT length(payload ->> 0) FROM esrs_persist('notify_one', :b, ARRAY[to_jsonb(repeat(U&'\00e4', 4000))], event_ids => '{0071f100-0000-7000-8000-00000000000a}');
\o
SELECT esrs_alter_aggregate(name, '{"notify_payload": null}') FROM unnest('{notify_one,notify_two}'::text[]) AS name;

--
-- More than 100 events of an aggregate in a transaction: one summary
--
CREATE FUNCTION many(n int) RETURNS jsonb[] RETURN (SELECT array_agg(to_jsonb(i::text)) FROM generate_series(1, n) AS i);
\o | grep -c "notify_two_events.*sequence_number"
SELECT count(*) FROM esrs_persist('notify_two', :a, many(100));
\o
SELECT last_value AS now FROM esrs.position_seq \gset
\setenv BASE :now
\o :filtered
SELECT count(*) FROM esrs_persist('notify_two', :a, many(101));
\o
-- also of several commands, instances and deletions; another aggregate is told one by one
BEGIN;
SELECT count(*) FROM esrs_persist('notify_two', :a, many(60));
SELECT payload FROM esrs_persist('notify_one', :a, '{"\"single\""}', event_ids => :id1);
SELECT count(*) FROM esrs_persist('notify_two', :b, many(40));
SELECT esrs_delete('notify_two', :a) > 0;
\o :filtered
COMMIT;
\o
-- also when whole events were asked for
SELECT esrs_alter_aggregate('notify_two', '{"notify_payload": "event"}');
\o :filtered
SELECT count(*) FROM esrs_persist('notify_two', :a, many(101));
\o
SELECT esrs_alter_aggregate('notify_two', '{"notify_payload": null}');
-- what a savepoint took back does not count
BEGIN;
SELECT payload FROM esrs_persist('notify_two', :a, '{"\"before\""}', event_ids => :id1);
SAVEPOINT s;
SELECT count(*) FROM esrs_persist('notify_two', :a, many(101));
ROLLBACK TO s;
SELECT payload FROM esrs_persist('notify_two', :a, '{"\"after\""}', event_ids => :id2);
\o :filtered
COMMIT;
\o

--
-- Savepoints: only what is committed is told
--
BEGIN;
SELECT payload FROM esrs_persist('notify_one', :a, '{"\"1\""}', event_ids => '{0071f100-0000-7000-8000-000000000011}');
SAVEPOINT s;
SELECT payload FROM esrs_persist('notify_one', :a, '{"\"rolled back\""}');
SELECT esrs_delete('notify_one', :a) > 0;
ROLLBACK TO s;
SELECT payload FROM esrs_persist('notify_one', :a, '{"\"2\""}', event_ids => '{0071f100-0000-7000-8000-000000000012}');
SAVEPOINT t;
SAVEPOINT u;
SELECT payload FROM esrs_persist('notify_one', :a, '{"\"3\""}', event_ids => '{0071f100-0000-7000-8000-000000000013}');
RELEASE u;
SELECT payload FROM esrs_persist('notify_one', :a, '{"\"4\""}', event_ids => '{0071f100-0000-7000-8000-000000000014}');
RELEASE t;
SAVEPOINT v;
SAVEPOINT w;
SELECT payload FROM esrs_persist('notify_one', :a, '{"\"rolled back\""}');
RELEASE w;
ROLLBACK TO v;
\o :filtered
COMMIT;
\o
SELECT array_agg(payload ->> 0 ORDER BY sequence_number DESC) FROM (SELECT * FROM notify_one_events WHERE aggregate_id = :a ORDER BY sequence_number DESC LIMIT 4) AS x;
-- a transaction that is rolled back, or fails, says nothing, nor does the next one for it
BEGIN;
SELECT payload FROM esrs_persist('notify_one', :a, '{"\"rolled back\""}');
ROLLBACK;
SELECT 1 / (count(*) - 1) FROM esrs_persist('notify_one', :a, '{"\"fails\""}');
\o :filtered
SELECT esrs_decide('notify_one', :a, '{"other": 1}');
SELECT 'silence';
\o

--
-- PREPARE TRANSACTION: NOTIFY cannot be prepared
--
BEGIN;
SELECT payload FROM esrs_persist('notify_one', :a, '{"\"refused\""}');
PREPARE TRANSACTION 'esrs_notify_refused';
\echo :SQLSTATE
SELECT count(*) FROM notify_one_events WHERE payload = '"refused"';
-- without something to tell it works (where prepared transactions are enabled)
SELECT current_setting('max_prepared_transactions')::int > 0 AS enabled \gset
SELECT esrs_alter_aggregate('notify_one', '{"notify": "off"}');
BEGIN;
SELECT payload FROM esrs_persist('notify_one', :a, '{"\"prepared\""}');
\if :enabled
PREPARE TRANSACTION 'esrs_notify_prepared';
\else
ROLLBACK;
BEGIN;
\o /dev/null
SELECT payload FROM esrs_persist('notify_one', :a, '{"\"prepared\""}');
\o
\endif
SELECT count(*) FROM notify_one_events WHERE payload = '"prepared"' AND :'enabled';
\o :filtered
\if :enabled
COMMIT PREPARED 'esrs_notify_prepared';
\else
COMMIT;
\endif
\o
SELECT count(*) FROM notify_one_events WHERE payload = '"prepared"';

UNLISTEN *;
SELECT esrs_unregister_aggregate(name, drop_events => true) FROM unnest('{notify_one,notify_two}'::text[]) AS name;
DROP SCHEMA esrs_notify_test CASCADE;
