/*-------------------------------------------------------------------------
 *
 * aggregate.h
 *	  What is known of a registered aggregate, see aggregate.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_CATALOG_AGGREGATE_H
#define ESRS_CATALOG_AGGREGATE_H

#include "postgres.h"

#include "catalog/event_table.h"
#include "config.h"
#include "executor/spi.h"
#include "nodes/pg_list.h"
#include "storage/lockdefs.h"
#include "user/definition.h"
#include "user/routine.h"

/* Statements on the events table, prepared by store/ when first needed. */
typedef enum EsrsPlan
{
	ESRS_PLAN_APPEND,
	ESRS_PLAN_READ,
	ESRS_PLAN_READ_AS_CALLER,
	ESRS_PLAN_GO_ON,
	ESRS_PLAN_GO_ON_AS_CALLER,
	ESRS_PLAN_NEWEST,
	ESRS_PLAN_DELETE
} EsrsPlan;

#define ESRS_PLAN_COUNT		7

/* A transactional event handler. */
typedef struct EsrsHandler
{
	char	   *name;
	char	   *signature;
	char	   *delete_signature;	/* or NULL */
	EsrsFunction function;		/* oid InvalidOid: the function is gone */
	EsrsFunction delete_function;
	bool		set_based;		/* takes all events of a command at once */
	Oid			owner;			/* of the function when it was named */
	Oid			delete_owner;
	Oid			run_as;			/* who registered the handler */
	List	   *event_types;	/* of char *; NIL: all */
} EsrsHandler;

typedef struct EsrsAggregate
{
	char		name[NAMEDATALEN];
	MemoryContext context;		/* of all that hangs here */
	bool		valid;			/* false: look it up again */
	Oid			events;			/* the table */
	Oid			owner;			/* of the table */
	char	   *table;			/* its qualified, quoted name */
	char	   *sequence_index_name;	/* unique (aggregate_id,
										 * sequence_number) */
	EsrsDirectAccess direct;	/* to the table, as long as this is valid */
	uint32		hash;			/* of the name, for locks */
	bool		adopted;		/* shares its table with the Rust library */
	bool		v4_ids;
	int			notify;			/* EsrsNotifyMode, or -1: as the setting says */
	int			notify_payload; /* EsrsNotifyPayload, or -1 */

	/* what may be kept of states */
	uint64		meaning;		/* hash of what folds states, and of the guard */
	bool		unchanging;		/* what is appended is what is stored, for
								 * good */
	uint64		pinned_epoch;	/* of the code for which this was found: */
	bool		pinned;			/* states do not depend on who folds them */
	int32		snapshot_every; /* 0: no snapshots */
	EsrsHistoryStamp stamp;		/* if unchanging */
	uint64		fingerprint_epoch;	/* of the code for which this was made: */
	bool		has_fingerprint;
	uint8		fingerprint[ESRS_FINGERPRINT_LENGTH];
	EsrsRoutine routine;
	List	   *handlers;		/* of EsrsHandler, in order of registration */
	SPIPlanPtr	plans[ESRS_PLAN_COUNT];
} EsrsAggregate;

#define ESRS_NAME_MAX	40

extern void esrs_aggregate_missing(const char *name) pg_attribute_noreturn();
extern EsrsAggregate *esrs_aggregate_find(const char *name, bool missing_ok);
extern EsrsAggregate *esrs_aggregate_lookup(const char *name);
extern EsrsAggregate *esrs_aggregate_lookup_locked(const char *name, LOCKMODE mode);
extern void esrs_aggregate_init(void);
extern uint64 esrs_aggregate_code_epoch(void);
extern bool esrs_aggregate_is_pinned(EsrsAggregate *agg);
extern const uint8 *esrs_aggregate_fingerprint(EsrsAggregate *agg);
extern uint32 esrs_aggregate_hash(const char *name);
extern void esrs_aggregate_check_command_right(EsrsAggregate *agg);
extern void esrs_aggregate_check_table_right(EsrsAggregate *agg, uint64 mode);

#endif							/* ESRS_CATALOG_AGGREGATE_H */
