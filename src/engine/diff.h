/*-------------------------------------------------------------------------
 *
 * diff.h
 *	  SQL function esrs_diff(), see diff.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_ENGINE_DIFF_H
#define ESRS_ENGINE_DIFF_H

#include "postgres.h"

#include "fmgr.h"

extern Datum esrs_diff(PG_FUNCTION_ARGS);

#endif							/* ESRS_ENGINE_DIFF_H */
