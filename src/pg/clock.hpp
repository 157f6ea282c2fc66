/*
 * clock.hpp -- which clock says what, and the one place that computes how long to sleep. noexcept, safe in any region
 * and in signal handlers.
 *
 * The wall clock, GetCurrentTimestamp(), is for the times in rows and for people: run_at, leases, schedules, retention.
 * An administrator may set it, by years, in either direction. Durations (a pause, a rate, a back-off, how long
 * something took) are measured by the steady clock, which nobody can set, and which all processes of a server share. A
 * sleep until a time of the wall clock is never long, because that clock may be set meanwhile.
 */
#pragma once

#include "pg/server.hpp"

#include <ctime>

namespace jobqueue {

/* Microseconds since some moment before the server was started. */
using SteadyTime = int64;
inline constexpr SteadyTime at_once = 0;
inline constexpr SteadyTime never = PG_INT64_MAX;

inline SteadyTime steady_now() noexcept {
	timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return static_cast<int64>(time.tv_sec) * USECS_PER_SEC + time.tv_nsec / 1000;
}

/* From "now" until then, at most "longest"; 0 if that has passed. Infinite times are allowed. */
constexpr int64 time_left(int64 now, int64 until, int64 longest) noexcept {
	if (until <= now)
		return 0;
	const uint64 left = static_cast<uint64>(until) - static_cast<uint64>(now);
	return left < static_cast<uint64>(longest) ? static_cast<int64>(left) : longest;
}

/* How long ago that was; 0 if it is in the future. */
constexpr int64 time_passed(int64 since, int64 now) noexcept {
	return time_left(since, now, PG_INT64_MAX);
}

/* How often a wait for a time of the wall clock looks again, because that clock may be set, however far. */
inline constexpr int64 longest_wall_wait_us = 5 * USECS_PER_SEC;
inline constexpr int64 longest_sleep_us = 3600 * USECS_PER_SEC;

/*
 * For wait_for_news(): how long until the earlier of two times, one of each clock. Rounded up: otherwise the caller
 * would wake too early, and look again and again.
 */
constexpr int64 sleep_ms_until(TimestampTz wall, TimestampTz wall_until, SteadyTime steady, SteadyTime until) noexcept {
	int64 left = time_left(steady, until, longest_sleep_us);
	if (wall_until != DT_NOEND)
		left = std::min(left, time_left(wall, wall_until, longest_wall_wait_us));
	return (left + 999) / 1000;
}

inline int64 sleep_ms_until(TimestampTz wall_until, SteadyTime until) noexcept {
	return sleep_ms_until(GetCurrentTimestamp(), wall_until, steady_now(), until);
}

/* When that was by the steady clock; a time in the future counts as now. */
inline SteadyTime steady_time_of(TimestampTz wall) noexcept {
	return steady_now() - std::min(time_passed(wall, GetCurrentTimestamp()), steady_now());
}

/* Notices that the wall clock was set. */
class ClockWatch {
public:
	/* By how much the clock was set since the last look; 0 if it was not. */
	int64 look() noexcept {
		/*
		 * If the process is interrupted between the two readings, their difference says nothing: then it reads again.
		 */
		constexpr int tries = 10;
		for (int i = 0; i < tries; i++) {
			const SteadyTime before = steady_now();
			const TimestampTz wall = GetCurrentTimestamp();
			if (steady_now() - before < smallest_us / 10)
				return look(wall, before);
		}
		return 0;
	}
	constexpr int64 look(TimestampTz wall, SteadyTime steady) noexcept {
		const int64 ahead = wall - steady;
		const int64 step = known_ ? ahead - ahead_ : 0;
		if (known_ && step < smallest_us && step > -smallest_us)
			return 0;
		known_ = true;
		ahead_ = ahead;
		return step;
	}

private:
	static constexpr int64 smallest_us = USECS_PER_SEC / 2;
	int64 ahead_ = 0;
	bool known_ = false;
};

/* When to try again what has failed: after longer and longer delays. */
class Backoff {
public:
	constexpr Backoff(int64 shortest_us, int64 longest_us) noexcept
		: shortest_us_(shortest_us), longest_us_(longest_us) {}
	constexpr void failed(SteadyTime now) noexcept {
		delay_us_ = std::clamp(2 * delay_us_, shortest_us_, longest_us_);
		not_before_ = now + delay_us_;
	}
	constexpr void succeeded() noexcept {
		delay_us_ = 0;
		not_before_ = at_once;
	}
	constexpr bool is_failing() const noexcept { return delay_us_ != 0; }
	constexpr SteadyTime not_before() const noexcept { return not_before_; }

private:
	int64 shortest_us_, longest_us_;
	int64 delay_us_ = 0;
	SteadyTime not_before_ = at_once;
};

namespace clock_check {

inline constexpr int64 now_ = 800'000'000'000'000;
inline constexpr int64 times[] = {PG_INT64_MIN,			PG_INT64_MIN + 1, -now_,	   0,
								  now_ - USECS_PER_DAY, now_ - 1,		  now_,		   now_ + 1,
								  now_ + USECS_PER_DAY, PG_INT64_MAX - 1, PG_INT64_MAX};

/* For all clocks and times: nobody sleeps past a time that has come, and no sleep is longer than it may be. */
constexpr bool sleeps_are_right() noexcept {
	for (const int64 wall : times)
		for (const int64 wall_until : times)
			for (const int64 steady : {at_once, now_, never})
				for (const int64 until : times) {
					const int64 ms = sleep_ms_until(wall, wall_until, steady, until);
					const bool come = until <= steady || (wall_until != DT_NOEND && wall_until <= wall);
					if (come ? ms != 0 : ms <= 0)
						return false;
					if (ms > longest_sleep_us / 1000 || (wall_until != DT_NOEND && ms > longest_wall_wait_us / 1000))
						return false;
				}
	return true;
}
static_assert(sleeps_are_right());
static_assert(sleep_ms_until(now_, DT_NOEND, 0, 1) == 1);
static_assert(sleep_ms_until(now_, now_ + 2500, 0, never) == 3);
static_assert(sleep_ms_until(now_, DT_NOEND, 7, 7 + 2 * USECS_PER_SEC) == 2000);
static_assert(time_passed(PG_INT64_MIN, PG_INT64_MAX) == PG_INT64_MAX);
static_assert(time_passed(now_, now_ - 1) == 0 && time_passed(now_ - 1, now_) == 1);

constexpr bool steps_are_seen() noexcept {
	ClockWatch watch;
	return watch.look(now_, 5) == 0 && watch.look(now_ + 1000, 1005) == 0 &&
		   watch.look(now_ - USECS_PER_DAY, 2005) == -USECS_PER_DAY - 2000 &&
		   watch.look(now_ - USECS_PER_DAY + 7, 2012) == 0 && watch.look(now_, 3000) > 0;
}
static_assert(steps_are_seen());

} // namespace clock_check

} // namespace jobqueue
