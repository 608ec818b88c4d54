/*-------------------------------------------------------------------------
 *
 * rehearsal.c
 *	  SQL functions that try things out: what a command would bring about, and
 *	  given/when/then tests.
 *
 * Both decide within a subtransaction that is always rolled back, so that not
 * even a function that writes leaves a trace.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/rehearsal.h"

#include "access/xact.h"
#include "base/jsonb_codec.h"
#include "catalog/pg_type.h"
#include "engine/arguments.h"
#include "engine/state.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(esrs_decide);
PG_FUNCTION_INFO_V1(esrs_test);

/* A decision that leaves no trace. */
typedef struct Rehearsal
{
	EsrsAggregate *agg;
	pg_uuid_t	id;
	Jsonb	   *command;
	List	   *given;			/* of Jsonb: fold these, or ... */
	bool		load;			/* ... load the instance */
	List	   *events;
	EsrsRejection *rejection;
} Rehearsal;

static void
fold_given(EsrsCall *call, EsrsInstance *instance, List *given)
{
	ListCell   *lc;

	foreach(lc, given)
	{
		EsrsRecord	record = {0};

		record.event = record.payload = (Jsonb *) lfirst(lc);
		record.aggregate_id = instance->id;
		record.version = ESRS_NO_VERSION;
		record.occurred_on = call->now;
		record.sequence_number = foreach_current_index(lc) + 1;
		(void) esrs_event_fold(call, &instance->agg->routine, instance->state, &record);
	}
}

/* The events must be ones that could be stored and read back. */
static void
check_forms(EsrsCall *call, Rehearsal *r)
{
	EsrsRoutine *routine = &r->agg->routine;
	int32		version = routine->has_version ? routine->event_version : ESRS_NO_VERSION;
	ListCell   *lc;

	foreach(lc, r->events)
	{
		Jsonb	   *event = (Jsonb *) lfirst(lc);
		Jsonb	   *stored = esrs_callback_stored_form(call, routine, event);

		esrs_callback_check_form(call, routine, event, stored, version);
		esrs_call_reset(call);
	}
}

static void
rehearse_body(Rehearsal *r)
{
	EsrsCall   *call = esrs_call_begin(r->agg->name, &r->id, GetCurrentTimestamp(), NULL);
	EsrsInstance *instance;

	PushActiveSnapshot(GetTransactionSnapshot());
	if (r->load)
		instance = esrs_state_load(call, r->agg, &r->id, ESRS_LOAD_ALL,
								   GetActiveSnapshot(), false);
	else
	{
		instance = palloc0(sizeof(EsrsInstance));
		instance->agg = r->agg;
		instance->id = r->id;
		instance->state = esrs_callback_init_state(call, &r->agg->routine,
												   CurrentMemoryContext);
		fold_given(call, instance, r->given);
	}
	r->rejection = esrs_callback_decide(call, &r->agg->routine, instance->state,
										r->command, true, &r->events);
	esrs_state_keep(instance);
	check_forms(call, r);
	PopActiveSnapshot();
	esrs_call_end(call);
}

/* Decide, and roll back whatever that did.  Results in the current context. */
static void
rehearse(Rehearsal *r)
{
	MemoryContext before = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	CommandCounterIncrement();
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(before);
	PG_TRY();
	{
		rehearse_body(r);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(before);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(before);
		CurrentResourceOwner = owner;
		ReThrowError(error);
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(before);
	CurrentResourceOwner = owner;
}

/* esrs_decide(aggregate, aggregate_id, command) returns setof jsonb */
Datum
esrs_decide(PG_FUNCTION_ARGS)
{
	Rehearsal	r = {0};
	Tuplestorestate *store;
	TupleDesc	desc;
	EsrsCommand command;
	ListCell   *lc;

	memset(&command, 0, sizeof(command));
	command.aggregate = esrs_arguments_aggregate(fcinfo, 0);
	r.id = *esrs_arguments_id(fcinfo, 1);
	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", "command")));
	r.command = PG_GETARG_JSONB_P(2);
	esrs_arguments_check_command(r.command);
	r.agg = esrs_aggregate_lookup_locked(command.aggregate, AccessShareLock);
	esrs_aggregate_check_command_right(r.agg);
	r.load = true;
	rehearse(&r);
	if (r.rejection != NULL)
		esrs_rejection_raise(r.rejection);
	store = esrs_arguments_begin_set(fcinfo, &desc);
	foreach(lc, r.events)
	{
		Datum		value = JsonbPGetDatum((Jsonb *) lfirst(lc));
		bool		isnull = false;

		tuplestore_putvalues(store, desc, &value, &isnull);
	}
	return (Datum) 0;
}

/* ------------------------------------------------------------------------
 * given/when/then
 * ------------------------------------------------------------------------
 */

/* The events of an argument; 22004 for a null among them. */
static List *
events_arg(FunctionCallInfo fcinfo, int n, const char *what)
{
	List	   *result = NIL;
	Datum	   *values;
	bool	   *nulls;
	int			count;

	if (PG_ARGISNULL(n))
		return NIL;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(n), JSONBOID, -1, false, TYPALIGN_INT,
					  &values, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		Jsonb	   *event;

		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not contain nulls", what)));
		event = DatumGetJsonbP(values[i]);
		if (!esrs_jsonb_is_document(event))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("%s must contain JSON objects and strings only", what)));
		result = lappend(result, event);
	}
	return result;
}

