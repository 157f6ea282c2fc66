/*
 * claimer.cpp -- see claimer.hpp. C++ region.
 */
#include "engine/claimer.hpp"

#include "engine/lane_store.hpp"
#include "pg/raw_size.hpp"
#include "pg/settings.hpp"

#include <cmath>

namespace jobqueue {

static constexpr size_t many_lanes = 8192;
/* Of one queue. */
static constexpr size_t most_lanes = 256;
/* Where nobody has counted yet what is running, or what is counted is not what the table says. */
static constexpr int64 before_counting_us = 5000;
static constexpr size_t most_hints = 64;
static constexpr int64 after_lock_us = 20000;
/* To find a head takes a few buffers. Who needs more looks at dead entries. */
static constexpr int64 buffers_for_head = 40, buffers_for_deep_head = 80;
static constexpr size_t most_deep = 1000;
/* A worker takes so many tasks of a group before it is another's turn: short ones, one after the other. */
static constexpr size_t tasks_in_turn = 10;
/* How often what nobody announced makes us read deep groups from their beginnings. */
static constexpr int64 sweep_deep_us = USECS_PER_MINUTE;

Scope scope_of_types(std::vector<std::string> types) {
	std::sort(types.begin(), types.end());
	Scope scope;
	scope.key = hash_name("types");
	scope.types = 0;
	for (const std::string &type : types) {
		scope.key = hash_name(type, hash_name({"\0", 1}, scope.key));
		scope.types |= type_mask(hash_name(type));
	}
	scope.filter.types = std::move(types);
	return scope;
}

Scope scope_of_handlers(std::span<const store::Handler> handlers, Queues allowed) {
	std::vector<std::string> types, elsewhere;
	for (const store::Handler &handler : handlers) {
		types.push_back(handler.type);
		if (!handler.governed)
			elsewhere.push_back(handler.type);
	}
	std::sort(elsewhere.begin(), elsewhere.end());
	const bool limited = elsewhere.size() < types.size();
	Scope scope = scope_of_types(std::move(types));
	scope.role = handlers.empty() ? InvalidOid : handlers[0].role;
	scope.by_handler = true;
	if (limited)
		limit_scope(scope, std::move(allowed), std::move(elsewhere));
	return scope;
}

void limit_scope(Scope &scope, Queues allowed, std::vector<std::string> elsewhere) {
	if (allowed.all)
		return;
	const auto add = [&scope](std::string_view name) { scope.key = hash_name(name, hash_name({"\0", 1}, scope.key)); };
	scope.key = hash_name("queues", scope.key);
	for (const std::string &queue : allowed.names)
		add(queue);
	scope.key = hash_name("types elsewhere", scope.key);
	for (const std::string &type : elsewhere)
		add(type);
	scope.queues = std::move(allowed);
	scope.elsewhere.types = std::move(elsewhere);
}

static uint64 add_to_key(uint64 key, std::string_view what, std::string_view name) {
	return hash_name(name, hash_name({"\0", 1}, hash_name(what, key)));
}

/* Takes a type out of a filter; false if that did not let it through. */
static bool exclude(store::TypeFilter &filter, const std::string &type) {
	if (!store::wants(filter, type, false))
		return false;
	const auto place = std::lower_bound(filter.types.begin(), filter.types.end(), type);
	if (filter.others)
		filter.types.insert(place, type);
	else
		filter.types.erase(place);
	return true;
}

void leave_to_handlers(Scope &scope, const std::string &queue, std::span<const std::string> types) {
	store::TypeFilter filter = scope.filter_for(queue);
	bool any = false;
	for (const std::string &type : types) {
		if (!exclude(filter, type))
			continue;
		scope.key = add_to_key(scope.key, any ? "and" : "but", type);
		any = true;
	}
	if (!any)
		return;
	scope.key = add_to_key(scope.key, "in", queue);
	scope.special[queue] = std::move(filter);
}

/* Of a type that is under limits in one queue only. */
static void separate_in(Scope &scope, const std::string &type, const std::string &queue) {
	store::TypeFilter filter = scope.filter_for(queue);
	if (!exclude(filter, type))
		return;
	Scope limited;
	limited.is_limited = true;
	limited.key = add_to_key(add_to_key(scope.key, "only", type), "in", queue);
	limited.types = type_mask(hash_name(type));
	limited.role = scope.role;
	limited.by_handler = scope.by_handler;
	limited.queues = {false, false};
	store::TypeFilter &only = limited.special[queue];
	only.dead_letters = filter.dead_letters && !filter.others;
	only.types.push_back(type);
	scope.special[queue] = std::move(filter);
	scope.key = add_to_key(add_to_key(scope.key, "but", type), "in", queue);
	scope.limited.push_back(std::move(limited));
}

void separate_limited(Scope &scope, const Flow &flow, const std::optional<std::string> &queue) {
	for (const TypeFlow &type : flow.types()) {
		if (!type.rule.is_limit() || (queue && !scope.by_handler && !type.has_say_in(*queue)))
			continue;
		if (type.only_in && !scope.by_handler) {
			separate_in(scope, type.type, *type.only_in);
			continue;
		}
		Scope limited;
		limited.is_limited = true;
		limited.by_handler = scope.by_handler;
		limited.key = add_to_key(scope.key, "only", type.type);
		limited.types = type_mask(hash_name(type.type));
		limited.role = scope.role;
		limited.queues = scope.queues;
		limited.filter.dead_letters = scope.filter.dead_letters && !scope.filter.others;
		const bool here = exclude(scope.filter, type.type);
		const bool there = exclude(scope.elsewhere, type.type);
		if (here)
			limited.filter.types.push_back(type.type);
		if (there)
			limited.elsewhere.types.push_back(type.type);
		for (auto &one : scope.special)
			exclude(one.second, type.type);
		if (!here && !there)
			continue;
		scope.key = add_to_key(scope.key, "but", type.type);
		scope.limited.push_back(std::move(limited));
	}
}

store::TypeFilter Scope::whole_filter_for(std::string_view queue) const {
	store::TypeFilter whole = filter_for(queue);
	for (const Scope &one : limited)
		for (const std::string &type : one.filter_for(queue).types) {
			const auto place = std::lower_bound(whole.types.begin(), whole.types.end(), type);
			const bool there = place != whole.types.end() && *place == type;
			if (whole.others && there)
				whole.types.erase(place);
			else if (!whole.others && !there)
				whole.types.insert(place, type);
		}
	return whole;
}

std::span<Claimer::KnownLane> Claimer::lanes_of(std::string_view queue) {
	const auto first =
		std::lower_bound(lanes_.begin(), lanes_.end(), queue,
						 [](const KnownLane &lane, std::string_view name) { return lane.lane.queue < name; });
	const auto last =
		std::find_if(first, lanes_.end(), [queue](const KnownLane &lane) { return lane.lane.queue != queue; });
	return {first, last};
}

void Claimer::forget_lanes() {
	lanes_.clear();
	ahead_.clear();
	grouped_lanes_ = 0;
}

/* Lanes beyond this priority are not known from now on. */
void Claimer::forget_above(const std::string &queue, int32 priority) {
	std::erase_if(lanes_, [&](const KnownLane &known) {
		const bool is_above = known.lane.queue == queue && known.lane.priority > priority;
		grouped_lanes_ -= is_above && known.lane.grouped;
		return is_above;
	});
	ahead_[queue] = {priority};
}

/* The work that lanes make does not grow with how many there are. */
void Claimer::bound_lanes(const std::string &queue) {
	if (lanes_.size() <= most_lanes || lanes_of(queue).size() <= most_lanes || (reads_ahead_ && !remembers_quiet_))
		return;
	if (remembers_quiet_)
		std::erase_if(lanes_, [&](const KnownLane &known) {
			if (known.lane.queue != queue || !known.is_empty())
				return false;
			if (known.lane.grouped) {
				grouped_lanes_--;
				forgotten_groups_.insert(known.queue_hash); /* they may wait for the end of one of theirs */
			}
			return true;
		});
	const std::span<KnownLane> lanes = lanes_of(queue);
	if (lanes.size() > most_lanes)
		forget_above(queue, lanes[most_lanes / 2 - 1].lane.priority);
}

/* "news": there may be something in it for us; of this group, if it is named. */
void Claimer::learn(const store::Lane &lane, bool news, std::string_view group, uint64 type_hash) {
	auto place = std::lower_bound(lanes_.begin(), lanes_.end(), lane,
								  [](const KnownLane &a, const store::Lane &b) { return a.lane < b; });
	if (place == lanes_.end() || !(place->lane == lane)) {
		if (const auto ahead = ahead_.find(lane.queue);
			ahead != ahead_.end() && lane.priority > ahead->second.known_up_to) {
			ahead->second.quiet = ahead->second.quiet && !news;
			return;
		}
		lanes_.insert(place, KnownLane{lane, hash_name(lane.queue)});
		grouped_lanes_ += lane.grouped;
		bound_lanes(lane.queue);
		return;
	}
	if (lane.grouped) {
		Round &round = place->round;
		if (group.empty() || round.hints.size() >= most_hints)
			round.unfinished = true;
		else if (std::find(round.hints.begin(), round.hints.end(), group) == round.hints.end())
			round.hints.emplace_back(group);
		round.ends = 0;
		place->main = {}; /* what it waits for may be a token of another group */
		return;
	}
	if (news)
		place->main.quiet = false;
	/* There are few types with limits, and they are looked for by the way. */
	if (news || type_hash == 0)
		for (Part &part : place->limited)
			part.quiet = false;
}

/* A task has ended that was counted: what waited for its queue, its type or its group may go on. */
void Claimer::note_capacity(const Scope &scope, const News &news) {
	for (auto &one : ahead_)
		one.second.quiet = false;
	undiscovered_ |= !forgotten_groups_.empty() && forgotten_groups_.erase(news.queue_hash) > 0;
	for (KnownLane &known : lanes_) {
		const bool same_queue = known.queue_hash == news.queue_hash;
		if (same_queue)
			known.main.quiet = false;
		if (same_queue || news.type_hash != 0)
			for (Part &part : known.limited)
				part.quiet = false; /* whichever type it was */
		if (!known.lane.grouped || (!same_queue && scope.limited.empty()))
			continue;
		const bool any_end = std::exchange(known.round.any_end, false);
		if (!same_queue && !any_end)
			continue;
		const std::string_view group = same_queue && !any_end ? news.group : "";
		learn(store::Lane(known.lane), true, group, 0);
	}
}

/* Tasks of groups have come, perhaps before what was read last. */
void Claimer::lower(const News &news) {
	const store::Lane lane{news.queue, news.priority, true};
	const auto place = std::lower_bound(lanes_.begin(), lanes_.end(), lane,
										[](const KnownLane &a, const store::Lane &b) { return a.lane < b; });
	if (place == lanes_.end() || !(place->lane == lane))
		return;
	Round &round = place->round;
	if (news.kind == AnnouncementKind::sweep) {
		/* It names the first task of all only. */
		const SteadyTime now = steady_now();
		if (now - round.swept_at < sweep_deep_us)
			return;
		round.swept_at = now;
		round.lows.clear();
	}
	for (auto &[group, low] : round.lows)
		if (news.group[0] == '\0' || group == news.group)
			low = std::min(low, news.ids.low);
}

/* The heads of these groups. */
std::vector<store::GroupHead> Claimer::read_heads(KnownLane &known, std::span<const std::string> groups, bool held) {
	std::vector<int64> lows;
	for (const std::string &group : groups) {
		const auto found = known.round.lows.find(group);
		lows.push_back(found == known.round.lows.end() ? PG_INT64_MIN : found->second);
	}
	return store::heads_of(known.lane, groups, lows, held);
}

/* Which of these heads are far behind the beginnings of their groups? */
void Claimer::find_deep(KnownLane &known, std::span<store::GroupHead> heads, bool held) {
	if (known.round.lows.size() + heads.size() > most_deep)
		known.round.lows.clear();
	for (store::GroupHead &head : heads) {
		const int64 before = buffers_touched();
		read_heads(known, {&head.group, 1}, held);
		if (buffers_touched() - before > buffers_for_deep_head)
			head.low = known.round.lows[head.group] = head.id;
	}
}

/* Of the groups after this one, in their order. "last": there are no others. */
std::vector<store::GroupHead> Claimer::next_heads(KnownLane &known, const std::string &after, int count, bool held,
												  bool *last) {
	auto &lows = known.round.lows;
	std::vector<store::GroupHead> heads;
	std::string latest = after;
	for (;;) {
		const auto next_deep = lows.upper_bound(latest);
		const std::optional<std::string> deep =
			next_deep == lows.end() ? std::nullopt : std::optional(next_deep->first);
		const int wanted = count - static_cast<int>(heads.size());
		const int64 before = buffers_touched();
		std::vector<store::GroupHead> found = store::group_heads(known.lane, latest, deep, wanted, held);
		const int64 touched = buffers_touched() - before;
		if (touched > buffers_for_deep_head + buffers_for_head * static_cast<int64>(found.size()) &&
			!IsolationUsesXactSnapshot())
			find_deep(known, found, held);
		const bool enough = found.size() == static_cast<size_t>(wanted);
		std::ranges::move(found, std::back_inserter(heads));
		*last = !enough && !deep;
		if (enough || !deep)
			return heads;
		latest = *deep;
		std::ranges::move(read_heads(known, {&latest, 1}, held), std::back_inserter(heads));
		if (heads.size() == static_cast<size_t>(count))
			return heads;
	}
}

void Claimer::forget_quiet() {
	for (KnownLane &lane : lanes_) {
		lane.round.waiting.clear();
		lane.round.due.clear();
	}
	look_everywhere();
}

/* Something was added, who knows where. */
void Claimer::look_everywhere() {
	for (KnownLane &lane : lanes_) {
		lane.round.lows.clear();
		lane.main = {};
		lane.limited.clear();
		lane.round.unfinished = true;
		lane.round.ends = 0;
	}
	for (auto &one : ahead_)
		one.second.quiet = false;
	undiscovered_ = true;
}

template <typename Visit> bool Claimer::any_part(Visit &&visit) const {
	return std::any_of(lanes_.begin(), lanes_.end(), [&visit](const KnownLane &lane) {
		return visit(lane.main) || std::any_of(lane.limited.begin(), lane.limited.end(), visit);
	});
}

bool Claimer::absorb(const Scope &scope) {
	if (shared() == nullptr) {
		forget_lanes();
		undiscovered_ = true;
		return true;
	}
	if (!started_) {
		position_ = ring_head();
		started_ = true;
	}
	if (lanes_.size() > lane_limit_) {
		/* Names of queues come and go: forget those without tasks, which announce themselves when they have some. */
		if (remembers_quiet_)
			std::erase_if(lanes_, [](const KnownLane &lane) {
				return lane.main.quiet && std::all_of(lane.limited.begin(), lane.limited.end(),
													  [](const Part &part) { return part.quiet; });
			});
		else
			forget_lanes();
		grouped_lanes_ = static_cast<size_t>(
			std::count_if(lanes_.begin(), lanes_.end(), [](const KnownLane &lane) { return lane.lane.grouped; }));
		passes_.clear();
		undiscovered_ |= lanes_.empty();
		lane_limit_ = std::max(many_lanes, 2 * lanes_.size());
	}
	const auto take = [&](const News &news) {
		if (news.kind == AnnouncementKind::statement) {
			look_everywhere();
			statements_ = true;
		} else if (news.kind == AnnouncementKind::capacity) {
			note_capacity(scope, news);
		} else {
			if (news.grouped)
				lower(news);
			learn({news.queue, news.priority, news.grouped},
				  news.type_hash == 0 || (type_mask(news.type_hash) & scope.types) != 0, news.group, news.type_hash);
		}
	};
	follow_ring(position_, take, [this] { look_everywhere(); });
	const SteadyTime now = steady_now();
	return undiscovered_ || any_part([now](const Part &part) { return part.is_open(now); }) ||
		   std::any_of(ahead_.begin(), ahead_.end(), [](const auto &one) { return !one.second.quiet; });
}

SteadyTime Claimer::next_time() const noexcept {
	SteadyTime next = never;
	any_part([&next](const Part &part) {
		if (!part.quiet && part.wait_until > 0)
			next = std::min(next, part.wait_until);
		return false;
	});
	return next;
}

bool Claimer::is_behind() const noexcept {
	return shared() != nullptr && position_ != ring_head();
}

void Claimer::discover() {
	if (!undiscovered_)
		return;
	std::vector<store::Lane> known;
	known.reserve(lanes_.size());
	for (const KnownLane &lane : lanes_)
		known.push_back(lane.lane);
	store::QueueEnds ends;
	for (const auto &[queue, ahead] : ahead_)
		ends[queue] = ahead.known_up_to;
	const store::DiscoveredLanes discovered = store::discover_lanes(known, ends);
	if (discovered.from_scratch)
		ahead_.clear();
	for (const auto &[queue, end] : discovered.ends) {
		const auto ahead = ahead_.find(queue);
		forget_above(queue, ahead == ahead_.end() ? end : std::min(end, ahead->second.known_up_to));
	}
	for (const store::Lane &lane : discovered.lanes)
		learn(lane, true, {}, 0);
	lane_limit_ = std::max(lane_limit_, 2 * lanes_.size());
	undiscovered_ = false;
}

/* A closed lane has nothing to give until the configuration changes, and then forget_quiet() is called. */
bool Claimer::is_closed(const Scope &scope, std::string_view queue, const store::Pauses &pauses) {
	const auto contains = [queue](const std::vector<std::string> &queues) {
		return std::find(queues.begin(), queues.end(), queue) != queues.end();
	};
	const store::TypeFilter &filter = scope.filter_for(queue);
	const auto lets_nothing_through = [queue](const Scope &one) {
		return one.filter_for(queue).lets_nothing_through();
	};
	return pauses.all || contains(pauses.queues) || (!filter.dead_letters && contains(pauses.dead_letter_queues)) ||
		   (lets_nothing_through(scope) &&
			std::all_of(scope.limited.begin(), scope.limited.end(), lets_nothing_through));
}

bool Claimer::is_closed(const Scope &scope, KnownLane &known, const store::Pauses &pauses) const {
	const bool closed = is_closed(scope, std::string_view(known.lane.queue), pauses);
	if (closed) {
		known.main.quiet = remembers_quiet_;
		for (Part &part : known.limited)
			part.quiet = remembers_quiet_;
	}
	return closed;
}

LaneKey Claimer::key_of(const Scope &scope, const KnownLane &lane) const {
	return {scope.key, lane.queue_hash, MyDatabaseId, lane.lane.priority, scope.role};
}

/* Queues take turns: the one after the last one served comes first. */
size_t Claimer::first_to_read() const {
	return static_cast<size_t>(
		std::upper_bound(lanes_.begin(), lanes_.end(), last_queue_,
						 [](const std::string &queue, const KnownLane &known) { return queue < known.lane.queue; }) -
		lanes_.begin());
}

/* Is the order that of the lanes, from the first to read on? */
bool Claimer::in_turn(const Flow &flow) const {
	return grouped_lanes_ == 0 && !deferred_ && !flow.has_order();
}

/*
 * In which order to read the lanes. Queues with weights: the one that has had least, by its weight, or the one with the
 * highest weight. In a queue: by priority, to which waiting adds where there is aging; tasks of groups, and those that
 * belong to none, take turns.
 */
std::vector<size_t> Claimer::reading_order(const Flow &flow) const {
	std::vector<size_t> order;
	order.reserve(lanes_.size());
	const size_t begin = first_to_read();
	for (size_t i = 0; i < lanes_.size(); i++) {
		const size_t which = (begin + i) % lanes_.size();
		if (!lanes_[which].is_quiet())
			order.push_back(which);
	}
	const SteadyTime now = steady_now();
	for (size_t first = 0, last; first < order.size(); first = last) {
		last = first + 1;
		const uint64 queue_hash = lanes_[order[first]].queue_hash;
		while (last < order.size() && lanes_[order[last]].queue_hash == queue_hash)
			last++;
		if (last == first + 1)
			continue;
		const std::string &queue = lanes_[order[first]].lane.queue;
		const QueueFlow *const queue_flow = flow.queue(queue);
		const int64 aging_us = queue_flow ? queue_flow->aging_us : 0;
		const bool groups_first = turn_ % 2 == 1;
		const auto rank = [&](size_t i) {
			const KnownLane &known = lanes_[i];
			const int64 aged = aging_us > 0 && known.waiting_since > 0 ? (now - known.waiting_since) / aging_us : 0;
			return std::pair(known.lane.priority - aged, known.lane.grouped != groups_first);
		};
		std::stable_sort(order.begin() + static_cast<ptrdiff_t>(first), order.begin() + static_cast<ptrdiff_t>(last),
						 [&rank](size_t a, size_t b) { return rank(a) < rank(b); });
	}
	if (flow.has_weights()) {
		const auto weight_of = [&](size_t i) {
			const QueueFlow *const queue_flow = flow.queue(lanes_[i].lane.queue);
			return queue_flow ? queue_flow->weight : 1;
		};
		const auto pass_of = [&](size_t i) {
			const auto found = passes_.find(lanes_[i].lane.queue);
			return found == passes_.end() ? 0.0 : found->second;
		};
		const bool strict = settings::queue_order == static_cast<int>(QueueOrder::strict);
		std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
			return strict ? weight_of(a) > weight_of(b) : pass_of(a) < pass_of(b);
		});
	}
	if (deferred_)
		std::stable_partition(order.begin(), order.end(), [this](size_t i) { return lanes_[i].lane == *deferred_; });
	return order;
}

