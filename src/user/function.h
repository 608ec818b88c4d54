/*-------------------------------------------------------------------------
 *
 * function.h
 *	  SQL-callable functions of users, see function.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_USER_FUNCTION_H
#define ESRS_USER_FUNCTION_H

#include "postgres.h"

#include "fmgr.h"
#include "utils/acl.h"

typedef struct EsrsExpression EsrsExpression;

/* A function that is ready to be called, or none if oid is InvalidOid. */
typedef struct EsrsFunction
{
	Oid			oid;
	uint32		hash;			/* of its entry in the syscache */
	bool		returns_set;
	MemoryContext parent;		/* where the FmgrInfo may live */
	MemoryContext context;		/* of finfo */
	FmgrInfo   *finfo;			/* NULL: not looked up, or spoilt by an error */
	bool		busy;			/* a call of it is in progress */
	bool		sql;			/* LANGUAGE sql */
	bool		resolved;		/* and its body is not text */
	EsrsExpression *expression; /* of such a one, see expression.c; or NULL */
	uint64		epoch;			/* in which finfo was made, for sql */
} EsrsFunction;

/* What a function must look like to be a certain callback. */
typedef struct EsrsSignature
{
	const char *what;			/* "handle_command" ... */
	const char *wanted;			/* for the DETAIL of an error */
	int			nargs;
	Oid			args[2];
	Oid			result;			/* InvalidOid: anything */
	Oid			set_result;		/* also allowed as a set; InvalidOid: no set */
} EsrsSignature;

extern Oid	esrs_function_parse(const char *signature);
extern Oid	esrs_function_find(const char *signature);
extern char *esrs_function_signature(Oid function);
extern Oid	esrs_function_owner(Oid function);
extern bool esrs_function_is_trusted(Oid function, Oid role);
extern void esrs_function_check(Oid function, const EsrsSignature *wanted);
extern bool esrs_handler_check(Oid function, Oid event_type, Oid event_array_type);
extern void esrs_handler_check_delete(Oid function);
extern Oid	esrs_handler_find(const char *signature, Oid event_type, Oid event_array_type,
							  bool *set_based);
extern Oid	esrs_handler_find_delete(const char *signature);
extern void esrs_function_init(EsrsFunction *function, Oid oid, MemoryContext parent);
extern uint64 esrs_function_enter_epoch(uint64 epoch);
extern uint64 esrs_function_new_epoch(void);
extern Datum esrs_function_call(EsrsFunction *function, MemoryContext scratch,
								int nargs, NullableDatum *args, bool *isnull);
extern void esrs_function_call_set(EsrsFunction *function, MemoryContext scratch,
								   int nargs, NullableDatum *args,
								   void (*row) (Datum value, bool isnull, void *arg),
								   void *arg);

#endif							/* ESRS_USER_FUNCTION_H */
