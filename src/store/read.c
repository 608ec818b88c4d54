/*-------------------------------------------------------------------------
 *
 * read.c
 *	  Reading stored events: those of one instance, and the feed.
 *
 * Events are read in portions of bounded size, so that memory does not grow
 * with the length of a stream; all portions use one snapshot.
 *
 * A command reads as the owner of the table, everybody else as himself: then
 * PostgreSQL checks SELECT and applies row security.  The statements run with
 * that identity; the reader, which may call users' functions, does not.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "store/read.h"

#include "base/errors.h"
#include "base/security.h"
#include "base/spi.h"
#include "catalog/extension.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define PORTION			500
#define PORTION_TEXT	"500"

#define EVENT_COLUMNS	"id, aggregate_id, payload, occurred_on, sequence_number," \
						" version, position, metadata"

/* The event in a row; columns as in EVENT_COLUMNS, from "first" on. */
static void
fill_record(EsrsRecord *record, HeapTuple tuple, TupleDesc desc, int first)
{
	Datum		value;
	bool		isnull;

	memset(record, 0, sizeof(*record));
	value = SPI_getbinval(tuple, desc, first, &isnull);
	record->deletion = isnull;
	if (!isnull)
		record->id = *DatumGetUUIDP(value);
	value = SPI_getbinval(tuple, desc, first + 1, &isnull);
	if (isnull)
		ereport(ERROR,
				(errcode(ESRS_ERRCODE_BAD_EVENT),
				 errmsg("event in an events table has no aggregate_id")));
	record->aggregate_id = *DatumGetUUIDP(value);
	value = SPI_getbinval(tuple, desc, first + 2, &isnull);
	if (isnull && !record->deletion)
		ereport(ERROR,
				(errcode(ESRS_ERRCODE_BAD_EVENT),
				 errmsg("event in an events table has no payload")));
	record->payload = isnull ? NULL : DatumGetJsonbP(value);
	record->occurred_on = DatumGetTimestampTz(SPI_getbinval(tuple, desc, first + 3, &isnull));
	value = SPI_getbinval(tuple, desc, first + 4, &isnull);
	record->sequence_number = isnull ? 0 : DatumGetInt32(value);
	value = SPI_getbinval(tuple, desc, first + 5, &isnull);
	record->version = isnull ? ESRS_NO_VERSION : DatumGetInt32(value);
	record->position = DatumGetInt64(SPI_getbinval(tuple, desc, first + 6, &isnull));
	value = SPI_getbinval(tuple, desc, first + 7, &isnull);
	record->metadata = isnull ? NULL : DatumGetJsonbP(value);
}

/*
 * Prepare, if that was not done before, and execute, both as the owner of the
 * table or both as the current user.
 */
static uint64
select_as(EsrsAggregate *agg, EsrsPlan which, const char *query, int nargs, Oid *types,
		  Datum *values, Snapshot snapshot)
{
	SPIPlanPtr *plan = &agg->plans[which];
	bool		as_owner = which != ESRS_PLAN_READ_AS_CALLER;
	EsrsIdentity before;
	uint64		n;

	if (as_owner)
		esrs_security_become(&before, agg->owner);
	if (*plan == NULL)
		*plan = esrs_spi_prepare(psprintf(query, agg->table), nargs, types);
	n = esrs_spi_select_at(*plan, values, NULL, snapshot);
	if (as_owner)
		esrs_security_restore(&before);
	return n;
}

/* Give the rows of the last result to the reader; false if it had enough. */
static bool
deliver(uint64 n, MemoryContext row_context, EsrsReader reader, void *arg, int32 *last)
{
	SPITupleTable *table = SPI_tuptable;
	bool		more = true;

	for (uint64 i = 0; i < n && more; i++)
	{
		MemoryContext before = MemoryContextSwitchTo(row_context);
		EsrsRecord	record;

		CHECK_FOR_INTERRUPTS();
		fill_record(&record, table->vals[i], table->tupdesc, 1);
		*last = record.sequence_number;
		MemoryContextSwitchTo(before);
		more = reader(&record, arg);
		MemoryContextReset(row_context);
	}
	SPI_freetuptable(table);
	return more;
}

/*
 * Read the events of an instance whose numbers are within from..to, in order.
 */
