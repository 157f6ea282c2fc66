/*
 * scheduler.cpp -- the scheduler of one database: starts workers, makes scheduled tasks due, takes back what dead
 * workers and expired leases held, fires schedules, sends the coalesced NOTIFYs, turns the ring of history.
 *
 * Started by the launcher. Entry is C, behind boundary(); everything else is a C++ region but for the callbacks. It is
 * connected as the bootstrap superuser, runs nothing but our own statements in a Session, and no user's code.
 */
#include "engine/store/batch.hpp"
#include "engine/store/claims.hpp"
#include "engine/store/due_tasks.hpp"
#include "engine/store/handlers.hpp"
#include "engine/store/history.hpp"
#include "engine/store/incarnation.hpp"
#include "engine/store/lanes.hpp"
#include "engine/store/outcome.hpp"
#include "engine/store/role_limits.hpp"
#include "engine/store/unique_keys.hpp"
#include "server/processes.hpp"
#include "server/watched_tasks.hpp"

#include "engine/claimer.hpp"
#include "engine/dependencies.hpp"
#include "engine/outcome.hpp"
#include "engine/schedules.hpp"
#include "engine/set_aside.hpp"
#include "pg/clock.hpp"
#include "pg/compat.hpp"
#include "pg/own_settings.hpp"
#include "pg/settings.hpp"
#include "shared/flight_recorder.hpp"
#include "shared/penalties.hpp"

#include <deque>
#include <map>
#include <set>
#include <signal.h>

namespace jobqueue {

namespace {

/* Names of queues in one NOTIFY transaction; where there are more, it says that there is something somewhere. */
constexpr size_t most_to_notify = 1000;
constexpr int64 notify_interval_us = 10 * USECS_PER_SEC / 1000;
constexpr int batch = 1000;
constexpr int turns_batch = 100;
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
/* Looking for work of a role takes at most one part in so many of the time. */
constexpr int64 look_share = 5;
constexpr int64 shortage_warning_us = 10 * USECS_PER_SEC;
constexpr int64 after_failure_us = USECS_PER_SEC;
constexpr int64 complain_every_us = USECS_PER_MINUTE;
/* What somebody has locked is no trouble, unless it stays so. */
constexpr int64 locked_for_long_us = 10 * USECS_PER_SEC;
/* What has failed is tried again after so long, and later ever more rarely. */
constexpr int64 shortest_retry_us = USECS_PER_SEC / 10;
constexpr int64 longest_retry_us = 5 * USECS_PER_SEC;
/* What can wait gets so long at a time, all of it together; then what cannot has its turn. */
constexpr int64 chores_us = 20 * USECS_PER_SEC / 1000;
/* Nobody needs to be told of a clock that is set by less. */
constexpr int64 reported_step_us = 10 * USECS_PER_SEC;
/* A time that lies ahead by less than this is believed: clocks are set a little now and then. */
constexpr int64 tolerated_step_us = USECS_PER_MINUTE;
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
	SteadyTime hungry_since = 0;		 /* it has work and no worker, for want of a process; 0 = not */
	SteadyTime next_colleague = at_once; /* not before: a worker beside others */
	SteadyTime next_start = at_once;
	explicit Role(const store::Handler &handler) : oid(handler.role), can_login(handler.can_login) {}
};

struct Started {
	WorkerSlot *slot;
	BackgroundWorkerHandle *handle;
	Oid role;
	uint64 token;
};

/* A task whose worker is no more, and what is to be done with it. */
struct Orphan {
	int64 task;
	int32 attempt;
	bool charged;
	bool unknown_crash;
	Death death; /* of its worker */
};

class Scheduler {
public:
	explicit Scheduler(DatabaseSlot *slot) : slot_(slot), position_(pg_atomic_read_u64(&slot->notified)) {}
	/* Returns the state to leave behind. */
	SchedulerState run();

private:
	/* What can wait a moment, in steps that are short. */
	struct Chore {
		const char *what;
		Progress (Scheduler::*step)(); /* what fails has been reported */
		const SetAside *aside = nullptr;
		SteadyTime due = never;
		Backoff backoff{shortest_retry_us, longest_retry_us};
	};
	/* A failure that lasts is reported once. */
	struct Complaint {
		std::string message;
		SteadyTime said_at = at_once, since = at_once;
		bool lasts = false;
	};
	struct Configuration {
		std::optional<store::Extension> extension;
		std::vector<store::Handler> handlers;
		std::map<Oid, Queues> allowed; /* by role, where it matters */
		std::vector<store::Limits> limits;
		Conditions conditions;
		std::string database;
		store::Standing standing;
	};

	SchedulerState work();
	std::optional<SchedulerState> configure();
	Configuration read_configuration(uint64 configuration);
	void watch_clock();
	void look_at_all_times();
	void read_announcements();
	void read_due();
	void promote_and_expire();
	void promote();
	void promote_in_turns();
	void expire();
	void fire_schedules();
	bool charge_suspects();
	bool find_orphans();
	Progress recover_orphans();
	bool charge_fused(bool charged);
	void watch_overdue();
	void resolve_dependencies();
	Progress count_running();
	Progress look_at_all_dependencies();
	Progress sweep_dependencies();
	Progress archive();
	void warn_of_room(const Held &who);
	void poll();
	void run_chores();
	void do_what_is_due();
	void do_all(SteadyTime looked_at);
	void ask_for(Progress (Scheduler::*step)(), bool is_news = false);
	Progress sweep();
	Progress turn_history();
	bool empty_leaf(int leaf, bool turn);
	Progress thin_leaf(bool turn);
	void report_held_leaf();
	Progress purge_failed();
	Progress remove_expired_keys();
	Progress correct_schedules();
	void start_workers();
	void start_workers_of(Role &role);
	void watch_started();
	bool start_worker_for(Role &role);
	bool is_last_place(const Role &role);
	void notify();
	void dismiss_workers();
	bool may_retire();
	int64 sleep_ms(SteadyTime looked_at);
	SteadyTime next_of_aside() const;
	void complain(const char *what, const PgError &error);
	void stop_complaining(const char *what);
	/* What went wrong, if anything did. Throws where there is nothing to try any more. */
	template <typename Fn> std::optional<PgError> try_once(Fn &&fn, Durability durability = Durability::asynchronous);
	template <typename Fn>
	std::optional<PgError> try_in_session(Fn &&fn, Durability durability = Durability::asynchronous);
	template <typename Run, typename Look>
	Progress batch_step(const char *what, SetAside &aside, Run &&run, Look &&look);
	/* "locked": where it is said, instead of complaining, that somebody has locked something. */
	template <typename Fn>
	bool attempt_plainly(const char *what, Fn &&fn, Durability durability = Durability::asynchronous);
	template <typename Fn>
	bool attempt(const char *what, Fn &&fn, Durability durability = Durability::asynchronous, bool *locked = nullptr);

