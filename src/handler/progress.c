/*-------------------------------------------------------------------------
 *
 * progress.c
 *	  Where an asynchronous handler begins, and how its progress outlives a
 *	  change of its options.
 *
 * The checkpoints are locked by whoever calls this, and so are the tables of its
 * aggregates: no batch and no writer is in progress.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "handler/progress.h"

#include "access/xact.h"
#include "base/security.h"
#include "base/spi.h"
#include "catalog/checkpoint.h"
#include "catalog/extension.h"
#include "catalog/pg_type.h"
#include "handler/consumer.h"
#include "handler/dead_letter.h"
#include "handler/runner.h"
#include "store/position.h"
#include "utils/builtins.h"

/* More positions are not carried over from some partitions to others. */
#define MAX_POSITIONS	10000

/* Positions that are handled, beyond the one at which all partitions begin. */
typedef struct Positions
{
	int64		values[MAX_POSITIONS];
	int			n;
	const char *handler;
} Positions;

/* The position that start_at means: "now", "beginning" or a number. */
int64
esrs_progress_start(const char *start_at)
{
	int64		head = esrs_position_head();
	int64		position;
	char	   *end;

	if (strcmp(start_at, "now") == 0)
		return head;
	if (strcmp(start_at, "beginning") == 0)
		return 0;
	errno = 0;
	position = strtoi64(start_at, &end, 10);
	if (end == start_at || *end != '\0' || errno != 0 || start_at[0] < '0' || start_at[0] > '9')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\": \"%s\"", "start_at", start_at),
				 errhint("Use \"now\", \"beginning\", or a position.")));
	if (position > head)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("position " INT64_FORMAT " does not exist", position),
				 errdetail("Positions go from 0, before the first event, to " INT64_FORMAT ".", head)));
	return position;
}

/* Raise 0A000 if the transaction's snapshot may not see all events. */
static void
check_isolation(void)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("progress of an event handler cannot be changed at this isolation level"),
				 errhint("Use READ COMMITTED.")));
}

static void
add(Positions *positions, int64 position)
{
	if (positions->n == MAX_POSITIONS)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("partitions of event handler \"%s\" are too far apart to be divided anew",
						positions->handler),
				 errdetail("More than %d events are handled beyond the one that is furthest behind.",
						   MAX_POSITIONS),
				 errhint("Wait until the handler has caught up; see esrs_lag.")));
	positions->values[positions->n++] = position;
}

static bool
add_event(EsrsAggregate *agg, EsrsRecord *record, void *arg)
{
	add((Positions *) arg, record->position);
	return true;
}

/* The positions that partitions have handled ahead of their checkpoints. */
static void
add_ahead(EsrsConsumer *consumer, Positions *positions)
{
	Oid			types[2] = {TEXTOID, INT4OID};
	Datum		values[2] = {CStringGetTextDatum(consumer->name), Int32GetDatum(MAX_POSITIONS + 1)};
	EsrsIdentity before;
	uint64		n;
	bool		isnull;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	n = esrs_spi_run("SELECT pg_catalog.generate_series(pg_catalog.lower(r),"
					 " pg_catalog.upper(r) OPERATOR(pg_catalog.-) 1)"
					 " FROM esrs.checkpoints AS c, pg_catalog.unnest(c.ahead) AS r"
					 " WHERE c.name OPERATOR(pg_catalog.=) $1 LIMIT $2",
					 2, types, values, NULL, SPI_OK_SELECT);
	for (uint64 i = 0; i < n; i++)
		add(positions, DatumGetInt64(esrs_spi_column(i, 1, &isnull)));
	esrs_spi_end();
	esrs_security_restore(&before);
}

/*
 * Divide a handler into another number of partitions: all of them begin where
 * the last one is, and pass over what the others have handled.
 */
void
esrs_progress_repartition(const char *name, int partitions)
{
	EsrsConsumer *consumer = esrs_consumer_lookup(name);
	Positions  *positions = palloc0(sizeof(Positions));
	int64		lowest = PG_INT64_MAX;
	uint32	   *hashes;
	List	   *aggregates = esrs_consumer_aggregates(consumer, &hashes);
	EsrsCheckpoint checkpoint;

	check_isolation();
	positions->handler = name;
	for (int i = 0; i < consumer->partitions; i++)
		if (esrs_checkpoint_read(name, i, &checkpoint))
			lowest = Min(lowest, checkpoint.position);
	if (lowest == PG_INT64_MAX)
		return;					/* no checkpoints: it stays that way */
	for (int i = 0; i < consumer->partitions; i++)
	{
		EsrsFeedRange range = {.after = lowest,.partition = i,
		.partitions = consumer->partitions,.max = MAX_POSITIONS + 1};
		EsrsIdentity before;

		if (!esrs_checkpoint_read(name, i, &checkpoint) || checkpoint.position == lowest)
			continue;
		range.upto = checkpoint.position;
		esrs_security_become(&before, consumer->handler->run_as);
		esrs_security_restrict();
		esrs_feed_read(NULL, aggregates, &range, add_event, positions);
		esrs_security_restore(&before);
	}
	add_ahead(consumer, positions);
	esrs_checkpoint_repartition(name, partitions, lowest, positions->values, positions->n);
}

/*
 * Move a handler that has nothing left to do on to the last position: how far
 * behind its idle checkpoints are must not decide what it is called with of an
 * aggregate that it did not serve before.
 */
void
esrs_progress_skip_idle(const char *name)
{
	EsrsConsumer *consumer = esrs_consumer_lookup(name);
	int64		head = esrs_position_head();

	check_isolation();
	if (esrs_runner_is_behind(consumer, PG_INT64_MAX))
		return;
	for (int i = 0; i < consumer->partitions; i++)
		esrs_checkpoint_advance(name, i, head, NULL, 0);
}

/* Raise 55000 if the handler has not handled all that there is. */
void
esrs_progress_check_caught_up(const char *name)
{
	check_isolation();
	if (esrs_dead_letter_has_any(esrs_consumer_lookup(name)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("event handler \"%s\" has dead letters", name),
				 errdetail("A transactional one has none, so they would be forgotten."),
				 errhint("Call esrs_retry_dead_letters('%s') or esrs_discard_dead_letters('%s') first.",
						 name, name)));
	if (esrs_runner_is_behind(esrs_consumer_lookup(name), PG_INT64_MAX))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("event handler \"%s\" has not handled all events yet", name),
				 errdetail("As a transactional one it would never see them."),
				 errhint("Wait with esrs_wait_for('%s'), or CALL esrs_run_handlers('%s'), and try again.",
						 name, name)));
}
