/*
 * cron_reader.cpp -- see cron_reader.hpp. C++ region.
 */
#include "engine/cron_reader.hpp"

#include "engine/store/bounds.hpp"

namespace jobqueue::cron {

std::string quoted(const std::string &text) {
	constexpr int longest_quote = 60;
	const int length =
		guard([&text] { return pg_mbcliplen(text.data(), static_cast<int>(text.size()), longest_quote); });
	return "\"" + text.substr(0, static_cast<size_t>(length)) +
		   (static_cast<size_t>(length) < text.size() ? "...\"" : "\"");
}

namespace {

struct FieldKind {
	const char *name;
	int low, high;
	const char *names; /* three letters each, from "low" on; null = none */
};
constexpr FieldKind second_field = {"second", 0, 59, nullptr}, minute_field = {"minute", 0, 59, nullptr},
					hour_field = {"hour", 0, 23, nullptr}, day_field = {"day-of-month", 1, 31, nullptr},
					month_field = {"month", 1, 12, "janfebmaraprmayjunjulaugsepoctnovdec"},
					weekday_field = {"day-of-week", 0, 7, "sunmontuewedthufrisat"};

struct Token {
	std::string text;
	size_t position; /* in the whole text, from 0 */
};

[[noreturn]] void refuse(const FieldKind &kind, const Token &token, const std::string &problem,
						 const std::string &hint = {}) {
	throw Error(ERRCODE_INVALID_PARAMETER_VALUE,
				std::string("invalid cron expression: ") + kind.name + " field: " + quoted(token.text) +
					" at position " + std::to_string(token.position + 1) + " " + problem,
				hint);
}

char lower(char c) noexcept {
	return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

bool is_digit(char c) noexcept {
	return c >= '0' && c <= '9';
}

bool is_letter(char c) noexcept {
	return lower(c) >= 'a' && lower(c) <= 'z';
}

bool is_blank(char c) noexcept {
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

bool is_number(const std::string &text) {
	return !text.empty() && text.size() <= 9 && std::all_of(text.begin(), text.end(), is_digit);
}

Token part(const Token &token, size_t from, size_t length = std::string::npos) {
	return {token.text.substr(from, length), token.position + from};
}

std::string range_of(const FieldKind &kind) {
	return std::to_string(kind.low) + " to " + std::to_string(kind.high);
}

int read_value(const FieldKind &kind, const Token &token) {
	if (is_number(token.text)) {
		const int value = std::stoi(token.text);
		if (value < kind.low || value > kind.high)
			refuse(kind, token, "is out of range, " + range_of(kind));
		return value;
	}
	if (kind.names != nullptr && token.text.size() == 3) {
		const std::string_view names = kind.names;
		std::string name = token.text;
		std::transform(name.begin(), name.end(), name.begin(), lower);
		for (size_t i = 0; i * 3 < names.size(); i++)
			if (names.substr(i * 3, 3) == name)
				return kind.low + static_cast<int>(i);
	}
	refuse(kind, token,
		   std::string("is not a number") + (kind.names ? " or the first three letters of a name" : "") + ", " +
			   range_of(kind));
}

int read_number(const FieldKind &kind, const Token &token, int low, int high, const char *what) {
	if (!is_number(token.text) || std::stoi(token.text) < low || std::stoi(token.text) > high)
		refuse(kind, token, std::string("is not ") + what + ", " + std::to_string(low) + " to " + std::to_string(high));
	return std::stoi(token.text);
}

/* L, $, L-3 in the day-of-month field. */
bool read_last_day(Fields &fields, const Token &item) {
	const bool last = item.text == "$" || item.text == "L" || item.text == "l";
	if (!last && !(item.text.size() > 1 && lower(item.text[0]) == 'l' && item.text[1] == '-'))
		return false;
	const int before = last ? 0 : read_number(day_field, part(item, 2), 1, 30, "a number of days before the last");
	fields.from_end |= 1U << before;
	return true;
}

/* 5#3, fri#L, 5L in the day-of-week field. */
bool read_nth_weekday(Fields &fields, const Token &item) {
	const size_t mark = item.text.find('#');
	const bool last = mark == std::string::npos && lower(item.text.back()) == 'l';
	if (mark == std::string::npos && !last)
		return false;
	if (item.text.size() == 1)
		refuse(weekday_field, item, "does not say which weekday", "The last Friday of the month is 5L.");
	if (mark == 0 || mark == item.text.size() - 1)
		refuse(weekday_field, item, "has no value on one side of the #");
	const int weekday = read_value(weekday_field, part(item, 0, last ? item.text.size() - 1 : mark)) % 7;
	const Token which = part(item, last ? item.text.size() - 1 : mark + 1);
	const bool is_last = which.text == "L" || which.text == "l";
	fields.nth[static_cast<size_t>(weekday)] |=
		1U << (is_last ? 0 : read_number(weekday_field, which, 1, 5, "the number of a weekday in a month"));
	return true;
}

/* Reads one of the parts between commas, as a set. */
uint64 read_item(const FieldKind &kind, const Token &item) {
	const size_t slash = item.text.find('/');
	const Token base = part(item, 0, slash);
	int low = kind.low, high = kind.high;
	if (base.text.empty())
		refuse(kind, item, "has no value before the /");
	const size_t dash = base.text.find('-');
	if (dash == 0 || dash == base.text.size() - 1)
		refuse(kind, base, "is an incomplete range");
	if (base.text == "*" || (base.text == "?" && (&kind == &day_field || &kind == &weekday_field))) {
		high -= &kind == &weekday_field;
	} else if (dash != std::string::npos) {
		low = read_value(kind, part(base, 0, dash));
		high = read_value(kind, part(base, dash + 1));
		if (&kind == &weekday_field && high == 0 && low > 0)
			high = 7; /* fri-sun */
		if (low > high && &kind == &weekday_field && low == 7)
			refuse(kind, base, "ends before it begins",
				   "Here Sunday is 0: write it as 0-" + std::to_string(high) + ".");
		if (low > high)
			refuse(kind, base, "ends before it begins",
				   "Write it as two ranges: " + std::to_string(low) + "-" +
					   std::to_string(&kind == &weekday_field ? 6 : kind.high) + "," + std::to_string(kind.low) + "-" +
					   std::to_string(high));
	} else {
		low = read_value(kind, base);
		if (slash == std::string::npos)
			high = low;
		else
			high -= &kind == &weekday_field && low < 7;
	}
	int step = 1;
	if (slash != std::string::npos) {
		const Token given = part(item, slash + 1);
		if (given.text.empty())
			refuse(kind, item, "has no value after the /");
		if (is_number(given.text) && std::stoi(given.text) > kind.high - kind.low + 1)
			refuse(
				kind, given, "is a step longer than the field",
				"Steps start again with each hour, day, month or year. Use an interval instead, such as '90 minutes'.");
		step = read_number(kind, given, 1, kind.high - kind.low + 1, "a step");
	}
	uint64 set = 0;
	for (int value = low; value <= high; value += step)
		set |= UINT64CONST(1) << value;
	return set;
}

uint64 read_field(const FieldKind &kind, const Token &field, Fields &fields) {
	uint64 set = 0;
	for (size_t from = 0;; from = field.text.find(',', from) + 1) {
		const size_t comma = field.text.find(',', from);
		const Token item = part(field, from, comma == std::string::npos ? comma : comma - from);
		if (item.text.empty())
			refuse(kind, field, "has an empty item in its list");
		if (&kind == &day_field && (item.text == "W" || lower(item.text.back()) == 'w'))
			refuse(kind, item, "uses W (the nearest weekday), which is not supported");
		if (!(&kind == &day_field && read_last_day(fields, item)) &&
			!(&kind == &weekday_field && read_nth_weekday(fields, item)))
			set |= read_item(kind, item);
		if (comma == std::string::npos)
			return set;
	}
}

std::vector<Token> split(const std::string &text) {
	std::vector<Token> tokens;
	for (size_t i = 0; i < text.size();) {
		if (is_blank(text[i])) {
			i++;
			continue;
		}
		const size_t from = i;
		while (i < text.size() && !is_blank(text[i]))
			i++;
		tokens.push_back({text.substr(from, i - from), from});
	}
	return tokens;
}

Fields read_fields(const std::vector<Token> &tokens) {
	if (tokens.size() != 5 && tokens.size() != 6)
		throw Error(
			ERRCODE_INVALID_PARAMETER_VALUE,
			"invalid cron expression: it has " + std::to_string(tokens.size()) + " field" +
				(tokens.size() == 1 ? "" : "s") + " instead of five or six" +
				(tokens.size() > 6 ? ", the seventh is " + quoted(tokens[6].text) + " at position " +
										 std::to_string(tokens[6].position + 1)
								   : ""),
			"The fields are: [second] minute hour day-of-month month day-of-week. An interval such as '90 seconds', or "
			"@hourly, @daily, @weekly, @monthly, @yearly, is also possible.");
	const Token *token = tokens.data();
	Fields fields;
	if (tokens.size() == 6)
		fields.seconds = read_field(second_field, *token++, fields);
	const auto begins_with_star = [](const Token &field) { return field.text[0] == '*' || field.text[0] == '?'; };
	fields.minutes = read_field(minute_field, *token++, fields);
	fields.hours_pass = token->text.find_first_of("*/") != std::string::npos;
	fields.hours = static_cast<uint32>(read_field(hour_field, *token++, fields));
	fields.any_day = begins_with_star(*token);
	fields.days = static_cast<uint32>(read_field(day_field, *token++, fields));
	fields.months = static_cast<uint32>(read_field(month_field, *token++, fields));
	fields.any_weekday = begins_with_star(*token);
	const uint64 weekdays = read_field(weekday_field, *token, fields);
	fields.weekdays = static_cast<uint32>((weekdays | weekdays >> 7) & 0x7f); /* 7 is Sunday, too */
	return fields;
}

std::optional<const char *> expand(const std::string &name) {
	constexpr std::pair<std::string_view, const char *> names[] = {
		{"@yearly", "0 0 1 1 *"}, {"@annually", "0 0 1 1 *"}, {"@monthly", "0 0 1 * *"}, {"@weekly", "0 0 * * 0"},
		{"@daily", "0 0 * * *"},  {"@midnight", "0 0 * * *"}, {"@hourly", "0 * * * *"},
	};
	std::string known = name;
	std::transform(known.begin(), known.end(), known.begin(), lower);
	for (const auto &[spelling, fields] : names)
		if (spelling == known)
			return fields;
	return std::nullopt;
}

/* Is this meant as an interval, "90 seconds", "1 day 02:00", "PT5M"? */
bool looks_like_interval(const std::string &text, const std::vector<Token> &tokens) {
	if (text.find_first_of("*?#/,") != std::string::npos)
		return false;
	const std::string &first = tokens[0].text;
	if (!is_digit(first[0]) && first[0] != '-' && first[0] != '+' && first[0] != '.' && lower(first[0]) != 'p')
		return false;
	return text.find(':') != std::string::npos || std::any_of(first.begin(), first.end(), is_letter) ||
		   (tokens.size() > 1 && is_letter(tokens[1].text[0]));
}

Period read_period(const std::string &text) {
	const char *const given = text.c_str();
	Interval interval;
	try {
		interval = guard([given] {
			return *DatumGetIntervalP(DirectFunctionCall3(interval_in, CStringGetDatum(given),
														  ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
		});
	} catch (const PgError &) {
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE,
					"invalid schedule: " + quoted(text) + " is neither a cron expression nor an interval",
					"A cron expression has five or six fields: [second] minute hour day-of-month month day-of-week.");
	}
	constexpr int32 most_years = 1000;
	constexpr int32 most_days = most_years * 366;
	if (interval.month < 0 || interval.day < 0 || interval.time < 0 ||
		(interval.month == 0 && interval.day == 0 && interval.time < USECS_PER_SEC))
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "invalid schedule: the interval " + quoted(text) +
														 " must be at least one second, without negative parts");
	if (interval.month > most_years * 12 || interval.day > most_days || interval.time > most_days * USECS_PER_DAY)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "invalid schedule: the interval " + quoted(text) +
														 " is longer than " + std::to_string(most_years) + " years");
	return {interval.month, interval.day, interval.time};
}

bool equal_names(const std::string &given, std::string_view name) noexcept {
	return std::equal(given.begin(), given.end(), name.begin(), name.end(),
					  [](char a, char b) { return lower(a) == b; });
}

} // namespace

Schedule read(const std::string &written) {
	if (written.size() > bounds::cron)
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE,
					"invalid cron expression: it is longer than " + std::to_string(bounds::cron) + " bytes");
	std::vector<Token> tokens = split(written);
	if (tokens.empty())
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "invalid cron expression: it is empty");
	const std::string beginning = tokens[0].text.substr(0, tokens[0].text.find('='));
	if (beginning.size() < tokens[0].text.size() && (equal_names(beginning, "cron_tz") || equal_names(beginning, "tz")))
		throw Error(ERRCODE_INVALID_PARAMETER_VALUE,
					"invalid cron expression: " + quoted(beginning + "=") + " at position " +
						std::to_string(tokens[0].position + 1) + " is not supported",
					"Pass the time zone as the argument time_zone instead.");
	if (tokens[0].text[0] == '@') {
		const std::optional<const char *> fields = expand(tokens[0].text);
		const std::string where =
			quoted(tokens[0].text) + " at position " + std::to_string(tokens[0].position + 1) + " ";
		std::string name = tokens[0].text;
		std::transform(name.begin(), name.end(), name.begin(), lower);
		if (name == "@reboot")
			throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "invalid cron expression: " + where + "is not supported",
						"A schedule cannot depend on the start of the server.");
		if (name == "@every")
			throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "invalid cron expression: " + where + "is not known",
						"Write only the interval, such as '90 seconds'.");
		if (!fields)
			throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "invalid cron expression: " + where + "is not known",
						"Valid names are @hourly, @daily, @midnight, @weekly, @monthly, @yearly and @annually.");
		if (tokens.size() > 1)
			throw Error(ERRCODE_INVALID_PARAMETER_VALUE, "invalid cron expression: " + quoted(tokens[1].text) +
															 " at position " + std::to_string(tokens[1].position + 1) +
															 " follows " + tokens[0].text);
		tokens = split(*fields);
	} else if (looks_like_interval(written, tokens)) {
		return {std::nullopt, read_period(written)};
	}
	return {read_fields(tokens), {}};
}

} // namespace jobqueue::cron
