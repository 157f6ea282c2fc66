/*
 * limits.hpp -- what limit_role() allows a role: workers at once, tasks that wait, bytes of a payload.
 *
 * C++ region.
 */
#pragma once

#include "engine/task_store.hpp"

namespace jobqueue {

/*
 * Throws 54000 if the current user may not add these payloads (jsonb): one is too large, with the metadata, or too many
 * of its tasks wait already. Those are counted now and then, not at every call: a role can pass its limit by as much as
 * its sessions add in a second. "role": answers for the call, and has limits for those who have none. Outside of any
 * Session.
 */
void check_limits(Oid owner, std::span<const Datum> payloads, const std::optional<Datum> &metadata,
				  Oid role = GetUserId());

/* Does something limit how many tasks the current user may have waiting? Outside of any Session. */
bool is_queue_limited(Oid owner);
/* Bytes that the current user's payloads may have. Likewise. */
std::optional<int32> payload_limit(Oid owner);

} // namespace jobqueue
