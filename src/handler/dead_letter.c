/*-------------------------------------------------------------------------
 *
 * dead_letter.c
 *	  Events that an asynchronous handler has given up, and those parked behind
 *	  them: noting, retrying and discarding them.
 *
 * With on_error "park" later events of an instance wait behind the one that was
 * given up, so that the handler sees each instance in order.  What the handler
 * said of its failure is its role's own business: the view shows it to nobody
 * else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "esrs.h"

#include "handler/dead_letter.h"

#include "base/security.h"
#include "base/spi.h"
#include "catalog/checkpoint.h"
#include "catalog/extension.h"
#include "catalog/pg_type.h"
#include "handler/batch.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(esrs_retry_dead_letters);
PG_FUNCTION_INFO_V1(esrs_discard_dead_letters);

/* A row of esrs.dead_letters, as far as it is needed to try again. */
typedef struct Letter
{
	int64		position;
	char	   *aggregate;
	pg_uuid_t	id;
	int			attempts;
} Letter;

static uint64
as_owner(const char *query, int nargs, Oid *types, Datum *values, const char *nulls, int expected)
{
	EsrsIdentity before;
	uint64		n;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	n = esrs_spi_run(query, nargs, types, values, nulls, expected);
	esrs_spi_end();
	esrs_security_restore(&before);
	return n;
}

static Datum
text_or_null(const char *text, char *null)
{
	*null = text ? ' ' : 'n';
	return text ? CStringGetTextDatum(text) : (Datum) 0;
}

/*
 * Note an event, or a deletion, that a handler has given up; without an error:
 * that is parked behind one.
 */
void
esrs_dead_letter_write(EsrsConsumer *consumer, EsrsAggregate *agg, const EsrsRecord *record,
					   int attempts, ErrorData *error)
{
	Oid			types[12] = {TEXTOID, INT8OID, TEXTOID, UUIDOID, UUIDOID, INT4OID, TEXTOID,
	INT4OID, TEXTOID, TEXTOID, TEXTOID, TEXTOID};
	Datum		values[12];
	char		nulls[12];

	memset(nulls, ' ', sizeof(nulls));
	values[0] = CStringGetTextDatum(consumer->name);
	values[1] = Int64GetDatum(record->position);
	values[2] = CStringGetTextDatum(agg->name);
	values[3] = UUIDPGetDatum(&record->aggregate_id);
	values[4] = UUIDPGetDatum(&record->id);
	values[5] = Int32GetDatum(record->sequence_number);
	if (record->deletion)
		nulls[4] = nulls[5] = 'n';
	values[6] = CStringGetTextDatum(error ? "dead" : "parked");
	values[7] = Int32GetDatum(attempts);
	values[8] = text_or_null(error ? unpack_sql_state(error->sqlerrcode) : NULL, &nulls[8]);
	values[9] = text_or_null(error ? error->message : NULL, &nulls[9]);
	values[10] = text_or_null(error ? error->detail : NULL, &nulls[10]);
	values[11] = text_or_null(error ? error->context : NULL, &nulls[11]);
	(void) as_owner("INSERT INTO esrs.dead_letters (handler, position, aggregate, aggregate_id,"
					" event_id, sequence_number, state, attempts, sqlstate, message, detail, context)"
					" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
					" ON CONFLICT (handler, position) DO UPDATE SET state = excluded.state,"
					" failed_at = pg_catalog.now(), attempts = excluded.attempts,"
					" sqlstate = excluded.sqlstate, message = excluded.message,"
					" detail = excluded.detail, context = excluded.context",
					12, types, values, nulls, SPI_OK_INSERT);
}

/* Has the handler given up anything at all? */
bool
esrs_dead_letter_has_any(EsrsConsumer *consumer)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(consumer->name)};

	return as_owner("SELECT 1 FROM esrs.dead_letters WHERE handler OPERATOR(pg_catalog.=) $1 LIMIT 1",
					1, types, values, NULL, SPI_OK_SELECT) > 0;
}

/* Has it given up an event of this instance? */
bool
esrs_dead_letter_is_parked(EsrsConsumer *consumer, EsrsAggregate *agg, const pg_uuid_t *id)
{
	Oid			types[3] = {TEXTOID, UUIDOID, TEXTOID};
	Datum		values[3] = {CStringGetTextDatum(consumer->name), UUIDPGetDatum(id),
	CStringGetTextDatum(agg->name)};

	return as_owner("SELECT 1 FROM esrs.dead_letters WHERE handler OPERATOR(pg_catalog.=) $1"
					" AND aggregate_id OPERATOR(pg_catalog.=) $2"
					" AND aggregate OPERATOR(pg_catalog.=) $3 LIMIT 1",
					3, types, values, NULL, SPI_OK_SELECT) > 0;
}

/* Forget what a handler has given up, of one instance or, without "id", of all. */
void
esrs_dead_letter_forget(EsrsConsumer *consumer, const pg_uuid_t *id)
{
	Oid			types[2] = {TEXTOID, UUIDOID};
	Datum		values[2] = {CStringGetTextDatum(consumer->name), UUIDPGetDatum(id)};

	(void) as_owner("DELETE FROM esrs.dead_letters WHERE handler OPERATOR(pg_catalog.=) $1"
					" AND ($2 IS NULL OR aggregate_id OPERATOR(pg_catalog.=) $2)",
					2, types, values, id ? "  " : " n", SPI_OK_DELETE);
}

