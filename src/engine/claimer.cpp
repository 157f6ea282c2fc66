/*
 * claimer.cpp -- see claimer.hpp. C++ region.
 */
#include "engine/claimer.hpp"

#include "engine/group_reader.hpp"
#include "engine/store/lanes.hpp"
#include "engine/store/type_filter.hpp"
#include "pg/debug.hpp"
#include "pg/raw_size.hpp"
#include "shared/admission.hpp"
#include "shared/ring.hpp"
#include "shared/transaction_notes.hpp"

namespace jobqueue {

bool Claimer::absorb(const Scope &scope) {
	if (shared() == nullptr) {
		lanes_.forget();
		lanes_.set_undiscovered();
		return true;
	}
	if (!started_) {
		position_ = ring_head();
		started_ = true;
	}
	if (lanes_.trim())
		order_.forget_passes();
	const auto take = [&](const News &news) {
		if (news.kind == AnnouncementKind::statement) {
			lanes_.look_everywhere();
			statements_ = true;
		} else if (news.kind == AnnouncementKind::capacity) {
			lanes_.note_capacity(scope, news);
		} else {
			if (news.grouped)
				lanes_.note_grouped(news);
			lanes_.learn({news.queue, news.priority, news.grouped},
						 news.type_hash == 0 || (type_mask(news.type_hash) & scope.types) != 0, news.group,
						 news.type_hash);
		}
	};
	follow_ring(position_, take, [this] { lanes_.look_everywhere(); });
	return lanes_.any_open();
}

/*
 * Why a queue has nothing to give until the configuration changes, when forget_quiet() is called; null if it may have
 * something.
 */
static const char *reason_to_skip(const Scope &scope, std::string_view queue, const store::Pauses &pauses) {
	const auto contains = [queue](const std::vector<std::string> &queues) {
		return std::find(queues.begin(), queues.end(), queue) != queues.end();
	};
	const store::TypeFilter &filter = scope.filter_for(queue);
	const auto lets_nothing_through = [queue](const Scope &one) {
		return one.filter_for(queue).lets_nothing_through();
	};
	if (pauses.all)
		return "all queues are paused";
	if (contains(pauses.queues))
		return "it is paused";
	if (!filter.dead_letters && contains(pauses.dead_letter_queues))
		return "it is for dead letters";
	if (lets_nothing_through(scope) && std::all_of(scope.limited.begin(), scope.limited.end(), lets_nothing_through))
		return "none of its types may be claimed";
	return nullptr;
}

static bool is_closed(const Scope &scope, const std::string &queue, const store::Pauses &pauses) {
	const char *const reason = reason_to_skip(scope, queue, pauses);
	if (reason != nullptr && is_debugging(DEBUG2)) {
		const char *const name = queue.c_str();
		guard([name, reason] { ereport(DEBUG2, (errmsg_internal("queue \"%s\" is skipped: %s", name, reason))); });
	}
	return reason != nullptr;
}

bool Claimer::is_closed(const Scope &scope, KnownLane &known, const store::Pauses &pauses) const {
	const bool closed = jobqueue::is_closed(scope, known.lane.queue, pauses);
	if (closed) {
		known.main.quiet = remembers_quiet_;
		for (LaneState &state : known.limited)
			state.quiet = remembers_quiet_;
	}
	return closed;
}

static LaneKey key_of(const Scope &scope, const KnownLane &known) noexcept {
	return {scope.key, known.queue_hash, MyDatabaseId, known.lane.priority, scope.role};
}

/* Is there a pending task in these ranges? Takes the ids before it out of them. */
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

/* Locking */

Locked Claimer::lock(const Scope &scope, const Conditions &conditions, const std::optional<std::string> &queue,
					 int count, bool by_tid) {
	visit_own_lanes(
		[](void *lanes, const char *lane_queue, int16 priority, bool grouped) {
			static_cast<KnownLanes *>(lanes)->learn({lane_queue, priority, grouped}, true, {}, 0);
		},
		&lanes_);
	if (own_statements())
		lanes_.set_undiscovered();
	if (lanes_.is_reading_ahead() && !remembers_quiet_) { /* the call before ended by an error while it read ahead */
		lanes_.forget();
		lanes_.set_undiscovered();
	}
	lanes_.set_reading_ahead(false);
	lanes_.discover();
	lanes_.begin_turn();
	ClaimPass pass{scope, conditions, static_cast<size_t>(count), by_tid,
				   remembers_quiet_ ? most_bytes_together : most_bytes_outside};
	if (conditions.throttling.has_order())
		LaneOrder::note_waiting(lanes_, conditions.throttling);
	if (!scope.limited.empty())
		for (KnownLane &known : lanes_)
			known.expect_limited(scope.limited.size());
	const bool is_plain = order_.is_plain(lanes_, conditions.throttling);
	const std::vector<size_t> order = is_plain ? std::vector<size_t>() : order_.order_of(lanes_, conditions.throttling);
	const size_t first = order_.first(lanes_);
	order_.forget_deferred();
	const size_t lanes = is_plain ? lanes_.size() : order.size();
	for (size_t i = 0; i < lanes; i++) {
		KnownLane &known = lanes_[is_plain ? (first + i) % lanes : order[i]];
		if (known.is_quiet())
			continue;
		if ((queue && known.lane.queue != *queue) || is_closed(scope, known, conditions.pauses))
			continue;
		if (!read_lane(pass, known) && known.main.quiet)
			known.waiting_since = 0;
		if (pass.missing() == 0) {
			order_.ended_in(known.lane.queue);
			break;
		}
	}
	if (pass.missing() > 0)
		read_ahead(pass, queue);
	if (!pass.early.empty()) {
		store::put_aside(pass.early);
		guard([&pass] { note_due(*pass.due); });
	}
	return std::move(pass.locked);
}

/* False if the lane gave no task. */
bool Claimer::read_lane(ClaimPass &pass, KnownLane &known) {
	const SteadyTime now = steady_now();
	const size_t turn = lanes_.turn();
	const auto is_open = [now, turn](const LaneState &state) { return state.is_open(now) && state.closed_in != turn; };
	const size_t before = pass.locked.tasks.size();
	if (known.lane.grouped) {
		if (is_open(known.main))
			GroupReader(lanes_, order_, known).read(pass);
	} else {
		const size_t scopes = 1 + pass.scope.limited.size();
		for (size_t i = 0; i < scopes && pass.missing() > 0; i++) {
			const size_t which = scopes == 1 ? 0 : (turn / 2 + i) % scopes;
			if (is_open(which == 0 ? known.main : known.limited[which - 1]))
				read_tasks(pass, known, which);
		}
	}
	const size_t found = pass.locked.tasks.size() - before;
	if (found > 0)
		order_.served(lanes_, pass.conditions.throttling, known, found);
	return found > 0;
}

/* How many tasks the limits let begin, at most as many as are missing. If none, closes what the limits hold back. */
size_t Claimer::admissible(const ClaimPass &pass, KnownLane &known, size_t which, const QueueThrottling *of_queue,
						   const TypeThrottling *of_type) {
	LaneState &state = which == 0 ? known.main : known.limited[which - 1];
	if (!pass.conditions.may_admit()) {
		lanes_.close(state, steady_now() + before_counting_us);
		return 0;
	}
	size_t count = pass.missing();
	const auto admits = [&](const auto *limits, SteadyTime *again_at) {
		if (!limits || !limits->rule.is_limit())
			return true;
		const std::pair<uint64, Rule> limit[] = {{limits->name, limits->rule}};
		const int most = remembers_quiet_ ? 1 : static_cast<int>(count);
		count = static_cast<size_t>(count_admissible(limit, most, again_at));
		return count > 0;
	};
	SteadyTime again_at;
	if (!admits(of_queue, &again_at))
		lanes_.close_queue(known.lane.queue, again_at);
	else if (!admits(of_type, &again_at))
		lanes_.close_type(which - 1, again_at);
	else
		state.wait_until = 0;
	return count;
}

/* Counts the task under its limits. False if another claimer was faster: then the task is for others, or for later. */
bool Claimer::may_begin(const ClaimPass &pass, const KnownLane &known, size_t which,
						const store::Candidate &candidate) {
	const Throttling &throttling = pass.conditions.throttling;
	const Scope &scope = which == 0 ? pass.scope : pass.scope.limited[which - 1];
	const std::string &queue = known.lane.queue;
	if (pass.conditions.admit(throttling.admission_of(candidate.id, queue, candidate.type, {}, scope.claims()))
			.admitted)
		return true;
	guard([&] { note_returned(queue, known.lane.priority, candidate.id, {}); });
	const SteadyTime again_at = steady_now() + before_counting_us;
	if (const QueueThrottling *const of_queue = throttling.queue(queue); of_queue && of_queue->rule.is_limit())
		lanes_.close_queue(queue, again_at);
	if (scope.is_limited && throttling.type(scope.limited_type(), queue, scope.claims()))
		lanes_.close_type(which - 1, again_at);
	return false;
}

/* Reads a lane without groups. "which": 0 = the scope itself, or 1 + the index of a limited scope. */
void Claimer::read_tasks(ClaimPass &pass, KnownLane &known, size_t which) {
	const Scope &scope = which == 0 ? pass.scope : pass.scope.limited[which - 1];
	LaneState &state = which == 0 ? known.main : known.limited[which - 1];
	const std::string &queue = known.lane.queue;
	if (scope.filter_for(queue).lets_nothing_through()) {
		state.quiet = remembers_quiet_;
		return;
	}
	const QueueThrottling *const of_queue = pass.conditions.throttling.queue(queue);
	const TypeThrottling *const of_type =
		scope.is_limited ? pass.conditions.throttling.type(scope.limited_type(), queue, scope.claims()) : nullptr;
	const bool limited = pass.conditions.counts && ((of_queue && of_queue->rule.is_limit()) || of_type);
	const size_t wanted_in_all = limited ? admissible(pass, known, which, of_queue, of_type) : pass.missing();
	if (wanted_in_all == 0)
		return;
	state.held_up = false;
	const LaneKey key = key_of(scope, known);
	const SteadyTime started = steady_now();
	const Position position = enter_lane(key, scope.types);
	IdRanges unread = position.unread;
	if (limited && remembers_quiet_ && !pass.locked.empty()) {
		/* A worker runs a task under a limit alone, and has others now: this lane comes first next time. */
		const bool any = find_pending(known.lane, scope, unread);
		leave_lane(key, position, unread, steady_now() - started);
		state.quiet = !any;
		if (any)
			order_.defer(known.lane);
		pass.enough = any;
		return;
	}
	unread.add(own_ids(known.queue_hash, known.lane.priority));
	IdRange claimed;
	size_t found = 0;
	while (!unread.empty() && found < wanted_in_all && !pass.too_large) {
		const int wanted = static_cast<int>(wanted_in_all - found);
		std::vector<store::Candidate> candidates = (pass.by_tid && !limited ? store::see_pending : store::lock_pending)(
			known.lane, unread.front(), scope.filter_for(queue), wanted);
		/* What would be too large together with the others is left for the next time. */
		const auto rest = std::find_if(candidates.begin(), candidates.end(), [&pass](const auto &candidate) {
			return !candidate.not_before && !pass.has_room_for(candidate);
		});
		std::optional<int64> rest_from;
		if (rest != candidates.end()) {
			rest_from = rest->id;
			for (auto other = rest; other != candidates.end(); ++other)
				if (other->locked)
					guard([&] { note_returned(queue, known.lane.priority, other->id, {}); });
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
			if (pass.is_early(candidate))
				continue;
			if (limited) {
				if (!may_begin(pass, known, which, candidate)) {
					found = wanted_in_all;
					continue;
				}
				candidate.admitted_as = candidate.id;
				candidate.limited = true;
				candidate.plain = false;
			}
			found++;
			pass.add(known, std::move(candidate));
			pass.enough = limited && remembers_quiet_;
		}
	}
	if (!claimed.empty())
		guard([&] { note_claimed(queue, known.lane.priority, claimed, false); });
	/* The position is not moved with an older snapshot, which could not see what was announced in between. */
	if (!IsolationUsesXactSnapshot() && !position.unread.empty())
		leave_lane(key, position, unread, steady_now() - started);
	if (unread.empty())
		state.quiet = remembers_quiet_;
	if (pass.missing() == 0 && !limited)
		pass.locked.unread = unread;
}

/* Lanes that are not known */

/*
 * Calls visit(known lane) for the next lanes of queues with very many priorities, until that returns true; queues take
 * turns. False if it never did, and no more lanes are open; or if enough were looked at for one call: then
 * lanes_.any_ahead() is true.
 */
template <typename Visit>
bool Claimer::visit_ahead(const Scope &scope, const Conditions &conditions, const std::optional<std::string> &queue,
						  Visit &&visit) {
	/* A claimer that does not come back to go on later looks further at once. */
	const int most_scans = remembers_quiet_ ? 8 : 64;
	auto &queues_ahead = lanes_.ahead();
	std::vector<std::string> queues;
	for (auto one = queues_ahead.upper_bound(last_ahead_); one != queues_ahead.end(); ++one)
		queues.push_back(one->first);
	for (auto one = queues_ahead.begin(); one != queues_ahead.end() && one->first <= last_ahead_; ++one)
		queues.push_back(one->first);
	int scans = 0;
	for (const std::string &name : queues) {
		if (queue && name != *queue)
			continue;
		for (auto ahead = queues_ahead.find(name); ahead != queues_ahead.end(); ahead = queues_ahead.find(name)) {
			/* Enough lanes that come before may have tasks. */
			const auto has_some = [](const KnownLane &lane) { return !lane.is_empty(); };
			const bool enough = remembers_quiet_ && std::ranges::count_if(lanes_.of_queue(name), has_some) >=
														static_cast<ptrdiff_t>(most_lanes_of_queue / 2);
			if (enough || ahead->second.closed_in == lanes_.turn() ||
				jobqueue::is_closed(scope, name, conditions.pauses)) {
				ahead->second.quiet = remembers_quiet_;
				break;
			}
			if (scans++ == most_scans)
				return false;
			last_ahead_ = name;
			for (const store::Lane &lane : lanes_.look_ahead(scope, name))
				if (KnownLane *const known = lanes_.find(lane); known != nullptr && visit(*known))
					return true;
		}
	}
	return false;
}

void Claimer::read_ahead(ClaimPass &pass, const std::optional<std::string> &queue) {
	std::set<std::string> seen;
	lanes_.set_reading_ahead(true);
	visit_ahead(pass.scope, pass.conditions, queue, [&](KnownLane &known) {
		seen.insert(known.lane.queue);
		known.expect_limited(pass.scope.limited.size());
		read_lane(pass, known);
		if (pass.missing() > 0)
			return false;
		order_.ended_in(known.lane.queue);
		return true;
	});
	lanes_.set_reading_ahead(false);
	if (remembers_quiet_)
		return;
	/* These lanes were found for this scope, and the next call may have another one. */
	for (const std::string &name : seen) {
		lanes_.forget_above(name, PG_INT32_MIN);
		lanes_.ahead().erase(name);
		lanes_.set_undiscovered();
	}
}

/* Looking */

bool Claimer::has_work_in(const Scope &scope, const Conditions &conditions, KnownLane &known, LaneState &state) {
	const QueueThrottling *const of_queue = conditions.throttling.queue(known.lane.queue);
	const TypeThrottling *const of_type =
		scope.is_limited ? conditions.throttling.type(scope.limited_type(), known.lane.queue, scope.claims()) : nullptr;
	const std::pair<uint64, Rule> limits[] = {{of_queue ? of_queue->name : 0, of_queue ? of_queue->rule : Rule()},
											  {of_type ? of_type->name : 0, of_type ? of_type->rule : Rule()}};
	if (limits[0].second.is_limit() || limits[1].second.is_limit()) {
		SteadyTime again_at = steady_now() + before_counting_us;
		if (!conditions.may_admit() || count_admissible(limits, 1, &again_at) == 0) {
			lanes_.close(state, again_at);
			return false;
		}
		state.wait_until = 0;
	}
	if (scope.filter_for(known.lane.queue).lets_nothing_through()) {
		state.quiet = remembers_quiet_;
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
		state.quiet = remembers_quiet_;
	return found;
}

std::optional<bool> Claimer::has_work(const Scope &scope, const Conditions &conditions, SteadyTime until) {
	lanes_.discover();
	const SteadyTime now = steady_now();
	bool time_is_over = false;
	int looked = 0;
	const auto look = [&](auto &&has_some) {
		time_is_over = ++looked > 1 && steady_now() >= until;
		return time_is_over || has_some();
	};
	const auto look_in = [&](KnownLane &known) {
		if (is_closed(scope, known, conditions.pauses))
			return false;
		if (known.lane.grouped)
			return known.main.is_open(now) &&
				   look([&] { return GroupReader(lanes_, order_, known).has_work(scope, conditions); });
		known.limited.resize(scope.limited.size());
		if (known.main.is_open(now) && look([&] { return has_work_in(scope, conditions, known, known.main); }))
			return true;
		for (size_t i = 0; i < scope.limited.size(); i++)
			if (known.limited[i].is_open(now) &&
				look([&] { return has_work_in(scope.limited[i], conditions, known, known.limited[i]); }))
				return true;
		return false;
	};
	/* If there is more to look at, the answer is yes: the worker that is started then goes on. */
	const bool found = std::any_of(lanes_.begin(), lanes_.end(), look_in) ||
					   visit_ahead(scope, conditions, {}, look_in) || lanes_.any_ahead();
	return time_is_over && !lanes_.any_ahead() ? std::nullopt : std::optional(found);
}

bool Claimer::more_after(const Scope &scope, const Locked &locked) {
	IdRanges unread = locked.unread;
	if (find_pending(locked.lanes.back(), scope, unread) || lanes_.any_ahead())
		return true;
	return std::any_of(lanes_.begin(), lanes_.end(), [&](const KnownLane &known) {
		return !known.main.quiet && (locked.unread.empty() || !(known.lane == locked.lanes.back()));
	});
}

} // namespace jobqueue
