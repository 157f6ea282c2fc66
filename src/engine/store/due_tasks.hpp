/*
 * due_tasks.hpp -- the statements that make scheduled tasks pending.
 *
 * C++ region; needs a Session, throws PgError. Strings that are returned are copies; Datums live as long as the
 * Session.
 */
#pragma once

#include "engine/store/batch.hpp"
#include "pg/session.hpp"

namespace jobqueue::store {

struct Due {
	int64 id;
	std::string type;
	std::string queue;
	int16 priority;
	TimestampTz run_at;
	std::string group; /* empty = none */
};
/* The next scheduled tasks that are due by now, in order. */
Page due(const Cursor &cursor, TimestampTz now, const Batch &batch);
/* Those of these tasks that are due by now become pending, except locked ones. */
std::vector<Due> promote(std::span<const int64> ids, TimestampTz now);
/* The last of these, those that became due last first. Reads only, and not whether they are from before. */
struct InQueue {
	Place place;
	std::string queue;
};
std::vector<InQueue> latest_due(const Place &from, const Place &before, const Batch &batch);
/* The next scheduled task of these types, except in some queues, becomes pending, whatever its time. For drain(). */
std::optional<Due> promote_next(const std::optional<std::string> &queue, std::span<const std::string> types,
								std::span<const std::string> except);

/* When the next scheduled task from a place on is due; DT_NOEND if never. */
TimestampTz next_due(const Place &from);

} // namespace jobqueue::store
