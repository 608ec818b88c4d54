/*-------------------------------------------------------------------------
 *
 * event_table.c
 *	  The table <name>_events: making it, adopting one that is there, tying it
 *	  to the callbacks, and guarding it.  event_table_inspect.c looks at it.
 *
 * All DDL here runs as the current user, so PostgreSQL itself checks that he
 * may do it, and the table is his.  The table is never a member of the
 * extension: DROP EXTENSION keeps it and pg_dump dumps it.
 *
 * The tie to the callbacks hangs on the default of "position", which names
 * them as regprocedure constants.  A dependency of the table itself would be
 * fatal: DROP FUNCTION ... CASCADE would drop the table.  This one loses the
 * default only.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/event_table.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/xact.h"
#include "base/errors.h"
#include "base/spi.h"
#include "catalog/aggregate_row.h"
#include "catalog/extension.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "compat.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/primnodes.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(esrs_append_only);

/* The table whose events esrs_delete() is removing, or InvalidOid. */
static Oid	allowed_table = InvalidOid;

/* Columns that the Rust library's tables may lack. */
#define FIRST_ADDED_COLUMN	5

/* ------------------------------------------------------------------------
 * Making and adopting
 * ------------------------------------------------------------------------
 */

static void
create_table(const char *table, const char *name)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE TABLE %s (", table);
	for (int i = 0; i < ESRS_EVENT_TABLE_COLUMNS; i++)
		appendStringInfo(&sql, "%s %s, ", esrs_event_columns[i].name, esrs_event_columns[i].definition);
	/* cut here, or PostgreSQL cuts it with a NOTICE */
	appendStringInfo(&sql, "CONSTRAINT %.*s PRIMARY KEY (aggregate_id, sequence_number))",
					 NAMEDATALEN - 1,
					 psprintf("%s_events_aggregate_id_sequence_number", name));
	esrs_spi_utility(sql.data);
	esrs_spi_utility(psprintf("CREATE UNIQUE INDEX %s ON %s (position, aggregate_id)",
							  quote_identifier(psprintf("%s_events_position", name)), table));
}

/*
 * Number the events that have no position, in causal order: within an instance
 * by sequence_number, across instances by the time at which the instance had
 * got so far.  Plain occurred_on would let a clock that went backwards swap
 * events of one instance.
 */
static void
fill_positions(const char *table, const char *name)
{
	/*
	 * drawn once: a subquery on the inner side of a join would draw again and
	 * again
	 */
	(void) esrs_spi_run(psprintf("WITH n AS MATERIALIZED ("
								 "SELECT o.aggregate_id, o.sequence_number, esrs.next_position(%s) AS position FROM ("
								 "SELECT m.aggregate_id, m.sequence_number FROM ("
								 "SELECT aggregate_id, sequence_number, pg_catalog.max(occurred_on) OVER ("
								 "PARTITION BY aggregate_id ORDER BY sequence_number) AS reached FROM %s"
								 " WHERE position IS NULL) AS m"
								 " ORDER BY m.reached, m.aggregate_id, m.sequence_number) AS o)"
								 " UPDATE %s AS e SET position = n.position FROM n"
								 " WHERE e.aggregate_id OPERATOR(pg_catalog.=) n.aggregate_id"
								 " AND e.sequence_number OPERATOR(pg_catalog.=) n.sequence_number"
								 " AND e.position IS NULL",
								 quote_literal_cstr(name), table, table),
						0, NULL, NULL, NULL, SPI_OK_UPDATE);
}

/* Take the guard off, if there is one. */
static void
drop_guard(Oid events)
{
	Relation	rel = relation_open(events, AccessShareLock);
	Trigger    *guard = esrs_event_table_guard(rel);
	char	   *name = guard ? pstrdup(guard->tgname) : NULL;

	relation_close(rel, NoLock);
	if (name != NULL)
		esrs_spi_utility(psprintf("DROP TRIGGER %s ON %s", quote_identifier(name),
								  esrs_event_table_name(events)));
}

/* Numbers begin at 1: what has a lower one would never be read. */
static bool
has_bad_numbers(const char *table)
{
	return esrs_spi_run(psprintf("SELECT 1 FROM %s WHERE sequence_number OPERATOR(pg_catalog.<) 1 LIMIT 1",
								 table), 0, NULL, NULL, NULL, SPI_OK_SELECT) > 0;
}

/*
 * Only the owner adopts, not even a superuser in his place: a table that
 * somebody else made, perhaps in the hope of this, runs its owner's code.
 */
static void
check_adopter(Oid events, const char *table)
{
	char	   *other = esrs_aggregate_row_of_table(events);
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(events));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", events);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	if (other != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("table %s is the events table of aggregate \"%s\"", table, other),
				 errhint("Unregister that aggregate first.")));
	if (!is_member_of_role_nosuper(GetUserId(), owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of table %s to adopt it", table),
				 errhint("SET ROLE %s first, if the table is what you mean.",
						 quote_identifier(GetUserNameFromId(owner, false)))));
}

