/*
 * sql_command.cpp -- see sql_command.hpp. C++ region, except the code that looks at parse trees.
 */
#include "engine/sql_command.hpp"

#include "engine/store/incarnation.hpp"
#include "engine/store/sql_commands.hpp"
#include "engine/store/type_filter.hpp"
#include "pg/compat.hpp"
#include "pg/settings.hpp"
#include "shared/transaction_notes.hpp"

extern "C" {
#include "catalog/pg_class.h"
#include "parser/parser.h"
}

namespace jobqueue {

void refuse_sql_type(std::string_view type) {
	if (store::is_sql_type(type))
		throw Error(ERRCODE_RESERVED_NAME, "types that begin with \"sql:\" are reserved for SQL commands",
					"Use jobqueue.enqueue_sql().");
}

/* Parse trees. C region. */

/* Why a statement makes no sense as a task; null if it makes sense. */
static const char *senseless(const Node *statement) {
	switch (nodeTag(statement)) {
	case T_TransactionStmt:
		return "the worker begins and ends its transaction";
	case T_CopyStmt: {
		const auto *copy = reinterpret_cast<const CopyStmt *>(statement);
		return copy->filename == nullptr ? "there is no client to copy from or to" : nullptr;
	}
	case T_ListenStmt:
	case T_UnlistenStmt:
		return "there is no client to notify";
	case T_DeclareCursorStmt:
	case T_FetchStmt:
	case T_ClosePortalStmt:
	case T_PrepareStmt:
	case T_ExecuteStmt:
	case T_DeallocateStmt:
	case T_VariableSetStmt:
	case T_DiscardStmt:
		return "its session is reset afterwards";
	default:
		return nullptr;
	}
}

RawStmt *parse_sql_command(const char *command) {
	List *parsed = raw_parser(command, RAW_PARSE_DEFAULT);
	if (list_length(parsed) != 1)
		ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR),
						errmsg("the command must be one statement, but has %d", list_length(parsed)),
						errhint("Enqueue several commands, or use a DO block or a procedure.")));
	RawStmt *raw = linitial_node(RawStmt, parsed);
	if (const char *reason = senseless(raw->stmt))
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("%s cannot be enqueued: %s", GetCommandTagName(CreateCommandTag(raw->stmt)), reason)));
	return raw;
}

/* Makes an error's position one in the command, because the client has sent another text than the one parsed. */
static void move_position(void *command) {
	const int position = geterrposition();
	if (position > 0) {
		errposition(0);
		internalerrposition(position);
		internalerrquery(static_cast<const char *>(command));
	}
}

/* C++ region. */

void check_sql_command(const std::string &command) {
	const char *const text = command.c_str();
	guard([text] {
		ErrorContextCallback context;
		context.callback = move_position;
		context.arg = const_cast<char *>(text);
		context.previous = error_context_stack;
		error_context_stack = &context;
		parse_sql_command(text);
		error_context_stack = context.previous;
	});
}

/* C region. */
static Oid function_of_right() {
	const Oid types[] = {TEXTOID, TEXTOID, INTERVALOID, TIMESTAMPTZOID};
	return GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum("enqueue_sql"),
						   PointerGetDatum(buildoidvector(types, static_cast<int>(std::size(types)))),
						   ObjectIdGetDatum(get_namespace_oid("jobqueue", true)));
}

Queues sql_queues(Oid role, Oid owner) {
	const Oid function = guard(function_of_right);
	if (!OidIsValid(function) || !guard([function, role] { return compat::may_execute(function, role); }))
		return Queues{false, false};
	return queues_of_function(function, owner, {Access::sql}, role);
}

Datum sql_payload(const std::string &command) {
	const std::string *const text = &command;
	return guard([text] {
		char key_name[] = "command";
		JsonbParseState *state = nullptr;
		JsonbValue key = {}, value = {};
		key.type = value.type = jbvString;
		key.val.string.val = key_name;
		key.val.string.len = static_cast<int>(strlen(key_name));
		value.val.string.val = const_cast<char *>(text->c_str());
		value.val.string.len = static_cast<int>(text->size());
		pushJsonbValue(&state, WJB_BEGIN_OBJECT, nullptr);
		pushJsonbValue(&state, WJB_KEY, &key);
		pushJsonbValue(&state, WJB_VALUE, &value);
		return JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, nullptr)));
	});
}

/*
 * Is this the first transaction to add the role's row? Others do not wait until it ends: they make a row of their own.
 */
static bool is_first_to_add(Oid role) {
	return guard([role] {
		const Oid handlers = get_relname_relid("handlers", get_namespace_oid("jobqueue", false));
		return ConditionalLockDatabaseObject(handlers, role, 0, ExclusiveLock);
	});
}

/* The type of the role's commands; makes it if there is none. */
static std::string type_for(const std::string &name, Oid role) {
	if (std::optional<std::string> type = store::sql_type_of(name, role))
		return *type;
	const bool first = is_first_to_add(role);
	if (first) {
		/* Somebody may have committed while we looked; and an older role's type goes with its tasks, before adopt(). */
		if (std::optional<std::string> type = store::sql_type_of(name, role))
			return *type;
		if (store::is_own_incarnation())
			store::drop_stale_sql_handlers(name, role);
	}
	std::string type = std::string(store::sql_type_prefix) + std::to_string(role);
	if (first && store::put_sql_handler(type, name, role))
		return type;
	type = store::unused_sql_type(role);
	if (!store::put_sql_handler(type, name, role))
		throw Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "jobqueue.incarnation has no row");
	return type;
}

void check_sql_role(Oid role, const std::string &queue, Oid owner) {
	const std::string name = guard([role] { return GetUserNameFromId(role, false); });
	if (!settings::allow_superuser_handlers && guard([role] { return superuser_arg(role); }))
		throw Error(ERRCODE_INSUFFICIENT_PRIVILEGE, "role \"" + name + "\" is a superuser, and may not run tasks",
					"Choose another role, or turn on jobqueue.allow_superuser_handlers.");
	if (!sql_queues(role, owner).contains(queue))
		throw Error(ERRCODE_INSUFFICIENT_PRIVILEGE,
					"role \"" + name + "\" may not enqueue SQL commands for queue \"" + queue + "\"",
					"Use jobqueue.grant_access() to give it the level sql.");
}

store::Added add_sql_task(const NewSqlTask &task) {
	const Oid role = task.role;
	store::NewTask added;
	added.created_by = guard([role] { return GetUserNameFromId(role, false); });
	const std::string type = type_for(added.created_by, role);
	added.type = type;
	added.queue = task.queue;
	added.run_at = task.run_at;
	added.timeout = task.timeout;
	added.metadata = task.metadata;
	const store::Added result = store::insert(added, sql_payload(task.command));
	guard([&task, &result, &type] {
		if (result.scheduled)
			note_due(*task.run_at);
		else
			note_task(result.queue, 0, result.id, type, {});
	});
	return result;
}

} // namespace jobqueue
