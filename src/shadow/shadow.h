/*-------------------------------------------------------------------------
 *
 * shadow.h
 *	  Tables that are built beside live ones, see shadow.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_SHADOW_SHADOW_H
#define ESRS_SHADOW_SHADOW_H

#include "postgres.h"

#include "base/redirect.h"
#include "nodes/pg_list.h"
#include "utils/array.h"

/* A table, its shadow, and what belongs to them. */
typedef struct EsrsShadow
{
	EsrsRedirect redirect;		/* live -> shadow */
	char	   *name;			/* of the live table, qualified, for messages */
	char	   *relname;		/* of both */
	Oid			schema;			/* of the shadow, which is alone in it */
	char	   *schema_name;
	List	   *indexes;		/* of the live table, OIDs */
	List	   *shadow_indexes; /* the same of the shadow, in the same order */
	List	   *foreign_keys;	/* OIDs, to tables that have no shadow */
} EsrsShadow;

typedef struct EsrsShadows
{
	Oid			owner;			/* of all the tables */
	List	   *shadows;		/* of EsrsShadow, by OID of the live table */
	List	   *redirects;		/* of EsrsRedirect, parts of them */
} EsrsShadows;

/* shadow_check.c */
extern void esrs_shadow_check(EsrsShadows *shadows, Oid role, bool replace);

/* shadow.c */
extern EsrsShadows *esrs_shadow_make(ArrayType *tables, Oid role, bool replace);
extern void esrs_shadow_drop(EsrsShadows *shadows);

/* shadow_swap.c */
extern bool esrs_shadow_try_lock(EsrsShadows *shadows, List *appended, int timeout);
extern void esrs_shadow_swap(EsrsShadows *shadows);

#endif							/* ESRS_SHADOW_SHADOW_H */
