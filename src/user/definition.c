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
#include <elf.h>
#include <link.h>
#include <sys/stat.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/transam.h"
#include "base/jsonb_codec.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
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
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

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
 * Pinned functions
 * ------------------------------------------------------------------------
 */

/*
 * Does a function mean the same whatever the caller's search_path is?  One in
 * C does, one with a body that was parsed at creation, and one that sets it.
 */
bool
esrs_definition_is_pinned(Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc proc;
	bool		isnull;
	Datum		config;
	bool		pinned;

	if (!HeapTupleIsValid(tuple))
		return true;
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	pinned = proc->prolang == ClanguageId || proc->prolang == INTERNALlanguageId;
	(void) SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_prosqlbody, &isnull);
	pinned |= !isnull;
	config = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_proconfig, &isnull);
	if (!isnull)
	{
		Datum	   *settings;
		int			n;

		deconstruct_array(DatumGetArrayTypeP(config), TEXTOID, -1, false, TYPALIGN_INT,
						  &settings, NULL, &n);
		for (int i = 0; i < n; i++)
			pinned |= strncmp(TextDatumGetCString(settings[i]), "search_path=", 12) == 0;
	}
	ReleaseSysCache(tuple);
	return pinned;
}

/* Are all callbacks that make a state pinned? */
bool
esrs_definition_all_pinned(const EsrsRoutine *routine)
{
	static const EsrsCallback folding[] = {
		ESRS_CALLBACK_APPLY_EVENT, ESRS_CALLBACK_UPCAST, ESRS_CALLBACK_TO_EVENT
	};

	for (int i = 0; i < lengthof(folding); i++)
		if (OidIsValid(routine->functions[folding[i]].oid) &&
			!esrs_definition_is_pinned(routine->functions[folding[i]].oid))
			return false;
	return true;
}

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
		add_function(closure, ((Form_pg_proc) GETSTRUCT(&list->members[i]->tuple))->oid);
	ReleaseCatCacheList(list);
}

static bool
is_identifier_char(unsigned char c)
{
	return isalnum(c) || c == '_' || c == '$' || IS_HIGHBIT_SET(c);
}

/* Add what a source in text may mean by its words. */
static void
add_words(Closure *closure, const char *source)
{
	const char *p = source;

	while (*p != '\0')
	{
		const char *begin = p;

		CHECK_FOR_INTERRUPTS();
		if (is_identifier_char(*p))
		{
			while (is_identifier_char(*p))
				p++;
			if (p - begin < NAMEDATALEN && !isdigit((unsigned char) *begin))
			{
				char	   *word = pnstrdup(begin, p - begin);

				/* as it stands for one in quotes, in lower case for others */
				add_named(closure, word);
				add_named(closure, downcase_identifier(word, p - begin, false, false));
			}
		}
		else if (*p == '"')
		{
			/* a quoted name may hold anything */
			const char *end = strchr(p + 1, '"');

			p++;
			if (end != NULL && end > p && end - p < NAMEDATALEN)
				add_named(closure, pnstrdup(p, end - p));
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
 * A library that is only named: whether it is the same file.  It is not loaded
 * for this, as its name may stand in a comment only.
 */
static void
digest_file(pg_cryptohash_ctx *hash, HeapTuple tuple)
{
	bool		isnull;
	Datum		value = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_probin, &isnull);
	char	   *path;
	struct stat st;

	if (isnull)
		return;
	path = TextDatumGetCString(value);
	if (strncmp(path, "$libdir/", 8) == 0)
		path = psprintf("%s/%s%s", pkglib_path, path + 8, DLSUFFIX);
	if (stat(path, &st) == 0)
	{
		digest(hash, &st.st_size, sizeof(st.st_size));
		digest(hash, &st.st_mtim, sizeof(st.st_mtim));
	}
}

static void
digest_function(pg_cryptohash_ctx *hash, Closure *closure, Oid function)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc proc;
	bool		isnull;
	Datum		source;

	CHECK_FOR_INTERRUPTS();
	if (!HeapTupleIsValid(tuple))
		return;
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	digest(hash, &proc->oid, sizeof(Oid));
	digest(hash, NameStr(proc->proname), strlen(NameStr(proc->proname)));
	digest(hash, &proc->pronamespace, sizeof(Oid));
	digest(hash, &proc->proowner, sizeof(Oid));
	digest(hash, &proc->prolang, sizeof(Oid));
	digest(hash, &proc->prosecdef, sizeof(bool));
	digest(hash, &proc->proisstrict, sizeof(bool));
	digest(hash, &proc->proretset, sizeof(bool));
	digest(hash, &proc->prorettype, sizeof(Oid));
	digest(hash, proc->proargtypes.values, proc->proargtypes.dim1 * sizeof(Oid));
	digest_column(hash, tuple, Anum_pg_proc_prosrc);
	digest_column(hash, tuple, Anum_pg_proc_prosqlbody);
	digest_column(hash, tuple, Anum_pg_proc_proconfig);
	digest_column(hash, tuple, Anum_pg_proc_probin);
	if (proc->prolang == ClanguageId)
		digest_file(hash, tuple);
	else
	{
		add_dependencies(closure, function);
		source = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_prosrc, &isnull);
		if (!isnull && proc->prolang != INTERNALlanguageId)
			add_words(closure, TextDatumGetCString(source));
	}
	ReleaseSysCache(tuple);
}

