/*-------------------------------------------------------------------------
 *
 * cpu.c
 *	  The CPU time that a backend has used, and keys, for scripts/bench.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "fmgr.h"
#include "utils/uuid.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(bench_cpu);
PG_FUNCTION_INFO_V1(bench_key);

/* User and system time of this process, in microseconds. */
Datum
bench_cpu(PG_FUNCTION_ARGS)
{
	struct timespec ts;

	if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts) != 0)
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not read the CPU time of the process: %m")));
	PG_RETURN_FLOAT8(ts.tv_sec * 1e6 + ts.tv_nsec / 1e3);
}

/* The id of the k-th instance; they are spread over all ids. */
Datum
bench_key(PG_FUNCTION_ARGS)
{
	int64		k = PG_GETARG_INT64(0);
	uint64		spread = (uint64) k * UINT64CONST(0x9E3779B97F4A7C15);
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));

	memcpy(id->data, &spread, 8);
	memcpy(id->data + 8, &k, 8);
	PG_RETURN_UUID_P(id);
}
