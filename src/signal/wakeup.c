/*-------------------------------------------------------------------------
 *
 * wakeup.c
 *	  Starting and waking background workers, from the transactions that
 *	  append.
 *
 * A transaction looks, when it draws its first position and just before it
 * commits, whether the worker of the database runs, and registers it if it does
 * not: there an error does no harm yet.  After its end, committed or not, it sets the
 * worker's latch.  Not earlier than its locks are gone: the worker would find
 * its bound, and go to sleep again.
 *
 * No slot left in max_worker_processes: one WARNING, and handlers run by
 * CALL esrs_run_handlers().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "signal/wakeup.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/demand.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "store/position.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

/* After a failure to register one, how long none is tried. */
#define RETRY_INTERVAL	1000

/* A handler that has been running for so long holds others up. */
#define LONG_TIME		500

#define ALL_BITS		(~UINT64CONST(0))

/* What this transaction has to tell: its aggregates, as bits. */
static uint64 touched = 0;

/* Does it want a look without having drawn a position, and has the slot been told? */
static bool requested = false;
static EsrsSlot *counted_in = NULL;

/* The bit of an aggregate in EsrsSlot.dirty. */
uint64
esrs_wakeup_bit(uint32 aggregate_hash)
{
	return UINT64CONST(1) << (aggregate_hash % 64);
}

/* May there be a worker in this database, as far as is known? */
bool
esrs_wakeup_worker_may_run(void)
{
	EsrsSlot   *slot;

	if (esrs_config_max_workers == 0)
		return false;
	slot = esrs_slots_find();
	return slot != NULL && !slot->unavailable;
}

/* Describe the worker of a database that takes a place there. */
void
esrs_wakeup_describe(BackgroundWorker *worker, Oid database, int place)
{
	memset(worker, 0, sizeof(*worker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker->bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker->bgw_library_name, "$libdir/esrs", BGW_MAXLEN);
	strlcpy(worker->bgw_function_name, "esrs_worker_main", BGW_MAXLEN);
	snprintf(worker->bgw_name, BGW_MAXLEN, "esrs worker %d", place + 1);
	strlcpy(worker->bgw_type, "esrs worker", BGW_MAXLEN);
	worker->bgw_main_arg = ObjectIdGetDatum(database);
	memcpy(worker->bgw_extra, &place, sizeof(place));
}

/*
 * Start a worker in a place, unless there is one.  False if that was not
 * possible.
 */
bool
esrs_wakeup_start(EsrsSlot *slot, int place)
{
	EsrsWorkerPlace *p = &slot->places[place];
	TimestampTz now = GetCurrentTimestamp();
	BackgroundWorker worker;
	bool		need;
	bool		wait;
	bool		done;

	SpinLockAcquire(&slot->mutex);
	need = slot->database == MyDatabaseId && !IsBinaryUpgrade &&
		(p->pid == 0 ||
		 (p->pid == -1 && now - p->since > ESRS_START_TIMEOUT * INT64CONST(1000)));
	wait = slot->unavailable && now - slot->tried_at < RETRY_INTERVAL * INT64CONST(1000);
	if (need && !wait)
	{
		p->pid = -1;
		p->since = now;
		p->latch = NULL;

		/*
		 * What was appended meanwhile has been announced by the writers; the
		 * worker may be there before we know that it could be registered.
		 */
		if (slot->unavailable)
			slot->has_floor = false;
	}
	SpinLockRelease(&slot->mutex);
	if (!need)
		return true;
	if (wait)
		return false;

	esrs_wakeup_describe(&worker, MyDatabaseId, place);
	done = RegisterDynamicBackgroundWorker(&worker, NULL);
	SpinLockAcquire(&slot->mutex);
	if (!done)
	{
		slot->tried_at = now;
		if (p->pid == -1)
			p->pid = 0;
	}
	SpinLockRelease(&slot->mutex);
	return done;
}

/*
 * The dispatcher runs.  If one handler keeps it busy for long, the others need a
 * helper.
 */
static void
help_out(EsrsSlot *slot)
{
	EsrsWorkerPlace *dispatcher = &slot->places[0];

	if (dispatcher->handler[0] != '\0' && esrs_config_max_workers > 1 &&
		slot->places[1].pid <= 0 &&
		TimestampDifferenceExceeds(dispatcher->since, GetCurrentTimestamp(), LONG_TIME))
		(void) esrs_wakeup_start(slot, 1);
}

/*
 * See to it that the dispatcher of this database runs.  Whoever asked for it
 * gets a WARNING if that is not possible, the first time.
 */
void
esrs_wakeup_ensure(bool complain)
{
	EsrsSlot   *slot = esrs_slots_find();
	bool		done;
	bool		news = false;
	bool		waiting;

	if (slot == NULL || esrs_config_max_workers == 0)
		return;
	if (slot->places[0].pid > 0)
	{
		help_out(slot);
		return;
	}
	done = esrs_wakeup_start(slot, 0);
	SpinLockAcquire(&slot->mutex);
	waiting = slot->unavailable;
	if (!done && !waiting)
		news = true;
	slot->unavailable = !done;
	SpinLockRelease(&slot->mutex);
	if (news && complain)
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no background worker is left for asynchronous event handlers"),
				 errdetail("They do not run until there is one. Events are stored all the same."),
				 errhint("Raise max_worker_processes, or run CALL esrs_run_handlers().")));
}

