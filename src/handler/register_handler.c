/*-------------------------------------------------------------------------
 *
 * register_handler.c
 *	  SQL functions that register, alter and unregister event handlers.
 *
 * A handler belongs to whoever owns all the aggregates that it serves.  A
 * transactional one runs inside their commands, with the rights of whoever
 * commands; an asynchronous one later, with those of the role that registered
 * it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/register.h"

#include "base/security.h"
#include "base/spi.h"
#include "catalog/aggregate.h"
#include "catalog/checkpoint.h"
#include "catalog/namespace.h"
#include "catalog/extension.h"
#include "catalog/options.h"
#include "catalog/pg_type.h"
#include "handler/consumer.h"
#include "handler/progress.h"
#include "miscadmin.h"
#include "signal/wakeup.h"
#include "user/function.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

PG_FUNCTION_INFO_V1(esrs_register_handler);
PG_FUNCTION_INFO_V1(esrs_alter_handler);
PG_FUNCTION_INFO_V1(esrs_unregister_handler);

/* All options of a handler, as registration takes them. */
typedef struct HandlerOptions
{
	List	   *aggregates;		/* of char * */
	char	   *handler;
	char	   *mode;
	char	   *delete_handler;
	List	   *event_types;	/* of char *; NIL: all */
	bool		replayable;
	char	   *ordering;
	int32		partitions;
	int32		batch_size;
	char	   *on_error;
	int32		max_attempts;
	char	   *start_at;
	Oid			handler_owner;
	Oid			delete_handler_owner;	/* InvalidOid: there is none */
	Oid			run_as;			/* as it was read */
	bool		active;			/* it is to be made so */
} HandlerOptions;

static const char *const option_names[] = {
	"aggregates", "handler", "mode", "delete_handler", "event_types", "replayable",
	"ordering", "partitions", "batch_size", "on_error", "max_attempts"
};

#define MAX_PARTITIONS	64
#define MAX_BATCH_SIZE	100000

static const char *const modes[] = {"async", "transactional"};
static const char *const orderings[] = {"aggregate", "total"};
static const char *const error_policies[] = {"park", "skip", "stop"};

/* The strings of an array argument; 22004 for a null among them. */
static List *
list_arg(FunctionCallInfo fcinfo, int n, const char *what)
{
	Datum	   *values;
	bool	   *nulls;
	int			count;
	List	   *result = NIL;

	if (PG_ARGISNULL(n))
		return NIL;
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(n), TEXTOID, -1, false, TYPALIGN_INT,
					  &values, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not contain nulls", what)));
		result = lappend(result, TextDatumGetCString(values[i]));
	}
	return result;
}

static Datum
list_to_array(List *list)
{
	Datum	   *values = palloc(sizeof(Datum) * Max(list_length(list), 1));
	ListCell   *lc;

	foreach(lc, list)
	{
		values[foreach_current_index(lc)] = CStringGetTextDatum((char *) lfirst(lc));
	}
	return PointerGetDatum(construct_array(values, list_length(list), TEXTOID, -1,
										   false, TYPALIGN_INT));
}

/* ------------------------------------------------------------------------
 * Checking
 * ------------------------------------------------------------------------
 */

/*
 * Check that all aggregates exist, once each, and that the caller owns them;
 * lock their tables until the transaction ends.
 */
static void
check_aggregates(List *aggregates)
{
	ListCell   *lc;

	if (aggregates == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an event handler needs at least one aggregate")));
	foreach(lc, aggregates)
	{
		char	   *name = (char *) lfirst(lc);
		Oid			types[1] = {TEXTOID};
		Datum		values[1] = {CStringGetTextDatum(name)};
		EsrsIdentity before;
		Oid			events = InvalidOid;
		Oid			registered_by = InvalidOid;
		bool		found;
		bool		isnull;

		for (int i = 0; i < foreach_current_index(lc); i++)
			if (strcmp(name, (char *) list_nth(aggregates, i)) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("aggregate \"%s\" is named twice", name)));
		esrs_security_become(&before, esrs_extension()->owner);
		esrs_spi_begin();
		found = esrs_spi_run("SELECT events, registered_by FROM esrs.aggregates"
							 " WHERE name OPERATOR(pg_catalog.=) $1",
							 1, types, values, NULL, SPI_OK_SELECT) > 0;
		if (found)
		{
			events = DatumGetObjectId(esrs_spi_column(0, 1, &isnull));
			registered_by = DatumGetObjectId(esrs_spi_column(0, 2, &isnull));
		}
		esrs_spi_end();
		esrs_security_restore(&before);
		if (!found)
			esrs_aggregate_missing(name);

		/*
		 * As CREATE TRIGGER does: wait for commands in progress, which do not
		 * know of the change, and keep new ones out until it is committed.
		 */
		(void) esrs_register_lock_owned(name, events, registered_by, ShareRowExclusiveLock);
	}
}

