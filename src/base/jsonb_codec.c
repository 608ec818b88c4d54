/*-------------------------------------------------------------------------
 *
 * jsonb_codec.c
 *	  Exact conversion between jsonb and json-c, and compact JSON text.
 *
 * The conversion walks the tree in both directions and never goes through
 * text: json-c's parser clamps big integers without an error, loses digits
 * and accepts what is not JSON.  A number that fits becomes an int64; any
 * other keeps the text of its numeric.  So what comes back is what went in,
 * digit by digit.
 *
 * Nothing here may know what the documents mean.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#define ESRS_RAW_JSON
#include "esrs.h"

#include <errno.h>
#include <math.h>

#include "base/json_pool.h"
#include "base/jsonb_codec.h"
#include "common/jsonapi.h"
#include "common/shortest_dec.h"
#include "config.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/json.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

/* Raise 54000 for a document that is nested too deep. */
static void
too_deep(void)
{
	ereport(ERROR,
			(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
			 errmsg("JSON document is nested too deep"),
			 errdetail("The limit is %d levels.", esrs_config_max_json_depth),
			 errhint("A superuser can raise the setting %s.", "esrs.max_json_depth")));
}

/* Count bytes of strings and digits against the limit of one document. */
static void
spend(int64 *budget, int64 bytes)
{
	*budget -= bytes;
	if (*budget < 0)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("JSON document is too large"),
				 errdetail("The limit is %d kB.", esrs_config_max_payload_size),
				 errhint("A superuser can raise the setting %s.", "esrs.max_payload_size")));
}

static inline int64
full_budget(void)
{
	return (int64) esrs_config_max_payload_size * 1024;
}

/* A number's exact text, palloc'd in the current context. */
char *
esrs_jsonb_number_text(const JsonbValue *value)
{
	Assert(value->type == jbvNumeric);
	return DatumGetCString(DirectFunctionCall1(numeric_out,
											   NumericGetDatum(value->val.numeric)));
}

/* ------------------------------------------------------------------------
 * jsonb -> json-c
 * ------------------------------------------------------------------------
 */

/* A new json-c object for a scalar; NULL stands for JSON null. */
static struct json_object *
scalar_to_json(JsonbValue *value, int64 *budget)
{
	struct json_object *object = NULL;

	switch (value->type)
	{
		case jbvNull:
			return NULL;
		case jbvBool:
			object = json_object_new_boolean(value->val.boolean);
			break;
		case jbvString:
			spend(budget, value->val.string.len);
			object = json_object_new_string_len(value->val.string.val,
												value->val.string.len);
			break;
		case jbvNumeric:
			{
				/* 27 kB of jsonb may hold 400 MB of digits, so they count */
				char	   *text = esrs_jsonb_number_text(value);
				char	   *end;
				long long	n;

				spend(budget, strlen(text));
				errno = 0;
				n = strtoll(text, &end, 10);
				if (errno == 0 && *end == '\0')
					object = json_object_new_int64(n);
				else
					object = json_object_new_double_s(strtod(text, NULL), text);
				pfree(text);
				break;
			}
		default:
			elog(ERROR, "unexpected jsonb type %d", (int) value->type);
	}
	if (object == NULL)
		esrs_json_out_of_memory();
	return object;
}

/*
 * Build json-c objects from a jsonb value, container or scalar.
 *
 * The result is owned by the context "owner", so it is borrowed by whoever
 * gets it; NULL is JSON null.  Works in the current context.  Raises 54000
 * beyond the limits of depth and size, 53200 if malloc() fails.
 */
