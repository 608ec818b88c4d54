/*-------------------------------------------------------------------------
 *
 * aggregate_load.h
 *	  Reading an aggregate from the catalogs, see aggregate_load.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_CATALOG_AGGREGATE_LOAD_H
#define ESRS_CATALOG_AGGREGATE_LOAD_H

#include "postgres.h"

#include "catalog/aggregate.h"

extern bool esrs_aggregate_load(EsrsAggregate *agg);
extern bool esrs_aggregate_trusts(const EsrsHandler *handler, Oid function, bool deletion);

#endif							/* ESRS_CATALOG_AGGREGATE_LOAD_H */
