/*-------------------------------------------------------------------------
 *
 * expression.c
 *	  SQL functions that are one expression, evaluated without a query.
 *
 * PostgreSQL starts a query for each call of a SQL function that stands alone,
 * after parsing or copying, rewriting and planning its body once a transaction.
 * Within an expression the planner puts the body in the place of the call where
 * that means the same (inline_function in PostgreSQL's clauses.c).  So the call is
 * made an expression here, planned, and kept as PL/pgSQL keeps its simple
 * expressions; if the call is still there afterwards, the function is none of those,
 * and it is for function.c to call it.
 *
 * Only bodies that were resolved when the function was created (BEGIN ATOMIC,
 * RETURN) are taken.  They may call functions that were not, which the planner
 * puts in place, too: what was planned serves one role and one search_path, and
 * until any function, operator or schema changes.
 *
 * What differs from a call by the function manager must not: the context line of
 * errors, and the snapshot that functions of the body see.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "user/expression.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "pgstat.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

struct EsrsExpression
{
	/* what the plan was made for */
	Oid			role;
	char	   *search_path;
	uint64		generation;

	CachedExpression *plan;		/* NULL: it cannot be done */
	char	   *name;			/* of the function */
	Oid			types[2];		/* of its arguments */
	bool		own_snapshot;	/* its functions are to see all changes so far */

	MemoryContext context;		/* of the following, which is of one epoch */
	uint64		epoch;
	ExprState  *state;			/* or NULL */
	ExprContext *econtext;
};

/* Goes up when names may lead elsewhere. */
static uint64 generation = 1;

static void
names_changed(Datum arg, int cacheid, uint32 hash)
{
	generation++;
}

/* Register for changes of names.  Called once, at load. */
void
esrs_expression_init(void)
{
	CacheRegisterSyscacheCallback(PROCOID, names_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(OPEROID, names_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, names_changed, (Datum) 0);
}

/* ------------------------------------------------------------------------
 * Planning
 * ------------------------------------------------------------------------
 */

static void
forget_plan(void *arg)
{
	EsrsExpression *e = (EsrsExpression *) arg;

	if (e->plan != NULL)
		FreeCachedExpression(e->plan);
	e->plan = NULL;
}

/* The expression of a function, without a plan yet, as long-lived as its FmgrInfo. */
static EsrsExpression *
create_expression(EsrsFunction *function)
{
	EsrsExpression *e = MemoryContextAllocZero(function->parent, sizeof(EsrsExpression));
	MemoryContextCallback *callback =
	MemoryContextAlloc(function->parent, sizeof(MemoryContextCallback));

	callback->func = forget_plan;
	callback->arg = e;
	MemoryContextRegisterResetCallback(function->parent, callback);
	function->expression = e;
	return e;
}

/* A call of the function with its parameters, as an expression in the current context. */
static Node *
call_of(Oid function, Oid *types, bool *is_volatile)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc proc;
	List	   *args = NIL;
	Node	   *call;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	Assert(proc->pronargs <= 2);
	for (int i = 0; i < proc->pronargs; i++)
	{
		Param	   *param = makeNode(Param);

		types[i] = proc->proargtypes.values[i];
		param->paramkind = PARAM_EXTERN;
		param->paramid = i + 1;
		param->paramtype = types[i];
		param->paramtypmod = -1;
		param->location = -1;
		args = lappend(args, param);
	}
	call = (Node *) makeFuncExpr(function, proc->prorettype, args, InvalidOid, InvalidOid,
								 COERCE_EXPLICIT_CALL);
	*is_volatile = proc->provolatile == PROVOLATILE_VOLATILE;
	ReleaseSysCache(tuple);
	return call;
}

/* Plan for the current role and search_path; e->plan stays NULL if it is in vain. */
static void
make_plan(EsrsExpression *e, EsrsFunction *function)
{
	uint64		now = generation;
	bool		is_volatile;
	Node	   *expr;

	forget_plan(e);
	e->state = NULL;
	e->generation = 0;			/* until all is well */
	if (e->search_path != NULL)
		pfree(e->search_path);
	e->search_path = MemoryContextStrdup(function->parent, namespace_search_path);
	if (e->name != NULL)
		pfree(e->name);
	e->name = MemoryContextStrdup(function->parent, get_func_name(function->oid));
	e->role = GetUserId();

	e->plan = GetCachedExpression(call_of(function->oid, e->types, &is_volatile));
	expr = e->plan->expr;
	if (IsA(expr, FuncExpr) && ((FuncExpr *) expr)->funcid == function->oid)
		forget_plan(e);
	else
		e->own_snapshot = is_volatile && contain_mutable_functions(expr);
	e->generation = now;
}

