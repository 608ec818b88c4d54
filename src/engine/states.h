/*-------------------------------------------------------------------------
 *
 * states.h
 *	  SQL functions that fold many instances, see states.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_ENGINE_STATES_H
#define ESRS_ENGINE_STATES_H

#include "postgres.h"

#include "fmgr.h"

extern Datum esrs_states(PG_FUNCTION_ARGS);
extern Datum esrs_fold(PG_FUNCTION_ARGS);

#endif							/* ESRS_ENGINE_STATES_H */