void
esrs_read_instance(EsrsAggregate *agg, const pg_uuid_t *id, int32 from, int32 to,
				   Snapshot snapshot, bool as_owner, EsrsReader reader, void *arg)
{
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "esrs event",
													  ALLOCSET_DEFAULT_SIZES);
	EsrsPlan	plan = as_owner ? ESRS_PLAN_READ : ESRS_PLAN_READ_AS_CALLER;
	Oid			types[3] = {UUIDOID, INT4OID, INT4OID};
	Datum		values[3];

	values[0] = UUIDPGetDatum(id);
	values[2] = Int32GetDatum(to);
	esrs_spi_begin();
	while (from <= to)
	{
		uint64		n;
		int32		last = from;

		values[1] = Int32GetDatum(from);
		n = select_as(agg, plan, "SELECT " EVENT_COLUMNS " FROM %s"
					  " WHERE aggregate_id OPERATOR(pg_catalog.=) $1"
					  " AND sequence_number OPERATOR(pg_catalog.>=) $2"
					  " AND sequence_number OPERATOR(pg_catalog.<=) $3"
					  " ORDER BY sequence_number LIMIT " PORTION_TEXT,
					  3, types, values, snapshot);
		if (!deliver(n, row_context, reader, arg, &last) || n < PORTION || last == to)
			break;
		from = last + 1;
	}
	esrs_spi_end();
	MemoryContextDelete(row_context);
}

/* The newest event of an instance, read as the owner. */
void
esrs_read_newest(EsrsAggregate *agg, const pg_uuid_t *id, Snapshot snapshot,
				 EsrsNewest *newest)
{
	Oid			types[1] = {UUIDOID};
	Datum		values[1] = {UUIDPGetDatum(id)};
	bool		isnull;

	memset(newest, 0, sizeof(*newest));
	esrs_spi_begin();
	if (select_as(agg, ESRS_PLAN_NEWEST, "SELECT sequence_number, id, occurred_on FROM %s"
				  " WHERE aggregate_id OPERATOR(pg_catalog.=) $1"
				  " ORDER BY sequence_number DESC LIMIT 1",
				  1, types, values, snapshot) > 0)
	{
		newest->sequence_number = DatumGetInt32(esrs_spi_column(0, 1, &isnull));
		newest->id = *DatumGetUUIDP(esrs_spi_column(0, 2, &isnull));
		newest->occurred_on = DatumGetTimestampTz(esrs_spi_column(0, 3, &isnull));
	}
	esrs_spi_end();
}

/* ------------------------------------------------------------------------
 * The feed
 * ------------------------------------------------------------------------
 */

/* Deletions that are to be merged with events. */
typedef struct Deletions
{
	uint64		n;
	uint64		next;
	EsrsRecord *records;
	EsrsAggregate **aggregates;
} Deletions;

static void
read_deletions(List *aggregates, int64 after, int64 upto, int64 max, Deletions *deletions)
{
	Oid			types[4] = {TEXTARRAYOID, INT8OID, INT8OID, INT8OID};
	Datum		values[4];
	Datum	   *names = palloc(sizeof(Datum) * list_length(aggregates));
	EsrsIdentity before;
	ListCell   *lc;

	foreach(lc, aggregates)
	{
		names[foreach_current_index(lc)] =
			CStringGetTextDatum(((EsrsAggregate *) lfirst(lc))->name);
	}
	values[0] = PointerGetDatum(construct_array(names, list_length(aggregates), TEXTOID, -1,
												false, TYPALIGN_INT));
	values[1] = Int64GetDatum(after);
	values[2] = Int64GetDatum(upto);
	values[3] = Int64GetDatum(max);
	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	deletions->n = esrs_spi_run("SELECT NULL::pg_catalog.uuid, aggregate_id, NULL::pg_catalog.jsonb,"
								" deleted_at, NULL::pg_catalog.int4, NULL::pg_catalog.int4,"
								" position, metadata, aggregate FROM esrs.deletions"
								" WHERE aggregate OPERATOR(pg_catalog.=) ANY ($1)"
								" AND position OPERATOR(pg_catalog.>) $2"
								" AND position OPERATOR(pg_catalog.<=) $3"
								" ORDER BY position LIMIT $4",
								4, types, values, NULL, SPI_OK_SELECT);
	deletions->next = 0;
	deletions->records = palloc(sizeof(EsrsRecord) * Max(deletions->n, 1));
	deletions->aggregates = palloc(sizeof(EsrsAggregate *) * Max(deletions->n, 1));
	for (uint64 i = 0; i < deletions->n; i++)
	{
		char	   *name = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 9);
		EsrsRecord	record;

		fill_record(&record, SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1);
		deletions->records[i] = *esrs_event_copy(&record);
		foreach(lc, aggregates)
		{
			if (strcmp(((EsrsAggregate *) lfirst(lc))->name, name) == 0)
				deletions->aggregates[i] = (EsrsAggregate *) lfirst(lc);
		}
	}
	esrs_spi_end();
	esrs_security_restore(&before);
}

