/*-------------------------------------------------------------------------
 *
 * mismatch.c
 *	  Handler functions that return something else than a present and complete
 *	  EsrsAggregateRoutine.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "esrs.h"

static bool
emit_command(EsrsCall *call, const void *state, EsrsJson *command)
{
	esrs_emit_json(call, esrs_json(command));
	return true;
}

static void *
keep_state(EsrsCall *call, void *state, const EsrsEvent *event)
{
	return state;
}

static struct json_object *
make_object(EsrsCall *call, const void *state)
{
	return json_object_new_object();
}

/* Built with an esrs.h of another time. */
static const EsrsAggregateRoutine newer_routine = {
	.magic = ESRS_MAGIC,
	.abi_version = ESRS_ABI_VERSION + 1,
	.size = sizeof(EsrsAggregateRoutine),
	.handle_command = emit_command,
	.apply_event = keep_state,
};

ESRS_AGGREGATE_HANDLER(testlib_newer_abi, newer_routine);

static const EsrsAggregateRoutine older_routine = {
	.magic = ESRS_MAGIC,
	.abi_version = ESRS_ABI_VERSION - 1,
	.size = sizeof(EsrsAggregateRoutine),
	.handle_command = emit_command,
	.apply_event = keep_state,
};

ESRS_AGGREGATE_HANDLER(testlib_older_abi, older_routine);

/* Some other struct. */
static const EsrsAggregateRoutine alien_routine = {
	.magic = 0x12345678,
	.abi_version = ESRS_ABI_VERSION,
	.size = sizeof(EsrsAggregateRoutine),
	.handle_command = emit_command,
	.apply_event = keep_state,
};

ESRS_AGGREGATE_HANDLER(testlib_wrong_magic, alien_routine);

/* Sizes that cannot be. */
static const EsrsAggregateRoutine empty_routine = {
	.magic = ESRS_MAGIC,
	.abi_version = ESRS_ABI_VERSION,
	.size = 0,
	.handle_command = emit_command,
	.apply_event = keep_state,
};

ESRS_AGGREGATE_HANDLER(testlib_size_zero, empty_routine);

static const EsrsAggregateRoutine cut_routine = {
	.magic = ESRS_MAGIC,
	.abi_version = ESRS_ABI_VERSION,
	.size = offsetof(EsrsAggregateRoutine, apply_event),
	.handle_command = emit_command,
	.apply_event = keep_state,
};

ESRS_AGGREGATE_HANDLER(testlib_size_cut, cut_routine);

/*
 * An older struct of the same ABI version: it ends after the required members,
 * and what follows it in memory must not be taken for callbacks.
 */
static const struct
{
	uint32		magic;
	uint16		abi_version;
	uint16		size;
	void	   *(*init_state) (EsrsCall *call);
	bool		(*handle_command) (EsrsCall *call, const void *state, EsrsJson *command);
	void	   *(*apply_event) (EsrsCall *call, void *state, const EsrsEvent *event);
	uintptr_t	neighbour[16];
}			short_routine = {

	.magic = ESRS_MAGIC,
	.abi_version = ESRS_ABI_VERSION,
	.size = offsetof(EsrsAggregateRoutine, state_to_json),
	.handle_command = emit_command,
	.apply_event = keep_state,
	.neighbour = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
};

ESRS_AGGREGATE_HANDLER(testlib_short, short_routine);

/*
 * A newer, longer struct of the same ABI version: what this server does not
 * know is not used.
 */
static const struct
{
	EsrsAggregateRoutine known;
	uintptr_t	unknown[4];
}			long_routine = {

	.known = {
		.magic = ESRS_MAGIC,
		.abi_version = ESRS_ABI_VERSION,
		.size = sizeof(EsrsAggregateRoutine) + sizeof(uintptr_t) * 4,
		.handle_command = emit_command,
		.apply_event = keep_state,
	},
	.unknown = {1, 1, 1, 1},
};

ESRS_AGGREGATE_HANDLER(testlib_long, long_routine);

/* Something is missing. */
static const EsrsAggregateRoutine no_handle_routine = {
	ESRS_AGGREGATE_ROUTINE,
	.apply_event = keep_state,
};

ESRS_AGGREGATE_HANDLER(testlib_no_handle, no_handle_routine);

static const EsrsAggregateRoutine no_apply_routine = {
	ESRS_AGGREGATE_ROUTINE,
	.handle_command = emit_command,
};

ESRS_AGGREGATE_HANDLER(testlib_no_apply, no_apply_routine);

static const EsrsAggregateRoutine no_init_routine = {
	ESRS_AGGREGATE_ROUTINE,
	.handle_command = emit_command,
	.apply_event = keep_state,
	.state_to_json = make_object,
};

ESRS_AGGREGATE_HANDLER(testlib_no_init, no_init_routine);

/* No struct at all. */
PG_FUNCTION_INFO_V1(testlib_returns_nothing);
Datum
testlib_returns_nothing(PG_FUNCTION_ARGS)
{
	PG_RETURN_POINTER(NULL);
}

PG_FUNCTION_INFO_V1(testlib_returns_null);
Datum
testlib_returns_null(PG_FUNCTION_ARGS)
{
	PG_RETURN_NULL();
}

PG_FUNCTION_INFO_V1(testlib_raises);
Datum
testlib_raises(PG_FUNCTION_ARGS)
{
	ereport(ERROR,
			(errcode(ERRCODE_CONFIG_FILE_ERROR),
			 errmsg("library is not configured")));
	PG_RETURN_NULL();
}
