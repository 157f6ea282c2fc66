/*
 * access.hpp -- who may do what in which queues.
 *
 * Rights to our functions and tables are ordinary GRANTs. grant_access() gives them together with a mark, USAGE on the
 * type jobqueue.governed: what a role with the mark has been granted counts in the queues that the table
 * jobqueue.access names for it, for itself and for its members. What a role without it has been granted, by hand,
 * counts in all queues. The mark goes with the role where a name in a table does not: one that was renamed, or whose
 * rows a restore has lost, may do nothing rather than all. And nobody loses anything by being made a member of a role
 * that has it.
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
	bool by_hand = true;				 /* not by what jobqueue.access says */
	std::vector<std::string> names = {}; /* if not all; sorted */

	bool contains(std::string_view queue) const noexcept {
		return all || std::binary_search(names.begin(), names.end(), queue, std::less<>());
	}
};

/* Superusers, the extension's owner and its members may do everything. */
bool is_unrestricted(Oid role, Oid owner);

/*
 * Queues in which the caller of a function has one of these levels of access, or another role that answers for the
 * call. Outside of any Session.
 */
Queues callers_queues(FunctionCallInfo fcinfo, std::initializer_list<Access> levels, Oid role = GetUserId());
/* Those in which the caller is a manager. */
inline Queues managers_queues(FunctionCallInfo fcinfo) {
	return callers_queues(fcinfo, {Access::manager});
}
/* Likewise, of a role that may call the function. */
Queues queues_of_function(Oid function, Oid owner, std::initializer_list<Access> levels, Oid role);
/*
 * Likewise, queues to whose rows in a table of ours the current user has a right (ACL_SELECT, say): granted by hand for
 * the whole table, or at least for a column.
 */
Queues queues_by_right(Oid owner, Oid table, AclMode right, bool by_column, std::initializer_list<Access> levels);

/*
 * Queues whose tasks a role gets by now that has registered a handler for itself: all, if it may do everything or was
 * granted registering or claiming by hand; none when it has lost all that. Needs a Session.
 */
Queues queues_of_handlers(Oid role, Oid owner);
/* The function of that name in our schema; InvalidOid if there is none, or several. C region. */
Oid own_function(const char *name);
/* The first of these. Outside of a Session, too. */
bool serves_all_by_hand(Oid role, Oid owner);
/* Likewise, queues to which a schedule's role may have tasks added by now. */
Queues queues_of_schedules(Oid role, Oid owner);

/* Likewise, queues to which tasks may be added for a role's handlers, when tasks of these have failed. */
Queues queues_of_failure_tasks(Oid role, Oid owner);
/* Throws 42501 if a role that has these may not have tasks of the type added. Needs a Session. */
void require_failure_type(const Queues &allowed, const std::string &role, std::string_view type);

/* Throws 42501 if the queue is not among them; none = all queues are meant. */
void require(const Queues &allowed, const std::optional<std::string> &queue);
/*
 * A handler that serves all queues belongs to its own: types whose handler is for a queue that is not among them, and
 * not limited to it anyway. Outside of any Session.
 */
std::vector<std::string> foreign_types(const Queues &allowed, Oid owner);
/* Throws 42501 if this is one of them. Likewise. */
void require_type(const Queues &allowed, Oid owner, std::string_view type);
/* Likewise, of types that have been read; also in a Session. */
void require_type(const Queues &allowed, const std::vector<store::HandledType> &types, std::string_view type);

/* Throws 42501 if the type has a handler, and its queue is not among them: unique keys belong to a type. Likewise. */
void require_keys_of(const Queues &allowed, Oid owner, std::string_view type);

/*
 * Throws 42501 if one of these tasks is in another queue. False if there are no such tasks: one that comes to be a
 * moment later has not been looked at. Needs a Session.
 */
bool require_tasks(const Queues &allowed, std::span<const int64> ids);

} // namespace jobqueue
