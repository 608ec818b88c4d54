/*-------------------------------------------------------------------------
 *
 * rebuild_workers.c
 *	  Several processes that make instances anew: background workers, which live as
 *	  long as the call of esrs_rebuild() that has started them.
 *
 * They find what they need in a segment of dynamic shared memory: who has called,
 * with which settings, and the shares of instances, of which each takes one after
 * the other.  What they raise, and say, goes through a queue to the caller, as from
 * workers of a parallel query (PostgreSQL's parallel.c); so does their end.
 *
 * Nothing is done here that a rebuild by one process would do otherwise.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/rebuild.h"

#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "executor/spi.h"
#include "libpq/pqformat.h"
#include "libpq/pqmq.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "storage/dsm.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/shm_mq.h"
#include "storage/shm_toc.h"
#include "tcop/pquery.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/portal.h"
#include "utils/wait_event.h"

#define MAGIC			0xE5125EB1
#define QUEUE_SIZE		16384

/* How often the caller looks, in milliseconds, if nothing wakes it. */
#define LOOK_INTERVAL	200

/* What is in the segment. */
enum
{
	KEY_SHARED = 1,
	KEY_NAMES,
	KEY_VERSION,
	KEY_SETTINGS,
	KEY_DONE,
	KEY_QUEUES
};

typedef struct Shared
{
	Oid			database;
	Oid			authenticated_user;
	Oid			user;
	int			security;
	int32		max_rate;		/* of one process */
	bool		republish;
	int			nnames;
	pg_atomic_uint32 stop;		/* the caller has no use for the result */
	EsrsRebuildCounts counts;
	pg_atomic_uint32 next;		/* of the shares: who takes one counts up */
	int			nshares;
	EsrsRebuildState shares[FLEXIBLE_ARRAY_MEMBER]; /* without the texts */
} Shared;

/* What the caller knows of its workers. */
typedef struct Workers
{
	dsm_segment *segment;
	Shared	   *shared;
	pg_atomic_uint32 *done;		/* of each: has it ended well? */
	int			n;
	BackgroundWorkerHandle **handles;
	shm_mq_handle **queues;		/* NULL: it has ended */
} Workers;

/* ------------------------------------------------------------------------
 * The caller
 * ------------------------------------------------------------------------
 */

static Size
names_size(List *names)
{
	Size		size = 0;
	ListCell   *lc;

	foreach(lc, names)
	{
		size += strlen((char *) lfirst(lc)) + 1;
	}
	return size;
}

static void
fill_shared(EsrsRebuild *r, Workers *workers, shm_toc *toc, List *states)
{
	Shared	   *shared = shm_toc_allocate(toc, offsetof(Shared, shares) +
										  sizeof(EsrsRebuildState) * list_length(states));
	char	   *names = shm_toc_allocate(toc, names_size(r->names));
	char	   *version = shm_toc_allocate(toc, strlen(r->version) + 1);
	ListCell   *lc;

	shared->database = MyDatabaseId;
	shared->authenticated_user = GetAuthenticatedUserId();
	GetUserIdAndSecContext(&shared->user, &shared->security);
	shared->max_rate = r->progress.max_rate == 0 ? 0 : Max(r->progress.max_rate / r->workers, 1);
	shared->republish = r->republish;
	shared->nnames = list_length(r->names);
	pg_atomic_init_u32(&shared->stop, 0);
	pg_atomic_init_u64(&shared->counts.events, 0);
	pg_atomic_init_u64(&shared->counts.instances, 0);
	pg_atomic_init_u32(&shared->next, 0);
	shared->nshares = list_length(states);
	foreach(lc, states)
	{
		shared->shares[foreach_current_index(lc)] = *(EsrsRebuildState *) lfirst(lc);
	}
	shm_toc_insert(toc, KEY_SHARED, shared);
	shm_toc_insert(toc, KEY_NAMES, names);
	foreach(lc, r->names)
	{
		Size		size = strlen((char *) lfirst(lc)) + 1;

		memcpy(names, lfirst(lc), size);
		names += size;
	}
	memcpy(version, r->version, strlen(r->version) + 1);
	shm_toc_insert(toc, KEY_VERSION, version);
	workers->shared = shared;
}

