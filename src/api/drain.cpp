/*
 * drain.cpp -- jobqueue.drain: for the tests of applications. Runs waiting tasks in the calling session and
 * transaction, with the same outcomes as a worker, each in a subtransaction. Uses only handlers that run as the caller
 * itself: code of other roles could reach the caller's rights. C++ region.
 */
#include "api/arguments.hpp"
#include "engine/claimer.hpp"
#include "engine/dependency_resolution.hpp"
#include "engine/executor.hpp"
#include "engine/outcome.hpp"
#include "engine/store/attempts.hpp"
#include "engine/store/candidates.hpp"
#include "engine/store/claims.hpp"
#include "engine/store/due_tasks.hpp"
#include "engine/store/handlers.hpp"
#include "engine/store/pauses.hpp"
#include "engine/store/sql_commands.hpp"
#include "engine/store/watching.hpp"
#include "pg/transaction.hpp"
#include "shared/admission.hpp"

namespace jobqueue {

namespace {

struct DrainOptions {
	std::optional<std::string> queue;
	std::optional<int32> max_tasks;
	bool include_scheduled;
	bool raise_errors;
};

class Drain {
public:
	Drain(Oid owner, DrainOptions options, const Queues &allowed)
		: owner_(owner), options_(std::move(options)), executor_(owner) {
		const Session session(owner_);
		handlers_ = store::handlers_of(caller_name_);
		std::erase_if(handlers_, store::is_sql_handler); /* SQL commands need sessions of their own */
		for (const store::Handler &handler : handlers_)
			types_.push_back(handler.type);
		scope_ = scope_of_types(types_);
		scope_.by_handler = true;
		limit_scope(scope_, allowed);
		separate_limited(scope_, Throttling::read());
	}

	void run(ResultSet &result) {
		for (int32 count = 0; !options_.max_tasks || count < *options_.max_tasks; count++) {
			guard([] { CHECK_FOR_INTERRUPTS(); });
			const std::optional<store::Attempt> task = claim();
			if (!task)
				return;
			attempt(*task);
			const Session session(owner_);
			if (const std::optional<store::Look> look = store::look(task->id))
				result.add_row(look->row);
		}
	}

private:
	std::optional<store::Attempt> claim();
	void attempt(const store::Attempt &task);
	void fail(const store::Attempt &task, const store::Handler &handler, const PgError &error);

	const Oid owner_;
	const DrainOptions options_;
	const std::string caller_name_ = caller_name();
	Executor executor_;
	std::vector<store::Handler> handlers_;
	std::vector<std::string> types_; /* of handlers_ */
	Scope scope_;
	Claimer claimer_{false};
};

struct ClaimEnded {};

std::optional<store::Attempt> Drain::claim() {
	MemoryContext caller = CurrentMemoryContext;
	const Session session(owner_);
	Conditions conditions = Conditions::read(0);
	conditions.counts = shared() != nullptr;
	const store::Pauses &pauses = conditions.pauses;
	claimer_.absorb(scope_);
	Locked locked = claimer_.lock(scope_, conditions, options_.queue, 1);
	if (locked.empty() && resolve_all()) {
		claimer_.absorb(scope_);
		locked = claimer_.lock(scope_, conditions, options_.queue, 1);
	}
	if (locked.empty() && options_.include_scheduled && !pauses.all) {
		std::vector<std::string> unserved = pauses.queues;
		unserved.insert(unserved.end(), pauses.dead_letter_queues.begin(), pauses.dead_letter_queues.end());
		if (const auto due = store::promote_next(options_.queue, types_, unserved)) {
			announce_due(*due);
			claimer_.absorb(scope_);
			locked = claimer_.lock(scope_, conditions, options_.queue, 1);
		}
	}
	if (locked.empty())
		return std::nullopt;
	std::vector<store::Attempt> begun =
		store::begin_attempts(locked.tasks, DT_NOEND, "drain, pid " + std::to_string(MyProcPid));
	if (const store::Candidate &task = locked.tasks[0]; task.admitted_as != 0)
		guard([&task] { note_begun(task.admitted_as, task.id); });
	store::Attempt &attempt = begun.at(0);
	store::keep(attempt, caller);
	return attempt;
}

void Drain::attempt(const store::Attempt &task) {
	const store::Handler *const handler = store::find_handler(handlers_, task.type);
	std::exception_ptr problem;
	take_own_cancel();
	try {
		in_subtransaction([&] {
			const int settings_level = NewGUCNestLevel();
			const std::span<const store::Attempt> only(&task, 1);
			const std::vector<std::optional<Datum>> results = executor_.run(only, handler->function, false);
			/* Undoes the settings that the handler made before the next one runs, as in a worker. */
			guard([settings_level] { AtEOXact_GUC(false, settings_level); });
			const Session session(owner_, Session::Writes::always);
			if (!end_succeeded(only, results))
				throw ClaimEnded{};
		});
		return;
	} catch (const ClaimEnded &) {
	} catch (...) {
		problem = std::current_exception();
	}
	if (problem) {
		fail(task, *handler, as_pg_error(problem));
		return;
	}
	const std::optional<OwnCancel> cancel = take_own_cancel();
	const Session session(owner_);
	end_by_own_hand(task.id, task.attempt, cancel);
}

void Drain::fail(const store::Attempt &task, const store::Handler &handler, const PgError &error) {
	/* A cancellation of the caller's own statement is not a failure of the task. */
	if (options_.raise_errors || error.sqlerrcode() == ERRCODE_QUERY_CANCELED)
		throw PgError(error);
	const bool discarded = error.sqlerrcode() == errcode_discarded;
	std::optional<int64> delay_us;
	if (!handler.backoff_function.signature.empty() && !discarded && task.attempt < task.max_attempts) {
		struct Answered {};
		std::exception_ptr problem;
		int32 failed = 0;
		{
			const Session session(owner_);
			failed = store::failed_attempts(task.id);
		}
		try {
			in_subtransaction([&] {
				delay_us = executor_.backoff_us(handler.backoff_function, failed + 1, error.what());
				throw Answered{}; /* rolls back: the function may only decide, not change anything */
			});
		} catch (const Answered &) {
		} catch (...) {
			problem = std::current_exception();
		}
		if (problem)
			if (const PgError caught = as_pg_error(problem); caught.sqlerrcode() == ERRCODE_QUERY_CANCELED)
				throw PgError(caught);
	}
	const Session session(owner_);
	if (const std::optional<store::Claim> claim = store::lock_claim(task.id, task.attempt, true))
		end_failed(*claim, failure_of(error), {.discarded = discarded, .retry_in_us = delay_us});
}

} // namespace
} // namespace jobqueue

JOBQUEUE_FUNCTION(jobqueue_drain) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	DrainOptions options;
	options.queue = arguments.optional_queue(0);
	if (!arguments.is_null(1)) {
		options.max_tasks = DatumGetInt32(arguments.datum(1));
		if (*options.max_tasks < 1)
			throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "max_tasks must be at least 1");
	}
	arguments.require(2, "include_scheduled");
	arguments.require(3, "raise_errors");
	options.include_scheduled = DatumGetBool(arguments.datum(2));
	options.raise_errors = DatumGetBool(arguments.datum(3));
	if (in_handler())
		throw Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "drain cannot be called in a handler");
	ResultSet result(fcinfo, ResultSet::Of::tasks);
	const Oid owner = function_owner(fcinfo);
	const Queues allowed = callers_queues(fcinfo, {Access::consumer, Access::manager});
	require(allowed, options.queue);
	Drain(owner, std::move(options), allowed).run(result);
	return 0;
}
