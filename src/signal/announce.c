/*-------------------------------------------------------------------------
 *
 * announce.c
 *	  Notifications of new events that the background worker sends.
 *
 * NOTIFY makes the commits of a whole cluster wait for each other, over the
 * flush to disk.  So writers leave it to the worker, which reads the safe feed of
 * each aggregate and tells what is new, in order of position.
 *
 * How far it has told is kept in memory: a notification is a hint to sessions
 * that are there.  It outlives the worker in shared memory, not the server.
 *
 * Must run in a transaction of the worker's own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "signal/announce.h"

#include "access/xact.h"
#include "base/security.h"
#include "base/spi.h"
#include "catalog/aggregate.h"
#include "catalog/extension.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "signal/notify.h"
#include "signal/wakeup.h"
#include "store/feed.h"
#include "store/position.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* So many events are read at once. */
#define BATCH		1000

/* A failure that lasts for so many milliseconds is worth a line of the log. */
#define LASTING_FAILURE	1000

/* An aggregate whose events the worker announces. */
typedef struct Announced
{
	char		name[NAMEDATALEN];
	uint32		hash;
	int64		since;			/* where the worker began with it */
	int64		head;			/* told up to here */
	int64		new_head;		/* once the transaction is committed */
	bool		wanted;			/* to be announced */
	bool		was_wanted;		/* before the last refresh */
	TimestampTz failing_since;	/* 0 if the last attempt succeeded */
	bool		told;			/* the log knows that it is failing */
	EsrsFeed	feed;
} Announced;

/* In TopMemoryContext. */
static List *announced = NIL;
static int64 floor_position = 0;
static EsrsHead saved[ESRS_SLOT_HEADS];
static int	nsaved = 0;

/* Take over from the last worker. */
void
esrs_announce_begin(EsrsSlot *slot)
{
	int64		head;
	int64		safe = esrs_position_safe_of_all(&head);

	SpinLockAcquire(&slot->mutex);
	if (!slot->has_floor)
	{
		slot->has_floor = true;
		slot->floor = safe;
		slot->notify = esrs_config_notify;
		slot->nheads = 0;
	}
	if (slot->floor > head)
	{
		/* the extension, and its sequence, have been made anew */
		slot->floor = 0;
		slot->nheads = 0;
	}
	floor_position = slot->floor;
	nsaved = slot->nheads;
	memcpy(saved, slot->heads, sizeof(saved));
	SpinLockRelease(&slot->mutex);
}

/* The transaction of the last esrs_announce_run() is committed. */
void
esrs_announce_committed(void)
{
	ListCell   *lc;

	foreach(lc, announced)
	{
		Announced  *a = (Announced *) lfirst(lc);

		a->head = Max(a->head, a->new_head);
		a->new_head = 0;
	}
}

/* Leave to the next worker how far this one came. */
void
esrs_announce_end(EsrsSlot *slot)
{
	int64		lowest = PG_INT64_MAX;
	int			n = 0;
	ListCell   *lc;

	if (announced == NIL)
		return;
	foreach(lc, announced)
	{
		if (((Announced *) lfirst(lc))->wanted)
			lowest = Min(lowest, ((Announced *) lfirst(lc))->head);
	}
	if (lowest == PG_INT64_MAX)
		return;
	foreach(lc, announced)
	{
		Announced  *a = (Announced *) lfirst(lc);

		if (a->wanted && a->head > lowest && n < ESRS_SLOT_HEADS)
		{
			saved[n].hash = a->hash;
			saved[n++].position = a->head;
		}
	}
	SpinLockAcquire(&slot->mutex);
	slot->floor = lowest;
	slot->has_floor = true;
	slot->nheads = n;
	memcpy(slot->heads, saved, sizeof(saved));
	SpinLockRelease(&slot->mutex);
}

static Announced *
find(const char *name)
{
	ListCell   *lc;

	foreach(lc, announced)
	{
		if (strcmp(((Announced *) lfirst(lc))->name, name) == 0)
			return (Announced *) lfirst(lc);
	}
	return NULL;
}

/* Where to begin with an aggregate that is new here. */
static int64
first_head(uint32 hash, int64 since)
{
	int64		head = floor_position;

	for (int i = 0; i < nsaved; i++)
		if (saved[i].hash == hash)
			head = Max(head, saved[i].position);
	return Max(head, since);
}

/*
 * Where to go on with an aggregate of which writers have told, because of
 * esrs.notify: where the first of them left it to the worker again, if one has.
 */
static int64
head_after_change(uint32 hash)
{
	EsrsSlot   *slot = esrs_slots_find();
	int64		head = -1;

	SpinLockAcquire(&slot->mutex);
	if (slot->has_floor && slot->notify == esrs_config_notify)
		head = slot->floor;
	SpinLockRelease(&slot->mutex);
	return head >= 0 ? head : esrs_position_safe(&hash, 1);
}

