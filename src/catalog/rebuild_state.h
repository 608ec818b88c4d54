/*-------------------------------------------------------------------------
 *
 * rebuild_state.h
 *	  How far a rebuild of many transactions has come, see rebuild_state.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_CATALOG_REBUILD_STATE_H
#define ESRS_CATALOG_REBUILD_STATE_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

/* A share of the instances: each row belongs to the process that works on it. */
typedef struct EsrsRebuildState
{
	char	   *handlers;		/* key */
	int			share;			/* key: from 0 ... */
	int			shares;			/* ... to one less than this */
	char	   *version;		/* of the handlers and their functions */
	bool		begun;
	bool		done;
	pg_uuid_t	last_id;		/* if begun: the instance that was done last */
	int64		instances;
	int64		events;
	TimestampTz started_at;
} EsrsRebuildState;

extern char *esrs_rebuild_state_version(List *names);
extern List *esrs_rebuild_state_list(const char *handlers);
extern void esrs_rebuild_state_begin(const EsrsRebuildState *state);
extern void esrs_rebuild_state_write(const EsrsRebuildState *state);
extern void esrs_rebuild_state_delete(const char *handlers);

#endif							/* ESRS_CATALOG_REBUILD_STATE_H */
