/* esrs--1.0.sql: the objects of the extension esrs */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION esrs" to load this file. \quit

-- ---------------------------------------------------------------------------
-- Schema
--
-- What users call lives in the schema that CREATE EXTENSION chose; catalogs
-- and internals live here.  CREATE SCHEMA without IF NOT EXISTS on purpose: a
-- schema that somebody else made before must not be adopted.
-- ---------------------------------------------------------------------------

CREATE SCHEMA esrs;

COMMENT ON SCHEMA esrs IS 'catalogs and internals of the extension esrs';

-- ---------------------------------------------------------------------------
-- Types
-- ---------------------------------------------------------------------------

CREATE TYPE esrs.aggregate_handler;

CREATE FUNCTION esrs.aggregate_handler_in(cstring)
RETURNS esrs.aggregate_handler
LANGUAGE C STRICT IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'esrs_aggregate_handler_in';

CREATE FUNCTION esrs.aggregate_handler_out(esrs.aggregate_handler)
RETURNS cstring
LANGUAGE C STRICT IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'esrs_aggregate_handler_out';

CREATE TYPE esrs.aggregate_handler (
    INPUT = esrs.aggregate_handler_in,
    OUTPUT = esrs.aggregate_handler_out,
    LIKE = pg_catalog.internal
);

CREATE TYPE @extschema@.esrs_event AS (
    aggregate text,
    id uuid,
    aggregate_id uuid,
    payload jsonb,
    occurred_on timestamptz,
    sequence_number int,
    version int,
    position bigint,
    metadata jsonb
);

CREATE TYPE @extschema@.esrs_state AS (
    aggregate_id uuid,
    sequence_number int,
    state jsonb
);

CREATE TYPE @extschema@.esrs_result AS (
    ok boolean,
    aggregate_id uuid,
    sequence_number int,
    state jsonb,
    events @extschema@.esrs_event[],
    error jsonb
);

CREATE TYPE @extschema@.esrs_command AS (
    aggregate text,
    aggregate_id uuid,
    command jsonb,
    expected_sequence int,
    metadata jsonb,
    command_id uuid
);

COMMENT ON TYPE esrs.aggregate_handler IS 'what a handler function of an aggregate written in C returns';
COMMENT ON TYPE @extschema@.esrs_event IS 'an event; one with a null id tells that the instance was deleted';
COMMENT ON TYPE @extschema@.esrs_state IS 'the state of an instance after an event';
COMMENT ON TYPE @extschema@.esrs_result IS 'what a command brought about, or why it was rejected';
COMMENT ON TYPE @extschema@.esrs_command IS 'a command for esrs_handle_commands';

-- ---------------------------------------------------------------------------
-- Catalogs
--
-- Functions are stored as text signatures: a column of type regprocedure would
-- make pg_upgrade refuse the cluster.  Everything here is dumped as data.
-- ---------------------------------------------------------------------------

CREATE SEQUENCE esrs.position_seq AS bigint CACHE 1;
CREATE SEQUENCE esrs.handler_ordinal_seq AS bigint;

CREATE TABLE esrs.aggregates (
    name text PRIMARY KEY,
    events regclass NOT NULL UNIQUE,
    handler text,
    handle_command text,
    apply_event text,
    initial_state jsonb,
    upcast text,
    from_event text,
    to_event text,
    event_version int,
    snapshot_every int,
    event_id_format text NOT NULL,
    event_type_path text,
    unique_event_id boolean NOT NULL,
    append_only boolean NOT NULL,
    notify text,
    notify_payload text,
    notify_since bigint NOT NULL DEFAULT 0,
    adopted boolean NOT NULL,
    registered_by regrole NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);

CREATE TABLE esrs.handlers (
    name text PRIMARY KEY,
    ordinal bigint NOT NULL DEFAULT pg_catalog.nextval('esrs.handler_ordinal_seq'),
    aggregates text[] NOT NULL,
    handler text NOT NULL,
    mode text NOT NULL,
    delete_handler text,
    event_types text[],
    replayable boolean NOT NULL,
    ordering text NOT NULL,
    partitions int NOT NULL,
    batch_size int NOT NULL,
    on_error text NOT NULL,
    max_attempts int NOT NULL,
    start_at text NOT NULL,
    run_as regrole NOT NULL,
    handler_owner regrole NOT NULL,
    delete_handler_owner regrole,
    search_path text NOT NULL,
    status text NOT NULL DEFAULT 'active',
    registered_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);

CREATE TABLE esrs.subscriptions (
    name text PRIMARY KEY,
    aggregates text[] NOT NULL,
    ordering text NOT NULL,
    start_at text NOT NULL,
    run_as regrole NOT NULL,
    node text NOT NULL,
    status text NOT NULL DEFAULT 'active',
    registered_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);

-- Updated with every batch: half of each page is left for new versions of its rows.
CREATE TABLE esrs.checkpoints (
    name text NOT NULL,
    partition int NOT NULL,
    position bigint NOT NULL,
    ahead int8multirange NOT NULL DEFAULT '{}',
    failing bigint,
    attempts int NOT NULL DEFAULT 0,
    retry_at timestamptz,
    last_error text,
    handed int8multirange NOT NULL DEFAULT '{}',
    handed_safe bigint,
    lease_owner text,
    lease_until timestamptz,
    updated_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (name, partition)
) WITH (fillfactor = 50);

