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

/* An event, or a deletion, that is to be told. */
typedef struct EsrsNotice
{
	char		aggregate[NAMEDATALEN];
	bool		deletion;
	bool		truncated;		/* its message did not fit */
	pg_uuid_t	id;
	pg_uuid_t	aggregate_id;
	int32		sequence_number;
	int64		position;
	char	   *message;		/* or NULL: a reference */
} EsrsNotice;

/* Old events that one transaction tells of. */
typedef struct EsrsRetelling EsrsRetelling;

extern EsrsNotifyMode esrs_notify_mode(EsrsAggregate *agg);
extern bool esrs_notify_contains_event(EsrsAggregate *agg);
extern void esrs_notify_fill(EsrsNotice *notice, EsrsAggregate *agg, const EsrsRecord *record,
							 bool want_message);
extern void esrs_notify_send(List *notices);
extern void esrs_notify_appended(EsrsAggregate *agg, List *records);
extern void esrs_notify_deleted(EsrsAggregate *agg, const pg_uuid_t *id, int64 position);
extern void esrs_notify_message(StringInfo out, const EsrsRecord *record, bool with_position);
extern EsrsRetelling *esrs_notify_again_begin(void);
extern void esrs_notify_again(EsrsRetelling *again, EsrsAggregate *agg, const EsrsRecord *record);
extern void esrs_notify_again_send(EsrsRetelling *again);
extern void esrs_notify_init(void);

#endif							/* ESRS_SIGNAL_NOTIFY_H */
