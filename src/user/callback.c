/*-------------------------------------------------------------------------
 *
 * callback.c
 *	  Calling the callbacks of an aggregate: deciding and evolving.
 *
 * The callers see one interface; here, and nowhere else, it is decided whether
 * a callback is a function of SQL, which takes and gives jsonb, or one in C,
 * which takes and gives json-c or a struct of its own.
 *
 * Those that turn payloads from stored to present form and back are called in
 * callback_form.c.  Callbacks run as the current user.  Nothing here may touch a
 * table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#define ESRS_RAW_JSON
#include "user/callback.h"

#include "access/xact.h"
#include "base/errors.h"
#include "base/jsonb_codec.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

static void
returned_null(const char *callback)
{
	ereport(ERROR,
			(errcode(ESRS_ERRCODE_BAD_CALLBACK),
			 errmsg("%s returned null", callback)));
}

/* Is the state of an aggregate in C a json_object? */
static inline bool
has_json_state(const EsrsRoutine *routine)
{
	return routine->c.state_to_json == NULL;
}

/* Call one of the SQL functions; the result is a jsonb or NULL. */
static Jsonb *
call_sql(EsrsCall *call, EsrsRoutine *routine, EsrsCallback callback,
		 int nargs, NullableDatum *args)
{
	bool		isnull;
	Datum		result = esrs_function_call(&routine->functions[callback],
											call->context, nargs, args, &isnull);

	return isnull ? NULL : DatumGetJsonbP(result);
}

/* ------------------------------------------------------------------------
 * State
 * ------------------------------------------------------------------------
 */
typedef struct StateArgs
{
	EsrsRoutine *routine;
	EsrsState  *state;
	const EsrsEvent *event;
	Jsonb	   *result;
} StateArgs;

static void
init_state_body(EsrsCall *call, void *arg)
{
	StateArgs  *a = (StateArgs *) arg;
	void	   *value = a->routine->c.init_state(call);

	if (value == NULL)
		returned_null("init_state");
	if (has_json_state(a->routine))
		esrs_json_owner_set(a->state->json, esrs_json_pool_take(value));
	else
		a->state->value = value;
}

/* A state without contents, in a new context below "parent". */
static EsrsState *
new_state(MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "esrs instance",
												  ALLOCSET_SMALL_SIZES);
	EsrsState  *state = MemoryContextAllocZero(context, sizeof(EsrsState));

	state->context = context;
	return state;
}

/*
 * The state of an instance without events, in a new context below "parent",
 * which is deleted to release it.
 */
EsrsState *
esrs_callback_init_state(EsrsCall *call, EsrsRoutine *routine, MemoryContext parent)
{
	EsrsState  *state = new_state(parent);
	MemoryContext context = state->context;
	MemoryContext before = MemoryContextSwitchTo(context);

	switch (routine->kind)
	{
		case ESRS_KIND_STORE:
			break;
		case ESRS_KIND_SQL:
			state->jsonb = routine->initial_state ?
				esrs_jsonb_copy(routine->initial_state) : esrs_jsonb_from_text("{}");
			break;
		case ESRS_KIND_C:
			if (has_json_state(routine))
				state->json = esrs_json_owner_create(context);
			if (routine->c.init_state != NULL)
			{
				StateArgs	a = {.routine = routine,.state = state};

				esrs_call_run(call, "init_state", context, init_state_body, &a);
			}
			else
			{
				struct json_object *object = json_object_new_object();

				if (object == NULL)
					esrs_json_out_of_memory();
				esrs_json_owner_set(state->json, object);
			}
			break;
	}
	MemoryContextSwitchTo(before);
	return state;
}

