/*-------------------------------------------------------------------------
 *
 * config.h
 *	  The settings esrs.*, see config.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_CONFIG_H
#define ESRS_CONFIG_H

#include "postgres.h"

/* When NOTIFY is sent; also the option "notify" of an aggregate. */
typedef enum EsrsNotifyMode
{
	ESRS_NOTIFY_OFF,
	ESRS_NOTIFY_COMMIT,
	ESRS_NOTIFY_WORKER
} EsrsNotifyMode;

/* What NOTIFY carries; also the option "notify_payload" of an aggregate. */
typedef enum EsrsNotifyPayload
{
	ESRS_PAYLOAD_REFERENCE,
	ESRS_PAYLOAD_EVENT
} EsrsNotifyPayload;

/* Greatest value of esrs.max_workers. */
#define ESRS_WORKERS_LIMIT	8

extern bool esrs_config_direct_append;
extern int	esrs_config_max_json_depth;
extern int	esrs_config_max_nesting;
extern int	esrs_config_max_payload_size;	/* kilobytes */
extern int	esrs_config_max_workers;
extern int	esrs_config_notify;
extern int	esrs_config_notify_payload;
extern int	esrs_config_poll_interval;	/* milliseconds */
extern int	esrs_config_state_cache_size;	/* kilobytes */
extern int	esrs_config_worker_idle_timeout;	/* milliseconds; 0: never */

extern void esrs_config_define(void);

#endif							/* ESRS_CONFIG_H */
