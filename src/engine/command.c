/*-------------------------------------------------------------------------
 *
 * command.c
 *	  The path of a command, from top to bottom: look up, lock, load, decide,
 *	  append, advance, transactional handlers, signal.
 *
 * This is the file to read first.  Each step is one call into another layer;
 * what is here is their order and what is judged in between.
 *
 * Nothing here may read or write a table, or call a user's function, by
 * itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/command.h"

#include "access/xact.h"
#include "base/errors.h"
#include "base/jsonb_codec.h"
#include "base/uuid.h"
#include "config.h"
#include "engine/metadata.h"
#include "engine/state.h"
#include "handler/invoke.h"
#include "handler/transactional.h"
#include "miscadmin.h"
#include "signal/notify.h"
#include "store/append.h"
#include "store/ledger.h"
#include "store/lock.h"
#include "store/read.h"
#include "store/snapshot.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* The commands in progress in this backend, the innermost first. */
typedef struct Frame
{
	struct Frame *outer;
	Oid			events;
	pg_uuid_t	id;
	int			depth;			/* 1 for a command that no other one caused */
} Frame;

static Frame *innermost = NULL;

/* ------------------------------------------------------------------------
 * Nesting
 * ------------------------------------------------------------------------
 */

/*
 * Check that a command may run where it was issued, and prepare its frame.
 * Raises ZE006 if its instance is being handled further up, or beyond
 * esrs.max_nesting.
 */
static void
prepare_frame(Frame *frame, EsrsAggregate *agg, const pg_uuid_t *id)
{
	bool		busy = esrs_transactional_is_dispatching(agg->events, id);
	int			depth = 0;

	(void) esrs_transactional_cause(&depth);
	frame->outer = innermost;
	frame->events = agg->events;
	frame->id = *id;
	frame->depth = Max(depth, innermost ? innermost->depth : 0) + 1;
	for (Frame *f = innermost; f != NULL && !busy; f = f->outer)
		busy = f->events == agg->events && esrs_uuid_equal(&f->id, id);
	if (busy)
		ereport(ERROR,
				(errcode(ESRS_ERRCODE_NESTING),
				 errmsg("instance %s of aggregate \"%s\" is being handled and cannot be changed",
						esrs_uuid_text(id), agg->name),
				 esrs_invoke_running() != NULL ?
				 errdetail("Its events are being dispatched, and event handler \"%s\" is running.",
						   esrs_invoke_running()) :
				 errdetail("One of its callbacks is running."),
				 errhint("Issue the command after this one, or let handle_command emit both events.")));
	if (frame->depth > esrs_config_max_nesting)
		ereport(ERROR,
				(errcode(ESRS_ERRCODE_NESTING),
				 errmsg("commands are nested too deep"),
				 errdetail("The limit is %d levels, and the last is a command on aggregate \"%s\".",
						   esrs_config_max_nesting, agg->name),
				 errhint("Look for event handlers that command each other without end. A superuser can raise the setting %s.",
						 "esrs.max_nesting")));
}

/* Refuse early where nothing may be written: 25006, or 55000 in a rebuild. */
void
esrs_command_check_writable(const char *function)
{
	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
	PreventCommandDuringRecovery(function);
	if (esrs_invoke_is_replaying())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s cannot be called where a read model is rebuilt", function),
				 errdetail("What was done once would be done again."),
				 errhint("An event handler that does more than write its read model is not replayable: say so with esrs_alter_handler().")));
}

/* ------------------------------------------------------------------------
 * Judging
 * ------------------------------------------------------------------------
 */

/* The caller's expected_sequence must be the instance's. */
static void
judge_expected(EsrsCommand *command, EsrsInstance *instance)
{
	if (!command->has_expected || command->expected_sequence == instance->sequence_number)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("version conflict on instance %s of aggregate \"%s\"",
					esrs_uuid_text(&command->aggregate_id), command->aggregate),
			 errdetail("Expected sequence_number %d, but found %d.",
					   command->expected_sequence, instance->sequence_number),
			 errhint("Load the instance again and decide anew.")));
}

/*
 * An instance that was deleted for good takes nothing any more.  The instance
 * is locked, so what is true now counts, however old the transaction's
 * snapshot is.
 */
static void
judge_gone(EsrsInstance *instance, Snapshot snapshot)
{
	if (instance->sequence_number > 0 ||
		!esrs_ledger_is_gone(instance->agg, &instance->id,
							 IsolationUsesXactSnapshot() ? GetLatestSnapshot() : snapshot))
		return;
	ereport(ERROR,
			(errcode(ESRS_ERRCODE_DELETED),
			 errmsg("instance %s of aggregate \"%s\" was deleted permanently",
					esrs_uuid_text(&instance->id), instance->agg->name),
			 errhint("Use another id for a new instance.")));
}

