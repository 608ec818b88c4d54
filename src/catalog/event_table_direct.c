/*-------------------------------------------------------------------------
 *
 * event_table_direct.c
 *	  Can an events table be reached without statements?
 *
 * A statement fires triggers, applies rules and row security, evaluates defaults
 * and constraints, and goes where extensions send it.  Where there is nothing of
 * the kind, a row that is formed and stored, or found, by hand is the same row,
 * for a fraction of the cost.  What is asked for here is more than that: that no
 * code of the table's owner can run on the way, so that nobody has to become the
 * owner for it.
 *
 * Whoever adds to what PostgreSQL can do with a row that is inserted must think
 * of this file.  Everything that is not known to be harmless is an obstacle.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/event_table.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/pg_am.h"
#include "catalog/pg_index.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "executor/executor.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/* Is the index the btree that one expects, usable for every snapshot? */
static bool
is_plain_key(Relation index)
{
	return index->rd_rel->relam == BTREE_AM_OID && !index->rd_index->indcheckxmin &&
		index->rd_opcintype[0] == UUIDOID && index->rd_opcintype[1] == INT4OID &&
		index->rd_opfamily[0] < FirstUnpinnedObjectId &&
		index->rd_opfamily[1] < FirstUnpinnedObjectId &&
		index->rd_indoption[0] == 0 && index->rd_indoption[1] == 0;
}

/* What keeps even a reader away. */
static const char *
read_obstacle(Relation rel, Oid index_oid)
{
	Relation	index;
	bool		plain;

	if (rel->rd_rel->relam != HEAP_TABLE_AM_OID)
		return "its access method is not heap";
	if (OidIsValid(get_relname_relid("pg_dist_partition", PG_CATALOG_NAMESPACE)))
		return "tables of this database may be distributed";
	if (!OidIsValid(index_oid))
		return "it has no unique index on (aggregate_id, sequence_number)";
	index = index_open(index_oid, AccessShareLock);
	plain = is_plain_key(index);
	index_close(index, AccessShareLock);
	return plain ? NULL : "its index on (aggregate_id, sequence_number) is not a plain one";
}

static const char *
trigger_obstacle(const TriggerDesc *triggers)
{
	if (triggers != NULL &&
		(triggers->trig_insert_before_row || triggers->trig_insert_after_row ||
		 triggers->trig_insert_instead_row || triggers->trig_insert_before_statement ||
		 triggers->trig_insert_after_statement || triggers->trig_insert_new_table))
		return "a trigger or a constraint trigger fires on INSERT";
	return NULL;
}

/* A column that is not ours is left null. */
static const char *
column_obstacle(TupleDesc desc, const EsrsDirectAccess *access)
{
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		bool		ours = att->attisdropped;

		for (int j = 0; j < ESRS_EVENT_TABLE_COLUMNS && !ours; j++)
			ours = att->attnum == access->columns[j];
		if (att->attgenerated != '\0' || att->attidentity != '\0')
			return "a column is generated";
		if (ours)
			continue;
		if (att->attnotnull)
			return "a column that esrs does not know must not be null";
		if (att->atthasdef || get_typtype(att->atttypid) == TYPTYPE_DOMAIN)
			return "a column that esrs does not know may have a default";
	}
	return NULL;
}

/* Would storing into an index run code that is not PostgreSQL's own? */
static const char *
index_obstacle(Relation rel)
{
	List	   *indexes = RelationGetIndexList(rel);
	ListCell   *lc;
	bool		plain = true;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		plain = plain && index->rd_rel->relam < FirstUnpinnedObjectId &&
			index->rd_index->indimmediate && !index->rd_index->indisexclusion &&
			heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL) &&
			heap_attisnull(index->rd_indextuple, Anum_pg_index_indexprs, NULL);
		for (int i = 0; i < index->rd_index->indnkeyatts && plain; i++)
			plain = index->rd_opfamily[i] < FirstUnpinnedObjectId;
		index_close(index, AccessShareLock);
	}
	list_free(indexes);
	return plain ? NULL : "an index is partial, deferrable, or has expressions, exclusions or operators of others";
}

/*
 * Find out.  The relation is a table that can hold events; it is open and locked,
 * and what is found holds until it changes.
 */
void
esrs_event_table_direct_access(Relation rel, EsrsDirectAccess *access)
{
	TupleDesc	desc = RelationGetDescr(rel);
	const TupleConstr *constraints = desc->constr;

	memset(access, 0, sizeof(*access));
	for (int i = 0; i < ESRS_EVENT_TABLE_COLUMNS; i++)
	{
		access->columns[i] = esrs_event_table_column(desc, esrs_event_columns[i].name);
		access->last_column = Max(access->last_column, access->columns[i]);
	}
	access->index = esrs_event_table_sequence_index(rel, NULL);
	access->read_obstacle = read_obstacle(rel, access->index);

	access->append_obstacle = access->read_obstacle;
	if (access->append_obstacle == NULL && rel->rd_rel->relrowsecurity)
		access->append_obstacle = "it has row security";
	if (access->append_obstacle == NULL)
		access->append_obstacle = trigger_obstacle(rel->trigdesc);
	if (access->append_obstacle == NULL && constraints != NULL && constraints->num_check > 0)
		access->append_obstacle = "it has a CHECK constraint";
	if (access->append_obstacle == NULL)
		access->append_obstacle = column_obstacle(desc, access);
	if (access->append_obstacle == NULL)
		access->append_obstacle = index_obstacle(rel);
}
