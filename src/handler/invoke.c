/*-------------------------------------------------------------------------
 *
 * invoke.c
 *	  Calling an event handler's function, for transactional and asynchronous
 *	  handlers alike.
 *
 * Who the current user is, what is rolled back after an error, and what comes
 * next, is the caller's business.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "handler/invoke.h"

#include "base/security.h"
#include "catalog/aggregate_load.h"
#include "catalog/extension.h"
#include "postmaster/bgworker.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

/* Handlers are being called with what they have been called with before. */
static bool replaying = false;

/* The handler that is running, and for an asynchronous one its event. */
static EsrsHandler *running = NULL;
static const EsrsRecord *async_cause = NULL;

typedef struct HandlerCall
{
	EsrsFunction *function;
	Datum		argument;
} HandlerCall;

static void
call_body(EsrsCall *call, void *arg)
{
	HandlerCall *h = (HandlerCall *) arg;
	NullableDatum args[1] = {{h->argument, false}};
	bool		isnull;

	(void) esrs_function_call(h->function, call->context, 1, args, &isnull);
}

static void
handler_error_context(void *arg)
{
	errcontext("event handler \"%s\"", ((EsrsHandler *) arg)->name);

	/* what the handler was doing may hold data of the event: not for the log */
	if (MyBgworkerEntry != NULL)
		errhidecontext(true);
}

/*
 * A handler's function was missing when the handler was loaded, or was
 * dropped since: take the one that is there now.  Raises 42883 if there is
 * none, or one of a stranger; 42809 or 22023 if it does not fit.
 */
static void
find_again(EsrsHandler *handler, EsrsFunction *function, const char *signature)
{
	const EsrsExtension *ext = esrs_extension();
	bool		deletion = function == &handler->delete_function;
	EsrsIdentity before;
	Oid			found;

	/* not as the caller, who may lack USAGE on its schema */
	esrs_security_become(&before, ext->owner);
	found = esrs_function_find(signature);
	esrs_security_restore(&before);
	if (!OidIsValid(found))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function %s of event handler \"%s\" does not exist", signature, handler->name),
				 errhint("Create it again, name another with esrs_alter_handler(), or call esrs_unregister_handler('%s').",
						 handler->name)));
	if (deletion)
		esrs_handler_check_delete(found);
	else if (esrs_handler_check(found, ext->event_type, ext->event_array_type) != handler->set_based)
		elog(ERROR, "function %s of event handler \"%s\" takes another argument than its signature says",
			 signature, handler->name);
	if (!esrs_aggregate_trusts(handler, found, deletion))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function %s of event handler \"%s\" was created by another role",
						signature, handler->name),
				 errhint("If it is meant, name it again with esrs_alter_handler('%s', ...).",
						 handler->name)));
	esrs_function_init(function, found, GetMemoryChunkContext(handler));
}

static void
resolve(EsrsHandler *handler, EsrsFunction *function, const char *signature)
{
	if (!OidIsValid(function->oid) ||
		!SearchSysCacheExists1(PROCOID, ObjectIdGetDatum(function->oid)))
		find_again(handler, function, signature);
}

/*
 * See to it that the handler's functions are there, so that no event is blamed
 * for it.  Raises 42883, 42809 or 22023.
 */
void
esrs_invoke_resolve(EsrsHandler *handler)
{
	resolve(handler, &handler->function, handler->signature);
	if (handler->delete_signature != NULL)
		resolve(handler, &handler->delete_function, handler->delete_signature);
}

/*
 * Call a handler with one argument: an event, an array of events, or, for
 * "deletion", the id of an instance.  Aggregate and id are for the context of
 * errors.  The function must not return a set, which registration saw to.
 *
 * Raises what the handler raises, ZE005 if it changed a guarded setting, and
 * 42883 if the function is gone.
 */
void
esrs_invoke(EsrsHandler *handler, const char *aggregate, const pg_uuid_t *id, Datum argument,
			bool deletion)
{
	EsrsFunction *function = deletion ? &handler->delete_function : &handler->function;
	EsrsHandler *volatile outer = running;
	HandlerCall h = {function, argument};
	ErrorContextCallback error_context;
	EsrsCall   *call;

	/* a handler may have dropped it while events wait */
	resolve(handler, function, deletion ? handler->delete_signature : handler->signature);
	error_context.callback = handler_error_context;
	error_context.arg = handler;
	error_context.previous = error_context_stack;
	error_context_stack = &error_context;

	call = esrs_call_begin(aggregate, id, 0, NULL);
	running = handler;
	PG_TRY();
	{
		esrs_call_run(call, "event handler", NULL, call_body, &h);
	}
	PG_FINALLY();
	{
		running = outer;
	}
	PG_END_TRY();
	esrs_call_end(call);

	error_context_stack = error_context.previous;
}

/* Does the handler want events of this type? */
static bool
wants(EsrsHandler *handler, const char *type)
{
	ListCell   *lc;

	if (handler->event_types == NIL)
		return true;
	foreach(lc, handler->event_types)
	{
		if (type != NULL && strcmp((char *) lfirst(lc), type) == 0)
			return true;
	}
	return false;
}

/* Does the handler want this event, whose record->event is set? */
bool
esrs_invoke_wants(EsrsAggregate *agg, EsrsHandler *handler, EsrsRecord *record)
{
	char	   *type;
	bool		result;

	if (handler->event_types == NIL)
		return true;
	type = esrs_document_type(record->event, agg->routine.event_type_path);
	result = wants(handler, type);
	if (type != NULL)
		pfree(type);
	return result;
}

/* The name of the handler that is running, or NULL. */
const char *
esrs_invoke_running(void)
{
	return running ? running->name : NULL;
}

/* Note that handlers are called again with old events; or not any more. */
void
esrs_invoke_set_replaying(bool now_replaying)
{
	replaying = now_replaying;
}

bool
esrs_invoke_is_replaying(void)
{
	return replaying;
}

/* Set the event that an asynchronous handler is called with, or NULL. */
void
esrs_invoke_set_cause(const EsrsRecord *record)
{
	async_cause = record;
}

const EsrsRecord *
esrs_invoke_cause(void)
{
	return async_cause;
}
