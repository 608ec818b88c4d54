/*-------------------------------------------------------------------------
 *
 * unit.c
 *	  What a worker runs: the partitions of asynchronous handlers, one batch and
 *	  one transaction at a time.
 *
 * A worker is connected as the superuser who owns the cluster, and calls code of
 * other roles.  So the role of the handler stays in force until the transaction
 * has ended, deferred triggers included, in a way that the code cannot leave;
 * and what one role leaves behind in the session, the next one does not find.
 *
 * Nothing here may let an error out: the worker lives on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "worker/unit.h"

#include "access/xact.h"
#include "catalog/aggregate.h"
#include "catalog/extension.h"
#include "catalog/namespace.h"
#include "commands/prepare.h"
#include "commands/sequence.h"
#include "handler/runner.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "signal/wakeup.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

/* Somebody else has the checkpoint: look again after this many milliseconds. */
#define BUSY_PAUSE		100

/* Whose code ran last in this session. */
static Oid	last_role = InvalidOid;

static EsrsUnit *
find(List *units, const char *name, int partition)
{
	ListCell   *lc;

	foreach(lc, units)
	{
		EsrsUnit   *unit = (EsrsUnit *) lfirst(lc);

		if (unit->partition == partition && strcmp(unit->name, name) == 0)
			return unit;
	}
	return NULL;
}

static void
take(List **units, EsrsConsumerEntry *entry, int partition)
{
	EsrsUnit   *unit = find(*units, entry->name, partition);
	ListCell   *lc;

	if (unit == NULL)
	{
		unit = palloc0(sizeof(EsrsUnit));
		strlcpy(unit->name, entry->name, sizeof(unit->name));
		unit->partition = partition;
		*units = lappend(*units, unit);
	}
	unit->run_as = entry->run_as;
	unit->bits = 0;
	foreach(lc, entry->aggregates)
	{
		unit->bits |= esrs_wakeup_bit(esrs_aggregate_hash((char *) lfirst(lc)));
	}
	unit->wanted = true;
	unit->more = true;			/* it may have been changed in any way */
	unit->retry_at = DT_NOBEGIN;
	unit->idle_at = -1;
}

/*
 * Bring the list of units, which lives in TopMemoryContext, up to date.  Must be
 * called in a transaction.
 */
List *
esrs_unit_refresh(List *units)
{
	List	   *entries = esrs_consumer_list();
	MemoryContext before = MemoryContextSwitchTo(TopMemoryContext);
	ListCell   *lc;

	foreach(lc, units)
	{
		((EsrsUnit *) lfirst(lc))->wanted = false;
	}
	foreach(lc, entries)
	{
		EsrsConsumerEntry *entry = (EsrsConsumerEntry *) lfirst(lc);

		for (int i = 0; i < entry->partitions; i++)
			take(&units, entry, i);
	}
	for (int i = list_length(units) - 1; i >= 0; i--)
	{
		EsrsUnit   *unit = (EsrsUnit *) list_nth(units, i);

		if (!unit->wanted)
		{
			units = list_delete_nth_cell(units, i);
			pfree(unit);
		}
	}
	MemoryContextSwitchTo(before);
	return units;
}

/* Leave nothing of one role's code to another's: what DISCARD ALL would. */
static void
change_role(Oid role)
{
	if (OidIsValid(last_role) && last_role != role)
	{
		StartTransactionCommand();
		PortalHashTableDeleteAll();
		DropAllPreparedStatements();
		LockReleaseAll(USER_LOCKMETHOD, true);
		ResetTempTableNamespace();
		ResetSequenceCaches();
		CommitTransactionCommand();
	}
	last_role = role;
}

static void
show(EsrsWorkerPlace *place, EsrsSlot *slot, EsrsUnit *unit)
{
	SpinLockAcquire(&slot->mutex);
	strlcpy(place->handler, unit ? unit->name : "", sizeof(place->handler));
	place->partition = unit ? unit->partition : 0;
	place->since = GetCurrentTimestamp();
	SpinLockRelease(&slot->mutex);
}