/*
 * Take over a table that is there: one of the Rust library, or one that an
 * earlier registration left.  True if it is of the Rust library.
 */
static bool
adopt_table(Oid events, const char *table, const char *name)
{
	Relation	rel;
	char	   *problem;
	bool		lacks[ESRS_EVENT_TABLE_COLUMNS];
	bool		foreign;
	bool		added = false;
	bool		has_position_index;

	check_adopter(events, table);
	rel = relation_open(events, AccessExclusiveLock);
	problem = esrs_event_table_problem(rel, FIRST_ADDED_COLUMN);
	for (int i = 0; i < ESRS_EVENT_TABLE_COLUMNS; i++)
		lacks[i] = esrs_event_table_column(RelationGetDescr(rel), esrs_event_columns[i].name) == 0;
	has_position_index = OidIsValid(esrs_event_table_position_index(rel));

	/* the Rust library's primary key is (id), ours (aggregate_id, ...) */
	foreign = problem == NULL && !esrs_event_table_has_our_key(rel);
	if (problem == NULL && has_bad_numbers(table))
		problem = pstrdup("it has an event whose sequence_number is less than 1");
	relation_close(rel, NoLock);
	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table %s cannot be adopted as the events table of aggregate \"%s\"",
						table, name),
				 errdetail("It is not an events table: %s.", problem),
				 errhint("Rename the table, or register the aggregate under another name.")));

	drop_guard(events);

	/*
	 * in two steps: a volatile default added with the column would rewrite
	 * the table
	 */
	for (int i = FIRST_ADDED_COLUMN; i < ESRS_EVENT_TABLE_COLUMNS; i++)
	{
		if (!lacks[i])
			continue;
		added = true;
		esrs_spi_utility(psprintf("ALTER TABLE %s ADD COLUMN %s %s", table, esrs_event_columns[i].name,
								  format_type_be(esrs_event_columns[i].type)));
	}
	fill_positions(table, name);
	esrs_spi_utility(psprintf("ALTER TABLE %s ALTER COLUMN position SET NOT NULL", table));
	rel = relation_open(events, NoLock);
	problem = esrs_event_table_problem(rel, ESRS_EVENT_TABLE_COLUMNS);
	relation_close(rel, NoLock);
	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table %s cannot be adopted as the events table of aggregate \"%s\"",
						table, name),
				 errdetail("It is not an events table: %s.", problem)));
	if (!has_position_index)
	{
		char	   *index = psprintf("%s_events_position", name);

		/* its usual name, unless something else has that */
		if (OidIsValid(get_relname_relid(index, get_rel_namespace(events))))
			index = "";
		esrs_spi_utility(psprintf("CREATE UNIQUE INDEX %s ON %s (position, aggregate_id)",
								  index, table));
	}
	(void) esrs_extension_raise_position(esrs_event_table_last_position(events));
	ereport(NOTICE,
			(errmsg("table %s exists and was adopted as the events table of aggregate \"%s\"",
					table, name),
			 added ? errdetail("Columns were added; statements that other sessions had prepared with SELECT * fail once.") : 0));
	return foreign;
}

/*
 * Make the table <name>_events in the current schema, or adopt the one that is
 * there.  An SPI connection must be open.  Raises 3F000 if there is no current
 * schema, 42501 without the rights, 55000 for a table that cannot be adopted.
 */
Oid
esrs_event_table_create(const char *name, bool *created, bool *adopted)
{
	char	   *relname = psprintf("%s_events", name);
	Oid			schema = RangeVarGetCreationNamespace(makeRangeVar(NULL, relname, -1));
	char	   *table = quote_qualified_identifier(get_namespace_name(schema), relname);
	Oid			events = get_relname_relid(relname, schema);

	if (isTempNamespace(schema))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_SCHEMA_NAME),
				 errmsg("events table of aggregate \"%s\" cannot be temporary", name),
				 errhint("Put another schema first into search_path.")));
	*adopted = false;
	*created = !OidIsValid(events);
	if (OidIsValid(events))
	{
		*adopted = adopt_table(events, table, name);
		return events;
	}
	create_table(table, name);
	return get_relname_relid(relname, schema);
}

