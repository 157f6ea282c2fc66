/*
 * housekeeping.cpp -- see housekeeping.hpp. C++ region.
 */
#include "server/scheduler/housekeeping.hpp"

#include "engine/outcome.hpp"
#include "engine/store/history.hpp"
#include "engine/store/lanes.hpp"
#include "engine/store/unique_keys.hpp"
#include "pg/settings.hpp"
#include "shared/ring.hpp"
#include "shared/running_tasks.hpp"
#include "shared/wake_ups.hpp"

namespace jobqueue::scheduler {

void Archive::look_for_news() {
	if (pg_atomic_read_u32(&db_.slot->by_hand) != 0)
		ask();
}

Progress Archive::step() {
	if (cursor_.is_at_start()) /* news of later are for the next pass */
		pg_atomic_write_u32(&db_.slot->by_hand, 0);
	const Progress progress = pass_step(cursor_, store::finished,
										[](std::span<const int64> ids) { return store::archive(ids, history_leaf()); });
	if (progress == Progress::done)
		look_for_news(); /* what was committed during the pass may be behind its cursor */
	return progress;
}

Progress FailedRetention::step() {
	if (settings::failed_retention_s < 0) {
		aside_.clear();
		return Progress::done;
	}
	const TimestampTz now = GetCurrentTimestamp();
	const TimestampTz before = now - static_cast<int64>(settings::failed_retention_s) * USECS_PER_SEC;
	return pass_step(
		cursor_,
		[before](const store::Cursor &cursor, const store::Batch &rows) {
			return store::purgeable(cursor, before, rows);
		},
		[before](std::span<const int64> ids) { return store::purge(ids, before); });
}

Progress ExpiredKeys::step() {
	return batch_step(store::remove_expired_keys, store::expired_keys);
}

Progress RunningCounts::step() {
	const SteadyTime began = steady_now();
	const int most = tasks_.get();
	bool more = false;
	const bool done = db_.attempt(name(), [&, this] {
		db_.conditions.throttling.make_ready(db_.slot, db_.conditions.configuration, nullptr);
		more = db_.conditions.throttling.correct_counts(correction_, most);
	});
	if (!done) {
		correction_ = {};
		return Progress::failed;
	}
	tasks_.took(steady_now() - began, more);
	pass_.worked_since(began);
	if (more)
		return Progress::more;
	pass_.end();
	if (Held held; was_without_room(&held))
		warn_of_room(held);
	return Progress::done;
}

void RunningCounts::warn_of_room(const Held &held) {
	if (!db_.complaints.may_say("room to count running tasks"))
		return;
	guard([&held] {
		ereport(WARNING,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("jobqueue has no space in shared memory to count more running tasks or rates"),
				 errdetail("Tasks of groups, and of limited queues and types, wait until others have ended. In queue "
						   "\"%s\", %d running tasks and %d names are counted for the role with OID %u.",
						   held.queue, held.held[0], held.held[1], held.holder.role),
				 errhint("See jobqueue.shared_capacity.")));
	});
}

static void announce_head(const store::LaneHead &head) {
	if (head.lane.queue.size() >= queue_name_size)
		return;
	News news = {};
	news.kind = AnnouncementKind::sweep;
	news.database = MyDatabaseId;
	news.priority = head.lane.priority;
	news.grouped = head.lane.grouped;
	news.ids = {head.id, PG_INT64_MAX};
	news.queue_hash = hash_name(head.lane.queue);
	memcpy(news.queue, head.lane.queue.data(), head.lane.queue.size());
	announce(news);
}

Progress UnannouncedTasks::step() {
	const SteadyTime began = steady_now();
	const int most = lanes_.get();
	bool more = false;
	const bool done = db_.attempt(name(), [&, this] {
		const std::vector<store::LaneHead> heads = store::lane_heads(grouped_, queue_, priority_, most);
		for (const store::LaneHead &head : heads)
			announce_head(head);
		more = heads.size() == static_cast<size_t>(most);
		if (more) {
			queue_ = heads.back().lane.queue;
			priority_ = heads.back().lane.priority;
		}
	});
	if (!done)
		return Progress::failed;
	lanes_.took(steady_now() - began, more);
	pass_.worked_since(began);
	if (more)
		return Progress::more;
	queue_.clear();
	priority_ = before_all;
	grouped_ = !grouped_;
	if (grouped_)
		return Progress::more;
	wake_workers(MyDatabaseId, 0);
	pass_.end();
	return Progress::done;
}

} // namespace jobqueue::scheduler
