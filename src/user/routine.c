/*-------------------------------------------------------------------------
 *
 * routine.c
 *	  What an aggregate can do: checking the functions that make it, and
 *	  asking a handler function for its EsrsAggregateRoutine.
 *
 * A handler function follows the idiom of foreign-data wrappers and index
 * methods: LANGUAGE C, one argument of type internal, a result type of our
 * own.  So nobody can call it from SQL or write one in SQL, and its existence
 * went through PostgreSQL's own gate for native code.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "user/routine.h"

#include "access/htup_details.h"
#include "catalog/namespace.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

const char *const esrs_callback_names[ESRS_CALLBACK_COUNT] = {
	"handler", "handle_command", "apply_event", "upcast", "from_event", "to_event"
};

static const EsrsSignature signatures[ESRS_CALLBACK_COUNT] = {
	[ESRS_CALLBACK_HANDLE_COMMAND] = {
		"handle_command",
		"handle_command(state jsonb, command jsonb) RETURNS jsonb[] or SETOF jsonb",
		2, {JSONBOID, JSONBOID}, JSONBARRAYOID, JSONBOID
	},
	[ESRS_CALLBACK_APPLY_EVENT] = {
		"apply_event",
		"apply_event(state jsonb, event jsonb) RETURNS jsonb",
		2, {JSONBOID, JSONBOID}, JSONBOID, InvalidOid
	},
	[ESRS_CALLBACK_UPCAST] = {
		"upcast",
		"upcast(payload jsonb, version integer) RETURNS jsonb",
		2, {JSONBOID, INT4OID}, JSONBOID, InvalidOid
	},
	[ESRS_CALLBACK_FROM_EVENT] = {
		"from_event",
		"from_event(event jsonb) RETURNS jsonb",
		1, {JSONBOID}, JSONBOID, InvalidOid
	},
	[ESRS_CALLBACK_TO_EVENT] = {
		"to_event",
		"to_event(payload jsonb) RETURNS jsonb",
		1, {JSONBOID}, JSONBOID, InvalidOid
	},
};

/* Is it a function of C with one internal argument and our result type? */
static void
check_handler(Oid function, Oid handler_type)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc proc;
	bool		ok;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	ok = proc->prolang == ClanguageId &&
		proc->prokind == PROKIND_FUNCTION &&
		!proc->proretset &&
		!isAnyTempNamespace(proc->pronamespace) &&
		proc->pronargs == 1 &&
		proc->proargtypes.values[0] == INTERNALOID &&
		proc->prorettype == handler_type;
	ReleaseSysCache(tuple);
	if (!ok)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("function %s is not an aggregate handler", format_procedure(function)),
				 errdetail("An aggregate handler is a C function that takes one argument of type %s and returns type %s.",
						   "internal", "esrs.aggregate_handler")));
}

/* Check that a function can be the given callback; see esrs_function_check(). */
void
esrs_routine_check_function(EsrsCallback callback, Oid function, Oid handler_type)
{
	if (callback == ESRS_CALLBACK_HANDLER)
		check_handler(function, handler_type);
	else
		esrs_function_check(function, &signatures[callback]);
}

static void
require(Oid function, bool given, const char *member)
{
	if (!given)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("aggregate handler %s lacks a required callback",
						format_procedure(function)),
				 errdetail("The member \"%s\" of its EsrsAggregateRoutine is null.", member)));
}

/*
 * Call the handler function of an aggregate in C and check what it returns.
 *
 * A library built against an older esrs.h of the same ABI version has a
 * shorter struct: what it does not know is zero.  Raises 42809 if the result
 * is no routine, 55000 if it is of another ABI, 22023 if a required callback
 * is missing.
 */
void
esrs_routine_load_c(EsrsRoutine *routine)
{
	Oid			function = routine->functions[ESRS_CALLBACK_HANDLER].oid;
	const EsrsAggregateRoutine *given;

	LOCAL_FCINFO(fcinfo, 1);
	FmgrInfo	finfo;
	Size		known;

	fmgr_info(function, &finfo);
	InitFunctionCallInfoData(*fcinfo, &finfo, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = PointerGetDatum(NULL);
	fcinfo->args[0].isnull = true;
	given = (const EsrsAggregateRoutine *) DatumGetPointer(FunctionCallInvoke(fcinfo));

	if (fcinfo->isnull || given == NULL || given->magic != ESRS_MAGIC)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("aggregate handler %s did not return an EsrsAggregateRoutine struct",
						format_procedure(function))));
	known = offsetof(EsrsAggregateRoutine, state_to_json);
	if (given->abi_version != ESRS_ABI_VERSION || given->size < known)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("incompatible aggregate library for handler %s",
						format_procedure(function)),
				 errdetail("The library was built for interface version %d with a struct of %d bytes, and this server has version %d with %zu bytes.",
						   given->abi_version, given->size,
						   ESRS_ABI_VERSION, sizeof(EsrsAggregateRoutine)),
				 errhint("Rebuild the library against the installed %s.", "esrs.h")));

	memset(&routine->c, 0, sizeof(routine->c));
	memcpy(&routine->c, given, Min(given->size, sizeof(routine->c)));
	require(function, routine->c.handle_command != NULL, "handle_command");
	require(function, routine->c.apply_event != NULL, "apply_event");
	require(function, routine->c.state_to_json == NULL || routine->c.init_state != NULL,
			"init_state");
	routine->has_version = routine->c.has_version;
	routine->event_version = routine->c.event_version;
}

/*
 * The function on which EXECUTE is the right to command, or InvalidOid for a
 * store without logic.
 */
Oid
esrs_routine_deciding_function(const EsrsRoutine *routine)
{
	switch (routine->kind)
	{
		case ESRS_KIND_C:
			return routine->functions[ESRS_CALLBACK_HANDLER].oid;
		case ESRS_KIND_SQL:
			return routine->functions[ESRS_CALLBACK_HANDLE_COMMAND].oid;
		case ESRS_KIND_STORE:
			break;
	}
	return InvalidOid;
}