CREATE TABLE esrs.dead_letters (
    handler text NOT NULL,
    position bigint NOT NULL,
    aggregate text NOT NULL,
    aggregate_id uuid NOT NULL,
    event_id uuid,
    sequence_number int,
    state text NOT NULL,
    failed_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    attempts int NOT NULL,
    sqlstate text,
    message text,
    detail text,
    context text,
    PRIMARY KEY (handler, position)
);

CREATE INDEX dead_letters_instance ON esrs.dead_letters (handler, aggregate_id);

CREATE TABLE esrs.commands (
    aggregate_id uuid NOT NULL,
    aggregate text NOT NULL,
    command_id uuid NOT NULL,
    sha256 bytea NOT NULL,
    sequence_number int NOT NULL,
    events int NOT NULL,
    handled_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    PRIMARY KEY (aggregate_id, aggregate, command_id)
);

CREATE TABLE esrs.deletions (
    aggregate_id uuid NOT NULL,
    aggregate text NOT NULL,
    position bigint NOT NULL,
    deleted_at timestamptz NOT NULL,
    last_sequence int NOT NULL,
    permanent boolean NOT NULL,
    metadata jsonb,
    PRIMARY KEY (aggregate_id, aggregate, position)
);

CREATE INDEX deletions_feed ON esrs.deletions (aggregate, position);

-- Not dumped: what is lost is folded again.  A row is replaced in its place, so
-- that part of each page is left for its next version.
CREATE TABLE esrs.snapshots (
    aggregate_id uuid NOT NULL,
    aggregate text NOT NULL,
    sequence_number int NOT NULL,
    event_id uuid NOT NULL,
    position bigint NOT NULL,
    occurred_on timestamptz NOT NULL,
    fingerprint bytea NOT NULL,
    checksum bigint NOT NULL,
    state jsonb NOT NULL,
    PRIMARY KEY (aggregate_id, aggregate)
) WITH (fillfactor = 70);

-- Rebuilds instance by instance that are not finished.  Not dumped: in another
-- database they begin anew.
CREATE TABLE esrs.rebuilds (
    handlers text,
    share int,
    shares int NOT NULL,
    version text NOT NULL,
    last_id uuid,
    done boolean NOT NULL,
    instances bigint NOT NULL,
    events bigint NOT NULL,
    started_at timestamptz NOT NULL,
    PRIMARY KEY (handlers, share)
) WITH (fillfactor = 50);

-- Which transactions have replaced or emptied tables of read models.  Not dumped:
-- numbers of transactions mean nothing elsewhere.
CREATE TABLE esrs.swaps (
    handler text PRIMARY KEY REFERENCES esrs.handlers ON DELETE CASCADE,
    swapped_by xid8 NOT NULL
);

COMMENT ON TABLE esrs.swaps IS 'transactions that have replaced or emptied tables of read models';
COMMENT ON TABLE esrs.rebuilds IS 'how far rebuilds instance by instance are that were not finished';
COMMENT ON COLUMN esrs.rebuilds.version IS 'of the event handlers and their functions: with others the rebuild begins anew';
COMMENT ON COLUMN esrs.rebuilds.share IS 'of the instances, by the hash of their ids: each is the work of one process';
COMMENT ON COLUMN esrs.rebuilds.last_id IS 'the instance that was done last; they are done in the order of their ids';
COMMENT ON COLUMN esrs.rebuilds.done IS 'all instances of the share are done';
COMMENT ON SEQUENCE esrs.position_seq IS 'positions of all events of this database';
COMMENT ON SEQUENCE esrs.handler_ordinal_seq IS 'order of registration of event handlers';
COMMENT ON TABLE esrs.aggregates IS 'registered aggregates';
COMMENT ON TABLE esrs.handlers IS 'registered event handlers';
COMMENT ON TABLE esrs.commands IS 'commands that came with a command_id; old rows may be deleted, which ends their protection against repetition';
COMMENT ON COLUMN esrs.commands.events IS 'how many events the command brought about, the last of them sequence_number';
COMMENT ON COLUMN esrs.aggregates.registered_by IS 'who may change the aggregate when its table is gone';
COMMENT ON COLUMN esrs.handlers.handler_owner IS 'who owned the function when it was named; one of another owner is not called';
COMMENT ON COLUMN esrs.handlers.delete_handler_owner IS 'the same for delete_handler';
COMMENT ON COLUMN esrs.handlers.search_path IS 'with which an asynchronous handler runs: that of the role that registered it';
COMMENT ON COLUMN esrs.aggregates.notify_since IS 'where the worker began to tell of its events';
COMMENT ON TABLE esrs.subscriptions IS 'consumers outside the database, which poll';
COMMENT ON COLUMN esrs.subscriptions.node IS 'the cluster in which it may be polled';
COMMENT ON TABLE esrs.checkpoints IS 'how far asynchronous event handlers and subscriptions are; a row that is missing means: do nothing';
COMMENT ON COLUMN esrs.checkpoints.position IS 'all events up to here are handled';
COMMENT ON COLUMN esrs.checkpoints.ahead IS 'positions behind it that are handled already';
COMMENT ON COLUMN esrs.checkpoints.failing IS 'the event that is being retried';
COMMENT ON COLUMN esrs.checkpoints.handed IS 'positions that a poll has handed out and that are not acknowledged';
COMMENT ON COLUMN esrs.checkpoints.handed_safe IS 'where the checkpoint goes when all of them are';
COMMENT ON TABLE esrs.dead_letters IS 'events that a handler has given up, and those parked behind them';
COMMENT ON TABLE esrs.snapshots IS 'states of instances, so that loading needs only the events after them';
COMMENT ON COLUMN esrs.snapshots.event_id IS 'the event with that sequence_number';
COMMENT ON COLUMN esrs.snapshots.position IS 'of that event';
COMMENT ON COLUMN esrs.snapshots.occurred_on IS 'the latest of all events so far';
COMMENT ON COLUMN esrs.snapshots.fingerprint IS 'of the functions that made the state; with others it is not used';
COMMENT ON COLUMN esrs.snapshots.checksum IS 'of the row; an edited one is not used';
COMMENT ON TABLE esrs.deletions IS 'deleted instances, as the feed tells them';

