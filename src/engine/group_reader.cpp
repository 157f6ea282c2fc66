/*
 * group_reader.cpp -- see group_reader.hpp. C++ region.
 */
#include "engine/group_reader.hpp"

#include "engine/store/type_filter.hpp"
#include "shared/admission.hpp"
#include "shared/transaction_notes.hpp"

#include <cmath>

namespace jobqueue {

/* When to look again at a group whose first task somebody else has locked. */
static constexpr int64 after_lock_us = 20000;
/* Finding a head takes a few buffers; if it takes more, there are dead entries in front of it. */
static constexpr int64 buffers_for_head = 40, buffers_for_deep_head = 80;
static constexpr size_t most_deep = 1000;
/* A worker takes so many tasks of a group before it is another group's turn: short ones, one after the other. */
static constexpr size_t tasks_in_turn = 10;

/* Heads */

std::vector<store::GroupHead> GroupReader::read_heads(std::span<const std::string> groups, bool held) {
	std::vector<int64> lows;
	for (const std::string &group : groups) {
		const auto found = cursor_.lows.find(group);
		lows.push_back(found == cursor_.lows.end() ? PG_INT64_MIN : found->second);
	}
	return store::heads_of(known_.lane, groups, lows, held);
}

/* Finds groups with many dead index entries before their heads, and notes from where to read them. */
void GroupReader::find_deep(std::span<store::GroupHead> heads, bool held) {
	if (cursor_.lows.size() + heads.size() > most_deep)
		cursor_.lows.clear();
	for (store::GroupHead &head : heads) {
		const int64 before = buffers_touched();
		read_heads({&head.group, 1}, held);
		if (buffers_touched() - before > buffers_for_deep_head)
			head.low = cursor_.lows[head.group] = head.id;
	}
}

/* The heads of the groups after this one, in their order. "last": there are no further groups. */
std::vector<store::GroupHead> GroupReader::next_heads(const std::string &after, int count, bool held, bool *last) {
	std::vector<store::GroupHead> heads;
	std::string latest = after;
	for (;;) {
		const auto next_deep = cursor_.lows.upper_bound(latest);
		const std::optional<std::string> deep =
			next_deep == cursor_.lows.end() ? std::nullopt : std::optional(next_deep->first);
		const int wanted = count - static_cast<int>(heads.size());
		const int64 before = buffers_touched();
		std::vector<store::GroupHead> found = store::group_heads(known_.lane, latest, deep, wanted, held);
		const int64 touched = buffers_touched() - before;
		if (touched > buffers_for_deep_head + buffers_for_head * static_cast<int64>(found.size()) &&
			!IsolationUsesXactSnapshot())
			find_deep(found, held);
		const bool enough = found.size() == static_cast<size_t>(wanted);
		std::ranges::move(found, std::back_inserter(heads));
		*last = !enough && !deep;
		if (enough || !deep)
			return heads;
		latest = *deep;
		std::ranges::move(read_heads({&latest, 1}, held), std::back_inserter(heads));
		if (heads.size() == static_cast<size_t>(count))
			return heads;
	}
}

/* How many groups will give so many tasks, as an estimate. */
size_t GroupReader::groups_for(size_t tasks) const {
	if (!lanes_.remembers_quiet())
		return tasks;
	const double yield = std::clamp(cursor_.yield, 1.0, static_cast<double>(tasks_in_turn));
	return static_cast<size_t>(std::ceil(static_cast<double>(tasks) / yield));
}

bool GroupReader::is_wanted(const Scope &scope, std::string_view type, bool dead_letter) const {
	const auto wants = [&](const Scope &one) {
		return store::wants(one.filter_for(known_.lane.queue), type, dead_letter);
	};
	return wants(scope) || std::any_of(scope.limited.begin(), scope.limited.end(), wants);
}

/* Taking */

/* Admits the heads that may begin, as far as needed. Moves *again_at to when the first token for others comes. */
GroupReader::Admitted GroupReader::admit(ClaimPass &pass, std::span<const store::GroupHead> heads,
										 SteadyTime *again_at) {
	const Throttling &throttling = pass.conditions.throttling;
	const std::string &queue = known_.lane.queue;
	const bool is_worker = lanes_.remembers_quiet();
	const size_t most_groups = groups_for(pass.missing());
	Admitted admitted;
	for (; admitted.seen < heads.size() && admitted.heads.size() < most_groups && !pass.enough; admitted.seen++) {
		const store::GroupHead &head = heads[admitted.seen];
		if (head.held || !is_wanted(pass.scope, head.type, head.dead_letter) || cursor_.waiting.contains(head.group))
			continue;
		const Admission admission = throttling.admission_of(head.id, queue, head.type, head.group, pass.scope.claims());
		const bool has_limits =
			admission.rules[0].is_limit() || admission.rules[1].is_limit() || admission.rules[2].rate.is_limit();
		if (has_limits && is_worker && !(admitted.heads.empty() && pass.locked.empty())) {
			order_.defer(known_.lane); /* a worker runs a task under a limit alone */
			pass.enough = true;
			break;
		}
		const Verdict verdict = pass.conditions.admit(admission);
		if (!verdict.admitted) {
			if (verdict.by == Counted::queue) {
				lanes_.close_queue(queue, verdict.again_at);
				break;
			}
			if (is_worker && verdict.by == Counted::group && cursor_.wait(head.group, verdict.again_at))
				continue;
			if (verdict.again_at != never)
				*again_at = std::min(*again_at, verdict.again_at);
			else
				cursor_.any_end |= verdict.by != Counted::group;
			continue;
		}
		admitted.heads.push_back(head);
		admitted.limited.push_back(has_limits);
		admitted.most_at_once = std::max(admitted.most_at_once, static_cast<size_t>(admission.rules[2].max_running));
		admitted.any_limited |= has_limits;
		if (has_limits && is_worker)
			pass.enough = true;
	}
	return admitted;
}

/* Adds locked tasks to the pass, as far as it may have them; gives the rest back. Returns which groups gave some. */
std::vector<bool> GroupReader::add(ClaimPass &pass, const Admitted &admitted,
								   std::vector<store::Candidate> &candidates) {
	const Throttling &throttling = pass.conditions.throttling;
	const std::string &queue = known_.lane.queue;
	const bool is_worker = lanes_.remembers_quiet();
	/* An older snapshot may not show what was announced since it was taken. */
	const bool advance = !IsolationUsesXactSnapshot() && !own_aborted();
	std::vector<bool> locked(admitted.heads.size(), false);
	IdRange claimed;
	size_t group = 0;
	bool cut = false; /* what follows in this group is not for us, or not yet */
	for (store::Candidate &candidate : candidates) {
		claimed.add({candidate.id, candidate.id});
		if (candidate.passed)
			continue; /* a claimer that finds it locked meanwhile looks again, as we do */
		const bool first =
			group == admitted.heads.size() || admitted.heads[group].group != candidate.group || !locked[group];
		if (first) {
			group = static_cast<size_t>(
				std::find_if(admitted.heads.begin(), admitted.heads.end(),
							 [&](const store::GroupHead &head) { return head.group == candidate.group; }) -
				admitted.heads.begin());
			cut = false;
		}
		const TypeThrottling *const of_type = throttling.type(candidate.type, queue, pass.scope.claims());
		cut |= pass.is_full() || pass.is_early(candidate) ||
			   !is_wanted(pass.scope, candidate.type, candidate.dead_letter) ||
			   (!first && of_type && (of_type->rule.is_limit() || of_type->group_limit > 0));
		cut = cut || !pass.has_room_for(candidate);
		if (!cut && !first && !is_worker) {
			/* Outside, tasks of a group run at the same time: each is counted. */
			const Admission admission =
				throttling.admission_of(candidate.id, queue, candidate.type, candidate.group, pass.scope.claims());
			cut = !pass.conditions.admit(admission).admitted;
		}
		if (cut) {
			if (!candidate.not_before)
				guard([&] { note_returned(queue, known_.lane.priority, candidate.id, candidate.group); });
			continue;
		}
		locked[group] = true;
		if (advance)
			if (const auto low = cursor_.lows.find(candidate.group); low != cursor_.lows.end())
				low->second = std::max(low->second, candidate.id + 1);
		candidate.admitted_as = is_worker ? admitted.heads[group].id : candidate.id;
		candidate.limited = admitted.limited[group];
		candidate.plain &= !candidate.limited;
		pass.add(known_, std::move(candidate));
	}
	if (!claimed.empty())
		guard([&] { note_claimed(queue, known_.lane.priority, claimed, true); });
	return locked;
}

/* Locks tasks of the groups that may go on. Returns how many of the heads it has looked at. */
size_t GroupReader::take(ClaimPass &pass, std::span<const store::GroupHead> heads, SteadyTime *again_at) {
	const size_t missing = pass.missing();
	const Admitted admitted = admit(pass, heads, again_at);
	if (admitted.heads.empty())
		return admitted.seen;
	/* A worker runs tasks one after the other, so it may take several of a group: more if few groups can go on. */
	const bool is_worker = lanes_.remembers_quiet();
	const bool several = is_worker && !admitted.any_limited;
	const size_t in_turn =
		admitted.seen == heads.size() ? std::max(tasks_in_turn, missing / admitted.heads.size()) : tasks_in_turn;
	const size_t each = std::min(several ? in_turn : is_worker ? 1 : admitted.most_at_once, missing);
	std::vector<store::Candidate> candidates =
		store::lock_in_groups(known_.lane, admitted.heads, pass.scope.filter_for(known_.lane.queue),
							  static_cast<int>(each), pass.conditions.throttling.holds_groups(known_.lane.queue));
	const std::vector<bool> locked = add(pass, admitted, candidates);
	for (size_t i = 0; i < admitted.heads.size(); i++) {
		if (locked[i])
			continue;
		/* Another session has locked it: look again a little later. */
		take_back(admitted.heads[i].id);
		*again_at = std::min(*again_at, steady_now() + after_lock_us);
	}
	if (several)
		cursor_.yield +=
			0.2 * (static_cast<double>(candidates.size()) / static_cast<double>(admitted.heads.size()) - cursor_.yield);
	return admitted.seen;
}

/* Takes tasks of the groups of which something was announced. */
void GroupReader::take_hinted(ClaimPass &pass, bool held, SteadyTime *again_at) {
	const size_t before = pass.locked.tasks.size();
	const std::vector<store::GroupHead> heads = read_heads(cursor_.hints, held);
	const size_t seen = take(pass, heads, again_at);
	if (seen == heads.size())
		cursor_.hints.clear();
	else
		std::erase_if(cursor_.hints, [&](const std::string &hint) {
			return std::none_of(heads.begin() + static_cast<ptrdiff_t>(seen), heads.end(),
								[&hint](const store::GroupHead &head) { return head.group == hint; });
		});
	if (pass.locked.tasks.size() > before)
		cursor_.unfinished = true; /* there may be more in them */
}

/* Takes tasks of the groups that come next. False if all groups have been looked at, and none has anything. */
bool GroupReader::take_next(ClaimPass &pass, bool held, SteadyTime *again_at) {
	const size_t before = pass.locked.tasks.size();
	const int wanted = static_cast<int>(std::min<size_t>(groups_for(pass.missing()) + 1, 256));
	const bool from_start = cursor_.latest.empty();
	bool last;
	const std::vector<store::GroupHead> heads = next_heads(cursor_.latest, wanted, held, &last);
	const size_t seen = take(pass, heads, again_at);
	if (pass.locked.tasks.size() > before)
		cursor_.ends = 0;
	if (seen > 0)
		cursor_.latest = heads[seen - 1].group;
	if (seen < heads.size() || !last)
		return true;
	cursor_.latest.clear();
	if (pass.locked.tasks.size() == before)
		cursor_.ends += from_start ? 2 : 1;
	if (cursor_.ends < 2)
		return true;
	cursor_.ends = 0;
	if (*again_at == never)
		cursor_.unfinished = false;
	return false;
}

void GroupReader::read(ClaimPass &pass) {
	constexpr int most_statements = 40;
	const bool is_worker = lanes_.remembers_quiet();
	LaneState &state = known_.main;
	state.held_up = false;
	if (!pass.conditions.may_admit()) {
		lanes_.close(state, steady_now() + before_counting_us);
		return;
	}
	state.wait_until = 0;
	if (!is_worker) {
		cursor_.unfinished = true;
		cursor_.ends = 0;
	}
	if (own_aborted() || own_returned_groups())
		cursor_.lows.clear(); /* tasks that were given back are announced only when the transaction ends */
	const bool held = pass.conditions.throttling.holds_groups(known_.lane.queue);
	SteadyTime again_at = never;
	if (is_worker)
		cursor_.wake(steady_now());
	for (int statements = 0; pass.missing() > 0 && state.closed_in != lanes_.turn() && statements < most_statements;
		 statements++) {
		if (!cursor_.hints.empty())
			take_hinted(pass, held, &again_at);
		else if (!cursor_.unfinished || !take_next(pass, held, &again_at))
			break;
	}
	cursor_.unfinished |= again_at != never; /* a group that waits for a token is not announced again */
	if (state.closed_in == lanes_.turn())
		return;
	const SteadyTime next = cursor_.due.empty() ? again_at : std::min(again_at, cursor_.due.begin()->first);
	if (pass.locked.tasks.empty() && cursor_.hints.empty() && next != never && is_worker)
		state.wait_until = next;
	state.quiet = is_worker && !cursor_.unfinished && cursor_.hints.empty() && cursor_.due.empty();
}

bool GroupReader::has_work(const Scope &scope, const Conditions &conditions) {
	constexpr int most_statements = 20, heads_at_once = 256;
	const std::string &queue = known_.lane.queue;
	if (!conditions.may_admit()) {
		lanes_.close(known_.main, steady_now() + before_counting_us);
		return false;
	}
	known_.main.wait_until = 0;
	const bool held = conditions.throttling.holds_groups(queue);
	std::string latest;
	SteadyTime wait_until = never;
	for (int statements = 0; statements < most_statements; statements++) {
		bool last;
		const std::vector<store::GroupHead> heads = next_heads(latest, heads_at_once, held, &last);
		for (const store::GroupHead &head : heads) {
			if (head.held || !is_wanted(scope, head.type, head.dead_letter))
				continue;
			const Admission admission =
				conditions.throttling.admission_of(head.id, queue, head.type, head.group, scope.claims());
			std::pair<uint64, Rule> limits[counted_kinds];
			for (size_t i = 0; i < counted_kinds; i++)
				limits[i] = {admission.names[i], admission.rules[i]};
			SteadyTime again_at;
			if (count_admissible(limits, 1, &again_at) > 0)
				return true;
			wait_until = std::min(wait_until, again_at);
			cursor_.any_end = true;
		}
		if (last) {
			lanes_.close(known_.main, wait_until);
			cursor_.hints.clear();
			return false;
		}
		latest = heads.back().group;
	}
	return true;
}

} // namespace jobqueue
