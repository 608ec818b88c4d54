/*-------------------------------------------------------------------------
 *
 * verify_handler.c
 *	  SQL function esrs_verify_handler(): is what an event handler has written what
 *	  it would write today?
 *
 * Its tables are built beside the live ones, as by a rebuild (rebuild_swap.c), and
 * compared.  Events, checkpoints and live tables are all read with one snapshot, in
 * which they belong together, so nobody has to wait.  A subtransaction is rolled back
 * in the end: nothing is left but the result.
 *
 * (Deferred triggers do not run: firing them would fire the caller's own.)
 *
 * Rows are compared as jsonb, which every type can be converted to.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/rebuild.h"

#include "access/xact.h"
#include "base/security.h"
#include "base/spi.h"
#include "catalog/pg_type.h"
#include "engine/arguments.h"
#include "engine/procedures.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "shadow/shadow.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

PG_FUNCTION_INFO_V1(esrs_verify_handler);

#define NCOLUMNS	4

typedef struct Verification
{
	EsrsRebuild rebuild;
	EsrsShadows *shadows;
	Datum		ignore;			/* text[] */
	int32		max_rows;
	Snapshot	snapshot;		/* of all that is read */
	Tuplestorestate *store;
	TupleDesc	desc;
	int64		found;
} Verification;

/* Call the handler with what it had been called with, for the shadows. */
static void
replay(Verification *v)
{
	EsrsRebuild *r = &v->rebuild;
	EsrsReplayed *replayed = (EsrsReplayed *) linitial(r->replay.handlers);
	EsrsConsumer *consumer = replayed->consumer;
	int			partitions = r->async ? consumer->partitions : 1;

	for (int i = 0; i < partitions; i++)
	{
		EsrsFeedRange range = {.upto = PG_INT64_MAX,.partition = i,.partitions = partitions,
		.snapshot = v->snapshot};

		if (r->async)
		{
			replayed->limited = true;
			if (!esrs_checkpoint_read_at(consumer->name, i, v->snapshot, &replayed->checkpoint))
				ereport(ERROR,
						(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						 errmsg("event handler \"%s\" has no checkpoint", consumer->name),
						 errhint("Call esrs_check().")));
		}
		esrs_replay_events(&r->replay, &range);
	}
}

static void
build(Verification *v)
{
	esrs_redirect_begin(v->shadows->redirects);
	PG_TRY();
	{
		replay(v);
		esrs_redirect_check();
	}
	PG_FINALLY();
	{
		esrs_redirect_end();
	}
	PG_END_TRY();
}

/* The primary key as a jsonb array of columns of "alias"; NULL if there is none. */
static char *
key_of(EsrsShadow *shadow, const char *alias)
{
	Oid			types[2] = {OIDOID, TEXTOID};
	Datum		values[2] = {ObjectIdGetDatum(shadow->redirect.from), CStringGetTextDatum(alias)};
	char	   *key;

	esrs_spi_begin();
	(void) esrs_spi_run("SELECT 'pg_catalog.jsonb_build_array(' OPERATOR(pg_catalog.||)"
						" pg_catalog.string_agg(pg_catalog.format('%I.%I', $2, a.attname), ', '"
						" ORDER BY a.attnum) OPERATOR(pg_catalog.||) ')'"
						" FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_attribute a"
						" ON a.attrelid OPERATOR(pg_catalog.=) k.conrelid"
						" AND a.attnum OPERATOR(pg_catalog.=) ANY (k.conkey)"
						" WHERE k.conrelid OPERATOR(pg_catalog.=) $1"
						" AND k.contype OPERATOR(pg_catalog.=) 'p'",
						2, types, values, NULL, SPI_OK_SELECT);
	key = esrs_spi_text(0, 1);
	esrs_spi_end();
	return key;
}

/*
 * Rows that differ: what is wrong, the live row, and the one that was built.  With a
 * primary key, rows of one key are compared; without, equal rows are counted.
 */
static char *
difference_query(EsrsShadows *shadows, EsrsShadow *shadow)
{
	const char *built = quote_qualified_identifier(shadow->schema_name, shadow->relname);
	char	   *live_key = key_of(shadow, "t");
	StringInfoData sql;

	initStringInfo(&sql);
	if (live_key != NULL)
		appendStringInfo(&sql, "SELECT CASE WHEN l.k IS NULL THEN 'missing' WHEN b.k IS NULL THEN 'extra'"
						 " ELSE 'different' END, l.j, b.j"
						 " FROM (SELECT %s AS k, pg_catalog.to_jsonb(t) AS j FROM ONLY %s AS t) AS l"
						 " FULL JOIN (SELECT %s AS k, pg_catalog.to_jsonb(t) AS j FROM ONLY %s AS t) AS b"
						 " ON l.k OPERATOR(pg_catalog.=) b.k"
						 " WHERE l.k IS NULL OR b.k IS NULL OR (l.j OPERATOR(pg_catalog.-) $1)"
						 " OPERATOR(pg_catalog.<>) (b.j OPERATOR(pg_catalog.-) $1)"
						 " ORDER BY coalesce(l.k, b.k) LIMIT $2",
						 live_key, shadow->name, live_key, built);
	else
		appendStringInfo(&sql, "SELECT CASE WHEN coalesce(l.n, 0) OPERATOR(pg_catalog.<) coalesce(b.n, 0)"
						 " THEN 'missing' ELSE 'extra' END, CASE WHEN coalesce(l.n, 0)"
						 " OPERATOR(pg_catalog.>) coalesce(b.n, 0) THEN l.j END, CASE WHEN coalesce(l.n, 0)"
						 " OPERATOR(pg_catalog.<) coalesce(b.n, 0) THEN b.j END"
						 " FROM (SELECT pg_catalog.to_jsonb(t) OPERATOR(pg_catalog.-) $1 AS j, pg_catalog.count(*) AS n"
						 " FROM ONLY %s AS t GROUP BY 1) AS l"
						 " FULL JOIN (SELECT pg_catalog.to_jsonb(t) OPERATOR(pg_catalog.-) $1 AS j, pg_catalog.count(*) AS n"
						 " FROM ONLY %s AS t GROUP BY 1) AS b ON l.j OPERATOR(pg_catalog.=) b.j,"
						 " LATERAL pg_catalog.generate_series(1, pg_catalog.abs(coalesce(l.n, 0)"
						 " OPERATOR(pg_catalog.-) coalesce(b.n, 0))) AS g"
						 " ORDER BY coalesce(l.j, b.j) LIMIT $2",
						 shadow->name, built);
	return sql.data;
}

