/*
 * claimer.cpp -- see claimer.hpp. C++ region.
 */
#include "engine/claimer.hpp"

#include "shared/announcements.hpp"

namespace jobqueue {

static constexpr size_t many_lanes = 8192;

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

/* "news": there may be something in it for us. */
void Claimer::learn(std::string_view queue, int16 priority, bool news) {
	store::Lane lane{std::string(queue), priority};
	const auto place = std::lower_bound(lanes_.begin(), lanes_.end(), lane,
										[](const KnownLane &a, const store::Lane &b) { return a.lane < b; });
	if (place == lanes_.end() || !(place->lane == lane))
		lanes_.insert(place, KnownLane{std::move(lane), hash_name(queue)});
	else if (news)
		place->quiet = false;
}

void Claimer::forget_quiet() {
	for (KnownLane &lane : lanes_)
		lane.quiet = false;
	undiscovered_ = true;
}

bool Claimer::absorb(const Scope &scope) {
	if (shared() == nullptr) {
		lanes_.clear();
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
			std::erase_if(lanes_, [](const KnownLane &lane) { return lane.quiet; });
		else
			lanes_.clear();
		undiscovered_ |= lanes_.empty();
		lane_limit_ = std::max(many_lanes, 2 * lanes_.size());
	}
	const auto take = [&](const News &news) {
		if (news.kind == AnnouncementKind::statement) {
			forget_quiet();
			statements_ = true;
		} else {
			learn(news.queue, news.priority, news.type_hash == 0 || (type_mask(news.type_hash) & scope.types) != 0);
		}
	};
	follow_ring(position_, take, [this] { forget_quiet(); });
	return undiscovered_ ||
		   std::any_of(lanes_.begin(), lanes_.end(), [](const KnownLane &lane) { return !lane.quiet; });
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
	for (const store::Lane &lane : store::discover_lanes(known))
		learn(lane.queue, lane.priority, true);
	lane_limit_ = std::max(lane_limit_, 2 * lanes_.size());
	undiscovered_ = false;
}

/* A closed lane has nothing to give until the configuration changes, and then forget_quiet() is called. */
bool Claimer::is_closed(const Scope &scope, KnownLane &known, const store::Pauses &pauses) const {
	const auto contains = [&known](const std::vector<std::string> &queues) {
		return std::find(queues.begin(), queues.end(), known.lane.queue) != queues.end();
	};
	const store::TypeFilter &filter = scope.filter_for(known.lane.queue);
	const bool closed = pauses.all || contains(pauses.queues) ||
						(!filter.dead_letters && contains(pauses.dead_letter_queues)) || filter.lets_nothing_through();
	if (closed)
		known.quiet = remembers_quiet_;
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

Locked Claimer::lock(const Scope &scope, const store::Pauses &pauses, const std::optional<std::string> &queue,
					 int count) {
	Locked locked;
	visit_own_lanes([](void *self, const char *lane_queue,
					   int16 priority) { static_cast<Claimer *>(self)->learn(lane_queue, priority, true); },
					this);
	undiscovered_ |= own_statements();
	discover();
	/* A snapshot older than the position could not see what was announced in between. */
	const bool fresh_snapshots = !IsolationUsesXactSnapshot();
	std::vector<int64> early;
	std::optional<TimestampTz> due;

	const size_t begin = first_to_read();
	for (size_t i = 0; i < lanes_.size(); i++) {
		KnownLane &known = lanes_[(begin + i) % lanes_.size()];
		if (known.quiet || (queue && known.lane.queue != *queue) || is_closed(scope, known, pauses))
			continue;
		const LaneKey key = key_of(scope, known);
		const TimestampTz started = GetCurrentTimestamp();
		const Position position = enter_lane(key, scope.types);
		IdRanges unread = position.unread;
		unread.add(own_ids(known.queue_hash, known.lane.priority));
		IdRange claimed;
		while (!unread.empty() && locked.tasks.size() < static_cast<size_t>(count)) {
			const int wanted = count - static_cast<int>(locked.tasks.size());
			std::vector<store::Candidate> candidates =
				store::lock_pending(known.lane, unread.front(), scope.filter_for(known.lane.queue), wanted);
			if (!candidates.empty())
				claimed.add({candidates.front().id, candidates.back().id});
			if (candidates.size() < static_cast<size_t>(wanted) || candidates.back().id == PG_INT64_MAX)
				unread.remove_front();
			else
				unread.remove_below(candidates.back().id + 1);
			for (store::Candidate &candidate : candidates) {
				if (candidate.not_before) {
					early.push_back(candidate.id);
					due = std::min(due.value_or(DT_NOEND), *candidate.not_before);
					continue;
				}
				if (locked.lanes.empty() || !(locked.lanes.back() == known.lane))
					locked.lanes.push_back(known.lane);
				candidate.lane = static_cast<uint32>(locked.lanes.size() - 1);
				locked.tasks.push_back(std::move(candidate));
			}
		}
		if (!claimed.empty())
			guard([&] { note_claimed(known.lane.queue, known.lane.priority, claimed); });
		if (fresh_snapshots && !position.unread.empty())
			leave_lane(key, position, unread, GetCurrentTimestamp() - started);
		if (unread.empty())
			known.quiet = remembers_quiet_;
		if (locked.tasks.size() == static_cast<size_t>(count)) {
			last_queue_ = known.lane.queue;
			locked.unread = unread;
			break;
		}
	}
	if (!early.empty()) {
		store::put_aside(early);
		guard([&] { note_due(*due); });
	}
	return locked;
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

bool Claimer::has_work(const Scope &scope, const store::Pauses &pauses) {
	discover();
	for (KnownLane &known : lanes_) {
		if (known.quiet || is_closed(scope, known, pauses))
			continue;
		const LaneKey key = key_of(scope, known);
		const TimestampTz started = GetCurrentTimestamp();
		const Position position = enter_lane(key, scope.types);
		IdRanges unread = position.unread;
		const bool found = find_pending(known.lane, scope, unread);
		if (!position.unread.empty())
			leave_lane(key, position, unread, GetCurrentTimestamp() - started);
		if (found)
			return true;
		known.quiet = remembers_quiet_;
	}
	return false;
}

bool Claimer::more_after(const Scope &scope, const Locked &locked) {
	IdRanges unread = locked.unread;
	if (find_pending(locked.lanes.back(), scope, unread))
		return true;
	return std::any_of(lanes_.begin(), lanes_.end(), [&](const KnownLane &known) {
		return !known.quiet && (locked.unread.empty() || !(known.lane == locked.lanes.back()));
	});
}

} // namespace jobqueue
