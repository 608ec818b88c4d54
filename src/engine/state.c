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

#include "access/transam.h"
#include "access/xact.h"
#include "base/errors.h"
#include "base/jsonb_codec.h"
#include "base/uuid.h"
#include "catalog/namespace.h"
#include "common/hashfn.h"
#include "config.h"
#include "engine/state_cache.h"
#include "miscadmin.h"
#include "storage/lockdefs.h"
#include "store/append.h"
#include "store/read.h"
#include "store/snapshot.h"
#include "utils/acl.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

typedef struct Fold
{
	EsrsCall   *call;
	EsrsInstance *instance;
	EsrsLoadLimit limit;
	bool		proving;		/* the first event must be the newest that is
								 * known */
	bool		disproved;
} Fold;

static bool
fold_event(EsrsRecord *record, void *arg)
{
	Fold	   *fold = (Fold *) arg;
	EsrsInstance *instance = fold->instance;

	if (fold->proving)
	{
		fold->proving = false;
		fold->disproved = record->sequence_number != instance->sequence_number ||
			!esrs_uuid_equal(&record->id, &instance->last_id) ||
			record->position != instance->last_position ||
			(TransactionIdIsValid(instance->last_xmin) && record->xmin != instance->last_xmin);
		instance->last_xmin = record->xmin;
		return !fold->disproved;
	}
	if (record->occurred_on > fold->limit.occurred_on)
		return false;
	esrs_event_fold(fold->call, &instance->agg->routine, instance->state, record);
	instance->folded++;

	/* an event may still come into a gap, by the owner's hand */
	if (record->sequence_number != instance->sequence_number + 1)
		instance->keepable = false;
	instance->sequence_number = record->sequence_number;
	instance->last_id = record->id;
	instance->last_position = record->position;
	instance->last_xmin = record->xmin;
	instance->last_occurred_on = Max(instance->last_occurred_on, record->occurred_on);
	return true;
}

