/*-------------------------------------------------------------------------
 *
 * dispatcher.c
 *	  The background worker: its life, and its main loop.
 *
 * Each database has at most one dispatcher.  It sends notifications and runs the
 * handlers, one batch each in turn; when more than one has much to do, it asks
 * for helpers, which run handlers and nothing else.
 *
 * It is started by the first transaction that appends (wakeup.c) or by the
 * launcher, sleeps on its latch, looks around every esrs.poll_interval for what
 * nobody has told it of (COMMIT PREPARED), and ends when there has been nothing
 * to do for esrs.worker_idle_timeout; at once, when the extension is gone or
 * another version, or somebody wants to drop or copy the database.
 *
 * What it runs is in unit.c and announce.c; nothing here may know what an event
 * is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "worker/dispatcher.h"

#include "access/xact.h"
#include "base/spi.h"
#include "catalog/demand.h"
#include "catalog/extension.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "signal/announce.h"
#include "signal/wakeup.h"
#include "storage/ipc.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "store/position.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "worker/unit.h"

#define ALL_BITS		(~UINT64CONST(0))

/* A helper without work ends after so many milliseconds. */
#define HELPER_TIMEOUT	2000

/* After an error of its own a worker pauses, from this, doubled, to that. */
#define FIRST_PAUSE		1000
#define LONGEST_PAUSE	60000

static EsrsSlot *slot = NULL;
static int	my_index = 0;
static EsrsWorkerPlace *place = NULL;
static bool in_place = false;

static List *units = NIL;
static uint64 known_generation = 0;
static char version[64];
static bool superseded = false; /* the extension has another version by now */
static int64 head = 0;			/* of the last look around */

/* ------------------------------------------------------------------------
 * The place in shared memory
 * ------------------------------------------------------------------------
 */

/* Take the place that this worker was started for.  False if it is taken. */
static bool
claim(void)
{
	bool		mine;

	SpinLockAcquire(&slot->mutex);
	mine = place->pid <= 0 && slot->database == MyDatabaseId;
	if (mine)
	{
		place->pid = MyProcPid;
		place->latch = &MyProc->procLatch;
		place->handler[0] = '\0';
	}
	SpinLockRelease(&slot->mutex);
	in_place = mine;
	if (mine && my_index == 0)
		esrs_announce_begin(slot);
	return mine;
}

static void
release(void)
{
	if (!in_place)
		return;
	if (my_index == 0)
		esrs_announce_end(slot);
	SpinLockAcquire(&slot->mutex);
	place->pid = 0;
	place->latch = NULL;
	place->handler[0] = '\0';
	SpinLockRelease(&slot->mutex);
	in_place = false;
}

static void
release_at_exit(int code, Datum arg)
{
	release();
}

/* ------------------------------------------------------------------------
 * Looking around
 * ------------------------------------------------------------------------
 */

/*
 * A worker that is told to end does so at once when it is idle, and by an error
 * when a handler is running.
 */
static void
shutdown_requested(SIGNAL_ARGS)
{
	int			save_errno = errno;

	ShutdownRequestPending = true;
	die(postgres_signal_arg);
	errno = save_errno;
}

/* Is the extension there, in the version for which this worker was started? */
static bool
extension_is_ours(void)
{
	char	   *now;

	esrs_spi_begin();
	now = esrs_spi_run("SELECT extversion FROM pg_catalog.pg_extension"
					   " WHERE extname OPERATOR(pg_catalog.=) 'esrs'",
					   0, NULL, NULL, NULL, SPI_OK_SELECT) > 0 ? esrs_spi_text(0, 1) : NULL;
	esrs_spi_end();
	if (now == NULL)
		return false;
	if (version[0] == '\0')
		strlcpy(version, now, sizeof(version));
	superseded = strcmp(version, now) != 0;
	return !superseded;
}

/*
 * Does somebody wait to drop, rename or copy the database?  He holds a lock on
 * it, and gives up if we stay.
 */
static bool
database_is_wanted(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, MyDatabaseId, 0);
	if (LockAcquire(&tag, RowExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&tag, RowExclusiveLock, false);
	return false;
}

/*
 * Take note of what has changed; with "thorough", of what nobody tells.  False
 * if this worker is to end.
 */
