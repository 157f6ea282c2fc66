/*
 * unique.hpp -- adding a task that has a unique key, or what is done instead when the key is taken.
 *
 * C++ region. Called by api/enqueue.cpp.
 */
#pragma once

#include "engine/access.hpp"
#include "engine/store/adding.hpp"
#include "engine/store/unique_keys.hpp"

namespace jobqueue {

enum class OnConflict : uint8 { keep, replace, error };

struct UniqueTask {
	const store::NewTask &task;
	Datum payload;
	store::UniqueKey key;
	OnConflict on_conflict;
};

struct UniqueOutcome {
	int64 id;
	bool is_new;
	std::optional<store::Added> announce;  /* the task that was added or replaced */
	std::optional<std::string> group = {}; /* of the task that was replaced */
};

/*
 * Adds a task for the current user, who may add such tasks to these queues. Throws 23505 if the key is taken and the
 * caller wants an error, or must not know which task has it; 42501 if it would replace a task of another user. Outside
 * of any Session.
 */
UniqueOutcome add_unique(Oid owner, const UniqueTask &unique, const Queues &allowed);

} // namespace jobqueue
