/*-------------------------------------------------------------------------
 *
 * echo.c
 *	  An aggregate that gives back the JSON it is given, in every way that
 *	  documents travel, and values that only a callback can make.
 *
 * Commands:
 *	  {"Echo": x}		emits {"Echo": x}, the command itself
 *	  {"Copy": x}		emits {"Copy": x} with a deep copy of x
 *	  {"Jsonb": x}		emits {"Jsonb": x} with x parsed from the jsonb's text
 *	  {"Parse": "text"}	emits {"Parse": x} with x parsed from the text
 *	  {"Make": "name"}	emits {"Make": x} with one of the values below
 *	  {"Key": "name"}	emits an object with one of the strings below as key
 *	  {"Depth": n}		emits an object in which containers are n deep
 *	  {"Size": n}		emits an object with a string of n bytes
 *	  {"Bomb": n}		emits an object with n numbers of 131,072 digits, each
 *						written with 8 characters
 *	  "text"			emits the string
 *
 * The state is the newest event.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "esrs.h"

#include <math.h>

#include "miscadmin.h"

/* ------------------------------------------------------------------------
 * Numbers and strings that callbacks make
 * ------------------------------------------------------------------------
 */

static struct json_object *
changed_double(void)
{
	/* setting the value drops the text that came with it */
	struct json_object *object = json_object_new_double_s(1.5, "1.50");

	json_object_set_double(object, 0.1);
	return object;
}

static struct json_object *
make_number(const char *name)
{
	if (strcmp(name, "0.1") == 0)
		return json_object_new_double(0.1);
	if (strcmp(name, "1e22") == 0)
		return json_object_new_double(1e22);
	if (strcmp(name, "1e23") == 0)
		return json_object_new_double(1e23);
	if (strcmp(name, "100") == 0)
		return json_object_new_double(100.0);
	if (strcmp(name, "-0") == 0)
		return json_object_new_double(-0.0);
	if (strcmp(name, "greatest") == 0)
		return json_object_new_double(1.7976931348623157e308);
	if (strcmp(name, "least") == 0)
		return json_object_new_double(4.9e-324);
	if (strcmp(name, "third") == 0)
		return json_object_new_double(1.0 / 3.0);
	if (strcmp(name, "int64 max") == 0)
		return json_object_new_int64(PG_INT64_MAX);
	if (strcmp(name, "int64 min") == 0)
		return json_object_new_int64(PG_INT64_MIN);
	if (strcmp(name, "uint64 max") == 0)
		return json_object_new_uint64(PG_UINT64_MAX);
	if (strcmp(name, "uint64 int64 max + 1") == 0)
		return json_object_new_uint64((uint64) PG_INT64_MAX + 1);
	if (strcmp(name, "uint64 7") == 0)
		return json_object_new_uint64(7);
	if (strcmp(name, "text 1.10") == 0)
		return json_object_new_double_s(1.1, "1.10");
	if (strcmp(name, "text 30 digits") == 0)
		return json_object_new_double_s(1e29, "123456789012345678901234567890");
	if (strcmp(name, "changed") == 0)
		return changed_double();
	if (strcmp(name, "nan") == 0)
		return json_object_new_double(NAN);
	if (strcmp(name, "infinity") == 0)
		return json_object_new_double(INFINITY);
	if (strcmp(name, "-infinity") == 0)
		return json_object_new_double(-INFINITY);
	if (strcmp(name, "text nan") == 0)
		return json_object_new_double_s(NAN, "NaN");
	if (strcmp(name, "text junk") == 0)
		return json_object_new_double_s(1, "1.5.5");
	if (strcmp(name, "text hexadecimal") == 0)
		return json_object_new_double_s(16, "0x10");
	if (strcmp(name, "text too great") == 0)
		return json_object_new_double_s(INFINITY, "1e200000");
	return NULL;
}

/* Strings that are no text, and some that are. */
static const struct
{
	const char *name;
	const char *bytes;
	int			len;
}			strings[] =

{
	{"NUL", "a\0b", 3},
	{"latin1", "caf\xe9", 4},
	{"cut", "a\xc3", 2},
	{"overlong", "\xc0\xaf", 2},
	{"surrogate", "\xed\xa0\x80", 3},
	{"too great", "\xf4\x90\x80\x80", 4},
	{"f5", "\xf5\x80\x80\x80", 4},
	{"shift-jis", "\x83\x65\x83\x58\x83\x67", 6},
	{"slash", "a/b", 3},
	{"control", "\x01\x1f\x7f", 3},
	{"emoji", "\xf0\x9f\x98\x80", 4},
	{"last", "\xf4\x8f\xbf\xbf", 4},
	{"empty", "", 0},
	{"quote", "\"\\\n", 3},
};

