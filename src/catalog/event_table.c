/*-------------------------------------------------------------------------
 *
 * event_table.c
 *	  The table <name>_events: making it, adopting one that is there, tying it
 *	  to the callbacks, guarding it, and looking whether it is still right.
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

#include "access/genam.h"
#include "access/relation.h"
#include "access/xact.h"
#include "base/errors.h"
#include "base/spi.h"
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

PG_FUNCTION_INFO_V1(esrs_append_only);

#define GUARD_NAME	"esrs_append_only"

/* The table whose events esrs_delete() is removing, or InvalidOid. */
static Oid	allowed_table = InvalidOid;

static const struct
{
	const char *name;
	Oid			type;
	bool		not_null;
	const char *definition;
}			columns[] = {
	{"id", UUIDOID, true, "pg_catalog.uuid NOT NULL"},
	{"aggregate_id", UUIDOID, true, "pg_catalog.uuid NOT NULL"},
	{"payload", JSONBOID, true, "pg_catalog.jsonb NOT NULL"},
	{"occurred_on", TIMESTAMPTZOID, true, "pg_catalog.timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP"},
	{"sequence_number", INT4OID, true, "pg_catalog.int4 NOT NULL DEFAULT 1"},
	{"version", INT4OID, false, "pg_catalog.int4"},
	{"position", INT8OID, true, "pg_catalog.int8 NOT NULL"},
	{"metadata", JSONBOID, false, "pg_catalog.jsonb"},
};

/* Columns that the Rust library's tables may lack. */
#define FIRST_ADDED_COLUMN	5

/* ------------------------------------------------------------------------
 * Inspecting
 * ------------------------------------------------------------------------
 */

/* Attribute number of a column by name, or 0. */
static AttrNumber
find_column(TupleDesc desc, const char *name)
{
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && strcmp(NameStr(att->attname), name) == 0)
			return att->attnum;
	}
	return 0;
}

/* What is wrong with the columns from "first" on; NULL if nothing. */
static char *
check_columns(Relation rel, int ncolumns)
{
	for (int i = 0; i < ncolumns; i++)
	{
		AttrNumber	attnum = find_column(RelationGetDescr(rel), columns[i].name);

		if (attnum == 0)
			return psprintf("column \"%s\" is missing", columns[i].name);
		if (TupleDescAttr(RelationGetDescr(rel), attnum - 1)->atttypid != columns[i].type)
			return psprintf("column \"%s\" is not of type %s", columns[i].name,
							format_type_be(columns[i].type));
		if (columns[i].not_null && !TupleDescAttr(RelationGetDescr(rel), attnum - 1)->attnotnull)
			return psprintf("column \"%s\" may be null", columns[i].name);
	}
	return NULL;
}

/* The unique index on exactly (aggregate_id, sequence_number), or InvalidOid. */
static Oid
find_sequence_index(Relation rel)
{
	AttrNumber	aggregate_id = find_column(RelationGetDescr(rel), "aggregate_id");
	AttrNumber	sequence = find_column(RelationGetDescr(rel), "sequence_number");
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;
	Oid			result = InvalidOid;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);
		Form_pg_index form = index->rd_index;

		if (form->indisunique && form->indisvalid && form->indnkeyatts == 2 &&
			form->indkey.values[0] == aggregate_id &&
			form->indkey.values[1] == sequence &&
			RelationGetIndexPredicate(index) == NIL)
			result = lfirst_oid(lc);
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	return result;
}

/* Is there an index whose first column is this one? */
static bool
has_index_on(Relation rel, const char *column)
{
	AttrNumber	attnum = find_column(RelationGetDescr(rel), column);
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;
	bool		result = false;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (attnum != 0 && index->rd_index->indkey.values[0] == attnum)
			result = true;
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	return result;
}

/* Add the functions that an argument of the default names. */
static bool
collect_callbacks(Node *node, List **callbacks)
{
	ListCell   *lc;

	if (IsA(node, ArrayExpr))
	{
		foreach(lc, ((ArrayExpr *) node)->elements)
		{
			Const	   *c = (Const *) lfirst(lc);

			if (!IsA(c, Const) || c->constisnull)
				return false;
			*callbacks = lappend_oid(*callbacks, DatumGetObjectId(c->constvalue));
		}
		return true;
	}
	if (IsA(node, Const))
	{
		Const	   *c = (Const *) node;
		Datum	   *values;
		int			n;

		if (c->constisnull)
			return false;
		deconstruct_array(DatumGetArrayTypeP(c->constvalue), REGPROCEDUREOID,
						  sizeof(Oid), true, TYPALIGN_INT, &values, NULL, &n);
		for (int i = 0; i < n; i++)
			*callbacks = lappend_oid(*callbacks, DatumGetObjectId(values[i]));
		return true;
	}
	return false;
}

