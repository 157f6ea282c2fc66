/*
 * access.hpp -- who may do what in which queues.
 *
 * Rights to our functions and tables are ordinary GRANTs. grant_access() gives them together with a mark: USAGE on the
 * type jobqueue.governed. Rights of a role with the mark count only in the queues that the table jobqueue.access names
 * for this role, for itself and for its members. Rights of a role without the mark, granted by hand, count in all
 * queues. The mark stays with the role, which a name in a table does not: a role that was renamed, or whose rows a
 * restore has lost, may do nothing rather than everything. A role loses no rights by becoming a member of a role with
 * the mark.
 *
 * C++ region.
 */
#pragma once

#include "engine/store/handlers.hpp"

namespace jobqueue {

enum class Access : uint8 { producer, consumer, manager, sql };

/* A set of queues. */
struct Queues {
	bool all = true;
	bool by_hand = true;				 /* the set does not come from jobqueue.access */
	std::vector<std::string> names = {}; /* if not all; sorted */

	bool contains(std::string_view queue) const noexcept {
		return all || std::binary_search(names.begin(), names.end(), queue, std::less<>());
	}
};

/* Superusers, the extension's owner and its members may do everything. */
bool is_unrestricted(Oid role, Oid owner);

/*
 * Queues in which the caller of a function, or another role that answers for the call, has one of these levels of
 * access. Outside of any Session.
 */
Queues callers_queues(FunctionCallInfo fcinfo, std::initializer_list<Access> levels, Oid role = GetUserId());
/* The queues in which the caller is a manager. */
inline Queues managers_queues(FunctionCallInfo fcinfo) {
	return callers_queues(fcinfo, {Access::manager});
}
/* The same as callers_queues(), for a role that may call this function. */
Queues queues_of_function(Oid function, Oid owner, std::initializer_list<Access> levels, Oid role);
/*
 * Queues to whose rows in a table of ours the current user has a right, such as ACL_SELECT: all if it was granted by
 * hand for the whole table, or, if "by_column", for a column; else those where the user has one of the levels.
 */
Queues queues_by_right(Oid owner, Oid table, AclMode right, bool by_column, std::initializer_list<Access> levels);

/*
 * Queues from which a role that has registered a handler for itself gets tasks now: all, if it may do everything or was
 * granted registering or claiming by hand; none if it has lost all these rights. Needs a Session.
 */
Queues queues_of_handlers(Oid role, Oid owner);
/* The function of that name in our schema; InvalidOid if there is none, or several. C region. */
Oid own_function(const char *name);
/*
 * Does such a role get the tasks of all queues, as in the first case of queues_of_handlers()? Also outside of a
 * Session.
 */
bool serves_all_by_hand(Oid role, Oid owner);
/* Queues to which a schedule's role may have tasks added now. Needs a Session. */
Queues queues_of_schedules(Oid role, Oid owner);

/* Queues to which tasks may be added for a role's handlers when tasks of these have failed. Needs a Session. */
Queues queues_of_failure_tasks(Oid role, Oid owner);
/* Throws 42501 if a role with these queues may not add tasks of the type. Needs a Session. */
void require_failure_type(const Queues &allowed, const std::string &role, std::string_view type);

/* Throws 42501 if the queue is not allowed; none = all queues are meant. */
void require(const Queues &allowed, const std::optional<std::string> &queue);
/*
 * Types whose handler serves all queues, while the handler's own queue is not allowed: such a type belongs to the
 * handler's queue. Outside of any Session.
 */
std::vector<std::string> foreign_types(const Queues &allowed, Oid owner);
/* Throws 42501 if this is such a type. Outside of any Session. */
void require_type(const Queues &allowed, Oid owner, std::string_view type);
/* The same with types that have been read; also in a Session. */
void require_type(const Queues &allowed, const std::vector<store::HandledType> &types, std::string_view type);

/* Throws 42501 if the type has a handler whose queue is not allowed: keys belong to a type. Outside of any Session. */
void require_keys_of(const Queues &allowed, Oid owner, std::string_view type);

/*
 * Throws 42501 if one of these tasks is in a queue that is not allowed. False if there are no such tasks: a task that
 * appears a moment later has not been checked. Needs a Session.
 */
bool require_tasks(const Queues &allowed, std::span<const int64> ids);

} // namespace jobqueue
