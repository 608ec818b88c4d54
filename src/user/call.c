/*-------------------------------------------------------------------------
 *
 * call.c
 *	  The frame around every call of a user's callback, and the table of
 *	  functions that a callback in C may call.
 *
 * The frame gives the callback its memory and its pool of json-c objects, adds
 * a line to the context of its errors (aggregate, instance and callback, never
 * a payload), and notices when it changed a setting that decides about rights,
 * durability or visibility, or did not leave subtransactions, interrupts and
 * SPI as it found them.
 *
 * What the callbacks mean is not known here, see callback.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "user/call.h"

#include "access/xact.h"
#include "base/errors.h"
#include "base/jsonb_codec.h"
#include "base/security.h"
#include "base/uuid.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "user/function.h"
#include "utils/memutils.h"

/*
 * Begin the calls of one command.  The EsrsCall and its scratch context live
 * in the current context; name and metadata are borrowed.
 */
EsrsCall *
esrs_call_begin(const char *aggregate, const pg_uuid_t *aggregate_id,
				TimestampTz now, Jsonb *metadata)
{
	EsrsCall   *call = palloc0(sizeof(EsrsCall));

	call->aggregate = aggregate;
	call->epoch = esrs_function_new_epoch();
	call->aggregate_id = *aggregate_id;
	call->now = now;
	call->metadata = metadata;
	call->context = AllocSetContextCreate(CurrentMemoryContext, "esrs call",
										  ALLOCSET_DEFAULT_SIZES);
	esrs_json_pool_init(&call->pool, call->context);
	return call;
}

/* Release all that the callbacks made so far. */
void
esrs_call_reset(EsrsCall *call)
{
	MemoryContextReset(call->context);
	esrs_json_pool_init(&call->pool, call->context);
	call->metadata_document = NULL;
	call->deciding = false;
	call->emitted = NIL;
	call->rejection = NULL;
	call->rejection_detail = NULL;
}

void
esrs_call_end(EsrsCall *call)
{
	MemoryContextDelete(call->context);
	pfree(call);
}

/* How many calls of callbacks and handlers are in progress, one in the other. */
static int	running = 0;

/* Is a callback or a handler being called? */
bool
esrs_call_is_running(void)
{
	return running > 0;
}

static void
call_error_context(void *arg)
{
	EsrsCall   *call = (EsrsCall *) arg;

	errcontext("%s of aggregate \"%s\", instance %s", call->callback,
			   call->aggregate, esrs_uuid_text(&call->aggregate_id));
}

/*
 * What SPI_processed is while a callback runs.  SPI_connect() sets it to 0 and
 * SPI_finish() puts it back, so it tells of a connection that was left open.
 */
#define SPI_UNTOUCHED	UINT64CONST(0xE545E545E545E545)

/*
 * A callback must leave the transaction as it found it.  An open subtransaction
 * cannot be mended: what follows would not be committed, so the session ends.
 */
static void
check_unbalanced(int nest_level, uint32 holdoff, uint32 cancel_holdoff)
{
	if (GetCurrentTransactionNestLevel() != nest_level)
		ereport(FATAL,
				(errcode(ESRS_ERRCODE_BAD_CALLBACK),
				 errmsg("callback left a subtransaction open")));
	if (InterruptHoldoffCount != holdoff || QueryCancelHoldoffCount != cancel_holdoff)
	{
		InterruptHoldoffCount = holdoff;
		QueryCancelHoldoffCount = cancel_holdoff;
		ereport(ERROR,
				(errcode(ESRS_ERRCODE_BAD_CALLBACK),
				 errmsg("callback left interrupts held off")));
	}
	if (SPI_processed != SPI_UNTOUCHED)
		ereport(ERROR,
				(errcode(ESRS_ERRCODE_BAD_CALLBACK),
				 errmsg("callback left SPI connected")));
}

/*
 * Run "body", which calls one callback, in the given context (NULL: the
 * call's own).
 *
 * Raises what the callback raises, and ZE005 if it changed a guarded setting.
 */
void
esrs_call_run(EsrsCall *call, const char *callback, MemoryContext context,
			  void (*body) (EsrsCall *call, void *arg), void *arg)
{
	MemoryContext before = MemoryContextSwitchTo(context ? context : call->context);
	EsrsJsonPool *outer = esrs_json_pool_enter(&call->pool);
	uint64		outer_epoch = esrs_function_enter_epoch(call->epoch);
	const char *outer_callback = call->callback;
	ErrorContextCallback error_context;
	EsrsSettings settings;
	const char *changed;
	int			nest_level = GetCurrentTransactionNestLevel();
	uint32		holdoff = InterruptHoldoffCount;
	uint32		cancel_holdoff = QueryCancelHoldoffCount;
	uint64		outer_processed = SPI_processed;

	error_context.callback = call_error_context;
	error_context.arg = call;
	error_context.previous = error_context_stack;
	error_context_stack = &error_context;
	call->callback = callback;
	esrs_security_note_settings(&settings);

	SPI_processed = SPI_UNTOUCHED;
	running++;
	PG_TRY();
	{
		body(call, arg);
		check_unbalanced(nest_level, holdoff, cancel_holdoff);
		changed = esrs_security_changed_setting(&settings);
		if (changed != NULL)
			ereport(ERROR,
					(errcode(ESRS_ERRCODE_BAD_CALLBACK),
					 errmsg("callback changed the setting \"%s\"", changed),
					 errhint("Attach settings to the function with ALTER FUNCTION ... SET.")));
	}
	PG_CATCH();
	{
		esrs_json_pool_enter(outer);
		esrs_function_enter_epoch(outer_epoch);
		call->callback = outer_callback;
		running--;
		PG_RE_THROW();
	}
	PG_END_TRY();

	running--;
	SPI_processed = outer_processed;
	error_context_stack = error_context.previous;
	call->callback = outer_callback;
	esrs_json_pool_enter(outer);
	esrs_function_enter_epoch(outer_epoch);
	MemoryContextSwitchTo(before);
}

