/*
 * cron.cpp -- see cron.hpp. C++ region.
 *
 * A local time is a number of seconds as if the zone were UTC. Between two changes of its offset, a zone's local time
 * and the real one differ by a constant: the search for the next match goes from one such stretch to the next, and
 * within one by months, days and times of day.
 */
#include "engine/cron.hpp"

#include "engine/store/bounds.hpp"
#include "pg/compat.hpp"

extern "C" {
#include "pgtime.h"
#include "utils/datetime.h"
}

namespace jobqueue::cron {

namespace {

constexpr int64 day_seconds = 86400;
/* The calendar repeats after 400 years: an expression that does not match in that time never does. */
constexpr int64 cycle_seconds = 146097 * day_seconds;
constexpr int64 epoch_difference = static_cast<int64>(POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * day_seconds;
/* No zone's clock has ever been changed by more than a day. */
constexpr int64 longest_change = 2 * day_seconds;
/* Where the calendar ends: about the year 200000, far from where sums of microseconds overflow. */
constexpr TimestampTz last_time = INT64CONST(198000) * 365 * USECS_PER_DAY;

int64 floor_divide(int64 value, int64 by) noexcept {
	return value / by - (value % by < 0);
}

int64 seconds_of(TimestampTz time) noexcept {
	return floor_divide(time, USECS_PER_SEC) + epoch_difference;
}

std::optional<TimestampTz> time_of(int64 seconds, int64 microseconds = 0) noexcept {
	const int64 since = seconds - epoch_difference;
	if (since >= last_time / USECS_PER_SEC || since <= MIN_TIMESTAMP / USECS_PER_SEC)
		return std::nullopt;
	return since * USECS_PER_SEC + microseconds;
}

/* The Gregorian calendar, extended without end in both directions. */

struct Date {
	int64 year;
	int month; /* 1 to 12 */
	int day;
};

int64 days_of(int64 year, int month, int day) noexcept {
	year -= month <= 2;
	const int64 era = floor_divide(year, 400);
	const int64 of_era = year - era * 400;
	const int64 of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
	return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

Date date_of(int64 days) noexcept {
	days += 719468;
	const int64 era = floor_divide(days, 146097);
	const int64 of_era = days - era * 146097;
	const int64 year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
	const int64 of_year = of_era - (365 * year + year / 4 - year / 100);
	const int64 shifted = (5 * of_year + 2) / 153;
	const int month = static_cast<int>(shifted < 10 ? shifted + 3 : shifted - 9);
	return {year + era * 400 + (month <= 2), month, static_cast<int>(of_year - (153 * shifted + 2) / 5 + 1)};
}

int length_of_month(int64 year, int month) noexcept {
	constexpr int lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	const bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
	return lengths[month - 1] + (month == 2 && leap);
}

/* Stretches of constant offset */

struct Stretch {
	int64 from, to; /* from <= t < to */
	int64 offset;	/* local time - t */
	int64 before;	/* offset of the stretch before; the same if there is none */
};

/* Walks through a zone's stretches, beginning with the one that contains "time". */
class Stretches {
public:
	Stretches(const Zone &zone, int64 time) noexcept : zone_(zone.get()) {
		look(time);
		stretch_.from = PG_INT64_MIN / 4;
		stretch_.before = stretch_.offset;
	}
	const Stretch &get() const noexcept { return stretch_; }
	void go_on() noexcept {
		const int64 offset = stretch_.offset;
		stretch_.from = stretch_.to;
		/*
		 * If the server is asked about the exact second of the last change that it knows, it forgets the rule for later
		 * changes.
		 */
		look(stretch_.from + 1);
		stretch_.before = offset;
	}

private:
	void look(int64 time) noexcept {
		pg_time_t boundary = 0;
		long before = 0, after = 0;
		int before_dst, after_dst;
		const pg_time_t at = time;
		const int known = pg_next_dst_boundary(&at, &before, &before_dst, &boundary, &after, &after_dst, zone_);
		stretch_.offset = known < 0 ? 0 : before;
		stretch_.to = known > 0 ? boundary : PG_INT64_MAX / 4;
	}

	const pg_tz *zone_;
	Stretch stretch_ = {};
};

/* The real time of a local time: the first one if it occurs twice, the end of the gap if it does not occur. */
int64 when_local(int64 local, const Zone &zone) noexcept {
	Stretches stretches(zone, local - longest_change);
	for (;; stretches.go_on()) {
		const Stretch &stretch = stretches.get();
		if (local < stretch.from + stretch.offset)
			return stretch.from;
		if (local < stretch.to + stretch.offset)
			return local - stretch.offset;
	}
}

int64 local_time(int64 time, const Zone &zone) noexcept {
	return time + Stretches(zone, time).get().offset;
}

/* Matching */

template <typename Set> int first_in(Set set, int from) noexcept {
	const uint64 rest = from > 63 ? 0 : static_cast<uint64>(set) >> from << from;
	return rest == 0 ? -1 : pg_rightmost_one_pos64(rest);
}

uint32 days_in_month(const Fields &fields, int64 year, int month) noexcept {
	const int length = length_of_month(year, month);
	const uint32 all = (2U << length) - 2;
	uint32 days = fields.days & all;
	for (uint32 rest = fields.from_end; rest != 0; rest &= rest - 1)
		if (const int day = length - pg_rightmost_one_pos32(rest); day > 0)
			days |= 1U << day;
	uint32 weekdays = 0;
	/* The first day of 1970 was a Thursday. */
	auto weekday = static_cast<size_t>((days_of(year, month, 1) % 7 + 7 + 4) % 7);
	for (int day = 1; day <= length; day++, weekday = (weekday + 1) % 7) {
		const uint32 nth = fields.nth[weekday];
		if ((fields.weekdays >> weekday & 1) || (nth >> ((day + 6) / 7) & 1) || ((nth & 1) && day + 7 > length))
			weekdays |= 1U << day;
	}
	return fields.any_day || fields.any_weekday ? days & weekdays : days | weekdays;
}

/* The next match, in seconds after midnight; -1 if there is none left on that day. */
int64 next_in_day(const Fields &fields, int from) noexcept {
	const int hour = first_in(fields.hours, from / 3600);
	if (hour < 0)
		return -1;
	if (hour == from / 3600) {
		const int minute = first_in(fields.minutes, from / 60 % 60);
		if (minute == from / 60 % 60)
			if (const int second = first_in(fields.seconds, from % 60); second >= 0)
				return hour * 3600 + minute * 60 + second;
		const int later = minute == from / 60 % 60 ? first_in(fields.minutes, minute + 1) : minute;
		if (later >= 0)
			return hour * 3600 + later * 60 + first_in(fields.seconds, 0);
	}
	const int next_hour = hour == from / 3600 ? first_in(fields.hours, hour + 1) : hour;
	return next_hour < 0 ? -1 : next_hour * 3600 + first_in(fields.minutes, 0) * 60 + first_in(fields.seconds, 0);
}

/* The first local time with from <= t < to that matches. */
std::optional<int64> next_match(const Fields &fields, int64 from, int64 to) noexcept {
	const int64 first_day = floor_divide(from, day_seconds);
	Date date = date_of(first_day);
	auto time = static_cast<int>(from - first_day * day_seconds);
	for (;; date.day = 1, time = 0) {
		const int64 month_start = days_of(date.year, date.month, 1);
		if (month_start * day_seconds >= to)
			return std::nullopt;
		if (fields.months >> date.month & 1) {
			const uint32 days = days_in_month(fields, date.year, date.month);
			for (int day = first_in(days, date.day); day >= 0; day = first_in(days, day + 1)) {
				const int64 found = next_in_day(fields, day == date.day ? time : 0);
				if (found < 0)
					continue;
				const int64 match = (month_start + day - 1) * day_seconds + found;
				return match < to ? std::optional(match) : std::nullopt;
			}
		}
		date.year += date.month == 12;
		date.month = date.month % 12 + 1;
	}
}

std::optional<int64> next_of_fields(const Fields &fields, int64 from, const Zone &zone) noexcept {
	const int64 horizon = from + cycle_seconds;
	Stretches stretches(zone, from - longest_change);
	for (; stretches.get().from < horizon; stretches.go_on()) {
		const Stretch &stretch = stretches.get();
		if (stretch.to <= from)
			continue;
		const bool gap = !fields.hours_pass && stretch.before < stretch.offset && stretch.from >= from;
		if (gap && next_match(fields, stretch.from + stretch.before, stretch.from + stretch.offset))
			return stretch.from;
		int64 start = std::max(from, stretch.from) + stretch.offset;
		if (!fields.hours_pass && stretch.before > stretch.offset)
			start = std::max(start, stretch.from + stretch.before);
		if (const auto match = next_match(fields, start, std::min(stretch.to, horizon) + stretch.offset))
			return *match - stretch.offset;
	}
	return std::nullopt;
}

bool ever_matches(const Fields &fields) noexcept {
	for (int64 year = 2000; year < 2400; year++)
		for (int month = 1; month <= 12; month++)
			if ((fields.months >> month & 1) && days_in_month(fields, year, month) != 0)
				return true;
	return false;
}

/* Intervals */

/* "count" periods after a local time in microseconds. */
int64 add_periods(int64 local, const Period &period, int64 count) noexcept {
	const int64 day = floor_divide(local, USECS_PER_DAY);
	Date date = date_of(day);
	const int64 month = date.month - 1 + count * period.months;
	date.year += floor_divide(month, 12);
	date.month = static_cast<int>(month - floor_divide(month, 12) * 12) + 1;
	date.day = std::min(date.day, length_of_month(date.year, date.month));
	return (days_of(date.year, date.month, date.day) + count * period.days) * USECS_PER_DAY +
		   (local - day * USECS_PER_DAY) + count * period.microseconds;
}

std::optional<TimestampTz> next_of_period(const Period &period, TimestampTz after, const Zone &zone,
										  TimestampTz anchor) noexcept {
	if (period.months == 0 && period.days == 0) {
		const int64 count = after < anchor ? 1 : (after - anchor) / period.microseconds + 1;
		const TimestampTz next = anchor + count * period.microseconds;
		return next < last_time ? std::optional(next) : std::nullopt;
	}
	const int64 fraction = anchor - floor_divide(anchor, USECS_PER_SEC) * USECS_PER_SEC;
	const int64 start = local_time(seconds_of(anchor), zone) * USECS_PER_SEC + fraction;
	/*
	 * A lower bound of how many periods have passed: no month has more than 31 days, and clocks change by less than two
	 * days.
	 */
	const int64 longest = (period.months * INT64CONST(31) + period.days) * USECS_PER_DAY + period.microseconds;
	const int64 passed = after < anchor ? 0 : (after - anchor - 2 * USECS_PER_DAY) / longest - 1;
	for (int64 count = std::max<int64>(passed, 1);; count++) {
		const int64 local = add_periods(start, period, count);
		const int64 second = floor_divide(local, USECS_PER_SEC);
		const int64 when = when_local(second, zone);
		/* A time in a gap is moved to the gap's end, and has no fraction there. */
		const bool moved = local_time(when, zone) != second;
		const auto next = time_of(when, moved ? 0 : local - second * USECS_PER_SEC);
		if (!next || *next > after)
			return next;
	}
}

} // namespace

Zone::Zone(const std::string &name) {
	const char *const given = name.c_str();
	/*
	 * Accepts only names. The server takes whatever looks like POSIX rules for a zone, such as a name with a typo, and
	 * keeps each of them in memory for as long as the process lives.
	 */
	zone_ = guard([given]() -> const pg_tz * {
		const pg_tz *const zone =
			strlen(given) <= bounds::time_zone && compat::is_time_zone_name(given) ? pg_tzset(given) : nullptr;
		return zone != nullptr && pg_tz_acceptable(const_cast<pg_tz *>(zone)) ? zone : nullptr;
	});
	if (zone_ == nullptr)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "time zone " + quoted(name) + " is not known",
					"Use one of the names in pg_timezone_names; abbreviations and POSIX rules are not supported.");
}

Expression::Expression(const std::string &written) : schedule_(read(written)) {
	if (schedule_.fields && !ever_matches(*schedule_.fields))
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "cron expression never fires: there is no such day");
}

std::optional<TimestampTz> Expression::next(TimestampTz after, const Zone &zone, TimestampTz anchor) const {
	if (after >= last_time || anchor >= last_time || after < MIN_TIMESTAMP || anchor < MIN_TIMESTAMP)
		return std::nullopt;
	if (!schedule_.fields)
		return next_of_period(schedule_.period, after, zone, anchor);
	const std::optional<int64> found = next_of_fields(*schedule_.fields, seconds_of(after) + 1, zone);
	return found ? time_of(*found) : std::nullopt;
}

std::vector<TimestampTz> Expression::latest(TimestampTz after, TimestampTz before, size_t count, const Zone &zone,
											TimestampTz anchor) const {
	/* Looks back over longer and longer spans, until it has enough times, or all. */
	std::vector<TimestampTz> times;
	if (after >= before || count == 0)
		return times;
	for (int64 reach = USECS_PER_SEC;; reach *= 2) {
		const bool all = reach >= before - after;
		times.clear();
		TimestampTz at = all ? after : before - reach;
		for (size_t oldest = 0;;) {
			const std::optional<TimestampTz> next = this->next(at, zone, anchor);
			if (!next || *next >= before) {
				std::rotate(times.begin(), times.begin() + static_cast<ptrdiff_t>(oldest), times.end());
				break;
			}
			at = *next;
			if (times.size() < count) {
				times.push_back(at);
			} else {
				times[oldest] = at;
				oldest = (oldest + 1) % count;
			}
		}
		if (all || times.size() == count)
			return times;
	}
}

} // namespace jobqueue::cron
