/*-------------------------------------------------------------------------
 *
 * register.c
 *	  SQL functions that register, alter and unregister aggregates.
 *
 * Registration is DDL: it runs as the caller, except for the statements on the
 * catalogs, which run as their owner after the checks made here.  Registering
 * and altering share one path: options are read, resolved to functions, and
 * applied to the table and to the catalog.
 *
 * Event handlers are registered in register_handler.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/register.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "base/jsonb_codec.h"
#include "base/security.h"
#include "base/spi.h"
#include "catalog/aggregate.h"
#include "catalog/aggregate_options.h"
#include "catalog/aggregate_row.h"
#include "catalog/event_table.h"
#include "catalog/extension.h"
#include "catalog/options.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "catalog/state_aggregate.h"
#include "compat.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "user/definition.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

PG_FUNCTION_INFO_V1(esrs_aggregate_handler_in);
PG_FUNCTION_INFO_V1(esrs_aggregate_handler_out);
PG_FUNCTION_INFO_V1(esrs_register_aggregate);
PG_FUNCTION_INFO_V1(esrs_alter_aggregate);
PG_FUNCTION_INFO_V1(esrs_unregister_aggregate);

/* ------------------------------------------------------------------------
 * The type of handler functions: it has no values
 * ------------------------------------------------------------------------
 */
Datum
esrs_aggregate_handler_in(PG_FUNCTION_ARGS)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot accept a value of type %s", "esrs.aggregate_handler")));
	PG_RETURN_VOID();			/* keep compiler quiet */
}

Datum
esrs_aggregate_handler_out(PG_FUNCTION_ARGS)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("cannot display a value of type %s", "esrs.aggregate_handler")));
	PG_RETURN_VOID();			/* keep compiler quiet */
}

/* ------------------------------------------------------------------------
 * Shared with register_handler.c
 * ------------------------------------------------------------------------
 */

/* An argument of type text, or NULL. */
char *
esrs_register_text_arg(FunctionCallInfo fcinfo, int n)
{
	return PG_ARGISNULL(n) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(n));
}

/* A required argument of type text; 22004 if it is null. */
char *
esrs_register_name_arg(FunctionCallInfo fcinfo, int n, const char *what)
{
	if (PG_ARGISNULL(n))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", what)));
	return text_to_cstring(PG_GETARG_TEXT_PP(n));
}

/* Refuse a change of the catalogs where nothing may be written. */
void
esrs_register_check_writable(const char *function)
{
	PreventCommandIfReadOnly(function);
	PreventCommandIfParallelMode(function);
	PreventCommandDuringRecovery(function);
}

/* Begin a change of the catalogs, and let one happen at a time. */
void
esrs_register_begin(const char *function)
{
	esrs_register_check_writable(function);
	LockRelationOid(esrs_extension()->aggregates, ShareUpdateExclusiveLock);
}

/* May the current user EXECUTE the function that he wants to register? */
void
esrs_register_check_execute(Oid function)
{
	AclResult	result = esrs_proc_aclcheck(function, GetUserId(), ACL_EXECUTE);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_FUNCTION, get_func_name(function));
}

/* ------------------------------------------------------------------------
 * Who may execute
 * ------------------------------------------------------------------------
 */

/* May everybody EXECUTE the function? */
bool
esrs_register_public_may_execute(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	bool		isnull;
	Datum		value;
	bool		result = false;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	value = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_proacl, &isnull);
	if (isnull)
		result = true;			/* the default */
	else
	{
		Acl		   *acl = DatumGetAclP(value);

		for (int i = 0; i < ACL_NUM(acl); i++)
			if (ACL_DAT(acl)[i].ai_grantee == ACL_ID_PUBLIC &&
				(ACLITEM_GET_PRIVS(ACL_DAT(acl)[i]) & ACL_EXECUTE) != 0)
				result = true;
	}
	ReleaseSysCache(tuple);
	return result;
}

/*
 * Is it SECURITY DEFINER, and may everybody execute it?  Then everybody could
 * call an event handler with a forged event.
 */
bool
esrs_register_is_open_definer(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	bool		definer;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", function);
	definer = ((Form_pg_proc) GETSTRUCT(tuple))->prosecdef;
	ReleaseSysCache(tuple);
	return definer && esrs_register_public_may_execute(function);
}

