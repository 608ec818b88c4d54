/*-------------------------------------------------------------------------
 *
 * definition.c
 *	  What the functions of an aggregate are made of: a fingerprint that changes
 *	  when a state folded by them may change, and whether their meaning depends
 *	  on who calls them.
 *
 * The fingerprint covers the registered functions and, of each, the functions
 * of users that its source names, and theirs.  For a source in text, which
 * PostgreSQL does not look into, every name in it counts that is a function's,
 * in strings and comments as well: too many make a snapshot worthless once more
 * than needed, too few would make it wrong.  What is not seen: names that are
 * put together at run time, operators and casts in such a source, and what
 * functions read from tables or settings, which they must not.
 *
 * Nothing here may call a function of users.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "user/definition.h"

#include <ctype.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "base/jsonb_codec.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_aggregate.h"
#include "catalog/pg_depend.h"
#include "catalog/pg_language.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "compat.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "parser/scansup.h"
#include "user/library.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

/* Of a change in what goes into the fingerprint. */
#define FINGERPRINT_FORMAT	1

/* Functions whose definitions count, each once; those behind "done" are to do. */
typedef struct Closure
{
	Oid		   *functions;
	int			n;
	int			size;
} Closure;

/* ------------------------------------------------------------------------
 * The functions that count
 * ------------------------------------------------------------------------
 */

/* Functions of PostgreSQL itself do not count: its version does. */
static void
add_function(Closure *closure, Oid function)
{
	if (function < FirstNormalObjectId)
		return;
	for (int i = 0; i < closure->n; i++)
		if (closure->functions[i] == function)
			return;
	if (closure->n == closure->size)
	{
		closure->size *= 2;
		closure->functions = repalloc(closure->functions, closure->size * sizeof(Oid));
	}
	closure->functions[closure->n++] = function;
}

/* Add all functions of a name, whatever their schema and arguments are. */
static void
add_named(Closure *closure, const char *name)
{
	CatCList   *list = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(name));

	for (int i = 0; i < list->n_members; i++)
	{
		Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(&list->members[i]->tuple);

		/* temporary functions are found with their schema's name only */
		if (!isAnyTempNamespace(proc->pronamespace))
			add_function(closure, proc->oid);
	}
	ReleaseCatCacheList(list);
}

static bool
begins_identifier(unsigned char c)
{
	return isalpha(c) || c == '_' || IS_HIGHBIT_SET(c);
}

static bool
is_identifier_char(unsigned char c)
{
	return begins_identifier(c) || isdigit(c) || c == '$';
}

/*
 * Add the functions that a word may mean: as it stands, as in quotes, and in
 * lower case; cut to the length of a name, as PostgreSQL does.
 */
static void
add_word(Closure *closure, char *word)
{
	truncate_identifier(word, strlen(word), false);
	add_named(closure, word);
	add_named(closure, downcase_identifier(word, strlen(word), false, false));
}

/* Add the name in quotes that begins here; it may hold anything. */
static void
add_quoted(Closure *closure, const char *p)
{
	StringInfoData name;

	initStringInfo(&name);
	for (p++; *p != '\0'; p++)
	{
		if (*p == '"' && *++p != '"')
			break;
		appendStringInfoChar(&name, *p);
	}
	add_word(closure, name.data);
}

/*
 * Add what a source in text may mean by its words.  A $ may belong to a name or
 * to the quotes of a string, so what is on its two sides counts, too.
 */
static void
add_words(Closure *closure, const char *source)
{
	const char *p = source;

	while (*p != '\0')
	{
		const char *begin = p;

		CHECK_FOR_INTERRUPTS();
		if (*p == '"')
		{
			/*
			 * in a string or a comment a quote may stand alone: go on behind
			 * it
			 */
			add_quoted(closure, p++);
		}
		else if (begins_identifier(*p))
		{
			while (is_identifier_char(*p))
				p++;
			add_word(closure, pnstrdup(begin, p - begin));
			for (const char *part = begin; part < p; part++)
			{
				const char *end = part;

				if (part > begin && part[-1] != '$')
					continue;
				while (end < p && *end != '$')
					end++;
				if (end > part && (part > begin || end < p) && begins_identifier(*part))
					add_word(closure, pnstrdup(part, end - part));
			}
		}
		else
			p++;
	}
}