/* Is the default of "position" esrs.next_position(name, callbacks)? */
static bool
read_default(Relation rel, const char *name, List **callbacks)
{
	AttrNumber	attnum = find_column(RelationGetDescr(rel), "position");
	TupleConstr *constr = RelationGetDescr(rel)->constr;

	for (int i = 0; constr != NULL && i < constr->num_defval; i++)
	{
		FuncExpr   *call;
		Const	   *argument;
		char	   *found;

		if (constr->defval[i].adnum != attnum)
			continue;
		call = (FuncExpr *) stringToNode(constr->defval[i].adbin);
		if (!IsA(call, FuncExpr) || call->funcid != esrs_extension()->next_position)
			return false;
		argument = (Const *) linitial(call->args);
		if (!IsA(argument, Const) || argument->constisnull)
			return false;
		found = TextDatumGetCString(argument->constvalue);
		return strcmp(found, name) == 0 &&
			(list_length(call->args) < 2 ||
			 collect_callbacks((Node *) lsecond(call->args), callbacks));
	}
	return false;
}

/* Is the guard there, and does it fire for everybody? */
static bool
has_guard(Relation rel)
{
	TriggerDesc *triggers = rel->trigdesc;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if (strcmp(trigger->tgname, GUARD_NAME) == 0)
			return trigger->tgenabled == TRIGGER_FIRES_ALWAYS;
	}
	return false;
}

/* The qualified, quoted name of a table, in the current context. */
char *
esrs_event_table_name(Oid events)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(events)),
									  get_rel_name(events));
}

/*
 * Look at the table of a registered aggregate.  The result's members are in
 * the current context and are set as far as the table goes.
 */
EsrsTableCondition
esrs_event_table_inspect(Oid events, const char *name, EsrsTableInfo *info)
{
	Relation	rel = try_relation_open(events, AccessShareLock);
	EsrsTableCondition condition = ESRS_TABLE_OK;

	memset(info, 0, sizeof(*info));
	if (rel == NULL)
		return ESRS_TABLE_MISSING;
	info->owner = rel->rd_rel->relowner;
	info->table = esrs_event_table_name(events);
	if (rel->rd_rel->relkind != RELKIND_RELATION &&
		rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
	{
		info->problem = pstrdup("it is not a table");
		condition = ESRS_TABLE_FOREIGN;
	}
	else if ((info->problem = check_columns(rel, lengthof(columns))) != NULL)
		condition = ESRS_TABLE_FOREIGN;
	else if (!OidIsValid(info->sequence_index = find_sequence_index(rel)))
	{
		info->problem = pstrdup("it has no unique index on (aggregate_id, sequence_number)");
		condition = ESRS_TABLE_FOREIGN;
	}
	else
	{
		info->guarded = has_guard(rel);
		if (!read_default(rel, name, &info->callbacks))
			condition = ESRS_TABLE_NO_DEFAULT;
	}
	relation_close(rel, AccessShareLock);
	return condition;
}

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
	for (int i = 0; i < lengthof(columns); i++)
		appendStringInfo(&sql, "%s %s, ", columns[i].name, columns[i].definition);
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
	(void) esrs_spi_run(psprintf("UPDATE %s AS e SET position = n.position FROM ("
								 "SELECT o.aggregate_id, o.sequence_number, esrs.next_position(%s) AS position FROM ("
								 "SELECT m.aggregate_id, m.sequence_number FROM ("
								 "SELECT aggregate_id, sequence_number, pg_catalog.max(occurred_on) OVER ("
								 "PARTITION BY aggregate_id ORDER BY sequence_number) AS reached FROM %s"
								 " WHERE position IS NULL) AS m"
								 " ORDER BY m.reached, m.aggregate_id, m.sequence_number) AS o) AS n"
								 " WHERE e.aggregate_id OPERATOR(pg_catalog.=) n.aggregate_id"
								 " AND e.sequence_number OPERATOR(pg_catalog.=) n.sequence_number"
								 " AND e.position IS NULL",
								 table, quote_literal_cstr(name), table),
						0, NULL, NULL, NULL, SPI_OK_UPDATE);
}

/* The greatest position in the table, or 0. */
static int64
greatest_position(const char *table)
{
	bool		isnull;
	Datum		value;

	(void) esrs_spi_run(psprintf("SELECT pg_catalog.max(position) FROM %s", table),
						0, NULL, NULL, NULL, SPI_OK_SELECT);
	value = esrs_spi_column(0, 1, &isnull);
	return isnull ? 0 : DatumGetInt64(value);
}

