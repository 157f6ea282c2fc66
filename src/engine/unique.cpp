/*
 * unique.cpp -- see unique.hpp. C++ region.
 */
#include "engine/unique.hpp"

#include "pg/transaction.hpp"
#include "shared/transaction_notes.hpp"

namespace jobqueue {

/* Each time, somebody else has taken the key, and given it up before we saw who: this does not happen so often. */
static constexpr int most_tries = 1000;

/* Has the caller created the task, or is it a member of the role that did? */
static bool is_own(Oid caller, Oid owner, const std::string &created_by) {
	const char *const name = created_by.c_str();
	return is_unrestricted(caller, owner) || guard([=] {
			   const Oid creator = get_role_oid(name, true);
			   return OidIsValid(creator) && has_privs_of_role(caller, creator);
		   });
}

/* May the caller know of the task? The id of a task that no longer exists tells nothing. */
static bool is_visible(const store::Holder &holder, Oid owner, const Queues &allowed) {
	if (!holder.exists || allowed.contains(holder.queue) || is_own(GetUserId(), owner, holder.created_by))
		return true;
	const Oid tasks = guard([] { return get_relname_relid("tasks", get_namespace_oid("jobqueue", false)); });
	return queues_by_right(owner, tasks, ACL_SELECT, false, {Access::consumer, Access::manager}).contains(holder.queue);
}

[[noreturn]] static void raise_taken(const UniqueTask &unique, std::optional<int64> id) {
	const std::string message =
		"unique key \"" + unique.key.key + "\" of type \"" + std::string(unique.task.type) + "\" is taken";
	const std::string detail = id ? "Task " + std::to_string(*id) + " has the key."
								  : "The task that has the key is in a queue that you have no access to.";
	const char *const text = message.c_str(), *const by = detail.c_str();
	const bool known = id.has_value();
	guard([text, by, known] {
		ereport(ERROR, (errcode(ERRCODE_UNIQUE_VIOLATION), errmsg_internal("%s", text), errdetail_internal("%s", by),
						known ? errhint("Use on_conflict => 'keep' to get the id of that task instead.")
							  : errhint("A key belongs to its type, in all queues.")));
	});
	pg_unreachable();
}

/* Locks a task to replace it; waits if others have it locked. A task that cannot be replaced does not stay locked. */
static std::optional<store::Replaceable> lock(Oid owner, int64 id) {
	struct Nothing {};
	std::optional<store::Replaceable> locked;
	{
		const Session session(owner);
		locked = store::lock_replaceable(id, false);
	}
	if (locked)
		return locked;
	try {
		in_subtransaction([&] {
			const Session session(owner);
			locked = store::lock_replaceable(id, true);
			if (!locked)
				throw Nothing();
		});
	} catch (const Nothing &) {
	}
	return locked;
}

static UniqueOutcome replace(Oid owner, const UniqueTask &unique, const Queues &allowed,
							 const store::Replaceable &locked) {
	if (!is_own(GetUserId(), owner, locked.created_by))
		throw Error(ERRCODE_INSUFFICIENT_PRIVILEGE,
					"permission denied to replace the task that has unique key \"" + unique.key.key + "\" of type \"" +
						std::string(unique.task.type) + "\"",
					"Another role has enqueued it.");
	require(allowed, locked.queue);
	const Session session(owner);
	const store::Added replaced = store::replace(locked.id, unique.task, unique.payload);
	/* If this is rolled back, the task is where it was, but claims that found it locked have passed over it. */
	if (locked.pending)
		guard([&locked] {
			note_claimed(locked.queue, locked.priority, {locked.id, locked.id}, locked.group.has_value());
		});
	return {locked.id, false, replaced, locked.group};
}

UniqueOutcome add_unique(Oid owner, const UniqueTask &unique, const Queues &allowed) {
	if (unique.task.queue)
		require(allowed, unique.task.queue);
	for (int tries = 0; tries < most_tries; tries++) {
		guard([] { CHECK_FOR_INTERRUPTS(); });
		std::optional<store::Holder> holder;
		{
			const Session session(owner);
			if (const std::optional<store::Added> added =
					store::insert_unique(unique.task, unique.payload, unique.key)) {
				require(allowed, added->queue);
				return {added->id, true, added};
			}
			holder = store::find_holder(unique.task.type, unique.key);
		}
		if (!holder)
			continue; /* the holder has been finished meanwhile */
		if (unique.on_conflict == OnConflict::replace && holder->waits) {
			if (const std::optional<store::Replaceable> locked = lock(owner, holder->id))
				return replace(owner, unique, allowed, *locked);
			continue; /* the holder has been claimed meanwhile, or removed */
		}
		const bool visible = is_visible(*holder, owner, allowed);
		if (unique.on_conflict == OnConflict::error || !visible)
			raise_taken(unique, visible ? std::optional(holder->id) : std::nullopt);
		return {holder->id, false, std::nullopt};
	}
	throw Error(ERRCODE_T_R_SERIALIZATION_FAILURE,
				"unique key \"" + unique.key.key + "\" is taken and released again and again", "Try again.");
}

} // namespace jobqueue
