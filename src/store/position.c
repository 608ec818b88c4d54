/*-------------------------------------------------------------------------
 *
 * position.c
 *	  Positions in the feed of all events of the database.
 *
 * A position is drawn from one sequence (CACHE 1) after the transaction has
 * published a lower bound for it: a shared heavyweight lock, held to its end,
 * whose tag carries the aggregate and the sequence's last value.  A reader
 * takes the sequence's last value first, then the minimum of all published
 * bounds of the aggregates that it reads: the safe position.  With a snapshot
 * taken after that, no event at or below it can still appear, for whoever drew
 * a position there had published a lower bound before, and the lock goes only
 * after the transaction has become visible or has aborted.
 *
 * Rollback, savepoints, PREPARE and crashes need no code: the lock manager
 * does it.  Nothing waits: the lock is shared.
 *
 * Order matters, and must not be changed: publish, then draw; bound, then
 * snapshot.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "esrs.h"

#include "store/position.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "catalog/aggregate.h"
#include "catalog/extension.h"
#include "commands/sequence.h"
#include "compat.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"

PG_FUNCTION_INFO_V1(esrs_next_position);
PG_FUNCTION_INFO_V1(esrs_lock_hash);

/* 4th field of the tag; the SQL functions use 1 and 2 */
#define BOUND_LOCK_CLASS	0xE545

/* The aggregates for which this transaction has published a bound. */
static LocalTransactionId published_in = InvalidLocalTransactionId;
static uint32 *published = NULL;
static int	npublished = 0;
static int	published_size = 0;
static int64 first_bound;		/* the lowest of them */

static EsrsPublishHook publish_hook = NULL;

/*
 * The last value of the sequence, 0 if none was drawn yet.  Read from its page
 * under a shared lock: no privilege of the caller is needed.
 */
int64
esrs_position_head(void)
{
	Relation	rel = relation_open(esrs_extension()->position_seq, AccessShareLock);
	Buffer		buffer = ReadBuffer(rel, 0);
	Page		page;
	HeapTupleHeader tuple;
	Form_pg_sequence_data data;
	int64		result;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	tuple = (HeapTupleHeader) PageGetItem(page, PageGetItemId(page, FirstOffsetNumber));
	data = (Form_pg_sequence_data) ((char *) tuple + tuple->t_hoff);
	result = data->is_called ? data->last_value : data->last_value - 1;
	UnlockReleaseBuffer(buffer);
	relation_close(rel, AccessShareLock);
	return result;
}

static bool
is_published(uint32 hash)
{
	if (published_in != ESRS_MY_LXID)
		return false;
	for (int i = 0; i < npublished; i++)
		if (published[i] == hash)
			return true;
	return false;
}

/* Publish the bound of this transaction for an aggregate. */
static void
publish(uint32 hash)
{
	ResourceOwner owner = CurrentResourceOwner;
	int64		bound;
	LOCKTAG		tag;

	/* make room first: nothing may fail once the lock is held */
	if (published_in != ESRS_MY_LXID)
	{
		npublished = 0;
		published_in = ESRS_MY_LXID;
	}
	if (npublished == published_size)
	{
		int			size = Max(published_size * 2, 8);

		if (published == NULL)
			published = MemoryContextAlloc(TopMemoryContext, size * sizeof(uint32));
		else
			published = repalloc(published, size * sizeof(uint32));
		published_size = size;
	}

	bound = esrs_position_head();
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, hash, (uint32) bound, BOUND_LOCK_CLASS);

	/* of the transaction, so that ROLLBACK TO SAVEPOINT does not release it */
	CurrentResourceOwner = TopTransactionResourceOwner;
	PG_TRY();
	{
		(void) LockAcquire(&tag, ShareLock, false, false);
	}
	PG_FINALLY();
	{
		CurrentResourceOwner = owner;
	}
	PG_END_TRY();
	if (npublished == 0)
		first_bound = bound;
	published[npublished++] = hash;
}

