--
-- Subscriptions: consumers outside the database, which poll and acknowledge.
--
-- Catches: events that are lost, handed out in a wrong order or again after they
-- were acknowledged; a lease that keeps nobody out, or the wrong one; an
-- acknowledgement that is taken from one who has lost his lease, or takes more
-- than was handed out; a deprecated event that blocks; a start that is not
-- exact; strangers who poll, or read what they may not; a copy of a database
-- that goes on by itself; writes by polls that find nothing.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA t_subscription;
SET search_path = t_subscription, public;
\pset null '(null)'

-- ------------------------------------------------------------------------
-- Helpers.  Positions are shown from where the test begins, events by their "n".
-- ------------------------------------------------------------------------
CREATE TABLE base AS SELECT CASE WHEN is_called THEN last_value ELSE 0 END AS position FROM esrs.position_seq;
CREATE TABLE seen (what text PRIMARY KEY, position bigint);
GRANT SELECT ON base TO PUBLIC;
GRANT SELECT, INSERT ON seen TO PUBLIC;
CREATE FUNCTION try(statement text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    result text; code text; message text; detail text; hint text;
BEGIN
    EXECUTE statement INTO result;
    RETURN coalesce(nullif(result, ''), 'ok');
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
        detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN regexp_replace(concat_ws(E'\n', code || ': ' || message,
                                    '  DETAIL: ' || regexp_replace(nullif(detail, ''), 'until \d+-.*', 'until (a time).'),
                                    '  HINT: ' || nullif(hint, '')),
                          '(position|position up to) \d+', '\1 (n)', 'g');
END $$;
CREATE FUNCTION id(instance text) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT ('5b5c0000-0000-4000-8000-00000000000' || instance)::uuid $$;
-- an event
CREATE FUNCTION add(aggregate text, instance text, n text, more jsonb DEFAULT '{}') RETURNS bigint LANGUAGE sql AS $$
    SELECT e.position - b.position
      FROM t_subscription.base b, esrs_persist($1, t_subscription.id($2), ARRAY[jsonb_build_object('n', $3) || $4], metadata => '{"actor": "me"}') AS e $$;
-- what a poll hands out
CREATE FUNCTION poll(name text, max int DEFAULT 100, owner text DEFAULT '', lease interval DEFAULT '1 hour') RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    WITH p AS MATERIALIZED (SELECT coalesce(payload ->> 'n', 'deleted-' || right(aggregate_id::text, 1)) AS what, position, ordinality
                              FROM esrs_poll(name, max, lease, owner) WITH ORDINALITY),
         s AS (INSERT INTO t_subscription.seen SELECT p.what, p.position FROM p ON CONFLICT DO NOTHING)
    SELECT string_agg(what, ' ' ORDER BY ordinality) INTO result FROM p;
    RETURN coalesce(result, 'nothing');
END $$;
CREATE FUNCTION at(what text) RETURNS bigint LANGUAGE sql AS $$
    SELECT position FROM t_subscription.seen WHERE what = $1 $$;
CREATE FUNCTION ack(name text, what text, owner text DEFAULT '') RETURNS void LANGUAGE sql AS $$
    SELECT esrs_ack($1, t_subscription.at($2), $3) $$;
CREATE FUNCTION shift(ranges int8multirange) RETURNS text LANGUAGE sql AS $$
    SELECT coalesce(string_agg(concat_ws('-', lower(r) - b.position, nullif(upper(r) - 1 - b.position, lower(r) - b.position)), ',' ORDER BY r), '')
      FROM unnest($1) AS r, t_subscription.base b $$;
-- what is remembered of it
CREATE FUNCTION checkpoint(name text) RETURNS text LANGUAGE sql AS $$
    SELECT format('at %s', c.position - b.position)
           || coalesce(' ahead ' || nullif(shift(ahead), ''), '')
           || coalesce(' handed ' || nullif(shift(handed), ''), '')
           || coalesce(' then ' || handed_safe - b.position, '')
           || coalesce(' leased to "' || lease_owner || '" for ' || date_trunc('second', lease_until - updated_at + interval '0.5 s'), '')
           || coalesce(' attempts ' || nullif(attempts, 0), '')
           || coalesce(' retry in ' || date_trunc('second', retry_at - updated_at + interval '0.5 s'), '')
           || coalesce(' error ' || last_error, '')
      FROM esrs.checkpoints c, t_subscription.base b WHERE c.name = $1 AND partition = 0 $$;

SELECT esrs_register_aggregate('sub_one');
SELECT esrs_register_aggregate('sub_two');
-- an aggregate that has nothing to do with it
SELECT esrs_register_aggregate('sub_other');

-- ------------------------------------------------------------------------
-- Arguments of esrs_subscribe
-- ------------------------------------------------------------------------
CREATE FUNCTION on_event(e esrs_event) RETURNS void LANGUAGE sql AS '';
SELECT esrs_register_handler('sub_handler', '{sub_other}', 'on_event(esrs_event)');
SELECT try(statement) FROM unnest(ARRAY[
    $$SELECT esrs_subscribe(NULL, '{sub_one}')$$,
    $$SELECT esrs_subscribe('', '{sub_one}')$$,
    $$SELECT esrs_subscribe('Sub "x"', '{sub_one}')$$,
    $$SELECT esrs_subscribe('sub_x', NULL)$$,
    $$SELECT esrs_subscribe('sub_x', '{}')$$,
    $$SELECT esrs_subscribe('sub_x', '{sub_one,NULL}')$$,
    $$SELECT esrs_subscribe('sub_x', '{sub_one,sub_no_such}')$$,
    $$SELECT esrs_subscribe('sub_x', '{sub_one,sub_two,sub_one}')$$,
    $$SELECT esrs_subscribe('sub_x', '{sub_one}', 'none')$$,
    $$SELECT esrs_subscribe('sub_x', '{sub_one}', start_at => 'yesterday')$$,
    $$SELECT esrs_subscribe('sub_handler', '{sub_one}')$$]) AS statement;
SELECT split_part(try(format($$SELECT esrs_subscribe('sub_x', '{sub_one}', start_at => %L)$$, start)), E'\n', 1) AS refused
  FROM unnest(ARRAY['', '-1', ' 1', '1 ', '1e3', '9223372036854775807', '99999999999999999999',
                    (SELECT (position + 1)::text FROM base)]) AS start;
BEGIN READ ONLY;
SELECT try($$SELECT esrs_subscribe('sub_x', '{sub_one}')$$);
COMMIT;
-- nothing of all that is left
SELECT count(*) FROM esrs.subscriptions WHERE name LIKE 'sub\_%';
SELECT count(*) FROM esrs.checkpoints WHERE name LIKE 'sub\_%';
-- null means the default; what is stored; names are taken once
SELECT esrs_subscribe('sub_x', '{{sub_two},{sub_one}}', NULL, NULL);
SELECT name, aggregates, ordering, start_at, status, run_as = current_user::regrole AS mine,
       node = (SELECT system_identifier || '/' || oid FROM pg_control_system(), pg_database WHERE datname = current_database()) AS here FROM esrs.subscriptions WHERE name = 'sub_x';
SELECT checkpoint('sub_x');
SELECT try($$SELECT esrs_subscribe('sub_x', '{sub_one}')$$);
SELECT left(try($$SELECT esrs_register_handler('sub_x', '{sub_other}', 'on_event(esrs_event)')$$), 5);
SELECT esrs_unsubscribe('sub_x');
SELECT count(*) FROM esrs.subscriptions WHERE name LIKE 'sub\_%';
SELECT count(*) FROM esrs.checkpoints WHERE name LIKE 'sub\_%';
SELECT try($$SELECT esrs_unsubscribe('sub_x')$$);
SELECT left(try($$SELECT esrs_unsubscribe(NULL)$$), 5);
SELECT esrs_unregister_handler('sub_handler');

-- ------------------------------------------------------------------------
-- Where it starts
-- ------------------------------------------------------------------------
SELECT add('sub_one', 'a', '1');
SELECT add('sub_two', 'a', '2');
SELECT add('sub_one', 'b', '3');
SELECT esrs_subscribe('sub_begin', '{sub_one}', start_at => 'beginning');
SELECT esrs_subscribe('sub_now', '{sub_one}', start_at => 'now');
SELECT position + 1 AS first, position + 3 AS head FROM base \gset
SELECT esrs_subscribe('sub_first', '{sub_one}', start_at => :'first');
SELECT esrs_subscribe('sub_head', '{sub_one}', start_at => :'head');
SELECT esrs_subscribe('sub_zero', '{sub_one}', start_at => '0');
SELECT add('sub_one', 'a', '4');
SELECT name, poll(name) FROM unnest('{sub_begin,sub_now,sub_first,sub_head,sub_zero}'::text[]) AS name;
SELECT name, start_at = :'first' AS first FROM esrs.subscriptions WHERE name IN ('sub_first', 'sub_head') ORDER BY 1;
SELECT esrs_unsubscribe(name) FROM unnest('{sub_begin,sub_now,sub_first,sub_head,sub_zero}'::text[]) AS name;
-- within a transaction that has appended: what it has appended is not new
BEGIN;
SELECT add('sub_one', 'a', '5');
SELECT esrs_subscribe('sub_now', '{sub_one}');
SELECT checkpoint('sub_now');
SELECT add('sub_one', 'a', '6');
COMMIT;
SELECT poll('sub_now');
SELECT checkpoint('sub_now');
SELECT esrs_unsubscribe('sub_now');

-- ------------------------------------------------------------------------
-- Polling and acknowledging, in both orderings
-- ------------------------------------------------------------------------
SELECT esrs_subscribe('sub_a', '{sub_one,sub_two}', 'aggregate');
SELECT esrs_subscribe('sub_t', '{sub_one,sub_two}', 'total');
-- nothing: nothing is written either
SELECT updated_at AS before FROM esrs.checkpoints WHERE name = 'sub_a' \gset
SELECT poll('sub_a'), poll('sub_t');
SELECT updated_at = :'before' FROM esrs.checkpoints WHERE name = 'sub_a';
SELECT add('sub_one', 'a', '11'), add('sub_two', 'a', '12'), add('sub_other', 'a', '13'), add('sub_one', 'b', '14'), add('sub_two', 'b', '15');
-- whole rows, as esrs_feed shows them
SELECT count(*), count(*) FILTER (WHERE p = f) AS same
  FROM esrs_poll('sub_a') WITH ORDINALITY AS p(aggregate, id, aggregate_id, payload, occurred_on, sequence_number, version, position, metadata, o)
  JOIN esrs_feed('{sub_one,sub_two}', (SELECT position FROM esrs.checkpoints WHERE name = 'sub_a')) WITH ORDINALITY
       AS f(aggregate, id, aggregate_id, payload, occurred_on, sequence_number, version, position, metadata, o) ON p.o = f.o;
-- the same again, until they are acknowledged; at most so many
SELECT checkpoint('sub_a');
SELECT poll('sub_a'), poll('sub_t');
SELECT poll('sub_a', 3), poll('sub_t', 3);
SELECT checkpoint('sub_a') AS a, checkpoint('sub_t') AS t;
SELECT poll('sub_a', NULL, NULL, NULL), checkpoint('sub_a');
-- some of them
SELECT poll('sub_a', 3), poll('sub_t', 3);
SELECT ack('sub_a', '12'), ack('sub_t', '12');
SELECT checkpoint('sub_a') AS a, checkpoint('sub_t') AS t;
-- once more, less, and where there is no event: nothing happens
SELECT ack('sub_a', '12'), ack('sub_a', '11'), esrs_ack('sub_a', at('12') + 1), esrs_ack('sub_a', 0), esrs_ack('sub_a', -9223372036854775808);
SELECT checkpoint('sub_a');
-- more than was handed out
SELECT try($$SELECT esrs_ack('sub_a', at('14') + 1)$$);
SELECT left(try($$SELECT ack('sub_a', '15')$$), 5);
SELECT left(try($$SELECT esrs_ack('sub_a', 9223372036854775807)$$), 5);
SELECT checkpoint('sub_a');
-- the rest: the lease is given back
SELECT ack('sub_a', '14'), ack('sub_t', '14');
SELECT checkpoint('sub_a') AS a, checkpoint('sub_t') AS t;
-- also then once more
SELECT ack('sub_a', '14'), ack('sub_a', '11');
SELECT checkpoint('sub_a');
-- but not more: there is no lease
SELECT try($$SELECT ack('sub_a', '15')$$);
-- fewer than max: the checkpoint goes to the safe position
SELECT add('sub_other', 'a', '16');
SELECT poll('sub_a', 2), poll('sub_t', 2);
SELECT ack('sub_a', '15'), ack('sub_t', '15');
SELECT checkpoint('sub_a') AS a, checkpoint('sub_t') AS t;
SELECT poll('sub_a'), poll('sub_t');
-- a transaction that is rolled back has neither polled nor acknowledged
SELECT add('sub_one', 'a', '17'), add('sub_one', 'a', '18');
BEGIN;
SELECT poll('sub_a');
ROLLBACK;
SELECT checkpoint('sub_a');
SELECT poll('sub_a');
BEGIN;
SELECT ack('sub_a', '18');
SELECT checkpoint('sub_a');
ROLLBACK;
SELECT checkpoint('sub_a');
-- in one transaction, one by one
BEGIN;
SELECT poll('sub_a', 1);
SELECT ack('sub_a', '17');
SELECT poll('sub_a', 1);
SELECT ack('sub_a', '18');
SELECT poll('sub_a', 1);
COMMIT;
SELECT checkpoint('sub_a');
SELECT poll('sub_t'), ack('sub_t', '18');

-- bad arguments
SELECT try(statement) FROM unnest(ARRAY[
    $$SELECT esrs_poll(NULL)$$,
    $$SELECT esrs_poll('sub_no_such')$$,
    $$SELECT esrs_poll('sub_a', 0)$$,
    $$SELECT esrs_poll('sub_a', -1)$$,
    $$SELECT esrs_poll('sub_a', lease => '0')$$,
    $$SELECT esrs_poll('sub_a', lease => '-1 s')$$,
    $$SELECT esrs_ack(NULL, 1)$$,
    $$SELECT esrs_ack('sub_a', NULL)$$,
    $$SELECT esrs_ack('sub_no_such', 1)$$,
    $$SELECT esrs_nack(NULL)$$,
    $$SELECT esrs_nack('sub_no_such')$$,
    $$SELECT esrs_nack('sub_a', retry_after => '-1 s')$$]) AS statement;
-- where it cannot be done
BEGIN READ ONLY;
SELECT try(statement) FROM unnest(ARRAY[$$SELECT esrs_poll('sub_a')$$, $$SELECT esrs_ack('sub_a', 0)$$,
    $$SELECT esrs_nack('sub_a')$$, $$SELECT esrs_unsubscribe('sub_a')$$]) AS statement;
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT split_part(try(statement), E'\n', 1) AS refused FROM unnest(ARRAY[$$SELECT esrs_poll('sub_a')$$, $$SELECT esrs_subscribe('sub_x', '{sub_one}')$$,
    $$SELECT esrs_ack('sub_a', 0)$$]) AS statement;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT left(try($$SELECT esrs_poll('sub_a')$$), 5);
COMMIT;

-- ------------------------------------------------------------------------
-- Leases
-- ------------------------------------------------------------------------
SELECT add('sub_one', 'a', '21'), add('sub_one', 'a', '22'), add('sub_one', 'a', '23');
SELECT poll('sub_a', 2, 'ann'), checkpoint('sub_a');
SELECT try($$SELECT poll('sub_a', 2, 'bob')$$);
SELECT left(try($$SELECT poll('sub_a')$$), 5);
SELECT try($$SELECT ack('sub_a', '21', 'bob')$$);
SELECT try($$SELECT esrs_nack('sub_a', 'bob')$$);
-- the same owner: the same again, and a new lease
SELECT poll('sub_a', 2, 'ann', '2 minutes'), checkpoint('sub_a');
-- another subscription is not concerned
SELECT poll('sub_t', 1, 'bob');
SELECT esrs_nack('sub_t', 'bob'), checkpoint('sub_t');
-- the lease is over, but nobody has taken it
SELECT poll('sub_a', 3, 'ann', '1 ms');
SELECT pg_sleep(0.01);
SELECT ack('sub_a', '21', 'ann');
SELECT substr(checkpoint('sub_a'), 1, 18);
-- somebody has: the same events, and the late acknowledgement is refused
SELECT poll('sub_a', 1, 'bob'), checkpoint('sub_a');
SELECT try($$SELECT ack('sub_a', '22', 'ann')$$);
SELECT left(try($$SELECT esrs_nack('sub_a', 'ann')$$), 5);
-- except for what is acknowledged already
SELECT ack('sub_a', '21', 'ann');
-- what the other has not been given cannot be acknowledged by either
SELECT left(try($$SELECT ack('sub_a', '23', 'bob')$$), 5);
SELECT ack('sub_a', '22', 'bob');
SELECT ack('sub_a', '22', 'ann');
SELECT checkpoint('sub_a');
SELECT left(try($$SELECT ack('sub_a', '23', 'ann')$$), 5);
-- a null owner is the one without a name; an owner may have any
SELECT poll('sub_a', 1, $$o'"\ %s$$), checkpoint('sub_a');
SELECT try($$SELECT poll('sub_a', 1, NULL)$$);
SELECT esrs_nack('sub_a', $$o'"\ %s$$);
SELECT poll('sub_a', 1, NULL), checkpoint('sub_a');
SELECT esrs_ack('sub_a', at('23'), NULL);
SELECT checkpoint('sub_a');
-- nothing is left: no lease is kept
SELECT poll('sub_a', 1, 'ann'), poll('sub_a', 1, 'bob'), checkpoint('sub_a');

-- ------------------------------------------------------------------------
-- Giving back
-- ------------------------------------------------------------------------
SELECT add('sub_one', 'a', '31'), add('sub_one', 'a', '32');
SELECT poll('sub_a', 100, 'ann');
SELECT esrs_nack('sub_a', 'ann', error => 'no network');
SELECT checkpoint('sub_a');
-- the lease is gone with it
SELECT try($$SELECT ack('sub_a', '31', 'ann')$$);
SELECT left(try($$SELECT esrs_nack('sub_a', 'ann')$$), 5);
SELECT left(try($$SELECT esrs_nack('sub_a')$$), 5);
-- again, to anybody; the second attempt fails as well, and says when to try again
SELECT poll('sub_a', 100, 'bob'), checkpoint('sub_a');
SELECT esrs_nack('sub_a', 'bob', '1 hour', NULL);
SELECT checkpoint('sub_a');
SELECT poll('sub_a', 100, 'bob'), poll('sub_a', 100, 'ann'), checkpoint('sub_a');
-- a little later
SELECT esrs_resume_handler('sub_a');
SELECT poll('sub_a', 1, 'bob'), checkpoint('sub_a');
SELECT esrs_nack('sub_a', 'bob', '1 ms', 'again');
SELECT pg_sleep(0.01);
SELECT poll('sub_a', 100, 'bob');
-- a success, also if it is not for all, ends it
SELECT ack('sub_a', '31', 'bob');
SELECT checkpoint('sub_a');
SELECT esrs_nack('sub_a', 'bob', NULL);
SELECT poll('sub_a');
SELECT ack('sub_a', '32');
SELECT checkpoint('sub_a');

-- ------------------------------------------------------------------------
-- Deletions
-- ------------------------------------------------------------------------
SELECT poll('sub_t'), ack('sub_t', '32');
SELECT add('sub_one', 'c', '41'), add('sub_two', 'c', '42');
SELECT esrs_delete('sub_one', id('c'));
SELECT add('sub_one', 'c', '44');
SELECT poll('sub_a'), poll('sub_t');
SELECT aggregate, id IS NULL AS no_id, right(aggregate_id::text, 1) AS instance, payload, sequence_number, version, metadata, occurred_on IS NOT NULL AS dated
  FROM esrs_poll('sub_a');
-- pages
SELECT poll('sub_a', 1), ack('sub_a', '42'), poll('sub_a', 1), ack('sub_a', 'deleted-c'), poll('sub_a', 1), ack('sub_a', '44'), checkpoint('sub_a');
SELECT poll('sub_t', 2), ack('sub_t', 'deleted-c'), poll('sub_t', 2), ack('sub_t', '44'), checkpoint('sub_t');
-- deleted between two polls: what was handed out is not there any more
SELECT add('sub_one', 'd', '45');
SELECT poll('sub_a');
SELECT esrs_delete('sub_one', id('d'));
SELECT poll('sub_a');
SELECT ack('sub_a', '45'), checkpoint('sub_a');
SELECT ack('sub_a', 'deleted-d'), checkpoint('sub_a');
SELECT poll('sub_t'), ack('sub_t', 'deleted-d'), checkpoint('sub_t');

-- ------------------------------------------------------------------------
-- Deprecated events, and older payloads
-- ------------------------------------------------------------------------
CREATE FUNCTION upcast(payload jsonb, version int) RETURNS jsonb LANGUAGE sql AS
    $$SELECT CASE WHEN payload ->> 'n' LIKE '%x' THEN NULL ELSE payload || '{"upcast": true}' END$$;
SELECT esrs_alter_aggregate('sub_two', '{"upcast": "upcast(jsonb,int)", "event_version": 2}');
CREATE FUNCTION old(n text) RETURNS bigint LANGUAGE sql AS $$
    WITH e AS (INSERT INTO sub_two_events (id, aggregate_id, payload) VALUES (gen_random_uuid(), gen_random_uuid(), jsonb_build_object('n', $1))
               RETURNING position)
    SELECT e.position - b.position FROM e, base b $$;
SELECT old('51'), old('52x'), old('53'), old('54x');
SELECT payload FROM esrs_poll('sub_a');
-- they count, but are not shown; who has acknowledged the last that is shown has done all
SELECT poll('sub_a', 2), ack('sub_a', '51'), checkpoint('sub_a');
SELECT poll('sub_t'), checkpoint('sub_t');
SELECT ack('sub_t', '53'), checkpoint('sub_t');
SELECT poll('sub_a'), ack('sub_a', '53'), checkpoint('sub_a');
-- only such: an empty result means that there is nothing more
SELECT old('55x'), old('56x');
SELECT poll('sub_a'), checkpoint('sub_a');
SELECT poll('sub_t', 1), checkpoint('sub_t');
SELECT old('57x'), old('58x'), old('59x'), old('60'), old('61x'), old('62');
SELECT poll('sub_a', 1), poll('sub_a', 2), poll('sub_a', 3), checkpoint('sub_a');
SELECT poll('sub_t', 1), ack('sub_t', '60'), poll('sub_t', 1), ack('sub_t', '62'), checkpoint('sub_t');
SELECT ack('sub_a', '62'), checkpoint('sub_a');
-- a lease ends with them as well: they became deprecated after they were handed out
SELECT old('63');
SELECT poll('sub_a', 1, 'ann');
CREATE OR REPLACE FUNCTION upcast(payload jsonb, version int) RETURNS jsonb LANGUAGE sql AS
    $$SELECT CASE WHEN payload ->> 'n' LIKE '%x' OR payload ->> 'n' = '63' THEN NULL ELSE payload END$$;
SELECT poll('sub_a', 1, 'ann'), checkpoint('sub_a');
SELECT poll('sub_t');
-- very many
SELECT count(old('x')) FROM generate_series(1, 2500);
SELECT old('64'), old('65');
SELECT poll('sub_t', 1), poll('sub_a', 1), checkpoint('sub_a');
SELECT ack('sub_t', '64'), ack('sub_a', '64'), poll('sub_t', 1), poll('sub_a', 1);
SELECT ack('sub_t', '65'), ack('sub_a', '65'), checkpoint('sub_t');
-- one that cannot be read is an error, and nothing is handed out
INSERT INTO sub_two_events (id, aggregate_id, payload, version) VALUES ('5b5c0000-0000-4000-8000-0000000000e1', id('e'), '{"n": "s3cret"}', 9);
SELECT try($$SELECT poll('sub_t')$$);
SELECT checkpoint('sub_t');
SELECT esrs_delete('sub_two', id('e'));
SELECT poll('sub_t'), ack('sub_t', 'deleted-e'), poll('sub_a'), ack('sub_a', 'deleted-e');

-- ------------------------------------------------------------------------
-- Without events the checkpoint follows, now and then
-- ------------------------------------------------------------------------
SELECT count(add('sub_other', 'a', 'other')) FROM generate_series(1, 998);
SELECT checkpoint('sub_a') AS before \gset
SELECT poll('sub_a'), checkpoint('sub_a') = :'before' AS same;
SELECT count(add('sub_other', 'a', 'other')) FROM generate_series(1, 2);
SELECT poll('sub_a'), checkpoint('sub_a') = :'before' AS same;
SELECT s.last_value - c.position AS behind FROM esrs.checkpoints c, esrs.position_seq s WHERE c.name = 'sub_a';
-- many, in pages: all, once each, in order
SELECT poll('sub_t');
SELECT count(add(CASE WHEN n % 3 = 0 THEN 'sub_one' ELSE 'sub_two' END, 'f', 'page' || n)) FROM generate_series(1, 777) AS n;
DO $$
DECLARE
    got text[] := '{}';
    page text[];
    last bigint;
    size int;
BEGIN
    FOREACH size IN ARRAY ARRAY[1, 10, 600, 499, 1] LOOP
        SELECT array_agg(payload ->> 'n' ORDER BY ordinality), max(position) INTO page, last
          FROM esrs_poll('sub_a', size) WITH ORDINALITY;
        EXIT WHEN page IS NULL;
        got := got || page;
        PERFORM esrs_ack('sub_a', last);
    END LOOP;
    IF got <> (SELECT array_agg('page' || n ORDER BY n) FROM generate_series(1, 777) AS n) THEN
        RAISE 'not what was stored: %', got;
    END IF;
END $$;
SELECT poll('sub_a');
SELECT count(*) FROM esrs_poll('sub_t', 10000);
SELECT esrs_ack('sub_t', (SELECT max(position) FROM esrs_poll('sub_t', 10000)));

-- what was handed out is on disk, also if its writer did not wait
SET synchronous_commit = off;
SELECT add('sub_one', 'a', '71') IS NOT NULL AS added;
SELECT pg_current_wal_insert_lsn() AS written \gset
SELECT poll('sub_a');
SELECT pg_current_wal_flush_lsn() >= :'written' AS flushed;
RESET synchronous_commit;
SELECT ack('sub_a', '71');
SELECT poll('sub_t'), ack('sub_t', '71');

-- ------------------------------------------------------------------------
-- One's own transaction: what it has appended may still be rolled back
-- ------------------------------------------------------------------------
SELECT add('sub_one', 'a', '81') IS NOT NULL AS added;
BEGIN;
SELECT add('sub_one', 'a', '82') IS NOT NULL AS added;
SELECT poll('sub_a'), poll('sub_t');
SELECT ack('sub_a', '81');
SELECT poll('sub_a');
ROLLBACK;
SELECT poll('sub_a'), ack('sub_a', '81'), poll('sub_a');
SELECT poll('sub_t'), ack('sub_t', '81'), poll('sub_t');

-- ------------------------------------------------------------------------
-- Pause, resume, reset; a copy of the database
-- ------------------------------------------------------------------------
SELECT add('sub_one', 'a', '91') IS NOT NULL, add('sub_one', 'a', '92') IS NOT NULL;
SELECT poll('sub_a', 1, 'ann');
SELECT esrs_pause_handler('sub_a');
SELECT status FROM esrs.subscriptions WHERE name = 'sub_a';
-- nothing, also for the one with the lease, and without an error for others
SELECT poll('sub_a', 1, 'ann'), poll('sub_a', 1, 'bob');
-- what was handed out before can still be acknowledged
SELECT ack('sub_a', '91', 'ann');
SELECT poll('sub_a', 1, 'ann');
SELECT esrs_resume_handler('sub_a');
SELECT status FROM esrs.subscriptions WHERE name = 'sub_a';
SELECT poll('sub_a', 1, 'bob');
-- a pause does not end a lease
SELECT esrs_pause_handler('sub_a'), esrs_resume_handler('sub_a');
SELECT left(try($$SELECT poll('sub_a', 1, 'ann')$$), 5);
-- resuming lets it try at once
SELECT esrs_nack('sub_a', 'bob', '1 day', 'later'), poll('sub_a', 1, 'bob');
SELECT esrs_resume_handler('sub_a');
SELECT poll('sub_a', 1, 'bob');
-- back: who had leased it has lost it, and acknowledged events come again
SELECT at('91') AS p91, at('92') AS p92 \gset
SELECT esrs_reset_handler('sub_a', :p91 - 1);
SELECT try($$SELECT ack('sub_a', '92', 'bob')$$);
SELECT poll('sub_a', 100, 'ann');
SELECT ack('sub_a', '92', 'ann');
-- forward
SELECT esrs_reset_handler('sub_a', :p91 - 1);
SELECT esrs_reset_handler('sub_a', :p92);
SELECT poll('sub_a');
SELECT left(try($$SELECT esrs_reset_handler('sub_a', -1)$$), 5), left(try($$SELECT esrs_reset_handler('sub_a', 9223372036854775807)$$), 5),
       left(try($$SELECT esrs_reset_handler('sub_no_such', 0)$$), 5), left(try($$SELECT esrs_pause_handler('sub_no_such')$$), 5);
-- the database was copied to another cluster: only after somebody has said so
SELECT poll('sub_t', 1, 'ann'), poll('sub_t', 1, 'ann');
UPDATE esrs.subscriptions SET node = '1' WHERE name = 'sub_t';
SELECT try($$SELECT poll('sub_t', 1, 'ann')$$);
SELECT esrs_pause_handler('sub_t');
SELECT poll('sub_t', 1, 'ann');
SELECT node FROM esrs.subscriptions WHERE name = 'sub_t';
-- the lease was given there
SELECT esrs_resume_handler('sub_t');
SELECT poll('sub_t', 100, 'bob');
SELECT ack('sub_t', '92', 'bob');
-- the events were restored without the sequence that numbers them: it is moved on
BEGIN;
UPDATE esrs.checkpoints SET position = (SELECT last_value + 5000 FROM esrs.position_seq) WHERE name = 'sub_t';
SELECT poll('sub_t');
SELECT c.position <= s.last_value AS moved FROM esrs.checkpoints c, esrs.position_seq s WHERE name = 'sub_t';
ROLLBACK;
-- no checkpoint: it does nothing, until it is told where to begin
DELETE FROM esrs.checkpoints WHERE name = 'sub_t';
SELECT poll('sub_t');
SELECT left(try($$SELECT esrs_ack('sub_t', 1)$$), 5);
SELECT esrs_reset_handler('sub_t', :p91);
SELECT poll('sub_t'), ack('sub_t', '92');

-- ------------------------------------------------------------------------
-- Rights
-- ------------------------------------------------------------------------
CREATE ROLE regress_esrs_sub_team;
CREATE ROLE regress_esrs_sub_member IN ROLE regress_esrs_sub_team;
CREATE ROLE regress_esrs_sub_stranger;
GRANT USAGE ON SCHEMA t_subscription TO PUBLIC;
SET ROLE regress_esrs_sub_team;
SELECT try($$SELECT esrs_subscribe('sub_r', '{sub_one,sub_two}')$$);
RESET ROLE;
GRANT SELECT ON sub_one_events TO regress_esrs_sub_team;
SET ROLE regress_esrs_sub_team;
SELECT try($$SELECT esrs_subscribe('sub_r', '{sub_one,sub_two}', start_at => 'beginning')$$);
RESET ROLE;
GRANT SELECT ON sub_two_events TO regress_esrs_sub_team, regress_esrs_sub_stranger;
GRANT SELECT ON sub_one_events TO regress_esrs_sub_stranger;
SET ROLE regress_esrs_sub_team;
SELECT esrs_subscribe('sub_r', '{sub_one,sub_two}');
RESET ROLE;
SELECT run_as FROM esrs.subscriptions WHERE name = 'sub_r';
SELECT add('sub_one', 'a', '101') IS NOT NULL AS added;
-- a stranger, who may read the events
SET ROLE regress_esrs_sub_stranger;
SELECT try(statement) FROM unnest(ARRAY[$$SELECT esrs_poll('sub_r')$$, $$SELECT esrs_ack('sub_r', 0)$$, $$SELECT esrs_nack('sub_r')$$,
    $$SELECT esrs_unsubscribe('sub_r')$$, $$SELECT esrs_pause_handler('sub_r')$$, $$SELECT esrs_resume_handler('sub_r')$$,
    $$SELECT esrs_reset_handler('sub_r', 0)$$]) AS statement;
RESET ROLE;
-- a member, and a superuser
SET ROLE regress_esrs_sub_member;
SELECT poll('sub_r'), ack('sub_r', '101');
SELECT esrs_pause_handler('sub_r'), esrs_resume_handler('sub_r');
RESET ROLE;
SELECT add('sub_one', 'a', '102') IS NOT NULL AS added;
SELECT poll('sub_r');
SELECT esrs_nack('sub_r');
-- the right to read is the caller's, at the time of the poll
REVOKE SELECT ON sub_one_events FROM regress_esrs_sub_team;
SET ROLE regress_esrs_sub_team;
SELECT try($$SELECT esrs_poll('sub_r')$$);
RESET ROLE;
GRANT SELECT ON sub_one_events TO regress_esrs_sub_team;
-- row security: hidden events are not handed out, and a deletion tells nothing of them
ALTER TABLE sub_one_events ENABLE ROW LEVEL SECURITY;
CREATE POLICY two ON sub_one_events FOR SELECT TO regress_esrs_sub_team USING (payload ->> 'n' NOT LIKE '%hidden');
SELECT add('sub_one', 'a', '103hidden') IS NOT NULL, add('sub_one', 'a', '104') IS NOT NULL, esrs_delete('sub_one', id('b')), esrs_delete('sub_two', id('b'));
UPDATE esrs.deletions SET metadata = '{"secret": 1}' WHERE aggregate IN ('sub_one', 'sub_two') AND aggregate_id = id('b');
SET ROLE regress_esrs_sub_team;
SELECT aggregate, payload ->> 'n' AS n, right(aggregate_id::text, 1) AS instance, metadata FROM esrs_poll('sub_r');
SELECT esrs_ack('sub_r', (SELECT max(position) FROM esrs_poll('sub_r')));
SELECT poll('sub_r');
RESET ROLE;
ALTER TABLE sub_one_events DISABLE ROW LEVEL SECURITY;
DROP POLICY two ON sub_one_events;
SET ROLE regress_esrs_sub_team;
SELECT esrs_unsubscribe('sub_r');
RESET ROLE;

-- ------------------------------------------------------------------------
-- Aggregates that go
-- ------------------------------------------------------------------------
SELECT poll('sub_a') <> '', esrs_reset_handler('sub_a', (SELECT last_value FROM esrs.position_seq));
SELECT add('sub_one', 'a', '111') IS NOT NULL, add('sub_two', 'a', '112') IS NOT NULL;
SELECT poll('sub_a');
SELECT esrs_unregister_aggregate('sub_two', drop_events => true);
SELECT aggregates FROM esrs.subscriptions WHERE name = 'sub_a';
SELECT poll('sub_a'), ack('sub_a', '111'), poll('sub_a');
SELECT esrs_unsubscribe('sub_a');
-- with the last one the subscription goes
SELECT esrs_unregister_aggregate('sub_one', drop_events => true);
SELECT try($$SELECT esrs_poll('sub_t')$$);
SELECT count(*) FROM esrs.subscriptions WHERE name LIKE 'sub\_%';
SELECT count(*) FROM esrs.checkpoints WHERE name LIKE 'sub\_%';

SELECT esrs_unregister_aggregate('sub_other', drop_events => true);
DROP SCHEMA t_subscription CASCADE;
DROP ROLE regress_esrs_sub_team, regress_esrs_sub_member, regress_esrs_sub_stranger;
