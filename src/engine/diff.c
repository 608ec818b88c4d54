/*-------------------------------------------------------------------------
 *
 * diff.c
 *	  SQL function esrs_diff(): every instance whose state would be another one
 *	  if the aggregate had other functions.
 *
 * Works as the current user, who needs EXECUTE on the functions that he names.
 * Writes nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/diff.h"

#include "access/xact.h"
#include "base/jsonb_codec.h"
#include "catalog/extension.h"
#include "catalog/register.h"
#include "engine/arguments.h"
#include "engine/history.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

PG_FUNCTION_INFO_V1(esrs_diff);

/* One of the two folds. */
typedef struct Side
{
	EsrsRoutine *routine;
	EsrsState  *state;
	EsrsFoldError *error;
	Jsonb	   *json;
} Side;

typedef struct Diff
{
	EsrsHistory history;
	Side		now;
	Side		then;
	int32		sequence_number;
	Tuplestorestate *store;
	TupleDesc	desc;
} Diff;

static void
begin_side(Diff *d, Side *side)
{
	side->state = esrs_callback_init_state(d->history.call, side->routine, d->history.context);
	side->error = NULL;
	side->json = NULL;
	esrs_call_reset(d->history.call);
}

static void
begin_instance(EsrsHistory *h)
{
	Diff	   *d = (Diff *) h;

	begin_side(d, &d->now);
	begin_side(d, &d->then);
}

static void
fold_side(Diff *d, Side *side, const EsrsRecord *record)
{
	bool		deprecated;

	if (side->error == NULL)
		side->error = esrs_history_fold(&d->history, side->routine, side->state, record,
										&deprecated);
}

static void
fold_both(EsrsHistory *h, EsrsRecord *record)
{
	Diff	   *d = (Diff *) h;

	fold_side(d, &d->now, record);
	fold_side(d, &d->then, record);
	d->sequence_number = record->sequence_number;
}

static void
end_side(Diff *d, Side *side)
{
	if (side->error == NULL)
		side->error = esrs_history_json(&d->history, side->routine, side->state, &side->json);
}

static void
append_error(StringInfo out, const char *which, const EsrsFoldError *error)
{
	if (error == NULL)
		return;
	appendStringInfo(out, "%s%s raises %s", out->len > 0 ? "; " : "", which, error->sqlstate);
	if (error->sequence_number > 0)
		appendStringInfo(out, " at sequence_number %d", error->sequence_number);
	appendStringInfo(out, ": %s", error->message);
}

static void
compare(EsrsHistory *h)
{
	Diff	   *d = (Diff *) h;
	StringInfoData error;
	Datum		values[5];
	bool		nulls[5] = {false};

	end_side(d, &d->now);
	end_side(d, &d->then);
	if (d->now.error == NULL && d->then.error == NULL && d->now.json != NULL &&
		d->then.json != NULL && esrs_jsonb_equal(d->now.json, d->then.json))
		return;
	initStringInfo(&error);
	append_error(&error, "the present fold", d->now.error);
	append_error(&error, "the new fold", d->then.error);
	values[0] = UUIDPGetDatum(&h->id);
	values[1] = Int32GetDatum(d->sequence_number);
	values[2] = JsonbPGetDatum(d->now.json);
	nulls[2] = d->now.json == NULL;
	values[3] = JsonbPGetDatum(d->then.json);
	nulls[3] = d->then.json == NULL;
	values[4] = CStringGetTextDatum(error.data);
	nulls[4] = error.len == 0;
	tuplestore_putvalues(d->store, d->desc, values, nulls);
}

/* ------------------------------------------------------------------------
 * The candidate
 * ------------------------------------------------------------------------
 */

static void
refuse(const char *message, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg_internal("%s", message),
			 hint ? errhint("%s", hint) : 0));
}

