/*-------------------------------------------------------------------------
 *
 * init.c
 *	  _PG_init: what happens when the library is loaded, and nothing else.
 *
 * The library needs no preloading: it is loaded by the first function of esrs
 * that a session calls, also by the default of an events table's column.
 * Preloaded, it brings background workers up with the server.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "esrs.h"

#include "base/redirect.h"
#include "catalog/aggregate.h"
#include "catalog/demand.h"
#include "compat.h"
#include "config.h"
#include "engine/snapshots.h"
#include "handler/consumer.h"
#include "handler/transactional.h"
#include "signal/notify.h"
#include "signal/slots.h"
#include "signal/wakeup.h"
#include "user/call.h"
#include "user/expression.h"
#include "worker/launcher.h"

PG_MODULE_MAGIC;

void
_PG_init(void)
{
	esrs_config_define();
	esrs_call_publish_api();
	esrs_aggregate_init();
	esrs_demand_init();
	esrs_slots_init();
	esrs_wakeup_init();
	esrs_transactional_init();
	esrs_consumer_init();
	esrs_notify_init();
	esrs_snapshots_init();
	esrs_launcher_init();
	esrs_redirect_init();
	esrs_expression_init();
}
