/*
 * worker_pool.cpp -- see worker_pool.hpp. C++ region.
 */
#include "server/scheduler/worker_pool.hpp"

#include "pg/compat.hpp"
#include "pg/settings.hpp"
#include "shared/deaths.hpp"
#include "shared/penalties.hpp"
#include "shared/process_room.hpp"
#include "shared/workers.hpp"

#include <set>

namespace jobqueue::scheduler {

static constexpr int64 report_shortage_after_us = 10 * USECS_PER_SEC;
/* If it takes long to look for a role's work, that may take at most one part in this many of the time. */
static constexpr int64 look_share = 5;
static constexpr int64 next_peer_us = USECS_PER_SEC;
static constexpr int64 shortest_start_delay_us = USECS_PER_SEC / 10;
static constexpr int64 longest_start_delay_us = USECS_PER_MINUTE;

void WorkerPool::serve(Roles roles) {
	roles_ = std::move(roles);
	int live = 0;
	std::map<Oid, int> of_role;
	for (WorkerSlot &worker : worker_slots()) {
		live += takes_place(&worker);
		if (worker_state(&worker) == WorkerState::free || pg_atomic_read_u32(&worker.database) != MyDatabaseId)
			continue;
		const Oid role = pg_atomic_read_u32(&worker.role);
		const int mine = ++of_role[role];
		if (live > settings::max_workers || std::none_of(roles_.begin(), roles_.end(), [=](const auto &served) {
				return served->oid == role && mine <= served->max_workers;
			}))
			dismiss(&worker);
	}
}

/* Only times after the latest look are waited for: that look has dealt with earlier ones. */
DueTime WorkerPool::next() const noexcept {
	SteadyTime next = never;
	for (const auto &role : roles_)
		for (const SteadyTime then : {role->next_peer, role->next_start, role->claimer.next_time()})
			if (then > looked_at_)
				next = std::min(next, then);
	if (waiting_since_ != 0) {
		const SteadyTime now = steady_now();
		next = std::min(next, now + std::clamp<int64>((now - waiting_since_) / 10, step_us, USECS_PER_SEC / 2));
	}
	return {.steady = next};
}

Progress WorkerPool::step() {
	looked_at_ = steady_now();
	watch_started();
	std::stable_sort(roles_.begin(), roles_.end(), [](const auto &a, const auto &b) {
		const auto rank = [](const auto &role) { return role->waiting_since ? role->waiting_since : never; };
		return rank(a) < rank(b);
	});
	waiting_since_ = 0;
	for (const auto &role : roles_) {
		start_workers_of(*role);
		if (role->waiting_since != 0)
			waiting_since_ = waiting_since_ ? std::min(waiting_since_, role->waiting_since) : role->waiting_since;
	}
	pg_atomic_write_u64(&db_.slot->role_waiting_since, static_cast<uint64>(waiting_since_));
	pg_atomic_write_u64(&db_.slot->database_waiting_since, static_cast<uint64>(waiting_since_));
	if (waiting_since_ != 0 && steady_now() - waiting_since_ > report_shortage_after_us &&
		pg_atomic_exchange_u32(&db_.slot->shortage_reported, 1) == 0)
		report_shortage();
	return Progress::done;
}

void WorkerPool::report_shortage() {
	in_transaction(Durability::asynchronous, [] {
		guard([] {
			ereport(
				WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("jobqueue has had no process for a worker in database \"%s\" for %d seconds; tasks wait",
						get_database_name(MyDatabaseId), static_cast<int>(report_shortage_after_us / USECS_PER_SEC)),
				 errhint("You might need to increase max_worker_processes or jobqueue.max_workers.")));
		});
	});
}

