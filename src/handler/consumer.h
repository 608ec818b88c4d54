/*-------------------------------------------------------------------------
 *
 * consumer.h
 *	  What is known of an event handler that reads the feed, see consumer.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_HANDLER_CONSUMER_H
#define ESRS_HANDLER_CONSUMER_H

#include "postgres.h"

#include "catalog/aggregate.h"
#include "store/feed.h"

/* What is done with an event that a handler does not get done. */
typedef enum EsrsOnError
{
	ESRS_ON_ERROR_SKIP,
	ESRS_ON_ERROR_PARK,
	ESRS_ON_ERROR_STOP
} EsrsOnError;

typedef struct EsrsConsumer
{
	char		name[NAMEDATALEN];
	MemoryContext context;		/* of all that hangs here */
	uint64		generation;		/* of the catalogs when it was read */
	TransactionId version;		/* xmin of its row */
	List	   *aggregates;		/* of char * */
	EsrsHandler *handler;
	bool		async;			/* or transactional */
	int64		ordinal;		/* of registration */
	bool		active;
	bool		total;			/* ordering */
	bool		replayable;
	int			partitions;
	int			batch_size;
	EsrsOnError on_error;
	int			max_attempts;
	char	   *search_path;	/* with which the handler runs */
	EsrsFeed	feed;
	EsrsFeed	instance_feed;
} EsrsConsumer;

/* A handler in the list of all. */
typedef struct EsrsConsumerEntry
{
	char		name[NAMEDATALEN];
	int			partitions;
	Oid			run_as;
	List	   *aggregates;		/* of char * */
} EsrsConsumerEntry;

extern List *esrs_consumer_list(void);
extern EsrsConsumer *esrs_consumer_find(const char *name);
extern EsrsConsumer *esrs_consumer_load(const char *name);
extern EsrsConsumer *esrs_consumer_lookup(const char *name);
extern EsrsConsumer *esrs_consumer_recheck(EsrsConsumer *consumer);
extern List *esrs_consumer_aggregates(EsrsConsumer *consumer, uint32 **hashes);
extern void esrs_consumer_check_right(EsrsConsumer *consumer);
extern bool esrs_consumer_may_run(Oid run_as);
extern void esrs_consumer_set_running(const char *name);
extern void esrs_consumer_check_not_running(const char *name);
extern void esrs_consumer_init(void);
extern void esrs_consumer_missing(const char *name) pg_attribute_noreturn();

#endif							/* ESRS_HANDLER_CONSUMER_H */
