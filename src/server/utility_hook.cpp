/*
 * utility_hook.cpp -- commands that concern our processes. Before a command that needs a database without connections,
 * or locks all of our tables, our processes leave the database (if the caller may run the command at all). The launcher
 * is told of commands that bring new databases. Commands that would break our tables are refused (own_objects), and
 * those that read them as pg_dump does may do so (row_security).
 *
 * C region throughout.
 */
#include "server/own_objects.hpp"
#include "server/processes.hpp"
#include "server/row_security.hpp"

#include "pg/clock.hpp"
#include "pg/compat.hpp"
#include "pg/leftovers.hpp"
#include "shared/databases.hpp"
#include "shared/transaction_notes.hpp"

extern "C" {
#include "nodes/parsenodes.h"
}

#include <signal.h>

namespace jobqueue {

namespace {

ProcessUtility_hook_type previous_hook = nullptr;

constexpr int64 patience_us = 5 * USECS_PER_SEC;

struct Command {
	PlannedStmt *statement;
	const char *text;
	bool read_only_tree;
	ProcessUtilityContext context;
	ParamListInfo params;
	QueryEnvironment *environment;
	DestReceiver *receiver;
	QueryCompletion *completion;
};

void pass_on(const Command &c) {
	if (previous_hook)
		previous_hook(c.statement, c.text, c.read_only_tree, c.context, c.params, c.environment, c.receiver,
					  c.completion);
	else
		standard_ProcessUtility(c.statement, c.text, c.read_only_tree, c.context, c.params, c.environment, c.receiver,
								c.completion);
}

bool may_create_databases() {
	if (superuser())
		return true;
	HeapTuple tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(GetUserId()));
	const bool may = HeapTupleIsValid(tuple) && reinterpret_cast<Form_pg_authid>(GETSTRUCT(tuple))->rolcreatedb;
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return may;
}

bool is_template(Oid database) {
	HeapTuple tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	const bool is = HeapTupleIsValid(tuple) && reinterpret_cast<Form_pg_database>(GETSTRUCT(tuple))->datistemplate;
	if (HeapTupleIsValid(tuple))
		ReleaseSysCache(tuple);
	return is;
}

const char *option(List *options, const char *name) {
	ListCell *cell;
	foreach (cell, options) {
		auto *element = static_cast<DefElem *>(lfirst(cell));
		if (strcmp(element->defname, name) == 0 && element->arg != nullptr)
			return defGetString(element);
	}
	return nullptr;
}

/* The database that the command needs free of connections, if the caller may run it; else InvalidOid. C region. */
Oid database_to_free(Node *node) {
	Oid database = InvalidOid;
	switch (nodeTag(node)) {
	case T_DropdbStmt:
		database = get_database_oid(reinterpret_cast<DropdbStmt *>(node)->dbname, true);
		break;
	case T_RenameStmt: {
		auto *rename = reinterpret_cast<RenameStmt *>(node);
		if (rename->renameType == OBJECT_DATABASE && may_create_databases())
			database = get_database_oid(rename->subname, true);
		break;
	}
	case T_AlterDatabaseStmt: {
		auto *alter = reinterpret_cast<AlterDatabaseStmt *>(node);
		if (option(alter->options, "tablespace") != nullptr)
			database = get_database_oid(alter->dbname, true);
		break;
	}
	case T_CreatedbStmt: {
		const char *source = option(reinterpret_cast<CreatedbStmt *>(node)->options, "template");
		if (source == nullptr || !may_create_databases())
			break;
		database = get_database_oid(source, true);
		if (OidIsValid(database) && is_template(database))
			return database;
		break;
	}
	default:
		break;
	}
	return OidIsValid(database) && compat::owns_database(database, GetUserId()) ? database : InvalidOid;
}

/* Is the command about the extension itself, and may the caller run it? C region. */
bool changes_extension(Node *node) {
	bool ours = false;
	if (nodeTag(node) == T_DropStmt && reinterpret_cast<DropStmt *>(node)->removeType == OBJECT_EXTENSION) {
		ListCell *cell;
		foreach (cell, reinterpret_cast<DropStmt *>(node)->objects)
			ours |= strcmp(strVal(lfirst(cell)), "jobqueue") == 0;
	} else if (nodeTag(node) == T_AlterExtensionStmt) {
		ours = strcmp(reinterpret_cast<AlterExtensionStmt *>(node)->extname, "jobqueue") == 0;
	}
	if (!ours)
		return false;
	const Oid extension = get_extension_oid("jobqueue", true);
	return OidIsValid(extension) && compat::owns_extension(extension, GetUserId());
}

/* Tells our processes that are left in a database to end; false if there are none. */
bool terminate_processes(DatabaseSlot *slot, Oid database) noexcept {
	bool left = false;
	const auto end = [&left](uint32 pid) {
		if (pid != 0 && kill(static_cast<pid_t>(pid), SIGTERM) == 0)
			left = true;
	};
	end(pg_atomic_read_u32(&slot->scheduler_pid));
	for (WorkerSlot &worker : worker_slots())
		if (pg_atomic_read_u32(&worker.database) == database)
			end(pg_atomic_read_u32(&worker.pid));
	return left;
}

/* Gets our processes out of a database, and keeps them out until the transaction ends. C region. */
void let_go(Oid database) {
	DatabaseSlot *slot = attach_database(database);
	if (slot == nullptr)
		return;
	note_let_go(slot);
	pg_atomic_write_u32(&slot->interrupted, 1);
	pg_atomic_fetch_add_u32(&slot->interruptions, 1);
	pg_atomic_write_u32(&slot->let_go, static_cast<uint32>(MyProcPid));
	pg_memory_barrier();
	const SteadyTime start = steady_now();
	while (terminate_processes(slot, database) && steady_now() - start < patience_us)
		compat::sleep_on_latch(10);
}

void on_utility(PlannedStmt *statement, const char *text, bool read_only_tree, ProcessUtilityContext context,
				ParamListInfo params, QueryEnvironment *environment, DestReceiver *receiver,
				QueryCompletion *completion) {
	const Command command = {statement, text, read_only_tree, context, params, environment, receiver, completion};
	Node *node = statement->utilityStmt;
	const NodeTag tag = nodeTag(node);
	if (is_dump_of_own_table(node)) {
		const int level = turn_on_row_security();
		pass_on(command);
		AtEOXact_GUC(true, level);
		return;
	}
	if (shared() == nullptr || RecoveryInProgress()) {
		pass_on(command);
		return;
	}
	refuse_to_break(node);
	if (tag == T_ConstraintsSetStmt)
		note_set_constraints();
	if (tag == T_TransactionStmt) {
		const TransactionStmtKind kind = reinterpret_cast<TransactionStmt *>(node)->kind;
		pass_on(command);
		/* What a prepared transaction enqueued or gave back takes effect now, but it is not known what that was. */
		if (kind == TRANS_STMT_COMMIT_PREPARED || kind == TRANS_STMT_ROLLBACK_PREPARED)
			note_everything();
		return;
	}
	if ((tag == T_DropStmt || tag == T_AlterExtensionStmt) && changes_extension(node)) {
		let_go(MyDatabaseId);
		pass_on(command);
		note_configuration();
		return;
	}
	if (tag == T_CreateSubscriptionStmt || tag == T_AlterSubscriptionStmt || tag == T_DropSubscriptionStmt) {
		pass_on(command);
		note_configuration(); /* the tasks here may be a copy from now on */
		return;
	}
	const bool concerns_databases =
		tag == T_DropdbStmt || tag == T_CreatedbStmt || tag == T_AlterDatabaseStmt ||
		(tag == T_RenameStmt && reinterpret_cast<RenameStmt *>(node)->renameType == OBJECT_DATABASE);
	if (!concerns_databases) {
		pass_on(command);
		keep_triggers(node);
		return;
	}
	/* None of these commands can run in a transaction block; they report that themselves. */
	const bool top_level = context == PROCESS_UTILITY_TOPLEVEL && !IsTransactionBlock();
	const Oid database = top_level ? database_to_free(node) : InvalidOid;
	if (OidIsValid(database))
		let_go(database);
	pass_on(command);
	note_rescan();
}

} // namespace

void install_utility_hook() {
	previous_hook = ProcessUtility_hook;
	ProcessUtility_hook = on_utility;
}

} // namespace jobqueue
