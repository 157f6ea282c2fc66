/*
 * due_tasks.cpp -- see due_tasks.hpp. C++ region.
 */
#include "server/scheduler/due_tasks.hpp"

#include "engine/outcome.hpp"
#include "engine/store/due_tasks.hpp"

namespace jobqueue::scheduler {

static constexpr int latest_of_each_queue = 100;

void DueTasks::time_was_announced(TimestampTz at) noexcept {
	from_ = std::min(from_, at);
	next_ = std::min(next_, at);
}

Progress DueTasks::step() {
	return repeat([this] { return promote(); });
}

Progress DueTasks::promote() {
	TimestampTz from = from_, next = next_;
	const Progress progress = batch_step(
		[&](const store::Batch &rows) {
			const TimestampTz now = GetCurrentTimestamp();
			const std::vector<store::Due> due = store::promote_due(from_, now, rows);
			const auto count = static_cast<int64>(due.size());
			from = from_;
			for (const store::Due &task : due) {
				announce_due(task);
				from = std::max(from, task.run_at);
			}
			if (rows.only.empty() && count < rows.count) {
				/* A task that is due, but locked by a session, waits for the next poll. */
				from = std::max(from, now);
				next = store::next_due(from);
			}
			return count;
		},
		[this](const store::Batch &rows) { return store::due_ids(from_, GetCurrentTimestamp(), rows); });
	if (aside_.took_batch()) {
		from_ = from;
		next_ = next;
	}
	return progress;
}

Progress LatestDueTasks::step() {
	const SteadyTime began = steady_now();
	const std::vector<int64> except = all_.set_aside();
	const std::optional<PgError> error = db_.try_in_session([&] {
		for (const store::Due &task :
			 store::promote_in_turns(all_.from(), GetCurrentTimestamp(), {latest_of_each_queue, {}, except}))
			announce_due(task);
	});
	const SteadyTime now = steady_now();
	again_at_ = now + (now - began);				  /* at most half of the time */
	return error ? Progress::failed : Progress::done; /* DueTasks reports what is wrong */
}

} // namespace jobqueue::scheduler
