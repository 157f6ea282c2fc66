/*
 * counting.hpp -- the tables in shared memory behind admission: tasks that are counted under limits, and for each
 * limited name (queue, type, group) how many of them run and its token bucket. For admission.cpp and running_tasks.cpp
 * only.
 *
 * C region: nothing ereports or allocates. The caller holds admission_lock: shared to find something, else exclusively.
 */
#pragma once

#include "shared/limits.hpp"
#include "shared/ring.hpp"
#include "shared/shares.hpp"

extern "C" {
#include "utils/hsearch.h"
}

namespace jobqueue::counting {

struct TaskKey {
	int64 task;
	uint64 database;
};
enum class TaskState : uint32 {
	admitted, /* by a transaction that is under way */
	begun,	  /* processing */
};
struct CountedTask {
	TaskKey key;
	uint64 names[counted_kinds];
	uint64 queue_hash;
	uint64 serial;
	TaskState state;
	int32 admitted_by; /* process id */
	Holder holder;
	char group[queue_name_size];
};

struct LimitedNameKey {
	uint64 name;
	uint64 database;
};
struct CountedName {
	LimitedNameKey key;
	TokenBucket bucket;
	SteadyTime used_at;
	Holder holder; /* for whom the entry was made */
	int32 running;
};

inline constexpr int64 no_room_us = USECS_PER_SEC;

/* Is no task counted at all? Needs no lock. */
bool is_empty() noexcept;
CountedTask *find_task(int64 id, HASHACTION action = HASH_FIND, bool *found = nullptr) noexcept;
CountedName *find_name(uint64 name, HASHACTION action = HASH_FIND, bool *found = nullptr) noexcept;
/* Over the entries of all databases. */
void scan_tasks(HASH_SEQ_STATUS *scan) noexcept;
void scan_names(HASH_SEQ_STATUS *scan) noexcept;
/* Finds or makes the entry of a name; null if there is no room. */
CountedName *enter_name(uint64 name, const Holder &holder, const char *queue) noexcept;

/* The bucket under this rule. "entry" is null for a name that is not in the table. */
TokenBucket bucket_of(const CountedName *entry, const Rule &rule) noexcept;
/* The tokens in the bucket. If there is none, moves *again_at to when the next one comes, unless it is later. */
int64 tokens(const TokenBucket &bucket, const Rule &rule, int64 now_ns, SteadyTime *again_at) noexcept;
bool has_room_for_bucket(const Holder &holder) noexcept;
inline int64 now_ns() noexcept {
	return steady_now() * 1000;
}

/* Changes how many tasks run under each name of the task, by 1 or -1. */
void count_under(const CountedTask &task, int32 change) noexcept;
/*
 * Enters the task, and counts it. False if there is no room: then the task may not begin. A task that runs already is
 * counted however much its holder has.
 */
bool enter_task(const Admission &admission, TaskState state, const Holder &holder) noexcept;

/* Announces room that ended tasks have made, after they are gone: a claimer that asks before that is refused. */
struct Freed {
	News news = {};
	bool any = false;

	/* The caller does not hold the lock. */
	void flush() noexcept;
	void add(const CountedTask &task) noexcept;
};
void forget_task(int64 id, Freed &freed) noexcept;
/* Takes the task out of the table, without changing the counts of its names. */
void remove_task(CountedTask *task) noexcept;

} // namespace jobqueue::counting

namespace jobqueue {

Size counting_size();
/* C region; called at start, under AddinShmemInitLock. */
void startup_counting();

} // namespace jobqueue
