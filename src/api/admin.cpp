/*
 * admin.cpp -- handlers, queues, and what people do to single tasks: jobqueue.register_handler, unregister_handler,
 * pause_queue, resume_queue, cancel, retry, adopt, version. C++ region.
 */
#include "api/arguments.hpp"
#include "engine/executor.hpp"
#include "engine/outcome.hpp"
#include "pg/compat.hpp"
#include "pg/settings.hpp"
#include "shared/announcements.hpp"

namespace jobqueue {

struct RoleFacts {
	Oid oid;
	bool superuser;
	bool caller_may_become;
};

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

/* May the caller change this handler? Its owner is the role it runs as. */
static void check_owner(const store::Handler &handler) {
	const RoleFacts owner = role_facts(handler.run_as.c_str());
	if (!guard([] { return superuser(); }) && !owner.caller_may_become)
		throw Error(ERRCODE_INSUFFICIENT_PRIVILEGE, "must be a member of role \"" + handler.run_as +
														"\" to change the handler of type \"" + handler.type + "\"");
}

/* Tells people where to look when nothing will run. C region. */
static void hint_at_preloading() {
	ereport(NOTICE, (errmsg("jobqueue is not preloaded: tasks are queued, but no handler runs"),
					 errhint("Add jobqueue to shared_preload_libraries and restart the server.")));
}

} // namespace jobqueue

JOBQUEUE_FUNCTION(jobqueue_version) {
	return jobqueue::guard([] { return CStringGetTextDatum(JOBQUEUE_VERSION); });
}

JOBQUEUE_FUNCTION(jobqueue_installed) {
	using namespace jobqueue;
	guard([] {
		if (shared() != nullptr) {
			note_configuration();
			return;
		}
		/* CREATE EXTENSION silences notices while it runs a script. */
		const int level = client_min_messages;
		client_min_messages = level == WARNING ? NOTICE : level;
		hint_at_preloading();
		client_min_messages = level;
	});
	return 0;
}

JOBQUEUE_FUNCTION(jobqueue_register_handler) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	store::Handler handler = {};
	handler.type = arguments.text_at(0, "type");
	arguments.require(1, "handler");
	const Oid function = DatumGetObjectId(arguments.datum(1));
	arguments.require(2, "queue");
	handler.queue = *arguments.optional_queue(2);
	arguments.require(3, "run_as");
	handler.run_as = NameStr(*DatumGetName(arguments.datum(3)));
	handler.max_attempts = arguments.int32_at(4, "max_attempts");
	if (handler.max_attempts < 1)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "max_attempts must be at least 1");

	const RoleFacts role = role_facts(handler.run_as.c_str());
	if (!OidIsValid(role.oid))
		throw Error(ERRCODE_UNDEFINED_OBJECT, "role \"" + handler.run_as + "\" does not exist");
	if (!role.caller_may_become)
		throw Error(ERRCODE_INSUFFICIENT_PRIVILEGE,
					"must be a member of role \"" + handler.run_as + "\" to register a handler that runs as it");
	check_handler_signature(function);
	handler.function = handler_signature(function);
	if (!guard([function, &role] { return compat::may_execute(function, role.oid); }))
		throw Error(ERRCODE_INSUFFICIENT_PRIVILEGE,
					"role \"" + handler.run_as + "\" may not execute function " + handler.function);
	if (role.superuser && !settings::allow_superuser_handlers)
		throw Error(ERRCODE_INSUFFICIENT_PRIVILEGE,
					"role \"" + handler.run_as + "\" is a superuser, and may not run handlers",
					"Pass another role as run_as, or turn jobqueue.allow_superuser_handlers on.");
	{
		const Oid owner = function_owner(fcinfo);
		std::optional<store::Handler> old;
		{
			const Session session(owner);
			old = store::handler_for_update(handler.type);
		}
		if (old)
			check_owner(*old);
		const Session session(owner);
		store::put_handler(handler);
	}
	if (role.superuser) {
		const char *const name = handler.run_as.c_str();
		const char *const type = handler.type.c_str();
		guard([name, type] {
			ereport(NOTICE, (errmsg("tasks of type \"%s\" will run as superuser \"%s\"", type, name),
							 errdetail("Whoever may enqueue them decides what the function does with their payload."),
							 errhint("Pass a role with fewer rights as run_as.")));
		});
	}
	if (shared() == nullptr)
		guard(hint_at_preloading);
	return 0;
}

JOBQUEUE_FUNCTION(jobqueue_unregister_handler) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	const std::string type = arguments.text_at(0, "type");
	const Oid owner = function_owner(fcinfo);
	std::optional<store::Handler> old;
	{
		const Session session(owner);
		old = store::handler_for_update(type);
	}
	if (!old)
		return BoolGetDatum(false);
	check_owner(*old);
	const Session session(owner);
	return BoolGetDatum(store::delete_handler(type));
}

JOBQUEUE_FUNCTION(jobqueue_pause_queue) {
	using namespace jobqueue;
	const std::optional<std::string> queue = Arguments(fcinfo).optional_queue(0);
	const Session session(function_owner(fcinfo));
	return BoolGetDatum(store::pause(queue));
}

JOBQUEUE_FUNCTION(jobqueue_resume_queue) {
	using namespace jobqueue;
	const std::optional<std::string> queue = Arguments(fcinfo).optional_queue(0);
	const Session session(function_owner(fcinfo));
	return BoolGetDatum(store::resume(queue));
}

JOBQUEUE_FUNCTION(jobqueue_cancel) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	const int64 id = arguments.int64_at(0, "id");
	const std::optional<std::string> reason = arguments.optional_text(1);
	const Session session(function_owner(fcinfo));
	return BoolGetDatum(end_cancelled(id, reason));
}

JOBQUEUE_FUNCTION(jobqueue_retry) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	const int64 id = arguments.int64_at(0, "id");
	arguments.require(1, "run_at");
	std::optional<TimestampTz> run_at = arguments.optional_time(1, "run_at");
	if (*run_at <= GetCurrentTimestamp())
		run_at = std::nullopt;
	const Session session(function_owner(fcinfo));
	const std::optional<store::Claim> task = store::retry(id, run_at);
	if (task)
		guard([&task, &run_at] {
			if (run_at)
				note_due(*run_at);
			else
				note_task(task->queue, task->priority, task->id, task->type);
		});
	return BoolGetDatum(task.has_value());
}

JOBQUEUE_FUNCTION(jobqueue_adopt) {
	using namespace jobqueue;
	const Session session(function_owner(fcinfo));
	if (!store::adopt())
		return BoolGetDatum(false);
	guard(note_everything);
	return BoolGetDatum(true);
}
