/*
 * admission.hpp -- may one more task begin? Counts those that are running by queue, by type and by group, and keeps the
 * token buckets of rate limits, for tasks that have such a limit; others are never seen here.
 *
 * A claimer admits a task when it locks it. From then on the task is counted: until the end of the transaction if it is
 * not begun in it (a task of a fused group ends with it, one that is given back was never run), else until the commit
 * of the transaction that ends its claim. Tokens are never given back but by take_back() and return_tokens(). All of it is in shared memory:
 * after a start of the server the scheduler counts the tasks that are processing (see engine/flow.hpp), and what
 * somebody changes by hand is found by its poll.
 *
 * Safe in any region where it says noexcept; LWLocks are taken inside.
 */
#pragma once

#include "pg/clock.hpp"
#include "shared/shares.hpp"

#include <span>

namespace jobqueue {

/* A limit of a queue, a type or a group; 0 = none. */
struct Rule {
	int32 max_running = 0;
	int32 rate_burst = 0;
	int64 token_ns = 0;		   /* time for one more token */
	SteadyTime changed_at = 0; /* a bucket that is younger than the server is full at first, another one empty */

	bool is_limit() const noexcept { return max_running > 0 || token_ns > 0; }
};

enum class Counted { queue, type, group };
inline constexpr size_t counted_kinds = 3;

/* What a task is counted as, and under which limits. */
struct Admission {
	int64 task;
	uint64 names[counted_kinds]; /* hash of each; 0 = there is no limit */
	Rule rules[counted_kinds];
	uint64 queue_hash = 0; /* for the announcement, as is the next one */
	char group[queue_name_size] = {};
	char queue[queue_name_size] = {};
	Oid role = InvalidOid; /* of a task that runs: for whom, if that is known */
};

struct Verdict {
	bool admitted;
	SteadyTime again_at;			/* when a token comes; never: when another task ends */
	std::optional<Counted> by = {}; /* whose limit says no; none: there is no room to count it */
};

Size admission_size();
/* C region; called at start, under AddinShmemInitLock. */
void startup_admission();

/* Is it known what is running, as of this configuration? Nothing may be admitted before. */
bool admission_is_ready(DatabaseSlot *slot, uint64 configuration) noexcept;

/* How many tasks these limits would let in now, at most "wanted"; if none, when to ask again. */
int count_admissible(std::span<const std::pair<uint64, Rule>> limits, int wanted, SteadyTime *again_at) noexcept;

/* Admits the task, if all its limits let it in. C region: notes what the end of the transaction shall do. */
Verdict admit(const Admission &admission);
/* It was not locked after all: as if it had not been admitted. Nobody is told: ask again in a moment. noexcept. */
void take_back(int64 task) noexcept;
/* Its transaction is about to be aborted before the task has begun: what it took of rates is given back. noexcept. */
void return_tokens(int64 task) noexcept;
/* A task that was admitted as "task" has been claimed, with this id: it is counted until its claim ends. C region. */
void note_begun(int64 task, int64 id);
/* The claim of a task ends, at commit. C region. */
void note_ended(int64 id);

/* A task that is known to be processing is counted; under what it was not yet, if it is counted already. noexcept. */
void count_running(const Admission &admission) noexcept;
/* Was somebody of this database refused for want of room in shared memory since this was asked last? Who? noexcept. */
bool was_without_room(Held *who) noexcept;
/* Who holds what: fills "out", as far as it goes; returns how many there are, and what is in use by all. noexcept. */
size_t list_shares(std::span<Held> out, int64 (*used)[resource_kinds]) noexcept;
int64 share_now(Resource resource, const Holder &holder) noexcept;
void set_admission_ready(DatabaseSlot *slot, uint64 configuration) noexcept;
/* Tasks of this database that are counted, to be compared with the table; "serial" names this counting. */
struct Running {
	int64 id;
	uint64 serial;
};
/* Fills "out", as far as it goes; returns how many there are. */
size_t list_running(std::span<Running> out) noexcept;
/* How many run under each name is counted anew, of the tasks that are. */
void check_counts() noexcept;
/* It is not what it was counted as. */
void discount(const Running &running) noexcept;

} // namespace jobqueue
