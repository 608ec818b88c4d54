/*-------------------------------------------------------------------------
 *
 * rehearsal.h
 *	  SQL functions that try things out, see rehearsal.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_ENGINE_REHEARSAL_H
#define ESRS_ENGINE_REHEARSAL_H

#include "postgres.h"

#include "fmgr.h"

extern Datum esrs_decide(PG_FUNCTION_ARGS);
extern Datum esrs_test(PG_FUNCTION_ARGS);

#endif							/* ESRS_ENGINE_REHEARSAL_H */