struct json_object *
esrs_jsonb_to_json(JsonbValue *value, MemoryContext owner)
{
	EsrsJsonOwner *root = esrs_json_owner_create(owner);
	int64		budget = full_budget();
	struct json_object **stack;
	char	  **keys;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	int			limit = esrs_config_max_json_depth;
	int			top = -1;

	if (value->type != jbvBinary)
	{
		esrs_json_owner_set(root, scalar_to_json(value, &budget));
		return root->object;
	}

	stack = palloc(sizeof(*stack) * limit);
	keys = palloc(sizeof(*keys) * limit);
	it = JsonbIteratorInit(value->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &v, false)) != WJB_DONE)
	{
		struct json_object *child = NULL;
		bool		container = false;
		int			rc;

		CHECK_FOR_INTERRUPTS();
		switch (token)
		{
			case WJB_BEGIN_ARRAY:
				container = true;
				if (top + 1 >= limit)
					too_deep();
				child = json_object_new_array_ext(Max(v.val.array.nElems, 1));
				break;
			case WJB_BEGIN_OBJECT:
				container = true;
				if (top + 1 >= limit)
					too_deep();
				child = json_object_new_object();
				break;
			case WJB_KEY:
				spend(&budget, v.val.string.len);
				keys[top] = pnstrdup(v.val.string.val, v.val.string.len);
				continue;
			case WJB_VALUE:
			case WJB_ELEM:
				child = scalar_to_json(&v, &budget);
				break;
			case WJB_END_ARRAY:
			case WJB_END_OBJECT:
				top--;
				continue;
			default:
				elog(ERROR, "unexpected jsonb token %d", (int) token);
		}
		if (container && child == NULL)
			esrs_json_out_of_memory();

		/* no error may be raised between here and the attachment */
		if (top < 0)
		{
			esrs_json_owner_set(root, child);
			rc = 0;
		}
		else if (json_object_is_type(stack[top], json_type_array))
			rc = json_object_array_add(stack[top], child);
		else
		{
			rc = json_object_object_add_ex(stack[top], keys[top], child,
										   JSON_C_OBJECT_ADD_KEY_IS_NEW);
			pfree(keys[top]);
		}
		if (rc < 0)
		{
			json_object_put(child);
			esrs_json_out_of_memory();
		}
		if (container)
			stack[++top] = child;
	}
	pfree(stack);
	pfree(keys);
	return root->object;
}

/* ------------------------------------------------------------------------
 * json-c -> jsonb
 * ------------------------------------------------------------------------
 */

/* Fill a JsonbValue with a string, checked as jsonb's own input checks it. */
static void
checked_string(const char *s, int len, JsonbValue *v, int64 *budget)
{
	spend(budget, len);
	if (memchr(s, '\0', len) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNTRANSLATABLE_CHARACTER),
				 errmsg("unsupported Unicode escape sequence"),
				 errdetail("\\u0000 cannot be converted to text.")));
	(void) pg_verify_mbstr(PG_UTF8, s, len, false);
	v->type = jbvString;
	v->val.string.val = pnstrdup(s, len);
	v->val.string.len = len;
}

/* Is the text one that numeric's input takes?  Its error would show the text. */
static bool
is_json_number(const char *text)
{
	return IsValidJsonNumber(text, strlen(text));
}

/* The numeric of a json-c number, exactly. */
static Numeric
checked_number(struct json_object *object, int64 *budget)
{
	char		buffer[DOUBLE_SHORTEST_DECIMAL_LEN];
	const char *text;
	const char *digits;

	if (json_object_get_type(object) == json_type_int)
	{
		int64		n = json_object_get_int64(object);

		/* INT64_MAX also stands for everything above it */
		if (n != PG_INT64_MAX)
			return int64_to_numeric(n);
	}
	if (json_object_get_type(object) == json_type_double &&
		json_object_get_userdata(object) == NULL)
	{
		/* made from a double, not from text: the shortest text that is it */
		double		d = json_object_get_double(object);

		if (isnan(d) || isinf(d))
			strlcpy(buffer, "NaN", sizeof(buffer));
		else
			double_to_shortest_decimal_buf(d, buffer);
		text = buffer;
	}
	else
	{
		text = json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN);
		if (text == NULL)
			esrs_json_out_of_memory();
	}

	digits = (*text == '-') ? text + 1 : text;
	if (!(*digits >= '0' && *digits <= '9'))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("number in a JSON document is not finite")));
	if (!is_json_number(text))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("number in a JSON document is malformed")));
	spend(budget, strlen(text));
	return DatumGetNumeric(DirectFunctionCall3(numeric_in,
											   CStringGetDatum(text),
											   ObjectIdGetDatum(InvalidOid),
											   Int32GetDatum(-1)));
}

