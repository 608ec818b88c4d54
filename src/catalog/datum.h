/*-------------------------------------------------------------------------
 *
 * datum.h
 *	  Values of the composite types esrs_event and esrs_state, see datum.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_CATALOG_DATUM_H
#define ESRS_CATALOG_DATUM_H

#include "postgres.h"

#include "nodes/pg_list.h"
#include "user/event.h"

extern void esrs_datum_event_values(const char *aggregate, const EsrsRecord *record,
									Datum *values, bool *nulls);
extern Datum esrs_datum_event(const char *aggregate, const EsrsRecord *record);
extern Datum esrs_datum_array_of_events(Datum *events, int n);
extern Datum esrs_datum_event_array(const char *aggregate, List *records);
extern void esrs_datum_read_event(Datum event, EsrsRecord *record);
extern Datum esrs_datum_state(const pg_uuid_t *id, int32 sequence_number, Jsonb *state);

#define ESRS_EVENT_COLUMNS	9

#endif							/* ESRS_CATALOG_DATUM_H */
