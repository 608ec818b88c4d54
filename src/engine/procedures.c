/*-------------------------------------------------------------------------
 *
 * procedures.c
 *	  Procedures that commit: run asynchronous event handlers here, and handle a
 *	  command together with its handlers.
 *
 * Called where nothing can be committed (in a transaction block, by a function,
 * or below an exception handler of PL/pgSQL), they do what is right there, and
 * say so.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "esrs.h"

#include "engine/procedures.h"

#include "access/xact.h"
#include "base/spi.h"
#include "catalog/datum.h"
#include "catalog/extension.h"
#include "engine/arguments.h"
#include "engine/command.h"
#include "engine/waiting.h"
#include "funcapi.h"
#include "handler/runner.h"
#include "miscadmin.h"
#include "signal/wakeup.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

PG_FUNCTION_INFO_V1(esrs_run_handlers);
PG_FUNCTION_INFO_V1(esrs_execute);

/* How long esrs_execute() tries to have a handler run, in milliseconds. */
#define EXECUTE_TIMEOUT		5000

/* Was the procedure called where it may commit? */
bool
esrs_procedure_may_commit(FunctionCallInfo fcinfo)
{
	return fcinfo->context != NULL && IsA(fcinfo->context, CallContext) &&
		!castNode(CallContext, fcinfo->context)->atomic;
}

/* Connect to SPI for a procedure that commits in between. */
void
esrs_procedure_connect(bool nonatomic)
{
	if (SPI_connect_ext(nonatomic ? SPI_OPT_NONATOMIC : 0) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
}

/*
 * Commit, and begin a transaction in which the feed can be read, whatever the
 * session's default is.
 */
void
esrs_procedure_commit(void)
{
	SPI_commit();
	if (!FirstSnapshotSet)
		XactIsoLevel = XACT_READ_COMMITTED;
}

void
esrs_procedure_refuse_inside_callback(const char *procedure)
{
	if (esrs_call_is_running())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s cannot be called by a callback or an event handler", procedure)));
}

/* Raise 0A000 where events that were committed meanwhile could not be seen. */
void
esrs_procedure_check_isolation(bool nonatomic)
{
	if (!nonatomic && IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("event handlers cannot be run at this isolation level"),
				 errhint("Use READ COMMITTED, or call the procedure outside of a transaction block.")));
}

/* ------------------------------------------------------------------------
 * esrs_run_handlers
 * ------------------------------------------------------------------------
 */

/*
 * Do something for a handler in a subtransaction; an error becomes a WARNING, and
 * is returned.
 */
static ErrorData *
contained(const char *handler, void (*body) (void *arg), void *arg)
{
	ErrorData  *volatile error = NULL;
	MemoryContext outer = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(outer);
	PG_TRY();
	{
		body(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(outer);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
			ReThrowError(error);
		CurrentResourceOwner = owner;
		ereport(WARNING,
				(errcode(error->sqlerrcode),
				 errmsg("event handler \"%s\" could not be run", handler),
				 errdetail("%s", error->message),
				 error->hint ? errhint("%s", error->hint) : 0));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(outer);
	CurrentResourceOwner = owner;
	return error;
}

static void
run_batch(void *arg)
{
	esrs_runner_batch((EsrsRun *) arg);
}

/* With many handlers, one that is broken must not keep the others from running. */
static void
run_contained(EsrsRun *run)
{
	ErrorData  *error = contained(run->handler, run_batch, run);

	if (error != NULL)
		esrs_runner_note_failure(run, error);
}

/*
 * May the caller run the handler?  In a transaction that somebody else commits
 * its deferred triggers would run with the rights of whoever does: then only its
 * own role may.
 */
static void
check_may_run(EsrsConsumer *consumer, bool nonatomic)
{
	esrs_consumer_check_right(consumer);
	if (!nonatomic && consumer->handler->run_as != GetUserId())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("event handler \"%s\" cannot be run in a transaction of another role",
						consumer->name),
				 errhint("Call the procedure outside of a transaction block, or SET ROLE \"%s\" first.",
						 GetUserNameFromId(consumer->handler->run_as, false))));
}

