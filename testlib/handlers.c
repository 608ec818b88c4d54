/*-------------------------------------------------------------------------
 *
 * handlers.c
 *	  Ordinary SQL-callable functions in C in the places where esrs calls
 *	  functions of users: transactional event handlers, one event or all events
 *	  of a command at a time, and handle_command and apply_event.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"

PG_FUNCTION_INFO_V1(testlib_on_event);
PG_FUNCTION_INFO_V1(testlib_on_events);
PG_FUNCTION_INFO_V1(testlib_on_event_directly);
PG_FUNCTION_INFO_V1(testlib_on_delete);
PG_FUNCTION_INFO_V1(testlib_decide);
PG_FUNCTION_INFO_V1(testlib_decide_set);
PG_FUNCTION_INFO_V1(testlib_evolve);

/* ------------------------------------------------------------------------
 * Event handlers
 *
 * They write into the table c_handler_log(what, aggregate, sequence_number,
 * payload).
 * ------------------------------------------------------------------------
 */

static void
write_log(const char *what, Datum aggregate, Datum sequence_number, Datum payload)
{
	Oid			types[4] = {TEXTOID, TEXTOID, INT4OID, JSONBOID};
	Datum		values[4];
	char		nulls[4] = "    ";

	values[0] = CStringGetTextDatum(what);
	values[1] = aggregate;
	values[2] = sequence_number;
	values[3] = payload;
	for (int i = 1; i < 4; i++)
		if (values[i] == (Datum) 0)
			nulls[i] = 'n';
	SPI_connect();
	if (SPI_execute_with_args("INSERT INTO c_handler_log VALUES ($1, $2, $3, $4)",
							  4, types, values, nulls, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not write");
	SPI_finish();
}

/* Writes a row without any statement, which nothing but the server's counters tell. */
Datum
testlib_on_event_directly(PG_FUNCTION_ARGS)
{
	Relation	log = table_open(RelnameGetRelid("c_handler_log"), RowExclusiveLock);
	Datum		values[4] = {0};
	bool		nulls[4] = {true, true, true, true};

	simple_heap_insert(log, heap_form_tuple(RelationGetDescr(log), values, nulls));
	table_close(log, RowExclusiveLock);
	PG_RETURN_VOID();
}

static Datum
attribute(HeapTupleHeader event, const char *name)
{
	bool		isnull;
	Datum		value = GetAttributeByName(event, name, &isnull);

	return isnull ? (Datum) 0 : value;
}

/* testlib_on_event(esrs_event) returns void */
Datum
testlib_on_event(PG_FUNCTION_ARGS)
{
	HeapTupleHeader event = PG_GETARG_HEAPTUPLEHEADER(0);

	write_log("event", attribute(event, "aggregate"), attribute(event, "sequence_number"),
			  attribute(event, "payload"));
	PG_RETURN_VOID();
}

/* testlib_on_events(esrs_event[]) returns void */
Datum
testlib_on_events(PG_FUNCTION_ARGS)
{
	ArrayType  *array = PG_GETARG_ARRAYTYPE_P(0);
	int16		typlen;
	bool		typbyval;
	char		typalign;
	Datum	   *events;
	int			n;

	get_typlenbyvalalign(ARR_ELEMTYPE(array), &typlen, &typbyval, &typalign);
	deconstruct_array(array, ARR_ELEMTYPE(array), typlen, typbyval, typalign,
					  &events, NULL, &n);
	for (int i = 0; i < n; i++)
	{
		HeapTupleHeader event = DatumGetHeapTupleHeader(events[i]);
		char	   *what = psprintf("set of %d", n);

		write_log(what, attribute(event, "aggregate"), attribute(event, "sequence_number"),
				  attribute(event, "payload"));
	}
	PG_RETURN_VOID();
}

/* testlib_on_delete(uuid) returns void */
Datum
testlib_on_delete(PG_FUNCTION_ARGS)
{
	char	   *id = DatumGetCString(DirectFunctionCall1(uuid_out, PG_GETARG_DATUM(0)));

	write_log(psprintf("deleted %s", id), (Datum) 0, (Datum) 0, (Datum) 0);
	PG_RETURN_VOID();
}

/* ------------------------------------------------------------------------
 * The callbacks of an aggregate
 *
 * The command {"reject": ...} is rejected, any other is the event.
 * ------------------------------------------------------------------------
 */

static void
reject_if_told_to(Jsonb *command)
{
	JsonbValue	key;

	key.type = jbvString;
	key.val.string.val = "reject";
	key.val.string.len = strlen("reject");
	if (JB_ROOT_IS_OBJECT(command) &&
		findJsonbValueFromContainer(&command->root, JB_FOBJECT, &key) != NULL)
		ereport(ERROR,
				(errcode(MAKE_SQLSTATE('Z', 'E', '0', '0', '1')),
				 errmsg("command asks for its rejection"),
				 err_generic_string(PG_DIAG_CONSTRAINT_NAME, "as_asked")));
}

/* testlib_decide(state jsonb, command jsonb) returns jsonb[] */
Datum
testlib_decide(PG_FUNCTION_ARGS)
{
	Datum		event = PG_GETARG_DATUM(1);

	reject_if_told_to(PG_GETARG_JSONB_P(1));
	PG_RETURN_ARRAYTYPE_P(construct_array(&event, 1, JSONBOID, -1, false, TYPALIGN_INT));
}

/* testlib_decide_set(state jsonb, command jsonb) returns setof jsonb: twice the command */
Datum
testlib_decide_set(PG_FUNCTION_ARGS)
{
	FuncCallContext *context;

	reject_if_told_to(PG_GETARG_JSONB_P(1));
	if (SRF_IS_FIRSTCALL())
		(void) SRF_FIRSTCALL_INIT();
	context = SRF_PERCALL_SETUP();
	if (context->call_cntr < 2)
		SRF_RETURN_NEXT(context, PG_GETARG_DATUM(1));
	SRF_RETURN_DONE(context);
}

/* testlib_evolve(state jsonb, event jsonb) returns jsonb: state || event */
Datum
testlib_evolve(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(DirectFunctionCall2(jsonb_concat, PG_GETARG_DATUM(0), PG_GETARG_DATUM(1)));
}
