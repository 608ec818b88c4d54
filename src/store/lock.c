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
#include "compat.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/memutils.h"

/* 4th field of the tag; the SQL functions use 1 and 2, the feed 0xE545 */
#define INSTANCE_LOCK_CLASS		0xE546
#define INT8_ADVISORY_CLASS		1

/* How many instances this transaction has locked, table by table. */
typedef struct LockCount
{
	Oid			events;
	int			count;
} LockCount;

static LocalTransactionId counted_in = InvalidLocalTransactionId;
static LockCount *counts = NULL;
static int	ncounts = 0;
static int	counts_size = 0;

static int *
lock_count(Oid events)
{
	if (counted_in != ESRS_MY_LXID)
	{
		counted_in = ESRS_MY_LXID;
		ncounts = 0;
	}
	for (int i = 0; i < ncounts; i++)
		if (counts[i].events == events)
			return &counts[i].count;
	if (ncounts == counts_size)
	{
		int			size = Max(counts_size * 2, 8);

		if (counts == NULL)
			counts = MemoryContextAlloc(TopMemoryContext, size * sizeof(LockCount));
		else
			counts = repalloc(counts, size * sizeof(LockCount));
		counts_size = size;
	}
	counts[ncounts].events = events;
	counts[ncounts].count = 0;
	return &counts[ncounts++].count;
}

/* Does this transaction hold a lock on the table that keeps all others out? */
static bool
holds_all(Oid events)
{
	LOCKTAG		tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, events);
	return LockHeldByMe(&tag, ShareRowExclusiveLock) ||
		LockHeldByMe(&tag, ExclusiveLock) || LockHeldByMe(&tag, AccessExclusiveLock);
}

/*
 * Lock one instance by our own lock only.
 *
 * The tag is a 64-bit hash of name and id.  Two instances with the same hash
 * wait for each other without need; nothing worse.
 *
 * A transaction that has locked very many instances one by one takes the lock
 * of the whole table instead of further ones, if nobody else is at work there.
 * False if it came to that.
 */
bool
esrs_lock_own(EsrsAggregate *agg, const pg_uuid_t *id)
{
	uint64		hash = hash_bytes_extended(id->data, UUID_LEN, agg->hash);
	LOCKTAG		tag;
	int		   *count = lock_count(agg->events);

	if (*count >= ESRS_LOCK_ESCALATE && esrs_lock_all(agg))
		return false;
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash,
						 INSTANCE_LOCK_CLASS);
	if (LockAcquire(&tag, ExclusiveLock, false, false) == LOCKACQUIRE_OK)
		(*count)++;
	return true;
}

/* The key under which the Rust library locks an instance. */
uint64
esrs_lock_foreign_key(const pg_uuid_t *id)
{
	uint64		key;

	memcpy(&key, id->data, sizeof(key));
	return pg_ntoh64(key);
}

/* Take the Rust library's lock, with the scope of the transaction. */
void
esrs_lock_foreign(uint64 key)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, (uint32) (key >> 32), (uint32) key,
						 INT8_ADVISORY_CLASS);
	(void) LockAcquire(&tag, ExclusiveLock, false, false);
}

/*
 * Lock one instance, which need not exist.  Waits; raises 55P03 after
 * lock_timeout and 40P01 for a deadlock.  Taking it again costs nothing.
 */
void
esrs_lock_instance(EsrsAggregate *agg, const pg_uuid_t *id)
{
	if (esrs_lock_own(agg, id) && agg->adopted)
		esrs_lock_foreign(esrs_lock_foreign_key(id));
}

/*
 * Lock all instances of an aggregate by one lock on its table.  Every command
 * holds RowExclusiveLock on the table from its start, which conflicts with
 * this.  For calls over so many instances that a lock for each would exhaust
 * the lock table, which would fail strangers too.
 *
 * False if it could only be had by waiting for those who may be waiting for
 * instances that this transaction has locked.
 */
bool
esrs_lock_all(EsrsAggregate *agg)
{
	LOCKTAG		tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, agg->events);
	if (LockHeldByMe(&tag, RowExclusiveLock))
		return holds_all(agg->events) ||
			ConditionalLockRelationOid(agg->events, ShareRowExclusiveLock);
	LockRelationOid(agg->events, ShareRowExclusiveLock);
	return true;
}
