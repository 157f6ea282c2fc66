/*
 * scheduler.cpp -- the scheduler of one database: starts workers, makes scheduled tasks due, takes back what dead
 * workers and expired leases held, fires schedules, sends the coalesced NOTIFYs, turns the ring of history.
 *
 * Started by the launcher. Entry is C, behind boundary(); everything else is a C++ region but for the callbacks. It is
 * connected as the bootstrap superuser, runs nothing but our own statements in a Session, and no user's code.
 */
#include "server/processes.hpp"
#include "server/watched_tasks.hpp"

#include "engine/claimer.hpp"
#include "engine/dependencies.hpp"
#include "engine/outcome.hpp"
#include "engine/schedules.hpp"
#include "engine/unique_store.hpp"
#include "pg/compat.hpp"
#include "pg/settings.hpp"
#include "shared/flight_recorder.hpp"

#include <map>
#include <set>
#include <signal.h>

namespace jobqueue {

namespace {

constexpr int64 notify_interval_us = 10 * USECS_PER_SEC / 1000;
constexpr int batch = 1000;
constexpr int latest_batch = 100;
/* A million tasks due at one instant must not keep everything else waiting. */
constexpr int64 promotion_us = 20 * USECS_PER_SEC / 1000;
/* Schedules that fire in one transaction: between two of them the rest is looked at. */
constexpr int schedule_batch = 100;
/* A sweep or a full pass takes at most one part in so many of the time. */
constexpr int64 sweep_share = 50;
/* However often transactions commit: one look in so many microseconds serves them all. */
constexpr int64 shortest_look_us = notify_interval_us;
/* But where tasks wait for each other, each waits for such a look: for so long after the latest of them. */
constexpr int64 shortest_resolution_us = 1000;
constexpr int64 resolving_us = 100 * USECS_PER_SEC / 1000;
constexpr int64 longest_resolution_us = 50 * USECS_PER_SEC / 1000;
constexpr int64 resolve_again_us = 50 * USECS_PER_SEC / 1000;
constexpr int64 narrow_after_us = 100 * USECS_PER_SEC / 1000;
constexpr int64 shortage_warning_us = 10 * USECS_PER_SEC;
constexpr int64 after_failure_us = USECS_PER_SEC;
constexpr int64 complain_every_us = USECS_PER_MINUTE;
/* A process that was told to end and has not after so long never will. */
constexpr int64 stuck_after_us = 2 * USECS_PER_SEC;

struct Role {
	Oid oid;
	bool can_login;
	std::vector<store::Handler> handlers;
	int max_workers = std::numeric_limits<int>::max();
	Scope scope;
	Claimer claimer{true};
	/* A role whose workers end as soon as they start (its connection limit, for one) is tried ever more rarely. */
	int64 start_delay_us = 0;
	TimestampTz hungry_since = 0;			 /* it has work and no worker, for want of a process; 0 = not */
	TimestampTz next_colleague = DT_NOBEGIN; /* not before: a worker beside others */
	TimestampTz next_start = DT_NOBEGIN;
	explicit Role(const store::Handler &handler) : oid(handler.role), can_login(handler.can_login) {}
};

struct Started {
	WorkerSlot *slot;
	BackgroundWorkerHandle *handle;
	Oid role;
	uint64 token;
};

class Scheduler {
public:
	explicit Scheduler(DatabaseSlot *slot) : slot_(slot), position_(pg_atomic_read_u64(&slot->notified)) {}
	/* Returns the state to leave behind. */
	SchedulerState run();

private:
	SchedulerState work();
	std::optional<SchedulerState> configure();
	void read_announcements();
	void read_due();
	void promote_and_expire();
	void fire_schedules();
	void expire_singly();
	void charge_suspects();
	void recover_orphans();
	void charge_fused(bool charged);
	void watch_overdue();
	void resolve_dependencies();
	void sweep_dependencies();
	void archive();
	void warn_of_room();
	void poll();
	void sweep();
	void turn_history();
	void remove_expired_keys();
	void start_workers();
	void start_workers_of(Role &role);
	void watch_started();
	bool start_worker_for(Role &role);
	bool is_last_place(const Role &role);
	void notify();
	void dismiss_workers();
	bool may_retire();
	int64 sleep_ms(TimestampTz looked_at);
	void complain(const char *what, const PgError &error);
	template <typename Fn> bool attempt(const char *what, Fn &&fn, Durability durability = Durability::asynchronous);

	DatabaseSlot *const slot_;
	Oid owner_ = InvalidOid;
	Oid extension_ = InvalidOid;
	uint64 configuration_ = 0;
	uint64 roles_read_ = 0;
	std::vector<std::unique_ptr<Role>> roles_;
	std::vector<std::string> refused_; /* roles that were reported as not being served */
	Conditions conditions_;
	std::vector<Started> started_;

	uint64 position_;	 /* in the ring */
	uint64 kept_up_ = 0; /* at the latest keep_positions() */
	std::set<std::string> to_notify_;
	TimestampTz notified_at_ = 0;

