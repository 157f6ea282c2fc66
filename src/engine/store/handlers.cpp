/*
 * handlers.cpp -- see handlers.hpp. C++ region.
 */
#include "engine/store/handlers.hpp"

#include "engine/store/phrases.hpp"

namespace jobqueue::store {

static constexpr auto select_handlers = sql(R"(
	SELECT h.type, h.handler, h.queue, h.run_as, h.max_attempts, h.batch_size, coalesce({timeout}, 0),
		coalesce(h.backoff_function, ''), a.oid, coalesce(a.rolsuper, false), coalesce(a.rolcanlogin, false),
		coalesce(has_database_privilege(a.oid, d.oid, 'CONNECT'), false), h.governed, h.function_owner, h.backoff_owner
	FROM pg_database d, jobqueue.handlers h
		LEFT JOIN pg_roles a ON a.rolname = h.run_as AND a.oid = h.run_as_oid
	WHERE d.datname = current_database())",
											phrase::microseconds("h.timeout"));
static constexpr auto of_this_incarnation = sql("h.incarnation = (SELECT i.id FROM jobqueue.incarnation i LIMIT 1)");

static constexpr auto handlers_sql =
	sql("{select_handlers} AND {of_this_incarnation}", select_handlers, of_this_incarnation);
static constexpr auto handlers_of_sql =
	sql("{select_handlers} AND {of_this_incarnation} AND a.rolname = $1", select_handlers, of_this_incarnation);
static constexpr auto handler_sql = sql("{select_handlers} AND h.type = $1 FOR UPDATE OF h", select_handlers);

static constinit Statement handlers_statement{handlers_sql};
static constinit Statement handlers_of_statement{handlers_of_sql, NAMEOID};
static constinit Statement handler_statement{handler_sql, TEXTOID};
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
	/* Sorted bytewise, whatever the order of the database: find_handler() relies on this. */
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

/* A parameter, or null if it has the value that means none. */
template <typename Value, typename Nothing> static constexpr auto unless(const Value &value, const Nothing &nothing) {
	return sql("CASE WHEN NOT {value} = {nothing} THEN {value} END", value, nothing, value);
}
static constexpr auto timeout = unless("$11", "'0'::interval");
static constexpr auto discard_sqlstates = unless("$12", "'{}'::text[]");
static constexpr auto dead_letter_queue = unless("$13", "''");
static constexpr auto on_failure = unless("$16", "''");

static constexpr auto put_handler_sql = sql(R"(
	INSERT INTO jobqueue.handlers (type, handler, queue, run_as, max_attempts, backoff, backoff_function, first_delay,
		max_delay, jitter, timeout, discard_sqlstates, dead_letter_queue, batch_size, governed, on_failure, run_as_oid,
		function_owner, backoff_owner, incarnation)
	SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, {timeout}, {discard_sqlstates}, {dead_letter_queue}, $14, $15,
		{on_failure}, {run_as_oid}, {function_owner}, {backoff_owner}, i.id
	FROM jobqueue.incarnation i
	ORDER BY i.created_at LIMIT 1
	ON CONFLICT (type) DO UPDATE SET
		handler = EXCLUDED.handler, queue = EXCLUDED.queue, run_as = EXCLUDED.run_as,
		max_attempts = EXCLUDED.max_attempts, backoff = EXCLUDED.backoff, backoff_function = EXCLUDED.backoff_function,
		first_delay = EXCLUDED.first_delay, max_delay = EXCLUDED.max_delay, jitter = EXCLUDED.jitter,
		timeout = EXCLUDED.timeout, discard_sqlstates = EXCLUDED.discard_sqlstates,
		dead_letter_queue = EXCLUDED.dead_letter_queue, batch_size = EXCLUDED.batch_size, governed = EXCLUDED.governed,
		on_failure = EXCLUDED.on_failure, run_as_oid = EXCLUDED.run_as_oid, function_owner = EXCLUDED.function_owner,
		backoff_owner = EXCLUDED.backoff_owner, incarnation = EXCLUDED.incarnation, updated_at = clock_timestamp())",
											timeout, discard_sqlstates, dead_letter_queue, on_failure,
											phrase::oid_of("$4"), phrase::owner_of("$2"), phrase::owner_of("$7"));
