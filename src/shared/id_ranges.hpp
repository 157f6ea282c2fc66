/*
 * id_ranges.hpp -- a set of task ids that fits into shared memory: a few ranges, the last of which may be open at its
 * end. If there are too many ranges, two are joined, with the ids between them: a set may be larger than what was
 * added, never smaller.
 *
 * noexcept, any region; trivially copyable.
 */
#pragma once

#include "pg/server.hpp"

#include <algorithm>

namespace jobqueue {

struct IdRange {
	int64 low = PG_INT64_MAX;
	int64 high = PG_INT64_MIN; /* inclusive; PG_INT64_MAX = open */

	constexpr bool empty() const noexcept { return low > high; }
	constexpr void add(IdRange other) noexcept {
		low = std::min(low, other.low);
		high = std::max(high, other.high);
	}
};

class IdRanges {
public:
	void set_all() noexcept {
		count_ = 1;
		ranges_[0] = {PG_INT64_MIN, PG_INT64_MAX};
	}

	bool empty() const noexcept { return count_ == 0; }
	/* The lowest range. The set must not be empty. */
	IdRange front() const noexcept { return ranges_[0]; }

	void add(IdRange added) noexcept {
		if (added.empty())
			return;
		int begin = 0;
		while (begin < count_ && is_far(ranges_[begin], added))
			begin++;
		int end = begin;
		while (end < count_ && !is_far(added, ranges_[end]))
			added.add(ranges_[end++]);
		erase(begin, end);
		insert(begin, added);
		if (count_ > most)
			join_nearest();
	}

	void add(const IdRanges &others) noexcept {
		for (int i = 0; i < others.count_; i++)
			add(others.ranges_[i]);
	}

	void remove_front() noexcept { erase(0, 1); }
	/* Removes all ids below this one. */
	void remove_below(int64 id) noexcept {
		int gone = 0;
		while (gone < count_ && ranges_[gone].high < id)
			gone++;
		erase(0, gone);
		if (count_ > 0)
			ranges_[0].low = std::max(ranges_[0].low, id);
	}

	/* Does this set leave less to read? Where the open range begins counts most. */
	bool is_shorter_than(const IdRanges &other) const noexcept {
		const auto [mine, mine_closed] = measure();
		const auto [others, others_closed] = other.measure();
		return mine != others ? mine > others : mine_closed < others_closed;
	}

private:
	static constexpr int most = 5;
	/* Reading over this many dead entries costs about as much as beginning again behind them. */
	static constexpr int64 near = 500;

	static bool is_far(IdRange lower, IdRange higher) noexcept {
		return lower.high<higher.low &&static_cast<uint64>(higher.low) - static_cast<uint64>(lower.high)> near;
	}

	void erase(int begin, int end) noexcept {
		while (end < count_)
			ranges_[begin++] = ranges_[end++];
		count_ = begin;
	}

	void insert(int place, IdRange range) noexcept {
		for (int i = count_++; i > place; i--)
			ranges_[i] = ranges_[i - 1];
		ranges_[place] = range;
	}

	void join_nearest() noexcept {
		const auto gap = [this](int i) {
			return static_cast<uint64>(ranges_[i + 1].low) - static_cast<uint64>(ranges_[i].high);
		};
		int nearest = 0;
		for (int i = 1; i + 1 < count_; i++)
			if (gap(i) < gap(nearest))
				nearest = i;
		ranges_[nearest].add(ranges_[nearest + 1]);
		erase(nearest + 1, nearest + 2);
	}

	/* Where the open range begins, and how many ids are in the others. */
	std::pair<int64, uint64> measure() const noexcept {
		int64 open = PG_INT64_MAX;
		uint64 closed = 0;
		for (int i = 0; i < count_; i++) {
			if (ranges_[i].high == PG_INT64_MAX)
				open = ranges_[i].low;
			else
				closed += static_cast<uint64>(ranges_[i].high) - static_cast<uint64>(ranges_[i].low) + 1;
		}
		return {open, closed};
	}

	int count_ = 0;
	IdRange ranges_[most + 1]; /* ascending, far from each other; one place more than is kept */
};

} // namespace jobqueue