static void
apply_sql_body(EsrsCall *call, void *arg)
{
	StateArgs  *a = (StateArgs *) arg;
	EsrsState  *state = a->state;
	NullableDatum args[2] = {
		{JsonbPGetDatum(state->jsonb), false},
		{JsonbPGetDatum(esrs_document_jsonb(a->event->payload)), false}
	};
	Jsonb	   *result = call_sql(call, a->routine, ESRS_CALLBACK_APPLY_EVENT, 2, args);

	if (result == NULL)
		returned_null("apply_event");
	if (result != state->jsonb)
	{
		MemoryContext before = MemoryContextSwitchTo(state->context);
		Jsonb	   *old = state->jsonb;

		state->jsonb = esrs_jsonb_copy(result);
		pfree(old);
		MemoryContextSwitchTo(before);
	}
}

static void
apply_c_body(EsrsCall *call, void *arg)
{
	StateArgs  *a = (StateArgs *) arg;
	EsrsState  *state = a->state;
	void	   *old = state->json ? (void *) state->json->object : state->value;
	void	   *value = a->routine->c.apply_event(call, old, a->event);

	if (value == NULL)
		returned_null("apply_event");
	if (state->json == NULL)
		state->value = value;
	else if (value != old)
		esrs_json_owner_set(state->json, esrs_json_pool_take(value));
}

/*
 * Evolve: change the state by one event in its present form.  After an error
 * the state is worthless.
 */
void
esrs_callback_apply(EsrsCall *call, EsrsRoutine *routine, EsrsState *state,
					const EsrsEvent *event)
{
	StateArgs	a = {.routine = routine,.state = state,.event = event};

	if (routine->kind == ESRS_KIND_SQL)
		esrs_call_run(call, "apply_event", NULL, apply_sql_body, &a);
	else if (routine->kind == ESRS_KIND_C)
		esrs_call_run(call, "apply_event", state->context, apply_c_body, &a);
}

static void
state_to_json_body(EsrsCall *call, void *arg)
{
	StateArgs  *a = (StateArgs *) arg;
	struct json_object *object = a->routine->c.state_to_json(call, a->state->value);

	if (object == NULL)
		returned_null("state_to_json");
	a->result = esrs_document_jsonb(esrs_document_from_json(call->context, object));
}

/*
 * The state as jsonb, copied to the current context; NULL for a store without
 * logic.
 */
Jsonb *
esrs_callback_state_json(EsrsCall *call, EsrsRoutine *routine, EsrsState *state)
{
	StateArgs	a = {.routine = routine,.state = state};

	switch (routine->kind)
	{
		case ESRS_KIND_STORE:
			return NULL;
		case ESRS_KIND_SQL:
			return esrs_jsonb_copy(state->jsonb);
		case ESRS_KIND_C:
			break;
	}
	if (has_json_state(routine))
		return esrs_json_to_jsonb(state->json->object);
	esrs_call_run(call, "state_to_json", NULL, state_to_json_body, &a);
	return esrs_jsonb_copy(a.result);
}

/* Can a state be made of what esrs_callback_state_json() gives? */
bool
esrs_callback_can_restore(const EsrsRoutine *routine)
{
	return routine->kind == ESRS_KIND_SQL ||
		(routine->kind == ESRS_KIND_C &&
		 (has_json_state(routine) || routine->c.state_from_json != NULL));
}

static void
restore_state_body(EsrsCall *call, void *arg)
{
	StateArgs  *a = (StateArgs *) arg;
	EsrsJson   *document = esrs_document_from_jsonb(call->context, a->result);

	a->state->value = a->routine->c.state_from_json(call, esrs_document_json(document));
	if (a->state->value == NULL)
		returned_null("state_from_json");
}

/*
 * The state that esrs_callback_state_json() has written, in a new context as of
 * esrs_callback_init_state().
 */
