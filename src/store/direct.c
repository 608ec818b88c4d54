/*-------------------------------------------------------------------------
 *
 * direct.c
 *	  Storing and reading events without statements.
 *
 * What comes out is what a statement would have stored or found, on tables for
 * which catalog/event_table_direct.c finds no obstacle; everything else goes by
 * statements, in append.c and read.c.  The setting esrs.direct_append closes this
 * way altogether.
 *
 * On such a table no code of its owner runs when a row is stored, so all of this
 * is done as whoever commands.  Who may, was asked before.  Rows are stored by the
 * executor's own ExecSimpleRelationInsert(), and found through the table's key.
 *
 * Nothing here may call a function of a user, but for the reader of events, which
 * is the caller's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "store/direct.h"

#include "access/genam.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "config.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "store/position.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(esrs_append_obstacle);

/*
 * Why statements are to be used whatever the table is.  The definition of the
 * table may just have changed; and whoever listens to what the executor is asked
 * for, as those do who keep a log of it, must hear it.
 */
static const char *
general_obstacle(EsrsAggregate *agg)
{
	if (!esrs_config_direct_append)
		return "esrs.direct_append is off";
	if (!agg->valid)
		return "its definition is changing";
	if (ExecutorCheckPerms_hook != NULL)
		return "an extension checks or logs which tables statements use";
	return NULL;
}

/* Why events must be stored by statements; NULL if they need not be. */
const char *
esrs_direct_append_obstacle(EsrsAggregate *agg)
{
	const char *obstacle = general_obstacle(agg);

	return obstacle ? obstacle : agg->direct.append_obstacle;
}

/*
 * The same for reading, as the owner of the table or as the current user.  Who has
 * no right, or does not see all rows, is left to the executor.
 */
const char *
esrs_direct_read_obstacle(EsrsAggregate *agg, bool as_owner)
{
	const char *obstacle = general_obstacle(agg);

	if (obstacle == NULL)
		obstacle = agg->direct.read_obstacle;
	if (obstacle == NULL && !as_owner &&
		(pg_class_aclcheck(agg->events, GetUserId(), ACL_SELECT) != ACLCHECK_OK ||
		 check_enable_rls(agg->events, InvalidOid, true) == RLS_ENABLED))
		obstacle = "the current user may not see all rows";
	return obstacle;
}

/* esrs.append_obstacle(aggregate) returns text: why its events are stored by statements */
Datum
esrs_append_obstacle(PG_FUNCTION_ARGS)
{
	const char *obstacle =
	esrs_direct_append_obstacle(esrs_aggregate_lookup(text_to_cstring(PG_GETARG_TEXT_PP(0))));

	if (obstacle == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(obstacle));
}

/* ------------------------------------------------------------------------
 * Storing
 * ------------------------------------------------------------------------
 */

/* Put an event into a slot of the table; it borrows. */
static void
fill_slot(TupleTableSlot *slot, const EsrsDirectAccess *access, const EsrsRecord *record)
{
	Datum		values[ESRS_EVENT_TABLE_COLUMNS];
	int			natts = slot->tts_tupleDescriptor->natts;

	values[0] = UUIDPGetDatum(&record->id);
	values[1] = UUIDPGetDatum(&record->aggregate_id);
	values[2] = JsonbPGetDatum(record->payload);
	values[3] = TimestampTzGetDatum(record->occurred_on);
	values[4] = Int32GetDatum(record->sequence_number);
	values[5] = Int32GetDatum(record->version);
	values[6] = Int64GetDatum(record->position);
	values[7] = JsonbPGetDatum(record->metadata);

	ExecClearTuple(slot);
	memset(slot->tts_values, 0, natts * sizeof(Datum));
	memset(slot->tts_isnull, true, natts * sizeof(bool));
	for (int i = 0; i < ESRS_EVENT_TABLE_COLUMNS; i++)
	{
		AttrNumber	attnum = access->columns[i];

		slot->tts_values[attnum - 1] = values[i];
		slot->tts_isnull[attnum - 1] = false;
	}
	slot->tts_isnull[access->columns[5] - 1] = record->version == ESRS_NO_VERSION;
	slot->tts_isnull[access->columns[7] - 1] = record->metadata == NULL;
	ExecStoreVirtualTuple(slot);
}

/*
 * Store new events of one instance and fill their positions and transactions.  The
 * table is locked by RowExclusiveLock, and there is no obstacle.  They are visible
 * to whatever comes next in this transaction.
 */
void
esrs_direct_append(EsrsAggregate *agg, List *records)
{
	Relation	rel = table_open(agg->events, NoLock);
	EState	   *estate = CreateExecutorState();
	MemoryContext before = MemoryContextSwitchTo(estate->es_query_cxt);
	ResultRelInfo *target = makeNode(ResultRelInfo);
	TupleTableSlot *slot = table_slot_create(rel, &estate->es_tupleTable);
	ListCell   *lc;

	InitResultRelInfo(target, rel, 0, NULL, 0);
	ExecOpenIndices(target, false);
	foreach(lc, records)
	{
		EsrsRecord *record = (EsrsRecord *) lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		record->position = esrs_position_next(agg->hash);
		fill_slot(slot, &agg->direct, record);
		MemoryContextSwitchTo(GetPerTupleMemoryContext(estate));
		ExecSimpleRelationInsert(target, estate, slot);
		MemoryContextSwitchTo(estate->es_query_cxt);
		ResetPerTupleExprContext(estate);
		record->xmin = GetCurrentTransactionId();
	}

	/*
	 * their locks are kept, as that of the table: taken anew for each event
	 * they cost
	 */
	for (int i = 0; i < target->ri_NumIndices; i++)
		index_close(target->ri_IndexRelationDescs[i], NoLock);
	ExecResetTupleTable(estate->es_tupleTable, false);
	MemoryContextSwitchTo(before);
	FreeExecutorState(estate);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}

