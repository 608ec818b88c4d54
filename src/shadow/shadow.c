/*-------------------------------------------------------------------------
 *
 * shadow.c
 *	  Making tables beside live ones: with the same columns at the same places, and
 *	  the same indexes, constraints, triggers and rights, all under the same names,
 *	  each in a schema of its own.
 *
 * It all happens in one transaction, at whose end nothing of it is left: so nobody
 * else ever sees the schemas, and whatever ends the transaction cleans up.
 *
 * Everything is created as the owner of the live tables, and restricted as in
 * maintenance commands.  Definitions are taken from the server's own deparser, and
 * parsed; then the table in them is replaced, and they are run.  (They are no
 * complete commands, so event triggers do not hear of them.)
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "shadow/shadow.h"

#include "access/table.h"
#include "access/xact.h"
#include "base/security.h"
#include "base/spi.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parser.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#define PG_CATALOG_OP(op)	" OPERATOR(pg_catalog." op ") "

/*
 * CREATE TABLE for the shadow of $1 in schema $2.  A column that was dropped has a
 * place in each row, so it is made, and dropped again.
 */
#define TABLE_QUERY \
	"SELECT pg_catalog.format('CREATE %sTABLE %I.%I (%s) USING %I%s%s'," \
	" CASE c.relpersistence WHEN 'u' THEN 'UNLOGGED ' ELSE '' END, $2, c.relname," \
	" (SELECT pg_catalog.string_agg(CASE WHEN a.attisdropped" \
	" THEN pg_catalog.format('%I %s', a.attname, CASE a.attlen WHEN -1 THEN 'pg_catalog.text'" \
	" ELSE 'pg_catalog.int4' END)" \
	" ELSE pg_catalog.format('%I %s%s%s%s%s', a.attname," \
	" pg_catalog.format_type(a.atttypid, a.atttypmod)," \
	" CASE a.attcompression WHEN 'p' THEN ' COMPRESSION pglz' WHEN 'l' THEN ' COMPRESSION lz4' ELSE '' END," \
	" ' COLLATE ' OPERATOR(pg_catalog.||) nullif(a.attcollation, 0::pg_catalog.oid)" \
	"::pg_catalog.regcollation::pg_catalog.text," \
	" CASE WHEN a.attgenerated" PG_CATALOG_OP("=") "'s' THEN pg_catalog.format(" \
	"' GENERATED ALWAYS AS (%s) STORED', pg_catalog.pg_get_expr(d.adbin, d.adrelid))" \
	" WHEN d.adbin IS NOT NULL THEN ' DEFAULT ' OPERATOR(pg_catalog.||)" \
	" pg_catalog.pg_get_expr(d.adbin, d.adrelid) ELSE '' END," \
	" CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END) END, ', ' ORDER BY a.attnum)" \
	" FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_attrdef d" \
	" ON d.adrelid" PG_CATALOG_OP("=") "a.attrelid AND d.adnum" PG_CATALOG_OP("=") "a.attnum" \
	" WHERE a.attrelid" PG_CATALOG_OP("=") "c.oid AND a.attnum" PG_CATALOG_OP(">") "0)," \
	" m.amname," \
	" (SELECT pg_catalog.format(' WITH (%s)', pg_catalog.string_agg(pg_catalog.format('%s%I = %L'," \
	" o.prefix, pg_catalog.split_part(o.option, '=', 1)," \
	" pg_catalog.substr(o.option, pg_catalog.strpos(o.option, '=')" PG_CATALOG_OP("+") "1)), ', '))" \
	" FROM (SELECT '' AS prefix, pg_catalog.unnest(c.reloptions) AS option" \
	" UNION ALL SELECT 'toast.', pg_catalog.unnest(t.reloptions) FROM pg_catalog.pg_class t" \
	" WHERE t.oid" PG_CATALOG_OP("=") "c.reltoastrelid) AS o HAVING pg_catalog.count(*)" \
	PG_CATALOG_OP(">") "0)," \
	" (SELECT pg_catalog.format(' TABLESPACE %I', s.spcname) FROM pg_catalog.pg_tablespace s" \
	" WHERE s.oid" PG_CATALOG_OP("=") "c.reltablespace))" \
	" FROM pg_catalog.pg_class c JOIN pg_catalog.pg_am m ON m.oid" PG_CATALOG_OP("=") "c.relam" \
	" WHERE c.oid" PG_CATALOG_OP("=") "$1"