static bool
look_around(bool thorough)
{
	bool		stay = true;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (thorough || known_generation != esrs_demand_generation())
		stay = extension_is_ours() && !database_is_wanted();
	if (stay && esrs_extension_try_lock())
	{
		(void) esrs_demand_worker();	/* keeps the generation up to date */
		head = esrs_position_head();
		while (known_generation != esrs_demand_generation())
		{
			known_generation = esrs_demand_generation();
			units = esrs_unit_refresh(units);
			if (my_index == 0)
				esrs_announce_refresh();
			(void) esrs_demand_worker();
		}
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	return stay;
}

/* Send notifications of one aggregate; true if there is more to send. */
static bool
announce_one(int i)
{
	bool		more = false;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());

	/* a notification that a crash takes away has nobody to hear it */
	(void) set_config_option("synchronous_commit", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	if (esrs_extension_try_lock())
		more = esrs_announce_run(i);
	PopActiveSnapshot();
	CommitTransactionCommand();
	esrs_announce_committed();
	return more;
}

/* Send notifications of all aggregates with these bits. */
static bool
announce(uint64 bits)
{
	bool		more = false;

	for (int i = 0; i < esrs_announce_count(); i++)
		if (esrs_announce_is_due(i, bits, head))
			more |= announce_one(i);
	return more;
}

/* ------------------------------------------------------------------------
 * Working
 * ------------------------------------------------------------------------
 */

/* Start a helper, if there may be one more. */
static void
call_for_help(void)
{
	for (int i = 1; i < esrs_config_max_workers; i++)
	{
		if (slot->places[i].pid <= 0)
		{
			(void) esrs_wakeup_start(slot, i);
			return;
		}
	}
}

/*
 * Run one batch of each unit that may have something to do: whose aggregates are
 * dirty, or that has said so; with "sweep" all that are not known to be idle.
 * True if something was handled.
 */
static bool
run_units(uint64 dirty, bool sweep)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		worked = false;
	int			busy = 0;
	ListCell   *lc;

	foreach(lc, units)
	{
		EsrsUnit   *unit = (EsrsUnit *) lfirst(lc);
		bool		due = unit->more || (unit->bits & dirty) != 0 ||
		(sweep && unit->idle_at < head);

		if (unit->retry_at != DT_NOBEGIN)
			due = unit->retry_at <= now;
		if (!due)
			continue;
		if (ShutdownRequestPending)
			return worked;
		worked |= esrs_unit_run(unit, place, slot);
		busy += unit->more;
	}
	if (busy > 1 && my_index == 0)
		call_for_help();
	return worked;
}

/* How long there is nothing to do, in milliseconds, unless somebody wakes us. */
static long
time_to_sleep(bool more)
{
	TimestampTz now = GetCurrentTimestamp();
	long		pause = Min(esrs_config_poll_interval, 2000);
	ListCell   *lc;

	foreach(lc, units)
	{
		EsrsUnit   *unit = (EsrsUnit *) lfirst(lc);

		if (unit->retry_at != DT_NOBEGIN)
			pause = Min(pause, TimestampDifferenceMilliseconds(now, unit->retry_at));
		else
			more |= unit->more;
	}
	return more ? 0 : Max(pause, 0);
}

/* Is everything handled, and no failed event waiting for its turn? */
static bool
all_is_idle(void)
{
	ListCell   *lc;

	foreach(lc, units)
	{
		EsrsUnit   *unit = (EsrsUnit *) lfirst(lc);

		if (unit->more || unit->retry_at != DT_NOBEGIN || unit->idle_at < head)
			return false;
	}
	return true;
}

/*
 * End for lack of work?  A transaction that has seen this worker alive relies
 * upon it.  So the place is given up first; then, if a writer is in progress or
 * a position was drawn since all was idle, the worker comes back, unless another
 * one has taken its place.
 */
static bool
may_leave(void)
{
	int64		now_head;
	int64		safe;
	bool		leave;

	if (my_index != 0)
		return true;
	if (!all_is_idle() || announce(ALL_BITS))
		return false;
	release();
	StartTransactionCommand();
	safe = esrs_position_safe_of_all(&now_head);
	leave = (safe == now_head && now_head == head && pg_atomic_read_u64(&slot->dirty) == 0 &&
			 pg_atomic_read_u32(&slot->requests) == 0) ||
		!claim();
	CommitTransactionCommand();
	return leave;
}

