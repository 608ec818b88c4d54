/*-------------------------------------------------------------------------
 *
 * callback_form.c
 *	  Calling the callbacks that turn payloads from stored to present form and
 *	  back: upcast, to_event and from_event.
 *
 * A payload that is an object or a string, as every event is that esrs has
 * stored, stays one, so that whoever reads events finds nothing else.  What a
 * foreign writer has stored otherwise is left to the callbacks.
 *
 * Callbacks run as the current user.  Nothing here may touch a table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#define ESRS_RAW_JSON
#include "user/callback.h"

#include "base/errors.h"
#include "base/jsonb_codec.h"
#include "base/jsonb_difference.h"
#include "lib/stringinfo.h"

typedef struct FormArgs
{
	EsrsRoutine *routine;
	EsrsJson   *document;
	int32		version;
	EsrsCallback callback;
} FormArgs;

static EsrsJson *
form_in_c(EsrsCall *call, FormArgs *a)
{
	struct json_object *object = esrs_document_json(a->document);

	if (a->callback == ESRS_CALLBACK_UPCAST)
		object = a->routine->c.upcast(call, object, a->version);
	else if (a->callback == ESRS_CALLBACK_TO_EVENT)
		object = a->routine->c.to_event(call, object);
	else
		object = a->routine->c.from_event(call, object);
	return object ? esrs_document_from_json(call->context, object) : NULL;
}

static EsrsJson *
form_in_sql(EsrsCall *call, FormArgs *a)
{
	NullableDatum args[2] = {
		{JsonbPGetDatum(esrs_document_jsonb(a->document)), false},
		{Int32GetDatum(a->version), a->version == ESRS_NO_VERSION}
	};
	bool		isnull;
	Datum		result = esrs_function_call(&a->routine->functions[a->callback], call->context,
											a->callback == ESRS_CALLBACK_UPCAST ? 2 : 1,
											args, &isnull);

	return isnull ? NULL : esrs_document_from_jsonb(call->context, DatumGetJsonbP(result));
}

/* Is it an object or a string? */
static bool
is_document(EsrsJson *document)
{
	if (document->jsonb != NULL)
		return esrs_jsonb_is_document(document->jsonb);
	return json_object_is_type(document->json, json_type_object) ||
		json_object_is_type(document->json, json_type_string);
}

static void
form_body(EsrsCall *call, void *arg)
{
	FormArgs   *a = (FormArgs *) arg;
	bool		was_document = is_document(a->document);

	a->document = a->routine->kind == ESRS_KIND_C ? form_in_c(call, a) : form_in_sql(call, a);
	if (a->document == NULL)
	{
		if (a->callback == ESRS_CALLBACK_FROM_EVENT)
			ereport(ERROR,
					(errcode(ESRS_ERRCODE_BAD_CALLBACK),
					 errmsg("%s returned null", "from_event")));
	}
	else if (was_document && !is_document(a->document))
		ereport(ERROR,
				(errcode(ESRS_ERRCODE_BAD_CALLBACK),
				 errmsg("%s returned neither a JSON object nor a string",
						esrs_callback_names[a->callback])));
}

static bool
has_callback(const EsrsRoutine *routine, EsrsCallback callback)
{
	if (routine->kind != ESRS_KIND_C)
		return OidIsValid(routine->functions[callback].oid);
	switch (callback)
	{
		case ESRS_CALLBACK_UPCAST:
			return routine->c.upcast != NULL;
		case ESRS_CALLBACK_TO_EVENT:
			return routine->c.to_event != NULL;
		case ESRS_CALLBACK_FROM_EVENT:
			return routine->c.from_event != NULL;
		default:
			return true;
	}
}

/*
 * A stored payload in its present form, in the call's scratch context; NULL
 * if it is deprecated and to be left out.
 *
 * A payload of the current event_version is not upcast.  Raises ZE004 for a
 * version newer than that, and ZE005 if a callback makes something else of an
 * object or a string.
 */
