/*
 * databases.cpp -- see databases.hpp. C region.
 */
#include "shared/databases.hpp"

#include "pg/clock.hpp"
#include "shared/wake_ups.hpp"

namespace jobqueue {

static DatabaseSlot *look_up(Oid database) {
	for (DatabaseSlot &slot : database_slots())
		if (pg_atomic_read_u32(&slot.database) == database)
			return &slot;
	return nullptr;
}

DatabaseSlot *find_database(Oid database) {
	return shared() && OidIsValid(database) ? look_up(database) : nullptr;
}

/* A free slot that was not given back just now; null if there is none. The caller holds the lock. */
static DatabaseSlot *free_slot() {
	constexpr int64 quarantine_us = USECS_PER_SEC / 10;
	const SteadyTime now = steady_now();
	for (DatabaseSlot &slot : database_slots())
		if (pg_atomic_read_u32(&slot.database) == InvalidOid &&
			now - static_cast<SteadyTime>(pg_atomic_read_u64(&slot.released_at)) > quarantine_us)
			return &slot;
	const uint32 used = pg_atomic_read_u32(&shared()->database_count);
	if (used == static_cast<uint32>(shared()->database_limit))
		return nullptr;
	pg_atomic_write_u32(&shared()->database_count, used + 1);
	return database_slot(static_cast<int>(used));
}

DatabaseSlot *attach_database(Oid database) {
	if (shared() == nullptr)
		return nullptr;
	if (DatabaseSlot *slot = look_up(database))
		return slot;
	LWLockAcquire(shared()->lock, LW_EXCLUSIVE);
	DatabaseSlot *slot = look_up(database);
	if (slot == nullptr && (slot = free_slot()) == nullptr && OidIsValid(MyDatabaseId)) {
		pg_atomic_write_u32(&shared()->database_missed, 1);
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
		pg_atomic_write_u64(&slot->role_waiting_since, 0);
		pg_atomic_write_u64(&slot->database_waiting_since, 0);
		pg_atomic_write_u64(&slot->scheduler_since, 0);
		pg_atomic_write_u32(&slot->shortage_reported, 0);
		pg_atomic_write_u64(&slot->admission_ready, 0);
		pg_atomic_write_u32(&slot->history_leaf, 0);
		/* A configuration's number is never used again, not in another slot either. */
		pg_atomic_write_u64(&slot->configuration, pg_atomic_add_fetch_u64(&shared()->configurations, 1) << 32);
		pg_atomic_write_u64(&slot->due_at, PG_INT64_MAX);
		pg_atomic_write_u64(&slot->next_run, PG_INT64_MAX);
		pg_atomic_write_u64(&slot->served_since, 0);
		pg_atomic_write_u64(&slot->parents_low, 0); /* it is not known whether there are parents */
		pg_atomic_write_u64(&slot->parents_high, PG_INT64_MAX);
		pg_atomic_write_u32(&slot->dependencies_written, 0);
		take_ended(slot);
		pg_atomic_write_u64(&slot->notified, pg_atomic_read_u64(&shared()->announced));
		pg_write_barrier();
		pg_atomic_write_u32(&slot->database, database);
	}
	LWLockRelease(shared()->lock);
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
	LWLockAcquire(shared()->lock, LW_EXCLUSIVE);
	pg_atomic_write_u64(&slot->released_at, static_cast<uint64>(steady_now()));
	pg_atomic_write_u32(&slot->database, InvalidOid);
	LWLockRelease(shared()->lock);
}

} // namespace jobqueue
