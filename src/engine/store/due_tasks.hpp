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

/* Scheduled tasks with from <= run_at <= now become pending; if they are named, those that are due by now. */
struct Due {
	int64 id;
	std::string type;
	std::string queue;
	int16 priority;
	TimestampTz run_at;
	std::string group; /* empty = none */
};
std::vector<Due> promote_due(TimestampTz from, TimestampTz now, const Batch &batch);
std::vector<int64> due_ids(TimestampTz from, TimestampTz now, const Batch &batch);
/* The same for the 4,000 tasks that became due last, and for equally many of each queue, if it has them. */
std::vector<Due> promote_in_turns(TimestampTz from, TimestampTz now, const Batch &batch);
/* The next scheduled task of these types, except in some queues, becomes pending, whatever its time. For drain(). */
std::optional<Due> promote_next(const std::optional<std::string> &queue, std::span<const std::string> types,
								std::span<const std::string> except);

/* When the next scheduled task from a time on is due; DT_NOEND if never. */
TimestampTz next_due(TimestampTz from);

} // namespace jobqueue::store