/* Since when lanes that may age wait. */
void Claimer::note_waiting(const Flow &flow) {
	for (KnownLane &known : lanes_) {
		const QueueFlow *const queue_flow = flow.queue(known.lane.queue);
		if (known.waiting_since == 0 && !known.main.quiet && queue_flow && queue_flow->aging_us > 0)
			known.waiting_since = steady_time_of(store::waiting_since(known.lane));
	}
}

/* So many tasks of a lane were locked. */
void Claimer::served(const Flow &flow, KnownLane &known, size_t tasks) {
	known.waiting_since = steady_now();
	if (!flow.has_weights())
		return;
	/* A queue that comes back after having had nothing to do has no claim to what it did not need. */
	const QueueFlow *const queue_flow = flow.queue(known.lane.queue);
	double least = std::numeric_limits<double>::max();
	for (const KnownLane &other : lanes_)
		if (const auto found = passes_.find(other.lane.queue); found != passes_.end() && !other.main.quiet)
			least = std::min(least, found->second);
	double &pass = passes_[known.lane.queue];
	if (least < std::numeric_limits<double>::max())
		pass = std::max(pass, least);
	pass += static_cast<double>(tasks) / (queue_flow ? queue_flow->weight : 1);
}

bool Claimer::may_admit(const Conditions &conditions) const {
	if (!conditions.counts)
		return true;
	DatabaseSlot *slot = guard([] { return find_database(MyDatabaseId); });
	return admission_is_ready(slot, conditions.configuration);
}

