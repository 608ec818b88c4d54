/*-------------------------------------------------------------------------
 *
 * aggregate_load.c
 *	  Reading what is known of an aggregate from the catalogs and from its
 *	  events table.
 *
 * The catalogs are read as their owner and with the newest snapshot.  What was
 * read is kept, and thrown away in time, by aggregate.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/aggregate_load.h"

#include "base/jsonb_codec.h"
#include "base/security.h"
#include "base/spi.h"
#include "catalog/event_table.h"
#include "catalog/extension.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "compat.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

/*
 * Run one query on the catalogs with the name as its parameter, as their
 * owner, with the newest snapshot: the cache must hold what is true now, also
 * in a transaction whose own snapshot is old.
 */
static uint64
query_catalog(const char *query, const char *name)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(name)};

	return esrs_spi_select_latest(query, 1, types, values);
}

static char *
text_column(MemoryContext context, uint64 row, int column)
{
	bool		isnull;
	Datum		value = esrs_spi_column(row, column, &isnull);
	MemoryContext before;
	char	   *result;

	if (isnull)
		return NULL;
	before = MemoryContextSwitchTo(context);
	result = TextDatumGetCString(value);
	MemoryContextSwitchTo(before);
	return result;
}

static bool
bool_column(uint64 row, int column)
{
	bool		isnull;
	Datum		value = esrs_spi_column(row, column, &isnull);

	return !isnull && DatumGetBool(value);
}

static int
notify_option(const char *text)
{
	if (text == NULL)
		return -1;
	return strcmp(text, "off") == 0 ? ESRS_NOTIFY_OFF :
		strcmp(text, "commit") == 0 ? ESRS_NOTIFY_COMMIT : ESRS_NOTIFY_WORKER;
}

/* The table is not what it should be: say what to do. */
static void
report_table(const char *name, EsrsTableCondition condition, const EsrsTableInfo *info)
{
	switch (condition)
	{
		case ESRS_TABLE_MISSING:
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("events table of aggregate \"%s\" does not exist", name),
					 errhint("It was dropped. Call esrs_unregister_aggregate('%s') and register the aggregate again.",
							 name)));
			break;
		case ESRS_TABLE_FOREIGN:
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("table %s is not the events table of aggregate \"%s\"",
							info->table, name),
					 errdetail("It cannot hold events: %s.", info->problem),
					 errhint("Restore the table's definition, or unregister the aggregate.")));
			break;
		case ESRS_TABLE_NO_DEFAULT:
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("aggregate \"%s\" has lost the tie to its events table %s",
							name, info->table),
					 errdetail("The default of the column \"position\" does not name the aggregate and its functions: one of them was dropped with CASCADE, or the default was changed."),
					 errhint("Create what was dropped, then call esrs_check(), which repairs the default.")));
			break;
		case ESRS_TABLE_OK:
			break;
	}
}

/* A handler's function, or InvalidOid if it is not to be trusted. */
static Oid
only_trusted(Oid function, EsrsHandler *handler, bool deletion)
{
	return OidIsValid(function) && esrs_aggregate_trusts(handler, function, deletion) ?
		function : InvalidOid;
}

static Oid
role_column(uint64 row, int column)
{
	bool		isnull;
	Datum		value = esrs_spi_column(row, column, &isnull);

	return isnull ? InvalidOid : DatumGetObjectId(value);
}

/*
 * The handler in a row of the last result, which begins with
 * ESRS_HANDLER_COLUMNS, in a context of the caller's.  The current user is the
 * owner of the catalogs.
 */
