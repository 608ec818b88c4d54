/*-------------------------------------------------------------------------
 *
 * subscription.c
 *	  Subscriptions: consumers outside the database, which poll for events.
 *
 * A poll hands events out and leases the subscription to whoever polls.  Until
 * he acknowledges, the same events are handed out again: to him at once, to
 * others when the lease has ended.  Every event comes at least once, in order.
 *
 * The checkpoint is that of catalog/checkpoint.c, with one partition.  "handed"
 * are the positions of the last poll that are not acknowledged, "handed_safe" is
 * where the checkpoint goes when all of them are: whatever else lies below it is
 * not there, or not for the consumer.
 *
 * Its row is locked before tables of events are.  The bound comes first and the
 * reading snapshot afterwards, as in runner.c.  Nothing here waits for events.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/subscription.h"

#include "access/detoast.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "base/security.h"
#include "base/spi.h"
#include "catalog/datum.h"
#include "catalog/extension.h"
#include "catalog/options.h"
#include "catalog/pg_type.h"
#include "catalog/register.h"
#include "engine/arguments.h"
#include "handler/consumer.h"
#include "miscadmin.h"
#include "store/feed.h"
#include "store/position.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/rls.h"
#include "utils/timestamp.h"

PG_FUNCTION_INFO_V1(esrs_subscribe);
PG_FUNCTION_INFO_V1(esrs_unsubscribe);
PG_FUNCTION_INFO_V1(esrs_poll);
PG_FUNCTION_INFO_V1(esrs_ack);
PG_FUNCTION_INFO_V1(esrs_nack);

#define IDLE_STEP	1000		/* positions; without events */
#define SKIP_ROUND	1000		/* events at least; all deprecated */
#define MAX_AHEAD	10000		/* ranges; beyond, as in total order */

typedef EsrsSubscription Subscription;
typedef EsrsSubscriptionReading Reading;

/* Raise what is wrong with an argument. */
static void
refuse(int sqlstate, const char *message)
{
	ereport(ERROR, (errcode(sqlstate), errmsg_internal("%s", message)));
}

static char *
this_node(void)
{
	return psprintf(UINT64_FORMAT "/%u", GetSystemIdentifier(), MyDatabaseId);
}

/* Run a statement as the owner of the catalogs.  Returns the number of rows. */
static uint64
change(const char *query, int nargs, Oid *types, Datum *values, const char *nulls, int expected)
{
	EsrsIdentity before;
	uint64		n;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	n = esrs_spi_run(query, nargs, types, values, nulls, expected);
	esrs_spi_end();
	esrs_security_restore(&before);
	return n;
}

/*
 * Read a subscription, but for its checkpoint.  False if there is none; 42501
 * unless the current user has the rights of the role that subscribed.
 */
static bool
find(Subscription *s, int64 up_to)
{
	static SPIPlanPtr plan = NULL;
	Oid			types[2] = {TEXTOID, INT8OID};
	Datum		values[2] = {CStringGetTextDatum(s->name), Int64GetDatum(up_to)};
	EsrsIdentity before;
	bool		found;
	bool		isnull;

	esrs_security_become(&before, esrs_extension()->owner);
	esrs_spi_begin();
	if (plan == NULL)
		plan = esrs_spi_prepare("SELECT s.aggregates, s.ordering, s.run_as, s.node, s.status,"
								" coalesce(c.ahead OPERATOR(pg_catalog.@>) $2, false),"
								" coalesce(pg_catalog.upper(c.handed) OPERATOR(pg_catalog.-) 1, -1),"
								" coalesce(c.handed_safe, -1), c.lease_owner,"
								" coalesce(c.lease_until, '-infinity')"
								" FROM esrs.subscriptions AS s LEFT JOIN esrs.checkpoints AS c"
								" ON c.name OPERATOR(pg_catalog.=) s.name"
								" AND c.partition OPERATOR(pg_catalog.=) 0"
								" WHERE s.name OPERATOR(pg_catalog.=) $1", 2, types);
	found = esrs_spi_execute(plan, values, NULL, SPI_OK_SELECT) > 0;
	if (found)
	{
		s->aggregates = DatumGetArrayTypePCopy(esrs_spi_column(0, 1, &isnull));
		s->total = strcmp(esrs_spi_text(0, 2), "total") == 0;
		s->run_as = DatumGetObjectId(esrs_spi_column(0, 3, &isnull));
		s->node = esrs_spi_text(0, 4);
		s->active = strcmp(esrs_spi_text(0, 5), "active") == 0;
		s->acknowledged = DatumGetBool(esrs_spi_column(0, 6, &isnull));
		s->last_handed = DatumGetInt64(esrs_spi_column(0, 7, &isnull));
		s->handed_safe = DatumGetInt64(esrs_spi_column(0, 8, &isnull));
		s->lease_owner = esrs_spi_text(0, 9);
		s->lease_until = DatumGetTimestampTz(esrs_spi_column(0, 10, &isnull));
	}
	esrs_spi_end();
	esrs_security_restore(&before);
	if (found && !esrs_consumer_may_run(s->run_as))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for subscription \"%s\"", s->name),
				 errhint("You must be a member of the role that has subscribed.")));
	return found;
}

