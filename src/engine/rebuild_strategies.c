/*-------------------------------------------------------------------------
 *
 * rebuild_strategies.c
 *	  The ways to make a read model anew: what an event handler has written is
 *	  deleted, and it is called again with the events.
 *
 * in_place: in one transaction.  For transactional handlers the tables of events
 * are locked against writers first, so that no event comes in between.  For
 * asynchronous ones the checkpoints are locked, all events up to the safe position
 * are replayed, and the checkpoints are put there: what comes later is live.
 *
 * per_aggregate: instance by instance, each in a transaction of its own, under the
 * lock of the instance or, for asynchronous handlers, of their checkpoint.  The
 * events that such a handler has handled already are replayed, no others, so the
 * checkpoint stays where it is.
 *
 * The bound, or the lock, always comes before the snapshot with which is read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/rebuild.h"

#include "base/security.h"
#include "base/spi.h"
#include "catalog/event_table.h"
#include "catalog/pg_type.h"
#include "catalog/rebuild_state.h"
#include "catalog/swaps.h"
#include "engine/procedures.h"
#include "handler/dead_letter.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "store/instances.h"
#include "store/position.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* ------------------------------------------------------------------------
 * in_place
 * ------------------------------------------------------------------------
 */

/* As the handlers' role, which must be allowed to. */
static void
truncate_tables(void *arg)
{
	EsrsRebuild *r = (EsrsRebuild *) arg;
	EsrsConsumer *consumer = ((EsrsReplayed *) linitial(r->replay.handlers))->consumer;
	EsrsIdentity before;
	StringInfoData sql;
	Datum	   *tables;
	int			n;

	deconstruct_array(r->truncate, REGCLASSOID, sizeof(Oid), true, TYPALIGN_INT, &tables, NULL, &n);
	initStringInfo(&sql);
	for (int i = 0; i < n; i++)
		appendStringInfo(&sql, "%s%s", i == 0 ? "TRUNCATE " : ", ",
						 esrs_event_table_name(DatumGetObjectId(tables[i])));
	esrs_security_act_as(&before, consumer->handler->run_as, consumer->search_path);
	esrs_spi_begin();
	esrs_spi_utility(sql.data);
	esrs_spi_end();
	esrs_security_restore(&before);
}

/* Call the delete handlers for all instances. */
static void
delete_all(EsrsRebuild *r)
{
	pg_uuid_t  *ids = palloc(sizeof(pg_uuid_t) * ESRS_REBUILD_PORTION);
	pg_uuid_t	last;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "esrs rebuild",
												  ALLOCSET_DEFAULT_SIZES);
	int			n = 0;
	bool		first = true;

	do
	{
		MemoryContext before = MemoryContextSwitchTo(context);

		n = esrs_instances_next(r->replay.aggregates, esrs_replay_role(&r->replay),
								first ? NULL : &last, ids, ESRS_REBUILD_PORTION);
		for (int i = 0; i < n; i++)
		{
			esrs_replay_delete(&r->replay, NULL, &ids[i]);
			esrs_rebuild_progress_advance(&r->progress, 0, 1);
		}
		MemoryContextSwitchTo(before);
		MemoryContextReset(context);
		if (n > 0)
			last = ids[n - 1];
		first = false;
	} while (n == ESRS_REBUILD_PORTION);
	MemoryContextDelete(context);
}

/* All at once, in this transaction.  Raises what a handler raises. */
void
esrs_rebuild_in_place(EsrsRebuild *r)
{
	EsrsFeedRange range = {.upto = PG_INT64_MAX};
	ListCell   *lc;

	esrs_rebuild_lock_all(r);
	r->version = esrs_rebuild_state_version(r->names);
	if (r->async)
		range.upto = esrs_position_safe(r->hashes, list_length(r->replay.aggregates));

	esrs_rebuild_count(r, range.upto, r->truncate == NULL);
	esrs_rebuild_progress_phase(&r->progress, ESRS_REBUILD_DELETING);
	if (r->truncate != NULL)
	{
		esrs_replay_guarded(truncate_tables, r);
		foreach(lc, r->names)
		{
			esrs_swaps_note((char *) lfirst(lc));
		}
	}
	else
		delete_all(r);
	esrs_rebuild_progress_phase(&r->progress, ESRS_REBUILD_REPLAYING);
	esrs_replay_events(&r->replay, &range);

	esrs_rebuild_progress_phase(&r->progress, ESRS_REBUILD_FINISHING);
	esrs_rebuild_check_version(r);
	if (r->async)
		esrs_rebuild_done_async(r, range.upto);
	esrs_rebuild_leave_nothing(r);
	esrs_rebuild_state_delete(r->label);
}

