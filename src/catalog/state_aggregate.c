/*-------------------------------------------------------------------------
 *
 * state_aggregate.c
 *	  The SQL aggregates <name>_state, which fold the events of an aggregate
 *	  within a query:
 *
 *		SELECT aggregate_id, book_state(payload ORDER BY sequence_number)
 *		  FROM book_events GROUP BY 1
 *
 * book_state(payload) is apply_event and nothing else, so there is none while
 * payloads are not events as they stand.  book_state(payload, version) goes
 * through esrs and upcasts.
 *
 * They stand in the schema of the events table and belong to whoever registered.
 * A function of the name that is not ours is left alone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/state_aggregate.h"

#include "access/htup_details.h"
#include "base/jsonb_codec.h"
#include "base/spi.h"
#include "catalog/extension.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

/* What stands in the place of a state aggregate. */
typedef enum Occupant
{
	NOBODY,
	OURS,
	STRANGER
} Occupant;

/* One of the two: with or without version. */
typedef struct Place
{
	Oid			schema;
	const char *name;			/* of the function */
	int			nargs;
	Occupant	occupant;
	Oid			function;		/* that occupies it */
} Place;

static const char *const arguments[] = {
	"", "payload pg_catalog.jsonb", "payload pg_catalog.jsonb, version pg_catalog.int4"
};
static const char *const types[] = {"", "pg_catalog.jsonb", "pg_catalog.jsonb, pg_catalog.int4"};

/* The transition function of a function that is an aggregate, or InvalidOid. */
static Oid
transition(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(function));
	Oid			result;

	if (!HeapTupleIsValid(tuple))
		return InvalidOid;
	result = ((Form_pg_aggregate) GETSTRUCT(tuple))->aggtransfn;
	ReleaseSysCache(tuple);
	return result;
}

/* Ours is one over esrs.fold(), or over one of these functions. */
static bool
is_ours(Oid function, int nargs, const Oid *apply)
{
	Oid			step = transition(function);
	char	   *name = OidIsValid(step) ? get_func_name(step) : NULL;

	if (name == NULL)
		return false;
	if (nargs == 2)
		return strcmp(name, "fold") == 0 &&
			get_func_namespace(step) == esrs_extension()->internals;
	return step == apply[0] || step == apply[1];
}

static void
look(Place *place, Oid events, const char *name, int nargs, const Oid *apply)
{
	Oid			args[2] = {JSONBOID, INT4OID};
	Oid			function;

	place->schema = get_rel_namespace(events);
	place->name = psprintf("%s_state", name);
	place->nargs = nargs;
	function = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
							   CStringGetDatum(place->name),
							   PointerGetDatum(buildoidvector(args, nargs)),
							   ObjectIdGetDatum(place->schema));
	place->function = function;
	place->occupant = !OidIsValid(function) ? NOBODY :
		is_ours(function, nargs, apply) ? OURS : STRANGER;
}

static char *
qualified(const Place *place)
{
	return quote_qualified_identifier(get_namespace_name(place->schema), place->name);
}

/* May the current user change what stands there?  If not, tell him. */
static bool
may_change(const Place *place)
{
	if (esrs_proc_ownercheck(place->function, GetUserId()))
		return true;
	ereport(NOTICE,
			(errmsg("function %s was left as it is", format_procedure(place->function)),
			 errdetail("It belongs to another role.")));
	return false;
}

static void
drop(const Place *place)
{
	if (place->occupant == OURS && may_change(place))
		esrs_spi_utility(psprintf("DROP AGGREGATE %s(%s)", qualified(place),
								  types[place->nargs]));
}

static void
create(const Place *place, const char *step, Jsonb *initial_state, bool changed)
{
	StringInfoData state;

	if (place->occupant == OURS && (!changed || !may_change(place)))
		return;

	if (place->occupant == STRANGER)
	{
		ereport(NOTICE,
				(errmsg("function %s exists and was left as it is",
						format_procedure(place->function)),
				 errdetail("No aggregate of this name was made that folds events in a query.")));
		return;
	}
	initStringInfo(&state);
	if (initial_state != NULL)
		esrs_jsonb_append(&state, initial_state);
	else
		appendStringInfoString(&state, "{}");
	esrs_spi_utility(psprintf("CREATE OR REPLACE AGGREGATE %s(%s)"
							  " (SFUNC = %s, STYPE = pg_catalog.jsonb, INITCOND = %s)",
							  qualified(place), arguments[place->nargs], step,
							  quote_literal_cstr(state.data)));
}

/*
 * Make the aggregates what they must be for these options; "old" are those of
 * before, or NULL.  An SPI connection is open; works as the current user.  Raises
 * 2BP01 if one must go that a view, for example, depends on.
 */
void
esrs_state_aggregate_update(Oid events, const char *name, const EsrsAggregateOptions *old,
							const EsrsAggregateOptions *o)
{
	Oid			apply[2] = {o->functions[ESRS_CALLBACK_APPLY_EVENT],
	old ? old->functions[ESRS_CALLBACK_APPLY_EVENT] : InvalidOid};
	bool		changed = old == NULL || apply[0] != apply[1] ||
	(old->initial_state == NULL) != (o->initial_state == NULL) ||
	(o->initial_state != NULL && !esrs_jsonb_equal(old->initial_state, o->initial_state));
	Place		plain;
	Place		versioned;

	look(&plain, events, name, 1, apply);
	look(&versioned, events, name, 2, apply);
	if (OidIsValid(apply[0]) && !OidIsValid(o->functions[ESRS_CALLBACK_UPCAST]) &&
		!OidIsValid(o->functions[ESRS_CALLBACK_TO_EVENT]))
		create(&plain,
			   quote_qualified_identifier(get_namespace_name(get_func_namespace(apply[0])),
										  get_func_name(apply[0])),
			   o->initial_state, changed);
	else
		drop(&plain);
	if (OidIsValid(apply[0]))
		create(&versioned, "esrs.fold", o->initial_state, changed);
	else
		drop(&versioned);
}

/* Drop them, as far as they are there.  An SPI connection is open. */
void
esrs_state_aggregate_drop(Oid events, const char *name, const EsrsAggregateOptions *o)
{
	const char *signature = o->callbacks[ESRS_CALLBACK_APPLY_EVENT];
	Oid			apply[2] = {signature ? esrs_function_find(signature) : InvalidOid, InvalidOid};

	for (int nargs = 1; nargs <= 2; nargs++)
	{
		Place		place;

		look(&place, events, name, nargs, apply);
		drop(&place);
	}
}
