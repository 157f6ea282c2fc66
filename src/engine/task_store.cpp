/*
 * task_store.cpp -- see task_store.hpp. C++ region.
 *
 * Every name is qualified and so is every operator: what runs here runs with the owner's rights.
 *
 * Each statement is written so that only one index can serve it, whatever the statistics said when it was planned:
 * a scan of a lane asks for "id NULLS FIRST", an order that the primary key has not; a look-up by id compares the status
 * in another collation than the predicates of the partial indexes (STATUS_IS), so that none of them applies. Session
 * keeps the planner from sequential scans and sorts. test/tap/t/020_plans.pl asserts the plans.
 */
#include "engine/task_store.hpp"

#include "engine/bounds.hpp"
#include "engine/held_claims.hpp"
#include "engine/lane_store.hpp"
#include "engine/sql_command_store.hpp"
#include "engine/sql_text.hpp"
#include "pg/compat.hpp"
#include "pg/raw_size.hpp"
#include "pg/start_pause.hpp"

namespace jobqueue::store {

/* Adding */

static constinit Statement insert_statement{
	INSERT_COLUMNS ") VALUES (" INSERT_VALUES("$2", QUEUE_OF_TYPE, "") ")" INSERT_RETURNING, INSERT_TYPES(JSONBOID)};
/* Most tasks, once their type is known: the server prepares even those parts of a statement that it will not come to. */
static constinit Statement insert_given_statement{
	INSERT_COLUMNS ") VALUES (" INSERT_VALUES("$2", QUEUE_GIVEN, "") ")" INSERT_RETURNING, INSERT_TYPES(JSONBOID)};
static constinit Statement insert_many_statement{
	INSERT_COLUMNS ") SELECT " INSERT_VALUES("u.payload", QUEUE_OF_TYPE, "") FROM_PAYLOADS INSERT_RETURNING,
	INSERT_TYPES(JSONBARRAYOID)};
/* With what most tasks have not. */
static constinit Statement insert_special_statement{
	INSERT_COLUMNS ", group_key) VALUES (" INSERT_VALUES("$2", QUEUE_OF_TYPE, IF_BLOCKED) ", $11)" INSERT_RETURNING,
	INSERT_TYPES(JSONBOID), TEXTOID, BOOLOID};
static constinit Statement insert_many_special_statement{
	INSERT_COLUMNS
	", group_key) SELECT " INSERT_VALUES("u.payload", QUEUE_OF_TYPE, IF_BLOCKED) ", $11" FROM_PAYLOADS INSERT_RETURNING,
	INSERT_TYPES(JSONBARRAYOID), TEXTOID, BOOLOID};

/* Whatever door it came through. */
void check_bounds(const NewTask &task) {
	bounds::check("type", task.type.size(), bounds::type);
	if (task.queue)
		bounds::check("queue", task.queue->size(), bounds::queue);
	if (task.group_key)
		bounds::check("group_key", task.group_key->size(), bounds::key);
	if (task.metadata)
		bounds::check("metadata", bounds::size_of(*task.metadata), bounds::metadata);
}

void describe(Params &params, const NewTask &task, Datum payload) {
	check_bounds(task);
	params.add(task.type).add_datum(payload, false);
	params.add(task.queue);
	params.add(task.priority);
	params.add_time(task.run_at);
	params.add(task.max_attempts).add_datum(task.metadata.value_or(0), !task.metadata).add_name(task.created_by);
	params.add_datum(task.timeout.value_or(0), !task.timeout);
	if (task.own_queues.empty())
		params.add_null();
	else
		params.add(task.own_queues);
}

std::vector<Added> added_from(const Rows &rows) {
	std::vector<Added> added;
	added.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++) {
		const std::string status = rows.text_at(i, 3);
		added.push_back({rows.int64_at(i, 1), rows.text_at(i, 2), status == "scheduled", status == "blocked"});
	}
	return added;
}

static std::vector<Added> run_insert(Statement &plain, Statement &special, const NewTask &task, Datum payload) {
	Params params;
	describe(params, task, payload);
	const bool is_special = task.group_key || task.blocked;
	if (is_special)
		params.add(task.group_key).add(task.blocked);
	return added_from((is_special ? special : plain).run(params));
}

Added insert(const NewTask &task, Datum payload) {
	return run_insert(task.queue ? insert_given_statement : insert_statement, insert_special_statement, task, payload)
		.at(0);
}

std::vector<Added> insert_many(const NewTask &task, Datum payloads) {
	return run_insert(insert_many_statement, insert_many_special_statement, task, payloads);
}

/* Claiming */

#define PENDING_IN_LANE                                                                                                \
	" FROM jobqueue.tasks_live t WHERE t.status" EQ "'pending' AND t.group_key IS NULL AND t.queue" CCOLL EQ           \
	"$1 AND t.priority" EQ "$2 AND t.id" GE "$3 AND t.id" LE "$4 AND "
#define WANTED "jobqueue._is_wanted(t.type, t.origin_queue IS NOT NULL)"
#define LOCK_IN_ORDER " ORDER BY t.id NULLS FIRST LIMIT $5 FOR UPDATE OF t SKIP LOCKED"

#define MAX_ATTEMPTS                                                                                                   \
	"coalesce(t.max_attempts, (SELECT h.max_attempts FROM jobqueue.handlers h WHERE h.type" EQ "t.type), 20)"
#define MAX_ATTEMPTS_OUTSIDE                                                                                           \
	"coalesce(t.max_attempts, (SELECT h.max_attempts FROM jobqueue.handlers h WHERE h.type" EQ                         \
	"t.type AND " HAS_SAY_FOR_OTHERS_IN("t.queue") "), 20)"
/* A task that holds its unique key while it waits gives it up when it starts. */
#define STARTED_SCOPE "CASE WHEN t.unique_scope" EQ "'waiting' THEN 'started' ELSE t.unique_scope END"
/*
 * From these as_claimed() makes the row of a claimed task. Columns are not listed: where nobody refuses that, an
 * administrator may have added some.
 */
#define ROW_IF_ASKED_FOR                                                                                               \
	"CASE WHEN $6 AND " IS_SMALL " THEN t::jobqueue.tasks END, CASE WHEN $6 THEN " MAX_ATTEMPTS " END"

/* Of one that is not, the row is read when it is needed: it would be there twice, for each of the tasks of a group. */
#define IS_SMALL "(jobqueue._raw_size(t.payload)" LE "32768 AND coalesce(jobqueue._raw_size(t.metadata), 0)" LE "32768)"

#define PLAIN "t.unique_key IS NULL AND t.failures IS NULL AND t.timeout IS NULL AND t.origin_queue IS NULL"
static constinit Statement lock_statement{"SELECT t.id, t.run_at, t.run_at" GT NOW ", t.ctid, " PLAIN
										  ", t.type, t.attempts, t.max_attempts, t.payload, " ROW_IF_ASKED_FOR
										  ", t.origin_queue IS NOT NULL" PENDING_IN_LANE WANTED LOCK_IN_ORDER,
										  TEXTOID,
										  INT2OID,
										  INT8OID,
										  INT8OID,
										  INT4OID,
										  BOOLOID};
static constinit Statement see_statement{"SELECT t.id, t.ctid, t.run_at" GT NOW " OR t.attempts" EQ
										 "2147483647, jobqueue._raw_size(t.payload)" PENDING_IN_LANE WANTED
										 " ORDER BY t.id NULLS FIRST LIMIT $5",
										 TEXTOID,
										 INT2OID,
										 INT8OID,
										 INT8OID,
										 INT4OID};
static constinit Statement first_statement{"SELECT t.id" PENDING_IN_LANE WANTED " ORDER BY t.id NULLS FIRST LIMIT 1",
										   TEXTOID, INT2OID, INT8OID, INT8OID};

static constinit Statement waiting_since_statements[] = {
	Statement{"SELECT greatest(t.created_at, t.run_at)" PENDING_IN_LANE "true ORDER BY t.id NULLS FIRST LIMIT 1",
			  TEXTOID, INT2OID, INT8OID, INT8OID},
	Statement{"SELECT greatest(t.created_at, t.run_at) FROM jobqueue.tasks_live t WHERE t.status" EQ
			  "'pending' AND t.group_key IS NOT NULL AND t.queue" CCOLL EQ "$1 AND t.priority" EQ
			  "$2 ORDER BY t.group_key" CCOLL ", t.id NULLS FIRST LIMIT 1",
			  TEXTOID, INT2OID, INT8OID, INT8OID}};

TimestampTz waiting_since(const Lane &lane) {
	Params params;
	params.add(std::string_view(lane.queue)).add(lane.priority).add(PG_INT64_MIN).add(PG_INT64_MAX);
	const Rows rows = waiting_since_statements[lane.grouped].run(params);
	return rows.empty() ? GetCurrentTimestamp() : DatumGetTimestampTz(rows.datum(0, 1));
}

/* Of the statement that is running: SQL would compare each task with each type, or look each up. */
static constinit const TypeFilter *wanted = nullptr;
namespace {

struct Wanting {
	explicit Wanting(const TypeFilter &filter) { wanted = &filter; }
	~Wanting() { wanted = nullptr; }
};

} // namespace

bool wants(const TypeFilter &filter, std::string_view type, bool dead_letter) {
	if (filter.others && is_sql_type(type))
		return false; /* not even if it has no handler: it is nobody else's */
	if (dead_letter && (!filter.dead_letters || filter.others))
		return filter.dead_letters;
	return std::binary_search(filter.types.begin(), filter.types.end(), type, std::less<>()) != filter.others;
}

bool is_wanted(std::string_view type, bool dead_letter) {
	if (wanted == nullptr)
		throw Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "this function is for the engine's own statements");
	return wants(*wanted, type, dead_letter);
}

/* The row of a task as a claim by the given worker would leave it. */
static Datum as_claimed(Datum row, int32 max_attempts, std::string_view claimed_by) {
	return guard([&] {
		HeapTupleHeader header = DatumGetHeapTupleHeader(row);
		TupleDesc layout = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(header), HeapTupleHeaderGetTypMod(header));
		HeapTupleData tuple = {};
		tuple.t_len = HeapTupleHeaderGetDatumLength(header);
		tuple.t_data = header;
		ItemPointerSetInvalid(&tuple.t_self);
		struct Change {
			const char *column;
			Datum value;
			bool is_null;
		};
		bool is_null;
		const Datum attempts = SPI_getbinval(&tuple, layout, SPI_fnumber(layout, "attempts"), &is_null);
		const Datum now = TimestampTzGetDatum(GetCurrentTimestamp());
		const char *const scope = SPI_getvalue(&tuple, layout, SPI_fnumber(layout, "unique_scope"));
		const bool starts = scope != nullptr && strcmp(scope, "waiting") == 0; /* see STARTED_SCOPE */
		const Change changes[] = {
			{"status", CStringGetTextDatum("processing"), false},
			{"updated_at", now, false},
			{"processed_at", now, false},
			{"attempts", Int32GetDatum(DatumGetInt32(attempts) + 1), false},
			{"max_attempts", Int32GetDatum(max_attempts), false},
			{"lease_expires_at", TimestampTzGetDatum(DT_NOEND), false},
			{"claimed_by",
			 PointerGetDatum(cstring_to_text_with_len(claimed_by.data(), static_cast<int>(claimed_by.size()))), false},
			{"progress", 0, true},
			{"progress_message", 0, true},
			{"unique_scope", CStringGetTextDatum("started"), false}, /* the last one: */
		};
		int columns[std::size(changes)];
		Datum values[std::size(changes)];
		bool nulls[std::size(changes)];
		const int count = static_cast<int>(std::size(changes)) - (starts ? 0 : 1);
		for (int i = 0; i < count; i++) {
			columns[i] = SPI_fnumber(layout, changes[i].column);
			values[i] = changes[i].value;
			nulls[i] = changes[i].is_null;
		}
		const Datum claimed =
			heap_copy_tuple_as_datum(heap_modify_tuple_by_cols(&tuple, layout, count, columns, values, nulls), layout);
		ReleaseTupleDesc(layout);
		return claimed;
	});
}

