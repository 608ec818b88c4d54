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

/* What a query must select first for esrs_aggregate_load_handler(). */
#define ESRS_HANDLER_COLUMNS	"name, handler, delete_handler, event_types, handler_owner," \
								" delete_handler_owner, run_as"

extern EsrsHandler *esrs_aggregate_load_handler(MemoryContext context, uint64 row);
extern bool esrs_aggregate_load(EsrsAggregate *agg);
extern bool esrs_aggregate_trusts(const EsrsHandler *handler, Oid function, bool deletion);

#endif							/* ESRS_CATALOG_AGGREGATE_LOAD_H */
