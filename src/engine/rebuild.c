/*-------------------------------------------------------------------------
 *
 * rebuild.c
 *	  Making read models anew: what an event handler has written is deleted, and
 *	  it is called again with the events.
 *
 * in_place: in one transaction.  For transactional handlers the tables of events
 * are locked against writers first, so that no event comes in between.  For
 * asynchronous ones the checkpoints are locked, all events up to the safe position
 * are replayed, and the checkpoints are put there: what comes later is live.
 *
 * per_aggregate: instance by instance, each in a transaction of its own, under the
 * lock of the instance or, for asynchronous handlers, of their checkpoint.  The
 * events that such a handler has handled already are replayed, no others, so the
 * checkpoint stays where it is.
 *
 * The bound, or the lock, always comes before the snapshot with which is read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "esrs.h"

#include "access/xact.h"
#include "base/security.h"
#include "base/spi.h"
#include "base/uuid.h"
#include "catalog/checkpoint.h"
#include "catalog/demand.h"
#include "catalog/event_table.h"
#include "catalog/pg_type.h"
#include "catalog/rebuild_state.h"
#include "engine/arguments.h"
#include "engine/procedures.h"
#include "engine/rebuild_progress.h"
#include "handler/batch.h"
#include "handler/dead_letter.h"
#include "handler/invoke.h"
#include "handler/replay.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "signal/wakeup.h"
#include "storage/lock.h"
#include "store/instances.h"
#include "store/lock.h"
#include "store/position.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(esrs_rebuild);

/* 4th field of the tag; see lock.c for the others */
#define REBUILD_LOCK_CLASS	0xE548

/* So many events are replayed, and so many ids read, at once. */
#define PORTION				1000

/* One call of the procedure. */
typedef struct Rebuild
{
	List	   *names;			/* of the handlers, of char *, sorted */
	char	   *label;			/* the same as one text */
	bool		nonatomic;
	ArrayType  *truncate;		/* regclass[], or NULL */
	EsrsReplay	replay;
	uint32	   *hashes;			/* of the names of its aggregates */
	bool		async;
	MemoryContext context;		/* of what "replay" holds */
	uint64		generation;		/* of the catalogs when it was read */
	uint64		code_epoch;
	EsrsRebuildProgress progress;
} Rebuild;

/* ------------------------------------------------------------------------
 * What is rebuilt
 * ------------------------------------------------------------------------
 */

static int
by_ordinal(const ListCell *a, const ListCell *b)
{
	int64		x = ((EsrsReplayed *) lfirst(a))->consumer->ordinal;
	int64		y = ((EsrsReplayed *) lfirst(b))->consumer->ordinal;

	return x < y ? -1 : x > y;
}

static int
by_name(const ListCell *a, const ListCell *b)
{
	return strcmp((char *) lfirst(a), (char *) lfirst(b));
}

static void
check_handler(Rebuild *r, EsrsConsumer *consumer)
{
	esrs_consumer_check_right(consumer);
	if (!consumer->replayable)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("event handler \"%s\" is not replayable", consumer->name),
				 errhint("If it may see events twice, set its option \"replayable\" to true.")));
	if (!r->nonatomic && consumer->handler->run_as != GetUserId())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("event handler \"%s\" cannot be rebuilt in a transaction of another role",
						consumer->name),
				 errhint("Call the procedure outside of a transaction block, or SET ROLE \"%s\" first.",
						 GetUserNameFromId(consumer->handler->run_as, false))));
	if (consumer->handler->delete_signature == NULL && r->truncate == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("event handler \"%s\" does not say how to delete what it has written",
						consumer->name),
				 errhint("Give it a delete_handler with esrs_alter_handler(), or name the tables in \"truncate\".")));
	esrs_invoke_resolve(consumer->handler);
}

