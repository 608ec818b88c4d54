/*-------------------------------------------------------------------------
 *
 * reading.c
 *	  SQL functions that read: state, events, the feed, and the form of a
 *	  message.
 *
 * All of them read as the current user, who needs SELECT on the events table
 * and sees what its row security lets him see.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/reading.h"

#include "access/xact.h"
#include "catalog/datum.h"
#include "catalog/pg_type.h"
#include "engine/arguments.h"
#include "engine/state.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "signal/notify.h"
#include "store/lock.h"
#include "store/position.h"
#include "store/feed.h"
#include "store/read.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(esrs_load);
PG_FUNCTION_INFO_V1(esrs_lock_and_load);
PG_FUNCTION_INFO_V1(esrs_events);
PG_FUNCTION_INFO_V1(esrs_feed);
PG_FUNCTION_INFO_V1(esrs_event_json);

/* Load with a snapshot taken now, and make an esrs_state; 0 if there is none. */
static Datum
load(EsrsAggregate *agg, const pg_uuid_t *id, EsrsLoadLimit limit, bool locked)
{
	EsrsCall   *call = esrs_call_begin(agg->name, id, GetCurrentTimestamp(), NULL);
	EsrsInstance *instance;
	Datum		result = (Datum) 0;

	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	instance = esrs_state_load(call, agg, id, limit, GetActiveSnapshot(), false);
	PopActiveSnapshot();
	if (locked)
		esrs_state_check_current(instance);
	if (instance->sequence_number > 0)
		result = esrs_datum_state(id, instance->sequence_number,
								  esrs_callback_state_json(call, &agg->routine,
														   instance->state));
	esrs_state_keep(instance);
	esrs_call_end(call);
	return result;
}

/* esrs_load(aggregate, aggregate_id, at_sequence, at_time) returns esrs_state */
Datum
esrs_load(PG_FUNCTION_ARGS)
{
	char	   *name = esrs_arguments_aggregate(fcinfo, 0);
	pg_uuid_t  *id = esrs_arguments_id(fcinfo, 1);
	EsrsLoadLimit limit = ESRS_LOAD_ALL;
	Datum		result;

	if (!PG_ARGISNULL(2))
		limit.sequence_number = PG_GETARG_INT32(2);
	if (limit.sequence_number < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("at_sequence must not be negative")));
	if (!PG_ARGISNULL(3))
		limit.occurred_on = PG_GETARG_TIMESTAMPTZ(3);
	result = load(esrs_aggregate_lookup_locked(name, AccessShareLock), id, limit, false);
	if (result == (Datum) 0)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(result);
}

/* esrs_lock_and_load(aggregate, aggregate_id) returns esrs_state */
Datum
esrs_lock_and_load(PG_FUNCTION_ARGS)
{
	char	   *name = esrs_arguments_aggregate(fcinfo, 0);
	pg_uuid_t  *id = esrs_arguments_id(fcinfo, 1);
	EsrsAggregate *agg;
	Datum		result;

	PreventCommandDuringRecovery("esrs_lock_and_load()");
	PreventCommandIfParallelMode("esrs_lock_and_load()");
	esrs_aggregate_check_table_right(esrs_aggregate_lookup(name), ACL_SELECT);
	agg = esrs_aggregate_lookup_locked(name, RowExclusiveLock);
	esrs_lock_instance(agg, id);

	/* what was replaced during the wait is looked up anew */
	result = load(esrs_aggregate_lookup(name), id, ESRS_LOAD_ALL, true);
	if (result == (Datum) 0)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(result);
}

/* ------------------------------------------------------------------------
 * Sets of events
 * ------------------------------------------------------------------------
 */
typedef struct EventSet
{
	EsrsCall   *call;
	Tuplestorestate *store;
	TupleDesc	desc;
	int64		wanted;			/* how many may still come */
} EventSet;

static bool
put_event(EsrsAggregate *agg, EsrsRecord *record, void *arg)
{
	EventSet   *set = (EventSet *) arg;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "esrs event row",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext before = MemoryContextSwitchTo(context);

	if (record->deletion && check_enable_rls(agg->events, InvalidOid, true) == RLS_ENABLED)
		record->metadata = NULL;	/* whose it is, row security cannot tell */
	set->call->aggregate = agg->name;
	set->call->aggregate_id = record->aggregate_id;
	if (esrs_event_present(set->call, &agg->routine, record))
	{
		Datum		values[ESRS_EVENT_COLUMNS];
		bool		nulls[ESRS_EVENT_COLUMNS];

		esrs_datum_event_values(agg->name, record, values, nulls);
		tuplestore_putvalues(set->store, set->desc, values, nulls);
		set->wanted--;
	}
	MemoryContextSwitchTo(before);
	MemoryContextDelete(context);
	return set->wanted > 0;
}

