/*-------------------------------------------------------------------------
 *
 * misbehave.c
 *	  An aggregate that does what callbacks must not do, and some things that
 *	  only look so.  A command is a string that names the deed, or {"deed":
 *	  argument}.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "esrs.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

typedef bool (*Deed) (EsrsCall *call, EsrsJson *argument);

static struct json_object *
json_text(const char *s)
{
	return json_object_new_string(s);
}

/* ------------------------------------------------------------------------
 * Answers that are none
 * ------------------------------------------------------------------------
 */

static bool
false_without_rejection(EsrsCall *call, EsrsJson *argument)
{
	return false;
}

static bool
true_after_rejection(EsrsCall *call, EsrsJson *argument)
{
	esrs_reject(call, "no", "no");
	return true;
}

static bool
detail_before_rejection(EsrsCall *call, EsrsJson *argument)
{
	(void) esrs_reject_detail(call);
	return esrs_reject(call, "no", "no");
}

static bool
rejects_after_emitting(EsrsCall *call, EsrsJson *argument)
{
	esrs_emit_json(call, json_text("Never"));
	return esrs_reject(call, "second_thoughts", "no after all");
}

static bool
rejects_twice(EsrsCall *call, EsrsJson *argument)
{
	esrs_reject(call, "first", "first");
	json_object_object_add(esrs_reject_detail(call), "of", json_text("first"));
	return esrs_reject(call, "second", "second");
}

/* Longer than any buffer, in characters of two bytes, from an odd offset. */
static bool
rejects_at_length(EsrsCall *call, EsrsJson *argument)
{
	StringInfoData s;

	initStringInfo(&s);
	appendStringInfoChar(&s, '.');
	for (int i = 0; i < 2000; i++)
		appendStringInfoString(&s, "\xc3\xa9");
	return esrs_reject(call, "at_length", "%s", s.data);
}

static bool
rejects_in_latin1(EsrsCall *call, EsrsJson *argument)
{
	return esrs_reject(call, "latin1", "%s", "caf\xe9");
}

static bool
rejects_with_latin1_name(EsrsCall *call, EsrsJson *argument)
{
	return esrs_reject(call, "caf\xe9", "no");
}

static bool
rejects_with_latin1_detail(EsrsCall *call, EsrsJson *argument)
{
	esrs_reject(call, "no", "no");
	json_object_object_add(esrs_reject_detail(call), "text", json_text("caf\xe9"));
	return false;
}

static bool
emits_null(EsrsCall *call, EsrsJson *argument)
{
	esrs_emit_json(call, json_text("First"));
	esrs_emit_json(call, NULL);
	return true;
}

static bool
emits_number(EsrsCall *call, EsrsJson *argument)
{
	esrs_emit_json(call, json_text("First"));
	esrs_emit_json(call, json_object_new_int(42));
	return true;
}

static bool
emits_array(EsrsCall *call, EsrsJson *argument)
{
	esrs_emit_json(call, json_object_new_array());
	return true;
}

static bool
emits_boolean(EsrsCall *call, EsrsJson *argument)
{
	esrs_emit_json(call, json_object_new_boolean(true));
	return true;
}

static bool
raises(EsrsCall *call, EsrsJson *argument)
{
	ereport(ERROR,
			(errcode(ERRCODE_DIVISION_BY_ZERO),
			 errmsg("callback divided by zero")));
	return true;
}

/* An error with the SQLSTATE of a rejection is a rejection only in SQL. */
static bool
raises_rejection(EsrsCall *call, EsrsJson *argument)
{
	ereport(ERROR,
			(errcode(MAKE_SQLSTATE('Z', 'E', '0', '0', '1')),
			 errmsg("raised instead of returned")));
	return true;
}

/* ------------------------------------------------------------------------
 * json-c: what tracking makes right
 * ------------------------------------------------------------------------
 */

static bool
attaches_twice(EsrsCall *call, EsrsJson *argument)
{
	struct json_object *event = esrs_emit_variant(call, "Twins");
	struct json_object *child = json_text("child");

	json_object_object_add(event, "a", child);
	json_object_object_add(event, "b", child);
	return true;
}

