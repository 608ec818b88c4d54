/*-------------------------------------------------------------------------
 *
 * function.c
 *	  SQL-callable functions of users: finding, checking and calling them.
 *
 * A call goes through a kept FmgrInfo, not through SPI.  Two things need care.
 * A function may be called again while a call of it is in progress (a handler
 * that commands the same aggregate type); the inner call gets an FmgrInfo of
 * its own.  And an error leaves what a language keeps in the FmgrInfo in an
 * unknown condition, so it is replaced.
 *
 * Rights are not checked here: a command checks EXECUTE once, on the function
 * that decides.  On callbacks and handlers it is asked at registration only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "user/function.h"

#include "access/htup_details.h"
#include "base/errors.h"
#include "catalog/namespace.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/tuptable.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "user/expression.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"

/* The command, or other sequence of calls, that is in progress. */
static uint64 current_epoch = 0;

/*
 * The function of a signature that a user gave, found as he would find it.
 * Raises 22P02 if it has no list of arguments, and what
 * regprocedure's input raises: 42883 for a function that does not exist.
 */
Oid
esrs_function_parse(const char *signature)
{
	Oid			oid;

	if (strchr(signature, '(') == NULL || strchr(signature, ')') == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("invalid signature of a function: \"%s\"", signature),
				 errhint("Give the name with the types of its arguments, for example %s.",
						 "\"book_apply(jsonb,jsonb)\"")));
	oid = DatumGetObjectId(DirectFunctionCall1(regprocedurein, CStringGetDatum(signature)));
	if (!SearchSysCacheExists1(PROCOID, ObjectIdGetDatum(oid)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function \"%s\" does not exist", signature)));
	return oid;
}

/* The function of a stored signature, or InvalidOid if there is none. */
Oid
esrs_function_find(const char *signature)
{
	LOCAL_FCINFO(fcinfo, 1);
	Datum		result;

	InitFunctionCallInfoData(*fcinfo, NULL, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = PointerGetDatum(cstring_to_text(signature));
	fcinfo->args[0].isnull = false;
	result = to_regprocedure(fcinfo);
	return fcinfo->isnull ? InvalidOid : DatumGetObjectId(result);
}

/* The signature to store: names qualified, also those of types. */
char *
esrs_function_signature(Oid function)
{
	return format_procedure_qualified(function);
}

Oid
esrs_function_owner(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	owner = ((Form_pg_proc) GETSTRUCT(tuple))->proowner;
	ReleaseSysCache(tuple);
	return owner;
}

/*
 * Is a function that was found by its name alone one of somebody whom the role
 * trusts anyway?
 */
bool
esrs_function_is_trusted(Oid function, Oid role)
{
	Oid			owner = esrs_function_owner(function);

	return superuser_arg(owner) || is_member_of_role_nosuper(role, owner);
}

/* What keeps a function from being a certain callback. */
typedef enum Misfit
{
	FITS,
	WRONG_SIGNATURE,
	IS_TEMPORARY,
	IS_STRICT
} Misfit;

static Misfit
compare_signature(Oid function, const EsrsSignature *wanted)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc proc;
	bool		ok;
	Misfit		misfit = FITS;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	ok = proc->prokind == PROKIND_FUNCTION && proc->pronargs == wanted->nargs;
	for (int i = 0; ok && i < wanted->nargs; i++)
		ok = proc->proargtypes.values[i] == wanted->args[i];
	if (ok && proc->proretset)
		ok = OidIsValid(wanted->set_result) && proc->prorettype == wanted->set_result;
	else if (ok)
		ok = !OidIsValid(wanted->result) || proc->prorettype == wanted->result;
	if (!ok)
		misfit = WRONG_SIGNATURE;
	else if (isAnyTempNamespace(proc->pronamespace))
		misfit = IS_TEMPORARY;
	else if (proc->proisstrict)
		misfit = IS_STRICT;
	ReleaseSysCache(tuple);
	return misfit;
}

/*
 * Check that a function can be a certain callback: 42809 if it has another
 * kind or type, 22023 if it is STRICT or temporary.
 */
void
esrs_function_check(Oid function, const EsrsSignature *wanted)
{
	switch (compare_signature(function, wanted))
	{
		case FITS:
			break;
		case WRONG_SIGNATURE:
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("function %s cannot be %s",
							format_procedure(function), wanted->what),
					 errdetail("It must be declared as %s.", wanted->wanted)));
			break;
		case IS_TEMPORARY:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("function %s is temporary and cannot be %s",
							format_procedure(function), wanted->what)));
			break;
		case IS_STRICT:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("function %s is STRICT and cannot be %s",
							format_procedure(function), wanted->what),
					 errdetail("A strict function is not called when an argument is null, and its null result would be taken for an answer."),
					 errhint("Use ALTER FUNCTION %s CALLED ON NULL INPUT.",
							 format_procedure(function))));
			break;
	}
}

