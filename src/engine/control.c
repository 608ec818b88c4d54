/*-------------------------------------------------------------------------
 *
 * control.c
 *	  SQL functions that pause, resume and reset consumers of the feed:
 *	  asynchronous event handlers and subscriptions.
 *
 * Each locks the checkpoints first, so that no batch is in progress, and none
 * begins before the change is committed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "esrs.h"

#include "base/security.h"
#include "base/spi.h"
#include "catalog/checkpoint.h"
#include "catalog/extension.h"
#include "catalog/pg_type.h"
#include "engine/command.h"
#include "engine/subscription.h"
#include "handler/consumer.h"
#include "signal/wakeup.h"
#include "store/position.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(esrs_pause_handler);
PG_FUNCTION_INFO_V1(esrs_resume_handler);
PG_FUNCTION_INFO_V1(esrs_reset_handler);

static char *
name_arg(FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name of an event handler must not be null")));
	return text_to_cstring(PG_GETARG_TEXT_PP(0));
}

/*
 * The asynchronous handler of a name, with its checkpoints locked and the
 * caller's right to it checked; NULL if there is none.
 */
static EsrsConsumer *
lock_consumer(const char *name)
{
	EsrsConsumer *consumer = esrs_consumer_find(name);

	if (consumer == NULL)
		return NULL;
	esrs_consumer_check_right(consumer);
	esrs_consumer_check_not_running(name);
	(void) esrs_checkpoint_lock_all(name);
	return esrs_consumer_recheck(consumer);
}

static void
set_status(const char *name, const char *status)
{
	Oid			types[2] = {TEXTOID, TEXTOID};
	Datum		values[2] = {CStringGetTextDatum(name), CStringGetTextDatum(status)};
	EsrsIdentity before;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	(void) esrs_spi_run("UPDATE esrs.handlers SET status = $2"
						" WHERE name OPERATOR(pg_catalog.=) $1",
						2, types, values, NULL, SPI_OK_UPDATE);
	esrs_spi_end();
	esrs_security_restore(&before);
}

/* esrs_pause_handler(name) returns void */
Datum
esrs_pause_handler(PG_FUNCTION_ARGS)
{
	char	   *name = name_arg(fcinfo);

	esrs_command_check_writable("esrs_pause_handler()");
	if (lock_consumer(name) != NULL)
		set_status(name, "paused");
	else if (!esrs_subscription_set_status(name, "paused"))
		esrs_consumer_missing(name);
	PG_RETURN_VOID();
}

/* esrs_resume_handler(name) returns void */
Datum
esrs_resume_handler(PG_FUNCTION_ARGS)
{
	char	   *name = name_arg(fcinfo);

	esrs_command_check_writable("esrs_resume_handler()");
	if (lock_consumer(name) != NULL)
	{
		set_status(name, "active");
		esrs_checkpoint_clear_failure(name);
		esrs_wakeup_request();
	}
	else if (!esrs_subscription_set_status(name, "active"))
		esrs_consumer_missing(name);
	PG_RETURN_VOID();
}

/*
 * A handler that is not made to see events again must not be put back behind
 * any that it may have seen.
 */
static void
check_replayable(EsrsConsumer *consumer, int64 to_position)
{
	EsrsCheckpoint checkpoint;

	if (consumer->replayable)
		return;
	for (int i = 0; i < consumer->partitions; i++)
	{
		if (esrs_checkpoint_read(consumer->name, i, &checkpoint) &&
			to_position < Max(checkpoint.position, checkpoint.last_ahead))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("event handler \"%s\" cannot be put back", consumer->name),
					 errdetail("It is not replayable, and has handled events up to position " INT64_FORMAT ".",
							   Max(checkpoint.position, checkpoint.last_ahead)),
					 errhint("If it may see events twice, set its option \"replayable\" to true.")));
	}
}

/* esrs_reset_handler(name, to_position) returns void */
Datum
esrs_reset_handler(PG_FUNCTION_ARGS)
{
	char	   *name = name_arg(fcinfo);
	int64		to_position;
	int64		head;
	EsrsConsumer *consumer;

	esrs_command_check_writable("esrs_reset_handler()");
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("position must not be null")));
	to_position = PG_GETARG_INT64(1);
	head = esrs_position_head();
	if (to_position < 0 || to_position > head)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("position " INT64_FORMAT " does not exist", to_position),
				 errdetail("Positions go from 0, before the first event, to " INT64_FORMAT ".", head)));
	consumer = lock_consumer(name);
	if (consumer != NULL)
	{
		check_replayable(consumer, to_position);
		esrs_checkpoint_reset(name, consumer->partitions, to_position);
		esrs_wakeup_request();
	}
	else if (!esrs_subscription_reset(name, to_position))
		esrs_consumer_missing(name);
	PG_RETURN_VOID();
}
