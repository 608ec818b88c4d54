/*-------------------------------------------------------------------------
 *
 * jsonb_codec.h
 *	  Exact conversion between jsonb and json-c, see jsonb_codec.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_BASE_JSONB_CODEC_H
#define ESRS_BASE_JSONB_CODEC_H

#include "postgres.h"

#include "lib/stringinfo.h"
#include "utils/jsonb.h"

struct json_object;

extern struct json_object *esrs_jsonb_to_json(JsonbValue *value, MemoryContext owner);
extern Jsonb *esrs_json_to_jsonb(struct json_object *object);

extern void esrs_jsonb_root(Jsonb *jb, JsonbValue *value);
extern Jsonb *esrs_jsonb_copy(Jsonb *jb);
extern Jsonb *esrs_jsonb_from_text(const char *text);
extern Jsonb *esrs_jsonb_parse(const char *text);
extern bool esrs_jsonb_is_object(Jsonb *jb);
extern bool esrs_jsonb_is_document(Jsonb *jb);
extern bool esrs_jsonb_equal(Jsonb *a, Jsonb *b);
extern void esrs_jsonb_append(StringInfo out, Jsonb *jb);
extern void esrs_jsonb_check_limits(Jsonb *jb, const char *what);
extern char *esrs_jsonb_number_text(const JsonbValue *value);

#endif							/* ESRS_BASE_JSONB_CODEC_H */
