/*
 * watching.hpp -- the statements that look at tasks for people who watch them.
 *
 * C++ region; needs a Session, throws PgError. Strings that are returned are copies; Datums live as long as the
 * Session.
 */
#pragma once

#include "pg/session.hpp"

namespace jobqueue::store {

struct Look {
	Datum row; /* jobqueue.tasks */
	std::string status;
	std::string queue;
	std::string created_by;
	TransactionId inserted_by;
};
std::optional<Look> look(int64 id);
/* The queues of these tasks, whatever their status; fewer if there are no such tasks. */
std::vector<std::string> queues_of_tasks(std::span<const int64> ids);

} // namespace jobqueue::store
