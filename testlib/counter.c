/*-------------------------------------------------------------------------
 *
 * counter.c
 *	  Three ways to keep a state: a struct of one's own (counter), JSON that is
 *	  changed in place (tally), and JSON that is made anew for each event
 *	  (journal).
 *
 * testlib_applied() tells how often one of their apply_event was called: what a
 * cached state or a snapshot spares.  With -DCOUNTER_STEP=n it is another build,
 * which counts in steps of n.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "esrs.h"

#include "utils/timestamp.h"

#ifndef COUNTER_STEP
#define COUNTER_STEP	1
#endif

static int64 applied = 0;

PG_FUNCTION_INFO_V1(testlib_applied);
PG_FUNCTION_INFO_V1(testlib_step);

/* testlib_applied() returns bigint */
Datum
testlib_applied(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(applied);
}

/* testlib_step(n int) returns int: for a callback in SQL that calls C */
Datum
testlib_step(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(COUNTER_STEP * PG_GETARG_INT32(0));
}

/* ------------------------------------------------------------------------
 * counter: a struct
 *
 * Commands: {"Add": {"by": n}}, {"Many": n} (n events), "Reset" (a unit
 * variant), "Nothing" (no event), "Show" (an event that shows what a call
 * knows of itself), {"Pad": n} (the state takes n bytes more), "Fault" (an
 * error), "Break" (an event that cannot be applied).
 *
 * Three routines: no snapshots, for want of state_from_json (testlib_counter);
 * with it (testlib_counter_kept); and with one that forgets
 * (testlib_counter_forgetful).
 * ------------------------------------------------------------------------
 */
typedef struct Counter
{
	int64		value;
	int			events;
	char	   *last;			/* type of the newest event */
	void	   *padding;
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
	else if (strcmp(type, "Pad") == 0)
		json_object_object_add(esrs_emit_variant(call, "Padded"), "bytes",
							   json_object_new_int64(esrs_json_int64(content, NULL)));
	else if (strcmp(type, "Fault") == 0)
		elog(ERROR, "handle_command fails as asked");
	else if (strcmp(type, "Break") == 0)
		esrs_emit_variant(call, "Broken");
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

	applied++;
	counter->events++;
	if (counter->events != event->sequence_number)
		elog(ERROR, "event %d came as number %d", event->sequence_number, counter->events);
	if (memcmp(&event->aggregate_id, esrs_aggregate_id(call), UUID_LEN) != 0)
		elog(ERROR, "event belongs to another instance");
	if (strcmp(type, "Added") == 0)
		counter->value += COUNTER_STEP * esrs_json_int64(content, "by");
	else if (strcmp(type, "Reset") == 0)
		counter->value = 0;
	else if (strcmp(type, "Padded") == 0)
		counter->padding = palloc(esrs_json_int64(content, "bytes"));
	else if (strcmp(type, "Broken") == 0)
	{
		counter->value = -1;
		elog(ERROR, "apply_event fails as asked");
	}
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

static void *
counter_from_json(EsrsCall *call, struct json_object *json)
{
	Counter    *counter = palloc0(sizeof(Counter));
	struct json_object *last = json_object_object_get(json, "last");

	counter->value = json_object_get_int64(json_object_object_get(json, "value"));
	counter->events = json_object_get_int(json_object_object_get(json, "events"));
	if (last != NULL)
		counter->last = pstrdup(json_object_get_string(last));
	return counter;
}

/* Forgets the value if it is above 10, and fails above 100. */
static void *
counter_from_json_forgetful(EsrsCall *call, struct json_object *json)
{
	Counter    *counter = counter_from_json(call, json);

	if (counter->value > 100)
		elog(ERROR, "state_from_json fails as asked");
	if (counter->value > 10)
		counter->value = 0;
	return counter;
}

static const EsrsAggregateRoutine counter_routine = {
	ESRS_AGGREGATE_ROUTINE,
	.init_state = counter_init,
	.handle_command = counter_handle,
	.apply_event = counter_apply,
	.state_to_json = counter_to_json,
};

static const EsrsAggregateRoutine counter_kept_routine = {
	ESRS_AGGREGATE_ROUTINE,
	.init_state = counter_init,
	.handle_command = counter_handle,
	.apply_event = counter_apply,
	.state_to_json = counter_to_json,
	.state_from_json = counter_from_json,
};

static const EsrsAggregateRoutine counter_forgetful_routine = {
	ESRS_AGGREGATE_ROUTINE,
	.init_state = counter_init,
	.handle_command = counter_handle,
	.apply_event = counter_apply,
	.state_to_json = counter_to_json,
	.state_from_json = counter_from_json_forgetful,
};

ESRS_AGGREGATE_HANDLER(testlib_counter, counter_routine);
ESRS_AGGREGATE_HANDLER(testlib_counter_kept, counter_kept_routine);
ESRS_AGGREGATE_HANDLER(testlib_counter_forgetful, counter_forgetful_routine);

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

	applied++;
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

	applied++;
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
