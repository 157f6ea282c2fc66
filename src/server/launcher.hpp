/*
 * launcher.hpp -- the launcher: one for the server. It knows which databases have the extension, and keeps a scheduler
 * running in each that needs one.
 *
 * launcher.cpp has its life as a process, and decides which scheduler starts next. launcher_databases.cpp finds out
 * which databases there are, and which of them need a slot in shared memory. launcher_reports.cpp writes into the log
 * when slots or processes are short. C++ region.
 */
#pragma once

#include "pg/clock.hpp"
#include "shared/state.hpp"

namespace jobqueue {

/* In the past even if the machine was started a moment ago. */
inline constexpr SteadyTime long_ago = -USECS_PER_HOUR;

/* A database, and its scheduler. */
struct Child {
	Oid database;
	BackgroundWorkerHandle *handle = nullptr; /* null: not running */
	bool probe = true;						  /* it is not known yet whether the extension is there */
	int64 delay_us = 0;						  /* before the next start, after a failure */
	SteadyTime started_at = at_once;
	SteadyTime not_before = at_once;
	uint32 interruptions = 0;			/* those of the slot when the scheduler was started */
	SteadyTime wants_since = 0;			/* since when it has needed a scheduler and had none; 0 = it needs none */
	SteadyTime announced_at = long_ago; /* the latest announcement while it was paused */
	int vain_looks = 0;
	bool parked = false; /* it has nothing to run, and gave its slot back; what the slot said: */
	SchedulerState state = SchedulerState::none;
	TimestampTz next_run = DT_NOEND; /* if retired: when a scheduler must be started again */
	SteadyTime next_look = never;	 /* if paused: when to look at the database again */
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
	static int64 look_interval_us(const Child &child) noexcept;
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
	std::vector<Oid> unknown_; /* databases that have yet to be looked into */
	ClockWatch clock_;
	SteadyTime next_scan_ = at_once;
	SteadyTime next_start_ = at_once;
	SteadyTime courteous_since_ = 0; /* since when it lets others go first; 0 = it does not */
	SteadyTime missed_at_ = long_ago;
	SteadyTime shortage_at_ = 0; /* when a database last waited for a process; 0 = none did */
	int64 short_delay_us_ = 0;
	bool warned_of_databases_ = false;
	bool said_what_is_needed_ = false;
};

} // namespace jobqueue