/* What follows: columns that are dropped, how they are stored, who has which rights. */
#define COLUMNS_QUERY \
	"SELECT pg_catalog.format('ALTER TABLE %I.%I DROP COLUMN %I', $2, c.relname, a.attname)" \
	" FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a" \
	" ON a.attrelid" PG_CATALOG_OP("=") "c.oid" \
	" WHERE c.oid" PG_CATALOG_OP("=") "$1 AND a.attisdropped" \
	" UNION ALL" \
	" SELECT pg_catalog.format('ALTER TABLE %I.%I ALTER COLUMN %I SET STORAGE %s', $2, c.relname," \
	" a.attname, CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL'" \
	" WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END)" \
	" FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a" \
	" ON a.attrelid" PG_CATALOG_OP("=") "c.oid JOIN pg_catalog.pg_type t" \
	" ON t.oid" PG_CATALOG_OP("=") "a.atttypid" \
	" WHERE c.oid" PG_CATALOG_OP("=") "$1 AND a.attnum" PG_CATALOG_OP(">") "0" \
	" AND NOT a.attisdropped AND a.attstorage" PG_CATALOG_OP("<>") "t.typstorage"

#define GRANTS_QUERY \
	"SELECT pg_catalog.format('GRANT %s ON %I.%I TO %s', x.privilege_type, $2, c.relname," \
	" CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::pg_catalog.regrole::pg_catalog.text END)" \
	" FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) x" \
	" WHERE c.oid" PG_CATALOG_OP("=") "$1" \
	" UNION ALL" \
	" SELECT pg_catalog.format('GRANT %s (%I) ON %I.%I TO %s', x.privilege_type, a.attname, $2," \
	" c.relname, CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::pg_catalog.regrole" \
	"::pg_catalog.text END)" \
	" FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a" \
	" ON a.attrelid" PG_CATALOG_OP("=") "c.oid, pg_catalog.aclexplode(a.attacl) x" \
	" WHERE c.oid" PG_CATALOG_OP("=") "$1"

/* The OIDs of constraints and triggers that are to be made again, in order. */
#define CONSTRAINTS_QUERY(kinds) \
	"SELECT k.oid FROM pg_catalog.pg_constraint k WHERE k.conrelid" PG_CATALOG_OP("=") "$1" \
	" AND k.contype" PG_CATALOG_OP("=") "ANY ('{" kinds "}'::\"char\"[]) ORDER BY k.oid"

#define TRIGGERS_QUERY \
	"SELECT t.oid FROM pg_catalog.pg_trigger t WHERE t.tgrelid" PG_CATALOG_OP("=") "$1" \
	" AND NOT t.tgisinternal AND t.tgenabled" PG_CATALOG_OP("<>") "'D'" \
	" ORDER BY t.oid"

/* Those that do not fire as triggers do by default. */
#define FIRING_QUERY \
	"SELECT pg_catalog.format('ALTER TABLE %I.%I ENABLE %s TRIGGER %I', $2, c.relname," \
	" CASE t.tgenabled WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END, t.tgname)" \
	" FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid" PG_CATALOG_OP("=") "t.tgrelid" \
	" WHERE t.tgrelid" PG_CATALOG_OP("=") "$1 AND NOT t.tgisinternal" \
	" AND t.tgenabled" PG_CATALOG_OP("=") "ANY ('{A,R}'::\"char\"[])"

/*
 * Foreign keys that are enforced.  Of one that refers to a partitioned table there
 * is a row for each partition, too.
 */
#define FOREIGN_KEYS_QUERY \
	"SELECT k.oid FROM pg_catalog.pg_constraint k WHERE k.conrelid" PG_CATALOG_OP("=") "$1" \
	" AND k.contype" PG_CATALOG_OP("=") "'f' AND k.conparentid" PG_CATALOG_OP("=") "0" \
	" AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_trigger t" \
	" WHERE t.tgconstraint" PG_CATALOG_OP("=") "k.oid AND t.tgrelid" PG_CATALOG_OP("=") "$1" \
	" AND t.tgenabled" PG_CATALOG_OP("=") "'D') ORDER BY k.oid"

