/*
 * sql_commands.hpp -- the statements about tasks that are SQL commands, and the handlers that stand for them. C++
 * region; what runs statements needs a Session, and throws PgError.
 */
#pragma once

#include "engine/store/handlers.hpp"
#include "engine/store/type_filter.hpp"

namespace jobqueue::store {

/* Does it stand for the SQL commands of a role? There is no function behind it. */
bool is_sql_handler(const Handler &handler) noexcept;

/* The type of a role's commands; none if it has none yet. What others have committed by now counts. */
std::optional<std::string> sql_type_of(const std::string &role, Oid role_oid);
/* False if there is a handler for the type already, whosever it is. */
bool put_sql_handler(const std::string &type, const std::string &role, Oid role_oid);
/* Those of a role that had the name before. */
void drop_stale_sql_handlers(const std::string &role, Oid role_oid);
/* What no other transaction that is under way uses. */
std::string unused_sql_type(Oid role_oid);

/* Of an attempt in the server, if its claim is still good. */
struct SqlTask {
	std::string created_by;
	std::string queue;
	std::optional<std::string> command;
};
std::optional<SqlTask> sql_task(int64 id, int32 attempt);

} // namespace jobqueue::store