/* What handlers of one call must have in common. */
static void
check_alike(EsrsConsumer *first, EsrsConsumer *other)
{
	if (other->handler->run_as != first->handler->run_as)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("event handlers \"%s\" and \"%s\" cannot be rebuilt together",
						first->name, other->name),
				 errdetail("They run as different roles.")));
	if (other->async != first->async)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("event handlers \"%s\" and \"%s\" cannot be rebuilt together",
						first->name, other->name),
				 errdetail("One is transactional, and the other asynchronous.")));
}

/*
 * Read the handlers, in the context of the rebuild, unless they are known and
 * nothing has changed since.
 */
static void
load_handlers(Rebuild *r)
{
	MemoryContext before;
	List	   *handlers = NIL;
	ListCell   *lc;

	AcceptInvalidationMessages();
	(void) esrs_demand_worker();	/* takes note of the catalogs */
	if (r->generation == esrs_demand_generation() &&
		r->code_epoch == esrs_aggregate_code_epoch())
		return;
	r->generation = esrs_demand_generation();
	r->code_epoch = esrs_aggregate_code_epoch();
	esrs_feed_close(&r->replay.feed);
	r->replay.handlers = NIL;
	MemoryContextReset(r->context);
	before = MemoryContextSwitchTo(r->context);
	foreach(lc, r->names)
	{
		EsrsReplayed *replayed = palloc0(sizeof(EsrsReplayed));

		replayed->consumer = esrs_consumer_load((char *) lfirst(lc));
		if (replayed->consumer == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("event handler \"%s\" does not exist", (char *) lfirst(lc)),
					 errhint("Registered handlers are in the view esrs_handlers.")));
		check_handler(r, replayed->consumer);
		if (handlers != NIL)
			check_alike(((EsrsReplayed *) linitial(handlers))->consumer, replayed->consumer);
		handlers = lappend(handlers, replayed);
	}
	list_sort(handlers, by_ordinal);
	r->replay.handlers = handlers;
	r->async = ((EsrsReplayed *) linitial(handlers))->consumer->async;
	MemoryContextSwitchTo(before);
}

/*
 * Look up the aggregates of all handlers, with their tables locked until the
 * transaction ends, always in the same order.  In the current context.
 */
static void
lock_aggregates(Rebuild *r, LOCKMODE mode)
{
	List	   *names = NIL;
	ListCell   *lc;
	ListCell   *name;

	foreach(lc, r->replay.handlers)
	{
		foreach(name, ((EsrsReplayed *) lfirst(lc))->consumer->aggregates)
		{
			ListCell   *known;
			bool		found = false;

			foreach(known, names)
			{
				found |= strcmp((char *) lfirst(known), (char *) lfirst(name)) == 0;
			}
			if (!found)
				names = lappend(names, lfirst(name));
		}
	}
	list_sort(names, by_name);
	r->replay.aggregates = NIL;
	r->hashes = palloc(sizeof(uint32) * list_length(names));
	foreach(lc, names)
	{
		EsrsAggregate *agg = esrs_aggregate_lookup_locked((char *) lfirst(lc), mode);

		r->hashes[foreach_current_index(lc)] = agg->hash;
		r->replay.aggregates = lappend(r->replay.aggregates, agg);
	}
	foreach(lc, r->replay.handlers)
	{
		uint32	   *hashes;

		/* that their role sees all events */
		(void) esrs_consumer_aggregates(((EsrsReplayed *) lfirst(lc))->consumer, &hashes);
	}
}

static void
replay_progress(EsrsReplay *replay, int64 events)
{
	Rebuild    *r = (Rebuild *) replay->arg;

	esrs_rebuild_progress_advance(&r->progress, events, 0);
	if (strcmp(r->progress.shown.strategy, "in_place") == 0)
		esrs_rebuild_progress_throttle(&r->progress);
}

/* Nothing of the handlers may run at the commit, which is the caller's. */
static void
leave_nothing(Rebuild *r)
{
	if (r->nonatomic)
		esrs_batch_leave_nothing(((EsrsReplayed *) linitial(r->replay.handlers))->consumer);
}

/* ------------------------------------------------------------------------
 * in_place
 * ------------------------------------------------------------------------
 */

