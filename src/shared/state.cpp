/*
 * state.cpp -- see state.hpp. C region.
 */
#include "shared/state.hpp"

#include "pg/settings.hpp"

namespace jobqueue {

static SharedState *state = nullptr;
static DatabaseSlot *database_array = nullptr;

SharedState *shared() noexcept {
	return state;
}

std::span<DatabaseSlot> database_slots() noexcept {
	if (state == nullptr)
		return {};
	return {database_array, static_cast<size_t>(pg_atomic_read_u32(&state->database_count))};
}

DatabaseSlot *database_slot(int index) noexcept {
	return &database_array[index];
}

int index_of(const DatabaseSlot *slot) noexcept {
	return static_cast<int>(slot - database_array);
}

std::span<WorkerSlot> worker_slots() noexcept {
	if (state == nullptr)
		return {};
	return {state->workers, static_cast<size_t>(state->worker_count)};
}

static Size state_size() {
	return add_size(offsetof(SharedState, workers), mul_size(max_worker_processes, sizeof(WorkerSlot)));
}

static Size databases_size() {
	return mul_size(static_cast<Size>(settings::max_databases), sizeof(DatabaseSlot));
}

Size shared_state_size() {
	return add_size(state_size(), databases_size());
}

static void initialize(SharedState *fresh, DatabaseSlot *databases) {
	memset(static_cast<void *>(fresh), 0, state_size());
	memset(static_cast<void *>(databases), 0, databases_size());
	LWLockPadded *locks = GetNamedLWLockTranche(lwlock_tranche);
	fresh->lock = &locks[0].lock;
	fresh->positions_lock = &locks[1].lock;
	fresh->admission_lock = &locks[2].lock;
	fresh->server_start = static_cast<uint64>(GetCurrentTimestamp());
	fresh->name_key = draw_name_key();
	fresh->worker_count = max_worker_processes;
	pg_atomic_init_u32(&fresh->launcher_procno, static_cast<uint32>(no_procno));
	pg_atomic_init_u32(&fresh->launcher_wanted, 0);
	pg_atomic_init_u32(&fresh->prepared, 0);
	pg_atomic_init_u32(&fresh->rescan, 0);
	pg_atomic_init_u64(&fresh->token, 0);
	pg_atomic_init_u64(&fresh->starved_at, 0);
	pg_atomic_init_u64(&fresh->room_asked_at, 0);
	pg_atomic_init_u64(&fresh->launcher_waiting_since, 0);
	SpinLockInit(&fresh->ring_lock);
	pg_atomic_init_u64(&fresh->announced, 0);
	pg_atomic_init_u32(&fresh->waiters, 0);
	fresh->database_limit = settings::max_databases;
	pg_atomic_init_u32(&fresh->database_count, 0);
	pg_atomic_init_u64(&fresh->configurations, 0);
	pg_atomic_init_u32(&fresh->database_missed, 0);
	for (int i = 0; i < fresh->database_limit; i++) {
		DatabaseSlot &slot = databases[i];
		pg_atomic_init_u32(&slot.database, 0);
		pg_atomic_init_u32(&slot.state, 0);
		pg_atomic_init_u32(&slot.scheduler_procno, static_cast<uint32>(no_procno));
		pg_atomic_init_u32(&slot.scheduler_pid, 0);
		pg_atomic_init_u32(&slot.wanted, 0);
		pg_atomic_init_u32(&slot.let_go, 0);
		pg_atomic_init_u32(&slot.interrupted, 0);
		pg_atomic_init_u32(&slot.interruptions, 0);
		pg_atomic_init_u32(&slot.retire, 0);
		pg_atomic_init_u32(&slot.orphans, 0);
		pg_atomic_init_u32(&slot.by_hand, 0);
		pg_atomic_init_u32(&slot.history_leaf, 0);
		pg_atomic_init_u64(&slot.configuration, 0);
		pg_atomic_init_u32(&slot.paused_reported, 0);
		pg_atomic_init_u64(&slot.paused_configuration, 0);
		pg_atomic_init_u64(&slot.served_since, 0);
		pg_atomic_init_u64(&slot.due_at, PG_INT64_MAX);
		pg_atomic_init_u64(&slot.next_run, PG_INT64_MAX);
		pg_atomic_init_u64(&slot.parents_low, 0);
		pg_atomic_init_u64(&slot.parents_high, PG_INT64_MAX);
		pg_atomic_init_u64(&slot.parents_widened, 0);
		pg_atomic_init_u32(&slot.dependencies_written, 0);
		SpinLockInit(&slot.ended_lock);
		pg_atomic_init_u64(&slot.notified, 0);
		pg_atomic_init_u64(&slot.role_waiting_since, 0);
		pg_atomic_init_u64(&slot.database_waiting_since, 0);
		pg_atomic_init_u64(&slot.scheduler_since, 0);
		pg_atomic_init_u64(&slot.released_at, 0);
		pg_atomic_init_u32(&slot.shortage_reported, 0);
		pg_atomic_init_u64(&slot.admission_ready, 0);
	}
	for (WaiterSlot &slot : fresh->waiter) {
		pg_atomic_init_u32(&slot.database, 0);
		pg_atomic_init_u32(&slot.procno, 0);
		pg_atomic_init_u64(&slot.task, 0);
	}
	for (int i = 0; i < fresh->worker_count; i++) {
		WorkerSlot &slot = fresh->workers[i];
		pg_atomic_init_u32(&slot.state, 0);
		pg_atomic_init_u32(&slot.database, 0);
		pg_atomic_init_u32(&slot.role, 0);
		pg_atomic_init_u32(&slot.pid, 0);
		pg_atomic_init_u32(&slot.procno, 0);
		pg_atomic_init_u32(&slot.cancels, 0);
		pg_atomic_init_u32(&slot.can_login, 0);
		pg_atomic_init_u32(&slot.retire, 0);
		pg_atomic_init_u64(&slot.token, 0);
		pg_atomic_init_u64(&slot.connected, 0);
		pg_atomic_init_u64(&slot.types, 0);
		pg_atomic_init_u64(&slot.task, 0);
		pg_atomic_init_u64(&slot.cancel, 0);
		pg_atomic_init_u64(&slot.cancelled_at, 0);
		pg_atomic_init_u32(&slot.attempt, 0);
		pg_atomic_init_u32(&slot.in_handler, 0);
		pg_atomic_init_u64(&slot.deadline, PG_INT64_MAX);
		pg_atomic_init_u64(&slot.end, 0);
		pg_atomic_init_u64(&slot.ended_at, 0);
		pg_atomic_init_u64(&slot.type, 0);
		pg_atomic_init_u32(&slot.stuck, 0);
		pg_atomic_init_u32(&slot.progress_version, 0);
		pg_atomic_init_u64(&slot.started_at, 0);
		pg_atomic_init_u64(&slot.state_since, 0);
	}
}

bool prepare_shared_state(PreparedState *prepared) {
	bool found, databases_found;
	prepared->state = static_cast<SharedState *>(ShmemInitStruct("jobqueue", state_size(), &found));
	prepared->databases =
		static_cast<DatabaseSlot *>(ShmemInitStruct("jobqueue databases", databases_size(), &databases_found));
	if (!found)
		initialize(prepared->state, prepared->databases);
	return !found;
}

void use_shared_state(const PreparedState &prepared) noexcept {
	database_array = prepared.databases;
	state = prepared.state;
}

void atomic_min(pg_atomic_uint64 *target, uint64 value) noexcept {
	uint64 old = pg_atomic_read_u64(target);
	while (value < old && !pg_atomic_compare_exchange_u64(target, &old, value)) {
	}
}

void atomic_max(pg_atomic_uint64 *target, uint64 value) noexcept {
	uint64 old = pg_atomic_read_u64(target);
	while (value > old && !pg_atomic_compare_exchange_u64(target, &old, value)) {
	}
}

} // namespace jobqueue
