/*-------------------------------------------------------------------------
 *
 * feed.c
 *	  Reading the events of several aggregates in order of position, and the
 *	  deletions of their instances among them.
 *
 * Whoever reads takes the safe position first (position.c) and comes here
 * afterwards: the snapshot is taken here, unless one is given, and all that is read
 * is read with it.
 *
 * Events are read as the current user, who needs SELECT on each table; so row
 * security applies.  Deletions come from a catalog that he may not read, so
 * they are fetched as its owner, and merged.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "store/feed.h"

#include "base/security.h"
#include "base/spi.h"
#include "catalog/extension.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "store/read.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/rangetypes.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

/*
 * Events are fetched in portions, so memory does not grow with their number.  Those of
 * one instance are sorted for each portion, so there are fewer.
 */
#define MAX_PORTION				500
#define MAX_INSTANCE_PORTION	5000

#define NPARAMS			5

/* Deletions that are to be merged with events. */
typedef struct Deletions
{
	uint64		n;
	uint64		next;
	EsrsRecord *records;
	EsrsAggregate **aggregates;
} Deletions;

/* The partition, of so many, to which an instance belongs. */
int
esrs_feed_partition(const pg_uuid_t *id, int partitions)
{
	uint64		hash = DatumGetUInt64(DirectFunctionCall2(uuid_hash_extended, UUIDPGetDatum(id),
														  Int64GetDatum(0)));

	return (int) ((hash & 0x7fffffff) % partitions);
}

static int64
portion_of(const EsrsFeedRange *range)
{
	return Min(Max(range->max, 1), range->instance ? MAX_INSTANCE_PORTION : MAX_PORTION);
}

/*
 * The conditions that events and deletions have in common.  For one instance the
 * index on the position must not be used: a plan that is kept does not know how wide the range
 * is, and would walk through all of it.
 */
static void
append_conditions(StringInfo sql, const EsrsFeedRange *range)
{
	const char *position = range->instance == NULL ? "position" :
	"(position OPERATOR(pg_catalog.+) 0::pg_catalog.int8)";

	appendStringInfo(sql, " WHERE %s OPERATOR(pg_catalog.>) $1"
					 " AND %s OPERATOR(pg_catalog.<=) $2", position, position);
	if (range->ahead != (Datum) 0)
		appendStringInfoString(sql, " AND NOT $3 OPERATOR(pg_catalog.@>) position");
	if (range->partitions > 1)
		appendStringInfo(sql, " AND ((pg_catalog.uuid_hash_extended(aggregate_id, 0)"
						 " OPERATOR(pg_catalog.&) '2147483647'::pg_catalog.int8)"
						 " OPERATOR(pg_catalog.%%) '%d'::pg_catalog.int8)"
						 " OPERATOR(pg_catalog.=) $4", range->partitions);
	if (range->instance != NULL)
		appendStringInfoString(sql, " AND aggregate_id OPERATOR(pg_catalog.=) $5");
}

/* SELECT over all tables, merged by position. */
static char *
events_query(List *aggregates, const EsrsFeedRange *range)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT * FROM (");
	foreach(lc, aggregates)
	{
		appendStringInfo(&sql, "%s(SELECT " ESRS_READ_COLUMNS ", %d AS source FROM %s",
						 foreach_current_index(lc) == 0 ? "" : " UNION ALL ",
						 foreach_current_index(lc),
						 ((EsrsAggregate *) lfirst(lc))->table);
		append_conditions(&sql, range);
		appendStringInfo(&sql, " ORDER BY position LIMIT " INT64_FORMAT ")", portion_of(range));
	}
	appendStringInfo(&sql, ") AS f ORDER BY position LIMIT " INT64_FORMAT, portion_of(range));
	return sql.data;
}

static char *
deletions_query(const EsrsFeedRange *range)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT NULL::pg_catalog.uuid, aggregate_id, NULL::pg_catalog.jsonb,"
						   " deleted_at, NULL::pg_catalog.int4, NULL::pg_catalog.int4,"
						   " position, metadata, aggregate FROM esrs.deletions");
	append_conditions(&sql, range);
	appendStringInfoString(&sql, " AND aggregate OPERATOR(pg_catalog.=) ANY ($6)"
						   " ORDER BY position LIMIT $7");
	return sql.data;
}

static Oid	param_types[NPARAMS + 2] = {
	INT8OID, INT8OID, INT8MULTIRANGEOID, INT8OID, UUIDOID, TEXTARRAYOID, INT8OID
};

/*
 * The plan for the events; the one that was kept, if it was made for the same
 * tables and conditions.
 */
