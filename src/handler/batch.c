/*-------------------------------------------------------------------------
 *
 * batch.c
 *	  Calling an asynchronous handler with a batch of events, in a
 *	  subtransaction, as the role that registered it.
 *
 * What comes of a failure is decided by whoever asks; here it costs nothing but
 * the batch's own effects.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "handler/batch.h"

#include "access/xact.h"
#include "base/errors.h"
#include "base/security.h"
#include "base/spi.h"
#include "catalog/datum.h"
#include "commands/trigger.h"
#include "handler/invoke.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

static SPIPlanPtr cursors_plan = NULL;

static bool
collect(EsrsAggregate *agg, EsrsRecord *record, void *arg)
{
	EsrsBatch  *batch = (EsrsBatch *) arg;
	MemoryContext before = MemoryContextSwitchTo(batch->context);
	EsrsBatchItem *item = &batch->items[batch->n++];

	item->agg = agg;
	item->record = esrs_event_copy(record);
	MemoryContextSwitchTo(before);
	batch->full = batch->n >= batch->max;
	return !batch->full;
}

/*
 * Read the events of a batch, as the role that the handler runs as, into the
 * current context.  Consumer and flags of the batch are set; the safe position
 * was taken before.
 */
void
esrs_batch_read(EsrsBatch *batch, EsrsFeed *feed, List *aggregates, EsrsFeedRange *range)
{
	EsrsIdentity before;

	batch->context = CurrentMemoryContext;
	batch->max = range->max;
	batch->n = 0;
	batch->full = false;
	batch->items = palloc_extended(sizeof(EsrsBatchItem) * range->max, MCXT_ALLOC_HUGE);
	esrs_security_become(&before, batch->consumer->handler->run_as);
	esrs_security_restrict();	/* the commit may be somebody else's */
	esrs_feed_read(feed, aggregates, range, collect, batch);
	esrs_security_restore(&before);
}

/*
 * (Firing events in a subtransaction is safe because nothing was queued before
 * it: the transaction is the batch's own, and reading is restricted.)
 *
 * See to it that nothing of the handler is left for the commit, when it would
 * run as whoever commits, and fail the whole transaction: deferred triggers, and
 * the queries of cursors WITH HOLD, which are refused.  The transaction holds
 * nothing of anybody else.
 */
static void
leave_nothing_for_commit(void)
{
	AfterTriggerFireDeferred();
	esrs_spi_begin();
	if (cursors_plan == NULL)
		cursors_plan = esrs_spi_prepare("SELECT 1 FROM pg_catalog.pg_cursors WHERE is_holdable"
										" AND creation_time OPERATOR(pg_catalog.>=)"
										" pg_catalog.statement_timestamp()", 0, NULL);
	if (esrs_spi_execute(cursors_plan, NULL, NULL, SPI_OK_SELECT) > 0)
		ereport(ERROR,
				(errcode(ESRS_ERRCODE_BAD_CALLBACK),
				 errmsg("event handler left a cursor WITH HOLD open"),
				 errdetail("Its query would run outside of the handler, at commit.")));
	esrs_spi_end();
}

/* The same, for a handler that was called without a transaction of its own. */
void
esrs_batch_leave_nothing(EsrsConsumer *consumer)
{
	EsrsIdentity before;

	esrs_security_act_as(&before, consumer->handler->run_as, consumer->search_path);
	PushActiveSnapshot(GetTransactionSnapshot());
	leave_nothing_for_commit();
	PopActiveSnapshot();
	esrs_security_restore(&before);
}

/* Call a set-based handler with the events collected so far. */
static void
call_with_set(EsrsBatch *batch, Datum *events, int *n, EsrsBatchItem *last)
{
	if (*n == 0)
		return;
	esrs_invoke_set_cause(last->record);
	batch->at = last;
	esrs_invoke(batch->consumer->handler, last->agg->name, &last->record->aggregate_id,
				esrs_datum_array_of_events(events, *n), false);
	*n = 0;
}

