/*-------------------------------------------------------------------------
 *
 * waiting.c
 *	  Wait until an asynchronous event handler has handled what there is: to
 *	  read one's own writes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/waiting.h"

#include "esrs.h"

#include "access/xact.h"
#include "handler/runner.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "signal/wakeup.h"
#include "storage/latch.h"
#include "store/position.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(esrs_wait_for);

/* Pauses between two looks: from this, doubled, to that. */
#define FIRST_PAUSE		1
#define LONGEST_PAUSE	20

/* Sleep, but hear of a cancel. */
void
esrs_waiting_pause(long milliseconds)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 milliseconds, PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/*
 * Wait until a handler has handled, or given up, all events up to a position
 * that are visible.  False after the timeout, in milliseconds; with 0 it looks
 * once.
 */
bool
esrs_waiting_for(EsrsConsumer *consumer, int64 up_to, int64 timeout)
{
	TimestampTz end = GetCurrentTimestamp() + timeout * INT64CONST(1000);
	char		name[NAMEDATALEN];
	long		pause = FIRST_PAUSE;

	strlcpy(name, consumer->name, sizeof(name));
	if (!esrs_runner_is_behind(consumer, up_to))
		return true;
	esrs_wakeup_now();
	while (GetCurrentTimestamp() < end)
	{
		esrs_waiting_pause(pause);
		pause = Min(pause * 2, LONGEST_PAUSE);
		consumer = esrs_consumer_lookup(name);
		if (!esrs_runner_is_behind(consumer, up_to))
			return true;
	}
	return false;
}

/* esrs_wait_for(name, up_to, timeout) returns boolean */
Datum
esrs_wait_for(PG_FUNCTION_ARGS)
{
	EsrsConsumer *consumer;
	int64		up_to;
	int64		head;
	int64		own_bound = esrs_position_own_bound();
	int64		timeout = 5000;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name of an event handler must not be null")));
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("event handlers do not run during recovery"),
				 errhint("Wait on the primary.")));
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("esrs_wait_for() cannot be called at this isolation level"),
				 errdetail("The snapshot of the transaction does not see what the handler does meanwhile."),
				 errhint("Use READ COMMITTED.")));
	if (!PG_ARGISNULL(2))
	{
		Interval   *interval = PG_GETARG_INTERVAL_P(2);

		timeout = (interval->time + (interval->day + interval->month * INT64CONST(30)) *
				   USECS_PER_DAY) / 1000;
		timeout = Min(timeout, PG_INT32_MAX);
	}
	if (timeout < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout must not be negative")));
	head = esrs_position_head();
	up_to = PG_ARGISNULL(1) ? head : PG_GETARG_INT64(1);
	if (up_to < 0 || up_to > head)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("position " INT64_FORMAT " does not exist", up_to),
				 errdetail("Positions go from 0, before the first event, to " INT64_FORMAT ".", head)));
	consumer = esrs_consumer_lookup(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	if (esrs_call_is_running())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("esrs_wait_for() cannot be called by a callback or an event handler"),
				 errdetail("The worker that it waits for may be the one that waits.")));
	if (own_bound >= 0 && up_to > own_bound)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot wait for events of the transaction in progress"),
				 errdetail("Asynchronous event handlers see them once it is committed."),
				 errhint("COMMIT, and call esrs_wait_for() then.")));
	PG_RETURN_BOOL(esrs_waiting_for(consumer, up_to, timeout));
}
