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
extern bool esrs_announce_run(uint64 bits);
extern void esrs_announce_committed(void);
extern void esrs_announce_end(EsrsSlot *slot);

#endif							/* ESRS_SIGNAL_ANNOUNCE_H */