SELECT pg_catalog.pg_extension_config_dump('esrs.position_seq', '');
SELECT pg_catalog.pg_extension_config_dump('esrs.aggregates', '');
SELECT pg_catalog.pg_extension_config_dump('esrs.handlers', '');
SELECT pg_catalog.pg_extension_config_dump('esrs.handler_ordinal_seq', '');
SELECT pg_catalog.pg_extension_config_dump('esrs.commands', '');
SELECT pg_catalog.pg_extension_config_dump('esrs.deletions', '');
SELECT pg_catalog.pg_extension_config_dump('esrs.subscriptions', '');
SELECT pg_catalog.pg_extension_config_dump('esrs.checkpoints', '');
SELECT pg_catalog.pg_extension_config_dump('esrs.dead_letters', '');

-- Backends keep what they read here; a change tells them.
CREATE FUNCTION esrs.catalog_changed()
RETURNS trigger
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_catalog_changed';

CREATE TRIGGER changed
AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON esrs.aggregates
FOR EACH STATEMENT EXECUTE FUNCTION esrs.catalog_changed();

CREATE TRIGGER changed
AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON esrs.handlers
FOR EACH STATEMENT EXECUTE FUNCTION esrs.catalog_changed();

ALTER TABLE esrs.aggregates ENABLE ALWAYS TRIGGER changed;
ALTER TABLE esrs.handlers ENABLE ALWAYS TRIGGER changed;

-- ---------------------------------------------------------------------------
-- Events tables: the default of "position", and the guard
-- ---------------------------------------------------------------------------

CREATE FUNCTION esrs.next_position(aggregate text, VARIADIC callbacks regprocedure[] DEFAULT '{}')
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_next_position';

CREATE FUNCTION esrs.append_only()
RETURNS trigger
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_append_only';


-- ---------------------------------------------------------------------------
-- Registration
-- ---------------------------------------------------------------------------

CREATE FUNCTION @extschema@.esrs_register_aggregate(
    name text,
    handler text DEFAULT NULL,
    handle_command text DEFAULT NULL,
    apply_event text DEFAULT NULL,
    initial_state jsonb DEFAULT NULL,
    upcast text DEFAULT NULL,
    from_event text DEFAULT NULL,
    to_event text DEFAULT NULL,
    event_version int DEFAULT NULL,
    snapshot_every int DEFAULT NULL,
    event_id_format text DEFAULT 'v7',
    event_type_path text DEFAULT NULL,
    unique_event_id boolean DEFAULT false,
    append_only boolean DEFAULT true,
    notify text DEFAULT NULL,
    notify_payload text DEFAULT NULL,
    if_not_exists boolean DEFAULT false
)
RETURNS regclass
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_register_aggregate';

CREATE FUNCTION @extschema@.esrs_alter_aggregate(
    name text,
    options jsonb
)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_alter_aggregate';

CREATE FUNCTION @extschema@.esrs_unregister_aggregate(
    name text,
    drop_events boolean DEFAULT false
)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_unregister_aggregate';

CREATE FUNCTION @extschema@.esrs_register_handler(
    name text,
    aggregates text[],
    handler text,
    mode text DEFAULT 'transactional',
    delete_handler text DEFAULT NULL,
    event_types text[] DEFAULT NULL,
    replayable boolean DEFAULT true,
    ordering text DEFAULT 'aggregate',
    partitions int DEFAULT 1,
    batch_size int DEFAULT 100,
    on_error text DEFAULT 'skip',
    max_attempts int DEFAULT 5,
    start_at text DEFAULT 'now'
)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_register_handler';

CREATE FUNCTION @extschema@.esrs_alter_handler(
    name text,
    options jsonb
)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_alter_handler';

CREATE FUNCTION @extschema@.esrs_unregister_handler(
    name text
)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_unregister_handler';

-- ---------------------------------------------------------------------------
-- Commands
-- ---------------------------------------------------------------------------

CREATE FUNCTION @extschema@.esrs_handle_command(
    aggregate text,
    aggregate_id uuid,
    command jsonb,
    expected_sequence int DEFAULT NULL,
    metadata jsonb DEFAULT NULL,
    command_id uuid DEFAULT NULL
)
RETURNS jsonb
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_handle_command';

