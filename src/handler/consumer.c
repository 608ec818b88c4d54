/*-------------------------------------------------------------------------
 *
 * consumer.c
 *	  What is known of an asynchronous event handler, kept per backend.
 *
 * An entry is read anew when one of the catalogs has changed.  Who has locked a
 * checkpoint looks once more (esrs_consumer_recheck()): whoever changes a handler
 * has held that lock, and his commit may be so young that its invalidation has
 * not come in.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "handler/consumer.h"

#include "access/xact.h"
#include "base/security.h"
#include "base/spi.h"
#include "catalog/aggregate_load.h"
#include "catalog/demand.h"
#include "catalog/extension.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rls.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

typedef struct CacheEntry
{
	char		name[NAMEDATALEN];	/* key */
	EsrsConsumer *consumer;		/* or NULL */
} CacheEntry;

static HTAB *cache = NULL;
static SPIPlanPtr version_plan = NULL;

/* Entries that are not true any more, and may be in use further up the stack. */
static List *retired = NIL;		/* of EsrsConsumer, in TopMemoryContext */

/* The handler whose batch is in progress, or NULL. */
static const char *running = NULL;

/*
 * The search_path of a handler with pg_temp at its end: a session's temporary
 * tables must not take the place of the handler's.
 */
static char *
safe_search_path(const char *path)
{
	char	   *copy = pstrdup(path);
	List	   *names;
	ListCell   *lc;

	if (!SplitIdentifierString(copy, ',', &names) || names == NIL)
		return pstrdup("pg_catalog, pg_temp");
	foreach(lc, names)
	{
		if (strcmp((char *) lfirst(lc), "pg_temp") == 0)
			return pstrdup(path);
	}
	return psprintf("%s, pg_temp", path);
}

static EsrsOnError
on_error_of(const char *text)
{
	return strcmp(text, "park") == 0 ? ESRS_ON_ERROR_PARK :
		strcmp(text, "stop") == 0 ? ESRS_ON_ERROR_STOP : ESRS_ON_ERROR_SKIP;
}

/* Take an entry from the row that was read. */
static void
fill(EsrsConsumer *consumer)
{
	MemoryContext before = MemoryContextSwitchTo(consumer->context);
	Datum	   *names;
	int			n;
	bool		isnull;

	consumer->handler = esrs_aggregate_load_handler(consumer->context, 0);
	deconstruct_array(DatumGetArrayTypeP(esrs_spi_column(0, 8, &isnull)), TEXTOID, -1, false,
					  TYPALIGN_INT, &names, NULL, &n);
	for (int i = 0; i < n; i++)
		consumer->aggregates = lappend(consumer->aggregates, TextDatumGetCString(names[i]));
	consumer->total = strcmp(esrs_spi_text(0, 9), "total") == 0;
	consumer->partitions = DatumGetInt32(esrs_spi_column(0, 10, &isnull));
	consumer->batch_size = DatumGetInt32(esrs_spi_column(0, 11, &isnull));
	consumer->on_error = on_error_of(esrs_spi_text(0, 12));
	consumer->max_attempts = DatumGetInt32(esrs_spi_column(0, 13, &isnull));
	consumer->search_path = safe_search_path(esrs_spi_text(0, 14));
	consumer->active = strcmp(esrs_spi_text(0, 15), "active") == 0;
	consumer->version = DatumGetTransactionId(esrs_spi_column(0, 16, &isnull));
	consumer->replayable = DatumGetBool(esrs_spi_column(0, 17, &isnull));
	consumer->async = strcmp(esrs_spi_text(0, 18), "async") == 0;
	consumer->ordinal = DatumGetInt64(esrs_spi_column(0, 19, &isnull));
	MemoryContextSwitchTo(before);
}

/*
 * Read a handler's row into a context below the current one.  NULL if there is
 * none, or it is not asynchronous, unless "any" will do.
 */
static EsrsConsumer *
load(const char *name, bool any)
{
	Oid			types[2] = {TEXTOID, BOOLOID};
	Datum		values[2] = {CStringGetTextDatum(name), BoolGetDatum(any)};
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "esrs consumer",
												  ALLOCSET_SMALL_SIZES);
	EsrsConsumer *consumer = MemoryContextAllocZero(context, sizeof(EsrsConsumer));
	EsrsIdentity before;
	bool		found;

	strlcpy(consumer->name, name, sizeof(consumer->name));
	consumer->context = context;
	consumer->generation = esrs_demand_generation();
	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	found = esrs_spi_select_latest("SELECT " ESRS_HANDLER_COLUMNS ", aggregates, ordering,"
								   " partitions, batch_size, on_error, max_attempts,"
								   " search_path, status, xmin, replayable, mode, ordinal"
								   " FROM esrs.handlers"
								   " WHERE (mode OPERATOR(pg_catalog.=) 'async' OR $2)"
								   " AND name OPERATOR(pg_catalog.=) $1", 2, types, values) > 0;
	if (found)
		fill(consumer);
	esrs_spi_end();
	esrs_security_restore(&before);
	if (!found)
	{
		MemoryContextDelete(context);
		return NULL;
	}
	return consumer;
}

