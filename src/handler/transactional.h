/*-------------------------------------------------------------------------
 *
 * transactional.h
 *	  Transactional event handlers, see transactional.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_HANDLER_TRANSACTIONAL_H
#define ESRS_HANDLER_TRANSACTIONAL_H

#include "postgres.h"

#include "catalog/aggregate.h"
#include "user/event.h"

extern void esrs_transactional_run(EsrsAggregate *agg, List *records, int depth);
extern void esrs_transactional_delete(EsrsAggregate *agg, const pg_uuid_t *id, int depth);
extern const EsrsRecord *esrs_transactional_cause(int *depth);
extern bool esrs_transactional_is_dispatching(Oid events, const pg_uuid_t *id);
extern void esrs_transactional_init(void);

#endif							/* ESRS_HANDLER_TRANSACTIONAL_H */
