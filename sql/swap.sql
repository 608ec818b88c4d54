--
-- esrs_rebuild(strategy => 'swap'): read models built beside the live ones, whatever hangs on
-- their tables; and everything that is refused.
--
-- Catches: a statement that reaches the live tables, or reads them; an index, constraint,
-- trigger, default or right that the new table lacks; a table that has another OID, so that
-- views and grants are lost; files that do not fit the catalogs; a plan of one side that is
-- used on the other; a refusal that a handler swallows; anything left behind.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA esrs_swap;
SET search_path = esrs_swap, public;
\pset null (null)
CREATE EXTENSION IF NOT EXISTS amcheck SCHEMA esrs_swap;
LOAD 'esrs';
ALTER SYSTEM SET esrs.max_workers = 0;
SELECT pg_reload_conf();
DO $$BEGIN FOR i IN 1..100 LOOP EXIT WHEN current_setting('esrs.max_workers') = '0'; PERFORM pg_sleep(0.02); END LOOP; END$$;

CREATE FUNCTION id(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT format('5a440000-0000-4000-8000-%s', lpad(n::text, 12, '0'))::uuid $$;
CREATE FUNCTION put(aggregate text, n int, VARIADIC amounts int[]) RETURNS bigint LANGUAGE sql AS
    $$SELECT count(*) FROM esrs_persist(aggregate, id(n), ARRAY(SELECT jsonb_build_object('amount', a) FROM unnest(amounts) AS a))$$;
SELECT esrs_register_aggregate(name) FROM unnest('{sw_one,sw_two}'::text[]) AS name;

-- ---------------------------------------------------------------------------
-- everything that can hang on a table
-- ---------------------------------------------------------------------------
CREATE ROLE esrs_swap_reader;
GRANT USAGE ON SCHEMA esrs_swap TO esrs_swap_reader;
CREATE COLLATION names (provider = libc, locale = 'C');
CREATE TABLE kinds (kind text PRIMARY KEY);
INSERT INTO kinds VALUES ('sale'), ('return');
CREATE TABLE "Ware House" (
    gone text,
    id uuid CONSTRAINT "the key" PRIMARY KEY,
    amount int NOT NULL CHECK (amount > -1000000),
    gone_too numeric,
    twice int GENERATED ALWAYS AS (amount * 2) STORED,
    number bigint GENERATED ALWAYS AS IDENTITY,
    kind text COLLATE names DEFAULT 'sale' REFERENCES kinds,
    code serial,
    span int4range,
    parent uuid REFERENCES "Ware House" DEFERRABLE INITIALLY DEFERRED,
    note text,
    touched text,
    EXCLUDE USING gist (span WITH &&) WHERE (amount < -999),
    CONSTRAINT once UNIQUE (number, code) DEFERRABLE
) WITH (fillfactor = 80, toast.autovacuum_enabled = false);
ALTER TABLE "Ware House" DROP COLUMN gone, DROP COLUMN gone_too, ALTER note SET STORAGE EXTERNAL;
ALTER TABLE "Ware House" ADD COLUMN late int NOT NULL DEFAULT 42;
CREATE INDEX "by kind" ON "Ware House" (lower(kind), amount DESC) INCLUDE (id) WHERE amount > 0;
CREATE INDEX ON "Ware House" USING hash (amount);
CREATE TABLE lines (n bigserial, house uuid NOT NULL REFERENCES "Ware House" ON DELETE CASCADE, amount int);
CREATE VIEW big AS SELECT id, amount FROM "Ware House" WHERE amount > 10;
CREATE VIEW via AS SELECT house, amount FROM lines;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN NEW.touched := TG_OP || ' ' || TG_TABLE_NAME; NEW.note := repeat(NEW.amount::text || ' ', 3000); RETURN NEW; END $$;
CREATE TRIGGER touch BEFORE INSERT OR UPDATE ON "Ware House" FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TRIGGER never BEFORE INSERT ON lines FOR EACH ROW EXECUTE FUNCTION touch();
ALTER TABLE lines DISABLE TRIGGER never;
GRANT SELECT (id, amount) ON "Ware House" TO esrs_swap_reader;
GRANT INSERT ON lines TO esrs_swap_reader;

CREATE FUNCTION total() RETURNS bigint LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN (SELECT sum(amount) FROM "Ware House"); END $$;
-- a statement bound when it is created, one bound when it runs, one through a view, one by text
CREATE FUNCTION on_house(e esrs_event) RETURNS void BEGIN ATOMIC
    INSERT INTO "Ware House" (id, amount, parent) VALUES (e.aggregate_id, (e.payload ->> 'amount')::int, e.aggregate_id)
    ON CONFLICT ON CONSTRAINT "the key" DO UPDATE SET amount = "Ware House".amount + excluded.amount;
END;
CREATE FUNCTION on_line(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE found_amount int;
BEGIN
    PERFORM esrs_swap.on_house(e);
    SELECT h.amount INTO found_amount FROM esrs_swap.big h WHERE h.id = e.aggregate_id;
    IF found_amount IS NULL THEN
        INSERT INTO esrs_swap.via VALUES (e.aggregate_id, (e.payload ->> 'amount')::int);
    ELSE
        EXECUTE format('WITH x AS (INSERT INTO %I.lines (house, amount) VALUES ($1, $2) RETURNING amount) SELECT * FROM x', 'esrs_swap')
            USING e.aggregate_id, (e.payload ->> 'amount')::int;
    END IF;
END $$;
CREATE FUNCTION house_deleted(aggregate_id uuid) RETURNS void BEGIN ATOMIC DELETE FROM "Ware House" WHERE id = aggregate_id; END;
SELECT esrs_register_handler('sw_house', '{sw_one}', 'on_line(esrs_event)', delete_handler => 'house_deleted(uuid)');
SELECT put('sw_one', 1, 4, 3), put('sw_one', 2, 10, 20, -5), put('sw_one', 3, 1), put('sw_one', 9, 9), put('sw_one', 1, 100);
SELECT esrs_delete('sw_one', id(9));

CREATE FUNCTION model() RETURNS TABLE (id uuid, amount int, twice int, kind text, touched text, note int, late int, lines bigint, of_lines bigint) LANGUAGE sql AS $$
    SELECT h.id, h.amount, h.twice, h.kind, h.touched, length(h.note), h.late, count(*), sum(l.amount)
      FROM esrs_swap."Ware House" h LEFT JOIN esrs_swap.lines l ON l.house = h.id GROUP BY h.id ORDER BY h.id
$$;
CREATE TABLE before AS SELECT * FROM model();
CREATE FUNCTION spoil() RETURNS void LANGUAGE sql AS $$
    UPDATE esrs_swap."Ware House" SET amount = -1, late = 0;
    DELETE FROM esrs_swap.lines WHERE amount > 5;
    INSERT INTO esrs_swap."Ware House" (id, amount) VALUES (esrs_swap.id(77), 77)
$$;
CREATE TABLE known AS SELECT oid, relname, relfilenode, relacl, reltablespace, relowner, reloptions FROM pg_class
    WHERE relnamespace = 'esrs_swap'::regnamespace AND relkind IN ('r', 'i') AND relname NOT IN ('before');
CREATE TABLE columns AS SELECT attrelid, attnum, attname, attacl, attstorage FROM pg_attribute WHERE attrelid IN (SELECT oid FROM known);
-- plans of this session, which hold before and afterwards
PREPARE house AS SELECT count(*), sum(amount) FROM "Ware House";
EXECUTE house;
SELECT total();

SELECT spoil();
SELECT * FROM model();
CALL esrs_rebuild('sw_house', strategy => 'swap', tables => '{"\"Ware House\"",lines}');
SELECT 'missing' AS is, * FROM (TABLE before EXCEPT SELECT * FROM model()) AS m UNION ALL SELECT 'extra', * FROM (SELECT * FROM model() EXCEPT TABLE before) AS e;
EXECUTE house;
SELECT total();

-- the same tables, with other files
SELECT k.relname, c.oid = k.oid AS same, c.relfilenode <> k.relfilenode AS other_file,
       c.relacl IS NOT DISTINCT FROM k.relacl AND c.relowner = k.relowner AND c.reloptions IS NOT DISTINCT FROM k.reloptions AS as_before
  FROM known k JOIN pg_class c ON c.oid = k.oid WHERE k.relname NOT LIKE 'k%' ORDER BY k.relname COLLATE "C";
SELECT count(*) AS changed FROM (SELECT attrelid, attnum, attname, attacl, attstorage FROM pg_attribute WHERE attrelid IN (SELECT oid FROM known) EXCEPT TABLE columns) AS c;
SELECT c.relname, t.relname = 'pg_toast_' || c.oid AS toast, i.relname = 'pg_toast_' || c.oid || '_index' AS toast_index, t.reloptions
  FROM pg_class c JOIN pg_class t ON t.oid = c.reltoastrelid JOIN pg_index x ON x.indrelid = t.oid JOIN pg_class i ON i.oid = x.indexrelid
 WHERE c.oid = '"Ware House"'::regclass;
\d "Ware House"
\d lines
SELECT count(*) FROM verify_heapam('"Ware House"');
SELECT count(*) FROM verify_heapam('lines');
SELECT count(bt_index_check(indexrelid, true)) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
 WHERE a.amname = 'btree' AND indrelid IN ('"Ware House"'::regclass, 'lines'::regclass);
SET enable_seqscan = off;
SELECT id, amount FROM "Ware House" WHERE id = id(2);
SELECT id FROM "Ware House" WHERE amount = 25;
SELECT id FROM "Ware House" WHERE lower(kind) = 'sale' AND amount > 0 ORDER BY amount DESC;
RESET enable_seqscan;
SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'esrs_shadow%';

-- the live handler goes on in them, and so do constraints, cascades and maintenance
SELECT put('sw_one', 2, 5), put('sw_one', 4, 44);
SELECT esrs_delete('sw_one', id(3));
INSERT INTO "Ware House" (id, amount, kind) VALUES (id(5), 1, 'unknown');
INSERT INTO "Ware House" (id, amount) VALUES (id(1), 1);
DELETE FROM kinds WHERE kind = 'sale';
SELECT id, amount, lines, of_lines FROM model();
SET ROLE esrs_swap_reader;
SELECT count(id) FROM "Ware House";
SELECT * FROM "Ware House";
RESET ROLE;
ALTER TABLE "Ware House" ADD COLUMN another text DEFAULT 'x', DROP COLUMN late;
VACUUM FULL "Ware House";
CALL esrs_rebuild('sw_house', strategy => 'swap', tables => '{lines,"\"Ware House\"",lines}', max_rate => 100000);
VACUUM (FREEZE, ANALYZE) "Ware House", lines;
SELECT id, amount, lines, of_lines FROM model();
SELECT count(*) FROM verify_heapam('"Ware House"');
TRUNCATE "Ware House", lines;
CALL esrs_rebuild('sw_house', strategy => 'swap', tables => '{lines,"\"Ware House\""}');
SELECT id, amount, lines, of_lines FROM model();

-- an unlogged table, one without any index or TOAST, several handlers, arrays of events
CREATE UNLOGGED TABLE sums (amount bigint, events bigint);
CREATE TABLE latest (aggregate text PRIMARY KEY, sequence_number int);
INSERT INTO sums VALUES (0, 0);
CREATE FUNCTION on_sums(e esrs_event[]) RETURNS void BEGIN ATOMIC
    INSERT INTO sums SELECT 0, 0 WHERE NOT EXISTS (SELECT FROM sums);
    UPDATE sums SET amount = sums.amount + (SELECT sum((x.payload ->> 'amount')::int) FROM unnest(e) x), events = sums.events + cardinality(e);
END;
CREATE FUNCTION on_latest(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    MERGE INTO esrs_swap.latest l USING (SELECT e.aggregate, e.sequence_number) AS n ON l.aggregate = n.aggregate
    WHEN MATCHED THEN UPDATE SET sequence_number = greatest(l.sequence_number, n.sequence_number)
    WHEN NOT MATCHED THEN INSERT VALUES (n.aggregate, n.sequence_number);
    PERFORM FROM esrs_swap.latest FOR UPDATE;
END $$;
SELECT esrs_register_handler('sw_sums', '{sw_one,sw_two}', 'on_sums(esrs_event[])', mode => 'async', start_at => 'beginning');
SELECT esrs_register_handler('sw_latest', '{sw_two,sw_one}', 'on_latest(esrs_event)', mode => 'async', start_at => 'beginning');
SELECT put('sw_two', 1, 1000, 2000);
CALL esrs_rebuild('{sw_sums,sw_latest}'::text[], strategy => 'swap', tables => '{sums,latest}');
SELECT s.*, (SELECT count(*) FROM (TABLE sw_one_events UNION ALL TABLE sw_two_events) AS e) AS all_events FROM sums s;
TABLE latest ORDER BY 1;
SELECT put('sw_two', 1, 1);
CALL esrs_run_handlers();
TABLE sums;
SELECT relpersistence FROM pg_class WHERE oid = 'sums'::regclass;

-- ---------------------------------------------------------------------------
-- what is refused, with nothing done
-- ---------------------------------------------------------------------------
\set swap 'CALL esrs_rebuild(''sw_house'', strategy => ''swap'', tables => '
CALL esrs_rebuild('sw_house', strategy => 'swap');
CALL esrs_rebuild('sw_house', strategy => 'swap', tables => '{}');
CALL esrs_rebuild('sw_house', tables => '{lines}');
CALL esrs_rebuild('sw_house', strategy => 'swap', tables => '{lines}', truncate => '{lines}');
CALL esrs_rebuild('sw_house', id(1), strategy => 'swap', tables => '{lines}');
BEGIN; CALL esrs_rebuild('sw_house', strategy => 'swap', tables => '{lines,"\"Ware House\""}'); ROLLBACK;
:swap '{lines}');
:swap '{"\"Ware House\""}');
:swap '{big}');
:swap '{sw_one_events}');
:swap '{esrs.handlers}');
:swap '{pg_class}');
:swap ARRAY[0]::regclass[]);
CREATE TEMP TABLE temporary (i int);
CREATE TABLE parted (i int) PARTITION BY LIST (i);
CREATE TABLE part PARTITION OF parted DEFAULT;
:swap '{parted}');
:swap '{part}');
CREATE TABLE child () INHERITS (lines);
:swap '{lines,"\"Ware House\""}');
:swap '{child}');
DROP TABLE child;
CREATE PUBLICATION sw_publication FOR TABLE lines;
:swap '{lines,"\"Ware House\""}');
DROP PUBLICATION sw_publication;
CREATE ROLE esrs_swap_other;
CREATE TABLE foreign_table (i int);
ALTER TABLE foreign_table OWNER TO esrs_swap_other;
:swap '{foreign_table,lines,"\"Ware House\""}');