static bool
collect_record(EsrsRecord *record, void *arg)
{
	List	  **records = (List **) arg;
	MemoryContext before = MemoryContextSwitchTo(GetMemoryChunkContext(records));

	*records = lappend(*records, esrs_event_copy(record));
	MemoryContextSwitchTo(before);
	return true;
}

/*
 * Was the command handled before, under its command_id?  Then its outcome is
 * what it was: the state after it.  Raises ZE002 if it was another command.
 */
static bool
judge_seen(EsrsCall *call, EsrsAggregate *agg, EsrsCommand *command, EsrsSeenCommand *digest,
		   Snapshot snapshot, EsrsOutcome *outcome)
{
	EsrsLoadLimit limit = ESRS_LOAD_ALL;
	EsrsSeenCommand seen;
	EsrsInstance *instance;

	if (!command->has_command_id)
		return false;
	esrs_ledger_digest(command->command, digest->sha256);
	if (!esrs_ledger_find_command(agg, &command->aggregate_id, &command->command_id,
								  snapshot, &seen))
		return false;
	if (memcmp(seen.sha256, digest->sha256, sizeof(seen.sha256)) != 0)
		ereport(ERROR,
				(errcode(ESRS_ERRCODE_COMMAND_ID_REUSED),
				 errmsg("command_id %s was used for another command",
						esrs_uuid_text(&command->command_id)),
				 errdetail("It was used on instance %s of aggregate \"%s\".",
						   esrs_uuid_text(&command->aggregate_id), agg->name),
				 errhint("Generate a new command_id for each command.")));

	limit.sequence_number = seen.sequence_number;
	instance = esrs_state_load(call, agg, &command->aggregate_id, limit, snapshot, true);
	outcome->sequence_number = seen.sequence_number;
	outcome->state = esrs_callback_state_json(call, &agg->routine, instance->state);
	if (command->want_records)
	{
		List	  **records = palloc0(sizeof(List *));
		ListCell   *lc;

		esrs_read_instance(agg, &command->aggregate_id,
						   seen.sequence_number - seen.nevents + 1, seen.sequence_number,
						   snapshot, true, collect_record, records);
		foreach(lc, *records)
		{
			if (esrs_event_present(call, &agg->routine, (EsrsRecord *) lfirst(lc)))
				outcome->records = lappend(outcome->records, lfirst(lc));
		}
	}
	return true;
}

/* ------------------------------------------------------------------------
 * Storing
 * ------------------------------------------------------------------------
 */

/* Make records of the decided events. */
static List *
make_records(EsrsCall *call, EsrsInstance *instance, EsrsCommand *command, List *events)
{
	EsrsAggregate *agg = instance->agg;
	Jsonb	   *metadata = esrs_metadata_complete(command);
	List	   *records = NIL;
	ListCell   *lc;

	if (list_length(events) > PG_INT32_MAX - instance->sequence_number)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("instance %s of aggregate \"%s\" cannot have more events",
						esrs_uuid_text(&instance->id), agg->name),
				 errdetail("Its sequence_number is %d, and %d events are to be stored.",
						   instance->sequence_number, list_length(events))));
	foreach(lc, events)
	{
		EsrsRecord *record = palloc0(sizeof(EsrsRecord));
		int			i = foreach_current_index(lc);

		CHECK_FOR_INTERRUPTS();
		if (command->event_ids != NULL)
			record->id = command->event_ids[i];
		else if (agg->v4_ids)
			esrs_uuid_v4(&record->id);
		else
			esrs_uuid_v7(&record->id, call->now);
		record->aggregate_id = instance->id;
		record->event = (Jsonb *) lfirst(lc);
		record->payload = esrs_callback_stored_form(call, &agg->routine, record->event);
		esrs_call_reset(call);
		record->occurred_on = call->now;
		record->sequence_number = instance->sequence_number + 1 + i;
		record->version = agg->routine.has_version ? agg->routine.event_version : ESRS_NO_VERSION;
		record->metadata = metadata;
		esrs_callback_check_form(call, &agg->routine, record->event, record->payload,
								 record->version);
		esrs_call_reset(call);
		records = lappend(records, record);
	}
	return records;
}

/*
 * The time of the command: the clock's, read under the lock, but never before
 * the instance's newest event.
 */
static TimestampTz
command_time(EsrsInstance *instance)
{
	if (TIMESTAMP_NOT_FINITE(instance->last_occurred_on))
		return GetCurrentTimestamp();
	return Max(GetCurrentTimestamp(), instance->last_occurred_on);
}

/* ------------------------------------------------------------------------
 * The path
 * ------------------------------------------------------------------------
 */

/*
 * Lock the instance.  Returns the aggregate as it is after the wait: a callback
 * or handler may have been replaced meanwhile.
 */