/* The same for an asynchronous handler, and for as long as the cache keeps it. */
static EsrsConsumer *
load_for_cache(const char *name)
{
	EsrsConsumer *consumer = load(name, false);

	if (consumer != NULL)
		MemoryContextSetParent(consumer->context, CacheMemoryContext);
	return consumer;
}

/*
 * A handler of either mode, in a context below the current one, as it is now;
 * NULL if there is none of that name.
 */
EsrsConsumer *
esrs_consumer_load(const char *name)
{
	return load(name, true);
}

/* Set an entry aside until the transaction ends: a handler may look itself up. */
static void
forget(CacheEntry *entry)
{
	MemoryContext before = MemoryContextSwitchTo(TopMemoryContext);

	if (entry->consumer != NULL)
		retired = lappend(retired, entry->consumer);
	entry->consumer = NULL;
	MemoryContextSwitchTo(before);
}

static void
transaction_ended(XactEvent event, void *arg)
{
	ListCell   *lc;

	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		event != XACT_EVENT_PREPARE)
		return;
	running = NULL;
	foreach(lc, retired)
	{
		EsrsConsumer *consumer = (EsrsConsumer *) lfirst(lc);

		esrs_feed_close(&consumer->feed);
		esrs_feed_close(&consumer->instance_feed);
		MemoryContextDelete(consumer->context);
	}
	list_free(retired);
	retired = NIL;
}

/* A function has changed: read handlers that call it anew. */
static void
function_changed(Datum arg, int cacheid, uint32 hash)
{
	HASH_SEQ_STATUS scan;
	CacheEntry *entry;

	if (cache == NULL)
		return;
	hash_seq_init(&scan, cache);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		EsrsConsumer *consumer = entry->consumer;

		if (consumer != NULL &&
			(hash == 0 || consumer->handler->function.hash == hash ||
			 consumer->handler->delete_function.hash == hash))
			consumer->generation = 0;
	}
}

/* Register for what must be heard of.  Called once, at load. */
void
esrs_consumer_init(void)
{
	CacheRegisterSyscacheCallback(PROCOID, function_changed, (Datum) 0);
	RegisterXactCallback(transaction_ended, NULL);
}

/* Note the handler whose batch is in progress; NULL: none. */
void
esrs_consumer_set_running(const char *name)
{
	running = name;
}

/*
 * Raise 55000 if the handler's own batch is in progress: it holds the checkpoint,
 * and will write it when it is done.
 */
void
esrs_consumer_check_not_running(const char *name)
{
	if (running != NULL && strcmp(running, name) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("event handler \"%s\" cannot change, or wait for, itself", name),
				 errdetail("It is running.")));
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

		cache = hash_create("esrs consumers", 32, &ctl,
							HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	}
	strlcpy(key, name, sizeof(key));
	entry = hash_search(cache, key, HASH_ENTER, &found);
	if (!found)
		entry->consumer = NULL;
	return entry;
}

/*
 * The asynchronous handler of a name, NULL if there is none.  Usable until the
 * transaction ends.
 */
EsrsConsumer *
esrs_consumer_find(const char *name)
{
	CacheEntry *entry;

	AcceptInvalidationMessages();
	(void) esrs_demand_worker();	/* takes note of the catalogs */
	entry = cache_entry(name);
	if (entry->consumer != NULL && entry->consumer->generation != esrs_demand_generation())
		forget(entry);
	if (entry->consumer == NULL)
		entry->consumer = load_for_cache(name);
	if (entry->consumer == NULL)
	{
		hash_search(cache, entry->name, HASH_REMOVE, NULL);
		return NULL;
	}
	return entry->consumer;
}

/* Raise why a name is not one of an asynchronous handler: 42809 or 42704. */
void
esrs_consumer_missing(const char *name)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(name)};
	EsrsIdentity before;
	bool		transactional;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	transactional = esrs_spi_run("SELECT 1 FROM esrs.handlers WHERE name OPERATOR(pg_catalog.=) $1",
								 1, types, values, NULL, SPI_OK_SELECT) > 0;
	esrs_spi_end();
	esrs_security_restore(&before);
	if (transactional)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("event handler \"%s\" is transactional", name),
				 errdetail("It runs with every command, and has no position to go on from."),
				 errhint("Unregister it, or make it asynchronous with esrs_alter_handler().")));
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("asynchronous event handler \"%s\" does not exist", name),
			 errhint("Registered handlers, and their modes, are in the view esrs_handlers.")));
	pg_unreachable();
}