-- by what a handler does: also if it catches the error
CREATE TABLE log (n int);
CREATE FUNCTION bad(what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format($f$CREATE OR REPLACE FUNCTION esrs_swap.on_bad(e esrs_event) RETURNS void LANGUAGE plpgsql AS 'BEGIN %s END'$f$, what);
END $$;
SELECT bad('INSERT INTO esrs_swap.log VALUES (1);');
SELECT esrs_alter_handler('sw_house', '{"handler": "on_bad(esrs_event)"}');
:swap '{lines,"\"Ware House\""}');
SELECT bad('BEGIN INSERT INTO esrs_swap.log VALUES (1); EXCEPTION WHEN OTHERS THEN END;');
:swap '{lines,"\"Ware House\""}');
SELECT bad('TRUNCATE esrs_swap.lines;');
:swap '{lines,"\"Ware House\""}');
SELECT bad('COPY esrs_swap.lines FROM PROGRAM ''''true'''';');
:swap '{lines,"\"Ware House\""}');
SELECT bad('INSERT INTO esrs_swap.lines (house) VALUES (e.aggregate_id);');
:swap '{lines,"\"Ware House\""}');
SELECT bad('RAISE ''''not today'''';');
:swap '{lines,"\"Ware House\""}');
SELECT bad('PERFORM esrs_try_command(''''sw_one'''', e.aggregate_id, ''''{}'''');');
:swap '{lines,"\"Ware House\""}');
-- temporary tables are its own business
SELECT bad('INSERT INTO pg_temp.temporary VALUES (1); INSERT INTO esrs_swap."Ware House" (id, amount) VALUES (e.aggregate_id, 0) ON CONFLICT (id) DO NOTHING;');
:swap '{lines,"\"Ware House\""}');
SELECT count(*) > 0 AS kept FROM temporary;
SELECT count(*), sum(amount) FROM "Ware House";
SELECT count(*) FROM log;
-- C functions: by SPI they are led to the new table, as all; what they open themselves is noticed
\getenv abs_srcdir PG_ABS_SRCDIR
\set testlib :abs_srcdir '/testlib/esrs_testlib'
CREATE TABLE c_handler_log (what text, aggregate text, sequence_number int, payload jsonb);
CREATE FUNCTION on_event(esrs_event) RETURNS void AS :'testlib', 'testlib_on_event' LANGUAGE C;
CREATE FUNCTION on_event_directly(esrs_event) RETURNS void AS :'testlib', 'testlib_on_event_directly' LANGUAGE C;
SELECT esrs_register_handler('sw_c', '{sw_two}', 'on_event(esrs_event)');
CALL esrs_rebuild('sw_c', strategy => 'swap', tables => '{c_handler_log}');
SELECT aggregate, sequence_number, payload FROM c_handler_log ORDER BY 2;
SELECT esrs_alter_handler('sw_c', '{"handler": "on_event_directly(esrs_event)"}');
CALL esrs_rebuild('sw_c', strategy => 'swap', tables => '{c_handler_log}');
SELECT count(*) FROM c_handler_log;
SELECT esrs_unregister_handler('sw_c');
-- called in the middle of a cursor of this session
SELECT esrs_alter_handler('sw_house', '{"handler": "on_line(esrs_event)"}');
CREATE PROCEDURE with_cursor() LANGUAGE plpgsql AS $$
DECLARE r record;
BEGIN
    FOR r IN SELECT id FROM esrs_swap."Ware House" LOOP
        CALL esrs_rebuild('sw_house', strategy => 'swap', tables => '{esrs_swap.lines,"esrs_swap.\"Ware House\""}');
        EXIT;
    END LOOP;
