/*
 * batch_size.hpp -- how many rows a step of the housekeeping takes in one transaction. Others must wait for such a
 * step. So a transaction takes fewer rows on a busy machine, or when the rows take long. C++ region; knows nothing of
 * the server.
 */
#pragma once

#include "pg/clock.hpp"

namespace jobqueue {

class BatchSize {
public:
	explicit constexpr BatchSize(int least = 10) noexcept : least_(least), size_(least) {}
	int get() const noexcept { return size_; }
	/* A transaction of this size took so long. "full": there was at least as much to do as it could take. */
	void took(int64 microseconds, bool full) noexcept {
		if (microseconds > long_us)
			size_ = std::max(size_ / 2, least_);
		else if (microseconds < long_us / 4 && full)
			size_ = std::min(2 * size_, most);
	}

private:
	static constexpr int64 long_us = 5000;
	static constexpr int most = 1000;

	int least_;
	int size_;
};

} // namespace jobqueue
