/*-------------------------------------------------------------------------
 *
 * aggregate_row.h
 *	  The options of an aggregate and their row in esrs.aggregates, see
 *	  aggregate_row.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_CATALOG_AGGREGATE_ROW_H
#define ESRS_CATALOG_AGGREGATE_ROW_H

#include "postgres.h"

#include "user/routine.h"

/* All options of an aggregate, as registration takes them. */
typedef struct EsrsAggregateOptions
{
	char	   *callbacks[ESRS_CALLBACK_COUNT]; /* signatures, or NULL */
	Oid			functions[ESRS_CALLBACK_COUNT]; /* what they resolve to */
	Jsonb	   *initial_state;
	bool		no_version;
	int32		event_version;
	bool		no_snapshots;
	int32		snapshot_every;
	char	   *event_id_format;
	char	   *event_type_path;
	bool		unique_event_id;
	bool		append_only;
	char	   *notify;
	char	   *notify_payload;
	Oid			registered_by;
	char	   *snapshots;		/* not stored: what to do with them, or NULL */
} EsrsAggregateOptions;

extern bool esrs_aggregate_row_read(const char *name, Oid *events, bool *adopted,
									EsrsAggregateOptions *o);
extern void esrs_aggregate_row_write(const char *name, Oid events, bool adopted,
									 EsrsAggregateOptions *o, bool update);
extern char *esrs_aggregate_row_of_table(Oid events);
extern void esrs_aggregate_row_lock_consumers(const char *name);
extern void esrs_aggregate_row_delete(const char *name);
extern void esrs_aggregate_row_delete_history(const char *name);
extern void esrs_aggregate_row_delete_snapshots(const char *name);

#endif							/* ESRS_CATALOG_AGGREGATE_ROW_H */