EsrsHandler *
esrs_aggregate_load_handler(MemoryContext context, uint64 row)
{
	const EsrsExtension *ext = esrs_extension();
	MemoryContext before = MemoryContextSwitchTo(context);
	EsrsHandler *handler = palloc0(sizeof(EsrsHandler));
	bool		isnull;
	Datum		types;
	Oid			oid;

	handler->name = text_column(context, row, 1);
	handler->signature = text_column(context, row, 2);
	handler->delete_signature = text_column(context, row, 3);
	handler->owner = role_column(row, 5);
	handler->delete_owner = role_column(row, 6);
	handler->run_as = role_column(row, 7);
	/* one that is missing or does not fit stops commands, not reading */
	oid = esrs_handler_find(handler->signature, ext->event_type,
							ext->event_array_type, &handler->set_based);
	esrs_function_init(&handler->function, only_trusted(oid, handler, false), context);
	if (handler->delete_signature != NULL)
	{
		oid = esrs_handler_find_delete(handler->delete_signature);
		esrs_function_init(&handler->delete_function, only_trusted(oid, handler, true),
						   context);
	}
	types = esrs_spi_column(row, 4, &isnull);
	if (!isnull)
	{
		Datum	   *values;
		int			nvalues;

		deconstruct_array(DatumGetArrayTypeP(types), TEXTOID, -1, false, TYPALIGN_INT,
						  &values, NULL, &nvalues);
		for (int j = 0; j < nvalues; j++)
			handler->event_types = lappend(handler->event_types,
										   TextDatumGetCString(values[j]));
	}
	MemoryContextSwitchTo(before);
	return handler;
}

static void
load_handlers(EsrsAggregate *agg)
{
	uint64		n = query_catalog("SELECT " ESRS_HANDLER_COLUMNS " FROM esrs.handlers"
								  " WHERE mode OPERATOR(pg_catalog.=) 'transactional'"
								  " AND $1 OPERATOR(pg_catalog.=) ANY (aggregates)"
								  " ORDER BY ordinal", agg->name);

	for (uint64 i = 0; i < n; i++)
	{
		EsrsHandler *handler = esrs_aggregate_load_handler(agg->context, i);
		MemoryContext before = MemoryContextSwitchTo(agg->context);

		agg->handlers = lappend(agg->handlers, handler);
		MemoryContextSwitchTo(before);
	}
}

/* Take the options from the row that was read. */
static void
load_options(EsrsAggregate *agg)
{
	EsrsRoutine *routine = &agg->routine;
	MemoryContext before;
	bool		isnull;
	Datum		value;

	routine->kind = bool_column(0, 2) ? ESRS_KIND_C :
		bool_column(0, 3) ? ESRS_KIND_SQL : ESRS_KIND_STORE;
	before = MemoryContextSwitchTo(agg->context);
	value = esrs_spi_column(0, 4, &isnull);
	if (!isnull)
		routine->initial_state = esrs_jsonb_copy(DatumGetJsonbP(value));
	MemoryContextSwitchTo(before);
	value = esrs_spi_column(0, 5, &isnull);
	routine->has_version = !isnull;
	routine->event_version = isnull ? 0 : DatumGetInt32(value);
	agg->v4_ids = strcmp(text_column(agg->context, 0, 6), "v4") == 0;
	routine->event_type_path = text_column(agg->context, 0, 7);
	agg->notify = notify_option(text_column(agg->context, 0, 8));
	{
		char	   *payload = text_column(agg->context, 0, 9);

		agg->notify_payload = payload == NULL ? -1 :
			strcmp(payload, "event") == 0 ? ESRS_PAYLOAD_EVENT : ESRS_PAYLOAD_REFERENCE;
	}
	agg->adopted = bool_column(0, 10);
}

/*
 * Give the functions that the table's default names their places: they stand
 * there in the order of registration, those that were not given left out.
 *
 * The default is in the hands of the table's owner, so nothing is taken for
 * granted: each function must be what its place demands, and one that the
 * owner may execute.
 */
static void
load_functions(EsrsAggregate *agg, const bool *given, const EsrsTableInfo *info)
{
	ListCell   *lc = list_head(info->callbacks);

	for (int i = 0; i < ESRS_CALLBACK_COUNT; i++)
	{
		Oid			oid = InvalidOid;

		if (given[i])
		{
			if (lc == NULL)
				report_table(agg->name, ESRS_TABLE_NO_DEFAULT, info);
			oid = lfirst_oid(lc);
			lc = lnext(info->callbacks, lc);
			if (!SearchSysCacheExists1(PROCOID, ObjectIdGetDatum(oid)))
				report_table(agg->name, ESRS_TABLE_NO_DEFAULT, info);
			esrs_routine_check_function(i, oid, esrs_extension()->handler_type);
			if (esrs_proc_aclcheck(oid, info->owner, ACL_EXECUTE) != ACLCHECK_OK)
				ereport(ERROR,
						(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						 errmsg("owner of table %s may not execute function %s",
								info->table, format_procedure(oid)),
						 errhint("GRANT EXECUTE on it to the owner, or name another function with esrs_alter_aggregate().")));
		}
		esrs_function_init(&agg->routine.functions[i], oid, agg->context);
	}
	if (lc != NULL)
		report_table(agg->name, ESRS_TABLE_NO_DEFAULT, info);
	if (agg->routine.kind == ESRS_KIND_C)
		esrs_routine_load_c(&agg->routine);
}

