/*
 * throttling.cpp -- see throttling.hpp. C++ region.
 */
#include "engine/throttling.hpp"

#include "pg/clock.hpp"
#include "pg/debug.hpp"
#include "pg/injection.hpp"
#include "shared/databases.hpp"

namespace jobqueue {

/* Bounds the memory that counting takes. */
static constexpr int most_in_page = 1000;

static uint64 name_of(std::string_view kind, std::string_view name) {
	return hash_name(name, hash_name(kind));
}

static Rule rule_of(int32 max_running, const store::RateSettings &rate, TimestampTz changed_at) {
	Rule rule;
	rule.max_running = max_running;
	/* A time in the future was written before the clock was set back: it counts as long ago. */
	rule.changed_at = changed_at <= GetCurrentTimestamp() ? steady_time_of(changed_at) : at_once;
	if (rate.limit > 0) {
		/* No bucket may hold more than a few years. */
		constexpr int64 longest_ns = 100 * INT64CONST(365) * USECS_PER_DAY * 1000 / 64;
		rule.rate.token_ns = std::clamp<int64>(rate.period_us * 1000 / rate.limit, 1, longest_ns);
		rule.rate.burst =
			static_cast<int32>(std::clamp<int64>(longest_ns / rule.rate.token_ns, 1, std::max(rate.burst, 1)));
	}
	return rule;
}

Throttling Throttling::read() {
	Throttling throttling;
	for (store::QueueSettings &settings : store::queue_settings()) {
		QueueThrottling queue;
		queue.name = name_of("queue", settings.queue);
		queue.rule = rule_of(settings.max_running, settings.rate, settings.changed_at);
		queue.weight = settings.weight;
		queue.aging_us = settings.aging_us;
		queue.group_limit = settings.group_limit > 0 ? settings.group_limit : 1;
		queue.holds_group = settings.group_hold_on_retry;
		queue.group_rate = rule_of(0, settings.group_rate, settings.changed_at);
		queue.queue = std::move(settings.queue);
		throttling.has_weights_ |= queue.weight != 1;
		throttling.has_aging_ |= queue.aging_us > 0;
		throttling.queues_.push_back(std::move(queue));
	}
	for (store::TypeSettings &settings : store::type_settings()) {
		TypeThrottling type;
		type.name = name_of("type", settings.type);
		type.rule = rule_of(settings.max_running, settings.rate, settings.changed_at);
		type.group_limit = settings.group_limit;
		type.type = std::move(settings.type);
		type.only_in = std::move(settings.only_in);
		throttling.types_.push_back(std::move(type));
	}
	return throttling;
}

const QueueThrottling *Throttling::queue(std::string_view name) const noexcept {
	const auto found = std::lower_bound(
		queues_.begin(), queues_.end(), name,
		[](const QueueThrottling &throttling, std::string_view sought) { return throttling.queue < sought; });
	return found == queues_.end() || found->queue != name ? nullptr : &*found;
}

const TypeThrottling *Throttling::type(std::string_view name, std::string_view queue, Claims claims) const noexcept {
	const auto found = std::lower_bound(
		types_.begin(), types_.end(), name,
		[](const TypeThrottling &throttling, std::string_view sought) { return throttling.type < sought; });
	if (found == types_.end() || found->type != name)
		return nullptr;
	return claims == Claims::by_handler || found->has_say_in(queue) ? &*found : nullptr;
}

Admission Throttling::admission_of(int64 task, const std::string &queue, std::string_view type, std::string_view group,
								   Claims claims) const {
	const QueueThrottling *const of_queue = this->queue(queue);
	const TypeThrottling *const of_type = this->type(type, queue, claims);
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
	count_as(Counted::queue, name_of("queue", queue), of_queue ? of_queue->rule : Rule());
	count_as(Counted::type, name_of("type", type), of_type ? of_type->rule : Rule());
	if (group.empty())
		return admission;
	Rule rule = of_queue ? of_queue->group_rate : Rule();
	const int32 queue_limit = of_queue ? of_queue->group_limit : 1;
	/*
	 * The order in a group concerns all who work in the queue, so a type's limit only counts if its handler has a say
	 * there.
	 */
	const bool by_type = of_type && of_type->group_limit > 0 && of_type->has_say_in(queue);
	rule.max_running = by_type ? of_type->group_limit : queue_limit;
	count_as(Counted::group, name_of("group", group) ^ hash_name(queue), rule);
	if (group.size() < sizeof(admission.group))
		group.copy(admission.group, group.size());
	return admission;
}

bool Throttling::limits_queue(std::string_view name) const noexcept {
	const QueueThrottling *const throttling = queue(name);
	return throttling != nullptr && throttling->rule.is_limit();
}

bool Throttling::limits_type_as(const TypeThrottling &other) const noexcept {
	const TypeThrottling *const throttling = type(other.type, {}, Claims::by_handler);
	return throttling != nullptr && throttling->rule.is_limit() && throttling->only_in == other.only_in;
}

store::Limited Throttling::limited(const Throttling *before) const {
	store::Limited limited;
	limited.groups = before == nullptr; /* they are always counted */
	for (const QueueThrottling &throttling : queues_)
		if (throttling.rule.is_limit() && !(before && before->limits_queue(throttling.queue)))
			limited.queues.push_back(throttling.queue);
	for (const TypeThrottling &throttling : types_)
		if (throttling.rule.is_limit() && !(before && before->limits_type_as(throttling)))
			limited.types.push_back(throttling.type);
	return limited;
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

/* Stops counting those of these tasks that are not claimed. They must be listed before the table is read. */
static void discount_ended(std::span<const Running> listed) {
	if (listed.empty())
		return;
	std::vector<int64> ids;
	std::ranges::transform(listed, std::back_inserter(ids), &Running::id);
	std::vector<int64> claimed = store::still_claimed(ids);
	injection_point("compared");
	std::sort(claimed.begin(), claimed.end());
	for (const Running &task : listed)
		if (!std::binary_search(claimed.begin(), claimed.end(), task.id))
			discount(task);
}

/* Counts those of these tasks that are claimed; they may end meanwhile. */
void Throttling::count_claimed(std::span<const int64> claimed) const {
	if (claimed.empty())
		return;
	std::vector<Running> counted;
	for (const store::CountedTask &task : store::claimed_tasks(claimed)) {
		Admission admission = admission_of(task.id, task.queue, task.type, task.group,
										   task.in_server ? Claims::by_handler : Claims::outside);
		admission.role = task.role;
		if (Running running; count_running(admission, &running))
			counted.push_back(running);
	}
	discount_ended(counted);
}

void Throttling::make_ready(DatabaseSlot *slot, uint64 configuration, const Throttling *before) const {
	if (admission_is_ready(slot, configuration))
		return;
	const store::Limited limited = this->limited(before);
	bool last = !limited.groups && limited.queues.empty() && limited.types.empty();
	for (store::Place place; !last;)
		count_claimed(store::claimed_after(place, most_in_page, limited, &last));
	set_admission_ready(slot, configuration);
}

bool Throttling::correct_counts(CountCorrection &pass, int most) const {
	if (!pass.claims_seen) {
		std::vector<int64> ids = store::claimed_after(pass.claims, most, limited(nullptr), &pass.claims_seen);
		std::erase_if(ids, is_counted);
		count_claimed(ids);
		if (pass.claims_seen) {
			pass.counted = running_tasks();
			injection_point("listed");
		}
		return true;
	}
	const std::span<const Running> rest = std::span(pass.counted).subspan(pass.looked_at);
	const size_t count = std::min(rest.size(), static_cast<size_t>(most));
	discount_ended(rest.first(count));
	pass.looked_at += count;
	if (count < rest.size())
		return true;
	check_counts();
	pass = {};
	return false;
}

Conditions Conditions::read(uint64 configuration) {
	return {store::pauses(), Throttling::read(), configuration, true};
}

bool Conditions::is_for_dead_letters(std::string_view queue) const noexcept {
	return std::find(pauses.dead_letter_queues.begin(), pauses.dead_letter_queues.end(), queue) !=
		   pauses.dead_letter_queues.end();
}

bool Conditions::may_admit() const {
	if (!counts)
		return true;
	DatabaseSlot *slot = guard([] { return find_database(MyDatabaseId); });
	const bool ready = admission_is_ready(slot, configuration);
	if (!ready && is_debugging(DEBUG2))
		guard([] {
			ereport(DEBUG2, (errmsg_internal("running tasks are not counted yet: none may begin under a limit")));
		});
	return ready;
}

Verdict Conditions::admit(const Admission &admission) const {
	return counts ? guard([&admission] { return jobqueue::admit(admission); }) : Verdict{true, never};
}

} // namespace jobqueue
