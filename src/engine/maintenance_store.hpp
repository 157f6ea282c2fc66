/*
 * maintenance_store.hpp -- statements of the scheduler's housekeeping. C++ region; needs a Session.
 */
#pragma once

#include "engine/task_store.hpp"

namespace jobqueue::store {

/* Locks a task, if it is live; false, without waiting, if somebody else has locked it. */
bool lock_unless_locked(int64 id);

/* As empty_history(), but waits for those who read the leaf, as long as lock_timeout allows. */
void empty_history_patiently(int slot);
/* Where it cannot be emptied at once: removes rows after an id, in the order of ids, but for those that are locked. */
struct Thinned {
	int64 last;
	int64 count;
};
Thinned thin_history(int slot, int64 after, int count);
bool history_is_empty(int slot);
/* Who has a lock on the leaf, for people. */
std::string holders_of_history(int slot);

/* An installation that is younger than "now", since the clock was set back, becomes older; true if it was. */
bool correct_installation(TimestampTz now);

} // namespace jobqueue::store