static bool
emits_twice(EsrsCall *call, EsrsJson *argument)
{
	struct json_object *event = json_text("Again");

	esrs_emit_json(call, event);
	esrs_emit_json(call, event);
	return true;
}

static bool
replaces_child(EsrsCall *call, EsrsJson *argument)
{
	struct json_object *event = esrs_emit_variant(call, "Replaced");

	json_object_object_add(event, "k", json_text("before"));
	json_object_object_add(event, "k", json_text("after"));
	json_object_object_del(event, "none");
	return true;
}

/* A path sets what a key sets; one that leads nowhere leaves the value alone. */
static bool
sets_by_path(EsrsCall *call, EsrsJson *argument)
{
	struct json_object *event = esrs_emit_variant(call, "Paths");
	struct json_object *stray = json_text("stray");

	json_pointer_set(&event, "/k", json_object_new_object());
	json_pointer_set(&event, "/k/own", json_text("own"));
	json_pointer_set(&event, "/k/lent", esrs_json(argument));
	if (json_pointer_set(&event, "/none/x", stray) == 0)
		elog(ERROR, "a path that does not exist was set");
	json_object_object_add(event, "stray", stray);
	return true;
}

static bool
puts_what_is_lent(EsrsCall *call, EsrsJson *argument)
{
	struct json_object *lent = esrs_json(argument);

	for (int i = 0; i < 100; i++)
		json_object_put(lent);
	json_object_object_add(esrs_emit(call), "Lent", lent);
	return true;
}

static bool
puts_what_is_attached(EsrsCall *call, EsrsJson *argument)
{
	struct json_object *event = esrs_emit(call);
	struct json_object *child = json_text("child");

	json_object_object_add(event, "Child", child);
	json_object_put(child);
	json_object_put(child);
	json_object_put(event);
	json_object_put(event);
	return true;
}

static bool
gets_its_own(EsrsCall *call, EsrsJson *argument)
{
	struct json_object *event = esrs_emit_variant(call, "Gotten");
	struct json_object *a = json_text("a");
	struct json_object *b = json_text("b");
	struct json_object *c = json_object_get(NULL);

	/* one reference forgotten, one put, one more than attached */
	(void) json_object_get(a);
	json_object_object_add(event, "a", a);
	json_object_object_add(event, "b", json_object_get(b));
	json_object_put(b);
	json_object_object_add(event, "c", c);
	json_object_object_add(event, "d", json_object_get(a));
	return true;
}

static bool
puts_and_forgets(EsrsCall *call, EsrsJson *argument)
{
	struct json_object *first = json_text("first");
	struct json_object *event;

	(void) json_object_new_object();
	json_object_put(first);
	event = esrs_emit(call);
	json_object_object_add(event, "Kept", json_object_new_array());
	json_object_put(json_object_new_int(1));
	return true;
}

static bool
keeps_and_raises(EsrsCall *call, EsrsJson *argument)
{
	struct json_object *objects[100];

	for (int i = 0; i < lengthof(objects); i++)
		objects[i] = json_text("kept");
	json_object_object_add(esrs_emit(call), "k", objects[50]);
	return raises(call, argument);
}

static bool
attaches_to_itself(EsrsCall *call, EsrsJson *argument)
{
	struct json_object *event = esrs_emit(call);

	json_object_object_add(event, "self", event);
	return true;
}

/* json-c does not see this one; the event has no end. */
static bool
makes_a_ring(EsrsCall *call, EsrsJson *argument)
{
	struct json_object *a = esrs_emit(call);
	struct json_object *b = json_object_new_object();

	json_object_object_add(a, "b", b);
	json_object_object_add(b, "a", a);
	return true;
}

/* {"nests": n} */
static bool
nests(EsrsCall *call, EsrsJson *argument)
{
	int64		depth = esrs_json_int64(argument, NULL);
	struct json_object *object = json_object_new_object();

	for (int64 i = 1; i < depth; i++)
	{
		struct json_object *outer = json_object_new_object();

		json_object_object_add(outer, "k", object);
		object = outer;
	}
	esrs_emit_json(call, object);
	return true;
}

