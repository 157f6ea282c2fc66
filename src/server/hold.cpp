/*
 * hold.cpp -- see hold.hpp. C region.
 */
#include "server/hold.hpp"

#include "server/interrupts.hpp"
#include "shared/flight_recorder.hpp"
#include "shared/state.hpp"
#include "pg/clock.hpp"

namespace jobqueue::hold {

static int worker = -1;
static WorkerSlot *slot = nullptr;

static int64 task_id = 0; /* 0: none that could be accused */
static int32 task_attempt = 0;
static bool is_fused = false;
static bool are_several = false;
static bool left_behind = false;

void attach(int index) noexcept {
	worker = index;
	slot = own_worker();
}

static void show(const store::Attempt &task) noexcept {
	pg_atomic_write_u32(&slot->attempt, static_cast<uint32>(task.attempt));
	pg_atomic_write_u64(&slot->task, static_cast<uint64>(task.id));
}

static void accuse(const store::Attempt *task, bool fused) noexcept {
	task_id = task ? task->id : 0;
	task_attempt = task ? task->attempt : 0;
	is_fused = fused;
	are_several = false;
}

void claimed(const store::Attempt &first) noexcept {
	accuse(&first, false);
	pg_atomic_write_u64(&slot->deadline, PG_INT64_MAX);
	pg_atomic_write_u64(&slot->cancel, 0);
	pg_atomic_write_u64(&slot->end, 0);
	pg_atomic_write_u32(&slot->stuck, 0);
	pg_write_barrier();
	show(first);
}

void committed(const store::Attempt &first) noexcept {
	accuse(&first, false);
}

void running(const store::Attempt &task, bool fused) noexcept {
	accuse(&task, fused);
	show(task);
	record_running(worker, MyDatabaseId, task.id, task.attempt);
}

void running_several(const store::Attempt &first, bool fused) noexcept {
	accuse(fused ? nullptr : &first, fused);
	are_several = true;
	show(first);
	record_several(worker, MyDatabaseId);
}

void between() noexcept {
	accuse(nullptr, false);
}

void finishing(const store::Attempt *first, size_t count) noexcept {
	accuse(count == 1 ? first : nullptr, true);
	are_several = count > 1;
	if (count > 1)
		record_several(worker, MyDatabaseId);
	else if (count == 1)
		record_running(worker, MyDatabaseId, first->id, first->attempt);
	else
		record_idle(worker);
}

void nothing() noexcept {
	between();
	pg_atomic_write_u64(&slot->task, 0);
	record_idle(worker);
}

void leave_behind(int64 task, int32 attempt) {
	left_behind = true;
	record_death({MyDatabaseId, task, attempt, false, DeathCause::innocent});
}

bool at_exit() noexcept {
	record_idle(worker);
	/* A task of a group that did not respond has not had the time it may have: it gets that when it runs alone. */
	const bool out_of_group = is_fused && interrupts::overdue();
	const bool at_fault = !interrupts::told_to_end();
	if (task_id != 0 && !out_of_group) {
		const DeathCause cause = interrupts::overdue()						? DeathCause::overdue
								 : !at_fault || !interrupts::handler_runs() ? DeathCause::terminated
																			: DeathCause::fatal;
		record_death({MyDatabaseId, task_id, task_attempt, is_fused, cause});
	}
	DatabaseSlot *home = find_database(MyDatabaseId);
	if (home && (out_of_group || (are_several && at_fault)))
		pg_atomic_write_u64(&home->alone_until, static_cast<uint64>(steady_now() + alone_after_crash_us));
	return task_id != 0 || left_behind;
}

} // namespace jobqueue::hold
