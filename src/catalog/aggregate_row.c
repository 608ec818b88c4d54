/*-------------------------------------------------------------------------
 *
 * aggregate_row.c
 *	  The options of an aggregate and their row in esrs.aggregates.
 *
 * The catalog is read and written as its owner; who may ask for it was checked
 * before.  What the options mean is not known here, see register.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/aggregate_row.h"

#include "base/jsonb_codec.h"
#include "base/security.h"
#include "base/spi.h"
#include "catalog/extension.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"

#define ROW_COLUMNS		19

static Datum
text_or_null(const char *s, char *isnull)
{
	*isnull = s ? ' ' : 'n';
	return s ? CStringGetTextDatum(s) : (Datum) 0;
}

/* Write the row of an aggregate, new or changed. */
void
esrs_aggregate_row_write(const char *name, Oid events, bool adopted, EsrsAggregateOptions *o, bool update)
{
	Oid			types[ROW_COLUMNS] = {TEXTOID, OIDOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID,
		TEXTOID, TEXTOID, TEXTOID, INT4OID, INT4OID, TEXTOID, TEXTOID, BOOLOID, BOOLOID,
	TEXTOID, TEXTOID, BOOLOID, OIDOID};
	Datum		values[ROW_COLUMNS];
	char		nulls[ROW_COLUMNS];
	EsrsIdentity before;
	const char *query;

	memset(nulls, ' ', sizeof(nulls));
	values[0] = CStringGetTextDatum(name);
	values[1] = ObjectIdGetDatum(events);
	values[2] = text_or_null(o->callbacks[ESRS_CALLBACK_HANDLER], &nulls[2]);
	values[3] = text_or_null(o->callbacks[ESRS_CALLBACK_HANDLE_COMMAND], &nulls[3]);
	values[4] = text_or_null(o->callbacks[ESRS_CALLBACK_APPLY_EVENT], &nulls[4]);
	nulls[5] = o->initial_state ? ' ' : 'n';
	values[5] = o->initial_state ? JsonbPGetDatum(o->initial_state) : (Datum) 0;
	values[6] = text_or_null(o->callbacks[ESRS_CALLBACK_UPCAST], &nulls[6]);
	values[7] = text_or_null(o->callbacks[ESRS_CALLBACK_FROM_EVENT], &nulls[7]);
	values[8] = text_or_null(o->callbacks[ESRS_CALLBACK_TO_EVENT], &nulls[8]);
	nulls[9] = o->no_version ? 'n' : ' ';
	values[9] = Int32GetDatum(o->event_version);
	nulls[10] = o->no_snapshots ? 'n' : ' ';
	values[10] = Int32GetDatum(o->snapshot_every);
	values[11] = CStringGetTextDatum(o->event_id_format);
	values[12] = text_or_null(o->event_type_path, &nulls[12]);
	values[13] = BoolGetDatum(o->unique_event_id);
	values[14] = BoolGetDatum(o->append_only);
	values[15] = text_or_null(o->notify, &nulls[15]);
	values[16] = text_or_null(o->notify_payload, &nulls[16]);
	values[17] = BoolGetDatum(adopted);
	values[18] = ObjectIdGetDatum(o->registered_by);

	if (update)
		query = "UPDATE esrs.aggregates SET events = $2::pg_catalog.regclass, handler = $3,"
			" handle_command = $4, apply_event = $5, initial_state = $6, upcast = $7,"
			" from_event = $8, to_event = $9, event_version = $10, snapshot_every = $11,"
			" event_id_format = $12, event_type_path = $13, unique_event_id = $14,"
			" append_only = $15, notify_payload = $17, adopted = $18, notify_since ="
			" CASE WHEN notify IS NOT DISTINCT FROM $16 THEN notify_since ELSE"
			" (SELECT last_value FROM esrs.position_seq) END, notify = $16,"
			" registered_by = $19::pg_catalog.regrole"
			" WHERE name OPERATOR(pg_catalog.=) $1";
	else
		query = "INSERT INTO esrs.aggregates (name, events, handler, handle_command, apply_event,"
			" initial_state, upcast, from_event, to_event, event_version, snapshot_every,"
			" event_id_format, event_type_path, unique_event_id, append_only, notify,"
			" notify_payload, adopted, registered_by, notify_since)"
			" VALUES ($1, $2::pg_catalog.regclass, $3, $4, $5, $6, $7,"
			" $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19::pg_catalog.regrole,"
			" (SELECT last_value OPERATOR(pg_catalog.-) CASE WHEN is_called THEN 0 ELSE 1 END"
			" FROM esrs.position_seq))";
	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	if (esrs_spi_run(query, ROW_COLUMNS, types, values, nulls,
					 update ? SPI_OK_UPDATE : SPI_OK_INSERT) != 1)
		elog(ERROR, "could not write the catalog row of aggregate \"%s\"", name);
	esrs_spi_end();
	esrs_security_restore(&before);
}

