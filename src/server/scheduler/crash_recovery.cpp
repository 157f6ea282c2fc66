/*
 * crash_recovery.cpp -- see crash_recovery.hpp. C++ region.
 */
#include "server/scheduler/crash_recovery.hpp"

#include "engine/outcome.hpp"
#include "engine/store/claims.hpp"
#include "pg/settings.hpp"
#include "shared/deaths.hpp"
#include "shared/flight_recorder.hpp"
#include "shared/penalties.hpp"

#include <set>

namespace jobqueue::scheduler {

/*
 * In a shutdown the postmaster signals all processes one after the other, and a worker may be the first to end. So the
 * scheduler waits this long for its own signal: a shutdown is not the task's fault.
 */
static constexpr int64 shutdown_notice_us = USECS_PER_SEC / 10;

void CrashRecovery::look_for_news() {
	if (ended_workers_at_ != never || pg_atomic_read_u32(&db_.slot->orphans) == 0)
		return;
	ended_workers_at_ = steady_now() + shutdown_notice_us;
	ask_although_failing(ended_workers_at_);
}

void CrashRecovery::poll() noexcept {
	must_look_ = true;
	BatchChore::poll();
}

/* The next scheduler charges none of the tasks that are left to it. */
void CrashRecovery::leave() noexcept {
	if (!orphans_.empty())
		pg_atomic_write_u32(&db_.slot->interrupted, 1);
}

/*
 * Suspects are charged before anything can run them again, and this is on disk before they are forgotten. To charge one
 * twice does no harm: its claim has ended by then.
 */
bool CrashRecovery::charge_suspects() {
	Suspect suspect;
	bool all_charged = true;
	for (int place = 0; next_suspect(MyDatabaseId, &place, &suspect);) {
		if (suspect.task == 0) {
			/* One of several tasks, it is not known which. If it crashes the server again, alone, it will be known. */
			guard([&suspect] { make_run_alone(MyDatabaseId, suspect.role, suspect.type); });
			forget_suspect(suspect);
			continue;
		}
		const char *const why = suspect.killed ? "it responded to nothing, and its worker process was killed "
												 "(jobqueue.kill_stuck)"
											   : "it crashed the server";
		std::optional<store::Claim> claim;
		const char *status = nullptr;
		const bool charged = db_.attempt(
			"charge the task that crashed the server",
			[&] {
				claim = store::lock_crashed_claim(suspect.task, suspect.attempt);
				if (claim)
					status = end_abandoned(*claim, {why, sqlstate::crashed, true});
			},
			Durability::local);
		if (!charged) {
			all_charged = false;
			continue;
		}
		if (claim) {
			const store::Claim *const task = &*claim;
			guard([task, status] {
				ereport(LOG, (errmsg("task " INT64_FORMAT " of type \"%s\" was running in the worker process whose end "
									 "made the server restart: it is now %s",
									 task->id, task->type.c_str(), status),
							  errdetail("It has done so %d times (jobqueue.max_crashes is %d).", task->crashes + 1,
										settings::max_crashes)));
			});
		}
		forget_suspect(suspect);
	}
	return all_charged;
}

static store::Failure failure_by(DeathCause cause) {
	switch (cause) {
	case DeathCause::fatal:
		return {"it ended its worker process", sqlstate::crashed, true};
	case DeathCause::overdue:
		return {"timed out, and did not respond to cancellation: its worker process was terminated",
				sqlstate::timed_out};
	default:
		return {"the worker process ended while it ran this task", sqlstate::worker_ended};
	}
}

/* False if some tasks could not be charged, or a session has locked them. */
bool CrashRecovery::charge_fused(bool charged) {
	Death death;
	std::vector<Death> left;
	while (guard([&death] { return take_fused_death(MyDatabaseId, &death); })) {
		if (!charged || death.cause == DeathCause::own_error)
			continue;
		bool locked = false;
		const bool done = db_.attempt("charge the task of a worker that ended", [&] {
			locked = !store::lock_unless_locked(death.task);
			if (locked)
				return;
			const std::optional<store::Claim> claim = store::lock_crashed_claim(death.task, death.attempt);
			if (claim)
				end_abandoned(*claim, failure_by(death.cause));
		});
		if (!done || locked)
			left.push_back(death);
	}
	for (const Death &again : left)
		guard([&again] { record_death(again); });
	return left.empty();
}

/*
 * The task waits again as if nothing had happened. But if errors of our own end the workers of its role again and
 * again, other tasks come before it.
 */
static void give_back(const store::Claim &claim, const Death &death) {
	constexpr int patience = 3;
	constexpr int64 others_first_us = 10 * USECS_PER_SEC;
	if (death.cause == DeathCause::own_error &&
		guard([&death] { return own_errors(death.database, death.role); }) > patience) {
		const SteadyTime next = guard([&death] { return next_worker_at(death.database, death.role); });
		end_snoozed(claim, GetCurrentTimestamp() + time_left(steady_now(), next, longest_penalty_us) + others_first_us);
	} else {
		end_released(claim);
	}
}

/* False if not all orphans could be found, or not all tasks could be charged. */
bool CrashRecovery::find_orphans() {
	pg_atomic_write_u32(&db_.slot->orphans, 0);
	const bool suspects_charged = charge_suspects();
	const bool interrupted = pg_atomic_exchange_u32(&db_.slot->interrupted, 0) != 0;
	const bool all_charged = charge_fused(!interrupted) && suspects_charged;
	std::vector<store::Claim> claims;
	if (!db_.attempt("look for the tasks of workers that ended", [&claims] { claims = store::claims_in_server(); })) {
		if (interrupted)
			pg_atomic_write_u32(&db_.slot->interrupted, 1);
		return false;
	}
	/* The slots are read after the claims: a worker has its slot before it claims. */
	std::set<std::string, std::less<>> living;
	for (WorkerSlot &worker : worker_slots())
		if (worker_state(&worker) != WorkerState::free && pg_atomic_read_u32(&worker.database) == MyDatabaseId)
			living.insert(worker_token(pg_atomic_read_u64(&worker.token)));
	std::map<std::string_view, int> tasks_of;
	for (const store::Claim &claim : claims)
		tasks_of[claim.claimed_by]++;
	std::set<std::pair<int64, int32>> known;
	for (const Orphan &orphan : orphans_)
		known.emplace(orphan.task, orphan.attempt);
	for (const store::Claim &seen : claims) {
		if (living.contains(seen.claimed_by) || known.contains({seen.id, seen.attempt}))
			continue;
		/* The task that caused a crash has been charged as a suspect, unless it could not be recorded. */
		const TokenAge age = token_age(seen.claimed_by);
		const bool unknown_crash = age == TokenAge::before_crash && !flight_recorder_works();
		/* If the worker had claimed several tasks, it is not known which one ended it: they are tried alone. */
		const bool several = tasks_of[seen.claimed_by] > 1;
		const Death death = guard([&seen] { return death_of(MyDatabaseId, seen.id, seen.attempt); });
		const bool charged = !several && death.cause != DeathCause::innocent && death.cause != DeathCause::own_error &&
							 (age == TokenAge::current ? !interrupted : unknown_crash);
		orphans_.push_back({seen.id, seen.attempt, charged, unknown_crash, death});
	}
	return all_charged;
}

/* In a Session. */
void CrashRecovery::recover(const Orphan &orphan, bool &locked) {
	locked = !store::lock_unless_locked(orphan.task);
	if (locked)
		return;
	const std::optional<store::Claim> claim = store::lock_claim(orphan.task, orphan.attempt, true);
	if (!claim)
		return;
	if (!orphan.charged)
		give_back(*claim, orphan.death);
	else if (orphan.death.cause == DeathCause::overdue)
		end_failed(*claim, failure_by(orphan.death.cause), {});
	else
		end_abandoned(*claim, failure_by(orphan.unknown_crash ? DeathCause::fatal : orphan.death.cause));
}

/* An orphan that a session has locked is left for a later step, so that the others need not wait. */
Progress CrashRecovery::step() {
	const SteadyTime began = steady_now();
	if (ended_workers_at_ != never && began < ended_workers_at_) {
		ask_although_failing(ended_workers_at_);
		return Progress::done;
	}
	if (std::exchange(ended_workers_at_, never) != never || must_look_) {
		must_look_ = !find_orphans();
		seen_ = 0;
	}
	for (bool first = true; seen_ < orphans_.size(); first = false) {
		if (!first && steady_now() - began >= step_us)
			return Progress::more;
		const Orphan orphan = orphans_[seen_];
		if (aside_.passes_over(orphan.task, began)) {
			seen_++;
			continue;
		}
		bool locked = false;
		const std::optional<PgError> error = db_.try_in_session([&] { recover(orphan, locked); });
		const auto place = orphans_.begin() + static_cast<ptrdiff_t>(seen_);
		if (!error && !locked) {
			aside_.went(orphan.task);
			orphans_.erase(place);
			continue;
		}
		if (error && !aside_.failed(orphan.task, *error)) {
			db_.complaints.failed(name(), *error);
			std::rotate(orphans_.begin(), place + 1, orphans_.end()); /* others come first when it is tried again */
			seen_ = 0;
			return Progress::failed;
		}
		seen_++;
		locked_ |= locked;
	}
	seen_ = 0;
	aside_.be_sure();
	db_.complaints.succeeded(name());
	return std::exchange(locked_, false) || must_look_ ? Progress::failed : Progress::done;
}

} // namespace jobqueue::scheduler
