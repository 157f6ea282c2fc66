/*
 * throttling.hpp -- the statements about limits of queues, types and groups, and about the tasks that are counted under
 * them. C++ region; needs a Session, throws PgError.
 */
#pragma once

#include "engine/store/batch.hpp"

namespace jobqueue::store {

struct RateSettings {
	int32 limit = 0; /* 0 = none */
	int64 period_us = 0;
	int32 burst = 0;
};
struct QueueSettings {
	std::string queue;
	int32 max_running = 0; /* 0 = no limit, here and below */
	int32 weight = 1;
	int64 aging_us = 0;
	RateSettings rate;
	int32 group_limit = 0;
	bool group_hold_on_retry = true;
	RateSettings group_rate;
	TimestampTz changed_at = 0;
};
/* The settings of queues that are not all defaults, ordered bytewise. */
std::vector<QueueSettings> queue_settings();
struct TypeSettings {
	std::string type;
	/* the queue that its handler keeps to, empty if its role has lost it; none = it has a say in all */
	std::optional<std::string> only_in = {};
	int32 max_running = 0;
	RateSettings rate;
	int32 group_limit = 0;
	TimestampTz changed_at = 0;
};
/* The same for types with a handler. */
std::vector<TypeSettings> type_settings();

/* What alter_queue() is given: a field without value stays; 0 = none. Intervals are Datums. */
struct QueueChange {
	std::string queue;
	std::optional<int32> max_running, weight, rate_limit, rate_burst, group_limit, group_rate_limit, group_rate_burst;
	std::optional<Datum> rate_period, group_rate_period, aging;
	std::optional<bool> group_hold_on_retry;
};
void change_queue(const QueueChange &change);

/* What register_handler() and alter_handler() are given. "replaces": a field without value means none. */
struct TypeChange {
	std::string type;
	std::optional<int32> max_running, rate_limit, rate_burst, group_limit;
	std::optional<Datum> rate_period;
	bool says_nothing() const noexcept {
		return !max_running && !rate_limit && !rate_burst && !group_limit && !rate_period;
	}
};
void change_type(const TypeChange &change, bool replaces);

/* A task that is, or may be, counted under a limit. */
struct CountedTask {
	int64 id;
	std::string queue, type, group;
	bool in_server;
	Oid role; /* of the handler, if it runs the task */
};
/* Which tasks are counted: those of these queues and types, and perhaps those that have a group. */
struct Limited {
	std::vector<std::string> queues, types;
	bool groups;
};
/*
 * The ids of claimed tasks that are counted. Looks at so many at most, those that follow this place in the order of
 * the leases' ends, and moves it on. "last": there are no more.
 */
std::vector<int64> claimed_after(Place &place, int most, const Limited &limited, bool *last);
/* Of these tasks, those that are claimed. */
std::vector<CountedTask> claimed_tasks(std::span<const int64> ids);
/* Of these tasks, those that are claimed. */
std::vector<int64> still_claimed(std::span<const int64> ids);

} // namespace jobqueue::store