Verdict Claimer::admit_task(const Conditions &conditions, const Admission &admission) {
	return conditions.counts ? guard([&admission] { return admit(admission); }) : Verdict{true, never};
}

/* One call of lock(). */
struct Claimer::Reading {
	const Scope &scope;
	const Conditions &conditions;
	const size_t count;
	const bool by_place;
	Locked locked = {};
	std::vector<int64> early = {};
	std::optional<TimestampTz> due = {};

	const int64 most_bytes;
	int64 bytes = 0;
	bool enough = false;
	bool too_large = false; /* the next one, to be had together with the others */

	bool is_full() const { return too_large || locked.tasks.size() >= count; }
	size_t missing() const { return enough || too_large ? 0 : count - locked.tasks.size(); }
	/* The first one has, however large it is. */
	bool has_room_for(const store::Candidate &candidate) {
		too_large |= bytes > 0 && bytes + candidate.bytes > most_bytes;
		if (!too_large)
			bytes += candidate.bytes;
		return !too_large;
	}
	bool is_early(const store::Candidate &candidate) {
		if (candidate.not_before) {
			early.push_back(candidate.id);
			due = std::min(due.value_or(DT_NOEND), *candidate.not_before);
		}
		return candidate.not_before.has_value();
	}
	void add(const KnownLane &known, store::Candidate candidate) {
		if (locked.lanes.empty() || !(locked.lanes.back() == known.lane))
			locked.lanes.push_back(known.lane);
		candidate.lane = static_cast<uint32>(locked.lanes.size() - 1);
		locked.tasks.push_back(std::move(candidate));
	}
};

