/*-------------------------------------------------------------------------
 *
 * verify.c
 *	  SQL function esrs_verify(): is what is stored of an aggregate what it must
 *	  be?  Numbers, positions, folds, snapshots, and what esrs remembers of
 *	  instances in its catalogs.
 *
 * Works as the current user, but for the catalogs, of which only numbers are told.
 * Changes nothing, so it runs on a standby as well.  What is in the catalogs is read
 * beside the events, in the same order, and the two are merged.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/verify.h"

#include "access/xact.h"
#include "base/jsonb_codec.h"
#include "base/security.h"
#include "base/spi.h"
#include "base/uuid.h"
#include "catalog/extension.h"
#include "catalog/pg_type.h"
#include "engine/arguments.h"
#include "engine/history.h"
#include "store/snapshot.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

PG_FUNCTION_INFO_V1(esrs_verify);

#define PORTION		500

/* What the catalogs know of an instance. */
typedef struct Known
{
	pg_uuid_t	id;
	int32		snapshot;		/* its sequence_number; 0: there is none */
	int32		command;		/* the same of the last command that is
								 * remembered */
	bool		gone;			/* deleted permanently */
} Known;

typedef struct Verify
{
	EsrsHistory history;
	Tuplestorestate *store;
	TupleDesc	desc;

	/* the catalogs */
	Portal		cursor;
	MemoryContext portion_context;
	Known	   *portion;
	int			nportion;
	int			next;			/* of the portion */
	bool		exhausted;

	/* the instance */
	int32		sequence_number;
	int64		position;
	bool		misnumbered;
	bool		misplaced;
	Known		known;
	EsrsSnapshotCondition condition;
	EsrsSnapshot snapshot;
	EsrsState  *state;
	EsrsFoldError *error;

	/* for the summary */
	int64		deprecated;
	int64		right;
	int64		worthless;
} Verify;

static void
report(Verify *v, const char *severity, const pg_uuid_t *id, int32 sequence_number,
	   const char *problem, const char *hint)
{
	Datum		values[5];
	bool		nulls[5] = {false};

	values[0] = CStringGetTextDatum(severity);
	values[1] = UUIDPGetDatum(id);
	values[2] = Int32GetDatum(sequence_number);
	nulls[2] = sequence_number == 0;
	values[3] = CStringGetTextDatum(problem);
	values[4] = hint ? CStringGetTextDatum(hint) : (Datum) 0;
	nulls[4] = hint == NULL;
	tuplestore_putvalues(v->store, v->desc, values, nulls);
}

/* ------------------------------------------------------------------------
 * The catalogs
 * ------------------------------------------------------------------------
 */

static void
open_catalogs(Verify *v)
{
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(v->history.agg->name)};
	EsrsIdentity before;

	esrs_security_become(&before, esrs_extension()->owner);
	v->cursor = esrs_spi_open("SELECT k.aggregate_id, coalesce(pg_catalog.max(k.snapshot), 0),"
							  " coalesce(pg_catalog.max(k.command), 0), pg_catalog.bool_or(k.gone)"
							  " FROM (SELECT aggregate_id, sequence_number AS snapshot,"
							  " NULL::pg_catalog.int4 AS command, false AS gone"
							  " FROM esrs.snapshots WHERE aggregate OPERATOR(pg_catalog.=) $1"
							  " UNION ALL SELECT aggregate_id, NULL, sequence_number, false"
							  " FROM esrs.commands WHERE aggregate OPERATOR(pg_catalog.=) $1"
							  " UNION ALL SELECT aggregate_id, NULL, NULL, true"
							  " FROM esrs.deletions WHERE aggregate OPERATOR(pg_catalog.=) $1"
							  " AND permanent) AS k"
							  " GROUP BY k.aggregate_id ORDER BY k.aggregate_id",
							  1, types, values, v->history.snapshot);
	esrs_security_restore(&before);
}

