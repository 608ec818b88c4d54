/*-------------------------------------------------------------------------
 *
 * event_table_inspect.c
 *	  Looking at an events table: whether it is one, what ties it to its
 *	  aggregate, and how far its positions go.
 *
 * The table is in the hands of its owner, who can change it at any time, so
 * nothing about it is taken for granted.  Nothing is changed here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/event_table.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/transam.h"
#include "catalog/extension.h"
#include "catalog/indexing.h"
#include "catalog/pg_am.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "nodes/primnodes.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

const EsrsEventColumn esrs_event_columns[ESRS_EVENT_TABLE_COLUMNS] = {
	{"id", UUIDOID, true, "pg_catalog.uuid NOT NULL"},
	{"aggregate_id", UUIDOID, true, "pg_catalog.uuid NOT NULL"},
	{"payload", JSONBOID, true, "pg_catalog.jsonb NOT NULL"},
	{"occurred_on", TIMESTAMPTZOID, true, "pg_catalog.timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP"},
	{"sequence_number", INT4OID, true, "pg_catalog.int4 NOT NULL DEFAULT 1"},
	{"version", INT4OID, false, "pg_catalog.int4"},
	{"position", INT8OID, true, "pg_catalog.int8 NOT NULL"},
	{"metadata", JSONBOID, false, "pg_catalog.jsonb"},
};

/* Attribute number of a column by name, or 0. */
AttrNumber
esrs_event_table_column(TupleDesc desc, const char *name)
{
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && strcmp(NameStr(att->attname), name) == 0)
			return att->attnum;
	}
	return 0;
}

/* What is wrong with the first columns; NULL if nothing. */
static char *
check_columns(Relation rel, int ncolumns)
{
	for (int i = 0; i < ncolumns; i++)
	{
		const EsrsEventColumn *column = &esrs_event_columns[i];
		AttrNumber	attnum = esrs_event_table_column(RelationGetDescr(rel), column->name);
		Form_pg_attribute att;

		if (attnum == 0)
			return psprintf("column \"%s\" is missing", column->name);
		att = TupleDescAttr(RelationGetDescr(rel), attnum - 1);
		if (att->atttypid != column->type)
			return psprintf("column \"%s\" is not of type %s", column->name,
							format_type_be(column->type));
		if (column->not_null && !att->attnotnull)
			return psprintf("column \"%s\" may be null", column->name);
	}
	return NULL;
}

/*
 * Is the index on all rows?  RelationGetIndexPredicate() would evaluate its
 * condition, which is code of the table's owner.
 */
static bool
is_whole(Relation index)
{
	return heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL);
}

/*
 * The unique index on exactly (aggregate_id, sequence_number), or InvalidOid; and
 * its name, in the current context, if that is asked for.
 */
Oid
esrs_event_table_sequence_index(Relation rel, char **name)
{
	AttrNumber	aggregate_id = esrs_event_table_column(RelationGetDescr(rel), "aggregate_id");
	AttrNumber	sequence = esrs_event_table_column(RelationGetDescr(rel), "sequence_number");
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;
	Oid			result = InvalidOid;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);
		Form_pg_index form = index->rd_index;

		if (form->indisunique && form->indimmediate && form->indisvalid &&
			form->indnkeyatts == 2 &&
			form->indkey.values[0] == aggregate_id &&
			form->indkey.values[1] == sequence &&
			is_whole(index))
		{
			result = lfirst_oid(lc);
			if (name != NULL)
				*name = pstrdup(RelationGetRelationName(index));
		}
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	return result;
}

/* Is (aggregate_id, sequence_number) the primary key, as in tables of esrs? */
bool
esrs_event_table_has_our_key(Relation rel)
{
	return RelationGetPrimaryKeyIndex(rel) == esrs_event_table_sequence_index(rel, NULL);
}

/*
 * Why a table, of whose columns the first ones are to be there, cannot hold
 * the events of an aggregate; NULL if it can.
 */
