/*
 * leftovers.hpp -- what the code that ran in a subtransaction has left in the transaction around it, and what this does
 * to others. C region; used between the tasks of a fused batch.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

/* Temporary objects, advisory locks, cursors, open large objects: what the next task must not meet. */
struct Leftovers {
	bool residue;		 /* there are some */
	bool others_wait;	 /* for a lock that this transaction holds */
	int subtransactions; /* with a transaction id, so far */
};
Leftovers look_for_leftovers();
/* Undoes a setseed() of the last task, which would decide what random() returns to the next one. */
void forget_random_seed();
/* Notes that SET CONSTRAINTS was run: this lasts until the end of the transaction, and nothing else tells of it. */
void note_set_constraints() noexcept;
/* How many subtransactions the server remembers of each process: beyond that, everybody's snapshots become slow. */
inline constexpr int most_subtransactions = PGPROC_MAX_CACHED_SUBXIDS;

/* Is this process waiting for a lock right now? noexcept: for signal handlers. */
bool waits_for_lock() noexcept;
/* Is it waiting for a row that somebody has changed or locked, rather than for a table? */
bool waits_for_row() noexcept;

} // namespace jobqueue
