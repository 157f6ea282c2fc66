/*
 * launcher.cpp -- the life of the launcher as a process, and which scheduler starts next. See launcher.hpp.
 *
 * After a start the launcher looks into every database once, one at a time: it starts a scheduler there, which ends at
 * once if the extension is not installed. Later it is told about CREATE EXTENSION, CREATE DATABASE and similar commands
 * at their commit. Entry is C, behind boundary(); everything else is a C++ region.
 */
#include "server/launcher.hpp"
#include "server/processes.hpp"

#include "pg/clock.hpp"
#include "pg/compat.hpp"
#include "pg/debug.hpp"
#include "pg/own_settings.hpp"
#include "pg/settings.hpp"
#include "shared/databases.hpp"
#include "shared/flight_recorder.hpp"
#include "shared/process_room.hpp"
#include "shared/wake_ups.hpp"
#include "shared/workers.hpp"

#include <signal.h>

namespace jobqueue {

static constexpr int64 shortest_delay_us = 100000;
/* The longest delay of a scheduler that ends again and again, each time with a line in the log. */
static constexpr int64 longest_delay_us = 5 * USECS_PER_SEC;
/* A scheduler that lived for so long did not fail at its start: the next one has the shortest delay. */
static constexpr int64 long_life_us = 10 * USECS_PER_SEC;
static constexpr int64 shortest_short_delay_us = 20000; /* while there is no free process */
/* Other databases wait no longer for a scheduler that cannot look for the extension because a catalog is locked. */
static constexpr int64 longest_probe_us = 2 * USECS_PER_SEC;
/* A scheduler that wants a worker may have waited longer than any database. It comes first, but only for so long. */
static constexpr int64 longest_courtesy_us = 2 * USECS_PER_SEC;

/* Says at DEBUG1 what the launcher does about a database, and why. */
static void debug(Oid database, const char *what) {
	if (is_debugging(DEBUG1))
		guard([database, what] { ereport(DEBUG1, (errmsg_internal("database %u: %s", database, what))); });
}

/* Is the scheduler of this database still finding out whether the extension is there? */
bool Launcher::is_probing(const Child &child) {
	DatabaseSlot *slot = guard([&child] { return find_database(child.database); });
	return child.probe && child.handle != nullptr && slot && scheduler_state(slot) == SchedulerState::starting &&
		   steady_now() - child.started_at < longest_probe_us;
}

/* Takes note of the schedulers that have ended, and forgets databases that need none. */
void Launcher::reap() {
	const SteadyTime now = steady_now();
	for (Child &child : children_) {
		if (child.handle == nullptr)
			continue;
		BackgroundWorkerHandle *const handle = child.handle;
		const BgwHandleStatus status = guard([handle] {
			pid_t pid;
			return GetBackgroundWorkerPid(handle, &pid);
		});
		if (status != BGWH_STOPPED)
			continue;
		guard([handle] { pfree(handle); });
		child.handle = nullptr;
		DatabaseSlot *slot = guard([&child] { return find_database(child.database); });
		const SchedulerState state = slot ? scheduler_state(slot) : SchedulerState::absent;
		const bool let_go = slot && pg_atomic_read_u32(&slot->interruptions) != child.interruptions;
		/* Its wait is over: it had a process. But one that has left to make room for others has not lost its turn. */
		if (slot && !let_go && state != SchedulerState::retired)
			pg_atomic_write_u64(&slot->database_waiting_since, 0);
		if (!let_go && (state == SchedulerState::none || state == SchedulerState::starting)) {
			/* The scheduler failed, or it was terminated. */
			if (slot)
				pg_atomic_write_u32(&slot->state, static_cast<uint32>(SchedulerState::none));
			child.delay_us = now - child.started_at > long_life_us
								 ? shortest_delay_us
								 : std::clamp(child.delay_us * 2, shortest_delay_us, longest_delay_us);
			child.not_before = now + child.delay_us;
			debug(child.database, "its scheduler failed, or was terminated; the next one starts after a while");
			next_scan_ = at_once; /* is the database still there? */
		} else {
			if (state == SchedulerState::starting)
				pg_atomic_write_u32(&slot->state, static_cast<uint32>(SchedulerState::none));
			child.delay_us = 0;
			child.not_before = at_once;
			debug(child.database,
				  let_go							? "its scheduler has left to free the database"
				  : state == SchedulerState::absent ? "its scheduler has ended: the extension is not there"
				  : state == SchedulerState::paused ? "its scheduler has ended: tasks are paused there"
													: "its scheduler has ended: there is nothing to do");
		}
	}
	std::erase_if(children_, [this](const Child &child) {
		if (child.parked)
			return false;
		DatabaseSlot *slot = guard([&child] { return find_database(child.database); });
		if (child.handle != nullptr ||
			(slot && (scheduler_state(slot) != SchedulerState::absent || pg_atomic_read_u32(&slot->wanted) != 0)))
			return false;
		if (slot)
			guard([slot] { release_database(slot); });
		/* A backend that announces now finds the slot gone and asks for another look; or its "wanted" is seen here. */
		pg_memory_barrier();
		const bool announced = slot && pg_atomic_read_u32(&slot->wanted) != 0;
		(announced ? unknown_ : absent_).push_back(child.database);
		return true;
	});
}

bool Launcher::needs_scheduler(Child &child, DatabaseSlot *slot, SteadyTime now) {
	if (child.handle != nullptr || now < child.not_before)
		return false;
	if (const uint32 pid = pg_atomic_read_u32(&slot->let_go)) {
		if (kill(static_cast<pid_t>(pid), 0) == 0 || errno != ESRCH)
			return false;
		pg_atomic_write_u32(&slot->let_go, 0); /* the backend that needed the database free is gone */
	}
	const bool wanted = pg_atomic_read_u32(&slot->wanted) != 0;
	switch (scheduler_state(slot)) {
	case SchedulerState::none:
		return true;
	case SchedulerState::retired:
		return wanted || static_cast<TimestampTz>(pg_atomic_read_u64(&slot->next_run)) <= GetCurrentTimestamp();
	case SchedulerState::absent:
		return wanted;
	case SchedulerState::paused:
		/* An announcement starts no scheduler here. It is reset, so that the next one wakes the launcher again. */
		if (wanted) {
			child.announced_at = now;
			child.vain_looks = 0;
		}
		pg_atomic_write_u32(&slot->wanted, 0);
		pg_memory_barrier();
		return pg_atomic_read_u64(&slot->configuration) != pg_atomic_read_u64(&slot->paused_configuration) ||
			   now - child.started_at >= look_interval_us(child);
	default:
		return false;
	}
}

/* Finds out which databases need a scheduler, and since when. */
void Launcher::find_wants(SteadyTime now) {
	const TimestampTz wall = GetCurrentTimestamp();
	for (Child &child : children_) {
		DatabaseSlot *slot = guard([&child] { return find_database(child.database); });
		if (child.parked && slot == nullptr && (child.next_run <= wall || child.next_look <= now) &&
			child.handle == nullptr) {
			slot = guard([&child] { return attach_database(child.database); });
			if (slot == nullptr) { /* all slots are taken: another database must give one up */
				debug(child.database, "it needs a scheduler, and waits for a slot in shared memory");
				child.wants_since = child.wants_since != 0 ? child.wants_since : now;
				continue;
			}
		}
		if (child.parked && slot != nullptr)
			unpark(child, slot);
		if (slot == nullptr || !needs_scheduler(child, slot, now)) {
			child.wants_since = 0;
			continue;
		}
		/* A database that waited, and then made room for others, has not lost its turn. */
		const auto waited = static_cast<SteadyTime>(pg_atomic_read_u64(&slot->database_waiting_since));
		if (child.wants_since == 0)
			child.wants_since = waited != 0 ? std::min(waited, now) : now;
	}
}

/* False if there is no free process. */
bool Launcher::start_one(Child &child, DatabaseSlot *slot, SteadyTime now) {
	const SchedulerState before = scheduler_state(slot);
	const uint64 next_run = pg_atomic_read_u64(&slot->next_run);
	child.interruptions = pg_atomic_read_u32(&slot->interruptions);
	pg_atomic_write_u64(&slot->next_run, PG_INT64_MAX);
	pg_atomic_write_u32(&slot->retire, 0);
	pg_atomic_write_u64(&slot->database_waiting_since, static_cast<uint64>(child.wants_since));
	pg_atomic_write_u64(&slot->scheduler_since, static_cast<uint64>(now));
	pg_atomic_write_u32(&slot->state, static_cast<uint32>(SchedulerState::starting));
	child.handle = guard([slot] {
		MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
		BackgroundWorkerHandle *handle = start_scheduler(slot);
		MemoryContextSwitchTo(caller);
		return handle;
	});
	if (child.handle != nullptr) {
		debug(child.database, "a scheduler starts");
		child.vain_looks += before == SchedulerState::paused;
		child.started_at = now;
		child.wants_since = 0;
		return true;
	}
	pg_atomic_write_u64(&slot->next_run, next_run);
	pg_atomic_write_u32(&slot->state, static_cast<uint32>(before));
	return false;
}

void Launcher::start(SteadyTime now) {
	/* A backend that announces something takes a slot for its database, which the launcher may not know yet. */
	for (DatabaseSlot &slot : database_slots()) {
		const Oid database = pg_atomic_read_u32(&slot.database);
		if (!OidIsValid(database) || child_of(database) != nullptr)
			continue;
		std::erase(absent_, database);
		std::erase(unknown_, database);
		children_.push_back({.database = database, .probe = false});
	}
	share_slots(now);
	/* Only one unknown database is looked into at a time. */
	const bool probing =
		std::any_of(children_.begin(), children_.end(), [this](const Child &child) { return is_probing(child); });
	bool lacks_slot = false;
	if (!probing && !unknown_.empty()) {
		const Oid database = unknown_.back();
		if (guard([database] { return attach_database(database); }) != nullptr) {
			unknown_.pop_back();
			children_.push_back({.database = database});
		} else {
			lacks_slot = true;
		}
	}
	find_wants(now);
	warn_of_shortage(now);
	if (now < next_start_)
		return;
	/* The database that has waited longest comes first. */
	std::vector<Child *> waiting;
	for (Child &child : children_)
		if (child.wants_since != 0)
			waiting.push_back(&child);
	std::stable_sort(waiting.begin(), waiting.end(),
					 [](const Child *a, const Child *b) { return a->wants_since < b->wants_since; });
	for (Child *child : waiting) {
		const auto since = static_cast<uint64>(child->wants_since);
		DatabaseSlot *slot = guard([child] { return find_database(child->database); });
		if (slot == nullptr) {
			lacks_slot = true;
			continue;
		}
		bool others_first = false;
		if (!all_places_taken()) {
			pg_atomic_write_u64(&shared()->launcher_waiting_since, since);
			others_first = !is_turn_of(since);
		}
		if (!others_first)
			courteous_since_ = 0;
		else if (courteous_since_ == 0)
			courteous_since_ = now;
		if ((!others_first || now - courteous_since_ > longest_courtesy_us) && start_one(*child, slot, now)) {
			courteous_since_ = 0;
			short_delay_us_ = 0;
			pg_atomic_write_u64(&shared()->launcher_waiting_since, 0);
			continue;
		}
		/* The scheduler cannot start now: make room if no process is free, and try again after a growing delay. */
		debug(child->database, others_first ? "its scheduler waits: others have waited longer for a process"
											: "its scheduler waits: there is no free process");
		pg_atomic_write_u64(&shared()->launcher_waiting_since, since);
		if (others_first)
			for (DatabaseSlot &other : database_slots())
				if (const uint64 waiting_since = pg_atomic_read_u64(&other.role_waiting_since);
					waiting_since != 0 && waiting_since < since)
					wake_scheduler(&other);
		if (!others_first)
			make_room(InvalidOid, since);
		short_delay_us_ = std::clamp<int64>(short_delay_us_ * 2, shortest_short_delay_us, USECS_PER_SEC / 2);
		next_start_ = now + short_delay_us_;
		return;
	}
	/* No database waits for a process now. */
	pg_atomic_write_u64(&shared()->launcher_waiting_since, 0);
	if (lacks_slot) {
		warn_of_slots();
		make_room(InvalidOid, static_cast<uint64>(now));
		next_start_ = now + USECS_PER_SEC / 2;
	} else if (unknown_.empty() && !probing) {
		say_what_is_needed();
	}
}

void Launcher::run() {
	say_the_least();
	for (;;) {
		guard([] { CHECK_FOR_INTERRUPTS(); });
		pg_atomic_write_u32(&shared()->launcher_wanted, 0);
		pg_memory_barrier();
		/* In this order: a dropped database, whose scheduler has ended, is forgotten before start() looks at it. */
		reap();
		const uint32 rescan = pg_atomic_exchange_u32(&shared()->rescan, 0);
		if (rescan == static_cast<uint32>(Rescan::from_scratch)) {
			absent_.clear();
			look_at_parked();
		}
		if (rescan != 0 || steady_now() >= next_scan_)
			scan();
		watch_clock();
		/* One reading of the clock for both: what start() finds too early, the sleep waits for. */
		const SteadyTime now = steady_now();
		start(now);
		SteadyTime until = next_scan_;
		TimestampTz wall_until = DT_NOEND;
		for (const Child &child : children_) {
			DatabaseSlot *slot = guard([&child] { return find_database(child.database); });
			if (child.wants_since != 0) {
				until = std::min(until, std::max(next_start_, now + shortest_short_delay_us));
				continue;
			}
			if (child.parked && slot == nullptr) {
				until = std::min(until, child.next_look);
				wall_until = std::min(wall_until, child.next_run);
			}
			if (child.handle != nullptr || slot == nullptr)
				continue;
			if (child.not_before > now)
				until = std::min(until, child.not_before);
			else if (scheduler_state(slot) == SchedulerState::retired)
				wall_until = std::min(wall_until, static_cast<TimestampTz>(pg_atomic_read_u64(&slot->next_run)));
			else if (scheduler_state(slot) == SchedulerState::paused)
				until = std::min(until, child.started_at + look_interval_us(child));
			else if (pg_atomic_read_u32(&slot->let_go) != 0)
				until = std::min(until, now + USECS_PER_SEC);
		}
		if (next_start_ > now)
			until = std::min(until, next_start_);
		if (!unknown_.empty() && next_start_ <= now &&
			std::none_of(children_.begin(), children_.end(), [this](const Child &child) { return is_probing(child); }))
			until = now;
		else if (!unknown_.empty())
			until = std::min(until, now + longest_probe_us);
		/* A wait for a lock may have consumed the wake-up meanwhile. */
		pg_memory_barrier();
		if (pg_atomic_read_u32(&shared()->launcher_wanted) != 0)
			until = now;
		guard([until, wall_until] { wait_for_news(sleep_ms_until(wall_until, until)); });
	}
}

static void leave(int, Datum) {
	pg_atomic_write_u32(&shared()->launcher_procno, static_cast<uint32>(no_procno));
	pg_atomic_write_u64(&shared()->launcher_waiting_since, 0);
}

/* Schedulers of a launcher that died still run. They are ended, so that no database gets a second one. */
static void stop_strays() {
	for (DatabaseSlot &slot : database_slots()) {
		const uint32 pid = pg_atomic_read_u32(&slot.scheduler_pid);
		if (pid != 0)
			kill(static_cast<pid_t>(pid), SIGTERM);
	}
}

} // namespace jobqueue

extern "C" PGDLLEXPORT void jobqueue_launcher_main(Datum arg);

extern "C" void jobqueue_launcher_main(Datum) {
	using namespace jobqueue;
	prepare_process(on_lock_timeout);
	if (shared() == nullptr)
		proc_exit(0);
	pin_settings();
	BackgroundWorkerInitializeConnection(nullptr, nullptr, 0);
	pgstat_report_appname("jobqueue launcher");
	pg_atomic_write_u32(&shared()->launcher_procno, static_cast<uint32>(compat::my_procno()));
	before_shmem_exit(leave, 0);
	stop_strays();
	read_flight_recorder();
	boundary([] { Launcher().run(); });
	proc_exit(1);
}
