/*
 * sql_command.hpp -- tasks that are SQL commands: what jobqueue.enqueue_sql() adds, and who may have it run.
 *
 * A worker is connected as one role, so a command must get to a worker of the role that enqueued it. Therefore each
 * such role has a row in jobqueue.handlers for a type of its own, "sql:" and its OID. No function belongs to that type.
 * The first call makes the row. It is valid for the role's name and OID, as all handlers are.
 *
 * The type says who runs the task, and not that it is genuine. The worker decides that before it runs anything:
 * created_by must be the worker's own role, others cannot have forged this (row_security.cpp), and the role must still
 * have the right to enqueue commands for that queue. See server/sql_command.cpp.
 *
 * C++ region, unless it says otherwise. Used by api/, by workers, and by what enqueues for other roles (schedules).
 */
#pragma once

#include "engine/access.hpp"
#include "engine/store/adding.hpp"

extern "C" {
#include "nodes/parsenodes.h"
}

namespace jobqueue {

/*
 * Throws 42939 if only enqueue_sql() makes tasks of this type. For all functions to which a user gives the name of a
 * type.
 */
void refuse_sql_type(std::string_view type);

/*
 * Parses a command, which must be one statement, and one that makes sense as a task. The tree is in the current memory
 * context. Throws ereport 42601 (syntax, or not one statement) and 0A000 (the others). C region.
 */
RawStmt *parse_sql_command(const char *command);
/* The same for callers that take the command from a user: the position of an error is one in the command. */
void check_sql_command(const std::string &command);

/* The queues for which a role may enqueue commands now; none without the right. Outside of any Session. */
Queues sql_queues(Oid role, Oid owner);

/*
 * Throws 42501 if the role may not enqueue commands for this queue, or is a superuser and superusers may not run tasks.
 * Outside of any Session.
 */
void check_sql_role(Oid role, const std::string &queue, Oid owner);

/*
 * Adds a command as a task that runs as "role", which is created_by, and announces it. The caller has checked the
 * command (check_sql_command) and the role (check_sql_role). Needs a Session, in a transaction that may write.
 */
struct NewSqlTask {
	Oid role;
	std::string command;
	std::string queue = "default";
	std::optional<TimestampTz> run_at = std::nullopt;
	std::optional<Datum> timeout = std::nullopt;  /* interval */
	std::optional<Datum> metadata = std::nullopt; /* jsonb */
};
store::Added add_sql_task(const NewSqlTask &task);
/* {"command": "..."}, jsonb, in the current memory context. */
Datum sql_payload(const std::string &command);

} // namespace jobqueue
