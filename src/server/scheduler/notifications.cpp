/*
 * notifications.cpp -- see notifications.hpp. C++ region.
 */
#include "server/scheduler/notifications.hpp"

#include "pg/settings.hpp"
#include "shared/positions.hpp"
#include "shared/ring.hpp"

namespace jobqueue::scheduler {

/* The most queues in one transaction. If there are more, the NOTIFY without a queue stands for the rest. */
static constexpr size_t most_queues = 1000;
static constexpr int64 interval_us = 10 * USECS_PER_SEC / 1000;

void Notifications::look_for_news() {
	const auto take = [this](const News &news) {
		switch (news.kind) {
		case AnnouncementKind::sweep:
		case AnnouncementKind::returned:
		case AnnouncementKind::capacity:
			return;
		case AnnouncementKind::tasks:
			queues_.insert(queues_.size() < most_queues ? news.queue : "");
			break;
		case AnnouncementKind::statement:
			queues_.insert("");
			break;
		}
		db_.busy_at = steady_now();
	};
	follow_ring(position_, take, [this] { queues_.insert(""); });
	/* Start positions (positions.hpp) would be lost if the ring went round before they are brought up to date. */
	if (position_ - kept_up_ > ring_size / 4 && keep_positions(MyDatabaseId))
		kept_up_ = position_;
	if (settings::notify_mode != static_cast<int>(NotifyMode::coalesced))
		queues_.clear();
	if (queues_.empty())
		pg_atomic_write_u64(&db_.slot->notified, position_);
}

Progress Notifications::step() {
	if (queues_.empty())
		return Progress::done;
	const bool sent = db_.attempt(name(), [this] {
		for (const std::string &queue : queues_) {
			const char *const payload = queue.c_str();
			guard([payload] { Async_Notify("task_queue", payload); });
		}
	});
	if (!sent)
		return Progress::failed;
	queues_.clear();
	pg_atomic_write_u64(&db_.slot->notified, position_);
	next_ = steady_now() + interval_us;
	return Progress::done;
}

} // namespace jobqueue::scheduler