/* Is there an expression for this call?  It is planned then. */
static bool
prepare(EsrsFunction *function)
{
	EsrsExpression *e = function->expression;

	if (e == NULL)
		e = create_expression(function);
	if (e->generation != generation || e->role != GetUserId() ||
		(e->plan != NULL && !e->plan->is_valid) ||
		strcmp(e->search_path, namespace_search_path) != 0)
		make_plan(e, function);
	return e->plan != NULL;
}

/* ------------------------------------------------------------------------
 * Evaluating
 * ------------------------------------------------------------------------
 */

/*
 * Make the expression ready for the calls of one epoch: this is where PostgreSQL
 * checks the right to the functions in it.
 */
static void
make_state(EsrsExpression *e, EsrsFunction *function, MemoryContext scratch, uint64 epoch,
		   int nargs)
{
	/* below the call's context until it is complete, so an error frees it */
	MemoryContext context = AllocSetContextCreate(scratch, "esrs expression",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext before = MemoryContextSwitchTo(context);
	ExprContext *econtext = CreateStandaloneExprContext();
	ExprState  *state;

	econtext->ecxt_param_list_info = makeParamList(nargs);
	for (int i = 0; i < nargs; i++)
		econtext->ecxt_param_list_info->params[i].ptype = e->types[i];
	state = ExecInitExprWithParams((Expr *) e->plan->expr, econtext->ecxt_param_list_info);
	MemoryContextSwitchTo(before);
	MemoryContextSetParent(context, function->parent);
	e->context = context;
	e->econtext = econtext;
	e->state = state;
	e->epoch = epoch;
}

static void
expression_error_context(void *arg)
{
	errcontext("SQL function \"%s\" statement 1", ((EsrsExpression *) arg)->name);
}

static Datum
evaluate(EsrsExpression *e, int nargs, NullableDatum *args, bool *isnull)
{
	ParamListInfo params = e->econtext->ecxt_param_list_info;
	Datum		result;

	for (int i = 0; i < nargs; i++)
	{
		params->params[i].value = args[i].value;
		params->params[i].isnull = args[i].isnull;
	}
	if (e->own_snapshot)
	{
		CommandCounterIncrement();
		PushActiveSnapshot(GetTransactionSnapshot());
	}
	result = ExecEvalExpr(e->state, e->econtext, isnull);
	if (e->own_snapshot)
		PopActiveSnapshot();
	return result;
}

/*
 * Call a function as an expression, if it is one; false if it is not.  As
 * esrs_function_call().  "epoch" numbers the calls for which rights need not be
 * looked at again.
 */
bool
esrs_expression_call(EsrsFunction *function, MemoryContext scratch, uint64 epoch,
					 int nargs, NullableDatum *args, Datum *result, bool *isnull)
{
	EsrsExpression *e;
	ErrorContextCallback error_context;

	if (!function->resolved || function->busy || pgstat_track_functions == TRACK_FUNC_ALL ||
		!prepare(function))
		return false;
	e = function->expression;
	error_context.callback = expression_error_context;
	error_context.arg = e;
	error_context.previous = error_context_stack;
	error_context_stack = &error_context;
	if (e->state == NULL || e->epoch != epoch)
	{
		if (e->context != NULL)
			MemoryContextDelete(e->context);
		e->context = NULL;
		e->state = NULL;
		make_state(e, function, scratch, epoch, nargs);
	}
	function->busy = true;
	PG_TRY();
	{
		*result = evaluate(e, nargs, args, isnull);
	}
	PG_CATCH();
	{
		/* what it keeps goes with the (sub)transaction that failed */
		function->busy = false;
		MemoryContextSetParent(e->context, CurTransactionContext);
		e->context = NULL;
		e->state = NULL;
		PG_RE_THROW();
	}
	PG_END_TRY();
	function->busy = false;
	error_context_stack = error_context.previous;
	return true;
}