/* One turn of the main loop.  False if the worker is to end. */
static bool
turn(TimestampTz *last_work, TimestampTz *next_sweep)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		sweep = now >= *next_sweep;
	uint64		dirty = my_index == 0 ? pg_atomic_exchange_u64(&slot->dirty, 0) : ALL_BITS;
	int			timeout = my_index == 0 ? esrs_config_worker_idle_timeout : HELPER_TIMEOUT;
	bool		more = false;
	long		pause;

	if (!look_around(sweep))
		return false;
	if (my_index == 0 && (dirty != 0 || sweep))
		more = announce(sweep ? ALL_BITS : dirty);
	if (run_units(dirty, sweep) || more || (my_index == 0 && dirty != 0))
		*last_work = now;
	if (sweep)
		*next_sweep = TimestampTzPlusMilliseconds(now, Min(esrs_config_poll_interval, 2000));
	if (timeout > 0 && TimestampDifferenceExceeds(*last_work, now, timeout) && may_leave())
		return false;
	pause = time_to_sleep(more);
	if (my_index != 0 && pause > 0)
		pause = Min(pause, 50);
	if (pause > 0)
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 pause, PG_WAIT_EXTENSION);
	return true;
}

/*
 * A turn that survives its errors.  The log is told of the first in a row, and
 * the pauses grow.
 */
static bool
turn_contained(MemoryContext context, TimestampTz *last_work, TimestampTz *next_sweep,
			   long *pause)
{
	volatile bool stay = true;

	/* the end of a transaction leaves another one current */
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		stay = turn(last_work, next_sweep);
		*pause = 0;
	}
	PG_CATCH();
	{
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(context);
		if (*pause == 0)
			EmitErrorReport();
		FlushErrorState();
		AbortCurrentTransaction();
		RESUME_INTERRUPTS();
		*pause = *pause == 0 ? FIRST_PAUSE : Min(*pause * 2, LONGEST_PAUSE);
		known_generation = 0;
		stay = in_place;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(TopMemoryContext);
	MemoryContextReset(context);
	return stay;
}

/* Sleep, whoever wakes us, but not when we are told to end. */
static void
sleep_after_error(long pause)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), pause);
	long		rest = pause;

	while (rest > 0 && !ShutdownRequestPending)
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, rest,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		QueryCancelPending = false;
		if (!ShutdownRequestPending)
			CHECK_FOR_INTERRUPTS();
		rest = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end);
	}
}

/* The main function of a worker; the argument is the database. */
void
esrs_worker_main(Datum main_arg)
{
	MemoryContext context;
	TimestampTz last_work;
	TimestampTz next_sweep;
	long		pause = 0;

	memcpy(&my_index, MyBgworkerEntry->bgw_extra, sizeof(my_index));
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, shutdown_requested);
	BackgroundWorkerUnblockSignals();
	if (IsBinaryUpgrade)
		proc_exit(0);
	BackgroundWorkerInitializeConnectionByOid(DatumGetObjectId(main_arg), InvalidOid, 0);

	/* the session's defaults are for others: the feed needs READ COMMITTED */
	SetConfigOption("default_transaction_isolation", "read committed", PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_deferrable", "off", PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("application_name", MyBgworkerEntry->bgw_name, PGC_USERSET, PGC_S_SESSION);

	/* a database without the extension needs no slot */
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (!extension_is_ours())
		proc_exit(0);
	slot = esrs_slots_find();
	if (slot == NULL)
		proc_exit(0);
	place = &slot->places[my_index];
	before_shmem_exit(release_at_exit, (Datum) 0);
	if (!claim())
		proc_exit(0);
	PopActiveSnapshot();
	CommitTransactionCommand();

	context = AllocSetContextCreate(TopMemoryContext, "esrs worker", ALLOCSET_DEFAULT_SIZES);
	last_work = GetCurrentTimestamp();
	next_sweep = last_work;
	for (;;)
	{
		ResetLatch(MyLatch);
		if (ShutdownRequestPending)
			break;
		QueryCancelPending = false; /* there is nothing to cancel */
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			known_generation = 0;
		}
		if (my_index >= Max(esrs_config_max_workers, 0))
			break;
		if (!turn_contained(context, &last_work, &next_sweep, &pause))
			break;
		sleep_after_error(pause);
	}
	release();

	/*
	 * writers relied upon this worker; another version is another one's to
	 * serve
	 */
	if (superseded && !ShutdownRequestPending)
		(void) esrs_wakeup_start(slot, my_index);
	proc_exit(0);
}
