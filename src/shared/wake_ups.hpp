/*
 * wake_ups.hpp -- wakes sleeping processes: the launcher, schedulers, workers, and sessions in wait_for(). noexcept,
 * any region, also where an error would be a PANIC.
 */
#pragma once

#include "shared/state.hpp"

namespace jobqueue {

void wake(pg_atomic_uint32 *procno) noexcept;
void wake_launcher() noexcept;
/* The launcher looks at pg_database again. */
void ask_launcher(Rescan what) noexcept;
/* Sets "wanted" and wakes the scheduler, or the launcher if there is none. */
void wake_scheduler(DatabaseSlot *slot) noexcept;
/* Makes one worker of each role that may handle the type (0 = any) look for tasks; true if one was woken. */
bool wake_workers(Oid database, uint64 type_hash) noexcept;
/* Wakes one idle worker of the role; false if there is none. */
bool wake_worker_of(Oid database, Oid role) noexcept;
/* Tasks of this database, with some of the ids in this range, have ended: wakes sessions that wait for one. */
void wake_waiters(int64 low, int64 high) noexcept;
/* This task was cancelled: interrupts the worker that runs it, if one does. */
void interrupt_workers(int64 id) noexcept;

} // namespace jobqueue