static void
truncate_tables(Rebuild *r)
{
	EsrsConsumer *consumer = ((EsrsReplayed *) linitial(r->replay.handlers))->consumer;
	EsrsIdentity before;
	StringInfoData sql;
	Datum	   *tables;
	int			n;

	deconstruct_array(r->truncate, REGCLASSOID, sizeof(Oid), true, TYPALIGN_INT, &tables, NULL, &n);
	initStringInfo(&sql);
	for (int i = 0; i < n; i++)
		appendStringInfo(&sql, "%s%s", i == 0 ? "TRUNCATE " : ", ",
						 esrs_event_table_name(DatumGetObjectId(tables[i])));
	esrs_security_act_as(&before, consumer->handler->run_as, consumer->search_path);
	esrs_spi_begin();
	esrs_spi_utility(sql.data);
	esrs_spi_end();
	esrs_security_restore(&before);
}

/* Call the delete handlers for all instances. */
static void
delete_all(Rebuild *r)
{
	pg_uuid_t  *ids = palloc(sizeof(pg_uuid_t) * PORTION);
	pg_uuid_t	last;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "esrs rebuild",
												  ALLOCSET_DEFAULT_SIZES);
	int			n = 0;
	bool		first = true;

	do
	{
		MemoryContext before = MemoryContextSwitchTo(context);

		n = esrs_instances_next(r->replay.aggregates, esrs_replay_role(&r->replay),
								first ? NULL : &last, ids, PORTION);
		for (int i = 0; i < n; i++)
		{
			esrs_replay_delete(&r->replay, &ids[i]);
			esrs_rebuild_progress_advance(&r->progress, 0, 1);
		}
		MemoryContextSwitchTo(before);
		MemoryContextReset(context);
		if (n > 0)
			last = ids[n - 1];
		first = false;
	} while (n == PORTION);
	MemoryContextDelete(context);
}

static void
count(Rebuild *r, int64 upto, bool with_instances)
{
	EsrsFeedRange range = {.upto = upto,.max = PG_INT64_MAX};
	EsrsIdentity before;
	TimestampTz oldest;

	esrs_rebuild_progress_phase(&r->progress, ESRS_REBUILD_COUNTING);
	esrs_security_become(&before, esrs_replay_role(&r->replay));
	esrs_security_restrict();
	r->progress.shown.events_total = esrs_feed_count(r->replay.aggregates, &range, &oldest);
	esrs_security_restore(&before);
	if (with_instances)
		r->progress.shown.instances_total =
			esrs_instances_count(r->replay.aggregates, esrs_replay_role(&r->replay));
}

/*
 * Keep others from handling, or for transactional handlers from appending, events
 * until the transaction ends; with the handlers as they are then.
 */
static void
lock_all(Rebuild *r)
{
	bool		async = r->async;
	ListCell   *lc;

	/* in this order, as whoever runs a handler */
	if (async)
	{
		foreach(lc, r->names)
		{
			(void) esrs_checkpoint_lock_all((char *) lfirst(lc));
		}
	}
	else
		lock_aggregates(r, ShareRowExclusiveLock);
	r->generation = 0;
	load_handlers(r);
	if (r->async != async)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("%s was changed by another session", r->label),
				 errhint("Call esrs_rebuild() again.")));
	lock_aggregates(r, async ? AccessShareLock : ShareRowExclusiveLock);
}

static void
rebuild_in_place(Rebuild *r)
{
	EsrsFeedRange range = {.upto = PG_INT64_MAX};
	ListCell   *lc;

	lock_all(r);
	if (r->async)
		range.upto = esrs_position_safe(r->hashes, list_length(r->replay.aggregates));

	count(r, range.upto, r->truncate == NULL);
	esrs_rebuild_progress_phase(&r->progress, ESRS_REBUILD_DELETING);
	if (r->truncate != NULL)
		truncate_tables(r);
	else
		delete_all(r);
	esrs_rebuild_progress_phase(&r->progress, ESRS_REBUILD_REPLAYING);
	esrs_replay_events(&r->replay, &range);

	esrs_rebuild_progress_phase(&r->progress, ESRS_REBUILD_FINISHING);
	if (r->async)
	{
		foreach(lc, r->replay.handlers)
		{
			EsrsConsumer *consumer = ((EsrsReplayed *) lfirst(lc))->consumer;

			esrs_dead_letter_forget(consumer, NULL);
			esrs_checkpoint_reset(consumer->name, consumer->partitions, range.upto);
		}
		esrs_wakeup_request();
	}
	leave_nothing(r);
	esrs_rebuild_state_delete(r->label);
}

