/*-------------------------------------------------------------------------
 *
 * counter.c
 *	  Three ways to keep a state: a struct of one's own (counter), JSON that is
 *	  changed in place (tally), and JSON that is made anew for each event
 *	  (journal).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "esrs.h"

#include "utils/timestamp.h"

/* ------------------------------------------------------------------------
 * counter: a struct
 *
 * Commands: {"Add": {"by": n}}, {"Many": n} (n events), "Reset" (a unit
 * variant), "Nothing" (no event), "Show" (an event that shows what a call
 * knows of itself).
 * ------------------------------------------------------------------------
 */
typedef struct Counter
{
	int64		value;
	int			events;
	char	   *last;			/* type of the newest event */
} Counter;

static void *
counter_init(EsrsCall *call)
{
	return palloc0(sizeof(Counter));
}

static const char *
uuid_text(const pg_uuid_t *id)
{
	return DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(id)));
}

static bool
counter_add(EsrsCall *call, const Counter *counter, int64 by)
{
	if (counter->value + by < 0)
	{
		struct json_object *detail;

		esrs_reject(call, "below_zero", "counter is at %lld and cannot change by %lld",
					(long long) counter->value, (long long) by);
		detail = esrs_reject_detail(call);
		json_object_object_add(detail, "value", json_object_new_int64(counter->value));
		json_object_object_add(detail, "by", json_object_new_int64(by));
		return false;
	}
	json_object_object_add(esrs_emit_variant(call, "Added"), "by", json_object_new_int64(by));
	return true;
}

static void
counter_show(EsrsCall *call)
{
	struct json_object *shown = esrs_emit_variant(call, "Shown");
	EsrsJson   *metadata = esrs_metadata(call);

	json_object_object_add(shown, "aggregate_id",
						   json_object_new_string(uuid_text(esrs_aggregate_id(call))));
	json_object_object_add(shown, "now_us", json_object_new_int64(esrs_now(call)));
	json_object_object_add(shown, "actor", metadata == NULL ? NULL :
						   json_object_new_string(esrs_json_opt_string(metadata, "actor", "nobody")));
	json_object_object_add(shown, "metadata", metadata ? esrs_json(metadata) : NULL);
}

static bool
counter_handle(EsrsCall *call, const void *state, EsrsJson *command)
{
	const Counter *counter = state;
	EsrsJson   *content;
	const char *type = esrs_json_variant(command, &content);

	if (strcmp(type, "Add") == 0)
		return counter_add(call, counter, esrs_json_int64(content, "by"));
	if (strcmp(type, "Many") == 0)
	{
		int64		n = esrs_json_int64(content, NULL);

		for (int64 i = 0; i < n; i++)
			counter_add(call, counter, 1);
	}
	else if (strcmp(type, "Reset") == 0)
		esrs_emit_json(call, json_object_new_string("Reset"));
	else if (strcmp(type, "Show") == 0)
		counter_show(call);
	else if (strcmp(type, "Nothing") != 0)
		return esrs_reject(call, NULL, "there is no command \"%s\"", type);
	return true;
}

static void *
counter_apply(EsrsCall *call, void *state, const EsrsEvent *event)
{
	Counter    *counter = state;
	EsrsJson   *content;
	const char *type = esrs_json_variant(event->payload, &content);

	counter->events++;
	if (counter->events != event->sequence_number)
		elog(ERROR, "event %d came as number %d", event->sequence_number, counter->events);
	if (memcmp(&event->aggregate_id, esrs_aggregate_id(call), UUID_LEN) != 0)
		elog(ERROR, "event belongs to another instance");
	if (strcmp(type, "Added") == 0)
		counter->value += esrs_json_int64(content, "by");
	else if (strcmp(type, "Reset") == 0)
		counter->value = 0;
	/* a string of the callback's own must live as long as the state */
	if (counter->last)
		pfree(counter->last);
	counter->last = pstrdup(type);
	return counter;
}

static struct json_object *
counter_to_json(EsrsCall *call, const void *state)
{
	const Counter *counter = state;
	struct json_object *json = json_object_new_object();

	json_object_object_add(json, "value", json_object_new_int64(counter->value));
	json_object_object_add(json, "events", json_object_new_int(counter->events));
	json_object_object_add(json, "last",
						   counter->last ? json_object_new_string(counter->last) : NULL);
	return json;
}

static const EsrsAggregateRoutine counter_routine = {
	ESRS_AGGREGATE_ROUTINE,
	.init_state = counter_init,
	.handle_command = counter_handle,
	.apply_event = counter_apply,
	.state_to_json = counter_to_json,
};

ESRS_AGGREGATE_HANDLER(testlib_counter, counter_routine);

/* ------------------------------------------------------------------------
 * tally: JSON changed in place
 *
 * {"Emit": [event, ...]} emits what it is given; the state counts the events
 * by type and keeps the newest one, a part of a document that is only lent.
 * ------------------------------------------------------------------------
 */
static bool
tally_handle(EsrsCall *call, const void *state, EsrsJson *command)
{
	EsrsJson   *events = esrs_json_array(command, "Emit");
	int			n = esrs_json_length(events);

	for (int i = 0; i < n; i++)
		esrs_emit_json(call, esrs_json(esrs_json_element(events, i)));
	return true;
}

static void *
tally_apply(EsrsCall *call, void *state, const EsrsEvent *event)
{
	struct json_object *tally = state;
	const char *type = esrs_json_variant(event->payload, NULL);
	struct json_object *before = json_object_object_get(tally, type);

	json_object_object_add(tally, type,
						   json_object_new_int64(1 + json_object_get_int64(before)));
	json_object_object_add(tally, "newest", esrs_json(event->payload));
	return tally;
}

static const EsrsAggregateRoutine tally_routine = {
	ESRS_AGGREGATE_ROUTINE,
	.handle_command = tally_handle,
	.apply_event = tally_apply,
};

ESRS_AGGREGATE_HANDLER(testlib_tally, tally_routine);

/* ------------------------------------------------------------------------
 * journal: JSON made anew
 *
 * The state is an array; each event gives a new array with the old elements
 * and one more.
 * ------------------------------------------------------------------------
 */
static void *
journal_init(EsrsCall *call)
{
	return json_object_new_array();
}

static void *
journal_apply(EsrsCall *call, void *state, const EsrsEvent *event)
{
	struct json_object *old = state;
	struct json_object *new = json_object_new_array();

	for (size_t i = 0; i < json_object_array_length(old); i++)
		json_object_array_add(new, json_object_array_get_idx(old, i));
	json_object_array_put_idx(new, json_object_array_length(old),
							  json_object_new_int(event->sequence_number));
	return new;
}

static const EsrsAggregateRoutine journal_routine = {
	ESRS_AGGREGATE_ROUTINE,
	.init_state = journal_init,
	.handle_command = tally_handle,
	.apply_event = journal_apply,
};

ESRS_AGGREGATE_HANDLER(testlib_journal, journal_routine);
