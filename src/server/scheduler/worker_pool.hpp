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
	/* Grows while the role's workers end as soon as they start, for example because of its connection limit. */
	int64 start_delay_us = 0;
	SteadyTime waiting_since = 0;	 /* since when it has work, but no worker for lack of a process; 0 = not */
	SteadyTime next_start = at_once; /* no worker starts before this time */
	SteadyTime next_peer = at_once;	 /* no further worker starts before this time */

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
	/* Gives up the roles: the caller makes new ones of them, and calls serve(). */
	Roles take_roles() noexcept { return std::exchange(roles_, {}); }
	/*
	 * The roles to serve from now on. Workers of other roles leave, and so do those above jobqueue.max_workers or the
	 * limit of their role.
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
	SteadyTime waiting_since_ = 0; /* since when a role has lacked a process; 0 = none does */
};

} // namespace jobqueue::scheduler
