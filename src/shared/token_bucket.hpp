/*
 * token_bucket.hpp -- the arithmetic of rate limits: no clock, no memory, no locks. Times are nanoseconds of whatever
 * clock the caller uses. constexpr and noexcept, any region; token_bucket.cpp has its tests, which run when it is
 * compiled.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

/* 0 tokens a nanosecond = no limit. */
struct Rate {
	int32 burst = 0;	/* how many tokens a bucket holds */
	int64 token_ns = 0; /* time for one more token */

	constexpr bool is_limit() const noexcept { return token_ns > 0; }
};

/*
 * A token that was taken comes back token_ns after the one before it, but not sooner than token_ns + head_start_ns()
 * after it was taken. So a task may begin a little later than its token was taken, and still in no period more tasks
 * begin than the rate allows.
 */
class TokenBucket {
public:
	constexpr TokenBucket() noexcept = default;
	/* A bucket whose last token was taken at that time. */
	static constexpr TokenBucket empty_at(int64 time, const Rate &rate) noexcept {
		return TokenBucket(time + rate.token_ns * rate.burst, rate.burst);
	}
	/* The bucket after the rate was changed at that time: it lacks no more tokens than the new rate lets it hold. */
	constexpr TokenBucket after_change(int64 time, const Rate &rate) const noexcept {
		return TokenBucket(std::min(full_at_, empty_at(time, rate).full_at_), rate.burst);
	}

	constexpr bool was_never_used() const noexcept { return full_at_ == 0; }
	/* When the last token is back. */
	constexpr int64 full_at() const noexcept { return full_at_; }
	constexpr int64 tokens(const Rate &rate, int64 now) const noexcept {
		const int64 count = rate.burst - divide_up(full_once_ - now, rate.token_ns) -
							std::min<int64>(taken_, divide_up(full_at_ - now, rate.token_ns));
		return std::max<int64>(count, 0);
	}
	/* When the next token comes, if the bucket has none. */
	constexpr int64 next_token_at(const Rate &rate) const noexcept {
		const int64 missing = rate.burst - 1;
		return taken_ > missing ? full_at_ - rate.token_ns * missing : full_once_ - rate.token_ns * (missing - taken_);
	}

	constexpr void take(const Rate &rate, int64 now) noexcept {
		const int64 earliest = now + head_start_ns(rate);
		if (full_at_ > earliest) {
			full_at_ += rate.token_ns;
			taken_ = std::min(taken_ + 1, rate.burst);
			return;
		}
		if (taken_ > 0)
			full_once_ = full_at_;
		full_at_ = earliest + rate.token_ns;
		taken_ = 1;
	}
	constexpr void put_back(int64 token_ns) noexcept {
		full_at_ -= token_ns;
		taken_ = std::max(taken_ - 1, 0);
	}

	/* How much later than its token was taken a task may begin. */
	static constexpr int64 head_start_ns(const Rate &rate) noexcept {
		constexpr int64 longest = 50'000'000;
		/* Short enough that a caller that always takes the next token at once need not wait longer for it. */
		return std::min(longest, std::max(rate.token_ns / 50, rate.token_ns * (rate.burst - 1) / 3));
	}

private:
	constexpr TokenBucket(int64 full_at, int32 taken) noexcept : full_at_(full_at), taken_(taken) {}
	static constexpr int64 divide_up(int64 time, int64 by) noexcept { return time > 0 ? (time + by - 1) / by : 0; }

	int64 full_at_ = 0;	  /* 0 = never used */
	int32 taken_ = 0;	  /* how many of the latest tokens come back token_ns after one another; at most the burst */
	int64 full_once_ = 0; /* when the tokens taken before those are back */
};

} // namespace jobqueue