END $$;
CALL with_cursor();
SELECT id, amount, lines, of_lines FROM model();
SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'esrs_shadow%';

-- ---------------------------------------------------------------------------
-- esrs_verify_handler(): the same, only to look
-- ---------------------------------------------------------------------------
SELECT esrs_alter_handler('sw_house', '{"handler": "on_line(esrs_event)"}');
CALL esrs_rebuild('sw_house', strategy => 'swap', tables => '{lines,"\"Ware House\""}');
\set verify 'SELECT table_name, difference, live ->> ''id'' AS id, live -> ''amount'' AS live, rebuilt -> ''amount'' AS rebuilt FROM esrs_verify_handler(''sw_house'', ''{lines,"\\"Ware House\\""}'', ''{n,number,code}'''
:verify);
UPDATE "Ware House" SET amount = 17 WHERE id = id(2);
DELETE FROM lines WHERE amount = 100;
INSERT INTO lines (house, amount) VALUES (id(1), 4), (id(1), 4), (id(4), 0);
INSERT INTO "Ware House" (id, amount) VALUES (id(88), 88);
:verify);
:verify, max_rows => 2);
SELECT count(*) AS with_numbers FROM esrs_verify_handler('sw_house', '{lines,"\"Ware House\""}');
-- in a transaction, which it leaves as it was, also with what is not committed
BEGIN;
DELETE FROM lines;
SELECT put('sw_one', 1, 1000);
SELECT table_name, count(*) FROM esrs_verify_handler('sw_house', '{lines,"\"Ware House\""}', '{n,number,code}') GROUP BY 1 ORDER BY 1;
SELECT count(*) FROM lines;
SELECT put('sw_one', 1, -1000);
SAVEPOINT s;
SELECT * FROM esrs_verify_handler('sw_house', '{lines}');
ROLLBACK TO s;
SELECT sum(amount) FROM lines;
ROLLBACK;
CALL esrs_rebuild('sw_house', strategy => 'swap', tables => '{lines,"\"Ware House\""}');
:verify);
-- exactly what an asynchronous handler has handled, also in partitions
CREATE TABLE parts (id uuid, n int);
CREATE FUNCTION on_parts(e esrs_event) RETURNS void BEGIN ATOMIC INSERT INTO parts VALUES (e.aggregate_id, e.sequence_number); END;
SELECT esrs_register_handler('sw_parts', '{sw_one}', 'on_parts(esrs_event)', mode => 'async', partitions => 4, start_at => 'beginning');
CALL esrs_run_handlers('sw_parts');
SELECT put('sw_one', 1, 5), put('sw_one', 20, 6), put('sw_one', 21, 7);
SELECT * FROM esrs_verify_handler('sw_parts', '{parts}');
CALL esrs_run_handlers('sw_parts');
SELECT * FROM esrs_verify_handler('sw_parts', '{parts}');
DELETE FROM parts WHERE id = id(20);
SELECT table_name, difference, live, rebuilt - 'id' AS rebuilt FROM esrs_verify_handler('sw_parts', '{parts}');
SELECT * FROM esrs_verify_handler('sw_sums', '{sums}');
CALL esrs_run_handlers();
-- refused
SELECT * FROM esrs_verify_handler('unknown', '{parts}');
SELECT * FROM esrs_verify_handler('sw_parts', NULL);
SELECT * FROM esrs_verify_handler('sw_parts', '{}');
SELECT * FROM esrs_verify_handler('sw_parts', '{parts}', max_rows => 0);
SELECT * FROM esrs_verify_handler('sw_parts', '{lines,parts}');
BEGIN READ ONLY; SELECT * FROM esrs_verify_handler('sw_parts', '{parts}'); ROLLBACK;
SET ROLE esrs_swap_reader;
SELECT * FROM esrs_verify_handler('sw_parts', '{parts}');
RESET ROLE;
SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'esrs_shadow%';

ALTER SYSTEM RESET esrs.max_workers;
SELECT pg_reload_conf();
SELECT esrs_unregister_aggregate(name, true) FROM unnest('{sw_one,sw_two}'::text[]) AS name;
SELECT count(*) FROM esrs.swaps;
DROP SCHEMA esrs_swap CASCADE;
DROP ROLE esrs_swap_reader, esrs_swap_other;
