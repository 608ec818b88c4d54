/*-------------------------------------------------------------------------
 *
 * ledger.c
 *	  Commands that were seen (esrs.commands) and instances that were deleted
 *	  (esrs.deletions).
 *
 * The instance is locked by whoever calls this.  The catalogs are read and
 * written as their owner; events are deleted as the owner of their table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "store/ledger.h"

#include "base/jsonb_codec.h"
#include "base/security.h"
#include "base/spi.h"
#include "catalog/event_table.h"
#include "catalog/extension.h"
#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "store/append.h"
#include "store/position.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* Plans on the catalogs, kept for the life of the backend. */
static SPIPlanPtr find_command_plan = NULL;
static SPIPlanPtr record_command_plan = NULL;
static SPIPlanPtr forget_commands_plan = NULL;
static SPIPlanPtr is_gone_plan = NULL;
static SPIPlanPtr record_deletion_plan = NULL;

/* SHA-256 of a command as compact text, into PG_SHA256_DIGEST_LENGTH bytes. */
void
esrs_ledger_digest(Jsonb *command, uint8 *sha256)
{
	pg_cryptohash_ctx *hash = pg_cryptohash_create(PG_SHA256);
	StringInfoData text;

	initStringInfo(&text);
	esrs_jsonb_append(&text, command);
	if (hash == NULL || pg_cryptohash_init(hash) < 0 ||
		pg_cryptohash_update(hash, (uint8 *) text.data, text.len) < 0 ||
		pg_cryptohash_final(hash, sha256, PG_SHA256_DIGEST_LENGTH) < 0)
		elog(ERROR, "could not compute SHA-256: %s", pg_cryptohash_error(hash));
	pg_cryptohash_free(hash);
	pfree(text.data);
}

/* Was a command with this id handled on the instance before? */
bool
esrs_ledger_find_command(EsrsAggregate *agg, const pg_uuid_t *id,
						 const pg_uuid_t *command_id, Snapshot snapshot,
						 EsrsSeenCommand *seen)
{
	Oid			types[3] = {UUIDOID, TEXTOID, UUIDOID};
	Datum		values[3] = {UUIDPGetDatum(id), CStringGetTextDatum(agg->name),
	UUIDPGetDatum(command_id)};
	EsrsIdentity before;
	bool		found;
	bool		isnull;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_prefer_index();
	esrs_spi_begin();
	found = esrs_spi_select_at(esrs_spi_keep(&find_command_plan,
											 "SELECT sha256, sequence_number, events FROM esrs.commands"
											 " WHERE aggregate_id OPERATOR(pg_catalog.=) $1"
											 " AND aggregate OPERATOR(pg_catalog.=) $2"
											 " AND command_id OPERATOR(pg_catalog.=) $3", 3, types),
							   values, NULL, snapshot) > 0;
	if (found)
	{
		bytea	   *digest = DatumGetByteaPP(esrs_spi_column(0, 1, &isnull));

		if (VARSIZE_ANY_EXHDR(digest) != PG_SHA256_DIGEST_LENGTH)
			elog(ERROR, "esrs.commands holds a digest of %d bytes",
				 (int) VARSIZE_ANY_EXHDR(digest));
		memcpy(seen->sha256, VARDATA_ANY(digest), PG_SHA256_DIGEST_LENGTH);
		seen->sequence_number = DatumGetInt32(esrs_spi_column(0, 2, &isnull));
		seen->nevents = DatumGetInt32(esrs_spi_column(0, 3, &isnull));
	}
	esrs_spi_end();
	esrs_security_restore(&before);
	return found;
}

/* Remember a command.  Raises 40001 if somebody else has done so meanwhile. */
void
esrs_ledger_record_command(EsrsAggregate *agg, const pg_uuid_t *id,
						   const pg_uuid_t *command_id, const EsrsSeenCommand *seen)
{
	Oid			types[6] = {UUIDOID, TEXTOID, UUIDOID, BYTEAOID, INT4OID, INT4OID};
	bytea	   *digest = palloc(VARHDRSZ + PG_SHA256_DIGEST_LENGTH);
	Datum		values[6];
	EsrsIdentity before;

	SET_VARSIZE(digest, VARHDRSZ + PG_SHA256_DIGEST_LENGTH);
	memcpy(VARDATA(digest), seen->sha256, PG_SHA256_DIGEST_LENGTH);
	values[0] = UUIDPGetDatum(id);
	values[1] = CStringGetTextDatum(agg->name);
	values[2] = UUIDPGetDatum(command_id);
	values[3] = PointerGetDatum(digest);
	values[4] = Int32GetDatum(seen->sequence_number);
	values[5] = Int32GetDatum(seen->nevents);

	/*
	 * an older snapshot may not see the row that is there: no error, but no
	 * row
	 */
	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	if (esrs_spi_execute(esrs_spi_keep(&record_command_plan,
									   "INSERT INTO esrs.commands"
									   " (aggregate_id, aggregate, command_id, sha256, sequence_number, events)"
									   " VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING", 6, types),
						 values, NULL, SPI_OK_INSERT) != 1)
		esrs_append_lost_race(agg, id);
	esrs_spi_end();
	esrs_security_restore(&before);
}