static void
close_definer(Oid function)
{
	if (esrs_register_is_open_definer(function))
		esrs_register_close_to_public(function, "call it with a forged event",
									  "esrs calls it all the same.");
}

/* Resolve a handler's function and check it; returns the signature to store. */
static char *
check_handler_function(const char *signature, Oid *owner)
{
	const EsrsExtension *ext = esrs_extension();
	Oid			function = esrs_function_parse(signature);

	(void) esrs_handler_check(function, ext->event_type, ext->event_array_type);
	esrs_register_check_execute(function);
	close_definer(function);
	*owner = esrs_function_owner(function);
	return esrs_function_signature(function);
}

static char *
check_delete_function(const char *signature, Oid *owner)
{
	Oid			function = esrs_function_parse(signature);

	esrs_handler_check_delete(function);
	esrs_register_check_execute(function);
	close_definer(function);
	*owner = esrs_function_owner(function);
	return esrs_function_signature(function);
}

static void
check_range(const char *option, int32 value, int32 max)
{
	if (value < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" must be at least 1", option)));
	if (value > max)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" must not be greater than %d", option, max)));
}

static bool
is_async(const HandlerOptions *o)
{
	return strcmp(o->mode, "async") == 0;
}

/* Check all options; functions only if they were named just now. */
static void
check_options(HandlerOptions *o, bool new_handler, bool new_delete_handler)
{
	esrs_options_check_choice("mode", o->mode, modes, lengthof(modes));
	esrs_options_check_choice("ordering", o->ordering, orderings, lengthof(orderings));
	esrs_options_check_choice("on_error", o->on_error, error_policies,
							  lengthof(error_policies));
	check_range("partitions", o->partitions, MAX_PARTITIONS);
	check_range("batch_size", o->batch_size, MAX_BATCH_SIZE);
	check_range("max_attempts", o->max_attempts, PG_INT32_MAX);
	check_aggregates(o->aggregates);
	if (new_handler)
		o->handler = check_handler_function(o->handler, &o->handler_owner);
	if (o->delete_handler == NULL)
		o->delete_handler_owner = InvalidOid;
	else if (new_delete_handler)
		o->delete_handler = check_delete_function(o->delete_handler, &o->delete_handler_owner);
}

/* ------------------------------------------------------------------------
 * The row in the catalog
 * ------------------------------------------------------------------------
 */
#define ROW_COLUMNS		17

