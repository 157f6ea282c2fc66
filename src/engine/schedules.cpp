/*
 * schedules.cpp -- see schedules.hpp. C++ region.
 */
#include "engine/schedules.hpp"

#include "engine/access.hpp"
#include "engine/cron.hpp"
#include "engine/sql_command.hpp"
#include "engine/store/adding.hpp"
#include "engine/store/firing.hpp"
#include "engine/store/handlers.hpp"
#include "engine/store/quotas.hpp"
#include "engine/store/waiting.hpp"
#include "pg/transaction.hpp"
#include "shared/transaction_notes.hpp"

namespace jobqueue {

static constexpr int64 shortest_retry_us = USECS_PER_SEC;
static constexpr int64 longest_retry_us = 10 * USECS_PER_SEC;
static constexpr int64 after_lock_us = 100 * USECS_PER_SEC / 1000;
/* A step is in one transaction, and everything else of the database waits for it. */
static constexpr int64 longest_step_us = 10 * USECS_PER_SEC / 1000;
/* But a step does so many, however slow the machine is. */
static constexpr int least_in_step = 10;
static constexpr int64 most_times = 100;
/* How many waiting tasks of a role are counted in a step. */
static constexpr int64 most_counted = 10000;
/* How many schedules whose rows cannot be changed are remembered. */
static constexpr size_t most_stuck = 1000;
static constexpr int64 longest_stuck_us = USECS_PER_MINUTE;
/* Lines in the log about a role's schedules: last_error has the rest. */
static constexpr int most_lines = 3;
static constexpr int64 most_lines_for_us = USECS_PER_MINUTE;

/* The times at which a schedule must fire now; its policy decides about missed times. Moves next_run_at on. */
static std::vector<TimestampTz> take_times(store::Schedule &schedule, TimestampTz now, TimestampTz served_since) {
	const cron::Expression expression(schedule.cron);
	const cron::Zone zone(schedule.time_zone);
	if (TIMESTAMP_NOT_FINITE(*schedule.next_run_at) || TIMESTAMP_NOT_FINITE(schedule.anchor))
		throw Error(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE, "next_run_at and anchor must be finite");
	/* Uses the expression and the zone as they are now: the row, or the zone's rules, may have changed since. */
	const TimestampTz after = *schedule.next_run_at - 1;
	const TimestampTz missed_before =
		std::max({std::min(served_since, now), now - misfire_tolerance_us, *schedule.next_run_at});
	const size_t limit = schedule.on_misfire == "all"	 ? static_cast<size_t>(schedule.misfire_limit)
						 : schedule.on_misfire == "once" ? 1
														 : 0;
	std::vector<TimestampTz> times = expression.latest(after, missed_before, limit, zone, schedule.anchor);
	schedule.next_run_at = expression.next(missed_before - 1, zone, schedule.anchor);
	while (schedule.next_run_at && *schedule.next_run_at <= now) {
		times.push_back(*schedule.next_run_at);
		schedule.next_run_at = expression.next(*schedule.next_run_at, zone, schedule.anchor);
	}
	return times;
}

/* A schedule does not follow a role that was renamed: a dump keeps only the name. */
[[noreturn]] static void refuse_lost_role(const store::Schedule &schedule) {
	const Oid role = schedule.role_then;
	const char *const now = guard([role] { return OidIsValid(role) ? GetUserNameFromId(role, true) : nullptr; });
	const std::string name = "its role \"" + schedule.created_by + "\"";
	if (now == nullptr)
		throw Error(ERRCODE_UNDEFINED_OBJECT, name + " no longer exists");
	throw Error(ERRCODE_UNDEFINED_OBJECT,
				name + " no longer exists: it was renamed to \"" + now + "\" ; create the schedule again as that role");
}

/* What a step has read of roles, types and limits. */
class Schedules::Rights {
public:
	Rights(Oid owner, Schedules &schedules) : owner_(owner), schedules_(schedules) {}
	/* The queues to which a role may add tasks now. */
	const Queues &of(Oid role) {
		const auto known = queues_.find(role);
		return known != queues_.end() ? known->second
									  : queues_.emplace(role, queues_of_schedules(role, owner_)).first->second;
	}
	/* Throws if the schedule's role may not add the tasks now. Returns how many may be added, at least one. */
	int64 check(const store::Schedule &schedule) {
		if (!OidIsValid(schedule.role))
			refuse_lost_role(schedule);
		if (!schedule.has_command) {
			const Queues &allowed = of(schedule.role);
			if (!types_ && !allowed.all)
				types_ = store::handled_types();
			if (!allowed.all)
				require_type(allowed, *types_, schedule.type);
			if (schedule.queue)
				require(allowed, schedule.queue);
		}
		if (is_unrestricted(schedule.role, owner_))
			return PG_INT32_MAX;
		if (!quotas_)
			quotas_ = store::quotas();
		for (const store::Quota &quota : *quotas_) {
			if (!quota.max_queued || quota.role != schedule.created_by)
				continue;
			if (counted_.insert(schedule.created_by).second)
				schedules_.count_waiting(schedule.created_by, *quota.max_queued);
			const Role &role = schedules_.roles_[schedule.created_by];
			if (!role.counted) /* they will be soon */
				throw Error(ERRCODE_LOCK_NOT_AVAILABLE, "the tasks of its role are being counted");
			const int64 room = *quota.max_queued - role.waiting;
			if (room <= 0)
				throw Error(ERRCODE_PROGRAM_LIMIT_EXCEEDED,
							"its role has too many waiting tasks (jobqueue.limit_role)");
			return room;
		}
		return PG_INT32_MAX;
	}

