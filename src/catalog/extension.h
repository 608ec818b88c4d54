/*-------------------------------------------------------------------------
 *
 * extension.h
 *	  Where the extension's own objects are, see extension.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_CATALOG_EXTENSION_H
#define ESRS_CATALOG_EXTENSION_H

#include "postgres.h"

typedef struct EsrsExtension
{
	bool		valid;
	Oid			oid;
	Oid			schema;			/* that CREATE EXTENSION chose */
	Oid			internals;		/* schema esrs */
	Oid			owner;			/* of the catalogs */
	Oid			aggregates;
	Oid			handlers;
	Oid			commands;
	Oid			deletions;
	Oid			position_seq;
	Oid			next_position;	/* the function */
	Oid			append_only;	/* the guard's function */
	Oid			handler_type;	/* esrs.aggregate_handler */
	Oid			event_type;
	Oid			event_array_type;
	Oid			state_type;
	Oid			result_type;
	Oid			command_type;
} EsrsExtension;

extern const EsrsExtension *esrs_extension(void);
extern bool esrs_extension_is_valid(void);
extern bool esrs_extension_raise_position(int64 at_least);
extern bool esrs_extension_try_lock(void);
extern void esrs_extension_invalidate(Oid relation);

#endif							/* ESRS_CATALOG_EXTENSION_H */
