/*-------------------------------------------------------------------------
 *
 * feed.h
 *	  Reading the events of several aggregates in order, see feed.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_STORE_FEED_H
#define ESRS_STORE_FEED_H

#include "postgres.h"

#include "catalog/aggregate.h"
#include "datatype/timestamp.h"
#include "user/event.h"
#include "utils/snapshot.h"

/* Plans that a reader keeps from one reading to the next; zeroed at first. */
typedef struct EsrsFeed
{
	char	   *query;			/* that the plan was made of */
	SPIPlanPtr	plan;
	SPIPlanPtr	deletions_plan;
} EsrsFeed;

/* What is to be read. */
typedef struct EsrsFeedRange
{
	int64		after;			/* greater positions ... */
	int64		upto;			/* ... up to this one */
	Datum		ahead;			/* but not these: int8multirange; 0: none */
	int			partition;		/* of instances; of 1 if not given */
	int			partitions;
	const pg_uuid_t *instance;	/* only this one, if not NULL */
	int64		max;			/* the reader takes no more */
	bool		only_events;	/* no deletions */
	Snapshot	snapshot;		/* to read with; NULL: one taken now */
} EsrsFeedRange;

/* Called with each event or deletion, which is borrowed; false ends the reading. */
typedef bool (*EsrsFeedReader) (EsrsAggregate *agg, EsrsRecord *record, void *arg);

extern int	esrs_feed_partition(const pg_uuid_t *id, int partitions);
extern void esrs_feed_read(EsrsFeed *feed, List *aggregates, const EsrsFeedRange *range,
						   EsrsFeedReader reader, void *arg);
extern int64 esrs_feed_count(List *aggregates, const EsrsFeedRange *range, TimestampTz *oldest);
extern void esrs_feed_close(EsrsFeed *feed);

#endif							/* ESRS_STORE_FEED_H */
