/*
 * queues.cpp -- jobqueue.pause_queue, resume_queue, alter_queue. C++ region.
 */
#include "api/arguments.hpp"
#include "engine/access.hpp"
#include "engine/store/pauses.hpp"
#include "engine/store/throttling.hpp"
#include "shared/transaction_notes.hpp"

JOBQUEUE_FUNCTION(jobqueue_pause_queue) {
	using namespace jobqueue;
	const std::optional<std::string> queue = Arguments(fcinfo).optional_queue(0);
	require(managers_queues(fcinfo), queue);
	guard(note_configuration);
	const Session session(function_owner(fcinfo));
	return BoolGetDatum(store::pause(queue));
}

JOBQUEUE_FUNCTION(jobqueue_resume_queue) {
	using namespace jobqueue;
	const std::optional<std::string> queue = Arguments(fcinfo).optional_queue(0);
	require(managers_queues(fcinfo), queue);
	guard(note_configuration);
	const Session session(function_owner(fcinfo));
	return BoolGetDatum(store::resume(queue));
}

JOBQUEUE_FUNCTION(jobqueue_alter_queue) {
	using namespace jobqueue;
	const Arguments arguments(fcinfo);
	constexpr int32 highest_weight = 1000;
	arguments.require(0, "queue");
	store::QueueChange change;
	change.queue = *arguments.optional_queue(0);
	change.max_running = arguments.optional_limit(1, "max_running");
	change.weight = arguments.optional_limit(2, "weight", highest_weight);
	change.rate_limit = arguments.optional_limit(3, "rate_limit");
	change.rate_period = arguments.optional_period(4, "rate_period");
	change.rate_burst = arguments.optional_limit(5, "rate_burst");
	change.group_limit = arguments.optional_limit(6, "group_limit");
	if (!arguments.is_null(7))
		change.group_hold_on_retry = DatumGetBool(arguments.datum(7));
	change.group_rate_limit = arguments.optional_limit(8, "group_rate_limit");
	change.group_rate_period = arguments.optional_period(9, "group_rate_period");
	change.group_rate_burst = arguments.optional_limit(10, "group_rate_burst");
	change.aging = arguments.optional_period(11, "aging");
	require(managers_queues(fcinfo), change.queue);
	guard(note_configuration);
	const Session session(function_owner(fcinfo));
	store::change_queue(change);
	return 0;
}
