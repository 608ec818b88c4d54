/*-------------------------------------------------------------------------
 *
 * config.c
 *	  The settings esrs.*, sorted by name.
 *
 * All of them can be set without preloading the library.  Limits are a
 * superuser's to set.  A setting that does nothing yet is not defined.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "compat.h"
#include "config.h"
#include "utils/guc.h"

bool		esrs_config_direct_append = true;
int			esrs_config_max_json_depth = 100;
int			esrs_config_max_nesting = 8;
int			esrs_config_max_payload_size = 16 * 1024;
int			esrs_config_max_workers = 2;
int			esrs_config_notify = ESRS_NOTIFY_WORKER;
int			esrs_config_notify_payload = ESRS_PAYLOAD_REFERENCE;
int			esrs_config_poll_interval = 1000;
int			esrs_config_state_cache_size = 8 * 1024;
int			esrs_config_worker_idle_timeout = 20 * 1000;

static const struct config_enum_entry notify_options[] = {
	{"commit", ESRS_NOTIFY_COMMIT, false},
	{"off", ESRS_NOTIFY_OFF, false},
	{"worker", ESRS_NOTIFY_WORKER, false},
	{NULL, 0, false}
};

static const struct config_enum_entry notify_payload_options[] = {
	{"event", ESRS_PAYLOAD_EVENT, false},
	{"reference", ESRS_PAYLOAD_REFERENCE, false},
	{NULL, 0, false}
};

/* Define all settings.  Called once, when the library is loaded. */
void
esrs_config_define(void)
{
	DefineCustomBoolVariable("esrs.direct_append",
							 "Stores and reads the events of plain tables without SQL statements.",
							 "Tables with triggers on INSERT, row security and the like are always reached by statements.",
							 &esrs_config_direct_append,
							 true,
							 PGC_SUSET, 0,
							 NULL, NULL, NULL);

	DefineCustomIntVariable("esrs.max_json_depth",
							"Sets the maximum nesting depth of commands, events and metadata.",
							NULL,
							&esrs_config_max_json_depth,
							100, 1, 1000,
							PGC_SUSET, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("esrs.max_nesting",
							"Sets the maximum depth of commands that are issued by callbacks and handlers.",
							NULL,
							&esrs_config_max_nesting,
							8, 1, 100,
							PGC_SUSET, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("esrs.max_payload_size",
							"Sets the maximum size of a command, an event or metadata.",
							"Strings and the written-out digits of numbers are counted.",
							&esrs_config_max_payload_size,
							16 * 1024, 1, 256 * 1024,
							PGC_SUSET, GUC_UNIT_KB,
							NULL, NULL, NULL);

	DefineCustomIntVariable("esrs.max_workers",
							"Sets the maximum number of background workers of a database.",
							"They are taken from max_worker_processes. 0: none, handlers run by CALL esrs_run_handlers() only.",
							&esrs_config_max_workers,
							2, 0, ESRS_WORKERS_LIMIT,
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);

	/*
	 * Not a session's to set: the worker could not know which events have
	 * been told already.
	 */
	DefineCustomEnumVariable("esrs.notify",
							 "Sets who sends notifications of new events.",
							 "\"worker\" acts as \"commit\" where no worker can run.",
							 &esrs_config_notify,
							 ESRS_NOTIFY_WORKER, notify_options,
							 PGC_SIGHUP, 0,
							 NULL, NULL, NULL);

	DefineCustomEnumVariable("esrs.notify_payload",
							 "Sets whether a notification refers to an event or contains it.",
							 "A notification can be read by every role that can connect.",
							 &esrs_config_notify_payload,
							 ESRS_PAYLOAD_REFERENCE, notify_payload_options,
							 PGC_SIGHUP, 0,
							 NULL, NULL, NULL);

	DefineCustomIntVariable("esrs.poll_interval",
							"Sets how often a background worker looks for events that nobody has told it of.",
							NULL,
							&esrs_config_poll_interval,
							1000, 10, 60 * 1000,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("esrs.state_cache_size",
							"Sets how much memory a session uses to keep states of instances between commands.",
							"0: none are kept.",
							&esrs_config_state_cache_size,
							8 * 1024, 0, MAX_KILOBYTES,
							PGC_USERSET, GUC_UNIT_KB,
							NULL, NULL, NULL);

	DefineCustomIntVariable("esrs.worker_idle_timeout",
							"Sets after which time without work a background worker ends.",
							"0: never. The next event starts it again.",
							&esrs_config_worker_idle_timeout,
							20 * 1000, 0, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_MS,
							NULL, NULL, NULL);

	MarkGUCPrefixReserved("esrs");
}
