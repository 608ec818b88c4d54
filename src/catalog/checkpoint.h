/*-------------------------------------------------------------------------
 *
 * checkpoint.h
 *	  How far consumers of the feed are, see checkpoint.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_CATALOG_CHECKPOINT_H
#define ESRS_CATALOG_CHECKPOINT_H

#include "postgres.h"

#include "datatype/timestamp.h"

#include "utils/snapshot.h"

typedef struct EsrsCheckpoint
{
	int64		position;
	Datum		ahead;			/* int8multirange, in the caller's context */
	bool		has_ahead;		/* it is not empty */
	int64		last_ahead;		/* the last of them, or 0 */
	int64		failing;		/* position that is being retried, or -1 */
	int32		attempts;
	TimestampTz retry_at;		/* DT_NOBEGIN: now */
} EsrsCheckpoint;

extern void esrs_checkpoint_create(const char *name, int partitions, int64 position);
extern int	esrs_checkpoint_lock_all(const char *name);
extern void esrs_checkpoint_delete(const char *name);
extern void esrs_checkpoint_reset(const char *name, int partitions, int64 position);
extern void esrs_checkpoint_clear_failure(const char *name);
extern bool esrs_checkpoint_lock(const char *name, int partition, bool wait,
								 EsrsCheckpoint *checkpoint);
extern void esrs_checkpoint_advance(const char *name, int partition, int64 position,
									int64 *ahead, int n);
extern void esrs_checkpoint_add_ahead(const char *name, int partition, int64 *ahead, int n);
extern bool esrs_checkpoint_read(const char *name, int partition, EsrsCheckpoint *checkpoint);
extern bool esrs_checkpoint_read_at(const char *name, int partition, Snapshot snapshot,
									EsrsCheckpoint *checkpoint);
extern void esrs_checkpoint_fail(const char *name, int partition, int64 failing, int attempts,
								 TimestampTz retry_at, const char *error);
extern void esrs_checkpoint_repartition(const char *name, int partitions, int64 position,
										int64 *ahead, int n);
extern Datum esrs_checkpoint_positions(int64 *positions, int n);

#endif							/* ESRS_CATALOG_CHECKPOINT_H */
