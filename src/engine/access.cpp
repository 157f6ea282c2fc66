/*
 * access.cpp -- see access.hpp. C++ region, except the code that looks at access control lists.
 */
#include "engine/access.hpp"

#include "engine/kept_configuration.hpp"
#include "engine/store/access.hpp"
#include "engine/store/watching.hpp"
#include "pg/compat.hpp"

extern "C" {
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "utils/catcache.h"
}

namespace jobqueue {

static constexpr const char *names[] = {"producer", "consumer", "manager", "sql"};

bool is_unrestricted(Oid role, Oid owner) {
	return guard([role, owner] { return superuser_arg(role) || has_privs_of_role(role, owner); });
}

/* Access control lists. C region. */

/* Calls "look" with the items of a list; with none if there is no list, or no such object. Leaves no copy behind. */
template <typename Look> static bool look_at_acl(HeapTuple tuple, int cache, AttrNumber column, Look &&look) {
	if (!HeapTupleIsValid(tuple))
		return look(std::span<const AclItem>());
	bool isnull;
	const Datum datum = SysCacheGetAttr(cache, tuple, column, &isnull);
	Acl *const acl = isnull ? nullptr : DatumGetAclP(datum);
	const bool result = look(acl ? std::span<const AclItem>(ACL_DAT(acl), static_cast<size_t>(ACL_NUM(acl)))
								 : std::span<const AclItem>());
	if (acl != nullptr && PointerGetDatum(acl) != datum)
		pfree(acl);
	ReleaseSysCache(tuple);
	return result;
}

static bool has_mark(Oid role) {
	const Oid schema = get_namespace_oid("jobqueue", true);
	return look_at_acl(SearchSysCache2(TYPENAMENSP, CStringGetDatum("governed"), ObjectIdGetDatum(schema)), TYPENAMENSP,
					   Anum_pg_type_typacl, [role](std::span<const AclItem> items) {
						   return std::ranges::any_of(items,
													  [role](const AclItem &item) { return item.ai_grantee == role; });
					   });
}

/* Has the right been granted by hand: to PUBLIC, or to a role without the mark whose rights "role" has? */
static bool is_granted_by_hand(HeapTuple tuple, int cache, AttrNumber column, AclMode right, Oid role) {
	return look_at_acl(tuple, cache, column, [right, role](std::span<const AclItem> items) {
		return std::ranges::any_of(items, [right, role](const AclItem &item) {
			return (ACLITEM_GET_PRIVS(item) & right) != 0 &&
				   (item.ai_grantee == ACL_ID_PUBLIC ||
					(has_privs_of_role(role, item.ai_grantee) && !has_mark(item.ai_grantee)));
		});
	});
}

/* The function of that name in our schema; InvalidOid if there is none, or several. */
Oid own_function(const char *name) {
	const Oid schema = get_namespace_oid("jobqueue", true);
	CatCList *list = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(name));
	Oid found = InvalidOid;
	int count = 0;
	for (int i = 0; i < list->n_members; i++) {
		const auto *form = reinterpret_cast<Form_pg_proc>(GETSTRUCT(&list->members[i]->tuple));
		if (form->pronamespace != schema)
			continue;
		found = form->oid;
		count++;
	}
	ReleaseSysCacheList(list);
	return count == 1 ? found : InvalidOid;
}

static bool may_call_by_hand(Oid function, Oid role) {
	return is_granted_by_hand(SearchSysCache1(PROCOID, ObjectIdGetDatum(function)), PROCOID, Anum_pg_proc_proacl,
							  ACL_EXECUTE, role);
}

static bool has_right_by_hand(Oid table, AclMode right, bool by_column, Oid role) {
	if (is_granted_by_hand(SearchSysCache1(RELOID, ObjectIdGetDatum(table)), RELOID, Anum_pg_class_relacl, right, role))
		return true;
	for (AttrNumber column = 1; by_column; column++) {
		HeapTuple tuple = SearchSysCache2(ATTNUM, ObjectIdGetDatum(table), Int16GetDatum(column));
		if (!HeapTupleIsValid(tuple))
			break;
		if (is_granted_by_hand(tuple, ATTNUM, Anum_pg_attribute_attacl, right, role))
			return true;
	}
	return false;
}

/* Does "granted" still have this name and the mark, and does "role" have its rights? */
static bool has_access_of(const char *name, Oid granted, Oid role) {
	return OidIsValid(granted) && has_privs_of_role(role, granted) && get_role_oid(name, true) == granted &&
		   has_mark(granted);
}

/* C++ region. */

static Queues queues_among(const std::vector<store::AccessEntry> &entries, Oid role,
						   std::initializer_list<Access> levels) {
	Queues queues{false, false};
	for (const store::AccessEntry &entry : entries) {
		const char *const name = entry.role.c_str();
		const Oid granted = entry.role_oid;
		if (std::none_of(levels.begin(), levels.end(),
						 [&entry](Access level) { return entry.access == names[static_cast<size_t>(level)]; }) ||
			!guard([=] { return has_access_of(name, granted, role); }))
			continue;
		if (!entry.queue)
			return Queues{true, false};
		queues.names.push_back(*entry.queue);
	}
	std::sort(queues.names.begin(), queues.names.end());
	queues.names.erase(std::unique(queues.names.begin(), queues.names.end()), queues.names.end());
	return queues;
}

/* The queues of a role, from the rows of jobqueue.access as this backend read them last. */
static Queues kept_queues(Oid role, Oid owner, std::initializer_list<Access> levels) {
	const auto &entries = kept_configuration<std::vector<store::AccessEntry>>([owner] {
		const Session session(owner);
		return store::access_entries();
	});
	return queues_among(entries, role, levels);
}

