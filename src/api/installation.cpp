/*
 * installation.cpp -- jobqueue.version and adopt, and what CREATE EXTENSION and our views ask about the installation.
 * C++ region; what is given to guard is C.
 */
#include "api/installation.hpp"

#include "api/arguments.hpp"
#include "engine/access.hpp"
#include "engine/store/incarnation.hpp"
#include "engine/store/schedules.hpp"
#include "engine/store/waiting.hpp"
#include "pg/start_pause.hpp"
#include "shared/transaction_notes.hpp"

namespace jobqueue {

void hint_at_preloading() {
	ereport(NOTICE, (errmsg("jobqueue is not preloaded: tasks are queued, but no handler runs"),
					 errhint("Add jobqueue to shared_preload_libraries and restart the server.")));
}

} // namespace jobqueue

JOBQUEUE_FUNCTION(jobqueue_version) {
	return jobqueue::guard([] { return CStringGetTextDatum(JOBQUEUE_VERSION); });
}

JOBQUEUE_FUNCTION(jobqueue_serves_all) {
	using namespace jobqueue;
	return BoolGetDatum(serves_all_by_hand(DatumGetObjectId(Arguments(fcinfo).datum(0)), function_owner(fcinfo)));
}

JOBQUEUE_FUNCTION(jobqueue_installed) {
	using namespace jobqueue;
	guard([] {
		if (shared() != nullptr) {
			note_configuration();
			return;
		}
		/* CREATE EXTENSION silences notices while it runs a script. */
		const int level = client_min_messages;
		client_min_messages = level == WARNING ? NOTICE : level;
		hint_at_preloading();
		client_min_messages = level;
	});
	return 0;
}

namespace jobqueue {

/* Warns of what may hold the database back again. C region. */
static void warn_of_causes(bool replicated) {
	if (replicated)
		ereport(
			WARNING,
			(errmsg("a subscription brings tasks into this database"),
			 errdetail("Workers change these tasks, and the subscription then does not find the rows that it expects."),
			 errhint("Drop the subscription, or remove jobqueue.tasks from it.")));
	if (start_paused_by() != nullptr)
		ereport(NOTICE, (errmsg("the next start of the server pauses this database again: %s", start_paused_by())));
}

} // namespace jobqueue

JOBQUEUE_FUNCTION(jobqueue_adopt) {
	using namespace jobqueue;
	const Session session(function_owner(fcinfo));
	const bool replicated = store::is_replicated();
	const bool adopted = store::adopt();
	if (adopted)
		guard([replicated] { warn_of_causes(replicated); });
	if (store::adopt_schedules() == 0 && !adopted)
		return BoolGetDatum(false);
	store::index_waiting();
	guard(note_everything);
	return BoolGetDatum(true);
}