/* ------------------------------------------------------------------------
 * Instance by instance
 * ------------------------------------------------------------------------
 */

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
	MemoryContextSwitchTo(before);
	MemoryContextDelete(context);
}

/* Where to begin: where an earlier call has ended, or with nothing done. */
static bool
resume(EsrsRebuild *r, bool wanted, EsrsRebuildState *state)
{
	char	   *version = esrs_rebuild_state_version(r->names);
	bool		found = esrs_rebuild_state_find(r->label, state);

	if (found && (!wanted || strcmp(state->version, version) != 0))
	{
		if (wanted)
			ereport(NOTICE,
					(errmsg("rebuild of %s begins anew", r->label),
					 errdetail("An unfinished one was made with another version of the event handler.")));
		esrs_rebuild_state_delete(r->label);
		found = false;
	}
	else if (found)
		ereport(NOTICE,
				(errmsg("rebuild of %s goes on", r->label),
				 errdetail("It was begun at %s, and " INT64_FORMAT " instances are done.",
						   timestamptz_to_str(state->started_at), state->instances)));
	if (!found)
	{
		memset(state, 0, sizeof(*state));
		state->started_at = GetCurrentTimestamp();
	}
	state->handlers = r->label;
	state->version = version;
	return found;
}

/*
 * Instance by instance, each committed.  The caller holds the lock that keeps other
 * rebuilds of the same kind away.
 */
void
esrs_rebuild_each(EsrsRebuild *r, bool want_resume)
{
	EsrsRebuildPlace *shown = &r->progress.shown;
	pg_uuid_t  *ids = palloc(sizeof(pg_uuid_t) * ESRS_REBUILD_PORTION);
	EsrsRebuildState state;
	bool		first = !resume(r, want_resume, &state);
	int			n;

	r->version = state.version;
	esrs_rebuild_lock_aggregates(r, AccessShareLock);
	esrs_rebuild_count(r, PG_INT64_MAX, true);
	shown->events = shown->events_before = state.events;
	shown->instances = state.instances;
	do
	{
		MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "esrs rebuild",
													  ALLOCSET_DEFAULT_SIZES);
		MemoryContext before = MemoryContextSwitchTo(context);

		(void) esrs_rebuild_load(r);
		esrs_rebuild_lock_aggregates(r, AccessShareLock);
		n = esrs_instances_next(r->replay.aggregates, esrs_replay_role(&r->replay),
								first ? NULL : &state.last_id, ids, ESRS_REBUILD_PORTION);
		esrs_procedure_commit();
		esrs_rebuild_progress_phase(&r->progress, ESRS_REBUILD_REPLAYING);
		for (int i = 0; i < n; i++)
		{
			MemoryContextSwitchTo(context);
			(void) esrs_rebuild_load(r);
			esrs_rebuild_instance(r, &ids[i]);
			esrs_rebuild_progress_advance(&r->progress, 0, 1);
			state.last_id = ids[i];
			state.instances = shown->instances;
			state.events = shown->events;
			esrs_rebuild_state_write(&state);
			esrs_procedure_commit();
			esrs_rebuild_progress_throttle(&r->progress);
		}
		MemoryContextSwitchTo(before);
		MemoryContextDelete(context);
		first = false;
	} while (n == ESRS_REBUILD_PORTION);
	esrs_rebuild_check_version(r);
	esrs_rebuild_state_delete(r->label);
}
