/*
 * configuration.hpp -- what the tables say of the work in this database: whether it is ours, which roles have handlers,
 * and under which limits. C++ region.
 */
#pragma once

#include "engine/store/handlers.hpp"
#include "engine/store/incarnation.hpp"
#include "engine/store/quotas.hpp"
#include "server/scheduler/worker_pool.hpp"

#include <set>

namespace jobqueue::scheduler {

class Configuration {
public:
	Configuration(ServedDatabase &database, WorkerPool &pool) noexcept : db_(database), pool_(pool) {}

	/* Must the configuration be read? After a failed reading not before its retry, not even if "polls". */
	bool is_due(bool polls) const noexcept;
	/*
	 * Reads the configuration, and gives it to the worker pool. Returns a state if nothing is to run here for now: then
	 * the process ends. While the configuration cannot be read, things go on as they were.
	 */
	std::optional<SchedulerState> read();
	/* When the configuration is read again, because it has changed or the latest reading has failed; else never. */
	SteadyTime next() const noexcept;

private:
	struct Tables {
		std::optional<Extension> extension;
		std::vector<store::Handler> handlers;
		std::map<Oid, Queues> allowed; /* by role, if its handlers are bound to the queues that it may work in */
		std::vector<store::Quota> limits;
		Conditions conditions;
		std::string database;
		store::Standing standing;

		bool is_of_this_version() const { return extension && extension->version == library_version; }
	};
	bool has_changed() const noexcept;
	std::optional<SchedulerState> read_all();
	Tables read_tables(uint64 generation);
	void watch_rights(const Tables &tables);
	std::optional<SchedulerState> reason_to_end(const Tables &tables);
	Roles roles_from(Tables &tables, bool has_changed);
	void report_refused(const store::Handler &handler, const char *reason, std::set<std::string> &refused);

	ServedDatabase &db_;
	WorkerPool &pool_;
	Backoff backoff_{shortest_retry_us, longest_retry_us};
	SteadyTime next_reading_ = at_once; /* whoever changes it again and again must not take all of the time */
	uint64 generation_ = 0;				/* of the configuration that was read; 0 = none yet */
	std::set<std::string> refused_;		/* roles of which it was reported that their handlers are not run */
	/* Where roles with handlers may work; none = everywhere. */
	std::map<Oid, std::optional<std::vector<std::string>>> rights_;
};

} // namespace jobqueue::scheduler
