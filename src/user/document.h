/*-------------------------------------------------------------------------
 *
 * document.h
 *	  Documents as callbacks see them, see document.c.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_USER_DOCUMENT_H
#define ESRS_USER_DOCUMENT_H

#include "postgres.h"

#include "esrs.h"

#include "utils/jsonb.h"

/* Starts as jsonb or as json-c; the other form is made when asked for. */
struct EsrsJson
{
	MemoryContext context;		/* where everything made later lives */
	bool		has_value;
	bool		has_json;
	JsonbValue	value;			/* container or scalar */
	Jsonb	   *jsonb;			/* the whole of it as a datum, or NULL */
	struct json_object *json;	/* borrowed from context */
};

extern EsrsJson *esrs_document_from_jsonb(MemoryContext context, Jsonb *jb);
extern EsrsJson *esrs_document_from_json(MemoryContext context, struct json_object *object);
extern struct json_object *esrs_document_json(EsrsJson *doc);
extern Jsonb *esrs_document_jsonb(EsrsJson *doc);
extern bool esrs_document_get(EsrsJson *doc, const char *key, EsrsJsonKind kind,
							  bool missing_ok, void *result);
extern int	esrs_document_length(EsrsJson *doc);
extern EsrsJson *esrs_document_element(EsrsJson *doc, int index);
extern const char *esrs_document_variant(EsrsJson *doc, EsrsJson **content);
extern char *esrs_document_type(Jsonb *jb, const char *path);

#endif							/* ESRS_USER_DOCUMENT_H */
