/*-------------------------------------------------------------------------
 *
 * json_pool.c
 *	  Ownership of json-c objects by memory contexts.
 *
 * json-c allocates with malloc(), of which ereport(ERROR) knows nothing: an
 * error would jump over every json_object_put().  So each reference held by
 * the server module belongs to a memory context that releases it when it is
 * reset or deleted, whichever way control leaves.
 *
 * There are two kinds of holders.  An EsrsJsonOwner holds one reference, and
 * is made before the object is, so that nothing can fail in between.  An
 * EsrsJsonPool holds what a user's callback made and did not attach to
 * anything; esrs.h calls it from behind the names of json-c's constructors.
 *
 * Nothing here may know what the objects mean.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#define ESRS_RAW_JSON
#include "esrs.h"

#include "base/errors.h"
#include "base/json_pool.h"
#include "miscadmin.h"
#include "utils/memutils.h"

/* The pool of the callback that is running, or NULL. */
static EsrsJsonPool *current_pool = NULL;

/* Raise 53200 for a NULL from json-c. */
void
esrs_json_out_of_memory(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_OUT_OF_MEMORY),
			 errmsg("out of memory"),
			 errdetail("Failed while building a JSON document.")));
}

static void
owner_release(void *arg)
{
	EsrsJsonOwner *owner = (EsrsJsonOwner *) arg;

	json_object_put(owner->object);
	owner->object = NULL;
}

/*
 * Make a holder that lives in the context and releases its object with it.
 * Call this before making the object.
 */
EsrsJsonOwner *
esrs_json_owner_create(MemoryContext context)
{
	EsrsJsonOwner *owner = MemoryContextAlloc(context, sizeof(EsrsJsonOwner));

	owner->object = NULL;
	owner->callback.func = owner_release;
	owner->callback.arg = owner;
	MemoryContextRegisterResetCallback(context, &owner->callback);
	return owner;
}

/* Hand over one reference; the one held before is released. */
void
esrs_json_owner_set(EsrsJsonOwner *owner, struct json_object *object)
{
	struct json_object *before = owner->object;

	owner->object = object;
	json_object_put(before);
}

static void
pool_release(void *arg)
{
	EsrsJsonPool *pool = (EsrsJsonPool *) arg;

	while (pool->used > 0)
		json_object_put(pool->objects[--pool->used]);
}

/*
 * Start an empty pool, whose objects are released with the context.  The pool
 * itself must outlive the context's reset; call this again after each reset.
 */
void
esrs_json_pool_init(EsrsJsonPool *pool, MemoryContext context)
{
	pool->context = context;
	pool->used = 0;
	pool->size = ESRS_JSON_POOL_INLINE;
	pool->objects = pool->first;
	pool->callback.func = pool_release;
	pool->callback.arg = pool;
	MemoryContextRegisterResetCallback(context, &pool->callback);
}

/*
 * Make a pool the current one, or none if NULL, and return the one before.
 * The caller puts that one back, also after an error.
 */
EsrsJsonPool *
esrs_json_pool_enter(EsrsJsonPool *pool)
{
	EsrsJsonPool *before = current_pool;

	current_pool = pool;
	return before;
}

/*
 * Give a reference to the running callback's pool.  NULL, which is how json-c
 * reports a failed malloc(), becomes an error.
 */
struct json_object *
esrs_json_pool_track(struct json_object *object)
{
	EsrsJsonPool *pool = current_pool;

	if (object == NULL)
		esrs_json_out_of_memory();
	if (pool == NULL)
		return object;
	if (pool->used == pool->size)
	{
		/* not repalloc(): its error would leave the object behind */
		struct json_object **objects =
		MemoryContextAllocExtended(pool->context,
								   pool->size * 2 * sizeof(*objects),
								   MCXT_ALLOC_NO_OOM | MCXT_ALLOC_HUGE);

		if (objects == NULL)
		{
			json_object_put(object);
			esrs_json_out_of_memory();
		}
		memcpy(objects, pool->objects, pool->used * sizeof(*objects));
		if (pool->objects != pool->first)
			pfree(pool->objects);
		pool->objects = objects;
		pool->size *= 2;
	}
	pool->objects[pool->used++] = object;
	return object;
}

/*
 * Take a reference out of the running callback's pool.  False if the pool has
 * none: the object is a part of something else.  Objects are mostly attached
 * right after they were made, so the search starts at the end.
 */
bool
esrs_json_pool_untrack(struct json_object *object)
{
	EsrsJsonPool *pool = current_pool;

	if (pool == NULL || object == NULL)
		return false;
	for (int i = pool->used - 1; i >= 0; i--)
	{
		if (pool->objects[i] == object)
		{
			pool->used--;
			memmove(&pool->objects[i], &pool->objects[i + 1],
					(pool->used - i) * sizeof(*pool->objects));
			return true;
		}
	}
	return false;
}

/*
 * A reference to an object that a callback returned or emitted: the pool's if
 * it has one, else a new one.  The caller hands it to an owner at once.
 */
struct json_object *
esrs_json_pool_take(struct json_object *object)
{
	if (!esrs_json_pool_untrack(object))
		json_object_get(object);
	return object;
}

/*
 * After an attacher of json-c returned rc: the parent has taken one reference
 * to the child, which must be one that the callback really had.
 */
int
esrs_json_pool_attached(int rc, struct json_object *child)
{
	if (rc == ESRS_ATTACHED_TO_ITSELF)
		ereport(ERROR,
				(errcode(ESRS_ERRCODE_BAD_CALLBACK),
				 errmsg("callback attached a JSON value to itself")));
	if (rc < 0)
		esrs_json_out_of_memory();
	if (child != NULL)
		esrs_json_pool_take(child);
	return rc;
}

/*
 * About how much memory an object takes with all its parts, in bytes.  json-c
 * does not tell: what is counted here are its structs as of version 0.16.
 */
Size
esrs_json_size(struct json_object *object)
{
	Size		size = 64;
	struct lh_entry *entry;

	check_stack_depth();
	switch (json_object_get_type(object))
	{
		case json_type_object:
			size += sizeof(struct lh_table) +
				json_object_get_object(object)->size * sizeof(struct lh_entry);
			lh_foreach(json_object_get_object(object), entry)
				size += strlen(lh_entry_k(entry)) + 24 +
				esrs_json_size((struct json_object *) lh_entry_v(entry));
			break;
		case json_type_array:
			size += json_object_array_length(object) * 2 * sizeof(void *) + 64;
			for (size_t i = 0; i < json_object_array_length(object); i++)
				size += esrs_json_size(json_object_array_get_idx(object, i));
			break;
		case json_type_string:
			size += json_object_get_string_len(object);
			break;
		default:
			break;
	}
	return size;
}
