/*-------------------------------------------------------------------------
 *
 * notify.c
 *	  Notifications of new events by NOTIFY, and the form of messages.
 *
 * By default the background worker tells, from the feed: announce.c.  Where the
 * aggregate wants it so, or there is no worker, what was appended is remembered,
 * savepoint by savepoint, and told just before the transaction commits.  One
 * notification per event, in order, on the channel <aggregate>_events; of an
 * aggregate with more than 100 events at once, one summary.
 *
 * A notification is a hint, never the truth: it is lost when nobody listens,
 * and every role may send one.  By default it holds no data of the event,
 * because every role may also listen.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "signal/notify.h"

#include "access/xact.h"
#include "base/jsonb_codec.h"
#include "base/uuid.h"
#include "commands/async.h"
#include "config.h"
#include "pgtime.h"
#include "signal/wakeup.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

/* Longest payload that is sent; NOTIFY itself takes 7999 bytes. */
#define MAX_PAYLOAD		7900

/* More events of one aggregate in one transaction are told by a summary. */
#define MAX_SINGLE		100

/* An event that this transaction has to tell. */
typedef struct Pending
{
	EsrsNotice	notice;			/* must be first: esrs_notify_send() wants
								 * these */
	SubTransactionId subid;
	bool		fallback;		/* only because no worker can run */
	int			nth;			/* of its aggregate in this transaction */
} Pending;

/* In TopTransactionContext. */
static List *pending = NIL;

/* ------------------------------------------------------------------------
 * Messages
 * ------------------------------------------------------------------------
 */

/*
 * RFC 3339 in UTC, with the shortest of 0, 3 or 6 digits of fraction that is
 * exact, as the Rust library's messages have it.
 */
static void
append_timestamp(StringInfo out, TimestampTz t)
{
	struct pg_tm tm;
	fsec_t		fsec;

	if (TIMESTAMP_NOT_FINITE(t) || timestamp2tm(t, NULL, &tm, &fsec, NULL, NULL) != 0)
	{
		appendStringInfoString(out, "null");
		return;
	}
	if (tm.tm_year >= 0 && tm.tm_year <= 9999)
		appendStringInfo(out, "\"%04d", tm.tm_year);
	else
		appendStringInfo(out, "\"%+05d", tm.tm_year);
	appendStringInfo(out, "-%02d-%02dT%02d:%02d:%02d", tm.tm_mon, tm.tm_mday,
					 tm.tm_hour, tm.tm_min, tm.tm_sec);
	if (fsec % 1000 != 0)
		appendStringInfo(out, ".%06d", fsec);
	else if (fsec != 0)
		appendStringInfo(out, ".%03d", fsec / 1000);
	appendStringInfoString(out, "Z\"");
}

/*
 * Append the message of an event: compact JSON with the members and the order
 * of the Rust library's.  With the position as a last member if wanted.
 * Record->event is set.
 */
void
esrs_notify_message(StringInfo out, const EsrsRecord *record, bool with_position)
{
	if (record->deletion)
	{
		appendStringInfo(out, "{\"aggregate_id\":\"%s\",\"deleted\":true,\"position\":" INT64_FORMAT "}",
						 esrs_uuid_text(&record->aggregate_id), record->position);
		return;
	}
	appendStringInfo(out, "{\"id\":\"%s\",\"aggregate_id\":\"%s\",\"payload\":",
					 esrs_uuid_text(&record->id), esrs_uuid_text(&record->aggregate_id));
	esrs_jsonb_append(out, record->event);
	appendStringInfoString(out, ",\"occurred_on\":");
	append_timestamp(out, record->occurred_on);
	appendStringInfo(out, ",\"sequence_number\":%d,\"version\":", record->sequence_number);
	if (record->version == ESRS_NO_VERSION)
		appendStringInfoString(out, "null");
	else
		appendStringInfo(out, "%d", record->version);
	if (with_position)
		appendStringInfo(out, ",\"position\":" INT64_FORMAT, record->position);
	appendStringInfoChar(out, '}');
}

/* Who tells of an aggregate's events: its option, or the setting. */
EsrsNotifyMode
esrs_notify_mode(EsrsAggregate *agg)
{
	return agg->notify < 0 ? esrs_config_notify : agg->notify;
}

/* Does a notification of an aggregate's events contain them? */
bool
esrs_notify_contains_event(EsrsAggregate *agg)
{
	return (agg->notify_payload < 0 ? esrs_config_notify_payload :
			agg->notify_payload) == ESRS_PAYLOAD_EVENT;
}

/*
 * Fill what is to be told of an event or a deletion.  If a notification is to
 * contain the event, record->event is set; its message is made in the current
 * context, if wanted.
 */
