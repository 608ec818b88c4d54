/*-------------------------------------------------------------------------
 *
 * reading.h
 *	  SQL functions that read, see reading.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_ENGINE_READING_H
#define ESRS_ENGINE_READING_H

#include "postgres.h"

#include "fmgr.h"

extern Datum esrs_load(PG_FUNCTION_ARGS);
extern Datum esrs_lock_and_load(PG_FUNCTION_ARGS);
extern Datum esrs_events(PG_FUNCTION_ARGS);
extern Datum esrs_feed(PG_FUNCTION_ARGS);
extern Datum esrs_event_json(PG_FUNCTION_ARGS);

#endif							/* ESRS_ENGINE_READING_H */
