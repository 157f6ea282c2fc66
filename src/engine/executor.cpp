/*
 * executor.cpp -- see executor.hpp. C++ region; the lambdas given to guard and the error context callback are C.
 */
#include "engine/executor.hpp"

#include "engine/handler_signature.hpp"
#include "pg/compat.hpp"
#include "pg/raw_size.hpp"

extern "C" {
#include "nodes/params.h"
#include "tcop/dest.h"
}

namespace jobqueue {

struct Executor::Resolved {
	MemoryContext context = nullptr; /* owns what follows */
	Oid function = InvalidOid;
	Oid argument = InvalidOid; /* jsonb or jobqueue.tasks; of a batch handler, an array of them */
	Oid element = InvalidOid;  /* of that array */
	Oid result = InvalidOid;
	bool procedure = false;
	Oid owner = InvalidOid;
	bool may_execute = false; /* checked since the catalog changed */
	FmgrInfo call = {};
	FmgrInfo to_jsonb = {};
	PlannedStmt *statement = nullptr; /* of a procedure: CALL */
	const char *text = nullptr;		  /* its text, as it is shown */

	Resolved() = default;
	Resolved(const Resolved &) = delete;
	Resolved &operator=(const Resolved &) = delete;
	~Resolved() {
		if (context)
			MemoryContextDelete(context);
	}
};

/* Grows with every change of the catalog that may concern a handler. */
static constinit uint64 catalog_generation = 1;
static constinit bool callbacks_registered = false;
static void catalog_changed(Datum, int, uint32) {
	catalog_generation++;
}

Executor::Executor(Oid owner, std::string claimed_by) : source_{owner, std::move(claimed_by)} {
	if (!callbacks_registered) {
		guard([] {
			CacheRegisterSyscacheCallback(PROCOID, catalog_changed, 0);
			CacheRegisterSyscacheCallback(NAMESPACEOID, catalog_changed, 0);
			CacheRegisterSyscacheCallback(TYPEOID, catalog_changed, 0);
			CacheRegisterSyscacheCallback(AUTHOID, catalog_changed, 0);
			CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, catalog_changed, 0);
			watch_snoozes();
		});
		callbacks_registered = true;
	}
}

Executor::~Executor() = default;

void Executor::forget() noexcept {
	resolved_.clear();
}

/* A parameter that stands for the argument. C region. */
static Param *make_argument(Oid type) {
	Param *argument = makeNode(Param);
	argument->paramkind = PARAM_EXTERN;
	argument->paramid = 1;
	argument->paramtype = type;
	argument->paramtypmod = -1;
	argument->location = -1;
	return argument;
}

/*
 * A planned CALL of the procedure, by its OID: its name could mean another procedure, or several, as soon as somebody
 * adds an overload. Made in the current memory context. C region.
 */
