/*
 * workers.hpp -- the workers' slots in shared memory. noexcept, any region.
 */
#pragma once

#include "shared/state.hpp"

namespace jobqueue {

/* Gives a worker's slot back. The caller holds the lock. */
void free_worker(WorkerSlot *slot) noexcept;
/* This process's own slot; null where it is no worker. */
WorkerSlot *own_worker() noexcept;
void set_own_worker(WorkerSlot *slot) noexcept;

bool has_workers(Oid database) noexcept;
/* Are there as many workers as jobqueue.max_workers allows? */
bool all_places_taken() noexcept;
/* Tells a worker to leave: at once if it is idle, else after its task. */
void dismiss(WorkerSlot *worker) noexcept;

/* Stores what a handler says of its progress. The caller has cut "message" where a character ends. */
void write_progress(WorkerSlot *slot, float4 fraction, const char *message) noexcept;
/* False if there is none. */
bool read_progress(WorkerSlot *slot, float4 *fraction, char (&message)[progress_message_size]) noexcept;

} // namespace jobqueue
