/*
 * process_room.cpp -- see process_room.hpp. C region.
 */
#include "shared/process_room.hpp"

#include "pg/clock.hpp"
#include "shared/wake_ups.hpp"
#include "shared/workers.hpp"

namespace jobqueue {

bool is_turn_of(uint64 waiting_since) noexcept {
	const auto comes_before = [waiting_since](pg_atomic_uint64 *other) {
		const uint64 since = pg_atomic_read_u64(other);
		return since != 0 && since < waiting_since;
	};
	if (comes_before(&shared()->launcher_waiting_since))
		return false;
	for (DatabaseSlot &slot : database_slots())
		if (pg_atomic_read_u32(&slot.database) != InvalidOid && comes_before(&slot.role_waiting_since))
			return false;
	return true;
}

/* Is there another worker of the same role? */
static bool is_spare(WorkerSlot &worker) noexcept {
	const auto workers = worker_slots();
	return std::any_of(workers.begin(), workers.end(), [&worker](WorkerSlot &other) {
		return &other != &worker && takes_place(&other) &&
			   pg_atomic_read_u32(&other.database) == pg_atomic_read_u32(&worker.database) &&
			   pg_atomic_read_u32(&other.role) == pg_atomic_read_u32(&worker.role);
	});
}

/* Dismisses an idle worker, if there is one; preferably of a role that has other workers. */
static bool dismiss_idle_worker() noexcept {
	WorkerSlot *chosen = nullptr;
	for (WorkerSlot &worker : worker_slots())
		if (pg_atomic_read_u32(&worker.retire) == 0 && worker_state(&worker) == WorkerState::idle &&
			(chosen == nullptr || is_spare(worker)))
			chosen = &worker;
	if (chosen != nullptr)
		dismiss(chosen);
	return chosen != nullptr;
}

/*
 * Asks a scheduler that was not asked yet to leave: one that does not wait for a process itself; first one without
 * workers, then the one that has run longest. Else the one that began to wait last, if that was after "since". It is
 * started again when it is its turn.
 */
static bool dismiss_scheduler(Oid except, uint64 since) noexcept {
	DatabaseSlot *victim = nullptr;
	std::pair<int, uint64> victim_rank;
	for (DatabaseSlot &slot : database_slots()) {
		const Oid database = pg_atomic_read_u32(&slot.database);
		if (database == InvalidOid || database == except || scheduler_state(&slot) != SchedulerState::running ||
			pg_atomic_read_u32(&slot.retire) != 0)
			continue;
		const uint64 waiting_since = pg_atomic_read_u64(&slot.role_waiting_since);
		if (waiting_since != 0 && waiting_since <= since)
			continue;
		const std::pair<int, uint64> rank =
			waiting_since != 0
				? std::pair<int, uint64>(2, PG_UINT64_MAX - waiting_since)
				: std::pair<int, uint64>(has_workers(database), pg_atomic_read_u64(&slot.scheduler_since));
		if (victim == nullptr || rank < victim_rank) {
			victim = &slot;
			victim_rank = rank;
		}
	}
	if (victim == nullptr)
		return false;
	pg_atomic_write_u32(&victim->retire, 1);
	wake(&victim->scheduler_procno);
	return true;
}

/* Not too often: a process that was asked needs a moment to leave, and the postmaster needs one to notice. */
static bool may_ask_for_room(uint64 now) noexcept {
	constexpr uint64 patience_us = 200000;
	uint64 asked = pg_atomic_read_u64(&shared()->room_asked_at);
	return now - asked >= patience_us && pg_atomic_compare_exchange_u64(&shared()->room_asked_at, &asked, now);
}

void make_room_if_idle() noexcept {
	if (may_ask_for_room(static_cast<uint64>(steady_now())))
		dismiss_idle_worker();
}

void make_room(Oid for_database, uint64 since) noexcept {
	const auto now = static_cast<uint64>(steady_now());
	if (!may_ask_for_room(now) || dismiss_idle_worker())
		return;
	const bool lacks_process = for_database == InvalidOid || !all_places_taken();
	if (lacks_process && dismiss_scheduler(for_database, since))
		return;
	pg_atomic_write_u64(&shared()->starved_at, now);
}

} // namespace jobqueue