/*
 * Is a function, which was found by a handler's signature, that of the owner
 * who had it when the handler was registered, or of somebody whom the
 * registering role trusts?  It may be a stranger's in the place of a dropped
 * one.
 */
bool
esrs_aggregate_trusts(const EsrsHandler *handler, Oid function, bool deletion)
{
	return esrs_function_owner(function) == (deletion ? handler->delete_owner : handler->owner) ||
		esrs_function_is_trusted(function, handler->run_as);
}

/*
 * A hash that is the same as long as a state that was folded before is still
 * what a fold would give now, but for what esrs_aggregate_code_epoch() tells.
 */
static uint64
meaning(EsrsAggregate *agg)
{
	EsrsRoutine *routine = &agg->routine;
	int			constants[] = {routine->kind, routine->has_version, routine->event_version,
		agg->owner
	};
	uint64		hash = hash_bytes_extended((unsigned char *) constants, sizeof(constants), 0);

	hash = hash_bytes_extended((unsigned char *) &agg->stamp.hash, sizeof(uint64), hash);
	for (int i = 0; i < ESRS_CALLBACK_COUNT; i++)
		hash = hash_bytes_extended((unsigned char *) &routine->functions[i].oid, sizeof(Oid), hash);
	if (routine->initial_state != NULL)
		hash = hash_bytes_extended((unsigned char *) routine->initial_state,
								   VARSIZE(routine->initial_state), hash);
	return hash;
}

/*
 * Fill an aggregate whose name, hash and context are set, and all of whose
 * parts live in that context.  False if there is none of that name.
 *
 * Raises 42P01 or 55000 if its table is gone or not what it should be, 42809
 * or 42501 for functions that cannot be what they are named for.
 */
bool
esrs_aggregate_load(EsrsAggregate *agg)
{
	const EsrsExtension *ext = esrs_extension();
	const char *name = agg->name;
	bool		given[ESRS_CALLBACK_COUNT];
	EsrsIdentity before;
	EsrsTableInfo info;
	EsrsTableCondition condition;
	bool		isnull;
	uint64		found;

	esrs_security_become(&before, ext->owner);
	esrs_spi_begin();
	found = query_catalog("SELECT events, handler IS NOT NULL, handle_command IS NOT NULL,"
						  " initial_state, event_version, event_id_format,"
						  " event_type_path, notify, notify_payload, adopted,"
						  " apply_event IS NOT NULL, upcast IS NOT NULL,"
						  " from_event IS NOT NULL, to_event IS NOT NULL,"
						  " coalesce(snapshot_every, 0)"
						  " FROM esrs.aggregates WHERE name OPERATOR(pg_catalog.=) $1", name);
	if (found > 0)
	{
		agg->events = DatumGetObjectId(esrs_spi_column(0, 1, &isnull));
		load_options(agg);
		given[ESRS_CALLBACK_HANDLER] = bool_column(0, 2);
		given[ESRS_CALLBACK_HANDLE_COMMAND] = bool_column(0, 3);
		for (int i = ESRS_CALLBACK_APPLY_EVENT; i < ESRS_CALLBACK_COUNT; i++)
			given[i] = bool_column(0, 11 + i - ESRS_CALLBACK_APPLY_EVENT);
		agg->snapshot_every = DatumGetInt32(esrs_spi_column(0, 15, &isnull));
		load_handlers(agg);
	}
	esrs_spi_end();
	esrs_security_restore(&before);
	if (found == 0)
		return false;

	condition = esrs_event_table_inspect(agg->events, name, &info);
	if (condition != ESRS_TABLE_OK)
		report_table(name, condition, &info);
	agg->owner = info.owner;
	agg->table = MemoryContextStrdup(agg->context, info.table);
	agg->sequence_index_name = MemoryContextStrdup(agg->context, info.sequence_index);
	agg->unchanging = info.unchanging;
	agg->stamp = info.stamp;
	agg->direct = info.direct;
	load_functions(agg, given, &info);
	agg->meaning = meaning(agg);
	return true;
}
