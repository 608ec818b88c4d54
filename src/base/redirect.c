/*-------------------------------------------------------------------------
 *
 * redirect.c
 *	  Having statements work on other tables than they name: between
 *	  esrs_redirect_begin() and esrs_redirect_end() every query of this backend that
 *	  is planned reads and writes the replacements of some tables.
 *
 * It is done where queries are planned, by OID: so it does not matter whether a
 * function found its table by search_path, by a qualified name, through a view, or
 * when it was created (BEGIN ATOMIC); whether the statement is dynamic; and who the
 * current user is.  Both tables must have the same columns at the same places.
 * Views and rules are expanded, defaults and row security added before, as of the
 * table that was named.
 *
 * Functions in SQL are not inlined meanwhile, and nothing is planned for parallel
 * workers: both would come to the live tables behind our back.
 *
 * What cannot be redirected is refused: writing to any other permanent table, and
 * utility commands.  C code that opens tables itself goes around it, which
 * esrs_redirect_check() notices.
 *
 * Plans are not kept from one side to the other: all of them are made anew at both
 * ends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/redirect.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"

/* the server's own header, which declares walkers without their arguments */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wstrict-prototypes"
#include "nodes/nodeFuncs.h"
#include "optimizer/planner.h"
#pragma GCC diagnostic pop

#include "parser/parsetree.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "tcop/cmdtag.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/plancache.h"
#include "utils/syscache.h"

static planner_hook_type next_planner = NULL;
static ProcessUtility_hook_type next_utility = NULL;
static needs_fmgr_hook_type next_needs_fmgr = NULL;

/* of EsrsRedirect; NIL: nothing is redirected */
static List *active = NIL;

/* something was refused, which the code that did it may have caught */
static bool refused = false;

/* nesting of the (sub)transaction in which it was begun */
static int	nest_level;

static EsrsRedirect *
redirect_of(Oid table)
{
	ListCell   *lc;

	foreach(lc, active)
	{
		EsrsRedirect *redirect = (EsrsRedirect *) lfirst(lc);

		if (redirect->from == table)
			return redirect;
	}
	return NULL;
}

/* Is this the replacement of a table?  Foreign keys name them. */
static bool
is_replacement(Oid table)
{
	ListCell   *lc;

	foreach(lc, active)
	{
		if (((EsrsRedirect *) lfirst(lc))->to == table)
			return true;
	}
	return false;
}

static char *
name_of(Oid table)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(table)),
									  get_rel_name(table));
}

/* Raise 0A000 if the target of a statement is none that may be written. */
static void
check_target(Query *query)
{
	Oid			table;

	if (query->resultRelation == 0)
		return;
	table = rt_fetch(query->resultRelation, query->rtable)->relid;
	if (redirect_of(table) != NULL || is_replacement(table) ||
		isTempOrTempToastNamespace(get_rel_namespace(table)))
		return;
	refused = true;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("event handler writes to table %s, which is not one of those to be rebuilt",
					name_of(table)),
			 errhint("Name all tables that it writes to in \"tables\".")));
}

static void
redirect_constraint(OnConflictExpr *conflict)
{
	ListCell   *lc;

	foreach(lc, active)
	{
		EsrsRedirect *redirect = (EsrsRedirect *) lfirst(lc);
		ListCell   *from;
		ListCell   *to;

		forboth(from, redirect->constraints, to, redirect->replacements)
		{
			if (lfirst_oid(from) == conflict->constraint)
			{
				conflict->constraint = lfirst_oid(to);
				return;
			}
		}
	}
}

static bool
redirect_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;
		EsrsRedirect *redirect = rte->rtekind == RTE_RELATION ? redirect_of(rte->relid) : NULL;

		if (redirect != NULL)
		{
			rte->relid = redirect->to;
			if (rte->rellockmode != NoLock)
				LockRelationOid(redirect->to, rte->rellockmode);
		}
		return false;
	}
	if (IsA(node, Query))
	{
		check_target((Query *) node);
		return query_tree_walker((Query *) node, redirect_walker, context,
								 QTW_EXAMINE_RTES_BEFORE);
	}
	if (IsA(node, OnConflictExpr))
		redirect_constraint((OnConflictExpr *) node);
	return expression_tree_walker(node, redirect_walker, context);
}

/* Raise XX000 if what came out of the planner is not redirected after all. */
static void
check_plan(PlannedStmt *plan)
{
	ListCell   *lc;

	foreach(lc, plan->relationOids)
	{
		if (redirect_of(lfirst_oid(lc)) == NULL)
			continue;
		refused = true;
		elog(ERROR, "plan uses the live table %s", name_of(lfirst_oid(lc)));
	}
}

