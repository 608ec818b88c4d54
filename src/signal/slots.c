/*-------------------------------------------------------------------------
 *
 * slots.c
 *	  What backends and background workers share: one slot a database, in a
 *	  small piece of shared memory.
 *
 * It is made when it is first needed, from what PostgreSQL keeps spare, so the
 * library needs no preloading; preloaded, it asks for its own.  Where there is
 * none to be had, there are no workers, and everything else goes on.
 *
 * Nothing that counts is here: after a crash it is empty, and all that was
 * committed is still in the tables.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "signal/slots.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"

#define DATABASES	32

typedef struct Shared
{
	slock_t		mutex;			/* of the databases in the slots */
	EsrsSlot	slots[DATABASES];
	EsrsRebuildPlaces rebuilds;
} Shared;

static Shared *shared = NULL;
static bool shared_failed = false;

/* Our database's slot, as far as it still is. */
static EsrsSlot *own_slot = NULL;

static shmem_request_hook_type next_shmem_request = NULL;

static void
shmem_request(void)
{
	if (next_shmem_request)
		next_shmem_request();
	RequestAddinShmemSpace(MAXALIGN(sizeof(Shared)));
}

/* Ask for shared memory, if the server is only starting.  Called once, at load. */
void
esrs_slots_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	next_shmem_request = shmem_request_hook;
	shmem_request_hook = shmem_request;
}

static void
init_shared(void)
{
	memset(shared, 0, sizeof(*shared));
	SpinLockInit(&shared->mutex);
	SpinLockInit(&shared->rebuilds.mutex);
	for (int i = 0; i < DATABASES; i++)
	{
		SpinLockInit(&shared->slots[i].mutex);
		pg_atomic_init_u64(&shared->slots[i].dirty, 0);
		pg_atomic_init_u32(&shared->slots[i].requests, 0);
	}
}

/*
 * Find or make the shared memory.  False if there is not enough: whoever asks
 * is in the middle of a command that must not fail for it.
 */
static bool
attach(void)
{
	MemoryContext before = CurrentMemoryContext;

	if (shared != NULL)
		return true;
	if (shared_failed)
		return false;
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	PG_TRY();
	{
		bool		found;

		shared = ShmemInitStruct("esrs", sizeof(Shared), &found);
		if (!found)
			init_shared();
	}
	PG_CATCH();
	{
		/* the error has reset what the lock below is going to count down */
		HOLD_INTERRUPTS();
		MemoryContextSwitchTo(before);
		FlushErrorState();
		shared_failed = true;
		ereport(LOG,
				(errmsg("no shared memory is left for the background workers of esrs"),
				 errhint("Add esrs to shared_preload_libraries.")));
	}
	PG_END_TRY();
	LWLockRelease(AddinShmemInitLock);
	return shared != NULL;
}

/* Where rebuilds can be watched; NULL if there is no shared memory. */
EsrsRebuildPlaces *
esrs_slots_rebuilds(void)
{
	return attach() ? &shared->rebuilds : NULL;
}

/* Does nothing run in a slot's database?  Its mutex is held. */
static bool
is_deserted(EsrsSlot *slot)
{
	for (int i = 0; i < ESRS_WORKERS_LIMIT; i++)
		if (slot->places[i].pid != 0)
			return false;
	return true;
}

/* Make a slot ours.  The mutex of the databases is held. */
static void
occupy(EsrsSlot *slot)
{
	SpinLockAcquire(&slot->mutex);
	slot->database = MyDatabaseId;
	memset(slot->places, 0, sizeof(slot->places));
	slot->unavailable = false;
	slot->has_floor = false;
	slot->nheads = 0;
	pg_atomic_write_u64(&slot->dirty, 0);
	pg_atomic_write_u32(&slot->requests, 0);
	SpinLockRelease(&slot->mutex);
}

/*
 * The slot of this database; NULL if there is none to be had.
 *
 * Of more databases than there are slots, one without workers makes room.  It
 * then forgets what was announced, which is a hint anyway.
 */
EsrsSlot *
esrs_slots_find(void)
{
	EsrsSlot   *found = NULL;
	EsrsSlot   *deserted = NULL;

	if (!attach())
		return NULL;
	if (own_slot != NULL && own_slot->database == MyDatabaseId)
		return own_slot;
	SpinLockAcquire(&shared->mutex);
	for (int i = 0; i < DATABASES && found == NULL; i++)
	{
		EsrsSlot   *slot = &shared->slots[i];

		if (slot->database == MyDatabaseId)
			found = slot;
		else if (!OidIsValid(slot->database) || is_deserted(slot))
		{
			if (deserted == NULL || OidIsValid(deserted->database))
				deserted = slot;
		}
	}
	if (found == NULL && deserted != NULL)
	{
		occupy(deserted);
		found = deserted;
	}
	SpinLockRelease(&shared->mutex);
	own_slot = found;
	return found;
}
