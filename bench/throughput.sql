-- throughput.sql - what scripts/bench measures the set "throughput" with, after streams.sql in
-- the same database.  psql variable: cpu, where the library of cpu.c lies.
--
-- 10,000 instances with ten events each; and a table that is the same, for bare INSERTs.

CREATE FUNCTION bench_key(bigint) RETURNS uuid LANGUAGE c IMMUTABLE STRICT AS :'cpu';
SELECT count(*) AS filled
  FROM generate_series(0, 9999) AS k,
       esrs_persist('book_c', bench_key(k), array_fill('{"Returned": {"num_of_copies": 1}}'::jsonb, ARRAY[10]));
CREATE TABLE raw (LIKE book_c_events INCLUDING ALL);
INSERT INTO raw SELECT * FROM book_c_events;
