/*
 * process_room.hpp -- the server has a fixed number of processes (max_worker_processes) for the schedulers and workers of all
 * databases: who gets the next one, and who leaves to make room. noexcept, any region.
 */
#pragma once

#include "shared/state.hpp"

namespace jobqueue {

/* Processes are handed out in the order in which their want arose: is it the turn of one who has waited since then? */
bool is_turn_of(uint64 hungry_since) noexcept;

/*
 * Somebody hungry since then in this database (InvalidOid: the launcher) asks for a process: an idle worker leaves at
 * once; else a scheduler that is not hungry, or not for so long; else a busy worker after its task. Who lacks no process,
 * but a place among jobqueue.max_workers, is not helped by a scheduler.
 */
void make_room(Oid for_database, uint64 since) noexcept;
/* Likewise for somebody who has a process and could do with another: only an idle worker leaves for that. */
void make_room_if_idle() noexcept;

} // namespace jobqueue