/*
 * The subscription of a name, with its checkpoint, if it has one, locked until
 * the transaction ends, and the right to it checked.  False if there is none.
 */
static bool
lock(Subscription *s, const char *name, int64 up_to)
{
	memset(s, 0, sizeof(*s));
	s->name = name;
	if (!find(s, up_to))
		return false;

	/* if it was reset while we waited, the row that we waited for is gone */
	do
		s->has_checkpoint = esrs_checkpoint_lock(name, 0, true, &s->checkpoint);
	while (!s->has_checkpoint && esrs_checkpoint_read(name, 0, &s->checkpoint));
	return find(s, up_to);		/* what it is now */
}

/* The same, and there must be one. */
static void
lock_existing(Subscription *s, const char *name, int64 up_to)
{
	if (!lock(s, name, up_to))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("subscription \"%s\" does not exist", name),
				 errhint("Subscriptions are in the view esrs_subscriptions.")));
}

/* Take the lease back, and what was handed out.  "error" may be NULL. */
static void
take_back(Subscription *s, int attempts, TimestampTz retry_at, text *error)
{
	Oid			types[4] = {TEXTOID, INT4OID, TIMESTAMPTZOID, TEXTOID};
	Datum		values[4] = {CStringGetTextDatum(s->name), Int32GetDatum(attempts),
		TimestampTzGetDatum(retry_at), PointerGetDatum(error)
	};

	(void) change("UPDATE esrs.checkpoints SET handed = '{}', handed_safe = NULL,"
				  " lease_owner = NULL, lease_until = NULL, attempts = $2,"
				  " retry_at = nullif($3, '-infinity'), last_error = $4,"
				  " updated_at = pg_catalog.clock_timestamp()"
				  " WHERE name OPERATOR(pg_catalog.=) $1",
				  4, types, values, error ? "    " : "   n", SPI_OK_UPDATE);
}

/*
 * Pause a subscription, or let it go on ("active"): in this cluster, and at
 * once.  False if there is none of that name; 42501 if it is another's.
 */
bool
esrs_subscription_set_status(const char *name, const char *status)
{
	Oid			types[3] = {TEXTOID, TEXTOID, TEXTOID};
	Datum		values[3] = {CStringGetTextDatum(name), CStringGetTextDatum(status)};
	Subscription s;

	if (!lock(&s, name, -1))
		return false;
	if (strcmp(status, "active") == 0)
	{
		/* a lease of another cluster binds nobody here */
		if (strcmp(s.node, this_node()) != 0)
			take_back(&s, 0, DT_NOBEGIN, NULL);
		esrs_checkpoint_clear_failure(name);
		s.node = this_node();
	}
	values[2] = CStringGetTextDatum(s.node);
	(void) change("UPDATE esrs.subscriptions SET status = $2, node = $3"
				  " WHERE name OPERATOR(pg_catalog.=) $1", 3, types, values, NULL, SPI_OK_UPDATE);
	return true;
}

/* Let a subscription go on behind a position; a lease is lost.  Result as above. */
bool
esrs_subscription_reset(const char *name, int64 position)
{
	Subscription s;

	if (!lock(&s, name, -1))
		return false;
	esrs_checkpoint_reset(name, 1, position);
	return true;
}

/*
 * The aggregates of an array of names, each once, with their tables locked until
 * the transaction ends, and the hashes of their names.  42501 unless the current
 * user may read them all: a deletion must not be told to strangers.
 */
