/*
 * leases.cpp -- see leases.hpp. C++ region.
 */
#include "server/scheduler/leases.hpp"

#include "engine/outcome.hpp"
#include "engine/store/claims.hpp"

namespace jobqueue::scheduler {

/* An expired lease whose task is locked by a session is looked at again after this time. */
static constexpr int64 locked_again_us = USECS_PER_SEC;

Progress Leases::step() {
	return repeat([this] { return expire(); });
}

Progress Leases::expire() {
	TimestampTz next = next_;
	const Progress progress = batch_step(
		[&](const store::Batch &rows) {
			const TimestampTz now = GetCurrentTimestamp();
			const std::vector<store::Claim> expired = store::lock_expired(now, rows);
			const auto count = static_cast<int64>(expired.size());
			for (const store::Claim &claim : expired)
				end_expired(claim);
			if (!rows.only.empty())
				return count;
			next = store::next_lease(rows.except);
			if (next <= now && count < rows.count)
				next = now + locked_again_us;
			return count;
		},
		[](const store::Batch &rows) { return store::expired_ids(GetCurrentTimestamp(), rows); });
	if (aside_.took_batch())
		next_ = next;
	return progress;
}

} // namespace jobqueue::scheduler
