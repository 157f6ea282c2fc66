/*
 * handlers.cpp -- see handlers.hpp. C++ region.
 */
#include "engine/store/handlers.hpp"

#include "engine/store/phrases.hpp"

namespace jobqueue::store {

#define HANDLER_COLUMNS                                                                                                                                                            \
	"SELECT h.type, h.handler, h.queue, h.run_as, h.max_attempts, h.batch_size, coalesce(" MICROSECONDS(                                                                           \
		"h.timeout") ", 0), "                                                                                                                                                      \
					 "coalesce(h.backoff_function, ''), a.oid, coalesce(a.rolsuper, false), "                                                                                      \
					 "coalesce(a.rolcanlogin, false), coalesce(pg_catalog.has_database_privilege(a.oid, d.oid, 'CONNECT'), false), h.governed, h.function_owner, h.backoff_owner " \
					 "FROM pg_catalog.pg_database d, jobqueue.handlers h LEFT JOIN pg_catalog.pg_roles a ON a.rolname" EQ                                                          \
					 "h.run_as AND a.oid" EQ "h.run_as_oid WHERE d.datname" EQ "pg_catalog.current_database() AND "
#define OWN_HANDLERS "h.incarnation" EQ "(SELECT i.id FROM jobqueue.incarnation i LIMIT 1)"

static constinit Statement handlers_statement{HANDLER_COLUMNS OWN_HANDLERS};
static constinit Statement handlers_of_statement{HANDLER_COLUMNS OWN_HANDLERS " AND a.rolname" EQ "$1", NAMEOID};
static constinit Statement handler_statement{HANDLER_COLUMNS "h.type" EQ "$1 FOR UPDATE OF h", TEXTOID};
static constinit Statement lock_handlers_statement{"LOCK TABLE jobqueue.handlers IN SHARE ROW EXCLUSIVE MODE"};

static std::vector<Handler> handlers_from(const Rows &rows) {
	std::vector<Handler> found;
	found.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++)
		found.push_back({rows.text_at(i, 1),
						 {rows.text_at(i, 2), DatumGetObjectId(rows.datum(i, 14))},
						 rows.text_at(i, 3),
						 rows.name_at(i, 4),
						 rows.int32_at(i, 5),
						 rows.int32_at(i, 6),
						 rows.int64_at(i, 7),
						 {rows.text_at(i, 8), DatumGetObjectId(rows.datum(i, 15))},
						 DatumGetObjectId(rows.datum(i, 9)),
						 rows.bool_at(i, 10),
						 rows.bool_at(i, 11),
						 rows.bool_at(i, 12),
						 rows.bool_at(i, 13)});
	/* Bytewise, whatever the order of the database: find_handler() relies on it. */
	std::sort(found.begin(), found.end(), [](const Handler &a, const Handler &b) { return a.type < b.type; });
	return found;
}

std::vector<Handler> handlers() {
	Params params;
	return handlers_from(handlers_statement.run(params));
}

std::vector<Handler> handlers_of(std::string_view role) {
	Params params;
	return handlers_from(handlers_of_statement.run(params.add_name(role)));
}

const Handler *find_handler(const std::vector<Handler> &handlers, std::string_view type) {
	const auto found =
		std::lower_bound(handlers.begin(), handlers.end(), type,
						 [](const Handler &handler, std::string_view sought) { return handler.type < sought; });
	return found == handlers.end() || found->type != type ? nullptr : &*found;
}

std::optional<Handler> handler_for_update(std::string_view type) {
	Params none, params;
	lock_handlers_statement.run(none);
	std::vector<Handler> found = handlers_from(handler_statement.run(params.add(type)));
	return found.empty() ? std::nullopt : std::optional(std::move(found[0]));
}

#define HANDLER_TYPES                                                                                                  \
	TEXTOID, TEXTOID, TEXTOID, NAMEOID, INT4OID, TEXTOID, TEXTOID, INTERVALOID, INTERVALOID, FLOAT4OID, INTERVALOID,   \
		TEXTARRAYOID, TEXTOID, INT4OID
#define UNLESS(value, nothing) "CASE WHEN NOT " value EQ nothing " THEN " value " END"
#define NO_TIMEOUT UNLESS("$11", "'0'::pg_catalog.interval")
#define NO_SQLSTATES UNLESS("$12", "'{}'::pg_catalog.text[]")
#define NO_QUEUE UNLESS("$13", "''")
#define NO_FAILURE_TYPE UNLESS("$16", "''")

static constinit Statement put_handler_statement{
	"INSERT INTO jobqueue.handlers (type, handler, queue, run_as, max_attempts, backoff, backoff_function, first_delay, "
	"max_delay, jitter, timeout, discard_sqlstates, dead_letter_queue, batch_size, governed, on_failure, run_as_oid, "
	"function_owner, backoff_owner, incarnation) "
	"SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, " NO_TIMEOUT ", " NO_SQLSTATES ", " NO_QUEUE
	", $14, $15, " NO_FAILURE_TYPE ", " OID_OF("$4") ", " OWNER_OF("$2") ", " OWNER_OF(
		"$7") ", i.id FROM jobqueue.incarnation i ORDER BY i.created_at LIMIT 1 "
			  "ON CONFLICT (type) DO UPDATE SET handler = EXCLUDED.handler, queue = EXCLUDED.queue, run_as = EXCLUDED.run_as, "
			  "max_attempts = EXCLUDED.max_attempts, backoff = EXCLUDED.backoff, backoff_function = EXCLUDED.backoff_function, "
			  "first_delay = EXCLUDED.first_delay, max_delay = EXCLUDED.max_delay, jitter = EXCLUDED.jitter, "
			  "timeout = EXCLUDED.timeout, discard_sqlstates = EXCLUDED.discard_sqlstates, "
			  "dead_letter_queue = EXCLUDED.dead_letter_queue, batch_size = EXCLUDED.batch_size, governed = EXCLUDED.governed, "
			  "on_failure = EXCLUDED.on_failure, run_as_oid = EXCLUDED.run_as_oid, function_owner = EXCLUDED.function_owner, backoff_owner = EXCLUDED.backoff_owner, "
			  "incarnation = EXCLUDED.incarnation, updated_at = " NOW,
	HANDLER_TYPES, BOOLOID, TEXTOID};
