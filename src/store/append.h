/*-------------------------------------------------------------------------
 *
 * append.h
 *	  Storing new events, see append.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_STORE_APPEND_H
#define ESRS_STORE_APPEND_H

#include "postgres.h"

#include "catalog/aggregate.h"
#include "nodes/pg_list.h"

extern void esrs_append(EsrsAggregate *agg, List *records);
extern void esrs_append_lost_race(EsrsAggregate *agg, const pg_uuid_t *id)
			pg_attribute_noreturn();

#endif							/* ESRS_STORE_APPEND_H */