/* The handlers to run: one, or all that the caller may. */
static List *
handlers_to_run(const char *name, bool nonatomic)
{
	List	   *result = NIL;
	ListCell   *lc;

	if (name != NULL)
		check_may_run(esrs_consumer_lookup(name), nonatomic);
	foreach(lc, esrs_consumer_list())
	{
		EsrsConsumerEntry *entry = (EsrsConsumerEntry *) lfirst(lc);

		if (name != NULL ? strcmp(entry->name, name) == 0 :
			nonatomic ? esrs_consumer_may_run(entry->run_as) : entry->run_as == GetUserId())
			result = lappend(result, entry);
	}
	return result;
}

/*
 * Run one batch of each partition of a handler.  True if there may be more to
 * do; "left" counts down the batches that the caller wants.
 */
static bool
run_round(EsrsConsumerEntry *entry, bool contained, bool nonatomic, int64 *left)
{
	bool		more = false;

	for (int i = 0; i < entry->partitions && *left > 0; i++)
	{
		EsrsRun		run = {.handler = entry->name,.partition = i,.own_transaction = nonatomic};

		CHECK_FOR_INTERRUPTS();
		if (contained)
			run_contained(&run);
		else
			esrs_runner_batch(&run);
		more |= run.more || run.outcome == ESRS_RUN_DONE;
		if (run.outcome == ESRS_RUN_DONE)
			(*left)--;
		if (nonatomic)
			esrs_procedure_commit();
	}
	return more;
}

/*
 * PROCEDURE esrs_run_handlers(name, max_batches)
 *
 * One transaction a batch, until there is nothing left to do.  Where it cannot
 * commit: one batch, in the transaction that there is.
 */
Datum
esrs_run_handlers(PG_FUNCTION_ARGS)
{
	bool		nonatomic = esrs_procedure_may_commit(fcinfo);
	char	   *name = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	int64		left = PG_ARGISNULL(1) ? PG_INT64_MAX : PG_GETARG_INT32(1);
	List	   *handlers;
	bool		more;

	esrs_command_check_writable("esrs_run_handlers()");
	esrs_procedure_refuse_inside_callback("esrs_run_handlers()");
	if (left < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_batches must be at least 1")));
	esrs_procedure_check_isolation(nonatomic);
	esrs_procedure_connect(nonatomic);

	/* what the caller has done so far is not the handlers' business */
	if (nonatomic)
		esrs_procedure_commit();
	handlers = handlers_to_run(name, nonatomic);
	do
	{
		ListCell   *lc;

		more = false;
		foreach(lc, handlers)
		{
			more |= run_round((EsrsConsumerEntry *) lfirst(lc), name == NULL, nonatomic, &left);
		}
	}
	while (more && nonatomic && left > 0);
	SPI_finish();
	PG_RETURN_VOID();
}

/* ------------------------------------------------------------------------
 * esrs_execute
 * ------------------------------------------------------------------------
 */

/* The asynchronous handlers of an aggregate: names, in the current context. */
static List *
handlers_of(const char *aggregate)
{
	List	   *result = NIL;
	ListCell   *lc;
	ListCell   *name;

	foreach(lc, esrs_consumer_list())
	{
		EsrsConsumerEntry *entry = (EsrsConsumerEntry *) lfirst(lc);

		foreach(name, entry->aggregates)
		{
			if (strcmp((char *) lfirst(name), aggregate) == 0)
				result = lappend(result, entry->name);
		}
	}
	return result;
}

/* A handler that is to be run for one instance. */
typedef struct InstanceRun
{
	const char *handler;
	const char *aggregate;
	const pg_uuid_t *id;
	int64		position;		/* of the last event */
	EsrsInstanceOutcome outcome;

	/* batches of the handler, see catch_up() */
	bool		behind;
	EsrsRunOutcome batch;
} InstanceRun;

static void
run_instance(void *arg)
{
	InstanceRun *run = (InstanceRun *) arg;

	run->outcome = esrs_runner_instance(run->handler, run->aggregate, run->id, run->position);
}

static void
run_any(void *arg)
{
	InstanceRun *run = (InstanceRun *) arg;
	EsrsConsumer *consumer = esrs_consumer_find(run->handler);
	EsrsRun		batch = {.handler = run->handler,.own_transaction = true};

	run->behind = consumer != NULL && consumer->active &&
		esrs_runner_is_behind(consumer, run->position);
	if (!run->behind)
		return;
	batch.partition = consumer->partitions > 1 ?
		esrs_feed_partition(run->id, consumer->partitions) : 0;
	esrs_runner_batch(&batch);
	run->batch = batch.outcome;
}

/*
 * Run a handler that cannot be run for the instance alone, or that somebody else
 * is running: batch after batch, until the events are handled, it fails, or the
 * time is up.
 */
static void
catch_up(InstanceRun *run)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), EXECUTE_TIMEOUT);

	esrs_wakeup_now();
	for (;;)
	{
		ErrorData  *error;

		run->behind = true;
		run->batch = ESRS_RUN_INACTIVE;
		error = contained(run->handler, run_any, run);
		esrs_procedure_commit();
		if (!run->behind)
			return;

		/* paused or unregistered by whom it has waited for */
		if (error == NULL && run->batch == ESRS_RUN_INACTIVE)
			return;
		if (error != NULL || run->batch == ESRS_RUN_RETRYING ||
			run->batch == ESRS_RUN_FAILED || GetCurrentTimestamp() >= end)
			break;
		if (run->batch != ESRS_RUN_DONE)
			esrs_waiting_pause(2);
	}
	ereport(WARNING,
			(errmsg("event handler \"%s\" has not handled the events yet", run->handler),
			 errhint("See esrs_lag. A background worker, or CALL esrs_run_handlers(), will go on.")));
}

