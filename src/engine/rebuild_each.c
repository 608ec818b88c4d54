/*-------------------------------------------------------------------------
 *
 * rebuild_each.c
 *	  Making a read model anew instance by instance, each in a transaction of its own,
 *	  under the lock of the instance or, for asynchronous handlers, of their
 *	  checkpoint.  The events that such a handler has handled already are replayed, no
 *	  others, so the checkpoint stays where it is.
 *
 * The instances are divided into shares, by the hash of their ids.  A row of
 * esrs.rebuilds tells how far each share is, and is written with each instance; so
 * whatever ends the rebuild, the next one goes on there, with the same shares.
 * Several processes work on them at once, see rebuild_workers.c.
 *
 * The lock always comes before the snapshot with which is read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/rebuild.h"

#include "access/xact.h"
#include "catalog/rebuild_state.h"
#include "engine/procedures.h"
#include "handler/dead_letter.h"
#include "store/instances.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Make anew what the handlers have written of one instance, in this transaction. */
void
esrs_rebuild_instance(EsrsRebuild *r, const pg_uuid_t *id)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "esrs rebuild",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext before = MemoryContextSwitchTo(context);
	EsrsFeedRange range = {.upto = PG_INT64_MAX,.instance = id};
	ListCell   *lc;

	esrs_rebuild_lock_instance(r, id);
	esrs_replay_delete(&r->replay, NULL, id);
	esrs_replay_events(&r->replay, &range);
	if (r->async)
	{
		foreach(lc, r->replay.handlers)
		{
			esrs_dead_letter_forget(((EsrsReplayed *) lfirst(lc))->consumer, id);
		}
	}
	esrs_rebuild_leave_nothing(r);
	if (r->republish)
		esrs_notify_again_send(r->again);
	MemoryContextSwitchTo(before);
	MemoryContextDelete(context);
}

/*
 * What is done of an instance, and that it is, is committed together.  So there is
 * no need to wait for the disk: if the server does not survive, both are gone, and the
 * last commit of the rebuild waits for all of them.
 */
static void
commit_without_waiting(void)
{
	if (synchronous_commit > SYNCHRONOUS_COMMIT_OFF)
		(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_LOCAL, true, 0, false);
	esrs_procedure_commit();
}

/* One instance of a share, in a transaction of its own. */
static void
rebuild_and_commit(EsrsRebuild *r, EsrsRebuildState *state, const pg_uuid_t *id)
{
	int64		events = r->progress.shown.events;

	(void) esrs_rebuild_load(r);
	esrs_rebuild_instance(r, id);
	esrs_rebuild_progress_advance(&r->progress, 0, 1);
	state->begun = true;
	state->last_id = *id;
	state->instances++;
	state->events += r->progress.shown.events - events;
	esrs_rebuild_state_write(state);
	commit_without_waiting();
	esrs_rebuild_progress_throttle(&r->progress);
}

/* Go on with a share until it is done; all is committed. */
void
esrs_rebuild_share(EsrsRebuild *r, EsrsRebuildState *state)
{
	pg_uuid_t  *ids = palloc(sizeof(pg_uuid_t) * ESRS_REBUILD_PORTION);
	pg_uuid_t	last = state->last_id;
	bool		first = !state->begun;
	int			n;

	do
	{
		MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "esrs rebuild",
													  ALLOCSET_DEFAULT_SIZES);
		MemoryContext before = MemoryContextSwitchTo(context);

		(void) esrs_rebuild_load(r);
		esrs_rebuild_lock_aggregates(r, AccessShareLock);
		n = esrs_instances_next(r->replay.aggregates, esrs_replay_role(&r->replay),
								first ? NULL : &last, ids, ESRS_REBUILD_PORTION);
		esrs_procedure_commit();
		esrs_rebuild_progress_phase(&r->progress, ESRS_REBUILD_REPLAYING);
		for (int i = 0; i < n; i++)
		{
			MemoryContextSwitchTo(context);
			if (state->shares == 1 || esrs_feed_partition(&ids[i], state->shares) == state->share)
				rebuild_and_commit(r, state, &ids[i]);
		}
		MemoryContextSwitchTo(before);
		MemoryContextDelete(context);
		if (n > 0)
			last = ids[n - 1];
		first = false;
	} while (n == ESRS_REBUILD_PORTION);
	state->done = true;
	esrs_rebuild_state_write(state);
	esrs_procedure_commit();
	pfree(ids);
}