CREATE FUNCTION @extschema@.esrs_try_command(
    aggregate text,
    aggregate_id uuid,
    command jsonb,
    expected_sequence int DEFAULT NULL,
    metadata jsonb DEFAULT NULL,
    command_id uuid DEFAULT NULL
)
RETURNS @extschema@.esrs_result
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_try_command';

CREATE FUNCTION @extschema@.esrs_handle_commands(
    commands @extschema@.esrs_command[]
)
RETURNS SETOF @extschema@.esrs_result
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_handle_commands';

CREATE FUNCTION @extschema@.esrs_decide(
    aggregate text,
    aggregate_id uuid,
    command jsonb
)
RETURNS SETOF jsonb
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_decide';

CREATE FUNCTION @extschema@.esrs_persist(
    aggregate text,
    aggregate_id uuid,
    events jsonb[],
    expected_sequence int DEFAULT NULL,
    metadata jsonb DEFAULT NULL,
    event_ids uuid[] DEFAULT NULL
)
RETURNS SETOF @extschema@.esrs_event
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_persist';

CREATE FUNCTION @extschema@.esrs_delete(
    aggregate text,
    aggregate_id uuid,
    permanent boolean DEFAULT false
)
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_delete';

CREATE FUNCTION @extschema@.esrs_reject(
    name text,
    message text,
    detail text DEFAULT NULL,
    hint text DEFAULT NULL
)
RETURNS jsonb
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_reject_sql';

-- ---------------------------------------------------------------------------
-- Reading
-- ---------------------------------------------------------------------------

CREATE FUNCTION @extschema@.esrs_load(
    aggregate text,
    aggregate_id uuid,
    at_sequence int DEFAULT NULL,
    at_time timestamptz DEFAULT NULL
)
RETURNS @extschema@.esrs_state
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'esrs_load';

CREATE FUNCTION @extschema@.esrs_lock_and_load(
    aggregate text,
    aggregate_id uuid
)
RETURNS @extschema@.esrs_state
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_lock_and_load';

CREATE FUNCTION @extschema@.esrs_events(
    aggregate text,
    aggregate_id uuid,
    from_sequence int DEFAULT 1,
    to_sequence int DEFAULT NULL
)
RETURNS SETOF @extschema@.esrs_event
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'esrs_events';

CREATE FUNCTION @extschema@.esrs_feed(
    aggregates text[],
    after bigint DEFAULT 0,
    max int DEFAULT 1000
)
RETURNS SETOF @extschema@.esrs_event
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'esrs_feed';

CREATE FUNCTION @extschema@.esrs_event_json(
    event @extschema@.esrs_event
)
RETURNS text
LANGUAGE C IMMUTABLE PARALLEL SAFE STRICT
AS 'MODULE_PATHNAME', 'esrs_event_json';

-- ---------------------------------------------------------------------------
-- Asynchronous event handlers
--
-- The procedures commit, so they may have neither SECURITY DEFINER nor SET.
-- ---------------------------------------------------------------------------

CREATE PROCEDURE @extschema@.esrs_execute(
    aggregate text,
    aggregate_id uuid,
    command jsonb,
    expected_sequence int DEFAULT NULL,
    metadata jsonb DEFAULT NULL,
    command_id uuid DEFAULT NULL,
    INOUT result @extschema@.esrs_result DEFAULT NULL
)
LANGUAGE C
AS 'MODULE_PATHNAME', 'esrs_execute';

CREATE PROCEDURE @extschema@.esrs_run_handlers(
    name text DEFAULT NULL,
    max_batches int DEFAULT NULL
)
LANGUAGE C
AS 'MODULE_PATHNAME', 'esrs_run_handlers';

CREATE PROCEDURE @extschema@.esrs_rebuild(
    handler text,
    aggregate_id uuid DEFAULT NULL,
    strategy text DEFAULT 'in_place',
    truncate regclass[] DEFAULT NULL,
    max_rate int DEFAULT NULL,
    resume boolean DEFAULT true,
    tables regclass[] DEFAULT NULL,
    workers int DEFAULT 1,
    republish boolean DEFAULT false
)
LANGUAGE C
AS 'MODULE_PATHNAME', 'esrs_rebuild';

CREATE PROCEDURE @extschema@.esrs_rebuild(
    handlers text[],
    aggregate_id uuid DEFAULT NULL,
    strategy text DEFAULT 'in_place',
    truncate regclass[] DEFAULT NULL,
    max_rate int DEFAULT NULL,
    resume boolean DEFAULT true,
    tables regclass[] DEFAULT NULL,
    workers int DEFAULT 1,
    republish boolean DEFAULT false
)
LANGUAGE C
AS 'MODULE_PATHNAME', 'esrs_rebuild';

CREATE FUNCTION @extschema@.esrs_wait_for(
    name text,
    up_to bigint DEFAULT NULL,
    timeout interval DEFAULT '5s'
)
RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_wait_for';

CREATE FUNCTION @extschema@.esrs_pause_handler(
    name text
)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_pause_handler';

CREATE FUNCTION @extschema@.esrs_resume_handler(
    name text
)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_resume_handler';

CREATE FUNCTION @extschema@.esrs_reset_handler(
    name text,
    to_position bigint
)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_reset_handler';