/* One of the columns of lock_statement. "claimed_by" is empty where rows are not asked for. */
static Candidate candidate_at(const Rows &rows, uint64 row, std::string_view claimed_by) {
	Candidate candidate{rows.int64_at(row, 1),
						std::nullopt,
						*reinterpret_cast<ItemPointer>(DatumGetPointer(rows.datum(row, 4))),
						0,
						rows.bool_at(row, 5),
						rows.text_at(row, 6),
						rows.int32_at(row, 7),
						rows.int32_at(row, 8),
						rows.datum(row, 9),
						claimed_by.empty() || rows.is_null(row, 10)
							? 0
							: as_claimed(rows.datum(row, 10), rows.int32_at(row, 11), claimed_by),
						rows.bool_at(row, 12)};
	candidate.bytes = raw_size(candidate.payload);
	if (rows.bool_at(row, 3))
		candidate.not_before = DatumGetTimestampTz(rows.datum(row, 2));
	return candidate;
}

std::vector<Candidate> lock_pending(const Lane &lane, IdRange ids, const TypeFilter &filter, int count) {
	Params params;
	params.add(std::string_view(lane.queue)).add(lane.priority).add(ids.low).add(ids.high);
	params.add(static_cast<int32>(count));
	params.add(!filter.rows_for.empty());
	const Wanting wanting(filter);
	const Rows rows = lock_statement.run(params);
	std::vector<Candidate> candidates;
	candidates.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++)
		candidates.push_back(candidate_at(rows, i, filter.rows_for));
	return candidates;
}

std::vector<Candidate> see_pending(const Lane &lane, IdRange ids, const TypeFilter &filter, int count) {
	Params params;
	params.add(std::string_view(lane.queue)).add(lane.priority).add(ids.low).add(ids.high);
	params.add(static_cast<int32>(count));
	const Wanting wanting(filter);
	const Rows rows = see_statement.run(params);
	std::vector<Candidate> candidates(rows.size());
	for (uint64 i = 0; i < rows.size(); i++) {
		if (rows.bool_at(i, 3)) /* it cannot just begin */
			return lock_pending(lane, ids, filter, count);
		candidates[i].id = rows.int64_at(i, 1);
		candidates[i].place = *reinterpret_cast<ItemPointer>(DatumGetPointer(rows.datum(i, 2)));
		candidates[i].locked = false;
		candidates[i].bytes = rows.int64_at(i, 4);
	}
	return candidates;
}

std::optional<int64> first_pending(const Lane &lane, IdRange ids, const TypeFilter &filter) {
	Params params;
	params.add(std::string_view(lane.queue)).add(lane.priority).add(ids.low).add(ids.high);
	const Wanting wanting(filter);
	const Rows rows = first_statement.run(params);
	return rows.empty() ? std::nullopt : std::optional(rows.int64_at(0, 1));
}

/*
 * Groups. A step from one key to the next does not read what is in the group.
 */
#define IN_GROUPS(t) t ".group_key IS NOT NULL AND " t ".queue" CCOLL EQ "$1 AND " t ".priority" EQ "$2 "
#define GROUP_ORDER(t) "ORDER BY " t ".queue" CCOLL ", " t ".priority, " t ".group_key" CCOLL ", " t ".id NULLS FIRST "
/* Whose turn it is in a group: the first that is pending; or the first at all, if one that is tried again holds it. */
#define PENDING(t) t ".status" EQ "'pending' AND "
#define PENDING_OR_TRIED(t)                                                                                            \
	"(" t ".status" EQ "'pending' OR " t ".status" EQ "'scheduled' AND " t ".attempts" GT "0) AND "
#define HEAD_COLUMNS                                                                                                   \
	"t.group_key, t.id, t.type, t.origin_queue IS NOT NULL AS dead_letter, t.status" EQ "'scheduled' AS held"
#define NEXT_HEAD(whose, after)                                                                                        \
	"SELECT " HEAD_COLUMNS " FROM jobqueue.tasks_live t WHERE " whose("t")                                             \
		IN_GROUPS("t") "AND t.group_key" CCOLL GT after " AND t.group_key" CCOLL LT "$5 " GROUP_ORDER("t") "LIMIT 1"
#define GROUP_HEADS(whose)                                                                                             \
	"WITH RECURSIVE head AS (SELECT h.*, 1 AS n FROM (" NEXT_HEAD(                                                     \
		whose, "$3") ") h UNION ALL "                                                                                  \
					 "SELECT n.*, h.n" PLUS "1 FROM head h, LATERAL (" NEXT_HEAD(                                      \
						 whose, "h.group_key") ") n WHERE h.n" LT "$4) "                                               \
											   "SELECT h.group_key, h.id, h.type, h.dead_letter, h.held FROM head h"
static constinit Statement group_heads_statements[] = {
	Statement{GROUP_HEADS(PENDING), TEXTOID, INT2OID, TEXTOID, INT4OID, TEXTOID},
	Statement{GROUP_HEADS(PENDING_OR_TRIED), TEXTOID, INT2OID, TEXTOID, INT4OID, TEXTOID}};
/* What is asked of one group: its tasks from an id on, of which those before are known to be gone. */
#define IN_GROUP(whose, t)                                                                                             \
	whose(t) IN_GROUPS(t) "AND " t ".group_key" CCOLL EQ "u.key AND " t ".id" GE "u.low " GROUP_ORDER(t)
#define HEADS_OF(whose)                                                                                                \
	"SELECT h.group_key, h.id, h.type, h.dead_letter, h.held, u.low FROM unnest($3, $4) AS u(key, low), LATERAL ("     \
	"SELECT " HEAD_COLUMNS " FROM jobqueue.tasks_live t WHERE " IN_GROUP(whose, "t") "LIMIT 1) h"
static constinit Statement heads_of_statements[] = {
	Statement{HEADS_OF(PENDING), TEXTOID, INT2OID, TEXTARRAYOID, INT8ARRAYOID},
	Statement{HEADS_OF(PENDING_OR_TRIED), TEXTOID, INT2OID, TEXTARRAYOID, INT8ARRAYOID}};
/* Which is the head is read again, later than the group was found free; the numbers tell if one was passed over. */
#define LOCK_IN_GROUPS(whose)                                                                                          \
	"SELECT t.id, t.run_at, t.run_at" GT NOW ", t.ctid, " PLAIN                                                        \
	", t.type, t.attempts, t.max_attempts, t.payload, " ROW_IF_ASKED_FOR                                               \
	", t.origin_queue IS NOT NULL, t.group_key, h.n "                                                                  \
	"FROM unnest($3, $4) AS u(key, low), LATERAL (SELECT o.place, pg_catalog.row_number() OVER () AS n FROM ("         \
	"SELECT c.ctid AS place FROM jobqueue.tasks_live c WHERE " IN_GROUP(                                               \
		whose, "c") "LIMIT $5) o) h "                                                                                  \
					"JOIN jobqueue.tasks_live t ON t.ctid" EQ                                                          \
					"h.place WHERE " STATUS_IS("pending") " FOR UPDATE OF t SKIP LOCKED"
#define LOCK_IN_GROUPS_TYPES TEXTOID, INT2OID, TEXTARRAYOID, INT8ARRAYOID, INT4OID, BOOLOID
static constinit Statement lock_in_groups_statements[] = {
	Statement{LOCK_IN_GROUPS(PENDING), LOCK_IN_GROUPS_TYPES},
	Statement{LOCK_IN_GROUPS(PENDING_OR_TRIED), LOCK_IN_GROUPS_TYPES}};

static std::vector<GroupHead> heads_from(const Rows &rows) {
	std::vector<GroupHead> heads;
	heads.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++)
		heads.push_back(
			{rows.text_at(i, 1), rows.int64_at(i, 2), rows.text_at(i, 3), rows.bool_at(i, 4), rows.bool_at(i, 5)});
	return heads;
}

std::vector<GroupHead> group_heads(const Lane &lane, std::string_view after, std::optional<std::string_view> before,
								   int count, bool held) {
	/* No text comes after this one: it is valid in no encoding, and longer than what could begin so in another. */
	static constexpr std::string_view after_all = "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff";
	Params params;
	params.add(std::string_view(lane.queue)).add(lane.priority).add(after).add(static_cast<int32>(count));
	return heads_from(group_heads_statements[held].run(params.add(before.value_or(after_all))));
}

std::vector<GroupHead> heads_of(const Lane &lane, std::span<const std::string> groups, std::span<const int64> lows,
								bool held) {
	Params params;
	params.add(std::string_view(lane.queue)).add(lane.priority).add(groups);
	const Rows rows = heads_of_statements[held].run(params.add(lows));
	std::vector<GroupHead> heads = heads_from(rows);
	for (uint64 i = 0; i < rows.size(); i++)
		heads[i].low = rows.int64_at(i, 6);
	return heads;
}

std::vector<Candidate> lock_in_groups(const Lane &lane, std::span<const GroupHead> heads, const TypeFilter &filter,
									  int each, bool held) {
	std::vector<std::string> keys;
	std::vector<int64> lows;
	for (const GroupHead &head : heads) {
		keys.push_back(head.group);
		lows.push_back(head.low);
	}
	Params params;
	params.add(std::string_view(lane.queue)).add(lane.priority).add(std::span<const std::string>(keys));
	params.add(std::span<const int64>(lows));
	params.add(static_cast<int32>(each));
	params.add(!filter.rows_for.empty());
	const Rows rows = lock_in_groups_statements[held].run(params);
	std::vector<Candidate> candidates;
	candidates.reserve(rows.size());
	size_t head = 0;
	int64 in_order = 0; /* of this group, from its head on */
	for (uint64 i = 0; i < rows.size(); i++) {
		const int64 number = rows.int64_at(i, 14);
		std::string group = rows.text_at(i, 13);
		if (candidates.empty() || candidates.back().group != group)
			in_order = 0;
		while (head < heads.size() && heads[head].group != group)
			head++;
		if (head == heads.size())
			throw Error(ERRCODE_INTERNAL_ERROR, "the tasks of groups came in another order than they were asked for");
		const bool passed = number != in_order + 1 || (number == 1 && rows.int64_at(i, 1) != heads[head].id);
		if (!passed)
			in_order = number;
		candidates.push_back(candidate_at(rows, i, filter.rows_for));
		candidates.back().group = std::move(group);
		candidates.back().passed = passed;
	}
	return candidates;
}

static constinit Statement put_aside_statement{
	"UPDATE jobqueue.tasks_live t SET status = 'scheduled', updated_at = " NOW " WHERE t.id" EQ "ANY ($1)",
	INT8ARRAYOID};

void put_aside(std::span<const int64> ids) {
	Params params;
	put_aside_statement.run(params.add(ids));
}

/*
 * By their places: while we hold their locks, nobody but ourselves can move them. What it changes, begin_by_place() changes,
 * too (held_claims.cpp).
 */
#define BEGIN(max_attempts)                                                                                             \
	"UPDATE jobqueue.tasks_live t SET status = 'processing', attempts = t.attempts" PLUS "1, "                          \
	"max_attempts = " max_attempts ", processed_at = " NOW ", updated_at = " NOW                                        \
	", lease_expires_at = $2, claimed_by = $3, progress = NULL, progress_message = NULL, unique_scope = " STARTED_SCOPE \
	" WHERE t.ctid" EQ "ANY ($1) RETURNING "
static constinit Statement begin_statement{
	BEGIN(MAX_ATTEMPTS) "t.id, t.type, t.queue, t.priority, t.attempts, t.max_attempts, coalesce(" MICROSECONDS(
		"t.timeout") ", 0), t.payload, CASE WHEN " IS_SMALL " THEN t::jobqueue.tasks END",
	TIDARRAYOID, TIMESTAMPTZOID, TEXTOID};
static constinit Statement claim_statement{BEGIN(MAX_ATTEMPTS_OUTSIDE) "t.id, t::jobqueue.tasks", TIDARRAYOID,
										   TIMESTAMPTZOID, TEXTOID};
static constinit Statement claim_unhandled_statement{BEGIN("coalesce(t.max_attempts, 20)") "t.id, t::jobqueue.tasks",
													 TIDARRAYOID, TIMESTAMPTZOID, TEXTOID};

template <typename Task> static Datum places_of(std::span<const Task> tasks) {
	return guard([tasks] {
		auto *elements = static_cast<Datum *>(palloc(sizeof(Datum) * tasks.size()));
		for (size_t i = 0; i < tasks.size(); i++)
			elements[i] = PointerGetDatum(&tasks[i].place);
		return PointerGetDatum(construct_array(elements, static_cast<int>(tasks.size()), TIDOID,
											   sizeof(ItemPointerData), false, TYPALIGN_SHORT));
	});
}

