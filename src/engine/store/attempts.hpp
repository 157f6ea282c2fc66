/*
 * attempts.hpp -- the statements that begin attempts at locked tasks: by workers in the server, and by those outside.
 *
 * C++ region; needs a Session, throws PgError. Strings that are returned are copies; Datums live as long as the
 * Session.
 */
#pragma once

#include "engine/store/candidates.hpp"

namespace jobqueue::store {

struct Attempt {
	int64 id;
	std::string type;
	std::string queue;
	int16 priority;
	int32 attempt;
	int32 max_attempts;
	int64 timeout_us; /* 0 = as its handler says */
	Datum payload;	  /* jsonb */
	Datum row;		  /* jobqueue.tasks; 0 = large, or not needed: row_as_claimed() has it */
};
/*
 * Begins attempts at tasks that this transaction has locked. A "lease" of DT_NOEND is that of a worker in the server.
 * Returns the attempts in the order of the tasks, without tasks that the transaction itself has changed since.
 */
std::vector<Attempt> begin_attempts(std::span<const Candidate> tasks, TimestampTz lease, std::string_view claimed_by);
/*
 * The same for workers outside. Returns rows of jobqueue.tasks; null for tasks that were not locked and have been
 * claimed by others meanwhile. "unhandled": no task has a handler.
 */
std::vector<HeapTuple> claim(std::span<const Candidate> tasks, bool unhandled, TimestampTz lease,
							 std::string_view claimed_by);

/* Copies the Datums of an attempt to a context in which they outlive the Session. */
void keep(Attempt &attempt, MemoryContext context);

} // namespace jobqueue::store
