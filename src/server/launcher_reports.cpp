/*
 * launcher_reports.cpp -- what the launcher writes into the log when slots or processes are short. See launcher.hpp.
 * C++ region.
 */
#include "server/launcher.hpp"

#include "pg/compat.hpp"
#include "pg/guard.hpp"
#include "pg/settings.hpp"
#include "pg/transaction.hpp"
#include "shared/databases.hpp"

namespace jobqueue {

static constexpr int64 shortage_warning_us = 10 * USECS_PER_SEC;
/* When no database has waited for so long, the shortage is over: the next one is reported again. */
static constexpr int64 shortage_over_us = USECS_PER_MINUTE;

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

/* Warns once for each database, as long as the shortage lasts. In paused databases nothing is due. */
void Launcher::warn_of_shortage(SteadyTime now) {
	bool any = false;
	for (Child &child : children_) {
		DatabaseSlot *slot = guard([&child] { return find_database(child.database); });
		any |= child.wants_since != 0 || (slot != nullptr && pg_atomic_read_u64(&slot->database_waiting_since) != 0);
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

/* How many of max_worker_processes are taken by processes that are not jobqueue's? C region. */
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

/* Warns at the start, and not only when tasks wait: max_worker_processes cannot be changed while the server runs. */
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

} // namespace jobqueue
