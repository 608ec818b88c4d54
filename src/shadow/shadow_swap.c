/*-------------------------------------------------------------------------
 *
 * shadow_swap.c
 *	  Putting shadows in the place of live tables.
 *
 * The tables keep their OIDs and all that refers to them; what is exchanged are the
 * files of the table, of its TOAST table, and of each index, as VACUUM FULL and
 * CLUSTER do, and by their rules (PostgreSQL's cluster.c, swap_relation_files and
 * finish_heap_swap).  The old files go with the shadow when the transaction
 * commits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "shadow/shadow.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/toast_internals.h"
#include "access/xact.h"
#include "base/security.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_constraint.h"
#include "commands/tablecmds.h"
#include "compat.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/lmgr.h"
#include "storage/predicate.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/resowner.h"
#include "utils/syscache.h"

/* The row of a constraint, to be freed by the caller. */
static HeapTuple
get_constraint(Oid constraint, Form_pg_constraint *form)
{
	HeapTuple	tuple = SearchSysCacheCopy1(CONSTROID, ObjectIdGetDatum(constraint));

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for constraint %u", constraint);
	*form = (Form_pg_constraint) GETSTRUCT(tuple);
	return tuple;
}

static void
lock_all(EsrsShadows *shadows, List *appended)
{
	ListCell   *lc;
	ListCell   *other;

	foreach(lc, appended)
	{
		LockRelationOid(lfirst_oid(lc), ShareRowExclusiveLock);
	}
	foreach(lc, shadows->shadows)
	{
		EsrsShadow *shadow = (EsrsShadow *) lfirst(lc);

		foreach(other, shadow->foreign_keys)
		{
			Form_pg_constraint form;
			HeapTuple	tuple = get_constraint(lfirst_oid(other), &form);

			LockRelationOid(form->confrelid, RowShareLock);
			heap_freetuple(tuple);
		}
		LockRelationOid(shadow->redirect.from, AccessExclusiveLock);
		foreach(other, shadow->indexes)
		{
			LockRelationOid(lfirst_oid(other), AccessExclusiveLock);
		}
	}
}

/*
 * Lock the live tables against everybody else, until the transaction ends; false if
 * that takes longer than so many milliseconds.  Then none of them is locked: who
 * reads them, and then writes events, must not wait for a rebuild that waits for
 * him, and others must not wait long behind it.
 *
 * "appended", OIDs, are locked against writers before.
 */
bool
esrs_shadow_try_lock(EsrsShadows *shadows, List *appended, int timeout)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool locked = false;

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		int			level = NewGUCNestLevel();

		(void) set_config_option("lock_timeout", psprintf("%d", timeout), PGC_USERSET,
								 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
		lock_all(shadows, appended);
		AtEOXact_GUC(false, level);
		locked = true;
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		if (locked || (error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE &&
					   error->sqlerrcode != ERRCODE_T_R_DEADLOCK_DETECTED))
			ReThrowError(error);
		FreeErrorData(error);
	}
	PG_END_TRY();
	return locked;
}

#define SWAP(type, a, b) \
	do { type swapped = (a); (a) = (b); (b) = swapped; } while (0)

/* A TOAST table belongs to another table now. */
static void
swap_toast_owners(Form_pg_class live, Form_pg_class shadow)
{
	Form_pg_class forms[2] = {live, shadow};

	for (int i = 0; i < 2; i++)
		if (OidIsValid(forms[i]->reltoastrelid) &&
			deleteDependencyRecordsFor(RelationRelationId, forms[i]->reltoastrelid, false) != 1)
			elog(ERROR, "TOAST table %u does not depend on its table alone",
				 forms[i]->reltoastrelid);
	for (int i = 0; i < 2; i++)
	{
		ObjectAddress toast;
		ObjectAddress table;

		if (!OidIsValid(forms[i]->reltoastrelid))
			continue;
		ObjectAddressSet(toast, RelationRelationId, forms[i]->reltoastrelid);
		ObjectAddressSet(table, RelationRelationId, forms[i]->oid);
		recordDependencyOn(&toast, &table, DEPENDENCY_INTERNAL);
	}
}

