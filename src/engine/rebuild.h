/*-------------------------------------------------------------------------
 *
 * rebuild.h
 *	  Making read models anew, see rebuild.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_ENGINE_REBUILD_H
#define ESRS_ENGINE_REBUILD_H

#include "postgres.h"

#include "catalog/rebuild_state.h"
#include "engine/rebuild_progress.h"
#include "handler/replay.h"
#include "nodes/pg_list.h"
#include "signal/notify.h"
#include "storage/lock.h"
#include "utils/array.h"
#include "utils/uuid.h"

/* So many events are replayed, and so many ids read, at once. */
#define ESRS_REBUILD_PORTION	1000

/* One call of the procedure. */
typedef struct EsrsRebuild
{
	List	   *names;			/* of the handlers, of char *, sorted */
	char	   *label;			/* the same as one text */
	bool		nonatomic;
	bool		throttled;		/* after each portion */
	int			workers;		/* processes that work on instances */
	ArrayType  *truncate;		/* regclass[], or NULL */
	ArrayType  *tables;			/* to be built beside the live ones, or NULL */
	bool		republish;
	EsrsRetelling *again;		/* if "republish": events of this transaction */
	EsrsReplay	replay;
	uint32	   *hashes;			/* of the names of its aggregates */
	bool		async;
	MemoryContext context;		/* of what "replay" holds */
	uint64		generation;		/* of the catalogs when it was read */
	uint64		code_epoch;
	char	   *version;		/* of the handlers with which it was begun, or
								 * NULL */
	EsrsRebuildProgress progress;
} EsrsRebuild;

/* rebuild.c */
extern void esrs_rebuild_init(EsrsRebuild *r);
extern void esrs_rebuild_lock_tag(const char *label, bool workers, LOCKTAG *tag);
extern void esrs_rebuild_forget_unfinished(EsrsRebuild *r);

/* rebuild_target.c */
extern void esrs_rebuild_sort_names(List *names);
extern bool esrs_rebuild_load(EsrsRebuild *r);
extern void esrs_rebuild_check_version(EsrsRebuild *r);
extern void esrs_rebuild_lock_aggregates(EsrsRebuild *r, LOCKMODE mode);
extern void esrs_rebuild_lock_all(EsrsRebuild *r);
extern void esrs_rebuild_lock_instance(EsrsRebuild *r, const pg_uuid_t *id);
extern void esrs_rebuild_count(EsrsRebuild *r, int64 upto, bool with_instances);
extern void esrs_rebuild_leave_nothing(EsrsRebuild *r);
extern void esrs_rebuild_done_async(EsrsRebuild *r, int64 position);

/* rebuild_in_place.c */
extern void esrs_rebuild_in_place(EsrsRebuild *r);

/* rebuild_each.c */
extern void esrs_rebuild_instance(EsrsRebuild *r, const pg_uuid_t *id);
extern void esrs_rebuild_share(EsrsRebuild *r, EsrsRebuildState *state);
extern void esrs_rebuild_each(EsrsRebuild *r, bool want_resume);

/* rebuild_workers.c */
extern List *esrs_rebuild_workers_run(EsrsRebuild *r, List *states);
extern PGDLLEXPORT void esrs_rebuild_worker_main(Datum arg);

/* rebuild_swap.c */
extern void esrs_rebuild_swap(EsrsRebuild *r);

#endif							/* ESRS_ENGINE_REBUILD_H */