/* Make the segment; it goes with the transaction. */
static void
make_segment(EsrsRebuild *r, Workers *workers, List *states)
{
	Size		settings_size = EstimateGUCStateSpace();
	shm_toc_estimator estimator;
	shm_toc    *toc;
	char	   *settings;
	char	   *queues;
	Size		size;

	shm_toc_initialize_estimator(&estimator);
	shm_toc_estimate_chunk(&estimator, offsetof(Shared, shares) +
						   sizeof(EsrsRebuildState) * list_length(states));
	shm_toc_estimate_chunk(&estimator, names_size(r->names));
	shm_toc_estimate_chunk(&estimator, strlen(r->version) + 1);
	shm_toc_estimate_chunk(&estimator, settings_size);
	shm_toc_estimate_chunk(&estimator, sizeof(pg_atomic_uint32) * workers->n);
	shm_toc_estimate_chunk(&estimator, (Size) QUEUE_SIZE * workers->n);
	shm_toc_estimate_keys(&estimator, KEY_QUEUES);
	size = shm_toc_estimate(&estimator);
	workers->segment = dsm_create(size, 0);
	toc = shm_toc_create(MAGIC, dsm_segment_address(workers->segment), size);
	fill_shared(r, workers, toc, states);

	settings = shm_toc_allocate(toc, settings_size);
	SerializeGUCState(settings_size, settings);
	shm_toc_insert(toc, KEY_SETTINGS, settings);
	workers->done = shm_toc_allocate(toc, sizeof(pg_atomic_uint32) * workers->n);
	shm_toc_insert(toc, KEY_DONE, workers->done);
	queues = shm_toc_allocate(toc, (Size) QUEUE_SIZE * workers->n);
	shm_toc_insert(toc, KEY_QUEUES, queues);
	for (int i = 0; i < workers->n; i++)
	{
		shm_mq	   *queue = shm_mq_create(queues + (Size) i * QUEUE_SIZE, QUEUE_SIZE);

		pg_atomic_init_u32(&workers->done[i], 0);
		shm_mq_set_receiver(queue, MyProc);
		workers->queues[i] = shm_mq_attach(queue, workers->segment, NULL);
	}
}

/* Start as many as there is room for; the others do not count. */
static void
start(EsrsRebuild *r, Workers *workers)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	strlcpy(worker.bgw_library_name, "$libdir/esrs", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "esrs_rebuild_worker_main", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "esrs rebuild worker for PID %d", MyProcPid);
	strlcpy(worker.bgw_type, "esrs rebuild worker", BGW_MAXLEN);
	worker.bgw_main_arg = UInt32GetDatum(dsm_segment_handle(workers->segment));
	worker.bgw_notify_pid = MyProcPid;
	for (int i = 0; i < workers->n; i++)
	{
		memcpy(worker.bgw_extra, &i, sizeof(i));
		if (!RegisterDynamicBackgroundWorker(&worker, &workers->handles[i]))
		{
			workers->n = i;
			break;
		}
		shm_mq_set_handle(workers->queues[i], workers->handles[i]);
	}
	if (workers->n < r->workers)
		ereport(NOTICE,
				(errmsg("rebuild of %s: %d of %d workers could be started", r->label, workers->n,
						r->workers),
				 errhint("You might need to increase max_worker_processes.")));
}

/* Whatever is left of them is to end: also called if this process ends. */
static void
stop(int code, Datum arg)
{
	Workers    *workers = (Workers *) DatumGetPointer(arg);

	pg_atomic_write_u32(&workers->shared->stop, 1);
	for (int i = 0; i < workers->n; i++)
		if (workers->handles[i] != NULL)
			TerminateBackgroundWorker(workers->handles[i]);
}

