/*-------------------------------------------------------------------------
 *
 * snapshots.h
 *	  Making all snapshots of an aggregate anew, see snapshots.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_ENGINE_SNAPSHOTS_H
#define ESRS_ENGINE_SNAPSHOTS_H

#include "postgres.h"

extern void esrs_snapshots_init(void);

#endif							/* ESRS_ENGINE_SNAPSHOTS_H */
