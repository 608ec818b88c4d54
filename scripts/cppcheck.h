/*
 * cppcheck.h
 *	  What cppcheck must know of PostgreSQL's macros to follow our code; it does
 *	  not read PostgreSQL's headers.  Given to it by scripts/check, and to
 *	  nobody else.
 */
#ifndef ESRS_CPPCHECK_H
#define ESRS_CPPCHECK_H

#define PG_VERSION_NUM 150000

/* from ERROR upwards an error does not return */
#define LOG 15
#define INFO 17
#define NOTICE 18
#define WARNING 19
#define ERROR 21
#define FATAL 22
#define PANIC 23
#define ereport(elevel, ...) do { if ((elevel) >= ERROR) abort(); } while (0)
#define elog(elevel, ...) do { if ((elevel) >= ERROR) abort(); } while (0)
#define Assert(condition) do { if (!(condition)) abort(); } while (0)
#define pg_unreachable() abort()
#define pg_attribute_noreturn() __attribute__((noreturn))
#define pg_attribute_printf(f, a)
#define pg_attribute_unused()
#define pg_attribute_always_inline

#define foreach(cell, list) \
	for (cell = list_head(list); cell != NULL; cell = lnext(list, cell))
#define lengthof(array) (sizeof(array) / sizeof((array)[0]))

#endif							/* ESRS_CPPCHECK_H */
