-- rebuild.sql - what scripts/bench measures the set "rebuild" with, in a database of its own.
-- psql variable: projection, where the library of projection.c lies.
--
-- Two read models of the same events, each with a handler in PL/pgSQL, in C and in SQL for
-- many events at once.  "stock" has a row for each instance, which every event changes;
-- "movements" has a row for each event.

CREATE EXTENSION esrs;
SELECT esrs_register_aggregate('book');
SELECT esrs_register_aggregate('tenth');

CREATE TABLE stock (book uuid PRIMARY KEY, copies bigint NOT NULL, events int NOT NULL);
CREATE TABLE movements (position bigint, book uuid, copies int);

CREATE FUNCTION stock_plpgsql(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO stock AS s VALUES (e.aggregate_id, (e.payload ->> 'copies')::int, 1)
    ON CONFLICT (book) DO UPDATE SET copies = s.copies + excluded.copies, events = s.events + 1;
END $$;
CREATE FUNCTION stock_c(esrs_event) RETURNS void LANGUAGE c AS :'projection', 'bench_stock';
CREATE FUNCTION stock_set(e esrs_event[]) RETURNS void LANGUAGE sql
BEGIN ATOMIC
    INSERT INTO stock AS s SELECT aggregate_id, sum((payload ->> 'copies')::int), count(*) FROM unnest(e) GROUP BY aggregate_id
    ON CONFLICT (book) DO UPDATE SET copies = s.copies + excluded.copies, events = s.events + excluded.events;
END;
CREATE FUNCTION forget_stock(id uuid) RETURNS void LANGUAGE sql
BEGIN ATOMIC
    DELETE FROM stock WHERE book = id;
END;

CREATE FUNCTION movements_plpgsql(e esrs_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO movements VALUES (e.position, e.aggregate_id, (e.payload ->> 'copies')::int);
END $$;
CREATE FUNCTION movements_c(esrs_event) RETURNS void LANGUAGE c AS :'projection', 'bench_movements';
CREATE FUNCTION movements_set(e esrs_event[]) RETURNS void LANGUAGE sql
BEGIN ATOMIC
    INSERT INTO movements SELECT position, aggregate_id, (payload ->> 'copies')::int FROM unnest(e);
END;

-- What no handler can reach: all of it in one statement.
CREATE PROCEDURE stock_insert() LANGUAGE sql AS $$
    TRUNCATE stock;
    INSERT INTO stock SELECT aggregate_id, sum((payload ->> 'copies')::int), count(*) FROM book_events GROUP BY aggregate_id;
$$;
CREATE PROCEDURE movements_insert() LANGUAGE sql AS $$
    TRUNCATE movements;
    INSERT INTO movements SELECT position, aggregate_id, (payload ->> 'copies')::int FROM book_events ORDER BY position;
$$;

-- What somebody would write who has no handlers: the same statements, event by event.
CREATE PROCEDURE stock_loop() LANGUAGE plpgsql AS $$
DECLARE
    e record;
BEGIN
    TRUNCATE stock;
    FOR e IN SELECT * FROM book_events ORDER BY position LOOP
        INSERT INTO stock AS s VALUES (e.aggregate_id, (e.payload ->> 'copies')::int, 1)
        ON CONFLICT (book) DO UPDATE SET copies = s.copies + excluded.copies, events = s.events + 1;
    END LOOP;
END $$;
CREATE PROCEDURE movements_loop() LANGUAGE plpgsql AS $$
DECLARE
    e record;
BEGIN
    TRUNCATE movements;
    FOR e IN SELECT * FROM book_events ORDER BY position LOOP
        INSERT INTO movements VALUES (e.position, e.aggregate_id, (e.payload ->> 'copies')::int);
    END LOOP;
END $$;

-- Appends fifty events to each of so many instances, in an order of all of them by chance.
CREATE FUNCTION fill(aggregate text, instances int) RETURNS void LANGUAGE sql AS $$
    SELECT setseed(0);
    WITH id AS MATERIALIZED (SELECT gen_random_uuid() AS id FROM generate_series(1, instances)),
         shuffled AS MATERIALIZED (SELECT id, i FROM id, generate_series(1, 50) AS i ORDER BY random())
    SELECT count(*) FROM shuffled,
        esrs_persist(aggregate, id, ARRAY[jsonb_build_object('copies', i % 7 - 2)]);
$$;

-- What a read model should be, of the aggregate of which it is built.
CREATE FUNCTION folded(aggregate text) RETURNS SETOF stock LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE format('SELECT aggregate_id, sum((payload ->> ''copies'')::int), count(*)::int FROM %I GROUP BY 1',
                                aggregate || '_events');
END $$;

-- Both read models as somebody has spoilt them.
CREATE PROCEDURE spoil(aggregate text) LANGUAGE sql AS $$
    TRUNCATE stock, movements;
    INSERT INTO stock SELECT book, -1, -1 FROM folded(aggregate);
    INSERT INTO movements VALUES (-1, gen_random_uuid(), -1);
$$;

CREATE PROCEDURE check_model(model text, aggregate text) LANGUAGE plpgsql AS $$
DECLARE
    wrong bigint;
BEGIN
    CREATE TEMP TABLE built AS SELECT * FROM stock WHERE model = 'stock'
        UNION ALL SELECT book, sum(copies), count(*)::int FROM movements WHERE model = 'movements' GROUP BY 1;
    CREATE TEMP TABLE wanted AS SELECT * FROM folded(aggregate);
    SELECT count(*) INTO wrong FROM ((TABLE built EXCEPT TABLE wanted) UNION ALL (TABLE wanted EXCEPT TABLE built)) AS x;
    ASSERT wrong = 0, format('%s is not what the events say: %s rows', model, wrong);
END $$;
