/*
 * run_time_estimate.cpp -- see run_time_estimate.hpp. C++ region.
 */
#include "engine/run_time_estimate.hpp"

#include "pg/settings.hpp"

namespace jobqueue {

/*
 * A task that takes longer than this part of a batch's time gains little, and others make it hold its locks for longer.
 */
static constexpr int64 longest_share = 4;
static constexpr int64 first_exclusion_us = USECS_PER_SEC;
static constexpr int64 longest_exclusion_us = USECS_PER_MINUTE;

static int64 fused_time_us() {
	return static_cast<int64>(settings::fused_time_ms) * 1000;
}

bool RunTimeEstimate::may_be_fused(SteadyTime now, int runs) const noexcept {
	return !never_ && runs_ >= runs && now >= excluded_until_ && mean_us_ * longest_share <= fused_time_us();
}

void RunTimeEstimate::ran(int64 microseconds) noexcept {
	/* The first run compiles the function and fills caches: it only counts while there is no other. */
	if (runs_ <= 1)
		mean_us_ = microseconds;
	else
		mean_us_ += (microseconds - mean_us_) / 4;
	if (runs_ < PG_INT32_MAX)
		runs_++;
}

void RunTimeEstimate::spoilt_fused_batch(SteadyTime now) noexcept {
	if (now > excluded_until_ + longest_exclusion_us)
		exclusion_us_ = 0; /* the last time was long ago */
	exclusion_us_ = std::clamp(2 * exclusion_us_, first_exclusion_us, longest_exclusion_us);
	excluded_until_ = now + exclusion_us_;
}

void RunTimeEstimate::is_suspect(SteadyTime now) noexcept {
	excluded_until_ = std::max(excluded_until_, now + first_exclusion_us);
}

int FusedBatchSize::next() const noexcept {
	if (settings::fused_time_ms == 0)
		return 1;
	const int64 fit = mean_us_ > 0 ? fused_time_us() / mean_us_ : settings::fused_tasks;
	return static_cast<int>(std::clamp<int64>(std::min<int64>(limit_, fit), 1, settings::fused_tasks));
}

void FusedBatchSize::ran(size_t wanted, size_t run, int64 microseconds) noexcept {
	if (run > 0) {
		const int64 mean = microseconds / static_cast<int64>(run);
		mean_us_ = mean_us_ == 0 ? mean : mean_us_ + (mean - mean_us_) / 4;
	}
	limit_ = run < wanted ? std::max(1, static_cast<int>(run)) : std::min(2 * limit_, settings::fused_tasks);
}

} // namespace jobqueue
