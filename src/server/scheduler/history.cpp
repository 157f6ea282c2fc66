/*
 * history.cpp -- see history.hpp. C++ region.
 */
#include "server/scheduler/history.hpp"

#include "engine/store/history.hpp"
#include "pg/settings.hpp"

namespace jobqueue::scheduler {

static constexpr int leaves = 8;
static constexpr int most_in_step = 1000;
/* A time that is ahead of the clock by less than this is accepted: clocks are set a little now and then. */
static constexpr int64 tolerated_step_us = USECS_PER_MINUTE;

Progress History::step() {
	const int64 retention_us = static_cast<int64>(settings::completed_retention_s) * USECS_PER_SEC;
	int leaf = 0; /* to be emptied; 0 = none */
	const bool known = db_.attempt(name(), [&leaf, retention_us] {
		const TimestampTz now = GetCurrentTimestamp();
		const store::Ring ring = store::history_ring();
		if (retention_us == 0)
			leaf = store::occupied_history();
		else if (ring.since > now + tolerated_step_us)
			store::set_history_ring({ring.leaf, now}); /* the clock was set back since */
		else if (time_passed(ring.since, now) >= retention_us / (leaves - 1))
			leaf = ring.leaf % leaves + 1;
	});
	if (held_.leaf != leaf)
		held_ = {.leaf = leaf};
	Progress progress = known ? Progress::done : Progress::failed;
	if (leaf != 0)
		progress = empty(retention_us > 0);
	/* Other processes are told only what is committed. */
	const bool told = db_.attempt("read the history ring", [this] {
		pg_atomic_write_u32(&db_.slot->history_leaf, static_cast<uint32>(store::history_ring().leaf));
	});
	return told ? progress : Progress::failed;
}

/* Empties the leaf; "turn": it is filled from then on. Sessions that read it are left alone for a while. */
Progress History::empty(bool turn) {
	if (!held_.thinning) {
		if (truncate(turn))
			return Progress::done;
		const int64 retention_us = static_cast<int64>(settings::completed_retention_s) * USECS_PER_SEC;
		const int64 patience_us = std::clamp<int64>(retention_us / (leaves - 1), USECS_PER_SEC, USECS_PER_MINUTE);
		const SteadyTime now = steady_now();
		if (held_.since == at_once)
			held_.since = now;
		held_.thinning = now - held_.since >= patience_us;
		if (!held_.thinning)
			return Progress::failed;
		report_holders();
	}
	return thin(turn);
}

/*
 * Does not wait for a lock, because other sessions would queue up behind it. But if one reader follows another, the
 * leaf is never free of locks: then this waits a little, now and then.
 */
bool History::truncate(bool turn) {
	const char *const what = "empty a leaf of the history";
	const int leaf = held_.leaf;
	const SteadyTime now = steady_now();
	const bool patient = held_.since != at_once && now >= held_.next_wait;
	if (patient)
		held_.next_wait = now + longest_retry_us;
	const std::optional<PgError> error = db_.try_in_session([=] {
		if (patient)
			store::empty_history_patiently(leaf);
		else
			store::empty_history(leaf);
		if (turn)
			store::set_history_ring({leaf, GetCurrentTimestamp()});
	});
	if (!error) {
		db_.complaints.succeeded(what);
		held_ = {};
		return true;
	}
	if (error->sqlerrcode() != ERRCODE_LOCK_NOT_AVAILABLE) /* report_holders() reports locks */
		db_.complaints.failed(what, *error);
	return false;
}

/* Removes rows although a session has locked the table: retention is a promise, and readers have no right to rows. */
Progress History::thin(bool turn) {
	const int leaf = held_.leaf;
	store::Thinned thinned = {};
	bool empty = false;
	const bool done = db_.attempt("remove what the history has kept long enough", [&, this] {
		thinned = store::thin_history(leaf, held_.thinned, most_in_step);
		empty = thinned.looked_at < most_in_step && store::history_is_empty(leaf);
		if (empty && turn)
			store::set_history_ring({leaf, GetCurrentTimestamp()});
	});
	if (!done)
		return Progress::failed;
	if (empty) {
		/* Now the leaf's space can be freed, too, unless a session reads it at this moment. */
		(void)db_.try_in_session([leaf] { store::empty_history(leaf); });
		held_ = {};
		return Progress::done;
	}
	const bool at_end = thinned.looked_at < most_in_step; /* what is left is locked */
	held_.thinned = at_end ? 0 : thinned.last;
	return at_end ? Progress::failed : Progress::more;
}

void History::report_holders() {
	const int leaf = held_.leaf;
	std::string holders;
	if (!db_.complaints.may_say("held history") ||
		!db_.attempt("look for those who hold the history", [&] { holders = store::holders_of_history(leaf); }))
		return;
	const char *const who = holders.c_str();
	guard([leaf, who] {
		ereport(LOG, (errmsg("jobqueue removes old tasks from jobqueue.tasks_history_%d one by one, because it cannot "
							 "empty the table at once",
							 leaf),
					  errdetail("It is locked by %s.", who)));
	});
}

} // namespace jobqueue::scheduler
