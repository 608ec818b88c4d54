-- Rebuilds beside the live tables: ways in which a statement, or a key, could come to the
-- wrong table.
--
-- Catches: functions that are inlined after their tables were exchanged, and parallel workers,
-- which would read the live tables; foreign keys that block the table they refer to, or are not
-- checked; names that collide; triggers that fire other than before; deletions out of order.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS esrs;
CREATE SCHEMA esrs_ways;
SET search_path = esrs_ways, public;
CREATE FUNCTION id(n int) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$ SELECT ('5a450000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid $$;
SELECT esrs_register_aggregate('way');
CREATE TABLE stock (id uuid PRIMARY KEY, n int NOT NULL);
SELECT count(*) FROM generate_series(1, 3) AS i, esrs_persist('way', id(i), ARRAY['{"n": 7, "kind": "b"}', '{"n": -3, "kind": "a"}']::jsonb[]);
\set swap 'CALL esrs_rebuild(''way'', strategy => ''swap'', tables => '

-- ---------------------------------------------------------------------------
-- what the planner does after the tables were exchanged
-- ---------------------------------------------------------------------------
CREATE FUNCTION stock_of(id uuid) RETURNS SETOF stock LANGUAGE sql STABLE AS 'SELECT * FROM esrs_ways.stock s WHERE s.id = $1';
CREATE FUNCTION stock_n(id uuid) RETURNS int LANGUAGE sql STABLE AS 'SELECT s.n FROM esrs_ways.stock s WHERE s.id = $1';
CREATE FUNCTION stock_p(id uuid) RETURNS int LANGUAGE plpgsql STABLE PARALLEL SAFE AS 'BEGIN RETURN (SELECT s.n FROM esrs_ways.stock s WHERE s.id = $1); END';
CREATE FUNCTION keep(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    before int;
BEGIN
    CASE current_setting('test.way')
        WHEN 'from' THEN SELECT s.n INTO before FROM esrs_ways.stock_of(e.aggregate_id) s;
        WHEN 'expression' THEN SELECT esrs_ways.stock_n(x) INTO before FROM unnest(ARRAY[e.aggregate_id]) AS x;
        WHEN 'parallel' THEN SELECT esrs_ways.stock_p(e.aggregate_id) INTO before;
        WHEN 'lateral' THEN SELECT s.n INTO before FROM (VALUES (e.aggregate_id)) AS v (id), LATERAL esrs_ways.stock_of(v.id) s;
    END CASE;
    INSERT INTO esrs_ways.stock AS s VALUES (e.aggregate_id, coalesce(before, 0) + (e.payload ->> 'n')::int)
    ON CONFLICT (id) DO UPDATE SET n = excluded.n;
END $$;
SELECT esrs_register_handler('way', '{way}', 'keep(esrs_event)');
CREATE PROCEDURE all_ways() LANGUAGE plpgsql AS $$
DECLARE
    way text;
BEGIN
    FOREACH way IN ARRAY '{from,expression,parallel,lateral}'::text[] LOOP
        UPDATE esrs_ways.stock SET n = 1000;
        PERFORM set_config('test.way', way, false);
        CALL esrs_rebuild('way', strategy => 'swap', tables => '{esrs_ways.stock}');
        RAISE WARNING '%: %', way, (SELECT array_agg(n) FROM esrs_ways.stock);
    END LOOP;
END $$;
CALL all_ways();
SET force_parallel_mode = on;
CALL all_ways();
RESET force_parallel_mode;
-- and afterwards plans are as they were
EXPLAIN (COSTS OFF) SELECT n FROM stock_of(id(1));

-- ---------------------------------------------------------------------------
-- foreign keys to tables that are not rebuilt
-- ---------------------------------------------------------------------------
CREATE TABLE kinds (kind text PRIMARY KEY);
INSERT INTO kinds VALUES ('a'), ('b');
CREATE TABLE parted (kind text PRIMARY KEY) PARTITION BY LIST (kind);
CREATE TABLE parted_a PARTITION OF parted FOR VALUES IN ('a');
CREATE TABLE parted_b PARTITION OF parted FOR VALUES IN ('b');
INSERT INTO parted VALUES ('a'), ('b');
DROP TABLE stock CASCADE;
CREATE TABLE stock (id uuid PRIMARY KEY, n int NOT NULL, kind text CONSTRAINT of_kind REFERENCES kinds ON UPDATE CASCADE,
    part text CONSTRAINT of_part REFERENCES parted, self uuid CONSTRAINT of_self REFERENCES stock DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE stock ADD CONSTRAINT not_valid FOREIGN KEY (kind) REFERENCES kinds NOT VALID;
CREATE OR REPLACE FUNCTION keep(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    -- nobody who needs the table of kinds waits for us
    IF EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'esrs_ways.kinds'::regclass) THEN
        RAISE WARNING 'kinds are locked';
    END IF;
    INSERT INTO esrs_ways.stock AS s VALUES (e.aggregate_id, (e.payload ->> 'n')::int, e.payload ->> 'kind', e.payload ->> 'kind', e.aggregate_id)
    ON CONFLICT (id) DO UPDATE SET n = s.n + excluded.n, kind = excluded.kind;
END $$;
:swap '{stock}');
SELECT n, kind, part, self = id AS self FROM stock;
SELECT conname, convalidated FROM pg_constraint WHERE conrelid = 'stock'::regclass AND conparentid = 0 AND contype = 'f' ORDER BY 1;
UPDATE kinds SET kind = 'c' WHERE kind = 'a';
DELETE FROM kinds WHERE kind = 'c';
SELECT kind, count(*) FROM stock GROUP BY 1;
-- the events say "a", which is no kind any more; and nothing has happened
:swap '{stock}');
SELECT kind, count(*) FROM stock GROUP BY 1;
UPDATE kinds SET kind = 'a' WHERE kind = 'c';
DELETE FROM parted WHERE kind = 'a';
:swap '{stock}');
-- partitions have the one they began with
SELECT part, count(*) FROM stock GROUP BY 1;
SET session_replication_role = replica;
DELETE FROM parted WHERE kind = 'b';
RESET session_replication_role;
:swap '{stock}');
-- not enforced
ALTER TABLE stock DISABLE TRIGGER ALL;
:swap '{stock}');
SELECT kind, part, count(*) FROM stock GROUP BY 1, 2;
SELECT DISTINCT tgenabled FROM pg_trigger WHERE tgrelid = 'stock'::regclass;
ALTER TABLE stock ENABLE TRIGGER ALL;
-- an owner without any right on it
CREATE ROLE esrs_ways_owner;
CREATE ROLE esrs_ways_other;
GRANT USAGE ON SCHEMA esrs_ways TO esrs_ways_owner, esrs_ways_other;
INSERT INTO parted VALUES ('a'), ('b');
ALTER TABLE stock OWNER TO esrs_ways_owner;
ALTER TABLE kinds OWNER TO esrs_ways_other;
:swap '{stock}');
SELECT kind, part, count(*) FROM stock GROUP BY 1, 2;
DELETE FROM kinds WHERE kind = 'b';
INSERT INTO kinds VALUES ('b');
UPDATE stock SET kind = 'b';
DELETE FROM kinds WHERE kind = 'a';
:swap '{stock}');

