/*-------------------------------------------------------------------------
 *
 * jsonb_difference.h
 *	  Where two documents differ, see jsonb_difference.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_BASE_JSONB_DIFFERENCE_H
#define ESRS_BASE_JSONB_DIFFERENCE_H

#include "postgres.h"

#include "utils/jsonb.h"

/* One place. */
typedef struct EsrsJsonbDifference
{
	bool		in_first;		/* the first document has something there */
	bool		in_second;		/* the second has */
	char	   *path;			/* as in SQL/JSON: $.Bought.counts[1] */
} EsrsJsonbDifference;

extern int64 esrs_jsonb_differences(Jsonb *first, Jsonb *second,
									EsrsJsonbDifference *found, int max);

#endif							/* ESRS_BASE_JSONB_DIFFERENCE_H */
