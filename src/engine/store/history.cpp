/*
 * history.cpp -- see history.hpp. C++ region.
 */
#include "engine/store/history.hpp"

#include "engine/store/phrases.hpp"

namespace jobqueue::store {

template <typename Status> static constexpr auto finished_live(const Status &status) {
	return sql(R"(
		SELECT s.id FROM jobqueue.tasks_live s
		WHERE {status} = {finished})",
			   status, phrase::finished);
}
static constexpr auto finished_ids_sql = sql(R"({finished_live} AND (s.updated_at, s.id) >= ($1, $2)
			AND NOT s.id = ANY ($4)
		ORDER BY s.updated_at, s.id LIMIT $3)",
											 finished_live("s.status"));
template <typename Which, typename Leaf> static constexpr auto archive(const Which &which, const Leaf &leaf) {
	return sql(R"(
	WITH gone AS (
		DELETE FROM jobqueue.tasks_live t
		WHERE t.id = ANY (ARRAY({which}
			FOR UPDATE SKIP LOCKED))
		RETURNING t.*),
	kept AS (
		INSERT INTO jobqueue.tasks ({kept}, {changed})
		SELECT {kept}, status, updated_at, run_at, coalesce(finished_at, updated_at), NULL, last_error, last_sqlstate,
			result, crashes, failures, CASE WHEN status = 'failed' THEN (-1)::int2 ELSE {leaf} END
		FROM gone
		WHERE status = 'failed' OR {leaf} > 0::int2)
	SELECT g.updated_at, g.id FROM gone g)",
			   which, phrase::kept_columns, phrase::changed_columns, phrase::kept_columns, leaf, leaf);
}
static constexpr auto archive_sql = archive(finished_ids_sql, "$5");
static constexpr auto archive_these_sql =
	archive(sql("{finished_live} AND s.id = ANY ($2)", finished_live(R"(s.status COLLATE "C")")), "$1");
static constinit Statement archive_statement{archive_sql, TIMESTAMPTZOID, INT8OID, INT4OID, INT8ARRAYOID, INT2OID};
static constinit Statement archive_these_statement{archive_these_sql, INT2OID, INT8ARRAYOID};
static constinit Statement finished_ids_statement{finished_ids_sql, TIMESTAMPTZOID, INT8OID, INT4OID, INT8ARRAYOID};

static Params finished_in_order(const Place &from, const Batch &batch) {
	Params params;
	add_place(params, from);
	params.add(batch.count).add(batch.except);
	return params;
}

Archived archive_finished(int leaf, const Place &from, const Batch &batch) {
	const auto slot = static_cast<int16>(leaf);
	Params in_order = finished_in_order(from, batch), these;
	const Rows rows = batch.only.empty() ? archive_statement.run(in_order.add(slot))
										 : archive_these_statement.run(these.add(slot).add(batch.only));
	Archived archived = {static_cast<int64>(rows.size()), from};
	for (uint64 i = 0; i < rows.size(); i++)
		archived.last = std::max(archived.last, {DatumGetTimestampTz(rows.datum(i, 1)), rows.int64_at(i, 2)});
	return archived;
}

std::vector<int64> finished_ids(const Place &from, const Batch &batch) {
	Params params = finished_in_order(from, batch);
	return finished_ids_statement.run(params).ids();
}

template <typename FinishedAt> static constexpr auto failed_before(const FinishedAt &finished_at) {
	return sql("SELECT s.id FROM jobqueue.tasks_failed s WHERE {finished_at} < $1", finished_at);
}
static constexpr auto purgeable_ids_sql = sql(R"({failed_before} AND NOT s.id = ANY ($3)
		ORDER BY s.finished_at LIMIT $2)",
											  failed_before("s.finished_at"));
template <typename Which> static constexpr auto purge(const Which &which) {
	return sql(R"(
	DELETE FROM jobqueue.tasks_failed t
	USING ({which} FOR UPDATE SKIP LOCKED) o
	WHERE t.id = o.id
	RETURNING t.id)",
			   which);
}
static constexpr auto purge_sql = purge(purgeable_ids_sql);
/* Looks up by id: the sum keeps the planner from the index of finished_at. */
static constexpr auto purge_these_sql =
	purge(sql("{failed_before} AND s.id = ANY ($2)", failed_before("s.finished_at + '0'::interval")));
static constinit Statement purge_statement{purge_sql, TIMESTAMPTZOID, INT4OID, INT8ARRAYOID};
static constinit Statement purge_these_statement{purge_these_sql, TIMESTAMPTZOID, INT8ARRAYOID};
static constinit Statement purgeable_ids_statement{purgeable_ids_sql, TIMESTAMPTZOID, INT4OID, INT8ARRAYOID};

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
	WITH gone AS (
		DELETE FROM jobqueue.tasks_history_{leaf} t
		USING (
			SELECT s.id FROM jobqueue.tasks_history_{leaf} s
			WHERE s.id > $1
			ORDER BY s.id LIMIT $2
			FOR UPDATE SKIP LOCKED) o
		WHERE t.id = o.id
		RETURNING t.id)
	SELECT coalesce(max(g.id), 0::int8), count(*) FROM gone g)",
			   leaf, leaf);
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
