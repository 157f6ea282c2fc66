/*
 * history.cpp -- see history.hpp. C++ region.
 */
#include "engine/store/history.hpp"

#include "engine/store/phrases.hpp"

namespace jobqueue::store {

template <typename Status> static constexpr auto finished_live(const Status &status) {
	return sql(R"(
		FROM jobqueue.tasks_live s
		WHERE {status} = {finished})",
			   status, phrase::finished);
}
static constexpr auto finished_sql = sql(R"(
	SELECT s.updated_at, s.id {finished_live} AND (s.updated_at, s.id) >= ($1, $2)
		AND (s.updated_at + '0'::interval, s.id) > ($3, $4) AND NOT s.id = ANY ($6)
	ORDER BY s.updated_at, s.id LIMIT $5)",
										 finished_live("s.status"));
static constexpr auto archive_sql =
	sql(R"(
	WITH gone AS (
		DELETE FROM jobqueue.tasks_live t
		WHERE t.id = ANY (ARRAY(
			SELECT s.id {finished_live} AND s.id = ANY ($1)
			FOR UPDATE SKIP LOCKED))
		RETURNING t.*),
	kept AS (
		INSERT INTO jobqueue.tasks ({kept}, {changed})
		SELECT {kept}, status, updated_at, run_at, coalesce(finished_at, updated_at), NULL, last_error, last_sqlstate,
			result, crashes, failures, CASE WHEN status = 'failed' THEN (-1)::int2 ELSE $2 END
		FROM gone
		WHERE status = 'failed' OR $2 > 0::int2)
	SELECT g.id FROM gone g)",
		finished_live(R"(s.status COLLATE "C")"), phrase::kept_columns, phrase::changed_columns, phrase::kept_columns);
static constinit Statement finished_statement{finished_sql, TIMESTAMPTZOID, INT8OID,	 TIMESTAMPTZOID,
											  INT8OID,		INT4OID,		INT8ARRAYOID};
static constinit Statement archive_statement{archive_sql, INT8ARRAYOID, INT2OID};

Page finished(const Cursor &cursor, const Batch &batch) {
	Params params;
	add_cursor(params, cursor);
	return page_of(finished_statement.run(params.add(batch.count).add(batch.except)));
}

int64 archive(std::span<const int64> ids, int leaf) {
	Params params;
	return static_cast<int64>(archive_statement.run(params.add(ids).add(static_cast<int16>(leaf))).size());
}

static constexpr auto purgeable_sql = sql(R"(
	SELECT s.finished_at, s.id FROM jobqueue.tasks_failed s
	WHERE s.finished_at < $5 AND (s.finished_at, s.id) >= ($1, $2)
		AND (s.finished_at + '0'::interval, s.id) > ($3, $4) AND NOT s.id = ANY ($7)
	ORDER BY s.finished_at, s.id LIMIT $6)");
/* Looks up by id: the sum keeps the planner from the index of finished_at. */
static constexpr auto purge_sql = sql(R"(
	DELETE FROM jobqueue.tasks_failed t
	USING (
		SELECT s.id FROM jobqueue.tasks_failed s
		WHERE s.finished_at + '0'::interval < $2 AND s.id = ANY ($1)
		FOR UPDATE SKIP LOCKED) o
	WHERE t.id = o.id
	RETURNING t.id)");
static constinit Statement purgeable_statement{purgeable_sql, TIMESTAMPTZOID, INT8OID, TIMESTAMPTZOID,
											   INT8OID,		  TIMESTAMPTZOID, INT4OID, INT8ARRAYOID};
static constinit Statement purge_statement{purge_sql, INT8ARRAYOID, TIMESTAMPTZOID};

Page purgeable(const Cursor &cursor, TimestampTz before, const Batch &batch) {
	Params params;
	add_cursor(params, cursor);
	return page_of(purgeable_statement.run(params.add_time(before).add(batch.count).add(batch.except)));
}

int64 purge(std::span<const int64> ids, TimestampTz before) {
	Params params;
	return static_cast<int64>(purge_statement.run(params.add(ids).add_time(before)).size());
}

static constinit Statement ring_statement{
	"SELECT r.slot, r.filled_since FROM jobqueue.history_ring r ORDER BY r.filled_since LIMIT 1"};
static constinit Statement first_ring_statement{"SELECT 1::int2, min(i.created_at) FROM jobqueue.incarnation i"};
static constinit Statement clear_ring_statement{"DELETE FROM jobqueue.history_ring"};
static constinit Statement set_ring_statement{"INSERT INTO jobqueue.history_ring (slot, filled_since) VALUES ($1, $2)",
											  INT2OID, TIMESTAMPTZOID};

