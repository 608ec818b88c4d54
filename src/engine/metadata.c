/*-------------------------------------------------------------------------
 *
 * metadata.c
 *	  The metadata of events: what the caller gave, and what esrs knows.
 *
 * esrs adds command_id, if the command has one, and, for a command that an
 * event handler issues, causation_id: the id of the event that was being
 * handled.  correlation_id and traceparent are handed on from that event.
 * What the caller gave has precedence.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/metadata.h"

#include "base/uuid.h"
#include "handler/transactional.h"

static bool
has_key(Jsonb *jb, const char *key)
{
	JsonbValue	buffer;

	return jb != NULL &&
		getKeyJsonValueFromContainer(&jb->root, key, strlen(key), &buffer) != NULL;
}

static void
push_pair(JsonbParseState **state, const char *key, JsonbValue *value)
{
	JsonbValue	k;

	k.type = jbvString;
	k.val.string.val = (char *) key;
	k.val.string.len = strlen(key);
	pushJsonbValue(state, WJB_KEY, &k);
	pushJsonbValue(state, WJB_VALUE, value);
}

static void
push_uuid(JsonbParseState **state, const char *key, const pg_uuid_t *uuid)
{
	JsonbValue	v;

	v.type = jbvString;
	v.val.string.val = esrs_uuid_text(uuid);
	v.val.string.len = strlen(v.val.string.val);
	push_pair(state, key, &v);
}

/* Hand a member of the causing event's metadata on. */
static void
inherit(JsonbParseState **state, Jsonb *given, const EsrsRecord *cause, const char *key)
{
	JsonbValue	buffer;
	JsonbValue *v;

	if (cause->metadata == NULL || has_key(given, key))
		return;
	v = getKeyJsonValueFromContainer(&cause->metadata->root, key, strlen(key), &buffer);
	if (v != NULL)
		push_pair(state, key, v);
}

/*
 * The metadata for the events of a command, in the current context; NULL if
 * there is none.
 */
Jsonb *
esrs_metadata_complete(EsrsCommand *command)
{
	Jsonb	   *given = command->metadata;
	int			depth;
	const EsrsRecord *cause = esrs_transactional_cause(&depth);
	JsonbParseState *state = NULL;

	if (!command->has_command_id && cause == NULL)
		return given;
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	if (command->has_command_id)
		push_uuid(&state, "command_id", &command->command_id);
	if (cause != NULL)
	{
		if (!has_key(given, "causation_id"))
			push_uuid(&state, "causation_id", &cause->id);
		inherit(&state, given, cause, "correlation_id");
		inherit(&state, given, cause, "traceparent");
	}
	if (given != NULL)
	{
		JsonbIterator *it = JsonbIteratorInit(&given->root);
		JsonbIteratorToken token;
		JsonbValue	v;
		bool		own = command->has_command_id;

		(void) JsonbIteratorNext(&it, &v, true);
		while ((token = JsonbIteratorNext(&it, &v, true)) == WJB_KEY)
		{
			JsonbValue	value;
			bool		skip = own && v.val.string.len == strlen("command_id") &&
			memcmp(v.val.string.val, "command_id", v.val.string.len) == 0;
			char	   *key = pnstrdup(v.val.string.val, v.val.string.len);

			(void) JsonbIteratorNext(&it, &value, true);
			if (!skip)
				push_pair(&state, key, &value);
		}
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}
