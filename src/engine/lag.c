/*-------------------------------------------------------------------------
 *
 * lag.c
 *	  Where the consumers of the feed stand: what is behind the views esrs_lag and
 *	  esrs_subscriptions.
 *
 * Positions and status are for everybody to see.  How much is left, and what a
 * handler said when it failed, is for those who may act as the consumer's role.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "esrs.h"

#include "base/security.h"
#include "base/spi.h"
#include "catalog/aggregate.h"
#include "catalog/extension.h"
#include "catalog/pg_type.h"
#include "engine/arguments.h"
#include "handler/consumer.h"
#include "miscadmin.h"
#include "signal/slots.h"
#include "store/feed.h"
#include "store/position.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(esrs_consumers);

/* No more are counted. */
#define MAX_COUNT	1000000

#define NCOLUMNS	15

/* A partition of a consumer. */
typedef struct Row
{
	char	   *name;
	char	   *kind;
	int			partition;
	int			partitions;
	char	   *status;
	Oid			run_as;
	List	   *aggregates;		/* of char * */
	bool		lost;			/* it has no checkpoint, and nothing below */
	int64		position;
	Datum		ahead;
	int			attempts;
	TimestampTz retry_at;		/* DT_NOBEGIN: null */
	char	   *last_error;
	char	   *lease_owner;
	TimestampTz lease_until;	/* DT_NOBEGIN: null */
} Row;

static Row *
read_rows(uint64 *n)
{
	EsrsIdentity before;
	Row		   *rows;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	*n = esrs_spi_run("SELECT k.name, k.kind, p.partition, k.partitions, k.status, k.run_as,"
					  " k.aggregates, c.position, c.ahead OPERATOR(pg_catalog.+) '{}', c.attempts,"
					  " coalesce(c.retry_at, '-infinity'), c.last_error, c.lease_owner,"
					  " coalesce(c.lease_until, '-infinity')"
					  " FROM (SELECT name, 'async' AS kind, partitions, status, run_as, aggregates"
					  " FROM esrs.handlers WHERE mode OPERATOR(pg_catalog.=) 'async'"
					  " UNION ALL SELECT name, 'subscription', 1, status, run_as, aggregates"
					  " FROM esrs.subscriptions) AS k"
					  " CROSS JOIN LATERAL pg_catalog.generate_series(0, k.partitions"
					  " OPERATOR(pg_catalog.-) 1) AS p(partition)"
					  " LEFT JOIN esrs.checkpoints AS c ON c.name OPERATOR(pg_catalog.=) k.name"
					  " AND c.partition OPERATOR(pg_catalog.=) p.partition"
					  " ORDER BY k.name, p.partition",
					  0, NULL, NULL, NULL, SPI_OK_SELECT);
	rows = palloc0(sizeof(Row) * Max(*n, 1));
	for (uint64 i = 0; i < *n; i++)
	{
		Row		   *row = &rows[i];
		Datum	   *names;
		int			nnames;
		bool		isnull;

		row->name = esrs_spi_text(i, 1);
		row->kind = esrs_spi_text(i, 2);
		row->partition = DatumGetInt32(esrs_spi_column(i, 3, &isnull));
		row->partitions = DatumGetInt32(esrs_spi_column(i, 4, &isnull));
		row->status = esrs_spi_text(i, 5);
		row->run_as = DatumGetObjectId(esrs_spi_column(i, 6, &isnull));
		deconstruct_array(DatumGetArrayTypeP(esrs_spi_column(i, 7, &isnull)), TEXTOID, -1, false,
						  TYPALIGN_INT, &names, NULL, &nnames);
		for (int j = 0; j < nnames; j++)
			row->aggregates = lappend(row->aggregates, TextDatumGetCString(names[j]));
		row->position = DatumGetInt64(esrs_spi_column(i, 8, &row->lost));
		if (row->lost)
			continue;
		row->ahead = datumCopy(esrs_spi_column(i, 9, &isnull), false, -1);
		row->attempts = DatumGetInt32(esrs_spi_column(i, 10, &isnull));
		row->retry_at = DatumGetTimestampTz(esrs_spi_column(i, 11, &isnull));
		row->last_error = esrs_spi_text(i, 12);
		row->lease_owner = esrs_spi_text(i, 13);
		row->lease_until = DatumGetTimestampTz(esrs_spi_column(i, 14, &isnull));
	}
	esrs_spi_end();
	esrs_security_restore(&before);
	return rows;
}

