/*-------------------------------------------------------------------------
 *
 * progress.h
 *	  Where an asynchronous handler begins, and how its progress outlives a
 *	  change of its options, see progress.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_HANDLER_PROGRESS_H
#define ESRS_HANDLER_PROGRESS_H

#include "postgres.h"

extern int64 esrs_progress_start(const char *start_at);
extern void esrs_progress_repartition(const char *name, int partitions);
extern void esrs_progress_skip_idle(const char *name);
extern void esrs_progress_check_caught_up(const char *name);

#endif							/* ESRS_HANDLER_PROGRESS_H */