static int
find_string(const char *name)
{
	for (int i = 0; i < lengthof(strings); i++)
		if (strcmp(strings[i].name, name) == 0)
			return i;
	elog(ERROR, "there is no string \"%s\"", name);
}

static struct json_object *
make_value(const char *name)
{
	struct json_object *object = make_number(name);
	int			i;

	if (object != NULL)
		return object;
	i = find_string(name);
	return json_object_new_string_len(strings[i].bytes, strings[i].len);
}

/* Arrays and objects in turn, "depth" of them. */
static struct json_object *
make_deep(int64 depth)
{
	struct json_object *object = NULL;

	for (int64 i = 0; i < depth; i++)
	{
		struct json_object *outer;

		CHECK_FOR_INTERRUPTS();
		if (i % 2 == 0)
		{
			outer = json_object_new_array();
			json_object_array_add(outer, object);
		}
		else
		{
			outer = json_object_new_object();
			json_object_object_add(outer, "k", object);
		}
		object = outer;
	}
	return object;
}

/* ------------------------------------------------------------------------
 * The aggregate
 * ------------------------------------------------------------------------
 */

static struct json_object *
jsonb_text(EsrsJson *doc)
{
	Datum		jsonb = PointerGetDatum(esrs_json_raw(doc));

	return esrs_json_parse(DatumGetCString(DirectFunctionCall1(jsonb_out, jsonb)));
}

static struct json_object *
deep_copy(struct json_object *object)
{
	struct json_object *copy = NULL;

	/* there is nothing to copy in a JSON null */
	if (object != NULL && json_object_deep_copy(object, &copy, NULL) != 0)
		elog(ERROR, "could not copy a JSON value");
	return copy;
}

static bool
echo_handle(EsrsCall *call, const void *state, EsrsJson *command)
{
	EsrsJson   *content;
	const char *type = esrs_json_variant(command, &content);
	struct json_object *event;

	if (content == NULL || strcmp(type, "Echo") == 0)
	{
		esrs_emit_json(call, esrs_json(command));
		return true;
	}
	event = esrs_emit(call);
	if (strcmp(type, "Copy") == 0)
		json_object_object_add(event, type, deep_copy(esrs_json(content)));
	else if (strcmp(type, "Jsonb") == 0)
		json_object_object_add(event, type, jsonb_text(content));
	else if (strcmp(type, "Parse") == 0)
		json_object_object_add(event, type, json_tokener_parse(esrs_json_string(content, NULL)));
	else if (strcmp(type, "Make") == 0)
		json_object_object_add(event, type, make_value(esrs_json_string(content, NULL)));
	else if (strcmp(type, "Key") == 0)
	{
		int			i = find_string(esrs_json_string(content, NULL));

		json_object_object_add_ex(event, strings[i].bytes, json_object_new_boolean(true),
								  JSON_C_OBJECT_ADD_KEY_IS_NEW);
	}
	else if (strcmp(type, "Depth") == 0)
		json_object_object_add(event, type, make_deep(esrs_json_int64(content, NULL) - 1));
	else if (strcmp(type, "Size") == 0)
	{
		int64		n = esrs_json_int64(content, NULL);
		char	   *text = palloc_extended(n, MCXT_ALLOC_HUGE);

		memset(text, 'x', n);
		json_object_object_add(event, type, json_object_new_string_len(text, n));
	}
	else if (strcmp(type, "Bomb") == 0)
	{
		struct json_object *array = json_object_new_array();

		for (int64 n = esrs_json_int64(content, NULL); n > 0; n--)
			json_object_array_add(array, json_object_new_double_s(INFINITY, "1e131071"));
		json_object_object_add(event, type, array);
	}
	else
		return esrs_reject(call, "unknown", "there is no command \"%s\"", type);
	return true;
}

static void *
echo_apply(EsrsCall *call, void *state, const EsrsEvent *event)
{
	return esrs_json(event->payload);
}

static const EsrsAggregateRoutine echo_routine = {
	ESRS_AGGREGATE_ROUTINE,
	.handle_command = echo_handle,
	.apply_event = echo_apply,
};

ESRS_AGGREGATE_HANDLER(testlib_echo, echo_routine);

/*
 * The same without looking at events when folding, so that what was stored
 * does not matter.
 */
static void *
blind_apply(EsrsCall *call, void *state, const EsrsEvent *event)
{
	return state;
}

static const EsrsAggregateRoutine blind_routine = {
	ESRS_AGGREGATE_ROUTINE,
	.handle_command = echo_handle,
	.apply_event = blind_apply,
};

ESRS_AGGREGATE_HANDLER(testlib_blind, blind_routine);
