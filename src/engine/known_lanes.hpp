/*
 * known_lanes.hpp -- the lanes (queue and priority) of this database that a claimer knows, and which of them may have
 * something for it: learned from announcements, and from the table where those were missed.
 *
 * Tasks of groups are in lanes of their own. Of a queue with very many priorities, only the most urgent lanes that have
 * tasks are known, and the priority up to which they are known; the lanes after it are found with one scan of the
 * index. C++ region; discover() and look_ahead() need a Session.
 */
#pragma once

#include "engine/scope.hpp"
#include "engine/store/lanes.hpp"
#include "pg/clock.hpp"
#include "shared/ring.hpp"

#include <map>
#include <set>

namespace jobqueue {

/* If more lanes of a queue are known than this, those without tasks are forgotten. */
inline constexpr size_t most_lanes_of_queue = 256;

/* What is known of the tasks of a lane that are read together. */
struct LaneState {
	bool quiet = false;		   /* nothing can be had until something is announced */
	bool held_up = false;	   /* a limit is reached; there may be tasks */
	SteadyTime wait_until = 0; /* nothing can be had before this time */
	size_t closed_in = 0;	   /* nothing can be had in this turn, which is a call of Claimer::lock() */

	bool is_open(SteadyTime now) const noexcept { return !quiet && wait_until <= now; }
};

/* How far the reading of a lane of groups has come: they are read one after the other, in a circle. */
struct GroupCursor {
	std::string latest;				/* the group looked at last */
	std::vector<std::string> hints; /* groups of which something was announced: they are read first */
	bool unfinished = true;			/* groups that are no hints may have something, too */
	int ends = 0;					/* how often the last group was passed since something was found */
	double yield = 1;				/* how many tasks a group gives at a time, on average */
	bool any_end = false;			/* some groups wait for the end of a task, which may be in another group */
	/*
	 * A group of which much was taken has many dead index entries before its first task. Once that was noticed, it is
	 * read from this id on: if a task with a lower id is added or given back, that is announced.
	 */
	std::map<std::string, int64, std::less<>> lows;
	SteadyTime swept_at = 0;
	/* Groups that wait for a token of their own are not looked at until it comes. */
	std::map<std::string, SteadyTime, std::less<>> waiting;
	std::set<std::pair<SteadyTime, std::string>> due;

	/* False if the group does not wait for a token, or if too many do: then all are looked at in turn. */
	bool wait(const std::string &group, SteadyTime again_at);
	/* Groups whose token has come become hints. */
	void wake(SteadyTime now);
	void hint(std::string_view group);
};

struct KnownLane {
	store::Lane lane;
	uint64 queue_hash;
	LaneState main = {};
	std::vector<LaneState> limited = {}; /* for each limited scope */
	GroupCursor groups = {};
	SteadyTime waiting_since = 0; /* since when it has waited without being served; 0 = not known */

	bool is_quiet() const noexcept { return main.quiet && limited.empty(); }
	/* The lane has no tasks for us; when that changes, it is announced. */
	bool is_empty() const noexcept {
		const auto has_nothing = [](const LaneState &state) { return state.quiet && !state.held_up; };
		return has_nothing(main) && std::all_of(limited.begin(), limited.end(), has_nothing) &&
			   (!lane.grouped || (!groups.unfinished && !groups.any_end && groups.hints.empty() && groups.due.empty()));
	}
	void expect_limited(size_t scopes) {
		if (!lane.grouped)
			limited.resize(std::max(limited.size(), scopes));
	}
};

/* What lies beyond the known lanes of a queue with very many priorities. */
struct QueueAhead {
	int32 known_up_to;
	bool quiet = false;			 /* nothing can be had there until something is announced, or a task ends */
	size_t closed_in = SIZE_MAX; /* nothing can be had there in this turn */
};

class KnownLanes {
public:
	/* "remembers_quiet": a lane found empty is not read again until there is news. */
	explicit KnownLanes(bool remembers_quiet) : remembers_quiet_(remembers_quiet) {}

