/*
 * worker.hpp -- a worker: connected as one role for life, it claims that role's tasks and runs their handlers.
 *
 * worker.cpp is its life as a process, fused_batch.cpp how it claims and what it runs together, attempt.cpp what it
 * runs alone, sql_command.cpp how it runs SQL commands. C++ region. Our own statements run in a Session, as the
 * extension's owner; handlers never do.
 */
#pragma once

#include "engine/claimer.hpp"
#include "engine/executor.hpp"
#include "engine/outcome.hpp"
#include "engine/run_time_estimate.hpp"
#include "engine/store/attempts.hpp"
#include "engine/store/candidates.hpp"
#include "engine/store/handlers.hpp"
#include "engine/store/outcome.hpp"
#include "pg/own_settings.hpp"
#include "server/interrupts.hpp"
#include "server/processes.hpp"

#include <map>

namespace jobqueue {

/* Thrown by a claim if the configuration has changed since the worker read it: the tasks may be newer than that. */
struct ConfigurationChanged {};
/* Thrown by a handler's transaction when its claim has ended meanwhile: others or the handler cancelled the task. */
struct ClaimEnded {};
/* Thrown where the outcome of an attempt cannot be recorded because somebody holds a lock on the row of its task. */
struct RowLocked {};

/* An outcome that could not be recorded so far. The worker comes back to it between other tasks. */
struct Unrecorded {
	enum class Kind : uint8 { released, ended, failed, succeeded };
	int64 id;
	int32 attempt;
	Kind kind;
	std::optional<OwnCancel> cancel = std::nullopt;		  /* if ended */
	std::optional<store::Failure> failure = std::nullopt; /* if failed, as are the next two */
	bool discarded = false;
	std::optional<int64> retry_in_us = std::nullopt;
	QueryCompletion completion = {}; /* if succeeded: of an SQL command that cannot be undone */
};

/* A task of a fused batch, from its lock to the commit. */
struct FusedTask {
	store::Attempt attempt;
	ItemPointerData tid;
	size_t handler; /* index in the worker's handlers */
	TimestampTz started_at;
	std::optional<Datum> result;
	std::optional<int64> snooze_us;
	bool grouped; /* others of the same group may come after it */
};

/* The detail of an error; null if the server's log must not have it. */
const char *detail_for_log(const ErrorData &data) noexcept;

class Worker {
public:
	Worker(WorkerSlot *slot, DatabaseSlot *database) : slot_(slot), database_(database) {
		guard([this] {
			context_ = AllocSetContextCreate(TopMemoryContext, "jobqueue task", ALLOCSET_DEFAULT_SIZES);
			fused_context_ = AllocSetContextCreate(TopMemoryContext, "jobqueue fused task", ALLOCSET_DEFAULT_SIZES);
		});
	}
	void run();

private:
	void work();
	bool configure();
	bool is_configured() const {
		return configuration_ != 0 && configuration_ == pg_atomic_read_u64(&database_->configuration) &&
			   roles_ == roles_generation();
	}
	void reset_session();
	bool is_idle_for(int64 us) const { return steady_now() - idle_since_ >= us; }
	bool sleep();
	static void wait_until(SteadyTime until);
	bool should_retire();
	void note_trouble(const PgError &problem);
	void note_recovery(bool over);

	/* fused_batch.cpp */
	struct Taken {
		bool any = false;
		std::vector<store::Attempt> claimed; /* they have yet to be run */
	};
	Taken take();
	bool may_fuse() const;
	bool may_fuse(const std::string &type) const;
	int next_count() const;
	int next_batch(const std::string &type, size_t latest) const;
	size_t handler_index(const std::string &type) const;
	bool may_be_fused(size_t handler, SteadyTime now) const;
	std::vector<FusedTask> first_fused(const Locked &locked);
	std::vector<store::Candidate> first_batch(const Locked &locked) const;
	std::vector<store::Attempt> begin(std::span<const store::Candidate> tasks);
	static void note_counted(std::span<const store::Candidate> tasks);
	void run_locked(const Locked &locked, std::vector<FusedTask> &fused, interrupts::FusedTime &time, Taken &taken);
	std::optional<size_t> run_fused(std::vector<FusedTask> &fused, interrupts::FusedTime &time);
	bool run_call(std::span<FusedTask> members, interrupts::FusedTime &time, bool holds_locks);
	void run_members(std::span<FusedTask> members, interrupts::FusedTime &time, bool holds_locks);
	void finish_fused(std::span<const FusedTask> done, std::span<const store::Candidate> tasks);
	void give_back(const Locked &locked, std::span<const store::Candidate> kept);
	bool help_is_possible();
	void wake_peer(bool more);

