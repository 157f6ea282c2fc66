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
#include "shared/databases.hpp"
#include "shared/flight_recorder.hpp"
#include "shared/process_room.hpp"
#include "shared/wake_ups.hpp"
#include "shared/workers.hpp"

#include <signal.h>

namespace jobqueue {

namespace {

constexpr int64 rescan_interval_us = USECS_PER_MINUTE;
/* A paused database is looked into that often: what put it right may not have been announced. */
constexpr int64 paused_look_us = 20 * USECS_PER_SEC;
/* Half as often after each vain look, until something is announced there. */
constexpr int most_vain_looks = 4;
constexpr int64 shortest_delay_us = 100000;
constexpr int64 shortest_short_delay_us = 20000; /* where there is no process to be had */
/* Of a scheduler that ends again and again, each time with a line in the log. */
constexpr int64 longest_delay_us = 5 * USECS_PER_SEC;
/* One that lived for so long did not fail at its start: the next one is not delayed. */
constexpr int64 long_life_us = 10 * USECS_PER_SEC;
/* Others do not wait for one that cannot find out, since a catalog is locked. */
constexpr int64 longest_probe_us = 2 * USECS_PER_SEC;
constexpr int64 shortage_warning_us = 10 * USECS_PER_SEC;
/* When nobody has waited for so long, the shortage is over: the next one is reported again. */
constexpr int64 shortage_over_us = USECS_PER_MINUTE;
/* Who has waited longer than any database may be a scheduler that wants a worker: it comes first, but not for ever. */
constexpr int64 longest_courtesy_us = 2 * USECS_PER_SEC;
constexpr int64 look_again_us = 30 * USECS_PER_SEC;
/* Also on a machine that was started a moment ago. */
constexpr SteadyTime long_ago = -USECS_PER_HOUR;

struct Child {
	Oid database;
	BackgroundWorkerHandle *handle = nullptr; /* null: not running */
	bool probe = true;						  /* it is not known whether the extension is there */
	int64 delay_us = 0;						  /* before the next start, after a failure */
	SteadyTime started_at = at_once;
	SteadyTime not_before = at_once;
	uint32 interruptions = 0;			/* when it was started */
	SteadyTime wants_since = 0;			/* it needs a scheduler, and has none; 0 = it does not */
	SteadyTime announced_at = long_ago; /* while it is paused */
	int vain_looks = 0;
	bool parked = false; /* it has nothing to run, and gave its slot back, which said: */
	SchedulerState state = SchedulerState::none;
	TimestampTz next_run = DT_NOEND; /* if it was retired */
	SteadyTime next_look = never;	 /* if it was paused */
	uint64 served_since = 0;
	uint32 paused_reported = 0;
};

class Launcher {
public:
	void run();

private:
	void scan();
	void reap();
	void watch_clock();
	void start(SteadyTime now);
	bool needs_scheduler(Child &child, DatabaseSlot *slot, SteadyTime now);
	Child *child_of(Oid database);
	bool is_probing(const Child &child);
	static int64 look_interval_us(const Child &child) {
		return paused_look_us << std::min(child.vain_looks, most_vain_looks);
	}
	bool may_park(const Child &child, DatabaseSlot *slot);
	void park(Child &child, DatabaseSlot *slot);
	static void unpark(Child &child, DatabaseSlot *slot);
	static void look_at(Child &child);
	void share_slots(SteadyTime now);
	void find_wants(SteadyTime now);
	bool start_one(Child &child, DatabaseSlot *slot, SteadyTime now);
	void warn_of_shortage(SteadyTime now);
	void warn_of_slots();
	static void say_the_least();
	void say_what_is_needed();
	void look_at_parked();