	bool remembers_quiet() const noexcept { return remembers_quiet_; }
	size_t size() const noexcept { return lanes_.size(); }
	KnownLane &operator[](size_t which) noexcept { return lanes_[which]; }
	const KnownLane &operator[](size_t which) const noexcept { return lanes_[which]; }
	std::vector<KnownLane>::iterator begin() noexcept { return lanes_.begin(); }
	std::vector<KnownLane>::iterator end() noexcept { return lanes_.end(); }
	std::vector<KnownLane>::const_iterator begin() const noexcept { return lanes_.begin(); }
	std::vector<KnownLane>::const_iterator end() const noexcept { return lanes_.end(); }
	/* Null if it is not known. */
	KnownLane *find(const store::Lane &lane) noexcept;
	std::span<KnownLane> of_queue(std::string_view queue) noexcept;
	bool has_groups() const noexcept { return grouped_lanes_ > 0; }

	/* "news": the lane may have something for us; in this group, if one is named. */
	void learn(const store::Lane &lane, bool news, std::string_view group, uint64 type_hash);
	/* A counted task has ended: what waited for a limit of its queue, type or group may go on. */
	void note_capacity(const Scope &scope, const News &news);
	/* Tasks of groups have come, perhaps with ids before GroupCursor::lows. */
	void note_grouped(const News &news);
	/* Tasks were added or changed, and it is not known where. */
	void look_everywhere();
	/* The scope or the configuration changed: every lane is looked at again. */
	void forget_quiet();
	void forget();
	/* Forgets the lanes of a queue beyond this priority. */
	void forget_above(const std::string &queue, int32 priority);
	/* Names of queues come and go: if very many lanes are known, forgets those without tasks, and returns true. */
	bool trim();

	/* Finds lanes in the table, if announcements of them may have been missed. */
	void discover();
	void set_undiscovered() noexcept { undiscovered_ = true; }
	/* May any lane, known or not, have something? */
	bool any_open() const noexcept;
	/* When the first of the lanes that wait for a time may have something; never if none waits. */
	SteadyTime next_time() const noexcept;

	/* What lies beyond the known lanes, by queue. */
	std::map<std::string, QueueAhead, std::less<>> &ahead() noexcept { return ahead_; }
	bool any_ahead() const noexcept {
		return std::any_of(ahead_.begin(), ahead_.end(), [](const auto &one) { return !one.second.quiet; });
	}
	/*
	 * Learns the next lanes of a queue that have something for us, and returns them; none if there are no more, or if
	 * so many tasks for others lie between that it is better to go on in a later call.
	 */
	std::vector<store::Lane> look_ahead(const Scope &scope, const std::string &queue);
	/* While lanes ahead are read, bound() forgets none, except with "remembers_quiet". */
	void set_reading_ahead(bool reading) noexcept { reads_ahead_ = reading; }
	bool is_reading_ahead() const noexcept { return reads_ahead_; }

	void begin_turn() noexcept { turn_++; }
	size_t turn() const noexcept { return turn_; }
	/*
	 * The lane has nothing to give in this turn. A worker looks again at that time, or (never) when a task has ended.
	 */
	void close(LaneState &state, SteadyTime again_at) const noexcept;
	/*
	 * The queue's limit is reached. Closes all its lanes for this turn: otherwise a less urgent lane could take a slot
	 * that is freed meanwhile.
	 */
	void close_queue(const std::string &queue, SteadyTime again_at);
	/* Likewise, in all lanes, for the limited scope with this index. */
	void close_type(size_t limited, SteadyTime again_at);

private:
	void bound(const std::string &queue);

	std::vector<KnownLane> lanes_; /* sorted */
	std::map<std::string, QueueAhead, std::less<>> ahead_;
	std::set<uint64> forgotten_groups_; /* hashes of queues of which lanes of groups were forgotten */
	size_t limit_ = 8192;
	size_t turn_ = 0;
	size_t grouped_lanes_ = 0;
	bool reads_ahead_ = false;
	bool undiscovered_ = true;
	const bool remembers_quiet_;
};

} // namespace jobqueue
