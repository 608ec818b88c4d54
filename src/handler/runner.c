/*-------------------------------------------------------------------------
 *
 * runner.c
 *	  One batch of an asynchronous event handler: lock its checkpoint, read the
 *	  feed behind it, call the handler, move the checkpoint on.
 *
 * All of it is one transaction, so the effects of a handler in this database
 * happen exactly once, wherever the server dies.  The lock of the checkpoint is
 * all that keeps runners apart: background workers, CALL and pg_cron may run at
 * once.
 *
 * The bound is taken first, the reading snapshot after it.  In total order
 * nothing is read beyond the safe position.  In order per aggregate whatever is
 * visible is handled at once, and remembered as "ahead" of the checkpoint: who
 * sees an event sees all earlier ones of its instance.
 *
 * A batch that fails is rolled back and tried event by event, to find the one
 * that cannot be handled.  That one is retried with growing pauses, and then
 * goes the way of on_error.  What may succeed when it is simply tried again
 * (serialization failure, deadlock, timeout, lack of memory) is never given up.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "handler/runner.h"

#include "access/xact.h"
#include "base/security.h"
#include "base/spi.h"
#include "catalog/checkpoint.h"
#include "catalog/extension.h"
#include "catalog/pg_type.h"
#include "handler/batch.h"
#include "handler/dead_letter.h"
#include "handler/invoke.h"
#include "miscadmin.h"
#include "store/position.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* A batch begins no further event after this time: handlers that append hold a bound. */
#define BATCH_MILLISECONDS	50

/* Event by event, so many at once: each may take a subtransaction id. */
#define MAX_SINGLE			64

/* Pauses before an event is tried again: from this, doubled, to that. */
#define FIRST_PAUSE			200
#define LONGEST_PAUSE		(60 * 1000)

/* More ranges ahead of the checkpoint are not kept: then as in total order. */
#define MAX_AHEAD			10000

/* Without events, the checkpoint is moved on in steps of so many positions. */
#define IDLE_STEP			1000

static TimestampTz
pause_until(int attempts)
{
	int64		pause = FIRST_PAUSE;

	for (int i = 1; i < attempts && pause < LONGEST_PAUSE; i++)
		pause *= 2;
	return GetCurrentTimestamp() + Min(pause, LONGEST_PAUSE) * INT64CONST(1000);
}

/* How many ranges a multirange has, as its size says roughly. */
static bool
is_far_ahead(const EsrsCheckpoint *checkpoint)
{
	return VARSIZE_ANY(DatumGetPointer(checkpoint->ahead)) > MAX_AHEAD * 2 * sizeof(int64);
}

/* Set the status of a handler, whose checkpoints are locked. */
static void
set_status(EsrsConsumer *consumer, const char *status)
{
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2] = {CStringGetTextDatum(consumer->name), CStringGetTextDatum(status)};
	EsrsIdentity before;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	(void) esrs_spi_run("UPDATE esrs.handlers SET status = $2"
						" WHERE name OPERATOR(pg_catalog.=) $1",
						2, types, values, NULL, SPI_OK_UPDATE);
	esrs_spi_end();
	esrs_security_restore(&before);
}

/*
 * Move the checkpoint on behind the first "done" items of a batch.  Beyond the
 * safe position events are missing that may still come, so the items there are
 * noted one by one.
 */
static void
advance(EsrsRun *run, EsrsBatch *batch, EsrsCheckpoint *checkpoint, int64 safe, int done)
{
	bool		complete = done == batch->n && !batch->full;
	int64		last = done > 0 ? batch->items[done - 1].record->position : checkpoint->position;
	int64		position = Max(checkpoint->position, complete ? safe : Min(safe, last));
	int64	   *ahead = palloc_extended(sizeof(int64) * Max(done, 1), MCXT_ALLOC_HUGE);
	int			n = 0;

	for (int i = 0; i < done; i++)
		if (batch->items[i].record->position > position)
			ahead[n++] = batch->items[i].record->position;
	if (done == 0 && !(checkpoint->has_ahead && position > checkpoint->position) &&
		position < checkpoint->position + IDLE_STEP && checkpoint->attempts == 0)
		return;
	esrs_checkpoint_advance(run->handler, run->partition, position, ahead, n);
	run->wrote = true;
}