#define INDEXES_QUERY \
	"SELECT i.indexrelid FROM pg_catalog.pg_index i WHERE i.indrelid" PG_CATALOG_OP("=") "$1" \
	" AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_constraint k" \
	" WHERE k.conindid" PG_CATALOG_OP("=") "i.indexrelid AND k.conrelid" PG_CATALOG_OP("=") "$1" \
	" AND k.contype" PG_CATALOG_OP("=") "ANY ('{p,u,x}'::\"char\"[])) ORDER BY i.indexrelid"

/* The texts that a query gives for a live table, in the current context. */
static List *
texts_of(EsrsShadow *shadow, const char *query)
{
	Oid			types[2] = {OIDOID, TEXTOID};
	Datum		values[2] = {ObjectIdGetDatum(shadow->redirect.from),
	CStringGetTextDatum(shadow->schema_name)};
	List	   *texts = NIL;
	uint64		n;

	esrs_spi_begin();
	n = esrs_spi_run(query, 2, types, values, NULL, SPI_OK_SELECT);
	for (uint64 i = 0; i < n; i++)
		texts = lappend(texts, esrs_spi_text(i, 1));
	esrs_spi_end();
	return texts;
}

/* The same for OIDs. */
static List *
oids_of(EsrsShadow *shadow, const char *query)
{
	Oid			types[1] = {OIDOID};
	Datum		values[1] = {ObjectIdGetDatum(shadow->redirect.from)};
	List	   *oids = NIL;
	uint64		n;

	esrs_spi_begin();
	n = esrs_spi_run(query, 1, types, values, NULL, SPI_OK_SELECT);
	for (uint64 i = 0; i < n; i++)
	{
		bool		isnull;

		oids = lappend_oid(oids, DatumGetObjectId(esrs_spi_column(i, 1, &isnull)));
	}
	esrs_spi_end();
	return oids;
}

/* Does this name one of the live tables?  Then its shadow is meant. */
static void
to_shadow(EsrsShadows *shadows, RangeVar *name)
{
	Oid			table = name ? RangeVarGetRelid(name, NoLock, true) : InvalidOid;
	ListCell   *lc;

	foreach(lc, shadows->shadows)
	{
		EsrsShadow *shadow = (EsrsShadow *) lfirst(lc);

		if (shadow->redirect.from == table)
			name->schemaname = shadow->schema_name;
	}
}

/* Run a command that was deparsed for a live table, for its shadow. */
static void
run(EsrsShadows *shadows, const char *command)
{
	PlannedStmt *statement = makeNode(PlannedStmt);
	RawStmt    *raw = linitial_node(RawStmt, raw_parser(command, RAW_PARSE_DEFAULT));

	switch (nodeTag(raw->stmt))
	{
		case T_IndexStmt:
			to_shadow(shadows, ((IndexStmt *) raw->stmt)->relation);
			break;
		case T_CreateTrigStmt:
			to_shadow(shadows, ((CreateTrigStmt *) raw->stmt)->relation);
			to_shadow(shadows, ((CreateTrigStmt *) raw->stmt)->constrrel);
			break;
		case T_AlterTableStmt:
			{
				AlterTableCmd *first = linitial_node(AlterTableCmd,
													 ((AlterTableStmt *) raw->stmt)->cmds);

				to_shadow(shadows, ((AlterTableStmt *) raw->stmt)->relation);
				if (first->def != NULL && IsA(first->def, Constraint))
					to_shadow(shadows, ((Constraint *) first->def)->pktable);
				break;
			}
		default:
			break;
	}
	statement->commandType = CMD_UTILITY;
	statement->utilityStmt = raw->stmt;
	statement->stmt_location = raw->stmt_location;
	statement->stmt_len = raw->stmt_len;
	PushActiveSnapshot(GetTransactionSnapshot());
	ProcessUtility(statement, command, false, PROCESS_UTILITY_SUBCOMMAND, NULL, NULL,
				   None_Receiver, NULL);
	PopActiveSnapshot();
	CommandCounterIncrement();
}

static void
run_all(EsrsShadows *shadows, List *commands)
{
	ListCell   *lc;

	foreach(lc, commands)
	{
		run(shadows, (char *) lfirst(lc));
	}
}

/* The shadow's index or table of a name. */
static Oid
named(EsrsShadow *shadow, const char *name)
{
	Oid			oid = get_relname_relid(name, shadow->schema);

	if (!OidIsValid(oid))
		elog(ERROR, "shadow of \"%s\" is missing", name);
	return oid;
}

