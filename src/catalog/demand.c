/*-------------------------------------------------------------------------
 *
 * demand.c
 *	  Does anything in this database need a background worker: asynchronous
 *	  event handlers, or notifications that the worker sends?
 *
 * Every transaction that appends asks, so the answer is kept until one of the
 * catalogs changes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/demand.h"

#include "base/security.h"
#include "base/spi.h"
#include "catalog/extension.h"
#include "config.h"
#include "utils/inval.h"

/* What the catalogs said, if "known". */
static bool known = false;
static bool has_handlers;		/* asynchronous and active */
static bool has_worker_option;	/* an aggregate with notify => 'worker' */
static bool has_no_option;		/* one that follows the setting */

/* The catalogs that were read, and how often they have changed. */
static Oid	catalogs[2] = {InvalidOid, InvalidOid};
static uint64 generation = 1;

static void
relation_changed(Datum arg, Oid relation)
{
	if (!OidIsValid(relation) || relation == catalogs[0] || relation == catalogs[1])
	{
		known = false;
		generation++;
	}
}

/* Register for changes.  Called once, at load. */
void
esrs_demand_init(void)
{
	CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
}

static bool
flag(int column)
{
	bool		isnull;

	return DatumGetBool(esrs_spi_column(0, column, &isnull));
}

static void
look(void)
{
	const EsrsExtension *ext = esrs_extension();
	uint64		seen = generation;
	EsrsIdentity before;

	catalogs[0] = ext->handlers;
	catalogs[1] = ext->aggregates;
	esrs_security_become(&before, ext->owner);
	esrs_spi_begin();
	(void) esrs_spi_select_latest("SELECT EXISTS (SELECT FROM esrs.handlers"
								  " WHERE mode OPERATOR(pg_catalog.=) 'async'"
								  " AND status OPERATOR(pg_catalog.=) 'active'),"
								  " EXISTS (SELECT FROM esrs.aggregates"
								  " WHERE notify OPERATOR(pg_catalog.=) 'worker'),"
								  " EXISTS (SELECT FROM esrs.aggregates WHERE notify IS NULL)",
								  0, NULL, NULL);
	has_handlers = flag(1);
	has_worker_option = flag(2);
	has_no_option = flag(3);
	esrs_spi_end();
	esrs_security_restore(&before);
	known = generation == seen; /* nothing has come in meanwhile */
}

/* Is there something for a worker to do when events are appended? */
bool
esrs_demand_worker(void)
{
	if (!known)
		look();
	return has_handlers || has_worker_option ||
		(has_no_option && esrs_config_notify == ESRS_NOTIFY_WORKER);
}

/* Changes when what was read of handlers and aggregates may not be true any more. */
uint64
esrs_demand_generation(void)
{
	return generation;
}