Locked Claimer::lock(const Scope &scope, const Conditions &conditions, const std::optional<std::string> &queue,
					 int count, bool by_place) {
	visit_own_lanes(
		[](void *self, const char *lane_queue, int16 priority, bool grouped) {
			static_cast<Claimer *>(self)->learn({lane_queue, priority, grouped}, true, {}, 0);
		},
		this);
	undiscovered_ |= own_statements();
	if (std::exchange(reads_ahead_, false) && !remembers_quiet_) { /* it was interrupted */
		forget_lanes();
		undiscovered_ = true;
	}
	discover();
	turn_++;
	Reading reading{scope,
					conditions,
					static_cast<size_t>(count),
					by_place,
					{},
					{},
					{},
					remembers_quiet_ ? most_bytes_together : most_bytes_outside};
	if (conditions.flow.has_order())
		note_waiting(conditions.flow);
	if (!scope.limited.empty())
		for (KnownLane &known : lanes_)
			if (!known.lane.grouped)
				known.limited.resize(std::max(known.limited.size(), scope.limited.size()));
	const bool plain_order = in_turn(conditions.flow);
	const std::vector<size_t> order = plain_order ? std::vector<size_t>() : reading_order(conditions.flow);
	const size_t begin = first_to_read();
	deferred_.reset();
	const size_t lanes = plain_order ? lanes_.size() : order.size();
	for (size_t i = 0; i < lanes; i++) {
		KnownLane &known = lanes_[plain_order ? (begin + i) % lanes : order[i]];
		if (known.is_quiet())
			continue;
		if ((queue && known.lane.queue != *queue) || is_closed(scope, known, conditions.pauses))
			continue;
		const size_t before = reading.locked.tasks.size();
		read_lane(reading, known);
		if (reading.locked.tasks.size() > before)
			served(conditions.flow, known, reading.locked.tasks.size() - before);
		else if (known.main.quiet)
			known.waiting_since = 0;
		if (reading.missing() == 0) {
			last_queue_ = known.lane.queue;
			break;
		}
	}
	if (reading.missing() > 0)
		read_ahead(reading, queue);
	if (!reading.early.empty()) {
		store::put_aside(reading.early);
		guard([&reading] { note_due(*reading.due); });
	}
	return std::move(reading.locked);
}

