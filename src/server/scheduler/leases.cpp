/*
 * leases.cpp -- see leases.hpp. C++ region.
 */
#include "server/scheduler/leases.hpp"

#include "engine/outcome.hpp"
#include "engine/store/claims.hpp"

namespace jobqueue::scheduler {

/* An expired lease whose task is locked by a session is looked at again after this time. */
static constexpr int64 locked_again_us = USECS_PER_SEC;

void Leases::time_was_announced(TimestampTz at) noexcept {
	from_ = std::min(from_, {at});
	cursor_.return_to(at);
	next_ = std::min(next_, at);
}

void Leases::poll() noexcept {
	if (!has_more() && steady_now() >= pass_.next())
		look_at_all();
}

Progress Leases::step() {
	const PassFromStart pass(pass_, cursor_);
	return repeat([this] { return expire(); });
}

Progress Leases::expire() {
	store::Place from = from_;
	store::Cursor cursor = cursor_;
	TimestampTz next = next_;
	const Progress progress = batch_step(
		[&, this](const store::Batch &rows) {
			const TimestampTz now = GetCurrentTimestamp();
			const store::Page page = store::expired(cursor_, now, rows);
			const std::vector<store::Claim> claims = store::lock_expired(page.ids, now);
			end_expired(claims);
			const store::Taken taken(static_cast<int64>(page.ids.size()), static_cast<int64>(claims.size()));
			if (!rows.only.empty())
				return taken;
			if (taken.looked_at > 0)
				cursor.move_to(page.last);
			if (taken.looked_at < rows.count) {
				next = store::next_lease(from_, rows.except);
				from = {next};
				cursor.begin_at(from);
				next = next <= now ? now + locked_again_us : next;
			}
			return taken;
		},
		[this](const store::Batch &rows) { return store::expired(cursor_, GetCurrentTimestamp(), rows).ids; });
	if (aside_.took_batch()) {
		from_ = from;
		cursor_ = cursor;
		next_ = next;
	}
	return progress;
}

} // namespace jobqueue::scheduler
