/*-------------------------------------------------------------------------
 *
 * direct.h
 *	  Storing and reading events without statements, see direct.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_STORE_DIRECT_H
#define ESRS_STORE_DIRECT_H

#include "postgres.h"

#include "catalog/aggregate.h"
#include "store/read.h"

extern const char *esrs_direct_append_obstacle(EsrsAggregate *agg);
extern const char *esrs_direct_read_obstacle(EsrsAggregate *agg, bool as_owner);
extern void esrs_direct_append(EsrsAggregate *agg, List *records);
extern void esrs_direct_read(EsrsAggregate *agg, const pg_uuid_t *id, int32 from, int32 to,
							 Snapshot snapshot, EsrsReader reader, void *arg);
extern void esrs_direct_read_newest(EsrsAggregate *agg, const pg_uuid_t *id,
									Snapshot snapshot, EsrsNewest *newest);

#endif							/* ESRS_STORE_DIRECT_H */
