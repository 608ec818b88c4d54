/*-------------------------------------------------------------------------
 *
 * routine.h
 *	  What an aggregate can do: its callbacks, of either kind, see routine.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_USER_ROUTINE_H
#define ESRS_USER_ROUTINE_H

#include "postgres.h"

#include "esrs.h"

#include "user/function.h"
#include "utils/jsonb.h"

typedef enum EsrsKind
{
	ESRS_KIND_STORE,			/* no logic: events are persisted, not decided */
	ESRS_KIND_SQL,				/* functions callable from SQL */
	ESRS_KIND_C					/* an EsrsAggregateRoutine */
} EsrsKind;

/* The callbacks in the order in which registration names them. */
typedef enum EsrsCallback
{
	ESRS_CALLBACK_HANDLER,
	ESRS_CALLBACK_HANDLE_COMMAND,
	ESRS_CALLBACK_APPLY_EVENT,
	ESRS_CALLBACK_UPCAST,
	ESRS_CALLBACK_FROM_EVENT,
	ESRS_CALLBACK_TO_EVENT
} EsrsCallback;

#define ESRS_CALLBACK_COUNT		6

typedef struct EsrsRoutine
{
	EsrsKind	kind;
	EsrsAggregateRoutine c;		/* kind C: a copy, padded with zeros */
	EsrsFunction functions[ESRS_CALLBACK_COUNT];
	Jsonb	   *initial_state;	/* or NULL: an empty object */
	bool		has_version;
	int32		event_version;
	char	   *event_type_path;
} EsrsRoutine;

extern const char *const esrs_callback_names[ESRS_CALLBACK_COUNT];

extern void esrs_routine_check_function(EsrsCallback callback, Oid function,
										Oid handler_type);
extern void esrs_routine_load_c(EsrsRoutine *routine);
extern Oid	esrs_routine_deciding_function(const EsrsRoutine *routine);

#endif							/* ESRS_USER_ROUTINE_H */
