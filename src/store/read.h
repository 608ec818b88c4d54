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

#include "access/htup.h"
#include "access/tupdesc.h"
#include "catalog/aggregate.h"
#include "user/event.h"
#include "utils/snapshot.h"

/* What a query must select for esrs_read_record(). */
#define ESRS_READ_COLUMNS	"id, aggregate_id, payload, occurred_on, sequence_number," \
							" version, position, metadata"

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
extern void esrs_read_on(EsrsAggregate *agg, const pg_uuid_t *id, int32 from, int32 to,
						 Snapshot snapshot, bool as_owner, EsrsReader reader, void *arg);
extern Portal esrs_read_open(EsrsAggregate *agg, Snapshot snapshot);
extern bool esrs_read_next(Portal cursor, EsrsReader reader, void *arg);
extern void esrs_read_newest(EsrsAggregate *agg, const pg_uuid_t *id, Snapshot snapshot,
							 EsrsNewest *newest);
extern void esrs_read_row(EsrsRecord *record, const Datum *values, const bool *nulls);
extern void esrs_read_record(EsrsRecord *record, HeapTuple tuple, TupleDesc desc);

#endif							/* ESRS_STORE_READ_H */
