/*-------------------------------------------------------------------------
 *
 * options.h
 *	  Options of aggregates and handlers given as a JSON object, see
 *	  options.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_CATALOG_OPTIONS_H
#define ESRS_CATALOG_OPTIONS_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "utils/jsonb.h"

typedef struct EsrsOptions EsrsOptions;

extern EsrsOptions *esrs_options_open(Jsonb *options, const char *const *known, int nknown);
extern void esrs_options_text(EsrsOptions *options, const char *key, char **value,
							  const char *otherwise);
extern void esrs_options_int(EsrsOptions *options, const char *key, int32 *value,
							 bool *isnull, int32 otherwise);
extern void esrs_options_bool(EsrsOptions *options, const char *key, bool *value,
							  bool otherwise);
extern void esrs_options_jsonb(EsrsOptions *options, const char *key, Jsonb **value);
extern void esrs_options_list(EsrsOptions *options, const char *key, List **value);

extern void esrs_options_check_name(const char *name, const char *what);
extern void esrs_options_check_choice(const char *option, const char *value,
									  const char *const *choices, int nchoices);

#endif							/* ESRS_CATALOG_OPTIONS_H */
