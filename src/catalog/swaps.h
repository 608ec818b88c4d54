/*-------------------------------------------------------------------------
 *
 * swaps.h
 *	  Which transactions have replaced tables of read models, see swaps.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_CATALOG_SWAPS_H
#define ESRS_CATALOG_SWAPS_H

#include "postgres.h"

extern void esrs_swaps_note(const char *handler);
extern void esrs_swaps_check(const char *aggregate);

#endif							/* ESRS_CATALOG_SWAPS_H */
