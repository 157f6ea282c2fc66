/*
 * in_flight.cpp -- see in_flight.hpp. C region.
 */
#include "server/in_flight.hpp"

#include "pg/clock.hpp"
#include "server/interrupts.hpp"
#include "shared/deaths.hpp"
#include "shared/flight_recorder.hpp"
#include "shared/penalties.hpp"
#include "shared/state.hpp"
#include "shared/workers.hpp"

namespace jobqueue::in_flight {

static int worker = -1;
static WorkerSlot *slot = nullptr;

static int64 task_id = 0; /* 0: no task that could be to blame */
static int32 task_attempt = 0;
static bool is_fused = false;
static bool are_several = false;
static bool left_behind = false;
static uint64 task_type = 0; /* of the several tasks in one call; of the task, if it is fused; else 0 */
static bool has_survived = false;
static bool leaves = false;
static bool leaves_by_error = false;

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
	task_type = task && fused ? penalty_type(task->type) : 0;
}

static Oid role() noexcept {
	return pg_atomic_read_u32(&slot->role);
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
	pg_atomic_write_u64(&slot->type, fused ? task_type : penalty_type(task.type));
	show(task);
	record_running(worker, MyDatabaseId, task.id, task.attempt);
}

void running_several(const store::Attempt &first, bool fused) noexcept {
	accuse(fused ? nullptr : &first, fused);
	are_several = true;
	task_type = penalty_type(first.type);
	pg_atomic_write_u64(&slot->type, task_type);
	show(first);
	record_several(worker, MyDatabaseId, role(), task_type);
}

void between() noexcept {
	accuse(nullptr, false);
}

void finishing(const store::Attempt *first, size_t count) noexcept {
	accuse(count == 1 ? first : nullptr, true);
	are_several = count > 1;
	if (count > 1)
		record_several(worker, MyDatabaseId, role(), 0);
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
	record_death({MyDatabaseId, task, attempt, false, DeathCause::innocent, role()});
}

void survived() noexcept {
	has_survived = true;
}

void leaving() noexcept {
	leaves = true;
}

void leaving_by_own_error() noexcept {
	leaves_by_error = true;
}

static WorkerEnd how_it_ends() noexcept {
	if (leaves || (interrupts::told_to_end() && !interrupts::handler_runs()))
		return WorkerEnd::in_order;
	if (interrupts::overdue()) /* even if the handler has ended by itself, too late */
		return WorkerEnd::in_task;
	return !leaves_by_error && interrupts::handler_runs() ? WorkerEnd::in_task : WorkerEnd::own_error;
}

bool at_exit() noexcept {
	record_idle(worker);
	const WorkerEnd end = how_it_ends();
	const bool by_own_error = end == WorkerEnd::own_error;
	/*
	 * A task of a fused batch that did not respond has not had its full time: it gets that when it runs alone.
	 */
	const bool out_of_fused_batch = is_fused && interrupts::overdue();
	const bool at_fault = !interrupts::told_to_end() && !by_own_error;
	if (task_id != 0 && !out_of_fused_batch) {
		const DeathCause cause = by_own_error								? DeathCause::own_error
								 : interrupts::overdue()					? DeathCause::overdue
								 : !at_fault || !interrupts::handler_runs() ? DeathCause::terminated
																			: DeathCause::fatal;
		record_death({MyDatabaseId, task_id, task_attempt, is_fused, cause, role()});
	}
	if (out_of_fused_batch || (are_several && at_fault))
		make_run_alone(MyDatabaseId, role(), task_type);
	note_worker_end(pg_atomic_read_u32(&slot->database), role(), end, has_survived);
	return task_id != 0 || left_behind;
}

} // namespace jobqueue::in_flight