/* Compare a table with its shadow, and tell how they differ. */
static void
compare(Verification *v, EsrsShadow *shadow)
{
	Oid			types[2] = {TEXTARRAYOID, INT8OID};
	Datum		values[2] = {v->ignore, Int64GetDatum((int64) v->max_rows - v->found + 1)};
	char	   *query = difference_query(v->shadows, shadow);
	uint64		n;

	if (v->found > v->max_rows)
		return;
	/* the same snapshot, and what this transaction has written since */
	PushCopiedSnapshot(v->snapshot);
	UpdateActiveSnapshotCommandId();
	esrs_spi_begin();
	n = esrs_spi_select_at(esrs_spi_prepare_once(query, 2, types), values, NULL,
						   GetActiveSnapshot());
	for (uint64 i = 0; i < n && ++v->found <= v->max_rows; i++)
	{
		Datum		row[NCOLUMNS];
		bool		nulls[NCOLUMNS] = {false};

		row[0] = ObjectIdGetDatum(shadow->redirect.from);
		for (int c = 1; c < NCOLUMNS; c++)
			row[c] = esrs_spi_column(i, c, &nulls[c]);
		tuplestore_putvalues(v->store, v->desc, row, nulls);
	}
	esrs_spi_end();
	PopActiveSnapshot();
}

static void
verify(Verification *v)
{
	EsrsRebuild *r = &v->rebuild;
	EsrsIdentity before;
	ListCell   *lc;

	(void) esrs_rebuild_load(r);
	esrs_rebuild_lock_aggregates(r, AccessShareLock);
	v->shadows = esrs_shadow_make(r->tables, esrs_replay_role(&r->replay), false);
	v->snapshot = RegisterSnapshot(GetTransactionSnapshot());
	build(v);
	esrs_security_become(&before, v->shadows->owner);
	esrs_security_restrict();
	foreach(lc, v->shadows->shadows)
	{
		compare(v, (EsrsShadow *) lfirst(lc));
	}
	esrs_security_restore(&before);
	UnregisterSnapshot(v->snapshot);
}

static void
set_arguments(Verification *v, FunctionCallInfo fcinfo)
{
	EsrsRebuild *r = &v->rebuild;

	for (int i = 0; i < 4; i++)
		if (PG_ARGISNULL(i))
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("arguments of esrs_verify_handler() must not be null")));
	r->names = list_make1(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	r->label = psprintf("\"%s\"", (char *) linitial(r->names));
	r->tables = PG_GETARG_ARRAYTYPE_P_COPY(1);
	v->ignore = PointerGetDatum(PG_GETARG_ARRAYTYPE_P_COPY(2));
	v->max_rows = PG_GETARG_INT32(3);
	if (ArrayGetNItems(ARR_NDIM(r->tables), ARR_DIMS(r->tables)) == 0 ||
		array_contains_nulls(r->tables))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"tables\" must name tables")));
	if (v->max_rows < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_rows must be at least 1")));
	r->context = AllocSetContextCreate(CurrentMemoryContext, "esrs verify handler",
									   ALLOCSET_DEFAULT_SIZES);
	r->replay.portion = ESRS_REBUILD_PORTION;
	r->replay.arg = r;
}

/*
 * esrs_verify_handler(handler, tables, ignore, max_rows) returns setof (table_name,
 * difference, live, rebuilt)
 *
 * Raises what the handler raises, with the event in the context.
 */
Datum
esrs_verify_handler(PG_FUNCTION_ARGS)
{
	Verification *v = palloc0(sizeof(Verification));
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	esrs_command_check_writable("esrs_verify_handler()");
	esrs_procedure_refuse_inside_callback("esrs_verify_handler()");
	set_arguments(v, fcinfo);
	v->store = esrs_arguments_begin_set(fcinfo, &v->desc);
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		verify(v);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		/*
		 * an internal subtransaction is not ended by whoever catches the
		 * error
		 */
		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		ReThrowError(error);
	}
	PG_END_TRY();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	esrs_feed_close(&v->rebuild.replay.feed);
	if (v->found > v->max_rows)
		ereport(NOTICE,
				(errmsg("there are more differences than %d", v->max_rows),
				 errhint("Raise \"max_rows\" to see them.")));
	return (Datum) 0;
}