/* Tie the table to its aggregate and to the functions in "callbacks". */
void
esrs_event_table_set_default(Oid events, const char *name, List *callbacks)
{
	StringInfoData sql;
	ListCell   *lc;

	initStringInfo(&sql);
	appendStringInfo(&sql, "ALTER TABLE %s ALTER COLUMN position SET DEFAULT esrs.next_position(%s",
					 esrs_event_table_name(events), quote_literal_cstr(name));
	foreach(lc, callbacks)
	{
		appendStringInfo(&sql, "%s%s::pg_catalog.regprocedure",
						 foreach_current_index(lc) == 0 ? ", VARIADIC ARRAY[" : ", ",
						 quote_literal_cstr(format_procedure_qualified(lfirst_oid(lc))));
	}
	appendStringInfoString(&sql, callbacks ? "])" : ")");
	esrs_spi_utility(sql.data);
}

/* ------------------------------------------------------------------------
 * The guard
 * ------------------------------------------------------------------------
 */

/* Put the guard on the table, in place of one that is there. */
void
esrs_event_table_set_guard(Oid events, const char *name, bool append_only)
{
	char	   *table = esrs_event_table_name(events);

	drop_guard(events);
	esrs_spi_utility(psprintf("CREATE TRIGGER %s BEFORE UPDATE OR DELETE OR TRUNCATE ON %s"
							  " FOR EACH STATEMENT EXECUTE FUNCTION esrs.append_only(%s, %s)",
							  ESRS_GUARD_NAME, table, quote_literal_cstr(name),
							  append_only ? "'refuse'" : "'allow'"));
	esrs_spi_utility(psprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s", table, ESRS_GUARD_NAME));
}

/* Make, or drop, the unique index on "id".  One that is there is taken. */
void
esrs_event_table_set_unique_id(Oid events, bool unique)
{
	Oid			index = esrs_event_table_id_index(events);

	if (unique && !OidIsValid(index))
		esrs_spi_utility(psprintf("CREATE UNIQUE INDEX ON %s (id)", esrs_event_table_name(events)));
	else if (!unique && OidIsValid(index))
		esrs_spi_utility(psprintf("DROP INDEX %s", esrs_event_table_name(index)));
}

/*
 * Make the table an ordinary one again, without default and guard, whatever
 * else is wrong with it; or drop it.  False, and nothing done, if it does not
 * name the aggregate: then it is somebody else's.
 */
bool
esrs_event_table_release(Oid events, const char *name, bool drop)
{
	Relation	rel = relation_open(events, AccessExclusiveLock);
	List	   *callbacks = NIL;
	bool		tied = esrs_event_table_names(rel, name, &callbacks);
	Trigger    *guard = esrs_event_table_guard(rel);
	bool		guarded = guard != NULL && guard->tgnargs > 0 &&
	strcmp(guard->tgargs[0], name) == 0;

	relation_close(rel, NoLock);
	if (!tied && !guarded)
		return false;
	if (drop)
	{
		esrs_spi_utility(psprintf("DROP TABLE %s", esrs_event_table_name(events)));
		return true;
	}
	if (guarded)
		drop_guard(events);
	if (tied)
		esrs_spi_utility(psprintf("ALTER TABLE %s ALTER COLUMN position DROP DEFAULT",
								  esrs_event_table_name(events)));
	return true;
}

/*
 * Let DELETE through until esrs_event_table_disallow(), which the caller
 * calls also after an error.
 */
void
esrs_event_table_allow(Oid events)
{
	allowed_table = events;
}

void
esrs_event_table_disallow(void)
{
	allowed_table = InvalidOid;
}

/*
 * The guard: a statement-level trigger for UPDATE, DELETE and TRUNCATE with
 * the aggregate's name and "refuse" or "allow" as arguments.
 *
 * What it lets through makes everybody forget what he keeps of the table.
 */
Datum
esrs_append_only(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	Relation	rel;

	if (!CALLED_AS_TRIGGER(fcinfo) || data->tg_trigger->tgnargs != 2)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" is the guard of events tables and cannot be called otherwise",
						"esrs.append_only")));
	rel = data->tg_relation;

	/* esrs_delete(): whoever keeps a state will miss its newest event */
	if (RelationGetRelid(rel) == allowed_table)
		return PointerGetDatum(NULL);
	if (strcmp(data->tg_trigger->tgargs[1], "allow") != 0)
		ereport(ERROR,
				(errcode(ESRS_ERRCODE_APPEND_ONLY),
				 errmsg("events of aggregate \"%s\" are append-only", data->tg_trigger->tgargs[0]),
				 errdetail("%s on table \"%s\" was refused.",
						   TRIGGER_FIRED_BY_UPDATE(data->tg_event) ? "UPDATE" :
						   TRIGGER_FIRED_BY_DELETE(data->tg_event) ? "DELETE" : "TRUNCATE",
						   RelationGetRelationName(rel)),
				 errhint("To remove one instance call esrs_delete(). To change history on purpose call esrs_alter_aggregate('%s', '{\"append_only\": false}') first.",
						 data->tg_trigger->tgargs[0])));
	CacheInvalidateRelcache(rel);
	return PointerGetDatum(NULL);
}
