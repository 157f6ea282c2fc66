/*
 * quotas.hpp -- the statement that reads jobqueue.limits: the quotas of roles.
 *
 * C++ region; needs a Session, throws PgError. Strings that are returned are copies; Datums live as long as the
 * Session.
 */
#pragma once

#include "pg/session.hpp"

namespace jobqueue::store {

/* A row of jobqueue.limits. */
struct Quota {
	std::string role;
	std::optional<int32> max_workers, max_queued, max_payload;
};
std::vector<Quota> quotas();

} // namespace jobqueue::store