/* ------------------------------------------------------------------------
 * Instance by instance
 * ------------------------------------------------------------------------
 */

/* Lock what keeps others from handling events of the instance. */
static void
lock_instance(Rebuild *r, const pg_uuid_t *id)
{
	ListCell   *lc;

	if (r->async)
	{
		/* by name, as all who lock the checkpoints of several handlers */
		foreach(lc, r->names)
		{
			ListCell   *other;

			foreach(other, r->replay.handlers)
			{
				EsrsReplayed *replayed = (EsrsReplayed *) lfirst(other);
				EsrsConsumer *consumer = replayed->consumer;

				if (strcmp(consumer->name, (char *) lfirst(lc)) != 0)
					continue;
				replayed->limited = true;
				if (!esrs_checkpoint_lock(consumer->name,
										  consumer->partitions > 1 ?
										  esrs_feed_partition(id, consumer->partitions) : 0,
										  true, &replayed->checkpoint))
					ereport(ERROR,
							(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
							 errmsg("event handler \"%s\" has no checkpoint", consumer->name),
							 errhint("Call esrs_check().")));
			}
		}
	}
	lock_aggregates(r, r->async ? AccessShareLock : RowExclusiveLock);
	foreach(lc, r->replay.aggregates)
	{
		if (!r->async)
			esrs_lock_instance((EsrsAggregate *) lfirst(lc), id);
	}
}

/* Make anew what the handlers have written of one instance, in this transaction. */
static void
rebuild_instance(Rebuild *r, const pg_uuid_t *id)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "esrs rebuild",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext before = MemoryContextSwitchTo(context);
	EsrsFeedRange range = {.upto = PG_INT64_MAX,.instance = id};
	ListCell   *lc;

	lock_instance(r, id);
	esrs_replay_delete(&r->replay, id);
	esrs_replay_events(&r->replay, &range);
	if (r->async)
	{
		foreach(lc, r->replay.handlers)
		{
			esrs_dead_letter_forget(((EsrsReplayed *) lfirst(lc))->consumer, id);
		}
	}
	leave_nothing(r);
	MemoryContextSwitchTo(before);
	MemoryContextDelete(context);
}

/* Only one rebuild of this kind at a time.  Until esrs_rebuild() ends. */
static void
set_lock_tag(const char *label, LOCKTAG *tag)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, 0, esrs_aggregate_hash(label), REBUILD_LOCK_CLASS);
}

/* Where to begin: where an earlier call has ended, or with nothing done. */
static bool
resume(Rebuild *r, bool wanted, EsrsRebuildState *state)
{
	char	   *version = esrs_rebuild_state_version(r->names);
	bool		found = esrs_rebuild_state_find(r->label, state);

	if (found && (!wanted || strcmp(state->version, version) != 0))
	{
		if (wanted)
			ereport(NOTICE,
					(errmsg("rebuild of %s begins anew", r->label),
					 errdetail("An unfinished one was made with another version of the event handler.")));
		esrs_rebuild_state_delete(r->label);
		found = false;
	}
	else if (found)
		ereport(NOTICE,
				(errmsg("rebuild of %s goes on", r->label),
				 errdetail("It was begun at %s, and " INT64_FORMAT " instances are done.",
						   timestamptz_to_str(state->started_at), state->instances)));
	if (!found)
	{
		memset(state, 0, sizeof(*state));
		state->started_at = GetCurrentTimestamp();
	}
	state->handlers = r->label;
	state->version = version;
	return found;
}

