/*-------------------------------------------------------------------------
 *
 * errors.h
 *	  The SQLSTATEs of class ZE, and nothing else.
 *
 * Classes that begin with 0-4 or A-H belong to the SQL standard; ZE does not.
 * Only ESRS_ERRCODE_REJECTED is a rejection: the answer "no" of an aggregate.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_BASE_ERRORS_H
#define ESRS_BASE_ERRORS_H

#include "postgres.h"

#define ESRS_ERRCODE_REJECTED			MAKE_SQLSTATE('Z', 'E', '0', '0', '1')
#define ESRS_ERRCODE_COMMAND_ID_REUSED	MAKE_SQLSTATE('Z', 'E', '0', '0', '2')
#define ESRS_ERRCODE_APPEND_ONLY		MAKE_SQLSTATE('Z', 'E', '0', '0', '3')
#define ESRS_ERRCODE_BAD_EVENT			MAKE_SQLSTATE('Z', 'E', '0', '0', '4')
#define ESRS_ERRCODE_BAD_CALLBACK		MAKE_SQLSTATE('Z', 'E', '0', '0', '5')
#define ESRS_ERRCODE_NESTING			MAKE_SQLSTATE('Z', 'E', '0', '0', '6')
#define ESRS_ERRCODE_DELETED			MAKE_SQLSTATE('Z', 'E', '0', '0', '7')

#endif							/* ESRS_BASE_ERRORS_H */
