/*-------------------------------------------------------------------------
 *
 * functions.c
 *	  SQL functions that command: decode arguments, call command.c, encode the
 *	  result.
 *
 * Functions that read are in reading.c, those that try things out in
 * rehearsal.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/functions.h"

#include "base/errors.h"
#include "base/jsonb_codec.h"
#include "catalog/datum.h"
#include "catalog/extension.h"
#include "catalog/pg_type.h"
#include "engine/arguments.h"
#include "engine/command.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "store/lock.h"
#include "utils/array.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(esrs_handle_command);
PG_FUNCTION_INFO_V1(esrs_try_command);
PG_FUNCTION_INFO_V1(esrs_handle_commands);
PG_FUNCTION_INFO_V1(esrs_persist);
PG_FUNCTION_INFO_V1(esrs_delete);
PG_FUNCTION_INFO_V1(esrs_reject_sql);

/* esrs_handle_command(aggregate, aggregate_id, command, ...) returns jsonb */
Datum
esrs_handle_command(PG_FUNCTION_ARGS)
{
	EsrsCommand command;
	EsrsOutcome outcome;

	esrs_command_check_writable("esrs_handle_command()");
	esrs_arguments_command(fcinfo, &command);
	esrs_command_run(&command, &outcome);
	PG_RETURN_JSONB_P(outcome.state);
}

/* esrs_try_command(aggregate, aggregate_id, command, ...) returns esrs_result */
Datum
esrs_try_command(PG_FUNCTION_ARGS)
{
	EsrsCommand command;
	EsrsOutcome outcome;
	Datum		values[ESRS_RESULT_COLUMNS];
	bool		nulls[ESRS_RESULT_COLUMNS];
	TupleDesc	desc;

	esrs_command_check_writable("esrs_try_command()");
	esrs_arguments_command(fcinfo, &command);
	command.catch_rejection = true;
	command.want_records = true;
	esrs_command_run(&command, &outcome);
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	esrs_arguments_result_values(&command, &outcome, values, nulls);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* ------------------------------------------------------------------------
 * Several commands
 * ------------------------------------------------------------------------
 */
static int
compare_instances(const void *a, const void *b)
{
	const EsrsCommand *x = *(const EsrsCommand *const *) a;
	const EsrsCommand *y = *(const EsrsCommand *const *) b;
	int			order = strcmp(x->aggregate, y->aggregate);

	return order ? order : memcmp(x->aggregate_id.data, y->aggregate_id.data, UUID_LEN);
}

/* The Rust library's locks that are to be taken on adopted tables. */
typedef struct ForeignKeys
{
	uint64	   *keys;
	int			n;
} ForeignKeys;

static int
compare_keys(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return x < y ? -1 : x > y;
}

/* Lock all of an aggregate; see esrs_lock_all(). */
static bool
lock_whole_aggregate(const char *name)
{
	for (;;)
	{
		EsrsAggregate *agg = esrs_aggregate_lookup(name);
		Oid			events = agg->events;

		if (!esrs_lock_all(agg))
			return false;
		if (agg->valid || esrs_aggregate_lookup(name)->events == events)
			return true;
	}
}

/* Lock the instances of the commands n..m, all of one aggregate, in order. */
static void
lock_aggregate(EsrsCommand **sorted, int n, int m, ForeignKeys *foreign)
{
	const char *name = sorted[n]->aggregate;
	EsrsAggregate *agg;
	int			distinct = 1;

	esrs_aggregate_check_command_right(esrs_aggregate_lookup(name));
	for (int i = n + 1; i < m; i++)
		distinct += compare_instances(&sorted[i - 1], &sorted[i]) != 0;
	if (distinct > ESRS_LOCK_MANY && lock_whole_aggregate(name))
		return;
	agg = esrs_aggregate_lookup_locked(name, RowExclusiveLock);
	for (int i = n; i < m; i++)
		if (esrs_lock_own(agg, &sorted[i]->aggregate_id) && agg->adopted)
			foreign->keys[foreign->n++] = esrs_lock_foreign_key(&sorted[i]->aggregate_id);
}

/*
 * Lock all instances in one order, that of (aggregate, aggregate_id), so that
 * two such calls do not deadlock.  The Rust library's keys know no aggregate,
 * so they have an order of their own and come after all of ours.
 */
static void
lock_instances(EsrsCommand *commands, int n)
{
	EsrsCommand **sorted = palloc(sizeof(EsrsCommand *) * Max(n, 1));
	ForeignKeys foreign = {palloc(sizeof(uint64) * Max(n, 1)), 0};
	int			first = 0;

	for (int i = 0; i < n; i++)
		sorted[i] = &commands[i];
	qsort(sorted, n, sizeof(EsrsCommand *), compare_instances);
	for (int i = 1; i <= n; i++)
	{
		if (i < n && strcmp(sorted[i]->aggregate, sorted[first]->aggregate) == 0)
			continue;
		lock_aggregate(sorted, first, i, &foreign);
		first = i;
	}
	qsort(foreign.keys, foreign.n, sizeof(uint64), compare_keys);
	for (int i = 0; i < foreign.n; i++)
		esrs_lock_foreign(foreign.keys[i]);
	pfree(foreign.keys);
	pfree(sorted);
}

/* esrs_handle_commands(esrs_command[]) returns setof esrs_result */
Datum
esrs_handle_commands(PG_FUNCTION_ARGS)
{
	Tuplestorestate *store;
	TupleDesc	desc;
	MemoryContext scratch;
	EsrsCommand *commands;
	Datum	   *rows;
	bool	   *null_rows;
	int			n;

	esrs_command_check_writable("esrs_handle_commands()");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("commands must not be null")));
	store = esrs_arguments_begin_set(fcinfo, &desc);
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), esrs_extension()->command_type,
					  -1, false, TYPALIGN_DOUBLE, &rows, &null_rows, &n);
	commands = palloc_extended(sizeof(EsrsCommand) * Max(n, 1), MCXT_ALLOC_HUGE);
	for (int i = 0; i < n; i++)
	{
		if (null_rows[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("command %d must not be null", i + 1)));
		esrs_arguments_command_of_row(rows[i], i + 1, &commands[i]);
		commands[i].want_records = true;
		commands[i].locked = true;
	}
	if (n > 0)
		lock_instances(commands, n);

	scratch = AllocSetContextCreate(CurrentMemoryContext, "esrs commands",
									ALLOCSET_DEFAULT_SIZES);
	for (int i = 0; i < n; i++)
	{
		MemoryContext before = MemoryContextSwitchTo(scratch);
		EsrsOutcome outcome;
		Datum		values[ESRS_RESULT_COLUMNS];
		bool		nulls[ESRS_RESULT_COLUMNS];

		CHECK_FOR_INTERRUPTS();
		esrs_command_run(&commands[i], &outcome);
		esrs_arguments_result_values(&commands[i], &outcome, values, nulls);
		tuplestore_putvalues(store, desc, values, nulls);
		MemoryContextSwitchTo(before);
		MemoryContextReset(scratch);
	}
	MemoryContextDelete(scratch);
	return (Datum) 0;
}

