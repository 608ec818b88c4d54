/*-------------------------------------------------------------------------
 *
 * unit.h
 *	  What a worker runs: partitions of handlers, see unit.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_WORKER_UNIT_H
#define ESRS_WORKER_UNIT_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "signal/slots.h"

/* A partition of an asynchronous handler. */
typedef struct EsrsUnit
{
	char		name[NAMEDATALEN];
	int			partition;
	Oid			run_as;
	uint64		bits;			/* of its aggregates, as in EsrsSlot.dirty */
	bool		wanted;			/* it still exists */
	bool		more;			/* there may be more to do at once */
	bool		failed;			/* the last transaction; the log was told */
	TimestampTz retry_at;		/* not before; DT_NOBEGIN: no need to */
	int64		idle_at;		/* there was nothing up to this position, or
								 * -1 */
} EsrsUnit;

extern List *esrs_unit_refresh(List *units);
extern bool esrs_unit_run(EsrsUnit *unit, EsrsWorkerPlace *place, EsrsSlot *slot);

#endif							/* ESRS_WORKER_UNIT_H */