/* A kind of back-off that is given takes the place of a function. */
static constinit Statement change_handler_statement{
	"UPDATE jobqueue.handlers h SET handler = coalesce($2, h.handler), queue = coalesce($3, h.queue), "
	"run_as = coalesce($4, h.run_as), max_attempts = coalesce($5, h.max_attempts), backoff = coalesce($6, h.backoff), "
	"backoff_function = CASE WHEN $6 IS NULL THEN coalesce($7, h.backoff_function) ELSE $7 END, "
	"first_delay = coalesce($8, h.first_delay), max_delay = coalesce($9, h.max_delay), jitter = coalesce($10, h.jitter), "
	"timeout = CASE WHEN $11 IS NULL THEN h.timeout ELSE " NO_TIMEOUT " END, "
	"discard_sqlstates = CASE WHEN $12 IS NULL THEN h.discard_sqlstates ELSE " NO_SQLSTATES " END, "
	"dead_letter_queue = CASE WHEN $13 IS NULL THEN h.dead_letter_queue ELSE " NO_QUEUE " END, "
	"batch_size = coalesce($14, h.batch_size), "
	"on_failure = CASE WHEN $16 IS NULL THEN h.on_failure ELSE " NO_FAILURE_TYPE " END, "
	"governed = CASE WHEN $4 IS NULL THEN h.governed ELSE $15 END, "
	"run_as_oid = CASE WHEN $4 IS NULL THEN h.run_as_oid ELSE " OID_OF(
		"$4") " END, "
			  "function_owner = CASE WHEN $2 IS NULL THEN h.function_owner ELSE " OWNER_OF(
				  "$2") " END, "
						"backoff_owner = CASE WHEN $6 IS NULL AND $7 IS NULL THEN h.backoff_owner ELSE " OWNER_OF(
							"$7") " END, "
								  "updated_at = " NOW " WHERE h.type" EQ "$1",
	HANDLER_TYPES, BOOLOID, TEXTOID};

static Params handler_params(const HandlerSettings &handler) {
	Params params;
	const auto add = [&params](const std::optional<Datum> &value) { params.add_datum(value.value_or(0), !value); };
	params.add(std::string_view(handler.type));
	params.add(handler.function);
	params.add(handler.queue);
	if (handler.run_as)
		params.add_name(*handler.run_as);
	else
		params.add_null();
	params.add(handler.max_attempts);
	params.add(handler.backoff);
	params.add(handler.backoff_function);
	add(handler.first_delay);
	add(handler.max_delay);
	add(handler.jitter);
	add(handler.timeout);
	add(handler.discard_sqlstates);
	params.add(handler.dead_letter_queue);
	params.add(handler.batch_size);
	return params;
}

void put_handler(const HandlerSettings &handler) {
	Params params = handler_params(handler);
	put_handler_statement.run(params.add(handler.governed).add(handler.on_failure));
}

void change_handler(const HandlerSettings &change) {
	Params params = handler_params(change);
	change_handler_statement.run(params.add(change.governed).add(change.on_failure));
}

static constinit Statement unserved_queue_statement{
	"SELECT h.dead_letter_queue FROM jobqueue.handlers h WHERE " HAS_DEAD_LETTERS " AND (h.dead_letter_queue" EQ
	"'default' OR EXISTS (SELECT 1 FROM jobqueue.handlers o WHERE o.queue" EQ "h.dead_letter_queue)) LIMIT 1"};

std::optional<std::string> unserved_queue() {
	Params none;
	const Rows rows = unserved_queue_statement.run(none);
	return rows.empty() ? std::nullopt : std::optional(rows.text_at(0, 1));
}

static constinit Statement delete_handler_statement{
	"DELETE FROM jobqueue.handlers h WHERE h.type" EQ "$1 RETURNING h.type", TEXTOID};

bool delete_handler(std::string_view type) {
	Params params;
	return !delete_handler_statement.run(params.add(type)).empty();
}

static constinit Statement handled_types_statement{"SELECT h.type, h.queue, " KEEPS_TO_ITS_QUEUE
												   ", NOT " KEEPS_TO_ITS_QUEUE " OR " WORKS_IN_ITS_QUEUE
												   " FROM jobqueue.handlers h"};

std::vector<HandledType> handled_types() {
	Params none;
	const Rows rows = handled_types_statement.run_on_latest(none);
	std::vector<HandledType> types;
	for (uint64 i = 0; i < rows.size(); i++)
		types.push_back({rows.text_at(i, 1), rows.text_at(i, 2), rows.bool_at(i, 3), rows.bool_at(i, 4)});
	return types;
}

} // namespace jobqueue::store
