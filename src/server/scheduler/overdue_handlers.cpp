/*
 * overdue_handlers.cpp -- see overdue_handlers.hpp. C++ region.
 */
#include "server/scheduler/overdue_handlers.hpp"

#include "pg/settings.hpp"
#include "shared/flight_recorder.hpp"
#include "shared/penalties.hpp"

#include <signal.h>

namespace jobqueue::scheduler {

/* A process that has not ended this long after it was told to never will. */
static constexpr int64 stuck_after_us = 2 * USECS_PER_SEC;

static void report_stuck(pid_t pid, uint64 task, Oid role, uint64 type, bool dies) {
	guard([pid, task, role, type, dies] {
		/* If the next task of this type hangs as well, it must not hold the locks of others in a fused batch. */
		make_run_alone(MyDatabaseId, role, type);
		ereport(WARNING,
				(errmsg("jobqueue worker %d, which runs task " INT64_FORMAT ", responds neither to cancellation nor "
						"to termination",
						static_cast<int>(pid), static_cast<int64>(task)),
				 dies ? errdetail("It is killed, and the server restarts all its processes (jobqueue.kill_stuck).")
					  : errdetail("Other workers go on; this one is not ended."),
				 dies ? 0 : errhint("Only a crash of the server can end it: see jobqueue.kill_stuck.")));
	});
}

SteadyTime OverdueHandlers::look_at(WorkerSlot &worker, SteadyTime now) {
	const uint64 task = pg_atomic_read_u64(&worker.task);
	if (worker_state(&worker) == WorkerState::free || task == 0 || pg_atomic_read_u32(&worker.database) != MyDatabaseId)
		return never;
	if (pg_atomic_read_u32(&worker.in_handler) == 0) {
		pg_atomic_write_u32(&worker.stuck, 0);
		return never;
	}
	if (pg_atomic_read_u32(&worker.stuck) != 0 && !settings::kill_stuck)
		return never;
	auto over = static_cast<SteadyTime>(pg_atomic_read_u64(&worker.deadline));
	if (pg_atomic_read_u64(&worker.cancel) == task)
		over = std::min(over, static_cast<SteadyTime>(pg_atomic_read_u64(&worker.cancelled_at)));
	if (over == never)
		return never;
	const auto pid = static_cast<pid_t>(pg_atomic_read_u32(&worker.pid));
	if (pg_atomic_read_u64(&worker.end) != task) {
		const SteadyTime end_at = over + static_cast<int64>(settings::timeout_grace_ms) * 1000;
		if (now < end_at)
			return end_at;
		pg_atomic_write_u64(&worker.ended_at, static_cast<uint64>(now));
		pg_atomic_write_u64(&worker.end, task);
		pg_memory_barrier();
		if (pid != 0)
			kill(pid, SIGUSR2);
	}
	const SteadyTime stuck_at = static_cast<SteadyTime>(pg_atomic_read_u64(&worker.ended_at)) + stuck_after_us;
	if (now < stuck_at)
		return stuck_at;
	pg_atomic_write_u32(&worker.stuck, 1);
	db_.busy_at = now;
	const bool dies = settings::kill_stuck;
	report_stuck(pid, task, pg_atomic_read_u32(&worker.role), pg_atomic_read_u64(&worker.type), dies);
	if (dies && pid != 0 && pg_atomic_read_u64(&worker.task) == task) {
		record_kill(static_cast<int>(&worker - shared()->workers));
		kill(pid, SIGKILL);
	}
	return never;
}

Progress OverdueHandlers::step() {
	const SteadyTime now = steady_now();
	next_ = never;
	for (WorkerSlot &worker : worker_slots())
		next_ = std::min(next_, look_at(worker, now));
	return Progress::done;
}

} // namespace jobqueue::scheduler