/* Rows are to be stored in the same form in both. */
static void
check_same_rows(EsrsShadow *shadow)
{
	Relation	live = table_open(shadow->redirect.from, NoLock);
	Relation	made = table_open(shadow->redirect.to, AccessShareLock);
	TupleDesc	a = RelationGetDescr(live);
	TupleDesc	b = RelationGetDescr(made);
	bool		same = a->natts == b->natts && live->rd_rel->relam == made->rd_rel->relam &&
	live->rd_rel->relpersistence == made->rd_rel->relpersistence;

	for (int i = 0; same && i < a->natts; i++)
	{
		Form_pg_attribute x = TupleDescAttr(a, i);
		Form_pg_attribute y = TupleDescAttr(b, i);

		same = x->attisdropped == y->attisdropped &&
			(x->attisdropped ||
			 (x->atttypid == y->atttypid && x->atttypmod == y->atttypmod &&
			  x->attlen == y->attlen && x->attalign == y->attalign &&
			  x->attbyval == y->attbyval && x->attcollation == y->attcollation));
	}
	table_close(made, NoLock);
	table_close(live, NoLock);
	if (!same)
		elog(ERROR, "shadow of table %s differs from it", shadow->name);
}

/* Make one, as the owner. */
static void
make_table(EsrsShadows *shadows, EsrsShadow *shadow)
{
	ListCell   *lc;
	List	   *with_index;

	run_all(shadows, texts_of(shadow, TABLE_QUERY));
	shadow->redirect.to = named(shadow, shadow->relname);
	run_all(shadows, texts_of(shadow, COLUMNS_QUERY));
	check_same_rows(shadow);
	foreach(lc, oids_of(shadow, CONSTRAINTS_QUERY("c")))
	{
		run(shadows, pg_get_constraintdef_command(lfirst_oid(lc)));
	}
	with_index = oids_of(shadow, CONSTRAINTS_QUERY("p,u,x"));
	foreach(lc, with_index)
	{
		Oid			index = get_constraint_index(lfirst_oid(lc));
		Oid			made;

		run(shadows, pg_get_constraintdef_command(lfirst_oid(lc)));
		made = named(shadow, get_rel_name(index));
		shadow->indexes = lappend_oid(shadow->indexes, index);
		shadow->shadow_indexes = lappend_oid(shadow->shadow_indexes, made);
		shadow->redirect.constraints = lappend_oid(shadow->redirect.constraints, lfirst_oid(lc));
		shadow->redirect.replacements = lappend_oid(shadow->redirect.replacements,
													get_index_constraint(made));
	}
	foreach(lc, oids_of(shadow, INDEXES_QUERY))
	{
		run(shadows, pg_get_indexdef_string(lfirst_oid(lc)));
		shadow->indexes = lappend_oid(shadow->indexes, lfirst_oid(lc));
		shadow->shadow_indexes = lappend_oid(shadow->shadow_indexes,
											 named(shadow, get_rel_name(lfirst_oid(lc))));
	}
}

/* Does a foreign key refer to a table that has a shadow? */
static bool
is_between_shadows(EsrsShadows *shadows, Oid foreign_key)
{
	HeapTuple	tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(foreign_key));
	ListCell   *lc;
	bool		found = false;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for constraint %u", foreign_key);
	foreach(lc, shadows->shadows)
	{
		found |= ((EsrsShadow *) lfirst(lc))->redirect.from ==
			((Form_pg_constraint) GETSTRUCT(tuple))->confrelid;
	}
	ReleaseSysCache(tuple);
	return found;
}

/*
 * What refers to other tables, when all of them are there.  Not foreign keys to
 * tables that have no shadow: such a table would be locked against writers until the
 * end, and once more when the shadow is dropped.  They are checked when it takes its
 * place.
 */
static void
make_references(EsrsShadows *shadows, EsrsShadow *shadow)
{
	ListCell   *lc;

	foreach(lc, oids_of(shadow, FOREIGN_KEYS_QUERY))
	{
		if (is_between_shadows(shadows, lfirst_oid(lc)))
			run(shadows, pg_get_constraintdef_command(lfirst_oid(lc)));
		else
			shadow->foreign_keys = lappend_oid(shadow->foreign_keys, lfirst_oid(lc));
	}
	foreach(lc, oids_of(shadow, TRIGGERS_QUERY))
	{
		Datum		definition = OidFunctionCall1(F_PG_GET_TRIGGERDEF_OID, ObjectIdGetDatum(lfirst_oid(lc)));

		run(shadows, TextDatumGetCString(definition));
	}
	run_all(shadows, texts_of(shadow, FIRING_QUERY));
	run_all(shadows, texts_of(shadow, GRANTS_QUERY));
}

