/*-------------------------------------------------------------------------
 *
 * dead_letter.h
 *	  Events that a handler has given up, see dead_letter.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_HANDLER_DEAD_LETTER_H
#define ESRS_HANDLER_DEAD_LETTER_H

#include "postgres.h"

#include "catalog/aggregate.h"
#include "handler/consumer.h"
#include "user/event.h"

extern void esrs_dead_letter_write(EsrsConsumer *consumer, EsrsAggregate *agg,
								   const EsrsRecord *record, int attempts, ErrorData *error);
extern bool esrs_dead_letter_is_parked(EsrsConsumer *consumer, EsrsAggregate *agg,
									   const pg_uuid_t *id);
extern void esrs_dead_letter_forget(EsrsConsumer *consumer, const pg_uuid_t *id);
extern bool esrs_dead_letter_has_any(EsrsConsumer *consumer);

#endif							/* ESRS_HANDLER_DEAD_LETTER_H */