/* Note a failure after which the same is tried again. */
static void
retry_later(EsrsRun *run, EsrsCheckpoint *checkpoint, int64 failing, int attempts,
			ErrorData *error)
{
	run->outcome = ESRS_RUN_RETRYING;
	run->more = false;
	run->retry_at = pause_until(attempts);
	run->wrote = true;
	esrs_checkpoint_fail(run->handler, run->partition, failing, attempts, run->retry_at,
						 error->message);
}

/* Tell that an event was given up.  Never what the handler said: it is not for logs. */
static void
report_given_up(EsrsRun *run, const EsrsRecord *record, int attempts, ErrorData *error,
				bool stopped)
{
	ereport(WARNING,
			(errmsg("event handler \"%s\" has given up the event at position " INT64_FORMAT,
					run->handler, record->position),
			 errdetail_plural("%d attempt, the last with SQLSTATE %s.",
							  "%d attempts, the last with SQLSTATE %s.",
							  attempts, attempts, unpack_sql_state(error->sqlerrcode)),
			 stopped ? errhint("The handler has stopped. See esrs_lag, and call esrs_resume_handler('%s').",
							   run->handler) :
			 errhint("See esrs_dead_letters.")));
}

/*
 * An event cannot be handled: try it again later, or give it up as on_error
 * says.  True if what comes after it may go on.
 */
static bool
handle_culprit(EsrsRun *run, EsrsBatch *batch, EsrsCheckpoint *checkpoint, int i)
{
	EsrsConsumer *consumer = batch->consumer;
	EsrsBatchItem *item = &batch->items[i];
	int64		position = item->record->position;
	int			attempts = checkpoint->failing == position ? checkpoint->attempts + 1 : 1;

	if (attempts < consumer->max_attempts)
	{
		retry_later(run, checkpoint, position, attempts, batch->error);
		return false;
	}
	report_given_up(run, item->record, attempts, batch->error,
					consumer->on_error == ESRS_ON_ERROR_STOP);
	run->wrote = true;
	if (consumer->on_error == ESRS_ON_ERROR_STOP)
	{
		esrs_checkpoint_fail(run->handler, run->partition, position, attempts, DT_NOBEGIN,
							 batch->error->message);
		set_status(consumer, "failed");
		run->outcome = ESRS_RUN_FAILED;
		run->more = false;
		return false;
	}
	esrs_dead_letter_write(consumer, item->agg, item->record, attempts, batch->error);
	return true;
}

/*
 * Event by event.  Moves the checkpoint, and notes what failed.
 */
static void
run_single(EsrsRun *run, EsrsBatch *batch, EsrsCheckpoint *checkpoint, int64 safe)
{
	bool		may_park = batch->consumer->on_error == ESRS_ON_ERROR_PARK;
	int			done = 0;
	int			failed = -1;
	ErrorData  *retryable = NULL;

	while (done < Min(batch->n, MAX_SINGLE) && failed < 0)
	{
		EsrsBatchItem *item = &batch->items[done];

		if (may_park && esrs_dead_letter_is_parked(batch->consumer, item->agg,
												   &item->record->aggregate_id))
		{
			esrs_dead_letter_write(batch->consumer, item->agg, item->record, 0, NULL);
			run->wrote = true;
			done++;
		}
		else if (esrs_batch_attempt(batch, done, done + 1) >= 0)
			done++;
		else if (esrs_batch_is_retryable(batch->error))
		{
			retryable = batch->error;
			failed = done;
		}
		else
		{
			failed = done;
			break;
		}
		if (GetCurrentTimestamp() >= batch->deadline)
			break;
	}

	run->more = batch->full || done < batch->n;
	if (failed < 0)
	{
		advance(run, batch, checkpoint, safe, done);
		return;
	}
	if (done > 0)
		advance(run, batch, checkpoint, safe, done);
	if (retryable != NULL)
		retry_later(run, checkpoint, -1, checkpoint->attempts + 1, retryable);
	else if (handle_culprit(run, batch, checkpoint, failed))
		advance(run, batch, checkpoint, safe, failed + 1);
}