static void
write_row(const char *name, HandlerOptions *o, bool update)
{
	Oid			types[ROW_COLUMNS] = {TEXTOID, TEXTARRAYOID, TEXTOID, TEXTOID, TEXTOID,
		TEXTARRAYOID, BOOLOID, TEXTOID, INT4OID, INT4OID, TEXTOID, INT4OID, TEXTOID,
	OIDOID, OIDOID, OIDOID, TEXTOID};
	Datum		values[ROW_COLUMNS];
	char		nulls[ROW_COLUMNS];
	Oid			caller = GetUserId();
	EsrsIdentity before;

	memset(nulls, ' ', sizeof(nulls));
	values[0] = CStringGetTextDatum(name);
	values[1] = list_to_array(o->aggregates);
	values[2] = CStringGetTextDatum(o->handler);
	values[3] = CStringGetTextDatum(o->mode);
	nulls[4] = o->delete_handler ? ' ' : 'n';
	values[4] = o->delete_handler ? CStringGetTextDatum(o->delete_handler) : (Datum) 0;
	nulls[5] = o->event_types ? ' ' : 'n';
	values[5] = list_to_array(o->event_types);
	values[6] = BoolGetDatum(o->replayable);
	values[7] = CStringGetTextDatum(o->ordering);
	values[8] = Int32GetDatum(o->partitions);
	values[9] = Int32GetDatum(o->batch_size);
	values[10] = CStringGetTextDatum(o->on_error);
	values[11] = Int32GetDatum(o->max_attempts);
	values[12] = CStringGetTextDatum(o->start_at);
	values[13] = ObjectIdGetDatum(o->handler_owner);
	values[14] = ObjectIdGetDatum(o->delete_handler_owner);
	nulls[14] = OidIsValid(o->delete_handler_owner) ? ' ' : 'n';
	values[15] = ObjectIdGetDatum(caller);
	if (update)
	{
		types[15] = BOOLOID;
		values[15] = BoolGetDatum(o->active);
	}
	values[16] = CStringGetTextDatum(namespace_search_path);

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	if (esrs_spi_run(update ?
					 "UPDATE esrs.handlers SET aggregates = $2, handler = $3, mode = $4,"
					 " delete_handler = $5, event_types = $6, replayable = $7,"
					 " ordering = $8, partitions = $9, batch_size = $10, on_error = $11,"
					 " max_attempts = $12, start_at = $13,"
					 " status = CASE WHEN $16 THEN 'active' ELSE status END,"
					 " handler_owner = $14::pg_catalog.regrole,"
					 " delete_handler_owner = $15::pg_catalog.regrole"
					 " WHERE name OPERATOR(pg_catalog.=) $1" :
					 "INSERT INTO esrs.handlers (name, aggregates, handler, mode,"
					 " delete_handler, event_types, replayable, ordering, partitions,"
					 " batch_size, on_error, max_attempts, start_at,"
					 " handler_owner, delete_handler_owner, run_as, search_path)"
					 " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,"
					 " $14::pg_catalog.regrole, $15::pg_catalog.regrole,"
					 " $16::pg_catalog.regrole, $17)",
					 update ? ROW_COLUMNS - 1 : ROW_COLUMNS,
					 types, values, nulls,
					 update ? SPI_OK_UPDATE : SPI_OK_INSERT) != 1)
		elog(ERROR, "could not write the catalog row of event handler \"%s\"", name);
	esrs_spi_end();
	esrs_security_restore(&before);
}

static List *
spi_list(int column)
{
	bool		isnull;
	Datum		value = esrs_spi_column(0, column, &isnull);
	Datum	   *values;
	int			n;
	List	   *result = NIL;

	if (isnull)
		return NIL;
	deconstruct_array(DatumGetArrayTypeP(value), TEXTOID, -1, false, TYPALIGN_INT,
					  &values, NULL, &n);
	for (int i = 0; i < n; i++)
		result = lappend(result, TextDatumGetCString(values[i]));
	return result;
}

/* Read the row of a handler.  False if there is none. */
static bool
read_row(const char *name, HandlerOptions *o)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(name)};
	EsrsIdentity before;
	bool		isnull;
	bool		found;

	memset(o, 0, sizeof(*o));
	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	found = esrs_spi_run("SELECT aggregates, handler, mode, delete_handler, event_types,"
						 " replayable, ordering, partitions, batch_size, on_error,"
						 " max_attempts, start_at, handler_owner, delete_handler_owner, run_as"
						 " FROM esrs.handlers WHERE name OPERATOR(pg_catalog.=) $1",
						 1, types, values, NULL, SPI_OK_SELECT) > 0;
	if (found)
	{
		o->aggregates = spi_list(1);
		o->handler = esrs_spi_text(0, 2);
		o->mode = esrs_spi_text(0, 3);
		o->delete_handler = esrs_spi_text(0, 4);
		o->event_types = spi_list(5);
		o->replayable = DatumGetBool(esrs_spi_column(0, 6, &isnull));
		o->ordering = esrs_spi_text(0, 7);
		o->partitions = DatumGetInt32(esrs_spi_column(0, 8, &isnull));
		o->batch_size = DatumGetInt32(esrs_spi_column(0, 9, &isnull));
		o->on_error = esrs_spi_text(0, 10);
		o->max_attempts = DatumGetInt32(esrs_spi_column(0, 11, &isnull));
		o->start_at = esrs_spi_text(0, 12);
		o->handler_owner = DatumGetObjectId(esrs_spi_column(0, 13, &isnull));
		o->delete_handler_owner = DatumGetObjectId(esrs_spi_column(0, 14, &isnull));
		if (isnull)
			o->delete_handler_owner = InvalidOid;
		o->run_as = DatumGetObjectId(esrs_spi_column(0, 15, &isnull));
	}
	esrs_spi_end();
	esrs_security_restore(&before);
	return found;
}

