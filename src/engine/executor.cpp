/*
 * executor.cpp -- see executor.hpp. C++ region; the lambdas given to guard and the error context callback are C.
 */
#include "engine/executor.hpp"

#include "pg/compat.hpp"

extern "C" {
#include "nodes/params.h"
#include "tcop/dest.h"
}

namespace jobqueue {

struct Executor::Resolved {
	std::string signature;
	MemoryContext context = nullptr; /* owns what follows */
	Oid function = InvalidOid;
	Oid argument = InvalidOid; /* jsonb, or jobqueue.tasks */
	Oid result = InvalidOid;
	bool procedure = false;
	FmgrInfo call = {};
	FmgrInfo to_jsonb = {};
	const char *statement = nullptr; /* of a procedure */

	Resolved() = default;
	Resolved(const Resolved &) = delete;
	Resolved &operator=(const Resolved &) = delete;
	~Resolved() {
		if (context)
			MemoryContextDelete(context);
	}
};

/* Grows with every change that may concern a handler. */
static constinit uint64 catalog_generation = 1;
static constinit bool callbacks_registered = false;
static constinit const store::Attempt *running = nullptr;

std::optional<Datum> current_task() noexcept {
	return running ? std::optional(running->row) : std::nullopt;
}

std::optional<int64> current_task_id() noexcept {
	return running ? std::optional(running->id) : std::nullopt;
}

/* What snooze() has been told, by the subtransaction it was told in; the last one holds. */
struct Snooze {
	SubTransactionId subtransaction;
	int64 delay_us;
};
static constexpr SubTransactionId committed = InvalidSubTransactionId; /* with a transaction before */
static constinit Snooze snoozes[16] = {};
static constinit size_t snooze_count = 0;

static void at_subtransaction_event(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *) {
	for (size_t i = 0; i < snooze_count; i++) {
		if (snoozes[i].subtransaction < mine)
			continue;
		if (event == SUBXACT_EVENT_ABORT_SUB) {
			snooze_count = i;
			return;
		}
		if (event == SUBXACT_EVENT_COMMIT_SUB)
			snoozes[i].subtransaction = parent;
	}
}

/* A procedure may end the transaction and go on. */
static void at_transaction_event(XactEvent event, void *) {
	if (event == XACT_EVENT_ABORT)
		while (snooze_count > 0 && snoozes[snooze_count - 1].subtransaction != committed)
			snooze_count--;
	else if (event == XACT_EVENT_COMMIT)
		for (Snooze &snooze : snoozes)
			snooze.subtransaction = committed;
}

void snooze_current_task(int64 delay_us) {
	const SubTransactionId here = GetCurrentSubTransactionId();
	if (snooze_count > 0 && (snooze_count == std::size(snoozes) || snoozes[snooze_count - 1].subtransaction == here))
		snooze_count--;
	snoozes[snooze_count++] = {here, delay_us};
}

std::optional<int64> take_snooze() noexcept {
	return snooze_count == 0 ? std::nullopt : std::optional(snoozes[std::exchange(snooze_count, 0) - 1].delay_us);
}

static void catalog_changed(Datum, int, uint32) {
	catalog_generation++;
}

Executor::Executor(Oid owner) : owner_(owner) {
	if (!callbacks_registered) {
		guard([] {
			CacheRegisterSyscacheCallback(PROCOID, catalog_changed, 0);
			CacheRegisterSyscacheCallback(NAMESPACEOID, catalog_changed, 0);
			CacheRegisterSyscacheCallback(TYPEOID, catalog_changed, 0);
			RegisterSubXactCallback(at_subtransaction_event, nullptr);
			RegisterXactCallback(at_transaction_event, nullptr);
		});
		callbacks_registered = true;
	}
}

Executor::~Executor() = default;

void Executor::forget() noexcept {
	resolved_.clear();
}

/* Why it cannot be a handler; null if it can. C region. */
static const char *handler_problem(Oid function) {
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		return "it does not exist";
	auto *form = reinterpret_cast<Form_pg_proc>(GETSTRUCT(tuple));
	const char *found = nullptr;
	const bool tasks_type = form->pronargs == 1 && get_typtype(form->proargtypes.values[0]) == TYPTYPE_COMPOSITE &&
							strcmp(format_type_be_qualified(form->proargtypes.values[0]), "jobqueue.tasks") == 0;
	if (form->prokind != PROKIND_FUNCTION && form->prokind != PROKIND_PROCEDURE)
		found = "it is neither a function nor a procedure";
	else if (form->pronargs != 1 || !(form->proargtypes.values[0] == JSONBOID || tasks_type))
		found = "it does not take exactly one argument of type jsonb or jobqueue.tasks";
	else if (!heap_attisnull(tuple, Anum_pg_proc_proargmodes, nullptr))
		found = "it has output or variadic arguments";
	else if (form->proretset)
		found = "it returns a set";
	else if (form->prokind == PROKIND_FUNCTION && form->prorettype != VOIDOID && form->prorettype != RECORDOID &&
			 get_typtype(form->prorettype) == TYPTYPE_PSEUDO)
		found = "it returns a pseudo-type";
	ReleaseSysCache(tuple);
	return found;
}

/* Likewise a back-off function. C region. */
static const char *backoff_problem(Oid function) {
	HeapTuple tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	if (!HeapTupleIsValid(tuple))
		return "it does not exist";
	auto *form = reinterpret_cast<Form_pg_proc>(GETSTRUCT(tuple));
	const char *found = nullptr;
	if (form->prokind != PROKIND_FUNCTION || form->proretset || form->prorettype != INTERVALOID)
		found = "it does not return interval";
	else if (form->pronargs != 2 || form->proargtypes.values[0] != INT4OID || form->proargtypes.values[1] != TEXTOID ||
			 !heap_attisnull(tuple, Anum_pg_proc_proargmodes, nullptr))
		found = "its arguments are others";
	ReleaseSysCache(tuple);
	return found;
}

/* Fills in everything but the signature. C region. */
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
	handler->result = form->prorettype;
	handler->procedure = form->prokind == PROKIND_PROCEDURE;
	const char *name = quote_qualified_identifier(get_namespace_name(form->pronamespace), NameStr(form->proname));
	handler->statement = MemoryContextStrdup(handler->context, psprintf("CALL %s($1)", name));
	ReleaseSysCache(tuple);