/* Where a row is among the tasks that it came from: rows come in the order of their places. */
static std::vector<std::pair<int64, size_t>> order_of(std::span<const Candidate> tasks) {
	std::vector<std::pair<int64, size_t>> order;
	order.reserve(tasks.size());
	for (size_t i = 0; i < tasks.size(); i++)
		order.emplace_back(tasks[i].id, i);
	std::sort(order.begin(), order.end());
	return order;
}

static size_t place_in(const std::vector<std::pair<int64, size_t>> &order, int64 id) {
	const auto found = std::lower_bound(order.begin(), order.end(), std::pair<int64, size_t>{id, 0});
	if (found == order.end() || found->first != id)
		throw Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the rows of tasks were moved while they were claimed");
	return found->second;
}

std::vector<Attempt> begin_attempts(std::span<const Candidate> tasks, TimestampTz lease, std::string_view claimed_by) {
	Params params;
	params.add_datum(places_of(tasks), false).add_time(lease).add(claimed_by);
	const Rows rows = begin_statement.run(params);
	const auto order = order_of(tasks);
	std::vector<std::optional<Attempt>> begun(tasks.size());
	for (uint64 i = 0; i < rows.size(); i++)
		begun[place_in(order, rows.int64_at(i, 1))] = Attempt{
			rows.int64_at(i, 1), rows.text_at(i, 2),  rows.text_at(i, 3), rows.int16_at(i, 4), rows.int32_at(i, 5),
			rows.int32_at(i, 6), rows.int64_at(i, 7), rows.datum(i, 8),	  rows.datum(i, 9)};
	std::vector<Attempt> attempts;
	attempts.reserve(tasks.size());
	for (std::optional<Attempt> &attempt : begun)
		if (attempt)
			attempts.push_back(std::move(*attempt));
	return attempts;
}

static HeapTuple tuple_of(Datum row) {
	return guard([row] {
		auto *tuple = static_cast<HeapTuple>(palloc0(HEAPTUPLESIZE));
		tuple->t_data = DatumGetHeapTupleHeader(row);
		tuple->t_len = HeapTupleHeaderGetDatumLength(tuple->t_data);
		ItemPointerSetInvalid(&tuple->t_self);
		return tuple;
	});
}

std::vector<HeapTuple> claim(std::span<const Candidate> tasks, bool unhandled, TimestampTz lease,
							 std::string_view claimed_by) {
	if (unhandled)
		if (std::optional<std::vector<HeapTuple>> begun = begin_by_place(tasks, lease, claimed_by))
			return std::move(*begun);
	if (std::ranges::any_of(tasks, [](const Candidate &task) { return !task.locked; }))
		throw Error(ERRCODE_INTERNAL_ERROR, "tasks that are not locked can only be begun by their places");
	Params params;
	params.add_datum(places_of(tasks), false).add_time(lease).add(claimed_by);
	const Rows rows = (unhandled ? claim_unhandled_statement : claim_statement).run(params);
	const auto order = order_of(tasks);
	std::vector<HeapTuple> claimed(tasks.size(), nullptr);
	for (uint64 i = 0; i < rows.size(); i++)
		claimed[place_in(order, rows.int64_at(i, 1))] = tuple_of(rows.datum(i, 2));
	std::erase(claimed, nullptr);
	return claimed;
}

static constinit Statement row_statement{
	"SELECT t::jobqueue.tasks, " MAX_ATTEMPTS
	", " STATUS_IS("processing") " FROM jobqueue.tasks_live t WHERE t.id" EQ "$1 AND (" STATUS_IS(
		"pending") " AND t.attempts" EQ "$2 OR " STATUS_IS("processing") " AND t.attempts" EQ "($2" PLUS "1))",
	INT8OID, INT4OID};

std::optional<Datum> row_as_claimed(int64 id, int32 attempts, std::string_view claimed_by) {
	Params params;
	const Rows rows = row_statement.run(params.add(id).add(attempts));
	if (rows.empty())
		return std::nullopt;
	if (rows.bool_at(0, 3))
		return rows.datum(0, 1);
	return as_claimed(rows.datum(0, 1), rows.int32_at(0, 2), claimed_by);
}

void keep(Attempt &attempt, MemoryContext context) {
	guard([&attempt, context] {
		MemoryContext caller = MemoryContextSwitchTo(context);
		/* A large one as it is on the disk: who needs it makes it larger. */
		const auto payload = reinterpret_cast<varlena *>(DatumGetPointer(attempt.payload));
		attempt.payload = VARATT_IS_EXTERNAL(payload) ? PointerGetDatum(detoast_external_attr(payload))
													  : PointerGetDatum(PG_DETOAST_DATUM_COPY(attempt.payload));
		if (attempt.row != 0)
			attempt.row = PointerGetDatum(PG_DETOAST_DATUM_COPY(attempt.row));
		MemoryContextSwitchTo(caller);
	});
}

/*
 * Loose index scans: from one lane to the next, without reading what is in them. Looking between two known lanes must
 * not touch either: the first entries of a lane may be dead by the million. (A comparison of rows would not do: as an
 * upper bound it stops a scan only where its first column decides.)
 */
#define FIRST_IN_ORDER " ORDER BY t.queue" CCOLL ", t.priority, t.id NULLS FIRST LIMIT 1"
#define FIRST_LANE(condition)                                                                                          \
	"(SELECT t.queue, t.priority, t.id FROM jobqueue.tasks_live t WHERE t.status" EQ                                   \
	"'pending' AND t.group_key IS NULL AND " condition FIRST_IN_ORDER ")"

static constinit Statement new_priorities_statement{
	"SELECT n.queue, n.priority FROM unnest($1, $2, $3) AS g(queue, low, high), LATERAL " FIRST_LANE(
		"t.queue" CCOLL EQ "g.queue AND t.priority" GT "g.low AND t.priority" LT "g.high") " n",
	TEXTARRAYOID, INT4ARRAYOID, INT4ARRAYOID};
static constinit Statement new_queues_statement{
	"SELECT n.queue, n.priority FROM unnest($1, $2) AS g(low, high), LATERAL " FIRST_LANE(
		"t.queue" CCOLL GT "g.low AND t.queue" CCOLL LT "g.high") " n",
	TEXTARRAYOID, TEXTARRAYOID};
static constinit Statement last_queues_statement{
	"SELECT n.queue, n.priority FROM " FIRST_LANE("t.queue" CCOLL GT "$1") " n", TEXTOID};
#define FIRST_GROUP_LANE(condition)                                                                                    \
	"(SELECT t.queue, t.priority, t.id FROM jobqueue.tasks_live t WHERE t.status" EQ                                   \
	"'pending' AND t.group_key IS NOT NULL AND " condition GROUP_ORDER("t") "LIMIT 1)"
/*
 * The first $1 priorities of each queue. Loose, too: a step for each queue, and one for each of these lanes, however many
 * there are.
 */
#define LANE_HEADS(first)                                                                                              \
	"WITH RECURSIVE queues AS (SELECT n.queue FROM " first(                                                            \
		"true ") " n UNION ALL SELECT n.queue FROM queues f, "                                                         \
				 "LATERAL " first("t.queue" CCOLL GT                                                                   \
								  "f.queue ") " n) SELECT q.queue, h.priority, h.id FROM queues q, LATERAL ("          \
											  "WITH RECURSIVE p AS (SELECT n.priority, n.id, 1 AS k FROM " first(      \
												  "t.queue" CCOLL EQ                                                   \
												  "q.queue ") " n UNION ALL "                                          \
															  "SELECT n.priority, n.id, p.k" PLUS                      \
															  "1 FROM p, LATERAL " first(                              \
																  "t.queue" CCOLL EQ "q.queue AND t.priority" GT       \
																  "p.priority ") " n WHERE p.k" LT "$1) "              \
																				 "SELECT p.priority, p.id FROM p) h"
static constinit Statement lane_heads_statement{LANE_HEADS(FIRST_LANE), INT4OID};
static constinit Statement group_lane_heads_statement{LANE_HEADS(FIRST_GROUP_LANE), INT4OID};
/* What comes after a priority, and whether it is wanted: so many rows, in one scan. */
static constinit Statement ahead_statement{"SELECT t.priority, " WANTED " FROM jobqueue.tasks_live t WHERE t.status" EQ
										   "'pending' AND t.group_key IS NULL AND t.queue" CCOLL EQ
										   "$1 AND t.priority" GT "$2 ORDER BY t.queue" CCOLL
										   ", t.priority, t.id NULLS FIRST LIMIT $3",
										   TEXTOID, INT4OID, INT4OID};
static constinit Statement group_ahead_statement{"SELECT t.priority, " WANTED
												 " FROM jobqueue.tasks_live t WHERE t.status" EQ
												 "'pending' AND t.group_key IS NOT NULL AND t.queue" CCOLL EQ
												 "$1 AND t.priority" GT "$2 " GROUP_ORDER("t") "LIMIT $3",
												 TEXTOID, INT4OID, INT4OID};

static void append_lanes(std::vector<Lane> &lanes, const Rows &rows) {
	for (uint64 i = 0; i < rows.size(); i++)
		lanes.push_back({rows.text_at(i, 1), rows.int16_at(i, 2), false});
}

/* One step: at most one lane from each gap. */
static std::vector<Lane> look_between(std::span<const Lane> known, const QueueEnds &ends) {
	constexpr int32 below_all = PG_INT16_MIN - 1, above_all = PG_INT16_MAX + 1;
	std::vector<std::string> queues, low_queues, high_queues;
	std::vector<int32> lows, highs;
	const auto add_gap = [&](const std::string &queue, int32 low, int32 high) {
		if (low + 1 >= high)
			return;
		queues.push_back(queue);
		lows.push_back(low);
		highs.push_back(high);
	};
	const auto end_of = [&ends](const std::string &queue) {
		const auto end = ends.find(queue);
		return end == ends.end() ? above_all : end->second + 1;
	};
	const Lane *previous = nullptr;
	for (const Lane &lane : known) {
		const bool same_queue = previous && previous->queue == lane.queue;
		if (!same_queue) {
			if (previous)
				add_gap(previous->queue, previous->priority, end_of(previous->queue));
			low_queues.push_back(previous ? previous->queue : std::string()); /* no queue has an empty name */
			high_queues.push_back(lane.queue);
		}
		add_gap(lane.queue, same_queue ? previous->priority : below_all, lane.priority);
		previous = &lane;
	}
	add_gap(previous->queue, previous->priority, end_of(previous->queue));

	std::vector<Lane> found;
	Params priorities, between, last;
	priorities.add(std::span<const std::string>(queues)).add(std::span<const int32>(lows));
	append_lanes(found, new_priorities_statement.run(priorities.add(std::span<const int32>(highs))));
	between.add(std::span<const std::string>(low_queues)).add(std::span<const std::string>(high_queues));
	append_lanes(found, new_queues_statement.run(between));
	append_lanes(found, last_queues_statement.run(last.add(std::string_view(previous->queue))));
	return found;
}

static std::vector<LaneHead> first_lanes(bool grouped, int count) {
	Params params;
	const Rows rows = (grouped ? group_lane_heads_statement : lane_heads_statement).run(params.add(count));
	std::vector<LaneHead> heads;
	heads.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++)
		heads.push_back({{rows.text_at(i, 1), rows.int16_at(i, 2), grouped}, rows.int64_at(i, 3)});
	std::sort(heads.begin(), heads.end(), [](const LaneHead &a, const LaneHead &b) { return a.lane < b.lane; });
	return heads;
}

/* Reads the first lanes of each queue, and notes where there are more. */
static void discover_first(DiscoveredLanes &discovered, bool grouped) {
	int count = 0;
	const std::vector<LaneHead> heads = first_lanes(grouped, lanes_at_once + 1);
	for (size_t i = 0; i < heads.size(); i++) {
		const Lane &lane = heads[i].lane;
		const bool same_queue = i > 0 && heads[i - 1].lane.queue == lane.queue;
		count = same_queue ? count + 1 : 1;
		if (count <= lanes_at_once) {
			discovered.lanes.push_back(lane);
			continue;
		}
		const int32 end = heads[i - 1].lane.priority;
		const auto known = discovered.ends.try_emplace(lane.queue, end).first;
		known->second = std::min(known->second, end);
	}
}

