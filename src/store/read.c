/*-------------------------------------------------------------------------
 *
 * read.c
 *	  Reading the stored events of one instance.  The feed is in feed.c.
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
#include "store/direct.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#define PORTION			500

#define READ_FROM \
	" FROM %s WHERE aggregate_id OPERATOR(pg_catalog.=) $1" \
	" AND sequence_number OPERATOR(pg_catalog.>=) $2" \
	" AND sequence_number OPERATOR(pg_catalog.<=) $3" \
	" ORDER BY sequence_number"

/* The event in the values of ESRS_READ_COLUMNS; it borrows from them. */
void
esrs_read_row(EsrsRecord *record, const Datum *values, const bool *nulls)
{
	memset(record, 0, sizeof(*record));
	record->deletion = nulls[0];
	if (!nulls[0])
		record->id = *DatumGetUUIDP(values[0]);
	if (nulls[1])
		ereport(ERROR,
				(errcode(ESRS_ERRCODE_BAD_EVENT),
				 errmsg("event in an events table has no aggregate_id")));
	record->aggregate_id = *DatumGetUUIDP(values[1]);
	if (nulls[2] && !record->deletion)
		ereport(ERROR,
				(errcode(ESRS_ERRCODE_BAD_EVENT),
				 errmsg("event in an events table has no payload")));
	record->payload = nulls[2] ? NULL : DatumGetJsonbP(values[2]);
	record->occurred_on = DatumGetTimestampTz(values[3]);
	record->sequence_number = nulls[4] ? 0 : DatumGetInt32(values[4]);
	record->version = nulls[5] ? ESRS_NO_VERSION : DatumGetInt32(values[5]);
	record->position = DatumGetInt64(values[6]);
	record->metadata = nulls[7] ? NULL : DatumGetJsonbP(values[7]);
}

/* The same of a row of SPI whose first columns are those. */
void
esrs_read_record(EsrsRecord *record, HeapTuple tuple, TupleDesc desc)
{
	Datum		values[ESRS_EVENT_TABLE_COLUMNS];
	bool		nulls[ESRS_EVENT_TABLE_COLUMNS];

	for (int i = 0; i < ESRS_EVENT_TABLE_COLUMNS; i++)
		values[i] = SPI_getbinval(tuple, desc, i + 1, &nulls[i]);
	esrs_read_row(record, values, nulls);
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
	bool		as_owner = which != ESRS_PLAN_READ_AS_CALLER && which != ESRS_PLAN_GO_ON_AS_CALLER;
	EsrsIdentity before;
	uint64		n;

	if (as_owner)
		esrs_security_become(&before, agg->owner);
	if (*plan == NULL)
		*plan = esrs_spi_prepare_ordered(psprintf(query, agg->table), nargs, types);
	n = esrs_spi_select_first(*plan, values, NULL, snapshot, PORTION);
	if (as_owner)
		esrs_security_restore(&before);
	return n;
}

/* Give the rows of the last result to the reader; false if it had enough. */
static bool
deliver(uint64 n, MemoryContext row_context, bool with_xmin, EsrsReader reader, void *arg,
		int32 *last)
{
	SPITupleTable *table = SPI_tuptable;
	bool		more = true;

	for (uint64 i = 0; i < n && more; i++)
	{
		MemoryContext before = MemoryContextSwitchTo(row_context);
		EsrsRecord	record;

		CHECK_FOR_INTERRUPTS();
		esrs_read_record(&record, table->vals[i], table->tupdesc);
		if (with_xmin)
		{
			bool		isnull;

			record.xmin = DatumGetTransactionId(SPI_getbinval(table->vals[i], table->tupdesc,
															  9, &isnull));
		}
		*last = record.sequence_number;
		MemoryContextSwitchTo(before);
		more = reader(&record, arg);
		MemoryContextReset(row_context);
	}
	SPI_freetuptable(table);
	return more;
}

