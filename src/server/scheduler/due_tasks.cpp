/*
 * due_tasks.cpp -- see due_tasks.hpp. C++ region.
 */
#include "server/scheduler/due_tasks.hpp"

#include "engine/outcome.hpp"
#include "engine/store/due_tasks.hpp"

#include <map>

namespace jobqueue::scheduler {

/* Of those that have become due since the latest step, and of those before. */
static constexpr int latest_page = 1000, older_page = 4000;
static constexpr size_t most_of_page = 100;
static constexpr int most_of_queue = 20; /* DueTasks takes the others */

void DueTasks::time_was_announced(TimestampTz at) noexcept {
	cursor_.return_to(at);
	next_ = std::min(next_, at);
}

void DueTasks::poll() noexcept {
	if (!has_more() && steady_now() >= pass_.next())
		look_at_all();
}

Progress DueTasks::step() {
	const PassFromStart pass(pass_, cursor_);
	return repeat([this] { return promote(); });
}

Progress DueTasks::promote() {
	store::Cursor cursor = cursor_;
	TimestampTz next = next_;
	const Progress progress = batch_step(
		[&, this](const store::Batch &rows) {
			const TimestampTz now = GetCurrentTimestamp();
			const store::Page page = store::due(cursor_, now, rows);
			const std::vector<store::Due> due = store::promote(page.ids, now);
			for (const store::Due &task : due)
				announce_due(task);
			const store::Taken taken(static_cast<int64>(page.ids.size()), static_cast<int64>(due.size()));
			if (!rows.only.empty())
				return taken;
			if (taken.looked_at > 0)
				cursor.move_to(page.last);
			if (taken.looked_at < rows.count) {
				/* A task that is due, but locked by a session, waits for the next poll. */
				cursor.begin_at(std::max(cursor.after(), {now}));
				next = store::next_due(cursor.after());
			}
			return taken;
		},
		[this](const store::Batch &rows) { return store::due(cursor_, GetCurrentTimestamp(), rows).ids; });
	if (aside_.took_batch()) {
		cursor_ = cursor;
		next_ = next;
	}
	return progress;
}

/* Equally many of each queue, but not many, if it has them; of each those that became due first. */
static std::vector<int64> in_turns(std::span<const store::InQueue> tasks) {
	std::map<std::string_view, int> of_queue;
	std::vector<std::pair<int, store::Place>> order;
	for (auto task = tasks.rbegin(); task != tasks.rend(); ++task)
		if (const int turn = of_queue[task->queue]++; turn < most_of_queue)
			order.emplace_back(turn, task->place);
	std::sort(order.begin(), order.end());
	std::vector<int64> ids;
	for (const auto &[turn, place] : std::span(order).first(std::min(order.size(), most_of_page)))
		ids.push_back(place.id);
	return ids;
}

/* Returns where the page ends, if there may be another one. Needs a Session. */
std::optional<store::Place> LatestDueTasks::take_page(const store::Place &before, int page) {
	const std::vector<int64> except = all_.set_aside();
	const std::vector<store::InQueue> tasks = store::latest_due(all_.from(), before, {page, {}, except});
	const std::vector<int64> ids = in_turns(tasks);
	if (!ids.empty())
		for (const store::Due &task : store::promote(ids, GetCurrentTimestamp()))
			announce_due(task);
	return tasks.size() == static_cast<size_t>(page) ? std::optional(tasks.back().place) : std::nullopt;
}

Progress LatestDueTasks::step() {
	const SteadyTime began = steady_now();
	std::optional<store::Place> older = older_;
	const std::optional<PgError> error = db_.try_in_session([&, this] {
		const std::optional<store::Place> end = take_page({GetCurrentTimestamp(), PG_INT64_MAX}, latest_page);
		older = older ? take_page(*older, older_page) : end;
	});
	if (!error)
		older_ = older;
	const SteadyTime now = steady_now();
	again_at_ = now + (now - began);				  /* at most half of the time */
	return error ? Progress::failed : Progress::done; /* DueTasks reports what is wrong */
}

} // namespace jobqueue::scheduler