static PlannedStmt *make_call(const FormData_pg_proc *form, const char *schema) {
	CallStmt *call = makeNode(CallStmt);
	call->funccall = makeFuncCall(list_make2(makeString(pstrdup(schema)), makeString(pstrdup(NameStr(form->proname)))),
								  NIL, COERCE_EXPLICIT_CALL, -1);
	call->funcexpr = makeFuncExpr(form->oid, form->prorettype, list_make1(make_argument(form->proargtypes.values[0])),
								  InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
	PlannedStmt *statement = makeNode(PlannedStmt);
	statement->commandType = CMD_UTILITY;
	statement->canSetTag = true;
	statement->utilityStmt = reinterpret_cast<Node *>(call);
	statement->stmt_location = -1;
	return statement;
}

/* C region. */
static void look_up(Executor::Resolved *handler, const char *signature, const char *(*problem_of)(Oid)) {
	handler->context = AllocSetContextCreate(TopMemoryContext, "jobqueue handler", ALLOCSET_SMALL_SIZES);
	const Datum found = DirectFunctionCall1(regprocedurein, CStringGetDatum(signature));
	handler->function = DatumGetObjectId(found);
	/* Another function of that signature may have taken the place of the one that was registered. */
	if (const char *problem = problem_of(handler->function))
		ereport(ERROR, (errcode(ERRCODE_INVALID_FUNCTION_DEFINITION),
						errmsg("function %s can no longer be called: %s", signature, problem)));

	HeapTuple tuple = SearchSysCache1(PROCOID, found);
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION), errmsg("function %s does not exist", signature)));
	auto *form = reinterpret_cast<Form_pg_proc>(GETSTRUCT(tuple));
	handler->argument = form->proargtypes.values[0];
	handler->element = batch_element(form);
	handler->result = form->prorettype;
	handler->owner = form->proowner;
	handler->procedure = form->prokind == PROKIND_PROCEDURE;
	if (handler->procedure) {
		MemoryContext caller = MemoryContextSwitchTo(handler->context);
		const char *schema = get_namespace_name(form->pronamespace);
		handler->text = psprintf("CALL %s($1)", quote_qualified_identifier(schema, NameStr(form->proname)));
		handler->statement = make_call(form, schema);
		MemoryContextSwitchTo(caller);
	}
	ReleaseSysCache(tuple);
	if (handler->procedure)
		return;
	fmgr_info_cxt(handler->function, &handler->call, handler->context);
	if (handler->result == VOIDOID || handler->result == JSONBOID || OidIsValid(handler->element))
		return;
	/* to_jsonb finds the type of its argument in the expression that calls it. */
	MemoryContext caller = MemoryContextSwitchTo(handler->context);
	fmgr_info_cxt(F_TO_JSONB, &handler->to_jsonb, handler->context);
	FuncExpr *expression = makeFuncExpr(F_TO_JSONB, JSONBOID, list_make1(make_argument(handler->result)), InvalidOid,
										InvalidOid, COERCE_EXPLICIT_CALL);
	fmgr_info_set_expr(reinterpret_cast<Node *>(expression), &handler->to_jsonb);
	MemoryContextSwitchTo(caller);
}

/*
 * A signature is only a name: once its function is dropped, any role that may create in the schema can make another
 * one. The function is trusted if it belongs to the same owner, to the role that runs it, or to a superuser.
 */
static void require_same_owner(const Executor::Resolved &found, const store::Function &registered) {
	const Oid owner = found.owner;
	if (owner == registered.owner || owner == GetUserId() || guard([owner] { return superuser_arg(owner); }))
		return;
	throw Error(ERRCODE_INSUFFICIENT_PRIVILEGE,
				"function " + registered.signature + " has another owner than when it was registered",
				"Register the handler again.");
}

Executor::Resolved &Executor::resolve(const store::Function &function, const char *(*problem_of)(Oid)) {
	if (generation_ != catalog_generation) {
		resolved_.clear();
		generation_ = catalog_generation;
	}
	const auto known = resolved_.find(function.signature);
	if (known != resolved_.end()) {
		require_same_owner(*known->second, function);
		return *known->second;
	}
	auto handler = std::make_unique<Resolved>();
	{
		/*
		 * The extension's owner need not be a superuser, and then may not look into every schema. Only a name is looked
		 * up.
		 */
		const Session session(BOOTSTRAP_SUPERUSERID);
		Resolved *const target = handler.get();
		const char *const signature = function.signature.c_str();
		guard([target, signature, problem_of] { look_up(target, signature, problem_of); });
	}
	Resolved &resolved = *resolved_.emplace(function.signature, std::move(handler)).first->second;
	require_same_owner(resolved, function);
	return resolved;
}

bool Executor::is_procedure(const store::Function &function) {
	return resolve(function, handler_problem).procedure;
}

bool Executor::takes_row(const store::Function &function) {
	const Resolved &handler = resolve(function, handler_problem);
	return (OidIsValid(handler.element) ? handler.element : handler.argument) != JSONBOID;
}

/* Checks the right of the current user, who is the same as long as the catalog does not change. C region. */
static void require_execute(Executor::Resolved *resolved) {
	if (resolved->may_execute)
		return;
	if (!compat::may_execute(resolved->function, GetUserId()))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("permission denied for function %s", format_procedure_qualified(resolved->function))));
	resolved->may_execute = true;
}

