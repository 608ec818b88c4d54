/*-------------------------------------------------------------------------
 *
 * projection.c
 *	  Event handlers in C, which write the read models of rebuild.sql; for
 *	  scripts/bench.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "executor/executor.h"
#include "executor/spi.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(bench_stock);
PG_FUNCTION_INFO_V1(bench_movements);
PG_FUNCTION_INFO_V1(bench_returned);

/* A column of an event that is never null. */
static Datum
column(HeapTupleHeader event, const char *name)
{
	bool		isnull;
	Datum		value = GetAttributeByName(event, name, &isnull);

	if (isnull)
		elog(ERROR, "event has no %s", name);
	return value;
}

/* (payload -> 'copies')::int */
static Datum
copies(HeapTupleHeader event)
{
	Jsonb	   *payload = DatumGetJsonbP(column(event, "payload"));
	JsonbValue	value;

	if (getKeyJsonValueFromContainer(&payload->root, "copies", strlen("copies"), &value) == NULL ||
		value.type != jbvNumeric)
		elog(ERROR, "event has no number of copies");
	return DirectFunctionCall1(numeric_int4, NumericGetDatum(value.val.numeric));
}

/* Execute an INSERT whose plan is kept as long as the session. */
static void
insert(SPIPlanPtr *plan, const char *sql, int nargs, Oid *types, Datum *values)
{
	SPI_connect();
	if (*plan == NULL)
	{
		SPIPlanPtr	prepared = SPI_prepare(sql, nargs, types);

		if (prepared == NULL || SPI_keepplan(prepared) != 0)
			elog(ERROR, "could not prepare: %s", SPI_result_code_string(SPI_result));
		*plan = prepared;
	}
	if (SPI_execute_plan(*plan, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not insert");
	SPI_finish();
}

/* bench_stock(esrs_event) returns void: one row for each instance */
Datum
bench_stock(PG_FUNCTION_ARGS)
{
	static SPIPlanPtr plan = NULL;
	HeapTupleHeader event = PG_GETARG_HEAPTUPLEHEADER(0);
	Oid			types[] = {UUIDOID, INT4OID};
	Datum		values[] = {column(event, "aggregate_id"), copies(event)};

	insert(&plan, "INSERT INTO stock AS s VALUES ($1, $2, 1) ON CONFLICT (book) DO UPDATE"
		   " SET copies = s.copies + excluded.copies, events = s.events + 1",
		   lengthof(types), types, values);
	PG_RETURN_VOID();
}

/* bench_movements(esrs_event) returns void: one row for each event */
Datum
bench_movements(PG_FUNCTION_ARGS)
{
	static SPIPlanPtr plan = NULL;
	HeapTupleHeader event = PG_GETARG_HEAPTUPLEHEADER(0);
	Oid			types[] = {INT8OID, UUIDOID, INT4OID};
	Datum		values[] = {column(event, "position"), column(event, "aggregate_id"), copies(event)};

	insert(&plan, "INSERT INTO movements VALUES ($1, $2, $3)", lengthof(types), types, values);
	PG_RETURN_VOID();
}

/* bench_returned(esrs_event) returns void: the same for {"Returned": {"num_of_copies": n}} */
Datum
bench_returned(PG_FUNCTION_ARGS)
{
	static SPIPlanPtr plan = NULL;
	HeapTupleHeader event = PG_GETARG_HEAPTUPLEHEADER(0);
	Jsonb	   *payload = DatumGetJsonbP(column(event, "payload"));
	Oid			types[] = {INT8OID, UUIDOID, INT4OID};
	Datum		values[3];
	JsonbValue	content;
	JsonbValue	number;

	if (getKeyJsonValueFromContainer(&payload->root, "Returned", strlen("Returned"), &content) == NULL ||
		content.type != jbvBinary ||
		getKeyJsonValueFromContainer(content.val.binary.data, "num_of_copies",
									 strlen("num_of_copies"), &number) == NULL ||
		number.type != jbvNumeric)
		elog(ERROR, "event has no number of copies");
	values[0] = column(event, "position");
	values[1] = column(event, "aggregate_id");
	values[2] = DirectFunctionCall1(numeric_int4, NumericGetDatum(number.val.numeric));
	insert(&plan, "INSERT INTO movements VALUES ($1, $2, $3)", lengthof(types), types, values);
	PG_RETURN_VOID();
}
