/*
 * worker_pool.hpp -- which roles get how many worker processes, and when. C++ region.
 */
#pragma once

#include "engine/claimer.hpp"
#include "server/scheduler/chore.hpp"

namespace jobqueue::scheduler {

/* A role with handlers, and what the scheduler knows of its tasks. */
struct Role {
	Oid oid;
	bool can_login;
	std::vector<store::Handler> handlers;
	int max_workers = std::numeric_limits<int>::max();
	Scope scope;
	Claimer claimer{true};
	/* A role whose workers end as soon as they start (its connection limit, for one) is tried ever more rarely. */
	int64 start_delay_us = 0;
	SteadyTime waiting_since = 0;	 /* it has work and no worker, for want of a process; 0 = not */
	SteadyTime next_start = at_once; /* no worker starts before */
	SteadyTime next_peer = at_once;	 /* nor, beside others, before this */

	explicit Role(const store::Handler &handler) : oid(handler.role), can_login(handler.can_login) {}
};
using Roles = std::vector<std::unique_ptr<Role>>;

/* Every role with work gets a worker, and more while all of its workers are busy and there is room. */
class WorkerPool final : public Chore {
public:
	explicit WorkerPool(ServedDatabase &database) noexcept : Chore(database, "look for work", Urgency::prompt) {}

	void look_for_news() override { ask(); }
	DueTime next() const noexcept override;
	Unfinished unfinished() const noexcept override {
		return waiting_since_ != 0 ? Unfinished::urgent : Unfinished::nothing;
	}

	bool has_roles() const noexcept { return !roles_.empty(); }
	/* For whoever makes new ones of them, and calls serve(). */
	Roles take_roles() noexcept { return std::exchange(roles_, {}); }
	/*
	 * The configuration from now on. Workers of roles that are not in it leave, and so do those above
	 * jobqueue.max_workers or the limit of their role.
	 */
	void serve(Roles roles);
	bool has_starting() const noexcept { return !started_.empty(); }

private:
	struct Started {
		WorkerSlot *slot;
		BackgroundWorkerHandle *handle;
		Oid role;
		uint64 token;
	};

	Progress step() override;
	void watch_started();
	void report_shortage();
	void start_workers_of(Role &role);
	bool has_work(Role &role, int workers, SteadyTime now);
	bool is_last_free(const Role &role) const;
	bool start_worker_for(const Role &role);

	Roles roles_;
	std::vector<Started> started_;
	SteadyTime looked_at_ = at_once;
	SteadyTime waiting_since_ = 0; /* a role, for want of a process; 0 = none */
};

} // namespace jobqueue::scheduler
