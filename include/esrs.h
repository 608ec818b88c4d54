/*-------------------------------------------------------------------------
 *
 * esrs.h
 *	  Interface between esrs and libraries that implement aggregates in C.
 *
 * A library defines a constant EsrsAggregateRoutine and a handler function
 * that returns it:
 *
 *		static const EsrsAggregateRoutine book_routine = {
 *			ESRS_AGGREGATE_ROUTINE,
 *			.init_state = book_init,
 *			.handle_command = book_handle,
 *			.apply_event = book_apply,
 *		};
 *		ESRS_AGGREGATE_HANDLER(book_aggregate, book_routine);
 *
 * The rules of memory, in five sentences:
 *
 * 1. What a callback is given is borrowed: valid until it returns, never
 *	  kept, never changed (but for the state in apply_event).
 * 2. init_state and apply_event run with CurrentMemoryContext set to the
 *	  instance's context, which lives as long as the state; every other
 *	  callback runs in the call's context, which is emptied after the call.
 * 3. JSON made with json-c in a callback belongs to the call until it is
 *	  attached to other JSON, emitted or returned; what is left over is
 *	  released, also after an error.
 * 4. handle_command says "no" with esrs_reject(); ereport(ERROR) is for
 *	  technical faults.
 * 5. Aggregate callbacks use no SPI, no transaction control, no signal
 *	  handlers and no threads.
 *
 * This file must be included before utils/builtins.h.  It must not refer to
 * any symbol of esrs.so: a library reaches esrs through a table of functions
 * behind a rendezvous variable, so it has no undefined symbol and may be
 * loaded before esrs.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ESRS_H
#define ESRS_H

#include "fmgr.h"
#include "datatype/timestamp.h"
#include "utils/uuid.h"

/*
 * PostgreSQL declares a function json_object() and json-c a type of that
 * name.  Nobody calls the function from C, so it is renamed while its
 * declaration is read.
 */
#ifdef FMGRPROTOS_H
#error "esrs.h must be included before utils/builtins.h and utils/fmgrprotos.h"
#endif
#define json_object pg_json_object
#include "utils/fmgrprotos.h"
#undef json_object
#include <json-c/json.h>

#define ESRS_MAGIC			0x45535253	/* "ESRS" */
#define ESRS_ABI_VERSION	1
#define ESRS_NO_VERSION		PG_INT32_MIN	/* the column "version" is null */

/* The call in progress; opaque. */
typedef struct EsrsCall EsrsCall;

/*
 * A document, or a part of one, that a callback is given: the stored jsonb,
 * and json-c objects made from it when esrs_json() first asks for them.
 * Opaque; the typed getters below read the jsonb without building anything.
 */
typedef struct EsrsJson EsrsJson;

/* One stored event as a callback sees it.  Members may be appended. */
typedef struct EsrsEvent
{
	pg_uuid_t	id;
	pg_uuid_t	aggregate_id;
	int32		sequence_number;
	int32		version;		/* or ESRS_NO_VERSION */
	TimestampTz occurred_on;
	EsrsJson   *payload;		/* today's form: after upcast and to_event */
} EsrsEvent;

/*
 * What a library implements.  Members may be appended without a new
 * ESRS_ABI_VERSION; a library built with a shorter struct gets NULL for them.
 */
