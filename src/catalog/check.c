/*-------------------------------------------------------------------------
 *
 * check.c
 *	  Health: find, and where it can be done safely, repair what is wrong with
 *	  registered aggregates and handlers.
 *
 * One row per finding, with what was done or what to do; no row means healthy.
 * Only the owner of a table has it repaired.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/check.h"

#include "access/xact.h"
#include "base/security.h"
#include "base/spi.h"
#include "catalog/aggregate_row.h"
#include "catalog/event_table.h"
#include "catalog/extension.h"
#include "catalog/pg_type.h"
#include "catalog/register.h"
#include "catalog/state_aggregate.h"
#include "compat.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "user/definition.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"

PG_FUNCTION_INFO_V1(esrs_check);

/* A row of esrs.aggregates, or of esrs.handlers, as far as it is checked. */
typedef struct Subject
{
	char	   *name;
	Oid			events;
	char	   *functions[ESRS_CALLBACK_COUNT]; /* signatures, or NULL */
	Oid			owners[2];		/* of a handler's functions */
	Oid			run_as;			/* of a handler */
	bool		async;			/* a handler that is asynchronous */
} Subject;

typedef struct Findings
{
	Tuplestorestate *store;
	TupleDesc	desc;
} Findings;

static void
report(Findings *f, const char *severity, const char *object, const char *problem,
	   const char *hint)
{
	Datum		values[4];
	bool		nulls[4] = {false, false, false, hint == NULL};

	values[0] = CStringGetTextDatum(severity);
	values[1] = CStringGetTextDatum(object);
	values[2] = CStringGetTextDatum(problem);
	values[3] = hint ? CStringGetTextDatum(hint) : (Datum) 0;
	tuplestore_putvalues(f->store, f->desc, values, nulls);
}

/*
 * Read all subjects: name, table, and n signatures; for handlers, which have
 * two, also the owners of both and the role that registered them.
 */
static Subject *
read_subjects(const char *query, int nfunctions, uint64 *n)
{
	EsrsIdentity before;
	Subject    *subjects;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	*n = esrs_spi_run(query, 0, NULL, NULL, NULL, SPI_OK_SELECT);
	subjects = palloc0(sizeof(Subject) * Max(*n, 1));
	for (uint64 i = 0; i < *n; i++)
	{
		bool		isnull;
		Datum		events = esrs_spi_column(i, 2, &isnull);

		subjects[i].name = esrs_spi_text(i, 1);
		subjects[i].events = isnull ? InvalidOid : DatumGetObjectId(events);
		for (int j = 0; j < nfunctions; j++)
			subjects[i].functions[j] = esrs_spi_text(i, 3 + j);
		for (int j = 0; nfunctions == 2 && j < 2; j++)
			subjects[i].owners[j] = DatumGetObjectId(esrs_spi_column(i, 5 + j, &isnull));
		if (nfunctions == 2)
		{
			subjects[i].run_as = DatumGetObjectId(esrs_spi_column(i, 7, &isnull));
			subjects[i].async = DatumGetBool(esrs_spi_column(i, 8, &isnull));
		}
	}
	esrs_spi_end();
	esrs_security_restore(&before);
	return subjects;
}

/* Bring the signatures in the catalog up to date with renamed functions. */
static void
update_signatures(Subject *s, List *callbacks)
{
	static const char *const queries[ESRS_CALLBACK_COUNT] = {
		"UPDATE esrs.aggregates SET handler = $2 WHERE name OPERATOR(pg_catalog.=) $1",
		"UPDATE esrs.aggregates SET handle_command = $2 WHERE name OPERATOR(pg_catalog.=) $1",
		"UPDATE esrs.aggregates SET apply_event = $2 WHERE name OPERATOR(pg_catalog.=) $1",
		"UPDATE esrs.aggregates SET upcast = $2 WHERE name OPERATOR(pg_catalog.=) $1",
		"UPDATE esrs.aggregates SET from_event = $2 WHERE name OPERATOR(pg_catalog.=) $1",
		"UPDATE esrs.aggregates SET to_event = $2 WHERE name OPERATOR(pg_catalog.=) $1",
	};
	ListCell   *lc = list_head(callbacks);

	for (int i = 0; i < ESRS_CALLBACK_COUNT && lc != NULL; i++)
	{
		Oid			types[2] = {TEXTOID, TEXTOID};
		Datum		values[2];
		char	   *signature;
		EsrsIdentity before;

		if (s->functions[i] == NULL)
			continue;
		signature = SearchSysCacheExists1(PROCOID, ObjectIdGetDatum(lfirst_oid(lc))) ?
			esrs_function_signature(lfirst_oid(lc)) : NULL;
		if (signature != NULL)
			esrs_routine_check_function(i, lfirst_oid(lc), esrs_extension()->handler_type);
		lc = lnext(callbacks, lc);
		if (signature == NULL || strcmp(signature, s->functions[i]) == 0)
			continue;
		values[0] = CStringGetTextDatum(s->name);
		values[1] = CStringGetTextDatum(signature);
		esrs_security_become(&before, esrs_extension()->owner);
		esrs_spi_begin();
		(void) esrs_spi_run(queries[i], 2, types, values, NULL, SPI_OK_UPDATE);
		esrs_spi_end();
		esrs_security_restore(&before);
	}
}