static int
by_oid(const void *a, const void *b)
{
	Oid			x = DatumGetObjectId(*(const Datum *) a);
	Oid			y = DatumGetObjectId(*(const Datum *) b);

	return x < y ? -1 : x > y;
}

/*
 * Lock the tables against changes of what they are, always in the same order;
 * reading and writing go on.
 */
static void
lock_live(EsrsShadows *shadows, ArrayType *tables)
{
	Datum	   *oids;
	int			n;

	deconstruct_array(tables, REGCLASSOID, sizeof(Oid), true, TYPALIGN_INT, &oids, NULL, &n);
	qsort(oids, n, sizeof(Datum), by_oid);
	for (int i = 0; i < n; i++)
	{
		EsrsShadow *shadow = palloc0(sizeof(EsrsShadow));
		Oid			oid = DatumGetObjectId(oids[i]);

		if (i > 0 && oid == DatumGetObjectId(oids[i - 1]))
			continue;
		LockRelationOid(oid, ShareUpdateExclusiveLock);
		shadow->redirect.from = oid;
		shadow->relname = get_rel_name(oid);
		if (shadow->relname == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("table with OID %u does not exist", oid)));
		shadow->name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(oid)),
												  shadow->relname);
		shadows->shadows = lappend(shadows->shadows, shadow);
		shadows->redirects = lappend(shadows->redirects, &shadow->redirect);
	}
}

/* A schema for a shadow, of a name that nobody uses, and not in the current one. */
static void
make_schema(EsrsShadows *shadows, EsrsShadow *shadow)
{
	static uint32 last = 0;

	do
	{
		shadow->schema_name = psprintf("esrs_shadow_%d_%u", MyProcPid, ++last);
	} while (OidIsValid(get_namespace_oid(shadow->schema_name, true)));
	shadow->schema = NamespaceCreate(shadow->schema_name, shadows->owner, false);
	CommandCounterIncrement();
}

static void
making_context(void *arg)
{
	errcontext("building a table beside %s", ((EsrsShadow *) arg)->name);
}

/* Make one, or all that refers to others; errors tell which. */
static void
make(EsrsShadows *shadows, void (*part) (EsrsShadows *, EsrsShadow *))
{
	ErrorContextCallback error_context = {.callback = making_context,
	.previous = error_context_stack};
	ListCell   *lc;

	error_context_stack = &error_context;
	foreach(lc, shadows->shadows)
	{
		error_context.arg = lfirst(lc);
		part(shadows, (EsrsShadow *) lfirst(lc));
	}
	error_context_stack = error_context.previous;
}

/*
 * Make empty shadows of tables (regclass[]), which "role" must own, until the
 * transaction ends or esrs_shadow_drop(); the live tables are locked against other
 * maintenance until the transaction ends.  In the current context.  "replace": they
 * are to take the place of the live tables.
 *
 * Raises 0A000, with the reason, if a table cannot have one.
 */
EsrsShadows *
esrs_shadow_make(ArrayType *tables, Oid role, bool replace)
{
	EsrsShadows *shadows = palloc0(sizeof(EsrsShadows));
	EsrsIdentity before;

	lock_live(shadows, tables);
	esrs_shadow_check(shadows, role, replace);
	make(shadows, make_schema);

	esrs_security_become(&before, shadows->owner);
	esrs_security_restrict();
	/* tablespaces are the live tables' */
	(void) set_config_option("default_tablespace", "", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	make(shadows, make_table);
	make(shadows, make_references);
	esrs_security_restore(&before);
	return shadows;
}

/* Drop the shadows, or what has become of them. */
void
esrs_shadow_drop(EsrsShadows *shadows)
{
	ObjectAddresses *schemas = new_object_addresses();
	ListCell   *lc;

	foreach(lc, shadows->shadows)
	{
		ObjectAddress address;

		ObjectAddressSet(address, NamespaceRelationId, ((EsrsShadow *) lfirst(lc))->schema);
		add_exact_object_address(&address, schemas);
	}
	performMultipleDeletions(schemas, DROP_CASCADE,
							 PERFORM_DELETION_INTERNAL | PERFORM_DELETION_QUIETLY);
	free_object_addresses(schemas);
	CommandCounterIncrement();
}
