/*-------------------------------------------------------------------------
 *
 * read.h
 *	  Reading stored events, see read.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_STORE_READ_H
#define ESRS_STORE_READ_H

#include "postgres.h"

#include "catalog/aggregate.h"
#include "user/event.h"
#include "utils/snapshot.h"

/* Called with each event, which is borrowed; false ends the reading. */
typedef bool (*EsrsReader) (EsrsRecord *record, void *arg);

/* The newest event of an instance. */
typedef struct EsrsNewest
{
	int32		sequence_number;	/* 0: there is none */
	pg_uuid_t	id;
	TimestampTz occurred_on;
} EsrsNewest;

extern void esrs_read_instance(EsrsAggregate *agg, const pg_uuid_t *id, int32 from, int32 to,
							   Snapshot snapshot, bool as_owner,
							   EsrsReader reader, void *arg);
extern void esrs_read_newest(EsrsAggregate *agg, const pg_uuid_t *id, Snapshot snapshot,
							 EsrsNewest *newest);
extern void esrs_read_feed(List *aggregates, int64 after, int64 upto, int64 max,
						   bool (*reader) (EsrsAggregate *agg, EsrsRecord *record, void *arg),
						   void *arg);

#endif							/* ESRS_STORE_READ_H */
