--
-- upcast and event_version: payloads of older versions in today's form, wherever an event is read.
--
-- Catches: a reader that shows or folds a payload as it is stored, an upcast of what needs none, a
-- version that nobody knows read as if it were known, an upcaster that fails, loops or gives no
-- document and whose event is folded, handled or left out all the same.
--
\set SHOW_CONTEXT never
\getenv abs_builddir PG_ABS_BUILDDIR
SET client_min_messages = warning;
CREATE SCHEMA esrs_upcast;
SET search_path = esrs_upcast, public;
\pset null (null)
\set a '\'0bca5700-0000-4000-8000-00000000000a\''
\set b '\'0bca5700-0000-4000-8000-00000000000b\''
\set c '\'0bca5700-0000-4000-8000-00000000000c\''
\set d '\'0bca5700-0000-4000-8000-00000000000d\''

-- the first line of what a statement fails with, and where; no numbers of positions, no pids
CREATE FUNCTION try(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text; detail text; state text;
BEGIN
    EXECUTE statement;
    RETURN 'done';
EXCEPTION WHEN OTHERS OR query_canceled THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, state = RETURNED_SQLSTATE;
    RETURN concat_ws(' | ', state, message, nullif(detail, ''));
END $$;

-- one event in four forms; each step knows only its own
CREATE FUNCTION upcast(payload jsonb, version int) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    IF version IS NULL THEN     -- before there were versions: {"deposit": 5}
        payload := jsonb_build_object('type', 'deposited', 'amount', payload -> 'deposit');
        version := 0;
    END IF;
    IF version = 0 THEN         -- {"type": "deposited", "amount": 5}
        payload := jsonb_build_object(initcap(payload ->> 'type'), payload - 'type');
        version := 1;
    END IF;
    IF version = 1 THEN         -- {"Deposited": {"amount": 5}}
        payload := jsonb_set(payload, '{Deposited,currency}', '"EUR"');
        version := 2;
    END IF;
    IF version <> 2 THEN        -- {"Deposited": {"amount": 5, "currency": "EUR"}}
        RAISE 'unknown version %', version USING ERRCODE = 'ZE004';
    END IF;
    RETURN payload;
END $$;
-- takes today's form, and nothing else
CREATE FUNCTION apply(state jsonb, event jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    currency text := event #>> '{Deposited,currency}';
BEGIN
    IF currency IS NULL OR event #> '{Deposited,amount}' IS NULL THEN
        RAISE 'not of today';
    END IF;
    RETURN state || jsonb_build_object(currency, coalesce((state ->> currency)::numeric, 0) + (event #> '{Deposited,amount}')::numeric);
END $$;
-- a command is its event; it is rejected above a balance of 100 EUR
CREATE FUNCTION handle(state jsonb, command jsonb) RETURNS jsonb[] LANGUAGE plpgsql AS $$
BEGIN
    IF (state ->> 'EUR')::numeric > 100 THEN
        PERFORM esrs_reject('rich', 'rich enough');
    END IF;
    RETURN CASE WHEN command = '"Nothing"' THEN '{}' ELSE ARRAY[command] END;
END $$;

-- ------------------------------------------------------------------------
-- event_version is written with new events, of whatever origin
-- ------------------------------------------------------------------------
SELECT esrs_register_aggregate('up', handle_command => 'handle(jsonb,jsonb)', apply_event => 'apply(jsonb,jsonb)', initial_state => '{}',
                               upcast => 'upcast(jsonb,int)', event_version => 2, notify => 'off');
CREATE TABLE log (n serial, who text, what text);
CREATE FUNCTION shown() RETURNS TABLE (who text, what text) LANGUAGE sql AS
    $$WITH gone AS (DELETE FROM log RETURNING *) SELECT who, what FROM gone ORDER BY n$$;
CREATE FUNCTION note(who text, e esrs_event) RETURNS void LANGUAGE sql AS
    $$INSERT INTO log (who, what) VALUES (who, format('%s/%s version %s %s', right(e.aggregate_id::text, 1), e.sequence_number, coalesce(e.version::text, 'none'), e.payload))$$;
CREATE FUNCTION at_once(e esrs_event) RETURNS void LANGUAGE sql AS $$SELECT note('at once', e)$$;
SELECT esrs_register_handler('up_at_once', '{up}', 'at_once(esrs_event)');
\set eur '{"Deposited": {"amount": 1, "currency": "EUR"}}'
SELECT esrs_handle_command('up', :c, :'eur');
SELECT events[1].version FROM esrs_try_command('up', :c, :'eur');
SELECT events[1].version FROM esrs_handle_commands(ARRAY[('up', :c, :'eur', NULL, NULL, NULL)::esrs_command]);
SELECT version FROM esrs_persist('up', :c, ARRAY[:'eur', :'eur']::jsonb[]);
SELECT * FROM shown();
-- another one, 0 and none; the functions stay
SELECT esrs_alter_aggregate('up', '{"event_version": 0, "upcast": null}');
SELECT version FROM esrs_persist('up', :d, ARRAY[:'eur']::jsonb[]);
SELECT esrs_alter_aggregate('up', '{"event_version": null}');
SELECT version FROM esrs_persist('up', :d, ARRAY[:'eur']::jsonb[]);
SELECT version FROM up_events WHERE aggregate_id = :d ORDER BY sequence_number;
SELECT esrs_delete('up', :d);
SELECT esrs_alter_aggregate('up', '{"event_version": 2, "upcast": "upcast(jsonb,int)"}');
TRUNCATE log;

-- ------------------------------------------------------------------------
-- A history of all versions, in today's form wherever it is read
-- ------------------------------------------------------------------------
INSERT INTO up_events (id, aggregate_id, sequence_number, version, payload)
SELECT ('0bca57ed-0000-4000-8000-00000000000' || n)::uuid, :a, n, version, payload::jsonb
  FROM (VALUES (1, NULL, '{"deposit": 5}'), (2, 0, '{"type": "deposited", "amount": 6.50}'), (3, 1, '{"Deposited": {"amount": 7}}'),
               (4, 2, '{"Deposited": {"amount": 8, "currency": "USD"}}')) AS x(n, version, payload);
-- the fold: by a command, by reading, at a time, by a dry run
SELECT * FROM esrs_load('up', :a);
SELECT n, (SELECT state FROM esrs_load('up', :a, at_sequence => n)) FROM generate_series(1, 4) AS n;
SELECT * FROM esrs_lock_and_load('up', :a);
SELECT esrs_decide('up', :a, :'eur');
SELECT esrs_handle_command('up', :a, :'eur', expected_sequence => 4);
SELECT ok, sequence_number, state FROM esrs_try_command('up', :a, '"Nothing"');
SELECT aggregate_id = :a AS a, state FROM esrs_handle_commands(ARRAY[('up', :a, '"Nothing"', NULL, NULL, NULL), ('up', :c, '"Nothing"', NULL, NULL, NULL)]::esrs_command[]);
-- the decision sees it, too
INSERT INTO up_events (id, aggregate_id, sequence_number, payload) VALUES (gen_random_uuid(), :b, 1, '{"deposit": 101}');
SELECT ok, error ->> 'name' AS name FROM esrs_try_command('up', :b, :'eur');
SELECT esrs_delete('up', :b);
-- events, with the version that they were stored with
SELECT sequence_number, version, payload FROM esrs_events('up', :a);
SELECT sequence_number, version, payload FROM esrs_events('up', :a, 2, 3);
SELECT sequence_number, version, payload FROM esrs_feed('{up}') WHERE aggregate_id = :a;
SELECT esrs_subscribe('up_outside', '{up}', start_at => 'beginning');
SELECT sequence_number, version, payload FROM esrs_poll('up_outside', 100) WHERE aggregate_id = :a;
-- the message of each is made of it
SELECT esrs_event_json(e)::jsonb -> 'payload' = payload AS same, esrs_event_json(e)::jsonb ->> 'version' AS version FROM esrs_events('up', :a) AS e;
-- nothing was rewritten
SELECT sequence_number, version, payload FROM up_events WHERE aggregate_id = :a ORDER BY 1;
-- a transactional handler has seen what was new, in its only form
SELECT * FROM shown();

-- NOTIFY with the whole event: of an old version that somebody else writes, told by the worker
SELECT esrs_alter_aggregate('up', '{"notify": "worker", "notify_payload": "event"}');
LISTEN up_events;
-- psql writes what it hears where its output goes, after each statement; so there are many of them
\set heard :abs_builddir '/results/upcast.heard'
\setenv HEARD :heard
CREATE PROCEDURE listen(file text) LANGUAGE plpgsql AS $$BEGIN IF (pg_stat_file(file)).size = 0 THEN PERFORM pg_sleep(0.05); END IF; END$$;
\set listen 'CALL listen(:\'heard\');'
\set listen :listen :listen :listen :listen :listen :listen :listen :listen :listen :listen
\set listen :listen :listen :listen :listen :listen :listen :listen :listen :listen :listen
\o :heard
INSERT INTO up_events (id, aggregate_id, sequence_number, version, payload, occurred_on)
VALUES ('0bca57ed-0000-4000-8000-0000000000b1', :b, 1, 0, '{"type": "deposited", "amount": 1}', '2026-11-23 09:47:00.12+00');
:listen
\o
\! perl -pe 's/"position":[0-9]+/"position":0/; s/ received from .*//' "$HEARD"
\! rm -f "$HEARD"
UNLISTEN up_events;
SELECT esrs_alter_aggregate('up', '{"notify": "off", "notify_payload": null}');

-- ------------------------------------------------------------------------
-- Asynchronous handlers.  From here on no worker: each batch is run here, by CALL.
-- ------------------------------------------------------------------------
\set wait 'DO $$BEGIN IF current_setting(''esrs.max_workers'') <> ''0'' THEN PERFORM pg_sleep(0.05); END IF; END$$;'
\set wait :wait :wait :wait :wait :wait :wait :wait :wait :wait
\set wait :wait :wait :wait :wait :wait :wait :wait :wait :wait
\set wait_again 'DO $$BEGIN IF current_setting(''esrs.max_workers'') = ''0'' THEN PERFORM pg_sleep(0.05); END IF; END$$;'
\set wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again
\set wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again :wait_again
ALTER SYSTEM SET esrs.max_workers = 0;
SELECT pg_reload_conf();
:wait
SHOW esrs.max_workers;
SELECT esrs_stop_workers() >= 0 AS stopped;

CREATE FUNCTION one(e esrs_event) RETURNS void LANGUAGE sql AS $$SELECT note('one', e)$$;
CREATE FUNCTION many(e esrs_event[]) RETURNS void LANGUAGE sql AS $$SELECT note('many', u) FROM unnest(e) AS u ORDER BY u.position$$;
SELECT esrs_delete('up', :c), esrs_delete('up', :b);
-- one by one, and as sets; the type of an event is that of today's form
SELECT esrs_register_handler('up_one', '{up}', 'one(esrs_event)', mode => 'async', start_at => 'beginning', event_types => '{Deposited}');
CALL esrs_run_handlers('up_one');
SELECT * FROM shown();
SELECT esrs_register_handler('up_many', '{up}', 'many(esrs_event[])', mode => 'async', start_at => 'beginning');
CALL esrs_run_handlers('up_many');
SELECT * FROM shown();
SELECT esrs_unregister_handler('up_many');

-- ------------------------------------------------------------------------
-- A version that is newer than event_version: ZE004 names both, wherever it is read
-- ------------------------------------------------------------------------
INSERT INTO up_events (id, aggregate_id, sequence_number, version, payload) VALUES ('0bca57ed-0000-4000-8000-0000000000b3', :b, 1, 3, '{"s3cret": 1}');
SELECT what, try(format(statement, :b)) FROM (VALUES
    (1, 'handle_command', $$SELECT esrs_handle_command('up', %L, '"Nothing"')$$),
    (2, 'try_command', $$SELECT * FROM esrs_try_command('up', %L, '"Nothing"')$$),
    (3, 'handle_commands', $$SELECT * FROM esrs_handle_commands(ARRAY[('up', %L, '"Nothing"', NULL, NULL, NULL)::esrs_command])$$),
    (4, 'decide', $$SELECT esrs_decide('up', %L, '"Nothing"')$$),
    (5, 'load', $$SELECT * FROM esrs_load('up', %L)$$),
    (6, 'lock_and_load', $$SELECT * FROM esrs_lock_and_load('up', %L)$$),
    (7, 'events', $$SELECT * FROM esrs_events('up', %L)$$),
    (8, 'feed', $$SELECT * FROM esrs_feed('{up}')$$),
    (9, 'poll', $$SELECT esrs_ack('up_outside', (SELECT max(position) FROM up_events WHERE aggregate_id <> %1$L)); SELECT * FROM esrs_poll('up_outside')$$)) AS x(n, what, statement)
 ORDER BY n;
-- CONTEXT names the event, and no payload
\set SHOW_CONTEXT always
SELECT * FROM esrs_load('up', :b);
\set SHOW_CONTEXT never
-- nothing was stored by any of them; without reading it one can append
SELECT count(*) FROM up_events WHERE aggregate_id = :b;
SELECT sequence_number, version FROM esrs_persist('up', :b, ARRAY[:'eur']::jsonb[]);
SELECT * FROM esrs_load('up', :b, at_sequence => 0);
-- a handler: a dead letter, and what comes behind it is handled; retried when the code knows it
SELECT esrs_alter_handler('up_one', '{"max_attempts": 1}');
SET client_min_messages = error;
CALL esrs_run_handlers('up_one');
SET client_min_messages = warning;
SELECT * FROM shown();
CREATE VIEW letters AS SELECT right(aggregate_id::text, 1) || '/' || sequence_number AS event, state, sqlstate, message, detail FROM esrs_dead_letters WHERE handler LIKE 'up%' ORDER BY position;
SELECT * FROM letters;
CREATE FUNCTION upcast_3(payload jsonb, version int) RETURNS jsonb RETURN
    CASE WHEN payload ? 's3cret' THEN '{"Deposited": {"amount": 3, "currency": "EUR"}}' WHEN version = 3 THEN payload ELSE upcast(payload, version) END;
SELECT esrs_alter_aggregate('up', '{"event_version": 4, "upcast": "upcast_3(jsonb,int)"}');
SELECT esrs_retry_dead_letters('up_one');
CALL esrs_run_handlers('up_one');
SELECT * FROM shown();
SELECT * FROM letters;
SELECT * FROM esrs_load('up', :b);
-- back again
SELECT esrs_alter_aggregate('up', '{"event_version": 2, "upcast": "upcast(jsonb,int)"}');
SELECT try($$SELECT * FROM esrs_load('up', '0bca5700-0000-4000-8000-00000000000b')$$);
SELECT esrs_delete('up', :b);

-- ------------------------------------------------------------------------
-- An upcaster that does what it must not
-- ------------------------------------------------------------------------
CREATE FUNCTION bad(payload jsonb, version int) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    CASE payload ->> 'do'
        WHEN 'null' THEN RETURN NULL;
        WHEN 'jsonb null' THEN RETURN 'null';
        WHEN 'array' THEN RETURN jsonb_build_array(payload);
        WHEN 'number' THEN RETURN '1';
        WHEN 'boolean' THEN RETURN 'true';
        WHEN 'string' THEN RETURN '"Fine"';
        WHEN 'raise' THEN RAISE 'cannot' USING ERRCODE = 'P0009';
        WHEN 'cast' THEN RETURN to_jsonb((payload ->> 'do')::int);
        WHEN 'reject' THEN RAISE 'no' USING ERRCODE = 'ZE001';
        WHEN 'loop' THEN LOOP END LOOP;
    END CASE;
    RETURN payload;
EXCEPTION WHEN invalid_text_representation THEN
    RAISE 'cannot read' USING ERRCODE = 'ZE004';
END $$;
CREATE FUNCTION anything(state jsonb, command jsonb) RETURNS jsonb[] RETURN ARRAY[command];
CREATE FUNCTION count_up(state jsonb, event jsonb) RETURNS jsonb RETURN jsonb_build_object('events', coalesce((state ->> 'events')::int, 0) + 1);
SELECT esrs_register_aggregate('up_bad', handle_command => 'anything(jsonb,jsonb)', apply_event => 'count_up(jsonb,jsonb)',
                               upcast => 'bad(jsonb,int)', event_version => 2);
SELECT esrs_register_handler('up_bad_one', '{up_bad}', 'one(esrs_event)', mode => 'async', max_attempts => 1);
CREATE TABLE cases (n int, what text, id uuid DEFAULT gen_random_uuid());
INSERT INTO cases SELECT n, what FROM unnest('{"null",jsonb null,array,number,boolean,string,raise,cast,reject,no such case}'::text[]) WITH ORDINALITY AS x(what, n);
INSERT INTO up_bad_events (id, aggregate_id, sequence_number, version, payload)
SELECT gen_random_uuid(), id, 1, 1, jsonb_build_object('do', what) FROM cases ORDER BY n;
-- wherever it is read; null means that the event is deprecated, and a string is a document
SELECT what, count(*), x AS result FROM cases, LATERAL (VALUES (try(format('SELECT * FROM esrs_load(%L, %L)', 'up_bad', id))),
    (try(format('SELECT * FROM esrs_lock_and_load(%L, %L)', 'up_bad', id))), (try(format('SELECT * FROM esrs_events(%L, %L)', 'up_bad', id))),
    (try(format('SELECT esrs_decide(%L, %L, %L)', 'up_bad', id, '"X"'))), (try(format('SELECT esrs_handle_command(%L, %L, %L)', 'up_bad', id, '"X"'))),
    (try(format('SELECT * FROM esrs_try_command(%L, %L, %L)', 'up_bad', id, '"X"')))) AS y(x) GROUP BY n, what, x ORDER BY n, x;
SELECT what, (SELECT count(*) FROM esrs_events('up_bad', cases.id)) AS events, l.sequence_number, l.state
  FROM cases, esrs_load('up_bad', id) AS l WHERE what IN ('null', 'string') ORDER BY n;
-- of the others nothing was stored
SELECT count(*) FROM up_bad_events;
-- who raises is named, with the event
UPDATE cases SET id = ('0bca57ff-0000-4000-8000-00000000000' || n % 10)::uuid;
INSERT INTO up_bad_events (id, aggregate_id, sequence_number, version, payload) SELECT id, id, 1, 1, jsonb_build_object('do', what) FROM cases;
\set SHOW_CONTEXT always
SELECT * FROM esrs_load('up_bad', '0bca57ff-0000-4000-8000-000000000003');
SELECT * FROM esrs_events('up_bad', '0bca57ff-0000-4000-8000-000000000007');
SELECT esrs_handle_command('up_bad', '0bca57ff-0000-4000-8000-000000000002', '"X"');
\set SHOW_CONTEXT never
-- feeds and subscriptions stop there, handlers pass over it (with warnings that name positions)
SELECT try($$SELECT * FROM esrs_feed('{up_bad}')$$);
SELECT esrs_subscribe('up_bad_outside', '{up_bad}', start_at => 'beginning');
SELECT try($$SELECT * FROM esrs_poll('up_bad_outside')$$);
SET client_min_messages = error;
CALL esrs_run_handlers('up_bad_one');
SET client_min_messages = warning;
SELECT who, count(*) FROM shown() GROUP BY 1;
SELECT sqlstate, message, count(*) FROM letters GROUP BY 1, 2 ORDER BY 1, 2;
-- one that loops is ended as any function is
INSERT INTO up_bad_events (id, aggregate_id, sequence_number, version, payload) VALUES (gen_random_uuid(), :c, 1, 1, '{"do": "loop"}');
SET statement_timeout = '100ms';
SELECT * FROM esrs_load('up_bad', :c);
SELECT esrs_handle_command('up_bad', :c, '"X"');
SELECT * FROM esrs_events('up_bad', :c);
RESET statement_timeout;
-- mended by CREATE OR REPLACE, and nothing else
CREATE OR REPLACE FUNCTION bad(payload jsonb, version int) RETURNS jsonb RETURN jsonb_build_object('mended', payload);
SELECT * FROM esrs_load('up_bad', :c);
SELECT esrs_handle_command('up_bad', :c, '"X"');
SELECT count(*), count(DISTINCT payload -> 'mended' ->> 'do') FROM esrs_feed('{up_bad}');

-- what a foreign writer has stored otherwise than as an object or a string is the upcaster's to judge
CREATE OR REPLACE FUNCTION bad(payload jsonb, version int) RETURNS jsonb RETURN
    CASE version WHEN 0 THEN jsonb_build_object('Number', payload) WHEN 1 THEN payload END;
SELECT esrs_delete('up_bad', :c);
INSERT INTO up_bad_events (id, aggregate_id, sequence_number, version, payload)
VALUES (gen_random_uuid(), :c, 1, 0, '1'), (gen_random_uuid(), :c, 2, 1, '[1, 2]'), (gen_random_uuid(), :c, 3, 1, 'null'), (gen_random_uuid(), :c, 4, NULL, '2');
SELECT sequence_number, payload FROM esrs_events('up_bad', :c);
SELECT * FROM esrs_load('up_bad', :c);

-- ------------------------------------------------------------------------
-- Without an event_version new events are upcast, too: what they are then must be what they were
-- ------------------------------------------------------------------------
CREATE FUNCTION of_old(payload jsonb, version int) RETURNS jsonb RETURN
    CASE WHEN payload ? 'Old' THEN jsonb_build_object('New', payload -> 'Old') WHEN payload ? 'Odd' THEN '["Odd"]' ELSE payload END;
SELECT esrs_register_aggregate('up_none', handle_command => 'anything(jsonb,jsonb)', apply_event => 'count_up(jsonb,jsonb)', upcast => 'of_old(jsonb,int)');
SELECT esrs_handle_command('up_none', :a, '{"New": {"n": 1}}');
SELECT esrs_handle_command('up_none', :a, '{"Old": {"n": 1}}');
\echo :SQLSTATE
SELECT payload FROM esrs_persist('up_none', :a, '{"{\"Odd\": 1}"}');
\echo :SQLSTATE
SELECT payload, version FROM up_none_events;

-- ------------------------------------------------------------------------
-- Switched on for an aggregate that lives, and off again
-- ------------------------------------------------------------------------
SELECT esrs_register_aggregate('up_live', handle_command => 'anything(jsonb,jsonb)', apply_event => 'count_up(jsonb,jsonb)');
CREATE FUNCTION of_type(state jsonb, event jsonb) RETURNS jsonb RETURN
    state || jsonb_build_object(CASE WHEN event ? 'New' THEN 'new' WHEN event ? 'Old' THEN 'old' ELSE 'other' END, event);
SELECT esrs_alter_aggregate('up_live', '{"apply_event": "of_type(jsonb,jsonb)"}');
SELECT esrs_handle_command('up_live', :a, '{"Old": {"n": 1}}', command_id => '0bca57cc-0000-4000-8000-000000000001');
SELECT esrs_alter_aggregate('up_live', '{"upcast": "of_old(jsonb,int)", "event_version": 1}');
SELECT * FROM esrs_load('up_live', :a);
-- a command that was seen answers in today's form
SELECT sequence_number, state, events[1].payload, events[1].version
  FROM esrs_try_command('up_live', :a, '{"Old": {"n": 1}}', command_id => '0bca57cc-0000-4000-8000-000000000001');
SELECT esrs_handle_command('up_live', :a, '{"Old": {"n": 2}}');
SELECT sequence_number, version, payload FROM esrs_events('up_live', :a);
SELECT sequence_number, version, payload FROM up_live_events ORDER BY 1;
-- in the middle of a transaction
BEGIN;
SELECT state FROM esrs_lock_and_load('up_live', :a);
SELECT esrs_alter_aggregate('up_live', '{"upcast": null, "event_version": null}');
SELECT state FROM esrs_lock_and_load('up_live', :a);
ROLLBACK;
SELECT state FROM esrs_load('up_live', :a);
SELECT esrs_alter_aggregate('up_live', '{"upcast": null, "event_version": null}');
SELECT state FROM esrs_load('up_live', :a);
-- replaced: by another body, and another function of the same name
SELECT esrs_alter_aggregate('up_live', '{"upcast": "of_old(jsonb,int)", "event_version": 2}');
SELECT state FROM esrs_load('up_live', :a);
CREATE OR REPLACE FUNCTION of_old(payload jsonb, version int) RETURNS jsonb RETURN
    CASE WHEN payload ? 'Old' THEN jsonb_build_object('New', 'replaced') ELSE payload END;
SELECT state FROM esrs_load('up_live', :a);
-- a chain of functions of SQL, one for each step
CREATE FUNCTION step_2(payload jsonb) RETURNS jsonb RETURN payload || '{"step": 2}';
CREATE FUNCTION step_1(payload jsonb) RETURNS jsonb RETURN step_2(payload || '{"steps": [1, 2]}');
CREATE FUNCTION steps(payload jsonb, version int) RETURNS jsonb RETURN
    CASE coalesce(version, 0) WHEN 0 THEN step_1(payload) WHEN 1 THEN step_2(payload) ELSE payload END;
SELECT esrs_alter_aggregate('up_live', '{"upcast": "steps(jsonb,int)", "event_version": 2}');
SELECT sequence_number, version, payload FROM esrs_events('up_live', :a);

SELECT esrs_unsubscribe(name) FROM unnest('{up_outside,up_bad_outside}'::text[]) AS name;
SELECT esrs_unregister_aggregate(name, drop_events => true) FROM unnest('{up,up_bad,up_none,up_live}'::text[]) AS name;
DROP SCHEMA esrs_upcast CASCADE;
ALTER SYSTEM RESET esrs.max_workers;
SELECT pg_reload_conf();
:wait_again
SHOW esrs.max_workers;
