/*-------------------------------------------------------------------------
 *
 * many.c
 *	  An aggregate in C that brings about as many events as one asks for.
 *
 * Command	{"Emit": {"events": n}}
 * Event	{"Returned": {"num_of_copies": 1}}
 * State	{"events": n}
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "extension/esrs/esrs.h"

PG_MODULE_MAGIC;

static void *
many_init(EsrsCall *call)
{
	return palloc0(sizeof(int64));
}

static bool
many_handle(EsrsCall *call, const void *state, EsrsJson *command)
{
	EsrsJson   *content;
	int64		events;

	(void) esrs_json_variant(command, &content);
	events = esrs_json_int64(content, "events");
	for (int64 i = 0; i < events; i++)
		json_object_object_add(esrs_emit_variant(call, "Returned"), "num_of_copies",
							   json_object_new_int64(1));
	return true;
}

static void *
many_apply(EsrsCall *call, void *state, const EsrsEvent *event)
{
	EsrsJson   *content;

	(void) esrs_json_variant(event->payload, &content);
	*(int64 *) state += esrs_json_int64(content, "num_of_copies");
	return state;
}

static struct json_object *
many_to_json(EsrsCall *call, const void *state)
{
	struct json_object *json = json_object_new_object();

	json_object_object_add(json, "events", json_object_new_int64(*(const int64 *) state));
	return json;
}

static const EsrsAggregateRoutine many_routine = {
	ESRS_AGGREGATE_ROUTINE,
	.init_state = many_init,
	.handle_command = many_handle,
	.apply_event = many_apply,
	.state_to_json = many_to_json,
};

ESRS_AGGREGATE_HANDLER(many_aggregate, many_routine);