/* Runs a CALL; if the procedure may commit, a top-level one, as from a client. C region. */
static void call_procedure(const Executor::Resolved *handler, Datum argument, bool may_commit) {
	/*
	 * Copies for the current context: the procedure may change the catalog, and then what was looked up is forgotten.
	 */
	List *planned = list_make1(copyObjectImpl(handler->statement));
	const char *text = pstrdup(handler->text);
	if (may_commit)
		PopActiveSnapshot(); /* the transaction's snapshot: none may be active at a COMMIT */

	ParamListInfo params = makeParamList(1);
	params->params[0].value = argument;
	params->params[0].isnull = false;
	params->params[0].pflags = PARAM_FLAG_CONST;
	params->params[0].ptype = handler->argument;

	Portal portal = CreateNewPortal();
	portal->visible = false;
	PortalDefineQuery(portal, nullptr, text, CMDTAG_CALL, planned, nullptr);
	PortalStart(portal, params, 0, InvalidSnapshot);
	compat::run_portal(portal, may_commit, None_Receiver);
	PortalDrop(portal, false);
	if (may_commit)
		PushActiveSnapshot(GetTransactionSnapshot());
}

static Datum call_function(const Executor::Resolved *handler, Datum argument, bool *isnull) {
	LOCAL_FCINFO(fcinfo, 1);
	PgStat_FunctionCallUsage usage;
	FmgrInfo *call = const_cast<FmgrInfo *>(&handler->call);
	InitFunctionCallInfoData(*fcinfo, call, 1, InvalidOid, nullptr, nullptr);
	fcinfo->args[0].value = argument;
	fcinfo->args[0].isnull = false;
	pgstat_init_function_usage(fcinfo, &usage);
	Datum result = FunctionCallInvoke(fcinfo);
	pgstat_end_function_usage(&usage, true);
	*isnull = fcinfo->isnull || handler->result == VOIDOID;
	if (*isnull || handler->result == JSONBOID || OidIsValid(handler->element))
		return result;
	return FunctionCall1Coll(const_cast<FmgrInfo *>(&handler->to_jsonb), InvalidOid, result);
}

/* What the handler gets: the payload of the task, or its row. */
Datum Executor::argument_of(const store::Attempt &task, bool row) const {
	const std::optional<Datum> given = row ? row_of(task, source_) : task.payload;
	if (!given)
		throw Error(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "the row of the task was changed while it waited");
	if (row || !VARATT_IS_COMPRESSED(DatumGetPointer(*given)))
		return *given;
	/* Decompress it once, and not each time the handler looks at it. */
	return guard([&given] { return PointerGetDatum(PG_DETOAST_DATUM(*given)); });
}

/*
 * What a batch handler gets. Throws if the tasks are too large to be passed together: then fewer are tried at a time.
 */
Datum Executor::array_of(std::span<const store::Attempt *const> tasks, Oid element) const {
	const bool rows = element != JSONBOID;
	std::vector<Datum> arguments;
	std::vector<char> copied;
	arguments.reserve(tasks.size());
	copied.reserve(tasks.size());
	int64 bytes = 0;
	for (const store::Attempt *task : tasks) {
		arguments.push_back(rows ? argument_of(*task, true) : task->payload);
		copied.push_back(rows && task->row == 0);
		bytes += raw_size(arguments.back());
		if (bytes > most_bytes_together && tasks.size() > 1)
			throw Error(ERRCODE_PROGRAM_LIMIT_EXCEEDED, "the tasks are too large for one call");
	}
	return guard([&arguments, &copied, element, rows] {
		for (size_t i = 0; i < arguments.size(); i++) {
			const Datum given = std::exchange(arguments[i], PointerGetDatum(PG_DETOAST_DATUM(arguments[i])));
			copied[i] |= arguments[i] != given;
		}
		const Datum array = PointerGetDatum(construct_array(arguments.data(), static_cast<int>(arguments.size()),
															element, -1, false, rows ? TYPALIGN_DOUBLE : TYPALIGN_INT));
		for (size_t i = 0; i < arguments.size(); i++)
			if (copied[i])
				pfree(DatumGetPointer(arguments[i]));
		return array;
	});
}