	DatabaseSlot *const slot_;
	Oid owner_ = InvalidOid;
	Oid extension_ = InvalidOid;
	uint64 configuration_ = 0;
	uint64 roles_read_ = 0;
	std::vector<std::unique_ptr<Role>> roles_;
	std::vector<std::string> refused_; /* roles that were reported as not being served */
	std::map<Oid, std::optional<std::vector<std::string>>>
		rights_; /* where roles with handlers may work; none = everywhere */
	Conditions conditions_;
	std::vector<Started> started_;

	uint64 position_;	 /* in the ring */
	uint64 kept_up_ = 0; /* at the latest keep_positions() */
	std::set<std::string> to_notify_;
	SteadyTime notified_at_ = at_once;
	Backoff notify_backoff_{shortest_retry_us, longest_retry_us};

	/* Of the wall clock, which is watched. */
	ClockWatch clock_;
	TimestampTz due_from_ = DT_NOBEGIN; /* no scheduled task is due before, but for those announced */
	TimestampTz next_due_ = DT_NOBEGIN;
	SteadyTime next_turns_ = at_once;
	TimestampTz next_lease_ = DT_NOBEGIN;
	TimestampTz next_schedule_ = DT_NOBEGIN;
	Schedules schedules_;
	WatchedTasks holding_; /* whose end lets a schedule go on */

	Backoff configure_backoff_{shortest_retry_us, longest_retry_us};
	/* The leaf of history that cannot be emptied: somebody has a lock on it. */
	struct HeldLeaf {
		int leaf = 0;
		SteadyTime since = at_once, next_wait = at_once;
		bool thinning = false; /* row by row, then */
		int64 thinned = 0;	   /* up to this id */
	};
	HeldLeaf held_;
	bool look_for_orphans_ = false;
	std::deque<Orphan> orphans_;
	size_t orphans_seen_ = 0;	  /* of them, in the pass that is under way */
	bool orphans_locked_ = false; /* one of these, by somebody */
	SteadyTime next_poll_ = at_once;
	SteadyTime next_count_ = at_once;
	SteadyTime next_sweep_ = at_once;
	SteadyTime next_correction_ = at_once;
	std::string corrected_;							  /* schedules up to this name, in the pass that is under way */
	int64 correction_us_ = 0;						  /* what that pass has taken */
	SteadyTime next_overdue_ = never;				  /* when a handler has had its grace */
	IdRanges ended_;								  /* of these ids some may have ended, and others wait for them */
	int64 resolved_parent_ = 0, resolved_child_ = -1; /* how far the first of these ranges has been dealt with */
	IdRanges ended_again_;							  /* likewise, when what is locked may be free again */
	SteadyTime resolve_again_ = never;
	SteadyTime narrow_at_ = at_once;
	SteadyTime next_dependency_sweep_ = at_once;
	std::optional<int64> swept_dependent_; /* how far the sweep that is under way has come */
	int64 dependency_sweep_us_ = 0;		   /* what it has taken */
	SteadyTime resolved_at_ = at_once;
	SteadyTime hungry_since_ = 0;					   /* for want of a process; 0 = not */
	std::map<std::string_view, Complaint> complaints_; /* by what failed */
	SteadyTime busy_at_ = at_once;

	/* Tasks that are passed over, since each fails alone. */
	SetAside due_aside_{"make due"}, leases_aside_{"take back the lease of"}, dependents_aside_{"let go"};
	SetAside orphans_aside_{"take back from its worker"}, swept_aside_{"forget the parents of"};
	SetAside finished_aside_{"archive"}, failed_aside_{"purge"}, keys_aside_{"remove the unique key of"};

