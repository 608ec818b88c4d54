/*-------------------------------------------------------------------------
 *
 * document.c
 *	  Documents as callbacks see them: EsrsJson and its typed getters.
 *
 * A getter reads the jsonb where it is; json-c objects are built only for
 * those who ask for them.  Errors name keys and types, never values.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "user/document.h"

#include <errno.h>
#include <math.h>

#include "base/json_pool.h"
#include "base/jsonb_codec.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* A document on a jsonb, which must live as long as the context. */
EsrsJson *
esrs_document_from_jsonb(MemoryContext context, Jsonb *jb)
{
	EsrsJson   *doc = MemoryContextAllocZero(context, sizeof(EsrsJson));

	doc->context = context;
	doc->has_value = true;
	doc->jsonb = jb;
	esrs_jsonb_root(jb, &doc->value);
	return doc;
}

/* A document on json-c objects, to which the context takes a reference. */
EsrsJson *
esrs_document_from_json(MemoryContext context, struct json_object *object)
{
	EsrsJson   *doc = MemoryContextAllocZero(context, sizeof(EsrsJson));
	EsrsJsonOwner *owner = esrs_json_owner_create(context);

	doc->context = context;
	doc->has_json = true;
	esrs_json_owner_set(owner, esrs_json_pool_take(object));
	doc->json = object;
	return doc;
}

/*
 * What a callback is given may be NULL: the content of a variant without one,
 * metadata that nobody passed.  A getter takes that for JSON null, so that no
 * client can crash a careless callback.
 */
static EsrsJson *
or_null_document(EsrsJson *doc)
{
	if (doc == NULL)
	{
		doc = palloc0(sizeof(EsrsJson));
		doc->context = CurrentMemoryContext;
		doc->has_value = true;
		doc->value.type = jbvNull;
	}
	return doc;
}

/* The document as json-c, borrowed; NULL is JSON null. */
struct json_object *
esrs_document_json(EsrsJson *doc)
{
	doc = or_null_document(doc);
	if (!doc->has_json)
	{
		MemoryContext before = MemoryContextSwitchTo(doc->context);

		doc->json = esrs_jsonb_to_json(&doc->value, doc->context);
		doc->has_json = true;
		MemoryContextSwitchTo(before);
	}
	return doc->json;
}

/* The document as jsonb, borrowed. */
Jsonb *
esrs_document_jsonb(EsrsJson *doc)
{
	doc = or_null_document(doc);
	if (doc->jsonb == NULL)
	{
		MemoryContext before = MemoryContextSwitchTo(doc->context);

		if (doc->has_value)
			doc->jsonb = JsonbValueToJsonb(&doc->value);
		else
			doc->jsonb = esrs_json_to_jsonb(doc->json);
		MemoryContextSwitchTo(before);
	}
	return doc->jsonb;
}

static JsonbValue *
document_value(EsrsJson *doc)
{
	if (!doc->has_value)
	{
		esrs_jsonb_root(esrs_document_jsonb(doc), &doc->value);
		doc->has_value = true;
	}
	return &doc->value;
}

static bool
is_object(const JsonbValue *value)
{
	return value->type == jbvBinary && JsonContainerIsObject(value->val.binary.data);
}

static bool
is_array(const JsonbValue *value)
{
	return value->type == jbvBinary && JsonContainerIsArray(value->val.binary.data);
}

static const char *
type_name(const JsonbValue *value)
{
	switch (value->type)
	{
		case jbvNull:
			return "null";
		case jbvBool:
			return "a boolean";
		case jbvNumeric:
			return "a number";
		case jbvString:
			return "a string";
		default:
			return is_array(value) ? "an array" : "an object";
	}
}

static const char *
kind_name(EsrsJsonKind kind)
{
	switch (kind)
	{
		case ESRS_JSON_INT64:
			return "an integer";
		case ESRS_JSON_DOUBLE:
		case ESRS_JSON_NUMBER:
			return "a number";
		case ESRS_JSON_BOOL:
			return "a boolean";
		case ESRS_JSON_STRING:
			return "a string";
		case ESRS_JSON_OBJECT:
			return "an object";
		case ESRS_JSON_ARRAY:
			return "an array";
		case ESRS_JSON_ANY:
			break;
	}
	return "a value";
}

