/*
 * housekeeping.hpp -- chores that go over tables and shared memory now and then: they find what nobody announced, and
 * remove what nobody needs. C++ region.
 */
#pragma once

#include "shared/shares.hpp"
#include "server/scheduler/chore.hpp"

namespace jobqueue::scheduler {

/* Tasks that were finished by hand (UPDATE tasks SET status = ...) go to the history. */
class Archive final : public BatchChore {
public:
	explicit Archive(ServedDatabase &database)
		: BatchChore(database, "archive tasks that were finished by hand", Urgency::in_turns, "archive") {}

	void look_for_news() override;

private:
	Progress step() override;

	store::Cursor cursor_; /* of the present pass */
};

/* Failed and cancelled tasks go after jobqueue.failed_retention. */
class FailedRetention final : public BatchChore {
public:
	explicit FailedRetention(ServedDatabase &database)
		: BatchChore(database, "purge failed tasks", Urgency::in_turns, "purge") {}

private:
	Progress step() override;

	store::Cursor cursor_; /* of the present pass */
};

/* Removes unique keys whose period is over: they have no effect any more, but take room. */
class ExpiredKeys final : public BatchChore {
public:
	explicit ExpiredKeys(ServedDatabase &database)
		: BatchChore(database, "remove unique keys whose period is over", Urgency::in_turns,
					 "remove the unique key of") {}

private:
	Progress step() override;
};

/* Corrects the numbers of running tasks that shared memory counts for limits, if tasks began or ended by hand. */
class RunningCounts final : public Chore {
public:
	explicit RunningCounts(ServedDatabase &database) noexcept
		: Chore(database, "count the running tasks", Urgency::in_turns) {}

private:
	Progress step() override;
	void warn_of_room(const Held &held);

	CountCorrection correction_; /* the pass that is under way */
	BatchSize tasks_{100};
};

/* Announces the first task of each queue and priority, since nobody may have done so; some lanes in each step. */
class UnannouncedTasks final : public Chore {
public:
	explicit UnannouncedTasks(ServedDatabase &database) noexcept
		: Chore(database, "look for tasks that nobody announced", Urgency::in_turns) {}

private:
	Progress step() override;

	static constexpr int32 before_all = PG_INT16_MIN - 1;

	bool grouped_ = false; /* the present pass looks at lanes of groups, and has come to this lane */
	std::string queue_;
	int32 priority_ = before_all;
	BatchSize lanes_{1};
};

} // namespace jobqueue::scheduler