	/* In the order in which they are due at a poll. */
	std::array<Chore, 9> chores_ = {{
		{"count the running tasks", &Scheduler::count_running},
		{"give back the tasks of workers that ended", &Scheduler::recover_orphans, &orphans_aside_},
		{"look for tasks that others wait for", &Scheduler::look_at_all_dependencies, &swept_aside_},
		{"archive tasks that were finished by hand", &Scheduler::archive, &finished_aside_},
		{"turn the history", &Scheduler::turn_history},
		{"purge failed tasks", &Scheduler::purge_failed, &failed_aside_},
		{"remove unique keys whose period is over", &Scheduler::remove_expired_keys, &keys_aside_},
		{"correct the times of schedules", &Scheduler::correct_schedules},
		{"look for tasks that nobody announced", &Scheduler::sweep},
	}};
};

bool is_live(WorkerSlot &worker) {
	return worker_state(&worker) != WorkerState::free;
}

/* The extension is there, as far as one can tell at the moment. */
bool is_installed(Oid extension) {
	try {
		return in_transaction(Durability::asynchronous, [extension] {
			const std::optional<store::Extension> found = installed_extension();
			return found && (!OidIsValid(extension) || found->oid == extension);
		});
	} catch (const PgError &) {
		return true; /* pg_extension is locked */
	}
}

/*
 * What fails (a lock, a full disk) is reported and tried again; it must not end the scheduler. But where the extension
 * has been dropped there is nothing to try.
 */
template <typename Fn> std::optional<PgError> Scheduler::try_once(Fn &&fn, Durability durability) {
	std::exception_ptr problem;
	try {
		in_transaction(durability, fn);
		return std::nullopt;
	} catch (...) {
		problem = std::current_exception();
	}
	const PgError error = as_pg_error(problem);
	if (error.sqlerrcode() == ERRCODE_UNDEFINED_TABLE || error.sqlerrcode() == ERRCODE_UNDEFINED_SCHEMA)
		if (!is_installed(extension_))
			std::rethrow_exception(problem);
	return error;
}

/* What somebody has deferred to the commit is done with each statement, by the owner, and fails with it. */
template <typename Fn> std::optional<PgError> Scheduler::try_in_session(Fn &&fn, Durability durability) {
	return try_once(
		[&] {
			const Session session(owner_);
			guard(detail::defer_nothing);
			fn();
		},
		durability);
}

template <typename Fn> bool Scheduler::attempt_plainly(const char *what, Fn &&fn, Durability durability) {
	const std::optional<PgError> error = try_once(fn, durability);
	if (error)
		complain(what, *error);
	else
		stop_complaining(what);
	return !error;
}

template <typename Fn> bool Scheduler::attempt(const char *what, Fn &&fn, Durability durability, bool *locked) {
	const std::optional<PgError> error = try_in_session(fn, durability);
	if (!error)
		stop_complaining(what);
	else if (locked && error->sqlerrcode() == ERRCODE_LOCK_NOT_AVAILABLE)
		*locked = true;
	else
		complain(what, *error);
	return !error;
}

/*
 * A step of a chore that takes many rows at once, none of which can stop the others. run(batch) returns how many it took,
 * look(batch) which rows these are.
 */
template <typename Run, typename Look>
Progress Scheduler::batch_step(const char *what, SetAside &aside, Run &&run, Look &&look) {
	const SteadyTime began = steady_now();
	const int most = aside.batch_size().get();
	const Progress progress = aside.step(
		most, began + chores_us,
		[&](const store::Batch &rows, int64 &count) { return try_in_session([&] { count = run(rows); }); },
		[&](const store::Batch &rows, std::vector<int64> &ids) { return try_in_session([&] { ids = look(rows); }); });
	if (aside.took_batch())
		aside.batch_size().took(steady_now() - began, progress == Progress::more);
	if (aside.problem())
		complain(what, *aside.problem());
	else if (progress != Progress::failed)
		stop_complaining(what);
	return progress;
}

void Scheduler::stop_complaining(const char *what) {
	if (const auto complaint = complaints_.find(what); complaint != complaints_.end())
		complaint->second.lasts = false;
}

/* Once, as long as it lasts, and not more often than once in a while; what is locked, when that has lasted. */
void Scheduler::complain(const char *what, const PgError &error) {
	const int code = error.sqlerrcode();
	const std::string message = error.what();
	const SteadyTime now = steady_now();
	Complaint &complaint = complaints_[what];
	if (!std::exchange(complaint.lasts, true))
		complaint.since = now;
	if (code == ERRCODE_LOCK_NOT_AVAILABLE && now - complaint.since < locked_for_long_us)
		return;
	if (complaint.said_at != at_once && (now - complaint.said_at < complain_every_us ||
										 (complaint.message == message && complaint.said_at >= complaint.since)))
		return;
	complaint.said_at = now;
	complaint.message = message;
	const char *const why = message.c_str();
	guard([what, code, why] {
		ereport(LOG, (errcode(code), errmsg("jobqueue could not %s and will try again: %s", what, why)));
	});
}

/* Needs a transaction. */
Scheduler::Configuration Scheduler::read_configuration(uint64 configuration) {
	Configuration read;
	read.extension = installed_extension();
	const char *const name = guard([] { return get_database_name(MyDatabaseId); });
	read.database = name ? name : "";
	if (!read.extension || read.extension->version != library_version)
		return read;
	const Oid owner = read.extension->owner;
	const Session session(owner);
	read.handlers = store::handlers();
	read.standing = store::standing(); /* after them: a restore may be under way */
	for (const store::Handler &handler : read.handlers)
		if (handler.governed && OidIsValid(handler.role) && !read.allowed.contains(handler.role))
			read.allowed[handler.role] = queues_of_handlers(handler.role, owner);
	std::map<Oid, std::optional<std::vector<std::string>>> rights;
	for (const auto &[role, queues] : read.allowed)
		rights[role] = queues.all ? std::nullopt : std::optional(queues.names);
	if (rights != rights_ && configuration_ != 0)
		guard(note_configuration); /* GRANT and REVOKE tell nobody else */
	rights_ = std::move(rights);
	guard(watch_rights);
	read.limits = store::limits();
	read.conditions = Conditions::read(configuration);
	if (read.standing.own) {
		/* What began while a limit was gone, unseen from here, is found by the chore. */
		const bool counted = configuration_ != 0 && admission_is_ready(slot_, conditions_.configuration);
		read.conditions.flow.make_ready(slot_, configuration, counted ? &conditions_.flow : nullptr);
	}
	pg_atomic_write_u32(&slot_->history_slot, static_cast<uint32>(store::history_ring().slot));
	return read;
}

/*
 * Reads what there is to do; a state if there is nothing to do here for now. Where that cannot be read, things go on as
 * they were, until it can.
 */
std::optional<SchedulerState> Scheduler::configure() {
	const uint64 configuration = pg_atomic_read_u64(&slot_->configuration);
	const uint64 roles_read = roles_generation();
	Configuration read;
	if (!attempt_plainly("read its configuration", [&] { read = read_configuration(configuration); })) {
		configure_backoff_.failed(steady_now());
		return std::nullopt;
	}
	configure_backoff_.succeeded();
	const std::optional<store::Extension> &extension = read.extension;
	const std::vector<store::Handler> &handlers = read.handlers;
	const std::string &name = read.database;
	const store::Standing &standing = read.standing;
	const bool own = standing.own;
	if (extension)
		owner_ = extension->owner;
	conditions_ = std::move(read.conditions);
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
		else if (const auto found = read.allowed.find(handler.role);
				 handler.governed && found != read.allowed.end() && !found->second.all && found->second.names.empty())
			reason = "the role has registered them, and may not work in any queue any more";
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
		role->scope = scope_of_handlers(role->handlers, std::move(read.allowed[role->oid]));
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
		for (const store::Limits &limit : read.limits)
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
		if (news.kind != AnnouncementKind::statement && to_notify_.size() < most_to_notify)
			to_notify_.insert(news.queue);
		else
			to_notify_.insert("");
		busy_at_ = steady_now();
	};
	follow_ring(position_, take, [this] { to_notify_.insert(""); });
	if (position_ - kept_up_ > ring_size / 4 && keep_positions(MyDatabaseId))
		kept_up_ = position_;
}

/* The wall clock may be set: then all that waits for a time of it looks at it again. */
void Scheduler::watch_clock() {
	const int64 step = clock_.look();
	if (step == 0)
		return;
	look_at_all_times();
	atomic_min(&slot_->served_since, static_cast<uint64>(GetCurrentTimestamp()));
	next_correction_ = at_once;
	ask_for(&Scheduler::correct_schedules);
	ask_for(&Scheduler::turn_history);
	if (step < reported_step_us && step > -reported_step_us)
		return;
	guard([step] {
		ereport(LOG, (errmsg("jobqueue goes by a clock that was set %s by " INT64_FORMAT " seconds",
							 step < 0 ? "back" : "forward", (step < 0 ? -step : step) / USECS_PER_SEC)));
	});
}

void Scheduler::look_at_all_times() {
	due_from_ = DT_NOBEGIN;
	next_due_ = next_lease_ = next_schedule_ = DT_NOBEGIN;
}

void Scheduler::read_due() {
	const auto announced = static_cast<TimestampTz>(pg_atomic_exchange_u64(&slot_->due_at, PG_INT64_MAX));
	due_from_ = std::min(due_from_, announced);
	next_due_ = std::min(next_due_, announced);
	next_lease_ = std::min(next_lease_, announced);
	next_schedule_ = std::min(next_schedule_, announced);
}

void Scheduler::promote_and_expire() {
	const SteadyTime began = steady_now();
	while ((next_due_ <= GetCurrentTimestamp() || due_aside_.next_time() <= steady_now()) &&
		   steady_now() - began < promotion_us)
		promote();
	if (next_due_ <= GetCurrentTimestamp())
		promote_in_turns();
	const SteadyTime promoted = steady_now();
	while ((next_lease_ <= GetCurrentTimestamp() || leases_aside_.next_time() <= steady_now()) &&
		   steady_now() - promoted < promotion_us)
		expire();
}

/* When what has failed as a whole is tried again, by the wall clock. */
static TimestampTz after_failure(const SetAside &aside) {
	return GetCurrentTimestamp() + time_left(steady_now(), aside.not_before(), longest_retry_us);
}