static SPIPlanPtr
events_plan(EsrsFeed *feed, List *aggregates, const EsrsFeedRange *range)
{
	char	   *query = events_query(aggregates, range);

	if (feed == NULL)
		return esrs_spi_prepare_once(query, NPARAMS, param_types);
	if (feed->query == NULL || strcmp(feed->query, query) != 0)
	{
		esrs_feed_close(feed);
		feed->plan = esrs_spi_prepare(query, NPARAMS, param_types);
		feed->query = MemoryContextStrdup(CacheMemoryContext, query);
	}
	return feed->plan;
}

/* The plan for the deletions; the current user is the owner of the catalogs. */
static SPIPlanPtr
deletions_plan(EsrsFeed *feed, const EsrsFeedRange *range)
{
	if (feed == NULL)
		return esrs_spi_prepare_once(deletions_query(range), NPARAMS + 2, param_types);
	if (feed->deletions_plan == NULL)
		feed->deletions_plan = esrs_spi_prepare(deletions_query(range), NPARAMS + 2, param_types);
	return feed->deletions_plan;
}

/* Free what a reader has kept. */
void
esrs_feed_close(EsrsFeed *feed)
{
	if (feed->plan != NULL)
		SPI_freeplan(feed->plan);
	if (feed->deletions_plan != NULL)
		SPI_freeplan(feed->deletions_plan);
	if (feed->query != NULL)
		pfree(feed->query);
	memset(feed, 0, sizeof(*feed));
}

/* Fill in the parameters, and say which are null. */
static void
set_params(const EsrsFeedRange *range, Datum *values, char *nulls)
{
	memset(nulls, ' ', NPARAMS + 2);
	values[0] = Int64GetDatum(range->after);
	values[1] = Int64GetDatum(range->upto);
	values[2] = range->ahead;
	if (range->ahead == (Datum) 0)
		nulls[2] = 'n';
	values[3] = Int64GetDatum(range->partition);
	values[4] = UUIDPGetDatum(range->instance);
	if (range->instance == NULL)
		nulls[4] = 'n';
}

static EsrsAggregate *
aggregate_named(List *aggregates, const char *name)
{
	ListCell   *lc;

	foreach(lc, aggregates)
	{
		if (strcmp(((EsrsAggregate *) lfirst(lc))->name, name) == 0)
			return (EsrsAggregate *) lfirst(lc);
	}
	elog(ERROR, "deletion of aggregate \"%s\" was not asked for", name);
}

static void
read_deletions(EsrsFeed *feed, List *aggregates, const EsrsFeedRange *range, Snapshot snapshot,
			   Deletions *deletions)
{
	Datum		values[NPARAMS + 2];
	char		nulls[NPARAMS + 2];
	Datum	   *names = palloc(sizeof(Datum) * list_length(aggregates));
	EsrsIdentity before;
	ListCell   *lc;

	foreach(lc, aggregates)
	{
		names[foreach_current_index(lc)] =
			CStringGetTextDatum(((EsrsAggregate *) lfirst(lc))->name);
	}
	set_params(range, values, nulls);
	values[NPARAMS] = PointerGetDatum(construct_array(names, list_length(aggregates), TEXTOID, -1,
													  false, TYPALIGN_INT));
	values[NPARAMS + 1] = Int64GetDatum(range->max);
	esrs_security_become(&before, esrs_extension()->owner);
	deletions->n = esrs_spi_select_at(deletions_plan(feed, range), values, nulls, snapshot);
	deletions->next = 0;
	deletions->records = palloc(sizeof(EsrsRecord) * Max(deletions->n, 1));
	deletions->aggregates = palloc(sizeof(EsrsAggregate *) * Max(deletions->n, 1));
	for (uint64 i = 0; i < deletions->n; i++)
	{
		char	   *name = SPI_getvalue(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 9);
		EsrsRecord	record;

		esrs_read_record(&record, SPI_tuptable->vals[i], SPI_tuptable->tupdesc);
		deletions->records[i] = *esrs_event_copy(&record);
		deletions->aggregates[i] = aggregate_named(aggregates, name);
	}
	SPI_freetuptable(SPI_tuptable);
	esrs_security_restore(&before);
}

/* Hand the deletions before a position to the reader; false if it had enough. */
static bool
deliver_deletions(Deletions *deletions, int64 before, EsrsFeedReader reader, void *arg)
{
	bool		more = true;

	while (more && deletions->next < deletions->n &&
		   deletions->records[deletions->next].position < before)
	{
		more = reader(deletions->aggregates[deletions->next],
					  &deletions->records[deletions->next], arg);
		deletions->next++;
	}
	return more;
}