/* Of tasks without group. */
static void discover_plain_lanes(DiscoveredLanes &discovered, std::span<const Lane> known, const QueueEnds &ends) {
	discovered.from_scratch = known.empty();
	/* Where a few steps do not find the end, there are many new ones. */
	std::vector<Lane> all(known.begin(), known.end());
	for (int step = 0; !discovered.from_scratch; step++) {
		const std::vector<Lane> found = look_between(all, ends);
		if (found.empty())
			return;
		discovered.from_scratch = step == 8;
		discovered.lanes.insert(discovered.lanes.end(), found.begin(), found.end());
		all.insert(all.end(), found.begin(), found.end());
		std::sort(all.begin(), all.end());
	}
	discovered.lanes.clear();
	discover_first(discovered, false);
}

DiscoveredLanes discover_lanes(std::span<const Lane> known, const QueueEnds &ends) {
	std::vector<Lane> plain(known.begin(), known.end());
	std::erase_if(plain, [](const Lane &lane) { return lane.grouped; });
	DiscoveredLanes discovered;
	discover_plain_lanes(discovered, plain, ends);
	discover_first(discovered, true);
	return discovered;
}

LanesAhead lanes_ahead(std::string_view queue, int32 after, bool grouped, const TypeFilter &filter) {
	constexpr int32 most_rows = 8192;
	Params params;
	const Wanting wanting(filter);
	const Rows rows =
		(grouped ? group_ahead_statement : ahead_statement).run(params.add(queue).add(after).add(most_rows));
	LanesAhead ahead;
	const auto add = [&ahead](int16 priority) {
		if (ahead.priorities.empty() || ahead.priorities.back() != priority)
			ahead.priorities.push_back(priority);
	};
	for (uint64 i = 0; i < rows.size(); i++)
		if (rows.bool_at(i, 2))
			add(rows.int16_at(i, 1));
	if (rows.size() == static_cast<uint64>(most_rows)) {
		ahead.end = rows.int16_at(rows.size() - 1, 1);
		add(static_cast<int16>(*ahead.end)); /* there may be more in it */
	}
	return ahead;
}

std::vector<LaneHead> lane_heads() {
	constexpr int most = 1024;
	std::vector<LaneHead> heads = first_lanes(false, most);
	std::ranges::move(first_lanes(true, most), std::back_inserter(heads));
	return heads;
}

/* Ending a claim */

/* Moves rows between leaves: what stays, and what the move changes. */
#define KEPT_COLUMNS                                                                                                   \
	"id, type, payload, created_at, processed_at, queue, priority, attempts, max_attempts, claimed_by, unique_key, "   \
	"group_key, created_by, metadata, timeout, origin_queue, progress, progress_message, unique_scope"
#define CHANGED_COLUMNS                                                                                                \
	", status, updated_at, run_at, finished_at, lease_expires_at, last_error, last_sqlstate, result, crashes, "        \
	"failures, slot"

/* The condition on the array makes it look up these ids, and then compare, rather than read the whole index. */
#define COMPLETE_CLAIMS                                                                                                \
	"DELETE FROM jobqueue.tasks_live t USING unnest($1, $2, $3) AS u(id, attempt, result) WHERE t.id" EQ               \
	"ANY ($1) AND t.id" EQ "u.id AND t.attempts" EQ "u.attempt AND " STATUS_IS("processing") " AND " IN_SERVER EQ      \
																							 "$4 "
#define COMPLETE_INTO(n)                                                                                               \
	Statement {                                                                                                        \
		Statement::Join::hash,                                                                                         \
			"WITH done AS (" COMPLETE_CLAIMS "RETURNING t.*, u.result AS given) "                                      \
			"INSERT INTO jobqueue.tasks_history_" #n " (" KEPT_COLUMNS CHANGED_COLUMNS ") "                            \
			"SELECT " KEPT_COLUMNS ", 'completed', " NOW ", run_at, " NOW                                              \
			", NULL, last_error, last_sqlstate, given, crashes, failures, " #n " FROM done RETURNING id",              \
			INT8ARRAYOID, INT4ARRAYOID, JSONBARRAYOID, BOOLOID                                                         \
	}
static constinit Statement complete_statements[] = {
	Statement{Statement::Join::hash, COMPLETE_CLAIMS "RETURNING t.id", INT8ARRAYOID, INT4ARRAYOID, JSONBARRAYOID,
			  BOOLOID},
	COMPLETE_INTO(1),
	COMPLETE_INTO(2),
	COMPLETE_INTO(3),
	COMPLETE_INTO(4),
	COMPLETE_INTO(5),
	COMPLETE_INTO(6),
	COMPLETE_INTO(7),
	COMPLETE_INTO(8),
};

std::vector<int64> complete(std::span<const int64> ids, std::span<const int32> attempts, std::optional<Datum> results,
							bool in_server, int slot) {
	std::vector<int64> done;
	if (slot == 0 && !in_server)
		done = complete_by_place(ids, attempts);
	if (!done.empty() && done.size() == ids.size())
		return done;
	Params params;
	params.add(ids).add(attempts).add_datum(results.value_or(0), !results).add(in_server);
	std::ranges::copy(complete_statements[slot].run(params).ids(), std::back_inserter(done));
	return done;
}

/*
 * By their places, which cannot change while we hold the locks unless we change them ourselves: nothing is looked up.
 * With history, what each row is given comes with its id.
 */
#define DELETE_LOCKED "DELETE FROM jobqueue.tasks_live t WHERE t.ctid" EQ "ANY ($1)"
#define COMPLETE_LOCKED_INTO(n)                                                                                        \
	Statement {                                                                                                        \
		Statement::Join::hash,                                                                                         \
			"WITH done AS (" DELETE_LOCKED " RETURNING t.*) "                                                          \
			"INSERT INTO jobqueue.tasks_history_" #n " (" FUSED_COLUMNS ") "                                           \
			"SELECT " FUSED_VALUES ", " #n                                                                             \
			" FROM done t JOIN unnest($2, $3, $4) AS u(id, processed_at, result) ON u.id" EQ "t.id",                   \
			TIDARRAYOID, INT8ARRAYOID, TIMESTAMPTZARRAYOID, JSONBARRAYOID, TEXTOID                                     \
	}
#define FUSED_COLUMNS                                                                                                  \
	"id, type, payload, status, created_at, updated_at, processed_at, queue, priority, run_at, attempts, "             \
	"max_attempts, finished_at, claimed_by, last_error, last_sqlstate, result, group_key, created_by, metadata, "      \
	"crashes, slot"
#define FUSED_VALUES                                                                                                   \
	"t.id, t.type, t.payload, 'completed', t.created_at, " NOW ", u.processed_at, t.queue, t.priority, t.run_at, "     \
	"t.attempts" PLUS "1, " MAX_ATTEMPTS ", " NOW ", $5, t.last_error, t.last_sqlstate, u.result, t.group_key, "       \
	"t.created_by, t.metadata, t.crashes"
static constinit Statement complete_locked_statements[] = {
	Statement{DELETE_LOCKED, TIDARRAYOID},
	COMPLETE_LOCKED_INTO(1),
	COMPLETE_LOCKED_INTO(2),
	COMPLETE_LOCKED_INTO(3),
	COMPLETE_LOCKED_INTO(4),
	COMPLETE_LOCKED_INTO(5),
	COMPLETE_LOCKED_INTO(6),
	COMPLETE_LOCKED_INTO(7),
	COMPLETE_LOCKED_INTO(8),
};

uint64 complete_locked(std::span<const Finished> tasks, std::string_view claimed_by, int slot) {
	Params params;
	const auto count = static_cast<int>(tasks.size());
	const auto add_array = [&](Oid type, int16 length, bool by_value, char alignment, auto &&value) {
		params.add_datum(guard([&] {
							 auto *elements = static_cast<Datum *>(palloc(sizeof(Datum) * tasks.size()));
							 auto *nulls = static_cast<bool *>(palloc0(tasks.size()));
							 for (size_t i = 0; i < tasks.size(); i++)
								 elements[i] = value(tasks[i], &nulls[i]);
							 int dimensions[1] = {count}, lower[1] = {1};
							 return PointerGetDatum(construct_md_array(elements, nulls, 1, dimensions, lower, type,
																	   length, by_value, alignment));
						 }),
						 false);
	};
	params.add_datum(places_of(tasks), false);
	if (slot == 0)
		return complete_locked_statements[0].run(params).processed();
	add_array(INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
			  [](const Finished &task, bool *) { return Int64GetDatum(task.id); });
	add_array(TIMESTAMPTZOID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
			  [](const Finished &task, bool *) { return TimestampTzGetDatum(task.processed_at); });
	add_array(JSONBOID, -1, false, TYPALIGN_INT, [](const Finished &task, bool *isnull) {
		*isnull = !task.result;
		return task.result.value_or(0);
	});
	return complete_locked_statements[slot].run(params.add(claimed_by)).processed();
}

/*
 * How many attempts have failed so far: those that were snoozed or released have not. Of the failures the latest 20 are
 * kept; what came before the first of these counts as failed.
 */
#define FIRST_FAILED(t) "(" t "failures OPERATOR(pg_catalog.->) 0 OPERATOR(pg_catalog.->) 'attempt')"
#define FAILED_ATTEMPTS(t)                                                                                             \
	"CASE WHEN " t "failures IS NULL THEN 0 WHEN pg_catalog.jsonb_array_length(" t "failures)" LT "20 OR "             \
	"coalesce(pg_catalog.jsonb_typeof(" FIRST_FAILED(t) "), '') OPERATOR(pg_catalog.<>) 'number' "                     \
														"THEN pg_catalog.jsonb_array_length(" t                        \
														"failures) ELSE 19" PLUS                                       \
														"pg_catalog.int4(" FIRST_FAILED(t) ") END"

#define CLAIM_COLUMNS                                                                                                                \
	"t.id, t.type, t.queue, t.priority, t.attempts, t.max_attempts, t.claimed_by, t.crashes, t.origin_queue IS NOT NULL, " IN_SERVER \
	", coalesce(t.group_key, ''), " FAILED_ATTEMPTS("t.")

static std::vector<Claim> claims_of(const Rows &rows) {
	std::vector<Claim> claims;
	claims.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++)
		claims.push_back({rows.int64_at(i, 1), rows.text_at(i, 2), rows.text_at(i, 3), rows.int16_at(i, 4),
						  rows.int32_at(i, 5), rows.int32_at(i, 6), rows.text_at(i, 7), rows.int32_at(i, 8),
						  rows.bool_at(i, 9), rows.bool_at(i, 10), rows.text_at(i, 11), rows.int32_at(i, 12)});
	return claims;
}

static constinit Statement lock_claim_statement{"SELECT " CLAIM_COLUMNS " FROM jobqueue.tasks_live t WHERE t.id" EQ
												"$1 AND t.attempts" EQ
												"$2 AND " STATUS_IS("processing") " AND " IN_SERVER EQ "$3 FOR UPDATE",
												INT8OID, INT4OID, BOOLOID};

std::optional<Claim> lock_claim(int64 id, int32 attempt, bool in_server) {
	Params params;
	std::vector<Claim> claims = claims_of(lock_claim_statement.run(params.add(id).add(attempt).add(in_server)));
	return claims.empty() ? std::nullopt : std::optional(std::move(claims[0]));
}

static constinit Statement failed_attempts_statement{
	"SELECT " FAILED_ATTEMPTS("t.") " FROM jobqueue.tasks_live t WHERE t.id" EQ "$1", INT8OID};

int32 failed_attempts(int64 id) {
	Params params;
	const Rows rows = failed_attempts_statement.run(params.add(id));
	return rows.empty() ? 0 : rows.int32_at(0, 1);
}

static constinit Statement lock_free_statement{"SELECT t.id FROM jobqueue.tasks_live t WHERE t.id" EQ
											   "ANY ($1) ORDER BY t.id FOR UPDATE SKIP LOCKED",
											   INT8ARRAYOID};

std::vector<int64> lock_free(std::span<const int64> ids) {
	Params params;
	return lock_free_statement.run(params.add(ids)).ids();
}

