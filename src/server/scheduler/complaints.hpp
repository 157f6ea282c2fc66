/*
 * complaints.hpp -- what fails is reported once, not at every attempt. C++ region.
 */
#pragma once

#include "pg/clock.hpp"
#include "pg/guard.hpp"

#include <map>

namespace jobqueue::scheduler {

/*
 * A failure is logged when it begins and when its message changes, but at most once a minute for each thing that fails.
 * A lock that another session holds is logged only when it has lasted for ten seconds.
 */
class Complaints {
public:
	/* "what" completes the message "jobqueue could not ...". Its text must live for ever, and so must a topic's. */
	void failed(std::string_view what, const PgError &error);
	void succeeded(std::string_view what) noexcept;
	/* May a message about this topic, a state that can last, be logged now? At most once a minute. */
	bool may_say(std::string_view topic);

private:
	struct Complaint {
		std::string message;
		SteadyTime said_at = at_once, since = at_once;
		bool lasts = false;
	};
	std::map<std::string_view, Complaint> complaints_;
};

} // namespace jobqueue::scheduler
