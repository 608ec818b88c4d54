/*-------------------------------------------------------------------------
 *
 * module.c
 *	  Makes the library one that PostgreSQL loads, and says how much memory
 *	  malloc() has handed out, of which PostgreSQL knows nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <malloc.h>

#include "fmgr.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(testlib_malloc_in_use);

/* testlib_malloc_in_use() returns bigint */
Datum
testlib_malloc_in_use(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64((int64) mallinfo2().uordblks);
}
