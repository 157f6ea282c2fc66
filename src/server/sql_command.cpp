/*
 * sql_command.cpp -- how a worker runs an SQL command, which is a task without handler: checks that it is genuine, runs
 * it as the role that the worker is connected as, in its session, and records what came of it. See worker.hpp and
 * engine/sql_command.hpp. C++ region; what deals with statements and portals is C.
 *
 * A command runs in the transaction that completes the task, so that both happen, or neither. Some commands refuse
 * that: VACUUM, CREATE INDEX CONCURRENTLY, ALTER SYSTEM ... Which ones can depend on the objects they are about, so
 * PostgreSQL itself is asked: they raise 25001 before they have done anything, are rolled back, and run again as a
 * client would run them, outside of any transaction of ours. The task is then completed in another one: at least once.
 *
 * CALL and DO may commit, as procedures may: so they run at the top level in our transaction.
 */
#include "engine/store/attempts.hpp"
#include "engine/store/sql_commands.hpp"
#include "server/worker.hpp"

#include "engine/outcome.hpp"
#include "engine/sql_command.hpp"
#include "pg/compat.hpp"
#include "pg/own_settings.hpp"
#include "pg/settings.hpp"

extern "C" {
#include "parser/analyze.h"
#include "tcop/dest.h"
}

namespace jobqueue {

/*
 * Returns the command, after a check that the worker's own role has enqueued it and still may run it. Otherwise anybody
 * who may add tasks could have commands run as another role. Throws PgError 42501.
 */
std::string Worker::genuine_command(const store::Attempt &task) {
	std::optional<store::SqlTask> row;
	{
		const OwnSettings own;
		const Session session(owner_);
		row = store::sql_task(task.id, task.attempt);
	}
	if (!row)
		throw ClaimEnded{};
	const Oid role = GetSessionUserId();
	const std::string name = guard([role] { return GetUserNameFromId(role, false); });
	std::string problem;
	if (row->created_by != name)
		problem = "role \"" + row->created_by + "\" may not run commands as role \"" + name + "\"";
	else if (!row->command)
		problem = "the task was not created by enqueue_sql()";
	else if (!sql_queues(role, owner_).contains(row->queue))
		problem = "role \"" + name + "\" may not run commands in queue \"" + row->queue + "\"";
	if (!problem.empty()) {
		const char *const message = problem.c_str();
		guard([message] { ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE), errmsg("%s", message))); });
	}
	return std::move(*row->command);
}

/* Statements. C region. */

static void set_context(ErrorContextCallback *context, const std::span<const store::Attempt *const> *tasks) {
	context->callback = add_task_context;
	context->arg = const_cast<std::span<const store::Attempt *const> *>(tasks);
	context->previous = error_context_stack;
	error_context_stack = context;
}

/* Runs like a client's statement if "top_level". Uses the memory context of the caller. */
static QueryCompletion run_statement(RawStmt *raw, const char *command, bool top_level) {
	const bool needs_snapshot = analyze_requires_snapshot(raw);
	if (needs_snapshot)
		PushActiveSnapshot(GetTransactionSnapshot());
	List *rewritten = pg_analyze_and_rewrite_fixedparams(raw, command, nullptr, 0, nullptr);
	List *planned = pg_plan_queries(rewritten, command, CURSOR_OPT_PARALLEL_OK, nullptr);
	if (needs_snapshot)
		PopActiveSnapshot();

	Portal portal = CreateNewPortal();
	portal->visible = false;
	PortalDefineQuery(portal, nullptr, command, CreateCommandTag(raw->stmt), planned, nullptr);
	PortalStart(portal, nullptr, 0, InvalidSnapshot);
	QueryCompletion completion;
	InitializeQueryCompletion(&completion);
	compat::run_portal(portal, top_level, None_Receiver, &completion);
	PortalDrop(portal, false);
	return completion;
}

/* Runs in our transaction, which the statement may have ended and begun again when this returns. */
static QueryCompletion run_inside(RawStmt *raw, const char *command, bool top_level) {
	PopActiveSnapshot(); /* ours: no snapshot may be active at a COMMIT */
	const QueryCompletion completion = run_statement(raw, command, top_level);
	PushActiveSnapshot(GetTransactionSnapshot());
	return completion;
}

