/*-------------------------------------------------------------------------
 *
 * compat.h
 *	  Every difference between versions of PostgreSQL, in one place.
 *
 * Nothing else in the project may look at PG_VERSION_NUM.  Developed and
 * tested on 15; what is known about 16 and later is written down here but has
 * not been run.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_COMPAT_H
#define ESRS_COMPAT_H

#include "postgres.h"

#include "fmgr.h"
#include "utils/acl.h"

#if PG_VERSION_NUM < 150000
#error "esrs needs PostgreSQL 15 or later"
#endif

#if PG_VERSION_NUM < 160000
/* declared in fmgr.h since 16 */
extern PGDLLEXPORT void _PG_init(void);

#define esrs_class_ownercheck(oid, role)	pg_class_ownercheck(oid, role)
#define esrs_proc_ownercheck(oid, role)		pg_proc_ownercheck(oid, role)
#define esrs_proc_aclcheck(oid, role, mode) pg_proc_aclcheck(oid, role, mode)
#else
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#define esrs_class_ownercheck(oid, role)	object_ownercheck(RelationRelationId, oid, role)
#define esrs_proc_ownercheck(oid, role)		object_ownercheck(ProcedureRelationId, oid, role)
#define esrs_proc_aclcheck(oid, role, mode) object_aclcheck(ProcedureRelationId, oid, role, mode)
#endif

/* for what must not outlive a major version */
#define ESRS_SERVER_MAJOR	(PG_VERSION_NUM / 10000)

#if PG_VERSION_NUM < 170000
#define ESRS_MY_LXID	(MyProc->lxid)
#else
#define ESRS_MY_LXID	(MyProc->vxid.lxid)
#endif

#endif							/* ESRS_COMPAT_H */
