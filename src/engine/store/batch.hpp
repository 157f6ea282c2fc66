/*
 * batch.hpp -- which rows a chore takes at once. C++ region.
 */
#pragma once

#include "pg/session.hpp"

#include <array>
#include <span>

namespace jobqueue::store {

/*
 * What a chore takes at once: up to "count" rows in its order, without those in "except"; if "only" has any, only
 * these.
 */
struct Batch {
	int count;
	std::span<const int64> only = {};
	std::span<const int64> except = {};
};

/* A place in the order of an index: a time, and for equal times the id. */
struct Place {
	TimestampTz time = DT_NOBEGIN;
	int64 id = PG_INT64_MIN;

	auto operator<=>(const Place &) const = default;
};
inline void add_place(Params &params, const Place &place) {
	params.add_time(place.time).add(place.id);
}

/*
 * How far a pass over many rows has come. What it has taken stays in the index until no transaction can see it any
 * more, and would be read again for each page if it were not for the cursor. But the latest pages are read again: the
 * server then marks in the index what is dead, and whoever reads it from the beginning does not look at each row.
 */
class Cursor {
public:
	/* Rows up to this place have been looked at. */
	const Place &after() const noexcept { return after_; }
	/* Reading begins here. */
	const Place &again() const noexcept { return latest_[next_]; }
	bool is_at_start() const noexcept { return after_ == Place(); }
	void move_to(const Place &last) noexcept {
		latest_[next_] = std::exchange(after_, last);
		next_ = (next_ + 1) % latest_.size();
	}
	/* All before this place has been dealt with. */
	void begin_at(const Place &place) noexcept {
		after_ = place;
		latest_.fill(place);
	}
	/* There may be something from this time on. */
	void return_to(TimestampTz time) noexcept {
		if (const Place place = {time}; place < after_)
			begin_at(place);
	}

private:
	Place after_;
	std::array<Place, 8> latest_ = {};
	size_t next_ = 0;
};
inline void add_cursor(Params &params, const Cursor &cursor) {
	add_place(params, cursor.again());
	add_place(params, cursor.after());
}

/*
 * Rows to take, found without a lock. A statement that found and locked them at once would go over all rows that
 * somebody else has locked, however many these are.
 */
struct Page {
	std::vector<int64> ids;
	Place last;
};
/* From rows of a time and an id each. */
inline Page page_of(const Rows &rows) {
	Page page;
	page.ids.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++) {
		page.last = {DatumGetTimestampTz(rows.datum(i, 1)), rows.int64_at(i, 2)};
		page.ids.push_back(page.last.id);
	}
	return page;
}
/* The rows of a batch: those that it is made of, or the next page, which look(cursor, batch) finds. */
template <typename Look> Page page_for(const Batch &batch, const Cursor &cursor, Look &&look) {
	return batch.only.empty() ? look(cursor, batch) : Page{{batch.only.begin(), batch.only.end()}, {}};
}

/* How many rows a chore looked at, and how many it could take; the others were locked, or have changed since. */
struct Taken {
	int64 looked_at, taken;

	Taken(int64 all = 0) noexcept : Taken(all, all) {}
	Taken(int64 looked, int64 took) noexcept : looked_at(looked), taken(took) {}
};

} // namespace jobqueue::store
