/*-------------------------------------------------------------------------
 *
 * state_aggregate.h
 *	  The SQL aggregates <name>_state, see state_aggregate.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_CATALOG_STATE_AGGREGATE_H
#define ESRS_CATALOG_STATE_AGGREGATE_H

#include "postgres.h"

#include "catalog/aggregate_row.h"

extern void esrs_state_aggregate_update(Oid events, const char *name,
										const EsrsAggregateOptions *old,
										const EsrsAggregateOptions *o);
extern void esrs_state_aggregate_drop(Oid events, const char *name);
extern Oid	esrs_state_aggregate_transition(Oid function);

#endif							/* ESRS_CATALOG_STATE_AGGREGATE_H */
