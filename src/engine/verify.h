/*-------------------------------------------------------------------------
 *
 * verify.h
 *	  SQL function esrs_verify(), see verify.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_ENGINE_VERIFY_H
#define ESRS_ENGINE_VERIFY_H

#include "postgres.h"

#include "fmgr.h"

extern Datum esrs_verify(PG_FUNCTION_ARGS);

#endif							/* ESRS_ENGINE_VERIFY_H */
