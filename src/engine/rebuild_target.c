/*-------------------------------------------------------------------------
 *
 * rebuild_target.c
 *	  What a rebuild works on: the handlers, who may have them rebuilt, and their
 *	  aggregates; and the locks that keep others off.
 *
 * The checkpoints of asynchronous handlers are locked before the tables, as by
 * whoever runs them; several of each in the order of their names.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/rebuild.h"

#include "base/security.h"
#include "catalog/demand.h"
#include "catalog/rebuild_state.h"
#include "handler/batch.h"
#include "handler/dead_letter.h"
#include "handler/invoke.h"
#include "miscadmin.h"
#include "signal/wakeup.h"
#include "store/instances.h"
#include "store/lock.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

static int
by_ordinal(const ListCell *a, const ListCell *b)
{
	int64		x = ((EsrsReplayed *) lfirst(a))->consumer->ordinal;
	int64		y = ((EsrsReplayed *) lfirst(b))->consumer->ordinal;

	return x < y ? -1 : x > y;
}

static int
by_name(const ListCell *a, const ListCell *b)
{
	return strcmp((char *) lfirst(a), (char *) lfirst(b));
}

/* In the order in which they are locked. */
void
esrs_rebuild_sort_names(List *names)
{
	list_sort(names, by_name);
}

/* May it be rebuilt, by the caller, here and in this way? */
static void
check_handler(EsrsRebuild *r, EsrsConsumer *consumer)
{
	esrs_consumer_check_right(consumer);
	if (!consumer->replayable)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("event handler \"%s\" is not replayable", consumer->name),
				 errhint("If it may see events twice, set its option \"replayable\" to true.")));
	if (!r->nonatomic && consumer->handler->run_as != GetUserId())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("event handler \"%s\" cannot be rebuilt in a transaction of another role",
						consumer->name),
				 errhint("Call the procedure outside of a transaction block, or SET ROLE \"%s\" first.",
						 GetUserNameFromId(consumer->handler->run_as, false))));
	if (consumer->handler->delete_signature == NULL && r->truncate == NULL &&
		r->tables == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("event handler \"%s\" does not say how to delete what it has written",
						consumer->name),
				 errhint("Give it a delete_handler with esrs_alter_handler(), or name the tables in \"truncate\".")));
	esrs_invoke_resolve(consumer->handler);
}

/* What handlers of one call must have in common. */
static void
check_alike(EsrsConsumer *first, EsrsConsumer *other)
{
	if (other->handler->run_as != first->handler->run_as)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("event handlers \"%s\" and \"%s\" cannot be rebuilt together",
						first->name, other->name),
				 errdetail("They run as different roles.")));
	if (other->async != first->async)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("event handlers \"%s\" and \"%s\" cannot be rebuilt together",
						first->name, other->name),
				 errdetail("One is transactional, and the other asynchronous.")));
}

/*
 * Raise 40001 if the handlers, or their functions, are not what they were when
 * the rebuild was begun: a part of it would be of the one kind, and a part of the
 * other.
 */
void
esrs_rebuild_check_version(EsrsRebuild *r)
{
	if (strcmp(esrs_rebuild_state_version(r->names), r->version) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("%s was changed while it was rebuilt", r->label),
				 errhint("Call esrs_rebuild() again.")));
}

/*
 * Read the handlers, in the context of the rebuild, unless they are known and
 * nothing has changed since; true if they were read.  Raises 40001 if they are not
 * what they were when the rebuild was begun.
 */
bool
esrs_rebuild_load(EsrsRebuild *r)
{
	MemoryContext before;
	List	   *handlers = NIL;
	ListCell   *lc;

	AcceptInvalidationMessages();
	(void) esrs_demand_worker();	/* takes note of the catalogs */
	if (r->generation == esrs_demand_generation() &&
		r->code_epoch == esrs_aggregate_code_epoch())
		return false;
	r->generation = esrs_demand_generation();
	r->code_epoch = esrs_aggregate_code_epoch();
	esrs_feed_close(&r->replay.feed);
	r->replay.handlers = NIL;
	MemoryContextReset(r->context);
	before = MemoryContextSwitchTo(r->context);
	foreach(lc, r->names)
	{
		EsrsReplayed *replayed = palloc0(sizeof(EsrsReplayed));

		replayed->consumer = esrs_consumer_load((char *) lfirst(lc));
		if (replayed->consumer == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("event handler \"%s\" does not exist", (char *) lfirst(lc)),
					 errhint("Registered handlers are in the view esrs_handlers.")));
		check_handler(r, replayed->consumer);
		if (handlers != NIL)
			check_alike(((EsrsReplayed *) linitial(handlers))->consumer, replayed->consumer);
		handlers = lappend(handlers, replayed);
	}
	list_sort(handlers, by_ordinal);
	r->replay.handlers = handlers;
	r->async = ((EsrsReplayed *) linitial(handlers))->consumer->async;
	MemoryContextSwitchTo(before);
	if (r->version != NULL)
		esrs_rebuild_check_version(r);
	return true;
}

/* Whoever asks for notifications is to get them. */
static void
check_notifies(EsrsRebuild *r)
{
	ListCell   *lc;

	foreach(lc, r->replay.aggregates)
	{
		EsrsAggregate *agg = (EsrsAggregate *) lfirst(lc);

		if (esrs_notify_mode(agg) == ESRS_NOTIFY_OFF)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("events of aggregate \"%s\" are not notified of", agg->name),
					 errhint("Set its option \"notify\" to \"worker\" or \"commit\", or leave \"republish\" out.")));
	}
}

/*
 * Look up the aggregates of all handlers, with their tables locked until the
 * transaction ends, always in the same order.  In the current context.
 */