static void
rebuild_each(Rebuild *r, bool want_resume)
{
	EsrsRebuildPlace *shown = &r->progress.shown;
	pg_uuid_t  *ids = palloc(sizeof(pg_uuid_t) * PORTION);
	EsrsRebuildState state;
	bool		first = !resume(r, want_resume, &state);
	int			n;

	lock_aggregates(r, AccessShareLock);
	count(r, PG_INT64_MAX, true);
	shown->events = shown->events_before = state.events;
	shown->instances = state.instances;
	do
	{
		MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "esrs rebuild",
													  ALLOCSET_DEFAULT_SIZES);
		MemoryContext before = MemoryContextSwitchTo(context);

		load_handlers(r);
		lock_aggregates(r, AccessShareLock);
		n = esrs_instances_next(r->replay.aggregates, esrs_replay_role(&r->replay),
								first ? NULL : &state.last_id, ids, PORTION);
		esrs_procedure_commit();
		esrs_rebuild_progress_phase(&r->progress, ESRS_REBUILD_REPLAYING);
		for (int i = 0; i < n; i++)
		{
			MemoryContextSwitchTo(context);
			load_handlers(r);
			rebuild_instance(r, &ids[i]);
			esrs_rebuild_progress_advance(&r->progress, 0, 1);
			state.last_id = ids[i];
			state.instances = shown->instances;
			state.events = shown->events;
			esrs_rebuild_state_write(&state);
			esrs_procedure_commit();
			esrs_rebuild_progress_throttle(&r->progress);
		}
		MemoryContextSwitchTo(before);
		MemoryContextDelete(context);
		first = false;
	} while (n == PORTION);
	esrs_rebuild_state_delete(r->label);
}

/* ------------------------------------------------------------------------
 * The procedure
 * ------------------------------------------------------------------------
 */

/* The names of the handlers, sorted, each once. */
static void
set_names(Rebuild *r, FunctionCallInfo fcinfo)
{
	StringInfoData label;
	ListCell   *lc;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name of an event handler must not be null")));
	if (get_fn_expr_argtype(fcinfo->flinfo, 0) == TEXTARRAYOID)
	{
		Datum	   *names;
		bool	   *nulls;
		int			n;

		deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT, &names,
						  &nulls, &n);
		for (int i = 0; i < n; i++)
		{
			if (nulls[i])
				ereport(ERROR,
						(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						 errmsg("name of an event handler must not be null")));
			r->names = lappend(r->names, TextDatumGetCString(names[i]));
		}
	}
	else
		r->names = list_make1(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	if (r->names == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("no event handler is named")));
	list_sort(r->names, by_name);
	initStringInfo(&label);
	foreach(lc, r->names)
	{
		int			i = foreach_current_index(lc);

		if (i > 0 && strcmp((char *) lfirst(lc), (char *) list_nth(r->names, i - 1)) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("event handler \"%s\" is named twice", (char *) lfirst(lc))));
		appendStringInfo(&label, "%s\"%s\"", i == 0 ? "" : ", ", (char *) lfirst(lc));
	}
	r->label = label.data;
}

static void
set_truncate(Rebuild *r, FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(3))
		return;
	r->truncate = PG_GETARG_ARRAYTYPE_P_COPY(3);
	if (ArrayGetNItems(ARR_NDIM(r->truncate), ARR_DIMS(r->truncate)) == 0 ||
		array_contains_nulls(r->truncate))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"truncate\" must name tables"),
				 errhint("Leave it out for an event handler with a delete_handler.")));
}

static bool
is_per_aggregate(FunctionCallInfo fcinfo)
{
	char	   *strategy = PG_ARGISNULL(2) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(2));

	if (strcmp(strategy, "per_aggregate") == 0)
		return true;
	if (strcmp(strategy, "in_place") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("strategy must be \"in_place\" or \"per_aggregate\"")));
	return false;
}

