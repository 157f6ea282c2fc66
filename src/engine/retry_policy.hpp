/*
 * retry_policy.hpp -- how long to wait before a failed task is tried again. Pure: no server calls.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

struct RetryPolicy {
	enum class Backoff { fixed, linear, exponential };
	Backoff backoff = Backoff::exponential;
	int64 first_delay_us = 5 * USECS_PER_SEC;
	int64 max_delay_us = USECS_PER_HOUR;
	double jitter = 0.2; /* part of the delay by which it is longer or shorter at random */

	/* "attempt" counts from 1; "random" is in [0, 1). Microseconds. */
	constexpr int64 delay_us(int attempt, double random) const noexcept {
		double delay = static_cast<double>(first_delay_us);
		const double ceiling = static_cast<double>(max_delay_us);
		if (backoff == Backoff::linear)
			delay *= attempt;
		else if (backoff == Backoff::exponential)
			for (int i = 1; i < attempt && delay > 0 && delay < ceiling; i++)
				delay *= 2;
		delay = std::min(delay, ceiling);
		return static_cast<int64>(delay + delay * jitter * (2 * random - 1));
	}
};

static_assert(RetryPolicy{}.delay_us(1, 0.5) == 5 * USECS_PER_SEC);
static_assert(RetryPolicy{}.delay_us(3, 0.5) == 20 * USECS_PER_SEC);
static_assert(RetryPolicy{}.delay_us(PG_INT32_MAX, 0.5) == USECS_PER_HOUR);
static_assert(RetryPolicy{.backoff = RetryPolicy::Backoff::fixed}.delay_us(7, 0.5) == 5 * USECS_PER_SEC);
static_assert(RetryPolicy{.backoff = RetryPolicy::Backoff::linear}.delay_us(7, 0.5) == 35 * USECS_PER_SEC);

} // namespace jobqueue
