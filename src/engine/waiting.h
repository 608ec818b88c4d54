/*-------------------------------------------------------------------------
 *
 * waiting.h
 *	  Waiting for an asynchronous event handler, see waiting.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_ENGINE_WAITING_H
#define ESRS_ENGINE_WAITING_H

#include "postgres.h"

#include "handler/consumer.h"

extern void esrs_waiting_pause(long milliseconds);
extern bool esrs_waiting_for(EsrsConsumer *consumer, int64 up_to, int64 timeout);

#endif							/* ESRS_ENGINE_WAITING_H */