char *
esrs_event_table_problem(Relation rel, int ncolumns)
{
	char	   *problem;

	if (rel->rd_rel->relkind != RELKIND_RELATION || rel->rd_rel->relispartition)
		return pstrdup("it is not a plain table");
	if (rel->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
		return pstrdup("a crash or the end of the session empties it");
	if (rel->rd_rules != NULL)
		return pstrdup("it has a rewrite rule");
	if (has_superclass(RelationGetRelid(rel)))
		return pstrdup("it inherits from another table");
	if (rel->rd_rel->relhassubclass &&
		find_inheritance_children(RelationGetRelid(rel), NoLock) != NIL)
		return pstrdup("another table inherits from it");
	problem = check_columns(rel, ncolumns);
	if (problem == NULL && !OidIsValid(esrs_event_table_sequence_index(rel, NULL)))
		problem = pstrdup("it has no unique index on (aggregate_id, sequence_number)");
	return problem;
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
bool
esrs_event_table_names(Relation rel, const char *name, List **callbacks)
{
	AttrNumber	attnum = esrs_event_table_column(RelationGetDescr(rel), "position");
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

/*
 * The guard of a table, whatever its name is; NULL if there is none.  Borrowed
 * from the relation.
 */
Trigger *
esrs_event_table_guard(Relation rel)
{
	TriggerDesc *triggers = rel->trigdesc;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
		if (triggers->triggers[i].tgfoid == esrs_extension()->append_only)
			return &triggers->triggers[i];
	return NULL;
}

/* Does the guard refuse whatever would change the history of an instance? */
static bool
guard_refuses(const Trigger *guard)
{
	return guard->tgenabled == TRIGGER_FIRES_ALWAYS && !TRIGGER_FOR_ROW(guard->tgtype) &&
		TRIGGER_FOR_BEFORE(guard->tgtype) && TRIGGER_FOR_UPDATE(guard->tgtype) &&
		guard->tgnattr == 0 && TRIGGER_FOR_DELETE(guard->tgtype) &&
		TRIGGER_FOR_TRUNCATE(guard->tgtype) && guard->tgqual == NULL &&
		guard->tgnargs == 2 && strcmp(guard->tgargs[1], "refuse") == 0;
}

/* Add which version of catalog rows it is that have this key. */
static void
hash_rows(Oid catalog, Oid index, AttrNumber column, Oid key_value, EsrsHistoryStamp *stamp)
{
	Relation	rel = table_open(catalog, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, column, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(key_value));
	scan = systable_beginscan(rel, index, true, NULL, 1, &key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		uint32		version[] = {HeapTupleHeaderGetRawXmin(tuple->t_data),
			ItemPointerGetBlockNumber(&tuple->t_self),
		ItemPointerGetOffsetNumber(&tuple->t_self)};

		stamp->hash = hash_bytes_extended((unsigned char *) version, sizeof(version), stamp->hash);
		if (!HeapTupleHeaderXminFrozen(tuple->t_data) &&
			(!TransactionIdIsValid(stamp->newest) ||
			 TransactionIdFollows(version[0], stamp->newest)))
			stamp->newest = version[0];
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

/* See EsrsHistoryStamp. */
static void
read_stamp(Oid events, Oid guard, EsrsHistoryStamp *stamp)
{
	hash_rows(TriggerRelationId, TriggerOidIndexId, Anum_pg_trigger_oid, guard, stamp);
	hash_rows(AttributeRelationId, AttributeRelidNumIndexId, Anum_pg_attribute_attrelid,
			  events, stamp);
}

/* The qualified, quoted name of a table, in the current context. */
char *
esrs_event_table_name(Oid events)
{
	char	   *name = get_rel_name(events);
	char	   *schema = get_namespace_name(get_rel_namespace(events));

	/* unless it is locked, it may be dropped between any two lookups */
	if (name == NULL || schema == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("table with OID %u does not exist", events)));
	return quote_qualified_identifier(schema, name);
}

/*
 * Look at the table of a registered aggregate.  The result's members are in
 * the current context and are set as far as the table goes.
 *
 * The table is locked only meanwhile: whatever is to be known of it must be read
 * here, as it may be dropped the moment this returns.
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
	info->problem = esrs_event_table_problem(rel, ESRS_EVENT_TABLE_COLUMNS);
	if (info->problem != NULL)
		condition = ESRS_TABLE_FOREIGN;
	else
	{
		Trigger    *guard = esrs_event_table_guard(rel);

		if (!OidIsValid(esrs_event_table_sequence_index(rel, &info->sequence_index)))
			info->sequence_index = pstrdup(""); /* dropped CONCURRENTLY just
												 * now */
		info->guarded = guard != NULL && guard->tgenabled == TRIGGER_FIRES_ALWAYS;
		info->unchanging = guard != NULL && guard_refuses(guard) &&
			!rel->trigdesc->trig_insert_before_row;
		if (info->unchanging)
			read_stamp(events, guard->tgoid, &info->stamp);
		esrs_event_table_direct_access(rel, &info->direct);
		if (!esrs_event_table_names(rel, name, &info->callbacks))
			condition = ESRS_TABLE_NO_DEFAULT;
	}
	relation_close(rel, AccessShareLock);
	return condition;
}

/* The unique index on "id" alone that is not the primary key, or InvalidOid. */
Oid
esrs_event_table_id_index(Oid events)
{
	Relation	rel = relation_open(events, AccessShareLock);
	AttrNumber	attnum = esrs_event_table_column(RelationGetDescr(rel), "id");
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;
	Oid			result = InvalidOid;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);
		Form_pg_index form = index->rd_index;

		if (form->indisunique && !form->indisprimary && form->indisvalid &&
			form->indnkeyatts == 1 && form->indkey.values[0] == attnum &&
			is_whole(index))
			result = lfirst_oid(lc);
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	relation_close(rel, NoLock);
	return result;
}

/*
 * The index whose first column is "position", or InvalidOid.  The relation is
 * open.
 */
Oid
esrs_event_table_position_index(Relation rel)
{
	AttrNumber	attnum = esrs_event_table_column(RelationGetDescr(rel), "position");
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;
	Oid			result = InvalidOid;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		if (attnum != 0 && index->rd_index->indkey.values[0] == attnum &&
			index->rd_rel->relam == BTREE_AM_OID && index->rd_index->indisvalid &&
			is_whole(index))
			result = lfirst_oid(lc);
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	return result;
}

/*
 * The greatest position in a table, or 0.  Read from the end of the index,
 * without the planner: no code of the table's owner can run.
 */
int64
esrs_event_table_last_position(Oid events)
{
	Relation	rel = table_open(events, AccessShareLock);
	Oid			index_oid = esrs_event_table_position_index(rel);
	int64		result = 0;

	if (OidIsValid(index_oid))
	{
		Relation	index = index_open(index_oid, AccessShareLock);
		Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
		SysScanDesc scan = systable_beginscan_ordered(rel, index, snapshot, 0, NULL);
		HeapTuple	tuple = systable_getnext_ordered(scan, BackwardScanDirection);

		if (HeapTupleIsValid(tuple))
		{
			bool		isnull;
			Datum		value = heap_getattr(tuple,
											 esrs_event_table_column(RelationGetDescr(rel), "position"),
											 RelationGetDescr(rel), &isnull);

			result = isnull ? 0 : DatumGetInt64(value);
		}
		systable_endscan_ordered(scan);
		UnregisterSnapshot(snapshot);
		index_close(index, AccessShareLock);
	}
	table_close(rel, AccessShareLock);
	return result;
}
