/*-------------------------------------------------------------------------
 *
 * aggregate.c
 *	  What is known of a registered aggregate, kept per backend.
 *
 * Looking an aggregate up costs a few queries, so the result is kept until
 * something that it was made from changes: the catalogs (a trigger there
 * tells), the events table, a function, a schema.  Invalidation only sets a
 * flag; no catalog may be read in its callbacks.
 *
 * An entry that became invalid may still be in use by a command further up the
 * stack.  It is set aside and released when the transaction ends.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/aggregate.h"

#include "access/xact.h"
#include "base/jsonb_codec.h"
#include "base/security.h"
#include "base/spi.h"
#include "catalog/event_table.h"
#include "catalog/extension.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "compat.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(esrs_catalog_changed);

typedef struct CacheEntry
{
	char		name[NAMEDATALEN];	/* key */
	EsrsAggregate *aggregate;	/* or NULL */
} CacheEntry;

static HTAB *cache = NULL;
static List *retired = NIL;		/* of EsrsAggregate, in TopMemoryContext */

/* The entry that is being read, and whether what was read is still true. */
static EsrsAggregate *loading = NULL;
static bool loading_spoilt = false;

/* ------------------------------------------------------------------------
 * Invalidation
 * ------------------------------------------------------------------------
 */

static bool
uses_function(EsrsAggregate *agg, uint32 hash)
{
	ListCell   *lc;

	for (int i = 0; i < ESRS_CALLBACK_COUNT; i++)
		if (OidIsValid(agg->routine.functions[i].oid) &&
			agg->routine.functions[i].hash == hash)
			return true;
	foreach(lc, agg->handlers)
	{
		EsrsHandler *handler = (EsrsHandler *) lfirst(lc);

		if ((OidIsValid(handler->function.oid) && handler->function.hash == hash) ||
			(OidIsValid(handler->delete_function.oid) && handler->delete_function.hash == hash))
			return true;
	}
	return false;
}

/*
 * Mark invalid the entries of a table, those with a function, or, if neither
 * is given, all.
 */
static void
invalidate(Oid events, uint32 function_hash)
{
	HASH_SEQ_STATUS scan;
	CacheEntry *entry;

#define CONCERNS(agg) \
	(OidIsValid(events) ? (agg)->events == events : \
	 function_hash == 0 || uses_function(agg, function_hash))

	if (loading != NULL && CONCERNS(loading))
		loading_spoilt = true;
	if (cache == NULL)
		return;
	hash_seq_init(&scan, cache);
	while ((entry = hash_seq_search(&scan)) != NULL)
		if (entry->aggregate != NULL && CONCERNS(entry->aggregate))
			entry->aggregate->valid = false;
#undef CONCERNS
}

static void
relation_changed(Datum arg, Oid relation)
{
	bool		was_valid = esrs_extension_is_valid();

	esrs_extension_invalidate(relation);
	if (was_valid && !esrs_extension_is_valid())
		invalidate(InvalidOid, 0);
	else if (OidIsValid(relation))
		invalidate(relation, 0);
}

static void
function_changed(Datum arg, int cacheid, uint32 hash)
{
	invalidate(InvalidOid, hash);
}

static void
schema_changed(Datum arg, int cacheid, uint32 hash)
{
	invalidate(InvalidOid, 0);
}

/* Release an entry that nothing refers to any more. */
static void
release(EsrsAggregate *agg)
{
	for (int i = 0; i < ESRS_PLAN_COUNT; i++)
		if (agg->plans[i] != NULL)
			SPI_freeplan(agg->plans[i]);
	MemoryContextDelete(agg->context);
}

static void
transaction_ended(XactEvent event, void *arg)
{
	ListCell   *lc;

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		event != XACT_EVENT_PREPARE)
		return;
	foreach(lc, retired)
		release((EsrsAggregate *) lfirst(lc));
	list_free(retired);
	retired = NIL;
}

/* Register what keeps the cache true.  Called once, at load. */
void
esrs_aggregate_init(void)
{
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, function_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, schema_changed, (Datum) 0);
	RegisterXactCallback(transaction_ended, NULL);
}

/* Trigger on the catalogs: every backend forgets what it read there. */
Datum
esrs_catalog_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be called as a trigger", "esrs.catalog_changed")));
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	return PointerGetDatum(NULL);
}

/* ------------------------------------------------------------------------
 * Reading the catalogs
 * ------------------------------------------------------------------------
 */

