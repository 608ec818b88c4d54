/*-------------------------------------------------------------------------
 *
 * datum.c
 *	  Values of the composite types esrs_event and esrs_state.
 *
 * Columns are filled by position; the types belong to the extension, and an
 * attribute that a later version adds comes last.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/datum.h"

#include "access/htup_details.h"
#include "catalog/extension.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

/*
 * The columns of esrs_event.  The payload is the present form, if the record
 * has it, else the stored one.
 */
void
esrs_datum_event_values(const char *aggregate, const EsrsRecord *record,
						Datum *values, bool *nulls)
{
	Jsonb	   *payload = record->event ? record->event : record->payload;

	memset(nulls, 0, sizeof(bool) * ESRS_EVENT_COLUMNS);
	values[0] = CStringGetTextDatum(aggregate);
	values[1] = UUIDPGetDatum(&record->id);
	values[2] = UUIDPGetDatum(&record->aggregate_id);
	values[3] = JsonbPGetDatum(payload);
	values[4] = TimestampTzGetDatum(record->occurred_on);
	values[5] = Int32GetDatum(record->sequence_number);
	values[6] = Int32GetDatum(record->version);
	values[7] = Int64GetDatum(record->position);
	values[8] = JsonbPGetDatum(record->metadata);
	nulls[6] = record->version == ESRS_NO_VERSION;
	nulls[8] = record->metadata == NULL;
	if (record->deletion)
		nulls[1] = nulls[3] = nulls[5] = true;
}

/* An esrs_event, in the current context. */
Datum
esrs_datum_event(const char *aggregate, const EsrsRecord *record)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(esrs_extension()->event_type, -1);
	Datum		values[ESRS_EVENT_COLUMNS];
	bool		nulls[ESRS_EVENT_COLUMNS];
	HeapTuple	tuple;

	esrs_datum_event_values(aggregate, record, values, nulls);
	tuple = heap_form_tuple(desc, values, nulls);
	ReleaseTupleDesc(desc);
	return HeapTupleGetDatum(tuple);
}

/* An esrs_event[] of so many, in the current context. */
Datum
esrs_datum_array_of_events(Datum *events, int n)
{
	return PointerGetDatum(construct_array(events, n, esrs_extension()->event_type, -1,
										   false, TYPALIGN_DOUBLE));
}

/* The same of the records in a list. */
Datum
esrs_datum_event_array(const char *aggregate, List *records)
{
	Datum	   *elements = palloc(sizeof(Datum) * Max(list_length(records), 1));
	ListCell   *lc;

	foreach(lc, records)
	{
		CHECK_FOR_INTERRUPTS();
		elements[foreach_current_index(lc)] = esrs_datum_event(aggregate, lfirst(lc));
	}
	return esrs_datum_array_of_events(elements, list_length(records));
}

static void
must_be_set(bool isnull, const char *column)
{
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s of an event must not be null", column)));
}

/*
 * Read an esrs_event; 22004 for a null that no event has.  Pointers in the record are borrowed from it, or in the
 * current context.  Its payload is taken for the present form.
 */
void
esrs_datum_read_event(Datum event, EsrsRecord *record)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(event);
	Datum		value;
	bool		isnull;

	memset(record, 0, sizeof(*record));
	value = GetAttributeByNum(header, 2, &isnull);
	record->deletion = isnull;
	if (!isnull)
		record->id = *DatumGetUUIDP(value);
	value = GetAttributeByNum(header, 3, &isnull);
	must_be_set(isnull, "aggregate_id");
	record->aggregate_id = *DatumGetUUIDP(value);
	value = GetAttributeByNum(header, 4, &isnull);
	must_be_set(isnull && !record->deletion, "payload");
	record->payload = isnull ? NULL : DatumGetJsonbP(value);
	record->event = record->payload;
	value = GetAttributeByNum(header, 5, &isnull);
	must_be_set(isnull && !record->deletion, "occurred_on");
	record->occurred_on = isnull ? 0 : DatumGetTimestampTz(value);
	value = GetAttributeByNum(header, 6, &isnull);
	must_be_set(isnull && !record->deletion, "sequence_number");
	record->sequence_number = isnull ? 0 : DatumGetInt32(value);
	value = GetAttributeByNum(header, 7, &isnull);
	record->version = isnull ? ESRS_NO_VERSION : DatumGetInt32(value);
	value = GetAttributeByNum(header, 8, &isnull);
	record->position = isnull ? 0 : DatumGetInt64(value);
	value = GetAttributeByNum(header, 9, &isnull);
	record->metadata = isnull ? NULL : DatumGetJsonbP(value);
}

/* An esrs_state, in the current context; the state may be NULL. */
Datum
esrs_datum_state(const pg_uuid_t *id, int32 sequence_number, Jsonb *state)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(esrs_extension()->state_type, -1);
	Datum		values[3];
	bool		nulls[3] = {false, false, state == NULL};
	HeapTuple	tuple;

	values[0] = UUIDPGetDatum(id);
	values[1] = Int32GetDatum(sequence_number);
	values[2] = JsonbPGetDatum(state);
	tuple = heap_form_tuple(desc, values, nulls);
	ReleaseTupleDesc(desc);
	return HeapTupleGetDatum(tuple);
}
