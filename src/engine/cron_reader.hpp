/*
 * cron_reader.hpp -- reads what people write as a schedule: a cron expression, or an interval. C++ region; throws Error
 * 22023 if the text is neither.
 */
#pragma once

#include "pg/guard.hpp"

namespace jobqueue::cron {

struct Fields {
	uint64 seconds = 1, minutes = 0;
	uint32 hours = 0;
	uint32 days = 0;	 /* bit n: day n of the month */
	uint32 from_end = 0; /* bit n: n days before the last */
	uint32 months = 0;
	uint32 weekdays = 0;			/* bit 0: Sunday */
	std::array<uint32, 7> nth = {}; /* by weekday; bit n: the nth of the month, bit 0: the last */
	bool any_day = false;			/* the day-of-month field begins with *, or is ? */
	bool any_weekday = false;		/* the same of the day-of-week field */
	bool hours_pass = false;		/* the hour field has * or a step */
};

/* The parts of an interval; none is negative. */
struct Period {
	int32 months = 0;
	int32 days = 0;
	int64 microseconds = 0;
};

/* A cron expression; without fields, an interval. */
struct Schedule {
	std::optional<Fields> fields;
	Period period;
};
Schedule read(const std::string &written);
/* The text in quotes, for a message; cut if it is long. */
std::string quoted(const std::string &text);

} // namespace jobqueue::cron
