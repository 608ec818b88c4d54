/*-------------------------------------------------------------------------
 *
 * lock.c
 *	  The lock of an instance.
 *
 * A heavyweight lock per (aggregate, instance), held until the (sub)transaction
 * ends, in a lock class of its own: SQL's advisory locks cannot collide with
 * it, and pg_locks shows it as an advisory lock with that objsubid.  It must be
 * taken before the snapshot with which the instance is read.
 *
 * On an adopted table the Rust library's own lock is taken as well, always
 * second: pg_advisory_lock(first 8 bytes of the id).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "store/lock.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "storage/lmgr.h"
#include "storage/lock.h"

/* 4th field of the tag; the SQL functions use 1 and 2, the feed 0xE545 */
#define INSTANCE_LOCK_CLASS		0xE546
#define INT8_ADVISORY_CLASS		1

/*
 * Lock one instance, which need not exist.  Waits; raises 55P03 after
 * lock_timeout and 40P01 for a deadlock.  Taking it again costs nothing.
 *
 * The tag is a 64-bit hash of name and id.  Two instances with the same hash
 * wait for each other without need; nothing worse.
 */
void
esrs_lock_instance(EsrsAggregate *agg, const pg_uuid_t *id)
{
	uint64		hash = hash_bytes_extended(id->data, UUID_LEN, agg->hash);
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash,
						 INSTANCE_LOCK_CLASS);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
	if (agg->adopted)
	{
		uint64		key;

		memcpy(&key, id->data, sizeof(key));
		key = pg_ntoh64(key);
		SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (key >> 32), (uint32) key,
							 INT8_ADVISORY_CLASS);
		(void) LockAcquire(&tag, ExclusiveLock, false, false);
	}
}

/*
 * Lock all instances of an aggregate by one lock on its table.  Every command
 * holds RowExclusiveLock on the table from its start, which conflicts with
 * this.  For calls over so many instances that a lock for each would exhaust
 * the lock table, which would fail strangers too.
 */
void
esrs_lock_all(EsrsAggregate *agg)
{
	LockRelationOid(agg->events, ShareRowExclusiveLock);
}
