/*-------------------------------------------------------------------------
 *
 * expression.h
 *	  SQL functions that are one expression, see expression.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_USER_EXPRESSION_H
#define ESRS_USER_EXPRESSION_H

#include "postgres.h"

#include "user/function.h"

extern void esrs_expression_init(void);
extern bool esrs_expression_call(EsrsFunction *function, MemoryContext scratch, uint64 epoch,
								 int nargs, NullableDatum *args,
								 Datum *result, bool *isnull);

#endif							/* ESRS_USER_EXPRESSION_H */
