/*
 * timed_chore.hpp -- chores whose rows have a time each, and are taken when it has come. C++ region.
 */
#pragma once

#include "server/scheduler/chore.hpp"

namespace jobqueue::scheduler {

class TimedChore : public BatchChore {
public:
	void time_was_announced(TimestampTz at) noexcept override;
	void poll() noexcept override;
	void clock_was_set() noexcept override { look_at_all(); }
	DueTime next() const noexcept override { return {.wall = next_}; }

protected:
	/* A pass goes over all rows whose time has come. */
	struct NextPass {
		store::Place from;
		TimestampTz at; /* DT_NOEND: when something is announced */
	};

	TimedChore(ServedDatabase &database, const char *name, const char *action) noexcept
		: BatchChore(database, name, Urgency::prompt, action) {}

	/*
	 * Called in a Session. look(): the next rows whose time has come by now. take(): takes those of them that are free,
	 * and returns how many. next_pass(): when a pass that began at "from" has come to "to".
	 */
	virtual store::Page look(const store::Cursor &cursor, TimestampTz now, const store::Batch &rows) = 0;
	virtual int64 take(std::span<const int64> ids, TimestampTz now) = 0;
	virtual NextPass next_pass(const store::Place &from, const store::Place &to, TimestampTz now,
							   const store::Batch &rows) = 0;

	store::Cursor cursor_; /* of the present pass */

private:
	Progress step() final;
	Progress take_batch();
	void look_at_all() noexcept { time_was_announced(DT_NOBEGIN); }

	store::Place from_; /* the pass began here */
	TimestampTz next_ = DT_NOBEGIN;
};

} // namespace jobqueue::scheduler