/*
 * Take EXECUTE on a function away from PUBLIC, or tell who can.  "meaning" is
 * what everybody could do, "hint" what follows for those who need it.
 */
void
esrs_register_close_to_public(Oid function, const char *meaning, const char *hint)
{
	char	   *statement;

	if (!OidIsValid(function) || !esrs_register_public_may_execute(function))
		return;
	statement = psprintf("REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC",
						 format_procedure_qualified(function));
	if (!esrs_proc_ownercheck(function, GetUserId()))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("everybody may execute function %s, and so %s",
						format_procedure(function), meaning),
				 errhint("Its owner must first say: %s;", statement)));
	esrs_spi_begin();
	esrs_spi_utility(statement);
	esrs_spi_end();
	ereport(NOTICE,
			(errmsg("revoked EXECUTE on function %s from PUBLIC", format_procedure(function)),
			 errhint("%s", hint)));
}

/* EXECUTE on the deciding function is the right to command. */
static void
close_to_public(EsrsAggregateOptions *o)
{
	esrs_register_close_to_public(OidIsValid(o->functions[ESRS_CALLBACK_HANDLER]) ?
								  o->functions[ESRS_CALLBACK_HANDLER] :
								  o->functions[ESRS_CALLBACK_HANDLE_COMMAND],
								  "command the aggregate",
								  "EXECUTE on it is the right to command: GRANT it to the roles that may.");
}

static List *
callback_list(EsrsAggregateOptions *o)
{
	List	   *result = NIL;

	for (int i = 0; i < ESRS_CALLBACK_COUNT; i++)
		if (OidIsValid(o->functions[i]))
			result = lappend_oid(result, o->functions[i]);
	return result;
}

/*
 * May the current user change the aggregate?  Its table's owner may; if the
 * table was dropped, whoever registered it.  False in that case, 42501 if not.
 *
 * The table is locked until the transaction ends, and looked at again after
 * the wait.
 */
bool
esrs_register_lock_owned(const char *aggregate, Oid events, Oid registered_by, LOCKMODE mode)
{
	bool		locked = false;

	while (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(events)))
	{
		if (!esrs_class_ownercheck(events, GetUserId()))
			aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, get_rel_name(events));
		if (locked)
			return true;

		/* only now: a stranger must not queue for it */
		LockRelationOid(events, mode);
		locked = true;
	}
	if (!is_member_of_role(GetUserId(), registered_by))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be the role that registered aggregate \"%s\"", aggregate),
				 errdetail("Its events table does not exist.")));
	return false;
}

/* ------------------------------------------------------------------------
 * SQL functions
 * ------------------------------------------------------------------------
 */

/* The engine folds, this layer does not. */
static void (*change_snapshots) (const char *aggregate, bool rebuild) = NULL;

/* Who drops the snapshots of an aggregate, or makes them anew.  Called once, at load. */
void
esrs_register_set_snapshots_hook(void (*hook) (const char *aggregate, bool rebuild))
{
	change_snapshots = hook;
}

/* After a change: drop snapshots that are of no use any more, or do as is asked. */
static void
alter_snapshots(const char *name, EsrsAggregateOptions *o)
{
	bool		rebuild = o->snapshots != NULL && strcmp(o->snapshots, "rebuild") == 0;

	if (o->snapshots != NULL)
		change_snapshots(name, rebuild);
	else if (o->no_snapshots || !o->append_only)
		esrs_aggregate_row_delete_snapshots(name);
	if (!o->no_snapshots && !o->append_only && !rebuild)
		ereport(NOTICE,
				(errmsg("no snapshots are taken of aggregate \"%s\" while \"append_only\" is false",
						name)));
}

