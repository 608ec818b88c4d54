/*-------------------------------------------------------------------------
 *
 * rebuild_progress.c
 *	  How far a rebuild is: for the view esrs_progress_rebuild, and, every few
 *	  seconds, for whoever has called it; and how fast it may be.
 *
 * Nothing here may touch what is rebuilt.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "esrs.h"

#include "engine/rebuild_progress.h"

#include "engine/arguments.h"
#include "engine/waiting.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(esrs_rebuilds_in_progress);

#define NCOLUMNS			11

/* How often progress is told, in milliseconds. */
#define NOTICE_INTERVAL		5000

/* Longest pause at a time, in milliseconds. */
#define LONGEST_PAUSE		1000

/* Begin with nothing done; the totals are not known yet. */
void
esrs_rebuild_progress_begin(EsrsRebuildProgress *progress, const char *handlers,
							const char *strategy)
{
	EsrsRebuildPlace *shown = &progress->shown;

	memset(shown, 0, sizeof(*shown));
	if (strlcpy(shown->handlers, handlers, sizeof(shown->handlers)) >= sizeof(shown->handlers))
		memcpy(shown->handlers + sizeof(shown->handlers) - 4, "...", 4);
	strlcpy(shown->strategy, strategy, sizeof(shown->strategy));
	shown->events_total = shown->instances_total = -1;
	shown->started_at = GetCurrentTimestamp();
	progress->next_notice = TimestampTzPlusMilliseconds(shown->started_at, NOTICE_INTERVAL);
	esrs_rebuilds_show(shown);
}

void
esrs_rebuild_progress_phase(EsrsRebuildProgress *progress, EsrsRebuildPhase phase)
{
	progress->shown.phase = phase;
	if (phase == ESRS_REBUILD_REPLAYING && progress->shown.replaying_since == 0)
		progress->shown.replaying_since = GetCurrentTimestamp();
	if (progress->counts == NULL)
		esrs_rebuilds_show(&progress->shown);
}

/* Events per second of replaying; 0 if there is nothing to go by. */
static double
rate_of(const EsrsRebuildPlace *shown)
{
	TimestampTz now = GetCurrentTimestamp();

	if (shown->replaying_since == 0 || now <= shown->replaying_since)
		return 0;
	return (shown->events - shown->events_before) * 1000000.0 / (now - shown->replaying_since);
}

static void
tell(EsrsRebuildProgress *progress)
{
	EsrsRebuildPlace *shown = &progress->shown;
	TimestampTz now = GetCurrentTimestamp();

	if (now < progress->next_notice || progress->counts != NULL)
		return;
	progress->next_notice = TimestampTzPlusMilliseconds(now, NOTICE_INTERVAL);
	if (shown->phase == ESRS_REBUILD_DELETING)
		ereport(NOTICE,
				(errmsg("rebuild of %s: " INT64_FORMAT " instances deleted so far",
						shown->handlers, shown->instances)));
	else
		ereport(NOTICE,
				(errmsg("rebuild of %s: " INT64_FORMAT " of " INT64_FORMAT " events so far, %.0f per second",
						shown->handlers, shown->events, shown->events_total, rate_of(shown))));
}

/* So much more is done. */
void
esrs_rebuild_progress_advance(EsrsRebuildProgress *progress, int64 events, int64 instances)
{
	progress->shown.events += events;
	progress->shown.instances += instances;
	if (progress->counts != NULL)
	{
		(void) pg_atomic_fetch_add_u64(&progress->counts->events, events);
		(void) pg_atomic_fetch_add_u64(&progress->counts->instances, instances);
		return;
	}
	esrs_rebuilds_show(&progress->shown);
	tell(progress);
}

/* Wait until no more events are done than max_rate allows. */
void
esrs_rebuild_progress_throttle(EsrsRebuildProgress *progress)
{
	EsrsRebuildPlace *shown = &progress->shown;

	while (progress->max_rate > 0)
	{
		int64		due = shown->replaying_since +
		(shown->events - shown->events_before) * INT64CONST(1000000) / progress->max_rate;
		int64		rest = (due - GetCurrentTimestamp()) / 1000;

		if (rest <= 0)
			break;
		esrs_waiting_pause(Min(rest, LONGEST_PAUSE));
		tell(progress);
	}
}

/* It is over, in whichever way. */
void
esrs_rebuild_progress_end(EsrsRebuildProgress *progress)
{
	esrs_rebuilds_hide();
}

static const char *
phase_name(EsrsRebuildPhase phase)
{
	switch (phase)
	{
		case ESRS_REBUILD_WAITING:
			return "waiting for locks";
		case ESRS_REBUILD_COUNTING:
			return "counting";
		case ESRS_REBUILD_DELETING:
			return "deleting";
		case ESRS_REBUILD_REPLAYING:
			return "replaying";
		case ESRS_REBUILD_FINISHING:
			return "finishing";
	}
	return "unknown";
}

/* esrs.rebuilds_in_progress() returns setof record */
Datum
esrs_rebuilds_in_progress(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Tuplestorestate *store = esrs_arguments_begin_set(fcinfo, &desc);
	EsrsRebuildPlace *places = palloc(sizeof(EsrsRebuildPlace) * ESRS_REBUILD_PLACES);
	int			n = esrs_rebuilds_list(places);

	for (int i = 0; i < n; i++)
	{
		EsrsRebuildPlace *p = &places[i];
		double		rate = rate_of(p);
		Datum		values[NCOLUMNS];
		bool		nulls[NCOLUMNS] = {false};

		values[0] = Int32GetDatum(p->pid);
		values[1] = CStringGetTextDatum(p->handlers);
		values[2] = CStringGetTextDatum(p->strategy);
		values[3] = CStringGetTextDatum(phase_name(p->phase));
		values[4] = Int64GetDatum(p->events);
		values[5] = Int64GetDatum(p->events_total);
		nulls[5] = p->events_total < 0;
		values[6] = Int64GetDatum(p->instances);
		values[7] = Int64GetDatum(p->instances_total);
		nulls[7] = p->instances_total < 0;
		values[8] = Float8GetDatum(rate);
		nulls[8] = rate <= 0;
		nulls[9] = rate <= 0 || p->events_total < p->events;
		values[9] = Float8GetDatum(nulls[9] ? 0 : (p->events_total - p->events) / rate);
		values[10] = TimestampTzGetDatum(p->started_at);
		tuplestore_putvalues(store, desc, values, nulls);
	}
	return (Datum) 0;
}
