/*-------------------------------------------------------------------------
 *
 * snapshot.h
 *	  Stored states of instances, see snapshot.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_STORE_SNAPSHOT_H
#define ESRS_STORE_SNAPSHOT_H

#include "postgres.h"

#include "catalog/aggregate.h"
#include "utils/snapshot.h"

/* The state of an instance after one of its events. */
typedef struct EsrsSnapshot
{
	pg_uuid_t	aggregate_id;
	int32		sequence_number;
	pg_uuid_t	event_id;
	int64		position;		/* of that event */
	TimestampTz occurred_on;	/* the latest of all events so far */
	Jsonb	   *state;
} EsrsSnapshot;

/* What became of the snapshot of an instance. */
typedef enum EsrsSnapshotCondition
{
	ESRS_SNAPSHOT_OK,
	ESRS_SNAPSHOT_MISSING,
	ESRS_SNAPSHOT_WORTHLESS,	/* made by other functions */
	ESRS_SNAPSHOT_DAMAGED		/* not as it was written */
} EsrsSnapshotCondition;

extern EsrsSnapshotCondition esrs_snapshot_find(EsrsAggregate *agg, const pg_uuid_t *id,
												Snapshot snapshot, EsrsSnapshot *result);
extern void esrs_snapshot_write(EsrsAggregate *agg, const EsrsSnapshot *snapshot);
extern void esrs_snapshot_delete(EsrsAggregate *agg, const pg_uuid_t *id);
extern bool esrs_snapshot_lock(EsrsAggregate *agg, LOCKMODE mode, bool wait);

#endif							/* ESRS_STORE_SNAPSHOT_H */