/* {"emits_many": n} */
static bool
emits_many(EsrsCall *call, EsrsJson *argument)
{
	int64		n = esrs_json_int64(argument, NULL);

	for (int64 i = 0; i < n; i++)
		json_object_object_add(esrs_emit(call), "i", json_object_new_int64(i));
	return true;
}

/* {"emits_type": "x"}: apply_event has something to do, see below */
static bool
emits_type(EsrsCall *call, EsrsJson *argument)
{
	esrs_emit_json(call, json_text(esrs_json_string(argument, NULL)));
	return true;
}

/* ------------------------------------------------------------------------
 * The surroundings
 * ------------------------------------------------------------------------
 */

/* {"changes_setting": {"name": ..., "value": ...}} */
static bool
changes_setting(EsrsCall *call, EsrsJson *argument)
{
	SetConfigOption(esrs_json_string(argument, "name"), esrs_json_string(argument, "value"),
					PGC_SUSET, PGC_S_SESSION);
	esrs_emit_json(call, json_text("Set"));
	return true;
}

static bool
loops(EsrsCall *call, EsrsJson *argument)
{
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		pg_usleep(1000);
	}
	return true;
}

static int
recurse(int n)
{
	/* used after the call, so that no compiler makes a loop of it */
	volatile char frame[100];

	check_stack_depth();
	frame[0] = n > 0;
	return n > 0 ? recurse(n - 1) + frame[0] : 0;
}

static bool
recurses(EsrsCall *call, EsrsJson *argument)
{
	return recurse(PG_INT32_MAX) > 0;
}

static bool
switches_context(EsrsCall *call, EsrsJson *argument)
{
	MemoryContextSwitchTo(TopMemoryContext);
	esrs_emit_json(call, json_text("Switched"));
	return true;
}

/* {"runs": "SQL"}: what an aggregate callback must not do */
static bool
runs(EsrsCall *call, EsrsJson *argument)
{
	int			rc;

	SPI_connect();
	rc = SPI_execute(esrs_json_string(argument, NULL), false, 0);
	if (rc < 0)
		elog(ERROR, "SPI_execute: %s", SPI_result_code_string(rc));
	SPI_finish();
	esrs_emit_json(call, json_text("Ran"));
	return true;
}

static bool
forgets_spi_finish(EsrsCall *call, EsrsJson *argument)
{
	SPI_connect();
	esrs_emit_json(call, json_text("Connected"));
	return true;
}

static bool
forgets_subtransaction(EsrsCall *call, EsrsJson *argument)
{
	BeginInternalSubTransaction(NULL);
	esrs_emit_json(call, json_text("Begun"));
	return true;
}

static bool
holds_interrupts(EsrsCall *call, EsrsJson *argument)
{
	HOLD_INTERRUPTS();
	esrs_emit_json(call, json_text("Held"));
	return true;
}

static const struct
{
	const char *name;
	Deed		deed;
}			deeds[] =

{
#define DEED(name) {#name, name}
	DEED(false_without_rejection),
	DEED(true_after_rejection),
	DEED(detail_before_rejection),
	DEED(rejects_after_emitting),
	DEED(rejects_twice),
	DEED(rejects_at_length),
	DEED(rejects_in_latin1),
	DEED(rejects_with_latin1_name),
	DEED(rejects_with_latin1_detail),
	DEED(emits_null),
	DEED(emits_number),
	DEED(emits_array),
	DEED(emits_boolean),
	DEED(raises),
	DEED(raises_rejection),
	DEED(attaches_twice),
	DEED(emits_twice),
	DEED(replaces_child),
	DEED(sets_by_path),
	DEED(puts_what_is_lent),
	DEED(puts_what_is_attached),
	DEED(gets_its_own),
	DEED(puts_and_forgets),
	DEED(keeps_and_raises),
	DEED(attaches_to_itself),
	DEED(makes_a_ring),
	DEED(nests),
	DEED(emits_many),
	DEED(emits_type),
	DEED(changes_setting),
	DEED(loops),
	DEED(recurses),
	DEED(switches_context),
	DEED(runs),
	DEED(forgets_spi_finish),
	DEED(forgets_subtransaction),
	DEED(holds_interrupts),
#undef DEED
};