CREATE FUNCTION @extschema@.esrs_retry_dead_letters(
    handler text
)
RETURNS int
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_retry_dead_letters';

CREATE FUNCTION @extschema@.esrs_discard_dead_letters(
    handler text
)
RETURNS int
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_discard_dead_letters';

CREATE FUNCTION @extschema@.esrs_start_workers()
RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_start_workers';

CREATE FUNCTION @extschema@.esrs_stop_workers()
RETURNS int
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_stop_workers';

-- ---------------------------------------------------------------------------
-- Subscriptions: consumers outside the database
-- ---------------------------------------------------------------------------

CREATE FUNCTION @extschema@.esrs_subscribe(
    name text,
    aggregates text[],
    ordering text DEFAULT 'aggregate',
    start_at text DEFAULT 'now'
)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_subscribe';

CREATE FUNCTION @extschema@.esrs_unsubscribe(
    name text
)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_unsubscribe';

CREATE FUNCTION @extschema@.esrs_poll(
    name text,
    max int DEFAULT 100,
    lease interval DEFAULT '30s',
    owner text DEFAULT ''
)
RETURNS SETOF @extschema@.esrs_event
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_poll';

CREATE FUNCTION @extschema@.esrs_ack(
    name text,
    up_to bigint,
    owner text DEFAULT ''
)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_ack';

CREATE FUNCTION @extschema@.esrs_nack(
    name text,
    owner text DEFAULT '',
    retry_after interval DEFAULT '0s',
    error text DEFAULT NULL
)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_nack';

-- ---------------------------------------------------------------------------
-- History: all instances of an aggregate at once
-- ---------------------------------------------------------------------------

CREATE FUNCTION @extschema@.esrs_states(
    aggregate text,
    at_time timestamptz DEFAULT NULL
)
RETURNS SETOF @extschema@.esrs_state
LANGUAGE C VOLATILE PARALLEL RESTRICTED
AS 'MODULE_PATHNAME', 'esrs_states';

-- The transition functions of the aggregates <name>_state.
CREATE FUNCTION esrs.fold(state jsonb, payload jsonb)
RETURNS jsonb
LANGUAGE C STABLE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_fold';

CREATE FUNCTION esrs.fold(state jsonb, payload jsonb, version int)
RETURNS jsonb
LANGUAGE C STABLE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_fold';

CREATE FUNCTION @extschema@.esrs_diff(
    aggregate text,
    apply_event text DEFAULT NULL,
    upcast text DEFAULT NULL,
    to_event text DEFAULT NULL,
    initial_state jsonb DEFAULT NULL,
    event_version int DEFAULT NULL,
    handler text DEFAULT NULL,
    OUT aggregate_id uuid,
    OUT sequence_number int,
    OUT state jsonb,
    OUT new_state jsonb,
    OUT error text
)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_diff';

CREATE FUNCTION @extschema@.esrs_verify(
    aggregate text,
    OUT severity text,
    OUT aggregate_id uuid,
    OUT sequence_number int,
    OUT problem text,
    OUT hint text
)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_verify';

CREATE FUNCTION @extschema@.esrs_verify_handler(
    handler text,
    tables regclass[],
    ignore text[] DEFAULT '{}',
    max_rows int DEFAULT 100,
    OUT table_name regclass,
    OUT difference text,
    OUT live jsonb,
    OUT rebuilt jsonb
)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_verify_handler';

-- ---------------------------------------------------------------------------
-- Testing and health
-- ---------------------------------------------------------------------------

CREATE FUNCTION @extschema@.esrs_test(
    aggregate text,
    given jsonb[],
    "when" jsonb,
    "then" jsonb[] DEFAULT NULL,
    then_error text DEFAULT NULL
)
RETURNS text
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_test';

CREATE FUNCTION @extschema@.esrs_check(
    OUT severity text,
    OUT object text,
    OUT problem text,
    OUT hint text
)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_check';

-- ---------------------------------------------------------------------------
-- Views
-- ---------------------------------------------------------------------------

-- As people write it, and as it is stored where they may not look.
CREATE FUNCTION esrs.readable_signature(signature text)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(
    CASE WHEN pg_catalog.has_schema_privilege(
             (SELECT n.oid FROM pg_catalog.pg_namespace n
               WHERE n.nspname OPERATOR(pg_catalog.=) (pg_catalog.parse_ident(signature, false))[1]),
             'USAGE')
         THEN pg_catalog.to_regprocedure(signature)::text END,
    signature);

CREATE VIEW @extschema@.esrs_aggregates AS
SELECT a.name,
       a.events,
       CASE WHEN a.handler IS NOT NULL THEN 'c'
            WHEN a.handle_command IS NOT NULL THEN 'sql'
            ELSE 'store' END AS kind,
       esrs.readable_signature(a.handler) AS handler,
       esrs.readable_signature(a.handle_command) AS handle_command,
       esrs.readable_signature(a.apply_event) AS apply_event,
       a.initial_state,
       esrs.readable_signature(a.upcast) AS upcast,
       esrs.readable_signature(a.from_event) AS from_event,
       esrs.readable_signature(a.to_event) AS to_event,
       a.event_version, a.snapshot_every,
       a.event_id_format, a.event_type_path, a.unique_event_id, a.append_only,
       a.notify, a.notify_payload, a.adopted, a.registered_by, a.registered_at
  FROM esrs.aggregates a;

