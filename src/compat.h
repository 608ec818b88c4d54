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

#include "access/relation.h"
#include "fmgr.h"
#include "utils/acl.h"
#include "utils/rel.h"
#include "utils/relcache.h"

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

/*
 * The first relation has the file of the second from now on, which for wal_level =
 * minimal is a new one, and the other way round (swap_relation_files in
 * PostgreSQL's cluster.c).
 */
static inline void
esrs_relation_swap_storage(Oid first, Oid second)
{
	Relation	a = relation_open(first, NoLock);
	Relation	b = relation_open(second, NoLock);

	b->rd_createSubid = a->rd_createSubid;
#if PG_VERSION_NUM < 160000
	b->rd_newRelfilenodeSubid = a->rd_newRelfilenodeSubid;
	b->rd_firstRelfilenodeSubid = a->rd_firstRelfilenodeSubid;
	RelationAssumeNewRelfilenode(a);
#else
	b->rd_newRelfilelocatorSubid = a->rd_newRelfilelocatorSubid;
	b->rd_firstRelfilelocatorSubid = a->rd_firstRelfilelocatorSubid;
	RelationAssumeNewRelfilelocator(a);
#endif
	relation_close(b, NoLock);
	relation_close(a, NoLock);
}

#endif							/* ESRS_COMPAT_H */