/* Finds out what has become of the processes that were asked for. */
void WorkerPool::watch_started() {
	std::erase_if(started_, [this](const Started &started) {
		BackgroundWorkerHandle *const handle = started.handle;
		const BgwHandleStatus status = guard([handle] {
			pid_t pid;
			return GetBackgroundWorkerPid(handle, &pid);
		});
		WorkerSlot *const slot = started.slot;
		const bool connected = pg_atomic_read_u64(&slot->connected) >= started.token;
		if (status != BGWH_STOPPED && !connected)
			return false;
		if (status == BGWH_STOPPED) {
			/* The process may have ended before it took its slot. */
			LWLockAcquire(shared()->lock, LW_EXCLUSIVE);
			if (worker_state(slot) == WorkerState::starting && pg_atomic_read_u64(&slot->token) == started.token &&
				pg_atomic_read_u32(&slot->pid) == 0)
				free_worker(slot);
			LWLockRelease(shared()->lock);
		}
		for (const auto &role : roles_) {
			if (role->oid != started.role)
				continue;
			const bool failed = status == BGWH_STOPPED && pg_atomic_read_u64(&slot->connected) < started.token;
			role->start_delay_us =
				failed ? std::clamp<int64>(role->start_delay_us * 2, shortest_start_delay_us, longest_start_delay_us)
					   : 0;
			role->next_start = steady_now() + role->start_delay_us;
		}
		guard([handle] { pfree(handle); });
		return true;
	});
}

/*
 * Would another worker of this role take the last place that can be had at once, free or with an idle worker in it,
 * while another role may need it? Tasks of other roles must not wait for those of this one, however long they take.
 */
bool WorkerPool::is_last_free(const Role &role) const {
	int live = 0, starting = 0, idle = 0;
	std::set<std::pair<Oid, Oid>> served;
	bool spare = false; /* an idle worker beside another one of the same role */
	for (WorkerSlot &worker : worker_slots()) {
		if (!takes_place(&worker))
			continue;
		live++;
		starting += pg_atomic_read_u32(&worker.pid) == 0;
		const std::pair<Oid, Oid> whose{pg_atomic_read_u32(&worker.database), pg_atomic_read_u32(&worker.role)};
		const bool first = served.insert(whose).second;
		if (worker_state(&worker) == WorkerState::idle && whose != std::pair{MyDatabaseId, role.oid}) {
			idle++;
			spare |= !first;
		}
	}
	const int processes = guard([] { return max_worker_processes - compat::background_workers(); }) - starting;
	const int free = std::clamp(settings::max_workers - live, 0, std::max(processes, 0));
	if (free + idle != 1)
		return false; /* there are others, or none */
	if (free == 0 && !spare)
		return true;
	const bool unserved_here = std::any_of(roles_.begin(), roles_.end(), [&](const auto &other) {
		return other->max_workers > 0 && !served.contains({MyDatabaseId, other->oid});
	});
	return unserved_here || std::any_of(database_slots().begin(), database_slots().end(), [](auto &other) {
			   const Oid database = pg_atomic_read_u32(&other.database);
			   return is_served(&other) && database != MyDatabaseId && !has_workers(database);
		   });
}

/* Null if no slot is free, or there are already jobqueue.max_workers. */
static WorkerSlot *reserve_slot(const Role &role) {
	WorkerSlot *reserved = nullptr;
	LWLockAcquire(shared()->lock, LW_EXCLUSIVE);
	int live = 0;
	for (WorkerSlot &worker : worker_slots()) {
		live += takes_place(&worker);
		if (worker_state(&worker) == WorkerState::free && reserved == nullptr)
			reserved = &worker;
	}
	if (live >= settings::max_workers)
		reserved = nullptr;
	if (reserved != nullptr) {
		pg_atomic_write_u64(&reserved->token, pg_atomic_add_fetch_u64(&shared()->token, 1));
		pg_atomic_write_u32(&reserved->database, MyDatabaseId);
		pg_atomic_write_u32(&reserved->role, role.oid);
		pg_atomic_write_u32(&reserved->can_login, role.can_login);
		pg_atomic_write_u32(&reserved->pid, 0);
		pg_atomic_write_u32(&reserved->retire, 0);
		pg_atomic_write_u64(&reserved->task, 0);
		pg_atomic_write_u64(&reserved->types, ~0ULL);
		pg_atomic_write_u64(&reserved->started_at, static_cast<uint64>(GetCurrentTimestamp()));
		set_state(reserved, WorkerState::starting);
	}
	LWLockRelease(shared()->lock);
	return reserved;
}

