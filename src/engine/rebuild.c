/*-------------------------------------------------------------------------
 *
 * rebuild.c
 *	  The procedure esrs_rebuild(): its arguments, and what goes together.
 *
 * What is rebuilt is in rebuild_target.c; how in rebuild_in_place.c, rebuild_each.c and
 * rebuild_swap.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "esrs.h"

#include "engine/rebuild.h"

#include "catalog/aggregate.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "catalog/rebuild_state.h"
#include "engine/command.h"
#include "engine/procedures.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

PG_FUNCTION_INFO_V1(esrs_rebuild);

/* The last field of the tag, or one less: none of the extension's own locks as an object has it. */
#define REBUILD_LOCK_CLASS	0xE548

typedef enum Strategy
{
	IN_PLACE,
	PER_AGGREGATE,
	SWAP_TABLES
} Strategy;

static const char *const strategy_names[] = {"in_place", "per_aggregate", "swap"};

#define MAX_WORKERS		64

/* Their names are to be the key of a row. */
#define MAX_HANDLERS	32

/* The names of the handlers, sorted, each once. */
static void
set_names(EsrsRebuild *r, FunctionCallInfo fcinfo)
{
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
	if (list_length(r->names) > MAX_HANDLERS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("no more than %d event handlers can be rebuilt at once", MAX_HANDLERS)));
	if (r->names == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("no event handler is named")));
	esrs_rebuild_sort_names(r->names);
	foreach(lc, r->names)
	{
		int			i = foreach_current_index(lc);

		if (i > 0 && strcmp((char *) lfirst(lc), (char *) list_nth(r->names, i - 1)) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("event handler \"%s\" is named twice", (char *) lfirst(lc))));
	}
}

/* The tables that argument "n" names, or NULL. */
static ArrayType *
get_tables(FunctionCallInfo fcinfo, int n, const char *name, const char *hint)
{
	ArrayType  *tables;

	if (PG_ARGISNULL(n))
		return NULL;
	tables = PG_GETARG_ARRAYTYPE_P_COPY(n);
	if (ArrayGetNItems(ARR_NDIM(tables), ARR_DIMS(tables)) == 0 || array_contains_nulls(tables))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" must name tables", name),
				 errhint("%s", hint)));
	return tables;
}

static Strategy
get_strategy(FunctionCallInfo fcinfo)
{
	char	   *name = PG_ARGISNULL(2) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(2));

	for (int i = 0; i < lengthof(strategy_names); i++)
		if (strcmp(name, strategy_names[i]) == 0)
			return (Strategy) i;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("strategy must be \"in_place\", \"per_aggregate\" or \"swap\"")));
}

/* What does not go together. */
static void
check_arguments(EsrsRebuild *r, bool one, Strategy strategy)
{
	if (r->progress.max_rate < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_rate must be at least 1")));
	if (r->workers < 1 || r->workers > MAX_WORKERS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("workers must be from 1 to %d", MAX_WORKERS)));
	if (r->workers > 1 && (one || strategy != PER_AGGREGATE))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"workers\" is for the strategy \"per_aggregate\""),
				 errdetail("What is done in one transaction is done by one process.")));
	if ((r->tables != NULL) != (strategy == SWAP_TABLES))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 r->tables == NULL ? errmsg("strategy \"swap\" needs the names of the tables") :
				 errmsg("\"tables\" is for the strategy \"swap\""),
				 errhint("Name all tables that the event handler writes to in \"tables\"; in \"truncate\" those to be truncated in place.")));
	if (strategy == SWAP_TABLES && (one || r->truncate != NULL))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("strategy \"swap\" builds whole tables"),
				 errhint("Leave \"aggregate_id\" and \"truncate\" out.")));
	if (r->truncate != NULL && (one || strategy == PER_AGGREGATE))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("tables cannot be truncated for a single instance"),
				 errhint("Leave \"truncate\" out: the delete_handler deletes what belongs to an instance.")));
	if (strategy == SWAP_TABLES && !r->nonatomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("a rebuild beside the live tables cannot run inside a transaction block"),
				 errhint("Call it outside of one, or use the strategy \"in_place\".")));
	if (strategy == PER_AGGREGATE && !one && !r->nonatomic)
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("a rebuild instance by instance cannot run inside a transaction block"),
				 errdetail("It commits after each instance."),
				 errhint("Call it outside of one, or use the strategy \"in_place\".")));
}

/* A portion is done.  Who holds locks of single instances is slowed down between them. */
static void
replay_progress(EsrsReplay *replay, int64 events)
{
	EsrsRebuild *r = (EsrsRebuild *) replay->arg;

	esrs_rebuild_progress_advance(&r->progress, events, 0);
	if (r->throttled)
		esrs_rebuild_progress_throttle(&r->progress);
}

/* An event has been handled again: so it is told again. */
static void
replay_handled(EsrsReplay *replay, EsrsAggregate *agg, EsrsRecord *record)
{
	esrs_notify_again(((EsrsRebuild *) replay->arg)->again, agg, record);
}

