/*-------------------------------------------------------------------------
 *
 * rebuild_swap.c
 *	  Making a read model anew beside the live one: its tables are built as shadows
 *	  while commands and readers go on, and take the places of the live ones in the
 *	  end.
 *
 * All of it is one transaction, which nobody sees anything of before it commits.
 * Round after round the events are replayed that are safe to read; each round leaves
 * less for the next one.  Then:
 *
 * Asynchronous handlers: their checkpoints are locked, and the last round goes up to
 * the position that is safe then.  Later events the live handler will get.
 *
 * Transactional handlers: the tables of events are locked against writers, and the
 * live tables against everybody.  A transaction that has appended before has ended by
 * then, so the last round sees its events.  One that comes later waits before it
 * calls its handlers, so they find the new rows, also where they read with a snapshot that was
 * taken before they wait for a table (STABLE functions).  So each event is in the
 * read model once.
 *
 * A transaction that took its snapshot before the exchange, and keeps it (REPEATABLE
 * READ), would see none of the new rows: what it commands is refused, see
 * esrs_swaps_check().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/rebuild.h"

#include "catalog/checkpoint.h"
#include "catalog/swaps.h"
#include "engine/waiting.h"
#include "miscadmin.h"
#include "shadow/shadow.h"
#include "store/position.h"
#include "utils/timestamp.h"

/* The first and the longest time, in ms, for which readers wait behind us. */
#define FIRST_WAIT			50
#define LONGEST_WAIT		500

/* After so many tries whoever has called is told. */
#define TRIES_UNTOLD		10

/* A round this short, in events, is the last one before locks are taken. */
#define SHORT_ROUND			ESRS_REBUILD_PORTION

/* Replay what comes after range->after, into the shadows. */
static void
replay_round(EsrsRebuild *r, EsrsShadows *shadows, EsrsFeedRange *range)
{
	esrs_redirect_begin(shadows->redirects);
	PG_TRY();
	{
		esrs_replay_events(&r->replay, range);
		esrs_rebuild_leave_nothing(r);
		esrs_redirect_check();
	}
	PG_FINALLY();
	{
		esrs_redirect_end();
	}
	PG_END_TRY();
}

/* Replay what is safe to read, until that is not much more. */
static void
catch_up(EsrsRebuild *r, EsrsShadows *shadows, EsrsFeedRange *range)
{
	int64		before;

	do
	{
		before = r->progress.shown.events;
		range->upto = esrs_position_safe(r->hashes, list_length(r->replay.aggregates));
		replay_round(r, shadows, range);
		range->after = Max(range->after, range->upto);
	} while (r->progress.shown.events - before > SHORT_ROUND);
}

/*
 * Lock the live tables.  Others wait for us only for short times, between which we
 * wait, and go on catching up.
 */
static void
lock_live(EsrsRebuild *r, EsrsShadows *shadows, EsrsFeedRange *range)
{
	int			wait = FIRST_WAIT;
	List	   *appended = NIL;
	ListCell   *lc;

	esrs_rebuild_progress_phase(&r->progress, ESRS_REBUILD_WAITING);
	if (!r->async)
	{
		/* who appends does not wait for this, and VACUUM makes room */
		esrs_rebuild_lock_aggregates(r, ShareUpdateExclusiveLock);
		foreach(lc, r->replay.aggregates)
		{
			appended = lappend_oid(appended, ((EsrsAggregate *) lfirst(lc))->events);
		}
	}
	for (int tries = 1; !esrs_shadow_try_lock(shadows, appended, wait); tries++)
	{
		if (tries == TRIES_UNTOLD)
			ereport(NOTICE,
					(errmsg("rebuild of %s waits for transactions that use its tables", r->label),
					 errhint("See pg_locks and pg_stat_activity.")));
		esrs_waiting_pause(2 * wait);
		wait = Min(2 * wait, LONGEST_WAIT);
		if (!r->async)
			catch_up(r, shadows, range);
	}
}

/* Build beside the live tables, and exchange them.  Raises what a handler raises. */
void
esrs_rebuild_swap(EsrsRebuild *r)
{
	EsrsFeedRange range = {.upto = PG_INT64_MAX};
	EsrsShadows *shadows;
	ListCell   *lc;

	esrs_rebuild_lock_aggregates(r, AccessShareLock);
	r->version = esrs_rebuild_state_version(r->names);
	shadows = esrs_shadow_make(r->tables, esrs_replay_role(&r->replay), true);
	r->replay.deletions = true;
	esrs_rebuild_count(r, esrs_position_safe(r->hashes, list_length(r->replay.aggregates)), false);
	esrs_rebuild_progress_phase(&r->progress, ESRS_REBUILD_REPLAYING);
	catch_up(r, shadows, &range);
	if (r->async)
	{
		foreach(lc, r->names)
		{
			(void) esrs_checkpoint_lock_all((char *) lfirst(lc));
		}
		catch_up(r, shadows, &range);
	}
	lock_live(r, shadows, &range);

	esrs_rebuild_progress_phase(&r->progress, ESRS_REBUILD_FINISHING);
	r->throttled = false;
	if (!r->async)
	{
		range.upto = PG_INT64_MAX;
		replay_round(r, shadows, &range);
	}
	esrs_rebuild_check_version(r);
	esrs_shadow_check(shadows, esrs_replay_role(&r->replay), true);
	esrs_shadow_swap(shadows);
	if (r->async)
		esrs_rebuild_done_async(r, range.upto);
	foreach(lc, r->names)
	{
		esrs_swaps_note((char *) lfirst(lc));
	}
	if (r->republish)
		esrs_notify_again_send(r->again);
	esrs_rebuild_forget_unfinished(r);
}
