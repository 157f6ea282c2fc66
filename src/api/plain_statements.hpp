/*
 * plain_statements.hpp -- announces plain INSERTs and COPYs that the trigger on jobqueue.tasks cannot announce.
 */
#pragma once

namespace jobqueue {

/* C region; called by _PG_init. */
void watch_inserts();

} // namespace jobqueue