/* Set the function that is told of bounds.  Called once, at load. */
void
esrs_position_set_hook(EsrsPublishHook hook)
{
	publish_hook = hook;
}

/*
 * Positions that this transaction has drawn are greater than this; -1 if it has
 * drawn none.
 */
int64
esrs_position_own_bound(void)
{
	return published_in == ESRS_MY_LXID && npublished > 0 ? first_bound : -1;
}

/* Draw a position for an event of the aggregate with this hash of its name. */
int64
esrs_position_next(uint32 aggregate_hash)
{
	if (!is_published(aggregate_hash))
	{
		publish(aggregate_hash);
		if (publish_hook)
			publish_hook(aggregate_hash);
	}
	return nextval_internal(esrs_extension()->position_seq, false);
}

/*
 * The lowest bound that writers of some aggregates have published, or "head";
 * n < 0: of all.  "head" was read before.
 */
static int64
lowest_bound(int64 head, const uint32 *aggregate_hashes, int n)
{
	int64		lowest = head;
	LockData   *locks = GetLockStatusData();

	for (int i = 0; i < locks->nelements; i++)
	{
		LOCKTAG    *tag = &locks->locks[i].locktag;
		bool		concerns = n < 0;

		if (tag->locktag_type != LOCKTAG_ADVISORY ||
			tag->locktag_field4 != BOUND_LOCK_CLASS ||
			tag->locktag_field1 != MyDatabaseId)
			continue;
		for (int j = 0; j < n && !concerns; j++)
			concerns = tag->locktag_field2 == aggregate_hashes[j];
		if (concerns)
		{
			/* the tag has 32 bits; what is in flight spans fewer */
			int64		bound = head + (int32) (tag->locktag_field3 - (uint32) head);

			lowest = Min(lowest, bound);
		}
	}
	pfree(locks->locks);
	pfree(locks);
	return lowest;
}

/*
 * The safe position of all aggregates, and the last position that was drawn, for
 * whoever wants to know whether somebody is still at work.  Nothing is checked.
 */
int64
esrs_position_safe_of_all(int64 *head)
{
	*head = esrs_position_head();
	return lowest_bound(*head, NULL, -1);
}

/* The same of some aggregates: to be looked at, not to be relied upon. */
int64
esrs_position_bound(const uint32 *aggregate_hashes, int n, int64 *head)
{
	*head = esrs_position_head();
	return lowest_bound(*head, aggregate_hashes, n);
}

/*
 * The safe position of some aggregates.  The caller takes his reading snapshot
 * afterwards.  Raises 25006 during recovery, where the locks of the primary are
 * not seen, and 0A000 if the transaction's snapshot is older than the bound.
 */
int64
esrs_position_safe(const uint32 *aggregate_hashes, int n)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_READ_ONLY_SQL_TRANSACTION),
				 errmsg("the feed cannot be read during recovery"),
				 errhint("Read it on the primary.")));
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("the feed cannot be read at this isolation level"),
				 errdetail("The snapshot of the transaction is older than the bound up to which the feed is complete."),
				 errhint("Use READ COMMITTED.")));
	return lowest_bound(esrs_position_head(), aggregate_hashes, n);
}

/*
 * esrs.next_position(aggregate, VARIADIC callbacks) returns bigint
 *
 * The default of the column "position".  The callbacks are there for the
 * dependencies that they make.
 */
Datum
esrs_next_position(PG_FUNCTION_ARGS)
{
	char	   *name;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name of an aggregate must not be null")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	PG_RETURN_INT64(esrs_position_next(esrs_aggregate_hash(name)));
}

/* esrs.lock_hash(aggregate) returns oid: how pg_locks shows an aggregate's bounds */
Datum
esrs_lock_hash(PG_FUNCTION_ARGS)
{
	PG_RETURN_OID((Oid) esrs_aggregate_hash(text_to_cstring(PG_GETARG_TEXT_PP(0))));
}