EsrsState *
esrs_callback_restore_state(EsrsCall *call, EsrsRoutine *routine, Jsonb *json,
							MemoryContext parent)
{
	EsrsState  *state = new_state(parent);
	MemoryContext before = MemoryContextSwitchTo(state->context);

	if (routine->kind == ESRS_KIND_SQL)
		state->jsonb = esrs_jsonb_copy(json);
	else if (has_json_state(routine))
	{
		JsonbValue	root;

		state->json = esrs_json_owner_create(state->context);
		esrs_jsonb_root(json, &root);
		esrs_json_owner_set(state->json,
							json_object_get(esrs_jsonb_to_json(&root, call->context)));
	}
	else
	{
		StateArgs	a = {.routine = routine,.state = state,.result = json};

		esrs_call_run(call, "state_from_json", state->context, restore_state_body, &a);
	}
	MemoryContextSwitchTo(before);
	return state;
}

/* How much memory a state takes, in bytes; of JSON a good guess. */
Size
esrs_callback_state_size(const EsrsState *state)
{
	return MemoryContextMemAllocated(state->context, true) +
		(state->json ? esrs_json_size(state->json->object) : 0);
}

/* ------------------------------------------------------------------------
 * Deciding
 * ------------------------------------------------------------------------
 */
typedef struct DecideArgs
{
	EsrsRoutine *routine;
	EsrsState  *state;
	Jsonb	   *command;
	MemoryContext result_context;
	List	   *events;
	bool		accepted;
} DecideArgs;

/* Take one event over into the result; ZE005 if it is none. */
static void
add_event(DecideArgs *a, Jsonb *event)
{
	MemoryContext before;

	if (event == NULL)
		ereport(ERROR,
				(errcode(ESRS_ERRCODE_BAD_CALLBACK),
				 errmsg("%s emitted a null event", "handle_command")));
	if (!esrs_jsonb_is_document(event))
		ereport(ERROR,
				(errcode(ESRS_ERRCODE_BAD_CALLBACK),
				 errmsg("%s emitted an event that is neither a JSON object nor a string",
						"handle_command")));
	esrs_jsonb_check_limits(event, "event");
	before = MemoryContextSwitchTo(a->result_context);
	a->events = lappend(a->events, esrs_jsonb_copy(event));
	MemoryContextSwitchTo(before);
}

static void
add_event_row(Datum value, bool isnull, void *arg)
{
	add_event((DecideArgs *) arg, isnull ? NULL : DatumGetJsonbP(value));
}

static void
decide_sql_body(EsrsCall *call, void *arg)
{
	DecideArgs *a = (DecideArgs *) arg;
	EsrsFunction *function = &a->routine->functions[ESRS_CALLBACK_HANDLE_COMMAND];
	NullableDatum args[2] = {
		{JsonbPGetDatum(a->state->jsonb), false},
		{JsonbPGetDatum(a->command), false}
	};

	if (function->returns_set)
		esrs_function_call_set(function, call->context, 2, args, add_event_row, a);
	else
	{
		bool		isnull;
		Datum		result = esrs_function_call(function, call->context, 2, args, &isnull);
		Datum	   *values;
		bool	   *nulls;
		int			n;

		if (isnull)
			ereport(ERROR,
					(errcode(ESRS_ERRCODE_BAD_CALLBACK),
					 errmsg("%s returned null", "handle_command"),
					 errhint("Return an empty array for no events, or raise %s to reject the command.",
							 "SQLSTATE ZE001")));
		deconstruct_array(DatumGetArrayTypeP(result), JSONBOID, -1, false, TYPALIGN_INT,
						  &values, &nulls, &n);
		for (int i = 0; i < n; i++)
			add_event_row(values[i], nulls[i], a);
	}
	a->accepted = true;
}