static bool
misbehave_handle(EsrsCall *call, const void *state, EsrsJson *command)
{
	EsrsJson   *argument;
	const char *name = esrs_json_variant(command, &argument);

	for (int i = 0; i < lengthof(deeds); i++)
		if (strcmp(deeds[i].name, name) == 0)
			return deeds[i].deed(call, argument);
	elog(ERROR, "there is no deed \"%s\"", name);
}

/* The state counts; some types of events ask for a bad turn. */
static void *
misbehave_apply(EsrsCall *call, void *state, const EsrsEvent *event)
{
	struct json_object *object = state;
	const char *type = esrs_json_variant(event->payload, NULL);

	if (strcmp(type, "ReturnsNull") == 0)
		return NULL;
	if (strcmp(type, "Raises") == 0)
		(void) raises(call, NULL);
	if (strcmp(type, "Emits") == 0)
		esrs_emit_json(call, json_text("Never"));
	if (strcmp(type, "Rejects") == 0)
		(void) esrs_reject(call, "never", "never");
	json_object_object_add(object, "events", json_object_new_int(event->sequence_number));
	if (strcmp(type, "NotANumber") == 0)
		json_object_object_add(object, "nan", json_object_new_double(0.0 / 0.0));
	return object;
}

static const EsrsAggregateRoutine misbehave_routine = {
	ESRS_AGGREGATE_ROUTINE,
	.handle_command = misbehave_handle,
	.apply_event = misbehave_apply,
};

ESRS_AGGREGATE_HANDLER(testlib_misbehave, misbehave_routine);

/* ------------------------------------------------------------------------
 * Aggregates of which one callback returns NULL or nonsense
 * ------------------------------------------------------------------------
 */

static void *
null_init(EsrsCall *call)
{
	return NULL;
}

static void *
struct_init(EsrsCall *call)
{
	return palloc0(1);
}

static bool
emit_command(EsrsCall *call, const void *state, EsrsJson *command)
{
	esrs_emit_json(call, esrs_json(command));
	return true;
}

static void *
keep_state(EsrsCall *call, void *state, const EsrsEvent *event)
{
	return state;
}

static struct json_object *
null_to_json(EsrsCall *call, const void *state)
{
	return NULL;
}

static struct json_object *
null_from_event(EsrsCall *call, struct json_object *event)
{
	return NULL;
}

static struct json_object *
number_from_event(EsrsCall *call, struct json_object *event)
{
	return json_object_new_int(1);
}

static const EsrsAggregateRoutine null_init_routine = {
	ESRS_AGGREGATE_ROUTINE,
	.init_state = null_init,
	.handle_command = emit_command,
	.apply_event = keep_state,
};

ESRS_AGGREGATE_HANDLER(testlib_null_init, null_init_routine);

static const EsrsAggregateRoutine null_to_json_routine = {
	ESRS_AGGREGATE_ROUTINE,
	.init_state = struct_init,
	.handle_command = emit_command,
	.apply_event = keep_state,
	.state_to_json = null_to_json,
};

ESRS_AGGREGATE_HANDLER(testlib_null_to_json, null_to_json_routine);

static const EsrsAggregateRoutine null_from_event_routine = {
	ESRS_AGGREGATE_ROUTINE,
	.handle_command = emit_command,
	.apply_event = keep_state,
	.from_event = null_from_event,
};

ESRS_AGGREGATE_HANDLER(testlib_null_from_event, null_from_event_routine);

static const EsrsAggregateRoutine number_from_event_routine = {
	ESRS_AGGREGATE_ROUTINE,
	.handle_command = emit_command,
	.apply_event = keep_state,
	.from_event = number_from_event,
};

ESRS_AGGREGATE_HANDLER(testlib_number_from_event, number_from_event_routine);
