/*
 * running_tasks.hpp -- the tasks that are counted under limits: for the scheduler, which compares them with the table
 * and corrects the counts, and for the view that shows who holds how much of the room for them.
 *
 * noexcept, any region; LWLocks are taken inside.
 */
#pragma once

#include "shared/limits.hpp"
#include "shared/shares.hpp"

namespace jobqueue {

/* Is this task counted? noexcept. */
bool is_counted(int64 id) noexcept;
/* Was a holder of this database refused for lack of room in shared memory since the last call? Which? noexcept. */
bool was_without_room(Held *who) noexcept;
/* Fills "out" with who holds how much, as far as it goes; returns how many there are. "used": by all. noexcept. */
size_t list_shares(std::span<Held> out, int64 (*used)[resource_kinds]) noexcept;
int64 share_now(Resource resource, const Holder &holder) noexcept;
/* A task of this database that is counted. "serial" changes when it is counted anew. */
struct Running {
	int64 id;
	uint64 serial;
};
/*
 * Counts a task that is known to be processing; if it is counted already, only under names that it lacks. False if
 * there is no room, or if a process takes care of the task: then the caller has nothing to discount.
 */
bool count_running(const Admission &admission, Running *counted) noexcept;
/* Fills "out", as far as it goes; returns how many there are. */
size_t list_running(std::span<Running> out) noexcept;
/* Counts anew how many tasks run under each name. */
void check_counts() noexcept;
/* Stops counting a task that does not run any more, unless it was counted anew meanwhile. */
void discount(const Running &running) noexcept;

} // namespace jobqueue
