/*
 * administration.hpp -- the statements behind what people do to tasks: cancel, retry, delete, purge.
 *
 * C++ region; needs a Session, throws PgError. Strings that are returned are copies; Datums live as long as the
 * Session.
 */
#pragma once

#include "engine/store/claims.hpp"
#include "engine/store/lanes.hpp"

namespace jobqueue::store {

/* Cancels a task that is not finished. None if there is no such task. */
struct Cancelled {
	Lane lane;
	bool runs_in_server;
	std::string group; /* empty = none */
};
std::optional<Cancelled> cancel(int64 id, const std::optional<std::string> &reason, int leaf);
/*
 * Failed and cancelled tasks and dead letters become pending or scheduled again, unless their unique key is taken;
 * scheduled ones get another time.
 */
std::optional<Claim> retry(int64 id, std::optional<TimestampTz> run_at);

/*
 * Which tasks a bulk operation is about. A field without value matches all. Times are those of creation: since <= t <
 * until.
 */
struct Selection {
	std::optional<std::string> queue, type, status;
	std::optional<TimestampTz> since, until;
	int32 count;
};
/* These functions pass over tasks that others have locked; "passed" counts those whose unique key is taken. */
std::vector<int64> select_live(const Selection &selection);
struct Retried {
	std::vector<Claim> tasks;
	int64 passed = 0;
};
Retried retry_failed(const Selection &selection);
struct Removed {
	int64 id;
	bool completed;
	Lane lane;
	std::string group; /* empty = none */
};
std::vector<Removed> delete_tasks(const Selection &selection);
std::vector<Removed> purge(std::string_view queue);

} // namespace jobqueue::store
