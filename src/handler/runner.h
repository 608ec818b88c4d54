/*-------------------------------------------------------------------------
 *
 * runner.h
 *	  Running asynchronous event handlers, see runner.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_HANDLER_RUNNER_H
#define ESRS_HANDLER_RUNNER_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "handler/consumer.h"

typedef enum EsrsRunOutcome
{
	ESRS_RUN_IDLE,				/* there was nothing to do */
	ESRS_RUN_DONE,				/* something was handled */
	ESRS_RUN_BUSY,				/* somebody else is at it */
	ESRS_RUN_RETRYING,			/* it has failed, and waits */
	ESRS_RUN_FAILED,			/* it has failed, and waits for somebody */
	ESRS_RUN_INACTIVE			/* paused, failed before, or gone */
} EsrsRunOutcome;

typedef enum EsrsInstanceOutcome
{
	ESRS_INSTANCE_HANDLED,
	ESRS_INSTANCE_MORE,			/* as far as one batch goes */
	ESRS_INSTANCE_FAILED,
	ESRS_INSTANCE_LEFT			/* to somebody else, or to a batch */
} EsrsInstanceOutcome;

/* One batch: what is asked for, and what came of it. */
typedef struct EsrsRun
{
	const char *handler;
	int			partition;
	bool		own_transaction;	/* the transaction holds nothing else */
	bool		is_worker;
	Oid			run_as;			/* as the worker expects it */

	EsrsRunOutcome outcome;
	bool		more;			/* there may be more at once */
	bool		wrote;			/* the transaction must be committed */
	TimestampTz retry_at;		/* if RETRYING */
	int64		head;			/* no position was greater than this */
	bool		blocked;		/* a writer was in progress below it */
} EsrsRun;

extern void esrs_runner_batch(EsrsRun *run);
extern EsrsInstanceOutcome esrs_runner_instance(const char *handler, const char *aggregate,
												const pg_uuid_t *id, int64 position);
extern void esrs_runner_note_failure(EsrsRun *run, ErrorData *error);
extern bool esrs_runner_is_behind(EsrsConsumer *consumer, int64 up_to);

#endif							/* ESRS_HANDLER_RUNNER_H */
