/*
 * compat.hpp -- differences between server versions 15 to 18: the only place that looks at PG_VERSION_NUM.
 *
 * Functions are C regions unless they say noexcept.
 */
#pragma once

#include "pg/server.hpp"

/* PG_MODULE_MAGIC, with the name and the version that pg_get_loaded_modules() shows from 18 on. */
#if PG_VERSION_NUM >= 180000
#define JOBQUEUE_MODULE(module_name) PG_MODULE_MAGIC_EXT(.name = module_name, .version = JOBQUEUE_VERSION)
#else
#define JOBQUEUE_MODULE(module_name) PG_MODULE_MAGIC
#endif

namespace jobqueue::compat {

/* This process's index in the array of PGPROCs: a name for its latch that is safe to keep in shared memory. */
int my_procno() noexcept;
/* The role as which the process at this index has logged in; InvalidOid if there is none. */
Oid role_of(int procno) noexcept;
/* The latch of that PGPROC, whoever owns it now: a stale number wakes a stranger, which is harmless. */
Latch *latch_of(int procno) noexcept;
/* Sleeps until this process's latch is set, which it resets, or for so long; then checks for interrupts. */
void sleep_on_latch(int64 milliseconds);

constexpr int major_version() noexcept {
	return PG_VERSION_NUM / 10000;
}

bool may_execute(Oid function, Oid role);
/* How many of max_worker_processes are in use, whoever's they are. */
int background_workers();

bool owns_database(Oid database, Oid role);
bool owns_extension(Oid extension, Oid role);
bool may_connect(Oid database, Oid role);
/* May "member" become "role" (run code as it)? */
bool may_become(Oid member, Oid role);

/*
 * Connects a background worker to a database as a role, which is then its authenticated, session and current user, with
 * the role's own settings. A role without LOGIN ("can_login" false) is allowed. FATAL when it may not connect.
 */
void connect_as(Oid database, Oid role, bool can_login);
/* Connects a background worker to a database as the bootstrap superuser. */
void connect_as_superuser(Oid database);

/*
 * Is the name one of pg_timezone_names, in any letter case? Those among them that have leap seconds are not told apart.
 */
bool is_time_zone_name(const char *name);

/*
 * Pins search_path to pg_catalog. "level" is for unpin, which is skipped when an error is under way: abort undoes it.
 */
int pin_search_path();
void unpin_search_path(int level);
/*
 * From 17 on, if a trigger that somebody has attached to our tables runs SET search_path, that lasts until unpin. Then
 * the path must be pinned again. noexcept.
 */
bool search_path_is_pinned() noexcept;
void pin_search_path_again();

/* Does what the setting does, but does not count as having set it. "value" is a SyncCommitLevel. noexcept. */
void set_synchronous_commit(int value) noexcept;

/*
 * transaction_timeout() is the setting in milliseconds, 0 = none. pin_transaction_timeout() turns it off, whoever sets
 * it for server, database or role.
 */
int transaction_timeout() noexcept;
void pin_transaction_timeout();

/* Does this transaction hold any lock on the table? */
bool holds_lock_on(Oid table);

/*
 * Calls "visit" with each lock that this process holds in the shared lock table (weak locks on relations need not be
 * there). "visit" runs under a lock of the table, so it must only look.
 */
void visit_own_locks(void (*visit)(const LOCK *lock, void *arg), void *arg);

/* Begins a scan by so many keys, which index_rescan() is told. */
IndexScanDesc begin_index_scan(Relation table, Relation index, Snapshot snapshot, int keys);

/*
 * From now on, "visit" is called before each INSERT or COPY into a table. "first_column": it gives values for column 1.
 */
void watch_inserts(void (*visit)(Oid table, bool first_column));

/*
 * Writes the new version of the row at this tid, and its index entries. "wait": for whoever may have changed the row.
 */
TM_Result update_row(ResultRelInfo *target, EState *estate, ItemPointerData tid, TupleTableSlot *row, bool wait);

/*
 * A row that a trigger got from the table, as a value of the type "type". From 18 on, such a row has no values of
 * virtual generated columns: these columns are left out.
 */
Datum row_of_trigger(HeapTuple row, Relation table, Oid &type);

/* Runs a portal to its end; as a command from a client would be if "top_level". "completion" may be null. */
void run_portal(Portal portal, bool top_level, DestReceiver *receiver, QueryCompletion *completion = nullptr);

} // namespace jobqueue::compat
