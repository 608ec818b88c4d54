-- book: an aggregate written in C.  book.c holds the rules; this file registers
-- it, adds a read model and an event bus, and goes through the life of a book.

CREATE EXTENSION esrs;

-- The handler function is the aggregate: it returns a table of callbacks.
CREATE FUNCTION book_aggregate(internal) RETURNS esrs.aggregate_handler
    LANGUAGE C AS '$libdir/book';

SELECT esrs_register_aggregate('book', handler => 'book_aggregate(internal)');

-- A read model, kept up to date in the transaction of each command.  The book
-- shop never sells more than 20 copies of a book: the table says so.
CREATE TABLE sales (
    book     uuid PRIMARY KEY,
    sold     int NOT NULL DEFAULT 0 CONSTRAINT at_most_20 CHECK (sold <= 20),
    returned int NOT NULL DEFAULT 0
);

CREATE FUNCTION keep_sales(event esrs_event) RETURNS void LANGUAGE sql AS $$
    INSERT INTO sales VALUES (
        event.aggregate_id,
        coalesce((event.payload -> 'Bought' ->> 'num_of_copies')::int, 0),
        coalesce((event.payload -> 'Returned' ->> 'num_of_copies')::int, 0))
    ON CONFLICT (book) DO UPDATE
        SET sold = sales.sold + excluded.sold, returned = sales.returned + excluded.returned
$$;

CREATE FUNCTION forget_sales(book_id uuid) RETURNS void LANGUAGE sql AS $$
    DELETE FROM sales WHERE book = book_id
$$;

SELECT esrs_register_handler('sales', '{book}', 'keep_sales(esrs_event)',
                             delete_handler => 'forget_sales(uuid)');

\set book '''0b5e7c1e-0000-4000-8000-000000000001'''

-- Ten copies are there.  Four are bought.
SELECT esrs_handle_command('book', :book, '{"Buy": {"num_of_copies": 4}}');

-- Seven more would be too many.  The rejection is an error ...
SELECT esrs_handle_command('book', :book, '{"Buy": {"num_of_copies": 7}}');
\echo SQLSTATE :LAST_ERROR_SQLSTATE

-- ... or a row, for who would rather not have an error.
SELECT ok, sequence_number, state, events, error
  FROM esrs_try_command('book', :book, '{"Buy": {"num_of_copies": 7}}');

-- One copy comes back.
SELECT ok, sequence_number, state, error
  FROM esrs_try_command('book', :book, '{"Return": {"num_of_copies": 1}}');

-- What happened, what the state is now, and what it was after the first event.
SELECT sequence_number, payload FROM esrs_events('book', :book);
SELECT sequence_number, state FROM esrs_load('book', :book);
SELECT sequence_number, state FROM esrs_load('book', :book, at_sequence => 1);
SELECT * FROM sales;

-- Two customers looked at event 2 and decided; the second is told.
SELECT esrs_handle_command('book', :book, '{"Buy": {"num_of_copies": 5}}', expected_sequence => 2);
SELECT esrs_handle_command('book', :book, '{"Buy": {"num_of_copies": 1}}', expected_sequence => 2);
\echo SQLSTATE :LAST_ERROR_SQLSTATE

-- The read model has a veto: book.c would allow this, the table does not.
SELECT esrs_handle_command('book', :book, '{"Return": {"num_of_copies": 50}}');
\set VERBOSITY terse
SELECT esrs_handle_command('book', :book, '{"Buy": {"num_of_copies": 12}}');
\set VERBOSITY default
SELECT count(*) AS events, max(sequence_number) AS newest FROM book_events;

-- What was before may still be on its way to being told.
SELECT esrs_stop_workers() >= 0 AS quiet;

-- The event bus: every session that listens is told, by the background worker soon after the
-- commit, or, as here, by the session that commits.
SELECT esrs_alter_aggregate('book', '{"notify": "commit"}');
LISTEN book_events;
\o | sed -E 's/"id":"[^"]*"/"id":"..."/; s/with PID [0-9]+/with PID .../'
SELECT esrs_handle_command('book', :book, '{"Buy": {"num_of_copies": 2}}');
\o
UNLISTEN book_events;

-- The same event as a message for the outside world.
SELECT regexp_replace(regexp_replace(esrs_event_json(e), '"id":"[^"]*"', '"id":"..."'),
                      '"occurred_on":"[^"]*"', '"occurred_on":"..."') AS message
  FROM esrs_events('book', :book, from_sequence => 5) AS e;

-- Nonsense is refused before it is stored.
SELECT esrs_handle_command('book', :book, '{"Buy": {"num_of_copies": "two"}}');
SELECT esrs_handle_command('book', :book, '{"Buy": {}}');
SELECT esrs_handle_command('book', :book, '{"Burn": {"num_of_copies": 1}}');
SELECT esrs_handle_command('book', :book, '"Buy"');
SELECT esrs_handle_command('book', :book, '[1, 2]');

-- The rules tested without a single stored event.
SELECT esrs_test('book', given => '{}',
                 "when" => '{"Buy": {"num_of_copies": 10}}',
                 "then" => ARRAY['{"Bought": {"num_of_copies": 10}}']::jsonb[]);
SELECT esrs_test('book', given => ARRAY['{"Bought": {"num_of_copies": 8}}']::jsonb[],
                 "when" => '{"Buy": {"num_of_copies": 3}}',
                 then_error => 'NotEnoughCopies');
SELECT esrs_test('book', given => ARRAY['{"Bought": {"num_of_copies": 8}}',
                                        '{"Returned": {"num_of_copies": 1}}']::jsonb[],
                 "when" => '{"Buy": {"num_of_copies": 3}}',
                 "then" => ARRAY['{"Bought": {"num_of_copies": 3}}']::jsonb[]);

-- A book is taken off the shelves, events and read model alike.
SELECT esrs_delete('book', :book);
SELECT * FROM sales;
SELECT * FROM esrs_load('book', :book);