/*
 * The index on the position gives the rows in order, and no more than are taken.
 * The planner must not think otherwise because the table was small when the plan
 * was made: it is kept, and would sort a whole backlog for each batch.  What it then
 * takes for the cost is no reason to compile anything.  Undone by AtEOXact_GUC()
 * with the result.
 */
static int
prefer_position_index(void)
{
	static const char *const settings[] = {"enable_sort", "enable_bitmapscan", "enable_seqscan",
	"jit"};
	int			level = NewGUCNestLevel();

	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i], "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	return level;
}

/*
 * Read what a range holds, in order of position, with one snapshot.
 * Plans stay in "feed" until esrs_feed_close(); NULL if they are not to be kept.
 */
void
esrs_feed_read(EsrsFeed *feed, List *aggregates, const EsrsFeedRange *range,
			   EsrsFeedReader reader, void *arg)
{
	Snapshot	snapshot = RegisterSnapshot(range->snapshot ? range->snapshot :
											GetTransactionSnapshot());
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "esrs event",
													  ALLOCSET_DEFAULT_SIZES);
	Datum		values[NPARAMS + 2];
	char		nulls[NPARAMS + 2];
	SPIPlanPtr	plan;
	Deletions	deletions;
	bool		more = true;
	bool		last_portion = false;
	int			guc_level = feed != NULL && range->instance == NULL ? prefer_position_index() : 0;

	esrs_spi_begin();
	plan = events_plan(feed, aggregates, range);
	memset(&deletions, 0, sizeof(deletions));
	if (!range->only_events)
		read_deletions(feed, aggregates, range, snapshot, &deletions);
	set_params(range, values, nulls);
	while (more && !last_portion)
	{
		uint64		n = esrs_spi_select_at(plan, values, nulls, snapshot);
		SPITupleTable *table = SPI_tuptable;

		last_portion = n < portion_of(range);
		for (uint64 i = 0; i < n && more; i++)
		{
			MemoryContext before = MemoryContextSwitchTo(row_context);
			EsrsRecord	record;
			bool		isnull;
			int			source;

			CHECK_FOR_INTERRUPTS();
			esrs_read_record(&record, table->vals[i], table->tupdesc);
			source = DatumGetInt32(SPI_getbinval(table->vals[i], table->tupdesc, 9, &isnull));
			MemoryContextSwitchTo(before);
			values[0] = Int64GetDatum(record.position);
			more = deliver_deletions(&deletions, record.position, reader, arg);
			if (more)
				more = reader((EsrsAggregate *) list_nth(aggregates, source), &record, arg);
			MemoryContextReset(row_context);
		}
		SPI_freetuptable(table);
	}
	if (more)
		(void) deliver_deletions(&deletions, PG_INT64_MAX, reader, arg);
	esrs_spi_end();
	if (guc_level > 0)
		AtEOXact_GUC(false, guc_level);
	UnregisterSnapshot(snapshot);
	MemoryContextDelete(row_context);
}

/*
 * How many events a range holds, no more than range->max of each aggregate, and
 * the time of the oldest; DT_NOEND if there is none.  Deletions do not count.
 */
int64
esrs_feed_count(List *aggregates, const EsrsFeedRange *range, TimestampTz *oldest)
{
	Datum		values[NPARAMS + 2];
	char		nulls[NPARAMS + 2];
	StringInfoData sql;
	ListCell   *lc;
	bool		isnull;
	Datum		time;
	int64		n;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT pg_catalog.count(*), pg_catalog.min(occurred_on) FROM (");
	foreach(lc, aggregates)
	{
		appendStringInfo(&sql, "%s(SELECT occurred_on FROM %s",
						 foreach_current_index(lc) == 0 ? "" : " UNION ALL ",
						 ((EsrsAggregate *) lfirst(lc))->table);
		append_conditions(&sql, range);
		appendStringInfo(&sql, " LIMIT " INT64_FORMAT ")", range->max);
	}
	appendStringInfoString(&sql, ") AS f");
	set_params(range, values, nulls);
	esrs_spi_begin();
	(void) esrs_spi_run(sql.data, NPARAMS, param_types, values, nulls, SPI_OK_SELECT);
	n = DatumGetInt64(esrs_spi_column(0, 1, &isnull));
	time = esrs_spi_column(0, 2, &isnull);
	*oldest = isnull ? DT_NOEND : DatumGetTimestampTz(time);
	esrs_spi_end();
	return n;
}