/*
 * An attempt that has ended left the task waiting with this number, or processing with a higher one. Where its start was
 * forgotten, so may be that the task had become due just before.
 */
static constinit Statement lock_crashed_statement{
	"UPDATE jobqueue.tasks_live t SET status = 'processing', attempts = $2, max_attempts = " MAX_ATTEMPTS
	", processed_at = CASE WHEN t.attempts" LT "$2 THEN " NOW " ELSE t.processed_at END, unique_scope = " STARTED_SCOPE
	", lease_expires_at = 'infinity', updated_at = " NOW " WHERE t.id" EQ
	"$1 AND (" STATUS_IS("processing") " AND t.attempts" LE "$2 AND " IN_SERVER " OR (" STATUS_IS(
		"pending") " OR " STATUS_IS("scheduled") ") AND t.attempts" LT "$2) RETURNING " CLAIM_COLUMNS,
	INT8OID, INT4OID};

std::optional<Claim> lock_crashed_claim(int64 id, int32 attempt) {
	Params params;
	std::vector<Claim> claims = claims_of(lock_crashed_statement.run(params.add(id).add(attempt)));
	return claims.empty() ? std::nullopt : std::optional(std::move(claims[0]));
}

/*
 * A restore may bring tasks before the row that tells us that it is one. What was attempted before this installation was
 * made is left alone.
 */
#define CLAIMED_HERE " AND t.processed_at" GE INSTALLED

#define EXPIRED                                                                                                        \
	" FROM jobqueue.tasks_live t WHERE t.status" EQ "'processing' AND t.lease_expires_at" LT "$1" CLAIMED_HERE
#define ANY_EXPIRED EXPIRED " AND NOT t.id" EQ "ANY ($3) ORDER BY t.lease_expires_at LIMIT $2"
static constinit Statement lock_expired_statement{"SELECT " CLAIM_COLUMNS ANY_EXPIRED " FOR UPDATE SKIP LOCKED",
												  TIMESTAMPTZOID, INT4OID, INT8ARRAYOID};
static constinit Statement lock_these_expired_statement{
	"SELECT " CLAIM_COLUMNS EXPIRED " AND t.id" EQ "ANY ($2) FOR UPDATE SKIP LOCKED", TIMESTAMPTZOID, INT8ARRAYOID};
static constinit Statement expired_ids_statement{"SELECT t.id" ANY_EXPIRED, TIMESTAMPTZOID, INT4OID, INT8ARRAYOID};
static constinit Statement in_server_statement{"SELECT " CLAIM_COLUMNS " FROM jobqueue.tasks_live t WHERE t.status" EQ
											   "'processing' AND t.lease_expires_at" EQ "'infinity'" CLAIMED_HERE
											   " ORDER BY t.lease_expires_at"};

std::vector<Claim> lock_expired(TimestampTz now, const Batch &batch) {
	Params params;
	params.add_time(now);
	return claims_of(batch.only.empty() ? lock_expired_statement.run(params.add(batch.count).add(batch.except))
										: lock_these_expired_statement.run(params.add(batch.only)));
}

std::vector<int64> expired_ids(TimestampTz now, const Batch &batch) {
	Params params;
	return expired_ids_statement.run(params.add_time(now).add(batch.count).add(batch.except)).ids();
}

std::vector<Claim> claims_in_server() {
	Params none;
	return claims_of(in_server_statement.run(none));
}

/* The latest 20; what a failure says of itself is in four parameters from $message on. */
#define FAILURES(t, message, sqlstate, keys, values)                                                                   \
	"CASE WHEN pg_catalog.jsonb_array_length(" t "failures)" GE "20 THEN " t "failures" MINUS "0 "                     \
	"ELSE coalesce(" t "failures, '[]') END" CONCAT "pg_catalog.jsonb_build_array(pg_catalog.jsonb_strip_nulls("       \
	"pg_catalog.jsonb_build_object('attempt', " t "attempts, 'started_at', " t "processed_at, 'seconds', "             \
	"CASE WHEN pg_catalog.isfinite(" t "processed_at) THEN pg_catalog.date_part('epoch', " NOW MINUS t                 \
	"processed_at) END, 'worker', " t "claimed_by, 'sqlstate', " sqlstate ", 'message', pg_catalog.left(" message      \
	", 2000))" CONCAT "pg_catalog.jsonb_object(" keys ", " values ")))"
#define MORE_ATTEMPTS(t, n)                                                                                            \
	"CASE WHEN " t "max_attempts" LT "2147480000 THEN " t "max_attempts" PLUS n " ELSE " t "max_attempts END"

static constinit Statement put_back_statement{
	"UPDATE jobqueue.tasks_live t SET status = CASE WHEN $2 IS NULL THEN 'pending' ELSE 'scheduled' END, "
	"run_at = coalesce($2, t.run_at), max_attempts = " MORE_ATTEMPTS(
		"t.", "1") ", lease_expires_at = NULL, updated_at = " NOW " WHERE t.id" EQ "$1",
	INT8OID, TIMESTAMPTZOID};
static constinit Statement put_back_failed_statement{
	"UPDATE jobqueue.tasks_live t SET status = CASE WHEN $2 IS NULL THEN 'pending' ELSE 'scheduled' END, "
	"run_at = coalesce($2, t.run_at), last_error = $3, last_sqlstate = $4, failures = " FAILURES(
		"t.", "$3", "$4", "$5", "$6") ", crashes = t.crashes" PLUS "$7, lease_expires_at = NULL, updated_at = " NOW
									  " WHERE t.id" EQ "$1",
	INT8OID,
	TIMESTAMPTZOID,
	TEXTOID,
	TEXTOID,
	TEXTARRAYOID,
	TEXTARRAYOID,
	INT4OID};

static void add_failure(Params &params, const Failure &failure) {
	params.add(std::string_view(failure.message)).add(std::string_view(failure.sqlstate));
	params.add(std::span<const std::string>(failure.keys)).add(std::span<const std::string>(failure.values));
	params.add(static_cast<int32>(failure.crash));
}

void put_back(int64 id, std::optional<TimestampTz> run_at, const std::optional<Failure> &failure) {
	Params params;
	params.add(id);
	params.add_time(run_at);
	if (failure)
		add_failure(params, *failure);
	(failure ? put_back_failed_statement : put_back_statement).run(params);
}

static constinit Statement give_up_statement{
	"WITH gone AS (DELETE FROM jobqueue.tasks_live t WHERE t.id" EQ "$1 RETURNING t.*) "
	"INSERT INTO jobqueue.tasks_failed (" KEPT_COLUMNS CHANGED_COLUMNS ") SELECT " KEPT_COLUMNS ", 'failed', " NOW
	", run_at, " NOW ", NULL, $2, $3, result, crashes" PLUS
	"$6, " FAILURES("", "$2", "$3", "$4", "$5") ", -1 FROM gone",
	INT8OID,
	TEXTOID,
	TEXTOID,
	TEXTARRAYOID,
	TEXTARRAYOID,
	INT4OID};

void give_up(int64 id, const Failure &failure) {
	Params params;
	add_failure(params.add(id), failure);
	give_up_statement.run(params);
}

/* It has attempts enough for whoever claims it there. */
static constinit Statement dead_letter_statement{
	"UPDATE jobqueue.tasks_live t SET status = 'pending', queue = $7, origin_queue = t.queue, run_at = NULL, "
	"last_error = $2, last_sqlstate = $3, crashes = t.crashes" PLUS
	"$6, failures = " FAILURES("t.", "$2", "$3", "$4", "$5") ", max_attempts = " MORE_ATTEMPTS(
		"t.", "20") ", lease_expires_at = NULL, updated_at = " NOW " WHERE t.id" EQ "$1",
	INT8OID,
	TEXTOID,
	TEXTOID,
	TEXTARRAYOID,
	TEXTARRAYOID,
	INT4OID,
	TEXTOID};

void dead_letter(int64 id, std::string_view queue, const Failure &failure) {
	Params params;
	add_failure(params.add(id), failure);
	dead_letter_statement.run(params.add(queue));
}

static constinit Statement extend_statement{"UPDATE jobqueue.tasks_live t SET lease_expires_at = $3, updated_at = " NOW
											" WHERE t.id" EQ "$1 AND t.attempts" EQ
											"$2 AND " STATUS_IS("processing") " AND NOT " IN_SERVER " RETURNING t.id",
											INT8OID, INT4OID, TIMESTAMPTZOID};

bool extend_lease(int64 id, int32 attempt, TimestampTz lease) {
	Params params;
	return !extend_statement.run(params.add(id).add(attempt).add_time(lease)).empty();
}

static constinit Statement progress_statement{
	"UPDATE jobqueue.tasks_live t SET progress = $3, progress_message = $4, updated_at = " NOW " WHERE t.id" EQ
	"$1 AND t.attempts" EQ "$2 AND " STATUS_IS("processing") " AND NOT " IN_SERVER " RETURNING t.id",
	INT8OID, INT4OID, FLOAT4OID, TEXTOID};

bool set_progress(int64 id, int32 attempt, float fraction, const std::optional<std::string> &message) {
	Params params;
	params.add(id).add(attempt).add_datum(Float4GetDatum(fraction), false);
	params.add(message);
	return !progress_statement.run(params).empty();
}

/* By people */

#define CANCEL_TASK                                                                                                    \
	"WITH gone AS (DELETE FROM jobqueue.tasks_live t WHERE t.id" EQ "$1 AND NOT t.status" EQ FINISHED " RETURNING t.*)"
#define CANCELLED                                                                                                      \
	" SELECT t.queue, t.priority, t.status" EQ "'processing' AND " IN_SERVER ", coalesce(t.group_key, '') FROM gone t"
#define CANCEL_INTO(n)                                                                                                 \
	Statement {                                                                                                        \
		CANCEL_TASK ", kept AS (INSERT INTO jobqueue.tasks_history_" #n " (" KEPT_COLUMNS CHANGED_COLUMNS              \
					") SELECT " KEPT_COLUMNS ", 'cancelled', " NOW ", run_at, " NOW                                    \
					", NULL, coalesce($2, last_error), CASE WHEN $2 IS NULL THEN last_sqlstate END, result, crashes, " \
					"failures, " #n " FROM gone)" CANCELLED,                                                           \
			INT8OID, TEXTOID                                                                                           \
	}
static constinit Statement cancel_statements[] = {
	Statement{CANCEL_TASK CANCELLED, INT8OID, TEXTOID},
	CANCEL_INTO(1),
	CANCEL_INTO(2),
	CANCEL_INTO(3),
	CANCEL_INTO(4),
	CANCEL_INTO(5),
	CANCEL_INTO(6),
	CANCEL_INTO(7),
	CANCEL_INTO(8),
};

std::optional<Cancelled> cancel(int64 id, const std::optional<std::string> &reason, int slot) {
	/* Twice: who waited for a transaction that moved the task out of the leaf and back has not seen it. */
	for (int tries = 0; tries < 2; tries++) {
		Params params;
		params.add(id);
		params.add(reason);
		const Rows rows = cancel_statements[slot].run(params);
		if (!rows.empty())
			return Cancelled{{rows.text_at(0, 1), rows.int16_at(0, 2), !rows.text_at(0, 4).empty()},
							 rows.bool_at(0, 3),
							 rows.text_at(0, 4)};
	}
	return std::nullopt;
}

/*
 * Where the key is taken, the row stays where it is. A task that comes back has an attempt left, and no claim; a dead
 * letter goes to where it came from, without the attempts that it got for its other queue.
 */
#define BACK_COLUMNS                                                                                                   \
	"(id, type, payload, created_at, processed_at, queue, priority, attempts, claimed_by, unique_key, group_key, "     \
	"created_by, metadata, timeout, unique_scope, status, run_at, last_error, last_sqlstate, crashes, failures, max_attempts) "
#define ATTEMPTS_LEFT(t)                                                                                               \
	"greatest(" t ".attempts" PLUS "1, " t ".max_attempts" MINUS "CASE WHEN " t                                        \
	".origin_queue IS NULL THEN 0 ELSE 20 "                                                                            \
	"END)"