	std::vector<Child> children_;
	std::vector<Oid> absent_;  /* databases without the extension */
	std::vector<Oid> unknown_; /* to be looked into */
	ClockWatch clock_;
	SteadyTime next_scan_ = at_once;
	SteadyTime next_start_ = at_once;
	SteadyTime courteous_since_ = 0; /* 0 = not */
	SteadyTime missed_at_ = long_ago;
	SteadyTime shortage_at_ = 0; /* somebody waited then; 0 = nobody */
	int64 short_delay_us_ = 0;
	bool warned_of_databases_ = false;
	bool said_what_is_needed_ = false;
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
	std::erase_if(children_, [&](const Child &child) { return child.parked && !exists(child.database); });
	for (DatabaseSlot &slot : database_slots()) {
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
			if (slot) {
				pg_atomic_write_u32(&slot->state, static_cast<uint32>(SchedulerState::none));
				pg_atomic_write_u64(&slot->waits_since, 0); /* it had a process */
			}
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
		if (child.parked)
			return false;
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

bool Launcher::needs_scheduler(Child &child, DatabaseSlot *slot, SteadyTime now) {
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

/* Where somebody has set it, retired schedulers look for themselves when they are needed. */
void Launcher::watch_clock() {
	if (clock_.look() == 0)
		return;
	for (DatabaseSlot &slot : database_slots())
		if (pg_atomic_read_u32(&slot.database) != InvalidOid && scheduler_state(&slot) == SchedulerState::retired)
			pg_atomic_write_u64(&slot.next_run, 0);
	look_at_parked();
}

/* Is there nothing in its slot that would be lost? */
bool Launcher::may_park(const Child &child, DatabaseSlot *slot) {
	const SchedulerState state = scheduler_state(slot);
	return child.handle == nullptr && (state == SchedulerState::retired || state == SchedulerState::paused) &&
		   pg_atomic_read_u32(&slot->wanted) == 0 && pg_atomic_read_u32(&slot->let_go) == 0 &&
		   pg_atomic_read_u32(&slot->orphans) == 0 && pg_atomic_read_u32(&slot->by_hand) == 0 &&
		   pg_atomic_read_u32(&slot->dependencies_written) == 0 && pg_atomic_read_u64(&slot->waits_since) == 0 &&
		   pg_atomic_read_u64(&slot->due_at) == PG_INT64_MAX && !has_workers(child.database);
}

void Launcher::look_at(Child &child) {
	child.next_run = 0;
	child.next_look = at_once;
	child.started_at = long_ago;
}

/* What has nothing to run needs no slot. Whoever announces something gets it another one, and wakes us. */
void Launcher::park(Child &child, DatabaseSlot *slot) {
	child.state = scheduler_state(slot);
	const bool paused = child.state == SchedulerState::paused;
	child.next_run = paused ? DT_NOEND : static_cast<TimestampTz>(pg_atomic_read_u64(&slot->next_run));
	child.next_look = paused ? child.started_at + look_interval_us(child) : never;
	child.served_since = pg_atomic_read_u64(&slot->served_since);
	child.paused_reported = pg_atomic_read_u32(&slot->paused_reported);
	child.parked = true;
	guard([slot] { release_database(slot); });
	/* Whoever announces something now finds the slot gone, or is found here. */
	pg_memory_barrier();
	if (pg_atomic_read_u32(&slot->wanted) != 0)
		look_at(child);
}

/* It has a slot again, which a backend may have made. */
void Launcher::unpark(Child &child, DatabaseSlot *slot) {
	child.parked = false;
	if (scheduler_state(slot) != SchedulerState::none)
		return;
	if (pg_atomic_read_u64(&slot->served_since) == 0)
		pg_atomic_write_u64(&slot->served_since, child.served_since);
	pg_atomic_write_u32(&slot->paused_reported, child.paused_reported);
	pg_atomic_write_u64(&slot->next_run, static_cast<uint64>(child.next_run));
	/* The configuration of a slot that is new ends in zeros until somebody changes it. */
	const uint64 configuration = pg_atomic_read_u64(&slot->configuration);
	pg_atomic_write_u64(&slot->paused_configuration, configuration & ~static_cast<uint64>(PG_UINT32_MAX));
	pg_atomic_write_u32(&slot->state, static_cast<uint32>(child.state));
}

void Launcher::warn_of_slots() {
	if (std::exchange(warned_of_databases_, true))
		return;
	guard([] {
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("jobqueue has slots for %d databases, but more have work to do", shared()->database_limit),
				 errdetail("They take turns."),
				 errhint("You might need to increase jobqueue.max_databases, and restart the server.")));
	});
}

/* Paused copies hold no slot, and when slots are short nobody does that has nothing to run at the moment. */
void Launcher::share_slots(SteadyTime now) {
	if (pg_atomic_read_u32(&shared()->database_missed) != 0 && now - missed_at_ > look_again_us) {
		/* Somebody had something to announce, and nobody knows who. */
		missed_at_ = now;
		pg_atomic_write_u32(&shared()->database_missed, 0);
		warn_of_slots();
		look_at_parked();
		absent_.clear();
		next_scan_ = at_once;
	}
	const auto slots = database_slots();
	const auto used = std::count_if(slots.begin(), slots.end(), [](DatabaseSlot &slot) {
		return pg_atomic_read_u32(&slot.database) != InvalidOid;
	});
	auto to_park = used - (shared()->database_limit - std::max(shared()->database_limit / 8, 2));
	const TimestampTz wall = GetCurrentTimestamp();
	std::vector<std::pair<TimestampTz, Child *>> candidates;
	for (Child &child : children_) {
		if (child.parked || child.handle != nullptr)
			continue;
		DatabaseSlot *slot = guard([&child] { return find_database(child.database); });
		if (slot == nullptr || !may_park(child, slot))
			continue;
		const bool paused = scheduler_state(slot) == SchedulerState::paused &&
							pg_atomic_read_u64(&slot->configuration) == pg_atomic_read_u64(&slot->paused_configuration);
		if (paused && (to_park > 0 || now - child.announced_at > paused_look_us)) {
			park(child, slot);
			to_park--;
		} else if (scheduler_state(slot) == SchedulerState::retired) {
			const auto next_run = static_cast<TimestampTz>(pg_atomic_read_u64(&slot->next_run));
			if (next_run > wall)
				candidates.emplace_back(next_run, &child);
		}
	}
	std::sort(candidates.begin(), candidates.end(), std::greater<>());
	for (const auto &[next_run, child] : candidates) {
		if (to_park-- <= 0)
			break;
		const Child *const found = child;
		DatabaseSlot *slot = guard([found] { return find_database(found->database); });
		if (slot != nullptr)
			park(*child, slot);
	}
}

/* Who needs a scheduler, and since when? */
void Launcher::find_wants(SteadyTime now) {
	const TimestampTz wall = GetCurrentTimestamp();
	for (Child &child : children_) {
		DatabaseSlot *slot = guard([&child] { return find_database(child.database); });
		if (child.parked && slot == nullptr && (child.next_run <= wall || child.next_look <= now) &&
			child.handle == nullptr) {
			slot = guard([&child] { return attach_database(child.database); });
			if (slot == nullptr) { /* somebody must leave */
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
		/* Who waited before, and then made room for others, has not lost its turn. */
		const auto waited = static_cast<SteadyTime>(pg_atomic_read_u64(&slot->waits_since));
		if (child.wants_since == 0)
			child.wants_since = waited != 0 ? std::min(waited, now) : now;
	}
}

/* False if there is no process for it. */
bool Launcher::start_one(Child &child, DatabaseSlot *slot, SteadyTime now) {
	const SchedulerState before = scheduler_state(slot);
	const uint64 next_run = pg_atomic_read_u64(&slot->next_run);
	child.interruptions = pg_atomic_read_u32(&slot->interruptions);
	pg_atomic_write_u64(&slot->next_run, PG_INT64_MAX);
	pg_atomic_write_u32(&slot->retire, 0);
	pg_atomic_write_u64(&slot->waits_since, static_cast<uint64>(child.wants_since));
	pg_atomic_write_u64(&slot->scheduler_since, static_cast<uint64>(now));
	pg_atomic_write_u32(&slot->state, static_cast<uint32>(SchedulerState::starting));
	child.handle = guard([slot] {
		MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
		BackgroundWorkerHandle *handle = start_scheduler(slot);
		MemoryContextSwitchTo(caller);
		return handle;
	});
	if (child.handle != nullptr) {
		child.vain_looks += before == SchedulerState::paused;
		child.started_at = now;
		child.wants_since = 0;
		return true;
	}
	pg_atomic_write_u64(&slot->next_run, next_run);
	pg_atomic_write_u32(&slot->state, static_cast<uint32>(before));
	return false;
}

/* Each database once, as long as the shortage lasts. In paused copies nothing is due. */
void Launcher::warn_of_shortage(SteadyTime now) {
	bool any = false;
	for (Child &child : children_) {
		DatabaseSlot *slot = guard([&child] { return find_database(child.database); });
		any |= child.wants_since != 0 || (slot != nullptr && pg_atomic_read_u64(&slot->waits_since) != 0);
		if (slot == nullptr || child.wants_since == 0 || scheduler_state(slot) == SchedulerState::paused ||
			now - child.wants_since <= shortage_warning_us || pg_atomic_exchange_u32(&slot->shortage_reported, 1) != 0)
			continue;
		const Oid database = child.database;
		in_transaction(Durability::asynchronous, [database] {
			guard([database] {
				const char *const name = get_database_name(database);
				ereport(WARNING,
						(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						 errmsg("jobqueue has had no process for a scheduler in database \"%s\" for %d seconds; "
								"due tasks wait",
								name ? name : "?", static_cast<int>(shortage_warning_us / USECS_PER_SEC)),
						 errhint("You might need to increase max_worker_processes.")));
			});
		});
	}
	if (any)
		shortage_at_ = now;
	else if (shortage_at_ != 0 && now - shortage_at_ > shortage_over_us) {
		shortage_at_ = 0;
		for (DatabaseSlot &slot : database_slots())
			pg_atomic_write_u32(&slot.shortage_reported, 0);
		warned_of_databases_ = false;
	}
}

/* Of max_worker_processes, how many do others take? C region. */
static int taken_by_others() {
	int ours = 0;
	for (DatabaseSlot &slot : database_slots())
		ours += pg_atomic_read_u32(&slot.scheduler_pid) != 0;
	for (WorkerSlot &worker : worker_slots())
		ours += pg_atomic_read_u32(&worker.pid) != 0;
	const char *const replication = GetConfigOption("max_logical_replication_workers", true, false);
	const int known = replication != nullptr && strcmp(replication, "0") != 0;
	return std::max(compat::background_workers() - 1 - ours, known);
}

/* max_worker_processes cannot be changed while the server runs: better known at its start than when tasks wait. */
void Launcher::say_the_least() {
	guard([] {
		const int others = taken_by_others();
		const int least = others + 3;
		if (max_worker_processes < least)
			ereport(
				WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("jobqueue cannot run tasks: max_worker_processes is %d, but must be at least %d",
						max_worker_processes, least),
				 errdetail("The launcher, a scheduler and a worker need one process each, and others use %d.", others),
				 errhint("Increase max_worker_processes, and restart the server.")));
	});
}

void Launcher::say_what_is_needed() {
	if (std::exchange(said_what_is_needed_, true))
		return;
	const auto databases = static_cast<int>(std::count_if(children_.begin(), children_.end(), [](const Child &child) {
		return !(child.parked && child.state == SchedulerState::paused);
	}));
	guard([databases] {
		const int others = taken_by_others();
		const int all = others + 1 + databases + settings::max_workers;
		if (databases > 0 && max_worker_processes < all)
			ereport(
				LOG,
				(errmsg("jobqueue serves %d databases, whose processes take turns: max_worker_processes is %d",
						databases, max_worker_processes),
				 errdetail(
					 "With %d they would not have to: one for the launcher, one for the scheduler of each database, "
					 "%d for workers (jobqueue.max_workers), %d for others.",
					 all, settings::max_workers, others)));
	});
}

/* Something may have been announced there that nobody has heard. */
void Launcher::look_at_parked() {
	for (Child &child : children_)
		if (child.parked)
			look_at(child);
}

void Launcher::start(SteadyTime now) {
	/* Databases whose backends announced something have a slot before we know of them. */
	for (DatabaseSlot &slot : database_slots()) {
		const Oid database = pg_atomic_read_u32(&slot.database);
		if (!OidIsValid(database) || child_of(database) != nullptr)
			continue;
		std::erase(absent_, database);
		std::erase(unknown_, database);
		children_.push_back({.database = database, .probe = false});
	}
	share_slots(now);
	/* One look into an unknown database at a time. */
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
	/* First who has waited longest. */
	std::vector<Child *> hungry;
	for (Child &child : children_)
		if (child.wants_since != 0)
			hungry.push_back(&child);
	std::stable_sort(hungry.begin(), hungry.end(),
					 [](const Child *a, const Child *b) { return a->wants_since < b->wants_since; });
	for (Child *child : hungry) {
		const auto since = static_cast<uint64>(child->wants_since);
		DatabaseSlot *slot = guard([child] { return find_database(child->database); });
		if (slot == nullptr) {
			lacks_slot = true;
			continue;
		}
		bool others_first = false;
		if (!all_places_taken()) {
			pg_atomic_write_u64(&shared()->launcher_hungry_since, since);
			others_first = !is_turn_of(since);
		}
		if (!others_first)
			courteous_since_ = 0;
		else if (courteous_since_ == 0)
			courteous_since_ = now;
		if ((!others_first || now - courteous_since_ > longest_courtesy_us) && start_one(*child, slot, now)) {
			courteous_since_ = 0;
			short_delay_us_ = 0;
			pg_atomic_write_u64(&shared()->launcher_hungry_since, 0);
			continue;
		}
		/* No process to be had: make room, and try again ever more rarely. */
		pg_atomic_write_u64(&shared()->launcher_hungry_since, since);
		if (others_first)
			for (DatabaseSlot &other : database_slots())
				if (const uint64 hungry_since = pg_atomic_read_u64(&other.hungry_since);
					hungry_since != 0 && hungry_since < since)
					wake_scheduler(&other);
		if (!others_first)
			make_room(InvalidOid, since);
		short_delay_us_ = std::clamp<int64>(short_delay_us_ * 2, shortest_short_delay_us, USECS_PER_SEC / 2);
		next_start_ = now + short_delay_us_;
		return;
	}
	/* Nobody is left without a process. */
	pg_atomic_write_u64(&shared()->launcher_hungry_since, 0);
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
		/* In this order: of a database that is no more the scheduler has ended, and is not started again. */
		reap();
		const uint32 rescan = pg_atomic_exchange_u32(&shared()->rescan, 0);
		if (rescan == static_cast<uint32>(Rescan::from_scratch)) {
			absent_.clear();
			look_at_parked();
		}
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
	for (DatabaseSlot &slot : database_slots()) {
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
