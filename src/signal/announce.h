/*-------------------------------------------------------------------------
 *
 * announce.h
 *	  Notifications that the worker sends, see announce.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_SIGNAL_ANNOUNCE_H
#define ESRS_SIGNAL_ANNOUNCE_H

#include "postgres.h"

#include "signal/slots.h"

extern void esrs_announce_begin(EsrsSlot *slot);
extern void esrs_announce_refresh(void);
extern int	esrs_announce_count(void);
extern bool esrs_announce_is_due(int i, uint64 bits, int64 head);
extern bool esrs_announce_run(int i);
extern void esrs_announce_committed(void);
extern void esrs_announce_end(EsrsSlot *slot);

#endif							/* ESRS_SIGNAL_ANNOUNCE_H */
