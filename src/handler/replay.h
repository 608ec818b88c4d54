/*-------------------------------------------------------------------------
 *
 * replay.h
 *	  Calling event handlers with what has happened before, see replay.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_HANDLER_REPLAY_H
#define ESRS_HANDLER_REPLAY_H

#include "postgres.h"

#include "catalog/checkpoint.h"
#include "handler/consumer.h"
#include "store/feed.h"

/* A handler that is called, and with what. */
typedef struct EsrsReplayed
{
	EsrsConsumer *consumer;
	bool		limited;		/* only with what it has handled already: */
	EsrsCheckpoint checkpoint;
} EsrsReplayed;

typedef struct EsrsReplay EsrsReplay;

struct EsrsReplay
{
	List	   *handlers;		/* of EsrsReplayed, in order of registration,
								 * all of one role */
	List	   *aggregates;		/* of EsrsAggregate: all that they serve */
	EsrsFeed	feed;
	int64		portion;		/* so many events at once */
	bool		deletions;		/* replay them too */

	/*
	 * called for each event of a portion that a handler was called with, if
	 * set
	 */
	void		(*handled) (EsrsReplay *replay, EsrsAggregate *agg, EsrsRecord *record);

	/* called after each portion, if set */
	void		(*progress) (EsrsReplay *replay, int64 events);
	void	   *arg;
};

extern void esrs_replay_guarded(void (*body) (void *arg), void *arg);
extern void esrs_replay_events(EsrsReplay *replay, EsrsFeedRange *range);
extern void esrs_replay_delete(EsrsReplay *replay, const char *aggregate, const pg_uuid_t *id);
extern Oid	esrs_replay_role(EsrsReplay *replay);

#endif							/* ESRS_HANDLER_REPLAY_H */
