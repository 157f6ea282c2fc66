/*
 * process_room.hpp -- the server has a fixed number of processes (max_worker_processes) for the schedulers and workers
 * of all databases: who gets the next one, and who leaves to make room. noexcept, any region.
 */
#pragma once

#include "shared/state.hpp"

namespace jobqueue {

/* Who has waited longest gets the next process: is it the turn of somebody who has waited since then? */
bool is_turn_of(uint64 waiting_since) noexcept;

/*
 * Somebody in this database (InvalidOid: the launcher) has waited for a process since then. An idle worker leaves at
 * once; else a scheduler that does not wait for a process itself, or not for so long; else a busy worker after its
 * task. If it is not a process that is missing, but a place among jobqueue.max_workers, no scheduler leaves.
 */
void make_room(Oid for_database, uint64 since) noexcept;
/* Likewise for somebody who has a process and could do with another: only an idle worker leaves for that. */
void make_room_if_idle() noexcept;

} // namespace jobqueue
