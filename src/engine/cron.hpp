/*
 * cron.hpp -- when a schedule fires: cron expressions, plain intervals, time zones. No SQL, no tables.
 *
 * C++ region: throws Error 22023 for what people wrote. Used by the SQL functions about schedules and by the scheduler.
 *
 * How local times meet daylight saving:
 * - An expression whose hour field has neither * nor a step names times of day. One that does not exist on a day fires
 *   once, when the gap ends (several in one gap: once together); one that occurs twice fires the first time only.
 * - With * or a step in the hour field it fires whenever the clock on the wall matches, as the hours really pass.
 * - An interval of hours or less knows no clock; days and months keep the local time of day of their first moment.
 */
#pragma once

#include "pg/guard.hpp"

namespace jobqueue::cron {

/* One of the server's time zones; lives as long as the process. */
class Zone {
public:
	explicit Zone(const std::string &name);
	const pg_tz *get() const noexcept { return zone_; }

private:
	const pg_tz *zone_;
};

struct Fields {
	uint64 seconds = 1, minutes = 0;
	uint32 hours = 0;
	uint32 days = 0;	 /* bit n: day n of the month */
	uint32 from_end = 0; /* bit n: n days before the last */
	uint32 months = 0;
	uint32 weekdays = 0;			/* bit 0: Sunday */
	std::array<uint32, 7> nth = {}; /* by weekday; bit n: the nth of the month, bit 0: the last */
	bool any_day = false;			/* the day-of-month field begins with *, or is ? */
	bool any_weekday = false;		/* likewise */
	bool hours_pass = false;		/* the hour field has * or a step */
};

/* Of the server's interval, with nothing negative in it. */
struct Period {
	int32 months = 0;
	int32 days = 0;
	int64 microseconds = 0;
};

class Expression {
public:
	explicit Expression(const std::string &written);

	/*
	 * The first time after "after"; none if there is none before about the year 200000. An interval counts from
	 * "anchor", which is not itself one of its times.
	 */
	std::optional<TimestampTz> next(TimestampTz after, const Zone &zone, TimestampTz anchor) const;
	/* The latest times t with after < t < before, in order, at most "count". */
	std::vector<TimestampTz> latest(TimestampTz after, TimestampTz before, size_t count, const Zone &zone,
									TimestampTz anchor) const;

private:
	std::optional<Fields> fields_;
	Period period_;
};

} // namespace jobqueue::cron