static EsrsAggregate *
lock_instance(EsrsAggregate *agg, const pg_uuid_t *id)
{
	esrs_lock_instance(agg, id);
	return esrs_aggregate_lookup(agg->name);
}

/*
 * May the command be handled, and what does the aggregate decide?  Returns the
 * events, or NIL with a rejection in the outcome.
 */
static List *
judge_and_decide(EsrsCall *call, EsrsInstance *instance, EsrsCommand *command,
				 Snapshot snapshot, EsrsOutcome *outcome)
{
	List	   *events;

	esrs_state_check_current(instance);
	judge_expected(command, instance);
	judge_gone(instance, snapshot);
	call->now = command_time(instance);
	outcome->sequence_number = instance->sequence_number;
	outcome->rejection = esrs_callback_decide(call, &instance->agg->routine, instance->state,
											  command->command, command->catch_rejection,
											  &events);
	return events;
}

/*
 * The same; after an error the state is kept: a refusal has changed nothing, and
 * the next command comes soon.
 */
static List *
decide(EsrsCall *call, EsrsInstance *instance, EsrsCommand *command, Snapshot snapshot,
	   EsrsOutcome *outcome)
{
	List	   *volatile events = NIL;

	PG_TRY();
	{
		events = judge_and_decide(call, instance, command, snapshot, outcome);
	}
	PG_CATCH();
	{
		/* code in C may have left it half changed */
		if (!call->deciding)
			esrs_state_keep(instance);
		PG_RE_THROW();
	}
	PG_END_TRY();
	return events;
}

static void
run_command(EsrsCommand *command, EsrsAggregate *agg, int depth, EsrsOutcome *outcome)
{
	EsrsCall   *call = esrs_call_begin(agg->name, &command->aggregate_id,
									   GetCurrentTimestamp(), command->metadata);
	EsrsSeenCommand digest;
	EsrsInstance *instance;
	Snapshot	snapshot;
	List	   *events;

	if (!command->locked)
		agg = lock_instance(agg, &command->aggregate_id);

	/* a snapshot taken before the lock would not see what it waited for */
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	snapshot = GetActiveSnapshot();
	if (judge_seen(call, agg, command, &digest, snapshot, outcome))
	{
		PopActiveSnapshot();
		return;
	}
	instance = esrs_state_load(call, agg, &command->aggregate_id, ESRS_LOAD_ALL,
							   snapshot, true);
	events = decide(call, instance, command, snapshot, outcome);
	PopActiveSnapshot();
	if (outcome->rejection != NULL)
	{
		esrs_state_keep(instance);
		if (!command->catch_rejection)
			esrs_rejection_raise(outcome->rejection);
		return;
	}

	outcome->records = make_records(call, instance, command, events);
	esrs_append(agg, outcome->records);
	esrs_state_advance(call, instance, outcome->records);
	outcome->state = esrs_callback_state_json(call, &agg->routine, instance->state);
	esrs_call_reset(call);
	esrs_state_store(call, instance, outcome->sequence_number, outcome->state);
	outcome->sequence_number = instance->sequence_number;
	if (command->has_command_id)
	{
		digest.sequence_number = instance->sequence_number;
		digest.nevents = list_length(outcome->records);
		esrs_ledger_record_command(agg, &instance->id, &command->command_id, &digest);
	}
	esrs_state_keep(instance);
	esrs_notify_appended(agg, outcome->records);
	esrs_transactional_run(agg, outcome->records, depth);
}

static void
run_persist(EsrsCommand *command, EsrsAggregate *agg, int depth, EsrsOutcome *outcome)
{
	EsrsCall   *call = esrs_call_begin(agg->name, &command->aggregate_id, 0, command->metadata);
	EsrsInstance *instance;
	Snapshot	snapshot;

	agg = lock_instance(agg, &command->aggregate_id);
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	snapshot = GetActiveSnapshot();
	instance = esrs_state_peek(agg, &command->aggregate_id, snapshot);
	esrs_state_check_current(instance);
	judge_expected(command, instance);
	judge_gone(instance, snapshot);
	PopActiveSnapshot();

	call->now = command_time(instance);
	outcome->records = make_records(call, instance, command, command->events);
	esrs_append(agg, outcome->records);
	outcome->sequence_number = instance->sequence_number + list_length(outcome->records);
	esrs_notify_appended(agg, outcome->records);
	esrs_transactional_run(agg, outcome->records, depth);
}

