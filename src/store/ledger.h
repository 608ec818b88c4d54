/*-------------------------------------------------------------------------
 *
 * ledger.h
 *	  Commands that were seen and instances that were deleted, see ledger.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_STORE_LEDGER_H
#define ESRS_STORE_LEDGER_H

#include "postgres.h"

#include "catalog/aggregate.h"
#include "common/sha2.h"
#include "utils/snapshot.h"

typedef struct EsrsSeenCommand
{
	uint8		sha256[PG_SHA256_DIGEST_LENGTH];
	int32		sequence_number;	/* of the instance after the command */
	int32		nevents;		/* that it brought about */
} EsrsSeenCommand;

extern void esrs_ledger_digest(Jsonb *command, uint8 *sha256);
extern bool esrs_ledger_find_command(EsrsAggregate *agg, const pg_uuid_t *id,
									 const pg_uuid_t *command_id, Snapshot snapshot,
									 EsrsSeenCommand *seen);
extern void esrs_ledger_record_command(EsrsAggregate *agg, const pg_uuid_t *id,
									   const pg_uuid_t *command_id,
									   const EsrsSeenCommand *seen);

extern bool esrs_ledger_is_gone(EsrsAggregate *agg, const pg_uuid_t *id, Snapshot snapshot);
extern uint64 esrs_ledger_delete_events(EsrsAggregate *agg, const pg_uuid_t *id);
extern int64 esrs_ledger_record_deletion(EsrsAggregate *agg, const pg_uuid_t *id,
										 TimestampTz now, int32 last_sequence,
										 bool permanent, Jsonb *metadata);

#endif							/* ESRS_STORE_LEDGER_H */