CREATE VIEW @extschema@.esrs_handlers AS
SELECT h.name, h.mode, h.aggregates,
       esrs.readable_signature(h.handler) AS handler,
       esrs.readable_signature(h.delete_handler) AS delete_handler,
       h.event_types,
       h.replayable, h.ordering, h.partitions, h.batch_size, h.on_error,
       h.max_attempts, h.start_at, h.status, h.run_as, h.ordinal, h.registered_at
  FROM esrs.handlers h;

-- Where consumers stand.  What costs, or shows data, is for those who may act as
-- the consumer's role, and null for others.
CREATE FUNCTION esrs.consumers(
    OUT name text, OUT kind text, OUT partition int, OUT status text,
    OUT "position" bigint, OUT safe_position bigint, OUT head bigint,
    OUT events_behind bigint, OUT oldest_unhandled timestamptz,
    OUT attempts int, OUT retry_at timestamptz, OUT last_error text,
    OUT lease_owner text, OUT lease_until timestamptz, OUT worker_pid int
)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_consumers';

CREATE FUNCTION esrs.lock_hash(aggregate text)
RETURNS oid
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'esrs_lock_hash';

CREATE FUNCTION esrs.append_obstacle(aggregate text)
RETURNS text
LANGUAGE C STABLE STRICT PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_append_obstacle';

CREATE VIEW @extschema@.esrs_lag AS
SELECT c.name AS handler, c.partition, c.status, c."position", c.safe_position, c.head,
       c.events_behind, c.oldest_unhandled, c.attempts, c.retry_at, c.last_error, c.worker_pid
  FROM esrs.consumers() c
 WHERE c.kind OPERATOR(pg_catalog.=) 'async';

CREATE VIEW @extschema@.esrs_subscriptions AS
SELECT s.name, s.aggregates, s.ordering, s.start_at, c.status, c."position",
       c.safe_position, c.head, c.events_behind, c.oldest_unhandled,
       c.lease_owner, c.lease_until, c.attempts, c.retry_at, c.last_error,
       s.run_as, s.registered_at
  FROM esrs.subscriptions s
  JOIN esrs.consumers() c ON c.kind OPERATOR(pg_catalog.=) 'subscription'
   AND c.name OPERATOR(pg_catalog.=) s.name;

CREATE FUNCTION esrs.rebuilds_in_progress(
    OUT pid int, OUT handlers text, OUT strategy text, OUT phase text,
    OUT events_done bigint, OUT events_total bigint,
    OUT instances_done bigint, OUT instances_total bigint,
    OUT events_per_second float8, OUT seconds_left float8, OUT started_at timestamptz
)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'esrs_rebuilds_in_progress';

CREATE VIEW @extschema@.esrs_progress_rebuild AS
SELECT p.pid, p.handlers, p.strategy, p.phase, p.events_done, p.events_total,
       p.instances_done, p.instances_total,
       pg_catalog.round(p.events_per_second)::bigint AS events_per_second,
       pg_catalog.make_interval(secs => pg_catalog.round(p.seconds_left)) AS estimated_rest,
       p.started_at
  FROM esrs.rebuilds_in_progress() p;

-- A barrier: no condition of a reader's may look before his right is checked.
CREATE VIEW @extschema@.esrs_dead_letters WITH (security_barrier) AS
SELECT d.handler, d."position", d.aggregate, d.aggregate_id, d.event_id, d.sequence_number,
       d.state, d.failed_at, d.attempts, d.sqlstate, d.message, d.detail, d.context
  FROM esrs.dead_letters d
  JOIN esrs.handlers h ON h.name OPERATOR(pg_catalog.=) d.handler
 WHERE pg_catalog.pg_has_role(h.run_as, 'USAGE');

-- Transactions that have appended and not ended: readers in total order wait for them.
CREATE VIEW @extschema@.esrs_feed_blockers AS
SELECT a.name AS aggregate, l.pid, s.usename, s.application_name, s.state,
       coalesce(s.xact_start, x.prepared) AS since, x.gid AS prepared_transaction
  FROM pg_catalog.pg_locks l
  JOIN esrs.aggregates a ON esrs.lock_hash(a.name) OPERATOR(pg_catalog.=) l.classid
  LEFT JOIN pg_catalog.pg_stat_activity s ON s.pid OPERATOR(pg_catalog.=) l.pid
  LEFT JOIN (pg_catalog.pg_locks t
             JOIN pg_catalog.pg_prepared_xacts x ON x.transaction OPERATOR(pg_catalog.=) t.transactionid)
    ON l.pid IS NULL AND t.pid IS NULL
   AND t.locktype OPERATOR(pg_catalog.=) 'transactionid'
   AND t.virtualtransaction OPERATOR(pg_catalog.=) l.virtualtransaction
 WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory'
   AND l.objsubid OPERATOR(pg_catalog.=) -6843
   AND l.database OPERATOR(pg_catalog.=)
       (SELECT d.oid FROM pg_catalog.pg_database d
         WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database());