typedef struct EsrsAggregateRoutine
{
	/* these three are set by ESRS_AGGREGATE_ROUTINE */
	uint32		magic;
	uint16		abi_version;
	uint16		size;

	/*
	 * Make the state of an instance without events.  NULL: the state is JSON
	 * and starts as {}.
	 */
	void	   *(*init_state) (EsrsCall *call);

	/*
	 * Decide.  Returns true with any number of events emitted, or the false
	 * that esrs_reject() returns.  Required.
	 */
	bool		(*handle_command) (EsrsCall *call, const void *state, EsrsJson *command);

	/*
	 * Change the state by one event and return it, or a new one.  Required.
	 * Must not fail for an event that is stored.
	 */
	void	   *(*apply_event) (EsrsCall *call, void *state, const EsrsEvent *event);

	/*
	 * The state as JSON, for results.  NULL: the state is a struct
	 * json_object.
	 */
	struct json_object *(*state_to_json) (EsrsCall *call, const void *state);

	/* The state from what state_to_json made.  Kept for snapshots. */
	void	   *(*state_from_json) (EsrsCall *call, struct json_object *json);

	/* Written to the column "version" of each new event, if has_version. */
	bool		has_version;
	int32		event_version;

	/*
	 * The payload of an older version in today's stored form.  NULL leaves
	 * the event out of folds and handlers; its number is kept.
	 */
	struct json_object *(*upcast) (EsrsCall *call, struct json_object *payload, int32 version);

	/*
	 * New event -> stored form, and stored form -> event; NULL members mean
	 * that both are the same.  to_event may return NULL as upcast may.
	 */
	struct json_object *(*from_event) (EsrsCall *call, struct json_object *event);
	struct json_object *(*to_event) (EsrsCall *call, struct json_object *payload);
} EsrsAggregateRoutine;

#define ESRS_AGGREGATE_ROUTINE \
	.magic = ESRS_MAGIC, .abi_version = ESRS_ABI_VERSION, \
	.size = sizeof(EsrsAggregateRoutine)

/* Define the handler function that CREATE FUNCTION names. */
#define ESRS_AGGREGATE_HANDLER(name, routine) \
	PG_FUNCTION_INFO_V1(name); \
	Datum \
	name(PG_FUNCTION_ARGS) \
	{ \
		PG_RETURN_POINTER(&(routine)); \
	} \
	extern int	no_such_variable

/* What a typed getter wants to find. */
typedef enum EsrsJsonKind
{
	ESRS_JSON_INT64,
	ESRS_JSON_DOUBLE,
	ESRS_JSON_NUMBER,
	ESRS_JSON_BOOL,
	ESRS_JSON_STRING,
	ESRS_JSON_OBJECT,
	ESRS_JSON_ARRAY,
	ESRS_JSON_ANY
} EsrsJsonKind;

/*
 * What esrs offers, behind the rendezvous variable "esrs_api".  Functions may
 * be appended; use the inline functions below instead of the table.
 */
typedef struct EsrsApi
{
	uint16		abi_version;
	uint16		size;
	struct json_object *(*json_track) (struct json_object *obj);
	bool		(*json_untrack) (struct json_object *obj);
	int			(*json_attached) (int rc, struct json_object *child);
	struct json_object *(*json_parse) (const char *text);
	struct json_object *(*json) (EsrsJson *doc);
	const struct varlena *(*json_raw) (EsrsJson *doc);
	bool		(*json_get) (EsrsJson *doc, const char *key, EsrsJsonKind kind,
							 bool missing_ok, void *result);
	int			(*json_length) (EsrsJson *doc);
	EsrsJson   *(*json_element) (EsrsJson *doc, int index);
	const char *(*json_variant) (EsrsJson *doc, EsrsJson **content);
	void		(*emit) (EsrsCall *call, struct json_object *event);
	bool		(*reject) (EsrsCall *call, const char *name, const char *message);
	struct json_object *(*reject_detail) (EsrsCall *call);
	const pg_uuid_t *(*aggregate_id) (EsrsCall *call);
	EsrsJson   *(*metadata) (EsrsCall *call);
	TimestampTz (*now) (EsrsCall *call);
} EsrsApi;

static inline const EsrsApi *
esrs_api(void)
{
	static const EsrsApi *api = NULL;

	if (api == NULL)
	{
		const EsrsApi *found = *(const EsrsApi **) find_rendezvous_variable("esrs_api");

		if (found == NULL || found->abi_version != ESRS_ABI_VERSION ||
			found->size < sizeof(EsrsApi))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("esrs is not loaded, or is older than the library that calls it"),
					 errhint("Install the version of esrs that the library was built for.")));
		api = found;
	}
	return api;
}

