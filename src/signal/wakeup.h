/*-------------------------------------------------------------------------
 *
 * wakeup.h
 *	  Starting and waking background workers, see wakeup.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_SIGNAL_WAKEUP_H
#define ESRS_SIGNAL_WAKEUP_H

#include "postgres.h"

#include "config.h"
#include "postmaster/bgworker.h"
#include "signal/slots.h"

extern bool esrs_wakeup_worker_may_run(void);
extern void esrs_wakeup_request(void);
extern void esrs_wakeup_now(void);
extern void esrs_wakeup_describe(BackgroundWorker *worker, Oid database, int place);
extern bool esrs_wakeup_start(EsrsSlot *slot, int place);
extern void esrs_wakeup_ensure(bool complain);
extern uint64 esrs_wakeup_bit(uint32 aggregate_hash);
extern void esrs_wakeup_init(void);

#endif							/* ESRS_SIGNAL_WAKEUP_H */
