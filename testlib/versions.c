/*-------------------------------------------------------------------------
 *
 * versions.c
 *	  An aggregate whose payloads have a history and a stored form of their own.
 *
 * Stored form: {"stored": event}, version 3.  Older ones: no version, {"v0":
 * x}; version 1, no longer of use; version 2, {"v2": x}.  The state is an
 * array of the events in today's form.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "esrs.h"

static void *
versions_init(EsrsCall *call)
{
	return json_object_new_array();
}

static bool
versions_handle(EsrsCall *call, const void *state, EsrsJson *command)
{
	esrs_emit_json(call, esrs_json(command));
	return true;
}

/* The state remembers with which version each event was stored. */
static void *
versions_apply(EsrsCall *call, void *state, const EsrsEvent *event)
{
	struct json_object *entry = json_object_new_object();

	json_object_object_add(entry, "event", esrs_json(event->payload));
	json_object_object_add(entry, "version", event->version == ESRS_NO_VERSION ? NULL :
						   json_object_new_int(event->version));
	/* a getter reads the upcast form too, which was never stored as jsonb */
	json_object_object_add(entry, "type",
						   json_object_new_string(esrs_json_variant(event->payload, NULL)));
	json_object_array_add(state, entry);
	return state;
}

static struct json_object *
versions_upcast(EsrsCall *call, struct json_object *payload, int32 version)
{
	struct json_object *result = json_object_new_object();
	struct json_object *part = NULL;

	if (version == ESRS_NO_VERSION)
	{
		if (!json_object_object_get_ex(payload, "v0", &part))
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("payload without a version is not of the first form")));
	}
	else if (version == 1)
		return NULL;
	else if (version == 2)
		part = json_object_object_get(payload, "v2");
	else
		elog(ERROR, "upcast was called for version %d", version);
	json_object_object_add(result, "stored", part);
	return result;
}

static struct json_object *
versions_from_event(EsrsCall *call, struct json_object *event)
{
	struct json_object *result = json_object_new_object();

	json_object_object_add(result, "stored", event);
	return result;
}

/* Gives a part of what it was lent; leaves out what is marked so. */
static struct json_object *
versions_to_event(EsrsCall *call, struct json_object *payload)
{
	struct json_object *event = json_object_object_get(payload, "stored");

	if (json_object_is_type(event, json_type_object) &&
		json_object_object_get_ex(event, "Hidden", NULL))
		return NULL;
	return event;
}

static const EsrsAggregateRoutine versions_routine = {
	ESRS_AGGREGATE_ROUTINE,
	.init_state = versions_init,
	.handle_command = versions_handle,
	.apply_event = versions_apply,
	.has_version = true,
	.event_version = 3,
	.upcast = versions_upcast,
	.from_event = versions_from_event,
	.to_event = versions_to_event,
};

ESRS_AGGREGATE_HANDLER(testlib_versions, versions_routine);