/* A hash of the name, for lock tags. */
uint32
esrs_aggregate_hash(const char *name)
{
	return hash_bytes((const unsigned char *) name, strlen(name));
}

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

	return esrs_spi_select_at(esrs_spi_prepare_once(query, 1, types), values, NULL,
							  GetLatestSnapshot());
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
					 errdetail("There, %s.", info->problem),
					 errhint("Restore the table's definition, or unregister the aggregate.")));
			break;
		case ESRS_TABLE_NO_DEFAULT:
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("aggregate \"%s\" has lost the tie to its events table %s",
							name, info->table),
					 errdetail("The default of the column \"position\" does not name the aggregate and its functions; DROP FUNCTION ... CASCADE has that effect."),
					 errhint("Create what was dropped, then call esrs_check(), which repairs the default.")));
			break;
		case ESRS_TABLE_OK:
			break;
	}
}

static void
load_handlers(EsrsAggregate *agg)
{
	const EsrsExtension *ext = esrs_extension();
	uint64		n = query_catalog("SELECT name, handler, delete_handler, event_types"
								  " FROM esrs.handlers"
								  " WHERE mode OPERATOR(pg_catalog.=) 'transactional'"
								  " AND $1 OPERATOR(pg_catalog.=) ANY (aggregates)"
								  " ORDER BY ordinal", agg->name);

	for (uint64 i = 0; i < n; i++)
	{
		MemoryContext before = MemoryContextSwitchTo(agg->context);
		EsrsHandler *handler = palloc0(sizeof(EsrsHandler));
		bool		isnull;
		Datum		types;
		Oid			oid;

		handler->name = text_column(agg->context, i, 1);
		handler->signature = text_column(agg->context, i, 2);
		handler->delete_signature = text_column(agg->context, i, 3);
		oid = esrs_function_find(handler->signature);
		esrs_function_init(&handler->function, oid, agg->context);
		if (OidIsValid(oid))
		{
			Oid		   *arguments;
			int			nargs;

			(void) get_func_signature(oid, &arguments, &nargs);
			handler->set_based = nargs == 1 && arguments[0] == ext->event_array_type;
		}
		if (handler->delete_signature != NULL)
			esrs_function_init(&handler->delete_function,
							   esrs_function_find(handler->delete_signature), agg->context);
		types = esrs_spi_column(i, 4, &isnull);
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
		}
		esrs_function_init(&agg->routine.functions[i], oid, agg->context);
	}
	if (agg->routine.kind == ESRS_KIND_C)
		esrs_routine_load_c(&agg->routine);
}

/* Read an aggregate.  NULL if there is none; everything lives in "context". */
static EsrsAggregate *
load(const char *name, MemoryContext context)
{
	const EsrsExtension *ext = esrs_extension();
	EsrsAggregate *agg = MemoryContextAllocZero(context, sizeof(EsrsAggregate));
	bool		given[ESRS_CALLBACK_COUNT];
	EsrsIdentity before;
	EsrsTableInfo info;
	EsrsTableCondition condition;
	bool		isnull;
	uint64		found;

	loading = agg;
	loading_spoilt = false;
	strlcpy(agg->name, name, sizeof(agg->name));
	agg->context = context;
	agg->hash = esrs_aggregate_hash(name);

	esrs_security_become(&before, ext->owner);
	esrs_spi_begin();
	found = query_catalog("SELECT events, handler IS NOT NULL, handle_command IS NOT NULL,"
						  " initial_state, event_version, event_id_format,"
						  " event_type_path, notify, notify_payload, adopted,"
						  " apply_event IS NOT NULL, upcast IS NOT NULL,"
						  " from_event IS NOT NULL, to_event IS NOT NULL"
						  " FROM esrs.aggregates WHERE name OPERATOR(pg_catalog.=) $1", name);
	if (found > 0)
	{
		agg->events = DatumGetObjectId(esrs_spi_column(0, 1, &isnull));
		load_options(agg);
		given[ESRS_CALLBACK_HANDLER] = bool_column(0, 2);
		given[ESRS_CALLBACK_HANDLE_COMMAND] = bool_column(0, 3);
		for (int i = ESRS_CALLBACK_APPLY_EVENT; i < ESRS_CALLBACK_COUNT; i++)
			given[i] = bool_column(0, 11 + i - ESRS_CALLBACK_APPLY_EVENT);
		load_handlers(agg);
	}
	esrs_spi_end();
	esrs_security_restore(&before);
	if (found == 0)
		return NULL;

	condition = esrs_event_table_inspect(agg->events, name, &info);
	if (condition != ESRS_TABLE_OK)
		report_table(name, condition, &info);
	agg->owner = info.owner;
	agg->table = MemoryContextStrdup(context, info.table);
	agg->sequence_index_name = MemoryContextStrdup(context, get_rel_name(info.sequence_index));
	load_functions(agg, given, &info);
	return agg;
}

/* ------------------------------------------------------------------------
 * Looking up
 * ------------------------------------------------------------------------
 */

