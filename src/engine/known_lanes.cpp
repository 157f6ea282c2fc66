/*
 * known_lanes.cpp -- see known_lanes.hpp. C++ region.
 */
#include "engine/known_lanes.hpp"

#include "engine/store/type_filter.hpp"
#include "pg/debug.hpp"
#include "shared/ring.hpp"

namespace jobqueue {

static constexpr size_t many_lanes = 8192;
static constexpr size_t most_hints = 64;
/* How often, at most, deep groups are read from their beginnings, to find tasks that nobody announced. */
static constexpr int64 sweep_deep_us = USECS_PER_MINUTE;

/* Groups */

bool GroupCursor::wait(const std::string &group, SteadyTime again_at) {
	constexpr size_t most_waiting = 20000;
	if (again_at == never || (waiting.size() >= most_waiting && !waiting.contains(group)))
		return false;
	SteadyTime &when = waiting[group];
	due.erase({when, group});
	due.emplace(again_at, group);
	when = again_at;
	return true;
}

void GroupCursor::wake(SteadyTime now) {
	while (!due.empty() && due.begin()->first <= now && hints.size() < most_hints) {
		waiting.erase(due.begin()->second);
		if (std::find(hints.begin(), hints.end(), due.begin()->second) == hints.end())
			hints.push_back(due.begin()->second);
		due.erase(due.begin());
	}
}

void GroupCursor::hint(std::string_view group) {
	if (group.empty() || hints.size() >= most_hints)
		unfinished = true;
	else if (std::find(hints.begin(), hints.end(), group) == hints.end())
		hints.emplace_back(group);
	ends = 0;
}

/* The lanes */

static bool comes_before(const KnownLane &known, const store::Lane &lane) noexcept {
	return known.lane < lane;
}

KnownLane *KnownLanes::find(const store::Lane &lane) noexcept {
	const auto found = std::lower_bound(lanes_.begin(), lanes_.end(), lane, comes_before);
	return found != lanes_.end() && found->lane == lane ? &*found : nullptr;
}

std::span<KnownLane> KnownLanes::of_queue(std::string_view queue) noexcept {
	const auto first =
		std::lower_bound(lanes_.begin(), lanes_.end(), queue,
						 [](const KnownLane &lane, std::string_view name) { return lane.lane.queue < name; });
	const auto last =
		std::find_if(first, lanes_.end(), [queue](const KnownLane &lane) { return lane.lane.queue != queue; });
	return {first, last};
}

void KnownLanes::forget() {
	lanes_.clear();
	ahead_.clear();
	grouped_lanes_ = 0;
}

void KnownLanes::forget_above(const std::string &queue, int32 priority) {
	std::erase_if(lanes_, [&](const KnownLane &known) {
		const bool is_above = known.lane.queue == queue && known.lane.priority > priority;
		grouped_lanes_ -= is_above && known.lane.grouped;
		return is_above;
	});
	ahead_[queue] = {priority};
}

bool KnownLanes::trim() {
	if (lanes_.size() <= limit_)
		return false;
	if (remembers_quiet_)
		std::erase_if(lanes_, [](const KnownLane &lane) {
			return lane.main.quiet && std::all_of(lane.limited.begin(), lane.limited.end(),
												  [](const LaneState &state) { return state.quiet; });
		});
	else
		forget();
	grouped_lanes_ = static_cast<size_t>(
		std::count_if(lanes_.begin(), lanes_.end(), [](const KnownLane &lane) { return lane.lane.grouped; }));
	undiscovered_ |= lanes_.empty();
	limit_ = std::max(many_lanes, 2 * lanes_.size());
	return true;
}

/* Keeps few lanes of a queue, so that the work for them does not grow with the number of priorities. */
void KnownLanes::bound(const std::string &queue) {
	if (lanes_.size() <= most_lanes_of_queue || of_queue(queue).size() <= most_lanes_of_queue ||
		(reads_ahead_ && !remembers_quiet_))
		return;
	if (remembers_quiet_)
		std::erase_if(lanes_, [&](const KnownLane &known) {
			if (known.lane.queue != queue || !known.is_empty())
				return false;
			if (known.lane.grouped) {
				grouped_lanes_--;
				forgotten_groups_.insert(known.queue_hash); /* its groups may wait for the end of one of their tasks */
			}
			return true;
		});
	const std::span<KnownLane> lanes = of_queue(queue);
	if (lanes.size() > most_lanes_of_queue)
		forget_above(queue, lanes[most_lanes_of_queue / 2 - 1].lane.priority);
}

void KnownLanes::learn(const store::Lane &lane, bool news, std::string_view group, uint64 type_hash) {
	const auto known = std::lower_bound(lanes_.begin(), lanes_.end(), lane, comes_before);
	if (known == lanes_.end() || !(known->lane == lane)) {
		if (const auto ahead = ahead_.find(lane.queue);
			ahead != ahead_.end() && lane.priority > ahead->second.known_up_to) {
			ahead->second.quiet = ahead->second.quiet && !news;
			return;
		}
		lanes_.insert(known, KnownLane{lane, hash_name(lane.queue)});
		grouped_lanes_ += lane.grouped;
		bound(lane.queue);
		return;
	}
	if (lane.grouped) {
		known->groups.hint(group);
		known->main = {}; /* the lane may wait for a token of another group */
		return;
	}
	if (news)
		known->main.quiet = false;
	/* There are few types with limits, and looking for them costs little more. */
	if (news || type_hash == 0)
		for (LaneState &state : known->limited)
			state.quiet = false;
}

void KnownLanes::note_capacity(const Scope &scope, const News &news) {
	for (auto &[queue, ahead] : ahead_)
		ahead.quiet = false;
	undiscovered_ |= !forgotten_groups_.empty() && forgotten_groups_.erase(news.queue_hash) > 0;
	for (KnownLane &known : lanes_) {
		const bool same_queue = known.queue_hash == news.queue_hash;
		if (same_queue)
			known.main.quiet = false;
		if (same_queue || news.type_hash != 0)
			for (LaneState &state : known.limited)
				state.quiet = false; /* the type is not compared */
		if (!known.lane.grouped || (!same_queue && scope.limited.empty()))
			continue;
		const bool any_end = std::exchange(known.groups.any_end, false);
		if (!same_queue && !any_end)
			continue;
		known.groups.hint(same_queue && !any_end ? std::string_view(news.group) : std::string_view());
		known.main = {};
	}
}

void KnownLanes::note_grouped(const News &news) {
	KnownLane *const known = find({news.queue, news.priority, true});
	if (known == nullptr)
		return;
	GroupCursor &groups = known->groups;
	if (news.kind == AnnouncementKind::sweep) {
		/* A sweep names only the first task of all groups. */
		const SteadyTime now = steady_now();
		if (now - groups.swept_at < sweep_deep_us)
			return;
		groups.swept_at = now;
		groups.lows.clear();
	}
	for (auto &[group, low] : groups.lows)
		if (news.group[0] == '\0' || group == news.group)
			low = std::min(low, news.ids.low);
}

void KnownLanes::forget_quiet() {
	for (KnownLane &lane : lanes_) {
		lane.groups.waiting.clear();
		lane.groups.due.clear();
	}
	look_everywhere();
}

void KnownLanes::look_everywhere() {
	for (KnownLane &lane : lanes_) {
		lane.groups.lows.clear();
		lane.main = {};
		lane.limited.clear();
		lane.groups.unfinished = true;
		lane.groups.ends = 0;
	}
	for (auto &[queue, ahead] : ahead_)
		ahead.quiet = false;
	undiscovered_ = true;
}

bool KnownLanes::any_open() const noexcept {
	const SteadyTime now = steady_now();
	const auto is_open = [now](const LaneState &state) { return state.is_open(now); };
	return undiscovered_ ||
		   std::any_of(lanes_.begin(), lanes_.end(),
					   [&is_open](const KnownLane &lane) {
						   return is_open(lane.main) || std::any_of(lane.limited.begin(), lane.limited.end(), is_open);
					   }) ||
		   any_ahead();
}

SteadyTime KnownLanes::next_time() const noexcept {
	SteadyTime next = never;
	const auto look_at = [&next](const LaneState &state) {
		if (!state.quiet && state.wait_until > 0)
			next = std::min(next, state.wait_until);
	};
	for (const KnownLane &lane : lanes_) {
		look_at(lane.main);
		std::for_each(lane.limited.begin(), lane.limited.end(), look_at);
	}
	return next;
}

void KnownLanes::discover() {
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
	limit_ = std::max(limit_, 2 * lanes_.size());
	undiscovered_ = false;
}

std::vector<store::Lane> KnownLanes::look_ahead(const Scope &scope, const std::string &queue) {
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

/* Closing */

void KnownLanes::close(LaneState &state, SteadyTime again_at) const noexcept {
	state.quiet = remembers_quiet_ && again_at == never;
	state.held_up = true;
	state.wait_until = remembers_quiet_ && again_at != never ? again_at : 0;
	state.closed_in = turn_;
}

/* How long to wait, for a message; 0: until a task ends. */
static long wait_ms(SteadyTime again_at) noexcept {
	return again_at == never ? 0 : static_cast<long>(std::max<int64>(again_at - steady_now(), 1000) / 1000);
}

void KnownLanes::close_queue(const std::string &queue, SteadyTime again_at) {
	if (is_debugging(DEBUG2)) {
		const char *const name = queue.c_str();
		const long ms = wait_ms(again_at);
		guard([name, ms] {
			ereport(DEBUG2, (errmsg_internal("no more tasks of queue \"%s\" may begin: its limit is reached", name),
							 ms == 0 ? errdetail_internal("One may begin when another ends.")
									 : errdetail_internal("One may begin in %ld ms.", ms)));
		});
	}
	if (const auto ahead = ahead_.find(queue); ahead != ahead_.end())
		ahead->second.closed_in = turn_;
	for (KnownLane &known : of_queue(queue)) {
		close(known.main, again_at);
		for (LaneState &state : known.limited)
			close(state, again_at);
		known.groups.unfinished |= known.lane.grouped;
		known.groups.any_end |= known.lane.grouped;
	}
}

void KnownLanes::close_type(size_t limited, SteadyTime again_at) {
	if (is_debugging(DEBUG2)) {
		const long ms = wait_ms(again_at);
		guard([ms] {
			ereport(DEBUG2, (errmsg_internal("no more tasks of a type may begin: the limit of its handler is reached"),
							 ms == 0 ? errdetail_internal("One may begin when another ends.")
									 : errdetail_internal("One may begin in %ld ms.", ms)));
		});
	}
	for (KnownLane &known : lanes_)
		if (limited < known.limited.size())
			close(known.limited[limited], again_at);
}

} // namespace jobqueue
