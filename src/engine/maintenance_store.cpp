/*
 * maintenance_store.cpp -- see maintenance_store.hpp. C++ region.
 *
 * Every name is qualified and so is every operator: what runs here runs with the owner's rights.
 */
#include "engine/maintenance_store.hpp"

#include "engine/sql_text.hpp"

namespace jobqueue::store {

static constinit Statement lock_free_statement{
	"SELECT t.id FROM jobqueue.tasks_live t WHERE t.id" EQ "$1 FOR UPDATE SKIP LOCKED", INT8OID};
static constinit Statement is_live_statement{"SELECT t.id FROM jobqueue.tasks_live t WHERE t.id" EQ "$1", INT8OID};

bool lock_unless_locked(int64 id) {
	Params to_lock, to_look_for;
	return !lock_free_statement.run(to_lock.add(id)).empty() || is_live_statement.run(to_look_for.add(id)).empty();
}

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

/* Older by as much as has been done since the clock was set, which must be younger. */
static constinit Statement installation_statement{"UPDATE jobqueue.incarnation i SET created_at = $1" MINUS
												  "'10 minutes'::pg_catalog.interval WHERE i.created_at" GT
												  "$1 RETURNING i.id",
												  TIMESTAMPTZOID};

bool correct_installation(TimestampTz now) {
	Params params;
	return !installation_statement.run(params.add_time(now)).empty();
}

} // namespace jobqueue::store
