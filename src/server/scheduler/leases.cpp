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
	from_ = std::min(from_, at);
	reached_ = std::min(reached_, at);
	next_ = std::min(next_, at);
}

Progress Leases::step() {
	return repeat([this] { return expire(); });
}

Progress Leases::expire() {
	TimestampTz from = from_, reached = reached_, next = next_;
	const Progress progress = batch_step(
		[&, this](const store::Batch &rows) {
			const TimestampTz now = GetCurrentTimestamp();
			const std::vector<store::Claim> expired = store::lock_expired(reached_, now, rows);
			const auto count = static_cast<int64>(expired.size());
			end_expired(expired);
			if (!rows.only.empty())
				return count;
			if (count < rows.count) {
				from = reached = store::next_lease(from_, rows.except);
				next = from <= now ? now + locked_again_us : from;
			} else
				reached = std::max(reached_, expired.back().lease);
			return count;
		},
		[this](const store::Batch &rows) { return store::expired_ids(reached_, GetCurrentTimestamp(), rows); });
	if (aside_.took_batch()) {
		from_ = from;
		reached_ = reached;
		next_ = next;
	}
	return progress;
}

} // namespace jobqueue::scheduler
