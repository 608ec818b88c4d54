/*-------------------------------------------------------------------------
 *
 * arguments.h
 *	  Arguments and results that several SQL functions share, see
 *	  arguments.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_ENGINE_ARGUMENTS_H
#define ESRS_ENGINE_ARGUMENTS_H

#include "postgres.h"

#include "esrs.h"

#include "engine/command.h"
#include "utils/tuplestore.h"

extern char *esrs_arguments_aggregate(FunctionCallInfo fcinfo, int n);
extern pg_uuid_t *esrs_arguments_id(FunctionCallInfo fcinfo, int n);
extern void esrs_arguments_check_command(Jsonb *command);
extern void esrs_arguments_check_metadata(Jsonb *metadata);
extern void esrs_arguments_check_expected(int32 expected_sequence);
extern void esrs_arguments_command(FunctionCallInfo fcinfo, EsrsCommand *command);
extern void esrs_arguments_command_of_row(Datum row, int index, EsrsCommand *command);

extern void esrs_arguments_result_values(const EsrsCommand *command,
										 const EsrsOutcome *outcome,
										 Datum *values, bool *nulls);
extern Tuplestorestate *esrs_arguments_begin_set(FunctionCallInfo fcinfo, TupleDesc *desc);

#define ESRS_RESULT_COLUMNS		6

#endif							/* ESRS_ENGINE_ARGUMENTS_H */
