/*
 * access.hpp -- the statement that reads jobqueue.access.
 *
 * C++ region; needs a Session, throws PgError. Strings that are returned are copies; Datums live as long as the
 * Session.
 */
#pragma once

#include "pg/session.hpp"

namespace jobqueue::store {

/* A row of jobqueue.access; no queue = all. */
struct AccessEntry {
	std::string role;
	Oid role_oid; /* counts if it still has this name */
	std::string access;
	std::optional<std::string> queue;
};
std::vector<AccessEntry> access_entries();

} // namespace jobqueue::store