static EsrsJson *
part_of(EsrsJson *doc, const JsonbValue *value)
{
	EsrsJson   *part = MemoryContextAllocZero(doc->context, sizeof(EsrsJson));

	part->context = doc->context;
	part->has_value = true;
	part->value = *value;
	return part;
}

/* Store the value in *result if it is of the kind. */
static bool
get_value(EsrsJson *doc, JsonbValue *value, EsrsJsonKind kind, void *result)
{
	char	   *text;
	char	   *end;

	switch (kind)
	{
		case ESRS_JSON_INT64:
			if (value->type != jbvNumeric)
				return false;
			text = esrs_jsonb_number_text(value);
			errno = 0;
			*(int64 *) result = strtoll(text, &end, 10);
			if (*end == '.')	/* 1.0 is an integer, 1.5 is none */
			{
				end++;
				end += strspn(end, "0");
			}
			return errno == 0 && *end == '\0';
		case ESRS_JSON_DOUBLE:
			if (value->type != jbvNumeric)
				return false;
			*(double *) result = strtod(esrs_jsonb_number_text(value), NULL);
			if (isinf(*(double *) result))
				ereport(ERROR,
						(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
						 errmsg("number in a JSON document is out of range of a double")));
			return true;
		case ESRS_JSON_NUMBER:
			if (value->type != jbvNumeric)
				return false;
			*(const char **) result = esrs_jsonb_number_text(value);
			return true;
		case ESRS_JSON_BOOL:
			if (value->type != jbvBool)
				return false;
			*(bool *) result = value->val.boolean;
			return true;
		case ESRS_JSON_STRING:
			if (value->type != jbvString)
				return false;
			*(const char **) result = pnstrdup(value->val.string.val,
											   value->val.string.len);
			return true;
		case ESRS_JSON_OBJECT:
			if (!is_object(value))
				return false;
			*(EsrsJson **) result = part_of(doc, value);
			return true;
		case ESRS_JSON_ARRAY:
			if (!is_array(value))
				return false;
			*(EsrsJson **) result = part_of(doc, value);
			return true;
		case ESRS_JSON_ANY:
			*(EsrsJson **) result = part_of(doc, value);
			return true;
	}
	return false;
}

/*
 * Read a member, or the document itself if key is NULL.
 *
 * Returns false, with *result untouched, if missing_ok and the member is
 * missing or null; raises 22023 if it is missing or of another kind.  Strings
 * are palloc'd in the document's context.
 */
bool
esrs_document_get(EsrsJson *doc, const char *key, EsrsJsonKind kind,
				  bool missing_ok, void *result)
{
	JsonbValue *value;
	JsonbValue	buffer;
	MemoryContext before;
	bool		found;

	doc = or_null_document(doc);
	value = document_value(doc);

	if (key != NULL && missing_ok && value->type == jbvNull)
		return false;
	if (key != NULL)
	{
		if (!is_object(value))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("document has no member \"%s\"", key),
					 errdetail("An object is expected, but the document is %s.",
							   type_name(value))));
		value = getKeyJsonValueFromContainer(value->val.binary.data,
											 key, strlen(key), &buffer);
	}
	if (value == NULL || value->type == jbvNull)
	{
		if (missing_ok)
			return false;
		if (value == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("document has no member \"%s\"", key),
					 errdetail("It should be %s.", kind_name(kind))));
	}

	before = MemoryContextSwitchTo(doc->context);
	found = get_value(doc, value, kind, result);
	MemoryContextSwitchTo(before);
	if (!found)
	{
		if (key == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("document is not %s", kind_name(kind)),
					 errdetail("It is %s.", value->type == jbvNumeric && kind == ESRS_JSON_INT64 ?
							   "a number that is no integer in range" : type_name(value))));
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("member \"%s\" of the document is not %s", key, kind_name(kind)),
				 errdetail("It is %s.", value->type == jbvNumeric && kind == ESRS_JSON_INT64 ?
						   "a number that is no integer in range" : type_name(value))));
	}
	return true;
}