/* What took the default away may have taken the aggregates <name>_state as well. */
static void
repair_state_aggregates(Subject *s, List *callbacks)
{
	ListCell   *lc = list_head(callbacks);
	EsrsAggregateOptions o;
	Oid			events;
	bool		adopted;

	if (!esrs_aggregate_row_read(s->name, &events, &adopted, &o))
		return;
	for (int i = 0; i < ESRS_CALLBACK_COUNT && lc != NULL; i++)
	{
		if (s->functions[i] == NULL)
			continue;
		o.functions[i] = lfirst_oid(lc);
		lc = lnext(callbacks, lc);
	}
	esrs_state_aggregate_update(s->events, s->name, NULL, &o);
}

/* Tie a table that has lost its default to its functions again. */
static void
repair_default(Findings *f, Subject *s)
{
	EsrsTableInfo info;
	List	   *callbacks = NIL;

	if (esrs_event_table_inspect(s->events, s->name, &info) != ESRS_TABLE_NO_DEFAULT)
		return;

	for (int i = 0; i < ESRS_CALLBACK_COUNT; i++)
	{
		Oid			oid;

		if (s->functions[i] == NULL)
			continue;
		oid = esrs_function_find(s->functions[i]);
		if (!OidIsValid(oid))
		{
			report(f, "error", s->name,
				   psprintf("%s function %s does not exist", esrs_callback_names[i],
							s->functions[i]),
				   psprintf("Create it again, or name another with esrs_alter_aggregate('%s', ...); then call esrs_check().",
							s->name));
			return;
		}
		esrs_routine_check_function(i, oid, esrs_extension()->handler_type);
		if (!esrs_function_is_trusted(oid, info.owner))
		{
			report(f, "error", s->name,
				   psprintf("%s function %s was created by another role",
							esrs_callback_names[i], s->functions[i]),
				   psprintf("If it is meant, call esrs_alter_aggregate('%s', ...) and name it.",
							s->name));
			return;
		}
		callbacks = lappend_oid(callbacks, oid);
	}
	if (!esrs_class_ownercheck(s->events, GetUserId()))
	{
		report(f, "error", s->name, "the default of column \"position\" is lost",
			   "The owner of the table must call esrs_check().");
		return;
	}
	if (s->functions[ESRS_CALLBACK_HANDLER] != NULL ||
		s->functions[ESRS_CALLBACK_HANDLE_COMMAND] != NULL)
		esrs_register_close_to_public(linitial_oid(callbacks), "command the aggregate",
									  "EXECUTE on it is the right to command: GRANT it to the roles that may.");
	esrs_spi_begin();
	esrs_event_table_set_default(s->events, s->name, callbacks);
	repair_state_aggregates(s, callbacks);
	esrs_spi_end();
	report(f, "repaired", s->name,
		   psprintf("the default of column \"position\" of table %s was lost", info.table), NULL);
}

/* Positions in the table must lie behind the sequence. */
static void
check_positions(Findings *f, Subject *s, EsrsTableInfo *info)
{
	int64		greatest = esrs_event_table_last_position(s->events);

	if (esrs_extension_raise_position(greatest))
		report(f, "repaired", s->name,
			   psprintf("position " INT64_FORMAT " in table %s was ahead of the sequence",
						greatest, info->table), NULL);
}

/* What a commander can make a callback mean by his search_path. */
static void
check_pinned(Findings *f, Subject *s, List *callbacks)
{
	ListCell   *lc;

	foreach(lc, callbacks)
	{
		Oid			unpinned = esrs_definition_unpinned(lfirst_oid(lc));
		char	   *function;

		if (!OidIsValid(unpinned))
			continue;
		function = format_procedure(unpinned);
		report(f, "warning", s->name,
			   psprintf("the search_path of whoever commands decides what function %s means",
						function),
			   psprintf("ALTER FUNCTION %s SET search_path = ..., pg_temp; or give it a BEGIN ATOMIC body.",
						function));
	}
}

