/*-------------------------------------------------------------------------
 *
 * jsonb_difference.c
 *	  Where two documents differ.
 *
 * The places are told by their paths, for messages: never by a value.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "base/jsonb_difference.h"

#include "base/jsonb_codec.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/numeric.h"

#define MAX_KEY		60			/* bytes of a key that a path shows */
#define MAX_PATH	200			/* bytes after which a path is broken off */

/* The way to a place: a list from there to the root, on the C stack. */
typedef struct Step
{
	const struct Step *outer;	/* NULL for the root */
	const JsonbValue *key;		/* of a member; NULL: element or root */
	int			index;			/* of an element */
} Step;

typedef struct Comparison
{
	EsrsJsonbDifference *found;
	int			max;
	int64		n;
} Comparison;

/* ------------------------------------------------------------------------
 * Paths
 * ------------------------------------------------------------------------
 */

/* May a path show the key as it is? */
static bool
is_plain(const char *key, int len)
{
	if (len == 0 || len > MAX_KEY || (key[0] >= '0' && key[0] <= '9'))
		return false;
	for (int i = 0; i < len; i++)
		if (!((key[i] >= 'a' && key[i] <= 'z') || (key[i] >= 'A' && key[i] <= 'Z') ||
			  (key[i] >= '0' && key[i] <= '9') || key[i] == '_'))
			return false;
	return true;
}

static void
append_key(StringInfo out, const char *key, int len)
{
	char	   *text;

	if (len > MAX_KEY)
		text = psprintf("%.*s...", pg_mbcliplen(key, len, MAX_KEY), key);
	else
		text = pnstrdup(key, len);
	appendStringInfoChar(out, '.');
	if (is_plain(key, len))
		appendStringInfoString(out, text);
	else
		escape_json(out, text);
	pfree(text);
}

/* Append a path; false if it was broken off. */
static bool
append_path(StringInfo out, const Step *at)
{
	check_stack_depth();
	if (at->outer == NULL)
	{
		appendStringInfoChar(out, '$');
		return true;
	}
	if (!append_path(out, at->outer))
		return false;
	if (out->len > MAX_PATH)
	{
		appendStringInfoString(out, "...");
		return false;
	}
	if (at->key != NULL)
		append_key(out, at->key->val.string.val, at->key->val.string.len);
	else
		appendStringInfo(out, "[%d]", at->index);
	return true;
}

static void
note(Comparison *c, const Step *at, bool in_first, bool in_second)
{
	if (c->n < c->max)
	{
		EsrsJsonbDifference *difference = &c->found[c->n];
		StringInfoData path;

		initStringInfo(&path);
		(void) append_path(&path, at);
		difference->in_first = in_first;
		difference->in_second = in_second;
		difference->path = path.data;
	}
	c->n++;
}

/* ------------------------------------------------------------------------
 * Comparing
 * ------------------------------------------------------------------------
 */
static void compare(Comparison *c, const Step *at, const JsonbValue *first,
					const JsonbValue *second);

/* The order in which jsonb keeps the members of an object. */
static int
compare_keys(const JsonbValue *a, const JsonbValue *b)
{
	if (a->val.string.len != b->val.string.len)
		return a->val.string.len < b->val.string.len ? -1 : 1;
	return memcmp(a->val.string.val, b->val.string.val, a->val.string.len);
}

/* The members of an object, one after the other. */
typedef struct Members
{
	JsonbIterator *it;
	bool		there;
	JsonbValue	key;
	JsonbValue	value;
} Members;

static void
next_member(Members *m)
{
	m->there = JsonbIteratorNext(&m->it, &m->key, true) == WJB_KEY;
	if (m->there)
		(void) JsonbIteratorNext(&m->it, &m->value, true);
}

static void
first_member(Members *m, const JsonbValue *object)
{
	m->it = JsonbIteratorInit(object->val.binary.data);
	(void) JsonbIteratorNext(&m->it, &m->key, true);	/* the beginning */
	next_member(m);
}

static void
compare_objects(Comparison *c, const Step *at, const JsonbValue *first,
				const JsonbValue *second)
{
	Members		a;
	Members		b;

	first_member(&a, first);
	first_member(&b, second);
	while (a.there || b.there)
	{
		int			order = !b.there ? -1 : !a.there ? 1 : compare_keys(&a.key, &b.key);
		Step		step = {.outer = at,.key = order <= 0 ? &a.key : &b.key};

		if (order == 0)
			compare(c, &step, &a.value, &b.value);
		else
			note(c, &step, order < 0, order > 0);
		if (order <= 0)
			next_member(&a);
		if (order >= 0)
			next_member(&b);
	}
}

static void
compare_arrays(Comparison *c, const Step *at, const JsonbValue *first,
			   const JsonbValue *second)
{
	JsonbIterator *a = JsonbIteratorInit(first->val.binary.data);
	JsonbIterator *b = JsonbIteratorInit(second->val.binary.data);
	JsonbValue	x;
	JsonbValue	y;
	bool		in_a = true;
	bool		in_b = true;

	(void) JsonbIteratorNext(&a, &x, true);
	(void) JsonbIteratorNext(&b, &y, true);
	for (int i = 0;; i++)
	{
		Step		step = {.outer = at,.index = i};

		in_a = in_a && JsonbIteratorNext(&a, &x, true) == WJB_ELEM;
		in_b = in_b && JsonbIteratorNext(&b, &y, true) == WJB_ELEM;
		if (!in_a && !in_b)
			break;
		if (in_a && in_b)
			compare(c, &step, &x, &y);
		else
			note(c, &step, in_a, in_b);
	}
}

static bool
same_scalar(const JsonbValue *a, const JsonbValue *b)
{
	if (a->type != b->type)
		return false;
	switch (a->type)
	{
		case jbvNull:
			return true;
		case jbvBool:
			return a->val.boolean == b->val.boolean;
		case jbvString:
			return compare_keys(a, b) == 0;
		case jbvNumeric:
			return DatumGetBool(DirectFunctionCall2(numeric_eq,
													NumericGetDatum(a->val.numeric),
													NumericGetDatum(b->val.numeric)));
		default:
			return false;		/* an object and an array */
	}
}

static void
compare(Comparison *c, const Step *at, const JsonbValue *first, const JsonbValue *second)
{
	check_stack_depth();
	CHECK_FOR_INTERRUPTS();
	if (first->type == jbvBinary && second->type == jbvBinary)
	{
		bool		first_is_object = JsonContainerIsObject(first->val.binary.data);

		if (first_is_object == JsonContainerIsObject(second->val.binary.data))
		{
			if (first_is_object)
				compare_objects(c, at, first, second);
			else
				compare_arrays(c, at, first, second);
			return;
		}
	}
	if (!same_scalar(first, second))
		note(c, at, true, true);
}

/*
 * Find out where two documents differ, as compareJsonbContainers() sees it.
 *
 * Returns the number of places, and the first "max" of them in "found"; their
 * paths are palloc'd in the current context.  What only one document has counts
 * once, however much is in it.  Long keys and long paths are cut, which is shown
 * by "...".
 */
int64
esrs_jsonb_differences(Jsonb *first, Jsonb *second, EsrsJsonbDifference *found, int max)
{
	Comparison	c = {.found = found,.max = max};
	Step		root = {NULL};
	JsonbValue	a;
	JsonbValue	b;

	esrs_jsonb_root(first, &a);
	esrs_jsonb_root(second, &b);
	compare(&c, &root, &a, &b);
	return c.n;
}