/* One batch in a transaction of its own. */
static void
run_transaction(EsrsUnit *unit, EsrsRun *run)
{
	Oid			superuser;
	int			security;

	change_role(unit->run_as);
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	if (StatementTimeout > 0)
		enable_timeout_after(STATEMENT_TIMEOUT, StatementTimeout);
	GetUserIdAndSecContext(&superuser, &security);
	run->outcome = ESRS_RUN_INACTIVE;
	if (esrs_extension_try_lock())
		esrs_runner_batch(run);
	if (!run->wrote)
	{
		/* not to wait for a flush that nobody needs */
		AbortCurrentTransaction();
	}
	else
	{
		PopActiveSnapshot();
		SetUserIdAndSecContext(unit->run_as, security | SECURITY_LOCAL_USERID_CHANGE);
		CommitTransactionCommand();
		SetUserIdAndSecContext(superuser, security);
	}
	disable_timeout(STATEMENT_TIMEOUT, false);
}

/* The transaction has failed: roll it back, and return the error. */
static ErrorData *
recover(MemoryContext context)
{
	ErrorData  *error;

	MemoryContextSwitchTo(context);
	disable_timeout(STATEMENT_TIMEOUT, false);
	HOLD_INTERRUPTS();
	error = CopyErrorData();
	FlushErrorState();
	AbortCurrentTransaction();
	MemoryContextSwitchTo(context);
	RESUME_INTERRUPTS();
	return error;
}

static void
note_failure(EsrsUnit *unit, EsrsRun *run, ErrorData *error, MemoryContext context)
{
	if (!unit->failed)
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("event handler \"%s\" could not be run", unit->name),
				 errdetail("SQLSTATE %s.", unpack_sql_state(error->sqlerrcode)),
				 errhint("See esrs_lag.")));
	unit->failed = true;
	PG_TRY();
	{
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		esrs_runner_note_failure(run, error);
		PopActiveSnapshot();
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		(void) recover(context);
	}
	PG_END_TRY();
	if (run->outcome != ESRS_RUN_RETRYING)
	{
		run->outcome = ESRS_RUN_RETRYING;
		run->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), 1000);
	}
}

/* Run one batch of a unit.  True if something was handled. */
bool
esrs_unit_run(EsrsUnit *unit, EsrsWorkerPlace *place, EsrsSlot *slot)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "esrs unit",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext before = MemoryContextSwitchTo(context);
	EsrsRun		run = {.handler = unit->name,.partition = unit->partition,
	.own_transaction = true,.is_worker = true,.run_as = unit->run_as};

	show(place, slot, unit);
	pgstat_report_activity(STATE_RUNNING, psprintf("event handler %s", unit->name));
	PG_TRY();
	{
		run_transaction(unit, &run);
		unit->failed = false;
	}
	PG_CATCH();
	{
		ErrorData  *error = recover(context);

		note_failure(unit, &run, error, context);
	}
	PG_END_TRY();
	pgstat_report_stat(false);
	pgstat_report_activity(STATE_IDLE, NULL);
	show(place, slot, NULL);

	unit->more = run.more;
	unit->retry_at = run.outcome == ESRS_RUN_RETRYING ? run.retry_at :
		run.outcome == ESRS_RUN_BUSY ?
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), BUSY_PAUSE) : DT_NOBEGIN;
	unit->idle_at = (run.outcome == ESRS_RUN_IDLE && !run.blocked) ? run.head :
		(run.outcome == ESRS_RUN_INACTIVE || run.outcome == ESRS_RUN_FAILED) ? PG_INT64_MAX : -1;
	MemoryContextSwitchTo(before);
	MemoryContextDelete(context);
	return run.outcome == ESRS_RUN_DONE;
}