/* Add what a function that was parsed at its creation depends on. */
static void
add_dependencies(Closure *closure, Oid function)
{
	Relation	depend = table_open(DependRelationId, AccessShareLock);
	ScanKeyData key[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key[0], Anum_pg_depend_classid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(ProcedureRelationId));
	ScanKeyInit(&key[1], Anum_pg_depend_objid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(function));
	scan = systable_beginscan(depend, DependDependerIndexId, true, NULL, 2, key);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_depend form = (Form_pg_depend) GETSTRUCT(tuple);

		if (form->refclassid == ProcedureRelationId)
			add_function(closure, form->refobjid);
		else if (form->refclassid == OperatorRelationId)
			add_function(closure, get_opcode(form->refobjid));
	}
	systable_endscan(scan);
	table_close(depend, AccessShareLock);
}

/* ------------------------------------------------------------------------
 * The digest
 * ------------------------------------------------------------------------
 */

/* Add a value with its length, so that no two sequences of values look alike. */
static void
digest(pg_cryptohash_ctx *hash, const void *data, Size length)
{
	uint64		n = length;

	if (pg_cryptohash_update(hash, (const uint8 *) &n, sizeof(n)) < 0 ||
		pg_cryptohash_update(hash, data, length) < 0)
		elog(ERROR, "could not compute SHA-256: %s", pg_cryptohash_error(hash));
}

/* A column of a function's row, in the form in which it is stored. */
static void
digest_column(pg_cryptohash_ctx *hash, HeapTuple tuple, AttrNumber column)
{
	bool		isnull;
	Datum		value = SysCacheGetAttr(PROCOID, tuple, column, &isnull);

	if (isnull)
		digest(hash, "", 0);
	else
	{
		struct varlena *v = PG_DETOAST_DATUM_PACKED(value);

		digest(hash, VARDATA_ANY(v), VARSIZE_ANY_EXHDR(v));
	}
}

/*
 * The callbacks that fold: for each the build ID of its library as this process has
 * loaded it, which may not be the one on disk any more, and where it is in there.
 * False if there is no build ID.
 */
static bool
digest_routine(pg_cryptohash_ctx *hash, const EsrsAggregateRoutine *c)
{
	uintptr_t	callbacks[] = {(uintptr_t) c->init_state, (uintptr_t) c->apply_event,
		(uintptr_t) c->state_to_json, (uintptr_t) c->state_from_json,
	(uintptr_t) c->upcast, (uintptr_t) c->to_event};

	for (int i = 0; i < lengthof(callbacks); i++)
	{
		EsrsBuildId build = {0};
		uintptr_t	offset = 0;

		if (callbacks[i] != 0)
		{
			if (!esrs_library_of_code(callbacks[i], &build))
				return false;
			offset = callbacks[i] - build.base;
		}
		digest(hash, build.id, build.length);
		digest(hash, &offset, sizeof(offset));
	}
	return true;
}

/* What an aggregate of SQL is made of; its functions are dependencies as well. */
static void
digest_aggregate(pg_cryptohash_ctx *hash, Oid function)
{
	HeapTuple	tuple = SearchSysCache1(AGGFNOID, ObjectIdGetDatum(function));
	static const AttrNumber texts[] = {
		Anum_pg_aggregate_agginitval, Anum_pg_aggregate_aggminitval
	};

	if (!HeapTupleIsValid(tuple))
		return;
	digest(hash, GETSTRUCT(tuple), offsetof(FormData_pg_aggregate, aggmtransspace));
	for (int i = 0; i < lengthof(texts); i++)
	{
		bool		isnull;
		Datum		value = SysCacheGetAttr(AGGFNOID, tuple, texts[i], &isnull);
		char	   *initial = isnull ? "" : TextDatumGetCString(value);

		digest(hash, &isnull, sizeof(isnull));
		digest(hash, initial, strlen(initial));
	}
	ReleaseSysCache(tuple);
}

