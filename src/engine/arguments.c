/*-------------------------------------------------------------------------
 *
 * arguments.c
 *	  Arguments and results that several SQL functions share: checking what
 *	  callers give, and building esrs_result rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "engine/arguments.h"

#include "access/htup_details.h"
#include "base/errors.h"
#include "base/jsonb_codec.h"
#include "catalog/datum.h"
#include "common/jsonapi.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"

static void
must_not_be_null(const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("%s must not be null", what),
			 hint ? errhint("%s", hint) : 0));
}

#define ID_HINT "Generate an id for a new instance, for example with gen_random_uuid()."

/* The name of an aggregate; 22004 if it is null. */
char *
esrs_arguments_aggregate(FunctionCallInfo fcinfo, int n)
{
	if (PG_ARGISNULL(n))
		must_not_be_null("aggregate", NULL);
	return text_to_cstring(PG_GETARG_TEXT_PP(n));
}

/* The id of an instance; 22004 if it is null. */
pg_uuid_t *
esrs_arguments_id(FunctionCallInfo fcinfo, int n)
{
	if (PG_ARGISNULL(n))
		must_not_be_null("aggregate_id", ID_HINT);
	return PG_GETARG_UUID_P(n);
}

/* A command is an object or, for one without data, a string. */
void
esrs_arguments_check_command(Jsonb *command)
{
	if (!esrs_jsonb_is_document(command))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("command must be a JSON object or a string")));
	esrs_jsonb_check_limits(command, "command");
}

void
esrs_arguments_check_metadata(Jsonb *metadata)
{
	if (!esrs_jsonb_is_object(metadata))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("metadata must be a JSON object")));
	esrs_jsonb_check_limits(metadata, "metadata");
}

void
esrs_arguments_check_expected(int32 expected_sequence)
{
	if (expected_sequence < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("expected_sequence must not be negative"),
				 errhint("0 means that the instance must not exist yet.")));
}

/*
 * The six arguments of the functions that handle one command; what they point
 * to is borrowed.
 */
void
esrs_arguments_command(FunctionCallInfo fcinfo, EsrsCommand *command)
{
	memset(command, 0, sizeof(*command));
	command->aggregate = esrs_arguments_aggregate(fcinfo, 0);
	command->aggregate_id = *esrs_arguments_id(fcinfo, 1);
	if (PG_ARGISNULL(2))
		must_not_be_null("command", NULL);
	command->command = PG_GETARG_JSONB_P(2);
	esrs_arguments_check_command(command->command);
	command->has_expected = !PG_ARGISNULL(3);
	if (command->has_expected)
	{
		command->expected_sequence = PG_GETARG_INT32(3);
		esrs_arguments_check_expected(command->expected_sequence);
	}
	if (!PG_ARGISNULL(4))
	{
		command->metadata = PG_GETARG_JSONB_P(4);
		esrs_arguments_check_metadata(command->metadata);
	}
	command->has_command_id = !PG_ARGISNULL(5);
	if (command->has_command_id)
		command->command_id = *PG_GETARG_UUID_P(5);
}

/*
 * The same from an esrs_command, the index-th of an array; pointers are
 * borrowed from it or in the current context.
 */
void
esrs_arguments_command_of_row(Datum row, int index, EsrsCommand *command)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(row);
	Datum		value;
	bool		isnull;

	memset(command, 0, sizeof(*command));
	value = GetAttributeByNum(header, 1, &isnull);
	if (isnull)
		must_not_be_null(psprintf("aggregate of command %d", index), NULL);
	command->aggregate = TextDatumGetCString(value);
	value = GetAttributeByNum(header, 2, &isnull);
	if (isnull)
		must_not_be_null(psprintf("aggregate_id of command %d", index), ID_HINT);
	command->aggregate_id = *DatumGetUUIDP(value);
	value = GetAttributeByNum(header, 3, &isnull);
	if (isnull)
		must_not_be_null(psprintf("command of command %d", index), NULL);
	command->command = DatumGetJsonbP(value);
	esrs_arguments_check_command(command->command);
	value = GetAttributeByNum(header, 4, &isnull);
	command->has_expected = !isnull;
	if (!isnull)
	{
		command->expected_sequence = DatumGetInt32(value);
		esrs_arguments_check_expected(command->expected_sequence);
	}
	value = GetAttributeByNum(header, 5, &isnull);
	if (!isnull)
	{
		command->metadata = DatumGetJsonbP(value);
		esrs_arguments_check_metadata(command->metadata);
	}
	value = GetAttributeByNum(header, 6, &isnull);
	command->has_command_id = !isnull;
	if (!isnull)
		command->command_id = *DatumGetUUIDP(value);
}