	void added(const store::Schedule &schedule) {
		schedules_.added_++;
		const auto role = schedules_.roles_.find(schedule.created_by);
		if (role != schedules_.roles_.end())
			role->second.waiting++;
	}

private:
	const Oid owner_;
	Schedules &schedules_;
	std::set<std::string> counted_; /* roles, in this step */
	std::map<Oid, Queues> queues_;
	std::optional<std::vector<store::HandledType>> types_;
	std::optional<std::vector<store::Quota>> quotas_;
};

/* The right of the schedule's role has been checked. */
static void add_command(store::Schedule &schedule, TimestampTz scheduled_for) {
	NewSqlTask task = {schedule.role, *schedule.command};
	task.queue = schedule.queue.value_or(task.queue);
	task.run_at = scheduled_for;
	task.timeout = schedule.timeout;
	task.metadata = store::firing_metadata(schedule.name, scheduled_for);
	schedule.last_task_id = add_sql_task(task).id;
}

static void add_task(store::Schedule &schedule, TimestampTz scheduled_for, const Queues &allowed) {
	store::NewTask task;
	task.type = schedule.type;
	task.queue = schedule.queue;
	task.own_queues = allowed.names;
	task.priority = schedule.priority;
	task.run_at = scheduled_for;
	task.timeout = schedule.timeout;
	task.metadata = store::firing_metadata(schedule.name, scheduled_for);
	task.created_by = schedule.created_by;
	const store::Added added = store::insert(task, schedule.payload);
	require(allowed, added.queue);
	guard([&] { note_task(added.queue, task.priority, added.id, task.type, {}); });
	schedule.last_task_id = added.id;
}

/*
 * Counts how many of a role's tasks wait: some of them in each step until all are counted, and then again. The number
 * is not known before the first count has ended. Tasks that schedules add meanwhile are added to it; what others do
 * shows with the next count.
 */
void Schedules::count_waiting(const std::string &name, int64 limit) {
	Role &role = roles_[name];
	const store::Counted some = store::count_waiting_after(name, role.counted_to, most_counted);
	role.counting += some.count;
	role.counted_to = some.last_id;
	if (some.all || role.counting >= limit) {
		role.waiting = std::exchange(role.counting, 0);
		role.counted_to = PG_INT64_MIN;
		role.counted = true;
	}
}

/* Adds the tasks of a locked schedule whose times have come, or those that were held back. */
void Schedules::fire_one(store::Schedule &schedule, TimestampTz now, TimestampTz served_since, Rights &rights) {
	std::vector<TimestampTz> times;
	if (schedule.next_run_at && *schedule.next_run_at <= now)
		times = take_times(schedule, now, served_since);
	if (schedule.on_overlap == "queue" || !schedule.held.empty()) {
		schedule.held.insert(schedule.held.end(), times.begin(), times.end());
		times.clear();
		if (!schedule.busy && !schedule.held.empty()) {
			times.push_back(schedule.held.front());
			schedule.held.erase(schedule.held.begin());
		}
		const auto limit = static_cast<size_t>(schedule.misfire_limit);
		if (schedule.held.size() > limit)
			schedule.held.erase(schedule.held.begin(), schedule.held.end() - static_cast<ptrdiff_t>(limit));
	} else if (schedule.on_overlap == "skip" && !times.empty()) {
		/* the times that follow overlap the first one */
		times.erase(times.begin() + (schedule.busy ? 0 : 1), times.end());
	}
	if (!times.empty()) {
		const auto most = static_cast<size_t>(std::min(rights.check(schedule), most_times));
		if (times.size() > most) { /* the other times are still due */
			schedule.next_run_at = times[most];
			times.resize(most);
		}
		store::fetch_contents(schedule);
		for (const TimestampTz time : times) {
			if (schedule.has_command)
				add_command(schedule, time);
			else
				add_task(schedule, time, rights.of(schedule.role));
			rights.added(schedule);
			schedule.last_run_at = time;
			schedule.busy = true;
		}
	}
	store::put_firing(schedule);
}

/* The roles in turn, beginning with the one after which the latest step ended: each has the first place once. */
static std::vector<std::string> in_turn(const std::set<std::string> &roles, const std::string &last, size_t most) {
	std::vector<std::string> ordered(roles.upper_bound(last), roles.end());
	ordered.insert(ordered.end(), roles.begin(), roles.upper_bound(last));
	if (ordered.size() > most)
		ordered.resize(most);
	return ordered;
}

/* Reads the next page of names for each role, and notes where it goes on. True if one of the pages was full. */
template <typename Pages>
bool Schedules::turn_pages(const std::vector<std::string> &roles, std::string Role::*place, Pages &&pages, int each,
						   std::vector<std::string> &names) {
	std::vector<std::string> after;
	for (const std::string &role : roles)
		after.push_back(roles_[role].*place);
	std::map<std::string, int> seen;
	std::map<std::string, std::string> last;
	if (!roles.empty())
		for (store::ScheduleName &one : pages(roles, after, each)) {
			seen[one.role]++;
			last[one.role] = one.name;
			if (one.ready)
				names.push_back(std::move(one.name));
		}
	bool full = false;
	for (const std::string &role : roles) {
		const bool more = seen[role] == each;
		roles_[role].*place = more ? last[role] : std::string();
		full |= more;
	}
	return full;
}

void Schedules::time_was_announced(TimestampTz at) noexcept {
	for (auto &[name, role] : roles_)
		role.from = std::min(role.from, at);
}

/* The roles with schedules that have not failed, and when the first of each is due. */
std::vector<store::DueRole> Schedules::roles_due(std::span<const std::string> but) {
	std::vector<store::DueRole> roles;
	for (std::string &name : store::roles_with_schedules()) {
		const TimestampTz from = roles_[name].from;
		roles.push_back({std::move(name), from});
	}
	roles = store::roles_due(roles, but);
	if (but.empty())
		for (const store::DueRole &role : roles)
			roles_[role.role].from = role.from;
	return roles;
}

/* The schedules to fire now, as many as a step can do; the first ones of every role come first. */
std::vector<store::Schedule> Schedules::take(TimestampTz now, int count, bool &more) {
	const SteadyTime steady = steady_now();
	std::map<std::string, TimestampTz> due;
	std::set<std::string> failing, all;
	const std::vector<std::string> but = stuck(steady);
	const auto is_stuck = [&but](const std::string &name) { return std::binary_search(but.begin(), but.end(), name); };
	for (const store::DueRole &one : roles_due(but))
		if (one.from <= now && roles_[one.role].locked_until <= steady)
			due[one.role] = one.from;
	for (const std::string &role : store::roles_failing())
		if (roles_[role].retry_at <= steady)
			failing.insert(role);
	const std::vector<std::string> found = store::roles_holding();
	const std::set<std::string> holding(found.begin(), found.end());
	for (const auto &[role, from] : due)
		all.insert(role);
	all.insert(failing.begin(), failing.end());
	all.insert(holding.begin(), holding.end());
	const std::vector<std::string> roles = in_turn(all, last_role_, static_cast<size_t>(count));
	if (roles.empty())
		return {};
	const int each = std::max(1, count / static_cast<int>(roles.size()));
	more = roles.size() < all.size();

	const auto among = [&roles](const auto &some) {
		std::vector<std::string> names;
		for (const std::string &role : roles)
			if (some.contains(role))
				names.push_back(role);
		return names;
	};
	std::vector<store::Schedule> taken;
	std::vector<store::DueRole> due_now;
	for (const std::string &role : among(due))
		due_now.push_back({role, due[role]});
	if (!due_now.empty())
		taken = store::lock_due_schedules(due_now, now, each, but);
	std::map<std::string, int> of_role;
	for (const store::Schedule &schedule : taken)
		more |= ++of_role[schedule.created_by] == each;
	std::vector<std::string> names;
	more |= turn_pages(among(holding), &Role::held_after, store::holding_schedules, each, names);
	turn_pages(among(failing), &Role::failing_after, store::failing_schedules, each, names);
	std::erase_if(names, [&](const std::string &name) {
		return is_stuck(name) ||
			   std::any_of(taken.begin(), taken.end(), [&name](const auto &one) { return one.name == name; });
	});
	if (!names.empty())
		for (store::Schedule &schedule : store::lock_schedules(names))
			taken.push_back(std::move(schedule));

	of_role.clear();
	std::map<std::string, size_t> place;
	for (size_t i = 0; i < roles.size(); i++)
		place[roles[i]] = i;
	std::vector<std::pair<std::pair<int, size_t>, size_t>> order;
	for (size_t i = 0; i < taken.size(); i++)
		order.push_back({{of_role[taken[i].created_by]++, place[taken[i].created_by]}, i});
	std::sort(order.begin(), order.end());
	std::vector<store::Schedule> ordered;
	for (const auto &[rank, i] : order)
		ordered.push_back(std::move(taken[i]));
	return ordered;
}

/* The schedules that are passed over now, in order. */
std::vector<std::string> Schedules::stuck(SteadyTime now) const {
	std::vector<std::string> names;
	for (const auto &[name, backoff] : stuck_)
		if (now < backoff.not_before())
			names.push_back(name);
	return names;
}

/* A role's schedules that fail are tried again together, after longer and longer delays. */
void Schedules::put_off(Role &role, SteadyTime now) {
	role.delay_us = std::clamp(role.delay_us * 2, shortest_retry_us, longest_retry_us);
	role.retry_at = now + role.delay_us;
}

void Schedules::report(const store::Schedule &schedule, Oid owner, const std::string &problem, int code) {
	Role &role = roles_[schedule.created_by];
	const SteadyTime now = steady_now();
	if (now - role.said_at > most_lines_for_us) {
		role.lines = 0;
		role.said_at = now;
	}
	bool is_news = false, is_stuck = false;
	try {
		in_subtransaction([&] {
			const Session session(owner);
			is_news = store::put_schedule_error(schedule.name, problem);
		});
	} catch (...) { /* the problem is that the schedule's row cannot be changed */
		is_stuck = true;
	}
	if (is_stuck && (stuck_.size() < most_stuck || stuck_.contains(schedule.name))) {
		const auto [place, is_new] = stuck_.try_emplace(schedule.name, shortest_retry_us, longest_stuck_us);
		place->second.failed(now);
		is_news = is_new;
	} else if (is_stuck) { /* too many to remember: all schedules of its role wait a moment */
		role.locked_until = now + after_lock_us;
	}
	if (!is_news || (!is_stuck && role.said == problem) || role.lines >= most_lines)
		return;
	role.said = problem;
	role.lines++;
	const char *const name = schedule.name.c_str();
	const char *const why = problem.c_str();
	guard([name, why, code] {
		ereport(WARNING, (errcode(code), errmsg("jobqueue could not fire schedule \"%s\": %s", name, why),
						  errdetail("It is tried again until it succeeds. The same error is not reported again."),
						  errhint("See jobqueue.schedules.last_error for the schedules that fail.")));
	});
}

Fired Schedules::fire(Oid owner, TimestampTz served_since, int count) {
	const TimestampTz now = GetCurrentTimestamp();
	const SteadyTime began = steady_now();
	bool more = false;
	size_t done = 0;
	std::map<std::string, std::pair<int, int>>
		outcomes; /* by role: how many schedules that failed before fired, and how many did not */
	Rights rights(owner, *this);
	bool late = false;
	added_ = 0;
	in_step_ = std::clamp(in_step_, std::min(least_in_step, count), count);
	for (store::Schedule &schedule : take(now, in_step_, more)) {
		const SteadyTime time = steady_now();
		late |= done + added_ >= least_in_step && time - began > longest_step_us;
		if (late) {
			more = true;
			roles_[schedule.created_by].held_after.clear();
			continue;
		}
		Role &role = roles_[schedule.created_by];
		std::exception_ptr problem;
		last_role_ = schedule.created_by;
		done++;
		try {
			in_subtransaction([&] {
				if (schedule.has_command && OidIsValid(schedule.role))
					check_sql_role(schedule.role, schedule.queue.value_or("default"), owner);
				const Session session(owner);
				fire_one(schedule, now, served_since, rights);
			});
			if (schedule.failing)
				outcomes[schedule.created_by].first++;
			stuck_.erase(schedule.name);
			role.from = std::min(role.from, schedule.next_run_at.value_or(DT_NOEND));
			continue;
		} catch (...) {
			problem = std::current_exception();
		}
		const PgError error = as_pg_error(problem);
		if (error.sqlerrcode() == ERRCODE_LOCK_NOT_AVAILABLE) {
			role.locked_until = time + after_lock_us;
			continue;
		}
		if (schedule.failing)
			outcomes[schedule.created_by].second++;
		else if (role.retry_at <= began)
			role.retry_at = began + shortest_retry_us;
		report(schedule, owner, error.what(), error.sqlerrcode());
	}
	for (const auto &[name, outcome] : outcomes) {
		Role &role = roles_[name];
		if (outcome.first == 0)
			put_off(role, began);
		else if (outcome.second == 0)
			role.delay_us = 0; /* the others will fire, too, at once */
	}
	in_step_ = late ? static_cast<int>(done) + 1 : in_step_ * 2;
	return {static_cast<int>(done), more};
}

Corrected Schedules::correct(const std::string &after, int count) {
	const Oid owner = GetUserId(); /* in a Session */
	const TimestampTz now = GetCurrentTimestamp();
	std::vector<store::Timing> later = store::later_schedules(now, after, count);
	Corrected corrected = {.after = after, .more = later.size() == static_cast<size_t>(count)};
	for (store::Timing &timing : later) {
		corrected.after = timing.name;
		try {
			/*
			 * If the clock is set back by less than this, a schedule fires when the clock is there again, and not
			 * twice.
			 */
			const TimestampTz latest = now + misfire_tolerance_us;
			const cron::Expression expression(timing.cron);
			const cron::Zone zone(timing.time_zone);
			const TimestampTz anchor = timing.anchor > latest ? now : timing.anchor;
			const std::optional<TimestampTz> next = expression.next(latest, zone, anchor);
			if (timing.next_run_at <= next.value_or(DT_NOEND))
				continue;
			timing.anchor = anchor;
			in_subtransaction([&] {
				const Session session(owner);
				corrected.any |= store::put_timing(timing, expression.next(now, zone, anchor));
			});
		} catch (...) {
			/* fire() will report the problem */
		}
	}
	return corrected;
}

TimestampTz Schedules::next() {
	const TimestampTz now = GetCurrentTimestamp();
	const SteadyTime steady = steady_now();
	const auto wall = [now, steady](SteadyTime time) { return now + time_left(steady, time, longest_sleep_us); };
	TimestampTz next = DT_NOEND;
	std::set<std::string> known, failing;
	const std::vector<std::string> but = stuck(steady);
	std::erase_if(stuck_, [steady](const auto &one) { return one.second.not_before() < steady - longest_stuck_us; });
	for (const auto &[name, backoff] : stuck_)
		if (steady < backoff.not_before())
			next = std::min(next, wall(backoff.not_before()));
	for (const store::DueRole &one : roles_due(but)) {
		const SteadyTime locked_until = roles_[one.role].locked_until;
		next = std::min(next, locked_until <= steady ? one.from : std::max(one.from, wall(locked_until)));
		known.insert(one.role);
	}
	for (const std::string &name : store::roles_failing()) {
		next = std::min(next, wall(roles_[name].retry_at));
		failing.insert(name);
	}
	known.insert(failing.begin(), failing.end());
	for (auto &[name, role] : roles_)
		if (!failing.contains(name))
			role.said.clear();
	for (const std::string &role : store::roles_holding())
		known.insert(role);
	std::erase_if(roles_, [&known](const auto &role) { return !known.contains(role.first); });
	return next;
}

std::vector<int64> Schedules::holding_tasks(int count) {
	const std::vector<std::string> found = store::roles_holding();
	if (found.empty())
		return {};
	const std::vector<std::string> roles =
		in_turn(std::set(found.begin(), found.end()), last_role_, static_cast<size_t>(count));
	return store::holding_tasks(roles, std::max(1, count / static_cast<int>(roles.size())));
}

} // namespace jobqueue
