--
-- Storing and reading events without statements: the same rows, the same errors, and
-- statements where the table asks for them.
--
-- Catches: rows without what a trigger, a constraint, a default or a generated column
-- would have done to them; a way that is open for tables for which it must not be.
--
CREATE SCHEMA direct;
SET search_path = direct, public;
\set VERBOSITY terse
LOAD 'esrs';
SET esrs.direct_append = on;
SELECT esrs_register_aggregate('direct_store');

CREATE TABLE log (what text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO direct.log VALUES (lower(tg_when || ' ' || tg_level));
    RETURN new;
END $$;
CREATE FUNCTION mark() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    new.payload := new.payload || '{"marked": true}';
    RETURN new;
END $$;
CREATE FUNCTION drop_it() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TABLE parent (id uuid PRIMARY KEY);
CREATE FUNCTION twice(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN 2 * n; END';

-- Stores two events in one mode: the rows, what was noted, or the error.  Leaves nothing.
CREATE FUNCTION try_one(mode text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
BEGIN
    BEGIN
        PERFORM set_config('esrs.direct_append', mode, true);
        PERFORM esrs_persist('direct_store', '00000000-0000-0000-0000-00000000000a', '{"{\"n\": 1}", "{\"n\": 2}"}');
        SET CONSTRAINTS ALL IMMEDIATE;
        SELECT string_agg((to_jsonb(e) - '{id,aggregate_id,occurred_on,position,version,metadata}'::text[])::text, ' ' ORDER BY sequence_number)
               || coalesce(' ' || (SELECT string_agg(what, ', ') FROM log), '')
          INTO result FROM direct_store_events AS e;
        RAISE SQLSTATE 'UNDO1';
    EXCEPTION
        WHEN SQLSTATE 'UNDO1' THEN NULL;
        WHEN OTHERS THEN
            DECLARE
                detail text;
            BEGIN
                GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
                result := concat_ws(' ', sqlstate, sqlerrm, nullif(detail, ''));
            END;
    END;
    RETURN result;
END $$;

-- What is in the way after a change of the table, and whether both modes agree.
CREATE FUNCTION try(change text, OUT obstacle text, OUT result text) LANGUAGE plpgsql AS $$
DECLARE
    by_statement text;
BEGIN
    BEGIN
        EXECUTE change;
        obstacle := esrs.append_obstacle('direct_store');
        result := try_one('on');
        by_statement := try_one('off');
        IF result IS DISTINCT FROM by_statement THEN
            result := format('DIFFERENT: %s BUT BY STATEMENTS: %s', result, by_statement);
        END IF;
        RAISE SQLSTATE 'UNDO2';
    EXCEPTION WHEN SQLSTATE 'UNDO2' THEN
    END;
END $$;

-- what is not in the way
SELECT * FROM try('SELECT');
SELECT * FROM try('ALTER TABLE direct_store_events ADD extra text');
SELECT * FROM try('ALTER TABLE direct_store_events ADD gone int NOT NULL DEFAULT 3, ADD extra text; ALTER TABLE direct_store_events DROP gone');
SELECT * FROM try('CREATE INDEX ON direct_store_events USING gin (payload jsonb_path_ops); CREATE INDEX ON direct_store_events USING brin (occurred_on)');
SELECT * FROM try('CREATE UNIQUE INDEX ON direct_store_events (aggregate_id)');
SELECT * FROM try('CREATE TRIGGER t AFTER UPDATE OR DELETE ON direct_store_events FOR EACH ROW EXECUTE FUNCTION note()');
SELECT * FROM try('ALTER TABLE direct_store_events SET (fillfactor = 50), REPLICA IDENTITY FULL, ALTER payload SET STORAGE EXTERNAL');

-- triggers
SELECT * FROM try('CREATE TRIGGER t BEFORE INSERT ON direct_store_events FOR EACH ROW EXECUTE FUNCTION note()');
SELECT * FROM try('CREATE TRIGGER t AFTER INSERT ON direct_store_events FOR EACH ROW EXECUTE FUNCTION note()');
SELECT * FROM try('CREATE TRIGGER t BEFORE INSERT ON direct_store_events FOR EACH STATEMENT EXECUTE FUNCTION note()');
SELECT * FROM try('CREATE TRIGGER t AFTER INSERT ON direct_store_events FOR EACH STATEMENT EXECUTE FUNCTION note()');
SELECT * FROM try('CREATE TRIGGER t AFTER INSERT ON direct_store_events REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION note()');
SELECT * FROM try('CREATE CONSTRAINT TRIGGER t AFTER INSERT ON direct_store_events DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note()');
SELECT * FROM try('CREATE TRIGGER t BEFORE INSERT ON direct_store_events FOR EACH ROW EXECUTE FUNCTION mark()');
SELECT * FROM try('CREATE TRIGGER t BEFORE INSERT ON direct_store_events FOR EACH ROW EXECUTE FUNCTION drop_it()');
SELECT * FROM try('CREATE TRIGGER t BEFORE INSERT ON direct_store_events FOR EACH ROW EXECUTE FUNCTION note();
                   ALTER TABLE direct_store_events DISABLE TRIGGER t');

-- constraints
SELECT * FROM try('ALTER TABLE direct_store_events ADD FOREIGN KEY (aggregate_id) REFERENCES parent');
SELECT * FROM try('ALTER TABLE direct_store_events ADD FOREIGN KEY (aggregate_id) REFERENCES parent; INSERT INTO parent VALUES (''00000000-0000-0000-0000-00000000000a'')');
SELECT * FROM try('ALTER TABLE direct_store_events ADD CONSTRAINT low CHECK (sequence_number < 3)');
SELECT * FROM try('ALTER TABLE direct_store_events ADD CONSTRAINT low CHECK (sequence_number < 2)');
SELECT * FROM try('ALTER TABLE direct_store_events ADD CONSTRAINT one UNIQUE (aggregate_id) DEFERRABLE INITIALLY DEFERRED');
SELECT * FROM try('ALTER TABLE direct_store_events ADD CONSTRAINT none EXCLUDE USING hash (aggregate_id WITH =)');

-- columns
SELECT * FROM try('ALTER TABLE direct_store_events ADD extra text NOT NULL');
SELECT * FROM try('ALTER TABLE direct_store_events ADD extra text DEFAULT current_user');
SELECT * FROM try('ALTER TABLE direct_store_events ADD extra int GENERATED ALWAYS AS (sequence_number * 2) STORED NOT NULL');
SELECT * FROM try('ALTER TABLE direct_store_events ADD extra bigint GENERATED ALWAYS AS IDENTITY (MAXVALUE 2 CYCLE)');
SELECT * FROM try('CREATE DOMAIN preset AS text DEFAULT ''preset''; ALTER TABLE direct_store_events ADD extra preset');
SELECT * FROM try('CREATE DOMAIN needed AS text NOT NULL; ALTER TABLE direct_store_events ADD extra needed');

-- indexes
SELECT * FROM try('CREATE INDEX ON direct_store_events ((payload ->> ''n'')) WHERE sequence_number = 1');
SELECT * FROM try('CREATE UNIQUE INDEX ON direct_store_events (twice(version)) ');
SELECT * FROM try('CREATE UNIQUE INDEX ON direct_store_events (aggregate_id) WHERE sequence_number > 5');
SELECT * FROM try('CREATE UNIQUE INDEX ON direct_store_events (aggregate_id) WHERE sequence_number > 0');
SELECT * FROM try('CREATE OPERATOR CLASS mine FOR TYPE int4 USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 btint4cmp(int4, int4);
                   CREATE INDEX ON direct_store_events (version mine)');
-- the key itself
SELECT * FROM try('ALTER TABLE direct_store_events DROP CONSTRAINT direct_store_events_aggregate_id_sequence_number;
                   CREATE UNIQUE INDEX ON direct_store_events (aggregate_id, sequence_number DESC)');
SELECT * FROM try('ALTER TABLE direct_store_events DROP CONSTRAINT direct_store_events_aggregate_id_sequence_number;
                   CREATE UNIQUE INDEX ON direct_store_events (aggregate_id, sequence_number) INCLUDE (id)');

-- row security, also where the owner is subject to it
SELECT * FROM try('ALTER TABLE direct_store_events ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY');
-- what is no table for events, or no plain one
SELECT * FROM try('CREATE RULE r AS ON INSERT TO direct_store_events DO ALSO NOTIFY r');
SELECT * FROM try('CREATE TABLE child () INHERITS (direct_store_events)');
SELECT * FROM try('ALTER TABLE direct_store_events SET UNLOGGED');
SELECT * FROM try('CREATE ACCESS METHOD heap_too TYPE TABLE HANDLER heap_tableam_handler; ALTER TABLE direct_store_events SET ACCESS METHOD heap_too');
SET allow_system_table_mods = on;
SELECT * FROM try('CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass); ALTER TABLE direct_store_events ALTER payload SET STATISTICS 10');
RESET allow_system_table_mods;
SET esrs.direct_append = off;
SELECT esrs.append_obstacle('direct_store');
SET esrs.direct_append = on;

-- a large payload goes where large values go, and comes back
SELECT count(*) FROM esrs_persist('direct_store', '00000000-0000-0000-0000-00000000000b',
    ARRAY(SELECT jsonb_build_object('n', i, 'text', (SELECT string_agg(md5(i * 1000 + j || ''), '') FROM generate_series(1, 300) AS j)) FROM generate_series(1, 20) AS i));
SELECT count(*), sum(length(payload ->> 'text')), count(DISTINCT md5(payload ->> 'text')) FROM esrs_events('direct_store', '00000000-0000-0000-0000-00000000000b');
SELECT pg_relation_size(reltoastrelid) > 50000 AS toasted FROM pg_class WHERE relname = 'direct_store_events';

-- whoever has no right is told so; whoever sees a part, gets it
CREATE ROLE direct_reader;
GRANT USAGE ON SCHEMA direct TO direct_reader;
SET ROLE direct_reader;
SELECT count(*) FROM esrs_events('direct_store', '00000000-0000-0000-0000-00000000000b');
RESET ROLE;
GRANT SELECT ON direct_store_events TO direct_reader;
ALTER TABLE direct_store_events ENABLE ROW LEVEL SECURITY;
CREATE POLICY first_five ON direct_store_events FOR SELECT USING (sequence_number <= 5);
SET ROLE direct_reader;
SELECT count(*) FROM esrs_events('direct_store', '00000000-0000-0000-0000-00000000000b');
RESET ROLE;
DROP POLICY first_five ON direct_store_events;
ALTER TABLE direct_store_events DISABLE ROW LEVEL SECURITY;
SET ROLE direct_reader;
SELECT count(*) FROM esrs_events('direct_store', '00000000-0000-0000-0000-00000000000b');
SELECT array_agg(sequence_number) FROM esrs_events('direct_store', '00000000-0000-0000-0000-00000000000b', 3, 5);
SELECT array_agg(sequence_number) FROM esrs_events('direct_store', '00000000-0000-0000-0000-00000000000b', 19);
RESET ROLE;

-- events of this transaction are seen, in and after savepoints, and what was rolled back is not
BEGIN;
SELECT count(*) FROM esrs_persist('direct_store', '00000000-0000-0000-0000-00000000000c', '{"{\"n\": 1}"}');
SAVEPOINT s;
SELECT count(*) FROM esrs_persist('direct_store', '00000000-0000-0000-0000-00000000000c', '{"{\"n\": 2}"}');
SELECT array_agg(payload) FROM esrs_events('direct_store', '00000000-0000-0000-0000-00000000000c');
ROLLBACK TO s;
SELECT array_agg(sequence_number) FROM esrs_persist('direct_store', '00000000-0000-0000-0000-00000000000c', '{"{\"n\": 3}"}', expected_sequence => 1);
COMMIT;
SELECT array_agg(payload) FROM esrs_events('direct_store', '00000000-0000-0000-0000-00000000000c');

-- a function of the owner that an index calls is his to run, not the commander's
CREATE ROLE direct_owner;
CREATE ROLE direct_writer;
GRANT USAGE, CREATE ON SCHEMA direct TO direct_owner;
GRANT INSERT ON direct_store_events TO direct_writer;
ALTER TABLE direct_store_events OWNER TO direct_owner;
CREATE TABLE who (name text);
GRANT INSERT ON who TO direct_owner, direct_writer;
CREATE INDEX ON direct_store_events (twice(sequence_number));
CREATE OR REPLACE FUNCTION twice(n int) RETURNS int LANGUAGE plpgsql AS 'BEGIN INSERT INTO direct.who VALUES (current_user); RETURN 2 * n; END';
GRANT USAGE ON SCHEMA direct TO direct_writer;
SET ROLE direct_writer;
SELECT count(*) FROM esrs_persist('direct_store', '00000000-0000-0000-0000-00000000000d', '{"{\"n\": 1}"}');
RESET ROLE;
SELECT DISTINCT name FROM who;

SET client_min_messages = warning;
SELECT esrs_unregister_aggregate('direct_store', true);
DROP SCHEMA direct CASCADE;
DROP ROLE direct_reader, direct_writer, direct_owner;
