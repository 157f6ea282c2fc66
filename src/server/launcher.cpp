/*
 * launcher.cpp -- the launcher: one for the cluster. It knows which databases have the extension and keeps a scheduler
 * running in each that needs one.
 *
 * After a start it looks into every database once, one at a time, by starting a scheduler there, which ends at once
 * where the extension is not installed. Later it hears of CREATE EXTENSION, CREATE DATABASE and the like at commit.
 * Entry is C, behind boundary(); everything else is a C++ region.
 */
#include "server/processes.hpp"

#include "pg/clock.hpp"
#include "pg/compat.hpp"
#include "pg/own_settings.hpp"
#include "pg/settings.hpp"
#include "shared/flight_recorder.hpp"

#include <signal.h>

namespace jobqueue {

namespace {

constexpr int64 rescan_interval_us = USECS_PER_MINUTE;
/* A paused database is looked into that often: what put it right may not have been announced. */
constexpr int64 paused_look_us = 20 * USECS_PER_SEC;
constexpr int64 shortest_delay_us = 100000;
/* Of a scheduler that ends again and again, each time with a line in the log. */
constexpr int64 longest_delay_us = 5 * USECS_PER_SEC;
/* One that lived for so long did not fail at its start: the next one is not delayed. */
constexpr int64 long_life_us = 10 * USECS_PER_SEC;
/* Others do not wait for one that cannot find out, since a catalog is locked. */
constexpr int64 longest_probe_us = 2 * USECS_PER_SEC;
constexpr int64 shortage_warning_us = 10 * USECS_PER_SEC;

struct Child {
	Oid database;
	BackgroundWorkerHandle *handle = nullptr; /* null: not running */
	bool probe = true;						  /* it is not known whether the extension is there */
	int64 delay_us = 0;						  /* before the next start, after a failure */
	SteadyTime started_at = at_once;
	SteadyTime not_before = at_once;
	uint32 interruptions = 0; /* when it was started */
};

class Launcher {
public:
	void run();

private:
	void scan();
	void reap();
	void watch_clock();
	void start(SteadyTime now);
	static bool needs_scheduler(const Child &child, DatabaseSlot *slot, SteadyTime now);
	Child *child_of(Oid database);
	bool is_probing(const Child &child);

	std::vector<Child> children_;
	std::vector<Oid> absent_;  /* databases without the extension */
	std::vector<Oid> unknown_; /* to be looked into */
	ClockWatch clock_;
	SteadyTime next_scan_ = at_once;
	SteadyTime next_start_ = at_once;
	SteadyTime short_since_ = 0; /* 0 = not */
	int64 short_delay_us_ = 0;
	bool warned_of_shortage_ = false;
	bool warned_of_databases_ = false;
};

Child *Launcher::child_of(Oid database) {
	const auto found = std::find_if(children_.begin(), children_.end(),
									[database](const Child &child) { return child.database == database; });
	return found == children_.end() ? nullptr : &*found;
}

/* Is its scheduler still finding out whether the extension is there? */
bool Launcher::is_probing(const Child &child) {
	DatabaseSlot *slot = guard([&child] { return find_database(child.database); });
	return child.probe && child.handle != nullptr && slot && scheduler_state(slot) == SchedulerState::starting &&
		   steady_now() - child.started_at < longest_probe_us;
}

/* Which databases are there, and which have gone? */
void Launcher::scan() {
	constexpr size_t most = 4096;
	struct List {
		Oid *oids;
		size_t count;
	};
	std::vector<Oid> databases(most);
	List list = {databases.data(), 0};
	in_transaction(Durability::asynchronous, [&list] {
		guard([&list] {
			Relation relation = table_open(DatabaseRelationId, AccessShareLock);
			TableScanDesc scan = table_beginscan_catalog(relation, 0, nullptr);
			while (HeapTuple tuple = heap_getnext(scan, ForwardScanDirection)) {
				auto *form = reinterpret_cast<Form_pg_database>(GETSTRUCT(tuple));
				constexpr int invalid_database = -2; /* of datconnlimit: half dropped */
				if (form->datallowconn && !form->datistemplate && form->datconnlimit != invalid_database &&
					list.count < most)
					list.oids[list.count++] = form->oid;
			}
			table_endscan(scan);
			table_close(relation, AccessShareLock);
		});
	});
	databases.resize(list.count);
	const auto exists = [&databases](Oid database) {
		return std::find(databases.begin(), databases.end(), database) != databases.end();
	};
	std::erase_if(absent_, [&](Oid database) { return !exists(database); });
	std::erase_if(unknown_, [&](Oid database) { return !exists(database); });
	for (DatabaseSlot &slot : shared()->databases) {
		const Oid database = pg_atomic_read_u32(&slot.database);
		const Child *child = child_of(database);
		if (OidIsValid(database) && !exists(database) && !(child && child->handle) && !has_workers(database)) {
			std::erase_if(children_, [database](const Child &c) { return c.database == database; });
			guard([&slot] { release_database(&slot); });
		}
	}
	for (const Oid database : databases) {
		const bool known = child_of(database) != nullptr ||
						   std::find(absent_.begin(), absent_.end(), database) != absent_.end() ||
						   std::find(unknown_.begin(), unknown_.end(), database) != unknown_.end();
		if (!known)
			unknown_.push_back(database);
	}
	next_scan_ = steady_now() + rescan_interval_us;
}

/* What has become of the schedulers. */
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
		if (!let_go && (state == SchedulerState::none || state == SchedulerState::starting)) {
			/* It failed, or it was terminated. */
			if (slot)
				pg_atomic_write_u32(&slot->state, static_cast<uint32>(SchedulerState::none));
			child.delay_us = now - child.started_at > long_life_us
								 ? shortest_delay_us
								 : std::clamp(child.delay_us * 2, shortest_delay_us, longest_delay_us);
			child.not_before = now + child.delay_us;
			next_scan_ = at_once; /* is the database still there? */
		} else {
			if (state == SchedulerState::starting)
				pg_atomic_write_u32(&slot->state, static_cast<uint32>(SchedulerState::none));
			child.delay_us = 0;
			child.not_before = at_once;
		}
	}
	std::erase_if(children_, [this](const Child &child) {
		DatabaseSlot *slot = guard([&child] { return find_database(child.database); });
		if (child.handle != nullptr ||
			(slot && (scheduler_state(slot) != SchedulerState::absent || pg_atomic_read_u32(&slot->wanted) != 0)))
			return false;
		if (slot)
			guard([slot] { release_database(slot); });
		/* Whoever announces something now finds the slot gone and asks for another look, or is found here. */
		pg_memory_barrier();
		const bool announced = slot && pg_atomic_read_u32(&slot->wanted) != 0;
		(announced ? unknown_ : absent_).push_back(child.database);
		return true;
	});
}