/*
 * Run a handler for an instance, in transactions of its own.  What goes wrong is
 * no error: the command is committed.
 */
static void
run_for_instance(InstanceRun *run)
{
	do
	{
		run->outcome = ESRS_INSTANCE_FAILED;
		(void) contained(run->handler, run_instance, run);
		esrs_procedure_commit();
	} while (run->outcome == ESRS_INSTANCE_MORE);
	if (run->outcome == ESRS_INSTANCE_LEFT)
		catch_up(run);
}

/*
 * PROCEDURE esrs_execute(aggregate, aggregate_id, command, ..., INOUT result)
 *
 * The command is committed before the handlers run, and they run through their
 * checkpoints: if the server dies in between, others go on.
 */
Datum
esrs_execute(PG_FUNCTION_ARGS)
{
	MemoryContext outer = CurrentMemoryContext;
	bool		nonatomic = esrs_procedure_may_commit(fcinfo);
	EsrsCommand command;
	EsrsOutcome outcome;
	Datum		values[ESRS_RESULT_COLUMNS];
	bool		nulls[ESRS_RESULT_COLUMNS];
	Datum		result[1];
	bool		result_null[1] = {false};
	TupleDesc	desc;
	TupleDesc	result_desc;
	List	   *handlers = NIL;
	ListCell   *lc;

	esrs_command_check_writable("esrs_execute()");
	esrs_procedure_connect(nonatomic);
	esrs_arguments_command(fcinfo, &command);
	command.catch_rejection = true;
	command.want_records = true;
	esrs_command_run(&command, &outcome);
	if (outcome.rejection == NULL && outcome.records != NIL && !esrs_call_is_running())
		handlers = handlers_of(command.aggregate);
	if (handlers != NIL && !nonatomic)
		ereport(NOTICE,
				(errmsg("event handlers run later"),
				 errdetail("esrs_execute() cannot commit here: it was called in a transaction block or by a function.")));
	if (nonatomic)
	{
		esrs_procedure_commit();
		foreach(lc, handlers)
		{
			InstanceRun run = {.handler = (char *) lfirst(lc),.aggregate = command.aggregate,
				.id = &command.aggregate_id,
			.position = ((EsrsRecord *) llast(outcome.records))->position};

			run_for_instance(&run);
		}
	}

	/* the result has to outlive the connection */
	MemoryContextSwitchTo(outer);
	esrs_arguments_result_values(&command, &outcome, values, nulls);
	result_desc = lookup_rowtype_tupdesc_copy(esrs_extension()->result_type, -1);
	result[0] = HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(result_desc), values, nulls));
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	desc = BlessTupleDesc(desc);
	{
		Datum		row = HeapTupleGetDatum(heap_form_tuple(desc, result, result_null));

		SPI_finish();
		MemoryContextSwitchTo(outer);
		PG_RETURN_DATUM(row);
	}
}
