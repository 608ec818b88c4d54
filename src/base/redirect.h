/*-------------------------------------------------------------------------
 *
 * redirect.h
 *	  Having statements work on other tables than they name, see redirect.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_BASE_REDIRECT_H
#define ESRS_BASE_REDIRECT_H

#include "postgres.h"

#include "nodes/pg_list.h"

/* A table, and the one that is used in its place. */
typedef struct EsrsRedirect
{
	Oid			from;
	Oid			to;
	List	   *constraints;	/* of "from", OIDs: those with an index */
	List	   *replacements;	/* the same of "to", in the same order */
} EsrsRedirect;

extern void esrs_redirect_begin(List *redirects);
extern void esrs_redirect_end(void);
extern void esrs_redirect_check(void);
extern void esrs_redirect_init(void);

#endif							/* ESRS_BASE_REDIRECT_H */