/* ------------------------------------------------------------------------
 * Reading documents.  A key of NULL means the document itself.
 *
 * The getters raise 22023 naming the key, never its value, when the member is
 * missing or of another type; those named esrs_json_opt_* return the given
 * default when it is missing or null.  A document that is NULL is read as JSON
 * null.
 * ------------------------------------------------------------------------
 */

/* The document as json-c: built once, borrowed, must not be changed. */
static inline struct json_object *
esrs_json(EsrsJson *doc)
{
	return esrs_api()->json(doc);
}

/* The document as jsonb, for PostgreSQL's own functions: borrowed. */
static inline const struct varlena *
esrs_json_raw(EsrsJson *doc)
{
	return esrs_api()->json_raw(doc);
}

/* An integer; a number with a fraction or out of range is an error. */
static inline int64
esrs_json_int64(EsrsJson *doc, const char *key)
{
	int64		result = 0;

	esrs_api()->json_get(doc, key, ESRS_JSON_INT64, false, &result);
	return result;
}

static inline int64
esrs_json_opt_int64(EsrsJson *doc, const char *key, int64 otherwise)
{
	int64		result = 0;

	return esrs_api()->json_get(doc, key, ESRS_JSON_INT64, true, &result) ? result : otherwise;
}

/* The nearest double. */
static inline double
esrs_json_double(EsrsJson *doc, const char *key)
{
	double		result = 0;

	esrs_api()->json_get(doc, key, ESRS_JSON_DOUBLE, false, &result);
	return result;
}

/* A number's exact text, in the call's context. */
static inline const char *
esrs_json_number(EsrsJson *doc, const char *key)
{
	const char *result = NULL;

	esrs_api()->json_get(doc, key, ESRS_JSON_NUMBER, false, &result);
	return result;
}

static inline bool
esrs_json_bool(EsrsJson *doc, const char *key)
{
	bool		result = false;

	esrs_api()->json_get(doc, key, ESRS_JSON_BOOL, false, &result);
	return result;
}

static inline bool
esrs_json_opt_bool(EsrsJson *doc, const char *key, bool otherwise)
{
	bool		result = false;

	return esrs_api()->json_get(doc, key, ESRS_JSON_BOOL, true, &result) ? result : otherwise;
}

/* A string, NUL-terminated, in the call's context. */
static inline const char *
esrs_json_string(EsrsJson *doc, const char *key)
{
	const char *result = NULL;

	esrs_api()->json_get(doc, key, ESRS_JSON_STRING, false, &result);
	return result;
}

static inline const char *
esrs_json_opt_string(EsrsJson *doc, const char *key, const char *otherwise)
{
	const char *result = NULL;

	return esrs_api()->json_get(doc, key, ESRS_JSON_STRING, true, &result) ? result : otherwise;
}

/* A member that is an object, or an array, as a document of its own. */
static inline EsrsJson *
esrs_json_object(EsrsJson *doc, const char *key)
{
	EsrsJson   *result = NULL;

	esrs_api()->json_get(doc, key, ESRS_JSON_OBJECT, false, &result);
	return result;
}

static inline EsrsJson *
esrs_json_array(EsrsJson *doc, const char *key)
{
	EsrsJson   *result = NULL;

	esrs_api()->json_get(doc, key, ESRS_JSON_ARRAY, false, &result);
	return result;
}

/* A member of any type, or NULL if there is none or it is null. */
static inline EsrsJson *
esrs_json_member(EsrsJson *doc, const char *key)
{
	EsrsJson   *result = NULL;

	return esrs_api()->json_get(doc, key, ESRS_JSON_ANY, true, &result) ? result : NULL;
}

/* Number of elements of an array; 22023 for anything else. */
static inline int
esrs_json_length(EsrsJson *doc)
{
	return esrs_api()->json_length(doc);
}