/*
 * The next lanes of a queue that have something for us; none if there are no more, or if there are so many tasks for others
 * that it is better to come back.
 */
std::vector<store::Lane> Claimer::look_ahead(const Scope &scope, const std::string &queue) {
	const auto ahead = ahead_.find(queue);
	const store::TypeFilter filter = scope.whole_filter_for(queue);
	std::vector<store::Lane> lanes;
	int32 end = PG_INT32_MAX;
	for (const bool grouped : {false, true}) {
		const store::LanesAhead found = store::lanes_ahead(queue, ahead->second.known_up_to, grouped, filter);
		end = std::min(end, found.end.value_or(PG_INT32_MAX));
		for (const int16 priority : found.priorities)
			lanes.push_back({queue, priority, grouped});
	}
	std::sort(lanes.begin(), lanes.end());
	if (lanes.size() > store::lanes_at_once)
		end = std::min<int32>(end, lanes[store::lanes_at_once - 1].priority);
	std::erase_if(lanes, [end](const store::Lane &lane) { return lane.priority > end; });
	if (end == PG_INT32_MAX)
		ahead_.erase(ahead);
	else
		ahead->second.known_up_to = end;
	for (const store::Lane &lane : lanes)
		learn(lane, true, {}, 0);
	return lanes;
}

/*
 * visit(known lane) for the next lanes, until it returns true; queues take turns. False if it never did, and there are no more
 * lanes, or none that are open; or if it has looked enough for once: then there are some in ahead_ that are not quiet.
 */
template <typename Visit>
bool Claimer::visit_ahead(const Scope &scope, const Conditions &conditions, const std::optional<std::string> &queue,
						  Visit &&visit) {
	/* Who does not come back looks on. */
	const int most_scans = remembers_quiet_ ? 8 : 64;
	std::vector<std::string> queues;
	for (auto one = ahead_.upper_bound(last_ahead_); one != ahead_.end(); ++one)
		queues.push_back(one->first);
	for (auto one = ahead_.begin(); one != ahead_.end() && one->first <= last_ahead_; ++one)
		queues.push_back(one->first);
	int scans = 0;
	for (const std::string &name : queues) {
		if (queue && name != *queue)
			continue;
		for (auto ahead = ahead_.find(name); ahead != ahead_.end(); ahead = ahead_.find(name)) {
			const std::span<KnownLane> known = lanes_of(name);
			/* Enough wait that come before. */
			const bool enough =
				remembers_quiet_ && std::count_if(known.begin(), known.end(), [](const KnownLane &lane) {
										return !lane.is_empty();
									}) >= static_cast<ptrdiff_t>(most_lanes / 2);
			if (enough || ahead->second.closed_in == turn_ ||
				is_closed(scope, std::string_view(name), conditions.pauses)) {
				ahead->second.quiet = remembers_quiet_;
				break;
			}
			if (scans++ == most_scans)
				return false;
			last_ahead_ = name;
			for (const store::Lane &lane : look_ahead(scope, name)) {
				const auto place =
					std::lower_bound(lanes_.begin(), lanes_.end(), lane,
									 [](const KnownLane &a, const store::Lane &b) { return a.lane < b; });
				if (place != lanes_.end() && place->lane == lane && visit(*place))
					return true;
			}
		}
	}
	return false;
}

void Claimer::read_ahead(Reading &reading, const std::optional<std::string> &queue) {
	std::set<std::string> seen;
	reads_ahead_ = true;
	visit_ahead(reading.scope, reading.conditions, queue, [&](KnownLane &known) {
		seen.insert(known.lane.queue);
		if (!known.lane.grouped)
			known.limited.resize(std::max(known.limited.size(), reading.scope.limited.size()));
		const size_t before = reading.locked.tasks.size();
		read_lane(reading, known);
		if (reading.locked.tasks.size() > before)
			served(reading.conditions.flow, known, reading.locked.tasks.size() - before);
		if (reading.missing() > 0)
			return false;
		last_queue_ = known.lane.queue;
		return true;
	});
	reads_ahead_ = false;
	if (remembers_quiet_)
		return;
	/* What was found is of this scope, and the next one may be another. */
	for (const std::string &name : seen) {
		forget_above(name, PG_INT32_MIN);
		ahead_.erase(name);
		undiscovered_ = true;
	}
}

/* It has nothing to give in this turn; a worker looks again at that time, or (never) when a task has ended. */
void Claimer::close(Part &part, SteadyTime again_at) const noexcept {
	part.quiet = remembers_quiet_ && again_at == never;
	part.held_up = true;
	part.wait_until = remembers_quiet_ && again_at != never ? again_at : 0;
	part.closed_in = turn_;
}

/* There is no room in it: or what is less urgent would get what is freed while we read on. */
void Claimer::close_queue(const std::string &queue, SteadyTime again_at) {
	auto known =
		std::lower_bound(lanes_.begin(), lanes_.end(), queue,
						 [](const KnownLane &lane, const std::string &name) { return lane.lane.queue < name; });
	if (const auto ahead = ahead_.find(queue); ahead != ahead_.end())
		ahead->second.closed_in = turn_;
	for (; known != lanes_.end() && known->lane.queue == queue; ++known) {
		close(known->main, again_at);
		for (Part &part : known->limited)
			close(part, again_at);
		known->round.unfinished |= known->lane.grouped;
		known->round.any_end |= known->lane.grouped;
	}
}

void Claimer::close_type(size_t limited, SteadyTime again_at) {
	for (KnownLane &known : lanes_)
		if (limited < known.limited.size())
			close(known.limited[limited], again_at);
}

void Claimer::read_lane(Reading &reading, KnownLane &known) {
	const SteadyTime now = steady_now();
	const auto is_open = [this, now](const Part &part) { return part.is_open(now) && part.closed_in != turn_; };
	if (known.lane.grouped) {
		if (is_open(known.main))
			read_groups(reading, known);
		return;
	}
	const size_t parts = 1 + reading.scope.limited.size();
	for (size_t i = 0; i < parts && reading.missing() > 0; i++) {
		const size_t which = parts == 1 ? 0 : (turn_ / 2 + i) % parts;
		if (is_open(which == 0 ? known.main : known.limited[which - 1]))
			read_part(reading, known, which);
	}
}

