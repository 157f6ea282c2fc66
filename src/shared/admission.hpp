/*
 * admission.hpp -- may one more task begin? Counts running tasks by queue, by type and by group, and keeps the token
 * buckets of rate limits. Only tasks under such a limit are counted; others are never seen here.
 *
 * A claimer admits a task when it locks it. From then on the task is counted. A task that does not begin in that
 * transaction is counted until the transaction ends: a task of a fused batch ends with it, and one that is given back
 * was never run. A task that begins is counted until the commit of the transaction that ends its claim. Only
 * take_back() and return_tokens() give tokens back. Everything is in shared memory (counting.hpp): after a start of the
 * server the scheduler counts the tasks that are processing (running_tasks.hpp), and its poll finds what was changed by
 * hand.
 *
 * Safe in any region where it says noexcept; LWLocks are taken inside.
 */
#pragma once

#include "shared/limits.hpp"

namespace jobqueue {

struct Verdict {
	bool admitted;
	SteadyTime again_at;			/* when a token comes; never = when another task ends */
	std::optional<Counted> by = {}; /* whose limit is reached; none: there is no room to count the task */
};

/* Have the running tasks been counted as of this configuration? Nothing may be admitted before. */
bool admission_is_ready(DatabaseSlot *slot, uint64 configuration) noexcept;
void set_admission_ready(DatabaseSlot *slot, uint64 configuration) noexcept;

/* How many tasks these limits would let in now, at most "wanted"; if none, when to ask again. */
int count_admissible(std::span<const std::pair<uint64, Rule>> limits, int wanted, SteadyTime *again_at) noexcept;

/* Admits the task, if all its limits let it in. C region: notes what the end of the transaction has to do. */
Verdict admit(const Admission &admission);
/* Undoes admit() for a task that was not locked after all. Not announced: the caller asks again later. noexcept. */
void take_back(int64 task) noexcept;
/* The transaction is about to be aborted before the task has begun: gives the task's tokens back. noexcept. */
void return_tokens(int64 task) noexcept;
/* The task "id", which was admitted as "task", has been claimed: it is counted until its claim ends. C region. */
void note_begun(int64 task, int64 id);
/* The claim of a task ends when this transaction commits. C region. */
void note_ended(int64 id);

/* Has the current transaction admitted the task, or ended its claim? noexcept. */
bool is_noted(int64 task) noexcept;

} // namespace jobqueue
