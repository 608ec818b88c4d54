/*-------------------------------------------------------------------------
 *
 * rebuild_progress.h
 *	  Telling how far a rebuild is, and slowing it down, see rebuild_progress.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_ENGINE_REBUILD_PROGRESS_H
#define ESRS_ENGINE_REBUILD_PROGRESS_H

#include "postgres.h"

#include "port/atomics.h"
#include "signal/rebuilds.h"

/* What a worker has done, for whoever has started it. */
typedef struct EsrsRebuildCounts
{
	pg_atomic_uint64 events;
	pg_atomic_uint64 instances;
} EsrsRebuildCounts;

typedef struct EsrsRebuildProgress
{
	EsrsRebuildPlace shown;
	int32		max_rate;		/* events per second; 0: as fast as it goes */
	TimestampTz next_notice;
	EsrsRebuildCounts *counts;	/* in a worker: nothing is told from here */
} EsrsRebuildProgress;

extern void esrs_rebuild_progress_begin(EsrsRebuildProgress *progress, const char *handlers,
										const char *strategy);
extern void esrs_rebuild_progress_phase(EsrsRebuildProgress *progress, EsrsRebuildPhase phase);
extern void esrs_rebuild_progress_advance(EsrsRebuildProgress *progress, int64 events,
										  int64 instances);
extern void esrs_rebuild_progress_throttle(EsrsRebuildProgress *progress);
extern void esrs_rebuild_progress_end(EsrsRebuildProgress *progress);

#endif							/* ESRS_ENGINE_REBUILD_PROGRESS_H */