/* Is there a task in these ranges? Takes what is before it out of them. */
static bool find_pending(const store::Lane &lane, const Scope &scope, IdRanges &unread) {
	while (!unread.empty()) {
		if (const std::optional<int64> first =
				store::first_pending(lane, unread.front(), scope.filter_for(lane.queue))) {
			unread.remove_below(*first);
			return true;
		}
		unread.remove_front();
	}
	return false;
}

/* "which": 0, or 1 + the limited scope. */
void Claimer::read_part(Reading &reading, KnownLane &known, size_t which) {
	const Scope &scope = which == 0 ? reading.scope : reading.scope.limited[which - 1];
	Part &part = which == 0 ? known.main : known.limited[which - 1];
	if (scope.filter_for(known.lane.queue).lets_nothing_through()) {
		part.quiet = remembers_quiet_;
		return;
	}
	const Flow &flow = reading.conditions.flow;
	const QueueFlow *const queue_flow = flow.queue(known.lane.queue);
	const std::string &queue = known.lane.queue;
	const TypeFlow *const type_flow =
		scope.is_limited ? flow.type(scope.limited_type(), queue, scope.claims()) : nullptr;
	const bool limited = reading.conditions.counts && ((queue_flow && queue_flow->rule.is_limit()) || type_flow);
	size_t wanted_in_all = reading.missing();
	if (limited) {
		if (!may_admit(reading.conditions)) {
			close(part, steady_now() + before_counting_us);
			return;
		}
		const auto admits = [&](const auto *flow_of_name, SteadyTime *again_at) {
			if (!flow_of_name || !flow_of_name->rule.is_limit())
				return true;
			const std::pair<uint64, Rule> limit[] = {{flow_of_name->name, flow_of_name->rule}};
			const int most = remembers_quiet_ ? 1 : static_cast<int>(wanted_in_all);
			wanted_in_all = static_cast<size_t>(count_admissible(limit, most, again_at));
			return wanted_in_all > 0;
		};
		SteadyTime again_at;
		if (!admits(queue_flow, &again_at)) {
			close_queue(known.lane.queue, again_at);
			return;
		}
		if (!admits(type_flow, &again_at)) {
			close_type(which - 1, again_at);
			return;
		}
		part.wait_until = 0;
	}
	part.held_up = false;
	const LaneKey key = key_of(scope, known);
	const SteadyTime started = steady_now();
	const Position position = enter_lane(key, scope.types);
	IdRanges unread = position.unread;
	if (limited && remembers_quiet_ && !reading.locked.empty()) {
		/* A worker runs it alone: this lane comes first next time. */
		const bool any = find_pending(known.lane, scope, unread);
		leave_lane(key, position, unread, steady_now() - started);
		part.quiet = !any;
		if (any)
			deferred_ = known.lane;
		reading.enough = any;
		return;
	}
	unread.add(own_ids(known.queue_hash, known.lane.priority));
	IdRange claimed;
	size_t found = 0;
	while (!unread.empty() && found < wanted_in_all && !reading.too_large) {
		const int wanted = static_cast<int>(wanted_in_all - found);
		std::vector<store::Candidate> candidates =
			(reading.by_place && !limited ? store::see_pending : store::lock_pending)(
				known.lane, unread.front(), scope.filter_for(known.lane.queue), wanted);
		/* What would be too large together with the others is left for the next time. */
		const auto rest = std::find_if(candidates.begin(), candidates.end(), [&reading](const auto &candidate) {
			return !candidate.not_before && !reading.has_room_for(candidate);
		});
		std::optional<int64> rest_from;
		if (rest != candidates.end()) {
			rest_from = rest->id;
			for (auto other = rest; other != candidates.end(); ++other)
				if (other->locked)
					guard([&] { note_returned(known.lane.queue, known.lane.priority, other->id, {}); });
			candidates.erase(rest, candidates.end());
		}
		if (!candidates.empty())
			claimed.add({candidates.front().id, candidates.back().id});
		if (rest_from)
			unread.remove_below(*rest_from);
		else if (candidates.size() < static_cast<size_t>(wanted) || candidates.back().id == PG_INT64_MAX)
			unread.remove_front();
		else
			unread.remove_below(candidates.back().id + 1);
		for (store::Candidate &candidate : candidates) {
			if (reading.is_early(candidate))
				continue;
			if (limited) {
				const Admission admission = flow.admission_of(candidate.id, queue, candidate.type, {}, scope.claims());
				if (!admit_task(reading.conditions, admission).admitted) {
					/* Somebody was faster: it is for others, or for later. */
					guard([&] { note_returned(known.lane.queue, known.lane.priority, candidate.id, {}); });
					const SteadyTime again_at = steady_now() + before_counting_us;
					if (queue_flow && queue_flow->rule.is_limit())
						close_queue(known.lane.queue, again_at);
					if (type_flow)
						close_type(which - 1, again_at);
					found = wanted_in_all;
					continue;
				}
				candidate.admitted_as = candidate.id;
				candidate.limited = true;
				candidate.plain = false;
			}
			found++;
			reading.add(known, std::move(candidate));
			reading.enough = limited && remembers_quiet_;
		}
	}
	if (!claimed.empty())
		guard([&] { note_claimed(known.lane.queue, known.lane.priority, claimed, false); });
	/* A snapshot older than the position could not see what was announced in between. */
	if (!IsolationUsesXactSnapshot() && !position.unread.empty())
		leave_lane(key, position, unread, steady_now() - started);
	if (unread.empty())
		part.quiet = remembers_quiet_;
	if (reading.missing() == 0 && !limited)
		reading.locked.unread = unread;
}

/* Groups */

/* False if it is not a token that it waits for, or too many do: then all are looked at in turn. */
bool Claimer::Round::wait(const std::string &group, SteadyTime again_at) {
	constexpr size_t most_waiting = 20000;
	if (again_at == never || (waiting.size() >= most_waiting && !waiting.contains(group)))
		return false;
	SteadyTime &when = waiting[group];
	due.erase({when, group});
	due.emplace(again_at, group);
	when = again_at;
	return true;
}

void Claimer::Round::wake(SteadyTime now) {
	while (!due.empty() && due.begin()->first <= now && hints.size() < most_hints) {
		waiting.erase(due.begin()->second);
		if (std::find(hints.begin(), hints.end(), due.begin()->second) == hints.end())
			hints.push_back(due.begin()->second);
		due.erase(due.begin());
	}
}

/* How many groups give so many tasks, as it seems. */
size_t Claimer::groups_for(const Round &round, size_t tasks) const {
	if (!remembers_quiet_)
		return tasks;
	const double yield = std::clamp(round.yield, 1.0, static_cast<double>(tasks_in_turn));
	return static_cast<size_t>(std::ceil(static_cast<double>(tasks) / yield));
}

