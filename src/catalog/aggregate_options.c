/*-------------------------------------------------------------------------
 *
 * aggregate_options.c
 *	  The options of an aggregate: taking them from JSON, resolving the functions
 *	  that they name, and checking that they fit together.
 *
 * Nothing here may read or write a catalog of esrs.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/aggregate_options.h"

#include "base/jsonb_codec.h"
#include "catalog/extension.h"
#include "catalog/options.h"
#include "catalog/pg_proc.h"
#include "catalog/register.h"
#include "user/definition.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"

static const char *const option_names[] = {
	"handler", "handle_command", "apply_event", "initial_state", "upcast",
	"from_event", "to_event", "event_version", "snapshot_every",
	"event_id_format", "event_type_path", "unique_event_id", "append_only",
	"notify", "notify_payload", "snapshots"
};

static const char *const id_formats[] = {"v4", "v7"};
static const char *const notify_modes[] = {"commit", "off", "worker"};
static const char *const notify_payloads[] = {"event", "reference"};
static const char *const snapshot_actions[] = {"drop", "rebuild"};

/* Resolve signatures that are not resolved yet, and check all functions. */
static void
resolve(EsrsAggregateOptions *o)
{
	for (int i = 0; i < ESRS_CALLBACK_COUNT; i++)
	{
		if (o->callbacks[i] == NULL)
		{
			o->functions[i] = InvalidOid;
			continue;
		}
		if (!OidIsValid(o->functions[i]))
		{
			o->functions[i] = esrs_function_parse(o->callbacks[i]);
			esrs_register_check_execute(o->functions[i]);
		}
		esrs_routine_check_function(i, o->functions[i], esrs_extension()->handler_type);
		o->callbacks[i] = esrs_function_signature(o->functions[i]);
	}
}

static void
refuse(const char *message, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg_internal("%s", message),
			 hint ? errhint("%s", hint) : 0));
}

/* Raise 22023 if states of an aggregate in C cannot be kept in snapshots. */
static void
check_c_snapshots(EsrsRoutine *routine)
{
	uint8		fingerprint[ESRS_FINGERPRINT_LENGTH];

	if (routine->c.state_to_json != NULL && routine->c.state_from_json == NULL)
		refuse("aggregate handler has no state_from_json, which snapshots need",
			   "Without state_to_json the state is JSON and needs neither.");
	if (!esrs_definition_fingerprint(routine, NULL, 0, fingerprint))
		refuse("library of the aggregate handler has no build ID, which snapshots need",
			   "Link it with --build-id.");
}

/*
 * A snapshot is believed by everybody, so nobody may make one by giving other
 * meanings to the names in a function.
 */
static void
check_sql_snapshots(EsrsAggregateOptions *o)
{
	for (int i = 0; i < ESRS_CALLBACK_COUNT; i++)
	{
		Oid			unpinned;

		if (i == ESRS_CALLBACK_HANDLE_COMMAND || i == ESRS_CALLBACK_FROM_EVENT ||
			!OidIsValid(o->functions[i]))
			continue;
		unpinned = esrs_definition_unpinned(o->functions[i]);
		if (!OidIsValid(unpinned))
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("snapshots need functions that mean the same for every caller"),
				 errdetail("What function %s means depends on the caller and his search_path.",
						   format_procedure(unpinned)),
				 errhint("ALTER FUNCTION %s SET search_path = ..., pg_temp; or give it a BEGIN ATOMIC body.",
						 format_procedure(unpinned))));
	}
}

/* Raise 22023 unless it is known what to do with snapshots. */
void
esrs_aggregate_options_check_snapshots(const EsrsAggregateOptions *o)
{
	if (o->snapshots == NULL)
		return;
	esrs_options_check_choice("snapshots", o->snapshots, snapshot_actions,
							  lengthof(snapshot_actions));
	if (strcmp(o->snapshots, "rebuild") == 0 && (o->no_snapshots || !o->append_only))
		refuse("there are no snapshots to rebuild",
			   "They need the option \"snapshot_every\", and \"append_only\" must be true.");
}

