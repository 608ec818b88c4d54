/*-------------------------------------------------------------------------
 *
 * rebuilds.c
 *	  Which rebuilds are in progress, for others to see.
 *
 * A backend runs one at a time, and has one place in shared memory for it.  Where
 * there is none left, the rebuild goes on without being seen.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "signal/rebuilds.h"

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/spin.h"

static EsrsRebuildPlace *own = NULL;

/* Show nothing any more. */
void
esrs_rebuilds_hide(void)
{
	EsrsRebuildPlaces *all = esrs_slots_rebuilds();

	if (own == NULL || all == NULL)
		return;
	SpinLockAcquire(&all->mutex);
	own->pid = 0;
	SpinLockRelease(&all->mutex);
	own = NULL;
}

static void
hide_at_exit(int code, Datum arg)
{
	esrs_rebuilds_hide();
}

/* Show how far this backend's rebuild is; pid and database need not be set. */
void
esrs_rebuilds_show(const EsrsRebuildPlace *present)
{
	static bool registered = false;
	EsrsRebuildPlaces *all = esrs_slots_rebuilds();

	if (all == NULL)
		return;
	if (!registered)
		before_shmem_exit(hide_at_exit, (Datum) 0);
	registered = true;
	SpinLockAcquire(&all->mutex);
	for (int i = 0; i < ESRS_REBUILD_PLACES && own == NULL; i++)
		if (all->places[i].pid == 0)
			own = &all->places[i];
	if (own != NULL)
	{
		*own = *present;
		own->pid = MyProcPid;
		own->database = MyDatabaseId;
	}
	SpinLockRelease(&all->mutex);
}

/*
 * Copy those of this database, ESRS_REBUILD_PLACES at most; returns how many there
 * are.
 */
int
esrs_rebuilds_list(EsrsRebuildPlace *places)
{
	EsrsRebuildPlaces *all = esrs_slots_rebuilds();
	int			n = 0;

	if (all == NULL)
		return 0;
	SpinLockAcquire(&all->mutex);
	for (int i = 0; i < ESRS_REBUILD_PLACES; i++)
		if (all->places[i].pid != 0 && all->places[i].database == MyDatabaseId)
			places[n++] = all->places[i];
	SpinLockRelease(&all->mutex);
	return n;
}