/* What makes a state that is folded now, by the current user. */
static void
set_origin(EsrsAggregate *agg, EsrsOrigin *origin)
{
	memset(origin, 0, sizeof(*origin));
	origin->meaning = agg->meaning;
	origin->code_epoch = esrs_aggregate_code_epoch();
	if (!esrs_aggregate_is_pinned(agg))
	{
		origin->role = GetUserId();
		origin->search_path_hash = hash_bytes((const unsigned char *) namespace_search_path,
											  strlen(namespace_search_path));
	}
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

/* A state that is too large to become JSON again is folded each time. */
static bool
fits_in_snapshot(Jsonb *state)
{
	return VARSIZE(state) / 1024 < esrs_config_max_payload_size;
}

/* ------------------------------------------------------------------------
 * Loading
 * ------------------------------------------------------------------------
 */

/*
 * May the current user see all events of the aggregate?  Only then may he see a
 * state that somebody else's fold has made.
 */
static bool
may_see_all(EsrsAggregate *agg)
{
	return pg_class_aclcheck(agg->events, GetUserId(), ACL_SELECT) == ACLCHECK_OK &&
		check_enable_rls(agg->events, InvalidOid, true) != RLS_ENABLED;
}

/*
 * What is folded from an old snapshot may be what was changed on purpose since: is
 * the history that the snapshot sees surely that of now?
 */
static bool
sees_history(EsrsAggregate *agg, Snapshot snapshot)
{
	return !IsolationUsesXactSnapshot() || !TransactionIdIsValid(agg->stamp.newest) ||
		TransactionIdPrecedes(agg->stamp.newest, snapshot->xmin);
}

/*
 * A state from its JSON, in the current context; NULL if state_from_json raised
 * something: there are still the events to fold.
 */
static EsrsState *
restore(EsrsCall *call, EsrsAggregate *agg, Jsonb *json)
{
	MemoryContext before = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	EsrsState  *volatile state = NULL;

	if (agg->routine.kind == ESRS_KIND_SQL || agg->routine.c.state_from_json == NULL ||
		IsInParallelMode())
		return esrs_callback_restore_state(call, &agg->routine, json, before);
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(before);
	PG_TRY();
	{
		state = esrs_callback_restore_state(call, &agg->routine, json, before);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;
		int			category;

		MemoryContextSwitchTo(before);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(before);
		CurrentResourceOwner = owner;
		category = ERRCODE_TO_CATEGORY(error->sqlerrcode);
		if (category == ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION) ||
			category == ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES))
			ReThrowError(error);
		FreeErrorData(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(before);
	CurrentResourceOwner = owner;
	esrs_call_reset(call);
	return state;
}

/* Begin with the instance's snapshot, if there is one that serves the limit. */
static bool
begin_with_snapshot(EsrsCall *call, EsrsInstance *instance, EsrsLoadLimit limit,
					Snapshot snapshot)
{
	EsrsAggregate *agg = instance->agg;
	EsrsSnapshot found;

	if (agg->snapshot_every == 0 || esrs_aggregate_fingerprint(agg) == NULL ||
		agg->fingerprint_epoch != instance->origin.code_epoch ||
		!esrs_callback_can_restore(&agg->routine) ||
		esrs_snapshot_find(agg, &instance->id, snapshot, &found) != ESRS_SNAPSHOT_OK ||
		found.sequence_number > limit.sequence_number ||
		found.occurred_on > limit.occurred_on || !fits_in_snapshot(found.state))
		return false;
	instance->state = restore(call, agg, found.state);
	if (instance->state == NULL)
		return false;
	esrs_call_reset(call);
	instance->sequence_number = found.sequence_number;
	instance->last_id = found.event_id;
	instance->last_position = found.position;
	instance->last_occurred_on = found.occurred_on;
	return true;
}

static bool
is_newest(EsrsLoadLimit limit)
{
	return limit.sequence_number == PG_INT32_MAX && TIMESTAMP_IS_NOEND(limit.occurred_on);
}

/*
 * Go on from what is known: prove that its newest event is there, and fold those
 * after it.  False, and the instance is empty, if it is not; or if code has
 * changed meanwhile, so that two kinds would have made one state.
 */
static bool
go_on(EsrsCall *call, EsrsInstance *instance, EsrsLoadLimit limit, Snapshot snapshot,
	  bool as_owner)
{
	Fold		fold = {.call = call,.instance = instance,.limit = limit,.proving = true};

	esrs_read_on(instance->agg, &instance->id, instance->sequence_number,
				 limit.sequence_number, snapshot, as_owner, fold_event, &fold);
	if (!fold.proving && !fold.disproved &&
		instance->origin.code_epoch == esrs_aggregate_code_epoch())
		return true;
	MemoryContextDelete(instance->state->context);
	*instance = (EsrsInstance)
	{
		.agg = instance->agg,.id = instance->id,.keepable = is_newest(limit),
			.last_occurred_on = DT_NOBEGIN
	};
	set_origin(instance->agg, &instance->origin);
	return false;
}

/*
 * Load an instance, in the current context, as the owner of the table or as
 * the current user.  One without events has number 0 and the initial state.
 *
 * What is known, from this backend's last command or a snapshot, need not be
 * folded again.
 */
EsrsInstance *
esrs_state_load(EsrsCall *call, EsrsAggregate *agg, const pg_uuid_t *id,
				EsrsLoadLimit limit, Snapshot snapshot, bool as_owner)
{
	EsrsInstance *instance = new_instance(agg, id);
	Fold		fold = {.call = call,.instance = instance,.limit = limit};

	set_origin(agg, &instance->origin);
	if (agg->unchanging && sees_history(agg, snapshot) && (as_owner || may_see_all(agg)))
	{
		instance->keepable = is_newest(limit);
		if (instance->keepable && esrs_state_cache_take(instance) &&
			go_on(call, instance, limit, snapshot, as_owner))
			return instance;
		if (begin_with_snapshot(call, instance, limit, snapshot) &&
			go_on(call, instance, limit, snapshot, as_owner))
			return instance;
	}
	instance->state = esrs_callback_init_state(call, &agg->routine, CurrentMemoryContext);
	esrs_call_reset(call);
	esrs_read_instance(agg, id, 1, limit.sequence_number, snapshot, as_owner,
					   fold_event, &fold);
	return instance;
}

/*
 * Keep the state for the next command of this backend.  It is not used any more
 * here.
 */
void
esrs_state_keep(EsrsInstance *instance)
{
	if (instance->keepable)
		esrs_state_cache_put(instance);
}

/* ------------------------------------------------------------------------
 * Snapshots
 * ------------------------------------------------------------------------
 */

/*
 * A C struct must be the same after a way through its JSON.  Where it is not, the
 * library must be mended; a command is not refused for it.
 */
static bool
survives(EsrsCall *call, EsrsInstance *instance, Jsonb *state)
{
	EsrsAggregate *agg = instance->agg;
	EsrsState  *copy;
	bool		same;

	if (agg->routine.kind != ESRS_KIND_C || agg->routine.c.state_to_json == NULL)
		return true;
	copy = restore(call, agg, state);
	same = copy != NULL &&
		esrs_jsonb_equal(esrs_callback_state_json(call, &agg->routine, copy), state);
	if (copy != NULL)
		MemoryContextDelete(copy->context);
	esrs_call_reset(call);
	if (!same)
		ereport(WARNING,
				(errcode(ESRS_ERRCODE_BAD_CALLBACK),
				 errmsg("no snapshot was taken of instance %s of aggregate \"%s\"",
						esrs_uuid_text(&instance->id), agg->name),
				 errdetail("What %s makes of the state's JSON is another state, or an error.", "state_from_json")));
	return same;
}

/*
 * Write the instance's snapshot, if it is due: the number has passed a multiple of
 * snapshot_every since "before", or loading it took that many events.  "state" is
 * the state as jsonb.  The instance is locked, or nobody else writes snapshots.
 * True if one was written.
 */
bool
esrs_state_store(EsrsCall *call, EsrsInstance *instance, int32 before, Jsonb *state)
{
	EsrsAggregate *agg = instance->agg;
	EsrsSnapshot s;

	if (agg->snapshot_every == 0 || instance->sequence_number == before || !instance->keepable)
		return false;
	if (instance->sequence_number / agg->snapshot_every == before / agg->snapshot_every &&
		instance->folded < agg->snapshot_every)
		return false;
	if (!agg->valid)
		agg = esrs_aggregate_lookup(agg->name);
	if (agg->meaning != instance->origin.meaning || esrs_aggregate_fingerprint(agg) == NULL ||
		agg->fingerprint_epoch != instance->origin.code_epoch ||
		!esrs_callback_can_restore(&agg->routine) || !fits_in_snapshot(state) ||
		!survives(call, instance, state) || !esrs_snapshot_lock(agg, ShareLock, false))
		return false;
	s.aggregate_id = instance->id;
	s.sequence_number = instance->sequence_number;
	s.event_id = instance->last_id;
	s.position = instance->last_position;
	s.occurred_on = instance->last_occurred_on;
	s.state = state;
	esrs_snapshot_write(agg, &s);
	return true;
}

/* An instance before its first event, in the current context. */
EsrsInstance *
esrs_state_new(EsrsCall *call, EsrsAggregate *agg, const pg_uuid_t *id)
{
	EsrsInstance *instance = new_instance(agg, id);

	set_origin(agg, &instance->origin);
	instance->keepable = true;
	instance->state = esrs_callback_init_state(call, &agg->routine, CurrentMemoryContext);
	esrs_call_reset(call);
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
	Fold		fold = {.call = call,.instance = instance,.limit = ESRS_LOAD_ALL};
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
