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

#include "signal/rebuilds.h"

typedef struct EsrsRebuildProgress
{
	EsrsRebuildPlace shown;
	int32		max_rate;		/* events per second; 0: as fast as it goes */
	TimestampTz next_notice;
} EsrsRebuildProgress;

extern void esrs_rebuild_progress_begin(EsrsRebuildProgress *progress, const char *handlers,
										const char *strategy);
extern void esrs_rebuild_progress_phase(EsrsRebuildProgress *progress, EsrsRebuildPhase phase);
extern void esrs_rebuild_progress_advance(EsrsRebuildProgress *progress, int64 events,
										  int64 instances);
extern void esrs_rebuild_progress_throttle(EsrsRebuildProgress *progress);
extern void esrs_rebuild_progress_end(EsrsRebuildProgress *progress);

#endif							/* ESRS_ENGINE_REBUILD_PROGRESS_H */
