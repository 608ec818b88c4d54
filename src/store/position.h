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

/* Called when a transaction is about to draw its first position of an aggregate. */
typedef void (*EsrsPublishHook) (uint32 aggregate_hash);

extern int64 esrs_position_next(uint32 aggregate_hash);
extern int64 esrs_position_head(void);
extern int64 esrs_position_safe(const uint32 *aggregate_hashes, int n);
extern int64 esrs_position_safe_of_all(int64 *head);
extern int64 esrs_position_bound(const uint32 *aggregate_hashes, int n, int64 *head);
extern int64 esrs_position_own_bound(void);
extern void esrs_position_set_hook(EsrsPublishHook hook);

#endif							/* ESRS_STORE_POSITION_H */
