/*-------------------------------------------------------------------------
 *
 * callback.h
 *	  Calling the callbacks of an aggregate, of either kind, see callback.c and,
 *	  for the forms of a payload, callback_form.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_USER_CALLBACK_H
#define ESRS_USER_CALLBACK_H

#include "postgres.h"

#include "user/call.h"
#include "user/routine.h"

/* The state of one instance, in whichever form its aggregate keeps it. */
typedef struct EsrsState
{
	MemoryContext context;		/* lives as long as the state */
	Jsonb	   *jsonb;			/* kind SQL */
	void	   *value;			/* kind C with state_to_json */
	EsrsJsonOwner *json;		/* kind C without */
} EsrsState;

extern EsrsState *esrs_callback_init_state(EsrsCall *call, EsrsRoutine *routine,
										   MemoryContext parent);
extern void esrs_callback_apply(EsrsCall *call, EsrsRoutine *routine, EsrsState *state,
								const EsrsEvent *event);
extern Jsonb *esrs_callback_state_json(EsrsCall *call, EsrsRoutine *routine,
									   EsrsState *state);
extern bool esrs_callback_can_restore(const EsrsRoutine *routine);
extern EsrsState *esrs_callback_restore_state(EsrsCall *call, EsrsRoutine *routine,
											  Jsonb *json, MemoryContext parent);
extern Size esrs_callback_state_size(const EsrsState *state);
extern EsrsRejection *esrs_callback_decide(EsrsCall *call, EsrsRoutine *routine,
										   EsrsState *state, Jsonb *command,
										   bool catch_rejection, List **events);
extern EsrsJson *esrs_callback_present_form(EsrsCall *call, EsrsRoutine *routine,
											Jsonb *stored, int32 version);
extern Jsonb *esrs_callback_stored_form(EsrsCall *call, EsrsRoutine *routine,
										Jsonb *event);

extern void esrs_callback_check_form(EsrsCall *call, EsrsRoutine *routine, Jsonb *event,
									 Jsonb *stored, int32 version);

extern void esrs_rejection_raise(const EsrsRejection *rejection) pg_attribute_noreturn();

#endif							/* ESRS_USER_CALLBACK_H */
