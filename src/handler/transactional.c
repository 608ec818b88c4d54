/*-------------------------------------------------------------------------
 *
 * transactional.c
 *	  Transactional event handlers: called with the events of a command in the
 *	  command's own transaction, as the current user.
 *
 * Event by event, and for each event handler by handler in the order of
 * registration; handlers that take all events of a command at once (esrs_event[])
 * come last, once.  A handler that fails takes the command with it.
 *
 * A handler may command other instances.  The events of such a command wait
 * until the list that is being dispatched is complete, and are dispatched
 * then, first come, first served: every handler sees one order.  What was
 * queued in a savepoint that is rolled back is dropped.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "handler/transactional.h"

#include "access/xact.h"
#include "base/uuid.h"
#include "catalog/datum.h"
#include "catalog/swaps.h"
#include "handler/invoke.h"
#include "miscadmin.h"
#include "utils/memutils.h"

/* The events of one command, or more of them, that wait for their turn. */
typedef struct Batch
{
	SubTransactionId subid;
	char		aggregate[NAMEDATALEN];
	Oid			events;
	List	   *records;		/* of EsrsRecord */
	bool		deletion;		/* no records, but a deleted instance */
	pg_uuid_t	id;
	int			depth;			/* of the command, 1 at top level */
} Batch;

/* What is being dispatched; NULL if nothing is. */
static Batch *current = NULL;
static const EsrsRecord *current_record = NULL;

/* The waiting batches, and where they live while something is dispatched. */
static List *queue = NIL;
static MemoryContext queue_context = NULL;

/* ------------------------------------------------------------------------
 * Dispatching one batch
 * ------------------------------------------------------------------------
 */

static void
dispatch_record(EsrsAggregate *agg, EsrsRecord *record, MemoryContext scratch)
{
	ListCell   *lc;

	current_record = record;
	foreach(lc, agg->handlers)
	{
		EsrsHandler *handler = (EsrsHandler *) lfirst(lc);
		MemoryContext before;

		if (handler->set_based || !esrs_invoke_wants(agg, handler, record))
			continue;
		before = MemoryContextSwitchTo(scratch);
		esrs_invoke(handler, agg->name, &record->aggregate_id,
					esrs_datum_event(agg->name, record), false);
		MemoryContextSwitchTo(before);
		MemoryContextReset(scratch);
	}
}

static void
dispatch_set(EsrsAggregate *agg, EsrsHandler *handler, List *records, MemoryContext scratch)
{
	MemoryContext before = MemoryContextSwitchTo(scratch);
	List	   *wanted = NIL;
	ListCell   *lc;

	foreach(lc, records)
	{
		if (esrs_invoke_wants(agg, handler, (EsrsRecord *) lfirst(lc)))
			wanted = lappend(wanted, lfirst(lc));
	}
	if (wanted != NIL)
	{
		EsrsRecord *last = (EsrsRecord *) llast(wanted);

		current_record = last;
		esrs_invoke(handler, agg->name, &last->aggregate_id,
					esrs_datum_event_array(agg->name, wanted), false);
	}
	MemoryContextSwitchTo(before);
	MemoryContextReset(scratch);
}

static void
dispatch(EsrsAggregate *agg, Batch *batch)
{
	MemoryContext scratch;
	ListCell   *lc;

	current = batch;
	current_record = NULL;
	if (agg->handlers == NIL)
		return;
	scratch = AllocSetContextCreate(CurrentMemoryContext, "esrs event handlers",
									ALLOCSET_DEFAULT_SIZES);
	foreach(lc, batch->records)
	{
		CHECK_FOR_INTERRUPTS();
		dispatch_record(agg, (EsrsRecord *) lfirst(lc), scratch);
	}
	foreach(lc, agg->handlers)
	{
		EsrsHandler *handler = (EsrsHandler *) lfirst(lc);

		if (handler->set_based)
			dispatch_set(agg, handler, batch->records, scratch);
	}
	MemoryContextDelete(scratch);
}

/* Call the delete handlers of an aggregate for an instance. */
static void
dispatch_deletion(EsrsAggregate *agg, Batch *batch)
{
	ListCell   *lc;

	current = batch;
	current_record = NULL;
	foreach(lc, agg->handlers)
	{
		EsrsHandler *handler = (EsrsHandler *) lfirst(lc);

		if (handler->delete_signature != NULL)
			esrs_invoke(handler, agg->name, &batch->id, UUIDPGetDatum(&batch->id), true);
	}
}