Queues callers_queues(FunctionCallInfo fcinfo, std::initializer_list<Access> levels, Oid role) {
	return queues_of_function(fcinfo->flinfo->fn_oid, function_owner(fcinfo), levels, role);
}

Queues queues_of_function(Oid function, Oid owner, std::initializer_list<Access> levels, Oid role) {
	if (is_unrestricted(role, owner) || guard([function, role] { return may_call_by_hand(function, role); }))
		return {};
	return kept_queues(role, owner, levels);
}

Queues queues_by_right(Oid owner, Oid table, AclMode right, bool by_column, std::initializer_list<Access> levels) {
	const Oid role = GetUserId();
	if (is_unrestricted(role, owner) || guard([=] { return has_right_by_hand(table, right, by_column, role); }))
		return {};
	return kept_queues(role, owner, levels);
}

static bool is_free_or_by_hand(Oid role, Oid owner, std::initializer_list<const char *> functions) {
	return is_unrestricted(role, owner) || guard([=] {
			   return std::ranges::any_of(functions, [role](const char *name) {
				   const Oid function = own_function(name);
				   return OidIsValid(function) && compat::may_execute(function, role) &&
						  may_call_by_hand(function, role);
			   });
		   });
}

bool serves_all_by_hand(Oid role, Oid owner) {
	return is_free_or_by_hand(role, owner, {"register_handler", "claim"});
}

Queues queues_of_handlers(Oid role, Oid owner) {
	if (serves_all_by_hand(role, owner))
		return {};
	return queues_among(store::access_entries(), role, {Access::consumer, Access::manager});
}

Queues queues_of_schedules(Oid role, Oid owner) {
	if (is_free_or_by_hand(role, owner, {"schedule"}))
		return {};
	return queues_among(store::access_entries(), role, {Access::manager});
}

/* A role may add them where it may enqueue, and where it is a manager, who could have a schedule add them. */
Queues queues_of_failure_tasks(Oid role, Oid owner) {
	if (is_unrestricted(role, owner))
		return {};
	if (guard([role] {
			char schema[] = "jobqueue", name[] = "enqueue";
			/* -1: whatever its arguments are; an assertion wants an array of types all the same */
			const Oid unused = InvalidOid;
			const Oid enqueue = LookupFuncName(list_make2(makeString(schema), makeString(name)), -1, &unused, true);
			return OidIsValid(enqueue) && may_call_by_hand(enqueue, role);
		}))
		return {};
	return queues_among(store::access_entries(), role, {Access::producer, Access::manager});
}

void require_failure_type(const Queues &allowed, const std::string &role, std::string_view type) {
	if (!allowed.all && allowed.names.empty())
		throw Error(ERRCODE_INSUFFICIENT_PRIVILEGE,
					"role \"" + role + "\" may not add tasks of type \"" + std::string(type) + "\"",
					"Use jobqueue.grant_access() to make it a producer.");
	require_type(allowed, store::handled_types(), type);
}

void require(const Queues &allowed, const std::optional<std::string> &queue) {
	if (queue ? allowed.contains(*queue) : allowed.all)
		return;
	throw Error(ERRCODE_INSUFFICIENT_PRIVILEGE,
				queue ? "permission denied for queue \"" + *queue + "\"" : "permission denied for other queues",
				queue ? "Use jobqueue.grant_access() to give access to queues."
					  : "Pass one of the queues that you have access to.");
}

/* The handled types, as this backend read them last. */
static const std::vector<store::HandledType> &kept_types(Oid owner) {
	return kept_configuration<std::vector<store::HandledType>>([owner] {
		const Session session(owner);
		return store::handled_types();
	});
}

static bool is_foreign(const store::HandledType &handled, const Queues &allowed) noexcept {
	return !handled.bound_by_access && !allowed.contains(handled.queue);
}

std::vector<std::string> foreign_types(const Queues &allowed, Oid owner) {
	std::vector<std::string> types;
	if (!allowed.all)
		for (const store::HandledType &handled : kept_types(owner))
			if (is_foreign(handled, allowed))
				types.push_back(handled.type);
	return types;
}

void require_type(const Queues &allowed, Oid owner, std::string_view type) {
	if (!allowed.all)
		require_type(allowed, kept_types(owner), type);
}

void require_type(const Queues &allowed, const std::vector<store::HandledType> &types, std::string_view type) {
	if (allowed.all)
		return;
	for (const store::HandledType &handled : types)
		if (handled.type == type && is_foreign(handled, allowed))
			throw Error(ERRCODE_INSUFFICIENT_PRIVILEGE, "permission denied for type \"" + handled.type + "\"",
						"Its handler belongs to another queue.");
}

void require_keys_of(const Queues &allowed, Oid owner, std::string_view type) {
	if (allowed.all)
		return;
	for (const store::HandledType &handled : kept_types(owner))
		if (handled.type == type && !allowed.contains(handled.queue))
			throw Error(ERRCODE_INSUFFICIENT_PRIVILEGE,
						"permission denied for unique keys of type \"" + handled.type + "\"",
						"Only roles that may enqueue into the queue of its handler can use them.");
}

bool require_tasks(const Queues &allowed, std::span<const int64> ids) {
	if (allowed.all)
		return true;
	const std::vector<std::string> queues = store::queues_of_tasks(ids);
	for (const std::string &queue : queues)
		if (!allowed.contains(queue))
			throw Error(ERRCODE_INSUFFICIENT_PRIVILEGE, "permission denied for a task in another queue");
	return !queues.empty();
}

} // namespace jobqueue
