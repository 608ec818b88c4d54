/*-------------------------------------------------------------------------
 *
 * state.h
 *	  An instance and its state, see state.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_ENGINE_STATE_H
#define ESRS_ENGINE_STATE_H

#include "postgres.h"

#include "catalog/aggregate.h"
#include "user/event.h"
#include "utils/snapshot.h"

/* What made a state. */
typedef struct EsrsOrigin
{
	uint64		meaning;		/* see EsrsAggregate */
	uint64		code_epoch;
	Oid			role;			/* InvalidOid: does not matter */
	uint32		search_path_hash;
} EsrsOrigin;

typedef struct EsrsInstance
{
	EsrsAggregate *agg;
	pg_uuid_t	id;
	EsrsState  *state;			/* NULL: was not loaded */
	bool		keepable;		/* all events were folded, without a gap */
	EsrsOrigin	origin;			/* of the state */
	int32		folded;			/* how many events loading it has taken */

	/* the newest event; number 0 if there is none */
	int32		sequence_number;
	pg_uuid_t	last_id;
	int64		last_position;	/* which no sequence gives twice */
	TransactionId last_xmin;	/* or InvalidTransactionId: not known */
	TimestampTz last_occurred_on;	/* the latest so far */
} EsrsInstance;

/* Up to where to fold. */
typedef struct EsrsLoadLimit
{
	int32		sequence_number;
	TimestampTz occurred_on;
} EsrsLoadLimit;

#define ESRS_LOAD_ALL	((EsrsLoadLimit) {PG_INT32_MAX, DT_NOEND})

extern EsrsInstance *esrs_state_load(EsrsCall *call, EsrsAggregate *agg, const pg_uuid_t *id,
									 EsrsLoadLimit limit, Snapshot snapshot, bool as_owner);
extern EsrsInstance *esrs_state_peek(EsrsAggregate *agg, const pg_uuid_t *id,
									 Snapshot snapshot);
extern void esrs_state_advance(EsrsCall *call, EsrsInstance *instance, List *records);
extern EsrsInstance *esrs_state_new(EsrsCall *call, EsrsAggregate *agg, const pg_uuid_t *id);
extern void esrs_state_keep(EsrsInstance *instance);
extern bool esrs_state_store(EsrsCall *call, EsrsInstance *instance, int32 before,
							 Jsonb *state);
extern void esrs_state_check_current(EsrsInstance *instance);

#endif							/* ESRS_ENGINE_STATE_H */
