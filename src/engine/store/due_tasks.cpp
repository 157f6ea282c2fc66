/*
 * due_tasks.cpp -- see due_tasks.hpp. C++ region.
 */
#include "engine/store/due_tasks.hpp"

#include "engine/store/phrases.hpp"

namespace jobqueue::store {

/*
 * Tasks from before this installation that were attempted are left alone. For a look-up by id the status is compared in
 * another collation: this keeps the planner from the index of due tasks, which would be read from end to end.
 */
template <typename IsScheduled, typename Now>
static constexpr auto due_if(const IsScheduled &is_scheduled, const Now &now) {
	return sql(R"(
		FROM jobqueue.tasks_live s
		WHERE {is_scheduled} AND s.run_at <= {now} AND (s.processed_at IS NULL OR s.processed_at >= {installed}))",
			   is_scheduled, now, phrase::installed);
}
static constexpr auto due_sql = sql(R"(
	SELECT s.run_at, s.id {due} AND (s.run_at, s.id) >= ($1, $2) AND (s.run_at + '0'::interval, s.id) > ($3, $4)
		AND NOT s.id = ANY ($7)
	ORDER BY s.run_at, s.id LIMIT $6)",
									due_if("s.status = 'scheduled'", "$5"));
static constexpr auto promote_sql = sql(R"(
	UPDATE jobqueue.tasks_live t SET status = 'pending', updated_at = clock_timestamp()
	WHERE t.id = ANY (ARRAY(
		SELECT s.id {due} AND s.id = ANY ($1)
		FOR UPDATE SKIP LOCKED))
	RETURNING t.id, t.type, t.queue, t.priority, t.run_at, coalesce(t.group_key, ''))",
										due_if(R"(s.status COLLATE "C" = 'scheduled')", "$2"));

static constinit Statement due_statement{due_sql, TIMESTAMPTZOID, INT8OID, TIMESTAMPTZOID,
										 INT8OID, TIMESTAMPTZOID, INT4OID, INT8ARRAYOID};
static constinit Statement promote_statement{promote_sql, INT8ARRAYOID, TIMESTAMPTZOID};
static constinit Statement latest_due_statement{R"(
	SELECT s.run_at, s.id, s.queue
	FROM jobqueue.tasks_live s
	WHERE s.status = 'scheduled' AND (s.run_at, s.id) >= ($1, $2) AND (s.run_at, s.id) < ($3, $4)
		AND NOT s.id = ANY ($6)
	ORDER BY s.run_at DESC, s.id DESC LIMIT $5)",	  TIMESTAMPTZOID, INT8OID,	   TIMESTAMPTZOID,
												INT8OID, INT4OID,		 INT8ARRAYOID};

static std::vector<Due> due_of(const Rows &rows) {
	std::vector<Due> due;
	due.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++)
		due.push_back({rows.int64_at(i, 1), rows.text_at(i, 2), rows.text_at(i, 3), rows.int16_at(i, 4),
					   DatumGetTimestampTz(rows.datum(i, 5)), rows.text_at(i, 6)});
	return due;
}

Page due(const Cursor &cursor, TimestampTz now, const Batch &batch) {
	Params params;
	add_cursor(params, cursor);
	return page_of(due_statement.run(params.add_time(now).add(batch.count).add(batch.except)));
}

std::vector<Due> promote(std::span<const int64> ids, TimestampTz now) {
	Params params;
	return due_of(promote_statement.run(params.add(ids).add_time(now)));
}

std::vector<InQueue> latest_due(const Place &from, const Place &before, const Batch &batch) {
	Params params;
	add_place(params, from);
	add_place(params, before);
	const Rows rows = latest_due_statement.run(params.add(batch.count).add(batch.except));
	std::vector<InQueue> found;
	found.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++)
		found.push_back({{DatumGetTimestampTz(rows.datum(i, 1)), rows.int64_at(i, 2)}, rows.text_at(i, 3)});
	return found;
}

static constinit Statement promote_next_statement{R"(
	UPDATE jobqueue.tasks_live t
	SET status = 'pending', run_at = least(t.run_at, clock_timestamp()), updated_at = clock_timestamp()
	WHERE t.id = ANY (ARRAY(
		SELECT s.id FROM jobqueue.tasks_live s
		WHERE s.status = 'scheduled' AND s.type = ANY ($2) AND s.origin_queue IS NULL
			AND ($1 IS NULL OR s.queue COLLATE "C" = $1) AND NOT s.queue COLLATE "C" = ANY ($3)
		ORDER BY s.run_at, s.id LIMIT 1
		FOR UPDATE SKIP LOCKED))
	RETURNING t.id, t.type, t.queue, t.priority, coalesce(t.group_key, ''))",
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

static constinit Statement next_due_statement{R"(
	SELECT t.run_at FROM jobqueue.tasks_live t
	WHERE t.status = 'scheduled' AND (t.run_at, t.id) >= ($1, $2)
	ORDER BY t.run_at, t.id LIMIT 1)",
											  TIMESTAMPTZOID, INT8OID};

TimestampTz next_due(const Place &from) {
	Params params;
	add_place(params, from);
	const Rows rows = next_due_statement.run(params);
	return rows.empty() ? DT_NOEND : DatumGetTimestampTz(rows.datum(0, 1));
}

} // namespace jobqueue::store
