/*
 * attempt.cpp -- what a worker runs alone: tasks that were claimed durably, singly or as the batch of a batch handler,
 * from the call of the handler to the record of its outcome. See worker.hpp. C++ region.
 */
#include "engine/store/attempts.hpp"
#include "engine/store/claims.hpp"
#include "engine/store/handlers.hpp"
#include "engine/store/outcome.hpp"
#include "engine/store/sql_commands.hpp"
#include "server/worker.hpp"

#include "engine/store/bounds.hpp"
#include "engine/outcome.hpp"
#include "pg/clock.hpp"
#include "pg/own_settings.hpp"
#include "pg/settings.hpp"
#include "server/in_flight.hpp"
#include "shared/workers.hpp"

namespace jobqueue {

using interrupts::HandlerTime;

namespace {

/* Thrown when the type has no handler any more. */
struct HandlerGone {};

} // namespace

/* How long a back-off function may run. */
static constexpr int64 backoff_timeout_us = 5 * USECS_PER_SEC;

/* How often an outcome whose row was locked is tried again, and how often locked rows are reported. */
static constexpr int64 record_again_us = 200 * USECS_PER_SEC / 1000;
static constexpr int64 report_locks_us = USECS_PER_MINUTE;
static constexpr size_t longest_context = 500; /* bytes */

void Worker::record(const Unrecorded &outcome, int64 patience_us) {
	in_transaction(Durability::asynchronous, [&] {
		record(patience_us, Session::Writes::as_transaction_allows, [&] {
			if (outcome.kind == Unrecorded::Kind::ended) {
				end_by_own_hand(outcome.id, outcome.attempt, outcome.cancel);
				return;
			}
			if (outcome.kind == Unrecorded::Kind::succeeded) {
				store::Attempt task = {};
				task.id = outcome.id;
				task.attempt = outcome.attempt;
				end_sql(task, outcome.completion);
				return;
			}
			const std::optional<store::Claim> claim = store::lock_claim(outcome.id, outcome.attempt, true);
			if (claim && outcome.kind == Unrecorded::Kind::released)
				end_released(*claim);
			else if (claim)
				end_failed(*claim, *outcome.failure,
						   {.discarded = outcome.discarded, .retry_in_us = outcome.retry_in_us});
		});
	});
}

void Worker::remember(Unrecorded outcome) {
	const SteadyTime now = steady_now();
	next_record_ = now + record_again_us;
	const int64 id = outcome.id;
	unrecorded_.push_back(std::move(outcome));
	if (now - reported_at_ < report_locks_us)
		return;
	reported_at_ = now;
	guard([id] {
		ereport(
			LOG,
			(errmsg("could not record the outcome of task " INT64_FORMAT " because its row is locked", id),
			 errdetail(
				 "The effects of its handler in this transaction are rolled back, and it runs again when the lock is "
				 "released. The worker goes on with other tasks.")));
	});
}

void Worker::record_or_remember(Unrecorded outcome) {
	bool locked = false;
	try {
		record(outcome, shortest_patience_us);
	} catch (const RowLocked &) {
		locked = true;
	}
	if (locked)
		remember(std::move(outcome));
}

/* Called between two tasks, and before the worker sleeps: records outcomes whose rows are free by now. */
void Worker::come_back() {
	if (unrecorded_.empty() || steady_now() < next_record_)
		return;
	std::erase_if(unrecorded_, [this](const Unrecorded &outcome) {
		try {
			record(outcome, 0);
			return true;
		} catch (const RowLocked &) {
			return false;
		}
	});
	next_record_ = steady_now() + record_again_us;
}

/* Runs the handler and records its success, in one transaction. */
void Worker::perform(std::span<const store::Attempt> tasks, HandlerTime &time) {
	const Durability durability =
		settings::worker_synchronous_commit ? Durability::synchronous : Durability::asynchronous;
	in_transaction(durability, [&] {
		const store::Handler *handler = store::find_handler(handlers_, tasks[0].type);
		if (handler == nullptr)
			throw HandlerGone{};
		MemoryContextSwitchTo(context_);
		{
			const OwnSettings own;
			latest_is_procedure_ = executor_->is_procedure(handler->function);
			latest_takes_row_ = executor_->takes_row(handler->function);
		}
		if (latest_is_procedure_)
			change_durability(Durability::synchronous); /* a procedure's own commits are as the role's settings say */
		const SteadyTime began = steady_now();
		const std::vector<std::optional<Datum>> results = executor_->run(tasks, handler->function, true);
		latest_run_us_ = steady_now() - began;
		injection_point("handled");
		/* Not the memory context of before: a procedure may have ended that transaction. */
		MemoryContextSwitchTo(CurTransactionContext);

		time.pause();
		/* A handler that took long is not rolled back because of a wait that is short in comparison. */
		record(std::max(shortest_patience_us, latest_run_us_), Session::Writes::always, [&] {
			if (!end_succeeded(tasks, results))
				throw ClaimEnded{};
		});
		time.resume();
	});
}

/*
 * Reports the error as the handler raised it, with the task in its context. A long context, with statements, is cut: it
 * would fill the log.
 */
void Worker::report_failure(const store::Attempt &task, const PgError &error, const std::string &message) {
	const ErrorData &data = error.data();
	const char *const reason = message.c_str();
	const store::Attempt *const attempt = &task;
	const char *const detail = detail_for_log(data);
	const std::string short_context = data.context ? bounds::cut(data.context, longest_context) : std::string();
	const char *const context = data.context ? short_context.c_str() : nullptr;
	guard([&data, attempt, reason, detail, context] {
		ereport(LOG, (errcode(data.sqlerrcode),
					  errmsg("task " INT64_FORMAT " of type \"%s\" failed, attempt %d of %d: %s", attempt->id,
							 attempt->type.c_str(), attempt->attempt, attempt->max_attempts, reason),
					  detail ? errdetail_internal("%s", detail) : 0, data.hint ? errhint("%s", data.hint) : 0,
					  context ? errcontext("%s", context) : 0));
	});
}

/* Asks the back-off function in a transaction that is rolled back, so that it can decide, but change nothing. */
std::optional<int64> Worker::ask_backoff(const store::Attempt &task, const store::Failure &failure) {
	const store::Handler *handler = store::find_handler(handlers_, task.type);
	if (handler == nullptr || handler->backoff_function.signature.empty() || task.attempt >= task.max_attempts)
		return std::nullopt;
	struct Answered {};
	std::optional<int64> delay_us;
	std::exception_ptr problem;
	try {
		int32 failed = 0;
		in_transaction(Durability::asynchronous, [&] {
			const OwnSettings own;
			const Session session(owner_);
			failed = store::failed_attempts(task.id);
		});
		const HandlerTime time(backoff_timeout_us);
		in_transaction(Durability::asynchronous, [&] {
			delay_us = executor_->backoff_us(handler->backoff_function, failed + 1, failure.message);
			throw Answered{};
		});
	} catch (const Answered &) {
	} catch (...) {
		problem = std::current_exception();
	}
	if (problem) {
		const PgError error = as_pg_error(problem);
		const char *const function = handler->backoff_function.signature.c_str();
		const PgError *const reported = &error;
		guard([function, reported] {
			ereport(LOG, (errcode(reported->sqlerrcode()),
						  errmsg("back-off function %s failed: %s", function, reported->what()),
						  errdetail("The wait is computed from the handler's other settings.")));
		});
	}
	return delay_us;
}

int64 Worker::timeout_us(const store::Attempt &task) const {
	if (task.timeout_us > 0)
		return task.timeout_us;
	const store::Handler *handler = store::find_handler(handlers_, task.type);
	return handler ? handler->timeout_us : 0;
}

void Worker::show(const store::Attempt &task, const char *what) {
	char activity[NAMEDATALEN + 128];
	snprintf(activity, sizeof(activity), "%s " INT64_FORMAT " of type %.*s", what, task.id,
			 pg_mbcliplen(task.type.c_str(), static_cast<int>(task.type.size()), 64), task.type.c_str());
	guard([&activity] { report_running(activity); });
}

/* Runs the attempt from beginning to end, whatever happens in the handler. True if it succeeded. */
bool Worker::process_alone(const store::Attempt &task) {
	show(task, "task");
	injection_point("claimed");

	std::optional<PgError> error;
	std::exception_ptr problem;
	bool ended = false, released = false, locked = false;
	const int64 time_limit_us = timeout_us(task);
	const uint32 cancels = pg_atomic_read_u32(&slot_->cancels);
	take_own_cancel();
	write_progress(slot_, -1, "");
	in_flight::running(task, false);
	try {
		if (interrupt_)
			throw PgError(*interrupt_);
		HandlerTime time(time_limit_us);
		/* The interrupt of a cancel() before that was not heeded. */
		pg_memory_barrier();
		if (pg_atomic_read_u64(&slot_->cancel) == static_cast<uint64>(task.id))
			throw ClaimEnded{};
		const store::Handler *const handler = store::find_handler(handlers_, task.type);
		if (handler && store::is_sql_handler(*handler))
			perform_sql(task, time);
		else
			perform({&task, 1}, time);
	} catch (const ClaimEnded &) {
		ended = true;
	} catch (const HandlerGone &) {
		released = true;
	} catch (const RowLocked &) {
		locked = true;
	} catch (...) {
		problem = std::current_exception();
	}
	if (problem)
		error = as_pg_error(problem);
	const bool interrupted = error && error->sqlerrcode() == ERRCODE_QUERY_CANCELED;

	/* cancel() has sent an interrupt: for this task, whose claim it has ended; or for an earlier one, too late. */
	if (interrupted && pg_atomic_read_u32(&slot_->cancels) != cancels) {
		ended = pg_atomic_read_u64(&slot_->cancel) == static_cast<uint64>(task.id);
		released = !ended && !interrupts::timed_out();
		if (ended || released)
			error.reset();
	}

	if (locked) {
		remember({task.id, task.attempt, Unrecorded::Kind::released});
	} else if (ended || released) {
		record_or_remember({task.id, task.attempt, ended ? Unrecorded::Kind::ended : Unrecorded::Kind::released,
							ended ? take_own_cancel() : std::nullopt});
	} else if (error) {
		store::Failure failure = failure_of(*error);
		if (interrupted && !interrupt_ && interrupts::timed_out()) {
			const bool of_transaction = interrupts::transaction_timed_out();
			const int64 limit_us = of_transaction ? interrupts::transaction_limit_us() : time_limit_us;
			char limit[64];
			snprintf(limit, sizeof(limit), "%g s%s", static_cast<double>(limit_us) / USECS_PER_SEC,
					 of_transaction ? " (transaction_timeout)" : "");
			failure.message = std::string("timed out after ") + limit;
			failure.sqlstate = sqlstate::timed_out;
		}
		report_failure(task, *error, failure.message);
		const bool discarded = error->sqlerrcode() == errcode_discarded;
		const std::optional<int64> delay_us = discarded ? std::nullopt : ask_backoff(task, failure);
		record_or_remember(
			{task.id, task.attempt, Unrecorded::Kind::failed, std::nullopt, std::move(failure), discarded, delay_us});
	}
	in_flight::nothing();
	return !ended && !released && !locked && !error;
}

/*
 * Runs tasks that were claimed together. If they fail together, they are tried in halves, until the culprit runs alone
 * and is charged. True if all of them succeeded at once.
 */
bool Worker::process(std::span<const store::Attempt> tasks) {
	if (tasks.size() == 1)
		return process_alone(tasks[0]);
	show(tasks[0], "tasks from");
	write_progress(slot_, -1, "");
	in_flight::running_several(tasks[0], false);
	bool failed = false, locked = false;
	try {
		HandlerTime time(timeout_us(tasks[0]));
		perform(tasks, time);
	} catch (const RowLocked &) {
		locked = true;
	} catch (...) {
		failed = true;
	}
	in_flight::nothing();
	if (!failed && !locked)
		return true;
	guard([] { CHECK_FOR_INTERRUPTS(); });
	if (locked) {
		process_unlocked(tasks);
		return false;
	}
	const size_t half = tasks.size() / 2;
	process(tasks.first(half));
	process(tasks.subspan(half));
	return false;
}

/*
 * Rows of tasks that were to be completed together are locked. Runs the tasks that nobody has locked once more; the
 * others are released when their rows are free.
 */
void Worker::process_unlocked(std::span<const store::Attempt> tasks) {
	std::vector<int64> ids;
	for (const store::Attempt &task : tasks)
		ids.push_back(task.id);
	in_transaction(Durability::asynchronous, [&] {
		const OwnSettings own;
		const Session session(owner_);
		ids = store::lock_free(ids);
	});
	std::vector<store::Attempt> rest;
	for (const store::Attempt &task : tasks)
		if (std::find(ids.begin(), ids.end(), task.id) != ids.end())
			rest.push_back(task);
		else
			remember({task.id, task.attempt, Unrecorded::Kind::released});
	if (!rest.empty())
		process(rest);
}

/* Learns about a type from tasks that were claimed together and have succeeded at once. */
void Worker::learn(std::span<const store::Attempt> tasks) {
	const std::string &type = tasks[0].type;
	const size_t handler = handler_index(type);
	if (handler == handlers_.size())
		return;
	RunTimeEstimate &estimate = estimates_[handler];
	estimate.ran(latest_run_us_);
	estimate.batch_ran(static_cast<int>(tasks.size()));
	if (latest_is_procedure_)
		estimate.never();
	if (latest_takes_row_)
		scope_.ask_for_rows(token_);
	if (suspect_type_ == type)
		estimate.spoilt_fused_batch(steady_now());
	KnownFunction &function = functions_[handlers_[handler].function.signature];
	function.types += estimate.runs() == 1;
	function.estimate.ran(latest_run_us_);
}

} // namespace jobqueue
