/*-------------------------------------------------------------------------
 *
 * definition.h
 *	  What users' functions are made of, see definition.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_USER_DEFINITION_H
#define ESRS_USER_DEFINITION_H

#include "postgres.h"

#include "user/routine.h"

#define ESRS_FINGERPRINT_LENGTH	32	/* SHA-256 */

extern Oid	esrs_definition_unpinned(Oid function);
extern bool esrs_definition_all_pinned(const EsrsRoutine *routine);
extern bool esrs_definition_fingerprint(const EsrsRoutine *routine, const void *salt,
										Size salt_length, uint8 *fingerprint);

#endif							/* ESRS_USER_DEFINITION_H */
