/*
 * deaths.hpp -- why workers ended while they had a task: for the scheduler, which gives the task back or charges it. C
 * region (takes an LWLock).
 */
#pragma once

#include "shared/state.hpp"

namespace jobqueue {

void record_death(const Death &death);
/* The cause is "unknown" if nothing was recorded. */
Death death_of(Oid database, int64 task, int32 attempt);
/* Returns a death with a fused task, each only once; false if there is none. */
bool take_fused_death(Oid database, Death *death);
/* Is there such a death, of a worker of this role? */
bool has_fused_death(Oid database, Oid role);

} // namespace jobqueue