void Scheduler::promote() {
	TimestampTz from = due_from_, next = next_due_;
	const Progress progress = batch_step(
		"make scheduled tasks due", due_aside_,
		[&](const store::Batch &rows) {
			const TimestampTz now = GetCurrentTimestamp();
			const std::vector<store::Due> due = store::promote_due(due_from_, now, rows);
			const auto count = static_cast<int64>(due.size());
			from = due_from_;
			for (const store::Due &task : due) {
				announce_due(task);
				from = std::max(from, task.run_at);
			}
			if (!rows.only.empty())
				return count;
			if (count < rows.count) {
				/* What is due and locked by somebody waits for the next poll. */
				from = std::max(from, now);
				next = store::next_due(from);
				return count;
			}
			return count;
		},
		[this](const store::Batch &rows) { return store::due_ids(due_from_, GetCurrentTimestamp(), rows); });
	if (due_aside_.took_batch()) {
		due_from_ = from;
		next_due_ = next;
	} else if (progress == Progress::failed) {
		next_due_ = after_failure(due_aside_);
	}
}

/* However many were due at once before, in whichever queue: what has just become due elsewhere starts at once. */
void Scheduler::promote_in_turns() {
	const SteadyTime began = steady_now();
	if (began < next_turns_)
		return;
	const std::vector<int64> except = due_aside_.all();
	const std::optional<PgError> error = try_in_session([&] {
		for (const store::Due &task :
			 store::promote_in_turns(due_from_, GetCurrentTimestamp(), {turns_batch, {}, except}))
			announce_due(task);
	});
	const SteadyTime now = steady_now();
	/* Half of the time at most. What is wrong promote() finds out. */
	next_turns_ = now + (error ? after_failure_us : now - began);
}

void Scheduler::expire() {
	TimestampTz next = next_lease_;
	const Progress progress = batch_step(
		"take back expired leases", leases_aside_,
		[&](const store::Batch &rows) {
			const TimestampTz now = GetCurrentTimestamp();
			const std::vector<store::Claim> expired = store::lock_expired(now, rows);
			const auto count = static_cast<int64>(expired.size());
			for (const store::Claim &claim : expired)
				end_expired(claim);
			if (!rows.only.empty())
				return count;
			next = store::next_lease(rows.except);
			if (next <= now && count < rows.count)
				next = now + after_failure_us; /* locked by somebody */
			return count;
		},
		[](const store::Batch &rows) { return store::expired_ids(GetCurrentTimestamp(), rows); });
	if (leases_aside_.took_batch())
		next_lease_ = next;
	else if (progress == Progress::failed)
		next_lease_ = after_failure(leases_aside_);
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
			const Fired fired = schedules_.fire(owner_, served_since, schedule_batch);
			holding = schedules_.holding_tasks(WatchedTasks::capacity);
			const bool more = fired.more && fired.count > 0;
			next = more ? DT_NOBEGIN : schedules_.next();
			const TimestampTz now = GetCurrentTimestamp();
			if (!more && next <= began)
				next = now + after_failure_us / 10; /* locked by somebody */
			if (!holding.empty())
				next = std::min(next, now + after_failure_us); /* more than can be watched; one that was deleted */
		});
		next_schedule_ = done ? next : GetCurrentTimestamp() + after_failure_us;
		if (done && holding_.watch(std::move(holding)))
			next_schedule_ = GetCurrentTimestamp(); /* one may have ended before it was watched */
	}
}

/*
 * Tasks that took the server down. Charged before anything can run them again, and on disk before they are forgotten;
 * twice does no harm, for the claim is over then.
 */
