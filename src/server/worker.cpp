/*
 * worker.cpp -- a worker: connected as one role for life, it claims that role's tasks and runs their handlers.
 *
 * Started by the scheduler, which reserves its slot. Entry is C, behind boundary(); everything else is a C++ region
 * but for the callbacks. Our own statements run in a Session, as the extension's owner; handlers never do.
 */
#include "server/processes.hpp"

#include "engine/claimer.hpp"
#include "engine/executor.hpp"
#include "engine/outcome.hpp"
#include "pg/compat.hpp"
#include "pg/settings.hpp"
#include "shared/flight_recorder.hpp"

#include <signal.h>
#include <unistd.h>

namespace jobqueue {

namespace {

/* A nap after a vain look: grows while plain statements keep adding tasks of other types. */
constexpr int64 shortest_nap_ms = 1;
constexpr int64 longest_nap_ms = 20;
/* How long a worker may keep its process when another role has none. */
constexpr int64 fair_share_us = USECS_PER_SEC;

/* Thrown by a handler's transaction when its claim has ended meanwhile: by cancel(), of others or of its own. */
struct ClaimEnded {};
/* Thrown when the type has no handler any more. */
struct HandlerGone {};

/* Thrown by a claim that read tasks which came after a change of the configuration that we have not read. */
struct ConfigurationChanged {};

/* How long a back-off function may think. */
constexpr int64 backoff_timeout_us = 5 * USECS_PER_SEC;

/* The claim in hand, which leave() must not let fall. */
int64 held_task = 0;
int32 held_attempt = 0;

/* An interrupt is for the handler; our own work around it is not to be cancelled. */
volatile sig_atomic_t handler_runs = false;
volatile sig_atomic_t timed_out = false;
volatile sig_atomic_t told_to_end = false; /* by somebody */
volatile sig_atomic_t overdue = false;	   /* by the scheduler, because the task is */

TimeoutId attempt_timeout;

void on_interrupt(int signal) {
	if (handler_runs)
		StatementCancelHandler(signal);
}

void on_terminate(int signal) {
	told_to_end = true;
	die(signal);
}

/* The scheduler's last word to a handler that did not respond to an interrupt; believed only if it names its task. */
void on_overdue(int signal) {
	if (!handler_runs || pg_atomic_read_u64(&own_worker()->end) != pg_atomic_read_u64(&own_worker()->task))
		return;
	overdue = true;
	die(signal);
}

/* As statement_timeout does it; who has started processes of its own is in their group. */
void on_timeout() {
	timed_out = true;
	pg_atomic_write_u64(&own_worker()->deadline, static_cast<uint64>(GetCurrentTimestamp()));
	kill(MyProcPid, SIGINT);
	kill(-MyProcPid, SIGINT);
	if (DatabaseSlot *home = find_database(MyDatabaseId))
		wake_scheduler(home); /* which sees to it that this helps */
}

/*
 * Server code runs a handler, with its clocks: the attempt's timeout, and the role's statement_timeout, which a
 * background worker does not have by itself. "timeout_us" 0: none.
 */
class HandlerTime {
public:
	explicit HandlerTime(int64 timeout_us) {
		timed_out = false;
		if (timeout_us > 0) {
			enable_timeout_at(attempt_timeout, GetCurrentTimestamp() + timeout_us);
		}
		if (StatementTimeout > 0)
			enable_timeout_after(STATEMENT_TIMEOUT, StatementTimeout);
		handler_runs = true;
		pg_atomic_write_u32(&own_worker()->in_handler, 1);
	}
	~HandlerTime() {
		handler_runs = false;
		pg_atomic_write_u32(&own_worker()->in_handler, 0);
		disable_timeout(attempt_timeout, false);
		disable_timeout(STATEMENT_TIMEOUT, false);
		pg_atomic_write_u64(&own_worker()->deadline, PG_INT64_MAX);
		QueryCancelPending = false;
	}
	HandlerTime(const HandlerTime &) = delete;
	HandlerTime &operator=(const HandlerTime &) = delete;
};

class Worker {
public:
	Worker(WorkerSlot *slot, DatabaseSlot *database) : slot_(slot), database_(database) {
		context_ = AllocSetContextCreate(TopMemoryContext, "jobqueue task", ALLOCSET_DEFAULT_SIZES);
	}
	void run();

private:
	void work();
	bool configure();
	bool is_configured() const {
		return configuration_ != 0 && configuration_ == pg_atomic_read_u64(&database_->configuration) &&
			   roles_ == roles_generation();
	}
	std::optional<store::Attempt> claim();
	int64 timeout_us(const store::Attempt &task) const;
	void process(const store::Attempt &task);
	void perform(const store::Attempt &task);
	void record_failure(const store::Attempt &task, store::Failure failure, bool discarded);
	void report_failure(const store::Attempt &task, const PgError &error, const std::string &message);
	std::optional<int64> ask_backoff(const store::Attempt &task, const store::Failure &failure);
	void reset_session();
	bool is_idle_for(int64 us) const { return GetCurrentTimestamp() - idle_since_ >= us; }
	bool sleep();
	bool should_retire();
	bool help_is_possible();

