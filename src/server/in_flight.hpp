/*
 * in_flight.hpp -- what a worker has in its hands, told to all who want to know: its slot (the views, cancel(), the
 * clocks of the scheduler), the flight recorder, which survives a crash, and its own exit, for which a task may be to
 * blame.
 *
 * Everything but leave_behind() is noexcept; nothing allocates.
 */
#pragma once

#include "engine/store/attempts.hpp"

namespace jobqueue::in_flight {

/* First, once the process has its slot. */
void attach(int index) noexcept;

/*
 * Claimed durably, and the first to run. Nothing that was said of tasks before holds for it, not even if it was here.
 */
void claimed(const store::Attempt &first) noexcept;
/* That claim is committed; those who were finished in the same transaction are not to blame any more. */
void committed(const store::Attempt &first) noexcept;
/* It runs now. "fused": others see it pending. */
void running(const store::Attempt &task, bool fused) noexcept;
/* Several run in one call: nobody knows which one it is that ends the process. */
void running_several(const store::Attempt &first, bool fused) noexcept;
/* A handler of a fused batch is over. */
void between() noexcept;
/* What was deferred to the commit may end the process: it belongs to these, which were fused. */
void finishing(const store::Attempt *first, size_t count) noexcept;
void nothing() noexcept;

/* The worker ends, and leaves a task to the scheduler that it could not give back. */
void leave_behind(int64 task, int32 attempt);
/* A task has been run to its end, whatever that was. */
void survived() noexcept;
/* The process ends because it has nothing to do here; or by an error of our own, and then no task is to blame. */
void leaving() noexcept;
void leaving_by_own_error() noexcept;

/* For the end of the process: accuses whom it was running. True if somebody must see to a task. */
bool at_exit() noexcept;

} // namespace jobqueue::in_flight
