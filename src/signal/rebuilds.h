/*-------------------------------------------------------------------------
 *
 * rebuilds.h
 *	  Which rebuilds are in progress, see rebuilds.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_SIGNAL_REBUILDS_H
#define ESRS_SIGNAL_REBUILDS_H

#include "postgres.h"

#include "signal/slots.h"

extern void esrs_rebuilds_show(const EsrsRebuildPlace *present);
extern void esrs_rebuilds_hide(void);
extern int	esrs_rebuilds_list(EsrsRebuildPlace *places);

#endif							/* ESRS_SIGNAL_REBUILDS_H */