/* Copy what the caller wants out of the context of the command. */
static void
copy_outcome(EsrsOutcome *to, const EsrsOutcome *from, bool want_records)
{
	ListCell   *lc;

	memset(to, 0, sizeof(*to));
	to->sequence_number = from->sequence_number;
	to->state = from->state ? esrs_jsonb_copy(from->state) : NULL;
	if (from->rejection != NULL)
	{
		to->rejection = palloc0(sizeof(EsrsRejection));
		to->rejection->message = pstrdup(from->rejection->message);
		to->rejection->name = from->rejection->name ? pstrdup(from->rejection->name) : NULL;
		to->rejection->detail = from->rejection->detail ? pstrdup(from->rejection->detail) : NULL;
		to->rejection->hint = from->rejection->hint ? pstrdup(from->rejection->hint) : NULL;
	}
	if (!want_records)
		return;
	foreach(lc, from->records)
	{
		to->records = lappend(to->records, esrs_event_copy(lfirst(lc)));
	}
}

/* Run a command or a persist in a frame and a memory context of its own. */
static void
run_framed(EsrsCommand *command, EsrsAggregate *agg, EsrsOutcome *outcome,
		   void (*run) (EsrsCommand *, EsrsAggregate *, int, EsrsOutcome *))
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "esrs command",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext before = MemoryContextSwitchTo(context);
	EsrsOutcome inner = {0};
	Frame		frame;

	prepare_frame(&frame, agg, &command->aggregate_id);
	innermost = &frame;
	PG_TRY();
	{
		run(command, agg, frame.depth, &inner);
	}
	PG_FINALLY();
	{
		innermost = frame.outer;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(before);
	copy_outcome(outcome, &inner, command->want_records);
	MemoryContextDelete(context);
}

/*
 * Handle a command.  The current user needs EXECUTE on the function that
 * decides, and nothing else.
 *
 * The outcome is in the current context.  Raises 42704, 42501, 40001, ZE002,
 * ZE005, ZE006, ZE007, what the callbacks and handlers raise, and ZE001 unless
 * rejections are to be caught.
 */
void
esrs_command_run(EsrsCommand *command, EsrsOutcome *outcome)
{
	EsrsAggregate *agg;

	esrs_aggregate_check_command_right(esrs_aggregate_lookup(command->aggregate));
	agg = esrs_aggregate_lookup_locked(command->aggregate, RowExclusiveLock);

	/* again: it may have been altered during the wait */
	esrs_aggregate_check_command_right(agg);
	run_framed(command, agg, outcome, run_command);
}

/* Store events without deciding.  The current user needs INSERT on the table. */
void
esrs_command_persist(EsrsCommand *command, EsrsOutcome *outcome)
{
	EsrsAggregate *agg;

	esrs_aggregate_check_table_right(esrs_aggregate_lookup(command->aggregate), ACL_INSERT);
	agg = esrs_aggregate_lookup_locked(command->aggregate, RowExclusiveLock);
	esrs_aggregate_check_table_right(agg, ACL_INSERT);
	run_framed(command, agg, outcome, run_persist);
}

/*
 * Delete an instance and return the number of its events.  The current user
 * needs DELETE on the table.
 */
uint64
esrs_command_delete(const char *aggregate, const pg_uuid_t *id, bool permanent)
{
	EsrsCommand command = {.aggregate = aggregate,.aggregate_id = *id};
	EsrsAggregate *volatile agg;
	EsrsInstance *instance;
	Frame		frame;
	volatile uint64 n = 0;

	esrs_aggregate_check_table_right(esrs_aggregate_lookup(aggregate), ACL_DELETE);
	agg = esrs_aggregate_lookup_locked(aggregate, RowExclusiveLock);
	esrs_aggregate_check_table_right(agg, ACL_DELETE);
	prepare_frame(&frame, agg, id);
	innermost = &frame;
	PG_TRY();
	{
		int64		position;

		agg = lock_instance(agg, id);
		if (agg->snapshot_every > 0)
			(void) esrs_snapshot_lock(agg, ShareLock, true);
		CommandCounterIncrement();
		PushActiveSnapshot(GetTransactionSnapshot());
		instance = esrs_state_peek(agg, id, GetActiveSnapshot());
		esrs_state_check_current(instance);
		permanent = permanent && !esrs_ledger_is_gone(agg, id, GetLatestSnapshot());
		PopActiveSnapshot();
		if (instance->sequence_number > 0)
			n = esrs_ledger_delete_events(agg, id);
		if (agg->snapshot_every > 0)
			esrs_snapshot_delete(agg, id);
		if (n > 0 || permanent)
		{
			position = esrs_ledger_record_deletion(agg, id, command_time(instance),
												   instance->sequence_number, permanent,
												   esrs_metadata_complete(&command));
			esrs_notify_deleted(agg, id, position);
		}
		esrs_transactional_delete(agg, id, frame.depth);
	}
	PG_FINALLY();
	{
		innermost = frame.outer;
	}
	PG_END_TRY();
	return n;
}
