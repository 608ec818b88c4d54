/*-------------------------------------------------------------------------
 *
 * history.h
 *	  Going through all events of an aggregate, see history.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_ENGINE_HISTORY_H
#define ESRS_ENGINE_HISTORY_H

#include "postgres.h"

#include "catalog/aggregate.h"
#include "user/event.h"
#include "utils/resowner.h"
#include "utils/snapshot.h"

typedef struct EsrsHistory EsrsHistory;

/* Going through a history; whoever walks embeds this and sets the first part. */
struct EsrsHistory
{
	const char *what;			/* "esrs_verify()" */
	EsrsAggregate *agg;
	Snapshot	snapshot;

	/* called with the instance's context as the current one */
	void		(*begin) (EsrsHistory *history);
	void		(*event) (EsrsHistory *history, EsrsRecord *record);
	void		(*end) (EsrsHistory *history);

	/* the instance, and the call for its callbacks */
	pg_uuid_t	id;
	EsrsCall   *call;
	MemoryContext context;

	/* how far it is */
	int64		instances;
	int64		events;
	TimestampTz next_notice;
	bool		in_subtransaction;
	ResourceOwner outer_owner;
	uint64		epoch;			/* see esrs_function_new_epoch() */
};

/* What a fold has raised. */
typedef struct EsrsFoldError
{
	char	   *sqlstate;
	char	   *message;
	int32		sequence_number;
} EsrsFoldError;

extern void esrs_history_walk(EsrsHistory *history);
extern EsrsFoldError *esrs_history_fold(EsrsHistory *history, EsrsRoutine *routine,
										EsrsState *state, const EsrsRecord *record,
										bool *deprecated);
extern EsrsFoldError *esrs_history_json(EsrsHistory *history, EsrsRoutine *routine,
										EsrsState *state, Jsonb **json);
extern void esrs_history_settle(EsrsHistory *history);
extern EsrsAggregate *esrs_history_aggregate(const char *name);

#endif							/* ESRS_ENGINE_HISTORY_H */