#define BACK_VALUES                                                                                                         \
	"SELECT p.id, p.type, p.payload, p.created_at, p.processed_at, coalesce(p.origin_queue, p.queue), p.priority, "         \
	"p.attempts, p.claimed_by, p.unique_key, p.group_key, p.created_by, p.metadata, p.timeout, CASE WHEN p.unique_scope" EQ \
	"'started' THEN 'waiting' ELSE p.unique_scope END, CASE WHEN $2 IS NULL "                                               \
	"THEN 'pending' ELSE 'scheduled' END, $2, p.last_error, p.last_sqlstate, p.crashes, p.failures, CASE WHEN "             \
	"p.max_attempts IS NOT NULL THEN " ATTEMPTS_LEFT("p") " END FROM picked p ON CONFLICT DO NOTHING "
#define RETRY_COLUMNS "RETURNING " CLAIM_COLUMNS

static constinit Statement retry_waiting_statement{
	"UPDATE jobqueue.tasks_live t SET status = CASE WHEN $2 IS NULL THEN 'pending' ELSE 'scheduled' END, "
	"run_at = $2, queue = coalesce(t.origin_queue, t.queue), origin_queue = NULL, max_attempts = CASE WHEN "
	"t.origin_queue IS NULL THEN t.max_attempts ELSE " ATTEMPTS_LEFT(
		"t") " END, updated_at = " NOW " WHERE t.id" EQ
			 "$1 AND (" STATUS_IS("scheduled") " OR " STATUS_IS(
				 "pending") " AND t.origin_queue IS NOT NULL) " RETRY_COLUMNS,
	INT8OID, TIMESTAMPTZOID};
static constinit Statement retry_finished_statement{
	"WITH picked AS (SELECT t.* FROM jobqueue.tasks t WHERE t.id" EQ "$1 AND t.slot OPERATOR(pg_catalog.<>) "
	"0::pg_catalog.int2 AND t.status" CCOLL EQ "ANY (ARRAY['failed', 'cancelled']) FOR UPDATE), "
	"back AS (INSERT INTO jobqueue.tasks_live AS t " BACK_COLUMNS BACK_VALUES RETRY_COLUMNS
	"), gone AS (DELETE FROM jobqueue.tasks d USING back b WHERE d.id" EQ "$1 AND d.id" EQ
	"b.id AND d.slot OPERATOR(pg_catalog.<>) 0::pg_catalog.int2) "
	"SELECT * FROM back",
	INT8OID, TIMESTAMPTZOID};

std::optional<Claim> retry(int64 id, std::optional<TimestampTz> run_at) {
	/* Once more at the end: somebody else may have brought it back while we waited for it. */
	for (Statement *statement : {&retry_waiting_statement, &retry_finished_statement, &retry_waiting_statement}) {
		Params params;
		params.add(id);
		params.add_time(run_at);
		std::vector<Claim> found = claims_of(statement->run(params));
		if (!found.empty())
			return std::move(found[0]);
	}
	return std::nullopt;
}

/* In the order of the ids: the index that there is, whatever the selection. */
#define MATCHES(t)                                                                                                     \
	"($1 IS NULL OR " t ".queue" CCOLL EQ "$1) AND ($2 IS NULL OR " t ".type" EQ "$2) AND ($3 IS NULL OR " t           \
	".created_at" GE "$3) AND ($4 IS NULL OR " t ".created_at" LT "$4)"
#define HAS_STATUS(t) "($6 IS NULL OR " t ".status" CCOLL EQ "$6)"
#define FIRST_OF(t) " ORDER BY " t ".id LIMIT $5 FOR UPDATE SKIP LOCKED"

static void add_selection(Params &params, const Selection &selection) {
	params.add(selection.queue);
	params.add(selection.type);
	params.add_time(selection.since).add_time(selection.until).add(selection.count);
}

static constinit Statement select_live_statement{
	"SELECT t.id FROM jobqueue.tasks_live t WHERE NOT t.status" CCOLL EQ FINISHED
	" AND " MATCHES("t") " AND " HAS_STATUS("t") FIRST_OF("t"),
	TEXTOID,
	TEXTOID,
	TIMESTAMPTZOID,
	TIMESTAMPTZOID,
	INT4OID,
	TEXTOID};

std::vector<int64> select_live(const Selection &selection) {
	Params params;
	add_selection(params, selection);
	params.add(selection.status);
	return select_live_statement.run(params).ids();
}

static constinit Statement select_failed_statement{"SELECT t.id FROM jobqueue.tasks_failed t WHERE " MATCHES("t")
													   FIRST_OF("t"),
												   TEXTOID,
												   TEXTOID,
												   TIMESTAMPTZOID,
												   TIMESTAMPTZOID,
												   INT4OID};
/* In the order of the index, which has the queue: nothing else leads to the dead letters among the live tasks. */
#define SELECT_DEAD_LETTERS(with_group, order)                                                                         \
	Statement {                                                                                                        \
		"SELECT t.id FROM jobqueue.tasks_live t WHERE t.status" EQ "'pending' AND t.group_key " with_group             \
		" AND t.queue" CCOLL EQ "$1 AND t.origin_queue IS NOT NULL AND " MATCHES("t") order                            \
			" LIMIT $5 FOR UPDATE SKIP LOCKED",                                                                        \
			TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID                                                  \
	}
static constinit Statement select_dead_letters_statement =
	SELECT_DEAD_LETTERS("IS NULL", " ORDER BY t.priority, t.id NULLS FIRST");
static constinit Statement select_grouped_dead_letters_statement =
	SELECT_DEAD_LETTERS("IS NOT NULL", " ORDER BY t.priority, t.group_key" CCOLL ", t.id NULLS FIRST");

Retried retry_failed(const Selection &selection) {
	Retried retried;
	Selection rest = selection;
	const auto retry_selected = [&retried, &rest](Statement &statement) {
		if (rest.count <= 0)
			return;
		Params params;
		add_selection(params, rest);
		for (const int64 id : statement.run(params).ids()) {
			if (std::optional<Claim> task = retry(id, std::nullopt))
				retried.tasks.push_back(std::move(*task));
			else
				retried.passed++;
			rest.count--;
		}
	};
	retry_selected(select_failed_statement);
	for (const std::string &queue : selection.queue ? std::vector{*selection.queue} : pauses().dead_letter_queues) {
		rest.queue = queue;
		retry_selected(select_dead_letters_statement);
		retry_selected(select_grouped_dead_letters_statement);
	}
	return retried;
}

#define DELETE_FROM(leaves)                                                                                            \
	Statement {                                                                                                        \
		"DELETE FROM jobqueue." leaves " d USING (SELECT t.tableoid, t.id FROM jobqueue." leaves                       \
		" t WHERE NOT t.status" CCOLL EQ "'processing' AND " MATCHES("t") " AND " HAS_STATUS("t")                      \
			FIRST_OF("t") ") o WHERE d.id" EQ "o.id AND d.tableoid" EQ "o.tableoid RETURNING d.id, d.status" EQ        \
						  "\'completed\', d.queue, d.priority, coalesce(d.group_key, \'\')",                           \
			TEXTOID, TEXTOID, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID, TEXTOID                                         \
	}
static constinit Statement delete_statement = DELETE_FROM("tasks");
static constinit Statement delete_live_statement = DELETE_FROM("tasks_live");
static constinit Statement delete_failed_statement = DELETE_FROM("tasks_failed");

static std::vector<Removed> removed_of(const Rows &rows) {
	std::vector<Removed> removed;
	removed.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++)
		removed.push_back({rows.int64_at(i, 1),
						   rows.bool_at(i, 2),
						   {rows.text_at(i, 3), rows.int16_at(i, 4), true},
						   rows.text_at(i, 5)});
	return removed;
}

std::vector<Removed> delete_tasks(const Selection &selection) {
	Params params;
	add_selection(params, selection);
	params.add(selection.status);
	/* The planner cannot tell from a parameter which leaves have tasks of a status. */
	const bool waiting =
		selection.status == "pending" || selection.status == "scheduled" || selection.status == "blocked";
	Statement &statement = waiting						  ? delete_live_statement
						   : selection.status == "failed" ? delete_failed_statement
														  : delete_statement;
	return removed_of(statement.run(params));
}

static constinit Statement purge_queue_statement{
	"DELETE FROM jobqueue.tasks_live d USING (SELECT t.id FROM jobqueue.tasks_live t WHERE t.queue" CCOLL EQ
	"$1 AND t.status" CCOLL EQ
	"ANY (ARRAY['pending', 'scheduled', 'blocked']) ORDER BY t.id FOR UPDATE SKIP LOCKED) o WHERE d.id" EQ
	"o.id RETURNING d.id, false, d.queue, d.priority, coalesce(d.group_key, '')",
	TEXTOID};

std::vector<Removed> purge(std::string_view queue) {
	Params params;
	return removed_of(purge_queue_statement.run(params.add(queue)));
}

/* Watching */

static constinit Statement look_statement{
	"SELECT t, t.status, t.queue, t.created_by, t.xmin FROM jobqueue.tasks t WHERE t.id" EQ "$1", INT8OID};

std::optional<Look> look(int64 id) {
	Params params;
	const Rows rows = look_statement.run(params.add(id));
	if (rows.empty())
		return std::nullopt;
	return Look{rows.datum(0, 1), rows.text_at(0, 2), rows.text_at(0, 3), rows.name_at(0, 4),
				DatumGetTransactionId(rows.datum(0, 5))};
}

static constinit Statement queues_of_tasks_statement{
	"SELECT DISTINCT t.queue FROM jobqueue.tasks t WHERE t.id" EQ "ANY ($1)", INT8ARRAYOID};

std::vector<std::string> queues_of_tasks(std::span<const int64> ids) {
	Params params;
	const Rows rows = queues_of_tasks_statement.run(params.add(ids));
	std::vector<std::string> queues;
	for (uint64 i = 0; i < rows.size(); i++)
		queues.push_back(rows.text_at(i, 1));
	return queues;
}

/* Configuration */

static constinit Statement access_statement{"SELECT a.role, a.role_oid, a.access, a.queue FROM jobqueue.access a"};

std::vector<AccessEntry> access_entries() {
	Params none;
	const Rows rows = access_statement.run_on_latest(none);
	std::vector<AccessEntry> entries;
	entries.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++)
		entries.push_back({rows.name_at(i, 1), DatumGetObjectId(rows.datum(i, 2)), rows.text_at(i, 3),
						   rows.is_null(i, 4) ? std::nullopt : std::optional(rows.text_at(i, 4))});
	return entries;
}

static constinit Statement limits_statement{
	"SELECT l.role, l.max_workers, l.max_queued, l.max_payload FROM jobqueue.limits l"};
static constinit Statement count_waiting_statement{
	"SELECT pg_catalog.count(*) FROM (SELECT 1 FROM jobqueue.tasks_live t WHERE t.created_by" EQ "$1 AND t.status" EQ
	"ANY (ARRAY['pending', 'scheduled', 'blocked']) LIMIT $2) w",
	NAMEOID, INT8OID};

std::vector<Limits> limits() {
	Params none;
	const Rows rows = limits_statement.run_on_latest(none);
	const auto number = [&rows](uint64 row, int column) {
		return rows.is_null(row, column) ? std::nullopt : std::optional(rows.int32_at(row, column));
	};
	std::vector<Limits> limits;
	for (uint64 i = 0; i < rows.size(); i++)
		limits.push_back({rows.name_at(i, 1), number(i, 2), number(i, 3), number(i, 4)});
	return limits;
}

int64 count_waiting(std::string_view created_by, int64 most) {
	Params params;
	return count_waiting_statement.run(params.add_name(created_by).add(most + 1)).int64_at(0, 1);
}

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
/* Not by to_regprocedure(): the extension's owner need not be a superuser, and then may not look into every schema. */
#define OWNER_OF(signature)                                                                                            \
	"coalesce((SELECT p.proowner FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_proc p ON p.pronamespace" EQ        \
	"n.oid WHERE pg_catalog.starts_with(" signature ", pg_catalog.quote_ident(n.nspname)" CONCAT "'.') AND "           \
	"(pg_catalog.pg_identify_object('pg_catalog.pg_proc'::pg_catalog.regclass, p.oid, 0)).identity" EQ signature       \
	" LIMIT 1), 0::pg_catalog.oid)"
#define OID_OF(role) "coalesce((SELECT a.oid FROM pg_catalog.pg_roles a WHERE a.rolname" EQ role "), 0::pg_catalog.oid)"

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

