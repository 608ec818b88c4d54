/*-------------------------------------------------------------------------
 *
 * dispatcher.h
 *	  The background worker, see dispatcher.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_WORKER_DISPATCHER_H
#define ESRS_WORKER_DISPATCHER_H

#include "postgres.h"

extern PGDLLEXPORT void esrs_worker_main(Datum main_arg);

#endif							/* ESRS_WORKER_DISPATCHER_H */
