/*-------------------------------------------------------------------------
 *
 * alien.c
 *	  A library of its own that says it was built for another major version of
 *	  PostgreSQL.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "esrs.h"

extern PGDLLEXPORT const Pg_magic_struct *PG_MAGIC_FUNCTION_NAME(void);

const Pg_magic_struct *
PG_MAGIC_FUNCTION_NAME(void)
{
	static Pg_magic_struct magic = PG_MODULE_MAGIC_DATA;

	magic.version++;
	return &magic;
}

static const EsrsAggregateRoutine alien_routine = {ESRS_AGGREGATE_ROUTINE};

ESRS_AGGREGATE_HANDLER(testlib_alien, alien_routine);