/* Copy a batch to the end of the queue: records, or the id of a deletion. */
static void
enqueue(EsrsAggregate *agg, List *records, const pg_uuid_t *deleted, int depth)
{
	MemoryContext before = MemoryContextSwitchTo(queue_context);
	Batch	   *batch = palloc0(sizeof(Batch));
	ListCell   *lc;

	batch->subid = GetCurrentSubTransactionId();
	strlcpy(batch->aggregate, agg->name, sizeof(batch->aggregate));
	batch->events = agg->events;
	batch->depth = depth;
	batch->deletion = deleted != NULL;
	if (deleted != NULL)
		batch->id = *deleted;
	foreach(lc, records)
	{
		batch->records = lappend(batch->records, esrs_event_copy(lfirst(lc)));
	}
	queue = lappend(queue, batch);
	MemoryContextSwitchTo(before);
}

/* Dispatch a batch, and then what its handlers put into the queue. */
static void
dispatch_all(EsrsAggregate *first_agg, Batch *first)
{
	queue_context = AllocSetContextCreate(CurrentMemoryContext, "esrs event queue",
										  ALLOCSET_SMALL_SIZES);
	PG_TRY();
	{
		EsrsAggregate *agg = first_agg;
		Batch	   *batch = first;

		for (;;)
		{
			if (batch->deletion)
				dispatch_deletion(agg, batch);
			else
				dispatch(agg, batch);
			if (agg->handlers != NIL)
				esrs_swaps_check(agg->name);
			if (queue == NIL)
				break;
			batch = (Batch *) linitial(queue);
			queue = list_delete_first(queue);
			agg = esrs_aggregate_lookup(batch->aggregate);
		}
	}
	PG_FINALLY();
	{
		current = NULL;
		current_record = NULL;
		queue = NIL;
	}
	PG_END_TRY();
	MemoryContextDelete(queue_context);
	queue_context = NULL;
}

/*
 * Dispatch the events of a command, each with its present form, to the
 * transactional handlers of the aggregate; or, when called from within a
 * handler, let them wait.  "depth" is the nesting of the command.
 */
void
esrs_transactional_run(EsrsAggregate *agg, List *records, int depth)
{
	Batch		first = {.events = agg->events,.records = records,.depth = depth};

	if (records == NIL)
		return;
	if (current != NULL)
		enqueue(agg, records, NULL, depth);
	else if (agg->handlers != NIL)
		dispatch_all(agg, &first);
}

/* The same for the deletion of an instance. */
void
esrs_transactional_delete(EsrsAggregate *agg, const pg_uuid_t *id, int depth)
{
	Batch		first = {.events = agg->events,.deletion = true,.id = *id,.depth = depth};

	if (current != NULL)
		enqueue(agg, NIL, id, depth);
	else if (agg->handlers != NIL)
		dispatch_all(agg, &first);
}

/* ------------------------------------------------------------------------
 * What a nested command wants to know
 * ------------------------------------------------------------------------
 */

/*
 * The event whose handler is running, or NULL; the depth of its command is set
 * also for a delete handler.  An asynchronous handler's command is at top level.
 */
const EsrsRecord *
esrs_transactional_cause(int *depth)
{
	if (current == NULL)
		return esrs_invoke_cause();
	*depth = current->depth;
	return current_record;
}

/* Is this instance being dispatched, its events or its deletion? */
bool
esrs_transactional_is_dispatching(Oid events, const pg_uuid_t *id)
{
	const pg_uuid_t *dispatched;

	if (current == NULL || current->events != events)
		return false;
	dispatched = current->deletion ? &current->id :
		&((EsrsRecord *) linitial(current->records))->aggregate_id;
	return esrs_uuid_equal(dispatched, id);
}

static void
subtransaction_event(SubXactEvent event, SubTransactionId subid,
					 SubTransactionId parent, void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB && event != SUBXACT_EVENT_COMMIT_SUB)
		return;
	for (int i = list_length(queue) - 1; i >= 0; i--)
	{
		Batch	   *batch = (Batch *) list_nth(queue, i);

		if (batch->subid < subid)
			break;
		if (event == SUBXACT_EVENT_COMMIT_SUB)
			batch->subid = parent;
		else
			queue = list_truncate(queue, i);
	}
}

/* Register for the ends of savepoints.  Called once, at load. */
void
esrs_transactional_init(void)
{
	RegisterSubXactCallback(subtransaction_event, NULL);
}