static void
fetch_known(Verify *v)
{
	MemoryContext before;
	bool		isnull;

	esrs_history_settle(&v->history);
	MemoryContextReset(v->portion_context);
	v->nportion = esrs_spi_fetch(v->cursor, PORTION);
	v->exhausted = v->nportion < PORTION;
	v->next = 0;
	before = MemoryContextSwitchTo(v->portion_context);
	v->portion = palloc(sizeof(Known) * Max(v->nportion, 1));
	MemoryContextSwitchTo(before);
	for (int i = 0; i < v->nportion; i++)
	{
		v->portion[i].id = *DatumGetUUIDP(esrs_spi_column(i, 1, &isnull));
		v->portion[i].snapshot = DatumGetInt32(esrs_spi_column(i, 2, &isnull));
		v->portion[i].command = DatumGetInt32(esrs_spi_column(i, 3, &isnull));
		v->portion[i].gone = DatumGetBool(esrs_spi_column(i, 4, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
}

/* What is known of an instance that has no events. */
static void
report_orphan(Verify *v, const Known *known)
{
	if (known->snapshot > 0)
		report(v, "warning", &known->id, known->snapshot,
			   "there is a snapshot of the instance, and no event",
			   psprintf("SELECT esrs_alter_aggregate('%s', '{\"snapshots\": \"drop\"}'). It is not used.",
						v->history.agg->name));
	if (known->command > 0)
		report(v, "error", &known->id, known->command,
			   "commands of the instance are remembered, and there is no event",
			   "Events were removed by other means than esrs_delete().");
}

/* Report what is known of instances before this one, or, if NULL, of all others. */
static void
pass_known(Verify *v, const pg_uuid_t *id)
{
	memset(&v->known, 0, sizeof(v->known));
	for (;;)
	{
		Known	   *known;
		int			order;

		if (v->next == v->nportion)
		{
			if (v->exhausted)
				return;
			fetch_known(v);
			continue;
		}
		known = &v->portion[v->next];
		order = id ? memcmp(known->id.data, id->data, UUID_LEN) : -1;
		if (order > 0)
			return;
		v->next++;
		if (order == 0)
		{
			v->known = *known;
			return;
		}
		report_orphan(v, known);
	}
}

/* ------------------------------------------------------------------------
 * An instance
 * ------------------------------------------------------------------------
 */

static void
begin_instance(EsrsHistory *h)
{
	Verify	   *v = (Verify *) h;

	v->sequence_number = 0;
	v->position = 0;
	v->misnumbered = v->misplaced = false;
	v->error = NULL;
	v->condition = ESRS_SNAPSHOT_MISSING;
	pass_known(v, &h->id);
	v->state = esrs_callback_init_state(h->call, &h->agg->routine, h->context);
	esrs_call_reset(h->call);
	if (v->known.snapshot > 0)
		v->condition = esrs_aggregate_fingerprint(h->agg) == NULL ? ESRS_SNAPSHOT_WORTHLESS :
			esrs_snapshot_find(h->agg, &h->id, h->snapshot, &v->snapshot);
	if (v->condition == ESRS_SNAPSHOT_DAMAGED)
		report(v, "warning", &h->id, v->known.snapshot,
			   "the snapshot is not as it was written", "It is not used.");
	v->worthless += v->condition == ESRS_SNAPSHOT_WORTHLESS;
}

/* The snapshot is of this event: it must be the state now. */
static void
prove_snapshot(Verify *v, const EsrsRecord *record)
{
	EsrsHistory *h = &v->history;
	Jsonb	   *state;

	v->condition = ESRS_SNAPSHOT_MISSING;	/* done with */
	if (v->error == NULL)
		v->error = esrs_history_json(h, &h->agg->routine, v->state, &state);
	if (v->error != NULL)
		return;
	if (!esrs_uuid_equal(&record->id, &v->snapshot.event_id) ||
		record->position != v->snapshot.position)
		report(v, "warning", &h->id, record->sequence_number,
			   "the snapshot names another event with this number", "It is not used.");
	else if (!esrs_jsonb_equal(state, v->snapshot.state))
		report(v, "error", &h->id, record->sequence_number,
			   "the snapshot is not what a fold of the events gives",
			   psprintf("A function gives other results for the same arguments, or calls one that was changed unseen. SELECT esrs_alter_aggregate('%s', '{\"snapshots\": \"rebuild\"}').",
						h->agg->name));
	else
		v->right++;
}

static void
check_event(EsrsHistory *h, EsrsRecord *record)
{
	Verify	   *v = (Verify *) h;
	bool		deprecated = false;

	if (record->sequence_number != v->sequence_number + 1 && !v->misnumbered)
	{
		v->misnumbered = true;
		report(v, "error", &h->id, record->sequence_number,
			   v->sequence_number == 0 ?
			   psprintf("the first event has sequence_number %d", record->sequence_number) :
			   psprintf("sequence_number %d follows %d", record->sequence_number,
						v->sequence_number),
			   "Events were removed, or stored, by other means than esrs.");
	}
	if (record->position <= v->position && !v->misplaced)
	{
		v->misplaced = true;
		report(v, "error", &h->id, record->sequence_number,
			   psprintf("position " INT64_FORMAT " is not behind that of the event before, " INT64_FORMAT,
						record->position, v->position),
			   "Event handlers see the two in the wrong order.");
	}
	v->sequence_number = record->sequence_number;
	v->position = record->position;
	if (v->error == NULL)
		v->error = esrs_history_fold(h, &h->agg->routine, v->state, record, &deprecated);
	v->deprecated += deprecated;
	if (v->condition == ESRS_SNAPSHOT_OK &&
		record->sequence_number == v->snapshot.sequence_number)
		prove_snapshot(v, record);
}

static void
end_instance(EsrsHistory *h)
{
	Verify	   *v = (Verify *) h;

	if (v->error != NULL)
		report(v, "error", &h->id, v->error->sequence_number,
			   psprintf("the fold raises %s: %s", v->error->sqlstate, v->error->message),
			   "The instance cannot be loaded, and takes no commands.");
	if (v->condition == ESRS_SNAPSHOT_OK)
		report(v, "warning", &h->id, v->snapshot.sequence_number,
			   "the snapshot is of an event that does not exist", "It is not used.");
	if (v->known.command > v->sequence_number)
		report(v, "error", &h->id, v->known.command,
			   psprintf("a command is remembered that had stored the event with this number, and the last is %d",
						v->sequence_number),
			   "Events were removed by other means than esrs_delete().");
	if (v->known.gone)
		report(v, "error", &h->id, v->sequence_number,
			   "the instance was deleted permanently, and has events",
			   "They were stored by other means than esrs.");
}

/* ------------------------------------------------------------------------
 * The function
 * ------------------------------------------------------------------------
 */

/*
 * A position is one event's.  The table's index cannot make sure of that, for the
 * sake of distributed tables.
 */
static void
report_shared_positions(Verify *v)
{
	EsrsAggregate *agg = v->history.agg;
	Portal		cursor = esrs_spi_open(psprintf("SELECT pg_catalog.max(aggregate_id::pg_catalog.text)"
												"::pg_catalog.uuid, position FROM %s GROUP BY position"
												" HAVING pg_catalog.count(*) OPERATOR(pg_catalog.>) 1 ORDER BY position",
												agg->table),
									   0, NULL, NULL, v->history.snapshot);
	uint64		n;

	do
	{
		bool		isnull;

		n = esrs_spi_fetch(cursor, PORTION);
		for (uint64 i = 0; i < n; i++)
			report(v, "error", DatumGetUUIDP(esrs_spi_column(i, 1, &isnull)), 0,
				   psprintf("position " INT64_FORMAT " is that of another instance's event, too",
							DatumGetInt64(esrs_spi_column(i, 2, &isnull))),
				   "Who reads the feed may miss one of them.");
		SPI_freetuptable(SPI_tuptable);
	} while (n == PORTION);
	SPI_cursor_close(cursor);
}

static void
append_count(StringInfo out, int64 n, const char *one, const char *many, const char *what)
{
	if (n > 0)
		appendStringInfo(out, "%s" INT64_FORMAT " %s %s.", out->len > 0 ? " " : "", n,
						 n == 1 ? one : many, what);
}

static void
sum_up(Verify *v)
{
	EsrsHistory *h = &v->history;
	StringInfoData detail;

	initStringInfo(&detail);
	append_count(&detail, v->deprecated, "event is", "events are", "left out as deprecated");
	append_count(&detail, v->right, "snapshot is", "snapshots are",
				 "what a fold of the events gives");
	append_count(&detail, v->worthless, "snapshot was", "snapshots were",
				 "made before a function, or the guard, was changed, and not used");
	ereport(NOTICE,
			(errmsg("verified aggregate \"%s\": " INT64_FORMAT " event%s, " INT64_FORMAT " instance%s",
					h->agg->name, h->events, h->events == 1 ? "" : "s",
					h->instances, h->instances == 1 ? "" : "s"),
			 detail.len > 0 ? errdetail_internal("%s", detail.data) : 0));
}

/* esrs_verify(aggregate) returns setof (severity, aggregate_id, sequence_number, problem, hint) */
Datum
esrs_verify(PG_FUNCTION_ARGS)
{
	Verify	   *v = palloc0(sizeof(Verify));

	v->history.what = "esrs_verify()";
	v->history.agg = esrs_history_aggregate(esrs_arguments_aggregate(fcinfo, 0));
	v->history.begin = begin_instance;
	v->history.event = check_event;
	v->history.end = end_instance;
	v->store = esrs_arguments_begin_set(fcinfo, &v->desc);
	v->portion_context = AllocSetContextCreate(CurrentMemoryContext, "esrs catalogs",
											   ALLOCSET_DEFAULT_SIZES);
	CommandCounterIncrement();
	v->history.snapshot = RegisterSnapshot(GetTransactionSnapshot());
	esrs_spi_begin();
	open_catalogs(v);
	esrs_history_walk(&v->history);
	pass_known(v, NULL);
	report_shared_positions(v);
	SPI_cursor_close(v->cursor);
	esrs_spi_end();
	UnregisterSnapshot(v->history.snapshot);
	sum_up(v);
	return (Datum) 0;
}