/*
 * Locks tasks of the groups that may go on, of these whose heads are known. Returns how many of the heads it has looked
 * at; of those that wait for a token, when it comes.
 */
size_t Claimer::take_groups(Reading &reading, KnownLane &known, std::span<const store::GroupHead> heads,
							SteadyTime *again_at) {
	const Flow &flow = reading.conditions.flow;
	const std::string &queue = known.lane.queue;
	const store::TypeFilter &filter = reading.scope.filter_for(queue);
	const auto is_wanted = [&](std::string_view type, bool dead_letter) {
		return store::wants(filter, type, dead_letter) ||
			   std::any_of(reading.scope.limited.begin(), reading.scope.limited.end(), [&](const Scope &limited) {
				   return store::wants(limited.filter_for(queue), type, dead_letter);
			   });
	};
	const bool held = flow.holds_groups(queue);
	std::vector<store::GroupHead> admitted;
	std::vector<bool> limited; /* of the admitted */
	size_t most_at_once = 1;   /* of one group, for who works outside */
	bool any_limited = false;
	size_t seen = 0;
	const size_t missing = reading.missing();
	const size_t most_groups = groups_for(known.round, missing);
	for (; seen < heads.size() && admitted.size() < most_groups && !reading.enough; seen++) {
		const store::GroupHead &head = heads[seen];
		if (head.held || !is_wanted(head.type, head.dead_letter) || known.round.waiting.contains(head.group))
			continue;
		const Admission admission = flow.admission_of(head.id, queue, head.type, head.group, reading.scope.claims());
		const bool has_limits =
			admission.rules[0].is_limit() || admission.rules[1].is_limit() || admission.rules[2].token_ns > 0;
		if (has_limits && remembers_quiet_ && !(admitted.empty() && reading.locked.empty())) {
			deferred_ = known.lane;
			reading.enough = true;
			break;
		}
		const Verdict verdict = admit_task(reading.conditions, admission);
		if (!verdict.admitted) {
			if (verdict.by == Counted::queue) {
				close_queue(queue, verdict.again_at);
				break;
			}
			if (remembers_quiet_ && verdict.by == Counted::group && known.round.wait(head.group, verdict.again_at))
				continue;
			if (verdict.again_at != never)
				*again_at = std::min(*again_at, verdict.again_at);
			else
				known.round.any_end |= verdict.by != Counted::group;
			continue;
		}
		admitted.push_back(head);
		limited.push_back(has_limits);
		most_at_once = std::max(most_at_once, static_cast<size_t>(admission.rules[2].max_running));
		any_limited |= has_limits;
		if (has_limits && remembers_quiet_)
			reading.enough = true;
	}
	if (admitted.empty())
		return seen;
	/* A worker runs what it takes one after the other; where few groups can go on, more of each. */
	const bool several = remembers_quiet_ && !any_limited;
	const size_t in_turn = seen == heads.size() ? std::max(tasks_in_turn, missing / admitted.size()) : tasks_in_turn;
	const size_t each = std::min(several ? in_turn : remembers_quiet_ ? 1 : most_at_once, missing);
	std::vector<store::Candidate> candidates =
		store::lock_in_groups(known.lane, admitted, filter, static_cast<int>(each), held);
	std::vector<bool> locked(admitted.size(), false);
	/* A snapshot from before may not show what was announced since. */
	const bool advance = !IsolationUsesXactSnapshot() && !own_aborted();
	IdRange claimed;
	size_t group = 0;
	bool cut = false; /* what follows in this group is not for us, or not yet */
	for (store::Candidate &candidate : candidates) {
		claimed.add({candidate.id, candidate.id});
		if (candidate.passed)
			continue; /* who meets it locked meanwhile looks again, as we do */
		const bool first = group == admitted.size() || admitted[group].group != candidate.group || !locked[group];
		if (first) {
			group = static_cast<size_t>(
				std::find_if(admitted.begin(), admitted.end(),
							 [&](const store::GroupHead &head) { return head.group == candidate.group; }) -
				admitted.begin());
			cut = false;
		}
		const TypeFlow *const type_flow = flow.type(candidate.type, queue, reading.scope.claims());
		cut |= reading.is_full() || reading.is_early(candidate) || !is_wanted(candidate.type, candidate.dead_letter) ||
			   (!first && type_flow && (type_flow->rule.is_limit() || type_flow->group_limit > 0));
		cut = cut || !reading.has_room_for(candidate);
		if (!cut && !first && !remembers_quiet_) {
			/* Whoever works outside runs them at the same time. */
			const Admission admission =
				flow.admission_of(candidate.id, queue, candidate.type, candidate.group, reading.scope.claims());
			cut = !admit_task(reading.conditions, admission).admitted;
		}
		if (cut) {
			if (!candidate.not_before)
				guard([&] { note_returned(queue, known.lane.priority, candidate.id, candidate.group); });
			continue;
		}
		locked[group] = true;
		if (advance)
			if (const auto low = known.round.lows.find(candidate.group); low != known.round.lows.end())
				low->second = std::max(low->second, candidate.id + 1);
		candidate.admitted_as = remembers_quiet_ ? admitted[group].id : candidate.id;
		candidate.limited = limited[group];
		candidate.plain &= !candidate.limited;
		reading.add(known, std::move(candidate));
	}
	for (size_t i = 0; i < admitted.size(); i++) {
		if (locked[i])
			continue;
		/* Somebody holds its lock: it is looked at again at leisure. */
		take_back(admitted[i].id);
		*again_at = std::min(*again_at, steady_now() + after_lock_us);
	}
	if (several)
		known.round.yield +=
			0.2 * (static_cast<double>(candidates.size()) / static_cast<double>(admitted.size()) - known.round.yield);
	if (!claimed.empty())
		guard([&] { note_claimed(queue, known.lane.priority, claimed, true); });
	return seen;
}