static void
delete_letter(EsrsConsumer *consumer, int64 position)
{
	Oid			types[2] = {TEXTOID, INT8OID};
	Datum		values[2] = {CStringGetTextDatum(consumer->name), Int64GetDatum(position)};

	(void) as_owner("DELETE FROM esrs.dead_letters WHERE handler OPERATOR(pg_catalog.=) $1"
					" AND position OPERATOR(pg_catalog.=) $2",
					2, types, values, NULL, SPI_OK_DELETE);
}

/* The letters of a handler in order, in the current context. */
static Letter *
read_letters(EsrsConsumer *consumer, int *n)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(consumer->name)};
	EsrsIdentity before;
	Letter	   *letters;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	*n = (int) esrs_spi_run("SELECT position, aggregate, aggregate_id, attempts"
							" FROM esrs.dead_letters WHERE handler OPERATOR(pg_catalog.=) $1"
							" ORDER BY position", 1, types, values, NULL, SPI_OK_SELECT);
	letters = palloc_extended(sizeof(Letter) * Max(*n, 1), MCXT_ALLOC_HUGE);
	for (int i = 0; i < *n; i++)
	{
		bool		isnull;

		letters[i].position = DatumGetInt64(esrs_spi_column(i, 1, &isnull));
		letters[i].aggregate = esrs_spi_text(i, 2);
		letters[i].id = *DatumGetUUIDP(esrs_spi_column(i, 3, &isnull));
		letters[i].attempts = DatumGetInt32(esrs_spi_column(i, 4, &isnull));
	}
	esrs_spi_end();
	esrs_security_restore(&before);
	return letters;
}

/* Does an earlier letter of the same instance remain? */
static bool
waits(List *stuck, Letter *letter)
{
	ListCell   *lc;

	foreach(lc, stuck)
	{
		Letter	   *before = (Letter *) lfirst(lc);

		if (memcmp(before->id.data, letter->id.data, UUID_LEN) == 0 &&
			strcmp(before->aggregate, letter->aggregate) == 0)
			return true;
	}
	return false;
}

/*
 * Try one letter again.  True if it is done with: handled, or its event does not
 * exist any more.
 */
static bool
retry(EsrsConsumer *consumer, Letter *letter)
{
	EsrsAggregate *agg = esrs_aggregate_lookup_locked(letter->aggregate, AccessShareLock);
	EsrsBatch	batch = {.consumer = consumer,.deadline = DT_NOEND,
	.restricted = consumer->handler->run_as != GetUserId()};
	EsrsFeedRange range = {.after = letter->position - 1,.upto = letter->position,
	.instance = &letter->id,.max = 1};

	esrs_batch_read(&batch, NULL, list_make1(agg), &range);
	if (batch.n > 0 && esrs_batch_attempt(&batch, 0, 1) < 0)
	{
		esrs_dead_letter_write(consumer, agg, batch.items[0].record, letter->attempts + 1,
							   batch.error);
		return false;
	}
	delete_letter(consumer, letter->position);
	return true;
}

/* The handler of a function's argument, with its checkpoints locked. */
static EsrsConsumer *
locked_consumer(FunctionCallInfo fcinfo, const char *function)
{
	EsrsConsumer *consumer;
	char	   *name;

	PreventCommandIfReadOnly(function);
	PreventCommandDuringRecovery(function);
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name of an event handler must not be null")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (esrs_call_is_running())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s cannot be called by a callback or an event handler", function)));
	consumer = esrs_consumer_lookup(name);
	esrs_consumer_check_right(consumer);
	(void) esrs_checkpoint_lock_all(name);
	consumer = esrs_consumer_recheck(consumer);
	if (consumer == NULL)
		esrs_consumer_missing(name);
	return consumer;
}

/* esrs_retry_dead_letters(handler) returns int: how many are done with */
Datum
esrs_retry_dead_letters(PG_FUNCTION_ARGS)
{
	EsrsConsumer *consumer = locked_consumer(fcinfo, "esrs_retry_dead_letters()");
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "esrs dead letter",
												  ALLOCSET_DEFAULT_SIZES);
	List	   *stuck = NIL;
	int			done = 0;
	int			n;
	Letter	   *letters = read_letters(consumer, &n);

	for (int i = 0; i < n; i++)
	{
		MemoryContext before;
		bool		ok;

		CHECK_FOR_INTERRUPTS();
		if (consumer->on_error == ESRS_ON_ERROR_PARK && waits(stuck, &letters[i]))
			continue;
		before = MemoryContextSwitchTo(scratch);
		ok = retry(consumer, &letters[i]);
		MemoryContextSwitchTo(before);
		MemoryContextReset(scratch);
		if (ok)
			done++;
		else
			stuck = lappend(stuck, &letters[i]);
	}
	MemoryContextDelete(scratch);
	PG_RETURN_INT32(done);
}

/* esrs_discard_dead_letters(handler) returns int: how many there were */
Datum
esrs_discard_dead_letters(PG_FUNCTION_ARGS)
{
	EsrsConsumer *consumer = locked_consumer(fcinfo, "esrs_discard_dead_letters()");
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(consumer->name)};

	PG_RETURN_INT32((int32) as_owner("DELETE FROM esrs.dead_letters WHERE handler OPERATOR(pg_catalog.=) $1",
									 1, types, values, NULL, SPI_OK_DELETE));
}
