/*
 * plain_statements.hpp -- plain INSERTs and COPYs that the trigger on jobqueue.tasks cannot announce as they are.
 */
#pragma once

namespace jobqueue {

/* C region; called by _PG_init. */
void watch_inserts();

} // namespace jobqueue
