/*
 * attempt.cpp -- what a worker runs alone: tasks that are processing in the eyes of all, singly or as the batch of a
 * batch handler, from the call of the handler to the record of its outcome. See worker.hpp. C++ region.
 */
#include "server/worker.hpp"

#include "engine/outcome.hpp"
#include "engine/sql_command_store.hpp"
#include "pg/clock.hpp"
#include "pg/settings.hpp"
#include "server/hold.hpp"

namespace jobqueue {

using interrupts::HandlerTime;

namespace {

/* Thrown when the type has no handler any more. */
struct HandlerGone {};

} // namespace

/* How long a back-off function may think. */
static constexpr int64 backoff_timeout_us = 5 * USECS_PER_SEC;

/* Runs the handler and records its success, in one transaction. */
void Worker::perform(std::span<const store::Attempt> tasks) {
	const Durability durability =
		settings::worker_synchronous_commit ? Durability::synchronous : Durability::asynchronous;
	in_transaction(durability, [&] {
		const store::Handler *handler = store::find_handler(handlers_, tasks[0].type);
		if (handler == nullptr)
			throw HandlerGone{};
		MemoryContextSwitchTo(context_);
		latest_is_procedure_ = executor_->is_procedure(handler->function);
		latest_takes_row_ = executor_->takes_row(handler->function);
		if (latest_is_procedure_)
			change_durability(Durability::synchronous); /* its own commits are as the role's settings say */
		const SteadyTime began = steady_now();
		const std::vector<std::optional<Datum>> results = executor_->run(tasks, handler->function, true);
		latest_run_us_ = steady_now() - began;
		/* Not the context of before: a procedure may have ended that transaction. */
		MemoryContextSwitchTo(CurTransactionContext);
		disable_timeout(STATEMENT_TIMEOUT, false);

		const Session session(owner_, Session::Writes::always);
		if (!end_succeeded(tasks, results))
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
	if (handler == nullptr || handler->backoff_function.signature.empty() || task.attempt >= task.max_attempts)
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
		const char *const function = handler->backoff_function.signature.c_str();
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

void Worker::show(const store::Attempt &task, const char *what) {
	char activity[NAMEDATALEN + 128];
	snprintf(activity, sizeof(activity), "%s " INT64_FORMAT " of type %.*s", what, task.id,
			 pg_mbcliplen(task.type.c_str(), static_cast<int>(task.type.size()), 64), task.type.c_str());
	guard([&activity] { report_running(activity); });
}

/* The attempt from beginning to end, whatever happens in the handler. True if it succeeded. */
bool Worker::process_alone(const store::Attempt &task) {
	show(task, "task");

	std::optional<PgError> error;
	std::string problem;
	bool ended = false, released = false;
	const int64 time_limit_us = timeout_us(task);
	const uint32 cancels = pg_atomic_read_u32(&slot_->cancels);
	take_own_cancel();
	write_progress(slot_, -1, "");
	hold::running(task, false);
	try {
		if (interrupt_)
			throw PgError(*interrupt_);
		HandlerTime time(time_limit_us);
		/* Who cancelled it before that was not heard. */
		pg_memory_barrier();
		if (pg_atomic_read_u64(&slot_->cancel) == static_cast<uint64>(task.id))
			throw ClaimEnded{};
		const store::Handler *const handler = store::find_handler(handlers_, task.type);
		if (handler && store::is_sql_handler(*handler))
			perform_sql(task, time);
		else
			perform({&task, 1});
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
		released = !ended && !interrupts::timed_out();
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
		if (interrupted && !interrupt_ && interrupts::timed_out()) {
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
	hold::nothing();
	return !ended && !released && !error && problem.empty();
}

/*
 * What was claimed together. If it fails together, it is tried in halves, until the culprit is alone and charged for it.
 * True if all of it succeeded at once.
 */
bool Worker::process(std::span<const store::Attempt> tasks) {
	if (tasks.size() == 1)
		return process_alone(tasks[0]);
	show(tasks[0], "tasks from");
	write_progress(slot_, -1, "");
	hold::running_several(tasks[0], false);
	bool failed = false;
	try {
		const HandlerTime time(timeout_us(tasks[0]));
		perform(tasks);
	} catch (...) {
		failed = true;
	}
	hold::nothing();
	if (!failed)
		return true;
	guard([] { CHECK_FOR_INTERRUPTS(); });
	const size_t half = tasks.size() / 2;
	process(tasks.first(half));
	process(tasks.subspan(half));
	return false;
}

/* What tasks that were claimed together, and succeeded at once, tell about their type. */
void Worker::learn(std::span<const store::Attempt> tasks) {
	const std::string &type = tasks[0].type;
	const size_t handler = handler_index(type);
	if (handler == handlers_.size())
		return;
	Pace &pace = paces_[handler];
	pace.ran(latest_run_us_);
	pace.batch_ran(static_cast<int>(tasks.size()));
	if (latest_is_procedure_)
		pace.never();
	if (latest_takes_row_)
		scope_.ask_for_rows(token_);
	if (suspect_type_ == type)
		pace.spoilt_group(steady_now());
	KnownFunction &function = functions_[handlers_[handler].function.signature];
	function.types += pace.runs() == 1;
	function.pace.ran(latest_run_us_);
}

} // namespace jobqueue
