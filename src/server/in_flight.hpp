/*
 * in_flight.hpp -- which tasks a worker runs. This is noted in its slot (for the views, cancel() and the clocks of the
 * scheduler), in the flight recorder, which survives a crash, and for its own exit, for which a task may be to blame.
 *
 * Everything but leave_behind() is noexcept; nothing allocates.
 */
#pragma once

#include "engine/store/attempts.hpp"

namespace jobqueue::in_flight {

/* Called first, once the process has its slot. */
void attach(int index) noexcept;

/*
 * The task is claimed durably, and is the first to run. Nothing noted for earlier tasks applies to it, not even if it
 * has run here before.
 */
void claimed(const store::Attempt &first) noexcept;
/* That claim is committed: tasks that were finished in the same transaction are not to blame any more. */
void committed(const store::Attempt &first) noexcept;
/* The task runs now. "fused": others see it as pending. */
void running(const store::Attempt &task, bool fused) noexcept;
/* Several tasks run in one call: if the process ends, it is not known which one ended it. */
void running_several(const store::Attempt &first, bool fused) noexcept;
/* A handler of a fused batch has ended. */
void between() noexcept;
/* The fused batch commits. If something that its tasks deferred to the commit ends the process, they are to blame. */
void finishing(const store::Attempt *first, size_t count) noexcept;
void nothing() noexcept;

/* The worker ends, and leaves a task to the scheduler that it could not give back. */
void leave_behind(int64 task, int32 attempt);
/* A task has run to its end, with any outcome. */
void survived() noexcept;
/* The process ends: it has nothing to do here; or it has an error of our own, and then no task is to blame. */
void leaving() noexcept;
void leaving_by_own_error() noexcept;

/* For the end of the process: notes the task that it was running. True if the scheduler must look after a task. */
bool at_exit() noexcept;

} // namespace jobqueue::in_flight