/* Check that the options fit together, and each of them. */
void
esrs_aggregate_options_check(EsrsAggregateOptions *o)
{
	bool		sql = o->callbacks[ESRS_CALLBACK_HANDLE_COMMAND] != NULL ||
	o->callbacks[ESRS_CALLBACK_APPLY_EVENT] != NULL;

	if (o->callbacks[ESRS_CALLBACK_HANDLER] != NULL)
	{
		for (int i = ESRS_CALLBACK_HANDLE_COMMAND; i < ESRS_CALLBACK_COUNT; i++)
			if (o->callbacks[i] != NULL)
				refuse("a handler written in C cannot be combined with functions of SQL",
					   "The handler's EsrsAggregateRoutine has a member for each of them.");
		if (o->initial_state != NULL || !o->no_version)
			refuse("a handler written in C sets its initial state and event version itself", NULL);
	}
	else if (sql && (o->callbacks[ESRS_CALLBACK_HANDLE_COMMAND] == NULL ||
					 o->callbacks[ESRS_CALLBACK_APPLY_EVENT] == NULL))
		refuse("an aggregate needs both handle_command and apply_event",
			   "Without either it is a store for events that are persisted without commands.");
	else if (!sql && o->initial_state != NULL)
		refuse("a store without logic has no initial state", NULL);

	if (!o->no_version && o->event_version < 0)
		refuse("option \"event_version\" must not be negative", NULL);
	if (!o->no_snapshots && o->snapshot_every < 1)
		refuse("option \"snapshot_every\" must be at least 1", "Null takes no snapshots.");
	if (!o->no_snapshots && !sql && o->callbacks[ESRS_CALLBACK_HANDLER] == NULL)
		refuse("a store without logic has no states to take snapshots of", NULL);
	esrs_options_check_choice("event_id_format", o->event_id_format, id_formats,
							  lengthof(id_formats));
	if (o->notify != NULL)
		esrs_options_check_choice("notify", o->notify, notify_modes, lengthof(notify_modes));
	if (o->notify_payload != NULL)
		esrs_options_check_choice("notify_payload", o->notify_payload, notify_payloads,
								  lengthof(notify_payloads));
	esrs_aggregate_options_check_snapshots(o);
	if (o->initial_state != NULL)
		esrs_jsonb_check_limits(o->initial_state, "initial state");

	resolve(o);
	if (OidIsValid(o->functions[ESRS_CALLBACK_HANDLER]))
	{
		EsrsRoutine routine = {.kind = ESRS_KIND_C};

		routine.functions[ESRS_CALLBACK_HANDLER].oid = o->functions[ESRS_CALLBACK_HANDLER];
		esrs_routine_load_c(&routine);
		if (!o->no_snapshots)
			check_c_snapshots(&routine);
	}
	else if (!o->no_snapshots)
		check_sql_snapshots(o);
	if (OidIsValid(o->functions[ESRS_CALLBACK_APPLY_EVENT]) &&
		func_volatile(o->functions[ESRS_CALLBACK_APPLY_EVENT]) == PROVOLATILE_VOLATILE)
		ereport(DEBUG1,
				(errmsg_internal("function %s is VOLATILE",
								 o->callbacks[ESRS_CALLBACK_APPLY_EVENT])));
}

/*
 * Take over the options that the JSON object names; tell which functions it
 * names.
 */
void
esrs_aggregate_options_overlay(EsrsAggregateOptions *o, Jsonb *json, bool *named)
{
	EsrsOptions *options = esrs_options_open(json, option_names, lengthof(option_names));
	char	   *before[ESRS_CALLBACK_COUNT];

	memcpy(before, o->callbacks, sizeof(before));
	for (int i = 0; i < ESRS_CALLBACK_COUNT; i++)
	{
		esrs_options_text(options, esrs_callback_names[i], &o->callbacks[i], NULL);
		named[i] = o->callbacks[i] != before[i];
		if (named[i])
			o->functions[i] = InvalidOid;
	}
	esrs_options_jsonb(options, "initial_state", &o->initial_state);
	esrs_options_int(options, "event_version", &o->event_version, &o->no_version, 0);
	esrs_options_int(options, "snapshot_every", &o->snapshot_every, &o->no_snapshots, 0);
	esrs_options_text(options, "event_id_format", &o->event_id_format, "v7");
	esrs_options_text(options, "event_type_path", &o->event_type_path, NULL);
	esrs_options_bool(options, "unique_event_id", &o->unique_event_id, false);
	esrs_options_bool(options, "append_only", &o->append_only, true);
	esrs_options_text(options, "notify", &o->notify, NULL);
	esrs_options_text(options, "notify_payload", &o->notify_payload, NULL);
	esrs_options_text(options, "snapshots", &o->snapshots, NULL);
}

/*
 * Do the options say nothing but what to do with snapshots?  That changes no
 * definition.
 */
bool
esrs_aggregate_options_only_snapshots(Jsonb *json)
{
	JsonbValue	buffer;

	return JB_ROOT_IS_OBJECT(json) && JB_ROOT_COUNT(json) == 1 &&
		getKeyJsonValueFromContainer(&json->root, "snapshots", strlen("snapshots"),
									 &buffer) != NULL;
}