/*
 * Count what is left to do, as the consumer's role.  False if that cannot be
 * told: a view must show the other rows all the same.
 */
static bool
count_rest(Row *row, int64 *count, TimestampTz *oldest)
{
	MemoryContext outer = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	EsrsFeedRange range = {.after = row->position,.upto = PG_INT64_MAX,.ahead = row->ahead,
	.partition = row->partition,.partitions = row->partitions,.max = MAX_COUNT};
	volatile bool ok = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(outer);
	PG_TRY();
	{
		List	   *aggregates = NIL;
		ListCell   *lc;
		EsrsIdentity before;

		foreach(lc, row->aggregates)
		{
			aggregates = lappend(aggregates, esrs_aggregate_lookup((char *) lfirst(lc)));
		}
		esrs_security_become(&before, row->run_as);
		esrs_security_restrict();	/* the commit is the viewer's */
		*count = esrs_feed_count(aggregates, &range, oldest);
		esrs_security_restore(&before);
		ok = true;
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(outer);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			ReThrowError(error);
		ok = false;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(outer);
	CurrentResourceOwner = owner;
	return ok;
}

/* The process that is running a partition, or 0. */
static int
worker_of(Row *row)
{
	EsrsSlot   *slot = esrs_slots_find();
	int			pid = 0;

	if (slot == NULL)
		return 0;
	SpinLockAcquire(&slot->mutex);
	for (int i = 0; i < ESRS_WORKERS_LIMIT; i++)
	{
		EsrsWorkerPlace *place = &slot->places[i];

		if (place->pid > 0 && place->partition == row->partition &&
			strncmp(place->handler, row->name, NAMEDATALEN) == 0)
			pid = place->pid;
	}
	SpinLockRelease(&slot->mutex);
	return pid;
}

static Datum
text_or_null(const char *text, bool *isnull)
{
	*isnull = text == NULL;
	return text ? CStringGetTextDatum(text) : (Datum) 0;
}

static void
put_row(Row *row, Tuplestorestate *store, TupleDesc desc)
{
	Datum		values[NCOLUMNS];
	bool		nulls[NCOLUMNS] = {false};
	bool		trusted = esrs_consumer_may_run(row->run_as);
	uint32	   *hashes = palloc(sizeof(uint32) * Max(list_length(row->aggregates), 1));
	int64		head;
	int64		safe;
	int64		count = 0;
	TimestampTz oldest = DT_NOEND;
	int			pid = worker_of(row);
	ListCell   *lc;

	foreach(lc, row->aggregates)
	{
		hashes[foreach_current_index(lc)] = esrs_aggregate_hash((char *) lfirst(lc));
	}
	safe = esrs_position_bound(hashes, list_length(row->aggregates), &head);
	values[0] = CStringGetTextDatum(row->name);
	values[1] = CStringGetTextDatum(row->kind);
	values[2] = Int32GetDatum(row->partition);
	values[3] = CStringGetTextDatum(row->status);
	nulls[4] = row->lost;
	values[4] = Int64GetDatum(row->position);
	values[5] = Int64GetDatum(safe);
	nulls[5] = RecoveryInProgress();	/* the primary's writers are not seen */
	values[6] = Int64GetDatum(head);
	nulls[7] = !trusted || row->lost || !count_rest(row, &count, &oldest);
	values[7] = Int64GetDatum(count);
	nulls[8] = nulls[7] || TIMESTAMP_NOT_FINITE(oldest);
	values[8] = TimestampTzGetDatum(oldest);
	values[9] = Int32GetDatum(row->attempts);
	nulls[10] = row->lost || TIMESTAMP_NOT_FINITE(row->retry_at);
	values[10] = TimestampTzGetDatum(row->retry_at);
	values[11] = text_or_null(trusted ? row->last_error : NULL, &nulls[11]);
	values[12] = text_or_null(trusted ? row->lease_owner : NULL, &nulls[12]);
	nulls[13] = row->lost || TIMESTAMP_NOT_FINITE(row->lease_until);
	values[13] = TimestampTzGetDatum(row->lease_until);
	nulls[14] = pid == 0;
	values[14] = Int32GetDatum(pid);
	tuplestore_putvalues(store, desc, values, nulls);
}

/* esrs.consumers() returns setof record */
Datum
esrs_consumers(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Tuplestorestate *store = esrs_arguments_begin_set(fcinfo, &desc);
	uint64		n;
	Row		   *rows = read_rows(&n);

	for (uint64 i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		put_row(&rows[i], store, desc);
	}
	return (Datum) 0;
}
