/*
 * state.cpp -- see state.hpp. C region: called from hooks and from guarded code.
 */
#include "shared/state.hpp"

#include "pg/clock.hpp"
#include "pg/compat.hpp"
#include "pg/settings.hpp"
#include "shared/admission.hpp"
#include "shared/announcements.hpp"
#include "shared/flight_recorder.hpp"
#include "shared/penalties.hpp"
#include "shared/positions.hpp"
#include "shared/shares.hpp"

namespace jobqueue {

static SharedState *state = nullptr;
static DatabaseSlot *database_array = nullptr;
static shmem_request_hook_type previous_request_hook = nullptr;
static shmem_startup_hook_type previous_startup_hook = nullptr;

static constexpr const char *tranche = "jobqueue";

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

static void request_shared_memory() {
	if (previous_request_hook)
		previous_request_hook();
	RequestAddinShmemSpace(add_size(state_size(), mul_size(ring_size, sizeof(Announcement))));
	RequestAddinShmemSpace(add_size(positions_size(), admission_size()));
	RequestAddinShmemSpace(add_size(penalties_size(), databases_size()));
	RequestNamedLWLockTranche(tranche, 3);
}

static void initialize(SharedState *fresh, DatabaseSlot *databases) {
	memset(static_cast<void *>(fresh), 0, state_size());
	memset(static_cast<void *>(databases), 0, databases_size());
	LWLockPadded *locks = GetNamedLWLockTranche(tranche);
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
	pg_atomic_init_u64(&fresh->launcher_hungry_since, 0);
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
		pg_atomic_init_u32(&slot.history_slot, 0);
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
		pg_atomic_init_u64(&slot.hungry_since, 0);
		pg_atomic_init_u64(&slot.waits_since, 0);
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

static void startup_shared_memory() {
	if (previous_startup_hook)
		previous_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	bool found;
	auto *fresh = static_cast<SharedState *>(ShmemInitStruct("jobqueue", state_size(), &found));
	bool databases_found;
	auto *databases =
		static_cast<DatabaseSlot *>(ShmemInitStruct("jobqueue databases", databases_size(), &databases_found));
	startup_penalties();
	if (!found) {
		static bool before_crash = false;
		initialize(fresh, databases);
		open_flight_recorder();
		/* Shared memory is made again after a crash: nobody knows what was running. */
		if (std::exchange(before_crash, true) && !flight_recorder_works())
			make_all_run_alone();
	}
	set_name_key(fresh->name_key);
	startup_ring();
	startup_positions();
	startup_admission();
	LWLockRelease(AddinShmemInitLock);
	database_array = databases;
	state = fresh;
}

void install_shared_memory_hooks() {
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = request_shared_memory;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_shared_memory;
}

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

/* Who has many leaves some to others: without a place one looks again and again, and that costs CPU. */
static bool may_wait(Oid role) noexcept {
	constexpr Capacity capacity = {max_waiters, 4};
	int64 used = 0, of_database = 0, of_role = 0;
	for (WaiterSlot &slot : state->waiter) {
		const Oid database = pg_atomic_read_u32(&slot.database);
		used += database != InvalidOid;
		if (database != MyDatabaseId)
			continue;
		of_database++;
		of_role += compat::role_of(static_cast<int>(pg_atomic_read_u32(&slot.procno))) == role;
	}
	return of_role < capacity.share(used, of_database, of_role, of_role);
}

WaiterSlot *take_waiter(int64 task) noexcept {
	if (!may_wait(compat::role_of(compat::my_procno())))
		return nullptr;
	for (WaiterSlot &slot : state->waiter) {
		uint32 nobody = 0;
		if (!pg_atomic_compare_exchange_u32(&slot.database, &nobody, 1))
			continue; /* 1 is no database: taken, and not yet to be woken */
		pg_atomic_write_u32(&slot.procno, static_cast<uint32>(compat::my_procno()));
		pg_atomic_write_u64(&slot.task, static_cast<uint64>(task));
		pg_write_barrier();
		pg_atomic_write_u32(&slot.database, MyDatabaseId);
		pg_atomic_fetch_add_u32(&state->waiters, 1);
		return &slot;
	}
	return nullptr;
}

void free_waiter(WaiterSlot *slot) noexcept {
	pg_atomic_fetch_sub_u32(&state->waiters, 1);
	pg_atomic_write_u32(&slot->database, 0);
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

/* The next place, or where it is taken that of the database that has most of them: nobody's deaths hide another's. */
static Death *place_for_death() noexcept {
	const uint32 next = state->death_count++ % max_deaths;
	if (!OidIsValid(state->deaths[next].database))
		return &state->deaths[next];
	const auto count_of = [](Oid database) {
		return std::ranges::count_if(state->deaths,
									 [database](const Death &other) { return other.database == database; });
	};
	Death *chosen = &state->deaths[next];
	auto most = count_of(chosen->database);
	for (uint32 i = 1; i < max_deaths; i++) {
		Death *const other = &state->deaths[(next + i) % max_deaths];
		if (other->database == chosen->database)
			continue;
		if (const auto count = count_of(other->database); count > most) {
			chosen = other;
			most = count;
		}
	}
	return chosen;
}

void record_death(const Death &death) {
	LWLockAcquire(state->lock, LW_EXCLUSIVE);
	/* One that could not be dealt with comes back to its place. */
	const auto known = std::find_if(std::begin(state->deaths), std::end(state->deaths), [&death](const Death &other) {
		return other.database == death.database && other.task == death.task && other.attempt == death.attempt;
	});
	(known != std::end(state->deaths) ? *known : *place_for_death()) = death;
	LWLockRelease(state->lock);
}

Death death_of(Oid database, int64 task, int32 attempt) {
	Death found = {database, task, attempt, false, DeathCause::unknown, InvalidOid};
	LWLockAcquire(state->lock, LW_SHARED);
	for (const Death &death : state->deaths)
		if (death.database == database && death.task == task && death.attempt == attempt)
			found = death;
	LWLockRelease(state->lock);
	return found;
}

bool take_fused_death(Oid database, Death *out) {
	bool found = false;
	LWLockAcquire(state->lock, LW_EXCLUSIVE);
	for (Death &death : state->deaths) {
		if (!death.fused || death.database != database)
			continue;
		*out = death;
		death.fused = false;
		found = true;
		break;
	}
	LWLockRelease(state->lock);
	return found;
}

static DatabaseSlot *look_up(Oid database) {
	for (DatabaseSlot &slot : database_slots())
		if (pg_atomic_read_u32(&slot.database) == database)
			return &slot;
	return nullptr;
}

DatabaseSlot *find_database(Oid database) {
	return state && OidIsValid(database) ? look_up(database) : nullptr;
}

/* One that has not been given back just now; null if there is none. The caller holds the lock. */
static DatabaseSlot *free_slot() {
	constexpr int64 quarantine_us = USECS_PER_SEC / 10;
	const SteadyTime now = steady_now();
	for (DatabaseSlot &slot : database_slots())
		if (pg_atomic_read_u32(&slot.database) == InvalidOid &&
			now - static_cast<SteadyTime>(pg_atomic_read_u64(&slot.released_at)) > quarantine_us)
			return &slot;
	const uint32 used = pg_atomic_read_u32(&state->database_count);
	if (used == static_cast<uint32>(state->database_limit))
		return nullptr;
	pg_atomic_write_u32(&state->database_count, used + 1);
	return &database_array[used];
}

DatabaseSlot *attach_database(Oid database) {
	if (state == nullptr)
		return nullptr;
	if (DatabaseSlot *slot = look_up(database))
		return slot;
	LWLockAcquire(state->lock, LW_EXCLUSIVE);
	DatabaseSlot *slot = look_up(database);
	if (slot == nullptr && (slot = free_slot()) == nullptr && OidIsValid(MyDatabaseId)) {
		pg_atomic_write_u32(&state->database_missed, 1);
		wake_launcher();
	}
	if (slot != nullptr && pg_atomic_read_u32(&slot->database) == InvalidOid) {
		pg_atomic_write_u32(&slot->state, static_cast<uint32>(SchedulerState::none));
		pg_atomic_write_u32(&slot->scheduler_procno, static_cast<uint32>(no_procno));
		pg_atomic_write_u32(&slot->scheduler_pid, 0);
		pg_atomic_write_u32(&slot->wanted, 0);
		pg_atomic_write_u32(&slot->let_go, 0);
		pg_atomic_write_u32(&slot->interrupted, 0);
		pg_atomic_write_u32(&slot->paused_reported, 0);
		pg_atomic_write_u32(&slot->retire, 0);
		pg_atomic_write_u32(&slot->orphans, 0);
		pg_atomic_write_u32(&slot->by_hand, 0);
		pg_atomic_write_u64(&slot->hungry_since, 0);
		pg_atomic_write_u64(&slot->waits_since, 0);
		pg_atomic_write_u64(&slot->scheduler_since, 0);
		pg_atomic_write_u32(&slot->shortage_reported, 0);
		pg_atomic_write_u64(&slot->admission_ready, 0);
		pg_atomic_write_u32(&slot->history_slot, 0);
		/* A number never comes back, also not in another slot. */
		pg_atomic_write_u64(&slot->configuration, pg_atomic_add_fetch_u64(&state->configurations, 1) << 32);
		pg_atomic_write_u64(&slot->due_at, PG_INT64_MAX);
		pg_atomic_write_u64(&slot->next_run, PG_INT64_MAX);
		pg_atomic_write_u64(&slot->served_since, 0);
		pg_atomic_write_u64(&slot->parents_low, 0); /* whether there are any is not known */
		pg_atomic_write_u64(&slot->parents_high, PG_INT64_MAX);
		pg_atomic_write_u32(&slot->dependencies_written, 0);
		take_ended(slot);
		pg_atomic_write_u64(&slot->notified, pg_atomic_read_u64(&state->announced));
		pg_write_barrier();
		pg_atomic_write_u32(&slot->database, database);
	}
	LWLockRelease(state->lock);
	return slot;
}

void add_ended(DatabaseSlot *slot, const IdRanges &ids) noexcept {
	SpinLockAcquire(&slot->ended_lock);
	slot->ended.add(ids);
	SpinLockRelease(&slot->ended_lock);
}

IdRanges take_ended(DatabaseSlot *slot) noexcept {
	SpinLockAcquire(&slot->ended_lock);
	const IdRanges ids = slot->ended;
	slot->ended = IdRanges();
	SpinLockRelease(&slot->ended_lock);
	return ids;
}

void release_database(DatabaseSlot *slot) {
	LWLockAcquire(state->lock, LW_EXCLUSIVE);
	pg_atomic_write_u64(&slot->released_at, static_cast<uint64>(steady_now()));
	pg_atomic_write_u32(&slot->database, InvalidOid);
	LWLockRelease(state->lock);
}

void wake(pg_atomic_uint32 *procno) noexcept {
	const int number = static_cast<int>(pg_atomic_read_u32(procno));
	if (number != no_procno)
		SetLatch(compat::latch_of(number));
}

void wake_launcher() noexcept {
	pg_atomic_write_u32(&state->launcher_wanted, 1);
	pg_memory_barrier();
	wake(&state->launcher_procno);
}

void wake_scheduler(DatabaseSlot *slot) noexcept {
	/* It clears the flag before it looks: who finds it set has been waited for by somebody else's wake-up. */
	pg_memory_barrier();
	if (pg_atomic_read_u32(&slot->wanted) != 0 || pg_atomic_exchange_u32(&slot->wanted, 1) != 0)
		return;
	if (scheduler_state(slot) == SchedulerState::running)
		wake(&slot->scheduler_procno);
	else
		wake_launcher();
}

bool is_turn_of(uint64 hungry_since) noexcept {
	const auto comes_before = [hungry_since](pg_atomic_uint64 *other) {
		const uint64 since = pg_atomic_read_u64(other);
		return since != 0 && since < hungry_since;
	};
	if (comes_before(&state->launcher_hungry_since))
		return false;
	for (DatabaseSlot &slot : database_slots())
		if (pg_atomic_read_u32(&slot.database) != InvalidOid && comes_before(&slot.hungry_since))
			return false;
	return true;
}

bool has_workers(Oid database) noexcept {
	const auto workers = worker_slots();
	return std::any_of(workers.begin(), workers.end(), [database](WorkerSlot &worker) {
		return worker_state(&worker) != WorkerState::free && pg_atomic_read_u32(&worker.database) == database;
	});
}

void dismiss(WorkerSlot *worker) noexcept {
	uint32 idle = static_cast<uint32>(WorkerState::idle);
	pg_atomic_write_u32(&worker->retire, 1);
	pg_memory_barrier();
	if (pg_atomic_compare_exchange_u32(&worker->state, &idle, static_cast<uint32>(WorkerState::running)))
		wake(&worker->procno);
}

/* Is there another of its role? */
static bool is_spare(WorkerSlot &worker) noexcept {
	const auto workers = worker_slots();
	return std::any_of(workers.begin(), workers.end(), [&worker](WorkerSlot &other) {
		return &other != &worker && takes_place(&other) &&
			   pg_atomic_read_u32(&other.database) == pg_atomic_read_u32(&worker.database) &&
			   pg_atomic_read_u32(&other.role) == pg_atomic_read_u32(&worker.role);
	});
}

/* Of a role that has others, if there is one. */
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
 * Of those that nobody has asked yet: one that is not hungry, without workers first, and the one that has been there for
 * longest; else the one that became hungry last, if that was after "since". It comes back when it is its turn.
 */
static bool dismiss_scheduler(Oid except, uint64 since) noexcept {
	DatabaseSlot *victim = nullptr;
	std::pair<int, uint64> victim_rank;
	for (DatabaseSlot &slot : database_slots()) {
		const Oid database = pg_atomic_read_u32(&slot.database);
		if (database == InvalidOid || database == except || scheduler_state(&slot) != SchedulerState::running ||
			pg_atomic_read_u32(&slot.retire) != 0)
			continue;
		const uint64 hungry_since = pg_atomic_read_u64(&slot.hungry_since);
		if (hungry_since != 0 && hungry_since <= since)
			continue;
		const std::pair<int, uint64> rank =
			hungry_since != 0
				? std::pair<int, uint64>(2, PG_UINT64_MAX - hungry_since)
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

/* Whoever was asked needs a moment to leave, and the postmaster one to notice. */
static bool may_ask_for_room(uint64 now) noexcept {
	constexpr uint64 patience_us = 200000;
	uint64 asked = pg_atomic_read_u64(&state->room_asked_at);
	return now - asked >= patience_us && pg_atomic_compare_exchange_u64(&state->room_asked_at, &asked, now);
}

void make_room_if_idle() noexcept {
	if (may_ask_for_room(static_cast<uint64>(steady_now())))
		dismiss_idle_worker();
}

bool all_places_taken() noexcept {
	const auto workers = worker_slots();
	return std::count_if(workers.begin(), workers.end(), [](WorkerSlot &worker) { return takes_place(&worker); }) >=
		   settings::max_workers;
}

void make_room(Oid for_database, uint64 since) noexcept {
	const auto now = static_cast<uint64>(steady_now());
	if (!may_ask_for_room(now) || dismiss_idle_worker())
		return;
	const bool lacks_process = for_database == InvalidOid || !all_places_taken();
	if (lacks_process && dismiss_scheduler(for_database, since))
		return;
	pg_atomic_write_u64(&state->starved_at, now);
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
