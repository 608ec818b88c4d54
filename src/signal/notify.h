/*-------------------------------------------------------------------------
 *
 * notify.h
 *	  Notifications and messages of new events, see notify.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_SIGNAL_NOTIFY_H
#define ESRS_SIGNAL_NOTIFY_H

#include "postgres.h"

#include "catalog/aggregate.h"
#include "lib/stringinfo.h"
#include "user/event.h"

extern void esrs_notify_appended(EsrsAggregate *agg, List *records);
extern void esrs_notify_deleted(EsrsAggregate *agg, const pg_uuid_t *id, int64 position);
extern void esrs_notify_message(StringInfo out, const EsrsRecord *record, bool with_position);
extern void esrs_notify_init(void);

#endif							/* ESRS_SIGNAL_NOTIFY_H */