/* Is EXECUTE on the deciding function everybody's again? */
static void
check_public(Findings *f, Subject *s, List *callbacks)
{
	bool		decides = s->functions[ESRS_CALLBACK_HANDLER] != NULL ||
	s->functions[ESRS_CALLBACK_HANDLE_COMMAND] != NULL;

	if (decides && callbacks != NIL &&
		esrs_register_public_may_execute(linitial_oid(callbacks)))
		report(f, "warning", s->name,
			   "everybody may execute the function that decides, and so command the aggregate",
			   psprintf("REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC;",
						format_procedure(linitial_oid(callbacks))));
}

static void
check_aggregate(Findings *f, Subject *s)
{
	EsrsTableInfo info;
	EsrsTableCondition condition = esrs_event_table_inspect(s->events, s->name, &info);

	if (condition == ESRS_TABLE_MISSING)
	{
		report(f, "error", s->name, "its events table does not exist",
			   psprintf("It was dropped. Call esrs_unregister_aggregate('%s').", s->name));
		return;
	}
	if (condition == ESRS_TABLE_FOREIGN)
	{
		report(f, "error", s->name,
			   psprintf("table %s is not its events table: %s", info.table, info.problem),
			   "Restore the table's definition, or unregister the aggregate.");
		return;
	}
	if (condition == ESRS_TABLE_OK && esrs_class_ownercheck(s->events, GetUserId()))
		update_signatures(s, info.callbacks);
	check_public(f, s, info.callbacks);
	check_pinned(f, s, info.callbacks);
	if (!info.guarded)
		report(f, "warning", s->name,
			   psprintf("table %s has no enabled guard against UPDATE, DELETE and TRUNCATE", info.table),
			   psprintf("SELECT esrs_alter_aggregate('%s', '{}') puts it back.", s->name));
	check_positions(f, s, &info);
}

static void
check_handler(Findings *f, Subject *s)
{
	const EsrsExtension *ext = esrs_extension();
	List	   *functions = NIL;

	if (s->async && !SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(s->run_as)))
		report(f, "error", s->name,
			   psprintf("the role as which event handler \"%s\" runs does not exist any more", s->name),
			   psprintf("Call esrs_unregister_handler('%s'), and register it anew.", s->name));
	for (int i = 0; i < 2; i++)
	{
		Oid			oid;

		if (s->functions[i] == NULL)
			continue;
		oid = esrs_function_find(s->functions[i]);
		if (!OidIsValid(oid))
		{
			report(f, "error", s->name,
				   psprintf("function %s of event handler \"%s\" does not exist",
							s->functions[i], s->name),
				   psprintf("Create it again, name another with esrs_alter_handler(), or call esrs_unregister_handler('%s').",
							s->name));
			continue;
		}
		if (esrs_function_owner(oid) != s->owners[i] &&
			!esrs_function_is_trusted(oid, s->run_as))
		{
			report(f, "error", s->name,
				   psprintf("function %s of event handler \"%s\" was created by another role",
							s->functions[i], s->name),
				   psprintf("If it is meant, name it again with esrs_alter_handler('%s', ...).", s->name));
			continue;
		}
		if (i == 0)
			(void) esrs_handler_check(oid, ext->event_type, ext->event_array_type);
		else
			esrs_handler_check_delete(oid);
		functions = lappend_oid(functions, oid);
		if (esrs_register_is_open_definer(oid))
			report(f, "warning", s->name,
				   psprintf("function %s is SECURITY DEFINER, and everybody may call it with a forged event",
							format_procedure(oid)),
				   psprintf("REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC;", format_procedure(oid)));
	}
	if (!s->async)
		check_pinned(f, s, functions);
}