/* Take the guard off, if there is one. */
static void
drop_guard(Oid events)
{
	Relation	rel = relation_open(events, AccessShareLock);
	bool		found = false;

	for (int i = 0; rel->trigdesc != NULL && i < rel->trigdesc->numtriggers; i++)
		found |= strcmp(rel->trigdesc->triggers[i].tgname, GUARD_NAME) == 0;
	relation_close(rel, NoLock);
	if (found)
		esrs_spi_utility(psprintf("DROP TRIGGER %s ON %s", GUARD_NAME,
								  esrs_event_table_name(events)));
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
	bool		lacks[lengthof(columns)];
	bool		foreign = false;
	bool		has_position_index;

	if (!esrs_class_ownercheck(events, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, get_rel_name(events));
	rel = relation_open(events, AccessExclusiveLock);
	if (rel->rd_rel->relkind != RELKIND_RELATION)
		problem = pstrdup("it is not a plain table");
	else if ((problem = check_columns(rel, FIRST_ADDED_COLUMN)) == NULL &&
			 !OidIsValid(find_sequence_index(rel)))
		problem = pstrdup("it has no unique index on (aggregate_id, sequence_number)");
	for (int i = 0; i < lengthof(columns); i++)
		lacks[i] = find_column(RelationGetDescr(rel), columns[i].name) == 0;
	has_position_index = has_index_on(rel, "position");
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
	for (int i = FIRST_ADDED_COLUMN; i < lengthof(columns); i++)
	{
		if (!lacks[i])
			continue;
		foreign = true;
		esrs_spi_utility(psprintf("ALTER TABLE %s ADD COLUMN %s %s", table, columns[i].name,
								  format_type_be(columns[i].type)));
	}
	fill_positions(table, name);
	esrs_spi_utility(psprintf("ALTER TABLE %s ALTER COLUMN position SET NOT NULL", table));
	rel = relation_open(events, NoLock);
	problem = check_columns(rel, lengthof(columns));
	relation_close(rel, NoLock);
	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table %s cannot be adopted as the events table of aggregate \"%s\"",
						table, name),
				 errdetail("It is not an events table: %s.", problem)));
	if (!has_position_index)
		esrs_spi_utility(psprintf("CREATE UNIQUE INDEX ON %s (position, aggregate_id)", table));
	(void) esrs_extension_raise_position(greatest_position(table));
	ereport(NOTICE,
			(errmsg("table %s exists and was adopted as the events table of aggregate \"%s\"",
					table, name),
			 foreign ? errdetail("Columns were added; statements that other sessions had prepared with SELECT * fail once.") : 0));
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
		appendStringInfo(&sql, "%s%s::pg_catalog.regprocedure",
						 foreach_current_index(lc) == 0 ? ", VARIADIC ARRAY[" : ", ",
						 quote_literal_cstr(format_procedure_qualified(lfirst_oid(lc))));
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
							  GUARD_NAME, table, quote_literal_cstr(name),
							  append_only ? "'refuse'" : "'allow'"));
	esrs_spi_utility(psprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s", table, GUARD_NAME));
}

/* The unique index on "id" alone that is not the primary key, or InvalidOid. */
static Oid
find_id_index(Oid events)
{
	Relation	rel = relation_open(events, AccessShareLock);
	AttrNumber	attnum = find_column(RelationGetDescr(rel), "id");
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;
	Oid			result = InvalidOid;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);
		Form_pg_index form = index->rd_index;

		if (form->indisunique && !form->indisprimary && form->indisvalid &&
			form->indnkeyatts == 1 && form->indkey.values[0] == attnum &&
			RelationGetIndexPredicate(index) == NIL)
			result = lfirst_oid(lc);
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	relation_close(rel, NoLock);
	return result;
}

/* Make, or drop, the unique index on "id".  One that is there is taken. */
void
esrs_event_table_set_unique_id(Oid events, bool unique)
{
	Oid			index = find_id_index(events);

	if (unique && !OidIsValid(index))
		esrs_spi_utility(psprintf("CREATE UNIQUE INDEX ON %s (id)", esrs_event_table_name(events)));
	else if (!unique && OidIsValid(index))
		esrs_spi_utility(psprintf("DROP INDEX %s",
								  quote_qualified_identifier(get_namespace_name(get_rel_namespace(index)),
															 get_rel_name(index))));
}

/* Make the table an ordinary one again: no default, no guard. */
void
esrs_event_table_release(Oid events)
{
	drop_guard(events);
	esrs_spi_utility(psprintf("ALTER TABLE %s ALTER COLUMN position DROP DEFAULT",
							  esrs_event_table_name(events)));
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
