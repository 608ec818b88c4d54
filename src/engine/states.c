/*-------------------------------------------------------------------------
 *
 * states.c
 *	  SQL functions that fold many instances at once: esrs_states(), and the
 *	  transition function of the SQL aggregates <name>_state.
 *
 * Both work as the current user.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/states.h"

#include "access/xact.h"
#include "base/jsonb_codec.h"
#include "catalog/datum.h"
#include "catalog/state_aggregate.h"
#include "compat.h"
#include "engine/arguments.h"
#include "engine/history.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "nodes/primnodes.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(esrs_states);
PG_FUNCTION_INFO_V1(esrs_fold);

#define STATE_SUFFIX	"_state"

/* ------------------------------------------------------------------------
 * All instances
 * ------------------------------------------------------------------------
 */
typedef struct States
{
	EsrsHistory history;
	TimestampTz at_time;
	bool		past;			/* the instance's later events are not folded */
	int32		sequence_number;
	EsrsState  *state;
	Tuplestorestate *store;
	TupleDesc	desc;
} States;

static void
begin_state(EsrsHistory *h)
{
	States	   *s = (States *) h;

	s->past = false;
	s->sequence_number = 0;
	s->state = esrs_callback_init_state(h->call, &h->agg->routine, h->context);
	esrs_call_reset(h->call);
}

static void
fold_state(EsrsHistory *h, EsrsRecord *record)
{
	States	   *s = (States *) h;

	s->past |= record->occurred_on > s->at_time;
	if (s->past)
		return;
	(void) esrs_event_fold(h->call, &h->agg->routine, s->state, record);
	s->sequence_number = record->sequence_number;
}

static void
put_state(EsrsHistory *h)
{
	States	   *s = (States *) h;
	Jsonb	   *state;
	Datum		values[3];
	bool		nulls[3] = {false};

	if (s->sequence_number == 0)
		return;
	state = esrs_callback_state_json(h->call, &h->agg->routine, s->state);
	values[0] = UUIDPGetDatum(&h->id);
	values[1] = Int32GetDatum(s->sequence_number);
	values[2] = JsonbPGetDatum(state);
	nulls[2] = state == NULL;
	tuplestore_putvalues(s->store, s->desc, values, nulls);
}

/* esrs_states(aggregate, at_time) returns setof esrs_state */
Datum
esrs_states(PG_FUNCTION_ARGS)
{
	States	   *s = palloc0(sizeof(States));

	s->history.what = "esrs_states()";
	s->history.agg = esrs_aggregate_lookup_locked(esrs_arguments_aggregate(fcinfo, 0),
												  AccessShareLock);
	s->history.begin = begin_state;
	s->history.event = fold_state;
	s->history.end = put_state;
	s->at_time = PG_ARGISNULL(1) ? DT_NOEND : PG_GETARG_TIMESTAMPTZ(1);
	s->store = esrs_arguments_begin_set(fcinfo, &s->desc);
	CommandCounterIncrement();
	s->history.snapshot = RegisterSnapshot(GetTransactionSnapshot());
	esrs_history_walk(&s->history);
	UnregisterSnapshot(s->history.snapshot);
	return (Datum) 0;
}

/* ------------------------------------------------------------------------
 * <name>_state
 * ------------------------------------------------------------------------
 */

/* What a query keeps from row to row. */
typedef struct Folding
{
	char		name[NAMEDATALEN];
	EsrsCall   *call;
} Folding;

/*
 * The payloads come from the query, not from the table: whoever calls the
 * functions with them must have the right to call them.
 */
static void
check_functions(EsrsAggregate *agg)
{
	static const EsrsCallback called[] = {
		ESRS_CALLBACK_APPLY_EVENT, ESRS_CALLBACK_UPCAST, ESRS_CALLBACK_TO_EVENT
	};

	for (int i = 0; i < lengthof(called); i++)
	{
		Oid			function = agg->routine.functions[called[i]].oid;

		if (OidIsValid(function) &&
			esrs_proc_aclcheck(function, GetUserId(), ACL_EXECUTE) != ACLCHECK_OK)
			aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_FUNCTION, get_func_name(function));
	}
}

static void
not_together(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("states of two aggregates cannot be folded side by side"),
			 errdetail("PostgreSQL does not tell their steps apart."),
			 errhint("Fold each in a subquery of its own.")));
}

/*
 * The SQL aggregate of which a call of esrs.fold() is a part, or InvalidOid.  In a
 * window PostgreSQL does not tell which of its functions is being stepped; and it
 * shares the steps of aggregates that look alike.
 */
