/*-------------------------------------------------------------------------
 *
 * swaps.c
 *	  Which transactions have replaced tables of read models: table esrs.swaps.
 *
 * Rows that came with the new tables are not visible to a transaction whose snapshot
 * is older, and neither are the old ones: a handler would find nothing to change, and
 * nothing would tell.  So what such a transaction commands fails here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/swaps.h"

#include "access/xact.h"
#include "base/security.h"
#include "base/spi.h"
#include "catalog/extension.h"
#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

/* Note that this transaction has replaced or emptied the tables of a handler. */
void
esrs_swaps_note(const char *handler)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(handler)};
	EsrsIdentity before;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	(void) esrs_spi_run("INSERT INTO esrs.swaps AS s (handler, swapped_by)"
						" VALUES ($1, pg_catalog.pg_current_xact_id())"
						" ON CONFLICT (handler) DO UPDATE SET swapped_by = excluded.swapped_by",
						1, types, values, NULL, SPI_OK_INSERT);
	esrs_spi_end();
	esrs_security_restore(&before);
}

/*
 * In a transaction that keeps its snapshot: raise 40001 if tables of a transactional
 * handler of the aggregate were replaced since it was taken.  Called after the
 * handlers: they have the locks for which an exchange would have to wait.
 */
void
esrs_swaps_check(const char *aggregate)
{
	Oid			types[2] = {TEXTOID, PG_SNAPSHOTOID};
	Datum		values[2];
	EsrsIdentity before;
	char	   *handler = NULL;

	if (!IsolationUsesXactSnapshot())
		return;
	values[0] = CStringGetTextDatum(aggregate);
	values[1] = DirectFunctionCall1(pg_current_snapshot, (Datum) 0);
	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	if (esrs_spi_select_latest("SELECT h.name FROM esrs.handlers h JOIN esrs.swaps s"
							   " ON s.handler OPERATOR(pg_catalog.=) h.name"
							   " WHERE h.aggregates OPERATOR(pg_catalog.@>) ARRAY[$1]"
							   " AND NOT pg_catalog.pg_visible_in_snapshot(s.swapped_by, $2)",
							   2, types, values) > 0)
		handler = esrs_spi_text(0, 1);
	esrs_spi_end();
	esrs_security_restore(&before);
	if (handler != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent rebuild"),
				 errdetail("The tables of event handler \"%s\" were replaced after this transaction began.",
						   handler),
				 errhint("The transaction might succeed if retried.")));
}
