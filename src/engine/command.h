/*-------------------------------------------------------------------------
 *
 * command.h
 *	  The path of a command, see command.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_ENGINE_COMMAND_H
#define ESRS_ENGINE_COMMAND_H

#include "postgres.h"

#include "catalog/aggregate.h"
#include "user/event.h"

/* What a caller wants done to an instance. */
typedef struct EsrsCommand
{
	const char *aggregate;
	pg_uuid_t	aggregate_id;
	Jsonb	   *command;
	bool		has_expected;
	int32		expected_sequence;
	Jsonb	   *metadata;		/* or NULL */
	bool		has_command_id;
	pg_uuid_t	command_id;

	bool		catch_rejection;	/* a rejection is an outcome, not an error */
	bool		want_records;	/* fill EsrsOutcome.records */
	bool		locked;			/* the caller has locked the instance */

	/* esrs_command_persist(): the events themselves */
	List	   *events;			/* of Jsonb */
	pg_uuid_t  *event_ids;		/* as many, or NULL */
} EsrsCommand;

/* What came of it; in the context of the caller. */
typedef struct EsrsOutcome
{
	EsrsRejection *rejection;	/* NULL: handled */
	int32		sequence_number;
	Jsonb	   *state;			/* or NULL */
	List	   *records;		/* of EsrsRecord */
} EsrsOutcome;

extern void esrs_command_run(EsrsCommand *command, EsrsOutcome *outcome);
extern void esrs_command_persist(EsrsCommand *command, EsrsOutcome *outcome);
extern uint64 esrs_command_delete(const char *aggregate, const pg_uuid_t *id, bool permanent);
extern void esrs_command_check_writable(const char *function);

#endif							/* ESRS_ENGINE_COMMAND_H */