/* Set what follows from the arguments, in the current context. */
void
esrs_rebuild_init(EsrsRebuild *r)
{
	StringInfoData label;
	ListCell   *lc;

	initStringInfo(&label);
	foreach(lc, r->names)
	{
		appendStringInfo(&label, "%s\"%s\"", foreach_current_index(lc) == 0 ? "" : ", ",
						 (char *) lfirst(lc));
	}
	r->label = label.data;
	r->context = AllocSetContextCreate(CurrentMemoryContext, "esrs rebuild",
									   ALLOCSET_DEFAULT_SIZES);
	r->replay.portion = r->progress.max_rate > 0 ?
		Min(ESRS_REBUILD_PORTION, Max(r->progress.max_rate / 10, 1)) : ESRS_REBUILD_PORTION;
	r->replay.progress = replay_progress;
	r->replay.arg = r;
	if (r->republish)
	{
		r->replay.handled = replay_handled;
		r->again = esrs_notify_again_begin();
	}
}

/*
 * Only one rebuild of this kind at a time, until esrs_rebuild() ends.  No advisory
 * lock: code of users could give that up.  "workers": the lock that its background workers
 * share, as long as there is one.
 */
void
esrs_rebuild_lock_tag(const char *label, bool workers, LOCKTAG *tag)
{
	SET_LOCKTAG_OBJECT(*tag, MyDatabaseId, ExtensionRelationId, esrs_aggregate_hash(label),
					   REBUILD_LOCK_CLASS + workers);
}

/*
 * All is made anew, in this transaction: what an unfinished rebuild instance by instance
 * has left is worth nothing, unless somebody is at it, who then comes to his own end.
 */
void
esrs_rebuild_forget_unfinished(EsrsRebuild *r)
{
	LOCKTAG		tag;

	esrs_rebuild_lock_tag(r->label, false, &tag);
	if (LockAcquire(&tag, ExclusiveLock, false, true) != LOCKACQUIRE_NOT_AVAIL)
		esrs_rebuild_state_delete(r->label);
}

/* Do what is asked for; the arguments are checked. */
static void
run(EsrsRebuild *r, const pg_uuid_t *id, Strategy strategy, bool want_resume)
{
	LOCKTAG		tag;
	LOCKTAG		workers_tag;

	(void) esrs_rebuild_load(r);
	if (id != NULL)
	{
		r->version = esrs_rebuild_state_version(r->names);
		esrs_rebuild_progress_phase(&r->progress, ESRS_REBUILD_REPLAYING);
		esrs_rebuild_instance(r, id);
		esrs_rebuild_progress_advance(&r->progress, 0, 1);
		return;
	}
	if (strategy != PER_AGGREGATE)
	{
		r->throttled = true;
		if (strategy == IN_PLACE)
			esrs_rebuild_in_place(r);
		else
			esrs_rebuild_swap(r);
		return;
	}
	esrs_rebuild_lock_tag(r->label, false, &tag);
	esrs_rebuild_lock_tag(r->label, true, &workers_tag);
	if (LockAcquire(&tag, ExclusiveLock, true, true) == LOCKACQUIRE_NOT_AVAIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("another session is rebuilding %s", r->label),
				 errhint("See esrs_progress_rebuild.")));
	PG_TRY();
	{
		/* whom an earlier caller has left behind is about to end */
		(void) LockAcquire(&workers_tag, ExclusiveLock, true, false);
		(void) LockRelease(&workers_tag, ExclusiveLock, true);
		esrs_rebuild_each(r, want_resume);
	}
	PG_FINALLY();
	{
		(void) LockRelease(&tag, ExclusiveLock, true);
	}
	PG_END_TRY();
}

/*
 * PROCEDURE esrs_rebuild(handler(s), aggregate_id, strategy, truncate, max_rate,
 *						  resume, tables, workers, republish)
 *
 * Raises what a handler raises, with the event in its context; then the
 * transaction that it was called in is rolled back.
 */
Datum
esrs_rebuild(PG_FUNCTION_ARGS)
{
	EsrsRebuild *r = palloc0(sizeof(EsrsRebuild));
	Strategy	strategy = get_strategy(fcinfo);
	pg_uuid_t  *id = PG_ARGISNULL(1) ? NULL : PG_GETARG_UUID_P(1);

	esrs_command_check_writable("esrs_rebuild()");
	esrs_procedure_refuse_inside_callback("esrs_rebuild()");
	r->nonatomic = esrs_procedure_may_commit(fcinfo);
	esrs_procedure_check_isolation(r->nonatomic);
	set_names(r, fcinfo);
	r->truncate = get_tables(fcinfo, 3, "truncate",
							 "Leave it out for an event handler with a delete_handler.");
	r->tables = get_tables(fcinfo, 6, "tables", "It is for the strategy \"swap\".");
	r->progress.max_rate = PG_ARGISNULL(4) ? 0 : PG_GETARG_INT32(4) > 0 ? PG_GETARG_INT32(4) : -1;
	r->workers = PG_ARGISNULL(7) ? 1 : PG_GETARG_INT32(7);
	r->republish = !PG_ARGISNULL(8) && PG_GETARG_BOOL(8);
	check_arguments(r, id != NULL, strategy);
	esrs_rebuild_init(r);

	esrs_procedure_connect(r->nonatomic);

	/* what the caller has done so far is not the handlers' business */
	if (r->nonatomic)
		esrs_procedure_commit();
	esrs_rebuild_progress_begin(&r->progress, r->label,
								id != NULL ? "one instance" : strategy_names[strategy]);
	PG_TRY();
	{
		run(r, id, strategy, PG_ARGISNULL(5) || PG_GETARG_BOOL(5));
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
