/*
 * candidates.cpp -- see candidates.hpp. C++ region.
 */
#include "engine/store/candidates.hpp"

#include "engine/store/claimed_row.hpp"
#include "engine/store/phrases.hpp"
#include "pg/raw_size.hpp"

namespace jobqueue::store {

static constexpr auto pending_in_lane = sql(R"(
	FROM jobqueue.tasks_live t
	WHERE t.status = 'pending' AND t.group_key IS NULL AND t.queue COLLATE "C" = $1 AND t.priority = $2
		AND t.id >= $3 AND t.id <= $4)");

static constexpr auto lock_sql = sql(R"(
	SELECT {columns}
	{pending_in_lane} AND {is_wanted}
	ORDER BY t.id NULLS FIRST LIMIT $5
	FOR UPDATE OF t SKIP LOCKED)",
									 phrase::candidate_columns, pending_in_lane, phrase::is_wanted);
static constexpr auto see_sql = sql(R"(
	SELECT t.id, t.ctid, t.run_at > clock_timestamp() OR t.attempts = 2147483647, jobqueue._raw_size(t.payload)
	{pending_in_lane} AND {is_wanted}
	ORDER BY t.id NULLS FIRST LIMIT $5)",
									pending_in_lane, phrase::is_wanted);
static constexpr auto first_sql = sql(R"(
	SELECT t.id
	{pending_in_lane} AND {is_wanted}
	ORDER BY t.id NULLS FIRST LIMIT 1)",
									  pending_in_lane, phrase::is_wanted);
static constexpr auto waiting_since_sql = sql(R"(
	SELECT greatest(t.created_at, t.run_at)
	{pending_in_lane}
	ORDER BY t.id NULLS FIRST LIMIT 1)",
											  pending_in_lane);
static constexpr auto group_waiting_since_sql = sql(R"(
	SELECT greatest(t.created_at, t.run_at)
	FROM jobqueue.tasks_live t
	WHERE t.status = 'pending' AND t.group_key IS NOT NULL AND t.queue COLLATE "C" = $1 AND t.priority = $2
	ORDER BY t.group_key COLLATE "C", t.id NULLS FIRST LIMIT 1)");

static constinit Statement lock_statement{lock_sql, TEXTOID, INT2OID, INT8OID, INT8OID, INT4OID, BOOLOID};
static constinit Statement see_statement{see_sql, TEXTOID, INT2OID, INT8OID, INT8OID, INT4OID};
static constinit Statement first_statement{first_sql, TEXTOID, INT2OID, INT8OID, INT8OID};
static constinit Statement waiting_since_statements[] = {
	Statement{waiting_since_sql, TEXTOID, INT2OID, INT8OID, INT8OID},
	Statement{group_waiting_since_sql, TEXTOID, INT2OID, INT8OID, INT8OID}};

TimestampTz waiting_since(const Lane &lane) {
	Params params;
	params.add(std::string_view(lane.queue)).add(lane.priority).add(PG_INT64_MIN).add(PG_INT64_MAX);
	const Rows rows = waiting_since_statements[lane.grouped].run(params);
	return rows.empty() ? GetCurrentTimestamp() : DatumGetTimestampTz(rows.datum(0, 1));
}

Candidate candidate_at(const Rows &rows, uint64 row, std::string_view claimed_by) {
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
	const FilterInForce in_force(filter);
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
	const FilterInForce in_force(filter);
	const Rows rows = see_statement.run(params);
	std::vector<Candidate> candidates(rows.size());
	for (uint64 i = 0; i < rows.size(); i++) {
		if (rows.bool_at(i, 3)) /* it cannot just begin */
			return lock_pending(lane, ids, filter, count);
		candidates[i].id = rows.int64_at(i, 1);
		candidates[i].tid = *reinterpret_cast<ItemPointer>(DatumGetPointer(rows.datum(i, 2)));
		candidates[i].locked = false;
		candidates[i].bytes = rows.int64_at(i, 4);
	}
	return candidates;
}

std::optional<int64> first_pending(const Lane &lane, IdRange ids, const TypeFilter &filter) {
	Params params;
	params.add(std::string_view(lane.queue)).add(lane.priority).add(ids.low).add(ids.high);
	const FilterInForce in_force(filter);
	const Rows rows = first_statement.run(params);
	return rows.empty() ? std::nullopt : std::optional(rows.int64_at(0, 1));
}

static constinit Statement put_aside_statement{R"(
	UPDATE jobqueue.tasks_live t SET status = 'scheduled', updated_at = clock_timestamp() WHERE t.id = ANY ($1))",
											   INT8ARRAYOID};

void put_aside(std::span<const int64> ids) {
	Params params;
	put_aside_statement.run(params.add(ids));
}

} // namespace jobqueue::store