/* What does not go together. */
static void
check_arguments(Rebuild *r, bool one, bool per_aggregate)
{
	if (r->progress.max_rate < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_rate must be at least 1")));
	if (r->truncate != NULL && (one || per_aggregate))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("tables cannot be truncated for a single instance"),
				 errhint("Leave \"truncate\" out: the delete_handler deletes what belongs to an instance.")));
	if (per_aggregate && !one && !r->nonatomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("a rebuild instance by instance cannot run inside a transaction block"),
				 errdetail("It commits after each instance."),
				 errhint("Call it outside of one, or use the strategy \"in_place\".")));
}

static void
run(Rebuild *r, const pg_uuid_t *id, bool per_aggregate, bool want_resume)
{
	LOCKTAG		tag;

	if (id != NULL || !per_aggregate)
	{
		load_handlers(r);
		if (id == NULL)
			rebuild_in_place(r);
		else
		{
			esrs_rebuild_progress_phase(&r->progress, ESRS_REBUILD_REPLAYING);
			rebuild_instance(r, id);
			esrs_rebuild_progress_advance(&r->progress, 0, 1);
		}
		return;
	}
	load_handlers(r);
	set_lock_tag(r->label, &tag);
	if (LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("another session is rebuilding %s", r->label),
				 errhint("See esrs_progress_rebuild.")));
	PG_TRY();
	{
		rebuild_each(r, want_resume);
	}
	PG_FINALLY();
	{
		(void) LockRelease(&tag, ExclusiveLock, true);
	}
	PG_END_TRY();
}

/*
 * PROCEDURE esrs_rebuild(handler(s), aggregate_id, strategy, truncate, max_rate, resume)
 *
 * Raises what a handler raises, with the event in its context; then the
 * transaction that it was called in is rolled back.
 */
Datum
esrs_rebuild(PG_FUNCTION_ARGS)
{
	Rebuild    *r = palloc0(sizeof(Rebuild));
	bool		per_aggregate = is_per_aggregate(fcinfo);
	pg_uuid_t  *id = PG_ARGISNULL(1) ? NULL : PG_GETARG_UUID_P(1);

	esrs_command_check_writable("esrs_rebuild()");
	esrs_procedure_refuse_inside_callback("esrs_rebuild()");
	r->nonatomic = esrs_procedure_may_commit(fcinfo);
	esrs_procedure_check_isolation(r->nonatomic);
	set_names(r, fcinfo);
	set_truncate(r, fcinfo);
	r->progress.max_rate = PG_ARGISNULL(4) ? 0 : PG_GETARG_INT32(4) > 0 ? PG_GETARG_INT32(4) : -1;
	check_arguments(r, id != NULL, per_aggregate);
	r->context = AllocSetContextCreate(CurrentMemoryContext, "esrs rebuild",
									   ALLOCSET_DEFAULT_SIZES);
	r->replay.portion = r->progress.max_rate > 0 ?
		Min(PORTION, Max(r->progress.max_rate / 10, 1)) : PORTION;
	r->replay.progress = replay_progress;
	r->replay.arg = r;

	esrs_procedure_connect(r->nonatomic);

	/* what the caller has done so far is not the handlers' business */
	if (r->nonatomic)
		esrs_procedure_commit();
	esrs_rebuild_progress_begin(&r->progress, r->label,
								id != NULL ? "one instance" : per_aggregate ? "per_aggregate" :
								"in_place");
	PG_TRY();
	{
		run(r, id, per_aggregate, PG_ARGISNULL(5) || PG_GETARG_BOOL(5));
	}
	PG_FINALLY();
	{
		esrs_rebuild_progress_end(&r->progress);
		esrs_feed_close(&r->replay.feed);
	}
	PG_END_TRY();
	ereport(NOTICE,
			(errmsg_plural("rebuilt %s: " INT64_FORMAT " event", "rebuilt %s: " INT64_FORMAT " events",
						   (unsigned long) r->progress.shown.events, r->label,
						   r->progress.shown.events)));
	SPI_finish();
	PG_RETURN_VOID();
}
