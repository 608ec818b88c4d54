/*-------------------------------------------------------------------------
 *
 * replay.c
 *	  Calling event handlers with what has happened before: portion by portion,
 *	  in order of position, each handler as the role that registered it.
 *
 * Of each event the handlers that take single events are called in the order of
 * registration, as when it happened; those that take arrays follow after the
 * portion.  Deletions are replayed only if asked for: whoever has deleted first, in
 * the same transaction, finds no event of a deleted instance.
 *
 * What a handler raises ends the replay, and names the event.  Locks, checkpoints
 * and what is deleted before are the caller's business.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "handler/replay.h"

#include "base/security.h"
#include "base/uuid.h"
#include "handler/batch.h"
#include "handler/invoke.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* What is read at once. */
typedef struct Portion
{
	EsrsReplay *replay;
	MemoryContext context;
	EsrsBatchItem *items;		/* events, and deletions between them */
	int			n;
	int			deletions;		/* of them done */
	int64		max;
	int			from;			/* those in turn, which are events */
	int			to;
} Portion;

/* The role that all of the handlers run as. */
Oid
esrs_replay_role(EsrsReplay *replay)
{
	return ((EsrsReplayed *) linitial(replay->handlers))->consumer->handler->run_as;
}

static bool
collect(EsrsAggregate *agg, EsrsRecord *record, void *arg)
{
	Portion    *portion = (Portion *) arg;
	MemoryContext before = MemoryContextSwitchTo(portion->context);

	portion->items[portion->n].agg = agg;
	portion->items[portion->n++].record = esrs_event_copy(record);
	MemoryContextSwitchTo(before);
	return portion->n < portion->max;
}

static bool
serves(EsrsConsumer *consumer, const char *aggregate)
{
	ListCell   *lc;

	foreach(lc, consumer->aggregates)
	{
		if (strcmp((char *) lfirst(lc), aggregate) == 0)
			return true;
	}
	return false;
}

/* Is this an event for the handler? */
static bool
concerns(EsrsReplayed *replayed, const EsrsBatchItem *item)
{
	int64		position = item->record->position;

	if (replayed->limited && position > replayed->checkpoint.position &&
		!DatumGetBool(OidFunctionCall2(F_MULTIRANGE_CONTAINS_ELEM, replayed->checkpoint.ahead,
									   Int64GetDatum(position))))
		return false;
	return serves(replayed->consumer, item->agg->name);
}

static void
event_context(void *arg)
{
	EsrsBatch  *batch = (EsrsBatch *) arg;

	if (batch->at != NULL)
		errcontext(batch->consumer->handler->set_based ?
				   "events, the last of them number %d of instance %s of aggregate \"%s\", at position " INT64_FORMAT :
				   "event number %d of instance %s of aggregate \"%s\", at position " INT64_FORMAT,
				   batch->at->record->sequence_number,
				   esrs_uuid_text(&batch->at->record->aggregate_id), batch->at->agg->name,
				   batch->at->record->position);
}

/* Call one handler with some of its items. */
static void
call(EsrsBatch *batch, int from, int to)
{
	ErrorContextCallback error_context = {.callback = event_context,.arg = batch,
	.previous = error_context_stack};

	error_context_stack = &error_context;
	esrs_consumer_set_running(batch->consumer->name);
	(void) esrs_batch_call(batch, from, to);
	esrs_consumer_set_running(NULL);
	error_context_stack = error_context.previous;
}

/* Call all handlers with the events of a portion that are in turn. */
static void
call_all(void *arg)
{
	Portion    *portion = (Portion *) arg;
	EsrsReplay *replay = portion->replay;
	int			n = list_length(replay->handlers);
	EsrsBatch  *batches = palloc0(sizeof(EsrsBatch) * n);
	int		   *next = palloc0(sizeof(int) * n);
	int			singles = 0;

	for (int i = 0; i < n; i++)
	{
		EsrsReplayed *replayed = (EsrsReplayed *) list_nth(replay->handlers, i);

		batches[i].consumer = replayed->consumer;
		batches[i].context = CurrentMemoryContext;
		batches[i].deadline = DT_NOEND;
		batches[i].items = palloc(sizeof(EsrsBatchItem) * (portion->to - portion->from));
		for (int j = portion->from; j < portion->to; j++)
			if (concerns(replayed, &portion->items[j]))
				batches[i].items[batches[i].n++] = portion->items[j];
		singles += !replayed->consumer->handler->set_based;
	}
	for (int j = portion->from; j < portion->to && singles > 1; j++)
		for (int i = 0; i < n; i++)
		{
			if (batches[i].consumer->handler->set_based || next[i] == batches[i].n ||
				batches[i].items[next[i]].record != portion->items[j].record)
				continue;
			call(&batches[i], next[i], next[i] + 1);
			next[i]++;
		}
	for (int i = 0; i < n; i++)
		if (next[i] == 0 && batches[i].n > 0 &&
			(singles <= 1 || batches[i].consumer->handler->set_based))
			call(&batches[i], 0, batches[i].n);
}

/*
 * Do something as long as which nobody may append: handlers that are called again,
 * and the triggers on what they write, have done so once.
 */