/* esrs_register_aggregate(name, ...) returns regclass */
Datum
esrs_register_aggregate(PG_FUNCTION_ARGS)
{
	char	   *name = esrs_register_name_arg(fcinfo, 0, "name of an aggregate");
	EsrsAggregateOptions o = {0};
	EsrsAggregateOptions existing;
	Oid			events;
	bool		created;
	bool		adopted;

	esrs_options_check_name(name, "an aggregate");
	if (GetDatabaseEncoding() != PG_UTF8)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("esrs needs a database with encoding UTF8"),
				 errdetail("The encoding of this database is %s.", GetDatabaseEncodingName())));
	esrs_register_begin("esrs_register_aggregate()");
	if (esrs_aggregate_row_read(name, &events, &adopted, &existing))
	{
		if (PG_ARGISNULL(16) || !PG_GETARG_BOOL(16))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("aggregate \"%s\" already exists", name),
					 errhint("To change it call esrs_alter_aggregate().")));

		/* it must be one that works */
		(void) esrs_aggregate_lookup(name);
		ereport(NOTICE,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("aggregate \"%s\" already exists, skipping", name)));
		PG_RETURN_OID(events);
	}

	for (int i = 0; i < 3; i++)
		o.callbacks[i] = esrs_register_text_arg(fcinfo, 1 + i);
	o.initial_state = PG_ARGISNULL(4) ? NULL : PG_GETARG_JSONB_P(4);
	for (int i = 0; i < 3; i++)
		o.callbacks[ESRS_CALLBACK_UPCAST + i] = esrs_register_text_arg(fcinfo, 5 + i);
	o.no_version = PG_ARGISNULL(8);
	o.event_version = o.no_version ? 0 : PG_GETARG_INT32(8);
	o.no_snapshots = PG_ARGISNULL(9);
	o.snapshot_every = o.no_snapshots ? 0 : PG_GETARG_INT32(9);
	o.event_id_format = PG_ARGISNULL(10) ? "v7" : esrs_register_text_arg(fcinfo, 10);
	o.event_type_path = esrs_register_text_arg(fcinfo, 11);
	o.unique_event_id = !PG_ARGISNULL(12) && PG_GETARG_BOOL(12);
	o.append_only = PG_ARGISNULL(13) || PG_GETARG_BOOL(13);
	o.notify = esrs_register_text_arg(fcinfo, 14);
	o.notify_payload = esrs_register_text_arg(fcinfo, 15);

	o.registered_by = GetUserId();
	esrs_aggregate_options_check(&o);
	close_to_public(&o);
	esrs_spi_begin();
	events = esrs_event_table_create(name, &created, &adopted);
	esrs_event_table_set_default(events, name, callback_list(&o));
	esrs_event_table_set_guard(events, name, o.append_only);
	if (o.unique_event_id)
		esrs_event_table_set_unique_id(events, true);
	esrs_state_aggregate_update(events, name, NULL, &o);
	esrs_spi_end();
	if (created)
		esrs_aggregate_row_delete_history(name);
	esrs_aggregate_row_write(name, events, adopted, &o, false);
	CommandCounterIncrement();
	(void) esrs_aggregate_lookup(name);
	alter_snapshots(name, &o);
	PG_RETURN_OID(events);
}

