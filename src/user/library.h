/*-------------------------------------------------------------------------
 *
 * library.h
 *	  Which build of a shared library it is, see library.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_USER_LIBRARY_H
#define ESRS_USER_LIBRARY_H

#include "postgres.h"

typedef struct EsrsBuildId
{
	uint8		id[64];
	Size		length;			/* 0: there is none */
	uintptr_t	base;			/* where the library is loaded; 0: it is not */
} EsrsBuildId;

extern bool esrs_library_of_code(uintptr_t address, EsrsBuildId *build);
extern bool esrs_library_of_name(const char *name, EsrsBuildId *build);

#endif							/* ESRS_USER_LIBRARY_H */