EsrsJson *
esrs_callback_present_form(EsrsCall *call, EsrsRoutine *routine, Jsonb *stored, int32 version)
{
	FormArgs	a = {.routine = routine,.version = version};

	a.document = esrs_document_from_jsonb(call->context, stored);
	if (routine->has_version && version != ESRS_NO_VERSION &&
		version > routine->event_version)
		ereport(ERROR,
				(errcode(ESRS_ERRCODE_BAD_EVENT),
				 errmsg("event of aggregate \"%s\" has a newer version than its functions know",
						call->aggregate),
				 errdetail("The event has version %d, and event_version is %d.",
						   version, routine->event_version)));
	if (has_callback(routine, ESRS_CALLBACK_UPCAST) &&
		!(routine->has_version && version == routine->event_version))
	{
		a.callback = ESRS_CALLBACK_UPCAST;
		esrs_call_run(call, "upcast", NULL, form_body, &a);
	}
	if (a.document != NULL && has_callback(routine, ESRS_CALLBACK_TO_EVENT))
	{
		a.callback = ESRS_CALLBACK_TO_EVENT;
		esrs_call_run(call, "to_event", NULL, form_body, &a);
	}
	return a.document;
}

/*
 * The form in which a new event is stored, in the current context.  Raises
 * ZE005 if from_event does not give an object or a string.
 */
Jsonb *
esrs_callback_stored_form(EsrsCall *call, EsrsRoutine *routine, Jsonb *event)
{
	FormArgs	a = {.routine = routine,.callback = ESRS_CALLBACK_FROM_EVENT};
	Jsonb	   *stored;

	if (!has_callback(routine, ESRS_CALLBACK_FROM_EVENT))
		return event;
	a.document = esrs_document_from_jsonb(call->context, event);
	esrs_call_run(call, "from_event", NULL, form_body, &a);
	stored = esrs_document_jsonb(a.document);
	esrs_jsonb_check_limits(stored, "event");
	return esrs_jsonb_copy(stored);
}

#define MAX_DIFFERENCES		3	/* that a message names */

/* What is wrong with an event that is read back, without a value of it. */
static char *
describe_differences(Jsonb *event, Jsonb *back)
{
	EsrsJsonbDifference found[MAX_DIFFERENCES];
	int64		n = esrs_jsonb_differences(event, back, found, MAX_DIFFERENCES);
	StringInfoData s;

	initStringInfo(&s);
	for (int i = 0; i < Min(n, MAX_DIFFERENCES); i++)
	{
		if (i > 0)
			appendStringInfoChar(&s, ' ');
		if (!found[i].in_second)
			appendStringInfo(&s, "The event has %s, which is missing from what is read back.",
							 found[i].path);
		else if (!found[i].in_first)
			appendStringInfo(&s, "What is read back has %s, which the event does not have.",
							 found[i].path);
		else
			appendStringInfo(&s, "At %s the event and what is read back differ.",
							 found[i].path);
	}
	if (n == MAX_DIFFERENCES + 1)
		appendStringInfoString(&s, " There is one more difference.");
	else if (n > MAX_DIFFERENCES)
		appendStringInfo(&s, " There are " INT64_FORMAT " more differences.",
						 n - MAX_DIFFERENCES);
	return s.data;
}

/*
 * Check that a new event comes back from its stored form as it was emitted:
 * the state returned now and the one loaded later are the same.  ZE005 if not.
 */
void
esrs_callback_check_form(EsrsCall *call, EsrsRoutine *routine, Jsonb *event,
						 Jsonb *stored, int32 version)
{
	EsrsJson   *back;

	if (!has_callback(routine, ESRS_CALLBACK_FROM_EVENT) &&
		!has_callback(routine, ESRS_CALLBACK_TO_EVENT) &&
		!has_callback(routine, ESRS_CALLBACK_UPCAST))
		return;
	back = esrs_callback_present_form(call, routine, stored, version);
	if (back == NULL || !esrs_jsonb_equal(esrs_document_jsonb(back), event))
		ereport(ERROR,
				(errcode(ESRS_ERRCODE_BAD_CALLBACK),
				 errmsg("new event of aggregate \"%s\" cannot be read back from its stored form",
						call->aggregate),
				 errdetail_internal("%s", back == NULL ?
									"The aggregate's own functions leave it out as deprecated." :
									describe_differences(event, esrs_document_jsonb(back))),
				 errhint("from_event must be the inverse of to_event and upcast for new events; an event_version exempts new events from upcast.")));
}