static void
no_such_handler(const char *name)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("event handler \"%s\" does not exist", name),
			 errhint("Registered handlers are in the view esrs_handlers.")));
}

/*
 * Read the row of a handler that is to be changed.  Its checkpoints come first:
 * whoever runs it has locked them before he locks a table.
 */
static void
lock_row(const char *name, HandlerOptions *o)
{
	esrs_consumer_check_not_running(name);
	(void) esrs_checkpoint_lock_all(name);
	if (!read_row(name, o))
		no_such_handler(name);
}

/* Subscriptions and handlers share their names, as both can be paused by name. */
static void
check_free_name(const char *name)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(name)};
	EsrsIdentity before;
	bool		taken;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	taken = esrs_spi_run("SELECT 1 FROM esrs.subscriptions WHERE name OPERATOR(pg_catalog.=) $1",
						 1, types, values, NULL, SPI_OK_SELECT) > 0;
	esrs_spi_end();
	esrs_security_restore(&before);
	if (taken)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("a subscription is called \"%s\"", name),
				 errhint("Choose another name.")));
}

/*
 * An asynchronous handler keeps running as the role that registered it: not
 * everybody who owns its aggregates may say what that role does.
 */
static void
check_run_as(const char *name, HandlerOptions *old, HandlerOptions *new)
{
	if ((is_async(old) || is_async(new)) && !esrs_consumer_may_run(old->run_as))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for event handler \"%s\"", name),
				 errhint("It runs as role \"%s\", of which you must be a member. You may unregister it and register another.",
						 GetUserNameFromId(old->run_as, false))));
}

static bool
has_new_aggregate(HandlerOptions *old, HandlerOptions *new)
{
	ListCell   *lc;
	ListCell   *before;

	foreach(lc, new->aggregates)
	{
		bool		known = false;

		foreach(before, old->aggregates)
		{
			known |= strcmp((char *) lfirst(lc), (char *) lfirst(before)) == 0;
		}
		if (!known)
			return true;
	}
	return false;
}

/*
 * Make the checkpoints what the new options demand.  No writer and no batch is
 * in progress, so a handler that changes its mode misses no event.
 */
static void
alter_progress(const char *name, HandlerOptions *old, HandlerOptions *new)
{
	if (is_async(new))
		esrs_wakeup_request();
	if (is_async(old) && !is_async(new))
	{
		esrs_progress_check_caught_up(name);
		esrs_checkpoint_delete(name);
		new->start_at = "now";
		new->active = true;
	}
	else if (!is_async(old) && is_async(new))
		esrs_checkpoint_create(name, new->partitions, esrs_progress_start("now"));
	else if (is_async(new))
	{
		if (has_new_aggregate(old, new))
			esrs_progress_skip_idle(name);
		if (old->partitions != new->partitions)
			esrs_progress_repartition(name, new->partitions);
	}
}

/* ------------------------------------------------------------------------
 * SQL functions
 * ------------------------------------------------------------------------
 */

/* An argument of type int with a default for null. */
static int32
int_arg(FunctionCallInfo fcinfo, int n, int32 otherwise)
{
	return PG_ARGISNULL(n) ? otherwise : PG_GETARG_INT32(n);
}

