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

/*
 * What is left of an earlier rebuild: of EsrsRebuildState, by share, in the current
 * context; NIL if nothing is.
 */
List *
esrs_rebuild_state_list(const char *handlers)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(handlers)};
	EsrsIdentity before;
	List	   *states = NIL;
	uint64		n;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	n = esrs_spi_run("SELECT version, share, shares, last_id, done, instances, events, started_at"
					 " FROM esrs.rebuilds WHERE handlers OPERATOR(pg_catalog.=) $1"
					 " ORDER BY share",
					 1, types, values, NULL, SPI_OK_SELECT);
	for (uint64 i = 0; i < n; i++)
	{
		EsrsRebuildState *state = palloc0(sizeof(EsrsRebuildState));
		bool		isnull;
		Datum		last_id = esrs_spi_column(i, 4, &isnull);

		state->handlers = pstrdup(handlers);
		state->version = esrs_spi_text(i, 1);
		state->begun = !isnull;
		if (state->begun)
			state->last_id = *DatumGetUUIDP(last_id);
		state->share = DatumGetInt32(esrs_spi_column(i, 2, &isnull));
		state->shares = DatumGetInt32(esrs_spi_column(i, 3, &isnull));
		state->done = DatumGetBool(esrs_spi_column(i, 5, &isnull));
		state->instances = DatumGetInt64(esrs_spi_column(i, 6, &isnull));
		state->events = DatumGetInt64(esrs_spi_column(i, 7, &isnull));
		state->started_at = DatumGetTimestampTz(esrs_spi_column(i, 8, &isnull));
		states = lappend(states, state);
	}
	esrs_spi_end();
	esrs_security_restore(&before);
	return states;
}

/* Note that a rebuild begins, with nothing of a share done. */
void
esrs_rebuild_state_begin(const EsrsRebuildState *state)
{
	Oid			types[5] = {TEXTOID, INT4OID, INT4OID, TEXTOID, TIMESTAMPTZOID};
	Datum		values[5] = {CStringGetTextDatum(state->handlers), Int32GetDatum(state->share),
		Int32GetDatum(state->shares), CStringGetTextDatum(state->version),
	TimestampTzGetDatum(state->started_at)};
	EsrsIdentity before;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	(void) esrs_spi_run("INSERT INTO esrs.rebuilds (handlers, share, shares, version, done,"
						" instances, events, started_at) VALUES ($1, $2, $3, $4, false, 0, 0, $5)",
						5, types, values, NULL, SPI_OK_INSERT);
	esrs_spi_end();
	esrs_security_restore(&before);
}

/* Note how far a share is.  Raises 40001 if nothing is known of it any more. */
void
esrs_rebuild_state_write(const EsrsRebuildState *state)
{
	Oid			types[6] = {TEXTOID, INT4OID, UUIDOID, BOOLOID, INT8OID, INT8OID};
	Datum		values[6] = {CStringGetTextDatum(state->handlers), Int32GetDatum(state->share),
		UUIDPGetDatum(&state->last_id), BoolGetDatum(state->done),
	Int64GetDatum(state->instances), Int64GetDatum(state->events)};
	char		nulls[6] = {' ', ' ', state->begun ? ' ' : 'n', ' ', ' ', ' '};
	EsrsIdentity before;
	uint64		n;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	n = esrs_spi_execute(esrs_spi_keep(&write_plan,
									   "UPDATE esrs.rebuilds SET last_id = $3, done = $4,"
									   " instances = $5, events = $6"
									   " WHERE handlers OPERATOR(pg_catalog.=) $1"
									   " AND share OPERATOR(pg_catalog.=) $2",
									   6, types),
						 values, nulls, SPI_OK_UPDATE);
	esrs_spi_end();
	esrs_security_restore(&before);
	if (n != 1)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("rebuild of %s was ended by another session", state->handlers)));
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