/* ------------------------------------------------------------------------
 * Events without a command
 * ------------------------------------------------------------------------
 */

/* The events to persist, checked. */
static List *
events_arg(ArrayType *array)
{
	List	   *events = NIL;
	Datum	   *values;
	bool	   *nulls;
	int			n;

	deconstruct_array(array, JSONBOID, -1, false, TYPALIGN_INT, &values, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		Jsonb	   *event;

		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("event %d must not be null", i + 1)));
		event = DatumGetJsonbP(values[i]);
		if (!esrs_jsonb_is_document(event))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("event %d must be a JSON object or a string", i + 1)));
		esrs_jsonb_check_limits(event, "event");
		events = lappend(events, event);
	}
	return events;
}

static pg_uuid_t *
event_ids_arg(ArrayType *array, int nevents)
{
	pg_uuid_t  *ids;
	Datum	   *values;
	bool	   *nulls;
	int			n;

	deconstruct_array(array, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR, &values, &nulls, &n);
	if (n != nevents)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there must be as many event_ids as events"),
				 errdetail("There are %d event_ids and %d events.", n, nevents)));
	ids = palloc(sizeof(pg_uuid_t) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("event_id %d must not be null", i + 1)));
		ids[i] = *DatumGetUUIDP(values[i]);
	}
	return ids;
}

/* esrs_persist(aggregate, aggregate_id, events, ...) returns setof esrs_event */
Datum
esrs_persist(PG_FUNCTION_ARGS)
{
	Tuplestorestate *store;
	TupleDesc	desc;
	EsrsCommand command = {0};
	EsrsOutcome outcome;
	ListCell   *lc;

	esrs_command_check_writable("esrs_persist()");
	command.aggregate = esrs_arguments_aggregate(fcinfo, 0);
	command.aggregate_id = *esrs_arguments_id(fcinfo, 1);
	if (PG_ARGISNULL(2))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("events must not be null")));
	command.events = events_arg(PG_GETARG_ARRAYTYPE_P(2));
	command.has_expected = !PG_ARGISNULL(3);
	if (command.has_expected)
	{
		command.expected_sequence = PG_GETARG_INT32(3);
		esrs_arguments_check_expected(command.expected_sequence);
	}
	if (!PG_ARGISNULL(4))
	{
		command.metadata = PG_GETARG_JSONB_P(4);
		esrs_arguments_check_metadata(command.metadata);
	}
	if (!PG_ARGISNULL(5))
		command.event_ids = event_ids_arg(PG_GETARG_ARRAYTYPE_P(5), list_length(command.events));
	command.want_records = true;
	esrs_command_persist(&command, &outcome);

	store = esrs_arguments_begin_set(fcinfo, &desc);
	foreach(lc, outcome.records)
	{
		Datum		values[ESRS_EVENT_COLUMNS];
		bool		nulls[ESRS_EVENT_COLUMNS];

		esrs_datum_event_values(command.aggregate, lfirst(lc), values, nulls);
		tuplestore_putvalues(store, desc, values, nulls);
	}
	return (Datum) 0;
}

/* esrs_delete(aggregate, aggregate_id, permanent) returns bigint */
Datum
esrs_delete(PG_FUNCTION_ARGS)
{
	esrs_command_check_writable("esrs_delete()");
	PG_RETURN_INT64((int64) esrs_command_delete(esrs_arguments_aggregate(fcinfo, 0),
												esrs_arguments_id(fcinfo, 1),
												!PG_ARGISNULL(2) && PG_GETARG_BOOL(2)));
}

/* esrs_reject(name, message, detail, hint) returns jsonb: never */
Datum
esrs_reject_sql(PG_FUNCTION_ARGS)
{
	EsrsRejection rejection = {0};

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("message of a rejection must not be null")));
	rejection.name = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	rejection.message = text_to_cstring(PG_GETARG_TEXT_PP(1));
	rejection.detail = PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2));
	rejection.hint = PG_ARGISNULL(3) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(3));
	esrs_rejection_raise(&rejection);
	PG_RETURN_NULL();			/* keep compiler quiet */
}
