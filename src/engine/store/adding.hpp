/*
 * adding.hpp -- the statements that add tasks.
 *
 * C++ region; needs a Session, throws PgError. Strings that are returned are copies; Datums live as long as the
 * Session.
 */
#pragma once

#include "pg/session.hpp"

namespace jobqueue::store {

struct NewTask {
	std::string_view type;
	std::optional<std::string> queue; /* none: the handler's, else 'default' */
	/*
	 * Queues of the producer, if not all. A handler that is limited to queues decides only among these where tasks go.
	 */
	std::span<const std::string> own_queues = {};
	int16 priority = 0;
	std::optional<TimestampTz> run_at;
	std::optional<int32> max_attempts;
	std::optional<Datum> timeout;  /* interval */
	std::optional<Datum> metadata; /* jsonb */
	std::string created_by;
	std::optional<std::string> group_key;
	bool blocked = false; /* it waits for other tasks, and becomes pending when they are done */
};
struct Added {
	int64 id;
	std::string queue;
	bool scheduled;
	bool blocked;
};
/* Throws 22023 if a text of the task is longer than it may be. Every way to add a task calls this. */
void check_bounds(const NewTask &task);
/* For stores: adds the first ten parameters of the statements that add a task. */
void describe(Params &params, const NewTask &task, Datum payload);
/* For stores: reads what these statements return: id, queue and status. */
std::vector<Added> added_from(const Rows &rows);
Added insert(const NewTask &task, Datum payload);
/* "payloads" is jsonb[] without nulls; the tasks are returned in the same order. */
std::vector<Added> insert_many(const NewTask &task, Datum payloads);

/* The last id that a task got; 0 if none did. */
int64 last_id();

} // namespace jobqueue::store
