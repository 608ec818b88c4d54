/*-------------------------------------------------------------------------
 *
 * json_pool.h
 *	  Ownership of json-c objects by memory contexts, see json_pool.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_BASE_JSON_POOL_H
#define ESRS_BASE_JSON_POOL_H

#include "postgres.h"

#include "utils/palloc.h"

struct json_object;

#define ESRS_JSON_POOL_INLINE	16

/* Objects that the running callback made and nobody owns yet. */
typedef struct EsrsJsonPool
{
	MemoryContext context;		/* where the array grows; releases the objects */
	MemoryContextCallback callback;
	int			used;
	int			size;
	struct json_object **objects;
	struct json_object *first[ESRS_JSON_POOL_INLINE];
} EsrsJsonPool;

/* Holder of one reference, released when a memory context goes. */
typedef struct EsrsJsonOwner
{
	MemoryContextCallback callback;
	struct json_object *object;
} EsrsJsonOwner;

extern EsrsJsonOwner *esrs_json_owner_create(MemoryContext context);
extern void esrs_json_owner_set(EsrsJsonOwner *owner, struct json_object *object);

extern void esrs_json_pool_init(EsrsJsonPool *pool, MemoryContext context);
extern EsrsJsonPool *esrs_json_pool_enter(EsrsJsonPool *pool);
extern struct json_object *esrs_json_pool_track(struct json_object *object);
extern bool esrs_json_pool_untrack(struct json_object *object);
extern struct json_object *esrs_json_pool_take(struct json_object *object);
extern int	esrs_json_pool_attached(int rc, struct json_object *child);

extern Size esrs_json_size(struct json_object *object);

extern void esrs_json_out_of_memory(void) pg_attribute_noreturn();

#endif							/* ESRS_BASE_JSON_POOL_H */
