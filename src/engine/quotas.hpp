/*
 * quotas.hpp -- what limit_role() allows a role: workers at once, tasks that wait, bytes of a payload.
 *
 * C++ region.
 */
#pragma once

#include "engine/store/quotas.hpp"

namespace jobqueue {

/*
 * The quota of the current user, or of "role", if another role answers for the call; none if the role may do
 * everything. Outside of any Session.
 */
std::optional<store::Quota> callers_quota(Oid owner, Oid role = GetUserId());
/*
 * Throws 54000 if the current user may not add these payloads (jsonb): one is too large, with the metadata, or too many
 * of the user's tasks wait already. Waiting tasks are counted now and then, not at every call: a role can pass its
 * limit by as much as its sessions add in a second. Outside of any Session.
 */
void check_quota(const store::Quota &quota, Oid owner, std::span<const Datum> payloads,
				 const std::optional<Datum> &metadata);

/*
 * The parts of check_quota(), for a call that may turn out to add nothing: check_payload() checks the size, has_room()
 * says whether so many more tasks may wait, and count_added() counts those that were added, and throws if there was no
 * room. Outside of any Session.
 */
void check_payload(const store::Quota &quota, Datum payload, const std::optional<Datum> &metadata);
bool has_room(const store::Quota &quota, Oid owner, int64 added);
void count_added(const store::Quota &quota, int64 added, bool had_room);

} // namespace jobqueue
