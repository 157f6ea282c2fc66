/*
 * scheduler.cpp -- the scheduler of one database: a loop over its chores (chore.hpp).
 *
 * Started by the launcher. Entry is C, behind boundary(); everything else is a C++ region but for the callbacks. The
 * process is connected as the bootstrap superuser, runs only our own statements in a Session, and no user's code.
 */
#include "server/scheduler/configuration.hpp"
#include "server/scheduler/crash_recovery.hpp"
#include "server/scheduler/dependency_resolution.hpp"
#include "server/scheduler/due_tasks.hpp"
#include "server/scheduler/history.hpp"
#include "server/scheduler/housekeeping.hpp"
#include "server/scheduler/leases.hpp"
#include "server/scheduler/notifications.hpp"
#include "server/scheduler/overdue_handlers.hpp"
#include "server/scheduler/schedule_firing.hpp"
#include "server/scheduler/worker_pool.hpp"

#include "pg/compat.hpp"
#include "pg/own_settings.hpp"
#include "pg/settings.hpp"
#include "shared/transaction_notes.hpp"
#include "shared/wake_ups.hpp"
#include "shared/workers.hpp"

namespace jobqueue::scheduler {

bool is_installed(Oid extension) {
	try {
		return in_transaction(Durability::asynchronous, [extension] {
			const std::optional<Extension> found = installed_extension();
			return found && (!OidIsValid(extension) || found->oid == extension);
		});
	} catch (const PgError &) {
		return true; /* pg_extension is locked */
	}
}

namespace {

/* A turn takes at least so many microseconds: so one turn serves all transactions that commit meanwhile. */
constexpr int64 shortest_turn_us = 10 * USECS_PER_SEC / 1000;
/* While a chain of tasks that wait for each other is active, turns are shorter: each of the tasks needs a turn. */
constexpr int64 shortest_active_turn_us = 1000;
/* Chores that can wait have so much of each turn at least: short steps share it, otherwise each would cost a turn. */
constexpr int64 least_for_waiting_us = step_us / 4;
/* And this part of the time that prompt chores have had. */
constexpr int64 waiting_share = 4;
/* A clock that is set by less is not reported. */
constexpr int64 reported_clock_step_us = 10 * USECS_PER_SEC;
/* A scheduler that has made room for other processes is back after this time to poll; news bring it back at once. */
constexpr int64 absence_us = USECS_PER_MINUTE;

class Scheduler {
public:
	explicit Scheduler(DatabaseSlot *slot) : db_(slot) {}
	/* Returns the state to leave behind. */
	SchedulerState run();

private:
	SchedulerState work();
	void watch_clock();
	void poll();
	void run_chores();
	Chore *next_in_turn();
	bool may_retire();
	Unfinished unfinished() const noexcept;
	TimestampTz back_at(Unfinished unfinished) const;
	int64 sleep_ms() const;

	ServedDatabase db_;
	ClockWatch clock_;
	SteadyTime next_poll_ = at_once;

	CrashRecovery crash_recovery_{db_};
	DependencyResolution dependency_resolution_{db_};
	ScheduleFiring schedule_firing_{db_};
	DueTasks due_tasks_{db_};
	LatestDueTasks latest_due_tasks_{db_, due_tasks_};
	Leases leases_{db_};
	OverdueHandlers overdue_handlers_{db_};
	WorkerPool worker_pool_{db_};
	Notifications notifications_{db_};
	RunningCounts running_counts_{db_};
	DependencySweep dependency_sweep_{db_, dependency_resolution_};
	Archive archive_{db_};
	History history_{db_};
	FailedRetention failed_retention_{db_};
	ExpiredKeys expired_keys_{db_};
	ScheduleCorrection schedule_correction_{db_, schedule_firing_};
	UnannouncedTasks unannounced_tasks_{db_};
	/* In the order in which they run if due at the same time: workers start after chores that bring tasks to queues. */
	const std::array<Chore *, 17> chores_ = {
		&crash_recovery_,	 &dependency_resolution_,
		&schedule_firing_,	 &due_tasks_,
		&latest_due_tasks_,	 &leases_,
		&overdue_handlers_,	 &worker_pool_,
		&notifications_,	 &running_counts_,
		&dependency_sweep_,	 &archive_,
		&history_,			 &failed_retention_,
		&expired_keys_,		 &schedule_correction_,
		&unannounced_tasks_,
	};

