/*-------------------------------------------------------------------------
 *
 * spi.c
 *	  SPI with kept plans.
 *
 * Statements given to these functions name everything with its schema, also
 * operators, so that no search_path can change their meaning.  Whether a
 * statement reads with a snapshot of its own or with a given one is explicit
 * in the function's name.
 *
 * All of them leave CurrentMemoryContext as they found it, unlike SPI's own
 * functions: nothing that the caller allocates dies with the connection.  So
 * nothing but this file may call SPI_execute() or SPI_prepare().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/spi.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"

/* Open a connection.  Released by esrs_spi_end(), or by an error. */
void
esrs_spi_begin(void)
{
	MemoryContext before = CurrentMemoryContext;
	int			rc = SPI_connect();

	if (rc != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed: %s", SPI_result_code_string(rc));
	MemoryContextSwitchTo(before);
}

/* Close it, and go back to the context in which it was opened. */
void
esrs_spi_end(void)
{
	int			rc = SPI_finish();

	if (rc != SPI_OK_FINISH)
		elog(ERROR, "SPI_finish failed: %s", SPI_result_code_string(rc));
}

static SPIPlanPtr
prepare(const char *query, int nargs, Oid *types, int options)
{
	MemoryContext before = CurrentMemoryContext;
	SPIPlanPtr	plan;

	plan = SPI_prepare_cursor(query, nargs, types, CURSOR_OPT_GENERIC_PLAN | options);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed for \"%s\": %s", query,
			 SPI_result_code_string(SPI_result));
	if (SPI_keepplan(plan) != 0)
		elog(ERROR, "SPI_keepplan failed for \"%s\"", query);
	MemoryContextSwitchTo(before);
	return plan;
}

/*
 * Prepare a plan that lives until SPI_freeplan().  A connection must be open.
 * The plan is generic from its first execution on.
 */
SPIPlanPtr
esrs_spi_prepare(const char *query, int nargs, Oid *types)
{
	return prepare(query, nargs, types, 0);
}

/*
 * The same for a SELECT with ORDER BY of which only the first rows are wanted, by
 * esrs_spi_select_first(): it should follow an index, not sort, whatever is known
 * of the table.  LIMIT would not do: the planner compares it with its guess of the
 * number of rows, made without any value.
 */
SPIPlanPtr
esrs_spi_prepare_ordered(const char *query, int nargs, Oid *types)
{
	return prepare(query, nargs, types, CURSOR_OPT_FAST_PLAN);
}

/* The plan that is kept in a variable; made if it is not there yet. */
SPIPlanPtr
esrs_spi_keep(SPIPlanPtr *plan, const char *query, int nargs, Oid *types)
{
	if (*plan == NULL)
		*plan = esrs_spi_prepare(query, nargs, types);
	return *plan;
}

/*
 * Have plans that are made now use an index also for a table that is small: they are
 * kept while it grows.  Until the identity taken by esrs_security_become() ends.
 */