static List *
lock_aggregates(ArrayType *array, uint32 **hashes)
{
	List	   *result = NIL;
	Datum	   *values;
	bool	   *nulls;
	int			n;
	ListCell   *lc;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &values, &nulls, &n);
	if (n == 0)
		refuse(ERRCODE_INVALID_PARAMETER_VALUE, "a subscription needs at least one aggregate");
	*hashes = palloc(sizeof(uint32) * n);
	for (int i = 0; i < n; i++)
	{
		EsrsAggregate *agg;

		if (nulls[i])
			refuse(ERRCODE_NULL_VALUE_NOT_ALLOWED, "list of aggregates must not contain nulls");
		agg = esrs_aggregate_lookup_locked(TextDatumGetCString(values[i]), AccessShareLock);
		foreach(lc, result)
		{
			if (strcmp(((EsrsAggregate *) lfirst(lc))->name, agg->name) == 0)
				refuse(ERRCODE_INVALID_PARAMETER_VALUE,
					   psprintf("aggregate \"%s\" is named twice", agg->name));
		}
		esrs_aggregate_check_table_right(agg, ACL_SELECT);
		(*hashes)[i] = agg->hash;
		result = lappend(result, agg);
	}
	return result;
}

/* Note where an event is, and put its present form, if it has one, into the result. */
static bool
put_event(EsrsAggregate *agg, EsrsRecord *record, void *arg)
{
	Reading    *r = (Reading *) arg;
	MemoryContext context;
	MemoryContext before;

	if (r->n == r->size)
	{
		r->size = Max(r->size * 2, 64);
		r->positions = r->positions == NULL ?
			MemoryContextAlloc(r->context, sizeof(int64) * r->size) :
			repalloc_huge(r->positions, sizeof(int64) * r->size);
	}
	r->positions[r->n++] = record->position;
	if (r->store == NULL)
		return true;

	context = AllocSetContextCreate(CurrentMemoryContext, "esrs event row", ALLOCSET_SMALL_SIZES);
	before = MemoryContextSwitchTo(context);
	if (record->deletion && check_enable_rls(agg->events, InvalidOid, true) == RLS_ENABLED)
		record->metadata = NULL;	/* whose it is, row security cannot tell */
	r->call->aggregate = agg->name;
	r->call->aggregate_id = record->aggregate_id;
	if (esrs_event_present(r->call, &agg->routine, record))
	{
		Datum		values[ESRS_EVENT_COLUMNS];
		bool		nulls[ESRS_EVENT_COLUMNS];

		esrs_datum_event_values(agg->name, record, values, nulls);
		tuplestore_putvalues(r->store, r->desc, values, nulls);
		r->shown = r->n;
	}
	MemoryContextSwitchTo(before);
	MemoryContextDelete(context);
	if (r->shown > 0)
		r->counted++;
	r->full = r->n >= r->limit || r->counted >= r->max;
	return !r->full;
}

/*
 * Read a round of events behind the checkpoint.  Returns where it goes when all
 * of them are done with; those behind that must be remembered.
 */
static int64
read_round(Subscription *s, List *aggregates, uint32 *hashes, Reading *r)
{
	EsrsCheckpoint *c = &s->checkpoint;
	EsrsFeedRange range = {.after = c->position,.upto = PG_INT64_MAX,.ahead = c->ahead,
	.max = r->limit};
	int64		safe;

	r->n = r->shown = r->counted = 0;
	r->full = false;

	/* first the bound (once safe is for ever), then, in there, the snapshot */
	safe = esrs_position_safe(hashes, list_length(aggregates));
	safe = Max(safe, s->handed_safe);
	if (s->total || toast_raw_datum_size(c->ahead) > MAX_AHEAD * 2 * sizeof(int64))
		range.upto = safe;
	else if (esrs_position_own_bound() >= 0)	/* our own may be rolled back */
		range.upto = Max(safe, esrs_position_own_bound());
	esrs_feed_read(NULL, aggregates, &range, put_event, r);
	if (r->full)
		safe = Min(safe, r->positions[r->n - 1]);
	return Max(safe, c->position);
}

/* So long after a time: an argument of type interval, or so many seconds for null. */
static TimestampTz
time_arg(FunctionCallInfo fcinfo, int n, TimestampTz from, int64 seconds)
{
	if (PG_ARGISNULL(n))
		return from + seconds * USECS_PER_SEC;
	return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
												   TimestampTzGetDatum(from), PG_GETARG_DATUM(n)));
}