/* Call the handler with what was read, and move the checkpoint on. */
static void
run_items(EsrsRun *run, EsrsBatch *batch, EsrsCheckpoint *checkpoint, int64 safe)
{
	bool		single = checkpoint->failing >= 0 ||
	(batch->consumer->on_error == ESRS_ON_ERROR_PARK &&
	 esrs_dead_letter_has_any(batch->consumer));

	run->outcome = ESRS_RUN_DONE;
	if (!single)
	{
		int			done = esrs_batch_attempt(batch, 0, batch->n);

		if (done >= 0)
		{
			run->more = batch->full || done < batch->n;
			advance(run, batch, checkpoint, safe, done);
			return;
		}
		if (esrs_batch_is_retryable(batch->error))
		{
			retry_later(run, checkpoint, -1, checkpoint->attempts + 1, batch->error);
			return;
		}
	}
	run_single(run, batch, checkpoint, safe);
}

static void
run_batch(EsrsRun *run)
{
	EsrsConsumer *consumer = esrs_consumer_find(run->handler);
	EsrsBatch	batch = {.own_transaction = run->own_transaction,.is_worker = run->is_worker};
	EsrsFeedRange range = {0};
	EsrsCheckpoint checkpoint;
	List	   *aggregates;
	uint32	   *hashes;
	int64		safe;

	run->outcome = ESRS_RUN_INACTIVE;
	if (consumer == NULL || !consumer->active)
		return;
	if (!esrs_checkpoint_lock(run->handler, run->partition, false, &checkpoint))
	{
		/* without a checkpoint it does nothing: it may have been lost */
		if (esrs_checkpoint_read(run->handler, run->partition, &checkpoint))
			run->outcome = ESRS_RUN_BUSY;
		return;
	}
	consumer = esrs_consumer_recheck(consumer);
	if (consumer == NULL || !consumer->active || run->partition >= consumer->partitions)
		return;

	/*
	 * unregistered, and registered again by somebody else, since it was
	 * listed
	 */
	if (run->is_worker && consumer->handler->run_as != run->run_as)
		return;
	if (checkpoint.retry_at > GetCurrentTimestamp())
	{
		run->outcome = ESRS_RUN_RETRYING;
		run->retry_at = checkpoint.retry_at;
		return;
	}
	esrs_invoke_resolve(consumer->handler);
	aggregates = esrs_consumer_aggregates(consumer, &hashes);

	/* first the bound, then, when it is read, the snapshot */
	run->head = esrs_position_head();
	safe = esrs_position_safe(hashes, list_length(aggregates));
	run->blocked = safe < run->head;

	/* restored without its sequence: new events would be taken for old ones */
	if (Max(checkpoint.position, checkpoint.last_ahead) > run->head)
		(void) esrs_extension_raise_position(Max(checkpoint.position, checkpoint.last_ahead));

	batch.consumer = consumer;
	range.after = checkpoint.position;
	range.upto = consumer->total || is_far_ahead(&checkpoint) ? safe : PG_INT64_MAX;
	range.ahead = checkpoint.ahead;
	range.partition = run->partition;
	range.partitions = consumer->partitions;
	range.max = consumer->batch_size;
	esrs_batch_read(&batch, &consumer->feed, aggregates, &range);
	batch.deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), BATCH_MILLISECONDS);
	if (batch.n > 0)
		run_items(run, &batch, &checkpoint, safe);
	else
	{
		run->outcome = ESRS_RUN_IDLE;
		advance(run, &batch, &checkpoint, safe, 0);
	}
}

/*
 * Run one batch of one partition of a handler in the current transaction, which
 * must be READ COMMITTED.
 *
 * Raises what is wrong with the handler or its aggregates as such, but nothing
 * that the handler raises, except for the end of the session, and, unless it is
 * the worker's, a cancel.
 */
void
esrs_runner_batch(EsrsRun *run)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "esrs batch",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext before = MemoryContextSwitchTo(context);

	run->more = run->wrote = run->blocked = false;
	run->head = 0;
	run->retry_at = DT_NOBEGIN;
	run_batch(run);
	MemoryContextSwitchTo(before);
	MemoryContextDelete(context);
}

/*
 * The transaction of a batch has failed as a whole: note it, in another one, so
 * that it is tried again after a pause.
 */
void
esrs_runner_note_failure(EsrsRun *run, ErrorData *error)
{
	EsrsCheckpoint checkpoint;

	run->outcome = ESRS_RUN_BUSY;
	run->more = false;
	run->wrote = true;
	if (esrs_checkpoint_lock(run->handler, run->partition, false, &checkpoint))
		retry_later(run, &checkpoint, -1, checkpoint.attempts + 1, error);
}