static bool
same_events(List *a, List *b)
{
	ListCell   *x;
	ListCell   *y;

	if (list_length(a) != list_length(b))
		return false;
	forboth(x, a, y, b)
	{
		if (!esrs_jsonb_equal((Jsonb *) lfirst(x), (Jsonb *) lfirst(y)))
			return false;
	}
	return true;
}

static void
append_events(StringInfo out, List *events)
{
	ListCell   *lc;

	appendStringInfoChar(out, '[');
	foreach(lc, events)
	{
		if (foreach_current_index(lc) > 0)
			appendStringInfoChar(out, ',');
		esrs_jsonb_append(out, (Jsonb *) lfirst(lc));
	}
	appendStringInfoChar(out, ']');
}

static void
append_rejection(StringInfo out, const EsrsRejection *rejection)
{
	appendStringInfo(out, "rejection %s%s%s", rejection->name ? rejection->name : "",
					 rejection->name ? ": " : "", rejection->message);
}

/* A TAP line must not be broken by what it quotes. */
static void
one_line(char *s)
{
	for (; *s != '\0'; s++)
		if (*s == '\n' || *s == '\r' || *s == '#')
			*s = ' ';
}

/* Does the rejection have this name, or this message? */
static bool
is_rejection(const EsrsRejection *rejection, const char *wanted)
{
	return rejection != NULL &&
		((rejection->name != NULL && strcmp(rejection->name, wanted) == 0) ||
		 strcmp(rejection->message, wanted) == 0);
}

/* esrs_test(aggregate, given, "when", "then", then_error) returns text */
Datum
esrs_test(PG_FUNCTION_ARGS)
{
	Rehearsal	r = {0};
	char	   *name = esrs_arguments_aggregate(fcinfo, 0);
	List	   *then_events;
	char	   *then_error = PG_ARGISNULL(4) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(4));
	char	   *type;
	bool		passed;
	StringInfoData line;
	StringInfoData got;

	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", "when")));
	if (!PG_ARGISNULL(3) && then_error != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a test expects either events or an error, not both")));
	r.command = PG_GETARG_JSONB_P(2);
	esrs_arguments_check_command(r.command);
	r.given = events_arg(fcinfo, 1, "given");
	then_events = events_arg(fcinfo, 3, "then");
	r.agg = esrs_aggregate_lookup(name);
	esrs_aggregate_check_command_right(r.agg);
	rehearse(&r);

	if (then_error != NULL)
		passed = is_rejection(r.rejection, then_error);
	else
		passed = r.rejection == NULL &&
			(PG_ARGISNULL(3) || same_events(r.events, then_events));

	type = esrs_document_type(r.command, NULL);
	initStringInfo(&line);
	appendStringInfo(&line, "%s - %s: given %d event%s, when %s, then ",
					 passed ? "ok" : "not ok", name, list_length(r.given),
					 list_length(r.given) == 1 ? "" : "s", type ? type : "command");
	if (then_error != NULL)
		appendStringInfo(&line, "rejection %s", then_error);
	else if (PG_ARGISNULL(3))
		appendStringInfoString(&line, "accepted");
	else
		appendStringInfo(&line, "%d event%s", list_length(then_events),
						 list_length(then_events) == 1 ? "" : "s");
	one_line(line.data);
	if (!passed)
	{
		initStringInfo(&got);
		if (then_error == NULL && !PG_ARGISNULL(3))
		{
			append_events(&got, then_events);
			one_line(got.data);
			appendStringInfo(&line, "\n# expected: %s", got.data);
			resetStringInfo(&got);
		}
		if (r.rejection != NULL)
			append_rejection(&got, r.rejection);
		else
			append_events(&got, r.events);
		one_line(got.data);
		appendStringInfo(&line, "\n#      got: %s", got.data);
	}
	PG_RETURN_TEXT_P(cstring_to_text_with_len(line.data, line.len));
}
