/*-------------------------------------------------------------------------
 *
 * slots.h
 *	  What backends and background workers share, see slots.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_SIGNAL_SLOTS_H
#define ESRS_SIGNAL_SLOTS_H

#include "postgres.h"

#include "config.h"
#include "datatype/timestamp.h"
#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/spin.h"

/* A worker that was registered and has not come up after so long never will. */
#define ESRS_START_TIMEOUT	10000

/* How many aggregates' announced positions outlive a worker. */
#define ESRS_SLOT_HEADS		16

/* Up to where the events of an aggregate have been announced. */
typedef struct EsrsHead
{
	uint32		hash;			/* of the aggregate's name */
	int64		position;
} EsrsHead;

/* A worker: a free place, one that is being started, or a process. */
typedef struct EsrsWorkerPlace
{
	pid_t		pid;			/* 0: free, -1: being started */
	TimestampTz since;			/* when it was registered, or the handler
								 * begun */
	Latch	   *latch;			/* in shared memory; NULL unless it runs */
	char		handler[NAMEDATALEN];	/* that it is running, or "" */
	int			partition;
} EsrsWorkerPlace;

/*
 * What is shared in one database.  The first place is the dispatcher's; others
 * help it.  All but the atomics is protected by the mutex.
 */
typedef struct EsrsSlot
{
	slock_t		mutex;
	Oid			database;		/* InvalidOid: the slot is free */
	EsrsWorkerPlace places[ESRS_WORKERS_LIMIT];
	bool		unavailable;	/* a worker could not be registered */
	TimestampTz tried_at;		/* when that was */

	bool		has_floor;
	int64		floor;			/* all events up to here are announced */
	int			notify;			/* esrs.notify when floor was set */
	int			nheads;
	EsrsHead	heads[ESRS_SLOT_HEADS]; /* beyond the floor */

	/* transactions that want a look, and are about to commit */
	pg_atomic_uint32 requests;

	/* one bit for each hash of an aggregate's name, modulo 64 */
	pg_atomic_uint64 dirty;
} EsrsSlot;

/* So many rebuilds at once can be watched, in all databases. */
#define ESRS_REBUILD_PLACES		16
#define ESRS_REBUILD_NAME		(2 * NAMEDATALEN)

/* What a rebuild is doing; see rebuilds.c. */
typedef enum EsrsRebuildPhase
{
	ESRS_REBUILD_WAITING,		/* for locks */
	ESRS_REBUILD_COUNTING,
	ESRS_REBUILD_DELETING,
	ESRS_REBUILD_REPLAYING,
	ESRS_REBUILD_FINISHING
} EsrsRebuildPhase;

typedef struct EsrsRebuildPlace
{
	pid_t		pid;			/* 0: free */
	Oid			database;
	char		handlers[ESRS_REBUILD_NAME];
	char		strategy[NAMEDATALEN];
	EsrsRebuildPhase phase;
	int64		events;			/* done; the totals are -1 if not known */
	int64		events_total;
	int64		instances;
	int64		instances_total;
	TimestampTz started_at;
	TimestampTz replaying_since;	/* 0: not yet */
	int64		events_before;	/* done by an earlier call that was cancelled */
} EsrsRebuildPlace;

typedef struct EsrsRebuildPlaces
{
	slock_t		mutex;
	EsrsRebuildPlace places[ESRS_REBUILD_PLACES];
} EsrsRebuildPlaces;

extern EsrsSlot *esrs_slots_find(void);
extern EsrsRebuildPlaces *esrs_slots_rebuilds(void);
extern void esrs_slots_init(void);

#endif							/* ESRS_SIGNAL_SLOTS_H */
