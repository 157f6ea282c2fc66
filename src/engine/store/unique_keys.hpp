/*
 * unique_keys.hpp -- the statements about unique keys: adding a task that has one, finding who has it, replacing that
 * task.
 *
 * C++ region. Everything needs a Session and throws PgError. Called by engine/unique.cpp, and by the scheduler.
 */
#pragma once

#include "engine/store/adding.hpp"
#include "engine/store/batch.hpp"

namespace jobqueue::store {

struct UniqueKey {
	std::string key;
	bool waiting = false;			  /* held until the task starts, not until it is finished */
	std::optional<TimestampTz> until; /* if given: held until then, whatever becomes of the task */
};

/* None if the key is taken. Waits for transactions that are about to take it or to give it up. */
std::optional<Added> insert_unique(const NewTask &task, Datum payload, const UniqueKey &key);

/* The task that has a key, whatever its state. If the key is held for a period, the task may be gone. */
struct Holder {
	int64 id;
	bool exists;
	bool waits; /* it can be replaced */
	std::string queue;
	std::string created_by;
};
std::optional<Holder> find_holder(std::string_view type, const UniqueKey &key);

struct Replaceable {
	int64 id;
	std::string queue;
	std::string created_by;
	int16 priority;
	bool pending;
	std::optional<std::string> group;
};
/* Locks a task that has a key and waits, except dead letters; "wait": also if somebody has locked it. */
std::optional<Replaceable> lock_replaceable(int64 id, bool wait);
/* Replaces what is given of payload, times, priority, attempts, timeout and metadata of a locked task. */
Added replace(int64 id, const NewTask &task, Datum payload);

/* Removes keys whose period is over, by the tasks that took them; returns how many. */
int64 remove_expired_keys(const Batch &batch);
std::vector<int64> expired_keys(const Batch &batch);

} // namespace jobqueue::store