/* Read anew which aggregates are to be announced. */
void
esrs_announce_refresh(void)
{
	Oid			types[1] = {BOOLOID};
	Datum		values[1] = {BoolGetDatum(esrs_config_notify == ESRS_NOTIFY_WORKER)};
	EsrsIdentity before;
	uint64		n;
	ListCell   *lc;

	foreach(lc, announced)
	{
		Announced  *a = (Announced *) lfirst(lc);

		a->was_wanted = a->wanted;
		a->wanted = false;
	}
	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	n = esrs_spi_run("SELECT name, notify_since FROM esrs.aggregates"
					 " WHERE notify OPERATOR(pg_catalog.=) 'worker' OR (notify IS NULL AND $1)",
					 1, types, values, NULL, SPI_OK_SELECT);
	for (uint64 i = 0; i < n; i++)
	{
		bool		isnull;
		char	   *name = esrs_spi_text(i, 1);
		int64		since = DatumGetInt64(esrs_spi_column(i, 2, &isnull));
		Announced  *a = find(name);

		if (a == NULL)
		{
			MemoryContext context = MemoryContextSwitchTo(TopMemoryContext);

			a = palloc0(sizeof(Announced));
			strlcpy(a->name, name, sizeof(a->name));
			a->hash = esrs_aggregate_hash(name);
			a->head = first_head(a->hash, since);
			announced = lappend(announced, a);
			MemoryContextSwitchTo(context);
		}
		else if (!a->was_wanted && a->since == since)
			a->head = Max(a->head, head_after_change(a->hash));
		a->since = since;
		a->head = Max(a->head, since);
		a->wanted = true;
	}
	esrs_spi_end();
	esrs_security_restore(&before);
}

/* What is read of one aggregate. */
typedef struct Reading
{
	MemoryContext context;
	List	   *notices;
	int64		last;
	int			n;
} Reading;

/* The present form of an event, as its owner sees it; none if that fails. */
static void
present(EsrsAggregate *agg, EsrsRecord *record)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		/* calls of its own: no function may go on where an abort stopped it */
		EsrsCall   *call = esrs_call_begin(agg->name, &record->aggregate_id,
										   GetCurrentTimestamp(), NULL);

		(void) esrs_event_present(call, &agg->routine, record);
		esrs_call_end(call);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		record->event = NULL;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
}

static bool
read_one(EsrsAggregate *agg, EsrsRecord *record, void *arg)
{
	Reading    *reading = (Reading *) arg;
	MemoryContext before = MemoryContextSwitchTo(reading->context);
	EsrsNotice *notice = palloc(sizeof(EsrsNotice));

	if (esrs_notify_contains_event(agg) && !record->deletion)
		present(agg, record);
	esrs_notify_fill(notice, agg, record, true);
	reading->notices = lappend(reading->notices, notice);
	reading->last = record->position;
	reading->n++;
	MemoryContextSwitchTo(before);
	return reading->n < BATCH;
}

/* Announce what is new of one aggregate; true if there may be more. */
static bool
announce(Announced *a)
{
	EsrsAggregate *agg = esrs_aggregate_find(a->name, true);
	EsrsFeedRange range = {.after = a->head,.max = BATCH};
	Reading		reading = {0};
	EsrsIdentity before;

	a->new_head = 0;
	if (agg == NULL)
		return false;
	if (a->head > esrs_position_head())
		a->head = range.after = a->since;	/* the sequence was made anew */
	range.upto = esrs_position_safe(&a->hash, 1);
	if (range.upto <= a->head)
		return false;
	reading.context = CurrentMemoryContext;

	/*
	 * The commit is the superuser's: the owner's functions may leave nothing
	 * to it, no cursor WITH HOLD, no deferred trigger.
	 */
	esrs_security_become(&before, agg->owner);
	esrs_security_restrict();
	esrs_feed_read(&a->feed, list_make1(agg), &range, read_one, &reading);
	esrs_security_restore(&before);
	esrs_notify_send(reading.notices);
	a->new_head = reading.n == BATCH ? reading.last : range.upto;
	return reading.n == BATCH;
}

/*
 * The same in a subtransaction: what is wrong with one aggregate must not keep
 * the others silent.  The log is told once, of a failure that lasts: what is over
 * after a moment was a table that somebody dropped or altered.
 */
static bool
announce_contained(Announced *a)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool more = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		more = announce(a);
		ReleaseCurrentSubTransaction();
		a->failing_since = 0;
		a->told = false;
	}
	PG_CATCH();
	{
		ErrorData  *error;
		TimestampTz now = GetCurrentTimestamp();

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		if (a->failing_since == 0)
			a->failing_since = now;
		if (!a->told && TimestampDifferenceExceeds(a->failing_since, now, LASTING_FAILURE))
		{
			a->told = true;
			ereport(LOG,
					(errcode(error->sqlerrcode),
					 errmsg("could not announce events of aggregate \"%s\"", a->name),
					 errdetail("SQLSTATE %s.", unpack_sql_state(error->sqlerrcode))));
		}
		a->new_head = 0;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return more;
}

/* How many aggregates are known; they are counted from 0. */
int
esrs_announce_count(void)
{
	return list_length(announced);
}

/*
 * May there be something new of an aggregate: is it among those with these bits,
 * and is "head", the last position that was drawn, not what it was?
 */
bool
esrs_announce_is_due(int i, uint64 bits, int64 head)
{
	Announced  *a = (Announced *) list_nth(announced, i);

	return a->wanted && (bits & esrs_wakeup_bit(a->hash)) != 0 && a->head != head;
}

/*
 * Announce what is new of an aggregate.  True if there may be more.  The
 * transaction must be committed, or what it held is not told; and it must be of
 * this aggregate alone: whoever drops several at once would deadlock with it.
 */
bool
esrs_announce_run(int i)
{
	/* functions that bring events into their present form may not write */
	XactReadOnly = true;
	return announce_contained((Announced *) list_nth(announced, i));
}
