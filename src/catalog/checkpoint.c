/*-------------------------------------------------------------------------
 *
 * checkpoint.c
 *	  The rows of esrs.checkpoints: how far each partition of a consumer of the
 *	  feed is.
 *
 * "position": all events up to it are handled.  "ahead": events behind it that
 * are handled all the same, because somebody else's transaction, which might
 * still store an event before them, was in progress.
 *
 * The lock of the row is all that keeps consumers apart: worker, CALL and
 * clients may run at once.  Whoever changes a consumer locks its rows first and
 * tables of events afterwards.
 *
 * The rows are read and written as the owner of the catalogs.  What an event
 * is, is not known here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/checkpoint.h"

#include "base/security.h"
#include "base/spi.h"
#include "catalog/extension.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* "+ '{}'" makes a flat value of one that is toasted: it is looked at for each event. */
#define READ_QUERY \
	"SELECT position, ahead OPERATOR(pg_catalog.+) '{}'," \
	" ahead OPERATOR(pg_catalog.<>) '{}', coalesce(failing, -1)," \
	" attempts, coalesce(retry_at, '-infinity')," \
	" coalesce(pg_catalog.upper(ahead) OPERATOR(pg_catalog.-) 1, 0) FROM esrs.checkpoints" \
	" WHERE name OPERATOR(pg_catalog.=) $1 AND partition OPERATOR(pg_catalog.=) $2"

/* Plans that are kept for the life of the backend. */
static SPIPlanPtr read_plan = NULL;
static SPIPlanPtr lock_plan = NULL;
static SPIPlanPtr lock_waiting_plan = NULL;
static SPIPlanPtr advance_plan = NULL;
static SPIPlanPtr advance_ahead_plan = NULL;

/* Run one statement on the rows of a consumer, $1, as their owner. */
static uint64
change(const char *query, const char *name, int nargs, Oid *more_types, Datum *more,
	   const char *nulls, int expected)
{
	Oid			types[8] = {TEXTOID};
	Datum		values[8] = {CStringGetTextDatum(name)};
	EsrsIdentity before;
	uint64		n;

	for (int i = 1; i < nargs; i++)
	{
		types[i] = more_types[i - 1];
		values[i] = more[i - 1];
	}
	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	n = esrs_spi_run(query, nargs, types, values, nulls, expected);
	esrs_spi_end();
	esrs_security_restore(&before);
	return n;
}