void
esrs_replay_guarded(void (*body) (void *arg), void *arg)
{
	esrs_invoke_set_replaying(true);
	PG_TRY();
	{
		body(arg);
	}
	PG_FINALLY();
	{
		esrs_invoke_set_replaying(false);
		esrs_invoke_set_cause(NULL);
		esrs_consumer_set_running(NULL);
	}
	PG_END_TRY();
}

/* Tell which events of a portion were for a handler, each once. */
static void
tell_handled(Portion *portion)
{
	EsrsReplay *replay = portion->replay;

	for (int i = 0; i < portion->n; i++)
	{
		EsrsBatchItem *item = &portion->items[i];
		ListCell   *lc;

		if (item->record->deletion)
			continue;
		foreach(lc, replay->handlers)
		{
			if (!concerns((EsrsReplayed *) lfirst(lc), item))
				continue;
			replay->handled(replay, item->agg, item->record);
			break;
		}
	}
}

/* Replay a portion: the events before a deletion, the deletion, and so on. */
static void
replay_portion(Portion *portion)
{
	for (portion->from = 0; portion->from < portion->n; portion->from = portion->to + 1)
	{
		portion->to = portion->from;
		while (portion->to < portion->n && !portion->items[portion->to].record->deletion)
			portion->to++;
		if (portion->to > portion->from)
			esrs_replay_guarded(call_all, portion);
		if (portion->to < portion->n)
		{
			EsrsBatchItem *item = &portion->items[portion->to];

			esrs_replay_delete(portion->replay, item->agg->name, &item->record->aggregate_id);
			portion->deletions++;
		}
	}
}

/*
 * Call the handlers with the events of a range, whatever its "max".  The bound
 * was taken before.  Memory does not grow with the number of events, but for what
 * PostgreSQL itself keeps of rows that one transaction changes more than once.
 *
 * A handler must not append meanwhile: what it did once would be done again.
 */
void
esrs_replay_events(EsrsReplay *replay, EsrsFeedRange *range)
{
	MemoryContext before = CurrentMemoryContext;
	Portion		portion = {.replay = replay,.max = replay->portion};

	range->max = replay->portion;
	range->only_events = !replay->deletions;
	portion.context = AllocSetContextCreate(before, "esrs replay", ALLOCSET_DEFAULT_SIZES);
	do
	{
		EsrsIdentity identity;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(portion.context);
		MemoryContextSwitchTo(portion.context);
		portion.items = palloc(sizeof(EsrsBatchItem) * portion.max);
		portion.n = portion.deletions = 0;
		esrs_security_become(&identity, esrs_replay_role(replay));
		esrs_security_restrict();
		esrs_feed_read(&replay->feed, replay->aggregates, range, collect, &portion);
		esrs_security_restore(&identity);
		if (portion.n > 0)
		{
			range->after = portion.items[portion.n - 1].record->position;
			replay_portion(&portion);
			if (replay->handled)
				tell_handled(&portion);
			if (replay->progress)
				replay->progress(replay, portion.n - portion.deletions);
		}
	} while (portion.n == portion.max);
	MemoryContextSwitchTo(before);
	MemoryContextDelete(portion.context);
}

static void
deletion_context(void *arg)
{
	errcontext("deletion of instance %s", esrs_uuid_text((pg_uuid_t *) arg));
}

/* An instance that is to be deleted from what handlers have written. */
typedef struct Deletion
{
	EsrsReplay *replay;
	const char *aggregate;		/* or NULL: whichever */
	const pg_uuid_t *id;
} Deletion;

static void
delete_one(void *arg)
{
	Deletion   *deletion = (Deletion *) arg;
	ListCell   *lc;

	foreach(lc, deletion->replay->handlers)
	{
		EsrsConsumer *consumer = ((EsrsReplayed *) lfirst(lc))->consumer;
		EsrsIdentity identity;

		if (consumer->handler->delete_signature == NULL ||
			(deletion->aggregate != NULL && !serves(consumer, deletion->aggregate)))
			continue;
		CHECK_FOR_INTERRUPTS();
		esrs_consumer_set_running(consumer->name);
		esrs_security_act_as(&identity, consumer->handler->run_as, consumer->search_path);
		PushActiveSnapshot(GetTransactionSnapshot());
		esrs_invoke(consumer->handler, (char *) linitial(consumer->aggregates), deletion->id,
					UUIDPGetDatum(deletion->id), true);
		PopActiveSnapshot();
		esrs_security_restore(&identity);
	}
}

/*
 * Call the delete handlers for an instance: those of one aggregate if it was deleted,
 * all for NULL, if its events are going to be replayed.
 */
void
esrs_replay_delete(EsrsReplay *replay, const char *aggregate, const pg_uuid_t *id)
{
	Deletion	deletion = {.replay = replay,.aggregate = aggregate,.id = id};
	ErrorContextCallback error_context = {.callback = deletion_context,
		.arg = unconstify(pg_uuid_t *, id),.previous = error_context_stack
	};

	error_context_stack = &error_context;
	esrs_replay_guarded(delete_one, &deletion);
	error_context_stack = error_context.previous;
}