bool Scheduler::charge_suspects() {
	Suspect suspect;
	bool all_charged = true;
	for (int place = 0; next_suspect(MyDatabaseId, &place, &suspect);) {
		if (suspect.task == 0) {
			/* One of a group, while it was being finished: alone, it will betray itself. */
			guard([&suspect] { make_run_alone(MyDatabaseId, suspect.role, suspect.type); });
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

/*
 * What its worker's end means for a task that ran under its lock alone: others never saw it leave the queue. False if some
 * are locked by somebody.
 */
bool Scheduler::charge_fused(bool charged) {
	Death death;
	std::vector<Death> left;
	while (guard([&death] { return take_fused_death(MyDatabaseId, &death); })) {
		if (!charged || death.cause == DeathCause::own_error)
			continue;
		bool locked = false;
		const bool done = attempt("charge the task of a worker that ended", [&] {
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

/* It goes back as if nothing had been; not to be the first again if its role's workers end by our errors all the time. */
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

/* Tasks in the hands of workers that are no more; false if they could not all be found, or charged. */
bool Scheduler::find_orphans() {
	if (pg_atomic_exchange_u32(&slot_->orphans, 0) != 0)
		guard(wait_for_shutdown);
	const bool suspects_charged = charge_suspects();
	const bool interrupted = pg_atomic_exchange_u32(&slot_->interrupted, 0) != 0;
	const bool all_charged = charge_fused(!interrupted) && suspects_charged;
	std::vector<store::Claim> claims;
	if (!attempt("look for the tasks of workers that ended", [&claims] { claims = store::claims_in_server(); })) {
		if (interrupted)
			pg_atomic_write_u32(&slot_->interrupted, 1);
		return false;
	}
	/* Looked at after the claims: a worker that claimed had its slot before. */
	std::set<std::string, std::less<>> living;
	for (WorkerSlot &worker : worker_slots())
		if (is_live(worker) && pg_atomic_read_u32(&worker.database) == MyDatabaseId)
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
		/* At a crash the one that caused it has been charged already, unless nobody could know which one it was. */
		const TokenAge age = token_age(seen.claimed_by);
		const bool unknown_crash = age == TokenAge::before_crash && !flight_recorder_works();
		/* A batch: nobody knows which of them it was. They will be tried alone. */
		const bool several = tasks_of[seen.claimed_by] > 1;
		const Death death = guard([&seen] { return death_of(MyDatabaseId, seen.id, seen.attempt); });
		const bool charged = !several && death.cause != DeathCause::innocent && death.cause != DeathCause::own_error &&
							 (age == TokenAge::current ? !interrupted : unknown_crash);
		orphans_.push_back({seen.id, seen.attempt, charged, unknown_crash, death});
	}
	return all_charged;
}

/* Those that somebody has locked are come back to: others do not wait for them. */
Progress Scheduler::recover_orphans() {
	const SteadyTime began = steady_now();
	if (look_for_orphans_ || pg_atomic_read_u32(&slot_->orphans) != 0) {
		look_for_orphans_ = !find_orphans();
		orphans_seen_ = 0;
	}
	for (bool first = true; orphans_seen_ < orphans_.size(); first = false) {
		if (!first && steady_now() - began >= chores_us)
			return Progress::more;
		const Orphan orphan = orphans_[orphans_seen_];
		if (orphans_aside_.passes_over(orphan.task, began)) {
			orphans_seen_++;
			continue;
		}
		bool locked = false;
		const std::optional<PgError> error = try_in_session([&] {
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
		});
		const auto place = orphans_.begin() + static_cast<ptrdiff_t>(orphans_seen_);
		if (!error && !locked) {
			orphans_aside_.went(orphan.task);
			orphans_.erase(place);
			continue;
		}
		if (error && !orphans_aside_.failed(orphan.task, *error)) {
			complain("give back the task of a worker that ended", *error);
			std::rotate(orphans_.begin(), place + 1, orphans_.end()); /* others come first then */
			orphans_seen_ = 0;
			return Progress::failed;
		}
		orphans_seen_++;
		orphans_locked_ |= locked;
	}
	orphans_seen_ = 0;
	orphans_aside_.be_sure();
	stop_complaining("give back the task of a worker that ended");
	return std::exchange(orphans_locked_, false) || look_for_orphans_ ? Progress::failed : Progress::done;
}

/*
 * Handlers that go on although their time is up, or their task was cancelled: after the grace their process is told to
 * end, and what does not even do that is reported. Its place is made up for by another worker.
 */
void Scheduler::watch_overdue() {
	next_overdue_ = never;
	const SteadyTime now = steady_now();
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
		auto over = static_cast<SteadyTime>(pg_atomic_read_u64(&worker.deadline));
		if (pg_atomic_read_u64(&worker.cancel) == task)
			over = std::min(over, static_cast<SteadyTime>(pg_atomic_read_u64(&worker.cancelled_at)));
		if (over == never)
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
		const auto stuck_at = static_cast<SteadyTime>(pg_atomic_read_u64(&worker.ended_at)) + stuck_after_us;
		if (now < stuck_at) {
			next_overdue_ = std::min(next_overdue_, stuck_at);
			continue;
		}
		pg_atomic_write_u32(&worker.stuck, 1);
		busy_at_ = now;
		const bool dies = settings::kill_stuck;
		const Oid role = pg_atomic_read_u32(&worker.role);
		const uint64 type = pg_atomic_read_u64(&worker.type);
		guard([pid, task, dies, role, type] {
			/* The next one of that type shall not keep what others in its group have locked. */
			make_run_alone(MyDatabaseId, role, type);
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
	const SteadyTime began = steady_now();
	const IdRanges news = take_ended(slot_);
	if (!news.empty()) {
		ended_.add(news);
		resolved_child_ = -1;
		resolved_at_ = began;
	}
	if (began >= resolve_again_) {
		ended_.add(ended_again_);
		ended_again_ = {};
		resolve_again_ = never;
		resolved_child_ = -1;
	}
	bool any = false;
	while ((!ended_.empty() || dependents_aside_.next_time() <= steady_now()) &&
		   steady_now() - began < longest_resolution_us) {
		const IdRange ids = ended_.empty() ? IdRange{} : ended_.front();
		const int64 child = ids.low == resolved_parent_ ? resolved_child_ : -1;
		Pass pass;
		IdRanges again;
		const Progress progress = batch_step(
			"let tasks go that waited for others", dependents_aside_,
			[&](const store::Batch &rows) {
				const Pass some = rows.only.empty() ? resolve_some(ids, child, rows.except) : resolve_these(rows.only);
				any |= some.any;
				again.add(some.again);
				if (rows.only.empty())
					pass = some;
				return some.count;
			},
			[&](const store::Batch &rows) { return children_to_resolve(ids, child, rows.except); });
		if (!again.empty()) {
			ended_again_.add(again);
			resolve_again_ = std::min(resolve_again_, began + resolve_again_us);
		}
		if (progress == Progress::failed) {
			ended_again_.add(ended_);
			ended_ = {};
			resolve_again_ = std::max(began + resolve_again_us, dependents_aside_.not_before());
			break;
		}
		if (!dependents_aside_.took_batch() || ended_.empty())
			continue;
		if (pass.done)
			ended_.remove_front();
		else
			ended_.remove_below(pass.parent);
		resolved_parent_ = pass.parent;
		resolved_child_ = pass.child;
	}
	if (dependents_aside_.take_healed()) { /* its parents may have been passed by */
		ended_.set_all();
		resolved_child_ = -1;
	}
	if (any) {
		busy_at_ = began;
		narrow_at_ = std::min(narrow_at_, began + narrow_after_us);
	}
	if (ended_.empty() && steady_now() >= narrow_at_) {
		narrow_at_ = never;
		attempt("look for tasks that others wait for", [this] { narrow_parent_bounds(slot_); });
	}
}

/* A poll looks at all tasks that others wait for. */
Progress Scheduler::look_at_all_dependencies() {
	if (steady_now() < next_dependency_sweep_)
		return Progress::done;
	if (!swept_dependent_) {
		ended_.set_all();
		resolved_child_ = -1;
		resolve_dependencies();
		dependency_sweep_us_ = 0;
		swept_dependent_ = -1;
		return Progress::more;
	}
	return sweep_dependencies();
}

/* What is kept for tasks that are over. */
Progress Scheduler::sweep_dependencies() {
	const SteadyTime began = steady_now();
	Swept swept;
	const Progress progress = batch_step(
		"remove what was kept for tasks that waited", swept_aside_,
		[&](const store::Batch &rows) {
			swept = sweep_dependents(*swept_dependent_, rows);
			return swept.count;
		},
		[this](const store::Batch &rows) { return dependents_after(*swept_dependent_, rows); });
	if (progress == Progress::failed)
		return progress;
	if (swept_aside_.took_batch())
		swept_dependent_ = swept.last;
	dependency_sweep_us_ += steady_now() - began;
	if (progress == Progress::more)
		return progress;
	if (!attempt("remove the results that nobody needs", [this] { sweep_parents(slot_); }))
		return Progress::failed;
	dependency_sweep_us_ += steady_now() - began;
	swept_dependent_.reset();
	next_dependency_sweep_ = steady_now() + sweep_share * dependency_sweep_us_;
	narrow_at_ = at_once;
	return Progress::done;
}

Progress Scheduler::archive() {
	pg_atomic_write_u32(&slot_->by_hand, 0);
	return batch_step(
		"archive tasks that were finished by hand", finished_aside_,
		[](const store::Batch &rows) { return store::archive_finished(history_slot(), rows); }, store::finished_ids);
}

/* The safety net for what nobody announced. */
Progress Scheduler::sweep() {
	const SteadyTime began = steady_now();
	if (began < next_sweep_)
		return Progress::done;
	const bool done = attempt("look for tasks that nobody announced", [] {
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
	next_sweep_ = steady_now() + sweep_share * (steady_now() - began);
	return done ? Progress::done : Progress::failed;
}

/* The leaf that is filled changes every seventh part of the retention, so that the one being emptied is old enough. */
Progress Scheduler::turn_history() {
	const int64 retention_us = static_cast<int64>(settings::completed_retention_s) * USECS_PER_SEC;
	int leaf = 0;
	const bool known = attempt("turn the history", [&leaf, retention_us] {
		const TimestampTz now = GetCurrentTimestamp();
		const store::Ring ring = store::history_ring();
		if (retention_us == 0)
			leaf = store::occupied_history();
		else if (ring.since > now + tolerated_step_us)
			store::set_history_ring({ring.slot, now}); /* the clock was set back since */
		else if (time_passed(ring.since, now) >= retention_us / 7)
			leaf = ring.slot % 8 + 1;
	});
	Progress progress = known ? Progress::done : Progress::failed;
	if (held_.leaf != leaf)
		held_ = {.leaf = leaf};
	if (leaf != 0 && !held_.thinning && !empty_leaf(leaf, retention_us > 0)) {
		/* Its readers are let alone for a while. */
		const int64 patience_us = std::clamp<int64>(retention_us / 7, USECS_PER_SEC, USECS_PER_MINUTE);
		const SteadyTime now = steady_now();
		if (held_.since == at_once)
			held_.since = now;
		held_.thinning = now - held_.since >= patience_us;
		if (held_.thinning)
			report_held_leaf();
		progress = Progress::failed;
	}
	if (held_.thinning)
		progress = thin_leaf(retention_us > 0);
	/* Only what is committed is told to others. */
	const bool told = attempt("read the history ring", [this] {
		pg_atomic_write_u32(&slot_->history_slot, static_cast<uint32>(store::history_ring().slot));
	});
	return told ? progress : Progress::failed;
}

/*
 * Nobody shall wait behind us; but where reader follows upon reader, there is never a moment without one: then we wait a
 * little, now and then.
 */
bool Scheduler::empty_leaf(int leaf, bool turn) {
	const SteadyTime now = steady_now();
	const bool patient = held_.since != at_once && now >= held_.next_wait;
	if (patient)
		held_.next_wait = now + longest_retry_us;
	bool locked = false;
	const bool emptied = attempt(
		"empty a leaf of the history",
		[=] {
			if (patient)
				store::empty_history_patiently(leaf);
			else
				store::empty_history(leaf);
			if (turn)
				store::set_history_ring({leaf, GetCurrentTimestamp()});
		},
		Durability::asynchronous, &locked);
	if (emptied)
		held_ = {};
	return emptied;
}

/* What its holder reads goes all the same: retention is a promise, and a lock on a table is no claim to its rows. */
Progress Scheduler::thin_leaf(bool turn) {
	const int leaf = held_.leaf;
	store::Thinned thinned = {};
	bool empty = false;
	const bool done = attempt("remove what the history has kept long enough", [&, this] {
		thinned = store::thin_history(leaf, held_.thinned, batch);
		empty = thinned.count < batch && store::history_is_empty(leaf);
		if (empty && turn)
			store::set_history_ring({leaf, GetCurrentTimestamp()});
	});
	if (!done)
		return Progress::failed;
	if (empty) {
		held_ = {};
		return Progress::done;
	}
	held_.thinned = thinned.count < batch ? 0 : thinned.last;
	return thinned.count < batch ? Progress::failed : Progress::more; /* what is left is locked */
}

void Scheduler::report_held_leaf() {
	const SteadyTime now = steady_now();
	SteadyTime &said_at = complaints_["history"].said_at;
	if (said_at != at_once && now - said_at < complain_every_us)
		return;
	std::string holders;
	const int leaf = held_.leaf;
	if (!attempt("look for those who hold the history",
				 [&holders, leaf] { holders = store::holders_of_history(leaf); }))
		return;
	said_at = now;
	const char *const who = holders.c_str();
	guard([leaf, who] {
		ereport(LOG,
				(errmsg("jobqueue removes old tasks from jobqueue.tasks_history_%d one by one, for it cannot empty the "
						"table at once",
						leaf),
				 errdetail("It is locked by %s.", who)));
	});
}

Progress Scheduler::purge_failed() {
	if (settings::failed_retention_s < 0) {
		failed_aside_.clear();
		return Progress::done;
	}
	const TimestampTz now = GetCurrentTimestamp();
	const TimestampTz before = now - static_cast<int64>(settings::failed_retention_s) * USECS_PER_SEC;
	return batch_step(
		"purge failed tasks", failed_aside_,
		[before](const store::Batch &rows) { return store::purge_failed(before, rows); },
		[before](const store::Batch &rows) { return store::purgeable_ids(before, rows); });
}

/* Keys that were taken for a period which is over: nobody minds them, but they take room. */
Progress Scheduler::remove_expired_keys() {
	return batch_step("remove unique keys whose period is over", keys_aside_, store::remove_expired_keys,
					  store::expired_keys);
}

/* What waits for a time that its expression cannot give by now: the clock was set back since that was computed. */
Progress Scheduler::correct_schedules() {
	const SteadyTime began = steady_now();
	if (began < next_correction_)
		return Progress::done;
	Corrected corrected = {.after = corrected_};
	const bool done = attempt("correct the times of schedules", [&] {
		if (corrected_.empty())
			store::correct_installation(GetCurrentTimestamp());
		corrected = schedules_.correct(corrected_, schedule_batch);
	});
	if (!done)
		return Progress::failed;
	correction_us_ += steady_now() - began;
	if (corrected.any)
		next_schedule_ = DT_NOBEGIN;
	corrected_ = std::move(corrected.after);
	if (corrected.more)
		return Progress::more;
	corrected_.clear();
	next_correction_ = steady_now() + sweep_share * std::exchange(correction_us_, 0);
	return Progress::done;
}

/* Once in a while, as everything that may go on for long. */
void Scheduler::warn_of_room(const Held &who) {
	const SteadyTime now = steady_now();
	SteadyTime &said_at = complaints_["room"].said_at;
	if (said_at != at_once && now - said_at < complain_every_us)
		return;
	said_at = now;
	guard([&who] {
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("jobqueue has no room in shared memory to count more running tasks, or rates"),
				 errdetail("Tasks of groups, and of limited queues and types, wait until others have ended. In queue "
						   "\"%s\", %d running tasks and %d names are counted for the role with OID %u.",
						   who.queue, who.held[0], who.held[1], who.holder.role),
				 errhint("jobqueue.shared_capacity says who holds what.")));
	});
}

Progress Scheduler::count_running() {
	const SteadyTime began = steady_now();
	if (began < next_count_)
		return Progress::done;
	const bool done = attempt("count the running tasks", [this] {
		conditions_.flow.make_ready(slot_, conditions_.configuration, nullptr);
		conditions_.flow.correct_counts();
	});
	next_count_ = steady_now() + sweep_share * (steady_now() - began);
	if (Held who; was_without_room(&who))
		warn_of_room(who);
	return done ? Progress::done : Progress::failed;
}

/* What nobody announced is found, and what can wait is asked for. */
void Scheduler::poll() {
	look_at_all_times();
	look_for_orphans_ = true;
	const SteadyTime now = steady_now();
	for (Chore &chore : chores_)
		if (!chore.backoff.is_failing())
			chore.due = std::min(chore.due, now);
	next_poll_ = now + static_cast<int64>(settings::poll_interval_ms) * 1000;
}

/* At the next turn, before what was asked for by polls. News do not wait for what has failed before. */
void Scheduler::ask_for(Progress (Scheduler::*step)(), bool is_news) {
	for (Chore &chore : chores_)
		if (chore.step == step)
			chore.due = chore.backoff.is_failing() && !is_news ? chore.backoff.not_before() : at_once;
}

/* In turns, a step of each; what is not done when the time is over goes on at the next turn, which is soon. */
void Scheduler::run_chores() {
	const SteadyTime began = steady_now();
	for (;;) {
		const auto first = std::min_element(chores_.begin(), chores_.end(),
											[](const Chore &a, const Chore &b) { return a.due < b.due; });
		const SteadyTime now = steady_now();
		if (first->due > now || now - began >= chores_us)
			return;
		Chore &chore = *first;
		chore.due = never; /* it may ask for itself */
		const Progress progress = (this->*chore.step)();
		if (progress == Progress::failed) {
			chore.backoff.failed(steady_now());
			chore.due = chore.backoff.not_before();
			continue;
		}
		chore.backoff.succeeded();
		if (progress == Progress::more)
			chore.due = std::min(chore.due, steady_now());
		else if (chore.aside != nullptr)
			chore.due = std::min(chore.due, std::max(chore.aside->next_time(), steady_now() + shortest_retry_us));
	}
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
	return unserved_here || std::any_of(database_slots().begin(), database_slots().end(), [](auto &other) {
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
			role->next_start = steady_now() + role->start_delay_us;
		}
		guard([handle] { pfree(handle); });
		return true;
	});
}

/* Every role with work gets a worker, and more as long as all of its workers are busy and there is room. */
void Scheduler::start_workers() {
	watch_started();
	std::stable_sort(roles_.begin(), roles_.end(), [](const auto &a, const auto &b) {
		const auto rank = [](const auto &role) { return role->hungry_since ? role->hungry_since : never; };
		return rank(a) < rank(b);
	});
	SteadyTime hungry_since = 0;
	for (const auto &role : roles_) {
		start_workers_of(*role);
		if (role->hungry_since != 0)
			hungry_since = hungry_since ? std::min(hungry_since, role->hungry_since) : role->hungry_since;
	}
	pg_atomic_write_u64(&slot_->hungry_since, static_cast<uint64>(hungry_since));
	pg_atomic_write_u64(&slot_->waits_since, static_cast<uint64>(hungry_since));
	hungry_since_ = hungry_since;
	if (hungry_since != 0 && steady_now() - hungry_since > shortage_warning_us &&
		pg_atomic_exchange_u32(&slot_->shortage_reported, 1) == 0) {
		in_transaction(Durability::asynchronous, [] {
			guard([] {
				ereport(WARNING,
						(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						 errmsg("jobqueue has had no process for a worker in database \"%s\" for %d seconds; "
								"tasks wait",
								get_database_name(MyDatabaseId), static_cast<int>(shortage_warning_us / USECS_PER_SEC)),
						 errhint("You might need to increase max_worker_processes or jobqueue.max_workers.")));
			});
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
	const SteadyTime now = steady_now();
	const auto patience = std::exchange(role.hungry_since, 0);
	/* A second worker comes after every first one. */
	/* Shared, so that it outlives us; and kept, to be slept until. */
	role.next_start = std::max(role.next_start, guard([&role] { return next_worker_at(MyDatabaseId, role.oid); }));
	if (waiting || settings::max_workers == 0 || workers >= role.max_workers || now < role.next_start ||
		(workers > 0 && (now < role.next_colleague || !is_turn_of(PG_UINT64_MAX))))
		return;
	if (!role.claimer.absorb(role.scope))
		return;
	bool work = false;
	attempt("look for work", [&] { work = role.claimer.has_work(role.scope, conditions_); });
	/* Where that takes long, for what a tenant has made of his tasks, others do not wait for it again and again. */
	const int64 took = steady_now() - now;
	const SteadyTime next_look = took > chores_us ? now + look_share * took : at_once;
	if (workers > 0)
		role.next_colleague = std::max(role.next_colleague, next_look);
	if (!work) {
		role.next_start = std::max(role.next_start, next_look);
		return;
	}
	if (roles_read_ != roles_generation()) { /* may the role still be served? */
		if (!configure_backoff_.is_failing()) {
			pg_atomic_write_u32(&slot_->wanted, 1);
			SetLatch(MyLatch);
		}
		return;
	}
	busy_at_ = now;
	if (workers > 0 && is_last_place(role)) {
		role.next_colleague = now + USECS_PER_SEC;
		return;
	}
	/* Whatever the database has waited for before counts. */
	const auto waited = static_cast<SteadyTime>(pg_atomic_read_u64(&slot_->waits_since));
	const SteadyTime since = patience ? patience : waited != 0 && workers == 0 ? std::min(waited, now) : now;
	if (is_turn_of(static_cast<uint64>(since)) && start_worker_for(role)) {
		if (workers == 0)
			pg_atomic_write_u64(&shared()->starved_at, 0);
	} else if (workers == 0) {
		role.hungry_since = since;
		make_room(MyDatabaseId, static_cast<uint64>(since));
	} else {
		role.next_colleague = now + USECS_PER_SEC;
		make_room_if_idle();
	}
}

void Scheduler::notify() {
	const SteadyTime now = steady_now();
	if (settings::notify_mode != static_cast<int>(NotifyMode::coalesced))
		to_notify_.clear();
	if (!to_notify_.empty()) {
		if (now < std::max(notified_at_ + notify_interval_us, notify_backoff_.not_before()))
			return;
		const bool sent = attempt("send NOTIFY", [this] {
			for (const std::string &queue : to_notify_) {
				const char *const payload = queue.c_str();
				guard([payload] { Async_Notify("task_queue", payload); });
			}
		});
		if (!sent) {
			notify_backoff_.failed(steady_now());
			return;
		}
		notify_backoff_.succeeded();
		to_notify_.clear();
		notified_at_ = steady_now();
	}
	pg_atomic_write_u64(&slot_->notified, position_);
}

/* When a task that was set aside, and is no chore's, is tried again. */
SteadyTime Scheduler::next_of_aside() const {
	return std::min({due_aside_.next_time(), leases_aside_.next_time(), dependents_aside_.next_time()});
}

/*
 * May the process end? Leaves behind when it must be back. Who is asked to make room for others has looked at everything
 * once, and may do so whatever there is to do: it comes back when it is its turn, and workers do without it meanwhile.
 */
bool Scheduler::may_retire() {
	const bool asked = pg_atomic_read_u32(&slot_->retire) != 0;
	bool unfinished = configure_backoff_.is_failing();
	bool aside = next_of_aside() != never; /* who comes next finds out anew, and says so */
	for (const Chore &chore : chores_) {
		const bool has_aside = chore.aside != nullptr && chore.aside->next_time() != never;
		aside |= has_aside;
		unfinished |= chore.due != never && !has_aside;
	}
	if (asked ? !started_.empty()
			  : unfinished || aside || !to_notify_.empty() || !ended_.empty() || !ended_again_.empty() ||
					has_workers(MyDatabaseId) || pg_atomic_read_u32(&slot_->wanted) != 0 || hungry_since_ != 0)
		return false;
	const bool nothing =
		roles_.empty() && next_due_ == DT_NOEND && next_lease_ == DT_NOEND && next_schedule_ == DT_NOEND;
	const SteadyTime now = steady_now();
	if (!asked && !(nothing && now - busy_at_ >= static_cast<int64>(settings::worker_idle_timeout_s) * USECS_PER_SEC))
		return false;
	/* Where processes are short, the safety net comes round more rarely; what is announced brings it back at once. */
	constexpr int64 absence_us = USECS_PER_MINUTE;
	const TimestampTz wall = GetCurrentTimestamp();
	TimestampTz back = std::min({next_due_, next_lease_, next_schedule_});
	const auto back_in = [&back, now, wall](SteadyTime then) {
		if (then != never)
			back = std::min(back, wall + time_left(now, then, longest_sleep_us));
	};
	back_in(next_overdue_);
	for (const auto &role : roles_)
		if (now < role->next_start)
			back_in(role->next_start);
	if (hungry_since_ != 0 || !to_notify_.empty() || !ended_.empty() || !ended_again_.empty())
		back = wall;
	else if (unfinished)
		back = std::min(back, wall + USECS_PER_SEC);
	else if (!roles_.empty() || aside)
		back = std::min(back, wall + absence_us);
	if (!orphans_.empty()) /* what is known of them goes with us: nobody is charged */
		pg_atomic_write_u32(&slot_->interrupted, 1);
	/* What has not been seen to is found by the next one. NOTIFYs are: it reads on where the latest were sent. */
	ended_.add(ended_again_);
	add_ended(slot_, ended_);
	pg_atomic_write_u64(&slot_->next_run, static_cast<uint64>(back));
	return true;
}

/* "looked_at": what was too early then is waited for. */
int64 Scheduler::sleep_ms(SteadyTime looked_at) {
	/* While it starts others only wake the launcher, and a lock that it waited for may have taken their wake-up. */
	pg_memory_barrier();
	if (pg_atomic_read_u32(&slot_->wanted) != 0)
		return 0;
	if (configure_backoff_.is_failing() && !OidIsValid(extension_))
		return sleep_ms_until(DT_NOEND, configure_backoff_.not_before());
	if (!ended_.empty())
		return 0;
	SteadyTime until = std::min({next_poll_, next_overdue_, resolve_again_, narrow_at_, next_of_aside()});
	if (configure_backoff_.is_failing())
		until = std::min(until, configure_backoff_.not_before());
	for (const Chore &chore : chores_)
		until = std::min(until, chore.due);
	if (!to_notify_.empty())
		until = std::min(until, std::max(notified_at_ + notify_interval_us, notify_backoff_.not_before()));
	const SteadyTime now = steady_now();
	for (const auto &role : roles_)
		for (const SteadyTime next : {role->next_colleague, role->next_start, role->claimer.next_time()})
			if (next > looked_at)
				until = std::min(until, next);
	if (hungry_since_ != 0) {
		until = std::min(until, now + std::clamp<int64>((now - hungry_since_) / 10, 20000, USECS_PER_SEC / 2));
	}
	return sleep_ms_until(std::min({next_due_, next_lease_, next_schedule_}), until);
}

SchedulerState Scheduler::run() {
	std::exception_ptr problem;
	try {
		return work();
	} catch (...) {
		problem = std::current_exception();
	}
	/* DROP EXTENSION pulls the tables away while we work: no reason to make noise. */
	if (is_installed(extension_))
		std::rethrow_exception(problem);
	return SchedulerState::none;
}

SchedulerState Scheduler::work() {
	guard(watch_roles);
	/* Nobody's open transaction shall stop it: what is locked is tried again later. */
	guard([] { SetConfigOption("lock_timeout", "100ms", PGC_SUSET, PGC_S_OVERRIDE); });
	for (;;) {
		guard([] { CHECK_FOR_INTERRUPTS(); });
		if (pg_atomic_read_u32(&slot_->let_go) != 0)
			return SchedulerState::none;
		pg_atomic_write_u32(&slot_->wanted, 0);
		pg_memory_barrier();
		const SteadyTime looked_at = steady_now();
		watch_clock();
		if (looked_at >= configure_backoff_.not_before() &&
			(configure_backoff_.is_failing() || configuration_ != pg_atomic_read_u64(&slot_->configuration) ||
			 roles_read_ != roles_generation() || looked_at >= next_poll_)) {
			if (const std::optional<SchedulerState> over = configure())
				return *over;
		}
		if (OidIsValid(extension_)) { /* else it is not known yet what there is to do */
			do_all(looked_at);
			if (may_retire())
				return SchedulerState::retired;
		}
		const bool reloaded = guard([this, looked_at] {
			pgstat_report_stat(false);
			report_idle();
			return wait_for_news(sleep_ms(looked_at));
		});
		if (reloaded)
			next_poll_ = at_once;
		const int64 since = steady_now() - looked_at;
		const int64 shortest = looked_at - resolved_at_ < resolving_us ? shortest_resolution_us : shortest_look_us;
		if (since < shortest)
			pg_usleep(static_cast<long>(shortest - since));
	}
}

/* What somebody may wait for, to the second. */
void Scheduler::do_what_is_due() {
	read_due();
	fire_schedules();
	promote_and_expire();
}

/* All that there is to do now, none of which may take long. */
void Scheduler::do_all(SteadyTime looked_at) {
	read_announcements();
	if (looked_at >= next_poll_)
		poll();
	if (pg_atomic_read_u32(&slot_->orphans) != 0)
		ask_for(&Scheduler::recover_orphans, true);
	if (pg_atomic_read_u32(&slot_->by_hand) != 0)
		ask_for(&Scheduler::archive);
	resolve_dependencies();
	run_chores();
	do_what_is_due();
	watch_overdue();
	const SteadyTime began = steady_now();
	start_workers();
	if (steady_now() - began > chores_us)
		do_what_is_due();
	notify();
}

/* However the process ends. C region. */
void leave(int, Datum arg) {
	DatabaseSlot *slot = database_slot(DatumGetInt32(arg));
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
	DatabaseSlot *slot = database_slot(index);
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
	DatabaseSlot *slot = database_slot(DatumGetInt32(arg));
	pin_settings();
	compat::connect_as_superuser(database);
	pgstat_report_appname("jobqueue scheduler");
	const SchedulerState last = boundary([slot] { return Scheduler(slot).run(); });
	pg_atomic_write_u32(&slot->state, static_cast<uint32>(last));
	proc_exit(0);
}
