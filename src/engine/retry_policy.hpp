/*
 * retry_policy.hpp -- how long to wait before a failed task is tried again. Pure; no server calls but the random number.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

/* Exponential from 5 seconds, doubled each time up to an hour, 20 % up or down at random. */
struct RetryPolicy {
	int64 first_delay_us = 5 * USECS_PER_SEC;
	int64 max_delay_us = USECS_PER_HOUR;
	double jitter = 0.2;

	/* "attempt" counts from 1; "random" is in [0, 1). Microseconds. */
	constexpr int64 delay_us(int attempt, double random) const noexcept {
		int64 delay = first_delay_us;
		for (int i = 1; i < attempt && delay < max_delay_us; i++)
			delay *= 2;
		delay = std::min(delay, max_delay_us);
		return delay + static_cast<int64>(static_cast<double>(delay) * jitter * (2 * random - 1));
	}
};

static_assert(RetryPolicy{}.delay_us(1, 0.5) == 5 * USECS_PER_SEC);
static_assert(RetryPolicy{}.delay_us(3, 0.5) == 20 * USECS_PER_SEC);
static_assert(RetryPolicy{}.delay_us(1000000, 0.5) == USECS_PER_HOUR);

} // namespace jobqueue
