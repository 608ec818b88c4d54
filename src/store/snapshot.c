/*-------------------------------------------------------------------------
 *
 * snapshot.c
 *	  Stored states of instances, one row each in esrs.snapshots.
 *
 * A snapshot is believed only if the functions that made it are those of now
 * (its fingerprint) and it is as it was written (its checksum).  Whoever reads
 * it must also find the event that it names.  Events before that are what they
 * were: a snapshot is neither made nor used where the guard of the events table
 * would let somebody change them.
 *
 * The catalog is read and written as its owner.  It is not dumped: what is lost
 * is folded again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "store/snapshot.h"

#include "access/xact.h"
#include "base/jsonb_codec.h"
#include "base/security.h"
#include "base/spi.h"
#include "catalog/extension.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "store/append.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

/* 4th field of the lock's tag, see lock.c for the others */
#define SNAPSHOT_LOCK_CLASS		0xE547

/* Plans on the catalog, kept for the life of the backend. */
static SPIPlanPtr find_plan = NULL;
static SPIPlanPtr write_plan = NULL;
static SPIPlanPtr delete_plan = NULL;

static int64
checksum(const EsrsSnapshot *s, const uint8 *fingerprint)
{
	int64		numbers[] = {s->sequence_number, s->position, s->occurred_on};
	uint64		hash;

	hash = hash_bytes_extended(fingerprint, ESRS_FINGERPRINT_LENGTH, 0);
	hash = hash_bytes_extended(s->aggregate_id.data, UUID_LEN, hash);
	hash = hash_bytes_extended(s->event_id.data, UUID_LEN, hash);
	hash = hash_bytes_extended((unsigned char *) numbers, sizeof(numbers), hash);
	return (int64) hash_bytes_extended((unsigned char *) s->state, VARSIZE(s->state), hash);
}

/*
 * The snapshot of an instance, as far as the MVCC snapshot sees it; its state is
 * in the current context.  The aggregate has a fingerprint.
 */
EsrsSnapshotCondition
esrs_snapshot_find(EsrsAggregate *agg, const pg_uuid_t *id, Snapshot snapshot,
				   EsrsSnapshot *result)
{
	const uint8 *fingerprint = esrs_aggregate_fingerprint(agg);
	Oid			types[2] = {UUIDOID, TEXTOID};
	Datum		values[2] = {UUIDPGetDatum(id), CStringGetTextDatum(agg->name)};
	EsrsSnapshotCondition condition = ESRS_SNAPSHOT_MISSING;
	EsrsIdentity before;
	bool		isnull;

	Assert(fingerprint != NULL);
	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_prefer_index();
	esrs_spi_begin();
	if (esrs_spi_select_at(esrs_spi_keep(&find_plan,
										 "SELECT sequence_number, event_id, occurred_on, fingerprint,"
										 " checksum, state, position FROM esrs.snapshots"
										 " WHERE aggregate_id OPERATOR(pg_catalog.=) $1"
										 " AND aggregate OPERATOR(pg_catalog.=) $2", 2, types),
						   values, NULL, snapshot) > 0)
	{
		bytea	   *made_by = DatumGetByteaPP(esrs_spi_column(0, 4, &isnull));

		result->aggregate_id = *id;
		result->sequence_number = DatumGetInt32(esrs_spi_column(0, 1, &isnull));
		result->event_id = *DatumGetUUIDP(esrs_spi_column(0, 2, &isnull));
		result->occurred_on = DatumGetTimestampTz(esrs_spi_column(0, 3, &isnull));
		result->position = DatumGetInt64(esrs_spi_column(0, 7, &isnull));
		result->state = esrs_jsonb_copy(DatumGetJsonbP(esrs_spi_column(0, 6, &isnull)));
		if (VARSIZE_ANY_EXHDR(made_by) != ESRS_FINGERPRINT_LENGTH ||
			memcmp(VARDATA_ANY(made_by), fingerprint, ESRS_FINGERPRINT_LENGTH) != 0)
			condition = ESRS_SNAPSHOT_WORTHLESS;
		else if (DatumGetInt64(esrs_spi_column(0, 5, &isnull)) != checksum(result, fingerprint))
			condition = ESRS_SNAPSHOT_DAMAGED;
		else
			condition = ESRS_SNAPSHOT_OK;
	}
	esrs_spi_end();
	esrs_security_restore(&before);
	return condition;
}