	TimestampTz due_from_ = DT_NOBEGIN; /* no scheduled task is due before, but for those announced */
	TimestampTz next_due_ = DT_NOBEGIN;
	TimestampTz next_lease_ = DT_NOBEGIN;
	TimestampTz next_schedule_ = DT_NOBEGIN;
	Schedules schedules_;
	WatchedTasks holding_; /* whose end lets a schedule go on */
	TimestampTz next_poll_ = DT_NOBEGIN;
	TimestampTz next_sweep_ = DT_NOBEGIN;
	TimestampTz next_overdue_ = DT_NOEND;			  /* when a handler has had its grace */
	IdRanges ended_;								  /* of these ids some may have ended, and others wait for them */
	int64 resolved_parent_ = 0, resolved_child_ = -1; /* how far the first of these ranges has been dealt with */
	IdRanges ended_again_;							  /* likewise, when what is locked may be free again */
	TimestampTz resolve_again_ = DT_NOEND;
	TimestampTz narrow_at_ = DT_NOBEGIN;
	TimestampTz next_dependency_sweep_ = DT_NOBEGIN;
	TimestampTz resolved_at_ = 0;
	TimestampTz hungry_since_ = 0; /* for want of a process; 0 = not */
	bool warned_of_shortage_ = false;
	std::map<const char *, TimestampTz> complained_at_; /* by what failed */
	TimestampTz busy_at_ = 0;
};

bool is_live(WorkerSlot &worker) {
	return worker_state(&worker) != WorkerState::free;
}

/* Housekeeping that fails (a lock, a full disk) is reported and tried again; it must not end the scheduler. */
template <typename Fn> bool Scheduler::attempt(const char *what, Fn &&fn, Durability durability) {
	std::optional<PgError> error;
	try {
		in_transaction(durability, [&] {
			const Session session(owner_);
			fn();
		});
		return true;
	} catch (const PgError &caught) {
		error = caught;
	}
	if (error->sqlerrcode() == ERRCODE_LOCK_NOT_AVAILABLE)
		return false;
	if (error->sqlerrcode() == ERRCODE_UNDEFINED_TABLE || error->sqlerrcode() == ERRCODE_UNDEFINED_SCHEMA)
		throw PgError(*error);
	complain(what, *error);
	return false;
}

/* What fails is tried again soon, and may fail for long. */
void Scheduler::complain(const char *what, const PgError &error) {
	const TimestampTz now = GetCurrentTimestamp();
	TimestampTz &said_at = complained_at_[what];
	if (now - said_at < complain_every_us)
		return;
	said_at = now;
	const PgError *const reported = &error;
	guard([what, reported] {
		ereport(LOG, (errcode(reported->sqlerrcode()),
					  errmsg("jobqueue could not %s and will try again: %s", what, reported->what())));
	});
}

/* Reads what there is to do; a state if there is nothing to do here for now. */
std::optional<SchedulerState> Scheduler::configure() {
	const uint64 configuration = pg_atomic_read_u64(&slot_->configuration);
	const uint64 roles_read = roles_generation();
	std::optional<store::Extension> extension;
	std::vector<store::Handler> handlers;
	std::map<Oid, Queues> allowed; /* by role, where it matters */
	std::vector<store::Limits> limits;
	std::string name;
	store::Standing standing;
	in_transaction(Durability::asynchronous, [&] {
		extension = installed_extension();
		name = guard([] { return get_database_name(MyDatabaseId); });
		if (!extension || extension->version != library_version)
			return;
		owner_ = extension->owner;
		const Session session(owner_);
		handlers = store::handlers();
		standing = store::standing(); /* after them: a restore may be under way */
		for (const store::Handler &handler : handlers)
			if (handler.governed && OidIsValid(handler.role) && !allowed.contains(handler.role))
				allowed[handler.role] = queues_of_handlers(handler.role, owner_);
		limits = store::limits();
		conditions_ = Conditions::read(configuration);
		if (standing.own)
			conditions_.flow.make_ready(slot_, configuration);
		pg_atomic_write_u32(&slot_->history_slot, static_cast<uint32>(store::history_ring().slot));
	});
	const bool own = standing.own;
	const bool ours = extension && extension->version == library_version;
	if (ours && own && !standing.settled)
		attempt("note which server this is", [] { store::settle(); });
	if (ours && standing.told_by != nullptr)
		attempt("note that this is a copy", [] { store::disown(); });
	if (!ours || !own) {
		roles_.clear();
		dismiss_workers();
		pg_atomic_write_u64(&slot_->paused_configuration, configuration);
		pg_atomic_write_u64(&slot_->served_since, 0);
	}
	if (!extension)
		return SchedulerState::absent;
	const bool said = (!ours || !own) && pg_atomic_exchange_u32(&slot_->paused_reported, 1) != 0;
	if (!ours) {
		if (said)
			return SchedulerState::paused;
		const char *const installed = extension->version.c_str();
		const char *const database = name.c_str();
		guard([installed, database] {
			ereport(WARNING,
					(errmsg("jobqueue runs no tasks in database \"%s\": the extension has version %s, the library %s",
							database, installed, library_version),
					 errhint("Run ALTER EXTENSION jobqueue UPDATE, or restart the server with the new library.")));
		});
		return SchedulerState::paused;
	}
	if (OidIsValid(extension_) && extension->oid != extension_)
		return SchedulerState::none; /* dropped and created again: start from nothing */
	extension_ = extension->oid;
	if (!own) {
		if (said)
			return SchedulerState::paused;
		const char *const database = name.c_str();
		const char *const reason = standing.reason;
		guard([database, reason] {
			ereport(WARNING, (errmsg("jobqueue runs no tasks in database \"%s\": %s", database, reason),
							  errhint("If the tasks in it shall run here, call jobqueue.adopt() in it.")));
		});
		return SchedulerState::paused;
	}

	/* A role that stays as it was keeps its claimer, which knows where there is no work. */
	std::vector<std::unique_ptr<Role>> roles;
	std::vector<std::string> refused;
	for (size_t i = 0; i < handlers.size(); i++) {
		const store::Handler &handler = handlers[i];
		const char *reason = nullptr;
		if (!OidIsValid(handler.role))
			reason = "the role does not exist";
		else if (!handler.can_connect)
			reason = "the role may not connect to this database";
		else if (handler.superuser && !settings::allow_superuser_handlers)
			reason = "jobqueue.allow_superuser_handlers is off";
		if (reason != nullptr) {
			if (std::find(refused.begin(), refused.end(), handler.run_as) != refused.end())
				continue;
			refused.push_back(handler.run_as);
			if (std::find(refused_.begin(), refused_.end(), handler.run_as) == refused_.end()) {
				const char *const role = handler.run_as.c_str();
				guard([role, reason] {
					ereport(WARNING, (errmsg("jobqueue does not run the handlers of role \"%s\": %s", role, reason),
									  errdetail("Their tasks stay queued.")));
				});
			}
			continue;
		}
		auto role = std::find_if(roles.begin(), roles.end(), [&](const auto &r) { return r->oid == handler.role; });
		if (role == roles.end())
			role = roles.insert(roles.end(), std::make_unique<Role>(handler));
		(*role)->handlers.push_back(handler);
	}
	for (auto &role : roles) {
		role->scope = scope_of_handlers(role->handlers, std::move(allowed[role->oid]));
		separate_limited(role->scope, conditions_.flow);
		const auto known = std::find_if(roles_.begin(), roles_.end(), [&](const auto &old) {
			return old && old->oid == role->oid && old->scope.key == role->scope.key;
		});
		if (known != roles_.end()) {
			(*known)->can_login = role->can_login;
			(*known)->handlers = std::move(role->handlers);
			role = std::move(*known);
			if (configuration != configuration_)
				role->claimer.forget_quiet(); /* a queue may have been resumed */
		}
	}
	for (auto &role : roles) {
		role->max_workers = std::numeric_limits<int>::max();
		for (const store::Limits &limit : limits)
			if (limit.max_workers && limit.role == role->handlers[0].run_as)
				role->max_workers = *limit.max_workers;
	}
	roles_ = std::move(roles);
	dismiss_workers();
	refused_ = std::move(refused);
	configuration_ = configuration;
	roles_read_ = roles_read;
	pg_atomic_write_u32(&slot_->paused_reported, 0);
	if (pg_atomic_read_u64(&slot_->served_since) == 0)
		pg_atomic_write_u64(&slot_->served_since, static_cast<uint64>(GetCurrentTimestamp()));
	if (scheduler_state(slot_) != SchedulerState::running) {
		pg_atomic_write_u32(&slot_->state, static_cast<uint32>(SchedulerState::running));
		wake_launcher(); /* it may look into the next database */
	}
	return std::nullopt;
}

/* Workers of roles that are not served any more leave, and those above jobqueue.max_workers, or their role's limit. */
void Scheduler::dismiss_workers() {
	int live = 0;
	std::map<Oid, int> of_role;
	for (WorkerSlot &worker : worker_slots()) {
		live += takes_place(&worker);
		if (!is_live(worker) || pg_atomic_read_u32(&worker.database) != MyDatabaseId)
			continue;
		const Oid role = pg_atomic_read_u32(&worker.role);
		const int mine = ++of_role[role];
		if (live > settings::max_workers || std::none_of(roles_.begin(), roles_.end(), [=](const auto &known) {
				return known->oid == role && mine <= known->max_workers;
			}))
			dismiss(&worker);
	}
}

/* What was announced: whom to notify, and how far the ids have come. */
void Scheduler::read_announcements() {
	const auto take = [&](const News &news) {
		if (news.kind == AnnouncementKind::sweep || news.kind == AnnouncementKind::returned ||
			news.kind == AnnouncementKind::capacity)
			return;
		to_notify_.insert(news.kind == AnnouncementKind::statement ? "" : news.queue);
		busy_at_ = GetCurrentTimestamp();
	};
	follow_ring(position_, take, [this] { to_notify_.insert(""); });
	if (position_ - kept_up_ > ring_size / 4) {
		kept_up_ = position_;
		keep_positions(MyDatabaseId);
	}
}

void Scheduler::read_due() {
	const auto announced = static_cast<TimestampTz>(pg_atomic_exchange_u64(&slot_->due_at, PG_INT64_MAX));
	due_from_ = std::min(due_from_, announced);
	next_due_ = std::min(next_due_, announced);
	next_lease_ = std::min(next_lease_, announced);
	next_schedule_ = std::min(next_schedule_, announced);
}

void Scheduler::promote_and_expire() {
	const TimestampTz began = GetCurrentTimestamp();
	while (next_due_ <= GetCurrentTimestamp() && GetCurrentTimestamp() - began < promotion_us) {
		TimestampTz from = due_from_, next = next_due_;
		const bool done = attempt("make scheduled tasks due", [&] {
			const TimestampTz now = GetCurrentTimestamp();
			const std::vector<store::Due> due = store::promote_due(due_from_, now, batch);
			for (const store::Due &task : due) {
				announce_due(task);
				from = std::max(from, task.run_at);
			}
			if (due.size() < static_cast<size_t>(batch)) {
				/* What is due and locked by somebody waits for the next poll. */
				from = std::max(from, now);
				next = store::next_due(from);
				return;
			}
			/* However many were due at once before: what has just become due starts at once. */
			for (const store::Due &task : store::promote_latest(from, now, latest_batch))
				announce_due(task);
		});
		due_from_ = done ? from : due_from_;
		next_due_ = done ? next : GetCurrentTimestamp() + after_failure_us;
	}
	while (next_lease_ <= GetCurrentTimestamp()) {
		TimestampTz next = next_lease_;
		const bool done = attempt("take back expired leases", [&] {
			const TimestampTz now = GetCurrentTimestamp();
			const std::vector<store::Claim> expired = store::lock_expired(now, batch);
			for (const store::Claim &claim : expired)
				end_expired(claim);
			next = store::next_lease();
			if (next <= now && expired.size() < static_cast<size_t>(batch))
				next = now + after_failure_us; /* locked by somebody */
		});
		if (!done)
			expire_singly();
		next_lease_ = done ? next : GetCurrentTimestamp() + after_failure_us;
	}
}

void Scheduler::fire_schedules() {
	if (holding_.any())
		next_schedule_ = DT_NOBEGIN; /* its end may be why we were woken */
	if (next_schedule_ <= GetCurrentTimestamp()) {
		const auto served_since = static_cast<TimestampTz>(pg_atomic_read_u64(&slot_->served_since));
		TimestampTz next = next_schedule_;
		std::vector<int64> holding;
		const bool done = attempt("fire schedules", [&] {
			const TimestampTz began = GetCurrentTimestamp();
			const bool more = schedules_.fire(owner_, served_since, schedule_batch);
			holding = schedules_.holding_tasks(WatchedTasks::capacity);
			next = more ? DT_NOBEGIN : schedules_.next();
			const TimestampTz now = GetCurrentTimestamp();
			if (!more && next <= began)
				next = now + after_failure_us / 10; /* locked by somebody */
			if (!holding.empty())
				next = std::min(next, now + after_failure_us); /* more than can be watched; one that was deleted */
		});
		next_schedule_ = done ? next : GetCurrentTimestamp() + after_failure_us;
		if (done && holding_.watch(std::move(holding)))
			next_schedule_ = DT_NOBEGIN; /* one may have ended before it was watched */
	}
}

/* One lease that cannot be taken back shall not hold up the others. */
void Scheduler::expire_singly() {
	const TimestampTz now = GetCurrentTimestamp();
	std::vector<int64> ids;
	attempt("look for expired leases", [&] {
		for (const store::Claim &claim : store::lock_expired(now, batch))
			ids.push_back(claim.id);
	});
	for (const int64 id : ids) {
		attempt("take back an expired lease", [&] {
			for (const store::Claim &claim : store::lock_expired(now, batch))
				if (claim.id == id)
					end_expired(claim);
		});
	}
}

/*
 * Tasks that took the server down. Charged before anything can run them again, and on disk before they are forgotten;
 * twice does no harm, for the claim is over then.
 */
void Scheduler::charge_suspects() {
	Suspect suspect;
	while (next_suspect(MyDatabaseId, &suspect)) {
		if (suspect.task == 0) {
			/* One of a group, while it was being finished: alone, it will betray itself. */
			pg_atomic_write_u64(&slot_->alone_until, static_cast<uint64>(GetCurrentTimestamp() + alone_after_crash_us));
			forget_suspect(suspect);
			continue;
		}
		std::optional<store::Claim> claim;
		const char *status = nullptr;
		const bool charged = attempt(
			"charge the task that crashed the server",
			[&] {
				claim = store::lock_crashed_claim(suspect.task, suspect.attempt);
				if (claim)
					status = end_abandoned(
						*claim, suspect.killed ? store::Failure{"it responded to nothing, and its worker process was "
																"killed (jobqueue.kill_stuck)",
																sqlstate::crashed, true}
											   : store::Failure{"it crashed the server", sqlstate::crashed, true});
			},
			Durability::local);
		if (!charged)
			return;
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
}

/*
 * A worker was told to end: perhaps we are next, for the server is shutting down, and then its task is not to be charged.
 * The postmaster tells all of its processes one after the other. C region.
 */
static void wait_for_shutdown() {
	constexpr int steps = 20;
	constexpr long step_us = 5000;
	for (int i = 0; i < steps; i++) {
		CHECK_FOR_INTERRUPTS();
		pg_usleep(step_us);
	}
	CHECK_FOR_INTERRUPTS();
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

/* What its worker's end means for a task that ran under its lock alone: others never saw it leave the queue. */
void Scheduler::charge_fused(bool charged) {
	Death death;
	while (guard([&death] { return take_fused_death(MyDatabaseId, &death); })) {
		if (!charged)
			continue;
		const bool done = attempt("charge the task of a worker that ended", [&] {
			const std::optional<store::Claim> claim = store::lock_crashed_claim(death.task, death.attempt);
			if (claim)
				end_abandoned(*claim, failure_by(death.cause));
		});
		if (!done) { /* somebody has it locked: next time */
			guard([&death] { record_death(death); });
			pg_atomic_write_u32(&slot_->orphans, 1);
			return;
		}
	}
}

/* Tasks in the hands of workers that are no more. */
void Scheduler::recover_orphans() {
	if (pg_atomic_exchange_u32(&slot_->orphans, 0) != 0)
		guard(wait_for_shutdown);
	charge_suspects();
	const bool interrupted = pg_atomic_exchange_u32(&slot_->interrupted, 0) != 0;
	charge_fused(!interrupted);
	std::vector<store::Claim> claims;
	attempt("look for the tasks of workers that ended", [&claims] { claims = store::claims_in_server(); });
	/* Looked at after the claims: a worker that claimed had its slot before. */
	std::vector<std::string> living;
	for (WorkerSlot &worker : worker_slots())
		if (is_live(worker) && pg_atomic_read_u32(&worker.database) == MyDatabaseId)
			living.push_back(worker_token(pg_atomic_read_u64(&worker.token)));
	for (const store::Claim &seen : claims) {
		if (std::find(living.begin(), living.end(), seen.claimed_by) != living.end())
			continue;
		/* At a crash the one that caused it has been charged already, unless nobody could know which one it was. */
		const TokenAge age = token_age(seen.claimed_by);
		const bool unknown_crash = age == TokenAge::before_crash && !flight_recorder_works();
		/* A batch: nobody knows which of them it was. They will be tried alone. */
		const bool several = std::count_if(claims.begin(), claims.end(), [&seen](const store::Claim &other) {
								 return other.claimed_by == seen.claimed_by;
							 }) > 1;
		const bool charged = !several && (age == TokenAge::current ? !interrupted : unknown_crash);
		const DeathCause cause = guard([&seen] { return death_cause(MyDatabaseId, seen.id, seen.attempt); });
		attempt("give back the task of a worker that ended", [&] {
			const std::optional<store::Claim> claim = store::lock_claim(seen.id, seen.attempt, true);
			if (!claim)
				return;
			if (!charged)
				end_released(*claim);
			else if (cause == DeathCause::overdue)
				end_failed(*claim, failure_by(cause), {});
			else
				end_abandoned(*claim, failure_by(unknown_crash ? DeathCause::fatal : cause));
		});
	}
}

/*
 * Handlers that go on although their time is up, or their task was cancelled: after the grace their process is told to
 * end, and what does not even do that is reported. Its place is made up for by another worker.
 */
void Scheduler::watch_overdue() {
	next_overdue_ = DT_NOEND;
	const TimestampTz now = GetCurrentTimestamp();
	const int64 grace_us = static_cast<int64>(settings::timeout_grace_ms) * 1000;
	for (WorkerSlot &worker : worker_slots()) {
		const uint64 task = pg_atomic_read_u64(&worker.task);
		if (!is_live(worker) || task == 0 || pg_atomic_read_u32(&worker.database) != MyDatabaseId)
			continue;
		if (pg_atomic_read_u32(&worker.in_handler) == 0) {
			pg_atomic_write_u32(&worker.stuck, 0);
			continue;
		}
		if (pg_atomic_read_u32(&worker.stuck) != 0 && !settings::kill_stuck)
			continue;
		auto over = static_cast<TimestampTz>(pg_atomic_read_u64(&worker.deadline));
		if (pg_atomic_read_u64(&worker.cancel) == task)
			over = std::min(over, static_cast<TimestampTz>(pg_atomic_read_u64(&worker.cancelled_at)));
		if (over == DT_NOEND)
			continue;
		const auto pid = static_cast<pid_t>(pg_atomic_read_u32(&worker.pid));
		if (pg_atomic_read_u64(&worker.end) != task) {
			if (now < over + grace_us) {
				next_overdue_ = std::min(next_overdue_, over + grace_us);
				continue;
			}
			pg_atomic_write_u64(&worker.ended_at, static_cast<uint64>(now));
			pg_atomic_write_u64(&worker.end, task);
			pg_memory_barrier();
			if (pid != 0)
				kill(pid, SIGUSR2);
		}
		const auto stuck_at = static_cast<TimestampTz>(pg_atomic_read_u64(&worker.ended_at)) + stuck_after_us;
		if (now < stuck_at) {
			next_overdue_ = std::min(next_overdue_, stuck_at);
			continue;
		}
		pg_atomic_write_u32(&worker.stuck, 1);
		busy_at_ = now;
		const bool dies = settings::kill_stuck;
		guard([pid, task, dies] {
			ereport(
				WARNING,
				(errmsg("jobqueue worker %d, which runs task " INT64_FORMAT ", responds neither to cancellation nor "
						"to termination",
						static_cast<int>(pid), static_cast<int64>(task)),
				 dies ? errdetail("It is killed, and the server restarts all its processes (jobqueue.kill_stuck).")
					  : errdetail("Other workers go on; this one is left alone."),
				 dies ? 0 : errhint("Only a crash of the server can end it: see jobqueue.kill_stuck.")));
		});
		if (dies && pid != 0 && pg_atomic_read_u64(&worker.task) == task) {
			record_kill(static_cast<int>(&worker - shared()->workers));
			kill(pid, SIGKILL);
		}
	}
}

/* Some of it, if there is much: others wait for us, too. */
void Scheduler::resolve_dependencies() {
	const TimestampTz began = GetCurrentTimestamp();
	const IdRanges news = take_ended(slot_);
	if (!news.empty()) {
		ended_.add(news);
		resolved_child_ = -1;
		resolved_at_ = began;
	}
	if (began >= resolve_again_) {
		ended_.add(ended_again_);
		ended_again_ = {};
		resolve_again_ = DT_NOEND;
		resolved_child_ = -1;
	}
	bool any = false;
	while (!ended_.empty() && GetCurrentTimestamp() - began < longest_resolution_us) {
		const IdRange ids = ended_.front();
		Pass pass{.parent = ids.low};
		if (!attempt("let tasks go that waited for others",
					 [&] { pass = resolve_some(ids, ids.low == resolved_parent_ ? resolved_child_ : -1); })) {
			resolve_again_ = began + resolve_again_us;
			ended_again_.add(ended_);
			ended_ = {};
			break;
		}
		any |= pass.any;
		if (!pass.again.empty()) {
			ended_again_.add(pass.again);
			resolve_again_ = std::min(resolve_again_, began + resolve_again_us);
		}
		if (pass.done)
			ended_.remove_front();
		else
			ended_.remove_below(pass.parent);
		resolved_parent_ = pass.parent;
		resolved_child_ = pass.child;
	}
	if (any) {
		busy_at_ = began;
		narrow_at_ = std::min(narrow_at_, began + narrow_after_us);
	}
	if (ended_.empty() && GetCurrentTimestamp() >= narrow_at_) {
		narrow_at_ = DT_NOEND;
		attempt("look for tasks that others wait for", [this] { narrow_parent_bounds(slot_); });
	}
}

/* What is kept for tasks that are over. */
void Scheduler::sweep_dependencies() {
	const TimestampTz began = GetCurrentTimestamp();
	std::optional<int64> after = -1;
	while (after)
		if (!attempt("remove what was kept for tasks that waited", [&after] { after = sweep_dependents(*after); }))
			break;
	attempt("remove the results that nobody needs", [this] { sweep_parents(slot_); });
	next_dependency_sweep_ = GetCurrentTimestamp() + sweep_share * (GetCurrentTimestamp() - began);
}

void Scheduler::archive() {
	pg_atomic_write_u32(&slot_->by_hand, 0);
	int64 moved = 0;
	do {
		moved = 0;
		attempt("archive tasks that were finished by hand",
				[&moved] { moved = store::archive_finished(history_slot(), batch); });
	} while (moved == batch);
}

/* The safety net for what nobody announced. */
void Scheduler::sweep() {
	const TimestampTz began = GetCurrentTimestamp();
	attempt("look for tasks that nobody announced", [] {
		for (const store::LaneHead &head : store::lane_heads()) {
			if (head.lane.queue.size() >= queue_name_size)
				continue;
			News news = {};
			news.kind = AnnouncementKind::sweep;
			news.database = MyDatabaseId;
			news.priority = head.lane.priority;
			news.grouped = head.lane.grouped;
			news.ids = {head.id, PG_INT64_MAX};
			news.queue_hash = hash_name(head.lane.queue);
			memcpy(news.queue, head.lane.queue.data(), head.lane.queue.size());
			announce(news);
		}
	});
	wake_workers(MyDatabaseId, 0);
	next_sweep_ = GetCurrentTimestamp() + sweep_share * (GetCurrentTimestamp() - began);
}

/* The leaf that is filled changes every seventh part of the retention, so that the one being emptied is old enough. */
void Scheduler::turn_history() {
	attempt("turn the history", [] {
		const TimestampTz now = GetCurrentTimestamp();
		const store::Ring ring = store::history_ring();
		const int64 retention_us = static_cast<int64>(settings::completed_retention_s) * USECS_PER_SEC;
		if (retention_us == 0) {
			if (const int slot = store::occupied_history())
				store::empty_history(slot);
		} else if (now - ring.since >= retention_us / 7) {
			const int next = ring.slot % 8 + 1;
			store::empty_history(next);
			store::set_history_ring({next, now});
		}
	});
	/* Only what is committed is told to others. */
	attempt("read the history ring",
			[this] { pg_atomic_write_u32(&slot_->history_slot, static_cast<uint32>(store::history_ring().slot)); });
	if (settings::failed_retention_s >= 0) {
		int64 purged = 0;
		do {
			purged = 0;
			attempt("purge failed tasks", [&purged] {
				purged = store::purge_failed(
					GetCurrentTimestamp() - static_cast<int64>(settings::failed_retention_s) * USECS_PER_SEC, batch);
			});
		} while (purged == batch);
	}
}

/* Keys that were taken for a period which is over: nobody minds them, but they take room. */
void Scheduler::remove_expired_keys() {
	int64 removed = 0;
	do {
		removed = 0;
		attempt("remove unique keys whose period is over", [&removed] { removed = store::remove_expired_keys(batch); });
	} while (removed == batch);
}

/* Once in a while, as everything that may go on for long. */
void Scheduler::warn_of_room() {
	const TimestampTz now = GetCurrentTimestamp();
	TimestampTz &said_at = complained_at_["room"];
	if (now - said_at < complain_every_us)
		return;
	said_at = now;
	guard([] {
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("jobqueue has no room in shared memory to count more running tasks, or rates"),
				 errdetail("Tasks of groups, and of limited queues and types, wait until others have ended.")));
	});
}

void Scheduler::poll() {
	attempt("count the running tasks", [this] {
		conditions_.flow.make_ready(slot_, conditions_.configuration);
		conditions_.flow.count_running_tasks();
		recount_running_tasks();
	});
	if (was_without_room())
		warn_of_room();
	due_from_ = DT_NOBEGIN;
	next_due_ = next_lease_ = next_schedule_ = DT_NOBEGIN;
	recover_orphans();
	if (GetCurrentTimestamp() >= next_dependency_sweep_) {
		ended_.set_all();
		resolved_child_ = -1;
		resolve_dependencies();
		sweep_dependencies();
		narrow_at_ = DT_NOBEGIN;
	}
	archive();
	turn_history();
	remove_expired_keys();
	if (GetCurrentTimestamp() >= next_sweep_)
		sweep();
	next_poll_ = GetCurrentTimestamp() + static_cast<int64>(settings::poll_interval_ms) * 1000;
}

/*
 * Would another worker of this role leave others no place that they can have at once, free or with an idle worker in it,
 * and is there somebody who may need it? However long the tasks of one role take, those of the others do not wait for them.
 */
bool Scheduler::is_last_place(const Role &role) {
	int live = 0, starting = 0, idle = 0;
	std::set<std::pair<Oid, Oid>> served;
	bool spare = false; /* an idle worker beside another of the same role */
	for (WorkerSlot &worker : worker_slots()) {
		if (!takes_place(&worker))
			continue;
		live++;
		starting += pg_atomic_read_u32(&worker.pid) == 0;
		const std::pair<Oid, Oid> whose{pg_atomic_read_u32(&worker.database), pg_atomic_read_u32(&worker.role)};
		const bool first = served.insert(whose).second;
		if (worker_state(&worker) == WorkerState::idle && whose != std::pair{MyDatabaseId, role.oid}) {
			idle++;
			spare |= !first;
		}
	}
	const int processes = guard([] { return max_worker_processes - compat::background_workers(); }) - starting;
	const int free = std::clamp(settings::max_workers - live, 0, std::max(processes, 0));
	if (free + idle != 1)
		return false; /* one is left; or there is nothing to take */
	if (free == 0 && !spare)
		return true;
	const bool unserved_here = std::any_of(roles_.begin(), roles_.end(), [&](const auto &other) {
		return other->max_workers > 0 && !served.contains({MyDatabaseId, other->oid});
	});
	return unserved_here ||
		   std::any_of(std::begin(shared()->databases), std::end(shared()->databases), [](auto &other) {
			   const Oid database = pg_atomic_read_u32(&other.database);
			   return is_served(&other) && database != MyDatabaseId && !has_workers(database);
		   });
}

/* Reserves a slot in shared memory and starts a process for it; false if there is no room. */
bool Scheduler::start_worker_for(Role &role) {
	WorkerSlot *reserved = nullptr;
	LWLockAcquire(shared()->lock, LW_EXCLUSIVE);
	int live = 0;
	for (WorkerSlot &worker : worker_slots()) {
		live += takes_place(&worker);
		if (!is_live(worker) && reserved == nullptr)
			reserved = &worker;
	}
	if (live >= settings::max_workers)
		reserved = nullptr;
	if (reserved != nullptr) {
		pg_atomic_write_u64(&reserved->token, pg_atomic_add_fetch_u64(&shared()->token, 1));
		pg_atomic_write_u32(&reserved->database, MyDatabaseId);
		pg_atomic_write_u32(&reserved->role, role.oid);
		pg_atomic_write_u32(&reserved->can_login, role.can_login);
		pg_atomic_write_u32(&reserved->pid, 0);
		pg_atomic_write_u32(&reserved->retire, 0);
		pg_atomic_write_u64(&reserved->task, 0);
		pg_atomic_write_u64(&reserved->types, ~0ULL);
		pg_atomic_write_u64(&reserved->started_at, static_cast<uint64>(GetCurrentTimestamp()));
		set_state(reserved, WorkerState::starting);
	}
	LWLockRelease(shared()->lock);
	if (reserved == nullptr)
		return false;

	BackgroundWorkerHandle *handle = guard([reserved] {
		MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
		BackgroundWorkerHandle *registered = start_worker(reserved);
		MemoryContextSwitchTo(caller);
		return registered;
	});
	if (handle == nullptr) {
		LWLockAcquire(shared()->lock, LW_EXCLUSIVE);
		free_worker(reserved);
		LWLockRelease(shared()->lock);
		return false;
	}
	started_.push_back({reserved, handle, role.oid, pg_atomic_read_u64(&reserved->token)});
	return true;
}

/* What has become of the processes that were asked for. */
void Scheduler::watch_started() {
	std::erase_if(started_, [this](const Started &started) {
		BackgroundWorkerHandle *const handle = started.handle;
		const BgwHandleStatus status = guard([handle] {
			pid_t pid;
			return GetBackgroundWorkerPid(handle, &pid);
		});
		WorkerSlot *const slot = started.slot;
		if (status != BGWH_STOPPED && pg_atomic_read_u64(&slot->connected) < started.token)
			return false;
		if (status == BGWH_STOPPED) {
			/* It ended before it took its slot. */
			LWLockAcquire(shared()->lock, LW_EXCLUSIVE);
			if (worker_state(slot) == WorkerState::starting && pg_atomic_read_u64(&slot->token) == started.token &&
				pg_atomic_read_u32(&slot->pid) == 0)
				free_worker(slot);
			LWLockRelease(shared()->lock);
		}
		const bool failed = status == BGWH_STOPPED && pg_atomic_read_u64(&slot->connected) < started.token;
		for (const auto &role : roles_) {
			if (role->oid != started.role)
				continue;
			role->start_delay_us = failed ? std::clamp<int64>(role->start_delay_us * 2, 100000, 60 * USECS_PER_SEC) : 0;
			role->next_start = GetCurrentTimestamp() + role->start_delay_us;
		}
		guard([handle] { pfree(handle); });
		return true;
	});
}

/* Every role with work gets a worker, and more as long as all of its workers are busy and there is room. */
void Scheduler::start_workers() {
	watch_started();
	std::stable_sort(roles_.begin(), roles_.end(), [](const auto &a, const auto &b) {
		const auto rank = [](const auto &role) { return role->hungry_since ? role->hungry_since : DT_NOEND; };
		return rank(a) < rank(b);
	});
	TimestampTz hungry_since = 0;
	for (const auto &role : roles_) {
		start_workers_of(*role);
		if (role->hungry_since != 0)
			hungry_since = hungry_since ? std::min(hungry_since, role->hungry_since) : role->hungry_since;
	}
	pg_atomic_write_u64(&slot_->hungry_since, static_cast<uint64>(hungry_since));
	hungry_since_ = hungry_since;
	if (hungry_since != 0 && !warned_of_shortage_ && GetCurrentTimestamp() - hungry_since > shortage_warning_us) {
		warned_of_shortage_ = true;
		guard([] {
			ereport(WARNING, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
							  errmsg("jobqueue has had no process for a worker for %d seconds; tasks wait",
									 static_cast<int>(shortage_warning_us / USECS_PER_SEC)),
							  errhint("You might need to increase max_worker_processes or jobqueue.max_workers.")));
		});
	}
}

void Scheduler::start_workers_of(Role &role) {
	int workers = 0;
	bool waiting = false; /* one of them will look by itself */
	for (WorkerSlot &worker : worker_slots()) {
		if (!takes_place(&worker))
			continue;
		if (pg_atomic_read_u32(&worker.database) != MyDatabaseId || pg_atomic_read_u32(&worker.role) != role.oid)
			continue;
		workers++;
		waiting |= worker_state(&worker) != WorkerState::running || pg_atomic_read_u64(&worker.task) == 0;
	}
	const TimestampTz now = GetCurrentTimestamp();
	const auto patience = std::exchange(role.hungry_since, 0);
	/* A second worker comes after every first one. */
	if (waiting || settings::max_workers == 0 || workers >= role.max_workers || now < role.next_start ||
		(workers > 0 && (now < role.next_colleague || !is_turn_of(PG_UINT64_MAX))))
		return;
	if (!role.claimer.absorb(role.scope))
		return;
	bool work = false;
	attempt("look for work", [&] { work = role.claimer.has_work(role.scope, conditions_); });
	if (!work)
		return;
	if (roles_read_ != roles_generation()) { /* may the role still be served? */
		pg_atomic_write_u32(&slot_->wanted, 1);
		SetLatch(MyLatch);
		return;
	}
	busy_at_ = now;
	if (workers > 0 && is_last_place(role)) {
		role.next_colleague = now + USECS_PER_SEC;
		return;
	}
	const TimestampTz since = patience ? patience : now;
	if (is_turn_of(static_cast<uint64>(since)) && start_worker_for(role)) {
		if (workers == 0)
			pg_atomic_write_u64(&shared()->starved_at, 0);
	} else if (workers == 0) {
		role.hungry_since = since;
		make_room(MyDatabaseId);
	} else {
		role.next_colleague = now + USECS_PER_SEC;
		make_room_if_idle();
	}
}

void Scheduler::notify() {
	const TimestampTz now = GetCurrentTimestamp();
	if (settings::notify_mode != static_cast<int>(NotifyMode::coalesced))
		to_notify_.clear();
	if (!to_notify_.empty()) {
		if (now - notified_at_ < notify_interval_us)
			return;
		attempt("send NOTIFY", [this] {
			for (const std::string &queue : to_notify_) {
				const char *const payload = queue.c_str();
				guard([payload] { Async_Notify("task_queue", payload); });
			}
		});
		to_notify_.clear();
		notified_at_ = GetCurrentTimestamp();
	}
	pg_atomic_write_u64(&slot_->notified, position_);
}

/* May the process end? Leaves behind when it must be back. */
bool Scheduler::may_retire() {
	const bool asked = pg_atomic_read_u32(&slot_->retire) != 0;
	if (!to_notify_.empty() || !ended_.empty() || !ended_again_.empty() || has_workers(MyDatabaseId) ||
		pg_atomic_read_u32(&slot_->wanted) != 0 || (hungry_since_ != 0 && !asked))
		return false;
	const bool nothing =
		roles_.empty() && next_due_ == DT_NOEND && next_lease_ == DT_NOEND && next_schedule_ == DT_NOEND;
	const TimestampTz now = GetCurrentTimestamp();
	if (!asked && !(nothing && now - busy_at_ >= static_cast<int64>(settings::worker_idle_timeout_s) * USECS_PER_SEC))
		return false;
	/* Where processes are short, the safety net comes round more rarely; what is announced brings it back at once. */
	constexpr int64 absence_us = USECS_PER_MINUTE;
	TimestampTz back = std::min({next_due_, next_lease_, next_schedule_});
	const bool unsure =
		std::any_of(roles_.begin(), roles_.end(), [now](const auto &role) { return now < role->next_start; });
	if (hungry_since_ != 0 || unsure)
		back = std::min(back, now + USECS_PER_SEC);
	else if (!roles_.empty())
		back = std::min(back, now + absence_us);
	pg_atomic_write_u64(&slot_->next_run, static_cast<uint64>(back));
	return true;
}

/* "looked_at": what was too early then is waited for. */
int64 Scheduler::sleep_ms(TimestampTz looked_at) {
	/* While it starts others only wake the launcher, and a lock that it waited for may have taken their wake-up. */
	pg_memory_barrier();
	if (!ended_.empty() || pg_atomic_read_u32(&slot_->wanted) != 0)
		return 0;
	TimestampTz until =
		std::min({next_poll_, next_due_, next_lease_, next_schedule_, next_overdue_, resolve_again_, narrow_at_});
	if (!to_notify_.empty())
		until = std::min(until, notified_at_ + notify_interval_us);
	const TimestampTz now = GetCurrentTimestamp();
	for (const auto &role : roles_)
		for (const TimestampTz next : {role->next_colleague, role->claimer.next_time()})
			if (next > looked_at)
				until = std::min(until, next);
	if (hungry_since_ != 0) {
		until = std::min(until, now + std::clamp<int64>((now - hungry_since_) / 10, 20000, USECS_PER_SEC / 2));
	}
	return TimestampDifferenceMilliseconds(now, until);
}

SchedulerState Scheduler::run() {
	std::exception_ptr problem;
	try {
		return work();
	} catch (const PgError &) {
		problem = std::current_exception();
	}
	/* DROP EXTENSION pulls the tables away while we work: no reason to make noise. */
	const bool installed = in_transaction(Durability::asynchronous, [this] {
		const std::optional<store::Extension> extension = installed_extension();
		return extension && (!OidIsValid(extension_) || extension->oid == extension_);
	});
	if (installed)
		std::rethrow_exception(problem);
	return SchedulerState::none;
}

SchedulerState Scheduler::work() {
	guard(watch_roles);
	/* Nobody's open transaction shall stop it: what is locked is tried again later. */
	guard([] { SetConfigOption("lock_timeout", "100ms", PGC_SUSET, PGC_S_OVERRIDE); });
	TimestampTz looked_at = 0;
	for (;;) {
		guard([] { CHECK_FOR_INTERRUPTS(); });
		if (pg_atomic_read_u32(&slot_->let_go) != 0)
			return SchedulerState::none;
		pg_atomic_write_u32(&slot_->wanted, 0);
		pg_memory_barrier();
		looked_at = GetCurrentTimestamp();
		if (configuration_ != pg_atomic_read_u64(&slot_->configuration) || roles_read_ != roles_generation() ||
			looked_at >= next_poll_) {
			if (const std::optional<SchedulerState> over = configure())
				return *over;
		}
		read_announcements();
		if (looked_at >= next_poll_)
			poll();
		if (pg_atomic_read_u32(&slot_->orphans) != 0)
			recover_orphans();
		resolve_dependencies();
		if (pg_atomic_read_u32(&slot_->by_hand) != 0)
			archive();
		read_due();
		fire_schedules();
		promote_and_expire();
		watch_overdue();
		start_workers();
		notify();
		if (may_retire())
			return SchedulerState::retired;
		const bool reloaded = guard([this, looked_at] {
			pgstat_report_stat(false);
			report_idle();
			return wait_for_news(sleep_ms(looked_at));
		});
		if (reloaded)
			next_poll_ = DT_NOBEGIN;
		const int64 since = GetCurrentTimestamp() - looked_at;
		const int64 shortest = looked_at - resolved_at_ < resolving_us ? shortest_resolution_us : shortest_look_us;
		if (since >= 0 && since < shortest)
			pg_usleep(static_cast<long>(shortest - since));
	}
}

/* However the process ends. C region. */
void leave(int, Datum arg) {
	DatabaseSlot *slot = &shared()->databases[DatumGetInt32(arg)];
	LWLockAcquire(shared()->lock, LW_EXCLUSIVE);
	if (pg_atomic_read_u32(&slot->scheduler_pid) == static_cast<uint32>(MyProcPid)) {
		pg_atomic_write_u32(&slot->scheduler_pid, 0);
		pg_atomic_write_u32(&slot->scheduler_procno, static_cast<uint32>(no_procno));
		pg_atomic_write_u32(&slot->retire, 0);
		pg_atomic_write_u64(&slot->hungry_since, 0);
		if (scheduler_state(slot) == SchedulerState::running || scheduler_state(slot) == SchedulerState::starting)
			pg_atomic_write_u32(&slot->state, static_cast<uint32>(SchedulerState::none));
	}
	LWLockRelease(shared()->lock);
	wake_launcher();
}

bool attach(int index, Oid database) {
	DatabaseSlot *slot = &shared()->databases[index];
	LWLockAcquire(shared()->lock, LW_EXCLUSIVE);
	const bool ours = pg_atomic_read_u32(&slot->database) == database &&
					  pg_atomic_read_u32(&slot->scheduler_pid) == 0 && pg_atomic_read_u32(&slot->let_go) == 0;
	if (ours) {
		pg_atomic_write_u32(&slot->scheduler_procno, static_cast<uint32>(compat::my_procno()));
		pg_atomic_write_u32(&slot->scheduler_pid, static_cast<uint32>(MyProcPid));
	}
	LWLockRelease(shared()->lock);
	if (ours)
		before_shmem_exit(leave, Int32GetDatum(index));
	return ours;
}

} // namespace
} // namespace jobqueue

extern "C" PGDLLEXPORT void jobqueue_scheduler_main(Datum arg);

extern "C" void jobqueue_scheduler_main(Datum arg) {
	using namespace jobqueue;
	Oid database;
	memcpy(&database, MyBgworkerEntry->bgw_extra, sizeof(database));
	prepare_process(on_lock_timeout);
	if (shared() == nullptr || !attach(DatumGetInt32(arg), database))
		proc_exit(0);
	DatabaseSlot *slot = &shared()->databases[DatumGetInt32(arg)];
	compat::connect_as_superuser(database);
	pgstat_report_appname("jobqueue scheduler");
	const SchedulerState last = boundary([slot] { return Scheduler(slot).run(); });
	pg_atomic_write_u32(&slot->state, static_cast<uint32>(last));
	proc_exit(0);
}