COMMENT ON VIEW @extschema@.esrs_aggregates IS 'registered aggregates';
COMMENT ON VIEW @extschema@.esrs_handlers IS 'registered event handlers, called in the order of "ordinal"';
COMMENT ON VIEW @extschema@.esrs_lag IS 'how far asynchronous event handlers are';
COMMENT ON VIEW @extschema@.esrs_subscriptions IS 'consumers outside the database, and how far they are';
COMMENT ON VIEW @extschema@.esrs_dead_letters IS 'events that a handler has given up, and those parked behind them; for members of the role that the handler runs as';
COMMENT ON VIEW @extschema@.esrs_progress_rebuild IS 'rebuilds of read models that are in progress';
COMMENT ON VIEW @extschema@.esrs_feed_blockers IS 'transactions for which readers in total order wait';

-- ---------------------------------------------------------------------------
-- Rights
--
-- Commands and reads are for everybody to call: what they may do is decided by
-- rights on the aggregate's function and table.  A registrar needs more, which
-- a superuser grants (docs/reference.md).
-- ---------------------------------------------------------------------------

REVOKE ALL ON FUNCTION
    esrs.aggregate_handler_in(cstring),
    esrs.aggregate_handler_out(esrs.aggregate_handler),
    esrs.catalog_changed(),
    esrs.append_only()
FROM PUBLIC;

REVOKE ALL ON FUNCTION
    @extschema@.esrs_register_aggregate(text, text, text, text, jsonb, text, text, text, int, int, text, text, boolean, boolean, text, text, boolean),
    @extschema@.esrs_alter_aggregate(text, jsonb),
    @extschema@.esrs_unregister_aggregate(text, boolean),
    @extschema@.esrs_register_handler(text, text[], text, text, text, text[], boolean, text, int, int, text, int, text),
    @extschema@.esrs_alter_handler(text, jsonb),
    @extschema@.esrs_unregister_handler(text),
    @extschema@.esrs_start_workers(),
    @extschema@.esrs_stop_workers(),
    @extschema@.esrs_check()
FROM PUBLIC;

GRANT SELECT ON
    @extschema@.esrs_aggregates,
    @extschema@.esrs_handlers,
    @extschema@.esrs_lag,
    @extschema@.esrs_progress_rebuild,
    @extschema@.esrs_subscriptions,
    @extschema@.esrs_dead_letters,
    @extschema@.esrs_feed_blockers
TO PUBLIC;

-- ---------------------------------------------------------------------------
-- Comments
-- ---------------------------------------------------------------------------