static constinit Statement failure_policy_statement{
	"SELECT h.backoff, " MICROSECONDS("h.first_delay") ", " MICROSECONDS(
		"h.max_delay") ", h.jitter::pg_catalog.float8, "
					   "coalesce($2" EQ "ANY (h.discard_sqlstates) OR pg_catalog.left($2, 2)" EQ
					   "ANY (h.discard_sqlstates), false), CASE WHEN " HAS_DEAD_LETTERS
					   " THEN h.dead_letter_queue END, h.on_failure, h.run_as, "
					   "coalesce((SELECT a.oid FROM pg_catalog.pg_roles a WHERE a.rolname" EQ "h.run_as AND a.oid" EQ
					   "h.run_as_oid), 0::pg_catalog.oid) "
					   "FROM jobqueue.handlers h WHERE h.type" EQ "$1 AND ($4 OR " HAS_SAY_FOR_OTHERS_IN("$3") ")",
	TEXTOID, TEXTOID, TEXTOID, BOOLOID};

FailurePolicy failure_policy(const Claim &claim, std::string_view sqlstate) {
	Params params;
	params.add(std::string_view(claim.type)).add(sqlstate).add(std::string_view(claim.queue)).add(claim.in_server);
	const Rows rows = failure_policy_statement.run(params);
	if (rows.empty())
		return {};
	FailurePolicy policy;
	policy.backoff = rows.text_at(0, 1);
	policy.first_delay_us = rows.int64_at(0, 2);
	policy.max_delay_us = rows.int64_at(0, 3);
	policy.jitter = DatumGetFloat8(rows.datum(0, 4));
	policy.discard = rows.bool_at(0, 5);
	if (!rows.is_null(0, 6))
		policy.dead_letter_queue = rows.text_at(0, 6);
	if (!rows.is_null(0, 7))
		policy.on_failure = rows.text_at(0, 7);
	policy.run_as = rows.name_at(0, 8);
	policy.role = DatumGetObjectId(rows.datum(0, 9));
	return policy;
}

/* A payload that is large is to be had from the task. The mark is believed where it matters, of types that are added so. */
static constinit Statement failure_report_statement{
	"SELECT pg_catalog.jsonb_build_object('id', t.id, 'type', t.type, 'queue', t.queue, 'payload', "
	"CASE WHEN pg_catalog.pg_column_size(t.payload)" LE "262144 THEN t.payload END, 'created_by', t.created_by, "
	"'attempts', t.attempts, 'error', pg_catalog.left($2, 8192), 'sqlstate', $3, 'dead_letter_queue', $4), "
	"pg_catalog.jsonb_build_object('on_failure_of', t.id) FROM jobqueue.tasks_live t WHERE t.id" EQ
	"$1 AND NOT (coalesce(t.metadata OPERATOR(pg_catalog.?) 'on_failure_of', false) AND EXISTS "
	"(SELECT 1 FROM jobqueue.handlers h WHERE h.on_failure" EQ "t.type))",
	INT8OID, TEXTOID, TEXTOID, TEXTOID};

std::optional<FailureReport> failure_report(int64 id, const Failure &failure,
											const std::optional<std::string> &dead_letter_queue) {
	Params params;
	params.add(id).add(std::string_view(failure.message)).add(std::string_view(failure.sqlstate));
	const Rows rows = failure_report_statement.run(params.add(dead_letter_queue));
	return rows.empty() ? std::nullopt : std::optional(FailureReport{rows.datum(0, 1), rows.datum(0, 2)});
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

/* Subscriptions that bring tasks into this database. */
#define BY_SUBSCRIPTION                                                                                                \
	"FROM pg_catalog.pg_subscription_rel r WHERE r.srrelid" EQ                                                         \
	"ANY (ARRAY['jobqueue.tasks'::pg_catalog.regclass, 'jobqueue.tasks_live'::pg_catalog.regclass]::pg_catalog.oid[])"
#define IS_REPLICATED "EXISTS (SELECT 1 " BY_SUBSCRIPTION " AND NOT r.srsubid" EQ "ANY (i.adopted_subscriptions))"
static constinit Statement paused_all_statement{
	"SELECT 1 FROM jobqueue.incarnation i WHERE i.paused_at IS NOT NULL OR i.database" EQ
	"0::pg_catalog.oid OR " IS_REPLICATED " LIMIT 1"};
static constinit Statement paused_queues_statement{
	"SELECT q.queue FROM jobqueue.queues q WHERE q.paused_at IS NOT NULL"};
static constinit Statement dead_letter_queues_statement{
	"SELECT DISTINCT h.dead_letter_queue FROM jobqueue.handlers h WHERE " HAS_DEAD_LETTERS};

Pauses pauses() {
	Params none;
	Pauses result;
	result.all = !paused_all_statement.run(none).empty();
	const Rows rows = paused_queues_statement.run(none);
	for (uint64 i = 0; i < rows.size(); i++)
		result.queues.push_back(rows.text_at(i, 1));
	const Rows dead_letters = dead_letter_queues_statement.run(none);
	for (uint64 i = 0; i < dead_letters.size(); i++)
		result.dead_letter_queues.push_back(dead_letters.text_at(i, 1));
	return result;
}

static constinit Statement pause_all_statement{"UPDATE jobqueue.incarnation i SET paused_at = " NOW
											   " WHERE i.paused_at IS NULL RETURNING i.id"};
static constinit Statement pause_statement{"INSERT INTO jobqueue.queues AS q (queue, paused_at) VALUES ($1, " NOW ") "
										   "ON CONFLICT (queue) DO UPDATE SET paused_at = " NOW
										   " WHERE q.paused_at IS NULL RETURNING q.queue",
										   TEXTOID};
static constinit Statement resume_everything_statement{
	"UPDATE jobqueue.incarnation i SET paused_at = NULL WHERE i.paused_at IS NOT NULL RETURNING i.id"};
static constinit Statement resume_all_queues_statement{
	"UPDATE jobqueue.queues q SET paused_at = NULL WHERE q.paused_at IS NOT NULL RETURNING q.queue"};
static constinit Statement resume_statement{"UPDATE jobqueue.queues q SET paused_at = NULL WHERE q.queue" EQ
											"$1 AND q.paused_at IS NOT NULL RETURNING q.queue",
											TEXTOID};

bool pause(const std::optional<std::string> &queue) {
	Params params;
	if (!queue)
		return !pause_all_statement.run(params).empty();
	return !pause_statement.run(params.add(std::string_view(*queue))).empty();
}

bool resume(const std::optional<std::string> &queue) {
	Params params;
	if (queue)
		return !resume_statement.run(params.add(std::string_view(*queue))).empty();
	const bool everything = !resume_everything_statement.run(params).empty();
	const bool queues = !resume_all_queues_statement.run(params).empty();
	return everything || queues;
}

static constinit Statement standing_statement{
	"SELECT pg_catalog.count(*)" EQ "1 AND pg_catalog.bool_and(i.database" EQ "$1), "
	"coalesce(pg_catalog.bool_or(" IS_REPLICATED "), false), "
	"coalesce(pg_catalog.bool_or(i.server_started_at" EQ "$4), false), "
	"coalesce(pg_catalog.bool_and(i.system_identifier" EQ "$2 AND i.server_version" EQ "$3), false) "
	"FROM jobqueue.incarnation i",
	OIDOID, INT8OID, INT4OID, TIMESTAMPTZOID};
/* Recorded for whoever looks at a copy; nothing is paused because of it. */
static constinit Statement settle_statement{
	"UPDATE jobqueue.incarnation i SET system_identifier = $1, server_version = $2", INT8OID, INT4OID};
static constinit Statement disown_statement{
	"UPDATE jobqueue.incarnation i SET database = 0::pg_catalog.oid WHERE NOT i.database" EQ "0::pg_catalog.oid"};
/* As old as the oldest: the claims that were made there are ours from now on. */
static constinit Statement first_incarnation_statement{
	"SELECT pg_catalog.min(i.created_at) FROM jobqueue.incarnation i"};
static constinit Statement drop_incarnations_statement{"DELETE FROM jobqueue.incarnation"};
static constinit Statement new_incarnation_statement{
	"INSERT INTO jobqueue.incarnation (database, created_at, system_identifier, server_version, server_started_at, "
	"adopted_subscriptions) VALUES ($1, coalesce($2, " NOW "), $3, $4, $5, "
	"ARRAY(SELECT r.srsubid " BY_SUBSCRIPTION "))",
	OIDOID,
	TIMESTAMPTZOID,
	INT8OID,
	INT4OID,
	TIMESTAMPTZOID};
/* Past every id that is there: rows that were copied have not drawn theirs from this sequence. */
static constinit Statement advance_ids_statement{
	"SELECT pg_catalog.setval('jobqueue.tasks_id_seq', m.id) FROM (SELECT greatest("
	"(SELECT pg_catalog.max(t.id) FROM jobqueue.tasks t), (SELECT pg_catalog.max(d.id) FROM jobqueue.dependents d), "
	"(SELECT pg_catalog.max(d.parent_id) FROM jobqueue.dependencies d), (SELECT pg_catalog.max(p.id) FROM jobqueue.parents p), "
	"(SELECT pg_catalog.max(u.task_id) FROM jobqueue.unique_keys u), "
	"(SELECT pg_catalog.max(s.last_task_id) FROM jobqueue.schedules s)) AS id) m, jobqueue.tasks_id_seq q "
	"WHERE m.id" GE "q.last_value AND m.id" GT "0"};
static constinit Statement adopt_handlers_statement{
	"UPDATE jobqueue.handlers h SET incarnation = i.id, run_as_oid = " OID_OF("h.run_as") ", function_owner = " OWNER_OF(
		"h.handler") ", backoff_owner = " OWNER_OF("h.backoff_function") " FROM jobqueue.incarnation i "
																		 "WHERE h.incarnation OPERATOR(pg_catalog.<>) i.id RETURNING h.type"};

static constinit Statement adopt_access_statement{
	"UPDATE jobqueue.access a SET role_oid = r.oid FROM pg_catalog.pg_roles r WHERE r.rolname" EQ "a.role"};

static Params &add_server(Params &params) {
	return params.add(static_cast<int64>(GetSystemIdentifier())).add(static_cast<int32>(compat::major_version()));
}

Standing standing() {
	Params params;
	params.add_datum(ObjectIdGetDatum(MyDatabaseId), false);
	const Rows rows = standing_statement.run(add_server(params).add_time(PgStartTime));
	const bool own = rows.bool_at(0, 1);
	const bool adopted_since_start = rows.bool_at(0, 3);
	Standing standing;
	standing.own = own;
	standing.settled = rows.bool_at(0, 4);
	if (!own)
		standing.reason = "it is a restored or copied database";
	else if (rows.bool_at(0, 2))
		standing.told_by = "a subscription brings its tasks";
	else if (!adopted_since_start)
		standing.told_by = start_paused_by();
	if (standing.told_by != nullptr) {
		standing.own = false;
		standing.reason = standing.told_by;
	}
	return standing;
}

static constinit Statement replicated_statement{"SELECT 1 " BY_SUBSCRIPTION " LIMIT 1"};

bool is_replicated() {
	Params none;
	return !replicated_statement.run(none).empty();
}

bool is_own_incarnation() {
	return standing().own;
}

void settle() {
	Params params;
	settle_statement.run(add_server(params));
}

void disown() {
	Params none;
	disown_statement.run(none);
}

bool adopt() {
	Params none, database;
	database.add_datum(ObjectIdGetDatum(MyDatabaseId), false);
	const bool own = is_own_incarnation();
	if (!own) {
		const Rows first = first_incarnation_statement.run(none);
		database.add_datum(first.datum(0, 1), first.is_null(0, 1));
		drop_incarnations_statement.run(none);
		new_incarnation_statement.run(add_server(database).add_time(PgStartTime));
		adopt_access_statement.run(none);
	}
	advance_ids_statement.run(none);
	const bool handlers_adopted = !adopt_handlers_statement.run(none).empty();
	return !own || handlers_adopted;
}

/* Maintenance */

#define DUE(now)                                                                                                       \
	"SELECT s.id FROM jobqueue.tasks_live s WHERE s.status" EQ "'scheduled' AND s.run_at" LE now                       \
	" AND (s.processed_at IS NULL OR s.processed_at" GE INSTALLED ")"
#define DUE_IN_ORDER DUE("$2") " AND s.run_at" GE "$1 AND NOT s.id" EQ "ANY ($4) ORDER BY s.run_at, s.id LIMIT $3"
#define PROMOTE(which)                                                                                                 \
	"UPDATE jobqueue.tasks_live t SET status = 'pending', updated_at = " NOW " WHERE t.id" EQ "ANY (ARRAY(" which      \
	" FOR UPDATE SKIP LOCKED)) RETURNING t.id, t.type, t.queue, t.priority, t.run_at, coalesce(t.group_key, '')"
static constinit Statement promote_statement{PROMOTE(DUE_IN_ORDER), TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID,
											 INT8ARRAYOID};
static constinit Statement promote_these_statement{PROMOTE(DUE("$1") " AND s.id" EQ "ANY ($2)"), TIMESTAMPTZOID,
												   INT8ARRAYOID};
static constinit Statement promote_in_turns_statement{
	PROMOTE(DUE(
		"$2") " AND s.id" EQ
			  "ANY (ARRAY(SELECT n.id FROM (SELECT l.id, l.run_at, pg_catalog.row_number() OVER (PARTITION BY l.queue "
			  "ORDER BY l.run_at, l.id) AS turn FROM (SELECT d.id, d.queue, d.run_at FROM jobqueue.tasks_live d WHERE d.status" EQ
			  "'scheduled' AND d.run_at" GE "$1 AND d.run_at" LE "$2 AND NOT d.id" EQ
			  "ANY ($4) ORDER BY d.run_at DESC, d.id DESC LIMIT 10000) l) n ORDER BY n.turn, n.run_at LIMIT $3))"),
	TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID, INT8ARRAYOID};
static constinit Statement due_ids_statement{DUE_IN_ORDER, TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID, INT8ARRAYOID};

static std::vector<Due> due_of(const Rows &rows) {
	std::vector<Due> due;
	due.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++)
		due.push_back({rows.int64_at(i, 1), rows.text_at(i, 2), rows.text_at(i, 3), rows.int16_at(i, 4),
					   DatumGetTimestampTz(rows.datum(i, 5)), rows.text_at(i, 6)});
	return due;
}