void Claimer::read_groups(Reading &reading, KnownLane &known) {
	constexpr int most_statements = 40;
	Round &round = known.round;
	Part &part = known.main;
	part.held_up = false;
	if (!may_admit(reading.conditions)) {
		close(part, steady_now() + before_counting_us);
		return;
	}
	part.wait_until = 0;
	if (!remembers_quiet_) {
		round.unfinished = true;
		round.ends = 0;
	}
	if (own_aborted() || own_returned_groups())
		round.lows.clear(); /* what was given back is announced when the transaction ends */
	const bool held = reading.conditions.flow.holds_groups(known.lane.queue);
	SteadyTime again_at = never;
	if (remembers_quiet_)
		round.wake(steady_now());
	for (int statements = 0; reading.missing() > 0 && part.closed_in != turn_ && statements < most_statements;
		 statements++) {
		const size_t before = reading.locked.tasks.size();
		if (!round.hints.empty()) {
			const std::vector<store::GroupHead> heads = read_heads(known, round.hints, held);
			const size_t seen = take_groups(reading, known, heads, &again_at);
			if (seen == heads.size())
				round.hints.clear();
			else
				std::erase_if(round.hints, [&](const std::string &hint) {
					return std::none_of(heads.begin() + static_cast<ptrdiff_t>(seen), heads.end(),
										[&hint](const store::GroupHead &head) { return head.group == hint; });
				});
			if (reading.locked.tasks.size() > before)
				round.unfinished = true; /* there may be more in them */
			continue;
		}
		if (!round.unfinished)
			break;
		const int wanted = static_cast<int>(std::min<size_t>(groups_for(round, reading.missing()) + 1, 256));
		const bool from_start = round.latest.empty();
		bool last;
		const std::vector<store::GroupHead> heads = next_heads(known, round.latest, wanted, held, &last);
		const size_t seen = take_groups(reading, known, heads, &again_at);
		if (reading.locked.tasks.size() > before)
			round.ends = 0;
		if (seen > 0)
			round.latest = heads[seen - 1].group;
		if (seen < heads.size() || !last)
			continue;
		round.latest.clear();
		if (reading.locked.tasks.size() == before)
			round.ends += from_start ? 2 : 1;
		if (round.ends < 2)
			continue;
		round.ends = 0;
		if (again_at == never)
			round.unfinished = false;
		break;
	}
	round.unfinished |= again_at != never; /* who waits for a token is not announced again */
	if (part.closed_in == turn_)
		return;
	const SteadyTime next = round.due.empty() ? again_at : std::min(again_at, round.due.begin()->first);
	if (reading.locked.tasks.empty() && round.hints.empty() && next != never && remembers_quiet_)
		part.wait_until = next;
	part.quiet = remembers_quiet_ && !round.unfinished && round.hints.empty() && round.due.empty();
}

bool Claimer::has_work_in(const Scope &scope, const Conditions &conditions, KnownLane &known, Part &part) {
	const QueueFlow *const queue_flow = conditions.flow.queue(known.lane.queue);
	const TypeFlow *const type_flow =
		scope.is_limited ? conditions.flow.type(scope.limited_type(), known.lane.queue, scope.claims()) : nullptr;
	const std::pair<uint64, Rule> limits[] = {
		{queue_flow ? queue_flow->name : 0, queue_flow ? queue_flow->rule : Rule()},
		{type_flow ? type_flow->name : 0, type_flow ? type_flow->rule : Rule()}};
	if (limits[0].second.is_limit() || limits[1].second.is_limit()) {
		SteadyTime again_at = steady_now() + before_counting_us;
		if (!may_admit(conditions) || count_admissible(limits, 1, &again_at) == 0) {
			close(part, again_at);
			return false;
		}
		part.wait_until = 0;
	}
	if (scope.filter_for(known.lane.queue).lets_nothing_through()) {
		part.quiet = remembers_quiet_;
		return false;
	}
	const LaneKey key = key_of(scope, known);
	const SteadyTime started = steady_now();
	const Position position = enter_lane(key, scope.types);
	IdRanges unread = position.unread;
	const bool found = find_pending(known.lane, scope, unread);
	if (!position.unread.empty())
		leave_lane(key, position, unread, steady_now() - started);
	if (!found)
		part.quiet = remembers_quiet_;
	return found;
}

/* Looks at all groups; where there are very many, the worker that is started for it may find that there is nothing. */
bool Claimer::has_work_in_groups(const Scope &scope, const Conditions &conditions, KnownLane &known) {
	constexpr int most_statements = 20, heads_at_once = 256;
	const std::string &queue = known.lane.queue;
	if (!may_admit(conditions)) {
		close(known.main, steady_now() + before_counting_us);
		return false;
	}
	known.main.wait_until = 0;
	const bool held = conditions.flow.holds_groups(queue);
	std::string latest;
	SteadyTime wait_until = never;
	for (int statements = 0; statements < most_statements; statements++) {
		bool last;
		const std::vector<store::GroupHead> heads = next_heads(known, latest, heads_at_once, held, &last);
		for (const store::GroupHead &head : heads) {
			const auto wants = [&](const Scope &one) {
				return store::wants(one.filter_for(queue), head.type, head.dead_letter);
			};
			if (head.held || (!wants(scope) && std::none_of(scope.limited.begin(), scope.limited.end(), wants)))
				continue;
			const Admission admission =
				conditions.flow.admission_of(head.id, queue, head.type, head.group, scope.claims());
			std::pair<uint64, Rule> limits[counted_kinds];
			for (size_t i = 0; i < counted_kinds; i++)
				limits[i] = {admission.names[i], admission.rules[i]};
			SteadyTime again_at;
			if (count_admissible(limits, 1, &again_at) > 0)
				return true;
			wait_until = std::min(wait_until, again_at);
			known.round.any_end = true;
		}
		if (last) {
			close(known.main, wait_until);
			known.round.hints.clear();
			return false;
		}
		latest = heads.back().group;
	}
	return true;
}

bool Claimer::has_work(const Scope &scope, const Conditions &conditions) {
	discover();
	const SteadyTime now = steady_now();
	const auto has_some = [&](KnownLane &known) {
		if (is_closed(scope, known, conditions.pauses))
			return false;
		if (known.lane.grouped)
			return known.main.is_open(now) && has_work_in_groups(scope, conditions, known);
		known.limited.resize(scope.limited.size());
		if (known.main.is_open(now) && has_work_in(scope, conditions, known, known.main))
			return true;
		for (size_t i = 0; i < scope.limited.size(); i++)
			if (known.limited[i].is_open(now) && has_work_in(scope.limited[i], conditions, known, known.limited[i]))
				return true;
		return false;
	};
	if (std::any_of(lanes_.begin(), lanes_.end(), has_some) || visit_ahead(scope, conditions, {}, has_some))
		return true;
	/* Where there is much to look at, the worker that is started for it goes on. */
	return std::any_of(ahead_.begin(), ahead_.end(), [](const auto &one) { return !one.second.quiet; });
}

bool Claimer::more_after(const Scope &scope, const Locked &locked) {
	IdRanges unread = locked.unread;
	if (find_pending(locked.lanes.back(), scope, unread))
		return true;
	if (std::any_of(ahead_.begin(), ahead_.end(), [](const auto &one) { return !one.second.quiet; }))
		return true;
	return std::any_of(lanes_.begin(), lanes_.end(), [&](const KnownLane &known) {
		return !known.main.quiet && (locked.unread.empty() || !(known.lane == locked.lanes.back()));
	});
}

} // namespace jobqueue