static EsrsSignature
handler_signature(Oid argument)
{
	EsrsSignature wanted = {
		"an event handler",
		"handler(esrs_event), or handler(esrs_event[]) for all events of a command at once",
		1, {argument, InvalidOid}, InvalidOid, InvalidOid
	};

	return wanted;
}

static const EsrsSignature delete_signature = {
	"a delete handler", "delete_handler(aggregate_id uuid)",
	1, {UUIDOID, InvalidOid}, InvalidOid, InvalidOid
};

/*
 * Check that a function can be an event handler.  True if it takes all events
 * of a command at once.
 */
bool
esrs_handler_check(Oid function, Oid event_type, Oid event_array_type)
{
	EsrsSignature wanted = handler_signature(event_array_type);
	bool		set_based = compare_signature(function, &wanted) != WRONG_SIGNATURE;

	if (!set_based)
		wanted = handler_signature(event_type);
	esrs_function_check(function, &wanted);
	return set_based;
}

/* Check that a function can be called when an instance was deleted. */
void
esrs_handler_check_delete(Oid function)
{
	esrs_function_check(function, &delete_signature);
}

/*
 * The function of a handler's signature, or InvalidOid if there is none that
 * can be it.  *set_based tells whether it takes all events at once, also of
 * one that is not there: the signature says so.
 */
Oid
esrs_handler_find(const char *signature, Oid event_type, Oid event_array_type, bool *set_based)
{
	Oid			function = esrs_function_find(signature);
	size_t		length = strlen(signature);
	EsrsSignature wanted;

	*set_based = length > 3 && strcmp(signature + length - 3, "[])") == 0;
	wanted = handler_signature(*set_based ? event_array_type : event_type);
	if (!OidIsValid(function) || compare_signature(function, &wanted) == FITS)
		return function;
	return InvalidOid;
}

/* The same for a delete handler. */
Oid
esrs_handler_find_delete(const char *signature)
{
	Oid			function = esrs_function_find(signature);

	if (!OidIsValid(function) || compare_signature(function, &delete_signature) == FITS)
		return function;
	return InvalidOid;
}

/* Make a function ready; its FmgrInfo will live below "parent". */
void
esrs_function_init(EsrsFunction *function, Oid oid, MemoryContext parent)
{
	HeapTuple	tuple;

	memset(function, 0, sizeof(*function));
	function->oid = oid;
	function->parent = parent;
	if (!OidIsValid(oid))
		return;
	function->hash = GetSysCacheHashValue1(PROCOID, ObjectIdGetDatum(oid));
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(oid));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", oid);
	function->returns_set = ((Form_pg_proc) GETSTRUCT(tuple))->proretset;
	function->sql = ((Form_pg_proc) GETSTRUCT(tuple))->prolang == SQLlanguageId;
	function->resolved = function->sql && !function->returns_set &&
		!heap_attisnull(tuple, Anum_pg_proc_prosqlbody, NULL);
	ReleaseSysCache(tuple);
}

/* A number for the calls that may share what SQL functions keep. */
uint64
esrs_function_new_epoch(void)
{
	static uint64 last_epoch = 0;

	return ++last_epoch;
}

/* Make an epoch the current one, and return the one before. */
uint64
esrs_function_enter_epoch(uint64 epoch)
{
	uint64		before = current_epoch;

	current_epoch = epoch;
	return before;
}

/* The kept FmgrInfo, or one for this call alone if that is in use. */
static FmgrInfo *
acquire(EsrsFunction *function, MemoryContext scratch)
{
	FmgrInfo   *finfo;

	if (function->busy)
	{
		finfo = MemoryContextAlloc(scratch, sizeof(FmgrInfo));
		fmgr_info_cxt(function->oid, finfo, scratch);
		return finfo;
	}

	/*
	 * A function in SQL keeps rewritten queries in the FmgrInfo until the
	 * transaction ends.  They hold for the role, the search_path and the
	 * tables that they were made for, so they serve one command only.
	 */
	if (function->sql && function->finfo != NULL && function->epoch != current_epoch)
	{
		MemoryContextDelete(function->context);
		function->finfo = NULL;
		function->context = NULL;
	}
	if (function->finfo == NULL)
	{
		/* below the call's context until it is complete, so an error frees it */
		MemoryContext context = AllocSetContextCreate(scratch, "esrs function",
													  ALLOCSET_SMALL_SIZES);

		finfo = MemoryContextAlloc(context, sizeof(FmgrInfo));
		fmgr_info_cxt(function->oid, finfo, context);
		MemoryContextSetParent(context, function->parent);
		function->context = context;
		function->finfo = finfo;
		function->epoch = current_epoch;
	}
	function->busy = true;
	return function->finfo;
}

/*
 * After an error: give the FmgrInfo up.  Its memory goes with the
 * (sub)transaction that failed, when nothing refers to it any more.
 */
