/*-------------------------------------------------------------------------
 *
 * event_table.h
 *	  The table <name>_events: making and adopting it, see event_table.c, and
 *	  looking at it, see event_table_inspect.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_CATALOG_EVENT_TABLE_H
#define ESRS_CATALOG_EVENT_TABLE_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "storage/itemptr.h"
#include "utils/relcache.h"
#include "utils/reltrigger.h"

/* The trigger that guards the table. */
#define ESRS_GUARD_NAME		"esrs_append_only"

#define ESRS_EVENT_TABLE_COLUMNS	8

typedef struct EsrsEventColumn
{
	const char *name;
	Oid			type;
	bool		not_null;
	const char *definition;
} EsrsEventColumn;

extern const EsrsEventColumn esrs_event_columns[ESRS_EVENT_TABLE_COLUMNS];

typedef enum EsrsTableCondition
{
	ESRS_TABLE_OK,
	ESRS_TABLE_MISSING,			/* dropped */
	ESRS_TABLE_FOREIGN,			/* not an events table */
	ESRS_TABLE_NO_DEFAULT		/* "position" does not name this aggregate */
} EsrsTableCondition;

/*
 * The guard's row in pg_trigger and those of the columns in pg_attribute, as they
 * are.  Whoever has switched the guard off and on again, or had the table
 * rewritten by ALTER COLUMN ... TYPE ... USING, has changed this.
 */
typedef struct EsrsHistoryStamp
{
	uint64		hash;
	TransactionId newest;		/* that wrote one of them, if not long ago */
} EsrsHistoryStamp;

/*
 * How far the table can be reached without statements, see event_table_direct.c.
 * The obstacles are constants: why not, or NULL.
 */
typedef struct EsrsDirectAccess
{
	const char *read_obstacle;
	const char *append_obstacle;
	Oid			index;			/* unique (aggregate_id, sequence_number) */
	AttrNumber	columns[ESRS_EVENT_TABLE_COLUMNS];	/* as in
													 * esrs_event_columns */
	AttrNumber	last_column;	/* the greatest of them */
} EsrsDirectAccess;

typedef struct EsrsTableInfo
{
	Oid			owner;
	char	   *table;			/* qualified and quoted */
	char	   *sequence_index; /* name: unique (aggregate_id,
								 * sequence_number) */
	List	   *callbacks;		/* OIDs that the default names, in order */
	char	   *problem;		/* what is wrong, if FOREIGN */
	bool		guarded;		/* the guard is there and enabled */
	bool		unchanging;		/* what is inserted is stored, and only
								 * esrs_delete() changes it */
	EsrsHistoryStamp stamp;		/* of this table, if unchanging */
	EsrsDirectAccess direct;	/* if not FOREIGN */
} EsrsTableInfo;

extern EsrsTableCondition esrs_event_table_inspect(Oid events, const char *name,
												   EsrsTableInfo *info);
extern char *esrs_event_table_name(Oid events);
extern Oid	esrs_event_table_sequence_index(Relation rel, char **name);
extern void esrs_event_table_direct_access(Relation rel, EsrsDirectAccess *access);
extern AttrNumber esrs_event_table_column(TupleDesc desc, const char *name);
extern char *esrs_event_table_problem(Relation rel, int ncolumns);
extern bool esrs_event_table_has_our_key(Relation rel);
extern bool esrs_event_table_names(Relation rel, const char *name, List **callbacks);
extern Trigger *esrs_event_table_guard(Relation rel);
extern Oid	esrs_event_table_id_index(Oid events);
extern Oid	esrs_event_table_position_index(Relation rel);
extern int64 esrs_event_table_last_position(Oid events);

extern Oid	esrs_event_table_create(const char *name, bool *created, bool *adopted);
extern void esrs_event_table_set_default(Oid events, const char *name, List *callbacks);
extern void esrs_event_table_set_guard(Oid events, const char *name, bool append_only);
extern void esrs_event_table_set_unique_id(Oid events, bool unique);
extern bool esrs_event_table_release(Oid events, const char *name, bool drop);

extern void esrs_event_table_allow(Oid events);
extern void esrs_event_table_disallow(void);

#endif							/* ESRS_CATALOG_EVENT_TABLE_H */