	if (handler->procedure)
		return;
	fmgr_info_cxt(handler->function, &handler->call, handler->context);
	if (handler->result == VOIDOID || handler->result == JSONBOID)
		return;
	/* to_jsonb finds the type of its argument in the expression that calls it. */
	MemoryContext caller = MemoryContextSwitchTo(handler->context);
	fmgr_info_cxt(F_TO_JSONB, &handler->to_jsonb, handler->context);
	Param *argument = makeNode(Param);
	argument->paramkind = PARAM_EXTERN;
	argument->paramid = 1;
	argument->paramtype = handler->result;
	argument->paramtypmod = -1;
	argument->location = -1;
	FuncExpr *expression =
		makeFuncExpr(F_TO_JSONB, JSONBOID, list_make1(argument), InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
	fmgr_info_set_expr(reinterpret_cast<Node *>(expression), &handler->to_jsonb);
	MemoryContextSwitchTo(caller);
}

const Executor::Resolved &Executor::resolve(const std::string &function, const char *(*problem_of)(Oid)) {
	if (generation_ != catalog_generation) {
		resolved_.clear();
		generation_ = catalog_generation;
	}
	for (const auto &known : resolved_)
		if (known->signature == function)
			return *known;
	auto handler = std::make_unique<Resolved>();
	handler->signature = function;
	{
		const Session session(owner_);
		Resolved *const target = handler.get();
		const char *const signature = handler->signature.c_str();
		guard([target, signature, problem_of] { look_up(target, signature, problem_of); });
	}
	return *resolved_.emplace_back(std::move(handler));
}

/* C region. */
static void require_execute(Oid function) {
	if (!compat::may_execute(function, GetUserId()))
		ereport(ERROR, (errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
						errmsg("permission denied for function %s", format_procedure_qualified(function))));
}

static void add_context(void *arg) {
	const auto *task = static_cast<const store::Attempt *>(arg);
	errcontext("task " INT64_FORMAT " of type \"%s\"", task->id, task->type.c_str());
}

/* A CALL; if the procedure may commit, a top-level one, as from a client. C region. */
static void call_procedure(const Executor::Resolved *handler, Datum argument, bool may_commit) {
	Oid types[1] = {handler->argument};
	List *parsed = pg_parse_query(handler->statement);
	List *rewritten =
		pg_analyze_and_rewrite_fixedparams(linitial_node(RawStmt, parsed), handler->statement, types, 1, nullptr);
	List *planned = pg_plan_queries(rewritten, handler->statement, CURSOR_OPT_PARALLEL_OK, nullptr);
	if (may_commit)
		PopActiveSnapshot(); /* the transaction's: none may be active at a COMMIT */

	ParamListInfo params = makeParamList(1);
	params->params[0].value = argument;
	params->params[0].isnull = false;
	params->params[0].pflags = PARAM_FLAG_CONST;
	params->params[0].ptype = handler->argument;

	Portal portal = CreateNewPortal();
	portal->visible = false;
	PortalDefineQuery(portal, nullptr, handler->statement, CMDTAG_CALL, planned, nullptr);
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
	if (*isnull || handler->result == JSONBOID)
		return result;
	return FunctionCall1Coll(const_cast<FmgrInfo *>(&handler->to_jsonb), InvalidOid, result);
}

std::optional<Datum> Executor::run(const store::Attempt &task, const std::string &function, bool may_commit) {
	const Resolved *const handler = &resolve(function, handler_problem);
	const Datum argument = handler->argument == JSONBOID ? task.payload : task.row;
	const store::Attempt *const attempt = &task;
	MemoryContext target = CurrentMemoryContext;
	struct Result {
		Datum value;
		bool isnull;
	};
	struct Running {
		explicit Running(const store::Attempt *task) { running = task; }
		~Running() { running = nullptr; }
	} const mark(attempt);
	take_snooze(); /* of the one before */

	const Result result = guard([handler, argument, attempt, target, may_commit]() -> Result {
		ErrorContextCallback context;
		context.callback = add_context;
		context.arg = const_cast<store::Attempt *>(attempt);
		context.previous = error_context_stack;
		error_context_stack = &context;

		require_execute(handler->function);
		InvokeFunctionExecuteHook(handler->function);
		Result outcome = {0, true};
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
	return result.isnull ? std::nullopt : std::optional(result.value);
}

std::optional<int64> Executor::backoff_us(const std::string &function, int32 attempt, std::string_view error) {
	const Resolved *const resolved = &resolve(function, backoff_problem);
	struct Result {
		int64 delay_us;
		bool isnull;
	};
	const Result result = guard([resolved, attempt, error]() -> Result {
		require_execute(resolved->function);
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

/* Registration */

static void check_signature(Oid function, const char *(*problem_of)(Oid), const char *role, const char *hint) {
	const char *const problem = guard([function, problem_of] { return problem_of(function); });
	if (problem == nullptr)
		return;
	const char *const name = guard([function] { return format_procedure_qualified(function); });
	throw Error(ERRCODE_INVALID_FUNCTION_DEFINITION,
				std::string("function ") + name + " cannot be a " + role + ": " + problem, hint);
}

void check_handler_signature(Oid function) {
	check_signature(function, handler_problem, "handler",
					"A handler is a function or procedure f(payload jsonb) or f(task jobqueue.tasks).");
}

void check_backoff_signature(Oid function) {
	check_signature(function, backoff_problem, "back-off function",
					"It must be a function f(attempt integer, error text) that returns interval.");
}

std::string handler_signature(Oid function) {
	return guard([function] { return format_procedure_qualified(function); });
}

} // namespace jobqueue
