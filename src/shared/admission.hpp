/*
 * admission.hpp -- may one more task begin? Counts those that are running by queue, by type and by group, and keeps the
 * token buckets of rate limits, for tasks that have such a limit; others are never seen here.
 *
 * A claimer admits a task when it locks it. From then on the task is counted: until the end of the transaction if it is
 * not begun in it (a task of a fused batch ends with it, one that is given back was never run), else until the commit
 * of the transaction that ends its claim. Tokens are never given back but by take_back() and return_tokens().
 * All of it is in shared memory (counting.hpp): after a start of the server the scheduler counts the tasks that are
 * processing (running_tasks.hpp), and what somebody changes by hand is found by its poll.
 *
 * Safe in any region where it says noexcept; LWLocks are taken inside.
 */
#pragma once

#include "shared/limits.hpp"

namespace jobqueue {

struct Verdict {
	bool admitted;
	SteadyTime again_at;			/* when a token comes; never: when another task ends */
	std::optional<Counted> by = {}; /* whose limit says no; none: there is no room to count it */
};

/* Is it known what is running, as of this configuration? Nothing may be admitted before. */
bool admission_is_ready(DatabaseSlot *slot, uint64 configuration) noexcept;
void set_admission_ready(DatabaseSlot *slot, uint64 configuration) noexcept;

/* How many tasks these limits would let in now, at most "wanted"; if none, when to ask again. */
int count_admissible(std::span<const std::pair<uint64, Rule>> limits, int wanted, SteadyTime *again_at) noexcept;

/* Admits the task, if all its limits let it in. C region: notes what the end of the transaction has to do. */
Verdict admit(const Admission &admission);
/* It was not locked after all: as if it had not been admitted. Nobody is told: ask again in a moment. noexcept. */
void take_back(int64 task) noexcept;
/* Its transaction is about to be aborted before the task has begun: what it took of rates is given back. noexcept. */
void return_tokens(int64 task) noexcept;
/* A task that was admitted as "task" has been claimed, with this id: it is counted until its claim ends. C region. */
void note_begun(int64 task, int64 id);
/* The claim of a task ends, at commit. C region. */
void note_ended(int64 id);

/* Has the current transaction admitted the task, or ended its claim? noexcept. */
bool is_noted(int64 task) noexcept;

} // namespace jobqueue