static void
want_array(const JsonbValue *value)
{
	if (!is_array(value))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("document is not an array"),
				 errdetail("It is %s.", type_name(value))));
}

/* Number of elements; 22023 if the document is no array. */
int
esrs_document_length(EsrsJson *doc)
{
	JsonbValue *value = document_value(or_null_document(doc));

	want_array(value);
	return JsonContainerSize(value->val.binary.data);
}

/* One element, counted from 0; 22023 if there is none. */
EsrsJson *
esrs_document_element(EsrsJson *doc, int index)
{
	JsonbValue *value;
	JsonbValue *element;

	doc = or_null_document(doc);
	value = document_value(doc);
	want_array(value);
	if (index < 0 || index >= JsonContainerSize(value->val.binary.data))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("array in the document has no element %d", index),
				 errdetail("It has %d elements.",
						   (int) JsonContainerSize(value->val.binary.data))));
	element = getIthJsonbValueFromContainer(value->val.binary.data, index);
	return part_of(doc, element);
}

/*
 * The only key of an object, and its value; false if it has none or several.
 * The key is borrowed from the jsonb.
 */
static bool
only_member(JsonbContainer *container, JsonbValue *key, JsonbValue *value)
{
	JsonbIterator *it;
	JsonbValue	v;

	if (JsonContainerSize(container) != 1)
		return false;
	it = JsonbIteratorInit(container);
	(void) JsonbIteratorNext(&it, &v, true);
	(void) JsonbIteratorNext(&it, key, true);
	(void) JsonbIteratorNext(&it, value, true);
	return true;
}

/*
 * Take an externally tagged document apart.  *content, if wanted, becomes NULL
 * for a string.  Raises 22023 for any other form.
 */
const char *
esrs_document_variant(EsrsJson *doc, EsrsJson **content)
{
	JsonbValue *value;
	MemoryContext before;
	const char *result = NULL;

	doc = or_null_document(doc);
	value = document_value(doc);
	before = MemoryContextSwitchTo(doc->context);

	if (content != NULL)
		*content = NULL;
	if (value->type == jbvString)
		result = pnstrdup(value->val.string.val, value->val.string.len);
	else if (is_object(value))
	{
		JsonbValue	key;
		JsonbValue	inner;

		if (only_member(value->val.binary.data, &key, &inner))
		{
			result = pnstrdup(key.val.string.val, key.val.string.len);
			if (content != NULL)
				*content = part_of(doc, &inner);
		}
	}
	MemoryContextSwitchTo(before);
	if (result == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("document is not an externally tagged variant"),
				 errdetail("An object with one member or a string is expected, but the document is %s.",
						   is_object(value) ? "an object with another number of members" :
						   type_name(value))));
	return result;
}

/*
 * The type of an event: a string itself, the key of an object with one member,
 * else what the path names; NULL if that gives no string.
 *
 * A path, keys separated by dots, has precedence over the rule when it leads
 * to a string; an empty path means that events have no type.
 */
char *
esrs_document_type(Jsonb *jb, const char *path)
{
	JsonbValue	value;
	JsonbValue	key;
	JsonbValue	inner;

	esrs_jsonb_root(jb, &value);
	if (path != NULL && *path == '\0')
		return NULL;
	if (path != NULL && is_object(&value))
	{
		JsonbValue	at = value;
		const char *p = path;

		for (;;)
		{
			int			len = strcspn(p, ".");
			JsonbValue	next;

			if (!is_object(&at) ||
				getKeyJsonValueFromContainer(at.val.binary.data, p, len, &next) == NULL)
				break;
			at = next;
			p += len;
			if (*p == '\0')
			{
				if (at.type == jbvString)
					return pnstrdup(at.val.string.val, at.val.string.len);
				break;
			}
			p++;
		}
	}
	if (value.type == jbvString)
		return pnstrdup(value.val.string.val, value.val.string.len);
	if (is_object(&value) && only_member(value.val.binary.data, &key, &inner))
		return pnstrdup(key.val.string.val, key.val.string.len);
	return NULL;
}
