/*-------------------------------------------------------------------------
 *
 * state.c
 *	  An instance and its state: the fold of its events.
 *
 * A deprecated event is left out of the fold, but it counts: the instance goes
 * on from the number of its newest stored event.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/state.h"

#include "access/xact.h"
#include "base/uuid.h"
#include "miscadmin.h"
#include "store/append.h"
#include "store/read.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

typedef struct Fold
{
	EsrsCall   *call;
	EsrsInstance *instance;
	EsrsLoadLimit limit;
} Fold;

static bool
fold_event(EsrsRecord *record, void *arg)
{
	Fold	   *fold = (Fold *) arg;
	EsrsInstance *instance = fold->instance;

	if (record->occurred_on > fold->limit.occurred_on)
		return false;
	esrs_event_fold(fold->call, &instance->agg->routine, instance->state, record);
	instance->sequence_number = record->sequence_number;
	instance->last_id = record->id;
	instance->last_occurred_on = record->occurred_on;
	return true;
}

static EsrsInstance *
new_instance(EsrsAggregate *agg, const pg_uuid_t *id)
{
	EsrsInstance *instance = palloc0(sizeof(EsrsInstance));

	instance->agg = agg;
	instance->id = *id;
	instance->last_occurred_on = DT_NOBEGIN;
	return instance;
}

/*
 * Load an instance, in the current context, as the owner of the table or as
 * the current user.  One without events has number 0 and the initial state.
 */
EsrsInstance *
esrs_state_load(EsrsCall *call, EsrsAggregate *agg, const pg_uuid_t *id,
				EsrsLoadLimit limit, Snapshot snapshot, bool as_owner)
{
	EsrsInstance *instance = new_instance(agg, id);
	Fold		fold = {call, instance, limit};

	instance->state = esrs_callback_init_state(call, &agg->routine, CurrentMemoryContext);
	esrs_call_reset(call);
	esrs_read_instance(agg, id, 1, limit.sequence_number, snapshot, as_owner,
					   fold_event, &fold);
	return instance;
}

/* The instance without its state, read as the owner. */
EsrsInstance *
esrs_state_peek(EsrsAggregate *agg, const pg_uuid_t *id, Snapshot snapshot)
{
	EsrsInstance *instance = new_instance(agg, id);
	EsrsNewest	newest;

	esrs_read_newest(agg, id, snapshot, &newest);
	if (newest.sequence_number > 0)
	{
		instance->sequence_number = newest.sequence_number;
		instance->last_id = newest.id;
		instance->last_occurred_on = newest.occurred_on;
	}
	return instance;
}

/* Fold new events, which were just stored. */
void
esrs_state_advance(EsrsCall *call, EsrsInstance *instance, List *records)
{
	Fold		fold = {call, instance, ESRS_LOAD_ALL};
	ListCell   *lc;

	foreach(lc, records)
	{
		CHECK_FOR_INTERRUPTS();
		(void) fold_event((EsrsRecord *) lfirst(lc), &fold);
	}
}

/*
 * Where the transaction's snapshot may be older than the lock: raise 40001 if
 * somebody has changed the instance since.
 */
void
esrs_state_check_current(EsrsInstance *instance)
{
	EsrsNewest	newest;

	if (!IsolationUsesXactSnapshot())
		return;
	esrs_read_newest(instance->agg, &instance->id, GetLatestSnapshot(), &newest);
	if (newest.sequence_number != instance->sequence_number ||
		(newest.sequence_number > 0 && !esrs_uuid_equal(&newest.id, &instance->last_id)))
		esrs_append_lost_race(instance->agg, &instance->id);
}
