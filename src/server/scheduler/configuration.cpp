/*
 * configuration.cpp -- see configuration.hpp. C++ region.
 */
#include "server/scheduler/configuration.hpp"

#include "engine/store/history.hpp"
#include "pg/debug.hpp"
#include "pg/settings.hpp"
#include "shared/admission.hpp"
#include "shared/transaction_notes.hpp"
#include "shared/wake_ups.hpp"

namespace jobqueue::scheduler {

/* Reading what has changed takes at most one part in this many of the time. */
static constexpr int64 reading_share = 5;

bool Configuration::has_changed() const noexcept {
	return generation_ != pg_atomic_read_u64(&db_.slot->configuration) || db_.roles_read != roles_generation();
}

SteadyTime Configuration::next() const noexcept {
	if (backoff_.is_failing())
		return backoff_.not_before();
	return has_changed() ? next_reading_ : never;
}

bool Configuration::is_due(bool polls) const noexcept {
	const SteadyTime now = steady_now();
	return now >= backoff_.not_before() && (polls || now >= next());
}

/* No other process is told of GRANT and REVOKE: claimers learn of them from here. In a Session. */
void Configuration::watch_rights(const Tables &tables) {
	std::map<Oid, std::optional<std::vector<std::string>>> rights;
	for (const auto &[role, queues] : tables.allowed)
		rights[role] = queues.all ? std::nullopt : std::optional(queues.names);
	if (rights != rights_ && generation_ != 0)
		guard(note_configuration);
	rights_ = std::move(rights);
	guard(jobqueue::watch_rights);
}

/* Needs a transaction. */
Configuration::Tables Configuration::read_tables(uint64 generation) {
	Tables tables;
	tables.extension = installed_extension();
	const char *const name = guard([] { return get_database_name(MyDatabaseId); });
	tables.database = name ? name : "";
	if (!tables.is_of_this_version())
		return tables;
	const Oid owner = tables.extension->owner;
	const Session session(owner);
	tables.handlers = store::handlers();
	tables.standing = store::standing(); /* after the handlers: a restore may be under way */
	for (const store::Handler &handler : tables.handlers)
		if (handler.bound_by_access && OidIsValid(handler.role) && !tables.allowed.contains(handler.role))
			tables.allowed[handler.role] = queues_of_handlers(handler.role, owner);
	watch_rights(tables);
	tables.limits = store::quotas();
	tables.conditions = Conditions::read(generation);
	if (tables.standing.own) {
		/* Tasks that began while a limit was gone, unseen from here, are found by RunningCounts. */
		const bool counted = generation_ != 0 && admission_is_ready(db_.slot, db_.conditions.configuration);
		tables.conditions.throttling.make_ready(db_.slot, generation, counted ? &db_.conditions.throttling : nullptr);
	}
	pg_atomic_write_u32(&db_.slot->history_leaf, static_cast<uint32>(store::history_ring().leaf));
	return tables;
}

/* Nothing runs in a database that has another version of the extension, or is a copy. This is reported once. */
std::optional<SchedulerState> Configuration::reason_to_end(const Tables &tables) {
	if (!tables.extension)
		return SchedulerState::absent;
	const char *const database = tables.database.c_str();
	if (!tables.is_of_this_version()) {
		if (pg_atomic_exchange_u32(&db_.slot->paused_reported, 1) != 0)
			return SchedulerState::paused;
		const char *const installed = tables.extension->version.c_str();
		guard([installed, database] {
			ereport(WARNING,
					(errmsg("jobqueue runs no tasks in database \"%s\": the extension has version %s, the library %s",
							database, installed, library_version),
					 errhint("Run ALTER EXTENSION jobqueue UPDATE, or restart the server with the new library.")));
		});
		return SchedulerState::paused;
	}
	if (OidIsValid(db_.extension) && tables.extension->oid != db_.extension)
		return SchedulerState::none; /* dropped and created again: start from nothing */
	if (tables.standing.own)
		return std::nullopt;
	if (pg_atomic_exchange_u32(&db_.slot->paused_reported, 1) != 0)
		return SchedulerState::paused;
	const char *const reason = tables.standing.reason;
	guard([database, reason] {
		ereport(WARNING, (errmsg("jobqueue runs no tasks in database \"%s\": %s", database, reason),
						  errhint("To run its tasks here, call jobqueue.adopt() in it.")));
	});
	return SchedulerState::paused;
}

std::optional<SchedulerState> Configuration::read() {
	const SteadyTime began = steady_now();
	const std::optional<SchedulerState> state = read_all();
	const int64 took = steady_now() - began;
	next_reading_ = began + reading_share * took;
	if (is_debugging(DEBUG3))
		guard([took] { elog(DEBUG3, "jobqueue scheduler: read the configuration, " INT64_FORMAT " us", took); });
	return state;
}

std::optional<SchedulerState> Configuration::read_all() {
	const uint64 generation = pg_atomic_read_u64(&db_.slot->configuration);
	const uint64 roles_read = roles_generation();
	Tables tables;
	if (!db_.attempt_as_superuser("read its configuration", [&] { tables = read_tables(generation); })) {
		backoff_.failed(steady_now());
		db_.configuration_is_failing = true;
		return std::nullopt;
	}
	backoff_.succeeded();
	db_.configuration_is_failing = false;
	if (tables.extension)
		db_.owner = tables.extension->owner;
	db_.conditions = std::move(tables.conditions);
	const store::Standing &standing = tables.standing;
	if (tables.is_of_this_version() && standing.own && !standing.settled)
		db_.attempt("note which server this is", [] { store::settle(); });
	if (tables.is_of_this_version() && standing.told_by != nullptr)
		db_.attempt("note that this is a copy", [] { store::disown(); });
	if (!tables.is_of_this_version() || !standing.own) {
		pool_.serve({});
		pg_atomic_write_u64(&db_.slot->paused_configuration, generation);
		pg_atomic_write_u64(&db_.slot->served_since, 0);
	}
	if (const std::optional<SchedulerState> state = reason_to_end(tables))
		return state;

	db_.extension = tables.extension->oid;
	pool_.serve(roles_from(tables, generation != generation_));
	generation_ = generation;
	db_.roles_read = roles_read;
	pg_atomic_write_u32(&db_.slot->paused_reported, 0);
	if (pg_atomic_read_u64(&db_.slot->served_since) == 0)
		pg_atomic_write_u64(&db_.slot->served_since, static_cast<uint64>(GetCurrentTimestamp()));
	if (scheduler_state(db_.slot) != SchedulerState::running) {
		pg_atomic_write_u32(&db_.slot->state, static_cast<uint32>(SchedulerState::running));
		wake_launcher(); /* it may look into the next database */
	}
	return std::nullopt;
}

/* Why the handler may not run; null if it may. */
static const char *why_not_run(const store::Handler &handler, const std::map<Oid, Queues> &allowed) {
	if (!OidIsValid(handler.role))
		return "the role does not exist";
	if (!handler.can_connect)
		return "the role may not connect to this database";
	if (handler.superuser && !settings::allow_superuser_handlers)
		return "jobqueue.allow_superuser_handlers is off";
	if (!handler.bound_by_access)
		return nullptr;
	const auto found = allowed.find(handler.role);
	if (found != allowed.end() && !found->second.all && found->second.names.empty())
		return "the role registered them, and no longer has access to any queue";
	return nullptr;
}

void Configuration::report_refused(const store::Handler &handler, const char *reason, std::set<std::string> &refused) {
	if (!refused.insert(handler.run_as).second || refused_.contains(handler.run_as))
		return;
	const char *const role = handler.run_as.c_str();
	guard([role, reason] {
		ereport(WARNING, (errmsg("jobqueue does not run the handlers of role \"%s\": %s", role, reason),
						  errdetail("Their tasks stay queued.")));
	});
}

/* A role that stays as it was keeps its claimer, which knows where there is no work. */
Roles Configuration::roles_from(Tables &tables, bool has_changed) {
	Roles roles;
	std::set<std::string> refused;
	for (const store::Handler &handler : tables.handlers) {
		if (const char *const reason = why_not_run(handler, tables.allowed)) {
			report_refused(handler, reason, refused);
			continue;
		}
		auto role = std::find_if(roles.begin(), roles.end(), [&](const auto &r) { return r->oid == handler.role; });
		if (role == roles.end())
			role = roles.insert(roles.end(), std::make_unique<Role>(handler));
		(*role)->handlers.push_back(handler);
	}
	refused_ = std::move(refused);
	Roles known_roles = pool_.take_roles();
	for (auto &role : roles) {
		role->scope = scope_of_handlers(role->handlers, std::move(tables.allowed[role->oid]));
		separate_limited(role->scope, db_.conditions.throttling);
		const auto known = std::find_if(known_roles.begin(), known_roles.end(), [&](const auto &old) {
			return old && old->oid == role->oid && old->scope.key == role->scope.key;
		});
		if (known != known_roles.end()) {
			(*known)->can_login = role->can_login;
			(*known)->handlers = std::move(role->handlers);
			role = std::move(*known);
			if (has_changed)
				role->claimer.forget_quiet(); /* a queue may have been resumed */
		}
		role->max_workers = std::numeric_limits<int>::max();
		for (const store::Quota &limit : tables.limits)
			if (limit.max_workers && limit.role == role->handlers[0].run_as)
				role->max_workers = *limit.max_workers;
	}
	return roles;
}

} // namespace jobqueue::scheduler