/* False if a library is not found. */
static bool
digest_function(pg_cryptohash_ctx *hash, Closure *closure, Oid function)
{
	static const AttrNumber columns[] = {
		Anum_pg_proc_prosrc, Anum_pg_proc_prosqlbody, Anum_pg_proc_proconfig,
		Anum_pg_proc_probin, Anum_pg_proc_proargdefaults, Anum_pg_proc_proargnames,
		Anum_pg_proc_proargmodes, Anum_pg_proc_proallargtypes
	};
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc proc;
	EsrsBuildId build;
	char	   *schema;
	bool		isnull;
	bool		found = true;
	Datum		value;

	CHECK_FOR_INTERRUPTS();
	if (!HeapTupleIsValid(tuple))
		return true;
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	schema = get_namespace_name(proc->pronamespace);
	digest(hash, schema, schema ? strlen(schema) : 0);
	digest(hash, proc, offsetof(FormData_pg_proc, procost));
	digest(hash, &proc->provariadic, offsetof(FormData_pg_proc, proargtypes) -
		   offsetof(FormData_pg_proc, provariadic));
	digest(hash, proc->proargtypes.values, proc->proargtypes.dim1 * sizeof(Oid));
	for (int i = 0; i < lengthof(columns); i++)
		digest_column(hash, tuple, columns[i]);
	if (proc->prokind == PROKIND_AGGREGATE)
		digest_aggregate(hash, function);
	if (proc->prolang == ClanguageId)
	{
		value = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_probin, &isnull);
		found = !isnull && esrs_library_of_name(TextDatumGetCString(value), &build);
		if (found)
			digest(hash, build.id, build.length);
	}
	else
	{
		add_dependencies(closure, function);
		value = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_prosrc, &isnull);
		if (!isnull && proc->prolang != INTERNALlanguageId)
			add_words(closure, TextDatumGetCString(value));
	}
	ReleaseSysCache(tuple);
	return found;
}

/*
 * The fingerprint of what folds the states of an aggregate.  "salt" goes into it
 * as well.  False if there can be none: the aggregate's library in C has no build
 * ID, or one that a function names is not there.
 */
bool
esrs_definition_fingerprint(const EsrsRoutine *routine, const void *salt, Size salt_length,
							uint8 *fingerprint)
{
	pg_cryptohash_ctx *hash = pg_cryptohash_create(PG_SHA256);
	int			constants[] = {FINGERPRINT_FORMAT, ESRS_SERVER_MAJOR, routine->kind,
		routine->has_version, routine->has_version ? routine->event_version : 0
	};
	Closure		closure = {.size = 32};
	bool		ok = true;

	if (hash == NULL || pg_cryptohash_init(hash) < 0)
		elog(ERROR, "could not compute SHA-256: %s", pg_cryptohash_error(hash));
	closure.functions = palloc(closure.size * sizeof(Oid));
	digest(hash, constants, sizeof(constants));
	digest(hash, salt, salt_length);
	if (routine->initial_state != NULL)
		digest(hash, routine->initial_state, VARSIZE(routine->initial_state));
	for (int i = 0; i < ESRS_CALLBACK_COUNT; i++)
	{
		Oid			function = routine->functions[i].oid;

		/* who plays which part; what decides has no part in the state */
		digest(hash, &i, sizeof(i));
		if (OidIsValid(function) && i != ESRS_CALLBACK_HANDLE_COMMAND &&
			i != ESRS_CALLBACK_FROM_EVENT)
		{
			digest(hash, &function, sizeof(function));
			add_function(&closure, function);
		}
	}
	if (routine->kind == ESRS_KIND_C)
		ok = digest_routine(hash, &routine->c);
	else
	{
		for (int i = 0; i < closure.n; i++)
			ok &= digest_function(hash, &closure, closure.functions[i]);
	}
	if (pg_cryptohash_final(hash, fingerprint, ESRS_FINGERPRINT_LENGTH) < 0)
		elog(ERROR, "could not compute SHA-256: %s", pg_cryptohash_error(hash));
	pg_cryptohash_free(hash);
	pfree(closure.functions);
	return ok;
}