/* ------------------------------------------------------------------------
 * The functions behind esrs.h; their contracts are written there.
 * ------------------------------------------------------------------------
 */

static struct json_object *
api_json_parse(const char *text)
{
	JsonbValue	value;

	esrs_jsonb_root(esrs_jsonb_parse(text), &value);
	return esrs_jsonb_to_json(&value, CurrentMemoryContext);
}

static const struct varlena *
api_json_raw(EsrsJson *doc)
{
	return (const struct varlena *) esrs_document_jsonb(doc);
}

/* Raise ZE005 unless handle_command is running. */
static void
must_be_deciding(EsrsCall *call, const char *function)
{
	if (!call->deciding)
		ereport(ERROR,
				(errcode(ESRS_ERRCODE_BAD_CALLBACK),
				 errmsg("%s was called outside %s", function, "handle_command")));
}

static void
api_emit(EsrsCall *call, struct json_object *event)
{
	MemoryContext before = MemoryContextSwitchTo(call->context);
	EsrsJsonOwner *owner = esrs_json_owner_create(call->context);

	must_be_deciding(call, "esrs_emit()");
	CHECK_FOR_INTERRUPTS();
	if (event != NULL)
		esrs_json_owner_set(owner, esrs_json_pool_take(event));
	call->emitted = lappend(call->emitted, owner);
	MemoryContextSwitchTo(before);
}

static bool
api_reject(EsrsCall *call, const char *name, const char *message)
{
	MemoryContext before = MemoryContextSwitchTo(call->context);
	EsrsRejection *rejection = palloc0(sizeof(EsrsRejection));

	must_be_deciding(call, "esrs_reject()");
	rejection->name = name ? pstrdup(name) : NULL;
	rejection->message = pstrdup(message);
	call->rejection = rejection;
	call->rejection_detail = NULL;
	MemoryContextSwitchTo(before);
	return false;
}

static struct json_object *
api_reject_detail(EsrsCall *call)
{
	if (call->rejection == NULL)
		ereport(ERROR,
				(errcode(ESRS_ERRCODE_BAD_CALLBACK),
				 errmsg("callback gave the detail of a rejection before the rejection"),
				 errhint("Call %s first.", "esrs_reject()")));
	if (call->rejection_detail == NULL)
	{
		EsrsJsonOwner *owner = esrs_json_owner_create(call->context);
		struct json_object *detail = (json_object_new_object) ();

		if (detail == NULL)
			esrs_json_out_of_memory();
		esrs_json_owner_set(owner, detail);
		call->rejection_detail = owner;
	}
	return call->rejection_detail->object;
}

static const pg_uuid_t *
api_aggregate_id(EsrsCall *call)
{
	return &call->aggregate_id;
}

static EsrsJson *
api_metadata(EsrsCall *call)
{
	if (call->metadata == NULL)
		return NULL;
	if (call->metadata_document == NULL)
		call->metadata_document = esrs_document_from_jsonb(call->context, call->metadata);
	return call->metadata_document;
}

static TimestampTz
api_now(EsrsCall *call)
{
	return call->now;
}

static const EsrsApi api = {
	.abi_version = ESRS_ABI_VERSION,
	.size = sizeof(EsrsApi),
	.json_track = esrs_json_pool_track,
	.json_untrack = esrs_json_pool_untrack,
	.json_attached = esrs_json_pool_attached,
	.json_parse = api_json_parse,
	.json = esrs_document_json,
	.json_raw = api_json_raw,
	.json_get = esrs_document_get,
	.json_length = esrs_document_length,
	.json_element = esrs_document_element,
	.json_variant = esrs_document_variant,
	.emit = api_emit,
	.reject = api_reject,
	.reject_detail = api_reject_detail,
	.aggregate_id = api_aggregate_id,
	.metadata = api_metadata,
	.now = api_now,
};

/* Let user libraries find the table.  Called once, when esrs is loaded. */
void
esrs_call_publish_api(void)
{
	*(const EsrsApi **) find_rendezvous_variable("esrs_api") = &api;
}