/*
 * Read the row of an aggregate.  False if there is none.  Functions are left
 * unresolved.
 */
bool
esrs_aggregate_row_read(const char *name, Oid *events, bool *adopted, EsrsAggregateOptions *o)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(name)};
	EsrsIdentity before;
	bool		isnull;
	bool		found;
	Datum		value;

	memset(o, 0, sizeof(*o));
	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	found = esrs_spi_run("SELECT events, handler, handle_command, apply_event, upcast,"
						 " from_event, to_event, initial_state, event_version,"
						 " snapshot_every, event_id_format, event_type_path,"
						 " unique_event_id, append_only, notify, notify_payload, adopted,"
						 " registered_by"
						 " FROM esrs.aggregates WHERE name OPERATOR(pg_catalog.=) $1",
						 1, types, values, NULL, SPI_OK_SELECT) > 0;
	if (found)
	{
		*events = DatumGetObjectId(esrs_spi_column(0, 1, &isnull));
		for (int i = 0; i < ESRS_CALLBACK_COUNT; i++)
			o->callbacks[i] = esrs_spi_text(0, 2 + i);
		value = esrs_spi_column(0, 8, &isnull);
		o->initial_state = isnull ? NULL : esrs_jsonb_copy(DatumGetJsonbP(value));
		o->event_version = DatumGetInt32(esrs_spi_column(0, 9, &o->no_version));
		o->snapshot_every = DatumGetInt32(esrs_spi_column(0, 10, &o->no_snapshots));
		o->event_id_format = esrs_spi_text(0, 11);
		o->event_type_path = esrs_spi_text(0, 12);
		o->unique_event_id = DatumGetBool(esrs_spi_column(0, 13, &isnull));
		o->append_only = DatumGetBool(esrs_spi_column(0, 14, &isnull));
		o->notify = esrs_spi_text(0, 15);
		o->notify_payload = esrs_spi_text(0, 16);
		*adopted = DatumGetBool(esrs_spi_column(0, 17, &isnull));
		o->registered_by = DatumGetObjectId(esrs_spi_column(0, 18, &isnull));
	}
	esrs_spi_end();
	esrs_security_restore(&before);
	return found;
}

/* The name of the aggregate whose events table this is, or NULL. */
char *
esrs_aggregate_row_of_table(Oid events)
{
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(events)};
	EsrsIdentity before;
	char	   *name = NULL;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	if (esrs_spi_run("SELECT name FROM esrs.aggregates"
					 " WHERE events OPERATOR(pg_catalog.=) $1::pg_catalog.regclass",
					 1, types, values, NULL, SPI_OK_SELECT) > 0)
		name = esrs_spi_text(0, 1);
	esrs_spi_end();
	esrs_security_restore(&before);
	return name;
}

/*
 * Wait for the batches of all that consume the events of an aggregate, and keep
 * new ones from beginning, until the transaction ends.
 */
void
esrs_aggregate_row_lock_consumers(const char *name)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(name)};
	EsrsIdentity before;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	(void) esrs_spi_run("SELECT 1 FROM esrs.checkpoints WHERE name OPERATOR(pg_catalog.=) ANY"
						" (ARRAY(SELECT h.name FROM esrs.handlers AS h"
						" WHERE $1 OPERATOR(pg_catalog.=) ANY (h.aggregates) UNION ALL"
						" SELECT s.name FROM esrs.subscriptions AS s"
						" WHERE $1 OPERATOR(pg_catalog.=) ANY (s.aggregates)))"
						" ORDER BY name, partition FOR UPDATE",
						1, types, values, NULL, SPI_OK_SELECT);
	esrs_spi_end();
	esrs_security_restore(&before);
}

