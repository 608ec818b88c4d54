/*-------------------------------------------------------------------------
 *
 * history.c
 *	  Going through all events of an aggregate, instance by instance, with the
 *	  progress told and in constant memory.
 *
 * What is folded by esrs_history_fold() is folded in subtransactions that are
 * rolled back: a function that raises ends the fold of its instance and not the
 * walk, and one that writes leaves no trace.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/history.h"

#include "access/xact.h"
#include "base/spi.h"
#include "base/uuid.h"
#include "miscadmin.h"
#include "store/read.h"
#include "utils/acl.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* How often progress is told, in milliseconds. */
#define NOTICE_INTERVAL		5000

static void
tell(EsrsHistory *h)
{
	TimestampTz now = GetCurrentTimestamp();

	if (now < h->next_notice)
		return;
	h->next_notice = TimestampTzPlusMilliseconds(now, NOTICE_INTERVAL);
	ereport(NOTICE,
			(errmsg("%s: " INT64_FORMAT " events of " INT64_FORMAT " instances of aggregate \"%s\" so far",
					h->what, h->events, h->instances, h->agg->name)));
}

static void
end_instance(EsrsHistory *h)
{
	MemoryContext before;

	if (h->context == NULL)
		return;
	before = MemoryContextSwitchTo(h->context);
	h->end(h);
	MemoryContextSwitchTo(before);
	MemoryContextDelete(h->context);
	h->context = NULL;
}

/*
 * Roll back what the folds have done.  To be called before a cursor is moved: that
 * must not happen in a subtransaction that is rolled back.
 */
void
esrs_history_settle(EsrsHistory *h)
{
	MemoryContext before = CurrentMemoryContext;

	if (!h->in_subtransaction)
		return;
	h->in_subtransaction = false;
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(before);
	CurrentResourceOwner = h->outer_owner;
}

static bool
walk_event(EsrsRecord *record, void *arg)
{
	EsrsHistory *h = (EsrsHistory *) arg;
	MemoryContext before;

	if (h->context != NULL && !esrs_uuid_equal(&record->aggregate_id, &h->id))
		end_instance(h);
	if (h->context == NULL)
	{
		h->context = AllocSetContextCreate(GetMemoryChunkContext(h), "esrs history",
										   ALLOCSET_DEFAULT_SIZES);
		before = MemoryContextSwitchTo(h->context);
		h->id = record->aggregate_id;
		h->call = esrs_call_begin(h->agg->name, &h->id, record->occurred_on, NULL);
		h->call->epoch = h->epoch;
		h->begin(h);
		MemoryContextSwitchTo(before);
		h->instances++;
	}
	h->events++;
	before = MemoryContextSwitchTo(h->context);
	h->event(h, record);
	MemoryContextSwitchTo(before);
	if (h->events % 64 == 0)
		tell(h);
	return true;
}

/*
 * Go through all events, as the current user.  "history" is allocated, its first
 * part is set, and the rest is zero.
 */
void
esrs_history_walk(EsrsHistory *h)
{
	MemoryContext before = CurrentMemoryContext;
	Portal		cursor;
	volatile bool more = true;

	h->next_notice = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), NOTICE_INTERVAL);
	h->epoch = esrs_function_new_epoch();
	esrs_spi_begin();
	cursor = esrs_read_open(h->agg, h->snapshot);
	PG_TRY();
	{
		while (more)
		{
			more = esrs_read_next(cursor, walk_event, h);
			if (!more)
				end_instance(h);
			esrs_history_settle(h);
		}
	}
	PG_CATCH();
	{
		ErrorData  *error;

		/* the transaction knows nothing of our subtransaction */
		if (!h->in_subtransaction)
			PG_RE_THROW();
		MemoryContextSwitchTo(before);
		error = CopyErrorData();
		FlushErrorState();
		esrs_history_settle(h);
		ReThrowError(error);
	}
	PG_END_TRY();
	SPI_cursor_close(cursor);
	esrs_spi_end();
}

/* ------------------------------------------------------------------------
 * Folding that survives errors
 * ------------------------------------------------------------------------
 */
typedef struct Step
{
	EsrsRoutine *routine;
	EsrsState  *state;
	const EsrsRecord *record;	/* NULL: the state's JSON is wanted */
	bool		deprecated;
	Jsonb	   *json;
} Step;

static void
run_step(EsrsHistory *h, Step *step)
{
	if (step->record != NULL)
		step->deprecated = !esrs_event_fold(h->call, step->routine, step->state, step->record);
	else
	{
		step->json = esrs_callback_state_json(h->call, step->routine, step->state);
		esrs_call_reset(h->call);
	}
}

static EsrsFoldError *
contained(EsrsHistory *h, Step *step)
{
	MemoryContext before = CurrentMemoryContext;
	EsrsFoldError *volatile result = NULL;

	if (!h->in_subtransaction)
	{
		h->outer_owner = CurrentResourceOwner;
		BeginInternalSubTransaction(NULL);
		MemoryContextSwitchTo(before);
		h->in_subtransaction = true;
	}
	PG_TRY();
	{
		run_step(h, step);
	}
	PG_CATCH();
	{
		ErrorData  *error;
		int			category;

		MemoryContextSwitchTo(before);
		error = CopyErrorData();
		FlushErrorState();
		esrs_history_settle(h);
		/* who is cancelled has not failed */
		category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
		if (category == ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION) ||
			category == ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES))
			ReThrowError(error);
		result = palloc(sizeof(EsrsFoldError));
		result->sqlstate = pstrdup(unpack_sql_state(error->sqlerrcode));
		result->message = pstrdup(error->message ? error->message : "");
		result->sequence_number = step->record ? step->record->sequence_number : 0;
		FreeErrorData(error);
		esrs_call_reset(h->call);
	}
	PG_END_TRY();
	return result;
}

/*
 * Fold one event.  NULL, or what was raised, in the current context; then the
 * state is worthless.
 */
EsrsFoldError *
esrs_history_fold(EsrsHistory *h, EsrsRoutine *routine, EsrsState *state,
				  const EsrsRecord *record, bool *deprecated)
{
	Step		step = {.routine = routine,.state = state,.record = record};
	EsrsFoldError *error = contained(h, &step);

	*deprecated = step.deprecated;
	return error;
}

/* The state as jsonb, in the current context; or what was raised. */
EsrsFoldError *
esrs_history_json(EsrsHistory *h, EsrsRoutine *routine, EsrsState *state, Jsonb **json)
{
	Step		step = {.routine = routine,.state = state};
	EsrsFoldError *error = contained(h, &step);

	*json = step.json;
	return error;
}

/*
 * The aggregate of a name, for those who may see all of its events: a part of
 * them would look like damage.  Raises 42501.
 */
EsrsAggregate *
esrs_history_aggregate(const char *name)
{
	EsrsAggregate *agg;

	esrs_aggregate_check_table_right(esrs_aggregate_lookup(name), ACL_SELECT);
	agg = esrs_aggregate_lookup_locked(name, AccessShareLock);
	esrs_aggregate_check_table_right(agg, ACL_SELECT);
	if (check_enable_rls(agg->events, InvalidOid, true) == RLS_ENABLED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("row security hides events of aggregate \"%s\"", agg->name),
				 errdetail("This needs all of them."),
				 errhint("Ask the owner of table %s, or a role with BYPASSRLS.", agg->table)));
	return agg;
}
