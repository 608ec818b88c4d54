/*-------------------------------------------------------------------------
 *
 * registration.c
 *	  A counter in C, as small as an aggregate can be, and a handler function
 *	  whose routine lacks a required member: for the tests of registration.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "esrs.h"

static bool
counter_handle(EsrsCall *call, const void *state, EsrsJson *command)
{
	json_object_object_add(esrs_emit_variant(call, "Added"), "by", json_object_new_int(1));
	return true;
}

static void *
counter_apply(EsrsCall *call, void *state, const EsrsEvent *event)
{
	struct json_object *counter = (struct json_object *) state;
	struct json_object *n = json_object_object_get(counter, "n");

	json_object_object_add(counter, "n",
						   json_object_new_int(n ? json_object_get_int(n) + 1 : 1));
	return counter;
}

static const EsrsAggregateRoutine counter_routine = {
	ESRS_AGGREGATE_ROUTINE,
	.handle_command = counter_handle,
	.apply_event = counter_apply,
};

static const EsrsAggregateRoutine incomplete_routine = {
	ESRS_AGGREGATE_ROUTINE,
	.handle_command = counter_handle,
};

ESRS_AGGREGATE_HANDLER(registration_counter, counter_routine);
ESRS_AGGREGATE_HANDLER(registration_incomplete, incomplete_routine);