/* SELECT over all tables, merged by position. */
static char *
feed_query(List *aggregates)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT * FROM (");
	foreach(lc, aggregates)
	{
		appendStringInfo(&sql, "%s(SELECT " EVENT_COLUMNS ", %d AS source FROM %s"
						 " WHERE position OPERATOR(pg_catalog.>) $1"
						 " AND position OPERATOR(pg_catalog.<=) $2"
						 " ORDER BY position LIMIT " PORTION_TEXT ")",
						 foreach_current_index(lc) == 0 ? "" : " UNION ALL ",
						 foreach_current_index(lc),
						 ((EsrsAggregate *) lfirst(lc))->table);
	}
	appendStringInfoString(&sql, ") AS f ORDER BY position LIMIT " PORTION_TEXT);
	return sql.data;
}

/*
 * Read the events of several aggregates with after < position <= upto, and
 * the deletions of their instances, in order of position, with a snapshot
 * taken now.  As the current user: SELECT on each table is needed.  The reader
 * wants no more than max of them.
 *
 * Deletions come from a catalog that the current user may not read, so they
 * are fetched before, as its owner, and merged.  They are not subject to
 * row security.
 */
void
esrs_read_feed(List *aggregates, int64 after, int64 upto, int64 max,
			   bool (*reader) (EsrsAggregate *agg, EsrsRecord *record, void *arg), void *arg)
{
	Snapshot	snapshot = RegisterSnapshot(GetTransactionSnapshot());
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "esrs event",
													  ALLOCSET_DEFAULT_SIZES);
	Oid			types[2] = {INT8OID, INT8OID};
	Deletions	deletions;
	SPIPlanPtr	plan;
	bool		more = true;
	bool		last_portion = false;

	read_deletions(aggregates, after, upto, max, &deletions);
	esrs_spi_begin();
	plan = esrs_spi_prepare_once(feed_query(aggregates), 2, types);
	while (more && !last_portion)
	{
		Datum		values[2] = {Int64GetDatum(after), Int64GetDatum(upto)};
		uint64		n = esrs_spi_select_at(plan, values, NULL, snapshot);
		SPITupleTable *table = SPI_tuptable;

		last_portion = n < PORTION;
		for (uint64 i = 0; i < n && more; i++)
		{
			MemoryContext before = MemoryContextSwitchTo(row_context);
			EsrsRecord	record;
			bool		isnull;
			int			source;

			CHECK_FOR_INTERRUPTS();
			fill_record(&record, table->vals[i], table->tupdesc, 1);
			source = DatumGetInt32(SPI_getbinval(table->vals[i], table->tupdesc, 9, &isnull));
			MemoryContextSwitchTo(before);
			after = record.position;
			while (more && deletions.next < deletions.n &&
				   deletions.records[deletions.next].position < after)
			{
				more = reader(deletions.aggregates[deletions.next],
							  &deletions.records[deletions.next], arg);
				deletions.next++;
			}
			if (more)
				more = reader((EsrsAggregate *) list_nth(aggregates, source), &record, arg);
			MemoryContextReset(row_context);
		}
		SPI_freetuptable(table);
	}
	while (more && deletions.next < deletions.n)
	{
		more = reader(deletions.aggregates[deletions.next],
					  &deletions.records[deletions.next], arg);
		deletions.next++;
	}
	esrs_spi_end();
	UnregisterSnapshot(snapshot);
	MemoryContextDelete(row_context);
}
