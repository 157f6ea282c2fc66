/*
 * timed_chore.cpp -- see timed_chore.hpp. C++ region.
 */
#include "server/scheduler/timed_chore.hpp"

namespace jobqueue::scheduler {

void TimedChore::time_was_announced(TimestampTz at) noexcept {
	from_ = std::min(from_, {at});
	cursor_.return_to(at);
	next_ = std::min(next_, at);
}

void TimedChore::poll() noexcept {
	if (!has_more() && steady_now() >= pass_.next())
		look_at_all();
}

Progress TimedChore::step() {
	const PassFromStart pass(pass_, cursor_);
	return repeat([this] { return take_batch(); });
}

Progress TimedChore::take_batch() {
	store::Cursor cursor = cursor_;
	NextPass next{from_, next_};
	const Progress progress = batch_step(
		[&, this](const store::Batch &rows) {
			const TimestampTz now = GetCurrentTimestamp();
			const store::Page page =
				store::page_for(rows, cursor_, [now, this](const store::Cursor &from, const store::Batch &batch) {
					return look(from, now, batch);
				});
			const store::Taken taken(static_cast<int64>(page.ids.size()), take(page.ids, now));
			if (!rows.only.empty())
				return taken;
			if (taken.looked_at > 0)
				cursor.move_to(page.last);
			if (taken.looked_at < rows.count) {
				next = next_pass(from_, cursor.after(), now, rows);
				cursor.begin_at(next.from);
			}
			return taken;
		},
		[this](const store::Batch &rows) { return look(cursor_, GetCurrentTimestamp(), rows).ids; });
	if (aside_.took_batch()) {
		cursor_ = cursor;
		from_ = next.from;
		next_ = next.at;
	}
	return progress;
}

} // namespace jobqueue::scheduler