/* esrs_register_handler(name, aggregates, handler, ...) returns void */
Datum
esrs_register_handler(PG_FUNCTION_ARGS)
{
	char	   *name = esrs_register_name_arg(fcinfo, 0, "name of an event handler");
	HandlerOptions o;

	esrs_options_check_name(name, "an event handler");
	esrs_register_begin("esrs_register_handler()");
	if (read_row(name, &o))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("event handler \"%s\" already exists", name),
				 errhint("To change it call esrs_alter_handler().")));

	o.aggregates = list_arg(fcinfo, 1, "list of aggregates");
	o.handler = esrs_register_name_arg(fcinfo, 2, "function of an event handler");
	o.mode = PG_ARGISNULL(3) ? "transactional" : esrs_register_text_arg(fcinfo, 3);
	o.delete_handler = esrs_register_text_arg(fcinfo, 4);
	o.event_types = list_arg(fcinfo, 5, "list of event types");
	if (!PG_ARGISNULL(5) && o.event_types == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("list of event types must not be empty"),
				 errhint("Null means all events.")));
	o.replayable = PG_ARGISNULL(6) || PG_GETARG_BOOL(6);
	o.ordering = PG_ARGISNULL(7) ? "aggregate" : esrs_register_text_arg(fcinfo, 7);
	o.partitions = int_arg(fcinfo, 8, 1);
	o.batch_size = int_arg(fcinfo, 9, 100);
	o.on_error = PG_ARGISNULL(10) ? "skip" : esrs_register_text_arg(fcinfo, 10);
	o.max_attempts = int_arg(fcinfo, 11, 5);
	o.start_at = PG_ARGISNULL(12) ? "now" : esrs_register_text_arg(fcinfo, 12);
	check_free_name(name);
	if (!is_async(&o) && strcmp(o.start_at, "now") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a transactional event handler can only start at \"now\"")));
	check_options(&o, true, true);
	write_row(name, &o, false);
	if (is_async(&o))
	{
		esrs_checkpoint_create(name, o.partitions, esrs_progress_start(o.start_at));
		esrs_wakeup_request();
	}
	PG_RETURN_VOID();
}

/* esrs_alter_handler(name, options) returns void */
Datum
esrs_alter_handler(PG_FUNCTION_ARGS)
{
	char	   *name = esrs_register_name_arg(fcinfo, 0, "name of an event handler");
	HandlerOptions o;
	HandlerOptions old;
	EsrsOptions *options;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("options must not be null")));
	esrs_register_begin("esrs_alter_handler()");
	lock_row(name, &o);

	/* who may change the handler must own what it serves before and after */
	check_aggregates(o.aggregates);
	old = o;
	options = esrs_options_open(PG_GETARG_JSONB_P(1), option_names, lengthof(option_names));
	esrs_options_list(options, "aggregates", &o.aggregates);
	esrs_options_text(options, "handler", &o.handler, NULL);
	if (o.handler == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("option \"%s\" has no default", "handler")));
	esrs_options_text(options, "mode", &o.mode, "transactional");
	esrs_options_text(options, "delete_handler", &o.delete_handler, NULL);
	esrs_options_list(options, "event_types", &o.event_types);
	esrs_options_bool(options, "replayable", &o.replayable, true);
	esrs_options_text(options, "ordering", &o.ordering, "aggregate");
	esrs_options_int(options, "partitions", &o.partitions, NULL, 1);
	esrs_options_int(options, "batch_size", &o.batch_size, NULL, 100);
	esrs_options_text(options, "on_error", &o.on_error, "skip");
	esrs_options_int(options, "max_attempts", &o.max_attempts, NULL, 5);
	check_run_as(name, &old, &o);
	check_options(&o, o.handler != old.handler, o.delete_handler != old.delete_handler);
	alter_progress(name, &old, &o);
	write_row(name, &o, true);
	PG_RETURN_VOID();
}

/* esrs_unregister_handler(name) returns void */
Datum
esrs_unregister_handler(PG_FUNCTION_ARGS)
{
	char	   *name = esrs_register_name_arg(fcinfo, 0, "name of an event handler");
	HandlerOptions o;
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(name)};
	EsrsIdentity before;

	esrs_register_begin("esrs_unregister_handler()");
	lock_row(name, &o);
	check_aggregates(o.aggregates);
	esrs_checkpoint_delete(name);
	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	(void) esrs_spi_run("DELETE FROM esrs.handlers WHERE name OPERATOR(pg_catalog.=) $1",
						1, types, values, NULL, SPI_OK_DELETE);
	esrs_spi_end();
	esrs_security_restore(&before);
	PG_RETURN_VOID();
}
