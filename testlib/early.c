/*-------------------------------------------------------------------------
 *
 * early.c
 *	  A library of its own, linked with -z now: if esrs.h referred to a symbol
 *	  of esrs.so, it could not be loaded before esrs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "esrs.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(testlib_esrs_is_loaded);

/* testlib_esrs_is_loaded() returns boolean */
Datum
testlib_esrs_is_loaded(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(*find_rendezvous_variable("esrs_api") != NULL);
}

static bool
early_handle(EsrsCall *call, const void *state, EsrsJson *command)
{
	json_object_object_add(esrs_emit_variant(call, "Came"), "early",
						   json_object_new_boolean(true));
	return true;
}

static void *
early_apply(EsrsCall *call, void *state, const EsrsEvent *event)
{
	return esrs_json(event->payload);
}

static const EsrsAggregateRoutine early_routine = {
	ESRS_AGGREGATE_ROUTINE,
	.handle_command = early_handle,
	.apply_event = early_apply,
};

ESRS_AGGREGATE_HANDLER(testlib_early, early_routine);
