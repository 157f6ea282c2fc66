/*
 * handlers.cpp -- jobqueue.register_handler, alter_handler, unregister_handler. C++ region.
 */
#include "api/arguments.hpp"
#include "api/installation.hpp"
#include "engine/access.hpp"
#include "engine/handler_signature.hpp"
#include "engine/sql_command.hpp"
#include "engine/store/handlers.hpp"
#include "engine/store/throttling.hpp"
#include "pg/compat.hpp"
#include "pg/settings.hpp"
#include "shared/transaction_notes.hpp"

namespace jobqueue {

namespace {

struct RoleFacts {
	Oid oid;
	bool superuser;
	bool caller_may_become;
};

} // namespace

static RoleFacts role_facts(const char *name) {
	return guard([name]() -> RoleFacts {
		RoleFacts facts = {get_role_oid(name, true), false, false};
		if (OidIsValid(facts.oid)) {
			facts.superuser = superuser_arg(facts.oid);
			facts.caller_may_become = compat::may_become(GetUserId(), facts.oid);
		}
		return facts;
	});
}

/*
 * Throws if the caller may not change this handler. Its owner is the role it runs as, not a later role of the same
 * name.
 */
static void check_owner(const store::Handler &handler) {
	const Oid role = handler.role;
	if (guard([role] { return superuser() || (OidIsValid(role) && compat::may_become(GetUserId(), role)); }))
		return;
	throw Error(ERRCODE_INSUFFICIENT_PRIVILEGE,
				OidIsValid(role)
					? "must be able to SET ROLE \"" + handler.run_as + "\" to change the handler of type \"" +
						  handler.type + "\""
					: "the handler of type \"" + handler.type + "\" belongs to a role that no longer exists");
}

static void check_sqlstates(const std::vector<std::string> &codes) {
	if (codes.size() > bounds::sqlstates)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE,
					"discard_sqlstates must not have more than " + std::to_string(bounds::sqlstates) + " elements");
	for (const std::string &code : codes)
		if ((code.size() != 2 && code.size() != 5) ||
			code.find_first_not_of("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") != std::string::npos)
			throw Error(ERRCODE_INVALID_PARAMETER_VALUE,
						"discard_sqlstates must be SQLSTATEs of five digits or upper-case letters, or classes of two");
}

/* The arguments of register_handler and alter_handler. Null: not given. */
static store::HandlerSettings read_handler(const Arguments &arguments) {
	store::HandlerSettings handler;
	handler.type = arguments.text_at(0, "type");
	refuse_sql_type(handler.type);
	if (!arguments.is_null(1)) {
		const Oid function = DatumGetObjectId(arguments.datum(1));
		check_handler_signature(function);
		handler.function = handler_signature(function);
	}
	handler.queue = arguments.optional_queue(2);
	if (!arguments.is_null(3))
		handler.run_as = NameStr(*DatumGetName(arguments.datum(3)));
	if (!arguments.is_null(4)) {
		handler.max_attempts = DatumGetInt32(arguments.datum(4));
		if (*handler.max_attempts < 1)
			throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "max_attempts must be at least 1");
	}
	handler.backoff = arguments.optional_text(5);
	if (handler.backoff && *handler.backoff != "fixed" && *handler.backoff != "linear" &&
		*handler.backoff != "exponential")
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "unknown back-off \"" + *handler.backoff + "\"",
					"Valid values are fixed, linear and exponential. Otherwise pass a backoff_function.");
	if (!arguments.is_null(6)) {
		const Oid function = DatumGetObjectId(arguments.datum(6));
		check_backoff_signature(function);
		handler.backoff_function = handler_signature(function);
	}
	const auto duration = [&arguments](int n, const char *name) -> std::optional<Datum> {
		return arguments.optional_duration(n, name) ? std::optional(arguments.datum(n)) : std::nullopt;
	};
	handler.first_delay = duration(7, "first_delay");
	handler.max_delay = duration(8, "max_delay");
	if (!arguments.is_null(9)) {
		const float4 jitter = DatumGetFloat4(arguments.datum(9));
		if (!(jitter >= 0 && jitter <= 1))
			throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "jitter must be between 0 and 1");
		handler.jitter = arguments.datum(9);
	}
	handler.timeout = duration(10, "timeout");
	if (!arguments.is_null(11)) {
		check_sqlstates(arguments.texts_at(11, "discard_sqlstates"));
		handler.discard_sqlstates = arguments.datum(11);
	}
	handler.dead_letter_queue = arguments.optional_text(12);
	if (handler.dead_letter_queue && handler.dead_letter_queue->size() > 63)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "the name of a queue must have at most 63 bytes");
	if (!arguments.is_null(14)) {
		constexpr int32 most_tasks = 1000;
		handler.batch_size = DatumGetInt32(arguments.datum(14));
		if (*handler.batch_size < 1 || *handler.batch_size > most_tasks)
			throw Error(ERRCODE_INVALID_PARAMETER_VALUE,
						"batch_size must be between 1 and " + std::to_string(most_tasks));
	}
	handler.on_failure = arguments.optional_text(19, "on_failure", bounds::type);
	if (handler.on_failure && !handler.on_failure->empty())
		refuse_sql_type(*handler.on_failure);
	return handler;
}

