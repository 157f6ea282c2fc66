/*
 * token_bucket.cpp -- what token_bucket.hpp promises, tested by the compiler.
 */
#include "shared/token_bucket.hpp"

namespace jobqueue {

namespace {

constexpr int64 second = 1'000'000'000;
constexpr Rate ten_a_second = {10, second / 10};
constexpr Rate one_a_minute = {1, 60 * second};
constexpr int64 start = 1000 * second;

/* The bucket after so many tokens were taken at once. */
constexpr TokenBucket taken_at(int64 now, int count, const Rate &rate, TokenBucket bucket = {}) {
	for (int i = 0; i < count; i++)
		bucket.take(rate, now);
	return bucket;
}

/* Takes the next token as soon as there is one; says when. */
constexpr int64 take_next(TokenBucket &bucket, const Rate &rate, int64 now) {
	if (bucket.tokens(rate, now) == 0)
		now = bucket.next_token_at(rate);
	bucket.take(rate, now);
	return now;
}

/*
 * How many tasks begin in the fullest period of this length, if each token is taken as soon as there is one, and every
 * second task begins as late as it may?
 */
constexpr int most_begun_in(int64 period, const Rate &rate) {
	constexpr int count = 60;
	int64 begun[count] = {};
	TokenBucket bucket;
	int64 now = start;
	for (int i = 0; i < count; i++) {
		now = take_next(bucket, rate, now);
		begun[i] = now + (i % 2 == 0 ? TokenBucket::head_start_ns(rate) : 0);
	}
	int most = 0;
	for (int64 from : begun) {
		int here = 0;
		for (const int64 at : begun)
			here += at >= from && at < from + period;
		most = std::max(most, here);
	}
	return most;
}

/* How long it takes to get so many tokens, if each is taken as soon as it is there. */
constexpr int64 time_for(int count, const Rate &rate) {
	TokenBucket bucket;
	int64 now = start;
	for (int i = 0; i < count; i++)
		now = take_next(bucket, rate, now);
	return now - start;
}

/* A bucket that was never used is full, and holds no more than its burst. */
static_assert(TokenBucket().was_never_used() && TokenBucket().tokens(ten_a_second, start) == 10);
static_assert(taken_at(start, 3, ten_a_second).tokens(ten_a_second, start) == 7);
static_assert(taken_at(start, 10, ten_a_second).tokens(ten_a_second, start) == 0);
static_assert(taken_at(start, 10, ten_a_second).tokens(ten_a_second, start + 60 * second) == 10);
/* Tokens come back one after the other, each at the time that next_token_at() gives. */
static_assert(TokenBucket::empty_at(start, ten_a_second).tokens(ten_a_second, start) == 0);
static_assert(TokenBucket::empty_at(start, ten_a_second).next_token_at(ten_a_second) == start + second / 10);
static_assert(TokenBucket::empty_at(start, ten_a_second).tokens(ten_a_second, start + second / 10) == 1);
static_assert(TokenBucket::empty_at(start, ten_a_second).tokens(ten_a_second, start + second / 2) == 5);
static_assert(TokenBucket::empty_at(start, one_a_minute).next_token_at(one_a_minute) == start + 60 * second);
static_assert([] {
	const TokenBucket bucket = taken_at(start, 10, ten_a_second);
	const int64 next = bucket.next_token_at(ten_a_second);
	return bucket.tokens(ten_a_second, next - 1) == 0 && bucket.tokens(ten_a_second, next) == 1;
}());
/* A token does not come back sooner than token_ns and the head start after it was taken. */
static_assert(taken_at(start, 1, one_a_minute).next_token_at(one_a_minute) ==
			  start + 60 * second + TokenBucket::head_start_ns(one_a_minute));
/* A token that is put back can be taken again. */
static_assert([] {
	TokenBucket bucket = taken_at(start, 10, ten_a_second);
	bucket.put_back(ten_a_second.token_ns);
	return bucket.tokens(ten_a_second, start) == 1;
}());
/* After a change to a stricter rate no more than one bucket is lacking; a change to a looser rate shortens the wait. */
static_assert(taken_at(start, 10, ten_a_second).after_change(start, one_a_minute).full_at() <= start + 60 * second);
static_assert(TokenBucket::empty_at(start, one_a_minute).after_change(start, ten_a_second).full_at() == start + second);
/* A caller that always takes the next token at once gets the full rate, after the first bucket; no period has more. */
static_assert(time_for(11, ten_a_second) <= 2 * second / 10 && time_for(110, ten_a_second) <= 10 * second + second / 5);
static_assert(most_begun_in(second, {5, second / 5}) <= 10 && most_begun_in(60 * second, one_a_minute) == 1);

} // namespace

} // namespace jobqueue
