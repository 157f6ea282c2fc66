/*
 * row_security.cpp -- see row_security.hpp. The tables have row-level security, and no policies in the catalog: pg_dump
 * would save the policies of an extension's tables as if they were the user's, and a restore would fail on them. They
 * are made here, for the role that asks; if the library is not loaded, nobody but the owner sees a row.
 *
 * The hook is C, behind boundary().
 */
#include "server/row_security.hpp"

#include "engine/row_policies.hpp"
#include "pg/guard.hpp"

extern "C" {
#include "parser/parse_clause.h"
#include "parser/parse_collate.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "rewrite/rowsecurity.h"
#include "utils/rls.h"
}

namespace jobqueue {

static constinit row_security_policy_hook_type previous_hook = nullptr;

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
	policy->polcmd = '*'; /* the hook is called for each command */
	policy->roles = construct_array(&everybody, 1, OIDOID, sizeof(Oid), true, TYPALIGN_INT);
	policy->permissive = true;
	policy->qual = policy->with_check_qual = reinterpret_cast<Expr *>(expression);
	return policy;
}

static List *policies(CmdType command, Relation relation) {
	List *const others = previous_hook ? previous_hook(command, relation) : NIL;
	const PolicyTable kind = policy_table_of(RelationGetRelid(relation));
	if (kind == PolicyTable::not_ours)
		return others;
	return boundary([=] {
		const std::string condition =
			policy_condition(command, relation->rd_rel->relowner, RelationGetRelid(relation), kind);
		const char *const text = condition.c_str();
		return guard([=] { return lappend(others, make_policy(relation, text)); });
	});
}

/* Does a query read the columns of one table of ours, and nothing else? */
static bool reads_one_table(const Query *query) {
	if (query->commandType != CMD_SELECT || query->hasSubLinks || list_length(query->rtable) != 1)
		return false;
	const auto *const table = linitial_node(RangeTblEntry, query->rtable);
	if (table->rtekind != RTE_RELATION || policy_table_of(table->relid) == PolicyTable::not_ours)
		return false;
	ListCell *cell;
	foreach (cell, query->targetList)
		if (!IsA(lfirst_node(TargetEntry, cell)->expr, Var))
			return false;
	return true;
}

bool is_dump_of_own_table(const Node *command) {
	if (row_security)
		return false;
	if (nodeTag(command) == T_CopyStmt) {
		const auto *const copy = reinterpret_cast<const CopyStmt *>(command);
		if (copy->is_from || copy->relation == nullptr)
			return false;
		const Oid table = RangeVarGetRelid(copy->relation, NoLock, true);
		return policy_table_of(table) != PolicyTable::not_ours && reads_all_data();
	}
	if (nodeTag(command) == T_DeclareCursorStmt) {
		const Node *const query = reinterpret_cast<const DeclareCursorStmt *>(command)->query;
		return reads_one_table(reinterpret_cast<const Query *>(query)) && reads_all_data();
	}
	return false;
}

int turn_on_row_security() {
	const int level = NewGUCNestLevel();
	set_config_option("row_security", "on", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return level;
}

void install_row_security() {
	previous_hook = row_security_policy_hook_permissive;
	row_security_policy_hook_permissive = policies;
}

} // namespace jobqueue
