/*-------------------------------------------------------------------------
 *
 * lock.h
 *	  The lock of an instance, see lock.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_STORE_LOCK_H
#define ESRS_STORE_LOCK_H

#include "postgres.h"

#include "catalog/aggregate.h"

/* More instances than this in one call, and the whole table is locked. */
#define ESRS_LOCK_MANY		256

/* As many instances, locked one by one in a transaction, and the table is tried. */
#define ESRS_LOCK_ESCALATE	1000

extern void esrs_lock_instance(EsrsAggregate *agg, const pg_uuid_t *id);
extern bool esrs_lock_own(EsrsAggregate *agg, const pg_uuid_t *id);
extern uint64 esrs_lock_foreign_key(const pg_uuid_t *id);
extern void esrs_lock_foreign(uint64 key);
extern bool esrs_lock_all(EsrsAggregate *agg);

#endif							/* ESRS_STORE_LOCK_H */
