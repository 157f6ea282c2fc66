/*
 * row_security.cpp -- see row_security.hpp. The tables have row-level security, and no policies in the catalog: pg_dump
 * would save those of an extension's tables as if they were the user's, and a restore would fail on them. They come from
 * here, made for the role that asks; where the library is not loaded, nobody but the owner sees a row.
 *
 * Every name and every operator in these conditions is qualified, OPERATOR(pg_catalog.=) for instance: they become part of
 * the user's own query, which is parsed with the user's search path.
 *
 * The hook is C, behind boundary(); the rest is a C++ region.
 */
#include "api/row_security.hpp"

#include "engine/access.hpp"
#include "engine/limits.hpp"
#include "engine/store/role_limits.hpp"

extern "C" {
#include "parser/parse_clause.h"
#include "parser/parse_collate.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "rewrite/rowsecurity.h"
}

namespace jobqueue {

static constinit row_security_policy_hook_type previous_hook = nullptr;

enum class Table { other, tasks, configuration, schedules };

/* C region. */
static Table table_of(Relation relation) {
	if (RelationGetNamespace(relation) != get_namespace_oid("jobqueue", true) ||
		!OidIsValid(get_extension_oid("jobqueue", true)))
		return Table::other;
	const std::string_view name = RelationGetRelationName(relation);
	if (name == "tasks" || name.starts_with("tasks_"))
		return Table::tasks;
	if (name == "schedules")
		return Table::schedules;
	return name == "handlers" || name == "queues" ? Table::configuration : Table::other;
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

/* What a task must be like that somebody adds: as if enqueue() had made it. */
#define AS_ENQUEUED                                                                                                                             \
	"created_by OPERATOR(pg_catalog.=) CURRENT_USER AND status OPERATOR(pg_catalog.=) ANY (ARRAY['pending', "                                   \
	"'scheduled']) AND attempts OPERATOR(pg_catalog.=) 0 AND crashes OPERATOR(pg_catalog.=) 0 AND slot "                                        \
	"OPERATOR(pg_catalog.=) 0 AND processed_at IS NULL AND finished_at IS NULL AND lease_expires_at IS NULL AND "                               \
	"claimed_by IS NULL AND last_error IS NULL AND last_sqlstate IS NULL AND result IS NULL AND failures IS NULL "                              \
	"AND origin_queue IS NULL AND progress IS NULL AND progress_message IS NULL AND unique_key IS NULL AND unique_scope IS NULL AND group_key " \
	"IS NULL AND created_at OPERATOR(pg_catalog.=) pg_catalog.now() AND updated_at OPERATOR(pg_catalog.=) "                                     \
	"pg_catalog.now() AND id OPERATOR(pg_catalog.=) pg_catalog.currval('jobqueue.tasks_id_seq'::pg_catalog.regclass)"

/* Nobody writes by hand what a worker would run as SQL: only enqueue_sql() does. */
#define NO_SQL_COMMAND "NOT pg_catalog.starts_with(type, 'sql:')"

/* What a worker in the server runs is nobody else's to change, nor to lock: the worker would wait for its row. */
#define NOT_IN_SERVER                                                                                                  \
	"NOT (status OPERATOR(pg_catalog.=) 'processing' AND coalesce(lease_expires_at, '-infinity') "                     \
	"OPERATOR(pg_catalog.=) 'infinity')"

/* Which rows the current user may reach with the command. */
static std::string condition_for(CmdType command, Oid owner, Oid table, Table kind) {
	const AclMode right = command == CMD_INSERT	  ? ACL_INSERT
						  : command == CMD_UPDATE ? ACL_UPDATE
						  : command == CMD_DELETE ? ACL_DELETE
												  : ACL_SELECT;
	const auto reach = [&](std::initializer_list<Access> levels) {
		return in_queues(queues_by_right(owner, table, right, true, levels));
	};
	if (kind == Table::configuration) /* who could write a handler could be anybody */
		return command == CMD_SELECT ? reach({Access::manager}) : "false";
	if (kind == Table::schedules) /* likewise; one without a queue is its owner's alone */
		return command == CMD_SELECT ? reach({Access::manager}) + " OR created_by OPERATOR(pg_catalog.=) CURRENT_USER"
									 : "false";
	switch (command) {
	case CMD_INSERT: {
		const std::optional<store::Limits> limits = callers_limits(owner);
		if (limits && limits->max_queued) /* enqueue() counts; a policy cannot */
			return "false";
		const Queues queues = queues_by_right(owner, table, right, true, {Access::producer});
		std::string condition = in_queues(queues) + " AND " AS_ENQUEUED " AND " NO_SQL_COMMAND;
		if (const std::vector<std::string> types = foreign_types(queues, owner); !types.empty())
			condition += " AND type OPERATOR(pg_catalog.<>) ALL (" + list_of(types) + ")";
		if (limits && limits->max_payload)
			condition += " AND pg_catalog.octet_length(payload::pg_catalog.text) OPERATOR(pg_catalog.+) "
						 "coalesce(pg_catalog.octet_length(metadata::pg_catalog.text), 0) OPERATOR(pg_catalog.<=) " +
						 std::to_string(*limits->max_payload);
		return condition;
	}
	case CMD_UPDATE:
		return reach({Access::consumer}) + " AND " NO_SQL_COMMAND " AND " NOT_IN_SERVER;
	case CMD_DELETE:
		return reach({Access::manager});
	default:
		return reach({Access::consumer, Access::manager}) + " OR created_by OPERATOR(pg_catalog.=) CURRENT_USER";
	}
}

/* C region. */
static RowSecurityPolicy *make_policy(Relation relation, const char *condition) {
	auto *statement = castNode(SelectStmt, linitial_node(RawStmt, raw_parser(condition, RAW_PARSE_PLPGSQL_EXPR))->stmt);
	ParseState *state = make_parsestate(nullptr);
	addNSItemToQuery(state, addRangeTableEntryForRelation(state, relation, AccessShareLock, nullptr, false, false),
					 false, true, true);
	Node *expression =
		transformWhereClause(state, linitial_node(ResTarget, statement->targetList)->val, EXPR_KIND_POLICY, "POLICY");
	assign_expr_collations(state, expression);
	free_parsestate(state);

	Datum everybody = ObjectIdGetDatum(ACL_ID_PUBLIC);
	auto *policy = static_cast<RowSecurityPolicy *>(palloc0(sizeof(RowSecurityPolicy)));
	policy->policy_name = pstrdup("jobqueue");
	policy->polcmd = '*'; /* it is asked for with each command */
	policy->roles = construct_array(&everybody, 1, OIDOID, sizeof(Oid), true, TYPALIGN_INT);
	policy->permissive = true;
	policy->qual = policy->with_check_qual = reinterpret_cast<Expr *>(expression);
	return policy;
}

static List *policies(CmdType command, Relation relation) {
	List *const others = previous_hook ? previous_hook(command, relation) : NIL;
	const Table kind = table_of(relation);
	if (kind == Table::other)
		return others;
	return boundary([=] {
		const std::string condition =
			condition_for(command, relation->rd_rel->relowner, RelationGetRelid(relation), kind);
		const char *const text = condition.c_str();
		return guard([=] { return lappend(others, make_policy(relation, text)); });
	});
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

void install_row_security() {
	previous_hook = row_security_policy_hook_permissive;
	row_security_policy_hook_permissive = policies;
}

} // namespace jobqueue
