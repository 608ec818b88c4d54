/*-------------------------------------------------------------------------
 *
 * check.h
 *	  Health of aggregates and handlers, see check.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_CATALOG_CHECK_H
#define ESRS_CATALOG_CHECK_H

#include "postgres.h"

#include "fmgr.h"

extern Datum esrs_check(PG_FUNCTION_ARGS);

#endif							/* ESRS_CATALOG_CHECK_H */
