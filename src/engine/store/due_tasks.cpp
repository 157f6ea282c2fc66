/*
 * due_tasks.cpp -- see due_tasks.hpp. C++ region.
 */
#include "engine/store/due_tasks.hpp"

#include "engine/store/phrases.hpp"

namespace jobqueue::store {

#define DUE_IF(scheduled, now)                                                                                         \
	"SELECT s.id FROM jobqueue.tasks_live s WHERE " scheduled " AND s.run_at" LE now                                   \
	" AND (s.processed_at IS NULL OR s.processed_at" GE INSTALLED ")"
#define DUE(now) DUE_IF("s.status" EQ "'scheduled'", now)
/* For a look-up by id: in this collation the index of due tasks does not apply, which would be read from end to end. */
#define DUE_BY_ID(now) DUE_IF("s.status" CCOLL EQ "'scheduled'", now)
#define DUE_IN_ORDER DUE("$2") " AND s.run_at" GE "$1 AND NOT s.id" EQ "ANY ($4) ORDER BY s.run_at, s.id LIMIT $3"
#define PROMOTE(which)                                                                                                 \
	"UPDATE jobqueue.tasks_live t SET status = 'pending', updated_at = " NOW " WHERE t.id" EQ "ANY (ARRAY(" which      \
	" FOR UPDATE SKIP LOCKED)) RETURNING t.id, t.type, t.queue, t.priority, t.run_at, coalesce(t.group_key, '')"
static constinit Statement promote_statement{PROMOTE(DUE_IN_ORDER), TIMESTAMPTZOID, TIMESTAMPTZOID, INT4OID,
											 INT8ARRAYOID};
static constinit Statement promote_these_statement{PROMOTE(DUE_BY_ID("$1") " AND s.id" EQ "ANY ($2)"), TIMESTAMPTZOID,
												   INT8ARRAYOID};
static constinit Statement promote_in_turns_statement{
	PROMOTE(DUE_BY_ID(
		"$2") " AND s.id" EQ
			  "ANY (ARRAY(SELECT n.id FROM (SELECT l.id, l.run_at, pg_catalog.row_number() OVER (PARTITION BY l.queue "
			  "ORDER BY l.run_at, l.id) AS turn FROM (SELECT d.id, d.queue, d.run_at FROM jobqueue.tasks_live d WHERE d.status" EQ
			  "'scheduled' AND d.run_at" GE "$1 AND d.run_at" LE "$2 AND NOT d.id" EQ
			  "ANY ($4) ORDER BY d.run_at DESC, d.id DESC LIMIT 4000) l) n ORDER BY n.turn, n.run_at LIMIT $3))"),
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

TimestampTz next_due(TimestampTz from) {
	Params params;
	const Rows rows = next_due_statement.run(params.add_time(from));
	return rows.empty() ? DT_NOEND : DatumGetTimestampTz(rows.datum(0, 1));
}

} // namespace jobqueue::store
