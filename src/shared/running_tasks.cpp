/*
 * running_tasks.cpp -- see running_tasks.hpp. C region.
 */
#include "shared/running_tasks.hpp"

#include "shared/admission.hpp"
#include "shared/counting.hpp"

namespace jobqueue {

using namespace counting;

/* A process that still exists takes care of a task that it has admitted, until its transaction ends. */
static bool is_cared_for(const CountedTask &task) noexcept {
	return task.state == TaskState::admitted && BackendPidGetProc(task.admitted_by) != nullptr;
}

bool count_running(const Admission &admission, Running *counted) noexcept {
	LWLockAcquire(shared()->admission_lock, LW_EXCLUSIVE);
	const Holder holder =
		holder_of(MyDatabaseId, OidIsValid(admission.role) ? admission.role : unknown_role, admission.queue_hash);
	CountedTask *task = find_task(admission.task);
	if (task != nullptr) {
		for (size_t i = 0; i < counted_kinds; i++) {
			if (task->names[i] != 0 || admission.names[i] == 0 ||
				enter_name(admission.names[i], task->holder, admission.queue) == nullptr)
				continue;
			task->names[i] = admission.names[i];
			find_name(admission.names[i])->running++;
		}
	} else if (enter_task(admission, TaskState::begun, holder)) {
		task = find_task(admission.task);
	} else {
		note_refused(holder);
	}
	const bool is_ours = task != nullptr && !is_cared_for(*task);
	if (is_ours)
		*counted = {task->key.task, task->serial};
	LWLockRelease(shared()->admission_lock);
	return is_ours;
}

bool is_counted(int64 id) noexcept {
	LWLockAcquire(shared()->admission_lock, LW_SHARED);
	const bool counted = find_task(id) != nullptr;
	LWLockRelease(shared()->admission_lock);
	return counted;
}

bool was_without_room(Held *who) noexcept {
	LWLockAcquire(shared()->admission_lock, LW_EXCLUSIVE);
	const bool was = take_refused(MyDatabaseId, who);
	LWLockRelease(shared()->admission_lock);
	return was;
}

size_t list_shares(std::span<Held> out, int64 (*used)[resource_kinds]) noexcept {
	LWLockAcquire(shared()->admission_lock, LW_SHARED);
	for (size_t i = 0; i < resource_kinds; i++)
		(*used)[i] = in_use(static_cast<Resource>(i));
	const size_t count = list_held(out);
	LWLockRelease(shared()->admission_lock);
	return count;
}

int64 share_now(Resource resource, const Holder &holder) noexcept {
	LWLockAcquire(shared()->admission_lock, LW_SHARED);
	const int64 share = share_of(resource, holder);
	LWLockRelease(shared()->admission_lock);
	return share;
}

size_t list_running(std::span<Running> out) noexcept {
	size_t count = 0;
	LWLockAcquire(shared()->admission_lock, LW_SHARED);
	HASH_SEQ_STATUS scan;
	scan_tasks(&scan);
	while (auto *task = static_cast<CountedTask *>(hash_seq_search(&scan))) {
		if (task->key.database != MyDatabaseId || is_cared_for(*task))
			continue;
		if (count < out.size())
			out[count] = {task->key.task, task->serial};
		count++;
	}
	LWLockRelease(shared()->admission_lock);
	return count;
}

void check_counts() noexcept {
	LWLockAcquire(shared()->admission_lock, LW_EXCLUSIVE);
	HASH_SEQ_STATUS scan;
	scan_names(&scan);
	while (auto *entry = static_cast<CountedName *>(hash_seq_search(&scan)))
		if (entry->key.database == MyDatabaseId)
			entry->running = 0;
	scan_tasks(&scan);
	while (auto *task = static_cast<CountedTask *>(hash_seq_search(&scan)))
		if (task->key.database == MyDatabaseId)
			count_under(*task, 1);
	LWLockRelease(shared()->admission_lock);
}

void discount(const Running &running) noexcept {
	if (is_noted(running.id))
		return; /* the end of our own transaction settles it */
	Freed freed;
	LWLockAcquire(shared()->admission_lock, LW_EXCLUSIVE);
	const CountedTask *task = find_task(running.id);
	if (task != nullptr && task->serial == running.serial)
		forget_task(running.id, freed);
	LWLockRelease(shared()->admission_lock);
	freed.flush();
}

} // namespace jobqueue