static void
push_json(JsonbParseState **state, struct json_object *object,
		  JsonbIteratorToken token, int depth, int64 *budget, JsonbValue **result)
{
	JsonbValue	v;

	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	switch (json_object_get_type(object))
	{
		case json_type_null:
			v.type = jbvNull;
			break;
		case json_type_boolean:
			v.type = jbvBool;
			v.val.boolean = json_object_get_boolean(object);
			break;
		case json_type_int:
		case json_type_double:
			v.type = jbvNumeric;
			v.val.numeric = checked_number(object, budget);
			break;
		case json_type_string:
			checked_string(json_object_get_string(object),
						   json_object_get_string_len(object), &v, budget);
			break;
		case json_type_array:
			if (depth >= esrs_config_max_json_depth)
				too_deep();
			pushJsonbValue(state, WJB_BEGIN_ARRAY, NULL);
			for (size_t i = 0; i < json_object_array_length(object); i++)
				push_json(state, json_object_array_get_idx(object, i),
						  WJB_ELEM, depth + 1, budget, result);
			*result = pushJsonbValue(state, WJB_END_ARRAY, NULL);
			return;
		case json_type_object:
			if (depth >= esrs_config_max_json_depth)
				too_deep();
			pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
			{
				json_object_object_foreach(object, key, child)
				{
					JsonbValue	k;

					checked_string(key, strlen(key), &k, budget);
					pushJsonbValue(state, WJB_KEY, &k);
					push_json(state, child, WJB_VALUE, depth + 1, budget, result);
				}
			}
			*result = pushJsonbValue(state, WJB_END_OBJECT, NULL);
			return;
	}

	if (*state == NULL)
	{
		/* a scalar alone: JsonbValueToJsonb() wraps it */
		*result = palloc(sizeof(JsonbValue));
		**result = v;
	}
	else
		*result = pushJsonbValue(state, token, &v);
}

/*
 * The jsonb of a json-c object, palloc'd in the current context; NULL gives
 * JSON null.  The object is only read.  Raises 54000 beyond the limits of
 * depth and size, 22P05 or 22021 for a string and 22P02 for a number that
 * jsonb cannot hold.
 */
Jsonb *
esrs_json_to_jsonb(struct json_object *object)
{
	JsonbParseState *state = NULL;
	JsonbValue *result = NULL;
	int64		budget = full_budget();
	MemoryContext work;
	MemoryContext before;
	Jsonb	   *jb;

	work = AllocSetContextCreate(CurrentMemoryContext, "esrs json to jsonb",
								 ALLOCSET_SMALL_SIZES);
	before = MemoryContextSwitchTo(work);
	push_json(&state, object, WJB_ELEM, 0, &budget, &result);
	MemoryContextSwitchTo(before);
	jb = JsonbValueToJsonb(result);
	MemoryContextDelete(work);
	return jb;
}

/* ------------------------------------------------------------------------
 * jsonb
 * ------------------------------------------------------------------------
 */

/* The root of a jsonb as a value: its scalar, or the container itself. */
void
esrs_jsonb_root(Jsonb *jb, JsonbValue *value)
{
	if (JB_ROOT_IS_SCALAR(jb))
		(void) JsonbExtractScalar(&jb->root, value);
	else
	{
		value->type = jbvBinary;
		value->val.binary.data = &jb->root;
		value->val.binary.len = VARSIZE(jb) - VARHDRSZ;
	}
}

/* A copy in the current context. */
Jsonb *
esrs_jsonb_copy(Jsonb *jb)
{
	Jsonb	   *copy = palloc(VARSIZE(jb));

	memcpy(copy, jb, VARSIZE(jb));
	return copy;
}

/* What jsonb's own input function makes of the text; raises what it raises. */
Jsonb *
esrs_jsonb_from_text(const char *text)
{
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
}

/* The same for text of others: an error does not quote it. */
Jsonb *
esrs_jsonb_parse(const char *text)
{
	JsonLexContext *lex = makeJsonLexContextCstringLen((char *) text, strlen(text),
													   PG_UTF8, true);

	if (pg_parse_json(lex, &nullSemAction) != JSON_SUCCESS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TEXT_REPRESENTATION),
				 errmsg("text is not valid JSON")));
	return esrs_jsonb_from_text(text);
}

bool
esrs_jsonb_is_object(Jsonb *jb)
{
	return JB_ROOT_IS_OBJECT(jb);
}

/* Is it what a command or an event may be: an object, or a string? */
bool
esrs_jsonb_is_document(Jsonb *jb)
{
	JsonbValue	v;

	if (JB_ROOT_IS_OBJECT(jb))
		return true;
	return JB_ROOT_IS_SCALAR(jb) &&
		JsonbExtractScalar(&jb->root, &v) && v.type == jbvString;
}

bool
esrs_jsonb_equal(Jsonb *a, Jsonb *b)
{
	return compareJsonbContainers(&a->root, &b->root) == 0;
}

