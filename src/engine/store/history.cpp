/*
 * history.cpp -- see history.hpp. C++ region.
 */
#include "engine/store/history.hpp"

#include "engine/store/phrases.hpp"

namespace jobqueue::store {

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

#define LOCK_LEAF_NOWAIT(n)                                                                                            \
	Statement {                                                                                                        \
		"LOCK TABLE jobqueue.tasks_history_" #n " IN ACCESS EXCLUSIVE MODE NOWAIT"                                     \
	}
static constinit Statement lock_leaf_statements[] = {LOCK_LEAF_NOWAIT(1), LOCK_LEAF_NOWAIT(2), LOCK_LEAF_NOWAIT(3),
													 LOCK_LEAF_NOWAIT(4), LOCK_LEAF_NOWAIT(5), LOCK_LEAF_NOWAIT(6),
													 LOCK_LEAF_NOWAIT(7), LOCK_LEAF_NOWAIT(8)};
#define LOCK_LEAF(n)                                                                                                   \
	Statement {                                                                                                        \
		"LOCK TABLE jobqueue.tasks_history_" #n " IN ACCESS EXCLUSIVE MODE"                                            \
	}
#define EMPTY_LEAF(n)                                                                                                  \
	Statement {                                                                                                        \
		"TRUNCATE jobqueue.tasks_history_" #n                                                                          \
	}
#define THIN_LEAF(n)                                                                                                   \
	Statement {                                                                                                        \
		"WITH gone AS (DELETE FROM jobqueue.tasks_history_" #n " t USING (SELECT s.id FROM jobqueue.tasks_history_" #n \
		" s WHERE s.id" GT "$1 ORDER BY s.id LIMIT $2 FOR UPDATE SKIP LOCKED) o WHERE t.id" EQ "o.id RETURNING t.id) " \
		"SELECT coalesce(pg_catalog.max(g.id), 0::pg_catalog.int8), pg_catalog.count(*) FROM gone g",                  \
			INT8OID, INT4OID                                                                                           \
	}
#define LOOK_AT_LEAF(n)                                                                                                \
	Statement {                                                                                                        \
		"SELECT t.id FROM jobqueue.tasks_history_" #n " t LIMIT 1"                                                     \
	}
#define OF_ALL_LEAVES(make)                                                                                            \
	{ make(1), make(2), make(3), make(4), make(5), make(6), make(7), make(8) }

static constinit Statement lock_statements[] = OF_ALL_LEAVES(LOCK_LEAF);
static constinit Statement empty_statements[] = OF_ALL_LEAVES(EMPTY_LEAF);
static constinit Statement thin_statements[] = OF_ALL_LEAVES(THIN_LEAF);
static constinit Statement look_statements[] = OF_ALL_LEAVES(LOOK_AT_LEAF);

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

void empty_history_patiently(int slot) {
	Params none;
	lock_statements[slot - 1].run(none);
	empty_statements[slot - 1].run(none);
}

Thinned thin_history(int slot, int64 after, int count) {
	Params params;
	const Rows rows = thin_statements[slot - 1].run(params.add(after).add(static_cast<int32>(count)));
	return {rows.int64_at(0, 1), rows.int64_at(0, 2)};
}

bool history_is_empty(int slot) {
	Params none;
	return look_statements[slot - 1].run(none).empty();
}

static constinit Statement holders_statement{
	"SELECT coalesce(pg_catalog.string_agg(h.who, ', '), 'nobody any more') FROM (SELECT DISTINCT CASE WHEN l.pid IS NULL "
	"THEN 'a prepared transaction' ELSE pg_catalog.format('process %s (role \"%s\", application \"%s\", transaction since "
	"%s)', l.pid, a.usename, a.application_name, pg_catalog.date_trunc('second', a.xact_start)) END AS who "
	"FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid" EQ
	"l.pid JOIN pg_catalog.pg_class c ON c.oid" EQ "l.relation WHERE l.locktype" EQ
	"'relation' AND l.granted AND l.database" EQ "(SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname" EQ
	"pg_catalog.current_database()) AND c.relnamespace" EQ "'jobqueue'::pg_catalog.regnamespace AND c.relname" EQ
	"('tasks_history_'" CONCAT "$1::pg_catalog.text)::pg_catalog.name AND coalesce(l.pid OPERATOR(pg_catalog.<>) "
	"pg_catalog.pg_backend_pid(), true) LIMIT 5) h",
	INT4OID};

std::string holders_of_history(int slot) {
	Params params;
	return holders_statement.run(params.add(static_cast<int32>(slot))).text_at(0, 1);
}

} // namespace jobqueue::store
