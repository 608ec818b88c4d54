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
    registered_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);

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

COMMENT ON SEQUENCE esrs.position_seq IS 'positions of all events of this database';
COMMENT ON SEQUENCE esrs.handler_ordinal_seq IS 'order of registration of event handlers';
COMMENT ON TABLE esrs.aggregates IS 'registered aggregates';
COMMENT ON TABLE esrs.handlers IS 'registered event handlers';
COMMENT ON TABLE esrs.commands IS 'commands that came with a command_id; old rows may be deleted, which ends their protection against repetition';
COMMENT ON COLUMN esrs.commands.events IS 'how many events the command brought about, the last of them sequence_number';
COMMENT ON COLUMN esrs.aggregates.registered_by IS 'who may change the aggregate when its table is gone';
COMMENT ON COLUMN esrs.handlers.handler_owner IS 'who owned the function when it was named; one of another owner is not called';
COMMENT ON COLUMN esrs.handlers.delete_handler_owner IS 'the same for delete_handler';
COMMENT ON TABLE esrs.deletions IS 'deleted instances, as the feed tells them';

SELECT pg_catalog.pg_extension_config_dump('esrs.position_seq', '');
SELECT pg_catalog.pg_extension_config_dump('esrs.aggregates', '');
SELECT pg_catalog.pg_extension_config_dump('esrs.handlers', '');
SELECT pg_catalog.pg_extension_config_dump('esrs.handler_ordinal_seq', '');
SELECT pg_catalog.pg_extension_config_dump('esrs.commands', '');
SELECT pg_catalog.pg_extension_config_dump('esrs.deletions', '');

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
       h.max_attempts, h.start_at, h.run_as, h.ordinal, h.registered_at
  FROM esrs.handlers h;

COMMENT ON VIEW @extschema@.esrs_aggregates IS 'registered aggregates';
COMMENT ON VIEW @extschema@.esrs_handlers IS 'registered event handlers, called in the order of "ordinal"';

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
    @extschema@.esrs_check()
FROM PUBLIC;

GRANT SELECT ON @extschema@.esrs_aggregates, @extschema@.esrs_handlers TO PUBLIC;

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
COMMENT ON FUNCTION @extschema@.esrs_test(text, jsonb[], jsonb, jsonb[], text) IS 'given events, when a command comes, then expect events or a rejection: one line of TAP';
COMMENT ON FUNCTION @extschema@.esrs_check() IS 'find, and where possible repair, what is wrong with aggregates and handlers';
