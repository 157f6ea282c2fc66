/*
 * complaints.cpp -- see complaints.hpp. C++ region.
 */
#include "server/scheduler/complaints.hpp"

namespace jobqueue::scheduler {

static constexpr int64 say_every_us = USECS_PER_MINUTE;
static constexpr int64 locked_for_long_us = 10 * USECS_PER_SEC;

void Complaints::succeeded(std::string_view what) noexcept {
	if (const auto complaint = complaints_.find(what); complaint != complaints_.end())
		complaint->second.lasts = false;
}

bool Complaints::may_say(std::string_view topic) {
	const SteadyTime now = steady_now();
	SteadyTime &said_at = complaints_[topic].said_at;
	if (said_at != at_once && now - said_at < say_every_us)
		return false;
	said_at = now;
	return true;
}

void Complaints::failed(std::string_view what, const PgError &error) {
	const int code = error.sqlerrcode();
	std::string message = error.what();
	const SteadyTime now = steady_now();
	Complaint &complaint = complaints_[what];
	if (!std::exchange(complaint.lasts, true))
		complaint.since = now;
	if (code == ERRCODE_LOCK_NOT_AVAILABLE && now - complaint.since < locked_for_long_us)
		return;
	const bool was_said = complaint.said_at != at_once;
	if (was_said && now - complaint.said_at < say_every_us)
		return;
	if (was_said && complaint.message == message && complaint.said_at >= complaint.since)
		return;
	complaint.said_at = now;
	complaint.message = std::move(message);
	const char *const why = complaint.message.c_str();
	const char *const chore = what.data();
	guard([chore, code, why] {
		ereport(LOG, (errcode(code), errmsg("jobqueue could not %s and will try again: %s", chore, why)));
	});
}

} // namespace jobqueue::scheduler
