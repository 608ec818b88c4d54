/*-------------------------------------------------------------------------
 *
 * procedures.h
 *	  What procedures that commit have in common, see procedures.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_ENGINE_PROCEDURES_H
#define ESRS_ENGINE_PROCEDURES_H

#include "postgres.h"

#include "fmgr.h"

extern bool esrs_procedure_may_commit(FunctionCallInfo fcinfo);
extern void esrs_procedure_connect(bool nonatomic);
extern void esrs_procedure_commit(void);
extern void esrs_procedure_refuse_inside_callback(const char *procedure);
extern void esrs_procedure_check_isolation(bool nonatomic);

#endif							/* ESRS_ENGINE_PROCEDURES_H */