/* False if there is no room for another process. */
bool WorkerPool::start_worker_for(const Role &role) {
	WorkerSlot *const slot = reserve_slot(role);
	if (slot == nullptr)
		return false;
	BackgroundWorkerHandle *const handle = guard([slot] {
		MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);
		BackgroundWorkerHandle *registered = start_worker(slot);
		MemoryContextSwitchTo(caller);
		return registered;
	});
	if (handle == nullptr) {
		LWLockAcquire(shared()->lock, LW_EXCLUSIVE);
		free_worker(slot);
		LWLockRelease(shared()->lock);
		return false;
	}
	started_.push_back({slot, handle, role.oid, pg_atomic_read_u64(&slot->token)});
	return true;
}

/*
 * Looks for some milliseconds, and goes on later if that was not enough: other tenants must not wait because one has
 * tasks among which it takes long to look.
 */
bool WorkerPool::has_work(Role &role, int workers, SteadyTime now) {
	std::optional<bool> found = false;
	db_.attempt(name(), [&] { found = role.claimer.has_work(role.scope, db_.conditions, now + step_us); });
	const int64 took = steady_now() - now;
	const SteadyTime next_look = !found || took > 2 * step_us ? now + look_share * took : at_once;
	if (workers > 0)
		role.next_peer = std::max(role.next_peer, next_look);
	if (!found.value_or(false))
		role.next_start = std::max(role.next_start, next_look);
	return found.value_or(false);
}

void WorkerPool::start_workers_of(Role &role) {
	int workers = 0;
	bool will_look = false; /* one of them will look for tasks by itself */
	for (WorkerSlot &worker : worker_slots()) {
		if (!takes_place(&worker) || pg_atomic_read_u32(&worker.database) != MyDatabaseId ||
			pg_atomic_read_u32(&worker.role) != role.oid)
			continue;
		workers++;
		will_look |= worker_state(&worker) != WorkerState::running || pg_atomic_read_u64(&worker.task) == 0;
	}
	const SteadyTime now = steady_now();
	const SteadyTime waited_since = std::exchange(role.waiting_since, 0);
	/* The role's penalty is kept in shared memory, so that it outlives this process. */
	role.next_start = std::max(role.next_start, guard([&role] { return next_worker_at(MyDatabaseId, role.oid); }));
	if (will_look || settings::max_workers == 0 || workers >= role.max_workers || now < role.next_start)
		return;
	/*
	 * A task of a fused batch is still pending when its worker has ended: charge it before another worker can take it.
	 */
	if (pg_atomic_read_u32(&db_.slot->orphans) != 0 &&
		guard([&role] { return has_fused_death(MyDatabaseId, role.oid); })) {
		role.next_start = now + step_us;
		return;
	}
	/* A role's second worker comes after the first workers of all roles. */
	if (workers > 0 && (now < role.next_peer || !is_turn_of(PG_UINT64_MAX)))
		return;
	if (!role.claimer.absorb(role.scope) || !has_work(role, workers, now))
		return;
	if (db_.roles_read != roles_generation()) { /* the configuration says whether the role is still served */
		if (!db_.configuration_is_failing) {
			pg_atomic_write_u32(&db_.slot->wanted, 1);
			SetLatch(MyLatch);
		}
		return;
	}
	db_.busy_at = now;
	if (workers > 0 && is_last_free(role)) {
		role.next_peer = now + next_peer_us;
		return;
	}
	/* The time for which the database has waited before counts, too. */
	const auto database_waiting_since = static_cast<SteadyTime>(pg_atomic_read_u64(&db_.slot->database_waiting_since));
	const SteadyTime since = waited_since								   ? waited_since
							 : database_waiting_since != 0 && workers == 0 ? std::min(database_waiting_since, now)
																		   : now;
	if (is_turn_of(static_cast<uint64>(since)) && start_worker_for(role)) {
		if (workers == 0)
			pg_atomic_write_u64(&shared()->starved_at, 0);
	} else if (workers == 0) {
		role.waiting_since = since;
		make_room(MyDatabaseId, static_cast<uint64>(since));
	} else {
		role.next_peer = now + next_peer_us;
		make_room_if_idle();
	}
}

} // namespace jobqueue::scheduler
