/*
 * worker.cpp -- the life of a worker as a process. See worker.hpp.
 *
 * The scheduler reserves a slot and starts the process. Entry is C, behind boundary(); everything else is a C++ region
 * but for the callbacks.
 */
#include "server/worker.hpp"

#include "engine/store/incarnation.hpp"
#include "engine/store/sql_commands.hpp"
#include "pg/clock.hpp"
#include "pg/compat.hpp"
#include "pg/debug.hpp"
#include "pg/foreign_connections.hpp"
#include "pg/leftovers.hpp"
#include "pg/own_settings.hpp"
#include "pg/settings.hpp"
#include "server/in_flight.hpp"
#include "shared/databases.hpp"
#include "shared/penalties.hpp"
#include "shared/wake_ups.hpp"
#include "shared/workers.hpp"

#include <unistd.h>

namespace jobqueue {

/* How long a worker naps after it has found nothing: longer while plain statements keep adding tasks of other types. */
static constexpr int64 shortest_nap_ms = 1;
static constexpr int64 longest_nap_ms = 20;
/* The only worker of a role may keep its process for so long when others need one. */
static constexpr int64 fair_share_us = USECS_PER_SEC;

/* Says at DEBUG1 why the worker leaves; false, for the caller to return. */
static bool leave_because(const char *reason) {
	if (is_debugging(DEBUG1))
		guard([reason] { ereport(DEBUG1, (errmsg_internal("this worker leaves: %s", reason))); });
	return false;
}

/* Reads which tasks the worker handles; false if it has nothing to do here any more. */
bool Worker::configure() {
	const uint64 roles = roles_generation();
	const uint64 configuration = pg_atomic_read_u64(&database_->configuration);
	std::vector<store::Handler> known = std::move(handlers_);
	std::vector<RunTimeEstimate> known_estimates = std::move(estimates_);
	Queues allowed;
	const bool serve = in_transaction(Durability::asynchronous, [this, &allowed, configuration] {
		const OwnSettings own;
		const std::optional<Extension> extension = installed_extension();
		if (!extension || extension->version != library_version ||
			(OidIsValid(extension_) && extension->oid != extension_))
			return leave_because("the extension is not installed, or has another version than the library");
		extension_ = extension->oid;
		owner_ = extension->owner;
		other_leaf_ = guard([] { return get_relname_relid("tasks_failed", get_namespace_oid("jobqueue", false)); });
		const char *const role = guard([] { return GetUserNameFromId(GetSessionUserId(), true); });
		if (role == nullptr)
			return leave_because("its role does not exist any more");
		const Session session(owner_);
		handlers_ = store::handlers_of(role);
		allowed = queues_of_handlers(GetSessionUserId(), owner_);
		guard(watch_rights);
		conditions_ = Conditions::read(configuration);
		/* Asked after the configuration was read: a restore may be under way. */
		return store::is_own_incarnation() ||
			   leave_because("this database is a copy, which waits for jobqueue.adopt()");
	});
	if (!serve)
		return false;
	if (handlers_.empty())
		return leave_because("its role has no handlers");
	if (!handlers_[0].can_connect)
		return leave_because("its role may not connect to the database");
	if (handlers_[0].superuser && !settings::allow_superuser_handlers)
		return leave_because("its role is a superuser, and jobqueue.allow_superuser_handlers is off");
	estimates_.assign(handlers_.size(), RunTimeEstimate());
	for (size_t i = 0; i < known.size(); i++) {
		const store::Handler *same = store::find_handler(handlers_, known[i].type);
		if (same && same->function == known[i].function)
			estimates_[static_cast<size_t>(same - handlers_.data())] = known_estimates[i];
	}
	for (size_t i = 0; i < handlers_.size(); i++)
		if (store::is_sql_handler(handlers_[i]))
			estimates_[i].never();
	std::string rows_for = std::move(scope_.filter.rows_for);
	scope_ = scope_of_handlers(handlers_, std::move(allowed));
	separate_limited(scope_, conditions_.throttling);
	scope_.ask_for_rows(rows_for);
	pg_atomic_write_u64(&slot_->types, scope_.types);
	if (!executor_)
		executor_ = std::make_unique<Executor>(owner_, token_);
	if (!claimer_)
		claimer_.emplace(true);
	executor_->forget();
	claimer_->forget_quiet();
	configuration_ = configuration;
	roles_ = roles;
	return true;
}

/* Removes what a handler may have left behind in the session. C region. */
static void discard_residue() {
	if (GetSessionUserId() != GetAuthenticatedUserId() || GetCurrentRoleId() != InvalidOid) {
		SetConfigOption("session_authorization", GetUserNameFromId(GetAuthenticatedUserId(), false), PGC_SUSET,
						PGC_S_SESSION);
		SetConfigOption("role", "none", PGC_USERSET, PGC_S_SESSION);
	}
	PortalHashTableDeleteAll();
	DropAllPreparedStatements();
	Async_UnlistenAll();
	LockReleaseAll(USER_LOCKMETHOD, true);
	ResetTempTableNamespace();
	ResetSequenceCaches();
	forget_random_seed();
	ResetAllOptions();
}

/* Closes connections to other servers: the next task must not meet the transactions that are open in them. */
static void close_connections() {
	if (!guard(dblink_is_loaded))
		return;
	std::exception_ptr problem;
	try {
		in_transaction(Durability::asynchronous, [] { guard(close_dblink_connections); });
		return;
	} catch (...) {
		problem = std::current_exception();
	}
	/* With this error, no connection is left. With any other one, the process ends, and with it the connections. */
	if (const PgError error = as_pg_error(problem); error.sqlerrcode() != ERRCODE_CONNECTION_DOES_NOT_EXIST)
		throw PgError(error);
}

void Worker::reset_session() {
	in_transaction(Durability::asynchronous, [] { guard(discard_residue); });
	close_connections();
	MemoryContextReset(context_);
	guard([] { pgstat_report_stat(false); }); /* otherwise autovacuum would not know how we change the tables */
}

bool Worker::should_retire() {
	if (pg_atomic_read_u32(&slot_->retire) != 0 || pg_atomic_read_u32(&database_->let_go) != 0)
		return !leave_because("it was asked to, to make room or to free the database");
	/* Whoever needs a process and has none comes before a role that has had its share. */
	if (pg_atomic_read_u64(&shared()->starved_at) == 0)
		return false;
	int peers = 0;
	for (WorkerSlot &other : worker_slots())
		if (&other != slot_ && worker_state(&other) != WorkerState::free &&
			pg_atomic_read_u32(&other.database) == MyDatabaseId &&
			pg_atomic_read_u32(&other.role) == pg_atomic_read_u32(&slot_->role))
			peers++;
	if (peers == 0 && steady_now() - started_at_ < fair_share_us)
		return false;
	/* Only one worker leaves for each request. */
	return pg_atomic_exchange_u64(&shared()->starved_at, 0) != 0 &&
		   !leave_because("another role has tasks and no worker");
}

/* Waits for news, or until a time, exactly: a task that waits for a token must not begin a timer's tick too late. */
void Worker::wait_until(SteadyTime until) {
	const int64 longest_ms = std::min<int64>(static_cast<int64>(settings::worker_idle_timeout_s) * 1000, 60 * 1000);
	const int64 left_us = time_left(steady_now(), until, longest_ms * 1000);
	if (left_us >= 1000)
		guard([left_us] { wait_for_news(left_us / 1000); });
	else
		pg_usleep(static_cast<long>(left_us));
}

/* Waits for something to do; false if the worker must end. */
bool Worker::sleep() {
	const bool nap = claimer_->took_statements();
	nap_ms_ = nap ? std::clamp(nap_ms_ * 2, shortest_nap_ms, longest_nap_ms) : 0;
	const int64 idle_limit_us = static_cast<int64>(settings::worker_idle_timeout_s) * USECS_PER_SEC;
	if (unrecorded_.empty() && is_idle_for(idle_limit_us))
		return leave_because("it has been woken again and again, and has found nothing to do");
	guard([] {
		pgstat_report_stat(true);
		report_idle();
	});

	if (is_debugging(DEBUG2))
		guard([nap] {
			ereport(DEBUG2,
					(errmsg_internal(nap ? "no task for this worker: it naps" : "no task for this worker: it sleeps")));
		});

	/* The state is set before the last look, so that whoever announces something after that look wakes us. */
	if (nap) {
		set_state(slot_, WorkerState::napping);
		pg_memory_barrier();
		guard([this] { wait_for_news(nap_ms_); });
	}
	set_state(slot_, WorkerState::idle);
	pg_memory_barrier();
	for (;;) {
		const bool again = !unrecorded_.empty() && steady_now() >= next_record_;
		if (again || claimer_->absorb(scope_) || !is_configured() || worker_state(slot_) == WorkerState::running) {
			set_state(slot_, WorkerState::running);
			return true;
		}
		if (should_retire())
			return false;
		if (unrecorded_.empty() && is_idle_for(idle_limit_us))
			return leave_because("it has been idle for jobqueue.worker_idle_timeout");
		wait_until(unrecorded_.empty() ? claimer_->next_time() : std::min(claimer_->next_time(), next_record_));
	}
}

/* Works until there was nothing to do for a long time, or the process is needed elsewhere. */
void Worker::work() {
	set_state(slot_, WorkerState::running);
	guard(watch_roles);
	reset_session();
	for (;;) {
		guard([] {
			CHECK_FOR_INTERRUPTS();
			/* A busy worker does not wait on its latch, so it must ask: no new server can start while it lives. */
			if (!PostmasterIsAlive())
				proc_exit(1);
			reload_settings();
		});
		if (!is_configured() && !configure())
			return;
		come_back();
		Taken taken;
		try {
			if (claimer_->absorb(scope_))
				taken = take();
		} catch (const ConfigurationChanged &) {
			continue;
		}
		if (taken.any) {
			claimer_->took_statements();
			nap_ms_ = 0;
			set_state(slot_, WorkerState::running);
			if (!taken.claimed.empty() && process(taken.claimed))
				learn(taken.claimed);
			in_flight::survived();
			if (in_trouble_)
				note_recovery(false);
			suspect_type_.reset();
			interrupt_.reset();
			reset_session();
			idle_since_ = steady_now();
			if (should_retire())
				return;
		} else if (!sleep()) {
			return;
		}
	}
}

/* Leaves out a detail that tells what is in a row of our tables. */
const char *detail_for_log(const ErrorData &data) noexcept {
	if (data.schema_name != nullptr && strcmp(data.schema_name, "jobqueue") == 0)
		return nullptr;
	return data.detail_log ? data.detail_log : data.detail;
}

/* Reports the error in the log, but not again if the next worker of this role ends by the same one. */
void Worker::note_trouble(const PgError &problem) {
	in_flight::leaving_by_own_error();
	const Oid role = pg_atomic_read_u32(&slot_->role);
	const int code = problem.sqlerrcode();
	const ErrorData *const data = &problem.data();
	const char *const message = problem.what();
	const char *const detail = detail_for_log(*data);
	in_transaction(Durability::asynchronous, [role, code, data, message, detail] {
		guard([role, code, data, message, detail] {
			const OwnError own = note_own_error(MyDatabaseId, role, code);
			const char *const name = GetUserNameFromId(role, true);
			ereport(own.is_new ? LOG : DEBUG1,
					(errcode(code),
					 errmsg("a jobqueue worker of role \"%s\" ended by an error: %s", name ? name : "?", message),
					 detail ? errdetail_internal("%s", detail) : 0, data->hint ? errhint("%s", data->hint) : 0,
					 errcontext("No task is charged. The next worker of that role is started after a delay that grows "
								"up to a minute. A different error is reported again.")));
		});
	});
}

/* "over": the worker ends, in good order. */
void Worker::note_recovery(bool over) {
	if (!over && steady_now() - started_at_ < longest_penalty_us)
		return;
	in_trouble_ = false;
	const Oid role = pg_atomic_read_u32(&slot_->role);
	in_transaction(Durability::asynchronous, [role] {
		guard([role] {
			const char *const name = GetUserNameFromId(role, true);
			if (forget_own_errors(MyDatabaseId, role))
				ereport(LOG, (errmsg("jobqueue workers of role \"%s\" run again", name ? name : "?")));
		});
	});
}

void Worker::run() {
	started_at_ = idle_since_ = steady_now();
	const Oid role = pg_atomic_read_u32(&slot_->role);
	in_trouble_ = guard([role] { return own_errors(MyDatabaseId, role); }) > 0;
	const uint64 token = pg_atomic_read_u64(&slot_->token);
	pg_atomic_write_u64(&slot_->connected, token);
	token_ = worker_token(token);
	std::exception_ptr problem;
	try {
		work();
		if (in_trouble_)
			note_recovery(true);
		in_flight::leaving();
	} catch (...) {
		problem = std::current_exception();
	}
	for (const Unrecorded &outcome : unrecorded_)
		guard([&outcome] { in_flight::leave_behind(outcome.id, outcome.attempt); });
	if (!problem)
		return;
	/* DROP EXTENSION removes the tables while we work: then the error is not reported. */
	const bool installed = in_transaction(Durability::asynchronous, [this] {
		const OwnSettings own;
		const std::optional<Extension> extension = installed_extension();
		return extension && extension->oid == extension_;
	});
	if (!installed) {
		in_flight::leaving();
		return;
	}
	note_trouble(as_pg_error(problem));
}

/* Runs after the transaction was aborted, however the process ends. C region. */
static void leave(int, Datum arg) {
	WorkerSlot *slot = &shared()->workers[DatumGetInt32(arg)];
	const Oid database = pg_atomic_read_u32(&slot->database);
	const bool orphaned = in_flight::at_exit();
	interrupts::leave();
	LWLockAcquire(shared()->lock, LW_EXCLUSIVE);
	free_worker(slot);
	LWLockRelease(shared()->lock);
	if (DatabaseSlot *home = find_database(database)) {
		if (orphaned)
			pg_atomic_write_u32(&home->orphans, 1);
		wake_scheduler(home);
	}
	for (DatabaseSlot &other : database_slots())
		if (pg_atomic_read_u64(&other.role_waiting_since) != 0)
			wake_scheduler(&other);
	if (pg_atomic_read_u64(&shared()->launcher_waiting_since) != 0)
		wake_launcher();
}

/*
 * If a handler calls exit() behind the server's back, only its process must end. With another code than this the
 * postmaster would restart all processes, though everything shared has been left in order by now. C region.
 */
static void end_quietly(int code, Datum) {
	constexpr int from_atexit = -1;
	if (code == from_atexit)
		_exit(1);
}

/* Takes the slot that was reserved for this process; false if it was given up. C region. */
static bool attach(int index, uint64 token) {
	WorkerSlot *slot = &shared()->workers[index];
	LWLockAcquire(shared()->lock, LW_EXCLUSIVE);
	const bool ours = pg_atomic_read_u64(&slot->token) == token && worker_state(slot) == WorkerState::starting;
	if (ours) {
		pg_atomic_write_u32(&slot->procno, static_cast<uint32>(compat::my_procno()));
		pg_atomic_write_u32(&slot->pid, static_cast<uint32>(MyProcPid));
	}
	LWLockRelease(shared()->lock);
	if (ours) {
		in_flight::attach(index);
		before_shmem_exit(leave, Int32GetDatum(index));
		on_proc_exit(end_quietly, 0);
	}
	return ours;
}

} // namespace jobqueue

