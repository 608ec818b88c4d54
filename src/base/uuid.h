/*-------------------------------------------------------------------------
 *
 * uuid.h
 *	  Generating and writing UUIDs, see uuid.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_BASE_UUID_H
#define ESRS_BASE_UUID_H

#include "postgres.h"

#include "datatype/timestamp.h"
#include "utils/uuid.h"

#define ESRS_UUID_TEXT_SIZE		37	/* with the terminating NUL */

extern void esrs_uuid_v4(pg_uuid_t *uuid);
extern void esrs_uuid_v7(pg_uuid_t *uuid, TimestampTz now);
extern char *esrs_uuid_text(const pg_uuid_t *uuid);
extern bool esrs_uuid_equal(const pg_uuid_t *a, const pg_uuid_t *b);

#endif							/* ESRS_BASE_UUID_H */