/* The limits of a type, among the arguments of register_handler and alter_handler. */
static store::TypeChange read_type_limits(const Arguments &arguments) {
	store::TypeChange change;
	change.type = arguments.text_at(0, "type");
	change.max_running = arguments.optional_limit(13, "max_running");
	change.rate_limit = arguments.optional_limit(15, "rate_limit");
	change.rate_period = arguments.optional_period(16, "rate_period");
	change.rate_burst = arguments.optional_limit(17, "rate_burst");
	change.group_limit = arguments.optional_limit(18, "group_limit");
	return change;
}

/* The function of a stored signature. C region. */
static Oid function_of(const char *signature) {
	return DatumGetObjectId(DirectFunctionCall1(regprocedurein, CStringGetDatum(signature)));
}

/* Throws if batch_size is above 1, and the function does not take an array. */
static void check_batch_size(Oid owner, const std::string &function, int32 batch_size) {
	if (batch_size == 1)
		return;
	const Session session(owner);
	const char *const signature = function.c_str();
	if (!is_batch_handler(guard([signature] { return function_of(signature); })))
		throw Error(ERRCODE_INVALID_FUNCTION_DEFINITION,
					"function " + function + " cannot be a handler with a batch_size of " + std::to_string(batch_size) +
						": it does not take an array",
					"A batch handler is a function f(payloads jsonb[]) or f(tasks jobqueue.tasks[]).");
}

/* Throws unless this role may run these functions, and the caller may SET ROLE to it. */
static void check_role(const std::string &name, std::initializer_list<std::string> functions) {
	const RoleFacts role = role_facts(name.c_str());
	if (!OidIsValid(role.oid))
		throw Error(ERRCODE_UNDEFINED_OBJECT, "role \"" + name + "\" does not exist");
	if (!role.caller_may_become)
		throw Error(ERRCODE_INSUFFICIENT_PRIVILEGE,
					"must be able to SET ROLE \"" + name + "\" to register a handler that runs as it");
	for (const std::string &function : functions) {
		const char *const signature = function.c_str();
		const Oid oid = role.oid;
		if (function.empty())
			continue;
		if (!guard([signature, oid] { return compat::may_execute(function_of(signature), oid); }))
			throw Error(ERRCODE_INSUFFICIENT_PRIVILEGE, "role \"" + name + "\" may not execute function " + function);
	}
	if (role.superuser && !settings::allow_superuser_handlers)
		throw Error(ERRCODE_INSUFFICIENT_PRIVILEGE, "role \"" + name + "\" is a superuser, and may not run handlers",
					"Pass another role as run_as, or turn on jobqueue.allow_superuser_handlers.");
}

/* The handler's role adds the tasks of type on_failure, so it must have the right to add them. Needs a Session. */
static void check_failure_type(const store::HandlerSettings &handler, const std::string &role, Oid owner) {
	if (handler.on_failure && !handler.on_failure->empty())
		require_failure_type(queues_of_failure_tasks(role_facts(role.c_str()).oid, owner), role, *handler.on_failure);
}

/* A manager of some queues only must not name other queues, nor use the rights of another role on them. */
static void check_queues_of(const store::HandlerSettings &handler, const Queues &allowed) {
	if (handler.queue)
		require(allowed, handler.queue);
	if (handler.dead_letter_queue && !handler.dead_letter_queue->empty())
		require(allowed, handler.dead_letter_queue);
	if (handler.run_as && !allowed.all && *handler.run_as != caller_name())
		throw Error(ERRCODE_INSUFFICIENT_PRIVILEGE,
					"a manager of some queues can only register handlers that run as itself", "Leave run_as out.");
}

/* Tells a caller who makes a superuser run the tasks of a type what that means. */
static void warn_of_superuser(const std::string &name, const std::string &type) {
	if (!role_facts(name.c_str()).superuser)
		return;
	const char *const role = name.c_str();
	const char *const tasks = type.c_str();
	guard([role, tasks] {
		ereport(NOTICE,
				(errmsg("tasks of type \"%s\" will run as superuser \"%s\"", tasks, role),
				 errdetail("A role that may enqueue such tasks chooses the payload that the function works on."),
				 errhint("Pass a role with fewer rights as run_as.")));
	});
}

