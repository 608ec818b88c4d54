/*-------------------------------------------------------------------------
 *
 * versions.c
 *	  Aggregates whose payloads have a history and a stored form of their own
 *	  (versions), lose an event type (letters), or have callbacks that do not
 *	  keep to the rules of forms (bad_forms).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "esrs.h"

#include "miscadmin.h"

/* ------------------------------------------------------------------------
 * versions
 *
 * Stored form: {"stored": event}, version 3.  Older ones: no version, {"v0":
 * x}; version 1, no longer of use; version 2, {"v2": x}.  The state is an
 * array of the events in today's form.
 * ------------------------------------------------------------------------
 */
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

/* ------------------------------------------------------------------------
 * letters: the state is {"seen": "." and the types of the events}
 *
 * A command {"emit": [events]} says which events it has.  The routines differ
 * in how they keep the state, and in what has become of the events of type B:
 * they are in use, or deprecated by upcast, or by to_event.
 * ------------------------------------------------------------------------
 */
typedef struct Letters
{
	char	   *seen;
} Letters;

static void *
letters_init(EsrsCall *call)
{
	Letters    *letters = palloc(sizeof(Letters));

	letters->seen = pstrdup(".");
	return letters;
}

static bool
letters_handle(EsrsCall *call, const void *state, EsrsJson *command)
{
	struct json_object *events = json_object_object_get(esrs_json(command), "emit");

	for (size_t i = 0; i < json_object_array_length(events); i++)
		esrs_emit_json(call, json_object_array_get_idx(events, i));
	return true;
}

static void *
letters_apply(EsrsCall *call, void *state, const EsrsEvent *event)
{
	Letters    *letters = state;

	letters->seen = psprintf("%s%s", letters->seen, esrs_json_variant(event->payload, NULL));
	return letters;
}

static struct json_object *
letters_to_json(EsrsCall *call, const void *state)
{
	struct json_object *json = json_object_new_object();

	json_object_object_add(json, "seen", json_object_new_string(((const Letters *) state)->seen));
	return json;
}

static void *
letters_from_json(EsrsCall *call, struct json_object *json)
{
	Letters    *letters = palloc(sizeof(Letters));

	letters->seen = pstrdup(json_object_get_string(json_object_object_get(json, "seen")));
	return letters;
}

/* The same as JSON that is changed in place. */
static void *
letters_init_json(EsrsCall *call)
{
	struct json_object *state = json_object_new_object();

	json_object_object_add(state, "seen", json_object_new_string("."));
	return state;
}

static void *
letters_apply_json(EsrsCall *call, void *state, const EsrsEvent *event)
{
	const char *seen = json_object_get_string(json_object_object_get(state, "seen"));

	json_object_object_add(state, "seen",
						   json_object_new_string(psprintf("%s%s", seen,
														   esrs_json_variant(event->payload, NULL))));
	return state;
}

static struct json_object *
letters_to_event(EsrsCall *call, struct json_object *payload)
{
	bool		is_b = json_object_is_type(payload, json_type_string) ?
	strcmp(json_object_get_string(payload), "B") == 0 :
	json_object_object_get_ex(payload, "B", NULL);

	return is_b ? NULL : payload;
}

static struct json_object *
letters_upcast(EsrsCall *call, struct json_object *payload, int32 version)
{
	return letters_to_event(call, payload);
}

#define LETTERS \
	ESRS_AGGREGATE_ROUTINE, \
	.init_state = letters_init, \
	.handle_command = letters_handle, \
	.apply_event = letters_apply, \
	.state_to_json = letters_to_json, \
	.state_from_json = letters_from_json

#define LETTERS_JSON \
	ESRS_AGGREGATE_ROUTINE, \
	.init_state = letters_init_json, \
	.handle_command = letters_handle, \
	.apply_event = letters_apply_json

static const EsrsAggregateRoutine letters_routine = {LETTERS};
static const EsrsAggregateRoutine letters_upcast_routine = {LETTERS,.upcast = letters_upcast};
static const EsrsAggregateRoutine letters_json_routine = {LETTERS_JSON};
static const EsrsAggregateRoutine letters_json_schema_routine = {LETTERS_JSON,.to_event = letters_to_event};

ESRS_AGGREGATE_HANDLER(testlib_letters, letters_routine);
ESRS_AGGREGATE_HANDLER(testlib_letters_upcast, letters_upcast_routine);
ESRS_AGGREGATE_HANDLER(testlib_letters_json, letters_json_routine);
ESRS_AGGREGATE_HANDLER(testlib_letters_json_schema, letters_json_schema_routine);

/* ------------------------------------------------------------------------
 * bad_forms: {"upcast": deed}, {"to_event": deed} and {"from_event": deed} say
 * what the callback of that name does with the payload; the state is {}
 * ------------------------------------------------------------------------
 */
static struct json_object *
bad_form(struct json_object *payload, const char *callback)
{
	struct json_object *part = NULL;
	const char *deed;

	if (!json_object_object_get_ex(payload, callback, &part))
		return payload;
	deed = json_object_get_string(part);
	if (strcmp(deed, "null") == 0)
		return NULL;
	if (strcmp(deed, "number") == 0)
		return json_object_new_double(1.5);
	if (strcmp(deed, "boolean") == 0)
		return json_object_new_boolean(false);
	if (strcmp(deed, "array") == 0)
	{
		struct json_object *array = json_object_new_array();

		json_object_array_add(array, payload);
		return array;
	}
	if (strcmp(deed, "string") == 0)
		return json_object_new_string("Fine");
	if (strcmp(deed, "object") == 0)
	{
		struct json_object *object = json_object_new_object();

		json_object_object_add(object, "Fine", json_object_new_string("s3cret"));
		return object;
	}
	if (strcmp(deed, "raise") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DIVISION_BY_ZERO),
				 errmsg("%s divided by zero", callback)));
	if (strcmp(deed, "loop") == 0)
		for (;;)
			CHECK_FOR_INTERRUPTS();
	return payload;
}

static bool
bad_forms_handle(EsrsCall *call, const void *state, EsrsJson *command)
{
	esrs_emit_json(call, esrs_json(command));
	return true;
}

static void *
bad_forms_apply(EsrsCall *call, void *state, const EsrsEvent *event)
{
	return state;
}

static struct json_object *
bad_forms_upcast(EsrsCall *call, struct json_object *payload, int32 version)
{
	return bad_form(payload, "upcast");
}

static struct json_object *
bad_forms_to_event(EsrsCall *call, struct json_object *payload)
{
	return bad_form(payload, "to_event");
}

static struct json_object *
bad_forms_from_event(EsrsCall *call, struct json_object *event)
{
	return bad_form(event, "from_event");
}

static const EsrsAggregateRoutine bad_forms_routine = {
	ESRS_AGGREGATE_ROUTINE,
	.handle_command = bad_forms_handle,
	.apply_event = bad_forms_apply,
	.has_version = true,
	.event_version = 2,
	.upcast = bad_forms_upcast,
	.from_event = bad_forms_from_event,
	.to_event = bad_forms_to_event,
};

ESRS_AGGREGATE_HANDLER(testlib_bad_forms, bad_forms_routine);
