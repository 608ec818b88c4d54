/*-------------------------------------------------------------------------
 *
 * state_cache.h
 *	  States of instances between commands, see state_cache.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_ENGINE_STATE_CACHE_H
#define ESRS_ENGINE_STATE_CACHE_H

#include "postgres.h"

#include "engine/state.h"

extern bool esrs_state_cache_take(EsrsInstance *instance);
extern void esrs_state_cache_put(EsrsInstance *instance);

#endif							/* ESRS_ENGINE_STATE_CACHE_H */