/* Positions as an int8[]. */
Datum
esrs_checkpoint_positions(int64 *positions, int n)
{
	Datum	   *values = palloc(sizeof(Datum) * Max(n, 1));

	for (int i = 0; i < n; i++)
		values[i] = Int64GetDatum(positions[i]);
	return PointerGetDatum(construct_array(values, n, INT8OID, sizeof(int64),
										   FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* Make the rows of a new consumer. */
void
esrs_checkpoint_create(const char *name, int partitions, int64 position)
{
	Oid			types[2] = {INT4OID, INT8OID};
	Datum		values[2] = {Int32GetDatum(partitions), Int64GetDatum(position)};

	(void) change("INSERT INTO esrs.checkpoints (name, partition, position)"
				  " SELECT $1, p, $3 FROM pg_catalog.generate_series(0, $2 OPERATOR(pg_catalog.-) 1) AS p",
				  name, 3, types, values, NULL, SPI_OK_INSERT);
}

/* Forget a consumer. */
void
esrs_checkpoint_delete(const char *name)
{
	(void) change("DELETE FROM esrs.checkpoints WHERE name OPERATOR(pg_catalog.=) $1",
				  name, 1, NULL, NULL, NULL, SPI_OK_DELETE);
	(void) change("DELETE FROM esrs.dead_letters WHERE handler OPERATOR(pg_catalog.=) $1",
				  name, 1, NULL, NULL, NULL, SPI_OK_DELETE);
}

/*
 * Lock all rows of a consumer until the transaction ends, waiting for batches in
 * progress.  Returns their number.
 */
int
esrs_checkpoint_lock_all(const char *name)
{
	return (int) change("SELECT 1 FROM esrs.checkpoints WHERE name OPERATOR(pg_catalog.=) $1"
						" ORDER BY partition FOR UPDATE",
						name, 1, NULL, NULL, NULL, SPI_OK_SELECT);
}

/*
 * Put a consumer, which is locked, to a position; rows that are missing are
 * made, those of partitions that it does not have any more deleted.
 */
void
esrs_checkpoint_reset(const char *name, int partitions, int64 position)
{
	Oid			types[1] = {INT8OID};
	Datum		values[1] = {Int64GetDatum(position)};

	esrs_checkpoint_repartition(name, partitions, position, NULL, 0);
	(void) change("DELETE FROM esrs.dead_letters WHERE handler OPERATOR(pg_catalog.=) $1"
				  " AND position OPERATOR(pg_catalog.>) $2",
				  name, 2, types, values, NULL, SPI_OK_DELETE);
}

/*
 * Give a consumer, which is locked, another number of partitions.  All of them
 * begin at the position, with the same positions ahead.
 */
void
esrs_checkpoint_repartition(const char *name, int partitions, int64 position,
							int64 *ahead, int n)
{
	Oid			types[3] = {INT4OID, INT8OID, INT8ARRAYOID};
	Datum		values[3];

	values[0] = Int32GetDatum(partitions);
	values[1] = Int64GetDatum(position);
	values[2] = esrs_checkpoint_positions(ahead, n);

	/* rows that stay are changed in place: somebody may wait for their locks */
	(void) change("DELETE FROM esrs.checkpoints WHERE name OPERATOR(pg_catalog.=) $1"
				  " AND partition OPERATOR(pg_catalog.>=) $2",
				  name, 2, types, values, NULL, SPI_OK_DELETE);
	(void) change("INSERT INTO esrs.checkpoints AS c (name, partition, position, ahead)"
				  " SELECT $1, p, $3, coalesce((SELECT pg_catalog.range_agg(pg_catalog.int8range(a, a, '[]'))"
				  " FROM pg_catalog.unnest($4) AS a), '{}')"
				  " FROM pg_catalog.generate_series(0, $2 OPERATOR(pg_catalog.-) 1) AS p"
				  " ON CONFLICT (name, partition) DO UPDATE SET position = excluded.position,"
				  " ahead = excluded.ahead, failing = NULL, attempts = 0, retry_at = NULL,"
				  " last_error = NULL, handed = '{}', handed_safe = NULL, lease_owner = NULL,"
				  " lease_until = NULL, updated_at = pg_catalog.now()",
				  name, 4, types, values, NULL, SPI_OK_INSERT);
}

/* Let a consumer, which is locked, try again at once. */
void
esrs_checkpoint_clear_failure(const char *name)
{
	(void) change("UPDATE esrs.checkpoints SET attempts = 0, retry_at = NULL, failing = NULL,"
				  " last_error = NULL, updated_at = pg_catalog.now()"
				  " WHERE name OPERATOR(pg_catalog.=) $1",
				  name, 1, NULL, NULL, NULL, SPI_OK_UPDATE);
}

static bool
fetch(SPIPlanPtr *plan, const char *query, const char *name, int partition,
	  Snapshot snapshot, EsrsCheckpoint *checkpoint)
{
	Oid			types[2] = {TEXTOID, INT4OID};
	Datum		values[2] = {CStringGetTextDatum(name), Int32GetDatum(partition)};
	EsrsIdentity before;
	bool		found;
	bool		isnull;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	(void) esrs_spi_keep(plan, query, 2, types);
	found = (snapshot ? esrs_spi_select_at(*plan, values, NULL, snapshot) :
			 esrs_spi_execute(*plan, values, NULL, SPI_OK_SELECT)) > 0;
	if (found)
	{
		checkpoint->position = DatumGetInt64(esrs_spi_column(0, 1, &isnull));
		checkpoint->ahead = datumCopy(esrs_spi_column(0, 2, &isnull), false, -1);
		checkpoint->has_ahead = DatumGetBool(esrs_spi_column(0, 3, &isnull));
		checkpoint->failing = DatumGetInt64(esrs_spi_column(0, 4, &isnull));
		checkpoint->attempts = DatumGetInt32(esrs_spi_column(0, 5, &isnull));
		checkpoint->retry_at = DatumGetTimestampTz(esrs_spi_column(0, 6, &isnull));
		checkpoint->last_ahead = DatumGetInt64(esrs_spi_column(0, 7, &isnull));
	}
	esrs_spi_end();
	esrs_security_restore(&before);
	return found;
}

/*
 * Lock the row of a partition until the transaction ends, and read it.  False
 * if it is not there, or, unless "wait", somebody else has it.
 *
 * The row is the newest version, also if the snapshot is older.
 */
bool
esrs_checkpoint_lock(const char *name, int partition, bool wait, EsrsCheckpoint *checkpoint)
{
	return fetch(wait ? &lock_waiting_plan : &lock_plan,
				 wait ? READ_QUERY " FOR UPDATE" : READ_QUERY " FOR UPDATE SKIP LOCKED",
				 name, partition, NULL, checkpoint);
}

/* Read the row of a partition as it is now.  False if it is not there. */
bool
esrs_checkpoint_read(const char *name, int partition, EsrsCheckpoint *checkpoint)
{
	return fetch(&read_plan, READ_QUERY, name, partition, NULL, checkpoint);
}

/* The same as it is in a snapshot. */
bool
esrs_checkpoint_read_at(const char *name, int partition, Snapshot snapshot,
						EsrsCheckpoint *checkpoint)
{
	return fetch(&read_plan, READ_QUERY, name, partition, snapshot, checkpoint);
}

/*
 * Move a partition, whose row is locked, on to a position, with n more
 * positions behind it that are handled; whatever failed before is over.
 */
void
esrs_checkpoint_advance(const char *name, int partition, int64 position, int64 *ahead, int n)
{
	Oid			types[4] = {TEXTOID, INT4OID, INT8OID, INT8ARRAYOID};
	Datum		values[4];
	EsrsIdentity before;

	values[0] = CStringGetTextDatum(name);
	values[1] = Int32GetDatum(partition);
	values[2] = Int64GetDatum(position);
	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	if (n > 0)
	{
		values[3] = esrs_checkpoint_positions(ahead, n);
		(void) esrs_spi_execute(esrs_spi_keep(&advance_ahead_plan,
											  "UPDATE esrs.checkpoints SET position = $3, ahead ="
											  " (ahead OPERATOR(pg_catalog.+)"
											  " (SELECT pg_catalog.range_agg(pg_catalog.int8range(a, a, '[]'))"
											  " FROM pg_catalog.unnest($4) AS a))"
											  " OPERATOR(pg_catalog.*)"
											  " pg_catalog.int8multirange(pg_catalog.int8range($3, NULL, '()')),"
											  " attempts = 0, retry_at = NULL, failing = NULL, last_error = NULL,"
											  " updated_at = pg_catalog.clock_timestamp()"
											  " WHERE name OPERATOR(pg_catalog.=) $1"
											  " AND partition OPERATOR(pg_catalog.=) $2", 4, types),
								values, NULL, SPI_OK_UPDATE);
	}
	else
		(void) esrs_spi_execute(esrs_spi_keep(&advance_plan,
											  "UPDATE esrs.checkpoints SET position = $3, ahead ="
											  " ahead OPERATOR(pg_catalog.*)"
											  " pg_catalog.int8multirange(pg_catalog.int8range($3, NULL, '()')),"
											  " attempts = 0, retry_at = NULL, failing = NULL, last_error = NULL,"
											  " updated_at = pg_catalog.clock_timestamp()"
											  " WHERE name OPERATOR(pg_catalog.=) $1"
											  " AND partition OPERATOR(pg_catalog.=) $2", 3, types),
								values, NULL, SPI_OK_UPDATE);
	esrs_spi_end();
	esrs_security_restore(&before);
}

/* Note n more positions that are handled; the row is locked. */
void
esrs_checkpoint_add_ahead(const char *name, int partition, int64 *ahead, int n)
{
	Oid			types[2] = {INT4OID, INT8ARRAYOID};
	Datum		values[2] = {Int32GetDatum(partition), esrs_checkpoint_positions(ahead, n)};

	(void) change("UPDATE esrs.checkpoints SET ahead = ahead OPERATOR(pg_catalog.+)"
				  " (SELECT pg_catalog.range_agg(pg_catalog.int8range(a, a, '[]'))"
				  " FROM pg_catalog.unnest($3) AS a), updated_at = pg_catalog.clock_timestamp()"
				  " WHERE name OPERATOR(pg_catalog.=) $1 AND partition OPERATOR(pg_catalog.=) $2",
				  name, 3, types, values, NULL, SPI_OK_UPDATE);
}

/*
 * Note that a partition, whose row is locked, could not go on, and when it is to
 * be tried again.  "failing" is the position of the event, or -1.
 */
void
esrs_checkpoint_fail(const char *name, int partition, int64 failing, int attempts,
					 TimestampTz retry_at, const char *error)
{
	Oid			types[5] = {INT4OID, INT8OID, INT4OID, TIMESTAMPTZOID, TEXTOID};
	Datum		values[5];
	char		nulls[6] = "      ";

	values[0] = Int32GetDatum(partition);
	values[1] = Int64GetDatum(failing);
	if (failing < 0)
		nulls[2] = 'n';
	values[2] = Int32GetDatum(attempts);
	values[3] = TimestampTzGetDatum(retry_at);
	values[4] = CStringGetTextDatum(error);
	(void) change("UPDATE esrs.checkpoints SET failing = $3, attempts = $4, retry_at = $5,"
				  " last_error = $6, updated_at = pg_catalog.clock_timestamp()"
				  " WHERE name OPERATOR(pg_catalog.=) $1 AND partition OPERATOR(pg_catalog.=) $2",
				  name, 6, types, values, nulls, SPI_OK_UPDATE);
}
