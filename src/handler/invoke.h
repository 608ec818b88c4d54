/*-------------------------------------------------------------------------
 *
 * invoke.h
 *	  Calling an event handler's function, see invoke.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_HANDLER_INVOKE_H
#define ESRS_HANDLER_INVOKE_H

#include "postgres.h"

#include "catalog/aggregate.h"
#include "user/event.h"

extern void esrs_invoke(EsrsHandler *handler, const char *aggregate, const pg_uuid_t *id,
						Datum argument, bool deletion);
extern void esrs_invoke_resolve(EsrsHandler *handler);
extern bool esrs_invoke_wants(EsrsAggregate *agg, EsrsHandler *handler, EsrsRecord *record);
extern const char *esrs_invoke_running(void);
extern void esrs_invoke_set_replaying(bool replaying);
extern bool esrs_invoke_is_replaying(void);
extern void esrs_invoke_set_cause(const EsrsRecord *record);
extern const EsrsRecord *esrs_invoke_cause(void);

#endif							/* ESRS_HANDLER_INVOKE_H */
