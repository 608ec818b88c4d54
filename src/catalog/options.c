/*-------------------------------------------------------------------------
 *
 * options.c
 *	  Options given as a JSON object to esrs_alter_aggregate() and
 *	  esrs_alter_handler(): an absent key leaves the option as it is, null
 *	  restores its default.  Also the checks of names and choices that
 *	  registering and altering share.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/options.h"

#include <errno.h>

#include "base/jsonb_codec.h"
#include "catalog/aggregate.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"

struct EsrsOptions
{
	Jsonb	   *json;
};

/*
 * Check that the options are an object whose keys are all known; 22023 with
 * the known ones as a hint.
 */
EsrsOptions *
esrs_options_open(Jsonb *json, const char *const *known, int nknown)
{
	EsrsOptions *options = palloc(sizeof(EsrsOptions));
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;

	if (!JB_ROOT_IS_OBJECT(json))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("options must be a JSON object")));
	it = JsonbIteratorInit(&json->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		bool		found = false;

		if (token != WJB_KEY)
			continue;
		for (int i = 0; i < nknown; i++)
			found |= strlen(known[i]) == v.val.string.len &&
				memcmp(known[i], v.val.string.val, v.val.string.len) == 0;
		if (!found)
		{
			StringInfoData list;

			initStringInfo(&list);
			for (int i = 0; i < nknown; i++)
				appendStringInfo(&list, "%s%s", i ? ", " : "", known[i]);
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unrecognized option \"%s\"",
							pnstrdup(v.val.string.val, v.val.string.len)),
					 errhint("Options are: %s.", list.data)));
		}
	}
	options->json = json;
	return options;
}

/* The value of a key; NULL if it is absent. */
static JsonbValue *
option(EsrsOptions *options, const char *key, JsonbValue *buffer)
{
	return getKeyJsonValueFromContainer(&options->json->root, key, strlen(key), buffer);
}

static void
wrong_type(const char *key, const char *wanted)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("option \"%s\" must be %s", key, wanted)));
}

void
esrs_options_text(EsrsOptions *options, const char *key, char **value, const char *otherwise)
{
	JsonbValue	buffer;
	JsonbValue *v = option(options, key, &buffer);

	if (v == NULL)
		return;
	if (v->type == jbvNull)
		*value = otherwise ? pstrdup(otherwise) : NULL;
	else if (v->type == jbvString)
		*value = pnstrdup(v->val.string.val, v->val.string.len);
	else
		wrong_type(key, "a string");
}

/* isnull is NULL for an option that always has a value. */
void
esrs_options_int(EsrsOptions *options, const char *key, int32 *value, bool *isnull,
				 int32 otherwise)
{
	JsonbValue	buffer;
	JsonbValue *v = option(options, key, &buffer);

	if (v == NULL)
		return;
	if (v->type == jbvNull)
		*value = otherwise;
	else
	{
		char	   *text = v->type == jbvNumeric ? esrs_jsonb_number_text(v) : "";
		char	   *end;
		long		n;

		errno = 0;
		n = strtol(text, &end, 10);
		if (*text == '\0' || *end != '\0' || errno != 0 ||
			n < PG_INT32_MIN || n > PG_INT32_MAX)
			wrong_type(key, "an integer");
		*value = (int32) n;
	}
	if (isnull != NULL)
		*isnull = v->type == jbvNull;
}

void
esrs_options_bool(EsrsOptions *options, const char *key, bool *value, bool otherwise)
{
	JsonbValue	buffer;
	JsonbValue *v = option(options, key, &buffer);

	if (v == NULL)
		return;
	if (v->type == jbvNull)
		*value = otherwise;
	else if (v->type == jbvBool)
		*value = v->val.boolean;
	else
		wrong_type(key, "a boolean");
}

void
esrs_options_jsonb(EsrsOptions *options, const char *key, Jsonb **value)
{
	JsonbValue	buffer;
	JsonbValue *v = option(options, key, &buffer);

	if (v != NULL)
		*value = v->type == jbvNull ? NULL : JsonbValueToJsonb(v);
}

/* A list of strings; null gives NIL. */
void
esrs_options_list(EsrsOptions *options, const char *key, List **value)
{
	JsonbValue	buffer;
	JsonbValue *v = option(options, key, &buffer);
	List	   *result = NIL;

	if (v == NULL)
		return;
	if (v->type != jbvNull)
	{
		if (v->type != jbvBinary || !JsonContainerIsArray(v->val.binary.data))
			wrong_type(key, "an array of strings");
		if (JsonContainerSize(v->val.binary.data) == 0)
			wrong_type(key, "null or an array of at least one string");
		for (int i = 0; i < JsonContainerSize(v->val.binary.data); i++)
		{
			JsonbValue *e = getIthJsonbValueFromContainer(v->val.binary.data, i);

			if (e->type != jbvString)
				wrong_type(key, "an array of strings");
			result = lappend(result, pnstrdup(e->val.string.val, e->val.string.len));
		}
	}
	*value = result;
}

/* Raise 42602 unless the name is one that generated names can be made of. */
void
esrs_options_check_name(const char *name, const char *what)
{
	int			len = strlen(name);
	bool		ok = len >= 1 && len <= ESRS_NAME_MAX &&
	strspn(name, "abcdefghijklmnopqrstuvwxyz_0123456789") == len &&
	!(name[0] >= '0' && name[0] <= '9');

	if (!ok)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_NAME),
				 errmsg("invalid name of %s", what),
				 errdetail("The name has %d bytes.", len),
				 errhint("A name has 1 to %d lower-case letters, digits and underscores, and does not begin with a digit.",
						 ESRS_NAME_MAX)));
}

/* Raise 22023 unless the value is one of the choices. */
void
esrs_options_check_choice(const char *option_name, const char *value,
						  const char *const *choices, int nchoices)
{
	StringInfoData list;

	for (int i = 0; i < nchoices; i++)
		if (value != NULL && strcmp(value, choices[i]) == 0)
			return;
	initStringInfo(&list);
	for (int i = 0; i < nchoices; i++)
		appendStringInfo(&list, "%s\"%s\"", i ? ", " : "", choices[i]);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for option \"%s\"", option_name),
			 errhint("Possible values are: %s.", list.data)));
}
