/*-------------------------------------------------------------------------
 *
 * register.h
 *	  What registering aggregates and registering handlers share, see
 *	  register.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_CATALOG_REGISTER_H
#define ESRS_CATALOG_REGISTER_H

#include "postgres.h"

#include "esrs.h"

#include "storage/lockdefs.h"

extern char *esrs_register_text_arg(FunctionCallInfo fcinfo, int n);
extern char *esrs_register_name_arg(FunctionCallInfo fcinfo, int n, const char *what);
extern void esrs_register_check_writable(const char *function);
extern void esrs_register_begin(const char *function);
extern void esrs_register_set_snapshots_hook(void (*hook) (const char *aggregate, bool rebuild));
extern void esrs_register_check_execute(Oid function);
extern bool esrs_register_lock_owned(const char *aggregate, Oid events, Oid registered_by,
									 LOCKMODE mode);
extern bool esrs_register_public_may_execute(Oid function);
extern bool esrs_register_is_open_definer(Oid function);
extern void esrs_register_close_to_public(Oid function, const char *meaning, const char *hint);

#endif							/* ESRS_CATALOG_REGISTER_H */
