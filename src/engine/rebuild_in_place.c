/*-------------------------------------------------------------------------
 *
 * rebuild_in_place.c
 *	  Making a read model anew in one transaction: what an event handler has written
 *	  is deleted, and it is called again with all events.
 *
 * For transactional handlers the tables of events are locked against writers first,
 * so that no event comes in between.  For asynchronous ones the checkpoints are
 * locked, all events up to the safe position are replayed, and the checkpoints are
 * put there: what comes later is live.
 *
 * The bound, or the lock, always comes before the snapshot with which is read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/rebuild.h"

#include "base/security.h"
#include "base/spi.h"
#include "catalog/event_table.h"
#include "catalog/pg_type.h"
#include "catalog/swaps.h"
#include "lib/stringinfo.h"
#include "store/instances.h"
#include "store/position.h"
#include "utils/memutils.h"

/* As the handlers' role, which must be allowed to. */
static void
truncate_tables(void *arg)
{
	EsrsRebuild *r = (EsrsRebuild *) arg;
	EsrsConsumer *consumer = ((EsrsReplayed *) linitial(r->replay.handlers))->consumer;
	EsrsIdentity before;
	StringInfoData sql;
	Datum	   *tables;
	int			n;

	deconstruct_array(r->truncate, REGCLASSOID, sizeof(Oid), true, TYPALIGN_INT, &tables, NULL, &n);
	initStringInfo(&sql);
	for (int i = 0; i < n; i++)
		appendStringInfo(&sql, "%s%s", i == 0 ? "TRUNCATE " : ", ",
						 esrs_event_table_name(DatumGetObjectId(tables[i])));
	esrs_security_act_as(&before, consumer->handler->run_as, consumer->search_path);
	esrs_spi_begin();
	esrs_spi_utility(sql.data);
	esrs_spi_end();
	esrs_security_restore(&before);
}

/* Call the delete handlers for all instances. */
static void
delete_all(EsrsRebuild *r)
{
	pg_uuid_t  *ids = palloc(sizeof(pg_uuid_t) * ESRS_REBUILD_PORTION);
	pg_uuid_t	last;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "esrs rebuild",
												  ALLOCSET_DEFAULT_SIZES);
	int			n = 0;
	bool		first = true;

	do
	{
		MemoryContext before = MemoryContextSwitchTo(context);

		n = esrs_instances_next(r->replay.aggregates, esrs_replay_role(&r->replay),
								first ? NULL : &last, ids, ESRS_REBUILD_PORTION);
		for (int i = 0; i < n; i++)
		{
			esrs_replay_delete(&r->replay, NULL, &ids[i]);
			esrs_rebuild_progress_advance(&r->progress, 0, 1);
		}
		MemoryContextSwitchTo(before);
		MemoryContextReset(context);
		if (n > 0)
			last = ids[n - 1];
		first = false;
	} while (n == ESRS_REBUILD_PORTION);
	MemoryContextDelete(context);
}

/* All at once, in this transaction.  Raises what a handler raises. */
void
esrs_rebuild_in_place(EsrsRebuild *r)
{
	EsrsFeedRange range = {.upto = PG_INT64_MAX};
	ListCell   *lc;

	esrs_rebuild_lock_all(r);
	r->version = esrs_rebuild_state_version(r->names);
	if (r->async)
		range.upto = esrs_position_safe(r->hashes, list_length(r->replay.aggregates));

	esrs_rebuild_count(r, range.upto, r->truncate == NULL);
	esrs_rebuild_progress_phase(&r->progress, ESRS_REBUILD_DELETING);
	if (r->truncate != NULL)
	{
		esrs_replay_guarded(truncate_tables, r);
		foreach(lc, r->names)
		{
			esrs_swaps_note((char *) lfirst(lc));
		}
	}
	else
		delete_all(r);
	esrs_rebuild_progress_phase(&r->progress, ESRS_REBUILD_REPLAYING);
	esrs_replay_events(&r->replay, &range);

	esrs_rebuild_progress_phase(&r->progress, ESRS_REBUILD_FINISHING);
	esrs_rebuild_check_version(r);
	if (r->async)
		esrs_rebuild_done_async(r, range.upto);
	esrs_rebuild_leave_nothing(r);
	if (r->republish)
		esrs_notify_again_send(r->again);
	esrs_rebuild_forget_unfinished(r);
}