bool Launcher::needs_scheduler(const Child &child, DatabaseSlot *slot, SteadyTime now) {
	if (child.handle != nullptr || now < child.not_before)
		return false;
	if (const uint32 pid = pg_atomic_read_u32(&slot->let_go)) {
		if (kill(static_cast<pid_t>(pid), 0) == 0 || errno != ESRCH)
			return false;
		pg_atomic_write_u32(&slot->let_go, 0); /* its holder is gone */
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
		/* Not what it is wanted for, but let the next announcement wake us again. */
		pg_atomic_write_u32(&slot->wanted, 0);
		pg_memory_barrier();
		return pg_atomic_read_u64(&slot->configuration) != pg_atomic_read_u64(&slot->paused_configuration) ||
			   now - child.started_at >= paused_look_us;
	default:
		return false;
	}
}

/* Where somebody has set it, retired schedulers look for themselves when they are needed. */
void Launcher::watch_clock() {
	if (clock_.look() == 0)
		return;
	for (DatabaseSlot &slot : shared()->databases)
		if (pg_atomic_read_u32(&slot.database) != InvalidOid && scheduler_state(&slot) == SchedulerState::retired)
			pg_atomic_write_u64(&slot.next_run, 0);
}

void Launcher::start(SteadyTime now) {
	/* Databases whose backends announced something have a slot before we know of them. */
	for (DatabaseSlot &slot : shared()->databases) {
		const Oid database = pg_atomic_read_u32(&slot.database);
		if (!OidIsValid(database) || child_of(database) != nullptr)
			continue;
		std::erase(absent_, database);
		std::erase(unknown_, database);
		children_.push_back({.database = database, .probe = false});
	}
	/* One look into an unknown database at a time. */
	const bool probing =
		std::any_of(children_.begin(), children_.end(), [this](const Child &child) { return is_probing(child); });
	if (!probing && !unknown_.empty()) {
		const Oid database = unknown_.back();
		if (guard([database] { return attach_database(database); }) != nullptr) {
			unknown_.pop_back();
			children_.push_back({.database = database});
		} else if (!warned_of_databases_) {
			warned_of_databases_ = true;
			guard([] {
				ereport(WARNING, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
								  errmsg("jobqueue cannot look after more than %d databases", max_databases)));
			});
		}
	}
	if (now < next_start_)
		return;
	for (Child &child : children_) {
		DatabaseSlot *slot = guard([&child] { return find_database(child.database); });
		if (slot == nullptr || !needs_scheduler(child, slot, now))
			continue;
		const SchedulerState before = scheduler_state(slot);
		child.interruptions = pg_atomic_read_u32(&slot->interruptions);
		pg_atomic_write_u64(&slot->next_run, PG_INT64_MAX);
		pg_atomic_write_u32(&slot->retire, 0);
		pg_atomic_write_u32(&slot->state, static_cast<uint32>(SchedulerState::starting));
		child.handle = guard([slot] {
			MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
			BackgroundWorkerHandle *handle = start_scheduler(slot);
			MemoryContextSwitchTo(caller);
			return handle;
		});
		if (child.handle != nullptr) {
			child.started_at = now;
			short_since_ = 0;
			short_delay_us_ = 0;
			pg_atomic_write_u64(&shared()->launcher_hungry_since, 0);
			continue;
		}
		/* No process to be had: make room, and try again ever more rarely. */
		pg_atomic_write_u32(&slot->state, static_cast<uint32>(before));
		if (before == SchedulerState::retired)
			pg_atomic_write_u64(&slot->next_run, 0); /* at once */
		make_room(InvalidOid);
		if (short_since_ == 0)
			short_since_ = now;
		pg_atomic_write_u64(&shared()->launcher_hungry_since, static_cast<uint64>(short_since_));
		short_delay_us_ = std::clamp<int64>(short_delay_us_ * 2, 20000, USECS_PER_SEC);
		next_start_ = now + short_delay_us_;
		if (!warned_of_shortage_ && now - short_since_ > shortage_warning_us) {
			warned_of_shortage_ = true;
			guard([] {
				ereport(WARNING, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
								  errmsg("jobqueue has had no process for a scheduler for %d seconds; tasks wait",
										 static_cast<int>(shortage_warning_us / USECS_PER_SEC)),
								  errhint("You might need to increase max_worker_processes.")));
			});
		}
		return;
	}
	/* Nobody is left without. */
	short_since_ = 0;
	pg_atomic_write_u64(&shared()->launcher_hungry_since, 0);
}

