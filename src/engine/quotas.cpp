/*
 * quotas.cpp -- see quotas.hpp. C++ region.
 */
#include "engine/quotas.hpp"

#include "engine/access.hpp"
#include "engine/kept_configuration.hpp"
#include "engine/store/waiting.hpp"
#include "pg/clock.hpp"

namespace jobqueue {

/* Counting reads all waiting tasks of the role, so it is done so rarely that it takes 1/20 of a session's time. */
static constexpr int64 count_share = 20;
static constexpr int64 shortest_validity_us = USECS_PER_SEC;

/* The quota of a role; none if it may do everything. */
static std::optional<store::Quota> quota_of(Oid role, Oid owner) {
	if (is_unrestricted(role, owner))
		return std::nullopt;
	const auto &quotas = kept_configuration<std::vector<store::Quota>>([owner] {
		const Session session(owner);
		return store::quotas();
	});
	for (const store::Quota &quota : quotas) {
		const char *const name = quota.role.c_str();
		if (guard([name] { return get_role_oid(name, true); }) == role)
			return quota;
	}
	return std::nullopt;
}

static int length_of(Datum json) {
	return guard([json] {
		Jsonb *value = DatumGetJsonbP(json);
		return static_cast<int>(strlen(JsonbToCString(nullptr, &value->root, static_cast<int>(VARSIZE(value)))));
	});
}

/* How many tasks waited when they were counted, plus those that this session has added since. */
static constinit int64 count = 0;

/* Counts the tasks of the current user, whichever role has the limit. */
bool has_room(const store::Quota &quota, Oid owner, int64 added) {
	static constinit Oid counted_for = InvalidOid;
	static constinit SteadyTime valid_until = 0, again_at = 0;
	if (!quota.max_queued)
		return true;
	const int32 most = *quota.max_queued;
	const SteadyTime began = steady_now();
	const bool full = count + added > most;
	if (counted_for != GetUserId() || began >= valid_until || (full && began >= again_at)) {
		const std::string user = guard([] { return GetUserNameFromId(GetUserId(), false); });
		const Session session(owner);
		count = store::count_waiting_by_role(user, most);
		const SteadyTime now = steady_now();
		again_at = now + count_share * (now - began);
		valid_until = std::max(now + shortest_validity_us, again_at);
	}
	counted_for = GetUserId();
	return count + added <= most;
}

void count_added(const store::Quota &quota, int64 added, bool had_room) {
	if (!had_room)
		throw Error(ERRCODE_PROGRAM_LIMIT_EXCEEDED, "this role has too many waiting tasks",
					"The limit is " + std::to_string(*quota.max_queued) + "; use jobqueue.limit_role() to change it.");
	if (quota.max_queued)
		count += added;
}

void check_payload(const store::Quota &quota, Datum payload, const std::optional<Datum> &metadata) {
	if (!quota.max_payload)
		return;
	const int length = length_of(payload) + (metadata ? length_of(*metadata) : 0);
	if (length > *quota.max_payload)
		throw Error(ERRCODE_PROGRAM_LIMIT_EXCEEDED, "payload is too large: " + std::to_string(length) +
														" bytes, but the limit of this role is " +
														std::to_string(*quota.max_payload));
}

std::optional<store::Quota> callers_quota(Oid owner, Oid role) {
	std::optional<store::Quota> quota = quota_of(GetUserId(), owner);
	return quota || role == GetUserId() ? quota : quota_of(role, owner);
}

void check_quota(const store::Quota &quota, Oid owner, std::span<const Datum> payloads,
				 const std::optional<Datum> &metadata) {
	for (const Datum payload : payloads)
		check_payload(quota, payload, metadata);
	const auto added = static_cast<int64>(payloads.size());
	count_added(quota, added, has_room(quota, owner, added));
}

} // namespace jobqueue
