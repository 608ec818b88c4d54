/*-------------------------------------------------------------------------
 *
 * subscription.h
 *	  Consumers outside the database, which poll, see subscription.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_ENGINE_SUBSCRIPTION_H
#define ESRS_ENGINE_SUBSCRIPTION_H

#include "postgres.h"

#include "catalog/checkpoint.h"
#include "fmgr.h"
#include "user/call.h"
#include "utils/array.h"
#include "utils/tuplestore.h"

/* A subscription as it is while its checkpoint is locked. */
typedef struct EsrsSubscription
{
	const char *name;
	ArrayType  *aggregates;		/* of text */
	bool		total;			/* ordering */
	Oid			run_as;
	char	   *node;			/* the cluster in which it may be polled */
	bool		active;
	bool		has_checkpoint;
	EsrsCheckpoint checkpoint;
	bool		acknowledged;	/* what is to be is one of "ahead" */
	int64		last_handed;	/* -1: nothing is handed out */
	int64		handed_safe;	/* -1: likewise */
	char	   *lease_owner;	/* or NULL */
	TimestampTz lease_until;
} EsrsSubscription;

/* What a poll, or the start of a subscription, reads of the feed. */
typedef struct EsrsSubscriptionReading
{
	MemoryContext context;		/* of "positions" */
	int64	   *positions;		/* of all events */
	int			n;
	int			size;
	int64		limit;			/* so many at most */
	int64		max;			/* and so many from the first that is shown on */
	int64		counted;
	int			shown;			/* events up to the last that is shown */
	bool		full;			/* there may be more */
	EsrsCall   *call;
	Tuplestorestate *store;		/* NULL: nothing is shown */
	TupleDesc	desc;
} EsrsSubscriptionReading;

extern bool esrs_subscription_set_status(const char *name, const char *status);
extern bool esrs_subscription_reset(const char *name, int64 position);

extern Datum esrs_subscribe(PG_FUNCTION_ARGS);
extern Datum esrs_unsubscribe(PG_FUNCTION_ARGS);
extern Datum esrs_poll(PG_FUNCTION_ARGS);
extern Datum esrs_ack(PG_FUNCTION_ARGS);
extern Datum esrs_nack(PG_FUNCTION_ARGS);

#endif							/* ESRS_ENGINE_SUBSCRIPTION_H */