/* No worker claims from a dead-letter queue, so tasks must not go there by default. */
static void check_queues() {
	if (const std::optional<std::string> queue = store::unserved_queue())
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE,
					"queue \"" + *queue + "\" cannot be both a dead-letter queue and the queue of a handler",
					"Choose another name for the dead-letter queue; no worker claims from it.");
}

/* The present handler of a type; throws if the caller may not change it. */
static std::optional<store::Handler> own_handler(Oid owner, const std::string &type) {
	std::optional<store::Handler> handler;
	{
		const Session session(owner);
		handler = store::handler_for_update(type);
	}
	if (handler)
		check_owner(*handler);
	return handler;
}

} // namespace jobqueue

JOBQUEUE_FUNCTION(jobqueue_register_handler) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	arguments.text_at(0, "type", bounds::type);
	const char *const required[] = {"handler", "queue",		  "run_as",	   "max_attempts", "backoff",
									nullptr,   "first_delay", "max_delay", "jitter"};
	for (int n = 1; n <= 9; n++)
		if (required[n - 1] != nullptr)
			arguments.require(n, required[n - 1]);
	arguments.require(14, "batch_size");
	store::HandlerSettings handler = read_handler(arguments);
	const Oid owner = function_owner(fcinfo);
	const Queues allowed = managers_queues(fcinfo);
	check_queues_of(handler, allowed);
	handler.bound_by_access = *handler.run_as == caller_name();
	check_batch_size(owner, *handler.function, *handler.batch_size);
	check_role(*handler.run_as, {*handler.function, handler.backoff_function.value_or("")});
	{
		own_handler(owner, handler.type);
		const Session session(owner);
		check_failure_type(handler, *handler.run_as, owner);
		store::put_handler(handler);
		store::change_type(read_type_limits(arguments), true);
		check_queues();
	}
	guard(note_configuration); /* the trigger does this, too, unless somebody has disabled it */
	warn_of_superuser(*handler.run_as, handler.type);
	if (shared() == nullptr)
		guard(hint_at_preloading);
	return 0;
}

/* The library of 0.1.0 does not have this symbol: it would ignore on_failure. */
JOBQUEUE_FUNCTION(jobqueue_register_handler_2) {
	return jobqueue_register_handler_body(fcinfo);
}

JOBQUEUE_FUNCTION(jobqueue_alter_handler) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	store::HandlerSettings change = read_handler(arguments);
	const store::TypeChange limits = read_type_limits(arguments);
	const Oid owner = function_owner(fcinfo);
	const std::optional<store::Handler> old = own_handler(owner, change.type);
	if (!old)
		throw Error(ERRCODE_UNDEFINED_OBJECT, "type \"" + change.type + "\" has no handler");
	const Queues allowed = managers_queues(fcinfo);
	require(allowed, old->queue);
	check_queues_of(change, allowed);
	change.bound_by_access = change.run_as && *change.run_as == caller_name();
	if (change.function || change.batch_size)
		check_batch_size(owner, change.function.value_or(old->function.signature),
						 change.batch_size.value_or(old->batch_size));
	const std::string role = change.run_as.value_or(old->run_as);
	const std::string old_backoff = change.backoff ? std::string() : old->backoff_function.signature;
	if (change.run_as) /* the new role must be able to run the functions that stay, too */
		check_role(role,
				   {change.function.value_or(old->function.signature), change.backoff_function.value_or(old_backoff)});
	else
		check_role(role, {change.function.value_or(""), change.backoff_function.value_or("")});
	{
		const Session session(owner);
		check_failure_type(change, role, owner);
		store::change_handler(change);
		if (!limits.says_nothing())
			store::change_type(limits, false);
		check_queues();
	}
	guard(note_configuration);
	if (change.run_as && *change.run_as != old->run_as)
		warn_of_superuser(role, change.type);
	return 0;
}

JOBQUEUE_FUNCTION(jobqueue_alter_handler_2) {
	return jobqueue_alter_handler_body(fcinfo);
}

JOBQUEUE_FUNCTION(jobqueue_unregister_handler) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	const std::string type = arguments.text_at(0, "type");
	const Oid owner = function_owner(fcinfo);
	const std::optional<store::Handler> handler = own_handler(owner, type);
	if (!handler)
		return BoolGetDatum(false);
	require(managers_queues(fcinfo), handler->queue);
	guard(note_configuration);
	const Session session(owner);
	return BoolGetDatum(store::delete_handler(type));
}
