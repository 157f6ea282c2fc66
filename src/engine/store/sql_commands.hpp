/*
 * sql_commands.hpp -- the statements about tasks that are SQL commands, and the handlers that stand for them. C++
 * region; what runs statements needs a Session, and throws PgError.
 */
#pragma once

#include "engine/store/handlers.hpp"
#include "engine/store/type_filter.hpp"

namespace jobqueue::store {

/* Does the handler stand for the SQL commands of a role? There is no function behind it. */
bool is_sql_handler(const Handler &handler) noexcept;

/* The type of a role's commands; none if it has none yet. What others have committed by now counts. */
std::optional<std::string> sql_type_of(const std::string &role, Oid role_oid);
/* False if the type has a handler already, of any role. */
bool put_sql_handler(const std::string &type, const std::string &role, Oid role_oid);
/* Removes the handlers of a role that had the name before. */
void drop_stale_sql_handlers(const std::string &role, Oid role_oid);
/* A type that no other transaction that is under way uses. */
std::string unused_sql_type(Oid role_oid);

/* What an attempt in the server runs, if its claim is still valid. */
struct SqlTask {
	std::string created_by;
	std::string queue;
	std::optional<std::string> command;
};
std::optional<SqlTask> sql_task(int64 id, int32 attempt);

} // namespace jobqueue::store
