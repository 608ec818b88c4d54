/*-------------------------------------------------------------------------
 *
 * getters.c
 *	  An aggregate that calls the getter it is told to and emits what that
 *	  gave: {"get": "int64", "key": "k", "from": document}.  Without "key" the
 *	  getter reads the document itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "esrs.h"

static struct json_object *
get_opt(const char *getter, EsrsJson *from, const char *key)
{
	if (strcmp(getter, "opt_int64") == 0)
		return json_object_new_int64(esrs_json_opt_int64(from, key, -1));
	if (strcmp(getter, "opt_bool") == 0)
		return json_object_new_boolean(esrs_json_opt_bool(from, key, true));
	if (strcmp(getter, "opt_string") == 0)
	{
		const char *s = esrs_json_opt_string(from, key, NULL);

		return s ? json_object_new_string(s) : json_object_new_string("(otherwise)");
	}
	elog(ERROR, "there is no getter \"%s\"", getter);
}

/* A part of a document: its json-c objects, a getter on it, its jsonb. */
static struct json_object *
show_part(EsrsJson *part)
{
	struct json_object *shown = json_object_new_object();
	Datum		jsonb = PointerGetDatum(esrs_json_raw(part));

	json_object_object_add(shown, "json", esrs_json(part));
	json_object_object_add(shown, "raw",
						   json_object_new_string(DatumGetCString(DirectFunctionCall1(jsonb_out, jsonb))));
	return shown;
}

static struct json_object *
show_elements(EsrsJson *array)
{
	struct json_object *shown = json_object_new_array();

	/* from the end, so that no element can be taken for the next one */
	for (int i = esrs_json_length(array) - 1; i >= 0; i--)
		json_object_array_add(shown, show_part(esrs_json_element(array, i)));
	return shown;
}

static struct json_object *
show_variant(EsrsJson *from)
{
	struct json_object *shown = json_object_new_object();
	EsrsJson   *content;
	const char *type = esrs_json_variant(from, &content);

	json_object_object_add(shown, "type", json_object_new_string(type));
	json_object_object_add(shown, "has_content", json_object_new_boolean(content != NULL));
	if (content != NULL)
		json_object_object_add(shown, "content", show_part(content));
	if (strcmp(esrs_json_variant(from, NULL), type) != 0)
		elog(ERROR, "two answers to one question");
	return shown;
}

static struct json_object *
get(const char *getter, EsrsJson *from, const char *key, int64 index)
{
	if (strcmp(getter, "int64") == 0)
		return json_object_new_int64(esrs_json_int64(from, key));
	if (strcmp(getter, "double") == 0)
		return json_object_new_double(esrs_json_double(from, key));
	if (strcmp(getter, "number") == 0)
		return json_object_new_string(esrs_json_number(from, key));
	if (strcmp(getter, "bool") == 0)
		return json_object_new_boolean(esrs_json_bool(from, key));
	if (strcmp(getter, "string") == 0)
		return json_object_new_string(esrs_json_string(from, key));
	if (strcmp(getter, "object") == 0)
		return show_part(esrs_json_object(from, key));
	if (strcmp(getter, "array") == 0)
		return show_elements(esrs_json_array(from, key));
	if (strcmp(getter, "member") == 0)
	{
		EsrsJson   *member = esrs_json_member(from, key);

		return member ? show_part(member) : json_object_new_string("(none)");
	}
	if (strcmp(getter, "length") == 0)
		return json_object_new_int(esrs_json_length(from));
	if (strcmp(getter, "element") == 0)
		return show_part(esrs_json_element(from, index));
	if (strcmp(getter, "variant") == 0)
		return show_variant(from);
	return get_opt(getter, from, key);
}

static bool
getters_handle(EsrsCall *call, const void *state, EsrsJson *command)
{
	EsrsJson   *from = esrs_json_member(command, "from");
	const char *key = esrs_json_opt_string(command, "key", NULL);
	int64		index = esrs_json_opt_int64(command, "index", 0);
	struct json_object *got;

	/* for a JSON null, "from" is NULL, which the getters must bear */
	got = get(esrs_json_string(command, "get"), from, key, index);
	json_object_object_add(esrs_emit(call), "got", got);
	return true;
}

static void *
getters_apply(EsrsCall *call, void *state, const EsrsEvent *event)
{
	return state;
}

static const EsrsAggregateRoutine getters_routine = {
	ESRS_AGGREGATE_ROUTINE,
	.handle_command = getters_handle,
	.apply_event = getters_apply,
};

ESRS_AGGREGATE_HANDLER(testlib_getters, getters_routine);