/* Raise, or say, what a worker has. */
static void
take_message(char *data, Size size)
{
	StringInfoData message;
	char		type;

	initStringInfo(&message);
	appendBinaryStringInfo(&message, data, size);
	type = pq_getmsgbyte(&message);
	if (type == 'E' || type == 'N')
	{
		ErrorData	error;

		pq_parse_errornotice(&message, &error);
		error.elevel = Min(error.elevel, ERROR);
		ThrowErrorData(&error);
	}
	pfree(message.data);
}

/* Take what a worker has sent; false if it has ended, and well. */
static bool
listen_to(Workers *workers, int i)
{
	for (;;)
	{
		Size		size;
		void	   *data;

		switch (shm_mq_receive(workers->queues[i], &size, &data, true))
		{
			case SHM_MQ_SUCCESS:
				take_message(data, size);
				break;
			case SHM_MQ_WOULD_BLOCK:
				return true;
			case SHM_MQ_DETACHED:
				if (pg_atomic_read_u32(&workers->done[i]) == 0)
					ereport(ERROR,
							(errcode(ERRCODE_INTERNAL_ERROR),
							 errmsg("a background worker of the rebuild has ended early"),
							 errhint("See the server log. The next call of esrs_rebuild() goes on where this one was.")));
				return false;
		}
	}
}

/* Wait for all of them, and tell how far they are. */
static void
supervise(EsrsRebuild *r, Workers *workers)
{
	int64		events = 0;
	int64		instances = 0;
	int			running = workers->n;

	while (running > 0)
	{
		int64		events_now;
		int64		instances_now;

		CHECK_FOR_INTERRUPTS();
		for (int i = 0; i < workers->n; i++)
			if (workers->queues[i] != NULL && !listen_to(workers, i))
			{
				workers->queues[i] = NULL;
				running--;
			}
		events_now = (int64) pg_atomic_read_u64(&workers->shared->counts.events);
		instances_now = (int64) pg_atomic_read_u64(&workers->shared->counts.instances);
		esrs_rebuild_progress_advance(&r->progress, events_now - events, instances_now - instances);
		events = events_now;
		instances = instances_now;
		if (running == 0)
			break;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, LOOK_INTERVAL,
						 WAIT_EVENT_BGWORKER_SHUTDOWN);
		ResetLatch(MyLatch);
	}
}

/*
 * Have background workers do some shares of instances; all that was done before is
 * committed.  Returns what is left to do: nothing, or, if no worker could be started,
 * all.  Raises what they raise, and ends them if it is ended itself.
 */
List *
esrs_rebuild_workers_run(EsrsRebuild *r, List *states)
{
	Workers    *workers = palloc0(sizeof(Workers));

	workers->n = Min(r->workers, list_length(states));
	workers->handles = palloc0(sizeof(BackgroundWorkerHandle *) * workers->n);
	workers->queues = palloc0(sizeof(shm_mq_handle *) * workers->n);
	make_segment(r, workers, states);
	esrs_rebuild_progress_phase(&r->progress, ESRS_REBUILD_REPLAYING);
	PG_ENSURE_ERROR_CLEANUP(stop, PointerGetDatum(workers));
	{
		start(r, workers);
		supervise(r, workers);
	}
	PG_END_ENSURE_ERROR_CLEANUP(stop, PointerGetDatum(workers));
	dsm_detach(workers->segment);
	return workers->n == 0 ? states : NIL;
}

/* ------------------------------------------------------------------------
 * A worker
 * ------------------------------------------------------------------------
 */

/* Become what the caller is. */
static void
connect_as_caller(Shared *shared, char *settings)
{
	BackgroundWorkerInitializeConnectionByOid(shared->database, shared->authenticated_user, 0);
	StartTransactionCommand();
	RestoreGUCState(settings);
	CommitTransactionCommand();
	/* the caller converts what it gets */
	SetClientEncoding(GetDatabaseEncoding());
	SetUserIdAndSecContext(shared->user, shared->security);
}

/*
 * Be in a portal, as a procedure that is called: what commits in between needs one
 * for its snapshots.
 */
