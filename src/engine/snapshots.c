/*-------------------------------------------------------------------------
 *
 * snapshots.c
 *	  Dropping all snapshots of an aggregate, or making them anew, in one
 *	  transaction.
 *
 * Commands go on meanwhile; those whose snapshot would be due leave it out.
 * esrs_delete() waits: a snapshot must not survive its instance.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/snapshots.h"

#include "access/xact.h"
#include "catalog/aggregate_row.h"
#include "catalog/register.h"
#include "engine/history.h"
#include "engine/state.h"
#include "storage/lockdefs.h"
#include "store/snapshot.h"
#include "utils/snapmgr.h"

typedef struct Rebuild
{
	EsrsHistory history;
	EsrsInstance *instance;
	int64		written;
	int64		left;			/* code changed while they were folded */
} Rebuild;

static void
begin_instance(EsrsHistory *h)
{
	/*
	 * anything may have made it invalid, also what has to do with other
	 * tables only
	 */
	if (!h->agg->valid)
		h->agg = esrs_aggregate_lookup(h->agg->name);
	((Rebuild *) h)->instance = esrs_state_new(h->call, h->agg, &h->id);
}

static void
fold_event(EsrsHistory *h, EsrsRecord *record)
{
	List	   *records = list_make1(record);

	esrs_state_advance(h->call, ((Rebuild *) h)->instance, records);
	list_free(records);
}

static void
write_snapshot(EsrsHistory *h)
{
	Rebuild    *r = (Rebuild *) h;
	Jsonb	   *state;

	if (r->instance->sequence_number < h->agg->snapshot_every)
		return;
	state = esrs_callback_state_json(h->call, &h->agg->routine, r->instance->state);
	if (esrs_state_store(h->call, r->instance, 0, state))
		r->written++;
	else
		r->left++;
}

static void
rebuild(const char *name)
{
	Rebuild    *r = palloc0(sizeof(Rebuild));
	EsrsAggregate *agg = esrs_history_aggregate(name);

	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("snapshots cannot be rebuilt at this isolation level"),
				 errdetail("The transaction would store states of instances that are deleted already."),
				 errhint("Use READ COMMITTED.")));
	if (esrs_aggregate_fingerprint(agg) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no snapshots can be taken of aggregate \"%s\"", name),
				 errhint("esrs_check() tells what is wrong with its functions or its table.")));

	/* who has written one, or deleted an instance, ends before we look */
	(void) esrs_snapshot_lock(agg, ExclusiveLock, true);
	esrs_aggregate_row_delete_snapshots(name);
	CommandCounterIncrement();
	r->history.what = "esrs_alter_aggregate()";
	r->history.agg = agg;
	r->history.begin = begin_instance;
	r->history.event = fold_event;
	r->history.end = write_snapshot;
	r->history.snapshot = RegisterSnapshot(GetTransactionSnapshot());
	esrs_history_walk(&r->history);
	UnregisterSnapshot(r->history.snapshot);
	ereport(NOTICE,
			(errmsg("took snapshots of " INT64_FORMAT " of " INT64_FORMAT " instances of aggregate \"%s\"",
					r->written, r->history.instances, name),
			 r->left > 0 ?
			 errdetail(INT64_FORMAT " others are too large, have gaps in their numbers, do not survive state_from_json, or functions changed while they were folded.",
					   r->left) :
			 r->written < r->history.instances ?
			 errdetail("Those with fewer than %d events need none.", agg->snapshot_every) : 0));
	pfree(r);
}

static void
change(const char *name, bool anew)
{
	if (anew)
		rebuild(name);
	else
	{
		(void) esrs_snapshot_lock(esrs_aggregate_lookup(name), ExclusiveLock, true);
		esrs_aggregate_row_delete_snapshots(name);
	}
}

/* Register for esrs_alter_aggregate().  Called once, at load. */
void
esrs_snapshots_init(void)
{
	esrs_register_set_snapshots_hook(change);
}
