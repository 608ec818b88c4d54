/*-------------------------------------------------------------------------
 *
 * event.c
 *	  An event as the server module hands it around: bringing a stored one
 *	  into its present form, and folding it into a state.
 *
 * Whatever reads an event, fold, handler, feed or bus, goes through here, so
 * that no reader can miss an upcast.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "user/event.h"

#include "base/jsonb_codec.h"
#include "base/uuid.h"

/* A copy with all that hangs on it, in the current context. */
EsrsRecord *
esrs_event_copy(const EsrsRecord *record)
{
	EsrsRecord *copy = palloc(sizeof(EsrsRecord));

	*copy = *record;
	if (record->payload != NULL)
		copy->payload = esrs_jsonb_copy(record->payload);
	if (record->event != NULL)
		copy->event = record->event == record->payload ?
			copy->payload : esrs_jsonb_copy(record->event);
	if (record->metadata != NULL)
		copy->metadata = esrs_jsonb_copy(record->metadata);
	return copy;
}

static void
event_error_context(void *arg)
{
	const EsrsRecord *record = (const EsrsRecord *) arg;

	errcontext("event %s with sequence_number %d",
			   esrs_uuid_text(&record->id), record->sequence_number);
}

/* The present form as a document in the call's scratch context, or NULL. */
static EsrsJson *
present_document(EsrsCall *call, EsrsRoutine *routine, const EsrsRecord *record)
{
	if (record->event != NULL)
		return esrs_document_from_jsonb(call->context, record->event);
	return esrs_callback_present_form(call, routine, record->payload, record->version);
}

/*
 * Fill record->event, in the current context.  False if the event is
 * deprecated and to be left out.  Empties the call's scratch context.
 */
bool
esrs_event_present(EsrsCall *call, EsrsRoutine *routine, EsrsRecord *record)
{
	ErrorContextCallback error_context;
	EsrsJson   *document;

	if (record->deletion || record->event != NULL)
		return true;
	error_context.callback = event_error_context;
	error_context.arg = record;
	error_context.previous = error_context_stack;
	error_context_stack = &error_context;

	document = present_document(call, routine, record);
	if (document != NULL)
		record->event = document->jsonb == record->payload ?
			record->payload : esrs_jsonb_copy(esrs_document_jsonb(document));
	esrs_call_reset(call);

	error_context_stack = error_context.previous;
	return document != NULL;
}

/*
 * Fold one event into a state.  False if the event is deprecated.  Empties the
 * call's scratch context.
 */
bool
esrs_event_fold(EsrsCall *call, EsrsRoutine *routine, EsrsState *state,
				const EsrsRecord *record)
{
	ErrorContextCallback error_context;
	EsrsEvent	event;

	error_context.callback = event_error_context;
	error_context.arg = (void *) record;
	error_context.previous = error_context_stack;
	error_context_stack = &error_context;

	event.payload = present_document(call, routine, record);
	if (event.payload != NULL)
	{
		event.id = record->id;
		event.aggregate_id = record->aggregate_id;
		event.sequence_number = record->sequence_number;
		event.version = record->version;
		event.occurred_on = record->occurred_on;
		esrs_callback_apply(call, routine, state, &event);
	}
	esrs_call_reset(call);

	error_context_stack = error_context.previous;
	return event.payload != NULL;
}