/* Call the handler with some items; returns the first that it did not get to. */
static int
call_items(EsrsBatch *batch, int from, int to)
{
	static const pg_uuid_t no_id = {{0}};
	EsrsHandler *handler = batch->consumer->handler;
	MemoryContext outer = CurrentMemoryContext;
	MemoryContext scratch = AllocSetContextCreate(outer, "esrs event handler",
												  ALLOCSET_DEFAULT_SIZES);
	EsrsCall   *call = esrs_call_begin("", &no_id, GetCurrentTimestamp(), NULL);
	Datum	   *events = handler->set_based ? palloc(sizeof(Datum) * (to - from)) : NULL;
	EsrsBatchItem *last = NULL;
	int			nevents = 0;
	int			i;

	for (i = from; i < to; i++)
	{
		EsrsBatchItem *item = &batch->items[i];
		EsrsRecord *record = item->record;

		CHECK_FOR_INTERRUPTS();
		batch->at = item;
		if (i > from && !handler->set_based && GetCurrentTimestamp() >= batch->deadline)
			break;
		call->aggregate = item->agg->name;
		call->aggregate_id = record->aggregate_id;
		if (record->deletion)
		{
			if (handler->delete_signature == NULL)
				continue;
			call_with_set(batch, events, &nevents, last);
			esrs_invoke_set_cause(NULL);
			esrs_invoke(handler, item->agg->name, &record->aggregate_id,
						UUIDPGetDatum(&record->aggregate_id), true);
			continue;
		}
		if (!esrs_event_present(call, &item->agg->routine, record) ||
			!esrs_invoke_wants(item->agg, handler, record))
			continue;
		if (handler->set_based)
		{
			events[nevents++] = esrs_datum_event(item->agg->name, record);
			last = item;
			continue;
		}
		MemoryContextSwitchTo(scratch);
		esrs_invoke_set_cause(record);
		esrs_invoke(handler, item->agg->name, &record->aggregate_id,
					esrs_datum_event(item->agg->name, record), false);
		MemoryContextSwitchTo(outer);
		MemoryContextReset(scratch);
	}
	call_with_set(batch, events, &nevents, last);
	batch->at = NULL;
	esrs_call_end(call);
	MemoryContextDelete(scratch);
	return i;
}

/*
 * Call the handler with the items from..to - 1, as its role.  Returns the first
 * item that it did not get to because the time was up.  Raises what the handler
 * raises.
 */
int
esrs_batch_call(EsrsBatch *batch, int from, int to)
{
	EsrsIdentity before;
	int			done;

	esrs_security_act_as(&before, batch->consumer->handler->run_as,
						 batch->consumer->search_path);
	if (batch->restricted)
		esrs_security_restrict();
	PushActiveSnapshot(GetTransactionSnapshot());
	done = call_items(batch, from, to);
	if (batch->own_transaction)
		leave_nothing_for_commit();
	PopActiveSnapshot();
	esrs_security_restore(&before);
	return done;
}

/*
 * An error that whoever waits for this must hear of: he has cancelled it.  The
 * end of a session is no ERROR.
 */
static bool
is_for_caller(EsrsBatch *batch, int sqlstate)
{
	return sqlstate == ERRCODE_QUERY_CANCELED && !batch->is_worker;
}

/*
 * Call the handler with the items from..to - 1 in a subtransaction.  Returns the
 * first item that it did not get to because the time was up; -1 if the handler
 * failed: then nothing of it remains, and batch->error says why.
 */
int
esrs_batch_attempt(EsrsBatch *batch, int from, int to)
{
	ResourceOwner owner = CurrentResourceOwner;
	MemoryContext outer = CurrentMemoryContext;
	volatile int done = -1;

	esrs_consumer_set_running(batch->consumer->name);
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(outer);
	PG_TRY();
	{
		done = esrs_batch_call(batch, from, to);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(batch->context);
		batch->error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		esrs_invoke_set_cause(NULL);
		esrs_consumer_set_running(NULL);
		done = -1;
		if (is_for_caller(batch, batch->error->sqlerrcode))
			ReThrowError(batch->error);
	}
	PG_END_TRY();
	esrs_invoke_set_cause(NULL);
	esrs_consumer_set_running(NULL);
	MemoryContextSwitchTo(outer);
	CurrentResourceOwner = owner;
	return done;
}

/* May the same call succeed if it is made again, whatever the event? */
bool
esrs_batch_is_retryable(const ErrorData *error)
{
	return ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INSUFFICIENT_RESOURCES ||
		error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE ||
		error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED ||
		error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		error->sqlerrcode == ERRCODE_QUERY_CANCELED;
}