/* Runs in a transaction of its own, which the command may end. */
static QueryCompletion run_outside(const char *command) {
	MemoryContext caller = CurrentMemoryContext;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	MemoryContextSwitchTo(caller); /* this context outlives the transactions */
	const QueryCompletion completion = run_statement(parse_sql_command(command), command, true);
	CommitTransactionCommand();
	MemoryContextSwitchTo(caller);
	return completion;
}

static Datum result_of(const QueryCompletion &completion) {
	const char *const tag = GetCommandTagName(completion.commandTag);
	char json[256];
	if (command_tag_display_rowcount(completion.commandTag))
		snprintf(json, sizeof(json), "{\"command_tag\": \"%s%s " UINT64_FORMAT "\", \"rows\": " UINT64_FORMAT "}", tag,
				 completion.commandTag == CMDTAG_INSERT ? " 0" : "", completion.nprocessed, completion.nprocessed);
	else
		snprintf(json, sizeof(json), "{\"command_tag\": \"%s\", \"rows\": null}", tag);
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
}

/* C++ region. */

/* In a Session. */
void Worker::end_sql(const store::Attempt &task, const QueryCompletion &completion) {
	const std::optional<Datum> result = guard([&completion] { return result_of(completion); });
	if (!end_succeeded({&task, 1}, {&result, 1}))
		throw ClaimEnded{};
}

/* Runs the command and records its success, in one transaction if that is possible. */
void Worker::perform_sql(const store::Attempt &task, interrupts::HandlerTime &time) {
	const Durability durability =
		settings::worker_synchronous_commit ? Durability::synchronous : Durability::asynchronous;
	const store::Attempt *const attempt = &task;
	const std::span<const store::Attempt *const> tasks(&attempt, 1);
	const auto *const context_tasks = &tasks;
	latest_is_procedure_ = true; /* never fused */
	latest_takes_row_ = false;
	latest_run_us_ = 0;
	std::string command;
	bool is_utility = false;
	try {
		in_transaction(durability, [&] {
			command = genuine_command(task);
			MemoryContextSwitchTo(context_);
			const char *const text = command.c_str();
			const HandlerMark mark(&task, &executor_->row_source(), 0);
			RawStmt *const raw = guard([text] { return parse_sql_command(text); });
			const NodeTag kind = nodeTag(raw->stmt);
			const bool may_commit = kind == T_CallStmt || kind == T_DoStmt;
			is_utility = !may_commit && !guard([raw] { return analyze_requires_snapshot(raw); });
			if (may_commit)
				change_durability(Durability::synchronous); /* its own commits are as the role's settings say */
			const QueryCompletion completion = guard([raw, text, may_commit, context_tasks] {
				ErrorContextCallback context;
				set_context(&context, context_tasks);
				const QueryCompletion done = run_inside(raw, text, may_commit);
				error_context_stack = context.previous;
				return done;
			});
			MemoryContextSwitchTo(CurTransactionContext); /* a new one, if the command has ended the transaction */
			time.pause();
			record(shortest_patience_us, Session::Writes::always, [&] { end_sql(task, completion); });
			time.resume();
		});
		return;
	} catch (const PgError &error) {
		if (!is_utility || error.sqlerrcode() != ERRCODE_ACTIVE_SQL_TRANSACTION)
			throw;
	}

	MemoryContextSwitchTo(context_);
	QueryCompletion completion;
	std::exception_ptr problem;
	{
		const HandlerMark mark(&task, &executor_->row_source(), 0);
		const char *const text = command.c_str();
		try {
			completion = guard([text, context_tasks] {
				ErrorContextCallback context;
				set_context(&context, context_tasks);
				const QueryCompletion done = run_outside(text);
				error_context_stack = context.previous;
				return done;
			});
		} catch (...) {
			problem = std::current_exception();
		}
	}
	if (problem) {
		guard(detail::abort_transaction);
		std::rethrow_exception(problem);
	}
	time.end(); /* the command is done and cannot be undone: the task must show that */
	Unrecorded outcome = {task.id, task.attempt, Unrecorded::Kind::succeeded};
	outcome.completion = completion;
	record_or_remember(std::move(outcome));
}

} // namespace jobqueue