static void
read_portions(EsrsAggregate *agg, const pg_uuid_t *id, int32 from, int32 to, bool with_xmin,
			  Snapshot snapshot, bool as_owner, EsrsReader reader, void *arg)
{
	MemoryContext row_context;
	EsrsPlan	plan = with_xmin ?
	(as_owner ? ESRS_PLAN_GO_ON : ESRS_PLAN_GO_ON_AS_CALLER) :
	(as_owner ? ESRS_PLAN_READ : ESRS_PLAN_READ_AS_CALLER);
	Oid			types[3] = {UUIDOID, INT4OID, INT4OID};
	Datum		values[3];

	if (esrs_direct_read_obstacle(agg, as_owner) == NULL)
	{
		esrs_direct_read(agg, id, from, to, snapshot, reader, arg);
		return;
	}
	row_context = AllocSetContextCreate(CurrentMemoryContext, "esrs event",
										ALLOCSET_DEFAULT_SIZES);
	values[0] = UUIDPGetDatum(id);
	values[2] = Int32GetDatum(to);
	esrs_spi_begin();
	while (from <= to)
	{
		uint64		n;
		int32		last = from;

		values[1] = Int32GetDatum(from);
		n = select_as(agg, plan, with_xmin ?
					  "SELECT " ESRS_READ_COLUMNS ", xmin" READ_FROM :
					  "SELECT " ESRS_READ_COLUMNS READ_FROM,
					  3, types, values, snapshot);
		if (!deliver(n, row_context, with_xmin, reader, arg, &last) || n < PORTION || last == to)
			break;
		from = last + 1;
	}
	esrs_spi_end();
	MemoryContextDelete(row_context);
}

/* Read the events of an instance whose numbers are within from..to, in order. */
void
esrs_read_instance(EsrsAggregate *agg, const pg_uuid_t *id, int32 from, int32 to,
				   Snapshot snapshot, bool as_owner, EsrsReader reader, void *arg)
{
	read_portions(agg, id, from, to, false, snapshot, as_owner, reader, arg);
}

/*
 * The same with the xmin of each row, for those who know the first one.  To ask for
 * that, too, costs a quarter of the time of a long read.
 */
void
esrs_read_on(EsrsAggregate *agg, const pg_uuid_t *id, int32 from, int32 to,
			 Snapshot snapshot, bool as_owner, EsrsReader reader, void *arg)
{
	read_portions(agg, id, from, to, true, snapshot, as_owner, reader, arg);
}

/*
 * Begin to read all events of an aggregate as the current user, instance by
 * instance and in their order.  An SPI connection is open.
 */
Portal
esrs_read_open(EsrsAggregate *agg, Snapshot snapshot)
{
	return esrs_spi_open(psprintf("SELECT " ESRS_READ_COLUMNS " FROM %s"
								  " ORDER BY aggregate_id, sequence_number", agg->table),
						 0, NULL, NULL, snapshot);
}

/* Read the next portion; false if that was the last one. */
bool
esrs_read_next(Portal cursor, EsrsReader reader, void *arg)
{
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "esrs event",
													  ALLOCSET_DEFAULT_SIZES);
	uint64		n = esrs_spi_fetch(cursor, PORTION);
	int32		last;
	bool		more = deliver(n, row_context, false, reader, arg, &last);

	MemoryContextDelete(row_context);
	return more && n == PORTION;
}

/* The newest event of an instance, read as the owner. */
void
esrs_read_newest(EsrsAggregate *agg, const pg_uuid_t *id, Snapshot snapshot,
				 EsrsNewest *newest)
{
	Oid			types[1] = {UUIDOID};
	Datum		values[1] = {UUIDPGetDatum(id)};
	bool		isnull;

	if (esrs_direct_read_obstacle(agg, true) == NULL)
	{
		esrs_direct_read_newest(agg, id, snapshot, newest);
		return;
	}
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
