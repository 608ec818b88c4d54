/*-------------------------------------------------------------------------
 *
 * state_cache.c
 *	  States of instances that this backend keeps between commands.
 *
 * A state is not in the cache while it is used: whoever needs it takes it out,
 * and puts it back when it is whole again.  An error in between frees it with
 * the memory of the command, so a state that was left half changed is never
 * seen again, and there is nothing to clean up.
 *
 * What is here is a guess.  It is right for the event that it names, and it is
 * for the reader to prove that this event is stored, is part of his snapshot and
 * is the newest, or to fold those after it (state.c).  Rollbacks, deletions and
 * other backends need no attention here.  What that proof cannot see is what
 * made the state: the functions, the guard that kept older events as they were,
 * and, for functions whose meaning hangs on the caller, the caller.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/state_cache.h"

#include "config.h"
#include "lib/ilist.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

typedef struct Key
{
	Oid			events;
	pg_uuid_t	id;
} Key;

typedef struct Entry
{
	Key			key;
	EsrsOrigin	origin;
	dlist_node	by_age;
	Size		size;
	EsrsState  *state;
	int32		sequence_number;
	pg_uuid_t	last_id;
	int64		last_position;
	TransactionId last_xmin;
	TimestampTz last_occurred_on;
} Entry;

static MemoryContext cache_context = NULL;
static HTAB *cache = NULL;
static dlist_head by_age = DLIST_STATIC_INIT(by_age);	/* the newest first */
static Size total = 0;

static Key
key_of(EsrsInstance *instance)
{
	Key			key;

	memset(&key, 0, sizeof(key));
	key.events = instance->agg->events;
	key.id = instance->id;
	return key;
}

/* Forget an entry; its state is the caller's. */
static void
forget(Entry *entry)
{
	total -= entry->size;
	dlist_delete(&entry->by_age);
	(void) hash_search(cache, &entry->key, HASH_REMOVE, NULL);
}

/* Throw out the oldest until no more than so much is left, in bytes. */
static void
shrink(Size limit)
{
	while (total > limit)
	{
		Entry	   *entry = dlist_container(Entry, by_age, dlist_tail_node(&by_age));
		MemoryContext state = entry->state->context;

		forget(entry);
		MemoryContextDelete(state);
	}
}

static Size
limit(void)
{
	return (Size) esrs_config_state_cache_size * 1024;
}

static void
create_cache(void)
{
	HASHCTL		ctl = {.keysize = sizeof(Key),.entrysize = sizeof(Entry)};

	if (cache_context == NULL)
		cache_context = AllocSetContextCreate(TopMemoryContext, "esrs state cache",
											  ALLOCSET_DEFAULT_SIZES);
	ctl.hcxt = cache_context;
	cache = hash_create("esrs states", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/*
 * Take the state of an instance out of the cache, if there is one that may still
 * be what a fold would give.  It belongs to the current context then, and the
 * instance is as of the event that it names, which is for the caller to prove.
 */
bool
esrs_state_cache_take(EsrsInstance *instance)
{
	Key			key = key_of(instance);
	Entry	   *entry;
	EsrsState  *state;

	if (cache == NULL)
		return false;
	shrink(limit());
	entry = hash_search(cache, &key, HASH_FIND, NULL);
	if (entry == NULL)
		return false;
	state = entry->state;
	if (!instance->agg->unchanging || memcmp(&entry->origin, &instance->origin, sizeof(EsrsOrigin)) != 0)
	{
		forget(entry);
		MemoryContextDelete(state->context);
		return false;
	}
	instance->sequence_number = entry->sequence_number;
	instance->last_id = entry->last_id;
	instance->last_position = entry->last_position;
	instance->last_xmin = entry->last_xmin;
	instance->last_occurred_on = entry->last_occurred_on;
	forget(entry);
	MemoryContextSetParent(state->context, CurrentMemoryContext);
	instance->state = state;
	return true;
}

/*
 * Give the state of an instance, after its newest event, to the cache; or leave
 * it where it is, if it cannot be kept.  The caller does not use it any more.
 */
void
esrs_state_cache_put(EsrsInstance *instance)
{
	EsrsAggregate *agg = instance->agg;
	Key			key = key_of(instance);
	Size		size;
	Entry	   *entry;
	bool		found;

	if (instance->state == NULL || instance->sequence_number == 0 ||
		agg->routine.kind == ESRS_KIND_STORE || !agg->unchanging || !agg->valid ||
		instance->origin.code_epoch != esrs_aggregate_code_epoch())
		return;
	size = sizeof(Entry) + esrs_callback_state_size(instance->state);
	if (cache != NULL)
		shrink(limit());
	if (size > limit())
		return;
	if (cache == NULL)
		create_cache();
	entry = hash_search(cache, &key, HASH_ENTER, &found);
	if (found)
	{
		/* put there by a reader further down the stack */
		total -= entry->size;
		dlist_delete(&entry->by_age);
		MemoryContextDelete(entry->state->context);
	}
	entry->origin = instance->origin;
	entry->state = instance->state;
	entry->sequence_number = instance->sequence_number;
	entry->last_id = instance->last_id;
	entry->last_position = instance->last_position;
	entry->last_xmin = instance->last_xmin;
	entry->last_occurred_on = instance->last_occurred_on;
	entry->size = size;
	dlist_push_head(&by_age, &entry->by_age);
	total += size;
	MemoryContextSetParent(instance->state->context, cache_context);
	instance->state = NULL;
	shrink(limit());
}