COMMENT ON FUNCTION esrs.aggregate_handler_in(cstring) IS 'I/O';
COMMENT ON FUNCTION esrs.aggregate_handler_out(esrs.aggregate_handler) IS 'I/O';
COMMENT ON FUNCTION esrs.catalog_changed() IS 'trigger: tells all backends that a catalog of esrs has changed';
COMMENT ON FUNCTION esrs.next_position(text, regprocedure[]) IS 'default of the column "position" of events tables';
COMMENT ON FUNCTION esrs.readable_signature(text) IS 'a stored signature as the search_path lets one write it';
COMMENT ON FUNCTION esrs.append_only() IS 'trigger: guards an events table against UPDATE, DELETE and TRUNCATE';
COMMENT ON FUNCTION @extschema@.esrs_register_aggregate(text, text, text, text, jsonb, text, text, text, int, int, text, text, boolean, boolean, text, text, boolean) IS 'register an aggregate and create, or adopt, its events table';
COMMENT ON FUNCTION @extschema@.esrs_alter_aggregate(text, jsonb) IS 'change options of an aggregate; an absent key is left as it is, null restores the default';
COMMENT ON FUNCTION @extschema@.esrs_unregister_aggregate(text, boolean) IS 'forget an aggregate; its events table stays unless drop_events';
COMMENT ON FUNCTION @extschema@.esrs_register_handler(text, text[], text, text, text, text[], boolean, text, int, int, text, int, text) IS 'register a function that is called with events';
COMMENT ON FUNCTION @extschema@.esrs_alter_handler(text, jsonb) IS 'change options of an event handler; an absent key is left as it is, null restores the default';
COMMENT ON FUNCTION @extschema@.esrs_unregister_handler(text) IS 'forget an event handler';
COMMENT ON FUNCTION @extschema@.esrs_handle_command(text, uuid, jsonb, int, jsonb, uuid) IS 'handle a command and return the new state; a rejection is an error (ZE001)';
COMMENT ON FUNCTION @extschema@.esrs_try_command(text, uuid, jsonb, int, jsonb, uuid) IS 'handle a command and return what it brought about; a rejection is a row, not an error';
COMMENT ON FUNCTION @extschema@.esrs_handle_commands(@extschema@.esrs_command[]) IS 'handle several commands in one transaction, without deadlocks among such calls; a rejection is an error';
COMMENT ON FUNCTION @extschema@.esrs_decide(text, uuid, jsonb) IS 'the events that a command would bring about; writes nothing';
COMMENT ON FUNCTION @extschema@.esrs_persist(text, uuid, jsonb[], int, jsonb, uuid[]) IS 'store events without a command; handlers and notifications as for a command';
COMMENT ON FUNCTION @extschema@.esrs_delete(text, uuid, boolean) IS 'delete the events of an instance and return their number';
COMMENT ON FUNCTION @extschema@.esrs_reject(text, text, text, text) IS 'reject a command, in a handle_command function written in SQL';
COMMENT ON FUNCTION @extschema@.esrs_load(text, uuid, int, timestamptz) IS 'the state of an instance, now or at an earlier event or time; null if there is none';
COMMENT ON FUNCTION @extschema@.esrs_lock_and_load(text, uuid) IS 'lock an instance until the transaction ends, and load it';
COMMENT ON FUNCTION @extschema@.esrs_events(text, uuid, int, int) IS 'the events of an instance in their present form';
COMMENT ON FUNCTION @extschema@.esrs_feed(text[], bigint, int) IS 'events of several aggregates after a position, in order; never skips one';
COMMENT ON FUNCTION @extschema@.esrs_event_json(@extschema@.esrs_event) IS 'the message of an event, as an event bus sends it';
COMMENT ON PROCEDURE @extschema@.esrs_execute(text, uuid, jsonb, int, jsonb, uuid, @extschema@.esrs_result) IS 'handle a command, commit, and run the asynchronous event handlers of the instance; a rejection is a result';
COMMENT ON PROCEDURE @extschema@.esrs_run_handlers(text, int) IS 'run asynchronous event handlers here, one transaction a batch, until there is nothing left to do';
COMMENT ON PROCEDURE @extschema@.esrs_rebuild(text, uuid, text, regclass[], int, boolean, regclass[], int, boolean) IS 'make anew what an event handler has written, of all instances or of one';
COMMENT ON PROCEDURE @extschema@.esrs_rebuild(text[], uuid, text, regclass[], int, boolean, regclass[], int, boolean) IS 'the same for several event handlers at once';
COMMENT ON FUNCTION esrs.rebuilds_in_progress() IS 'rebuilds that are in progress';
COMMENT ON FUNCTION @extschema@.esrs_wait_for(text, bigint, interval) IS 'wait until an asynchronous event handler has handled all events up to a position; false after the timeout';
COMMENT ON FUNCTION @extschema@.esrs_pause_handler(text) IS 'stop calling an event handler, or handing out events of a subscription';
COMMENT ON FUNCTION @extschema@.esrs_resume_handler(text) IS 'go on where an event handler, or a subscription, was paused or has failed';
COMMENT ON FUNCTION @extschema@.esrs_reset_handler(text, bigint) IS 'let an asynchronous event handler, or a subscription, go on behind a position; 0: from the beginning';
COMMENT ON FUNCTION @extschema@.esrs_retry_dead_letters(text) IS 'call a handler with the events that it has given up, in order; returns how many succeeded';
COMMENT ON FUNCTION @extschema@.esrs_discard_dead_letters(text) IS 'forget the events that a handler has given up; returns how many';
COMMENT ON FUNCTION @extschema@.esrs_start_workers() IS 'start the background worker of this database, if it is not running';
COMMENT ON FUNCTION @extschema@.esrs_stop_workers() IS 'stop the background workers of this database; returns how many';
COMMENT ON FUNCTION @extschema@.esrs_subscribe(text, text[], text, text) IS 'register a consumer outside the database';
COMMENT ON FUNCTION @extschema@.esrs_unsubscribe(text) IS 'forget a consumer outside the database';
COMMENT ON FUNCTION @extschema@.esrs_poll(text, int, interval, text) IS 'the next events of a subscription, and a lease on it';
COMMENT ON FUNCTION @extschema@.esrs_ack(text, bigint, text) IS 'the events of a poll, up to a position, are done with';
COMMENT ON FUNCTION @extschema@.esrs_nack(text, text, interval, text) IS 'give the events of a poll back';
COMMENT ON FUNCTION esrs.consumers() IS 'where asynchronous event handlers and subscriptions stand';
COMMENT ON FUNCTION esrs.lock_hash(text) IS 'the classid of the locks with which writers of an aggregate publish bounds';
COMMENT ON FUNCTION esrs.append_obstacle(text) IS 'why events of an aggregate are stored by INSERT statements, which costs more; null if they are not';
COMMENT ON FUNCTION @extschema@.esrs_states(text, timestamptz) IS 'the states of all instances, now or at an earlier time';
COMMENT ON FUNCTION esrs.fold(jsonb, jsonb) IS 'one step of an aggregate <name>_state';
COMMENT ON FUNCTION esrs.fold(jsonb, jsonb, int) IS 'one step of an aggregate <name>_state';
COMMENT ON FUNCTION @extschema@.esrs_diff(text, text, text, text, jsonb, int, text) IS 'instances whose state would differ if the aggregate had other functions; writes nothing';
COMMENT ON FUNCTION @extschema@.esrs_verify(text) IS 'what is wrong with the events, folds and snapshots of an aggregate; no row means nothing';
COMMENT ON FUNCTION @extschema@.esrs_verify_handler(text, regclass[], text[], int) IS 'how what an event handler has written differs from what it would write today; no row means not at all';
COMMENT ON FUNCTION @extschema@.esrs_test(text, jsonb[], jsonb, jsonb[], text) IS 'given events, when a command comes, then expect events or a rejection: one line of TAP';
COMMENT ON FUNCTION @extschema@.esrs_check() IS 'find, and where possible repair, what is wrong with aggregates and handlers';