/* ------------------------------------------------------------------------
 * The library of an aggregate in C
 * ------------------------------------------------------------------------
 */
typedef struct BuildId
{
	uintptr_t	address;		/* somewhere in the library */
	uint8		id[64];
	Size		length;			/* 0: not found */
} BuildId;

/* The build ID in a segment of notes. */
static void
read_notes(BuildId *build, const char *notes, Size size)
{
	Size		offset = 0;

	while (offset + sizeof(ElfW(Nhdr)) <= size)
	{
		const		ElfW(Nhdr) * note = (const ElfW(Nhdr) *) (notes + offset);
		Size		name = offset + sizeof(*note);
		Size		data = name + TYPEALIGN(4, note->n_namesz);

		if (data + note->n_descsz > size)
			return;
		if (note->n_type == NT_GNU_BUILD_ID && note->n_namesz == 4 &&
			memcmp(notes + name, "GNU", 4) == 0 && note->n_descsz <= sizeof(build->id))
		{
			memcpy(build->id, notes + data, note->n_descsz);
			build->length = note->n_descsz;
			return;
		}
		offset = data + TYPEALIGN(4, note->n_descsz);
	}
}

static int
look_at_library(struct dl_phdr_info *info, size_t size, void *arg)
{
	BuildId    *build = (BuildId *) arg;
	bool		found = false;

	for (int i = 0; i < info->dlpi_phnum && !found; i++)
	{
		const		ElfW(Phdr) * segment = &info->dlpi_phdr[i];
		uintptr_t	begin = info->dlpi_addr + segment->p_vaddr;

		found = segment->p_type == PT_LOAD && build->address >= begin &&
			build->address < begin + segment->p_memsz;
	}
	if (!found)
		return 0;
	for (int i = 0; i < info->dlpi_phnum && build->length == 0; i++)
	{
		const		ElfW(Phdr) * segment = &info->dlpi_phdr[i];

		if (segment->p_type == PT_NOTE)
			read_notes(build, (const char *) (info->dlpi_addr + segment->p_vaddr),
					   segment->p_memsz);
	}
	return 1;
}

/*
 * The build ID of the library as this process has loaded it, which may not be
 * the one on disk any more.  False if it has none.
 */
static bool
digest_library(pg_cryptohash_ctx *hash, const EsrsRoutine *routine)
{
	BuildId		build = {.address = (uintptr_t) routine->c.apply_event};

	(void) dl_iterate_phdr(look_at_library, &build);
	if (build.length == 0)
		return false;
	digest(hash, build.id, build.length);
	return true;
}

/*
 * The fingerprint of what folds the states of an aggregate.  "salt" goes into it
 * as well.  False if there can be none: a library in C without a build ID.
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
		ok = digest_library(hash, routine);
	else
	{
		for (int i = 0; i < closure.n; i++)
			digest_function(hash, &closure, closure.functions[i]);
	}
	if (pg_cryptohash_final(hash, fingerprint, ESRS_FINGERPRINT_LENGTH) < 0)
		elog(ERROR, "could not compute SHA-256: %s", pg_cryptohash_error(hash));
	pg_cryptohash_free(hash);
	pfree(closure.functions);
	return ok;
}