/* May this owner poll now?  False if there is nothing for anybody. */
static bool
may_hand_out(Subscription *s, const char *owner)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!s->active || !s->has_checkpoint)
		return false;
	if (strcmp(s->node, this_node()) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("subscription \"%s\" belongs to another cluster", s->name),
				 errdetail("The database was restored or copied; the original may still be polled."),
				 errhint("To go on here: SELECT esrs_resume_handler('%s').", s->name)));
	if (s->lease_owner != NULL && strcmp(s->lease_owner, owner) != 0 && s->lease_until > now)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("subscription \"%s\" is leased by another consumer", s->name),
				 errdetail("Owner \"%s\" has it until %s.", s->lease_owner,
						   timestamptz_to_str(s->lease_until)),
				 errhint("Wait until then, or poll as the same owner.")));
	return s->checkpoint.retry_at <= now;
}

/* Note what is handed out, and to whom. */
static void
hand_out(Subscription *s, Reading *r, int64 safe, const char *owner, TimestampTz until)
{
	Oid			types[5] = {TEXTOID, INT8ARRAYOID, INT8OID, TEXTOID, TIMESTAMPTZOID};
	Datum		values[5] = {CStringGetTextDatum(s->name),
		esrs_checkpoint_positions(r->positions, r->shown), Int64GetDatum(safe),
		CStringGetTextDatum(owner), TimestampTzGetDatum(until)
	};

	(void) change("UPDATE esrs.checkpoints SET handed ="
				  " (SELECT pg_catalog.range_agg(pg_catalog.int8range(a, a, '[]'))"
				  " FROM pg_catalog.unnest($2) AS a), handed_safe = $3, lease_owner = $4,"
				  " lease_until = $5, retry_at = NULL, updated_at = pg_catalog.clock_timestamp()"
				  " WHERE name OPERATOR(pg_catalog.=) $1", 5, types, values, NULL, SPI_OK_UPDATE);

	/* also what its writer did not want to wait for must be on disk */
	ForceSyncCommit();
}

/* esrs_poll(name, max, lease, owner) returns setof esrs_event */
Datum
esrs_poll(PG_FUNCTION_ARGS)
{
	static const pg_uuid_t no_id = {{0}};
	char	   *name = esrs_register_name_arg(fcinfo, 0, "name of a subscription");
	char	   *owner = PG_ARGISNULL(3) ? "" : esrs_register_text_arg(fcinfo, 3);
	TimestampTz now = GetCurrentTimestamp();
	Reading		r = {.context = CurrentMemoryContext};
	Subscription s;
	EsrsCheckpoint *c = &s.checkpoint;
	List	   *aggregates;
	uint32	   *hashes;
	int64		safe;

	r.max = r.limit = PG_ARGISNULL(1) ? 100 : PG_GETARG_INT32(1);
	if (r.max < 1)
		refuse(ERRCODE_INVALID_PARAMETER_VALUE, "max must be at least 1");
	if (time_arg(fcinfo, 2, now, 30) <= now)
		refuse(ERRCODE_INVALID_PARAMETER_VALUE, "lease must be positive");
	esrs_command_check_writable("esrs_poll()");
	r.store = esrs_arguments_begin_set(fcinfo, &r.desc);
	lock_existing(&s, name, -1);
	if (!may_hand_out(&s, owner))
		return (Datum) 0;
	aggregates = lock_aggregates(s.aggregates, &hashes);

	/* restored without its sequence: new events would be taken for old ones */
	if (Max(c->position, c->last_ahead) > esrs_position_head())
		(void) esrs_extension_raise_position(Max(c->position, c->last_ahead));
	r.call = esrs_call_begin("", &no_id, now, NULL);
	for (;;)
	{
		safe = read_round(&s, aggregates, hashes, &r);
		if (r.shown > 0)
			break;
		if (r.n > 0 || c->attempts > 0 || safe >= c->position + IDLE_STEP ||
			(c->has_ahead && safe > c->position))
			esrs_checkpoint_advance(name, 0, safe, r.positions, r.n);
		if (!r.full)
			break;

		/* all were deprecated, and there may be more */
		r.limit = Max(r.max, SKIP_ROUND);
		(void) esrs_checkpoint_lock(name, 0, true, c);
	}
	esrs_call_end(r.call);
	if (r.shown > 0)
		hand_out(&s, &r, safe, owner, time_arg(fcinfo, 2, GetCurrentTimestamp(), 30));
	else if (s.lease_owner != NULL)
		take_back(&s, 0, DT_NOBEGIN, NULL);
	return (Datum) 0;
}