extern "C" PGDLLEXPORT void jobqueue_worker_main(Datum arg);

extern "C" void jobqueue_worker_main(Datum arg) {
	using namespace jobqueue;
	uint64 token;
	memcpy(&token, MyBgworkerEntry->bgw_extra, sizeof(token));
	if (shared() == nullptr)
		proc_exit(0);
	WorkerSlot *slot = &shared()->workers[DatumGetInt32(arg)];
	set_own_worker(slot);
	prepare_process(interrupts::on_interrupt, DatumGetInt32(arg));
	interrupts::install();
	if (!attach(DatumGetInt32(arg), token))
		proc_exit(0);
	const Oid database = pg_atomic_read_u32(&slot->database);
	DatabaseSlot *home = find_database(database);
	if (home == nullptr || pg_atomic_read_u32(&home->let_go) != 0) {
		in_flight::leaving();
		proc_exit(0);
	}
	compat::connect_as(database, pg_atomic_read_u32(&slot->role), pg_atomic_read_u32(&slot->can_login) != 0);
	pgstat_report_appname("jobqueue worker");
	interrupts::register_timeouts();
	interrupts::set_transaction_limit(static_cast<int64>(pin_settings_around_handlers()) * 1000);
	boundary([slot, home] { Worker(slot, home).run(); });
	proc_exit(0);
}
