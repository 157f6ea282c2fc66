/*
 * flow.cpp -- see flow.hpp. C++ region.
 */
#include "engine/flow.hpp"

#include "pg/clock.hpp"
#include "shared/databases.hpp"
#include "shared/running_tasks.hpp"

namespace jobqueue {

static uint64 name_of(std::string_view kind, std::string_view name) {
	return hash_name(name, hash_name(kind));
}

static Rule rule_of(int32 max_running, const store::RateSettings &rate, TimestampTz changed_at) {
	Rule rule;
	rule.max_running = max_running;
	/* What lies ahead was written by a clock that was set back since: long ago, then. */
	rule.changed_at = changed_at <= GetCurrentTimestamp() ? steady_time_of(changed_at) : at_once;
	if (rate.limit > 0) {
		/* No bucket shall hold more than a few years. */
		constexpr int64 longest_ns = 100 * INT64CONST(365) * USECS_PER_DAY * 1000 / 64;
		rule.rate.token_ns = std::clamp<int64>(rate.period_us * 1000 / rate.limit, 1, longest_ns);
		rule.rate.burst =
			static_cast<int32>(std::clamp<int64>(longest_ns / rule.rate.token_ns, 1, std::max(rate.burst, 1)));
	}
	return rule;
}

Flow Flow::read() {
	Flow flow;
	for (store::QueueSettings &settings : store::queue_settings()) {
		QueueFlow queue;
		queue.name = name_of("queue", settings.queue);
		queue.rule = rule_of(settings.max_running, settings.rate, settings.changed_at);
		queue.weight = settings.weight;
		queue.aging_us = settings.aging_us;
		queue.group_limit = settings.group_limit > 0 ? settings.group_limit : 1;
		queue.holds_group = settings.group_hold_on_retry;
		queue.group_rate = rule_of(0, settings.group_rate, settings.changed_at);
		queue.queue = std::move(settings.queue);
		flow.has_weights_ |= queue.weight != 1;
		flow.has_aging_ |= queue.aging_us > 0;
		flow.queues_.push_back(std::move(queue));
	}
	for (store::TypeSettings &settings : store::type_settings()) {
		TypeFlow type;
		type.name = name_of("type", settings.type);
		type.rule = rule_of(settings.max_running, settings.rate, settings.changed_at);
		type.group_limit = settings.group_limit;
		type.type = std::move(settings.type);
		type.only_in = std::move(settings.only_in);
		flow.types_.push_back(std::move(type));
	}
	return flow;
}

const QueueFlow *Flow::queue(std::string_view name) const noexcept {
	const auto found =
		std::lower_bound(queues_.begin(), queues_.end(), name,
						 [](const QueueFlow &flow, std::string_view sought) { return flow.queue < sought; });
	return found == queues_.end() || found->queue != name ? nullptr : &*found;
}

const TypeFlow *Flow::type(std::string_view name, std::string_view queue, Claims claims) const noexcept {
	const auto found =
		std::lower_bound(types_.begin(), types_.end(), name,
						 [](const TypeFlow &flow, std::string_view sought) { return flow.type < sought; });
	if (found == types_.end() || found->type != name)
		return nullptr;
	return claims == Claims::by_handler || found->has_say_in(queue) ? &*found : nullptr;
}

Admission Flow::admission_of(int64 task, const std::string &queue, std::string_view type, std::string_view group,
							 Claims claims) const {
	const QueueFlow *const queue_flow = this->queue(queue);
	const TypeFlow *const type_flow = this->type(type, queue, claims);
	Admission admission = {};
	admission.task = task;
	admission.queue_hash = hash_name(queue);
	queue.copy(admission.queue, sizeof(admission.queue) - 1);
	const auto count_as = [&admission](Counted kind, uint64 name, const Rule &rule) {
		if (!rule.is_limit())
			return;
		admission.names[static_cast<size_t>(kind)] = name;
		admission.rules[static_cast<size_t>(kind)] = rule;
	};
	count_as(Counted::queue, name_of("queue", queue), queue_flow ? queue_flow->rule : Rule());
	count_as(Counted::type, name_of("type", type), type_flow ? type_flow->rule : Rule());
	if (group.empty())
		return admission;
	Rule rule = queue_flow ? queue_flow->group_rate : Rule();
	const int32 of_queue = queue_flow ? queue_flow->group_limit : 1;
	/* The order in a group is everybody's who works in the queue. */
	const bool by_type = type_flow && type_flow->group_limit > 0 && type_flow->has_say_in(queue);
	rule.max_running = by_type ? type_flow->group_limit : of_queue;
	count_as(Counted::group, name_of("group", group) ^ hash_name(queue), rule);
	if (group.size() < sizeof(admission.group))
		group.copy(admission.group, group.size());
	return admission;
}

bool Flow::limits_queue(std::string_view name) const noexcept {
	const QueueFlow *const flow = queue(name);
	return flow != nullptr && flow->rule.is_limit();
}

bool Flow::limits_type_as(const TypeFlow &other) const noexcept {
	const TypeFlow *const flow = type(other.type, {}, Claims::by_handler);
	return flow != nullptr && flow->rule.is_limit() && flow->only_in == other.only_in;
}

Flow::Limited Flow::limited(const Flow *before) const {
	Limited limited;
	for (const QueueFlow &flow : queues_)
		if (flow.rule.is_limit() && !(before && before->limits_queue(flow.queue)))
			limited.queues.push_back(flow.queue);
	for (const TypeFlow &flow : types_)
		if (flow.rule.is_limit() && !(before && before->limits_type_as(flow)))
			limited.types.push_back(flow.type);
	return limited;
}

std::vector<int64> Flow::count(std::span<const store::CountedTask> tasks) const {
	std::vector<int64> ids;
	for (const store::CountedTask &task : tasks) {
		Admission admission = admission_of(task.id, task.queue, task.type, task.group,
										   task.in_server ? Claims::by_handler : Claims::outside);
		admission.role = task.role;
		count_running(admission);
		ids.push_back(task.id);
	}
	return ids;
}

static std::vector<Running> running_tasks() {
	std::vector<Running> running(64);
	for (size_t count = list_running(running);; count = list_running(running)) {
		const bool complete = count <= running.size();
		running.resize(complete ? count : count + count / 2);
		if (complete)
			return running;
	}
}

/* Of what is counted, these may have ended without a word. */
static void discount_ended(std::vector<int64> ids) {
	if (ids.empty())
		return;
	std::vector<int64> claimed = store::still_claimed(ids);
	std::sort(ids.begin(), ids.end());
	std::sort(claimed.begin(), claimed.end());
	for (const Running &task : running_tasks())
		if (std::binary_search(ids.begin(), ids.end(), task.id) &&
			!std::binary_search(claimed.begin(), claimed.end(), task.id))
			discount(task);
}

void Flow::make_ready(DatabaseSlot *slot, uint64 configuration, const Flow *before) const {
	if (admission_is_ready(slot, configuration))
		return;
	const Limited limited = this->limited(before);
	const bool groups = before == nullptr; /* they are always counted */
	if (groups || !limited.queues.empty() || !limited.types.empty())
		discount_ended(count(store::claimed_tasks(limited.queues, limited.types, groups)));
	set_admission_ready(slot, configuration);
}

void Flow::correct_counts() const {
	const Limited limited = this->limited(nullptr);
	std::vector<int64> claimed = store::claimed_ids(limited.queues, limited.types), counted, missed, doubtful;
	for (const Running &task : running_tasks())
		counted.push_back(task.id);
	std::sort(claimed.begin(), claimed.end());
	std::sort(counted.begin(), counted.end());
	std::set_difference(claimed.begin(), claimed.end(), counted.begin(), counted.end(), std::back_inserter(missed));
	std::set_difference(counted.begin(), counted.end(), claimed.begin(), claimed.end(), std::back_inserter(doubtful));
	if (!missed.empty())
		missed = count(store::claimed_tasks(missed));
	doubtful.insert(doubtful.end(), missed.begin(), missed.end());
	discount_ended(std::move(doubtful));
	check_counts();
}

Conditions Conditions::read(uint64 configuration) {
	return {store::pauses(), Flow::read(), configuration, true};
}

bool Conditions::is_for_dead_letters(std::string_view queue) const noexcept {
	return std::find(pauses.dead_letter_queues.begin(), pauses.dead_letter_queues.end(), queue) !=
		   pauses.dead_letter_queues.end();
}

bool Conditions::may_admit() const {
	if (!counts)
		return true;
	DatabaseSlot *slot = guard([] { return find_database(MyDatabaseId); });
	return admission_is_ready(slot, configuration);
}

Verdict Conditions::admit(const Admission &admission) const {
	return counts ? guard([&admission] { return jobqueue::admit(admission); }) : Verdict{true, never};
}

} // namespace jobqueue