void
esrs_spi_prefer_index(void)
{
	(void) set_config_option("enable_seqscan", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Execute a plan with a new snapshot, which sees all that this transaction has
 * done.  Returns the number of rows; the result code must be the expected one.
 */
uint64
esrs_spi_execute(SPIPlanPtr plan, Datum *values, const char *nulls, int expected)
{
	MemoryContext before = CurrentMemoryContext;
	int			rc = SPI_execute_plan(plan, values, nulls, false, 0);

	if (rc != expected)
		elog(ERROR, "unexpected SPI result %s", SPI_result_code_string(rc));
	MemoryContextSwitchTo(before);
	return SPI_processed;
}

/*
 * Execute a SELECT with the given snapshot.  Own changes are seen as far as
 * the snapshot's command id reaches.
 */
uint64
esrs_spi_select_at(SPIPlanPtr plan, Datum *values, const char *nulls,
				   Snapshot snapshot)
{
	return esrs_spi_select_first(plan, values, nulls, snapshot, 0);
}

/* The same for no more than so many rows; 0: all. */
uint64
esrs_spi_select_first(SPIPlanPtr plan, Datum *values, const char *nulls,
					  Snapshot snapshot, int64 count)
{
	MemoryContext before = CurrentMemoryContext;
	int			rc = SPI_execute_snapshot(plan, values, nulls, snapshot,
										  InvalidSnapshot, true, false, count);

	if (rc != SPI_OK_SELECT)
		elog(ERROR, "unexpected SPI result %s", SPI_result_code_string(rc));
	MemoryContextSwitchTo(before);
	return SPI_processed;
}

/* Prepare a plan that goes with the connection. */
SPIPlanPtr
esrs_spi_prepare_once(const char *query, int nargs, Oid *types)
{
	MemoryContext before = CurrentMemoryContext;
	SPIPlanPtr	plan = SPI_prepare(query, nargs, types);

	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed for \"%s\": %s", query,
			 SPI_result_code_string(SPI_result));
	MemoryContextSwitchTo(before);
	return plan;
}

/*
 * Execute a SELECT once with the newest snapshot there is, also in a transaction
 * whose own is old: for what is kept, and must be true now.
 */
uint64
esrs_spi_select_latest(const char *query, int nargs, Oid *types, Datum *values)
{
	/* the plan first: preparing it takes locks, and so note of changes */
	SPIPlanPtr	plan = esrs_spi_prepare_once(query, nargs, types);
	Snapshot	snapshot = RegisterSnapshot(IsInParallelMode() ? GetActiveSnapshot() :
											GetLatestSnapshot());
	uint64		n = esrs_spi_select_at(plan, values, NULL, snapshot);

	UnregisterSnapshot(snapshot);
	return n;
}

/*
 * Execute a statement once, with a new snapshot.  Returns the number of rows;
 * the result code must be the expected one.
 */
uint64
esrs_spi_run(const char *query, int nargs, Oid *types, Datum *values,
			 const char *nulls, int expected)
{
	MemoryContext before = CurrentMemoryContext;
	int			rc = SPI_execute_with_args(query, nargs, types, values, nulls, false, 0);

	if (rc != expected)
		elog(ERROR, "unexpected SPI result %s of \"%s\"", SPI_result_code_string(rc), query);
	MemoryContextSwitchTo(before);
	return SPI_processed;
}

/*
 * Open a cursor for a SELECT that reads with the given snapshot, as the current
 * user.  It goes with the connection, unless SPI_cursor_close() comes before.
 */
Portal
esrs_spi_open(const char *query, int nargs, Oid *types, Datum *values, Snapshot snapshot)
{
	MemoryContext before = CurrentMemoryContext;
	SPIPlanPtr	plan = esrs_spi_prepare_once(query, nargs, types);
	Portal		cursor;

	PushActiveSnapshot(snapshot);
	cursor = SPI_cursor_open(NULL, plan, values, NULL, true);
	PopActiveSnapshot();
	MemoryContextSwitchTo(before);
	return cursor;
}

/* Fetch the next rows of a cursor; returns their number. */
uint64
esrs_spi_fetch(Portal cursor, int64 count)
{
	MemoryContext before = CurrentMemoryContext;

	SPI_cursor_fetch(cursor, true, count);
	MemoryContextSwitchTo(before);
	return SPI_processed;
}

/* Execute a utility command, as the current user and with his search_path. */
void
esrs_spi_utility(const char *command)
{
	MemoryContext before = CurrentMemoryContext;
	int			rc = SPI_execute(command, false, 0);

	if (rc != SPI_OK_UTILITY)
		elog(ERROR, "unexpected SPI result %s", SPI_result_code_string(rc));
	MemoryContextSwitchTo(before);
}

/* A column, counted from 1, of a row of the last result; borrowed from it. */
Datum
esrs_spi_column(uint64 row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc,
						 column, isnull);
}

/* The same of type text, copied to the current context; NULL for null. */
char *
esrs_spi_text(uint64 row, int column)
{
	bool		isnull;
	Datum		value = esrs_spi_column(row, column, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}
