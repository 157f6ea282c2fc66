/*
 * outcome.cpp -- see outcome.hpp. C++ region.
 */
#include "engine/outcome.hpp"

#include "engine/access.hpp"
#include "engine/store/bounds.hpp"
#include "engine/dependencies.hpp"
#include "engine/current_task.hpp"
#include "engine/retry_policy.hpp"
#include "engine/store/adding.hpp"
#include "engine/store/dependencies.hpp"
#include "engine/store/failure_policy.hpp"
#include "engine/store/handlers.hpp"
#include "engine/store/history.hpp"
#include "pg/settings.hpp"
#include "pg/transaction.hpp"
#include "shared/admission.hpp"
#include "shared/databases.hpp"
#include "shared/transaction_notes.hpp"

#include <map>
#include <unordered_set>

extern "C" {
#include "common/pg_prng.h"
}

namespace jobqueue {

int history_leaf() {
	if (settings::completed_retention_s == 0)
		return 0;
	if (shared() != nullptr) {
		DatabaseSlot *slot = guard([] { return find_database(MyDatabaseId); });
		const uint32 current = slot ? pg_atomic_read_u32(&slot->history_leaf) : 0;
		if (current != 0)
			return static_cast<int>(current);
	}
	return store::history_ring().leaf;
}

/* Announces that a task is finished. */
static void note_end(int64 id) {
	guard([id] {
		note_finished(id);
		note_ended(id);
	});
}

/* Keeps the results of tasks that leave no row. */
static void keep_results(std::span<const int64> ids, std::optional<Datum> results, std::span<const int64> done) {
	std::vector<Datum> values(ids.size(), 0);
	if (results) {
		const Datum array = *results;
		guard([array, &values] {
			Datum *elements;
			bool *nulls;
			int count;
			deconstruct_array(DatumGetArrayTypeP(array), JSONBOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
			for (size_t i = 0; i < values.size(); i++)
				values[i] = nulls[i] ? 0 : elements[i];
		});
	}
	const std::unordered_set<int64> accepted(done.begin(), done.end());
	std::vector<store::Outcome> outcomes;
	for (size_t i = 0; i < ids.size(); i++)
		if (accepted.contains(ids[i]))
			outcomes.push_back({ids[i], values[i] ? std::optional(values[i]) : std::nullopt});
	keep_outcomes(outcomes, "completed");
}

std::vector<int64> end_completed(std::span<const int64> ids, std::span<const int32> attempts,
								 std::optional<Datum> results, bool in_server) {
	const int leaf = history_leaf();
	std::vector<int64> done = store::complete(ids, attempts, results, in_server, leaf);
	if (leaf == 0 && may_have_dependents(done))
		keep_results(ids, results, done);
	for (const int64 id : done)
		note_end(id);
	return done;
}

bool end_locked(std::span<const store::Finished> tasks, std::string_view claimed_by) {
	const int leaf = history_leaf();
	if (store::complete_locked(tasks, claimed_by, leaf) != tasks.size())
		return false;
	if (leaf == 0) {
		std::vector<store::Outcome> outcomes;
		for (const store::Finished &task : tasks)
			outcomes.push_back({task.id, task.result});
		keep_outcomes(outcomes, "completed");
	}
	guard([tasks] {
		for (const store::Finished &task : tasks)
			note_finished(task.id);
	});
	return true;
}

static void announce_task(const store::Claim &claim) {
	guard([&claim] {
		note_ended(claim.id);
		note_task(claim.queue, claim.priority, claim.id, claim.type, claim.group);
	});
}

static void announce_waiting(const store::Claim &claim, TimestampTz run_at) {
	guard([&claim, run_at] {
		note_ended(claim.id);
		note_due(run_at);
		if (!claim.group.empty()) /* the task may keep its place, which others have passed */
			note_returned(claim.queue, claim.priority, claim.id, claim.group);
	});
}

bool end_snoozed(const store::Attempt &task, int64 snooze_us) {
	const std::optional<store::Claim> claim = store::lock_claim(task.id, task.attempt, true);
	if (claim)
		end_snoozed(*claim, GetCurrentTimestamp() + snooze_us);
	return claim.has_value();
}

bool end_succeeded(std::span<const store::Attempt> tasks, std::span<const std::optional<Datum>> results) {
	if (const std::optional<int64> snooze_us = take_snooze())
		return end_snoozed(tasks[0], *snooze_us);
	std::vector<int64> ids;
	std::vector<int32> attempts;
	for (const store::Attempt &task : tasks) {
		ids.push_back(task.id);
		attempts.push_back(task.attempt);
	}
	const Datum array = guard([results] {
		auto *values = static_cast<Datum *>(palloc(results.size() * sizeof(Datum)));
		auto *nulls = static_cast<bool *>(palloc(results.size()));
		for (size_t i = 0; i < results.size(); i++) {
			nulls[i] = !results[i];
			values[i] = results[i].value_or(0);
		}
		int dimensions[1] = {static_cast<int>(results.size())}, lower[1] = {1};
		return PointerGetDatum(
			construct_md_array(values, nulls, 1, dimensions, lower, JSONBOID, -1, false, TYPALIGN_INT));
	});
	return end_completed(ids, attempts, array, true).size() == tasks.size();
}

/* "failed": how many attempts have failed. */
static int64 delay_before_retry(const store::FailurePolicy &policy, int failed) {
	RetryPolicy retry = {
		.first_delay_us = policy.first_delay_us, .max_delay_us = policy.max_delay_us, .jitter = policy.jitter};
	if (policy.backoff != "exponential")
		retry.backoff = policy.backoff == "fixed" ? RetryPolicy::Backoff::fixed : RetryPolicy::Backoff::linear;
	return retry.delay_us(failed, pg_prng_double(&pg_global_prng_state));
}

/*
 * Adds the on_failure task when a task of the handler's type has failed for good, if the handler's role has the right
 * to now. If the task cannot be added, the failed task fails all the same.
 */
static void add_failure_task(const store::Claim &claim, const store::FailurePolicy &policy,
							 const store::FailureReport &report) {
	const Oid owner = GetUserId(); /* in a Session */
	std::exception_ptr problem;
	try {
		in_subtransaction([&] {
			const Session session(owner);
			if (!OidIsValid(policy.role))
				throw Error(ERRCODE_UNDEFINED_OBJECT, "role \"" + policy.run_as + "\" does not exist");
			const Queues allowed = queues_of_failure_tasks(policy.role, owner);
			require_failure_type(allowed, policy.run_as, *policy.on_failure);
			store::NewTask task;
			task.type = *policy.on_failure;
			/*
			 * Nobody names a queue, and the role may not add everywhere. If its types have no handler in an allowed
			 * queue, the new task goes to the queue of the failed one.
			 */
			const std::vector<store::HandledType> types = store::handled_types();
			if (!allowed.all && allowed.contains(claim.queue) &&
				std::none_of(types.begin(), types.end(), [&](const store::HandledType &handled) {
					return handled.type == task.type && allowed.contains(handled.queue);
				}))
				task.queue = claim.queue;
			task.own_queues = allowed.names;
			task.metadata = report.metadata;
			task.created_by = policy.run_as;
			const store::Added added = store::insert(task, report.payload);
			require(allowed, added.queue);
			guard([&added, &task] { note_task(added.queue, task.priority, added.id, task.type, ""); });
		});
		return;
	} catch (...) {
		problem = std::current_exception();
	}
	const PgError error = as_pg_error(problem);
	const PgError *const reported = &error;
	const char *const type = policy.on_failure->c_str();
	guard([reported, type, &claim] {
		ereport(WARNING, (errcode(reported->sqlerrcode()),
						  errmsg("no task of type \"%s\" could be added for the failed task " INT64_FORMAT ": %s", type,
								 claim.id, reported->what())));
	});
}

/* If the attempts are too many to be counted, the task cannot wait again. */
static bool is_countable(const store::Claim &claim) noexcept {
	return claim.attempt <= bounds::attempts;
}

static bool may_try_again(const store::Claim &claim, const store::FailurePolicy &policy) noexcept {
	return !policy.discard && claim.attempt < claim.max_attempts && is_countable(claim);
}

const char *end_failed(const store::Claim &claim, store::Failure failure, const FailureOptions &options) {
	const store::FailurePolicy policy = store::failure_policy(claim, failure.sqlstate);
	bool retry = options.retryable && !options.discarded && may_try_again(claim, policy);
	if (failure.crash && claim.crashes + 1 >= settings::max_crashes) {
		retry = false;
		failure.message +=
			"; after " + std::to_string(claim.crashes + 1) + " crashes it is not tried again (jobqueue.max_crashes)";
	}
	failure.message = bounds::cut(failure.message, bounds::error);
	if (!retry) {
		const bool dead_letter = policy.dead_letter_queue && !options.discarded && !claim.dead_letter &&
								 is_countable(claim) && *policy.dead_letter_queue != claim.queue;
		const std::optional<store::FailureReport> report =
			policy.on_failure && !claim.dead_letter
				? store::failure_report(claim.id, failure, dead_letter ? policy.dead_letter_queue : std::nullopt)
				: std::nullopt;
		if (report)
			add_failure_task(claim, policy, *report);
		if (dead_letter) {
			const std::string &queue = *policy.dead_letter_queue;
			store::dead_letter(claim.id, queue, failure);
			guard([&claim, &queue] {
				note_ended(claim.id);
				note_task(queue, claim.priority, claim.id, claim.type, claim.group);
			});
			return "pending";
		}
		store::give_up(claim.id, failure);
		note_end(claim.id);
		return "failed";
	}
	const int64 delay = options.retry_in_us ? *options.retry_in_us : delay_before_retry(policy, claim.failed + 1);
	if (delay <= 0) {
		store::put_back(claim.id, std::nullopt, failure);
		announce_task(claim);
		return "pending";
	}
	const TimestampTz run_at = GetCurrentTimestamp() + delay;
	store::put_back(claim.id, run_at, failure);
	announce_waiting(claim, run_at);
	return "scheduled";
}

void end_removed(std::span<const store::Removed> tasks) {
	std::vector<store::Outcome> cancelled;
	for (const store::Removed &task : tasks)
		if (!task.completed)
			cancelled.push_back({task.id, std::nullopt});
	keep_outcomes(cancelled, "cancelled");
	guard([tasks] {
		for (const store::Removed &task : tasks) {
			note_finished(task.id);
			if (!task.group.empty()) /* the task may have been the first of its group */
				note_returned(task.lane.queue, task.lane.priority, task.id, task.group);
		}
	});
}

static constinit char own_reason[bounds::reason + 1] = {};
static constinit bool own_reason_given = false;
static constinit bool own_cancel = false;

std::optional<OwnCancel> take_own_cancel() {
	if (!std::exchange(own_cancel, false))
		return std::nullopt;
	OwnCancel cancel;
	if (std::exchange(own_reason_given, false))
		cancel.reason = own_reason;
	return cancel;
}

void end_by_own_hand(int64 id, int32 attempt, const std::optional<OwnCancel> &cancel) {
	const std::optional<store::Claim> claim = store::lock_claim(id, attempt, true);
	if (!claim)
		return;
	if (cancel)
		end_cancelled(id, cancel->reason);
	else
		end_failed(*claim,
				   {"the handler changed or removed the row of its own task",
					unpack_sql_state(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE)},
				   {});
}

bool end_cancelled(int64 id, const std::optional<std::string> &given) {
	const std::optional<std::string> reason = given ? std::optional(bounds::cut(*given, bounds::reason)) : std::nullopt;
	if (current_task_id() == id)
		own_cancel = true;
	if (reason && current_task_id() == id) {
		strlcpy(own_reason, reason->c_str(), sizeof(own_reason));
		own_reason_given = true;
	}
	const int leaf = history_leaf();
	const std::optional<store::Cancelled> task = store::cancel(id, reason, leaf);
	if (!task)
		return false;
	note_end(id);
	if (leaf == 0)
		keep_outcomes(std::vector<store::Outcome>{{id, std::nullopt}}, "cancelled");
	guard([&task, id] {
		/* if this is rolled back, the task can be claimed again */
		note_claimed(task->lane.queue, task->lane.priority, {id, id}, task->lane.grouped);
		if (task->lane.grouped) /* the task may have been the first of its group */
			note_returned(task->lane.queue, task->lane.priority, id, task->group);
		if (task->runs_in_server)
			note_cancelled(id);
	});
	return true;
}

/* Cuts a text where a character ends. The text of a C function may be invalid in this encoding. */
static std::string cut(const char *text, size_t most) {
	const int length = static_cast<int>(strlen(text));
	std::string result;
	if (guard([text, length] { return pg_verifymbstr(text, length, true); })) {
		const auto limit = static_cast<int>(most);
		result.assign(text, static_cast<size_t>(length <= limit ? length : pg_mbcliplen(text, length, limit)));
	} else {
		result.assign(text, std::min(static_cast<size_t>(length), most));
		std::replace_if(
			result.begin(), result.end(), [](char c) { return IS_HIGHBIT_SET(c); }, '?');
	}
	return result;
}

store::Failure failure_of(const PgError &error) {
	const ErrorData &data = error.data();
	store::Failure failure = {cut(error.what(), bounds::error), unpack_sql_state(error.sqlerrcode())};
	const std::pair<const char *, const char *> details[] = {
		{"detail", data.detail},		  {"hint", data.hint},
		{"context", data.context},		  {"schema", data.schema_name},
		{"table", data.table_name},		  {"column", data.column_name},
		{"datatype", data.datatype_name}, {"constraint", data.constraint_name},
	};
	for (const auto &[key, value] : details) {
		if (value == nullptr)
			continue;
		failure.keys.emplace_back(key);
		failure.values.push_back(cut(value, bounds::failure_detail));
	}
	return failure;
}

void announce_due(const store::Due &task) {
	guard([&task] { note_task(task.queue, task.priority, task.id, task.type, task.group); });
}

int64 make_due(std::span<const int64> ids, TimestampTz now) {
	const std::vector<store::Due> due = store::promote(ids, now);
	for (const store::Due &task : due)
		announce_due(task);
	return static_cast<int64>(due.size());
}

/*
 * A task that was tried so often that further attempts cannot be counted (see bounds.hpp) fails, and does not wait
 * again.
 */
static bool end_uncountable(const store::Claim &claim) {
	if (is_countable(claim))
		return false;
	end_failed(claim, {"it has been tried too often to count", unpack_sql_state(ERRCODE_PROGRAM_LIMIT_EXCEEDED)}, {});
	return true;
}

void end_released(const store::Claim &claim) {
	if (end_uncountable(claim))
		return;
	store::put_back(claim.id, std::nullopt, std::nullopt);
	announce_task(claim);
}

void end_snoozed(const store::Claim &claim, TimestampTz until) {
	if (end_uncountable(claim))
		return;
	store::put_back(claim.id, until, std::nullopt);
	announce_waiting(claim, until);
}

const char *end_abandoned(const store::Claim &claim, store::Failure failure) {
	return end_failed(claim, std::move(failure), {.retry_in_us = 0});
}

/* Most of them wait again, and that takes one statement for all of them. */
int64 end_expired(std::span<const int64> ids, TimestampTz now) {
	const std::vector<store::Claim> claims = store::lock_expired(ids, now);
	std::map<std::pair<std::string_view, std::string_view>, store::FailurePolicy> policies; /* by type and queue */
	std::vector<store::FailedClaim> waiting;
	std::vector<const store::Claim *> to_announce;
	for (const store::Claim &claim : claims) {
		store::Failure failure = {
			bounds::cut("the lease expired: " + claim.claimed_by + " did not report back", bounds::error),
			sqlstate::lease_expired};
		auto policy = policies.find({claim.type, claim.queue});
		if (policy == policies.end())
			policy =
				policies
					.emplace(std::pair(claim.type, claim.queue), store::failure_policy(claim, sqlstate::lease_expired))
					.first;
		if (!may_try_again(claim, policy->second)) {
			end_abandoned(claim, std::move(failure));
			continue;
		}
		waiting.push_back({claim.id, std::move(failure.message)});
		to_announce.push_back(&claim);
	}
	if (!waiting.empty())
		store::put_back(waiting, sqlstate::lease_expired);
	for (const store::Claim *claim : to_announce)
		announce_task(*claim);
	return static_cast<int64>(claims.size());
}

} // namespace jobqueue