static void
decide_c_body(EsrsCall *call, void *arg)
{
	DecideArgs *a = (DecideArgs *) arg;
	const void *state = a->state->json ? (void *) a->state->json->object : a->state->value;
	EsrsJson   *command = esrs_document_from_jsonb(call->context, a->command);
	ListCell   *lc;

	call->deciding = true;
	a->accepted = a->routine->c.handle_command(call, state, command);
	call->deciding = false;
	if (!a->accepted)
	{
		if (call->rejection == NULL)
			ereport(ERROR,
					(errcode(ESRS_ERRCODE_BAD_CALLBACK),
					 errmsg("%s returned false without a rejection", "handle_command"),
					 errhint("Return what %s returns.", "esrs_reject()")));
		if (call->rejection_detail != NULL)
		{
			StringInfoData detail;

			initStringInfo(&detail);
			esrs_jsonb_append(&detail, esrs_json_to_jsonb(call->rejection_detail->object));
			call->rejection->detail = detail.data;
		}
		return;
	}
	if (call->rejection != NULL)
		ereport(ERROR,
				(errcode(ESRS_ERRCODE_BAD_CALLBACK),
				 errmsg("%s returned true after a rejection", "handle_command")));
	foreach(lc, call->emitted)
	{
		EsrsJsonOwner *owner = (EsrsJsonOwner *) lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		add_event(a, owner->object ? esrs_json_to_jsonb(owner->object) : NULL);
	}
}

static char *
copy_string(const char *s)
{
	return s ? pstrdup(s) : NULL;
}

static EsrsRejection *
copy_rejection(const char *name, const char *message, const char *detail, const char *hint)
{
	EsrsRejection *rejection = palloc(sizeof(EsrsRejection));

	rejection->name = copy_string(name);
	rejection->message = pstrdup(message);
	rejection->detail = copy_string(detail);
	rejection->hint = copy_string(hint);
	return rejection;
}

/*
 * Run a decision in SQL so that its rejection, an error with SQLSTATE ZE001,
 * comes back as a value.  Any other error is raised again.
 */
static EsrsRejection *
decide_sql_catching(EsrsCall *call, DecideArgs *a)
{
	MemoryContext before = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	EsrsRejection *volatile rejection = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(before);
	PG_TRY();
	{
		esrs_call_run(call, "handle_command", NULL, decide_sql_body, a);
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(before);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(before);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(before);
		CurrentResourceOwner = owner;
		if (error->sqlerrcode != ESRS_ERRCODE_REJECTED)
			ReThrowError(error);
		rejection = copy_rejection(error->constraint_name,
								   error->message ? error->message : "command rejected",
								   error->detail, error->hint);
		FreeErrorData(error);
	}
	PG_END_TRY();
	return rejection;
}

/*
 * Decide.  Returns NULL and the list of events (Jsonb), or the rejection; both
 * are in the current context.
 *
 * Without catch_rejection a rejection may also be raised: one by an SQL
 * function is an error by nature.
 */
EsrsRejection *
esrs_callback_decide(EsrsCall *call, EsrsRoutine *routine, EsrsState *state,
					 Jsonb *command, bool catch_rejection, List **events)
{
	DecideArgs	a = {.routine = routine,.state = state,.command = command,
		.result_context = CurrentMemoryContext
	};
	EsrsRejection *rejection = NULL;

	*events = NIL;
	if (routine->kind == ESRS_KIND_C)
	{
		esrs_call_run(call, "handle_command", NULL, decide_c_body, &a);
		if (!a.accepted)
			rejection = copy_rejection(call->rejection->name, call->rejection->message,
									   call->rejection->detail, NULL);
	}
	else if (catch_rejection)
		rejection = decide_sql_catching(call, &a);
	else
		esrs_call_run(call, "handle_command", NULL, decide_sql_body, &a);

	if (rejection == NULL)
		*events = a.events;
	return rejection;
}

/* Raise a rejection as ZE001. */
void
esrs_rejection_raise(const EsrsRejection *rejection)
{
	ereport(ERROR,
			(errcode(ESRS_ERRCODE_REJECTED),
			 errmsg_internal("%s", rejection->message),
			 rejection->detail ? errdetail_internal("%s", rejection->detail) : 0,
			 rejection->hint ? errhint("%s", rejection->hint) : 0,
			 rejection->name ? err_generic_string(PG_DIAG_CONSTRAINT_NAME, rejection->name) : 0));
	pg_unreachable();
}