	WorkerSlot *const slot_;
	DatabaseSlot *const database_;
	MemoryContext context_;
	Oid owner_ = InvalidOid;
	Oid extension_ = InvalidOid;
	uint64 configuration_ = 0;
	uint64 roles_ = 0;
	std::string token_;
	std::vector<store::Handler> handlers_;
	Scope scope_;
	store::Pauses pauses_;
	std::optional<Claimer> claimer_;
	std::unique_ptr<Executor> executor_;
	int64 nap_ms_ = 0;
	TimestampTz started_at_ = 0;
	TimestampTz idle_since_ = 0; /* the end of the latest task */
};

/* Reads what it handles; false if it has nothing to do here any more. */
bool Worker::configure() {
	const uint64 roles = roles_generation();
	const uint64 configuration = pg_atomic_read_u64(&database_->configuration);
	const bool serve = in_transaction(Durability::asynchronous, [this] {
		const std::optional<store::Extension> extension = installed_extension();
		if (!extension || extension->version != library_version ||
			(OidIsValid(extension_) && extension->oid != extension_))
			return false;
		extension_ = extension->oid;
		owner_ = extension->owner;
		const char *const role = guard([] { return GetUserNameFromId(GetSessionUserId(), true); });
		if (role == nullptr)
			return false;
		const Session session(owner_);
		handlers_ = store::handlers_of(role);
		pauses_ = store::pauses();
		return store::is_own_incarnation(); /* after them: a restore may be under way */
	});
	if (!serve || handlers_.empty() || !handlers_[0].can_connect ||
		(handlers_[0].superuser && !settings::allow_superuser_handlers))
		return false;
	std::vector<std::string> types;
	for (const store::Handler &handler : handlers_)
		types.push_back(handler.type);
	scope_ = scope_of_types(std::move(types));
	pg_atomic_write_u64(&slot_->types, scope_.types);
	if (!executor_)
		executor_ = std::make_unique<Executor>(owner_);
	if (!claimer_)
		claimer_.emplace(true);
	executor_->forget();
	claimer_->forget_quiet();
	configuration_ = configuration;
	roles_ = roles;
	return true;
}

/* Is a colleague idle, or could one be started? */
bool Worker::help_is_possible() {
	int live = 0;
	for (WorkerSlot &other : worker_slots()) {
		const WorkerState state = worker_state(&other);
		live += takes_place(&other);
		if (state == WorkerState::idle && pg_atomic_read_u32(&other.database) == MyDatabaseId &&
			pg_atomic_read_u32(&other.role) == pg_atomic_read_u32(&slot_->role))
			return true;
	}
	return live < settings::max_workers;
}

/* Claims one task durably: it is processing before its handler runs. */
std::optional<store::Attempt> Worker::claim() {
	bool more = false;
	std::optional<store::Attempt> task =
		in_transaction(Durability::asynchronous, [&]() -> std::optional<store::Attempt> {
			const Session session(owner_);
			const Locked locked = claimer_->lock(scope_, pauses_, std::nullopt, 1);
			if (!locked.ids.empty() && !is_configured())
				throw ConfigurationChanged{}; /* the abort gives them back, and says so */
			if (locked.ids.empty())
				return std::nullopt;
			std::vector<store::Attempt> begun = store::begin_attempts(locked.ids, DT_NOEND, token_);
			if (begun.empty())
				return std::nullopt;
			store::Attempt &attempt = begun[0];
			store::keep(attempt, context_);
			more = help_is_possible() && claimer_->more_after(scope_, locked);
			held_task = attempt.id;
			held_attempt = attempt.attempt;
			/* Nothing that was said of tasks before holds for this one, though it may have been cancelled here, and be back. */
			pg_atomic_write_u64(&slot_->deadline, PG_INT64_MAX);
			pg_atomic_write_u64(&slot_->cancel, 0);
			pg_atomic_write_u64(&slot_->end, 0);
			pg_atomic_write_u32(&slot_->stuck, 0);
			pg_write_barrier();
			pg_atomic_write_u32(&slot_->attempt, static_cast<uint32>(attempt.attempt));
			pg_atomic_write_u64(&slot_->task, static_cast<uint64>(attempt.id));
			return attempt;
		});
	/*
	 * One worker's wake-up becomes the next one's: a burst spreads out over as many as there are. And who announced
	 * something while we had no task yet, but had looked already, counted on us.
	 */
	pg_memory_barrier();
	if (task && (more || claimer_->is_behind()) && !wake_worker_of(MyDatabaseId, pg_atomic_read_u32(&slot_->role)))
		wake_scheduler(database_);
	return task;
}

/* Runs the handler and records its success, in one transaction. */
void Worker::perform(const store::Attempt &task) {
	const Durability durability =
		settings::worker_synchronous_commit ? Durability::synchronous : Durability::asynchronous;
	in_transaction(durability, [&] {
		const store::Handler *handler = store::find_handler(handlers_, task.type);
		if (handler == nullptr)
			throw HandlerGone{};
		MemoryContextSwitchTo(context_);
		const std::optional<Datum> result = executor_->run(task, handler->function, true);
		/* Not the context of before: a procedure may have ended that transaction. */
		MemoryContextSwitchTo(CurTransactionContext);
		disable_timeout(STATEMENT_TIMEOUT, false);

		const Session session(owner_, Session::Writes::always);
		if (!end_succeeded(task, result))
			throw ClaimEnded{};
	});
}

/* The error as the handler raised it, with the task in its context, on one line of level LOG. */
void Worker::report_failure(const store::Attempt &task, const PgError &error, const std::string &message) {
	const ErrorData &data = error.data();
	const char *const reason = message.c_str();
	const store::Attempt *const attempt = &task;
	guard([&data, attempt, reason] {
		ereport(LOG, (errcode(data.sqlerrcode),
					  errmsg("task " INT64_FORMAT " of type \"%s\" failed, attempt %d of %d: %s", attempt->id,
							 attempt->type.c_str(), attempt->attempt, attempt->max_attempts, reason),
					  data.detail_log ? errdetail_internal("%s", data.detail_log)
					  : data.detail	  ? errdetail_internal("%s", data.detail)
									  : 0,
					  data.hint ? errhint("%s", data.hint) : 0, data.context ? errcontext("%s", data.context) : 0));
	});
}

/* Asks in a transaction that is rolled back: the function shall decide, and do nothing. */
std::optional<int64> Worker::ask_backoff(const store::Attempt &task, const store::Failure &failure) {
	const store::Handler *handler = store::find_handler(handlers_, task.type);
	if (handler == nullptr || handler->backoff_function.empty() || task.attempt >= task.max_attempts)
		return std::nullopt;
	struct Answered {};
	std::optional<int64> delay_us;
	std::optional<PgError> error;
	try {
		const HandlerTime time(backoff_timeout_us);
		in_transaction(Durability::asynchronous, [&] {
			delay_us = executor_->backoff_us(handler->backoff_function, task.attempt, failure.message);
			throw Answered{};
		});
	} catch (const Answered &) {
	} catch (const PgError &caught) {
		error = caught;
	}
	if (error) {
		const char *const function = handler->backoff_function.c_str();
		const PgError *const reported = &*error;
		guard([function, reported] {
			ereport(LOG, (errcode(reported->sqlerrcode()),
						  errmsg("back-off function %s failed: %s", function, reported->what()),
						  errdetail("The wait is that of the handler's other settings.")));
		});
	}
	return delay_us;
}

void Worker::record_failure(const store::Attempt &task, store::Failure failure, bool discarded) {
	const std::optional<int64> delay_us = discarded ? std::nullopt : ask_backoff(task, failure);
	in_transaction(Durability::asynchronous, [&] {
		const Session session(owner_);
		if (const std::optional<store::Claim> claim = store::lock_claim(task.id, task.attempt, true))
			end_failed(*claim, failure, {.discarded = discarded, .retry_in_us = delay_us});
	});
}

int64 Worker::timeout_us(const store::Attempt &task) const {
	if (task.timeout_us > 0)
		return task.timeout_us;
	const store::Handler *handler = store::find_handler(handlers_, task.type);
	return handler ? handler->timeout_us : 0;
}

/* The attempt from beginning to end, whatever happens in the handler. */
void Worker::process(const store::Attempt &task) {
	char activity[NAMEDATALEN + 128];
	snprintf(activity, sizeof(activity), "task " INT64_FORMAT " of type %.*s", task.id,
			 pg_mbcliplen(task.type.c_str(), static_cast<int>(task.type.size()), 64), task.type.c_str());
	guard([&activity] { report_running(activity); });

	std::optional<PgError> error;
	std::string problem;
	bool ended = false, released = false;
	const int64 time_limit_us = timeout_us(task);
	const auto index = static_cast<int>(slot_ - shared()->workers);
	const uint32 cancels = pg_atomic_read_u32(&slot_->cancels);
	take_own_cancel();
	write_progress(slot_, -1, "");
	record_running(index, MyDatabaseId, task.id, task.attempt);
	try {
		const HandlerTime time(time_limit_us);
		/* Who cancelled it before that was not heard. */
		pg_memory_barrier();
		if (pg_atomic_read_u64(&slot_->cancel) == static_cast<uint64>(task.id))
			throw ClaimEnded{};
		perform(task);
	} catch (const ClaimEnded &) {
		ended = true;
	} catch (const HandlerGone &) {
		released = true;
	} catch (const PgError &caught) {
		error = caught;
	} catch (const std::exception &caught) {
		problem = caught.what();
	} catch (...) {
		problem = "unknown C++ exception";
	}
	const bool interrupted = error && error->sqlerrcode() == ERRCODE_QUERY_CANCELED;

	/* An interrupt that cancel() has sent: for this task, which it has ended, or too late, for one before. */
	if (interrupted && pg_atomic_read_u32(&slot_->cancels) != cancels) {
		ended = pg_atomic_read_u64(&slot_->cancel) == static_cast<uint64>(task.id);
		released = !ended && !timed_out;
		if (ended || released)
			error.reset();
	}

	if (ended || released) {
		in_transaction(Durability::asynchronous, [&] {
			const Session session(owner_);
			if (ended)
				end_by_own_hand(task.id, task.attempt);
			else if (const std::optional<store::Claim> claim = store::lock_claim(task.id, task.attempt, true))
				end_released(*claim);
		});
	} else if (error) {
		store::Failure failure = failure_of(*error);
		if (interrupted && timed_out) {
			char limit[32];
			snprintf(limit, sizeof(limit), "%g s", static_cast<double>(time_limit_us) / USECS_PER_SEC);
			failure.message = std::string("timed out after ") + limit;
			failure.sqlstate = sqlstate::timed_out;
		}
		report_failure(task, *error, failure.message);
		record_failure(task, std::move(failure), error->sqlerrcode() == errcode_discarded);
	} else if (!problem.empty()) {
		record_failure(task, {problem, unpack_sql_state(ERRCODE_INTERNAL_ERROR)}, false);
	}
	pg_atomic_write_u64(&slot_->task, 0);
	record_idle(index);
	held_task = 0;
}

/* What a handler may have left behind in the session. C region. */
void discard_residue() {
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
	ResetAllOptions();
	/* A handler's NOTICE has nowhere to go but the log. */
	if (log_min_messages > NOTICE)
		SetConfigOption("log_min_messages", "notice", PGC_SUSET, PGC_S_SESSION);
}

void Worker::reset_session() {
	in_transaction(Durability::asynchronous, [] { guard(discard_residue); });
	MemoryContextReset(context_);
	guard([] { pgstat_report_stat(false); }); /* or autovacuum would not know what we do to the tables */
}

bool Worker::should_retire() {
	if (pg_atomic_read_u32(&slot_->retire) != 0 || pg_atomic_read_u32(&database_->let_go) != 0)
		return true;
	/* A role with work that has no worker at all comes before one that has had its share. */
	if (pg_atomic_read_u64(&shared()->starved_at) == 0)
		return false;
	int colleagues = 0;
	for (WorkerSlot &other : worker_slots())
		if (&other != slot_ && worker_state(&other) != WorkerState::free &&
			pg_atomic_read_u32(&other.database) == MyDatabaseId &&
			pg_atomic_read_u32(&other.role) == pg_atomic_read_u32(&slot_->role))
			colleagues++;
	if (colleagues == 0 && GetCurrentTimestamp() - started_at_ < fair_share_us)
		return false;
	/* Only one leaves for each that starves. */
	return pg_atomic_exchange_u64(&shared()->starved_at, 0) != 0;
}

/* Waits for something to do; false when it is time to go. */
bool Worker::sleep() {
	const bool nap = claimer_->took_statements();
	nap_ms_ = nap ? std::clamp(nap_ms_ * 2, shortest_nap_ms, longest_nap_ms) : 0;
	const int64 idle_limit_us = static_cast<int64>(settings::worker_idle_timeout_s) * USECS_PER_SEC;
	if (is_idle_for(idle_limit_us))
		return false; /* woken again and again, and always for nothing */
	guard([] {
		pgstat_report_stat(true);
		report_idle();
	});

	/* Announce that we sleep before the last look, so that whoever comes after it wakes us. */
	if (nap) {
		set_state(slot_, WorkerState::napping);
		pg_memory_barrier();
		guard([this] { wait_for_news(nap_ms_); });
	}
	set_state(slot_, WorkerState::idle);
	pg_memory_barrier();
	for (;;) {
		if (claimer_->absorb(scope_) || !is_configured() || worker_state(slot_) == WorkerState::running) {
			set_state(slot_, WorkerState::running);
			return true;
		}
		if (should_retire() || is_idle_for(idle_limit_us))
			return false;
		guard([] {
			wait_for_news(std::min<int64>(static_cast<int64>(settings::worker_idle_timeout_s) * 1000, 60 * 1000));
		});
	}
}

/* Works until there is nothing to do for long, or the process is needed elsewhere. */
void Worker::work() {
	set_state(slot_, WorkerState::running);
	guard(watch_roles);
	reset_session();
	for (;;) {
		guard([] {
			CHECK_FOR_INTERRUPTS();
			/* Who is busy never waits, and would not hear of it; a new server cannot start as long as we live. */
			if (!PostmasterIsAlive())
				proc_exit(1);
		});
		if (!is_configured() && !configure())
			return;
		std::optional<store::Attempt> task;
		try {
			if (claimer_->absorb(scope_))
				task = claim();
		} catch (const ConfigurationChanged &) {
			continue;
		}
		if (task) {
			claimer_->took_statements();
			nap_ms_ = 0;
			set_state(slot_, WorkerState::running);
			process(*task);
			reset_session();
			idle_since_ = GetCurrentTimestamp();
			if (should_retire())
				return;
		} else if (!sleep()) {
			return;
		}
	}
}

void Worker::run() {
	started_at_ = idle_since_ = GetCurrentTimestamp();
	const uint64 token = pg_atomic_read_u64(&slot_->token);
	pg_atomic_write_u64(&slot_->connected, token);
	token_ = worker_token(token);
	std::exception_ptr problem;
	try {
		work();
		return;
	} catch (const PgError &) {
		problem = std::current_exception();
	}
	/* DROP EXTENSION pulls the tables away while we work: no reason to make noise. */
	const bool installed = in_transaction(Durability::asynchronous, [this] {
		const std::optional<store::Extension> extension = installed_extension();
		return extension && extension->oid == extension_;
	});
	if (installed)
		std::rethrow_exception(problem);
}

/* Runs after the transaction was aborted, however the process ends. C region. */
void leave(int, Datum arg) {
	WorkerSlot *slot = &shared()->workers[DatumGetInt32(arg)];
	const Oid database = pg_atomic_read_u32(&slot->database);
	record_idle(DatumGetInt32(arg));
	if (held_task != 0) {
		const DeathCause cause = overdue						? DeathCause::overdue
								 : told_to_end || !handler_runs ? DeathCause::terminated
																: DeathCause::fatal;
		record_death({database, held_task, held_attempt, cause});
	}
	LWLockAcquire(shared()->lock, LW_EXCLUSIVE);
	free_worker(slot);
	LWLockRelease(shared()->lock);
	if (DatabaseSlot *home = find_database(database)) {
		if (held_task != 0)
			pg_atomic_write_u32(&home->orphans, 1);
		wake_scheduler(home);
	}
	for (DatabaseSlot &other : shared()->databases)
		if (pg_atomic_read_u64(&other.hungry_since) != 0)
			wake_scheduler(&other);
}

/*
 * A handler that calls exit() behind the server's back shall end its process only: with another code than this the
 * postmaster would restart all of them, though everything shared has been left in order by now. C region.
 */
void end_quietly(int code, Datum) {
	constexpr int from_atexit = -1;
	if (code == from_atexit)
		_exit(1);
}

/* Takes the slot that was reserved for this process; false if it was given up. C region. */
bool attach(int index, uint64 token) {
	WorkerSlot *slot = &shared()->workers[index];
	LWLockAcquire(shared()->lock, LW_EXCLUSIVE);
	const bool ours = pg_atomic_read_u64(&slot->token) == token && worker_state(slot) == WorkerState::starting;
	if (ours) {
		pg_atomic_write_u32(&slot->procno, static_cast<uint32>(compat::my_procno()));
		pg_atomic_write_u32(&slot->pid, static_cast<uint32>(MyProcPid));
	}
	LWLockRelease(shared()->lock);
	if (ours) {
		before_shmem_exit(leave, Int32GetDatum(index));
		on_proc_exit(end_quietly, 0);
	}
	return ours;
}

} // namespace
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
	prepare_process(on_interrupt, DatumGetInt32(arg));
	pqsignal(SIGTERM, on_terminate);
	pqsignal(SIGUSR2, on_overdue);
	if (!attach(DatumGetInt32(arg), token))
		proc_exit(0);
	const Oid database = pg_atomic_read_u32(&slot->database);
	DatabaseSlot *home = find_database(database);
	if (home == nullptr || pg_atomic_read_u32(&home->let_go) != 0)
		proc_exit(0);
	compat::connect_as(database, pg_atomic_read_u32(&slot->role), pg_atomic_read_u32(&slot->can_login) != 0);
	pgstat_report_appname("jobqueue worker");
	attempt_timeout = RegisterTimeout(USER_TIMEOUT, on_timeout);
	boundary([slot, home] { Worker(slot, home).run(); });
	proc_exit(0);
}
