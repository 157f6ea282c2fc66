/*
 * cron.hpp -- when a schedule fires: cron expressions, plain intervals, time zones. No SQL, no tables.
 *
 * C++ region: throws Error 22023 for what people wrote. Used by the SQL functions about schedules and by the scheduler.
 *
 * Local times and daylight saving:
 * - An expression whose hour field has neither * nor a step names times of day. One that does not exist on a day fires
 *   once, when the gap ends (several in one gap: once together); one that occurs twice fires the first time only.
 * - With * or a step in the hour field it fires whenever the clock on the wall matches, as the hours really pass.
 * - An interval of hours or less is real time; days and months keep the local time of day of their first moment.
 */
#pragma once

#include "engine/cron_reader.hpp"

namespace jobqueue::cron {

/* One of the server's time zones; lives as long as the process. */
class Zone {
public:
	explicit Zone(const std::string &name);
	const pg_tz *get() const noexcept { return zone_; }

private:
	const pg_tz *zone_;
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
	Schedule schedule_;
};

} // namespace jobqueue::cron