/* esrs_alter_aggregate(name, options) returns void */
Datum
esrs_alter_aggregate(PG_FUNCTION_ARGS)
{
	char	   *name = esrs_register_name_arg(fcinfo, 0, "name of an aggregate");
	EsrsAggregateOptions o;
	EsrsAggregateOptions old;
	EsrsTableInfo info;
	EsrsTableCondition condition;
	Oid			events;
	bool		adopted;
	bool		named[ESRS_CALLBACK_COUNT];
	bool		quick;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("options must not be null")));
	/* what takes long keeps others from registering no longer than it must */
	quick = esrs_aggregate_options_only_snapshots(PG_GETARG_JSONB_P(1));
	if (!quick)
		esrs_register_begin("esrs_alter_aggregate()");
	else
		esrs_register_check_writable("esrs_alter_aggregate()");
	if (!esrs_aggregate_row_read(name, &events, &adopted, &o))
		esrs_aggregate_missing(name);
	if (!esrs_register_lock_owned(name, events, o.registered_by,
								  quick ? ShareUpdateExclusiveLock : AccessExclusiveLock))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("events table of aggregate \"%s\" does not exist", name),
				 errhint("It was dropped. Call esrs_unregister_aggregate('%s') and register the aggregate again.",
						 name)));

	if (quick)
	{
		Oid			locked = events;

		/* what has changed during the wait for the table counts */
		if (!esrs_aggregate_row_read(name, &events, &adopted, &o) || events != locked)
			esrs_aggregate_missing(name);
		esrs_aggregate_options_overlay(&o, PG_GETARG_JSONB_P(1), named);
		esrs_aggregate_options_check_snapshots(&o);
		alter_snapshots(name, &o);
		PG_RETURN_VOID();
	}

	/* the table's default follows functions that were renamed */
	condition = esrs_event_table_inspect(events, name, &info);
	if (condition == ESRS_TABLE_OK)
	{
		ListCell   *lc = list_head(info.callbacks);

		for (int i = 0; i < ESRS_CALLBACK_COUNT && lc != NULL; i++)
		{
			if (o.callbacks[i] == NULL)
				continue;
			o.functions[i] = lfirst_oid(lc);
			lc = lnext(info.callbacks, lc);
		}
	}
	old = o;
	esrs_aggregate_options_overlay(&o, PG_GETARG_JSONB_P(1), named);
	esrs_aggregate_options_check(&o);
	for (int i = 0; i < ESRS_CALLBACK_COUNT; i++)
	{
		/* found by its name, which the caller did not give now */
		if (condition != ESRS_TABLE_OK && o.callbacks[i] != NULL &&
			old.callbacks[i] != NULL && !named[i] &&
			!esrs_function_is_trusted(o.functions[i], info.owner))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("%s function %s was created by another role",
							esrs_callback_names[i], o.callbacks[i]),
					 errhint("If it is meant, name it in the options.")));
	}
	if (condition != ESRS_TABLE_OK ||
		old.functions[ESRS_CALLBACK_HANDLER] != o.functions[ESRS_CALLBACK_HANDLER] ||
		old.functions[ESRS_CALLBACK_HANDLE_COMMAND] != o.functions[ESRS_CALLBACK_HANDLE_COMMAND])
		close_to_public(&o);

	esrs_spi_begin();
	if (condition != ESRS_TABLE_OK ||
		memcmp(old.functions, o.functions, sizeof(o.functions)) != 0)
		esrs_event_table_set_default(events, name, callback_list(&o));
	if (old.append_only != o.append_only || !info.guarded)
		esrs_event_table_set_guard(events, name, o.append_only);
	if (old.unique_event_id != o.unique_event_id)
		esrs_event_table_set_unique_id(events, o.unique_event_id);
	esrs_state_aggregate_update(events, name, &old, &o);
	esrs_spi_end();
	esrs_aggregate_row_write(name, events, adopted, &o, true);
	CommandCounterIncrement();
	(void) esrs_aggregate_lookup(name);
	alter_snapshots(name, &o);
	PG_RETURN_VOID();
}

/* esrs_unregister_aggregate(name, drop_events) returns void */
Datum
esrs_unregister_aggregate(PG_FUNCTION_ARGS)
{
	char	   *name = esrs_register_name_arg(fcinfo, 0, "name of an aggregate");
	bool		drop = !PG_ARGISNULL(1) && PG_GETARG_BOOL(1);
	EsrsAggregateOptions o;
	Oid			events;
	bool		adopted;

	esrs_register_begin("esrs_unregister_aggregate()");
	if (!esrs_aggregate_row_read(name, &events, &adopted, &o))
		esrs_aggregate_missing(name);
	esrs_aggregate_row_lock_consumers(name);
	if (esrs_register_lock_owned(name, events, o.registered_by, AccessExclusiveLock))
	{
		char	   *table = esrs_event_table_name(events);

		esrs_spi_begin();
		esrs_state_aggregate_drop(events, name);
		if (!esrs_event_table_release(events, name, drop))
			ereport(NOTICE,
					(errmsg("table %s was left as it is", table),
					 errdetail("Neither its guard nor the default of its column \"position\" names aggregate \"%s\".",
							   name)));
		esrs_spi_end();
	}
	else
	{
		esrs_spi_begin();
		esrs_state_aggregate_drop(events, name);
		esrs_spi_end();
		drop = true;
	}
	esrs_aggregate_row_delete(name);
	esrs_aggregate_row_delete_snapshots(name);
	if (drop)
		esrs_aggregate_row_delete_history(name);
	PG_RETURN_VOID();
}
