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
#include "catalog/aggregate_load.h"
#include "catalog/extension.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "compat.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(esrs_catalog_changed);

typedef struct CacheEntry
{
	char		name[NAMEDATALEN];	/* key */
	EsrsAggregate *aggregate;	/* or NULL */
} CacheEntry;

static HTAB *cache = NULL;
static List *retired = NIL;		/* of EsrsAggregate, in TopMemoryContext */

/* Goes up whenever a function of the database has changed, whichever. */
static uint64 code_epoch = 1;

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
	code_epoch++;
	invalidate(InvalidOid, hash);
}

static void
schema_changed(Datum arg, int cacheid, uint32 hash)
{
	/* names lead elsewhere */
	code_epoch++;
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
	{
		release((EsrsAggregate *) lfirst(lc));
	}
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

/*
 * A number that changes when any function of the database does: a callback may
 * call others, of which nobody knows.
 */
uint64
esrs_aggregate_code_epoch(void)
{
	return code_epoch;
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
 * Looking up
 * ------------------------------------------------------------------------
 */

/* A hash of the name, for lock tags. */
uint32
esrs_aggregate_hash(const char *name)
{
	return hash_bytes((const unsigned char *) name, strlen(name));
}

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

/* Raise 42704. */
void
esrs_aggregate_missing(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("aggregate \"%s\" does not exist", name),
			 errhint("Registered aggregates are in the view esrs_aggregates.")));
	pg_unreachable();
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
		bool		found;

		CHECK_FOR_INTERRUPTS();
		if (entry->aggregate != NULL)
			retire(entry);

		/*
		 * below the current context until it is complete, so an error frees
		 * it
		 */
		context = AllocSetContextCreate(CurrentMemoryContext, "esrs aggregate",
										ALLOCSET_SMALL_SIZES);
		agg = MemoryContextAllocZero(context, sizeof(EsrsAggregate));
		strlcpy(agg->name, name, sizeof(agg->name));
		agg->context = context;
		agg->hash = esrs_aggregate_hash(name);
		loading = agg;
		loading_spoilt = false;
		PG_TRY();
		{
			found = esrs_aggregate_load(agg);
		}
		PG_FINALLY();
		{
			loading = NULL;
		}
		PG_END_TRY();
		if (!found)
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
		esrs_aggregate_missing(name);
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

/* Are its states the same whoever folds them, with whatever search_path? */
bool
esrs_aggregate_is_pinned(EsrsAggregate *agg)
{
	while (agg->pinned_epoch != code_epoch)
	{
		uint64		epoch = code_epoch;

		agg->pinned = esrs_definition_all_pinned(&agg->routine);
		agg->pinned_epoch = epoch;
	}
	return agg->pinned;
}

/*
 * The fingerprint of what folds states of the aggregate; NULL if there are no
 * snapshots of it, or none that could be trusted.
 */
const uint8 *
esrs_aggregate_fingerprint(EsrsAggregate *agg)
{
	if (agg->snapshot_every == 0 || !agg->unchanging || !esrs_aggregate_is_pinned(agg))
		return NULL;
	while (agg->fingerprint_epoch != code_epoch)
	{
		/* reading the catalogs may bring the next change to light */
		uint64		epoch = code_epoch;
		MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "esrs fingerprint",
													  ALLOCSET_DEFAULT_SIZES);
		MemoryContext before = MemoryContextSwitchTo(context);

		agg->has_fingerprint = esrs_definition_fingerprint(&agg->routine, &agg->stamp.hash,
														   sizeof(agg->stamp.hash),
														   agg->fingerprint);
		MemoryContextSwitchTo(before);
		MemoryContextDelete(context);
		agg->fingerprint_epoch = epoch;
	}
	return agg->has_fingerprint ? agg->fingerprint : NULL;
}

/*
 * May the current user command the aggregate?  Raises 42501 if he may not
 * EXECUTE the function that decides, 55000 for a store without logic.
 */
void
esrs_aggregate_check_command_right(EsrsAggregate *agg)
{
	Oid			function = esrs_routine_deciding_function(&agg->routine);

	if (!OidIsValid(function))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("aggregate \"%s\" is a store without logic and takes no commands", agg->name),
				 errhint("Store events with esrs_persist(), or give it functions with esrs_alter_aggregate().")));
	if (esrs_proc_aclcheck(function, GetUserId(), ACL_EXECUTE) != ACLCHECK_OK)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for aggregate \"%s\"", agg->name),
				 errhint("EXECUTE on function %s is the right to command it.",
						 format_procedure(function))));
}

/* Raise 42501 unless the current user has the right on the events table. */
void
esrs_aggregate_check_table_right(EsrsAggregate *agg, uint64 mode)
{
	AclResult	result = pg_class_aclcheck(agg->events, GetUserId(), (AclMode) mode);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_TABLE, get_rel_name(agg->events));
}