/* Raise 40001 unless the lease is still this owner's, be it over or not. */
static void
check_lease(Subscription *s, const char *owner)
{
	if (s->lease_owner == NULL || strcmp(s->lease_owner, owner) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("lease on subscription \"%s\" was lost", s->name),
				 s->lease_owner ? errdetail("Owner \"%s\" has it now.", s->lease_owner) :
				 errdetail("Nobody has it now."),
				 errhint("Poll again. Events may come again, so handlers must be idempotent.")));
}

/* esrs_ack(name, up_to, owner) returns void */
Datum
esrs_ack(PG_FUNCTION_ARGS)
{
	char	   *name = esrs_register_name_arg(fcinfo, 0, "name of a subscription");
	Oid			types[4] = {TEXTOID, INT8OID, INT8OID, BOOLOID};
	Datum		values[4] = {CStringGetTextDatum(name)};
	int64		up_to;
	int64		position;
	Subscription s;

	if (PG_ARGISNULL(1))
		refuse(ERRCODE_NULL_VALUE_NOT_ALLOWED, "up_to must not be null");
	up_to = PG_GETARG_INT64(1);
	esrs_command_check_writable("esrs_ack()");
	lock_existing(&s, name, up_to);
	if (up_to <= s.checkpoint.position || s.acknowledged)
		PG_RETURN_VOID();		/* once more */
	check_lease(&s, PG_ARGISNULL(2) ? "" : esrs_register_text_arg(fcinfo, 2));
	if (up_to > s.last_handed)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("position " INT64_FORMAT " was not handed out to subscription \"%s\"",
						up_to, name),
				 errdetail("The last poll went up to position " INT64_FORMAT ".", s.last_handed)));
	position = up_to == s.last_handed ? s.handed_safe : Min(s.handed_safe, up_to);
	values[1] = Int64GetDatum(up_to);
	values[2] = Int64GetDatum(Max(position, s.checkpoint.position));
	values[3] = BoolGetDatum(up_to == s.last_handed);
	(void) change("UPDATE esrs.checkpoints SET position = $3,"
				  " ahead = (ahead OPERATOR(pg_catalog.+) (handed OPERATOR(pg_catalog.*)"
				  " pg_catalog.int8multirange(pg_catalog.int8range(NULL, $2, '(]'))))"
				  " OPERATOR(pg_catalog.*)"
				  " pg_catalog.int8multirange(pg_catalog.int8range($3, NULL, '()')),"
				  " handed = handed OPERATOR(pg_catalog.*)"
				  " pg_catalog.int8multirange(pg_catalog.int8range($2, NULL, '()')),"
				  " handed_safe = CASE WHEN NOT $4 THEN handed_safe END,"
				  " lease_owner = CASE WHEN NOT $4 THEN lease_owner END,"
				  " lease_until = CASE WHEN NOT $4 THEN lease_until END,"
				  " attempts = 0, retry_at = NULL, last_error = NULL,"
				  " updated_at = pg_catalog.clock_timestamp()"
				  " WHERE name OPERATOR(pg_catalog.=) $1", 4, types, values, NULL, SPI_OK_UPDATE);
	PG_RETURN_VOID();
}

/* esrs_nack(name, owner, retry_after, error) returns void */
Datum
esrs_nack(PG_FUNCTION_ARGS)
{
	char	   *name = esrs_register_name_arg(fcinfo, 0, "name of a subscription");
	TimestampTz now = GetCurrentTimestamp();
	Subscription s;

	if (time_arg(fcinfo, 2, now, 0) < now)
		refuse(ERRCODE_INVALID_PARAMETER_VALUE, "retry_after must not be negative");
	esrs_command_check_writable("esrs_nack()");
	lock_existing(&s, name, -1);
	check_lease(&s, PG_ARGISNULL(1) ? "" : esrs_register_text_arg(fcinfo, 1));
	take_back(&s, s.checkpoint.attempts + 1, time_arg(fcinfo, 2, GetCurrentTimestamp(), 0),
			  PG_ARGISNULL(3) ? NULL : PG_GETARG_TEXT_PP(3));
	PG_RETURN_VOID();
}