static Oid
calling_aggregate(FunctionCallInfo fcinfo)
{
	Aggref	   *aggref = AggGetAggref(fcinfo);
	Oid			found = InvalidOid;
	ListCell   *lc;

	if (aggref != NULL)
	{
		if (AggStateIsShared(fcinfo))
			not_together();
		return aggref->aggfnoid;
	}
	if (AggCheckCallContext(fcinfo, NULL) != AGG_CONTEXT_WINDOW)
		return InvalidOid;
	foreach(lc, ((WindowAggState *) fcinfo->context)->funcs)
	{
		Oid			function = ((WindowFuncExprState *) lfirst(lc))->wfunc->winfnoid;

		if (esrs_state_aggregate_transition(function) != fcinfo->flinfo->fn_oid)
			continue;
		if (OidIsValid(found) && found != function)
			not_together();
		found = function;
	}
	return found;
}

/*
 * The aggregate <name>_state of which this call is a part tells the name.  It must
 * be the one of the owner of the events table: else whoever registers that name
 * could have his functions called in the queries of others.
 */
static Folding *
begin_folding(FunctionCallInfo fcinfo)
{
	static const pg_uuid_t no_id = {{0}};
	Oid			aggregate = calling_aggregate(fcinfo);
	char	   *function = OidIsValid(aggregate) ? get_func_name(aggregate) : NULL;
	size_t		length = function ? strlen(function) : 0;
	size_t		suffix = strlen(STATE_SUFFIX);
	EsrsAggregate *agg;
	MemoryContext before;
	Folding    *folding;

	if (length <= suffix || strcmp(function + length - suffix, STATE_SUFFIX) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("function %s works only as a part of the aggregate <name>%s",
						"esrs.fold", STATE_SUFFIX)));
	function[length - suffix] = '\0';
	agg = esrs_aggregate_lookup(function);
	if (esrs_function_owner(aggregate) != agg->owner)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("function %s does not belong to the owner of table %s",
						format_procedure(aggregate), agg->table),
				 errhint("ALTER AGGREGATE ... OWNER TO %s; or drop it, and call esrs_alter_aggregate('%s', '{}').",
						 quote_identifier(GetUserNameFromId(agg->owner, false)), agg->name)));
	if (PG_NARGS() == 2 && OidIsValid(agg->routine.functions[ESRS_CALLBACK_UPCAST].oid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("payloads of aggregate \"%s\" are upcast by their version", agg->name),
				 errhint("Use %s%s(payload, version).", agg->name, STATE_SUFFIX)));
	check_functions(agg);
	before = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	folding = palloc0(sizeof(Folding));
	strlcpy(folding->name, agg->name, NAMEDATALEN);
	folding->call = esrs_call_begin(folding->name, &no_id, GetCurrentTimestamp(), NULL);
	MemoryContextSwitchTo(before);
	fcinfo->flinfo->fn_extra = folding;
	return folding;
}

/*
 * esrs.fold(state, payload) and esrs.fold(state, payload, version) return jsonb: one
 * step of <name>_state
 */
Datum
esrs_fold(PG_FUNCTION_ARGS)
{
	Folding    *folding = (Folding *) fcinfo->flinfo->fn_extra;
	EsrsAggregate *agg;
	EsrsEvent	event = {.version = PG_NARGS() < 3 || PG_ARGISNULL(2) ?
	ESRS_NO_VERSION : PG_GETARG_INT32(2)};
	EsrsState  *state;

	if (folding == NULL)
		folding = begin_folding(fcinfo);
	agg = esrs_aggregate_lookup(folding->name);
	if (agg->routine.kind != ESRS_KIND_SQL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("aggregate \"%s\" has no functions of SQL to fold with", agg->name),
				 errhint("Use esrs_states('%s').", agg->name)));
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
	{
		/* a null is what an outer join makes of no event */
		if (PG_ARGISNULL(0))
			PG_RETURN_NULL();
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	}
	event.payload = esrs_callback_present_form(folding->call, &agg->routine,
											   PG_GETARG_JSONB_P(1), event.version);
	if (event.payload == NULL)
	{
		esrs_call_reset(folding->call);
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	}
	state = esrs_callback_restore_state(folding->call, &agg->routine, PG_GETARG_JSONB_P(0),
										CurrentMemoryContext);
	esrs_callback_apply(folding->call, &agg->routine, state, &event);
	esrs_call_reset(folding->call);
	PG_RETURN_JSONB_P(state->jsonb);
}
