/*-------------------------------------------------------------------------
 *
 * aggregate_options.h
 *	  The options of an aggregate, see aggregate_options.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_CATALOG_AGGREGATE_OPTIONS_H
#define ESRS_CATALOG_AGGREGATE_OPTIONS_H

#include "postgres.h"

#include "catalog/aggregate_row.h"

extern void esrs_aggregate_options_check(EsrsAggregateOptions *o);
extern void esrs_aggregate_options_overlay(EsrsAggregateOptions *o, Jsonb *json, bool *named);
extern void esrs_aggregate_options_check_snapshots(const EsrsAggregateOptions *o);
extern bool esrs_aggregate_options_only_snapshots(Jsonb *json);

#endif							/* ESRS_CATALOG_AGGREGATE_OPTIONS_H */