/* Element of an array, counted from 0; 22023 if there is none. */
static inline EsrsJson *
esrs_json_element(EsrsJson *doc, int index)
{
	return esrs_api()->json_element(doc, index);
}

/*
 * Take an externally tagged document apart: {"Buy": {...}} gives "Buy" and its
 * content, "Close" gives "Close" and NULL.  Anything else is 22023.
 */
static inline const char *
esrs_json_variant(EsrsJson *doc, EsrsJson **content)
{
	return esrs_api()->json_variant(doc, content);
}

/*
 * Parse text as PostgreSQL parses jsonb: exact numbers, no NUL, no surrogates
 * alone.  The result belongs to the call.  json_tokener must not be used: it
 * changes numbers silently.
 */
static inline struct json_object *
esrs_json_parse(const char *text)
{
	return esrs_api()->json_parse(text);
}

/* ------------------------------------------------------------------------
 * Deciding
 * ------------------------------------------------------------------------
 */

/* Emit an event that is any JSON: an object, or a string (a unit variant). */
static inline void
esrs_emit_json(EsrsCall *call, struct json_object *event)
{
	esrs_api()->emit(call, event);
}

/* Emit {} and return it, to be filled. */
static inline struct json_object *
esrs_emit(EsrsCall *call)
{
	struct json_object *event = esrs_api()->json_track(json_object_new_object());

	esrs_api()->emit(call, event);
	return event;
}

/* Emit {"type": {}} and return the inner object, to be filled. */
static inline struct json_object *
esrs_emit_variant(EsrsCall *call, const char *type)
{
	struct json_object *event = esrs_emit(call);
	struct json_object *content = esrs_api()->json_track(json_object_new_object());

	esrs_api()->json_attached(json_object_object_add(event, type, content), content);
	return content;
}

/* Reject the command.  The name identifies the rejection, for programs. */
static inline bool esrs_reject(EsrsCall *call, const char *name, const char *fmt,...) pg_attribute_printf(3, 4);

static inline bool
esrs_reject(EsrsCall *call, const char *name, const char *fmt,...)
{
	char		buffer[1024];
	va_list		args;

	va_start(args, fmt);
	vsnprintf(buffer, sizeof(buffer), fmt, args);
	va_end(args);
	return esrs_api()->reject(call, name, buffer);
}

/* The rejection's detail, an empty object to fill.  Call esrs_reject() first. */
static inline struct json_object *
esrs_reject_detail(EsrsCall *call)
{
	return esrs_api()->reject_detail(call);
}

/* The instance that the call is about. */
static inline const pg_uuid_t *
esrs_aggregate_id(EsrsCall *call)
{
	return esrs_api()->aggregate_id(call);
}

/* What the caller passed as metadata; NULL if nothing. */
static inline EsrsJson *
esrs_metadata(EsrsCall *call)
{
	return esrs_api()->metadata(call);
}

/* The time that the events of this command carry as occurred_on. */
static inline TimestampTz
esrs_now(EsrsCall *call)
{
	return esrs_api()->now(call);
}

/* ------------------------------------------------------------------------
 * Tracked json-c.
 *
 * An object made in a callback belongs to the call until it is attached to a
 * parent, emitted, returned or put.  Attaching an object that the callback
 * does not own (a part of the command, of an event, of another tree) takes a
 * reference of its own.  So ordinary json-c code is right as it stands, and
 * nothing leaks when a callback raises an error.  Constructors never return
 * NULL: running out of memory is an error (53200).
 *
 * Define ESRS_RAW_JSON before including this file to get plain json-c; then
 * every object must be put by hand, and an error leaks.
 * ------------------------------------------------------------------------
 */
/* Instead of a result of json-c's, for a value that is attached to itself. */
#define ESRS_ATTACHED_TO_ITSELF (-2)

static inline int
esrs_json_object_add(struct json_object *obj, const char *key, struct json_object *val)
{
	return esrs_api()->json_attached(obj == val ? ESRS_ATTACHED_TO_ITSELF :
									 json_object_object_add(obj, key, val), val);
}

