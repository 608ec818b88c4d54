/*-------------------------------------------------------------------------
 *
 * book.c
 *	  The bookshop: how many copies of a book are left.
 *
 * Commands	{"Buy": {"num_of_copies": n}}		{"Return": {"num_of_copies": n}}
 * Events	{"Bought": {"num_of_copies": n}}	{"Returned": {"num_of_copies": n}}
 * State	{"leftover": n}						starts at 10
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "extension/esrs/esrs.h"

PG_MODULE_MAGIC;

typedef struct Book
{
	int64		leftover;
} Book;

/* A book nobody has touched yet. */
static void *
book_init(EsrsCall *call)
{
	Book	   *book = palloc(sizeof(Book));

	book->leftover = 10;
	return book;
}

/* Decide: command -> events, or a rejection. */
static bool
book_handle(EsrsCall *call, const void *state, EsrsJson *command)
{
	const Book *book = state;
	EsrsJson   *content;
	const char *type = esrs_json_variant(command, &content);
	bool		buy = strcmp(type, "Buy") == 0;
	int64		copies;

	if (!buy && strcmp(type, "Return") != 0)
		return esrs_reject(call, "UnknownCommand", "a book can be bought and returned");
	copies = esrs_json_int64(content, "num_of_copies");
	if (copies < 1)
		return esrs_reject(call, "InvalidNumber", "number of copies must be positive");
	if (buy && copies > book->leftover)
	{
		esrs_reject(call, "NotEnoughCopies", "not enough copies left");
		json_object_object_add(esrs_reject_detail(call), "leftover",
							   json_object_new_int64(book->leftover));
		return false;
	}
	json_object_object_add(esrs_emit_variant(call, buy ? "Bought" : "Returned"),
						   "num_of_copies", json_object_new_int64(copies));
	return true;
}

/* Evolve: state and event -> state. */
static void *
book_apply(EsrsCall *call, void *state, const EsrsEvent *event)
{
	Book	   *book = state;
	EsrsJson   *content;
	const char *type = esrs_json_variant(event->payload, &content);
	int64		copies = esrs_json_int64(content, "num_of_copies");

	if (strcmp(type, "Bought") == 0)
		book->leftover -= copies;
	else if (strcmp(type, "Returned") == 0)
		book->leftover += copies;
	return book;
}

/* What callers see of the state. */
static struct json_object *
book_to_json(EsrsCall *call, const void *state)
{
	const Book *book = state;
	struct json_object *json = json_object_new_object();

	json_object_object_add(json, "leftover", json_object_new_int64(book->leftover));
	return json;
}

/* The reverse, for snapshots. */
static void *
book_from_json(EsrsCall *call, struct json_object *json)
{
	Book	   *book = palloc(sizeof(Book));

	book->leftover = json_object_get_int64(json_object_object_get(json, "leftover"));
	return book;
}

static const EsrsAggregateRoutine book_routine = {
	ESRS_AGGREGATE_ROUTINE,
	.init_state = book_init,
	.handle_command = book_handle,
	.apply_event = book_apply,
	.state_to_json = book_to_json,
	.state_from_json = book_from_json,
};

ESRS_AGGREGATE_HANDLER(book_aggregate, book_routine);
