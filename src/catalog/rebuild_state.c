/*-------------------------------------------------------------------------
 *
 * rebuild_state.c
 *	  How far a rebuild of many transactions has come: table esrs.rebuilds.
 *
 * A row is written with each instance, in its transaction, and goes with the last
 * one.  What is left of a rebuild that was cancelled, or that the server did not
 * survive, is where the next one goes on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/rebuild_state.h"

#include "base/security.h"
#include "base/spi.h"
#include "catalog/extension.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"

static SPIPlanPtr write_plan = NULL;

/*
 * What tells one version of some handlers from another: what they are called with,
 * and the rows of their functions.  In the current context.
 */
char *
esrs_rebuild_state_version(List *names)
{
	Oid			types[1] = {TEXTARRAYOID};
	Datum		values[1];
	Datum	   *elements = palloc(sizeof(Datum) * list_length(names));
	EsrsIdentity before;
	char	   *version;
	ListCell   *lc;

	foreach(lc, names)
	{
		elements[foreach_current_index(lc)] = CStringGetTextDatum((char *) lfirst(lc));
	}
	values[0] = PointerGetDatum(construct_array(elements, list_length(names), TEXTOID, -1, false,
												TYPALIGN_INT));
	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	(void) esrs_spi_run("SELECT pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat_ws(' ',"
						" h.name, h.mode, h.aggregates, h.event_types, h.run_as, h.search_path, h.partitions,"
						" f.oid, f.xmin, d.oid, d.xmin), ', ' ORDER BY h.name))"
						" FROM esrs.handlers h"
						" LEFT JOIN pg_catalog.pg_proc f ON f.oid OPERATOR(pg_catalog.=)"
						" pg_catalog.to_regprocedure(h.handler)::pg_catalog.oid"
						" LEFT JOIN pg_catalog.pg_proc d ON d.oid OPERATOR(pg_catalog.=)"
						" pg_catalog.to_regprocedure(h.delete_handler)::pg_catalog.oid"
						" WHERE h.name OPERATOR(pg_catalog.=) ANY ($1)",
						1, types, values, NULL, SPI_OK_SELECT);
	version = esrs_spi_text(0, 1);
	esrs_spi_end();
	esrs_security_restore(&before);
	return version ? version : pstrdup("");
}

/* What is left of an earlier rebuild, in the current context; false if nothing is. */
bool
esrs_rebuild_state_find(const char *handlers, EsrsRebuildState *state)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(handlers)};
	EsrsIdentity before;
	bool		found;
	bool		isnull;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	found = esrs_spi_run("SELECT version, last_id, instances, events, started_at FROM esrs.rebuilds"
						 " WHERE handlers OPERATOR(pg_catalog.=) $1",
						 1, types, values, NULL, SPI_OK_SELECT) > 0;
	if (found)
	{
		state->version = esrs_spi_text(0, 1);
		state->last_id = *DatumGetUUIDP(esrs_spi_column(0, 2, &isnull));
		state->instances = DatumGetInt64(esrs_spi_column(0, 3, &isnull));
		state->events = DatumGetInt64(esrs_spi_column(0, 4, &isnull));
		state->started_at = DatumGetTimestampTz(esrs_spi_column(0, 5, &isnull));
	}
	esrs_spi_end();
	esrs_security_restore(&before);
	return found;
}

/* Note how far the rebuild is. */
void
esrs_rebuild_state_write(const EsrsRebuildState *state)
{
	Oid			types[6] = {TEXTOID, TEXTOID, UUIDOID, INT8OID, INT8OID, TIMESTAMPTZOID};
	Datum		values[6] = {CStringGetTextDatum(state->handlers),
		CStringGetTextDatum(state->version), UUIDPGetDatum(&state->last_id),
		Int64GetDatum(state->instances), Int64GetDatum(state->events),
	TimestampTzGetDatum(state->started_at)};
	EsrsIdentity before;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	(void) esrs_spi_execute(esrs_spi_keep(&write_plan,
										  "INSERT INTO esrs.rebuilds AS r (handlers, version, last_id,"
										  " instances, events, started_at) VALUES ($1, $2, $3, $4, $5, $6)"
										  " ON CONFLICT (handlers) DO UPDATE SET version = excluded.version,"
										  " last_id = excluded.last_id, instances = excluded.instances,"
										  " events = excluded.events, started_at = excluded.started_at",
										  6, types),
							values, NULL, SPI_OK_INSERT);
	esrs_spi_end();
	esrs_security_restore(&before);
}

/* The rebuild is done, or what was left of it is worthless. */
void
esrs_rebuild_state_delete(const char *handlers)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(handlers)};
	EsrsIdentity before;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	(void) esrs_spi_run("DELETE FROM esrs.rebuilds WHERE handlers OPERATOR(pg_catalog.=) $1",
						1, types, values, NULL, SPI_OK_DELETE);
	esrs_spi_end();
	esrs_security_restore(&before);
}