-- ---------------------------------------------------------------------------
-- triggers fire as before
-- ---------------------------------------------------------------------------
DROP TABLE stock;
CREATE TABLE stock (id uuid PRIMARY KEY, n int NOT NULL, fired text);
CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.fired := concat_ws(' ', NEW.fired, TG_NAME);
    RETURN NEW;
END $$;
CREATE TRIGGER a_always BEFORE INSERT ON stock FOR EACH ROW EXECUTE FUNCTION fire();
CREATE TRIGGER b_replica BEFORE INSERT ON stock FOR EACH ROW EXECUTE FUNCTION fire();
CREATE TRIGGER c_disabled BEFORE INSERT ON stock FOR EACH ROW EXECUTE FUNCTION fire();
CREATE TRIGGER d_default BEFORE INSERT ON stock FOR EACH ROW EXECUTE FUNCTION fire();
ALTER TABLE stock ENABLE ALWAYS TRIGGER a_always, ENABLE REPLICA TRIGGER b_replica, DISABLE TRIGGER c_disabled;
CREATE OR REPLACE FUNCTION keep(e esrs_event) RETURNS void LANGUAGE sql AS $$
    INSERT INTO esrs_ways.stock VALUES (e.aggregate_id, 1) ON CONFLICT (id) DO UPDATE SET n = stock.n + 1;