void
esrs_rebuild_lock_aggregates(EsrsRebuild *r, LOCKMODE mode)
{
	List	   *names = NIL;
	ListCell   *lc;
	ListCell   *name;

	foreach(lc, r->replay.handlers)
	{
		foreach(name, ((EsrsReplayed *) lfirst(lc))->consumer->aggregates)
		{
			ListCell   *known;
			bool		found = false;

			foreach(known, names)
			{
				found |= strcmp((char *) lfirst(known), (char *) lfirst(name)) == 0;
			}
			if (!found)
				names = lappend(names, lfirst(name));
		}
	}
	esrs_rebuild_sort_names(names);
	r->replay.aggregates = NIL;
	r->hashes = palloc(sizeof(uint32) * list_length(names));
	foreach(lc, names)
	{
		EsrsAggregate *agg = esrs_aggregate_lookup_locked((char *) lfirst(lc), mode);

		r->hashes[foreach_current_index(lc)] = agg->hash;
		r->replay.aggregates = lappend(r->replay.aggregates, agg);
	}
	foreach(lc, r->replay.handlers)
	{
		uint32	   *hashes;

		/* that their role sees all events */
		(void) esrs_consumer_aggregates(((EsrsReplayed *) lfirst(lc))->consumer, &hashes);
	}
	if (r->republish)
		check_notifies(r);
}

static void
leave_nothing(void *arg)
{
	esrs_batch_leave_nothing((EsrsConsumer *) arg);
}

/* Nothing of the handlers may run at the commit, which is the caller's. */
void
esrs_rebuild_leave_nothing(EsrsRebuild *r)
{
	if (r->nonatomic)
		esrs_replay_guarded(leave_nothing,
							((EsrsReplayed *) linitial(r->replay.handlers))->consumer);
}

/*
 * Keep others from handling, or for transactional handlers from appending, events
 * until the transaction ends; with the handlers as they are then.
 */
void
esrs_rebuild_lock_all(EsrsRebuild *r)
{
	bool		async = r->async;
	ListCell   *lc;

	/* in this order, as whoever runs a handler */
	if (async)
	{
		foreach(lc, r->names)
		{
			(void) esrs_checkpoint_lock_all((char *) lfirst(lc));
		}
	}
	else
		esrs_rebuild_lock_aggregates(r, ShareRowExclusiveLock);
	r->generation = 0;
	(void) esrs_rebuild_load(r);
	if (r->async != async)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("%s was changed while it was rebuilt", r->label),
				 errhint("Call esrs_rebuild() again.")));
	esrs_rebuild_lock_aggregates(r, async ? AccessShareLock : ShareRowExclusiveLock);
}

/* The locks, and how far asynchronous handlers are with the instance. */
static void
lock_instance(EsrsRebuild *r, const pg_uuid_t *id)
{
	ListCell   *lc;

	if (r->async)
	{
		/* by name, as all who lock the checkpoints of several handlers */
		foreach(lc, r->names)
		{
			ListCell   *other;

			foreach(other, r->replay.handlers)
			{
				EsrsReplayed *replayed = (EsrsReplayed *) lfirst(other);
				EsrsConsumer *consumer = replayed->consumer;

				if (strcmp(consumer->name, (char *) lfirst(lc)) != 0)
					continue;
				replayed->limited = true;
				if (!esrs_checkpoint_lock(consumer->name,
										  consumer->partitions > 1 ?
										  esrs_feed_partition(id, consumer->partitions) : 0,
										  true, &replayed->checkpoint))
				{
					/* because it has changed? */
					(void) esrs_rebuild_load(r);
					ereport(ERROR,
							(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
							 errmsg("event handler \"%s\" has no checkpoint", (char *) lfirst(lc)),
							 errhint("Call esrs_check().")));
				}
			}
		}
	}
	esrs_rebuild_lock_aggregates(r, r->async ? AccessShareLock : RowExclusiveLock);
	foreach(lc, r->replay.aggregates)
	{
		if (!r->async)
			esrs_lock_instance((EsrsAggregate *) lfirst(lc), id);
	}
}

/*
 * Lock what keeps others from handling events of the instance, with the handlers as
 * they are then: whoever was waited for may have changed them.
 */
void
esrs_rebuild_lock_instance(EsrsRebuild *r, const pg_uuid_t *id)
{
	do
	{
		lock_instance(r, id);
	} while (esrs_rebuild_load(r));
}

/*
 * All events up to a position are handled: put the checkpoints, which are locked,
 * there.  Whatever could not be handled earlier now is.
 */
void
esrs_rebuild_done_async(EsrsRebuild *r, int64 position)
{
	ListCell   *lc;

	foreach(lc, r->replay.handlers)
	{
		EsrsConsumer *consumer = ((EsrsReplayed *) lfirst(lc))->consumer;

		esrs_dead_letter_forget(consumer, NULL);
		esrs_checkpoint_reset(consumer->name, consumer->partitions, position);
	}
	esrs_wakeup_request();
}

/* Count what there is to do, for the progress. */
void
esrs_rebuild_count(EsrsRebuild *r, int64 upto, bool with_instances)
{
	EsrsFeedRange range = {.upto = upto,.max = PG_INT64_MAX};
	EsrsIdentity before;
	TimestampTz oldest;

	esrs_rebuild_progress_phase(&r->progress, ESRS_REBUILD_COUNTING);
	esrs_security_become(&before, esrs_replay_role(&r->replay));
	esrs_security_restrict();
	r->progress.shown.events_total = esrs_feed_count(r->replay.aggregates, &range, &oldest);
	esrs_security_restore(&before);
	if (with_instances)
		r->progress.shown.instances_total =
			esrs_instances_count(r->replay.aggregates, esrs_replay_role(&r->replay));
}
