/*
 * process_room.hpp -- the server has a fixed number of processes (max_worker_processes) for the schedulers and workers
 * of all databases. Here it is decided who gets the next one, and who leaves to make room. noexcept, any region.
 */
#pragma once

#include "shared/state.hpp"

namespace jobqueue {

/* The next process goes to the one that has waited longest. Is this the turn of one that has waited since then? */
bool is_turn_of(uint64 waiting_since) noexcept;

/*
 * Makes room for a process that this database (InvalidOid: the launcher) has waited for since then. An idle worker
 * leaves at once; else a scheduler that does not wait for a process itself, or not for so long; else a busy worker
 * after its task. If no process is missing, but a place among jobqueue.max_workers, no scheduler leaves.
 */
void make_room(Oid for_database, uint64 since) noexcept;
/* Likewise for a role that has a worker and could use another one: only an idle worker leaves for that. */
void make_room_if_idle() noexcept;

} // namespace jobqueue
