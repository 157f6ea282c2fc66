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

store::Page DueTasks::look(const store::Cursor &cursor, TimestampTz now, const store::Batch &rows) {
	return store::due(cursor, now, rows);
}

int64 DueTasks::take(std::span<const int64> ids, TimestampTz now) {
	return make_due(ids, now);
}

/* A task that is due, but locked by a session, waits for the next poll. */
DueTasks::NextPass DueTasks::next_pass(const store::Place &, const store::Place &to, TimestampTz now,
									   const store::Batch &) {
	const store::Place from = std::max(to, {now});
	return {from, store::next_due(from)};
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
		make_due(ids, GetCurrentTimestamp());
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