static Params due_in_order(TimestampTz from, TimestampTz now, const Batch &batch) {
	Params params;
	params.add_time(from).add_time(now).add(batch.count).add(batch.except);
	return params;
}

std::vector<Due> promote_due(TimestampTz from, TimestampTz now, const Batch &batch) {
	Params in_order = due_in_order(from, now, batch), these;
	return due_of(batch.only.empty() ? promote_statement.run(in_order)
									 : promote_these_statement.run(these.add_time(now).add(batch.only)));
}

std::vector<Due> promote_in_turns(TimestampTz from, TimestampTz now, const Batch &batch) {
	Params params = due_in_order(from, now, batch);
	return due_of(promote_in_turns_statement.run(params));
}

std::vector<int64> due_ids(TimestampTz from, TimestampTz now, const Batch &batch) {
	Params params = due_in_order(from, now, batch);
	return due_ids_statement.run(params).ids();
}

static constinit Statement promote_next_statement{
	"UPDATE jobqueue.tasks_live t SET status = 'pending', run_at = least(t.run_at, " NOW "), updated_at = " NOW
	" WHERE t.id" EQ "ANY (ARRAY(SELECT s.id FROM jobqueue.tasks_live s WHERE s.status" EQ "'scheduled' AND s.type" EQ
	"ANY ($2) AND s.origin_queue IS NULL AND ($1 IS NULL OR s.queue" CCOLL EQ "$1) AND NOT s.queue" CCOLL EQ
	"ANY ($3) ORDER BY s.run_at, s.id LIMIT 1 FOR UPDATE SKIP LOCKED)) RETURNING t.id, t.type, t.queue, t.priority, coalesce(t.group_key, '')",
	TEXTOID, TEXTARRAYOID, TEXTARRAYOID};

std::optional<Due> promote_next(const std::optional<std::string> &queue, std::span<const std::string> types,
								std::span<const std::string> except) {
	Params params;
	params.add(queue);
	const Rows rows = promote_next_statement.run(params.add(types).add(except));
	if (rows.empty())
		return std::nullopt;
	return Due{rows.int64_at(0, 1), rows.text_at(0, 2), rows.text_at(0, 3), rows.int16_at(0, 4), 0, rows.text_at(0, 5)};
}

static constinit Statement next_due_statement{"SELECT t.run_at FROM jobqueue.tasks_live t WHERE t.status" EQ
											  "'scheduled' AND t.run_at" GE "$1 ORDER BY t.run_at, t.id LIMIT 1",
											  TIMESTAMPTZOID};
static constinit Statement next_lease_statement{"SELECT t.lease_expires_at FROM jobqueue.tasks_live t WHERE t.status" EQ
												"'processing' AND t.lease_expires_at" LT "'infinity' AND NOT t.id" EQ
												"ANY ($1) ORDER BY t.lease_expires_at LIMIT 1",
												INT8ARRAYOID};

static constinit Statement last_id_statement{
	"SELECT CASE WHEN s.is_called THEN s.last_value ELSE 0 END FROM jobqueue.tasks_id_seq s"};

TimestampTz next_due(TimestampTz from) {
	Params params;
	const Rows rows = next_due_statement.run(params.add_time(from));
	return rows.empty() ? DT_NOEND : DatumGetTimestampTz(rows.datum(0, 1));
}

TimestampTz next_lease(std::span<const int64> except) {
	Params params;
	const Rows rows = next_lease_statement.run(params.add(except));
	return rows.empty() ? DT_NOEND : DatumGetTimestampTz(rows.datum(0, 1));
}

int64 last_id() {
	Params none;
	return last_id_statement.run(none).int64_at(0, 1);
}

#define FINISHED_LIVE "SELECT s.id FROM jobqueue.tasks_live s WHERE s.status" EQ FINISHED
#define FINISHED_IN_ORDER(except, count) " AND NOT s.id" EQ "ANY (" except ") ORDER BY s.updated_at LIMIT " count
#define ARCHIVE(which)                                                                                                 \
	"WITH gone AS (DELETE FROM jobqueue.tasks_live t WHERE t.id" EQ "ANY (ARRAY(" FINISHED_LIVE which                  \
	" FOR UPDATE SKIP LOCKED)) RETURNING t.*), kept AS (INSERT INTO jobqueue.tasks (" KEPT_COLUMNS CHANGED_COLUMNS     \
	") SELECT " KEPT_COLUMNS                                                                                           \
	", status, updated_at, run_at, coalesce(finished_at, updated_at), NULL, last_error, last_sqlstate, result, "       \
	"crashes, failures, CASE WHEN status" EQ "'failed' THEN (-1)::pg_catalog.int2 ELSE $1 END FROM gone "              \
	"WHERE status" EQ "'failed' OR $1" GT "0::pg_catalog.int2) SELECT g.id FROM gone g"
static constinit Statement archive_statement{ARCHIVE(FINISHED_IN_ORDER("$3", "$2")), INT2OID, INT4OID, INT8ARRAYOID};
static constinit Statement archive_these_statement{ARCHIVE(" AND s.id" EQ "ANY ($2)"), INT2OID, INT8ARRAYOID};
static constinit Statement finished_ids_statement{FINISHED_LIVE FINISHED_IN_ORDER("$2", "$1"), INT4OID, INT8ARRAYOID};

int64 archive_finished(int slot, const Batch &batch) {
	Params params;
	params.add(static_cast<int16>(slot));
	const Rows rows = batch.only.empty() ? archive_statement.run(params.add(batch.count).add(batch.except))
										 : archive_these_statement.run(params.add(batch.only));
	return static_cast<int64>(rows.size());
}

std::vector<int64> finished_ids(const Batch &batch) {
	Params params;
	return finished_ids_statement.run(params.add(batch.count).add(batch.except)).ids();
}

#define FAILED_BEFORE "SELECT s.id FROM jobqueue.tasks_failed s WHERE s.finished_at" LT "$1"
#define FAILED_IN_ORDER FAILED_BEFORE " AND NOT s.id" EQ "ANY ($3) ORDER BY s.finished_at LIMIT $2"
#define PURGE(which)                                                                                                   \
	"DELETE FROM jobqueue.tasks_failed t USING (" which " FOR UPDATE SKIP LOCKED) o WHERE t.id" EQ "o.id RETURNING t.id"
static constinit Statement purge_statement{PURGE(FAILED_IN_ORDER), TIMESTAMPTZOID, INT4OID, INT8ARRAYOID};
static constinit Statement purge_these_statement{PURGE(FAILED_BEFORE " AND s.id" EQ "ANY ($2)"), TIMESTAMPTZOID,
												 INT8ARRAYOID};
static constinit Statement purgeable_ids_statement{FAILED_IN_ORDER, TIMESTAMPTZOID, INT4OID, INT8ARRAYOID};

int64 purge_failed(TimestampTz before, const Batch &batch) {
	Params params;
	params.add_time(before);
	const Rows rows = batch.only.empty() ? purge_statement.run(params.add(batch.count).add(batch.except))
										 : purge_these_statement.run(params.add(batch.only));
	return static_cast<int64>(rows.size());
}

std::vector<int64> purgeable_ids(TimestampTz before, const Batch &batch) {
	Params params;
	return purgeable_ids_statement.run(params.add_time(before).add(batch.count).add(batch.except)).ids();
}

static constinit Statement ring_statement{
	"SELECT r.slot, r.filled_since FROM jobqueue.history_ring r ORDER BY r.filled_since LIMIT 1"};
static constinit Statement first_ring_statement{
	"SELECT 1::pg_catalog.int2, pg_catalog.min(i.created_at) FROM jobqueue.incarnation i"};
static constinit Statement clear_ring_statement{"DELETE FROM jobqueue.history_ring"};
static constinit Statement set_ring_statement{"INSERT INTO jobqueue.history_ring (slot, filled_since) VALUES ($1, $2)",
											  INT2OID, TIMESTAMPTZOID};
#define LOCK_LEAF(n)                                                                                                   \
	Statement {                                                                                                        \
		"LOCK TABLE jobqueue.tasks_history_" #n " IN ACCESS EXCLUSIVE MODE NOWAIT"                                     \
	}
static constinit Statement lock_leaf_statements[] = {LOCK_LEAF(1), LOCK_LEAF(2), LOCK_LEAF(3), LOCK_LEAF(4),
													 LOCK_LEAF(5), LOCK_LEAF(6), LOCK_LEAF(7), LOCK_LEAF(8)};
static constinit Statement empty_statements[] = {
	Statement{"TRUNCATE jobqueue.tasks_history_1"}, Statement{"TRUNCATE jobqueue.tasks_history_2"},
	Statement{"TRUNCATE jobqueue.tasks_history_3"}, Statement{"TRUNCATE jobqueue.tasks_history_4"},
	Statement{"TRUNCATE jobqueue.tasks_history_5"}, Statement{"TRUNCATE jobqueue.tasks_history_6"},
	Statement{"TRUNCATE jobqueue.tasks_history_7"}, Statement{"TRUNCATE jobqueue.tasks_history_8"},
};

Ring history_ring() {
	Params none;
	const Rows known = ring_statement.run(none);
	const Rows rows = known.empty() ? first_ring_statement.run(none) : known;
	return {rows.int16_at(0, 1), DatumGetTimestampTz(rows.datum(0, 2))};
}

void set_history_ring(const Ring &ring) {
	Params none, params;
	clear_ring_statement.run(none);
	set_ring_statement.run(params.add(static_cast<int16>(ring.slot)).add_time(ring.since));
}

void empty_history(int slot) {
	Params none;
	lock_leaf_statements[slot - 1].run(none);
	empty_statements[slot - 1].run(none);
}

static constinit Statement occupied_statement{"SELECT t.slot FROM jobqueue.tasks t WHERE t.slot" GT
											  "0::pg_catalog.int2 LIMIT 1"};

int occupied_history() {
	Params none;
	const Rows rows = occupied_statement.run(none);
	return rows.empty() ? 0 : rows.int16_at(0, 1);
}

} // namespace jobqueue::store
