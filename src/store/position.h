/*-------------------------------------------------------------------------
 *
 * position.h
 *	  Positions in the feed of all events, see position.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_STORE_POSITION_H
#define ESRS_STORE_POSITION_H

#include "postgres.h"

extern int64 esrs_position_next(uint32 aggregate_hash);
extern int64 esrs_position_safe(const uint32 *aggregate_hashes, int n);

#endif							/* ESRS_STORE_POSITION_H */