/* A numeric has at most this many digits, before and behind the point. */
#define MAX_DIGITS	(131072 + 16383 + 2)

/*
 * Raise 54000 if a document is beyond the limits of size or depth.
 *
 * The digits of numbers count as they are written out, for somebody will write
 * them; they are looked at only if there are enough numbers to matter.
 */
void
esrs_jsonb_check_limits(Jsonb *jb, const char *what)
{
	JsonbIterator *it = JsonbIteratorInit(&jb->root);
	JsonbIteratorToken token;
	JsonbValue	v;
	int64		budget = full_budget();
	int64		numbers = 0;
	int			depth = JB_ROOT_IS_SCALAR(jb) ? -1 : 0;

	if ((int64) VARSIZE(jb) > budget)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s is too large", what),
				 errdetail("It has %zu bytes, and the limit is %d kB.",
						   (Size) VARSIZE(jb), esrs_config_max_payload_size),
				 errhint("A superuser can raise the setting %s.", "esrs.max_payload_size")));
	while ((token = JsonbIteratorNext(&it, &v, false)) != WJB_DONE)
	{
		CHECK_FOR_INTERRUPTS();
		if (token == WJB_BEGIN_ARRAY || token == WJB_BEGIN_OBJECT)
		{
			if (++depth > esrs_config_max_json_depth)
				too_deep();
		}
		else if (token == WJB_END_ARRAY || token == WJB_END_OBJECT)
			depth--;
		else if (v.type == jbvNumeric)
			numbers++;
	}
	budget -= VARSIZE(jb);
	if (numbers * MAX_DIGITS <= budget)
		return;
	it = JsonbIteratorInit(&jb->root);
	while ((token = JsonbIteratorNext(&it, &v, false)) != WJB_DONE)
	{
		CHECK_FOR_INTERRUPTS();
		if ((token == WJB_VALUE || token == WJB_ELEM) && v.type == jbvNumeric)
		{
			char	   *text = esrs_jsonb_number_text(&v);

			spend(&budget, strlen(text));
			pfree(text);
		}
	}
}

static void
append_scalar(StringInfo out, JsonbValue *v)
{
	char	   *text;

	switch (v->type)
	{
		case jbvNull:
			appendStringInfoString(out, "null");
			break;
		case jbvBool:
			appendStringInfoString(out, v->val.boolean ? "true" : "false");
			break;
		case jbvNumeric:
			text = esrs_jsonb_number_text(v);
			appendStringInfoString(out, text);
			pfree(text);
			break;
		case jbvString:
			text = pnstrdup(v->val.string.val, v->val.string.len);
			escape_json(out, text);
			pfree(text);
			break;
		default:
			elog(ERROR, "unexpected jsonb type %d", (int) v->type);
	}
}

/*
 * Append a jsonb as compact JSON text: no white space, only the escapes that
 * JSON demands.  jsonb's own output function writes blanks.
 */
void
esrs_jsonb_append(StringInfo out, Jsonb *jb)
{
	JsonbIterator *it = JsonbIteratorInit(&jb->root);
	JsonbIteratorToken token;
	JsonbValue	v;
	bool		raw_scalar = false;
	bool		comma = false;

	while ((token = JsonbIteratorNext(&it, &v, false)) != WJB_DONE)
	{
		CHECK_FOR_INTERRUPTS();
		if (comma && token != WJB_END_ARRAY && token != WJB_END_OBJECT && token != WJB_VALUE)
			appendStringInfoChar(out, ',');
		comma = true;
		switch (token)
		{
			case WJB_BEGIN_ARRAY:
				raw_scalar = v.val.array.rawScalar;
				if (!raw_scalar)
					appendStringInfoChar(out, '[');
				comma = false;
				break;
			case WJB_BEGIN_OBJECT:
				appendStringInfoChar(out, '{');
				comma = false;
				break;
			case WJB_KEY:
				append_scalar(out, &v);
				appendStringInfoChar(out, ':');
				comma = false;
				break;
			case WJB_VALUE:
			case WJB_ELEM:
				append_scalar(out, &v);
				break;
			case WJB_END_ARRAY:
				if (!raw_scalar)
					appendStringInfoChar(out, ']');
				break;
			case WJB_END_OBJECT:
				appendStringInfoChar(out, '}');
				break;
			default:
				elog(ERROR, "unexpected jsonb token %d", (int) token);
		}
	}
}
