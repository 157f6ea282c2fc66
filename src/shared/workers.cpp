/*
 * workers.cpp -- see workers.hpp. C region.
 */
#include "shared/workers.hpp"

#include "pg/settings.hpp"
#include "shared/wake_ups.hpp"

namespace jobqueue {

static WorkerSlot *own_slot = nullptr;

WorkerSlot *own_worker() noexcept {
	return own_slot;
}

void set_own_worker(WorkerSlot *slot) noexcept {
	own_slot = slot;
}

void free_worker(WorkerSlot *slot) noexcept {
	pg_atomic_write_u32(&slot->pid, 0);
	pg_atomic_write_u64(&slot->task, 0);
	pg_atomic_write_u32(&slot->in_handler, 0);
	pg_atomic_write_u32(&slot->stuck, 0);
	pg_atomic_write_u32(&slot->database, InvalidOid);
	set_state(slot, WorkerState::free);
}

bool has_workers(Oid database) noexcept {
	const auto workers = worker_slots();
	return std::any_of(workers.begin(), workers.end(), [database](WorkerSlot &worker) {
		return worker_state(&worker) != WorkerState::free && pg_atomic_read_u32(&worker.database) == database;
	});
}

bool all_places_taken() noexcept {
	const auto workers = worker_slots();
	return std::count_if(workers.begin(), workers.end(), [](WorkerSlot &worker) { return takes_place(&worker); }) >=
		   settings::max_workers;
}

void dismiss(WorkerSlot *worker) noexcept {
	uint32 idle = static_cast<uint32>(WorkerState::idle);
	pg_atomic_write_u32(&worker->retire, 1);
	pg_memory_barrier();
	if (pg_atomic_compare_exchange_u32(&worker->state, &idle, static_cast<uint32>(WorkerState::running)))
		wake(&worker->procno);
}

void write_progress(WorkerSlot *slot, float4 fraction, const char *message) noexcept {
	pg_atomic_fetch_add_u32(&slot->progress_version, 1);
	pg_write_barrier();
	slot->progress = fraction;
	strlcpy(slot->progress_message, message, sizeof(slot->progress_message));
	pg_write_barrier();
	pg_atomic_fetch_add_u32(&slot->progress_version, 1);
}

bool read_progress(WorkerSlot *slot, float4 *fraction, char (&message)[progress_message_size]) noexcept {
	for (int tries = 0; tries < 1000; tries++) {
		const uint32 version = pg_atomic_read_u32(&slot->progress_version);
		pg_read_barrier();
		*fraction = slot->progress;
		memcpy(message, slot->progress_message, sizeof(message));
		pg_read_barrier();
		if (version % 2 == 0 && pg_atomic_read_u32(&slot->progress_version) == version)
			return *fraction >= 0;
	}
	return false; /* its writer was stopped in the middle */
}

} // namespace jobqueue