/* Forget an aggregate, and the handlers and subscriptions that serve no other. */
void
esrs_aggregate_row_delete(const char *name)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(name)};
	EsrsIdentity before;
	uint64		n;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	(void) esrs_spi_run("UPDATE esrs.handlers"
						" SET aggregates = pg_catalog.array_remove(aggregates, $1)"
						" WHERE $1 OPERATOR(pg_catalog.=) ANY (aggregates)",
						1, types, values, NULL, SPI_OK_UPDATE);
	n = esrs_spi_run("DELETE FROM esrs.handlers"
					 " WHERE aggregates OPERATOR(pg_catalog.=) '{}' RETURNING name",
					 0, NULL, NULL, NULL, SPI_OK_DELETE_RETURNING);
	for (uint64 row = 0; row < n; row++)
		ereport(NOTICE,
				(errmsg("unregistered event handler \"%s\"",
						SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1)),
				 errdetail("It served no other aggregate.")));
	(void) esrs_spi_run("UPDATE esrs.subscriptions"
						" SET aggregates = pg_catalog.array_remove(aggregates, $1)"
						" WHERE $1 OPERATOR(pg_catalog.=) ANY (aggregates)",
						1, types, values, NULL, SPI_OK_UPDATE);
	n = esrs_spi_run("DELETE FROM esrs.subscriptions"
					 " WHERE aggregates OPERATOR(pg_catalog.=) '{}' RETURNING name",
					 0, NULL, NULL, NULL, SPI_OK_DELETE_RETURNING);
	for (uint64 row = 0; row < n; row++)
		ereport(NOTICE,
				(errmsg("removed subscription \"%s\"",
						SPI_getvalue(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, 1)),
				 errdetail("It was to no other aggregate.")));
	(void) esrs_spi_run("DELETE FROM esrs.checkpoints AS c"
						" WHERE NOT EXISTS (SELECT FROM esrs.handlers AS h"
						" WHERE h.name OPERATOR(pg_catalog.=) c.name)"
						" AND NOT EXISTS (SELECT FROM esrs.subscriptions AS s"
						" WHERE s.name OPERATOR(pg_catalog.=) c.name)",
						0, NULL, NULL, NULL, SPI_OK_DELETE);
	(void) esrs_spi_run("DELETE FROM esrs.dead_letters WHERE aggregate OPERATOR(pg_catalog.=) $1",
						1, types, values, NULL, SPI_OK_DELETE);
	(void) esrs_spi_run("DELETE FROM esrs.aggregates WHERE name OPERATOR(pg_catalog.=) $1",
						1, types, values, NULL, SPI_OK_DELETE);
	esrs_spi_end();
	esrs_security_restore(&before);
}

/* Forget the snapshots of an aggregate. */
void
esrs_aggregate_row_delete_snapshots(const char *name)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(name)};
	EsrsIdentity before;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	(void) esrs_spi_run("DELETE FROM esrs.snapshots WHERE aggregate OPERATOR(pg_catalog.=) $1",
						1, types, values, NULL, SPI_OK_DELETE);
	esrs_spi_end();
	esrs_security_restore(&before);
}

/* Forget the commands and deletions of an aggregate whose events are gone. */
void
esrs_aggregate_row_delete_history(const char *name)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(name)};
	EsrsIdentity before;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	(void) esrs_spi_run("DELETE FROM esrs.deletions WHERE aggregate OPERATOR(pg_catalog.=) $1",
						1, types, values, NULL, SPI_OK_DELETE);
	(void) esrs_spi_run("DELETE FROM esrs.commands WHERE aggregate OPERATOR(pg_catalog.=) $1",
						1, types, values, NULL, SPI_OK_DELETE);
	esrs_spi_end();
	esrs_security_restore(&before);
}