	Configuration configuration_{db_, worker_pool_};
};

/* If the wall clock was set, all chores that wait for a time of it look at it again. */
void Scheduler::watch_clock() {
	const int64 step = clock_.look();
	if (step == 0)
		return;
	atomic_min(&db_.slot->served_since, static_cast<uint64>(GetCurrentTimestamp()));
	for (Chore *chore : chores_)
		chore->clock_was_set();
	if (step < reported_clock_step_us && step > -reported_clock_step_us)
		return;
	guard([step] {
		ereport(LOG, (errmsg("jobqueue noticed that the clock was set %s by " INT64_FORMAT " seconds",
							 step < 0 ? "back" : "forward", (step < 0 ? -step : step) / USECS_PER_SEC)));
	});
}

void Scheduler::poll() {
	for (Chore *chore : chores_)
		chore->poll();
	next_poll_ = steady_now() + static_cast<int64>(settings::poll_interval_ms) * 1000;
}

/* The chore that has waited longest, of those that can wait and are due. */
Chore *Scheduler::next_in_turn() {
	Chore *next = nullptr;
	for (Chore *chore : chores_)
		if (chore->urgency() == Urgency::in_turns && chore->due().has_come() &&
			(!next || chore->ran_at() < next->ran_at()))
			next = chore;
	return next;
}

/*
 * Runs a step of each prompt chore that is due, and then steps of chores that can wait. So whatever one chore has to
 * do, the others wait for a step of it, and not for several turns.
 */
void Scheduler::run_chores() {
	const auto due_at = static_cast<TimestampTz>(pg_atomic_exchange_u64(&db_.slot->due_at, PG_INT64_MAX));
	for (Chore *chore : chores_) {
		chore->time_was_announced(due_at == all_due ? DT_NOBEGIN : due_at);
		chore->look_for_news();
	}
	const SteadyTime began = steady_now();
	for (Chore *chore : chores_)
		if (chore->urgency() == Urgency::prompt && chore->due().has_come())
			chore->run();
	const SteadyTime now = steady_now();
	const SteadyTime until = now + std::max(least_for_waiting_us, (now - began) / waiting_share);
	while (Chore *const chore = next_in_turn()) {
		chore->run();
		if (steady_now() >= until)
			break;
	}
}

Unfinished Scheduler::unfinished() const noexcept {
	Unfinished all = configuration_.next() == never ? Unfinished::nothing : Unfinished::some;
	for (const Chore *chore : chores_)
		all = std::max(all, chore->unfinished());
	return all;
}

TimestampTz Scheduler::back_at(Unfinished unfinished) const {
	const SteadyTime now = steady_now();
	const TimestampTz wall = GetCurrentTimestamp();
	TimestampTz back = DT_NOEND;
	for (const Chore *chore : chores_) {
		const DueTime next = chore->next();
		back = std::min(back, next.wall);
		if (next.steady != never)
			back = std::min(back, wall + time_left(now, next.steady, longest_sleep_us));
	}
	switch (unfinished) {
	case Unfinished::urgent:
		return wall;
	case Unfinished::some:
		return std::min(back, wall + USECS_PER_SEC);
	case Unfinished::set_aside:
		return std::min(back, wall + absence_us);
	case Unfinished::nothing:
		break;
	}
	return worker_pool_.has_roles() ? std::min(back, wall + absence_us) : back;
}

/*
 * May the process end? If so, it notes when it must be back. A scheduler that is asked to make room for others has
 * looked at everything once, and may end whatever there is to do: it comes back when it is its turn, and workers go on
 * without it meanwhile.
 */
bool Scheduler::may_retire() {
	const Unfinished unfinished = this->unfinished();
	const TimestampTz back = back_at(unfinished);
	if (pg_atomic_read_u32(&db_.slot->retire) != 0) {
		if (worker_pool_.has_starting())
			return false;
	} else {
		const int64 idle_us = static_cast<int64>(settings::worker_idle_timeout_s) * USECS_PER_SEC;
		if (unfinished != Unfinished::nothing || worker_pool_.has_roles() || back != DT_NOEND ||
			has_workers(MyDatabaseId) || pg_atomic_read_u32(&db_.slot->wanted) != 0 ||
			steady_now() - db_.busy_at < idle_us)
			return false;
	}
	for (Chore *chore : chores_)
		chore->leave();
	pg_atomic_write_u64(&db_.slot->next_run, static_cast<uint64>(back));
	return true;
}

int64 Scheduler::sleep_ms() const {
	/* While this process starts, others wake only the launcher; and a wait for a lock may have used up a wake-up. */
	pg_memory_barrier();
	if (pg_atomic_read_u32(&db_.slot->wanted) != 0)
		return 0;
	if (!OidIsValid(db_.extension))
		return sleep_ms_until(DT_NOEND, configuration_.next());
	DueTime first{.steady = std::min(next_poll_, configuration_.next())};
	for (const Chore *chore : chores_) {
		const DueTime due = chore->due();
		first.wall = std::min(first.wall, due.wall);
		first.steady = std::min(first.steady, due.steady);
	}
	return sleep_ms_until(first.wall, first.steady);
}

SchedulerState Scheduler::run() {
	std::exception_ptr problem;
	try {
		return work();
	} catch (...) {
		problem = std::current_exception();
	}
	/* DROP EXTENSION may remove the tables while the chores run: that is no error. */
	if (is_installed(db_.extension))
		std::rethrow_exception(problem);
	return SchedulerState::none;
}

SchedulerState Scheduler::work() {
	guard(watch_roles);
	/* No open transaction may stop the scheduler: what is locked is tried again later. */
	guard([] { SetConfigOption("lock_timeout", "100ms", PGC_SUSET, PGC_S_OVERRIDE); });
	for (;;) {
		guard([] { CHECK_FOR_INTERRUPTS(); });
		if (pg_atomic_read_u32(&db_.slot->let_go) != 0)
			return SchedulerState::none;
		pg_atomic_write_u32(&db_.slot->wanted, 0);
		pg_memory_barrier();
		const SteadyTime began = steady_now();
		watch_clock();
		if (configuration_.is_due(began >= next_poll_))
			if (const std::optional<SchedulerState> state = configuration_.read())
				return *state;
		if (OidIsValid(db_.extension)) { /* else it is not known yet what there is to do */
			if (began >= next_poll_)
				poll();
			run_chores();
			if (may_retire())
				return SchedulerState::retired;
		}
		const bool reloaded = guard([this] {
			pgstat_report_stat(false);
			report_idle();
			return wait_for_news(sleep_ms());
		});
		if (reloaded)
			next_poll_ = at_once;
		const int64 took = steady_now() - began;
		const int64 shortest = dependency_resolution_.is_active() ? shortest_active_turn_us : shortest_turn_us;
		if (took < shortest)
			pg_usleep(static_cast<long>(shortest - took));
	}
}

/* Called at the end of the process, however it ends. C region. */
void leave(int, Datum arg) {
	DatabaseSlot *slot = database_slot(DatumGetInt32(arg));
	LWLockAcquire(shared()->lock, LW_EXCLUSIVE);
	if (pg_atomic_read_u32(&slot->scheduler_pid) == static_cast<uint32>(MyProcPid)) {
		pg_atomic_write_u32(&slot->scheduler_pid, 0);
		pg_atomic_write_u32(&slot->scheduler_procno, static_cast<uint32>(no_procno));
		pg_atomic_write_u32(&slot->retire, 0);
		pg_atomic_write_u64(&slot->role_waiting_since, 0);
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
} // namespace jobqueue::scheduler

extern "C" PGDLLEXPORT void jobqueue_scheduler_main(Datum arg);

extern "C" void jobqueue_scheduler_main(Datum arg) {
	using namespace jobqueue;
	Oid database;
	memcpy(&database, MyBgworkerEntry->bgw_extra, sizeof(database));
	prepare_process(on_lock_timeout);
	if (shared() == nullptr || !scheduler::attach(DatumGetInt32(arg), database))
		proc_exit(0);
	DatabaseSlot *slot = database_slot(DatumGetInt32(arg));
	pin_settings();
	compat::connect_as_superuser(database);
	pgstat_report_appname("jobqueue scheduler");
	const SchedulerState last = boundary([slot] { return scheduler::Scheduler(slot).run(); });
	pg_atomic_write_u32(&slot->state, static_cast<uint32>(last));
	proc_exit(0);
}