void
esrs_notify_fill(EsrsNotice *notice, EsrsAggregate *agg, const EsrsRecord *record,
				 bool want_message)
{
	StringInfoData message;

	memset(notice, 0, sizeof(*notice));
	strlcpy(notice->aggregate, agg->name, sizeof(notice->aggregate));
	notice->deletion = record->deletion;
	notice->id = record->id;
	notice->aggregate_id = record->aggregate_id;
	notice->sequence_number = record->sequence_number;
	notice->position = record->position;
	if (record->deletion || !esrs_notify_contains_event(agg))
		return;
	notice->truncated = true;
	if (!want_message || record->event == NULL ||
		VARSIZE(record->event) > 16 * MAX_PAYLOAD)
		return;
	initStringInfo(&message);
	esrs_notify_message(&message, record, true);
	if (message.len > MAX_PAYLOAD)
		pfree(message.data);
	else
	{
		notice->message = message.data;
		notice->truncated = false;
	}
}

/* ------------------------------------------------------------------------
 * Remembering
 * ------------------------------------------------------------------------
 */

/* How often an aggregate stands in the list already. */
static int
count_before(const char *aggregate)
{
	/* its predecessor is the last one, as a rule */
	for (int i = list_length(pending) - 1; i >= 0; i--)
	{
		Pending    *before = (Pending *) list_nth(pending, i);

		if (strcmp(before->notice.aggregate, aggregate) == 0)
			return before->nth;
	}
	return 0;
}

static void
remember(EsrsAggregate *agg, const EsrsRecord *record)
{
	Pending    *p = palloc0(sizeof(Pending));

	p->nth = count_before(agg->name) + 1;
	p->subid = GetCurrentSubTransactionId();
	p->fallback = esrs_notify_mode(agg) == ESRS_NOTIFY_WORKER;

	/* beyond the limit a summary is likely: keep no messages for it */
	esrs_notify_fill(&p->notice, agg, record, p->nth <= MAX_SINGLE);
	pending = lappend(pending, p);
}

/*
 * Does a transaction tell of its events itself?  If the worker is to do it, but
 * there cannot be one, it does.
 */
static bool
tells(EsrsAggregate *agg)
{
	switch (esrs_notify_mode(agg))
	{
		case ESRS_NOTIFY_COMMIT:
			return true;
		case ESRS_NOTIFY_WORKER:
			return !esrs_wakeup_worker_may_run();
		default:
			return false;
	}
}

/* Events were appended; tell at commit.  Each record->event is set. */
void
esrs_notify_appended(EsrsAggregate *agg, List *records)
{
	MemoryContext before;
	ListCell   *lc;

	if (records == NIL || !tells(agg))
		return;
	before = MemoryContextSwitchTo(TopTransactionContext);
	foreach(lc, records)
	{
		remember(agg, (EsrsRecord *) lfirst(lc));
	}
	MemoryContextSwitchTo(before);
}

/* An instance was deleted; tell at commit. */
void
esrs_notify_deleted(EsrsAggregate *agg, const pg_uuid_t *id, int64 position)
{
	EsrsRecord	record = {.deletion = true,.aggregate_id = *id,.position = position};
	MemoryContext before;

	if (!tells(agg))
		return;
	before = MemoryContextSwitchTo(TopTransactionContext);
	remember(agg, &record);
	MemoryContextSwitchTo(before);
}

/* ------------------------------------------------------------------------
 * Telling
 * ------------------------------------------------------------------------
 */

static void
send(const char *aggregate, const char *payload)
{
	char		channel[NAMEDATALEN];

	snprintf(channel, sizeof(channel), "%s_events", aggregate);
	Async_Notify(channel, payload);
}

static void
send_single(const EsrsNotice *p)
{
	StringInfoData payload;

	if (p->message != NULL)
	{
		send(p->aggregate, p->message);
		return;
	}
	initStringInfo(&payload);
	appendStringInfo(&payload, "{\"aggregate\":\"%s\",", p->aggregate);
	if (!p->deletion)
		appendStringInfo(&payload, "\"id\":\"%s\",", esrs_uuid_text(&p->id));
	appendStringInfo(&payload, "\"aggregate_id\":\"%s\",", esrs_uuid_text(&p->aggregate_id));
	if (p->deletion)
		appendStringInfoString(&payload, "\"deleted\":true,");
	else
		appendStringInfo(&payload, "\"sequence_number\":%d,", p->sequence_number);
	appendStringInfo(&payload, "\"position\":" INT64_FORMAT "%s}", p->position,
					 p->truncated ? ",\"truncated\":true" : "");
	send(p->aggregate, payload.data);
	pfree(payload.data);
}

/* What there is to tell of one aggregate. */
typedef struct Summary
{
	const char *aggregate;
	int			count;
	int64		from;
	int64		to;
	bool		sent;
} Summary;

static Summary *
summary_of(List *summaries, const char *aggregate)
{
	ListCell   *lc;

	foreach(lc, summaries)
	{
		if (strcmp(((Summary *) lfirst(lc))->aggregate, aggregate) == 0)
			return (Summary *) lfirst(lc);
	}
	return NULL;
}