/* If a kind of back-off is given, it replaces a function. */
static constexpr auto change_handler_sql = sql(R"(
	UPDATE jobqueue.handlers h
	SET handler = coalesce($2, h.handler), queue = coalesce($3, h.queue), run_as = coalesce($4, h.run_as),
		max_attempts = coalesce($5, h.max_attempts), backoff = coalesce($6, h.backoff),
		backoff_function = CASE WHEN $6 IS NULL THEN coalesce($7, h.backoff_function) ELSE $7 END,
		first_delay = coalesce($8, h.first_delay), max_delay = coalesce($9, h.max_delay),
		jitter = coalesce($10, h.jitter),
		timeout = CASE WHEN $11 IS NULL THEN h.timeout ELSE {timeout} END,
		discard_sqlstates = CASE WHEN $12 IS NULL THEN h.discard_sqlstates ELSE {discard_sqlstates} END,
		dead_letter_queue = CASE WHEN $13 IS NULL THEN h.dead_letter_queue ELSE {dead_letter_queue} END,
		batch_size = coalesce($14, h.batch_size),
		on_failure = CASE WHEN $16 IS NULL THEN h.on_failure ELSE {on_failure} END,
		governed = CASE WHEN $4 IS NULL THEN h.governed ELSE $15 END,
		run_as_oid = CASE WHEN $4 IS NULL THEN h.run_as_oid ELSE {run_as_oid} END,
		function_owner = CASE WHEN $2 IS NULL THEN h.function_owner ELSE {function_owner} END,
		backoff_owner = CASE WHEN $6 IS NULL AND $7 IS NULL THEN h.backoff_owner ELSE {backoff_owner} END,
		updated_at = clock_timestamp()
	WHERE h.type = $1)",
											   timeout, discard_sqlstates, dead_letter_queue, on_failure,
											   phrase::oid_of("$4"), phrase::owner_of("$2"), phrase::owner_of("$7"));

/* A statement with the types of handler_params(), and of what follows them. */
template <typename Text> static constexpr Statement handler_statement_of(const Text &text) {
	return Statement{text,		  TEXTOID,	 TEXTOID,	  TEXTOID,		NAMEOID, INT4OID, TEXTOID, TEXTOID, INTERVALOID,
					 INTERVALOID, FLOAT4OID, INTERVALOID, TEXTARRAYOID, TEXTOID, INT4OID, BOOLOID, TEXTOID};
}
static constinit Statement put_handler_statement = handler_statement_of(put_handler_sql);
static constinit Statement change_handler_statement = handler_statement_of(change_handler_sql);

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
	put_handler_statement.run(params.add(handler.bound_by_access).add(handler.on_failure));
}

void change_handler(const HandlerSettings &change) {
	Params params = handler_params(change);
	change_handler_statement.run(params.add(change.bound_by_access).add(change.on_failure));
}

static constexpr auto unserved_queue_sql = sql(R"(
	SELECT h.dead_letter_queue FROM jobqueue.handlers h
	WHERE {has_dead_letters} AND (h.dead_letter_queue = 'default'
		OR EXISTS (SELECT 1 FROM jobqueue.handlers o WHERE o.queue = h.dead_letter_queue))
	LIMIT 1)",
											   phrase::has_dead_letters);
static constinit Statement unserved_queue_statement{unserved_queue_sql};

std::optional<std::string> unserved_queue() {
	Params none;
	const Rows rows = unserved_queue_statement.run(none);
	return rows.empty() ? std::nullopt : std::optional(rows.text_at(0, 1));
}

static constinit Statement delete_handler_statement{
	"DELETE FROM jobqueue.handlers h WHERE h.type = $1 RETURNING h.type", TEXTOID};

bool delete_handler(std::string_view type) {
	Params params;
	return !delete_handler_statement.run(params.add(type)).empty();
}

static constexpr auto handled_types_sql =
	sql(R"(
	SELECT h.type, h.queue, {keeps_to_its_queue}, NOT {keeps_to_its_queue} OR {works_in_its_queue}
	FROM jobqueue.handlers h)",
		phrase::keeps_to_its_queue, phrase::keeps_to_its_queue, phrase::works_in_its_queue);
static constinit Statement handled_types_statement{handled_types_sql};

std::vector<HandledType> handled_types() {
	Params none;
	const Rows rows = handled_types_statement.run_on_latest(none);
	std::vector<HandledType> types;
	for (uint64 i = 0; i < rows.size(); i++)
		types.push_back({rows.text_at(i, 1), rows.text_at(i, 2), rows.bool_at(i, 3), rows.bool_at(i, 4)});
	return types;
}

} // namespace jobqueue::store
