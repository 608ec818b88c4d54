/*-------------------------------------------------------------------------
 *
 * state_aggregate.c
 *	  The SQL aggregates <name>_state(payload) and <name>_state(payload, version),
 *	  which fold the events of an aggregate within a query:
 *
 *		SELECT aggregate_id, book_state(payload ORDER BY sequence_number)
 *		  FROM book_events GROUP BY 1
 *
 * Their transition function is esrs.fold(), which is in engine/states.c.  They
 * stand in the schema of the events table and belong to its owner; what else has
 * their name is left alone.
 *
 * They are made as the owner of the table; that runs no code of his.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/state_aggregate.h"

#include "access/htup_details.h"
#include "base/jsonb_codec.h"
#include "base/security.h"
#include "base/spi.h"
#include "catalog/extension.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

static const char *const arguments[] = {
	"", "payload pg_catalog.jsonb", "payload pg_catalog.jsonb, version pg_catalog.int4"
};

/* The transition function of a function that is an aggregate, or InvalidOid. */
Oid
esrs_state_aggregate_transition(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(function));
	Oid			result;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	result = ((Form_pg_aggregate) GETSTRUCT(tuple))->aggtransfn;
	ReleaseSysCache(tuple);
	return result;
}

/* Is it an aggregate over esrs.fold()? */
static bool
folds(Oid function)
{
	Oid			step = esrs_state_aggregate_transition(function);
	char	   *name = OidIsValid(step) ? get_func_name(step) : NULL;

	return name != NULL && strcmp(name, "fold") == 0 &&
		get_func_namespace(step) == esrs_extension()->internals;
}

/*
 * The aggregates over esrs.fold() that have this name, this number of arguments
 * and this owner, wherever they are.
 */
static List *
find_ours(const char *name, int nargs, Oid owner)
{
	CatCList   *list = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(name));
	List	   *result = NIL;

	for (int i = 0; i < list->n_members; i++)
	{
		Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(&list->members[i]->tuple);

		if (proc->prokind == PROKIND_AGGREGATE && proc->pronargs == nargs &&
			proc->proowner == owner && folds(proc->oid))
			result = lappend_oid(result, proc->oid);
	}
	ReleaseCatCacheList(list);
	return result;
}

static void
run_as(Oid owner, const char *statement)
{
	EsrsIdentity before;

	esrs_security_become(&before, owner);
	esrs_spi_utility(statement);
	esrs_security_restore(&before);
}

static Oid
table_owner(Oid events)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(events));
	Oid			owner = GetUserId();

	if (HeapTupleIsValid(tuple))
	{
		owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
		ReleaseSysCache(tuple);
	}
	return owner;
}

/* Make one of the two what it must be. */
static void
update_one(Oid events, const char *name, int nargs, Jsonb *initial_state, bool changed)
{
	Oid			types[2] = {JSONBOID, INT4OID};
	Oid			owner = table_owner(events);
	Oid			schema = get_rel_namespace(events);
	List	   *ours = find_ours(name, nargs, owner);
	Oid			function = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
										   CStringGetDatum(name),
										   PointerGetDatum(buildoidvector(types, nargs)),
										   ObjectIdGetDatum(schema));
	StringInfoData state;

	if (OidIsValid(function) && !list_member_oid(ours, function))
	{
		if (changed)
			ereport(NOTICE,
					(errmsg("function %s exists and was left as it is",
							format_procedure(function)),
					 errdetail("No aggregate of this name was made that folds events in a query.")));
		return;
	}
	if (OidIsValid(function) && !changed)
		return;
	if (pg_namespace_aclcheck(schema, owner, ACL_CREATE) != ACLCHECK_OK ||
		pg_namespace_aclcheck(esrs_extension()->internals, owner, ACL_USAGE) != ACLCHECK_OK)
	{
		if (changed)
			ereport(NOTICE,
					(errmsg("no aggregate %s was made that folds events in a query", name),
					 errdetail("The owner of the events table needs CREATE on schema %s and USAGE on schema %s.",
							   get_namespace_name(schema),
							   get_namespace_name(esrs_extension()->internals))));
		return;
	}
	if (!OidIsValid(function) && ours != NIL)
	{
		/* the table was moved; views that use the aggregate follow it */
		run_as(owner, psprintf("ALTER AGGREGATE %s SET SCHEMA %s",
							   format_procedure_qualified(linitial_oid(ours)),
							   quote_identifier(get_namespace_name(schema))));
		function = linitial_oid(ours);
	}
	if (OidIsValid(function) && !changed)
		return;
	initStringInfo(&state);
	if (initial_state != NULL)
		esrs_jsonb_append(&state, initial_state);
	else
		appendStringInfoString(&state, "{}");
	run_as(owner, psprintf("CREATE OR REPLACE AGGREGATE %s(%s)"
						   " (SFUNC = esrs.fold, STYPE = pg_catalog.jsonb, INITCOND = %s)",
						   quote_qualified_identifier(get_namespace_name(schema), name),
						   arguments[nargs], quote_literal_cstr(state.data)));
}

static void
drop_one(const char *name, int nargs, Oid owner)
{
	ListCell   *lc;

	foreach(lc, find_ours(name, nargs, owner))
	{
		run_as(owner, psprintf("DROP AGGREGATE %s",
							   format_procedure_qualified(lfirst_oid(lc))));
	}
}

/*
 * Make the aggregates what they must be for these options; "old" are those of
 * before, or NULL.  An SPI connection is open, and the current user may act as the
 * table's owner.
 */
void
esrs_state_aggregate_update(Oid events, const char *name, const EsrsAggregateOptions *old,
							const EsrsAggregateOptions *o)
{
	char	   *function = psprintf("%s_state", name);
	bool		sql = o->callbacks[ESRS_CALLBACK_APPLY_EVENT] != NULL;
	bool		changed = old == NULL ||
	sql != (old->callbacks[ESRS_CALLBACK_APPLY_EVENT] != NULL) ||
	(old->initial_state == NULL) != (o->initial_state == NULL) ||
	(o->initial_state != NULL && !esrs_jsonb_equal(old->initial_state, o->initial_state));

	for (int nargs = 1; nargs <= 2; nargs++)
	{
		if (sql)
			update_one(events, function, nargs, o->initial_state, changed);
		else
			drop_one(function, nargs, table_owner(events));
	}
}

/*
 * Drop them, also if the table is gone already: then those of the current user.
 * Raises 2BP01 if a view, for example, uses one.
 */
void
esrs_state_aggregate_drop(Oid events, const char *name)
{
	char	   *function = psprintf("%s_state", name);

	for (int nargs = 1; nargs <= 2; nargs++)
		drop_one(function, nargs, table_owner(events));
}