/* ------------------------------------------------------------------------
 * Pinned functions
 * ------------------------------------------------------------------------
 */

/*
 * Does a function's setting of the search_path leave nothing to its caller?  Not
 * if "$user" is in it, nor if temporary objects come before others.
 */
static bool
is_pinning(const char *setting)
{
	char	   *path = pstrdup(setting);
	List	   *names;
	ListCell   *lc;

	if (!SplitIdentifierString(path, ',', &names) || names == NIL ||
		strcmp((char *) llast(names), "pg_temp") != 0)
		return false;
	foreach(lc, names)
	{
		if (strcmp((char *) lfirst(lc), "$user") == 0)
			return false;
	}
	return true;
}

/* What a function sets the search_path to; NULL if it does not. */
static char *
path_setting(HeapTuple tuple)
{
	bool		isnull;
	Datum		config = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_proconfig, &isnull);
	Datum	   *settings;
	int			n;

	if (isnull)
		return NULL;
	deconstruct_array(DatumGetArrayTypeP(config), TEXTOID, -1, false, TYPALIGN_INT,
					  &settings, NULL, &n);
	for (int i = 0; i < n; i++)
	{
		char	   *setting = TextDatumGetCString(settings[i]);

		if (strncmp(setting, "search_path=", 12) == 0)
			return setting + 12;
	}
	return NULL;
}

/*
 * Look at one function: true if what it means by its names is settled.  What it
 * calls is added to the closure where that is not settled by the same.
 */
static bool
is_settled(Closure *closure, Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc proc;
	char	   *path;
	bool		parsed;
	bool		result;

	if (!HeapTupleIsValid(tuple))
		return true;
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	path = path_setting(tuple);
	(void) SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_prosqlbody, &parsed);
	parsed = !parsed || proc->prolang == INTERNALlanguageId;
	if (path != NULL)
		result = is_pinning(path);
	else
	{
		result = parsed || proc->prolang == ClanguageId;
		if (parsed)
			add_dependencies(closure, function);
	}
	ReleaseSysCache(tuple);
	return result;
}

/*
 * Does a function mean the same whoever calls it, with whatever search_path?  One
 * in C does, one that sets it, and one with a body that was parsed at creation, if
 * all that it calls does.  InvalidOid, or the first function that does not.
 */
Oid
esrs_definition_unpinned(Oid function)
{
	Closure		closure = {.size = 16};
	Oid			result = InvalidOid;

	closure.functions = palloc(closure.size * sizeof(Oid));
	add_function(&closure, function);
	for (int i = 0; i < closure.n && !OidIsValid(result); i++)
		if (!is_settled(&closure, closure.functions[i]))
			result = closure.functions[i];
	pfree(closure.functions);
	return result;
}

/* Do all callbacks that make a state mean the same for everybody? */
bool
esrs_definition_all_pinned(const EsrsRoutine *routine)
{
	static const EsrsCallback folding[] = {
		ESRS_CALLBACK_APPLY_EVENT, ESRS_CALLBACK_UPCAST, ESRS_CALLBACK_TO_EVENT
	};

	for (int i = 0; i < lengthof(folding); i++)
		if (OidIsValid(routine->functions[folding[i]].oid) &&
			OidIsValid(esrs_definition_unpinned(routine->functions[folding[i]].oid)))
			return false;
	return true;
}
