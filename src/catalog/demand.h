/*-------------------------------------------------------------------------
 *
 * demand.h
 *	  Who needs a background worker, see demand.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_CATALOG_DEMAND_H
#define ESRS_CATALOG_DEMAND_H

#include "postgres.h"

extern bool esrs_demand_worker(void);
extern uint64 esrs_demand_generation(void);
extern void esrs_demand_init(void);

#endif							/* ESRS_CATALOG_DEMAND_H */
