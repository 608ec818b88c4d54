/*-------------------------------------------------------------------------
 *
 * call.h
 *	  A call of a user's callback, see call.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_USER_CALL_H
#define ESRS_USER_CALL_H

#include "postgres.h"

#include "base/json_pool.h"
#include "nodes/pg_list.h"
#include "user/document.h"
#include "utils/jsonb.h"

/* Why a command was rejected. */
typedef struct EsrsRejection
{
	char	   *name;			/* or NULL */
	char	   *message;
	char	   *detail;			/* or NULL; often JSON */
	char	   *hint;			/* or NULL */
} EsrsRejection;

/* The calls that one command makes, one after the other. */
struct EsrsCall
{
	MemoryContext context;		/* scratch, emptied by esrs_call_reset() */
	EsrsJsonPool pool;

	/* what the callbacks may ask for */
	const char *aggregate;
	pg_uuid_t	aggregate_id;
	TimestampTz now;
	Jsonb	   *metadata;		/* or NULL */
	EsrsJson   *metadata_document;

	const char *callback;		/* the one that is running, for messages */
	uint64		epoch;			/* see esrs_function_new_epoch() */

	/* what handle_command of an aggregate in C has said so far */
	bool		deciding;		/* it is running */
	List	   *emitted;		/* of EsrsJsonOwner */
	EsrsRejection *rejection;
	EsrsJsonOwner *rejection_detail;
};

extern EsrsCall *esrs_call_begin(const char *aggregate, const pg_uuid_t *aggregate_id,
								 TimestampTz now, Jsonb *metadata);
extern void esrs_call_reset(EsrsCall *call);
extern void esrs_call_end(EsrsCall *call);
extern void esrs_call_run(EsrsCall *call, const char *callback, MemoryContext context,
						  void (*body) (EsrsCall *call, void *arg), void *arg);
extern bool esrs_call_is_running(void);
extern void esrs_call_publish_api(void);

#endif							/* ESRS_USER_CALL_H */
