/*
 * attempts.cpp -- see attempts.hpp. C++ region.
 */
#include "engine/store/attempts.hpp"

#include "engine/store/arrays.hpp"
#include "engine/store/held_claims.hpp"
#include "engine/store/phrases.hpp"
#include "pg/raw_size.hpp"

namespace jobqueue::store {

/*
 * Finds rows by their tids: while this transaction holds their locks, nobody else can move them. begin_by_tid() changes
 * the same columns (held_claims.cpp).
 */
template <typename Attempts> static constexpr auto begin(const Attempts &max_attempts) {
	return sql(R"(
	UPDATE jobqueue.tasks_live t
	SET status = 'processing', attempts = t.attempts + 1, max_attempts = {max_attempts},
		processed_at = clock_timestamp(), updated_at = clock_timestamp(),
		lease_expires_at = $2, claimed_by = $3, progress = NULL, progress_message = NULL, unique_scope = {started_scope}
	WHERE t.ctid = ANY ($1))",
			   max_attempts, phrase::started_scope);
}
static constexpr auto begin_sql = sql(R"({begin}
	RETURNING t.id, t.type, t.queue, t.priority, t.attempts, t.max_attempts, coalesce({timeout}, 0), t.payload,
		CASE WHEN {is_small} THEN t::jobqueue.tasks END)",
									  begin(phrase::max_attempts), phrase::microseconds("t.timeout"), phrase::is_small);
static constexpr auto claim_sql = sql(R"({begin}
	RETURNING t.id, t::jobqueue.tasks)",
									  begin(phrase::max_attempts_outside));
static constexpr auto claim_unhandled_sql = sql(R"({begin}
	RETURNING t.id, t::jobqueue.tasks)",
												begin("coalesce(t.max_attempts, 20)"));

static constinit Statement begin_statement{begin_sql, TIDARRAYOID, TIMESTAMPTZOID, TEXTOID};
static constinit Statement claim_statement{claim_sql, TIDARRAYOID, TIMESTAMPTZOID, TEXTOID};
static constinit Statement claim_unhandled_statement{claim_unhandled_sql, TIDARRAYOID, TIMESTAMPTZOID, TEXTOID};

/* The positions of tasks by id: rows are returned in the order of their tids, not in that of the tasks. */
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
		if (std::optional<std::vector<HeapTuple>> begun = begin_by_tid(tasks, lease, claimed_by))
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

void keep(Attempt &attempt, MemoryContext context) {
	guard([&attempt, context] {
		MemoryContext caller = MemoryContextSwitchTo(context);
		/* A large payload stays as it is on the disk; whoever needs it decompresses it. */
		const auto payload = reinterpret_cast<varlena *>(DatumGetPointer(attempt.payload));
		attempt.payload = VARATT_IS_EXTERNAL(payload) ? PointerGetDatum(detoast_external_attr(payload))
													  : PointerGetDatum(PG_DETOAST_DATUM_COPY(attempt.payload));
		if (attempt.row != 0)
			attempt.row = PointerGetDatum(PG_DETOAST_DATUM_COPY(attempt.row));
		MemoryContextSwitchTo(caller);
	});
}

} // namespace jobqueue::store