/* ------------------------------------------------------------------------
 * Results
 * ------------------------------------------------------------------------
 */

static void
push_key(JsonbParseState **state, const char *key)
{
	JsonbValue	k;

	k.type = jbvString;
	k.val.string.val = (char *) key;
	k.val.string.len = strlen(key);
	pushJsonbValue(state, WJB_KEY, &k);
}

static void
push_string(JsonbParseState **state, const char *key, const char *s)
{
	JsonbValue	v;

	v.type = s ? jbvString : jbvNull;
	if (s != NULL)
	{
		v.val.string.val = (char *) s;
		v.val.string.len = strlen(s);
	}
	push_key(state, key);
	pushJsonbValue(state, WJB_VALUE, &v);
}

/* Is the text a JSON object or array that jsonb takes? */
static bool
is_json_container(const char *text)
{
	JsonLexContext *lex;

	if (text == NULL || (*text != '{' && *text != '['))
		return false;
	lex = makeJsonLexContextCstringLen((char *) text, strlen(text), PG_UTF8, true);
	return pg_parse_json(lex, &nullSemAction) == JSON_SUCCESS;
}

/* {"sqlstate", "name", "message", "detail", "hint"} */
static Jsonb *
rejection_json(const EsrsRejection *rejection)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_string(&state, "sqlstate", unpack_sql_state(ESRS_ERRCODE_REJECTED));
	push_string(&state, "name", rejection->name);
	push_string(&state, "message", rejection->message);
	if (is_json_container(rejection->detail))
	{
		JsonbValue	v;

		esrs_jsonb_root(esrs_jsonb_from_text(rejection->detail), &v);
		push_key(&state, "detail");
		pushJsonbValue(&state, WJB_VALUE, &v);
	}
	else
		push_string(&state, "detail", rejection->detail);
	push_string(&state, "hint", rejection->hint);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/*
 * The columns of esrs_result.  A rejected command shows neither state nor
 * events: whoever may command sees the state that his own command made.
 */
void
esrs_arguments_result_values(const EsrsCommand *command, const EsrsOutcome *outcome,
							 Datum *values, bool *nulls)
{
	bool		ok = outcome->rejection == NULL;

	memset(nulls, 0, sizeof(bool) * ESRS_RESULT_COLUMNS);
	values[0] = BoolGetDatum(ok);
	values[1] = UUIDPGetDatum(&command->aggregate_id);
	values[2] = Int32GetDatum(outcome->sequence_number);
	values[3] = JsonbPGetDatum(outcome->state);
	nulls[3] = outcome->state == NULL;
	values[4] = esrs_datum_event_array(command->aggregate, ok ? outcome->records : NIL);
	nulls[5] = ok;
	values[5] = ok ? (Datum) 0 : JsonbPGetDatum(rejection_json(outcome->rejection));
}

/* Begin a set of rows of the function's declared result type. */
Tuplestorestate *
esrs_arguments_begin_set(FunctionCallInfo fcinfo, TupleDesc *desc)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, get_func_result_type(fcinfo->flinfo->fn_oid, NULL, NULL) ==
						TYPEFUNC_COMPOSITE ? 0 : MAT_SRF_USE_EXPECTED_DESC);
	if (desc != NULL)
		*desc = rsinfo->setDesc;
	return rsinfo->setResult;
}
