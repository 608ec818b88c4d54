/*-------------------------------------------------------------------------
 *
 * metadata.h
 *	  The metadata of events, see metadata.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_ENGINE_METADATA_H
#define ESRS_ENGINE_METADATA_H

#include "postgres.h"

#include "engine/command.h"

extern Jsonb *esrs_metadata_complete(EsrsCommand *command);

#endif							/* ESRS_ENGINE_METADATA_H */
