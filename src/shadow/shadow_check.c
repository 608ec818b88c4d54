/*-------------------------------------------------------------------------
 *
 * shadow_check.c
 *	  Which tables can have a shadow, and which can be replaced by it.
 *
 * What depends on a table by its OID survives, because the OID does: views, grants,
 * foreign keys of the table itself, triggers, functions, sequences.  What would not
 * survive, or would not hold of the new rows, is refused here, before anything is
 * done.  The tables are locked, so what is found stays as it is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "shadow/shadow.h"

#include "access/table.h"
#include "base/security.h"
#include "base/spi.h"
#include "catalog/catalog.h"
#include "catalog/extension.h"
#include "catalog/namespace.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

static void
refuse(EsrsShadow *shadow, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("table %s cannot be built beside the live one", shadow->name),
			 errdetail_internal("%s", detail),
			 hint ? errhint("%s", hint) : 0));
}

/* The tables there are, as an array. */
static Datum
oids_of(EsrsShadows *shadows)
{
	int			n = list_length(shadows->shadows);
	Datum	   *oids = palloc(sizeof(Datum) * n);
	ListCell   *lc;

	foreach(lc, shadows->shadows)
	{
		oids[foreach_current_index(lc)] =
			ObjectIdGetDatum(((EsrsShadow *) lfirst(lc))->redirect.from);
	}
	return PointerGetDatum(construct_array(oids, n, OIDOID, sizeof(Oid), true, TYPALIGN_INT));
}

/* A text that a query on $1, a table, and $2, all tables, gives, or NULL. */
static char *
ask(EsrsShadow *shadow, Datum oids, const char *query)
{
	Oid			types[2] = {OIDOID, OIDARRAYOID};
	Datum		values[2] = {ObjectIdGetDatum(shadow->redirect.from), oids};
	EsrsIdentity before;
	char	   *text;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	text = esrs_spi_run(query, 2, types, values, NULL, SPI_OK_SELECT) > 0 ?
		esrs_spi_text(0, 1) : NULL;
	esrs_spi_end();
	esrs_security_restore(&before);
	return text;
}

/* What kind of table is it? */
static void
check_kind(EsrsShadow *shadow, Relation table)
{
	if (table->rd_rel->relkind != RELKIND_RELATION)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s is not an ordinary table", shadow->name)));
	if (table->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		refuse(shadow, "It is a temporary table.", NULL);
	if (table->rd_rel->relispartition)
		refuse(shadow, "It is a part of a partitioned table.",
			   "Use the strategy \"in_place\".");
	if (OidIsValid(table->rd_rel->reloftype))
		refuse(shadow, "It is a typed table.", "Use the strategy \"in_place\".");
	if (IsCatalogRelation(table) || get_rel_namespace(RelationGetRelid(table)) ==
		get_namespace_oid("esrs", true))
		refuse(shadow, "It is a system table.", NULL);
}

/* What else hangs on it? */
static void
check_dependants(EsrsShadow *shadow, Datum oids, bool replace)
{
	char	   *found;

	if (ask(shadow, oids, "SELECT i.inhrelid::pg_catalog.text FROM pg_catalog.pg_inherits i"
			" WHERE i.inhrelid OPERATOR(pg_catalog.=) $1 OR i.inhparent OPERATOR(pg_catalog.=) $1") != NULL)
		refuse(shadow, "It inherits from another table, or another one from it.", "Use the strategy \"in_place\".");
	found = ask(shadow, oids, "SELECT a.name FROM esrs.aggregates a"
				" WHERE a.events::pg_catalog.oid OPERATOR(pg_catalog.=) $1");
	if (found != NULL)
		refuse(shadow, psprintf("It holds the events of aggregate \"%s\".", found), NULL);
	found = ask(shadow, oids, "SELECT i.indexrelid::pg_catalog.regclass::pg_catalog.text"
				" FROM pg_catalog.pg_index i WHERE i.indrelid OPERATOR(pg_catalog.=) $1"
				" AND NOT i.indisvalid");
	if (found != NULL)
		refuse(shadow, psprintf("Index %s is invalid.", found), "Drop it, or REINDEX it.");
	if (!replace)
		return;
	found = ask(shadow, oids, "SELECT pg_catalog.format('%I of table %s', k.conname,"
				" k.conrelid::pg_catalog.regclass) FROM pg_catalog.pg_constraint k"
				" WHERE k.contype OPERATOR(pg_catalog.=) 'f' AND k.confrelid OPERATOR(pg_catalog.=) $1"
				" AND k.conrelid OPERATOR(pg_catalog.<>) ALL ($2) LIMIT 1");
	if (found != NULL)
		refuse(shadow, psprintf("Foreign key %s refers to it, and might not hold of the new rows.", found),
			   "Name that table too, if it is one of the read model's, or use the strategy \"in_place\".");
	if (GetRelationPublications(shadow->redirect.from) != NIL ||
		GetAllTablesPublications() != NIL ||
		GetSchemaPublications(get_rel_namespace(shadow->redirect.from)) != NIL)
		refuse(shadow, "It is published, and subscribers would not get the new rows.",
			   "Use the strategy \"in_place\".");
}

/*
 * Raise 0A000, 42501 or 42809 unless all of the tables, which are locked, can have a
 * shadow that "role" builds, and, for "replace", that takes their place.  Sets the
 * owner.
 */
void
esrs_shadow_check(EsrsShadows *shadows, Oid role, bool replace)
{
	Datum		oids = oids_of(shadows);
	ListCell   *lc;

	foreach(lc, shadows->shadows)
	{
		EsrsShadow *shadow = (EsrsShadow *) lfirst(lc);
		Relation	table = table_open(shadow->redirect.from, NoLock);
		Oid			owner = table->rd_rel->relowner;

		check_kind(shadow, table);
		table_close(table, NoLock);
		if (!has_privs_of_role(role, owner))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("must be owner of table %s", shadow->name),
					 errdetail("The event handler runs as role \"%s\".",
							   GetUserNameFromId(role, false))));
		if (OidIsValid(shadows->owner) && shadows->owner != owner)
			refuse(shadow, "The tables have different owners.", "Give them to one.");
		shadows->owner = owner;
		check_dependants(shadow, oids, replace);
	}
}
