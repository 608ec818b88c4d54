/*-------------------------------------------------------------------------
 *
 * extension.c
 *	  Where the extension's own objects are: their OIDs, looked up once per
 *	  backend and again when the extension was dropped or created.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/extension.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "base/security.h"
#include "base/spi.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/catcache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

static EsrsExtension extension;

/* The schema in which CREATE EXTENSION put the public functions. */
static Oid
extension_schema(void)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			schema = InvalidOid;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("esrs"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		schema = ((Form_pg_extension) GETSTRUCT(tuple))->extnamespace;
		extension.oid = ((Form_pg_extension) GETSTRUCT(tuple))->oid;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return schema;
}

static Oid
must_exist(Oid oid, const char *name)
{
	if (!OidIsValid(oid))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"%s\" is not complete", "esrs"),
				 errdetail("There is no \"%s\", or it is another than this library knows.", name),
				 errhint("The library and the SQL objects may be of different versions: see ALTER EXTENSION ... UPDATE.")));
	return oid;
}

static Oid
relation_oid(const char *name)
{
	return must_exist(get_relname_relid(name, extension.internals), name);
}

static Oid
type_oid(const char *name, Oid schema)
{
	return must_exist(GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
									  PointerGetDatum(name),
									  ObjectIdGetDatum(schema)), name);
}

/* A composite type, with as many attributes as this library fills. */
static Oid
row_type_oid(const char *name, int natts)
{
	Oid			oid = type_oid(name, extension.schema);
	TupleDesc	desc = lookup_rowtype_tupdesc(oid, -1);
	bool		fits = desc->natts == natts;

	ReleaseTupleDesc(desc);
	return must_exist(fits ? oid : InvalidOid, name);
}

/* The only function of a name in schema esrs. */
static Oid
function_oid(const char *name)
{
	CatCList   *list = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(name));
	Oid			result = InvalidOid;

	for (int i = 0; i < list->n_members; i++)
	{
		Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(&list->members[i]->tuple);

		if (proc->pronamespace == extension.internals)
			result = proc->oid;
	}
	ReleaseSysCacheList(list);
	return must_exist(result, name);
}

/*
 * The extension's objects.  Raises 55000 if the extension is not installed in
 * this database, or only in part.
 */
const EsrsExtension *
esrs_extension(void)
{
	if (extension.valid)
		return &extension;

	memset(&extension, 0, sizeof(extension));
	extension.schema = extension_schema();
	if (!OidIsValid(extension.schema))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"%s\" is not installed in this database", "esrs"),
				 errhint("Use CREATE EXTENSION esrs.")));
	extension.internals = get_namespace_oid("esrs", false);
	extension.aggregates = relation_oid("aggregates");
	extension.handlers = relation_oid("handlers");
	extension.commands = relation_oid("commands");
	extension.deletions = relation_oid("deletions");
	extension.position_seq = relation_oid("position_seq");
	extension.next_position = function_oid("next_position");
	extension.append_only = function_oid("append_only");
	extension.handler_type = type_oid("aggregate_handler", extension.internals);
	extension.event_type = row_type_oid("esrs_event", 9);
	extension.event_array_type = must_exist(get_array_type(extension.event_type), "esrs_event[]");
	extension.state_type = row_type_oid("esrs_state", 3);
	extension.result_type = row_type_oid("esrs_result", 6);
	extension.command_type = row_type_oid("esrs_command", 6);
	{
		HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(extension.aggregates));

		if (!HeapTupleIsValid(tuple))
			elog(ERROR, "cache lookup failed for relation %u", extension.aggregates);
		extension.owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
		ReleaseSysCache(tuple);
	}
	extension.valid = true;
	return &extension;
}

/*
 * Keep the extension from being dropped until the transaction ends; false if
 * somebody is about to.  For whoever can come back later: DROP EXTENSION locks
 * the members one after the other, and would deadlock with him.
 */
bool
esrs_extension_try_lock(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, ExtensionRelationId, esrs_extension()->oid, 0);
	return LockAcquire(&tag, AccessShareLock, false, true) != LOCKACQUIRE_NOT_AVAIL;
}

/* Is what esrs_extension() last returned still true? */
bool
esrs_extension_is_valid(void)
{
	return extension.valid;
}

/*
 * A relation has changed (InvalidOid: any).  Called from inside invalidation,
 * so it only sets a flag.
 */
void
esrs_extension_invalidate(Oid relation)
{
	if (!OidIsValid(relation) ||
		relation == extension.aggregates || relation == extension.handlers ||
		relation == extension.commands || relation == extension.deletions ||
		relation == extension.position_seq)
		extension.valid = false;
}

/* The last value of the sequence, by SPI; 0 if none was drawn. */
static int64
last_position(void)
{
	bool		isnull;

	(void) esrs_spi_run("SELECT CASE WHEN is_called THEN last_value"
						" ELSE last_value OPERATOR(pg_catalog.-) 1 END FROM esrs.position_seq",
						0, NULL, NULL, NULL, SPI_OK_SELECT);
	return DatumGetInt64(esrs_spi_column(0, 1, &isnull));
}

/*
 * Move the sequence of positions on, so that the next one is greater than
 * "at_least".  It never goes back.  True if it had to move.
 */
bool
esrs_extension_raise_position(int64 at_least)
{
	const EsrsExtension *ext = esrs_extension();
	EsrsIdentity before;
	bool		behind;

	if (at_least < 1)
		return false;
	esrs_security_become(&before, ext->owner);
	esrs_spi_begin();
	behind = last_position() < at_least;
	if (behind)
	{
		/*
		 * nextval() holds RowExclusiveLock to the end of its transaction. So
		 * from here on nobody draws, and nothing drawn can be drawn again.
		 */
		LockRelationOid(ext->position_seq, ShareRowExclusiveLock);
		if (last_position() < at_least)
			(void) DirectFunctionCall2(setval_oid, ObjectIdGetDatum(ext->position_seq),
									   Int64GetDatum(at_least));
	}
	esrs_spi_end();
	esrs_security_restore(&before);
	return behind;
}
