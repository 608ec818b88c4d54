-- multi_aggregate_rebuild: a read model that two aggregates feed is made anew.

CREATE EXTENSION esrs;
SELECT esrs_register_aggregate('a');
SELECT esrs_register_aggregate('b');

-- The same view twice: in the transaction of the command, and after it.
CREATE TABLE sums (shared_id uuid PRIMARY KEY, sum int, last text);
CREATE TABLE late_sums (LIKE sums INCLUDING ALL);

-- The first version has the sign wrong.
CREATE FUNCTION keep_sums(event esrs_event) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO sums VALUES ((event.payload ->> 'shared_id')::uuid, -(event.payload -> 'v')::int, event.aggregate)
    ON CONFLICT (shared_id) DO UPDATE SET sum = sums.sum + excluded.sum, last = excluded.last;
END $$;
CREATE FUNCTION keep_late_sums(event esrs_event) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO late_sums VALUES ((event.payload ->> 'shared_id')::uuid, -(event.payload -> 'v')::int, event.aggregate)
    ON CONFLICT (shared_id) DO UPDATE SET sum = late_sums.sum + excluded.sum, last = excluded.last;
END $$;
SELECT esrs_register_handler('sums', '{a,b}', 'keep_sums(esrs_event)');
SELECT esrs_register_handler('late_sums', '{a,b}', 'keep_late_sums(esrs_event)', mode => 'async');

\set id_a '''0b5e7c1e-0000-4000-8000-00000000000a'''
\set id_b '''0b5e7c1e-0000-4000-8000-00000000000b'''
\set shared '''0b5e7c1e-0000-4000-8000-000000000001'''
SELECT count(*) FROM esrs_persist('a', :id_a, ARRAY[jsonb_build_object('v', 5, 'shared_id', :shared)]);
SELECT count(*) FROM esrs_persist('b', :id_b, ARRAY[jsonb_build_object('v', 7, 'shared_id', :shared)]);
SELECT count(*) FROM esrs_persist('a', :id_a, ARRAY[jsonb_build_object('v', 5, 'shared_id', :shared)]);
SELECT esrs_wait_for('late_sums', timeout => '60s');
SELECT sums.sum, late_sums.sum AS late FROM sums JOIN late_sums USING (shared_id);

-- The second version has it right.
CREATE OR REPLACE FUNCTION keep_sums(event esrs_event) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO sums VALUES ((event.payload ->> 'shared_id')::uuid, (event.payload -> 'v')::int, event.aggregate)
    ON CONFLICT (shared_id) DO UPDATE SET sum = sums.sum + excluded.sum, last = excluded.last;
END $$;
CREATE OR REPLACE FUNCTION keep_late_sums(event esrs_event) RETURNS void LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
    INSERT INTO late_sums VALUES ((event.payload ->> 'shared_id')::uuid, (event.payload -> 'v')::int, event.aggregate)
    ON CONFLICT (shared_id) DO UPDATE SET sum = late_sums.sum + excluded.sum, last = excluded.last;
END $$;

-- One call each: the events of both aggregates, merged in the order of their positions.
CALL esrs_rebuild('sums', truncate => '{sums}');
CALL esrs_rebuild('late_sums', truncate => '{late_sums}');
SELECT sums.sum, sums.last, late_sums.sum AS late, late_sums.last AS late_last FROM sums JOIN late_sums USING (shared_id);

-- And both go on from there.
SELECT count(*) FROM esrs_persist('b', :id_b, ARRAY[jsonb_build_object('v', 3, 'shared_id', :shared)]);
SELECT esrs_wait_for('late_sums', timeout => '60s');
SELECT sums.sum, sums.last, late_sums.sum AS late, late_sums.last AS late_last FROM sums JOIN late_sums USING (shared_id);