/* The same, and there must be one. */
EsrsConsumer *
esrs_consumer_lookup(const char *name)
{
	EsrsConsumer *consumer = esrs_consumer_find(name);

	if (consumer == NULL)
		esrs_consumer_missing(name);
	return consumer;
}

/*
 * All asynchronous handlers that are active, in order of registration, as
 * EsrsConsumerEntry in the current context.
 */
List *
esrs_consumer_list(void)
{
	List	   *result = NIL;
	EsrsIdentity before;
	uint64		n;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	n = esrs_spi_select_latest("SELECT name, partitions, run_as, aggregates FROM esrs.handlers"
							   " WHERE mode OPERATOR(pg_catalog.=) 'async'"
							   " AND status OPERATOR(pg_catalog.=) 'active' ORDER BY ordinal",
							   0, NULL, NULL);
	for (uint64 i = 0; i < n; i++)
	{
		EsrsConsumerEntry *entry = palloc0(sizeof(EsrsConsumerEntry));
		Datum	   *names;
		int			nnames;
		bool		isnull;

		strlcpy(entry->name, esrs_spi_text(i, 1), sizeof(entry->name));
		entry->partitions = DatumGetInt32(esrs_spi_column(i, 2, &isnull));
		entry->run_as = DatumGetObjectId(esrs_spi_column(i, 3, &isnull));
		deconstruct_array(DatumGetArrayTypeP(esrs_spi_column(i, 4, &isnull)), TEXTOID, -1, false,
						  TYPALIGN_INT, &names, NULL, &nnames);
		for (int j = 0; j < nnames; j++)
			entry->aggregates = lappend(entry->aggregates, TextDatumGetCString(names[j]));
		result = lappend(result, entry);
	}
	esrs_spi_end();
	esrs_security_restore(&before);
	return result;
}

/*
 * What the handler is now that its checkpoint is locked, so that it will not
 * change until the transaction ends; NULL if it does not exist any more.
 */
EsrsConsumer *
esrs_consumer_recheck(EsrsConsumer *consumer)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(consumer->name)};
	TransactionId version = InvalidTransactionId;
	EsrsIdentity before;
	bool		isnull;
	CacheEntry *entry;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	if (version_plan == NULL)
		version_plan = esrs_spi_prepare("SELECT xmin FROM esrs.handlers"
										" WHERE mode OPERATOR(pg_catalog.=) 'async'"
										" AND name OPERATOR(pg_catalog.=) $1", 1, types);
	if (esrs_spi_execute(version_plan, values, NULL, SPI_OK_SELECT) > 0)
		version = DatumGetTransactionId(esrs_spi_column(0, 1, &isnull));
	esrs_spi_end();
	esrs_security_restore(&before);
	if (version == consumer->version)
		return consumer;
	entry = cache_entry(consumer->name);
	forget(entry);
	if (TransactionIdIsValid(version))
		entry->consumer = load_for_cache(entry->name);
	return entry->consumer;
}

/*
 * The aggregates that the handler serves, with their tables locked until the
 * transaction ends, and the hashes of their names.
 *
 * The handler reads as the role it runs as.  Raises 42501 if that role may not,
 * or row security hides events from it: they would be lost for the handler.
 */
List *
esrs_consumer_aggregates(EsrsConsumer *consumer, uint32 **hashes)
{
	Oid			run_as = consumer->handler->run_as;
	List	   *result = NIL;
	ListCell   *lc;

	*hashes = palloc(sizeof(uint32) * Max(list_length(consumer->aggregates), 1));
	foreach(lc, consumer->aggregates)
	{
		EsrsAggregate *agg = esrs_aggregate_lookup_locked((char *) lfirst(lc), AccessShareLock);

		if (run_as != agg->owner && check_enable_rls(agg->events, run_as, true) == RLS_ENABLED)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("row security hides events of aggregate \"%s\" from event handler \"%s\"",
							agg->name, consumer->name),
					 errdetail("The handler runs as role \"%s\", which does not own the table %s.",
							   GetUserNameFromId(run_as, false), agg->table),
					 errhint("Register the handler anew as the owner of the table.")));
		(*hashes)[foreach_current_index(lc)] = agg->hash;
		result = lappend(result, agg);
	}
	return result;
}

/* May the current user run what runs as this role? */
bool
esrs_consumer_may_run(Oid run_as)
{
	return has_privs_of_role(GetUserId(), run_as);
}

/* Raise 42501 unless the current user has the rights of the handler's role. */
void
esrs_consumer_check_right(EsrsConsumer *consumer)
{
	if (!esrs_consumer_may_run(consumer->handler->run_as))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for event handler \"%s\"", consumer->name),
				 errhint("It runs as role \"%s\", of which you must be a member.",
						 GetUserNameFromId(consumer->handler->run_as, false))));
}
