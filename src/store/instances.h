/*-------------------------------------------------------------------------
 *
 * instances.h
 *	  Which instances there are, see instances.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_STORE_INSTANCES_H
#define ESRS_STORE_INSTANCES_H

#include "postgres.h"

#include "catalog/aggregate.h"
#include "utils/uuid.h"

extern int	esrs_instances_next(List *aggregates, Oid reader, const pg_uuid_t *after,
								pg_uuid_t *ids, int max);
extern int64 esrs_instances_count(List *aggregates, Oid reader);

#endif							/* ESRS_STORE_INSTANCES_H */