typedef struct InstanceSet
{
	EventSet	set;
	EsrsAggregate *agg;
} InstanceSet;

static bool
put_instance_event(EsrsRecord *record, void *arg)
{
	InstanceSet *set = (InstanceSet *) arg;

	return put_event(set->agg, record, &set->set);
}

/* esrs_events(aggregate, aggregate_id, from_sequence, to_sequence) returns setof esrs_event */
Datum
esrs_events(PG_FUNCTION_ARGS)
{
	char	   *name = esrs_arguments_aggregate(fcinfo, 0);
	pg_uuid_t  *id = esrs_arguments_id(fcinfo, 1);
	int32		from = PG_ARGISNULL(2) ? 1 : PG_GETARG_INT32(2);
	int32		to = PG_ARGISNULL(3) ? PG_INT32_MAX : PG_GETARG_INT32(3);
	InstanceSet set;

	set.agg = esrs_aggregate_lookup_locked(name, AccessShareLock);
	set.set.store = esrs_arguments_begin_set(fcinfo, &set.set.desc);
	set.set.call = esrs_call_begin(name, id, GetCurrentTimestamp(), NULL);
	set.set.wanted = PG_INT64_MAX;
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	esrs_read_instance(set.agg, id, Max(from, 1), to, GetActiveSnapshot(), false,
					   put_instance_event, &set);
	PopActiveSnapshot();
	esrs_call_end(set.set.call);
	return (Datum) 0;
}

/* The aggregates of an array of names, each once. */
static List *
aggregates_arg(ArrayType *array, uint32 **hashes)
{
	List	   *result = NIL;
	Datum	   *values;
	bool	   *nulls;
	int			n;
	ListCell   *lc;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		EsrsAggregate *agg;
		bool		known = false;

		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("list of aggregates must not contain nulls")));
		agg = esrs_aggregate_lookup_locked(TextDatumGetCString(values[i]), AccessShareLock);
		foreach(lc, result)
		{
			known |= strcmp(((EsrsAggregate *) lfirst(lc))->name, agg->name) == 0;
		}
		if (!known)
			result = lappend(result, agg);
	}
	*hashes = palloc(sizeof(uint32) * Max(n, 1));
	foreach(lc, result)
	{
		EsrsAggregate *agg = (EsrsAggregate *) lfirst(lc);

		/* before anything is read: a deletion must not be told to strangers */
		esrs_aggregate_check_table_right(agg, ACL_SELECT);
		(*hashes)[foreach_current_index(lc)] = agg->hash;
	}
	return result;
}

/* esrs_feed(aggregates, after, max) returns setof esrs_event */
Datum
esrs_feed(PG_FUNCTION_ARGS)
{
	static const pg_uuid_t no_id = {{0}};
	EsrsFeedRange range = {.after = PG_ARGISNULL(1) ? 0 : PG_GETARG_INT64(1)};
	EventSet	set;
	List	   *aggregates;
	uint32	   *hashes;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("aggregates must not be null")));
	set.wanted = PG_ARGISNULL(2) ? 1000 : PG_GETARG_INT32(2);
	if (set.wanted < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max must be at least 1")));
	set.store = esrs_arguments_begin_set(fcinfo, &set.desc);
	aggregates = aggregates_arg(PG_GETARG_ARRAYTYPE_P(0), &hashes);
	if (aggregates == NIL)
		return (Datum) 0;
	set.call = esrs_call_begin("", &no_id, GetCurrentTimestamp(), NULL);

	/*
	 * first the bound, then, in there, the snapshot: never the other way
	 * round
	 */
	range.upto = esrs_position_safe(hashes, list_length(aggregates));
	range.max = set.wanted;
	esrs_feed_read(NULL, aggregates, &range, put_event, &set);
	esrs_call_end(set.call);
	return (Datum) 0;
}

/* esrs_event_json(event) returns text */
Datum
esrs_event_json(PG_FUNCTION_ARGS)
{
	EsrsRecord	record;
	StringInfoData message;

	esrs_datum_read_event(PG_GETARG_DATUM(0), &record);
	initStringInfo(&message);
	esrs_notify_message(&message, &record, false);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(message.data, message.len));
}
