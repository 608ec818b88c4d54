/*-------------------------------------------------------------------------
 *
 * functions.h
 *	  SQL functions that command, see functions.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_ENGINE_FUNCTIONS_H
#define ESRS_ENGINE_FUNCTIONS_H

#include "postgres.h"

#include "fmgr.h"

extern Datum esrs_handle_command(PG_FUNCTION_ARGS);
extern Datum esrs_try_command(PG_FUNCTION_ARGS);
extern Datum esrs_handle_commands(PG_FUNCTION_ARGS);
extern Datum esrs_persist(PG_FUNCTION_ARGS);
extern Datum esrs_delete(PG_FUNCTION_ARGS);
extern Datum esrs_reject_sql(PG_FUNCTION_ARGS);

#endif							/* ESRS_ENGINE_FUNCTIONS_H */
