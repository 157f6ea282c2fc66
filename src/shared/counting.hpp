/*
 * counting.hpp -- the tables in shared memory behind admission: tasks that are counted under limits, and for each
 * limited name (queue, type, group) how many of them run and its token bucket. For admission.cpp and running_tasks.cpp
 * only.
 *
 * C region: nothing ereports or allocates. The caller holds admission_lock, shared for finding, else exclusively.
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
	int32 admitted_by; /* process */
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
	Holder holder; /* who brought it here */
	int32 running;
};

inline constexpr int64 no_room_us = USECS_PER_SEC;

/* Does nobody count anything? Without the lock. */
bool is_empty() noexcept;
CountedTask *find_task(int64 id, HASHACTION action = HASH_FIND, bool *found = nullptr) noexcept;
CountedName *find_name(uint64 name, HASHACTION action = HASH_FIND, bool *found = nullptr) noexcept;
/* All of them, of all databases. */
void scan_tasks(HASH_SEQ_STATUS *scan) noexcept;
void scan_names(HASH_SEQ_STATUS *scan) noexcept;
/* Null if there is no room. */
CountedName *enter_name(uint64 name, const Holder &holder, const char *queue) noexcept;

/* The bucket under this rule; of a name that is not in the table, null, too. */
TokenBucket bucket_of(const CountedName *entry, const Rule &rule) noexcept;
/* Tokens in the bucket; if there is none, moves *again_at to when the next one comes. */
int64 tokens(const TokenBucket &bucket, const Rule &rule, int64 now_ns, SteadyTime *again_at) noexcept;
bool has_room_for_bucket(const Holder &holder) noexcept;
inline int64 now_ns() noexcept {
	return steady_now() * 1000;
}

/* Counts the task under its names, or no longer. */
void count_under(const CountedTask &task, int32 change) noexcept;
/*
 * Enters the task, and counts it. False if there is no room: then nobody is let in. What runs already is counted
 * however much its holder has.
 */
bool enter_task(const Admission &admission, TaskState state, const Holder &holder) noexcept;

/* What ended tasks make room for: announced after they are gone, since who asked before has been told no. */
struct Freed {
	News news = {};
	bool any = false;

	/* Without the lock. */
	void flush() noexcept;
	void add(const CountedTask &task) noexcept;
};
void forget_task(int64 id, Freed &freed) noexcept;
/* Takes it out of the table, uncounted. */
void remove_task(CountedTask *task) noexcept;

} // namespace jobqueue::counting

namespace jobqueue {

Size counting_size();
/* C region; called at start, under AddinShmemInitLock. */
void startup_counting();

} // namespace jobqueue