/*
 * Write, or replace, the snapshot of an instance.  Its row lies on a page with
 * room, and no indexed column changes: the update is HOT.
 */
void
esrs_snapshot_write(EsrsAggregate *agg, const EsrsSnapshot *s)
{
	const uint8 *fingerprint = esrs_aggregate_fingerprint(agg);
	Oid			types[9] = {UUIDOID, TEXTOID, INT4OID, UUIDOID, TIMESTAMPTZOID, BYTEAOID,
	INT8OID, JSONBOID, INT8OID};
	bytea	   *made_by = palloc(VARHDRSZ + ESRS_FINGERPRINT_LENGTH);
	Datum		values[9];
	EsrsIdentity before;

	Assert(fingerprint != NULL);
	SET_VARSIZE(made_by, VARHDRSZ + ESRS_FINGERPRINT_LENGTH);
	memcpy(VARDATA(made_by), fingerprint, ESRS_FINGERPRINT_LENGTH);
	values[0] = UUIDPGetDatum(&s->aggregate_id);
	values[1] = CStringGetTextDatum(agg->name);
	values[2] = Int32GetDatum(s->sequence_number);
	values[3] = UUIDPGetDatum(&s->event_id);
	values[4] = TimestampTzGetDatum(s->occurred_on);
	values[5] = PointerGetDatum(made_by);
	values[6] = Int64GetDatum(checksum(s, fingerprint));
	values[7] = JsonbPGetDatum(s->state);
	values[8] = Int64GetDatum(s->position);
	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	(void) esrs_spi_execute(esrs_spi_keep(&write_plan,
										  "INSERT INTO esrs.snapshots AS s (aggregate_id, aggregate,"
										  " sequence_number, event_id, occurred_on, fingerprint, checksum, state, position)"
										  " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
										  " ON CONFLICT (aggregate_id, aggregate) DO UPDATE SET"
										  " sequence_number = excluded.sequence_number,"
										  " event_id = excluded.event_id, position = excluded.position,"
										  " occurred_on = excluded.occurred_on,"
										  " fingerprint = excluded.fingerprint, checksum = excluded.checksum,"
										  " state = excluded.state", 9, types),
							values, NULL, SPI_OK_INSERT);
	esrs_spi_end();
	esrs_security_restore(&before);
}

/*
 * Delete the snapshot of an instance, which is locked, as are those who make
 * snapshots anew.  Raises 40001 if there is one that the transaction's snapshot is
 * too old to see: it must not outlive its instance.
 */
void
esrs_snapshot_delete(EsrsAggregate *agg, const pg_uuid_t *id)
{
	Oid			types[2] = {TEXTOID, UUIDOID};
	Datum		values[2] = {CStringGetTextDatum(agg->name), UUIDPGetDatum(id)};
	EsrsIdentity before;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_prefer_index();
	esrs_spi_begin();
	if (esrs_spi_execute(esrs_spi_keep(&delete_plan,
									   "DELETE FROM esrs.snapshots"
									   " WHERE aggregate OPERATOR(pg_catalog.=) $1"
									   " AND aggregate_id OPERATOR(pg_catalog.=) $2", 2, types),
						 values, NULL, SPI_OK_DELETE) == 0 &&
		IsolationUsesXactSnapshot() &&
		esrs_spi_select_latest("SELECT 1 FROM esrs.snapshots"
							   " WHERE aggregate OPERATOR(pg_catalog.=) $1"
							   " AND aggregate_id OPERATOR(pg_catalog.=) $2",
							   2, types, values) > 0)
		esrs_append_lost_race(agg, id);
	esrs_spi_end();
	esrs_security_restore(&before);
}

/*
 * The lock on the snapshots of an aggregate, until the transaction ends.  Who
 * writes one takes it in ShareLock, without waiting; who makes all of them anew,
 * in ExclusiveLock: commands then leave theirs out instead of waiting for him.
 */
bool
esrs_snapshot_lock(EsrsAggregate *agg, LOCKMODE mode, bool wait)
{
	LOCKTAG		tag;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, 0, agg->hash, SNAPSHOT_LOCK_CLASS);
	return LockAcquire(&tag, mode, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}
