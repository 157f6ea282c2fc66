/*
 * watched_tasks.hpp -- tasks whose end wakes this process, as it wakes a session in wait_for(). C++ region.
 *
 * Used by the scheduler; there is one object in the process.
 */
#pragma once

#include "pg/guard.hpp"
#include "shared/state.hpp"
#include "shared/waiters.hpp"

namespace jobqueue {

class WatchedTasks {
public:
	/* Further tasks are not watched: the caller has to look again anyway, now and then. */
	static constexpr int capacity = 32;

	bool any() const noexcept { return !ids_.empty(); }

	/* Watches these from now on. True if the list has changed, and is not empty: a new task may have ended already. */
	bool watch(std::vector<int64> ids) {
		std::sort(ids.begin(), ids.end());
		if (ids == ids_)
			return false;
		if (!exit_callback_) {
			guard([] { before_shmem_exit(give_back_at_exit, 0); });
			exit_callback_ = true;
		}
		give_back();
		ids_ = std::move(ids);
		for (size_t i = 0; i < std::min<size_t>(ids_.size(), capacity); i++)
			take_place(ids_[i]);
		pg_memory_barrier();
		return !ids_.empty();
	}

private:
	static void take_place(int64 task) noexcept {
		if (WaiterSlot *slot = take_waiter(task))
			places_[static_cast<size_t>(place_count_++)] = slot;
	}
	static void give_back() noexcept {
		while (place_count_ > 0)
			free_waiter(places_[static_cast<size_t>(--place_count_)]);
	}
	static void give_back_at_exit(int, Datum) { give_back(); }

	std::vector<int64> ids_; /* sorted */
	static constinit inline std::array<WaiterSlot *, capacity> places_ = {};
	static constinit inline int place_count_ = 0;
	static constinit inline bool exit_callback_ = false;
};

} // namespace jobqueue
