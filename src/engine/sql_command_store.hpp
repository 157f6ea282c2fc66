/*
 * sql_command_store.hpp -- the statements about tasks that are SQL commands, and the handlers that stand for them. A
 * store, see task_store.hpp; used by sql_command.cpp and server/sql_command.cpp. C++ region; what runs statements needs a
 * Session.
 */
#pragma once

#include "engine/task_store.hpp"

namespace jobqueue::store {

/* Types that only enqueue_sql() makes: each belongs to one role. */
inline constexpr std::string_view sql_type_prefix = "sql:";
inline bool is_sql_type(std::string_view type) noexcept {
	return type.starts_with(sql_type_prefix);
}

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