/* Put a function in its place; false if none is given. */
static bool
name_function(FunctionCallInfo fcinfo, int n, EsrsRoutine *routine, EsrsCallback callback)
{
	Oid			function;

	if (PG_ARGISNULL(n))
		return false;
	function = esrs_function_parse(text_to_cstring(PG_GETARG_TEXT_PP(n)));
	esrs_register_check_execute(function);
	esrs_routine_check_function(callback, function, esrs_extension()->handler_type);
	esrs_function_init(&routine->functions[callback], function, CurrentMemoryContext);
	return true;
}

/*
 * The aggregate's routine with the arguments of esrs_diff() in the place of what
 * is registered.
 */
static EsrsRoutine *
make_candidate(FunctionCallInfo fcinfo, EsrsAggregate *agg)
{
	EsrsRoutine *routine = palloc(sizeof(EsrsRoutine));
	bool		sql;

	*routine = agg->routine;

	/* its own way of calling them, as both are called in turn */
	for (int i = 0; i < ESRS_CALLBACK_COUNT; i++)
		esrs_function_init(&routine->functions[i], agg->routine.functions[i].oid,
						   CurrentMemoryContext);
	if (!PG_ARGISNULL(6))
	{
		for (int i = 1; i < 6; i++)
			if (!PG_ARGISNULL(i))
				refuse("a handler written in C cannot be combined with functions of SQL", NULL);
		memset(routine, 0, sizeof(*routine));
		routine->kind = ESRS_KIND_C;
		(void) name_function(fcinfo, 6, routine, ESRS_CALLBACK_HANDLER);
		esrs_routine_load_c(routine);
		return routine;
	}
	sql = !PG_ARGISNULL(1) && routine->kind != ESRS_KIND_SQL;
	if (sql)
	{
		/* from C, or from nothing: what is not given is not there */
		memset(routine, 0, sizeof(*routine));
		routine->kind = ESRS_KIND_SQL;
	}
	sql |= name_function(fcinfo, 1, routine, ESRS_CALLBACK_APPLY_EVENT);
	sql |= name_function(fcinfo, 2, routine, ESRS_CALLBACK_UPCAST);
	sql |= name_function(fcinfo, 3, routine, ESRS_CALLBACK_TO_EVENT);
	if (!PG_ARGISNULL(4))
	{
		sql = true;
		routine->initial_state = PG_GETARG_JSONB_P(4);
	}
	if (!PG_ARGISNULL(5))
	{
		sql = true;
		routine->has_version = true;
		routine->event_version = PG_GETARG_INT32(5);
		if (routine->event_version < 0)
			refuse("option \"event_version\" must not be negative", NULL);
	}
	if (!sql)
		refuse("esrs_diff() needs something that is to be different",
			   "Give it apply_event, upcast, to_event, initial_state, event_version or handler.");
	if (routine->kind != ESRS_KIND_SQL)
		refuse("an aggregate that is not written in SQL can only be compared with another apply_event or handler",
			   NULL);
	return routine;
}

/*
 * esrs_diff(aggregate, apply_event, upcast, to_event, initial_state, event_version,
 * handler) returns setof (aggregate_id, sequence_number, state, new_state, error)
 */
Datum
esrs_diff(PG_FUNCTION_ARGS)
{
	Diff	   *d = palloc0(sizeof(Diff));
	EsrsAggregate *agg = esrs_history_aggregate(esrs_arguments_aggregate(fcinfo, 0));

	d->history.what = "esrs_diff()";
	d->history.agg = agg;
	d->history.begin = begin_instance;
	d->history.event = fold_both;
	d->history.end = compare;
	d->now.routine = &agg->routine;
	d->then.routine = make_candidate(fcinfo, agg);
	d->store = esrs_arguments_begin_set(fcinfo, &d->desc);
	CommandCounterIncrement();
	d->history.snapshot = RegisterSnapshot(GetTransactionSnapshot());
	esrs_history_walk(&d->history);
	UnregisterSnapshot(d->history.snapshot);
	return (Datum) 0;
}