/* How far consumers of the feed are must fit what they consume. */
static void
check_progress(Findings *f, Subject *s)
{
	static const char query[] =
	"SELECT k.name, k.kind, k.status, k.partitions, pg_catalog.count(c.*),"
	" coalesce(pg_catalog.max(greatest(c.position,"
	" pg_catalog.upper(c.ahead) OPERATOR(pg_catalog.-) 1,"
	" pg_catalog.upper(c.handed) OPERATOR(pg_catalog.-) 1, c.handed_safe)), 0),"
	" (SELECT pg_catalog.count(*) FROM esrs.dead_letters AS d"
	" WHERE d.handler OPERATOR(pg_catalog.=) k.name)"
	" FROM (SELECT name, 'event handler' AS kind, status, partitions FROM esrs.handlers"
	" WHERE mode OPERATOR(pg_catalog.=) 'async'"
	" UNION ALL SELECT name, 'subscription', status, 1 FROM esrs.subscriptions) AS k"
	" LEFT JOIN esrs.checkpoints AS c ON c.name OPERATOR(pg_catalog.=) k.name"
	" AND c.partition OPERATOR(pg_catalog.<) k.partitions"
	" GROUP BY k.name, k.kind, k.status, k.partitions ORDER BY k.name";
	EsrsIdentity before;
	int64		greatest = 0;
	uint64		n;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	n = esrs_spi_run(query, 0, NULL, NULL, NULL, SPI_OK_SELECT);
	for (uint64 i = 0; i < n; i++)
	{
		char	   *name = esrs_spi_text(i, 1);
		char	   *kind = esrs_spi_text(i, 2);
		bool		isnull;
		int			partitions = DatumGetInt32(esrs_spi_column(i, 4, &isnull));
		int64		checkpoints = DatumGetInt64(esrs_spi_column(i, 5, &isnull));
		int64		letters = DatumGetInt64(esrs_spi_column(i, 7, &isnull));

		greatest = Max(greatest, DatumGetInt64(esrs_spi_column(i, 6, &isnull)));
		if (checkpoints < partitions)
			report(f, "error", name,
				   psprintf("%s \"%s\" has lost its place: it has " INT64_FORMAT " of %d checkpoints, and does nothing without",
							kind, name, checkpoints, partitions),
				   psprintf("SELECT esrs_reset_handler('%s', ...) tells it where to go on.", name));
		if (strcmp(esrs_spi_text(i, 3), "failed") == 0)
			report(f, "error", name,
				   psprintf("%s \"%s\" has stopped at an event that it cannot handle", kind, name),
				   psprintf("See esrs_lag; then SELECT esrs_resume_handler('%s').", name));
		if (letters > 0)
			report(f, "warning", name,
				   psprintf("%s \"%s\" has " INT64_FORMAT " dead letters", kind, name, letters),
				   psprintf("See esrs_dead_letters; then SELECT esrs_retry_dead_letters('%s'), or esrs_discard_dead_letters().",
							name));
	}
	esrs_spi_end();
	esrs_security_restore(&before);
	if (esrs_extension_raise_position(greatest))
		report(f, "repaired", "esrs.position_seq",
			   psprintf("a checkpoint at position " INT64_FORMAT " was ahead of the sequence", greatest),
			   NULL);
}

/*
 * Check one subject in a subtransaction: what an owner did to his table must
 * not blind the check of all others.
 */
static void
check_contained(Findings *f, Subject *s, void (*check) (Findings *, Subject *))
{
	MemoryContext before = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(before);
	PG_TRY();
	{
		check(f, s);
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
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION)
			ReThrowError(error);
		report(f, "error", s->name, error->message, error->hint);
	}
	PG_END_TRY();
}

/* esrs_check() returns setof (severity, object, problem, hint) */
Datum
esrs_check(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Findings	f;
	Subject    *subjects;
	uint64		n;

	esrs_register_begin("esrs_check()");
	InitMaterializedSRF(fcinfo, 0);
	f.store = rsinfo->setResult;
	f.desc = rsinfo->setDesc;
	subjects = read_subjects("SELECT name, events, handler, handle_command, apply_event, upcast,"
							 " from_event, to_event FROM esrs.aggregates ORDER BY name",
							 ESRS_CALLBACK_COUNT, &n);
	for (uint64 i = 0; i < n; i++)
	{
		/* apart, so that what is reported as repaired stays repaired */
		check_contained(&f, &subjects[i], repair_default);
		check_contained(&f, &subjects[i], check_aggregate);
	}
	subjects = read_subjects("SELECT name, NULL::pg_catalog.regclass, handler, delete_handler,"
							 " handler_owner, delete_handler_owner, run_as,"
							 " mode OPERATOR(pg_catalog.=) 'async'"
							 " FROM esrs.handlers ORDER BY ordinal", 2, &n);
	for (uint64 i = 0; i < n; i++)
		check_contained(&f, &subjects[i], check_handler);
	{
		Subject		feed = {.name = "esrs.checkpoints"};

		check_contained(&f, &feed, check_progress);
	}
	return (Datum) 0;
}
