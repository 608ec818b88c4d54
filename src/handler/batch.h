/*-------------------------------------------------------------------------
 *
 * batch.h
 *	  Calling an asynchronous handler with events, see batch.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_HANDLER_BATCH_H
#define ESRS_HANDLER_BATCH_H

#include "postgres.h"

#include "handler/consumer.h"
#include "user/event.h"

/* An event, or a deletion, that a handler is to be called with. */
typedef struct EsrsBatchItem
{
	EsrsAggregate *agg;
	EsrsRecord *record;
} EsrsBatchItem;

typedef struct EsrsBatch
{
	EsrsConsumer *consumer;
	bool		own_transaction;	/* it holds nothing else */
	bool		is_worker;		/* nobody waits for it */
	bool		restricted;		/* its code may leave nothing for the commit */
	MemoryContext context;		/* of the items */
	EsrsBatchItem *items;
	int			n;
	int64		max;			/* so many at most; then "full" */
	bool		full;
	TimestampTz deadline;		/* begin nothing after that */
	EsrsBatchItem *at;			/* the handler is being called with this one */
	ErrorData  *error;			/* of the last attempt that failed */
} EsrsBatch;

extern void esrs_batch_read(EsrsBatch *batch, EsrsFeed *feed, List *aggregates,
							EsrsFeedRange *range);
extern int	esrs_batch_call(EsrsBatch *batch, int from, int to);
extern void esrs_batch_leave_nothing(EsrsConsumer *consumer);
extern int	esrs_batch_attempt(EsrsBatch *batch, int from, int to);
extern bool esrs_batch_is_retryable(const ErrorData *error);

#endif							/* ESRS_HANDLER_BATCH_H */