/* Was the instance deleted for good? */
bool
esrs_ledger_is_gone(EsrsAggregate *agg, const pg_uuid_t *id, Snapshot snapshot)
{
	Oid			types[2] = {UUIDOID, TEXTOID};
	Datum		values[2] = {UUIDPGetDatum(id), CStringGetTextDatum(agg->name)};
	EsrsIdentity before;
	bool		gone;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_prefer_index();
	esrs_spi_begin();
	gone = esrs_spi_select_at(esrs_spi_keep(&is_gone_plan,
											"SELECT 1 FROM esrs.deletions"
											" WHERE aggregate_id OPERATOR(pg_catalog.=) $1"
											" AND aggregate OPERATOR(pg_catalog.=) $2"
											" AND permanent LIMIT 1", 2, types),
							  values, NULL, snapshot) > 0;
	esrs_spi_end();
	esrs_security_restore(&before);
	return gone;
}

/* Delete the events of an instance, past the guard; returns their number. */
uint64
esrs_ledger_delete_events(EsrsAggregate *agg, const pg_uuid_t *id)
{
	Oid			types[1] = {UUIDOID};
	Datum		values[1] = {UUIDPGetDatum(id)};
	SPIPlanPtr *plan = &agg->plans[ESRS_PLAN_DELETE];
	EsrsIdentity before;
	volatile uint64 n = 0;

	esrs_security_become(&before, agg->owner);
	esrs_spi_begin();
	if (*plan == NULL)
		*plan = esrs_spi_prepare(psprintf("DELETE FROM %s WHERE aggregate_id OPERATOR(pg_catalog.=) $1",
										  agg->table), 1, types);
	esrs_event_table_allow(agg->events);
	PG_TRY();
	{
		n = esrs_spi_execute(*plan, values, NULL, SPI_OK_DELETE);
	}
	PG_FINALLY();
	{
		esrs_event_table_disallow();
	}
	PG_END_TRY();
	esrs_spi_end();
	esrs_security_restore(&before);
	return n;
}

/*
 * Tell the feed of a deletion, and forget the commands that the instance has
 * seen: their sequence numbers mean nothing any more.  Returns the position.
 */
int64
esrs_ledger_record_deletion(EsrsAggregate *agg, const pg_uuid_t *id, TimestampTz now,
							int32 last_sequence, bool permanent, Jsonb *metadata)
{
	Oid			types[7] = {UUIDOID, TEXTOID, INT8OID, TIMESTAMPTZOID, INT4OID, BOOLOID, JSONBOID};
	Datum		values[7];
	char		nulls[7];
	int64		position = esrs_position_next(agg->hash);
	EsrsIdentity before;

	memset(nulls, ' ', sizeof(nulls));
	values[0] = UUIDPGetDatum(id);
	values[1] = CStringGetTextDatum(agg->name);
	values[2] = Int64GetDatum(position);
	values[3] = TimestampTzGetDatum(now);
	values[4] = Int32GetDatum(last_sequence);
	values[5] = BoolGetDatum(permanent);
	values[6] = JsonbPGetDatum(metadata);
	if (metadata == NULL)
		nulls[6] = 'n';

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	(void) esrs_spi_execute(esrs_spi_keep(&forget_commands_plan,
										  "DELETE FROM esrs.commands"
										  " WHERE aggregate_id OPERATOR(pg_catalog.=) $1"
										  " AND aggregate OPERATOR(pg_catalog.=) $2", 2, types),
							values, NULL, SPI_OK_DELETE);
	(void) esrs_spi_execute(esrs_spi_keep(&record_deletion_plan,
										  "INSERT INTO esrs.deletions (aggregate_id, aggregate, position,"
										  " deleted_at, last_sequence, permanent, metadata)"
										  " VALUES ($1, $2, $3, $4, $5, $6, $7)", 7, types),
							values, nulls, SPI_OK_INSERT);
	esrs_spi_end();
	esrs_security_restore(&before);
	return position;
}
