/*
 * deaths.hpp -- workers that ended with a task in hand: why, for the scheduler, which gives the task back. C region
 * (takes an LWLock).
 */
#pragma once

#include "shared/state.hpp"

namespace jobqueue {

void record_death(const Death &death);
/* Its cause is "unknown" if nothing was recorded. */
Death death_of(Oid database, int64 task, int32 attempt);
/* Takes one of a fused task out of the list; false if there is none. */
bool take_fused_death(Oid database, Death *death);
/* Is there one, of a worker of this role? */
bool has_fused_death(Oid database, Oid role);

} // namespace jobqueue