/* ------------------------------------------------------------------------
 * Reading
 * ------------------------------------------------------------------------
 */

/* A scan of the events of an instance, in order. */
typedef struct EventScan
{
	Relation	rel;
	Relation	index;
	Snapshot	snapshot;
	IndexScanDesc scan;
	TupleTableSlot *slot;
} EventScan;

static void
begin_scan(EventScan *s, EsrsAggregate *agg, ScanKey keys, int nkeys, Snapshot snapshot)
{
	s->rel = table_open(agg->events, AccessShareLock);
	s->index = index_open(agg->direct.index, AccessShareLock);
	s->snapshot = RegisterSnapshot(snapshot);
	s->slot = table_slot_create(s->rel, NULL);
	s->scan = index_beginscan(s->rel, s->index, s->snapshot, nkeys, 0);
	index_rescan(s->scan, keys, nkeys, NULL, 0);
}

static void
end_scan(EventScan *s)
{
	index_endscan(s->scan);
	ExecDropSingleTupleTableSlot(s->slot);
	UnregisterSnapshot(s->snapshot);
	index_close(s->index, NoLock);
	table_close(s->rel, NoLock);
}

/* The event in the slot; it borrows from it. */
static void
record_in_slot(EsrsRecord *record, TupleTableSlot *slot, const EsrsDirectAccess *access)
{
	Datum		values[ESRS_EVENT_TABLE_COLUMNS];
	bool		nulls[ESRS_EVENT_TABLE_COLUMNS];
	bool		isnull;

	slot_getsomeattrs(slot, access->last_column);
	for (int i = 0; i < ESRS_EVENT_TABLE_COLUMNS; i++)
	{
		values[i] = slot->tts_values[access->columns[i] - 1];
		nulls[i] = slot->tts_isnull[access->columns[i] - 1];
	}
	esrs_read_row(record, values, nulls);
	record->xmin = DatumGetTransactionId(slot_getsysattr(slot, MinTransactionIdAttributeNumber,
														 &isnull));
}

/*
 * Give the events of an instance whose numbers are within from..to to the reader, in
 * order, with their xmin.  There is no obstacle.
 */
void
esrs_direct_read(EsrsAggregate *agg, const pg_uuid_t *id, int32 from, int32 to,
				 Snapshot snapshot, EsrsReader reader, void *arg)
{
	MemoryContext row_context = AllocSetContextCreate(CurrentMemoryContext, "esrs event",
													  ALLOCSET_DEFAULT_SIZES);
	MemoryContext before = CurrentMemoryContext;
	ScanKeyData keys[3];
	EventScan	s;
	bool		more = true;

	/* the numbers of the columns are those of the index */
	ScanKeyInit(&keys[0], 1, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(id));
	ScanKeyInit(&keys[1], 2, BTGreaterEqualStrategyNumber, F_INT4GE, Int32GetDatum(from));
	ScanKeyInit(&keys[2], 2, BTLessEqualStrategyNumber, F_INT4LE, Int32GetDatum(to));
	begin_scan(&s, agg, keys, to == PG_INT32_MAX ? 2 : 3, snapshot);
	while (more && index_getnext_slot(s.scan, ForwardScanDirection, s.slot))
	{
		EsrsRecord	record;

		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(row_context);
		record_in_slot(&record, s.slot, &agg->direct);
		MemoryContextSwitchTo(before);
		more = reader(&record, arg);
		MemoryContextReset(row_context);
	}
	end_scan(&s);
	MemoryContextDelete(row_context);
}

/* The newest event of an instance; all zero if there is none. */
void
esrs_direct_read_newest(EsrsAggregate *agg, const pg_uuid_t *id, Snapshot snapshot,
						EsrsNewest *newest)
{
	ScanKeyData key;
	EventScan	s;

	memset(newest, 0, sizeof(*newest));
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_UUID_EQ, UUIDPGetDatum(id));
	begin_scan(&s, agg, &key, 1, snapshot);
	if (index_getnext_slot(s.scan, BackwardScanDirection, s.slot))
	{
		bool		isnull;

		newest->sequence_number =
			DatumGetInt32(slot_getattr(s.slot, agg->direct.columns[4], &isnull));
		newest->id = *DatumGetUUIDP(slot_getattr(s.slot, agg->direct.columns[0], &isnull));
		newest->occurred_on =
			DatumGetTimestampTz(slot_getattr(s.slot, agg->direct.columns[3], &isnull));
	}
	end_scan(&s);
}