static constexpr auto lock_sql = phrase::for_each_leaf(
	[](const auto &leaf) { return sql("LOCK TABLE jobqueue.tasks_history_{leaf} IN ACCESS EXCLUSIVE MODE", leaf); });
static constexpr auto lock_nowait_sql = phrase::for_each_leaf([](const auto &leaf) {
	return sql("LOCK TABLE jobqueue.tasks_history_{leaf} IN ACCESS EXCLUSIVE MODE NOWAIT", leaf);
});
static constexpr auto empty_sql =
	phrase::for_each_leaf([](const auto &leaf) { return sql("TRUNCATE jobqueue.tasks_history_{leaf}", leaf); });
static constexpr auto thin_sql = phrase::for_each_leaf([](const auto &leaf) {
	return sql(R"(
	WITH page AS MATERIALIZED (
		SELECT p.id FROM jobqueue.tasks_history_{leaf} p
		WHERE p.id > $1
		ORDER BY p.id LIMIT $2),
	gone AS (
		DELETE FROM jobqueue.tasks_history_{leaf} t
		USING (
			SELECT s.id FROM jobqueue.tasks_history_{leaf} s
			WHERE s.id = ANY (ARRAY(SELECT p.id FROM page p))
			FOR UPDATE SKIP LOCKED) o
		WHERE t.id = o.id)
	SELECT coalesce(max(p.id), 0::int8), count(*) FROM page p)",
			   leaf, leaf, leaf);
});
static constexpr auto look_sql = phrase::for_each_leaf(
	[](const auto &leaf) { return sql("SELECT t.id FROM jobqueue.tasks_history_{leaf} t LIMIT 1", leaf); });

static constinit auto lock_statements = phrase::leaf_statements(lock_sql);
static constinit auto lock_nowait_statements = phrase::leaf_statements(lock_nowait_sql);
static constinit auto empty_statements = phrase::leaf_statements(empty_sql);
static constinit auto thin_statements = phrase::leaf_statements(thin_sql, INT8OID, INT4OID);
static constinit auto look_statements = phrase::leaf_statements(look_sql);

Ring history_ring() {
	Params none;
	const Rows known = ring_statement.run(none);
	const Rows rows = known.empty() ? first_ring_statement.run(none) : known;
	return {rows.int16_at(0, 1), DatumGetTimestampTz(rows.datum(0, 2))};
}

void set_history_ring(const Ring &ring) {
	Params none, params;
	clear_ring_statement.run(none);
	set_ring_statement.run(params.add(static_cast<int16>(ring.leaf)).add_time(ring.since));
}

void empty_history(int leaf) {
	Params none;
	lock_nowait_statements[leaf - 1].run(none);
	empty_statements[leaf - 1].run(none);
}

static constinit Statement occupied_statement{"SELECT t.slot FROM jobqueue.tasks t WHERE t.slot > 0::int2 LIMIT 1"};

int occupied_history() {
	Params none;
	const Rows rows = occupied_statement.run(none);
	return rows.empty() ? 0 : rows.int16_at(0, 1);
}

void empty_history_patiently(int leaf) {
	Params none;
	lock_statements[leaf - 1].run(none);
	empty_statements[leaf - 1].run(none);
}

Thinned thin_history(int leaf, int64 after, int count) {
	Params params;
	const Rows rows = thin_statements[leaf - 1].run(params.add(after).add(static_cast<int32>(count)));
	return {rows.int64_at(0, 1), rows.int64_at(0, 2)};
}

bool history_is_empty(int leaf) {
	Params none;
	return look_statements[leaf - 1].run(none).empty();
}

static constinit Statement holders_statement{R"(
	SELECT coalesce(string_agg(h.who, ', '), 'nobody any more')
	FROM (
		SELECT DISTINCT CASE WHEN l.pid IS NULL THEN 'a prepared transaction'
			ELSE format('process %s (role "%s", application "%s", transaction since %s)', l.pid, a.usename,
				a.application_name, date_trunc('second', a.xact_start)) END AS who
		FROM pg_locks l
			LEFT JOIN pg_stat_activity a ON a.pid = l.pid
			JOIN pg_class c ON c.oid = l.relation
		WHERE l.locktype = 'relation' AND l.granted
			AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
			AND c.relnamespace = 'jobqueue'::regnamespace AND c.relname = ('tasks_history_' || $1::text)::name
			AND coalesce(l.pid <> pg_backend_pid(), true)
		LIMIT 5) h)",
											 INT4OID};

std::string holders_of_history(int leaf) {
	Params params;
	return holders_statement.run(params.add(static_cast<int32>(leaf))).text_at(0, 1);
}

} // namespace jobqueue::store