/* Events of one partition of an asynchronous handler are never handled at once. */
static void
check_workers(EsrsRebuild *r)
{
	ListCell   *lc;

	foreach(lc, r->replay.handlers)
	{
		EsrsConsumer *consumer = ((EsrsReplayed *) lfirst(lc))->consumer;

		if (consumer->async && r->workers > consumer->partitions)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("event handler \"%s\" cannot be rebuilt by %d workers",
							consumer->name, r->workers),
					 errdetail("It has %d partitions, each of which is handled by one process at a time.",
							   consumer->partitions),
					 errhint("Ask for fewer workers, or give it more partitions with esrs_alter_handler().")));
	}
}

/* Begin with nothing done. */
static List *
begin(EsrsRebuild *r, const char *version)
{
	List	   *states = NIL;
	TimestampTz now = GetCurrentTimestamp();

	for (int i = 0; i < r->workers; i++)
	{
		EsrsRebuildState *state = palloc0(sizeof(EsrsRebuildState));

		state->handlers = r->label;
		state->version = pstrdup(version);
		state->share = i;
		state->shares = r->workers;
		state->started_at = now;
		esrs_rebuild_state_begin(state);
		states = lappend(states, state);
	}
	return states;
}

/* The shares, as an earlier call has left them, or with nothing done. */
static List *
resume(EsrsRebuild *r, bool wanted)
{
	char	   *version = esrs_rebuild_state_version(r->names);
	List	   *states = esrs_rebuild_state_list(r->label);
	EsrsRebuildState *first = states ? (EsrsRebuildState *) linitial(states) : NULL;
	int64		instances = 0;
	ListCell   *lc;

	if (first == NULL)
		return begin(r, version);
	if (!wanted || strcmp(first->version, version) != 0)
	{
		if (wanted)
			ereport(NOTICE,
					(errmsg("rebuild of %s begins anew", r->label),
					 errdetail("An unfinished one was made with another version of the event handler.")));
		esrs_rebuild_state_delete(r->label);
		return begin(r, version);
	}
	foreach(lc, states)
	{
		EsrsRebuildState *state = (EsrsRebuildState *) lfirst(lc);

		instances += state->instances;
		r->progress.shown.events += state->events;
	}
	r->progress.shown.events_before = r->progress.shown.events;
	r->progress.shown.instances = instances;
	ereport(NOTICE,
			(errmsg("rebuild of %s goes on", r->label),
			 errdetail("It was begun at %s, and " INT64_FORMAT " instances are done.",
					   timestamptz_to_str(first->started_at), instances)));
	if (r->workers > first->shares)
		ereport(NOTICE,
				(errmsg_plural("it was begun with %d worker", "it was begun with %d workers",
							   first->shares, first->shares),
				 errhint("To begin anew with more, set \"resume\" to false.")));
	return states;
}

/*
 * Instance by instance, each committed.  The caller holds the lock that keeps other
 * rebuilds of the same kind away.
 */
void
esrs_rebuild_each(EsrsRebuild *r, bool want_resume)
{
	List	   *states;
	List	   *left = NIL;
	ListCell   *lc;

	check_workers(r);
	states = resume(r, want_resume);
	r->version = ((EsrsRebuildState *) linitial(states))->version;
	foreach(lc, states)
	{
		if (!((EsrsRebuildState *) lfirst(lc))->done)
			left = lappend(left, lfirst(lc));
	}
	esrs_rebuild_lock_aggregates(r, AccessShareLock);
	esrs_rebuild_count(r, PG_INT64_MAX, true);
	esrs_procedure_commit();
	if (Min(r->workers, list_length(left)) > 1)
		left = esrs_rebuild_workers_run(r, left);
	foreach(lc, left)
	{
		esrs_rebuild_share(r, (EsrsRebuildState *) lfirst(lc));
	}
	(void) esrs_rebuild_load(r);
	esrs_rebuild_check_version(r);
	esrs_rebuild_state_delete(r->label);
}
