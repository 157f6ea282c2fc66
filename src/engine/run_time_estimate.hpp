/*
 * run_time_estimate.hpp -- what a worker has learned about how long the tasks of its types take, and so which of them
 * may share a transaction (run fused), and how many of them at once. C++ region; knows nothing of the server.
 */
#pragma once

#include "pg/clock.hpp"

namespace jobqueue {

/* The estimate for one type. */
class RunTimeEstimate {
public:
	/* Is the type known to be short enough, from so many runs at least, and has it not spoilt a fused batch lately? */
	bool may_be_fused(SteadyTime now, int runs) const noexcept;
	int runs() const noexcept { return runs_; }
	/* A task of the type has run, alone or fused, for so long. */
	void ran(int64 microseconds) noexcept;
	/*
	 * Running the type fused did something that running it alone does not: it is left out for a while, longer each
	 * time.
	 */
	void spoilt_fused_batch(SteadyTime now) noexcept;
	/* The type was in a fused batch that failed as a whole, and may be the cause. */
	void is_suspect(SteadyTime now) noexcept;
	/* What the type does must never run fused. */
	void never() noexcept { never_ = true; }
	bool is_never() const noexcept { return never_; }

	/* How many tasks to give a batch handler at once: fewer after an error, until the culprit is alone. */
	int batch_size(int most) const noexcept { return std::clamp(batch_limit_, 1, most); }
	void batch_ran(int tasks) noexcept {
		batch_limit_ = std::max(batch_limit_, tasks < PG_INT16_MAX ? 2 * tasks : tasks);
	}
	void batch_failed(int tasks) noexcept { batch_limit_ = std::max(1, tasks / 2); }

private:
	int64 mean_us_ = 0;
	int32 runs_ = 0;
	int batch_limit_ = PG_INT16_MAX;
	bool never_ = false;
	SteadyTime excluded_until_ = 0;
	int64 exclusion_us_ = 0;
};

/* How many tasks to lock for the next fused batch. */
class FusedBatchSize {
public:
	int next() const noexcept;
	/* A batch of "wanted" tasks was to run; "run" of them ran before it had to end, and took so long. */
	void ran(size_t wanted, size_t run, int64 microseconds) noexcept;
	/* The next tasks must run alone. */
	void reset() noexcept { limit_ = 1; }

private:
	int limit_ = 1;
	int64 mean_us_ = 0; /* of one task, with everything around it */
};

} // namespace jobqueue
