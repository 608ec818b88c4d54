--
-- esrs_feed: the events of several aggregates in one order.
--
-- Catches: events that are lost or shown twice between pages, a wrong order,
-- deletions out of place or counted wrongly, uncommitted events in the feed, and
-- a read with a snapshot older than the bound.
--
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA esrs_feed;
SET search_path = esrs_feed, public;
\set a '\'feed0000-0000-4000-8000-00000000000a\''
\set b '\'feed0000-0000-4000-8000-00000000000b\''
\pset null (null)

SELECT esrs_register_aggregate('feed_one');
SELECT esrs_register_aggregate('feed_two');
SELECT esrs_register_aggregate('feed_three');
-- two aggregates in turn, with a deletion in each, in between and at the end
SELECT count(*) FROM esrs_persist('feed_one', :a, '{"{\"n\": 1}","{\"n\": 2}"}');
SELECT count(*) FROM esrs_persist('feed_two', :a, '{"{\"n\": 3}"}', metadata => '{"actor": "me"}');
SELECT count(*) FROM esrs_persist('feed_one', :b, '{"{\"n\": 4}"}');
SELECT esrs_delete('feed_two', :a);
SELECT count(*) FROM esrs_persist('feed_two', :b, '{"\"five\""}');
SELECT count(*) FROM esrs_persist('feed_one', :a, '{"{\"n\": 6}"}');
SELECT count(*) FROM esrs_persist('feed_three', :a, '{"{\"n\": 7}"}');
SELECT esrs_delete('feed_one', :b);

-- one aggregate, several, in any order, and named twice; positions rise
SELECT aggregate, aggregate_id, sequence_number, payload, id IS NULL AS deletion, metadata FROM esrs_feed('{feed_one}');
SELECT aggregate, aggregate_id, sequence_number, payload, id IS NULL AS deletion, metadata FROM esrs_feed('{feed_two,feed_one}');
SELECT count(*), bool_and(rising) FROM (SELECT position > lag(position, 1, 0::bigint) OVER (ORDER BY ordinality) AS rising
                                          FROM esrs_feed('{feed_one,feed_two,feed_one,feed_three}') WITH ORDINALITY) AS x;
SELECT count(*) FROM esrs_feed('{}');
-- what the feed says is what is stored
SELECT count(*), bool_and(f.id = s.id AND f.occurred_on = s.occurred_on AND f.position = s.position AND f.version IS NULL)
  FROM esrs_feed('{feed_one}') AS f JOIN feed_one_events AS s USING (aggregate_id, sequence_number);
-- pages: any size gives the same rows, once each
CREATE FUNCTION pages(size int) RETURNS TABLE (payload jsonb, aggregate_id uuid, page int)
LANGUAGE plpgsql AS $$
DECLARE
    after bigint := 0;
    e esrs_event;
    got int;
BEGIN
    page := 0;
    LOOP
        page := page + 1;
        got := 0;
        FOR e IN SELECT * FROM esrs_feed('{feed_one,feed_two,feed_three}', after, size) LOOP
            got := got + 1;
            payload := e.payload;
            aggregate_id := e.aggregate_id;
            after := e.position;
            RETURN NEXT;
        END LOOP;
        EXIT WHEN got = 0;
        IF got > size THEN
            RAISE 'a page of % has % rows', size, got;
        END IF;
    END LOOP;
END $$;
SELECT payload, page FROM pages(2);
SELECT size, (SELECT array_agg((p.payload, p.aggregate_id)::text) FROM pages(size) AS p)
           = (SELECT array_agg((f.payload, f.aggregate_id)::text) FROM esrs_feed('{feed_one,feed_two,feed_three}') AS f) AS same
  FROM generate_series(1, 9) AS size;
-- after the last there is nothing; null means the default
SELECT count(*) FROM esrs_feed('{feed_one,feed_two,feed_three}', (SELECT last_value FROM esrs.position_seq));
SELECT count(*) FROM esrs_feed('{feed_one,feed_two,feed_three}', 9223372036854775807);
SELECT count(*) FROM esrs_feed('{feed_one,feed_two,feed_three}', -1);
SELECT count(*) FROM esrs_feed('{feed_one,feed_two,feed_three}', NULL, NULL);