	/* attempt.cpp */
	bool process(std::span<const store::Attempt> tasks);
	bool process_alone(const store::Attempt &task);
	void perform(std::span<const store::Attempt> tasks, interrupts::HandlerTime &time);
	template <typename Fn> void record(int64 patience_us, Session::Writes writes, Fn &&fn);
	void record(const Unrecorded &outcome, int64 patience_us);
	/* How long we wait for a locked row, if not longer: other tasks wait meanwhile. */
	static constexpr int64 shortest_patience_us = USECS_PER_SEC;
	void record_or_remember(Unrecorded outcome);
	void remember(Unrecorded outcome);
	void process_unlocked(std::span<const store::Attempt> tasks);
	void come_back();
	void learn(std::span<const store::Attempt> tasks);
	void report_failure(const store::Attempt &task, const PgError &error, const std::string &message);
	std::optional<int64> ask_backoff(const store::Attempt &task, const store::Failure &failure);
	int64 timeout_us(const store::Attempt &task) const;
	static void show(const store::Attempt &task, const char *what);

	/* sql_command.cpp */
	std::string genuine_command(const store::Attempt &task);
	void perform_sql(const store::Attempt &task, interrupts::HandlerTime &time);
	void end_sql(const store::Attempt &task, const QueryCompletion &completion);

	WorkerSlot *const slot_;
	DatabaseSlot *const database_;
	MemoryContext context_;
	MemoryContext fused_context_;
	Oid owner_ = InvalidOid;
	Oid extension_ = InvalidOid;
	Oid other_leaf_ =
		InvalidOid; /* a leaf of jobqueue.tasks that a fused batch locks only if a handler looks at the whole table */
	uint64 configuration_ = 0;
	uint64 roles_ = 0;
	std::string token_;
	std::vector<store::Handler> handlers_;	 /* sorted by type */
	std::vector<RunTimeEstimate> estimates_; /* of the handlers */
	struct KnownFunction {
		RunTimeEstimate estimate; /* of tasks that ran alone, of whatever type */
		int types = 0;			  /* how many types have run */
	};
	std::map<std::string, KnownFunction, std::less<>> functions_; /* by signature */
	FusedBatchSize fused_size_;
	int batch_wanted_ = 1;					  /* how many tasks to lock for a batch handler */
	std::optional<std::string> suspect_type_; /* of the task that failed in a fused batch, and runs alone now */
	std::optional<PgError> interrupt_;		  /* that task was interrupted there: it is not run again */
	std::vector<Unrecorded> unrecorded_;
	SteadyTime next_record_ = 0;			   /* when these are tried again */
	SteadyTime reported_at_ = -USECS_PER_HOUR; /* when locked rows were reported last */
	int64 latest_run_us_ = 0;				   /* of the handler that ran alone last, as are the next two */
	bool latest_is_procedure_ = false;
	bool latest_takes_row_ = false;
	Scope scope_;
	Conditions conditions_;
	std::optional<Claimer> claimer_;
	std::unique_ptr<Executor> executor_;
	int64 nap_ms_ = 0;
	SteadyTime started_at_ = 0;
	bool in_trouble_ = false;	/* earlier workers of this role have ended by errors of our own */
	SteadyTime idle_since_ = 0; /* the end of the latest task */
};

/*
 * Calls fn(), which records the outcome of an attempt, in a Session and under our own settings. Throws RowLocked if a
 * row that fn() needs stays locked for so long.
 */
template <typename Fn> void Worker::record(int64 patience_us, Session::Writes writes, Fn &&fn) {
	interrupts::row_was_locked();
	std::exception_ptr problem;
	try {
		const OwnSettings own(static_cast<int>(std::clamp<int64>(patience_us / 1000, 1, INT_MAX)));
		const Session session(owner_, writes);
		fn();
		return;
	} catch (const PgError &) {
		problem = std::current_exception();
	}
	if (interrupts::row_was_locked())
		throw RowLocked{};
	std::rethrow_exception(problem);
}

} // namespace jobqueue