/* Exchange the files of a table or an index, both of which are locked. */
static void
swap_files(Oid live, Oid shadow)
{
	Relation	pg_class = table_open(RelationRelationId, RowExclusiveLock);
	HeapTuple	live_tuple = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(live));
	HeapTuple	shadow_tuple = SearchSysCacheCopy1(RELOID, ObjectIdGetDatum(shadow));
	Form_pg_class a;
	Form_pg_class b;
	CatalogIndexState indexes;

	if (!HeapTupleIsValid(live_tuple) || !HeapTupleIsValid(shadow_tuple))
		elog(ERROR, "cache lookup failed for relation %u or %u", live, shadow);
	a = (Form_pg_class) GETSTRUCT(live_tuple);
	b = (Form_pg_class) GETSTRUCT(shadow_tuple);
	if (!OidIsValid(a->relfilenode) || !OidIsValid(b->relfilenode) ||
		a->relpersistence != b->relpersistence || a->relam != b->relam)
		elog(ERROR, "files of \"%s\" cannot be exchanged", NameStr(a->relname));

	SWAP(Oid, a->relfilenode, b->relfilenode);
	SWAP(Oid, a->reltablespace, b->reltablespace);
	if (a->relkind != RELKIND_INDEX)
	{
		SWAP(Oid, a->reltoastrelid, b->reltoastrelid);
		SWAP(TransactionId, a->relfrozenxid, b->relfrozenxid);
		SWAP(MultiXactId, a->relminmxid, b->relminmxid);
	}
	/* not known: the planner asks the file */
	a->relpages = b->relpages = 0;
	a->reltuples = b->reltuples = -1;
	a->relallvisible = b->relallvisible = 0;
	esrs_relation_swap_storage(live, shadow);

	indexes = CatalogOpenIndexes(pg_class);
	CatalogTupleUpdateWithInfo(pg_class, &live_tuple->t_self, live_tuple, indexes);
	CatalogTupleUpdateWithInfo(pg_class, &shadow_tuple->t_self, shadow_tuple, indexes);
	CatalogCloseIndexes(indexes);
	if (OidIsValid(a->reltoastrelid) || OidIsValid(b->reltoastrelid))
		swap_toast_owners(a, b);

	heap_freetuple(live_tuple);
	heap_freetuple(shadow_tuple);
	table_close(pg_class, RowExclusiveLock);
	RelationCloseSmgrByOid(live);
	RelationCloseSmgrByOid(shadow);
	CommandCounterIncrement();
}

/* The TOAST table is named after its table; the old one is gone. */
static void
rename_toast(Oid live)
{
	Relation	table = table_open(live, NoLock);
	Oid			toast = table->rd_rel->reltoastrelid;

	if (OidIsValid(toast))
	{
		Oid			index = toast_get_valid_index(toast, AccessExclusiveLock);

		RenameRelationInternal(toast, psprintf("pg_toast_%u", live), true, false);
		RenameRelationInternal(index, psprintf("pg_toast_%u_index", live), true, true);
		CommandCounterIncrement();
	}
	table_close(table, NoLock);
}

static void
set_validated(Oid constraint, bool validated)
{
	Relation	pg_constraint = table_open(ConstraintRelationId, RowExclusiveLock);
	Form_pg_constraint form;
	HeapTuple	tuple = get_constraint(constraint, &form);

	form->convalidated = validated;
	CatalogTupleUpdate(pg_constraint, &tuple->t_self, tuple);
	heap_freetuple(tuple);
	table_close(pg_constraint, RowExclusiveLock);
	CommandCounterIncrement();
}

/*
 * Check the new rows of a live table against a foreign key, as the owner: nothing
 * has done so yet.  Raises 23503.  Who deletes the rows that it refers to meanwhile
 * will look for our rows when he gets the lock of the live table.
 */
static void
validate_foreign_key(Oid owner, Oid live, Oid foreign_key)
{
	Form_pg_constraint form;
	HeapTuple	tuple = get_constraint(foreign_key, &form);
	AlterTableCmd *command = makeNode(AlterTableCmd);
	bool		validated = form->convalidated;
	EsrsIdentity before;

	command->subtype = AT_ValidateConstraint;
	command->name = pstrdup(NameStr(form->conname));
	heap_freetuple(tuple);
	if (validated)
		set_validated(foreign_key, false);
	esrs_security_become(&before, owner);
	esrs_security_restrict();
	AlterTableInternal(live, list_make1(command), false);
	esrs_security_restore(&before);
	CommandCounterIncrement();
	if (!validated)
		set_validated(foreign_key, false);
}

/*
 * Let the shadows take the places of the live tables, which are locked by
 * esrs_shadow_try_lock(), and drop what was there.  Raises 55006 if this session
 * uses one of them, by a cursor for example; 23503 if a foreign key to a table that
 * has no shadow does not hold.
 */
void
esrs_shadow_swap(EsrsShadows *shadows)
{
	ListCell   *lc;

	foreach(lc, shadows->shadows)
	{
		EsrsShadow *shadow = (EsrsShadow *) lfirst(lc);
		Relation	table = table_open(shadow->redirect.from, NoLock);
		ListCell   *from;
		ListCell   *to;

		CheckTableNotInUse(table, "esrs_rebuild");

		/*
		 * what serializable transactions have read cannot be found there any
		 * more
		 */
		TransferPredicateLocksToHeapRelation(table);
		table_close(table, NoLock);
		swap_files(shadow->redirect.from, shadow->redirect.to);
		forboth(from, shadow->indexes, to, shadow->shadow_indexes)
		{
			LockRelationOid(lfirst_oid(to), AccessExclusiveLock);
			swap_files(lfirst_oid(from), lfirst_oid(to));
		}
	}
	esrs_shadow_drop(shadows);
	foreach(lc, shadows->shadows)
	{
		EsrsShadow *shadow = (EsrsShadow *) lfirst(lc);
		ListCell   *foreign_key;

		rename_toast(shadow->redirect.from);
		foreach(foreign_key, shadow->foreign_keys)
		{
			validate_foreign_key(shadows->owner, shadow->redirect.from, lfirst_oid(foreign_key));
		}
	}
}