static void
spoil(EsrsFunction *function)
{
	function->busy = false;
	function->finfo = NULL;
	MemoryContextSetParent(function->context, CurTransactionContext);
	function->context = NULL;
}

/* Invoke through "finfo", accounted for as any other call of the function. */
static Datum
invoke(FmgrInfo *finfo, FunctionCallInfo fcinfo)
{
	PgStat_FunctionCallUsage usage;
	Datum		result;

	pgstat_init_function_usage(fcinfo, &usage);
	result = FunctionCallInvoke(fcinfo);
	pgstat_end_function_usage(&usage, true);
	return result;
}

/*
 * Call a function that returns one value.  The result is in the current
 * context, as far as the function's language put it there.  "scratch" must
 * live until the call is over.  Raises what the function raises.
 */
Datum
esrs_function_call(EsrsFunction *function, MemoryContext scratch,
				   int nargs, NullableDatum *args, bool *isnull)
{
	LOCAL_FCINFO(fcinfo, 2);
	FmgrInfo   *finfo;
	bool		kept;
	volatile Datum result = (Datum) 0;

	Assert(nargs <= 2 && !function->returns_set);
	check_stack_depth();
	if (esrs_expression_call(function, scratch, current_epoch, nargs, args,
							 (Datum *) &result, isnull))
		return result;
	finfo = acquire(function, scratch);
	kept = (finfo == function->finfo);
	InitFunctionCallInfoData(*fcinfo, finfo, nargs, InvalidOid, NULL, NULL);
	memcpy(fcinfo->args, args, nargs * sizeof(NullableDatum));
	PG_TRY();
	{
		result = invoke(finfo, fcinfo);
	}
	PG_CATCH();
	{
		if (kept)
			spoil(function);
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (kept)
		function->busy = false;
	*isnull = fcinfo->isnull;
	return result;
}

/*
 * Call a function that returns a set of values of one type, and give each of
 * them to "row", in order.
 *
 * The FmgrInfo of a set is never kept: languages hang the state of an
 * unfinished set on it.
 */
void
esrs_function_call_set(EsrsFunction *function, MemoryContext scratch,
					   int nargs, NullableDatum *args,
					   void (*row) (Datum value, bool isnull, void *arg),
					   void *arg)
{
	LOCAL_FCINFO(fcinfo, 2);
	ReturnSetInfo rsinfo;
	EState	   *estate;
	FmgrInfo	finfo;
	MemoryContext before;

	Assert(nargs <= 2 && function->returns_set);
	check_stack_depth();
	before = MemoryContextSwitchTo(scratch);
	estate = CreateExecutorState();
	fmgr_info_cxt(function->oid, &finfo, scratch);
	MemoryContextSwitchTo(before);

	memset(&rsinfo, 0, sizeof(rsinfo));
	rsinfo.type = T_ReturnSetInfo;
	rsinfo.econtext = CreateExprContext(estate);
	rsinfo.expectedDesc = CreateTemplateTupleDesc(1);
	TupleDescInitEntry(rsinfo.expectedDesc, 1, "value",
					   get_func_rettype(function->oid), -1, 0);
	rsinfo.allowedModes = SFRM_ValuePerCall | SFRM_Materialize | SFRM_Materialize_Preferred;
	rsinfo.isDone = ExprSingleResult;
	rsinfo.returnMode = SFRM_ValuePerCall;
	InitFunctionCallInfoData(*fcinfo, &finfo, nargs, InvalidOid, NULL, (Node *) &rsinfo);

	for (;;)
	{
		Datum		value;

		CHECK_FOR_INTERRUPTS();
		memcpy(fcinfo->args, args, nargs * sizeof(NullableDatum));
		fcinfo->isnull = false;
		rsinfo.isDone = ExprSingleResult;
		value = invoke(&finfo, fcinfo);
		if (rsinfo.returnMode != SFRM_ValuePerCall || rsinfo.isDone == ExprEndResult)
			break;
		row(value, fcinfo->isnull, arg);
		if (rsinfo.isDone != ExprMultipleResult)
			break;
	}
	if (rsinfo.returnMode == SFRM_Materialize && rsinfo.setResult != NULL)
	{
		TupleTableSlot *slot = MakeSingleTupleTableSlot(rsinfo.setDesc ? rsinfo.setDesc :
														rsinfo.expectedDesc,
														&TTSOpsMinimalTuple);

		while (tuplestore_gettupleslot(rsinfo.setResult, true, false, slot))
		{
			bool		isnull;
			Datum		value = slot_getattr(slot, 1, &isnull);

			CHECK_FOR_INTERRUPTS();
			row(value, isnull, arg);
		}
		ExecDropSingleTupleTableSlot(slot);
		tuplestore_end(rsinfo.setResult);
	}
	FreeExecutorState(estate);
}