static CacheEntry *
cache_entry(const char *name)
{
	char		key[NAMEDATALEN];
	CacheEntry *entry;
	bool		found;

	if (cache == NULL)
	{
		HASHCTL		ctl = {.keysize = NAMEDATALEN,.entrysize = sizeof(CacheEntry),
			.hcxt = TopMemoryContext
		};

		cache = hash_create("esrs aggregates", 32, &ctl,
							HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	}
	strlcpy(key, name, sizeof(key));
	entry = hash_search(cache, key, HASH_ENTER, &found);
	if (!found)
		entry->aggregate = NULL;
	return entry;
}

/* Set an entry aside until the transaction ends. */
static void
retire(CacheEntry *entry)
{
	MemoryContext before = MemoryContextSwitchTo(TopMemoryContext);

	retired = lappend(retired, entry->aggregate);
	entry->aggregate = NULL;
	MemoryContextSwitchTo(before);
}

/*
 * The aggregate of a name; NULL, or 42704, if there is none.
 *
 * The result stays usable until the transaction ends, and is current until
 * the next catalog access.  Raises 42P01 or 55000 if the events table is gone
 * or is not what it should be.
 */
EsrsAggregate *
esrs_aggregate_find(const char *name, bool missing_ok)
{
	CacheEntry *entry = NULL;

	/* a lock that is held already tells nothing of functions replaced since */
	AcceptInvalidationMessages();
	if (strlen(name) < NAMEDATALEN)
		entry = cache_entry(name);
	while (entry != NULL && (entry->aggregate == NULL || !entry->aggregate->valid))
	{
		MemoryContext context;
		EsrsAggregate *agg;

		CHECK_FOR_INTERRUPTS();
		if (entry->aggregate != NULL)
			retire(entry);

		/*
		 * below the current context until it is complete, so an error frees
		 * it
		 */
		context = AllocSetContextCreate(CurrentMemoryContext, "esrs aggregate",
										ALLOCSET_SMALL_SIZES);
		PG_TRY();
		{
			agg = load(name, context);
		}
		PG_FINALLY();
		{
			loading = NULL;
		}
		PG_END_TRY();
		if (agg == NULL)
		{
			MemoryContextDelete(context);
			hash_search(cache, entry->name, HASH_REMOVE, NULL);
			entry = NULL;
			break;
		}
		MemoryContextSetParent(context, CacheMemoryContext);
		entry->aggregate = agg;
		agg->valid = !loading_spoilt;
	}
	if (entry == NULL && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("aggregate \"%s\" does not exist", name),
				 errhint("Registered aggregates are in the view esrs_aggregates.")));
	return entry ? entry->aggregate : NULL;
}

/* As esrs_aggregate_find(), and there must be one. */
EsrsAggregate *
esrs_aggregate_lookup(const char *name)
{
	return esrs_aggregate_find(name, false);
}

/*
 * As esrs_aggregate_lookup(), with the events table locked until the
 * transaction ends: its definition, and so the aggregate's, does not change
 * meanwhile.
 *
 * A command takes RowExclusiveLock, as an INSERT does.  It comes before the
 * lock of the instance; the coarse lock of many instances conflicts with it.
 */
EsrsAggregate *
esrs_aggregate_lookup_locked(const char *name, LOCKMODE mode)
{
	for (;;)
	{
		EsrsAggregate *agg = esrs_aggregate_lookup(name);
		Oid			events = agg->events;

		/* takes note of all changes committed before the lock was granted */
		LockRelationOid(events, mode);
		if (agg->valid)
			return agg;
		agg = esrs_aggregate_lookup(name);
		if (agg->events == events)
			return agg;
		UnlockRelationOid(events, mode);
	}
}

/*
 * May the current user command the aggregate?  Raises 42501 if he may not
 * EXECUTE the function that decides, 55000 for a store without logic.
 */
void
esrs_aggregate_check_command_right(EsrsAggregate *agg)
{
	Oid			function = esrs_routine_deciding_function(&agg->routine);
	AclResult	result;

	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("aggregate \"%s\" is a store without logic and takes no commands", agg->name),
				 errhint("Store events with esrs_persist(), or give it functions with esrs_alter_aggregate().")));
	result = esrs_proc_aclcheck(function, GetUserId(), ACL_EXECUTE);
	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_FUNCTION, get_func_name(function));
}

/* Raise 42501 unless the current user has the right on the events table. */
void
esrs_aggregate_check_table_right(EsrsAggregate *agg, uint64 mode)
{
	AclResult	result = pg_class_aclcheck(agg->events, GetUserId(), (AclMode) mode);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_TABLE, get_rel_name(agg->events));
}