/* The result is in the memory context of the caller. "row": the row of the only task, if it is known. */
Executor::Value Executor::call(Resolved *handler, Datum argument, Datum row,
							   std::span<const store::Attempt *const> tasks, bool may_commit) {
	MemoryContext target = CurrentMemoryContext;
	const HandlerMark mark(tasks.size() == 1 ? tasks[0] : nullptr, &source_, row);

	const std::span<const store::Attempt *const> *const all = &tasks;
	return guard([handler, argument, all, target, may_commit]() -> Value {
		ErrorContextCallback context;
		context.callback = add_task_context;
		context.arg = const_cast<std::span<const store::Attempt *const> *>(all);
		context.previous = error_context_stack;
		error_context_stack = &context;

		require_execute(handler);
		InvokeFunctionExecuteHook(handler->function);
		Value outcome = {0, true};
		if (handler->procedure) {
			call_procedure(handler, argument, may_commit);
		} else {
			outcome.value = call_function(handler, argument, &outcome.isnull);
			if (!outcome.isnull) {
				MemoryContext caller = MemoryContextSwitchTo(target);
				outcome.value = PointerGetDatum(PG_DETOAST_DATUM_COPY(outcome.value));
				MemoryContextSwitchTo(caller);
			}
		}
		MemoryContextSwitchTo(target);
		error_context_stack = context.previous;
		return outcome;
	});
}

std::vector<std::optional<Datum>> Executor::run(std::span<const store::Attempt> tasks, const store::Function &function,
												bool may_commit) {
	std::vector<const store::Attempt *> attempts;
	for (const store::Attempt &task : tasks)
		attempts.push_back(&task);
	return run(attempts, function, may_commit);
}

std::vector<std::optional<Datum>> Executor::run(std::span<const store::Attempt *const> tasks,
												const store::Function &function, bool may_commit) {
	Resolved *const handler = &resolve(function, handler_problem);
	std::vector<std::optional<Datum>> results(tasks.size());
	if (!OidIsValid(handler->element)) {
		if (tasks.size() != 1)
			throw Error(ERRCODE_INVALID_FUNCTION_DEFINITION, "the handler takes only one task at a time");
		const bool takes_row = handler->argument != JSONBOID;
		const Datum argument = argument_of(*tasks[0], takes_row);
		const Value result = call(handler, argument, takes_row ? argument : 0, tasks, may_commit);
		if (!result.isnull)
			results[0] = result.value;
		return results;
	}
	const Value returned = call(handler, array_of(tasks, handler->element), tasks[0]->row, tasks, false);
	if (returned.isnull)
		return results;
	guard([&returned, &results] {
		Datum *values;
		bool *nulls;
		int count;
		deconstruct_array(DatumGetArrayTypeP(returned.value), JSONBOID, -1, false, TYPALIGN_INT, &values, &nulls,
						  &count);
		if (static_cast<size_t>(count) != results.size())
			ereport(ERROR, (errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
							errmsg("the batch handler returned %d results for %d tasks", count,
								   static_cast<int>(results.size()))));
		for (int i = 0; i < count; i++)
			if (!nulls[i])
				results[static_cast<size_t>(i)] = values[i];
	});
	return results;
}

std::optional<int64> Executor::backoff_us(const store::Function &function, int32 attempt, std::string_view error) {
	Resolved *const resolved = &resolve(function, backoff_problem);
	struct Result {
		int64 delay_us;
		bool isnull;
	};
	const Result result = guard([resolved, attempt, error]() -> Result {
		require_execute(resolved);
		LOCAL_FCINFO(fcinfo, 2);
		InitFunctionCallInfoData(*fcinfo, const_cast<FmgrInfo *>(&resolved->call), 2, DEFAULT_COLLATION_OID, nullptr,
								 nullptr);
		fcinfo->args[0] = {Int32GetDatum(attempt), false};
		fcinfo->args[1] = {PointerGetDatum(cstring_to_text_with_len(error.data(), static_cast<int>(error.size()))),
						   false};
		const Datum span = FunctionCallInvoke(fcinfo);
		if (fcinfo->isnull)
			return {0, true};
		const TimestampTz now = GetCurrentTimestamp();
		const TimestampTz then =
			DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(now), span));
		if (TIMESTAMP_NOT_FINITE(then) || then > END_TIMESTAMP - USECS_PER_DAY)
			ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the delay must be finite")));
		return {std::max<int64>(then - now, 0), false};
	});
	return result.isnull ? std::nullopt : std::optional(result.delay_us);
}

} // namespace jobqueue
