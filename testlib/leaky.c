/*-------------------------------------------------------------------------
 *
 * leaky.c
 *	  An aggregate that leaves json-c objects lying about, in all callbacks.
 *
 * Commands: {"mode": "forget"} returns without events, {"mode": "emit"} emits
 * one, {"mode": "reject"} rejects, {"mode": "fail"} raises, {"mode":
 * "cancel"} is cancelled by the server, {"mode": "palloc"} and {"mode":
 * "malloc"} run out of memory of PostgreSQL's and of json-c's, {"mode":
 * "apply"} emits an event whose apply_event raises, {"mode": "attach"}
 * attaches in odd ways before it raises.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "esrs.h"

#include "miscadmin.h"

#define SOME_TEXT "a string that is long enough for json-c to allocate memory of its own"

/* Objects of all kinds, some of them attached to each other. */
static void
litter(EsrsJson *doc)
{
	struct json_object *object = json_object_new_object();
	struct json_object *array = json_object_new_array();
	struct json_object *copy = NULL;
	struct json_object *own;

	json_object_object_add(object, "text", json_object_new_string(SOME_TEXT));
	json_object_array_add(array, json_object_new_double_s(0.1, SOME_TEXT));
	json_object_array_add(array, esrs_json(doc));
	json_object_object_add(object, "doc", esrs_json(doc));
	(void) json_object_new_string(SOME_TEXT);
	(void) json_object_new_array_ext(100);
	(void) json_object_new_int64(1);
	(void) json_object_get(object);
	(void) json_object_get(esrs_json(doc));
	(void) json_object_deep_copy(esrs_json(doc), &copy, NULL);
	(void) esrs_json_parse("{\"text\": \"" SOME_TEXT "\"}");

	/* more than the pool holds at first */
	for (int i = 0; i < 100; i++)
		(void) json_object_new_string(SOME_TEXT);

	own = json_object_new_string(SOME_TEXT);
	json_object_array_put_idx(array, 1, own);
	json_object_array_add(array, own);
	json_object_put(own);
	json_object_put(esrs_json(doc));
}

static bool
leaky_handle(EsrsCall *call, const void *state, EsrsJson *command)
{
	const char *mode = esrs_json_string(command, "mode");

	litter(command);
	if (strcmp(mode, "fail") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DIVISION_BY_ZERO),
				 errmsg("failed as asked")));
	if (strcmp(mode, "cancel") == 0)
	{
		/* as the signal handler of a cancel request does */
		InterruptPending = true;
		QueryCancelPending = true;
		for (;;)
			CHECK_FOR_INTERRUPTS();
	}
	if (strcmp(mode, "palloc") == 0)
		ereport(ERROR,			/* as palloc() does when malloc() fails */
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	if (strcmp(mode, "malloc") == 0)
		(void) json_object_new_array_ext(-1);	/* json-c answers NULL */
	if (strcmp(mode, "reject") == 0)
	{
		esrs_reject(call, "as_asked", "rejected as asked");
		json_object_object_add(esrs_reject_detail(call), "why", json_object_new_string(SOME_TEXT));
		return false;
	}
	if (strcmp(mode, "emit") == 0 || strcmp(mode, "apply") == 0)
		json_object_object_add(esrs_emit(call), "mode", json_object_new_string(mode));
	return true;
}

static void *
leaky_init(EsrsCall *call)
{
	(void) json_object_new_string(SOME_TEXT);
	return json_object_new_object();
}

static void *
leaky_apply(EsrsCall *call, void *state, const EsrsEvent *event)
{
	struct json_object *new = json_object_new_object();

	litter(event->payload);
	json_object_object_add(new, "before", state);
	if (strcmp(esrs_json_string(event->payload, "mode"), "apply") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DIVISION_BY_ZERO),
				 errmsg("apply_event failed as asked")));
	return new;
}

static const EsrsAggregateRoutine leaky_routine = {
	ESRS_AGGREGATE_ROUTINE,
	.init_state = leaky_init,
	.handle_command = leaky_handle,
	.apply_event = leaky_apply,
};

ESRS_AGGREGATE_HANDLER(testlib_leaky, leaky_routine);
