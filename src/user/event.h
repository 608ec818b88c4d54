/*-------------------------------------------------------------------------
 *
 * event.h
 *	  An event as the server module hands it around, see event.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_USER_EVENT_H
#define ESRS_USER_EVENT_H

#include "postgres.h"

#include "user/callback.h"

typedef struct EsrsRecord
{
	bool		deletion;		/* tells that the instance was deleted */
	pg_uuid_t	id;
	pg_uuid_t	aggregate_id;
	Jsonb	   *payload;		/* stored form */
	Jsonb	   *event;			/* present form; NULL until
								 * esrs_event_present() */
	TimestampTz occurred_on;
	int32		sequence_number;
	int32		version;		/* or ESRS_NO_VERSION */
	int64		position;
	TransactionId xmin;			/* of its row, or InvalidTransactionId */
	Jsonb	   *metadata;		/* or NULL */
} EsrsRecord;

extern EsrsRecord *esrs_event_copy(const EsrsRecord *record);
extern bool esrs_event_present(EsrsCall *call, EsrsRoutine *routine, EsrsRecord *record);
extern bool esrs_event_fold(EsrsCall *call, EsrsRoutine *routine, EsrsState *state,
							const EsrsRecord *record);

#endif							/* ESRS_USER_EVENT_H */