/* Count a notice in, with the others of its aggregate. */
static Summary *
count_in(List **summaries, const EsrsNotice *p)
{
	Summary    *s = summary_of(*summaries, p->aggregate);

	if (s == NULL)
	{
		s = palloc0(sizeof(Summary));
		s->aggregate = p->aggregate;
		s->from = p->position;
		*summaries = lappend(*summaries, s);
	}
	s->count++;
	s->from = Min(s->from, p->position);
	s->to = Max(s->to, p->position);
	return s;
}

/* Send them; of an aggregate that has too many, one for all. */
static void
send_all(List *notices, List *summaries)
{
	ListCell   *lc;

	foreach(lc, notices)
	{
		EsrsNotice *p = (EsrsNotice *) lfirst(lc);
		Summary    *s = summary_of(summaries, p->aggregate);

		if (s->count <= MAX_SINGLE)
			send_single(p);
		else if (!s->sent)
		{
			char	   *payload = psprintf("{\"aggregate\":\"%s\",\"from\":" INT64_FORMAT
										   ",\"to\":" INT64_FORMAT ",\"count\":%d}",
										   s->aggregate, s->from, s->to, s->count);

			send(s->aggregate, payload);
			s->sent = true;
		}
	}
}

/* Send notifications of a list of EsrsNotice, at the commit of this transaction. */
void
esrs_notify_send(List *notices)
{
	List	   *summaries = NIL;
	ListCell   *lc;

	foreach(lc, notices)
	{
		(void) count_in(&summaries, (EsrsNotice *) lfirst(lc));
	}
	send_all(notices, summaries);
}

/* ------------------------------------------------------------------------
 * Telling again
 * ------------------------------------------------------------------------
 */

/* Old events that one transaction tells of, all that it needs of them. */
struct EsrsRetelling
{
	MemoryContext context;
	List	   *notices;		/* of an aggregate the first MAX_SINGLE */
	List	   *summaries;
};

/* Nothing to tell so far.  Lives in the current context. */
EsrsRetelling *
esrs_notify_again_begin(void)
{
	EsrsRetelling *again = palloc0(sizeof(EsrsRetelling));

	again->context = AllocSetContextCreate(CurrentMemoryContext, "esrs notify",
										   ALLOCSET_SMALL_SIZES);
	return again;
}

/*
 * Tell of one more event, as if it had just been appended, whoever tells of new ones.
 * Memory does not grow with their number.
 */
void
esrs_notify_again(EsrsRetelling *again, EsrsAggregate *agg, const EsrsRecord *record)
{
	MemoryContext before = MemoryContextSwitchTo(again->context);
	EsrsNotice *notice = palloc(sizeof(EsrsNotice));
	Summary    *s = summary_of(again->summaries, agg->name);

	esrs_notify_fill(notice, agg, record, s == NULL || s->count < MAX_SINGLE);
	s = count_in(&again->summaries, notice);
	if (s->count <= MAX_SINGLE)
		again->notices = lappend(again->notices, notice);
	else
		pfree(notice);
	MemoryContextSwitchTo(before);
}

/* Send what is to be told, at the commit of this transaction, and begin anew. */
void
esrs_notify_again_send(EsrsRetelling *again)
{
	send_all(again->notices, again->summaries);
	again->notices = again->summaries = NIL;
	MemoryContextReset(again->context);
}

/* ------------------------------------------------------------------------
 * Ends of transactions
 * ------------------------------------------------------------------------
 */

/*
 * NOTIFY cannot be prepared.  What the worker would have told, if there were one,
 * is a hint that may be missed.
 */
static bool
must_be_told(void)
{
	ListCell   *lc;

	foreach(lc, pending)
	{
		if (!((Pending *) lfirst(lc))->fallback)
			return true;
	}
	return false;
}

static void
transaction_event(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			if (pending != NIL)
				esrs_notify_send(pending);
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (must_be_told())
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that has to send notifications of events"),
						 errhint("Set the aggregate's option \"notify\" to \"worker\" or \"off\".")));
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			/* its memory goes with the transaction */
			pending = NIL;
			break;
		default:
			break;
	}
}

/* A rolled-back savepoint has nothing to tell; a released one passes it on. */
static void
subtransaction_event(SubXactEvent event, SubTransactionId subid,
					 SubTransactionId parent, void *arg)
{
	if (event != SUBXACT_EVENT_ABORT_SUB && event != SUBXACT_EVENT_COMMIT_SUB)
		return;

	/* what a savepoint has to tell stands at the end, after its parents' */
	for (int i = list_length(pending) - 1; i >= 0; i--)
	{
		Pending    *p = (Pending *) list_nth(pending, i);

		if (p->subid < subid)
			break;
		if (event == SUBXACT_EVENT_COMMIT_SUB)
			p->subid = parent;
		else
			pending = list_truncate(pending, i);
	}
}

/* Register for the ends of transactions.  Called once, at load. */
void
esrs_notify_init(void)
{
	RegisterXactCallback(transaction_event, NULL);
	RegisterSubXactCallback(subtransaction_event, NULL);
}