/* Of max_worker_processes, how many do others take? C region. */
int taken_by_others() {
	const char *const replication = GetConfigOption("max_logical_replication_workers", true, false);
	const int known = replication != nullptr && strcmp(replication, "0") != 0;
	return std::max(compat::background_workers() - 1, known);
}

/* max_worker_processes cannot be changed while the server runs: better known at its start than when tasks wait. */
void say_the_least() {
	guard([] {
		const int others = taken_by_others();
		const int least = others + 3;
		if (max_worker_processes < least)
			ereport(WARNING,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("jobqueue can run no tasks: max_worker_processes is %d, and must be at least %d",
							max_worker_processes, least),
					 errdetail("The launcher takes one, a scheduler and a worker one each, others %d.", others),
					 errhint("Increase max_worker_processes, and restart the server.")));
	});
}

void Launcher::run() {
	say_the_least();
	for (;;) {
		guard([] { CHECK_FOR_INTERRUPTS(); });
		pg_atomic_write_u32(&shared()->launcher_wanted, 0);
		pg_memory_barrier();
		/* In this order: of a database that is no more the scheduler has ended, and is not started again. */
		reap();
		const uint32 rescan = pg_atomic_exchange_u32(&shared()->rescan, 0);
		if (rescan == static_cast<uint32>(Rescan::from_scratch))
			absent_.clear();
		if (rescan != 0 || steady_now() >= next_scan_)
			scan();
		watch_clock();
		/* What is too early by this clock is waited for by it. */
		const SteadyTime now = steady_now();
		start(now);
		SteadyTime until = next_scan_;
		TimestampTz wall_until = DT_NOEND;
		for (const Child &child : children_) {
			DatabaseSlot *slot = guard([&child] { return find_database(child.database); });
			if (child.handle != nullptr || slot == nullptr)
				continue;
			if (child.not_before > now)
				until = std::min(until, child.not_before);
			else if (scheduler_state(slot) == SchedulerState::retired)
				wall_until = std::min(wall_until, static_cast<TimestampTz>(pg_atomic_read_u64(&slot->next_run)));
			else if (scheduler_state(slot) == SchedulerState::paused)
				until = std::min(until, child.started_at + paused_look_us);
			else if (pg_atomic_read_u32(&slot->let_go) != 0)
				until = std::min(until, now + USECS_PER_SEC);
		}
		if (next_start_ > now)
			until = std::min(until, next_start_);
		if (!unknown_.empty() && short_since_ == 0 &&
			std::none_of(children_.begin(), children_.end(), [this](const Child &child) { return is_probing(child); }))
			until = warned_of_databases_ ? until : now;
		else if (!unknown_.empty())
			until = std::min(until, now + longest_probe_us);
		/* A lock that was waited for meanwhile may have taken the wake-up. */
		pg_memory_barrier();
		if (pg_atomic_read_u32(&shared()->launcher_wanted) != 0)
			until = now;
		guard([until, wall_until] { wait_for_news(sleep_ms_until(wall_until, until)); });
	}
}

void leave(int, Datum) {
	pg_atomic_write_u32(&shared()->launcher_procno, static_cast<uint32>(no_procno));
	pg_atomic_write_u64(&shared()->launcher_hungry_since, 0);
}

/* Schedulers of a launcher that died go on; this one must not start a second. */
void stop_strays() {
	for (DatabaseSlot &slot : shared()->databases) {
		const uint32 pid = pg_atomic_read_u32(&slot.scheduler_pid);
		if (pid != 0)
			kill(static_cast<pid_t>(pid), SIGTERM);
	}
}

} // namespace
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
