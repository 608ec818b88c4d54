/*-------------------------------------------------------------------------
 *
 * launcher.h
 *	  Workers that come up with the server, see launcher.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_WORKER_LAUNCHER_H
#define ESRS_WORKER_LAUNCHER_H

#include "postgres.h"

extern PGDLLEXPORT void esrs_launcher_main(Datum main_arg);
extern void esrs_launcher_init(void);

#endif							/* ESRS_WORKER_LAUNCHER_H */