-- more than are read at once, of two tables in turn, with deletions; 1,000 by default
DO $$
BEGIN
    FOR i IN 1 .. 600 LOOP
        PERFORM esrs_persist('feed_one', 'feed0000-0000-4000-8000-00000000000c', jsonb_build_object('i', i) || ARRAY[]::jsonb[]);
        PERFORM esrs_persist('feed_two', 'feed0000-0000-4000-8000-00000000000c', jsonb_build_object('i', i) || ARRAY[]::jsonb[]);
        IF i % 100 = 0 THEN
            PERFORM esrs_delete('feed_three', 'feed0000-0000-4000-8000-00000000000d', permanent => false);
            PERFORM esrs_persist('feed_three', 'feed0000-0000-4000-8000-00000000000d', ARRAY['{"kept": 1}'::jsonb]);
        END IF;
    END LOOP;
END $$;
SELECT count(*) FROM esrs_feed('{feed_one,feed_two,feed_three}');
SELECT count(*), count(payload ->> 'i') AS numbered, count(*) FILTER (WHERE id IS NULL) AS deletions,
       bool_and(rising) AS rising
  FROM (SELECT *, position > lag(position, 1, 0::bigint) OVER (ORDER BY ordinality) AS rising
          FROM esrs_feed('{feed_one,feed_two,feed_three}', 0, 100000) WITH ORDINALITY) AS x;
SELECT size, (SELECT count(*) FROM pages(size)) FROM unnest('{7,499,500,501,1000}'::int[]) AS size;

-- uncommitted events are not shown, not even one's own: the transaction may roll back
SELECT last_value AS before FROM esrs.position_seq \gset
BEGIN;
SELECT count(*) FROM esrs_persist('feed_one', :a, '{"{\"n\": 8}"}');
SELECT count(*) FROM esrs_feed('{feed_one}', :before);
-- what was there before is; other aggregates are not held up
SELECT count(*) > 0 AS there FROM esrs_feed('{feed_one}');
SELECT count(*) FROM esrs_feed('{feed_three}', max => 1);
COMMIT;
SELECT payload FROM esrs_feed('{feed_one}', :before);
BEGIN;
SELECT count(*) FROM esrs_persist('feed_one', :a, '{"{\"n\": 9}"}');
ROLLBACK;
SELECT payload FROM esrs_feed('{feed_one}', :before);
-- a savepoint that is rolled back keeps the bound, but not the event
BEGIN;
SAVEPOINT s;
SELECT count(*) FROM esrs_persist('feed_one', :a, '{"{\"n\": 9}"}');
ROLLBACK TO s;
SELECT payload FROM esrs_feed('{feed_one}', :before);
COMMIT;
SELECT payload FROM esrs_feed('{feed_one}', :before);

-- a position that is drawn by the column's default is one like any other
INSERT INTO feed_one_events (id, aggregate_id, payload) VALUES (gen_random_uuid(), 'feed0000-0000-4000-8000-00000000000e', '{"by": "hand"}');
SELECT payload, sequence_number FROM esrs_feed('{feed_one}', :before);

-- times do not matter: a clock that was turned back does not turn the order
INSERT INTO feed_three_events (id, aggregate_id, payload, occurred_on, sequence_number) VALUES
    (gen_random_uuid(), 'feed0000-0000-4000-8000-00000000000f', '{"t": "first"}', '2024-01-01 10:00:01+00', 1),
    (gen_random_uuid(), 'feed0000-0000-4000-8000-00000000000f', '{"t": "second"}', '2024-01-01 10:00:00+00', 2);
SELECT payload, sequence_number FROM esrs_feed('{feed_three}', :before);

-- isolation levels whose snapshot is older than the bound
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM esrs_feed('{feed_one}');
\echo :SQLSTATE
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT count(*) FROM esrs_feed('{feed_one}');
\echo :SQLSTATE
ROLLBACK;
BEGIN READ ONLY;
SELECT count(*) > 0 AS works FROM esrs_feed('{feed_one}');
COMMIT;

-- bad arguments
SELECT esrs_feed(NULL);
\echo :SQLSTATE
SELECT esrs_feed('{feed_one,NULL}');
\echo :SQLSTATE
SELECT esrs_feed('{feed_one,feed_no_such}');
\echo :SQLSTATE
SELECT esrs_feed('{feed_one}', 0, 0);
\echo :SQLSTATE
SELECT esrs_feed('{feed_one}', 0, -1);
\echo :SQLSTATE
SELECT count(*) FROM esrs_feed('{{feed_one,feed_two},{feed_three,feed_one}}', :before);

SELECT esrs_unregister_aggregate(name, drop_events => true) FROM unnest('{feed_one,feed_two,feed_three}'::text[]) AS name;
DROP SCHEMA esrs_feed CASCADE;