/*
 * Handle what is new of one instance, ahead of everything else; for a handler
 * that keeps order per aggregate.  "position": of the last event that must be
 * handled.
 */
EsrsInstanceOutcome
esrs_runner_instance(const char *handler, const char *aggregate, const pg_uuid_t *id,
					 int64 position)
{
	EsrsConsumer *consumer = esrs_consumer_find(handler);
	EsrsBatch	batch = {.own_transaction = true};
	EsrsFeedRange range = {.upto = PG_INT64_MAX,.instance = id};
	EsrsCheckpoint checkpoint;
	List	   *aggregates;
	List	   *one = NIL;
	uint32	   *hashes;
	int64	   *ahead;
	int			partition;
	int			n = 0;
	ListCell   *lc;

	if (consumer == NULL || !consumer->active)
		return ESRS_INSTANCE_HANDLED;
	partition = consumer->partitions > 1 ? esrs_feed_partition(id, consumer->partitions) : 0;
	if (!esrs_checkpoint_lock(handler, partition, false, &checkpoint))
		return ESRS_INSTANCE_LEFT;
	consumer = esrs_consumer_recheck(consumer);
	if (consumer == NULL || !consumer->active || partition >= consumer->partitions)
		return ESRS_INSTANCE_HANDLED;
	if (consumer->total || is_far_ahead(&checkpoint) ||
		(consumer->on_error == ESRS_ON_ERROR_PARK && esrs_dead_letter_has_any(consumer)))
		return ESRS_INSTANCE_LEFT;
	esrs_invoke_resolve(consumer->handler);
	aggregates = esrs_consumer_aggregates(consumer, &hashes);
	foreach(lc, aggregates)
	{
		if (strcmp(((EsrsAggregate *) lfirst(lc))->name, aggregate) == 0)
			one = list_make1(lfirst(lc));
	}
	if (one == NIL)
		return ESRS_INSTANCE_HANDLED;

	batch.consumer = consumer;
	batch.deadline = DT_NOEND;
	range.after = checkpoint.position;
	range.ahead = checkpoint.ahead;
	range.max = consumer->batch_size;
	esrs_batch_read(&batch, &consumer->instance_feed, one, &range);
	if (batch.n == 0)
		return ESRS_INSTANCE_HANDLED;
	if (esrs_batch_attempt(&batch, 0, batch.n) < 0)
	{
		ereport(WARNING,
				(errmsg("event handler \"%s\" has failed and will be tried again", handler),
				 errdetail("SQLSTATE %s.", unpack_sql_state(batch.error->sqlerrcode)),
				 errhint("A background worker, or CALL esrs_run_handlers(), will do so; then see esrs_lag.")));
		return ESRS_INSTANCE_FAILED;
	}
	ahead = palloc(sizeof(int64) * batch.n);
	for (int i = 0; i < batch.n; i++)
		ahead[n++] = batch.items[i].record->position;
	esrs_checkpoint_add_ahead(handler, partition, ahead, n);
	return batch.items[batch.n - 1].record->position >= position ? ESRS_INSTANCE_HANDLED :
		ESRS_INSTANCE_MORE;
}

/*
 * Has a handler not yet handled an event that is visible now, up to a position?
 * What it has given up counts as handled.
 */
bool
esrs_runner_is_behind(EsrsConsumer *consumer, int64 up_to)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "esrs batch",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext before = MemoryContextSwitchTo(context);
	uint32	   *hashes;
	List	   *aggregates = esrs_consumer_aggregates(consumer, &hashes);
	bool		behind = false;

	for (int i = 0; i < consumer->partitions && !behind; i++)
	{
		EsrsBatch	batch = {.consumer = consumer};
		EsrsFeedRange range = {.upto = up_to,.partition = i,.partitions = consumer->partitions,
		.max = 1};
		EsrsCheckpoint checkpoint;

		/* one that is missing does nothing, and never will */
		behind = !esrs_checkpoint_read(consumer->name, i, &checkpoint);
		if (behind)
			break;
		range.after = checkpoint.position;
		range.ahead = checkpoint.ahead;
		esrs_batch_read(&batch, NULL, aggregates, &range);
		behind = batch.n > 0;
	}
	MemoryContextSwitchTo(before);
	MemoryContextDelete(context);
	return behind;
}