/*
 * Where a subscription starts: "now", "beginning" or a position.  "now" is exact
 * also while others append: what is visible behind the position goes to "r".
 */
static int64
start_position(const char *start_at, List *aggregates, uint32 *hashes, Reading *r)
{
	EsrsFeedRange range = {.upto = PG_INT64_MAX,.max = PG_INT64_MAX};
	int64		head = esrs_position_head();
	int			digits = strspn(start_at, "0123456789");

	if (strcmp(start_at, "beginning") == 0)
		return 0;
	if (strcmp(start_at, "now") == 0)
	{
		/* first the bound, then, in there, the snapshot */
		range.after = esrs_position_safe(hashes, list_length(aggregates));
		esrs_feed_read(NULL, aggregates, &range, put_event, r);
		return range.after;
	}
	if (digits < 1 || digits > 18 || start_at[digits] != '\0' || atoll(start_at) > head)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for option \"%s\"", "start_at"),
				 errhint("Possible values are: \"now\", \"beginning\", a position up to " INT64_FORMAT ".",
						 head)));
	return atoll(start_at);
}

/* esrs_subscribe(name, aggregates, ordering, start_at) returns void */
Datum
esrs_subscribe(PG_FUNCTION_ARGS)
{
	static const char *const orderings[] = {"aggregate", "total"};
	char	   *name = esrs_register_name_arg(fcinfo, 0, "name of a subscription");
	char	   *ordering = PG_ARGISNULL(2) ? "aggregate" : esrs_register_text_arg(fcinfo, 2);
	char	   *start_at = PG_ARGISNULL(3) ? "now" : esrs_register_text_arg(fcinfo, 3);
	Oid			types[6] = {TEXTOID, TEXTARRAYOID, TEXTOID, TEXTOID, OIDOID, TEXTOID};
	Datum		values[6] = {CStringGetTextDatum(name), PG_GETARG_DATUM(1),
		CStringGetTextDatum(ordering), CStringGetTextDatum(start_at),
		ObjectIdGetDatum(GetUserId()), CStringGetTextDatum(this_node())
	};
	Reading		r = {.context = CurrentMemoryContext};
	List	   *aggregates;
	uint32	   *hashes;
	int64		position;

	esrs_options_check_name(name, "a subscription");
	esrs_options_check_choice("ordering", ordering, orderings, lengthof(orderings));
	if (PG_ARGISNULL(1))
		refuse(ERRCODE_NULL_VALUE_NOT_ALLOWED, "aggregates must not be null");
	esrs_register_begin("esrs_subscribe()");	/* so a name is taken once */
	if (change("SELECT FROM esrs.subscriptions WHERE name OPERATOR(pg_catalog.=) $1 UNION ALL"
			   " SELECT FROM esrs.handlers WHERE name OPERATOR(pg_catalog.=) $1",
			   1, types, values, NULL, SPI_OK_SELECT) > 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("subscription or event handler \"%s\" already exists", name)));
	aggregates = lock_aggregates(PG_GETARG_ARRAYTYPE_P(1), &hashes);
	position = start_position(start_at, aggregates, hashes, &r);
	(void) change("INSERT INTO esrs.subscriptions"
				  " (name, aggregates, ordering, start_at, run_as, node)"
				  " SELECT $1, ARRAY(SELECT pg_catalog.unnest($2)), $3, $4,"
				  " $5::pg_catalog.regrole, $6", 6, types, values, NULL, SPI_OK_INSERT);
	esrs_checkpoint_create(name, 1, position);
	if (r.n > 0)
		esrs_checkpoint_advance(name, 0, position, r.positions, r.n);
	PG_RETURN_VOID();
}

/* esrs_unsubscribe(name) returns void */
Datum
esrs_unsubscribe(PG_FUNCTION_ARGS)
{
	char	   *name = esrs_register_name_arg(fcinfo, 0, "name of a subscription");
	Oid			types[1] = {TEXTOID};
	Datum		values[1] = {CStringGetTextDatum(name)};
	Subscription s;

	esrs_command_check_writable("esrs_unsubscribe()");
	lock_existing(&s, name, -1);
	esrs_checkpoint_delete(name);
	(void) change("DELETE FROM esrs.subscriptions WHERE name OPERATOR(pg_catalog.=) $1",
				  1, types, values, NULL, SPI_OK_DELETE);
	PG_RETURN_VOID();
}
