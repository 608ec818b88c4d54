/*-------------------------------------------------------------------------
 *
 * instances.c
 *	  Which instances some aggregates have or have had, page by page in the order
 *	  of their ids.
 *
 * Events are read as a role that is given; deletions, which no role may read, as
 * the owner of the catalogs.  Each page is a look at the present, so this works
 * across transactions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "store/instances.h"

#include "base/security.h"
#include "base/spi.h"
#include "catalog/extension.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "utils/builtins.h"

static const pg_uuid_t lowest = {{0}};

/* The ids of all events, as a subquery, with a condition or without. */
static void
append_ids(StringInfo sql, List *aggregates, const char *condition)
{
	ListCell   *lc;

	foreach(lc, aggregates)
	{
		appendStringInfo(sql, "%sSELECT aggregate_id FROM %s%s",
						 foreach_current_index(lc) == 0 ? "" : " UNION ALL ",
						 ((EsrsAggregate *) lfirst(lc))->table, condition);
	}
}

static Datum
names_of(List *aggregates)
{
	Datum	   *names = palloc(sizeof(Datum) * list_length(aggregates));
	ListCell   *lc;

	foreach(lc, aggregates)
	{
		names[foreach_current_index(lc)] =
			CStringGetTextDatum(((EsrsAggregate *) lfirst(lc))->name);
	}
	return PointerGetDatum(construct_array(names, list_length(aggregates), TEXTOID, -1, false,
										   TYPALIGN_INT));
}

/* Run a query on ids as a role; the first column of its rows, or how many there are. */
static int
run(const char *query, Oid role, int nargs, Oid *types, Datum *values, pg_uuid_t *ids)
{
	EsrsIdentity before;
	int			n;

	esrs_security_become(&before, role);
	esrs_security_restrict();
	esrs_spi_prefer_index();
	esrs_spi_begin();
	n = (int) esrs_spi_run(query, nargs, types, values, NULL, SPI_OK_SELECT);
	for (int i = 0; i < n; i++)
	{
		bool		isnull;

		ids[i] = *DatumGetUUIDP(esrs_spi_column(i, 1, &isnull));
	}
	esrs_spi_end();
	esrs_security_restore(&before);
	return n;
}

/*
 * The ids after one, or the first ones: those of events that "reader" sees and of
 * deleted instances.  No more than "max", into "ids"; returns how many.
 */
int
esrs_instances_next(List *aggregates, Oid reader, const pg_uuid_t *after, pg_uuid_t *ids, int max)
{
	Oid			types[2] = {UUIDOID, TEXTARRAYOID};
	Datum		values[2] = {UUIDPGetDatum(after ? after : &lowest), names_of(aggregates)};
	const char *operator = after ? "OPERATOR(pg_catalog.>)" : "OPERATOR(pg_catalog.>=)";
	pg_uuid_t  *living = palloc(sizeof(pg_uuid_t) * max);
	pg_uuid_t  *deleted = palloc(sizeof(pg_uuid_t) * max);
	int			nliving;
	int			ndeleted;
	int			n = 0;
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT DISTINCT aggregate_id FROM (");
	append_ids(&sql, aggregates, psprintf(" WHERE aggregate_id %s $1", operator));
	appendStringInfo(&sql, ") AS i ORDER BY aggregate_id LIMIT %d", max);
	nliving = run(sql.data, reader, 1, types, values, living);

	resetStringInfo(&sql);
	appendStringInfo(&sql, "SELECT DISTINCT aggregate_id FROM esrs.deletions"
					 " WHERE aggregate_id %s $1 AND aggregate OPERATOR(pg_catalog.=) ANY ($2)"
					 " ORDER BY aggregate_id LIMIT %d", operator, max);
	ndeleted = run(sql.data, esrs_extension()->owner, 2, types, values, deleted);

	for (int i = 0, j = 0; n < max && (i < nliving || j < ndeleted); n++)
	{
		int			order = i == nliving ? 1 : j == ndeleted ? -1 :
		memcmp(&living[i], &deleted[j], sizeof(pg_uuid_t));

		ids[n] = order <= 0 ? living[i] : deleted[j];
		i += order <= 0;
		j += order >= 0;
	}
	pfree(living);
	pfree(deleted);
	return n;
}

/*
 * About how many there are: an instance that was deleted and has begun anew counts
 * twice.
 */
int64
esrs_instances_count(List *aggregates, Oid reader)
{
	Oid			types[1] = {TEXTARRAYOID};
	Datum		values[1] = {names_of(aggregates)};
	EsrsIdentity before;
	StringInfoData sql;
	bool		isnull;
	int64		n;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT pg_catalog.count(*) FROM (SELECT DISTINCT aggregate_id FROM (");
	append_ids(&sql, aggregates, "");
	appendStringInfoString(&sql, ") AS i) AS d");
	esrs_security_become(&before, reader);
	esrs_security_restrict();
	esrs_spi_begin();
	(void) esrs_spi_run(sql.data, 0, NULL, NULL, NULL, SPI_OK_SELECT);
	n = DatumGetInt64(esrs_spi_column(0, 1, &isnull));
	esrs_spi_end();
	esrs_security_restore(&before);

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	(void) esrs_spi_run("SELECT pg_catalog.count(DISTINCT aggregate_id) FROM esrs.deletions"
						" WHERE aggregate OPERATOR(pg_catalog.=) ANY ($1)",
						1, types, values, NULL, SPI_OK_SELECT);
	n += DatumGetInt64(esrs_spi_column(0, 1, &isnull));
	esrs_spi_end();
	esrs_security_restore(&before);
	return n;
}
