/*-------------------------------------------------------------------------
 *
 * cpu.c
 *	  The CPU time that a backend has used, for scripts/bench.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "fmgr.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(bench_cpu);

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
