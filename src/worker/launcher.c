/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  Workers that come up with the server, if the library is preloaded; and the
 *	  SQL functions that start and stop workers.
 *
 * The launcher starts a worker in each database, one after the other, after a
 * start, a crash or a promotion.  A worker that finds no extension, or nothing
 * to do, ends.  Then the launcher sleeps until the server stops: a process that
 * has ended would not be started again after a crash.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "worker/launcher.h"

#include "esrs.h"

#include <signal.h>

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "engine/command.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "signal/slots.h"
#include "signal/wakeup.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(esrs_start_workers);
PG_FUNCTION_INFO_V1(esrs_stop_workers);

/*
 * How long the launcher waits after the start of the server, in milliseconds: if
 * a handler brings the server down, somebody must get in to pause it.  And
 * before it tries again where there was no room.
 */
#define FIRST_PAUSE		3000
#define NEXT_PAUSE		1000

/* How long esrs_stop_workers() waits, in milliseconds. */
#define STOP_TIMEOUT	10000

/* Have the launcher started with the server.  Called once, at load. */
void
esrs_launcher_init(void)
{
	BackgroundWorker worker = {0};

	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = 5;
	strlcpy(worker.bgw_library_name, "$libdir/esrs", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "esrs_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "esrs launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "esrs launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

/* The databases that can be connected to, in the current context. */
static List *
databases(void)
{
	MemoryContext context = CurrentMemoryContext;
	List	   *result = NIL;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext before = MemoryContextSwitchTo(context);

		if (database->datallowconn && !database->datistemplate)
			result = lappend_oid(result, database->oid);
		MemoryContextSwitchTo(before);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return result;
}

/* Start a worker in a database.  False if there is no room for it. */
static bool
start_in(Oid database)
{
	BackgroundWorkerHandle *handle;
	BackgroundWorker worker;
	pid_t		pid;

	esrs_wakeup_describe(&worker, database, 0);
	worker.bgw_notify_pid = MyProcPid;
	if (!RegisterDynamicBackgroundWorker(&worker, &handle))
		return false;
	(void) WaitForBackgroundWorkerStartup(handle, &pid);
	pfree(handle);
	return true;
}

/* Start a worker in each database of the list; returns those left over. */
static List *
start_workers(List *left)
{
	while (left != NIL && !ShutdownRequestPending && esrs_config_max_workers > 0 &&
		   start_in(linitial_oid(left)))
		left = list_delete_first(left);
	return left;
}

void
esrs_launcher_main(Datum main_arg)
{
	List	   *left;
	long		pause = FIRST_PAUSE;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, SignalHandlerForShutdownRequest);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	CurrentMemoryContext = TopMemoryContext;
	left = databases();
	while (!ShutdownRequestPending)
	{
		int			rc = WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH |
								   (left != NIL ? WL_TIMEOUT : 0), pause, PG_WAIT_EXTENSION);

		ResetLatch(MyLatch);
		if (rc & WL_TIMEOUT)
		{
			left = start_workers(left);
			pause = NEXT_PAUSE;
		}
		QueryCancelPending = false;
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}
	}
	proc_exit(0);
}

/* ------------------------------------------------------------------------
 * SQL functions
 * ------------------------------------------------------------------------
 */

/* esrs_start_workers() returns boolean: does, or will, a worker run? */
Datum
esrs_start_workers(PG_FUNCTION_ARGS)
{
	EsrsSlot   *slot;

	PreventCommandDuringRecovery("esrs_start_workers()");
	esrs_wakeup_now();
	slot = esrs_slots_find();
	PG_RETURN_BOOL(slot != NULL && slot->places[0].pid != 0);
}

/*
 * Tell the workers of this database to end; returns how many there are, and how
 * many are only being started.
 */
static int
signal_workers(EsrsSlot *slot, int *nstarting)
{
	pid_t		pids[ESRS_WORKERS_LIMIT];
	TimestampTz now = GetCurrentTimestamp();
	int			starting = 0;
	int			n = 0;

	SpinLockAcquire(&slot->mutex);
	for (int i = 0; i < ESRS_WORKERS_LIMIT; i++)
	{
		EsrsWorkerPlace *place = &slot->places[i];

		if (place->pid > 0)
			pids[n++] = place->pid;
		else if (place->pid == -1 &&
				 !TimestampDifferenceExceeds(place->since, now, ESRS_START_TIMEOUT))
			starting++;
	}
	SpinLockRelease(&slot->mutex);
	for (int i = 0; i < n; i++)
		(void) kill(pids[i], SIGTERM);
	*nstarting = starting;
	return n;
}

/* esrs_stop_workers() returns int: how many were stopped */
Datum
esrs_stop_workers(PG_FUNCTION_ARGS)
{
	EsrsSlot   *slot = esrs_slots_find();
	int			starting;
	int			n;

	if (slot == NULL)
		PG_RETURN_INT32(0);
	n = signal_workers(slot, &starting);
	n += starting;
	for (int waited = 0; signal_workers(slot, &starting) + starting > 0; waited += 10)
	{
		if (waited >= STOP_TIMEOUT)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_IN_USE),
					 errmsg("a background worker of esrs does not stop"),
					 errdetail("It was told to, %d seconds ago.", STOP_TIMEOUT / 1000),
					 errhint("See pg_stat_activity for what it is doing.")));
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 10L,
						 PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	PG_RETURN_INT32(n);
}