$$;
:swap '{stock}');
SELECT DISTINCT fired FROM stock;
SET session_replication_role = replica;
:swap '{stock}');
RESET session_replication_role;
SELECT DISTINCT fired FROM stock;
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'stock'::regclass ORDER BY 1;

-- ---------------------------------------------------------------------------
-- names
-- ---------------------------------------------------------------------------
-- an index of the name of another table, tables of one name, and schemas that are there
CREATE SCHEMA esrs_ways_2;
CREATE TABLE esrs_ways_2.stock (id uuid UNIQUE);
CREATE TABLE esrs_ways_2.stock_pkey (id uuid);
CREATE OR REPLACE FUNCTION keep(e esrs_event) RETURNS void LANGUAGE sql AS $$
    INSERT INTO esrs_ways.stock VALUES (e.aggregate_id, 1) ON CONFLICT (id) DO UPDATE SET n = stock.n + 1;
    INSERT INTO esrs_ways_2.stock VALUES (e.aggregate_id) ON CONFLICT DO NOTHING;
    INSERT INTO esrs_ways_2.stock_pkey VALUES (e.aggregate_id);
$$;
DO $$ BEGIN FOR n IN 1 .. 40 LOOP EXECUTE format('CREATE SCHEMA esrs_shadow_%s_%s', pg_backend_pid(), n); END LOOP; END $$;
:swap '{stock,esrs_ways_2.stock,esrs_ways_2.stock_pkey}');
SELECT (SELECT sum(n) FROM stock) AS n, (SELECT count(*) FROM esrs_ways_2.stock) AS of_one_name, (SELECT count(*) FROM esrs_ways_2.stock_pkey) AS like_an_index;
SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'esrs_shadow%';
DO $$ BEGIN FOR n IN 1 .. 40 LOOP EXECUTE format('DROP SCHEMA esrs_shadow_%s_%s', pg_backend_pid(), n); END LOOP; END $$;
-- whatever cannot be made there says where
CREATE FUNCTION fits(stock) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1.n > 0';
ALTER TABLE stock ADD CHECK (fits(stock));
DO $$
DECLARE
    context text;
BEGIN
    PERFORM esrs_verify_handler('way', '{esrs_ways.stock,esrs_ways_2.stock,esrs_ways_2.stock_pkey}');
EXCEPTION WHEN undefined_function THEN
    GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
    RAISE WARNING '%', split_part(context, E'\n', 1);
END $$;

-- ---------------------------------------------------------------------------
-- deletions of the past, between the events
-- ---------------------------------------------------------------------------
DROP TABLE stock CASCADE;
CREATE TABLE stock (id uuid PRIMARY KEY, n int NOT NULL);
CREATE TABLE deletions (n int GENERATED ALWAYS AS IDENTITY, id uuid, events bigint);
CREATE OR REPLACE FUNCTION keep(e esrs_event) RETURNS void LANGUAGE sql AS $$
    INSERT INTO esrs_ways.stock VALUES (e.aggregate_id, 1) ON CONFLICT (id) DO UPDATE SET n = stock.n + 1;
$$;
CREATE FUNCTION forget(id uuid) RETURNS void LANGUAGE sql AS $$
    INSERT INTO esrs_ways.deletions (id, events) SELECT $1, count(*) FROM esrs_ways.stock;
    DELETE FROM esrs_ways.stock s WHERE s.id = $1;
$$;
SELECT esrs_alter_handler('way', '{"delete_handler": "forget(uuid)"}');
SELECT count(*) FROM generate_series(1, 3000) AS n, esrs_persist('way', id(100 + n), ARRAY['{}']::jsonb[]);
SELECT count(esrs_delete('way', id(100 + n))) FROM generate_series(1, 3000) AS n WHERE n % 5 = 0;
SELECT count(*) FROM esrs_persist('way', id(105), ARRAY['{}', '{}']::jsonb[]);
TRUNCATE deletions;
:swap '{stock,deletions}');
SELECT count(*), sum(n) FROM stock;
-- in their order
SELECT count(*), min(events), max(events), bool_and(id = esrs_ways.id(100 + 5 * nth)) AS in_order
  FROM (SELECT *, row_number() OVER (ORDER BY n)::int AS nth FROM deletions) AS d;
SELECT * FROM stock WHERE id = id(105);

SELECT esrs_unregister_aggregate('way', true);
DROP SCHEMA esrs_ways, esrs_ways_2 CASCADE;
DROP ROLE esrs_ways_owner, esrs_ways_other;