/*
 * Note up to where events are announced before this transaction draws a
 * position, if that is not known; and after a change of esrs.notify, before
 * which others may have announced them.
 */
static void
note_floor(EsrsSlot *slot)
{
	int64		head;
	int64		safe;

	if (esrs_config_max_workers == 0)
	{
		/* writers announce; whoever comes after them must not do so again */
		slot->has_floor = false;
		return;
	}
	head = esrs_position_head();
	if (slot->has_floor && slot->notify == esrs_config_notify && slot->floor <= head)
		return;
	safe = esrs_position_safe_of_all(&head);
	SpinLockAcquire(&slot->mutex);
	if (!slot->has_floor || slot->notify != esrs_config_notify || slot->floor > head)
	{
		slot->floor = safe;
		slot->has_floor = true;
		slot->nheads = 0;
		slot->notify = esrs_config_notify;
	}
	SpinLockRelease(&slot->mutex);
}

/* This transaction is about to draw its first position of an aggregate. */
static void
published(uint32 aggregate_hash)
{
	EsrsSlot   *slot;

	if (!esrs_demand_worker())
		return;
	slot = esrs_slots_find();
	if (slot == NULL)
		return;
	esrs_wakeup_ensure(true);
	note_floor(slot);
	touched |= esrs_wakeup_bit(aggregate_hash);
}

/* At the end of this transaction let the worker look at everything. */
void
esrs_wakeup_request(void)
{
	(void) esrs_slots_find();
	touched = ALL_BITS;
	requested = true;
}

static void
wake(uint64 bits)
{
	EsrsSlot   *slot = esrs_slots_find();
	Latch	   *latch;

	if (slot == NULL)
		return;
	pg_atomic_fetch_or_u64(&slot->dirty, bits);
	SpinLockAcquire(&slot->mutex);
	latch = slot->database == MyDatabaseId ? slot->places[0].latch : NULL;
	SpinLockRelease(&slot->mutex);

	/* a latch is in shared memory for good: at worst a stranger wakes */
	if (latch != NULL)
		SetLatch(latch);
}

/* Let the worker look at everything now, and start it if it is not running. */
void
esrs_wakeup_now(void)
{
	esrs_wakeup_ensure(false);
	wake(ALL_BITS);
}

static void
transaction_event(XactEvent event, void *arg)
{
	if (touched == 0)
		return;
	if (event != XACT_EVENT_PRE_COMMIT && event != XACT_EVENT_PRE_PREPARE)
		return;
	if (requested && counted_in == NULL)
	{
		/* there is no bound that would keep the worker from leaving */
		counted_in = esrs_slots_find();
		if (counted_in != NULL)
			pg_atomic_fetch_add_u32(&counted_in->requests, 1);
	}
	esrs_wakeup_ensure(true);
}

static void
resources_released(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void *arg)
{
	uint64		bits = touched;

	if (bits == 0 || phase != RESOURCE_RELEASE_AFTER_LOCKS || !is_top_level)
		return;
	touched = 0;
	requested = false;
	wake(bits);
	if (counted_in != NULL && counted_in->database == MyDatabaseId)
		pg_atomic_fetch_sub_u32(&counted_in->requests, 1);
	counted_in = NULL;
}

/* Register for the ends of transactions.  Called once, at load. */
void
esrs_wakeup_init(void)
{
	RegisterXactCallback(transaction_event, NULL);
	RegisterResourceReleaseCallback(resources_released, NULL);
	esrs_position_set_hook(published);
}
