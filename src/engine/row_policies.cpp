/*
 * row_policies.cpp -- see row_policies.hpp. C++ region, but where it says otherwise.
 *
 * Names and operators are qualified: a condition is parsed as part of the user's statement, under the user's
 * search_path.
 */
#include "engine/row_policies.hpp"

#include "engine/access.hpp"
#include "engine/quotas.hpp"
#include "engine/store/quotas.hpp"
#include "pg/extension.hpp"

namespace jobqueue {

/* C region. */
PolicyTable policy_table_of(Oid relation) {
	if (!is_in_own_schema(relation))
		return PolicyTable::not_ours;
	const std::string_view name = get_rel_name(relation);
	if (name == "tasks" || name.starts_with("tasks_"))
		return PolicyTable::tasks;
	if (name == "schedules")
		return PolicyTable::schedules;
	if (name == "handlers" || name == "queues")
		return PolicyTable::configuration;
	static constexpr std::string_view internal[] = {"access",		"limits",	  "history_ring", "unique_keys",
													"dependencies", "dependents", "parents"};
	return std::ranges::find(internal, name) != std::end(internal) ? PolicyTable::internal : PolicyTable::not_ours;
}

bool reads_all_data() {
	return has_privs_of_role(GetUserId(), ROLE_PG_READ_ALL_DATA) ||
		   has_privs_of_role(GetUserId(), ROLE_PG_DATABASE_OWNER);
}

static std::string list_of(const std::vector<std::string> &names) {
	std::string list;
	for (const std::string &name : names) {
		const char *const text = name.c_str();
		list += (list.empty() ? "" : ", ") + std::string(guard([text] { return quote_literal_cstr(text); }));
	}
	return "ARRAY[" + list + "]::pg_catalog.text[]";
}

static std::string in_queues(const Queues &queues) {
	if (queues.all)
		return "true";
	return "queue OPERATOR(pg_catalog.=) ANY (" + list_of(queues.names) + ")";
}

/*
 * A task that somebody adds must look as if enqueue() had added it. Clients that set the times themselves do so by a
 * clock of their own.
 */
static constexpr const char *as_enqueued = R"( AND
	created_by OPERATOR(pg_catalog.=) CURRENT_USER
	AND status OPERATOR(pg_catalog.=) ANY (ARRAY['pending', 'scheduled'])
	AND attempts OPERATOR(pg_catalog.=) 0 AND crashes OPERATOR(pg_catalog.=) 0 AND slot OPERATOR(pg_catalog.=) 0
	AND processed_at IS NULL AND finished_at IS NULL AND lease_expires_at IS NULL AND claimed_by IS NULL
	AND last_error IS NULL AND last_sqlstate IS NULL AND result IS NULL AND failures IS NULL AND origin_queue IS NULL
	AND progress IS NULL AND progress_message IS NULL
	AND unique_key IS NULL AND unique_scope IS NULL AND group_key IS NULL
	AND created_at OPERATOR(pg_catalog.>) (pg_catalog.now() OPERATOR(pg_catalog.-) '1 hour'::pg_catalog.interval)
	AND created_at OPERATOR(pg_catalog.<) (pg_catalog.now() OPERATOR(pg_catalog.+) '1 hour'::pg_catalog.interval)
	AND updated_at OPERATOR(pg_catalog.>) (pg_catalog.now() OPERATOR(pg_catalog.-) '1 hour'::pg_catalog.interval)
	AND updated_at OPERATOR(pg_catalog.<) (pg_catalog.now() OPERATOR(pg_catalog.+) '1 hour'::pg_catalog.interval)
	AND id OPERATOR(pg_catalog.=) pg_catalog.currval('jobqueue.tasks_id_seq'::pg_catalog.regclass))";

/* Only enqueue_sql() may add tasks that a worker would run as SQL. */
static constexpr const char *no_sql_command = " AND NOT pg_catalog.starts_with(type, 'sql:')";

/* Nobody else may change or lock a task that a worker in the server runs: the worker would wait for its row. */
static constexpr const char *not_in_server = R"( AND
	NOT (status OPERATOR(pg_catalog.=) 'processing'
		AND coalesce(lease_expires_at, '-infinity') OPERATOR(pg_catalog.=) 'infinity'))";

std::string policy_condition(CmdType command, Oid owner, Oid table, PolicyTable kind) {
	const AclMode right = command == CMD_INSERT	  ? ACL_INSERT
						  : command == CMD_UPDATE ? ACL_UPDATE
						  : command == CMD_DELETE ? ACL_DELETE
												  : ACL_SELECT;
	const auto reach = [&](std::initializer_list<Access> levels) {
		return in_queues(queues_by_right(owner, table, right, true, levels));
	};
	if (command == CMD_SELECT && guard(reads_all_data))
		return "true";
	if (kind == PolicyTable::internal)
		return "false";
	if (kind == PolicyTable::configuration) /* a role that can write handlers could run code as any role */
		return command == CMD_SELECT ? reach({Access::manager}) : "false";
	if (kind == PolicyTable::schedules) /* the same; a schedule without a queue is for its owner only */
		return command == CMD_SELECT ? reach({Access::manager}) + " OR created_by OPERATOR(pg_catalog.=) CURRENT_USER"
									 : "false";
	switch (command) {
	case CMD_INSERT: {
		const std::optional<store::Quota> quota = callers_quota(owner);
		if (quota && quota->max_queued) /* enqueue() counts the waiting tasks; a policy cannot */
			return "false";
		const Queues queues = queues_by_right(owner, table, right, true, {Access::producer});
		std::string condition = in_queues(queues) + as_enqueued + no_sql_command;
		if (const std::vector<std::string> types = foreign_types(queues, owner); !types.empty())
			condition += " AND type OPERATOR(pg_catalog.<>) ALL (" + list_of(types) + ")";
		if (quota && quota->max_payload)
			condition += R"( AND
				pg_catalog.octet_length(payload::pg_catalog.text)
				OPERATOR(pg_catalog.+) coalesce(pg_catalog.octet_length(metadata::pg_catalog.text), 0)
				OPERATOR(pg_catalog.<=) )" +
						 std::to_string(*quota->max_payload);
		return condition;
	}
	case CMD_UPDATE:
		return reach({Access::consumer}) + no_sql_command + not_in_server;
	case CMD_DELETE:
		return reach({Access::manager});
	default:
		return reach({Access::consumer, Access::manager}) + " OR created_by OPERATOR(pg_catalog.=) CURRENT_USER";
	}
}

void forget_policies(Relation changed) {
	const std::string_view name = RelationGetRelationName(changed);
	if (name != "access" && name != "limits" && name != "handlers")
		return;
	static constexpr const char *tables[] = {"tasks",			"tasks_live",	   "tasks_failed",	  "handlers",
											 "queues",			"tasks_history_1", "tasks_history_2", "tasks_history_3",
											 "tasks_history_4", "tasks_history_5", "tasks_history_6", "tasks_history_7",
											 "tasks_history_8", "schedules"};
	for (const char *table : tables) {
		const Oid relation = get_relname_relid(table, RelationGetNamespace(changed));
		if (OidIsValid(relation))
			CacheInvalidateRelcacheByRelid(relation);
	}
}

} // namespace jobqueue