/* The planner may change its query, so we may as well. */
static PlannedStmt *
redirecting_planner(Query *query, const char *source, int cursor_options, ParamListInfo params)
{
	PlannedStmt *plan;

	if (active != NIL)
	{
		(void) redirect_walker((Node *) query, NULL);

		/* a worker would plan the queries of its functions undirected */
		cursor_options &= ~CURSOR_OPT_PARALLEL_OK;
	}
	plan = next_planner ? next_planner(query, source, cursor_options, params) :
		standard_planner(query, source, cursor_options, params);
	if (active != NIL)
		check_plan(plan);
	return plan;
}

/*
 * Functions in SQL are not to be inlined: that comes after the redirection.  As a
 * function of its own, its query comes to the planner.
 */
static bool
prevents_inlining(Oid function)
{
	HeapTuple	tuple;
	bool		is_sql;

	if (next_needs_fmgr && next_needs_fmgr(function))
		return true;
	if (active == NIL)
		return false;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	is_sql = HeapTupleIsValid(tuple) &&
		((Form_pg_proc) GETSTRUCT(tuple))->prolang == SQLlanguageId;
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return is_sql;
}

/* Does a command leave all tables alone, or have its queries planned? */
static bool
is_harmless(Node *command)
{
	switch (nodeTag(command))
	{
		case T_CallStmt:
		case T_ClosePortalStmt:
		case T_ConstraintsSetStmt:
		case T_DeallocateStmt:
		case T_DeclareCursorStmt:
		case T_DoStmt:
		case T_ExecuteStmt:
		case T_FetchStmt:
		case T_NotifyStmt:
		case T_PrepareStmt:
		case T_VariableSetStmt:
		case T_VariableShowStmt:
			return true;
		default:
			return false;
	}
}

static void
checking_utility(PlannedStmt *statement, const char *source, bool read_only,
				 ProcessUtilityContext context, ParamListInfo params,
				 QueryEnvironment *environment, DestReceiver *dest, QueryCompletion *completion)
{
	if (active != NIL && !is_harmless(statement->utilityStmt))
	{
		refused = true;
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("%s is not possible in an event handler whose tables are built beside the live ones",
						GetCommandTagName(CreateCommandTag(statement->utilityStmt))),
				 errhint("Use the strategy \"in_place\".")));
	}
	if (next_utility)
		next_utility(statement, source, read_only, context, params, environment, dest, completion);
	else
		standard_ProcessUtility(statement, source, read_only, context, params, environment, dest,
								completion);
}

/*
 * Redirect from now on; the list, of EsrsRedirect, is borrowed until
 * esrs_redirect_end(), which must follow also after an error.
 */
void
esrs_redirect_begin(List *redirects)
{
	ResetPlanCache();
	active = redirects;
	refused = false;
	nest_level = GetCurrentTransactionNestLevel();
}

/* Redirect nothing any more.  Raises nothing. */
void
esrs_redirect_end(void)
{
	active = NIL;
	ResetPlanCache();
}

/*
 * Raise 0A000 if something was refused since esrs_redirect_begin(), and whoever did
 * it has gone on; or if this (sub)transaction has written to a table that is redirected:
 * then C code has opened it itself.  That as far as the server counts
 * (track_counts).
 */
void
esrs_redirect_check(void)
{
	ListCell   *lc;

	if (refused)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("event handler has caught an error that is not its own"),
				 errdetail("It writes to a table that is not to be rebuilt, or uses a command that is not possible beside the live tables."),
				 errhint("Name all tables that it writes to in \"tables\", or use the strategy \"in_place\".")));
	foreach(lc, active)
	{
		Oid			table = ((EsrsRedirect *) lfirst(lc))->from;
		PgStat_TableStatus *status = find_tabstat_entry(table);

		for (PgStat_TableXactStatus *part = status ? status->trans : NULL; part; part = part->upper)
			if (part->nest_level >= nest_level && part->tuples_inserted + part->tuples_updated + part->tuples_deleted > 0)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("event handler has written to the live table %s", name_of(table)),
						 errdetail("Its tables are being built beside the live ones, and C code that opens tables itself cannot be led there."),
						 errhint("Use the strategy \"in_place\", or SPI in the event handler.")));
	}
}

/* Take our place in the server.  Called once, at load. */
void
esrs_redirect_init(void)
{
	next_planner = planner_hook;
	planner_hook = redirecting_planner;
	next_utility = ProcessUtility_hook;
	ProcessUtility_hook = checking_utility;
	next_needs_fmgr = needs_fmgr_hook;
	needs_fmgr_hook = prevents_inlining;
}