static inline int
esrs_json_object_add_ex(struct json_object *obj, const char *key, struct json_object *val,
						unsigned opts)
{
	return esrs_api()->json_attached(obj == val ? ESRS_ATTACHED_TO_ITSELF :
									 json_object_object_add_ex(obj, key, val, opts), val);
}

static inline int
esrs_json_array_add(struct json_object *obj, struct json_object *val)
{
	return esrs_api()->json_attached(obj == val ? ESRS_ATTACHED_TO_ITSELF :
									 json_object_array_add(obj, val), val);
}

static inline int
esrs_json_array_put_idx(struct json_object *obj, size_t idx, struct json_object *val)
{
	return esrs_api()->json_attached(obj == val ? ESRS_ATTACHED_TO_ITSELF :
									 json_object_array_put_idx(obj, idx, val), val);
}

static inline int
esrs_json_pointer_set(struct json_object **obj, const char *path, struct json_object *val)
{
	int			rc = json_pointer_set(obj, path, val);

	return rc == 0 ? esrs_api()->json_attached(rc, val) : rc;
}

static inline int
esrs_json_put(struct json_object *obj)
{
	/* an object that the call does not own is not the caller's to release */
	return esrs_api()->json_untrack(obj) ? json_object_put(obj) : 0;
}

static inline struct json_object *
esrs_json_get(struct json_object *obj)
{
	return obj ? esrs_api()->json_track(json_object_get(obj)) : NULL;
}

static inline int
esrs_json_deep_copy(struct json_object *src, struct json_object **dst,
					json_c_shallow_copy_fn *shallow_copy)
{
	int			rc = json_object_deep_copy(src, dst, shallow_copy);

	if (rc == 0)
		esrs_api()->json_track(*dst);
	return rc;
}

#ifndef ESRS_RAW_JSON
#define json_object_new_object()	esrs_api()->json_track(json_object_new_object())
#define json_object_new_array()		esrs_api()->json_track(json_object_new_array())
#define json_object_new_array_ext(n)	esrs_api()->json_track(json_object_new_array_ext(n))
#define json_object_new_boolean(b)	esrs_api()->json_track(json_object_new_boolean(b))
#define json_object_new_int(i)		esrs_api()->json_track(json_object_new_int(i))
#define json_object_new_int64(i)	esrs_api()->json_track(json_object_new_int64(i))
#define json_object_new_uint64(i)	esrs_api()->json_track(json_object_new_uint64(i))
#define json_object_new_double(d)	esrs_api()->json_track(json_object_new_double(d))
#define json_object_new_double_s(d, s)	esrs_api()->json_track(json_object_new_double_s(d, s))
#define json_object_new_string(s)	esrs_api()->json_track(json_object_new_string(s))
#define json_object_new_string_len(s, n)	esrs_api()->json_track(json_object_new_string_len(s, n))
#define json_object_get(o)			esrs_json_get(o)
#define json_object_deep_copy(s, d, f)	esrs_json_deep_copy(s, d, f)
#define json_object_put(o)			esrs_json_put(o)
#define json_object_object_add(o, k, v)	esrs_json_object_add(o, k, v)
#define json_object_object_add_ex(o, k, v, f)	esrs_json_object_add_ex(o, k, v, f)
#define json_object_array_add(o, v)	esrs_json_array_add(o, v)
#define json_object_array_put_idx(o, i, v)	esrs_json_array_put_idx(o, i, v)
#define json_pointer_set(o, p, v)	esrs_json_pointer_set(o, p, v)
#define json_tokener_parse(s)		esrs_json_parse(s)

/* these make objects that nobody tracks, and change numbers */
#pragma GCC poison json_tokener_parse_ex json_tokener_parse_verbose
#pragma GCC poison json_object_from_file json_object_from_fd json_object_from_fd_ex
#pragma GCC poison json_object_array_insert_idx json_pointer_setf
#endif

#endif							/* ESRS_H */
