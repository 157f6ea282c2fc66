/*
 * wake_ups.cpp -- see wake_ups.hpp. C region.
 */
#include "shared/wake_ups.hpp"

#include "pg/clock.hpp"
#include "pg/compat.hpp"

#include <signal.h>

namespace jobqueue {

void wake(pg_atomic_uint32 *procno) noexcept {
	const int number = static_cast<int>(pg_atomic_read_u32(procno));
	if (number != no_procno)
		SetLatch(compat::latch_of(number));
}

void wake_launcher() noexcept {
	pg_atomic_write_u32(&shared()->launcher_wanted, 1);
	pg_memory_barrier();
	wake(&shared()->launcher_procno);
}

void wake_scheduler(DatabaseSlot *slot) noexcept {
	/* The scheduler clears the flag before it looks: if the flag is set, another process has woken it already. */
	pg_memory_barrier();
	if (pg_atomic_read_u32(&slot->wanted) != 0 || pg_atomic_exchange_u32(&slot->wanted, 1) != 0)
		return;
	if (scheduler_state(slot) == SchedulerState::running)
		wake(&slot->scheduler_procno);
	else
		wake_launcher();
}

bool wake_workers(Oid database, uint64 type_hash) noexcept {
	constexpr int most_roles = 16;
	uint32 served[most_roles];
	int count = 0;
	const auto serve = [&](uint32 role) {
		if (count < most_roles)
			served[count++] = role;
	};
	const uint64 mask = type_hash ? type_mask(type_hash) : ~0ULL;
	const auto concerns = [&](WorkerSlot &slot) {
		return pg_atomic_read_u32(&slot.database) == database && (pg_atomic_read_u64(&slot.types) & mask) != 0;
	};
	/* A worker between tasks looks again before it sleeps; a napping worker looks when its nap ends. */
	for (WorkerSlot &slot : worker_slots()) {
		const WorkerState state = worker_state(&slot);
		const bool looks = (state == WorkerState::running && pg_atomic_read_u64(&slot.task) == 0) ||
						   (state == WorkerState::napping && type_hash == 0);
		if (looks && concerns(slot))
			serve(pg_atomic_read_u32(&slot.role));
	}
	bool woken = false;
	for (WorkerSlot &slot : worker_slots()) {
		uint32 state = pg_atomic_read_u32(&slot.state);
		const bool sleeps = state == static_cast<uint32>(WorkerState::idle) ||
							(type_hash != 0 && state == static_cast<uint32>(WorkerState::napping));
		if (!sleeps || !concerns(slot))
			continue;
		const uint32 role = pg_atomic_read_u32(&slot.role);
		if (std::find(served, served + count, role) != served + count)
			continue;
		if (!pg_atomic_compare_exchange_u32(&slot.state, &state, static_cast<uint32>(WorkerState::running)))
			continue;
		wake(&slot.procno);
		serve(role);
		woken = true;
	}
	return woken;
}

bool wake_worker_of(Oid database, Oid role) noexcept {
	for (WorkerSlot &slot : worker_slots()) {
		uint32 state = static_cast<uint32>(WorkerState::idle);
		if (pg_atomic_read_u32(&slot.database) == database && pg_atomic_read_u32(&slot.role) == role &&
			pg_atomic_compare_exchange_u32(&slot.state, &state, static_cast<uint32>(WorkerState::running))) {
			wake(&slot.procno);
			return true;
		}
	}
	return false;
}

void wake_waiters(int64 low, int64 high) noexcept {
	pg_memory_barrier();
	if (pg_atomic_read_u32(&shared()->waiters) == 0)
		return;
	for (WaiterSlot &slot : shared()->waiter) {
		const auto task = static_cast<int64>(pg_atomic_read_u64(&slot.task));
		if (pg_atomic_read_u32(&slot.database) == MyDatabaseId && task >= low && task <= high)
			wake(&slot.procno);
	}
}

void interrupt_workers(int64 id) noexcept {
	for (WorkerSlot &slot : worker_slots()) {
		if (pg_atomic_read_u32(&slot.database) != MyDatabaseId ||
			pg_atomic_read_u64(&slot.task) != static_cast<uint64>(id))
			continue;
		/* The worker obeys an interrupt only if "cancel" names the task that it runs. */
		pg_atomic_write_u64(&slot.cancelled_at, static_cast<uint64>(steady_now()));
		pg_write_barrier();
		pg_atomic_write_u64(&slot.cancel, static_cast<uint64>(id));
		pg_atomic_fetch_add_u32(&slot.cancels, 1);
		pg_memory_barrier();
		const uint32 pid = pg_atomic_read_u32(&slot.pid);
		if (pid != 0)
			kill(static_cast<pid_t>(pid), SIGINT);
	}
}

void ask_launcher(Rescan what) noexcept {
	uint32 old = pg_atomic_read_u32(&shared()->rescan);
	while (old < static_cast<uint32>(what) &&
		   !pg_atomic_compare_exchange_u32(&shared()->rescan, &old, static_cast<uint32>(what))) {
	}
	wake_launcher();
}

} // namespace jobqueue
