/*
 * running_tasks.hpp -- the counting of what runs, as the scheduler sets it right and as people see it: tasks that are
 * counted under limits, to be compared with the table, and who holds how much of the room for them.
 *
 * noexcept, any region; LWLocks are taken inside.
 */
#pragma once

#include "shared/limits.hpp"
#include "shared/shares.hpp"

namespace jobqueue {

/* A task that is known to be processing is counted; under what it was not yet, if it is counted already. noexcept. */
void count_running(const Admission &admission) noexcept;
/* Was somebody of this database refused for want of room in shared memory since this was asked last? Who? noexcept. */
bool was_without_room(Held *who) noexcept;
/* Who holds what: fills "out", as far as it goes; returns how many there are, and what is in use by all. noexcept. */
size_t list_shares(std::span<Held> out, int64 (*used)[resource_kinds]) noexcept;
int64 share_now(Resource resource, const Holder &holder) noexcept;
/* Tasks of this database that are counted, to be compared with the table; "serial" names this counting. */
struct Running {
	int64 id;
	uint64 serial;
};
/* Fills "out", as far as it goes; returns how many there are. */
size_t list_running(std::span<Running> out) noexcept;
/* Counts anew how many tasks run under each name. */
void check_counts() noexcept;
/* It does not run any more: it is counted no longer, unless it was counted anew meanwhile. */
void discount(const Running &running) noexcept;

} // namespace jobqueue