static Portal
begin_portal(void)
{
	Portal		portal = CreateNewPortal();

	portal->visible = false;
	PortalDefineQuery(portal, NULL, "CALL esrs_rebuild", CMDTAG_CALL, NIL, NULL);
	portal->status = PORTAL_READY;
	MarkPortalActive(portal);
	ActivePortal = portal;
	PortalContext = portal->portalContext;
	return portal;
}

static void
end_portal(Portal portal)
{
	MarkPortalDone(portal);
	ActivePortal = NULL;
	PortalContext = NULL;
	PortalDrop(portal, false);
}

/* Take one share after the other. */
static void
work(Shared *shared, char *names, char *version)
{
	EsrsRebuild *r = palloc0(sizeof(EsrsRebuild));
	Portal		portal;
	LOCKTAG		tag;
	uint32		i;

	for (int name = 0; name < shared->nnames; name++)
	{
		r->names = lappend(r->names, pstrdup(names));
		names += strlen(names) + 1;
	}
	r->nonatomic = true;
	r->version = version;
	r->progress.max_rate = shared->max_rate;
	r->progress.counts = &shared->counts;
	r->republish = shared->republish;
	esrs_rebuild_init(r);

	StartTransactionCommand();
	XactIsoLevel = XACT_READ_COMMITTED;
	portal = begin_portal();
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	esrs_rebuild_lock_tag(r->label, true, &tag);
	(void) LockAcquire(&tag, ShareLock, true, false);
	while ((i = pg_atomic_fetch_add_u32(&shared->next, 1)) < (uint32) shared->nshares)
	{
		EsrsRebuildState *state = palloc(sizeof(EsrsRebuildState));

		*state = shared->shares[i];
		state->handlers = r->label;
		state->version = version;
		esrs_rebuild_share(r, state);
	}
	(void) LockRelease(&tag, ShareLock, true);
	SPI_finish();
	end_portal(portal);
	CommitTransactionCommand();
}

/* Entry point of a worker; the argument is the handle of the segment. */
void
esrs_rebuild_worker_main(Datum arg)
{
	dsm_segment *segment;
	shm_toc    *toc;
	Shared	   *shared;
	pg_atomic_uint32 *done;
	shm_mq	   *queue;
	int			index;

	/* an error, which the caller gets, rather than the end of the process */
	pqsignal(SIGTERM, StatementCancelHandler);
	BackgroundWorkerUnblockSignals();
	memcpy(&index, MyBgworkerEntry->bgw_extra, sizeof(index));
	CurrentMemoryContext = AllocSetContextCreate(TopMemoryContext, "esrs rebuild worker",
												 ALLOCSET_DEFAULT_SIZES);
	segment = dsm_attach(DatumGetUInt32(arg));
	toc = segment ? shm_toc_attach(MAGIC, dsm_segment_address(segment)) : NULL;
	if (toc == NULL)
		return;					/* the caller is gone */
	shared = shm_toc_lookup(toc, KEY_SHARED, false);
	done = shm_toc_lookup(toc, KEY_DONE, false);
	queue = (shm_mq *) ((char *) shm_toc_lookup(toc, KEY_QUEUES, false) + (Size) index * QUEUE_SIZE);
	shm_mq_set_sender(queue, MyProc);
	pq_redirect_to_shm_mq(segment, shm_mq_attach(queue, segment, NULL));

	PG_TRY();
	{
		connect_as_caller(shared, shm_toc_lookup(toc, KEY_SETTINGS, false));
		pgstat_report_activity(STATE_RUNNING, "CALL esrs_rebuild");
		work(shared, shm_toc_lookup(toc, KEY_NAMES, false),
			 shm_toc_lookup(toc, KEY_VERSION, false));
	}
	PG_CATCH();
	{
		/* nobody wants to know */
		if (pg_atomic_read_u32(&shared->stop) != 0)
			proc_exit(0);
		PG_RE_THROW();
	}
	PG_END_TRY();
	pg_atomic_write_u32(&done[index], 1);
}
