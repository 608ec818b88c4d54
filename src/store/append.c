/*-------------------------------------------------------------------------
 *
 * append.c
 *	  Storing new events.
 *
 * Where nothing is in the way, rows are stored without a statement: direct.c.  All
 * others are stored as the owner of the table, by one fixed statement.  Either way
 * the position is drawn by the same function that is the column's default.
 *
 * The unique index on (aggregate_id, sequence_number) is the last line behind
 * the instance lock: it holds against writers that take no lock and against
 * snapshots older than the lock.  A collision there is a lost race, which
 * drivers know how to retry: 40001.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "store/append.h"

#include "access/xact.h"
#include "base/security.h"
#include "base/spi.h"
#include "base/uuid.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "store/direct.h"
#include "store/position.h"
#include "user/event.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#define COLUMNS		8

/* Raise 40001: somebody else has appended to the instance. */
void
esrs_append_lost_race(EsrsAggregate *agg, const pg_uuid_t *id)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access to aggregate \"%s\" due to a concurrent change",
					agg->name),
			 errdetail("Another transaction has changed instance %s.", esrs_uuid_text(id)),
			 errhint("The transaction might succeed if retried.")));
	pg_unreachable();
}

static SPIPlanPtr
append_plan(EsrsAggregate *agg)
{
	Oid			types[COLUMNS] = {UUIDOID, UUIDOID, JSONBOID, TIMESTAMPTZOID,
	INT4OID, INT4OID, INT8OID, JSONBOID};

	if (agg->plans[ESRS_PLAN_APPEND] == NULL)
		agg->plans[ESRS_PLAN_APPEND] =
			esrs_spi_prepare(psprintf("INSERT INTO %s (id, aggregate_id, payload, occurred_on,"
									  " sequence_number, version, position, metadata)"
									  " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)", agg->table),
							 COLUMNS, types);
	return agg->plans[ESRS_PLAN_APPEND];
}

static void
insert_record(EsrsAggregate *agg, SPIPlanPtr plan, EsrsRecord *record)
{
	Datum		values[COLUMNS];
	char		nulls[COLUMNS];

	memset(nulls, ' ', sizeof(nulls));
	record->position = esrs_position_next(agg->hash);
	values[0] = UUIDPGetDatum(&record->id);
	values[1] = UUIDPGetDatum(&record->aggregate_id);
	values[2] = JsonbPGetDatum(record->payload);
	values[3] = TimestampTzGetDatum(record->occurred_on);
	values[4] = Int32GetDatum(record->sequence_number);
	values[5] = Int32GetDatum(record->version);
	if (record->version == ESRS_NO_VERSION)
		nulls[5] = 'n';
	values[6] = Int64GetDatum(record->position);
	values[7] = JsonbPGetDatum(record->metadata);
	if (record->metadata == NULL)
		nulls[7] = 'n';
	if (esrs_spi_execute(plan, values, nulls, SPI_OK_INSERT) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("event was not stored in table %s", agg->table),
				 errdetail("A trigger or a rule on the table suppressed the insertion.")));
	record->xmin = GetCurrentTransactionId();
}

/*
 * After an error of an insertion: a collision of the sequence number becomes
 * 40001; any other violation of a constraint loses its DETAIL, which shows
 * values, or the whole row.
 */
static void
rethrow(EsrsAggregate *agg, EsrsRecord *record, MemoryContext context)
{
	ErrorData  *error;

	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	FlushErrorState();
	if (error->sqlerrcode == ERRCODE_UNIQUE_VIOLATION &&
		error->schema_name != NULL && error->table_name != NULL &&
		error->constraint_name != NULL &&
		strcmp(error->constraint_name, agg->sequence_index_name) == 0 &&
		strcmp(quote_qualified_identifier(error->schema_name, error->table_name),
			   agg->table) == 0)
		esrs_append_lost_race(agg, &record->aggregate_id);
	if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INTEGRITY_CONSTRAINT_VIOLATION)
		error->detail = error->detail_log = NULL;
	ReThrowError(error);
}

/* Store new events by statements, as the owner of the table. */
static void
append_by_statements(EsrsAggregate *agg, List *records)
{
	EsrsIdentity before;
	SPIPlanPtr	plan;
	ListCell   *lc;

	esrs_security_become(&before, agg->owner);
	esrs_spi_begin();
	plan = append_plan(agg);
	foreach(lc, records)
	{
		CHECK_FOR_INTERRUPTS();
		insert_record(agg, plan, (EsrsRecord *) lfirst(lc));
	}
	esrs_spi_end();
	esrs_security_restore(&before);
}

/*
 * Store new events of one instance and fill their positions.  Everything else
 * in the records is set; the instance and the table are locked.
 */
void
esrs_append(EsrsAggregate *agg, List *records)
{
	MemoryContext context = CurrentMemoryContext;

	if (records == NIL)
		return;
	PG_TRY();
	{
		if (esrs_direct_append_obstacle(agg) == NULL)
			esrs_direct_append(agg, records);
		else
			append_by_statements(agg, records);
	}
	PG_CATCH();
	{
		rethrow(agg, (EsrsRecord *) linitial(records), context);
	}
	PG_END_TRY();
}
