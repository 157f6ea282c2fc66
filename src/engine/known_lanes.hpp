/*
 * known_lanes.hpp -- the lanes (queue and priority) of this database that a claimer knows, and which of them may have
 * something for it: learned from announcements, and from the table where those were missed.
 *
 * Tasks of groups are in lanes of their own. Of a queue with very many priorities, only the most urgent ones that have
 * tasks are known, and which these are up to; what comes after them is found with one scan of the index.
 * C++ region; discover() and look_ahead() need a Session.
 */
#pragma once

#include "engine/scope.hpp"
#include "engine/store/lanes.hpp"
#include "pg/clock.hpp"
#include "shared/ring.hpp"

#include <map>
#include <set>

namespace jobqueue {

/* Of a queue: when more of its lanes are known, those without tasks are forgotten. */
inline constexpr size_t most_lanes_of_queue = 256;

/* What is known of the tasks of a lane that are read together. */
struct LaneState {
	bool quiet = false;		   /* nothing to be had until something is announced */
	bool held_up = false;	   /* though it may have tasks: a limit is reached */
	SteadyTime wait_until = 0; /* nothing to be had before this time */
	size_t closed_in = 0;	   /* nothing to be had in this turn, a call of Claimer::lock() */

	bool is_open(SteadyTime now) const noexcept { return !quiet && wait_until <= now; }
};

/* How far the reading of a lane of groups has come: from group to group, one after the other all around. */
struct GroupCursor {
	std::string latest;				/* the group looked at last */
	std::vector<std::string> hints; /* groups of which something was announced: they are read first */
	bool unfinished = true;			/* the others may have something, too */
	int ends = 0;					/* how often the last group was passed since something was found */
	double yield = 1;				/* tasks that a group gives at a time */
	bool any_end = false;			/* some wait for the end of a task that may be in another group */
	/*
	 * A group of which much was taken has many dead index entries before its first task. Once that was noticed, it is
	 * read from this id on: who adds or gives back a task before it announces that.
	 */
	std::map<std::string, int64, std::less<>> lows;
	SteadyTime swept_at = 0;
	/* Groups that wait for a token of their own are not looked at until it comes. */
	std::map<std::string, SteadyTime, std::less<>> waiting;
	std::set<std::pair<SteadyTime, std::string>> due;

	/* False if it does not wait for a token, or if too many do: then all are looked at in turn. */
	bool wait(const std::string &group, SteadyTime again_at);
	/* Those whose token has come become hints. */
	void wake(SteadyTime now);
	void hint(std::string_view group);
};

struct KnownLane {
	store::Lane lane;
	uint64 queue_hash;
	LaneState main = {};
	std::vector<LaneState> limited = {}; /* of the limited scopes */
	GroupCursor groups = {};
	SteadyTime waiting_since = 0; /* without having been served */

	bool is_quiet() const noexcept { return main.quiet && limited.empty(); }
	/* It has no tasks for us: if it comes to have some, that is announced. */
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
	bool quiet = false;			 /* nothing to be had beyond until something is announced, or ends */
	size_t closed_in = SIZE_MAX; /* nothing to be had in this turn */
};

class KnownLanes {
public:
	/* "remembers_quiet": a lane found empty is left alone until news come. */
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

	/* "news": there may be something in it for us; of this group, if it is named. */
	void learn(const store::Lane &lane, bool news, std::string_view group, uint64 type_hash);
	/* A task has ended that was counted: what waited for its queue, its type or its group may go on. */
	void note_capacity(const Scope &scope, const News &news);
	/* Tasks of groups have come, perhaps before what was read last. */
	void note_grouped(const News &news);
	/* Tasks were added or changed, and nobody knows where. */
	void look_everywhere();
	/* The scope or the configuration changed: every lane is looked at again. */
	void forget_quiet();
	void forget();
	/* Lanes beyond this priority are not known from now on. */
	void forget_above(const std::string &queue, int32 priority);
	/* Names of queues come and go: forgets those without tasks if there are very many. True if it forgot any. */
	bool trim();

	/* Reads from the table what was missed, if anything was. */
	void discover();
	void set_undiscovered() noexcept { undiscovered_ = true; }
	/* May any of them, known or not, have something? */
	bool any_open() const noexcept;
	/* When the first of those that wait for a time may have something; never if none does. */
	SteadyTime next_time() const noexcept;

	/* Beyond the known lanes, by queue. */
	std::map<std::string, QueueAhead, std::less<>> &ahead() noexcept { return ahead_; }
	bool any_ahead() const noexcept {
		return std::any_of(ahead_.begin(), ahead_.end(), [](const auto &one) { return !one.second.quiet; });
	}
	/*
	 * Learns the next lanes of a queue that have something for us, and returns them; none if there are no more, or if
	 * so many tasks for others lie between that it is better to come back.
	 */
	std::vector<store::Lane> look_ahead(const Scope &scope, const std::string &queue);
	/* While the lanes ahead are read, nobody forgets those that are being read. */
	void set_reading_ahead(bool reading) noexcept { reads_ahead_ = reading; }
	bool is_reading_ahead() const noexcept { return reads_ahead_; }

	void begin_turn() noexcept { turn_++; }
	size_t turn() const noexcept { return turn_; }
	/*
	 * It has nothing to give in this turn; a worker looks again at that time, or (never) when a task has ended.
	 */
	void close(LaneState &state, SteadyTime again_at) const noexcept;
	/*
	 * The queue's limit is reached. Closes all its lanes for this turn: otherwise a less urgent lane could take a slot
	 * that is freed meanwhile.
	 */
	void close_queue(const std::string &queue, SteadyTime again_at);
	/* Likewise, of a limited scope. */
	void close_type(size_t limited, SteadyTime again_at);

private:
	void bound(const std::string &queue);

	std::vector<KnownLane> lanes_; /* sorted */
	std::map<std::string, QueueAhead, std::less<>> ahead_;
	std::set<uint64> forgotten_groups_; /* queues, by their hashes, of which lanes of groups are not known any more */
	size_t limit_ = 8192;
	size_t turn_ = 0;
	size_t grouped_lanes_ = 0;
	bool reads_ahead_ = false;
	bool undiscovered_ = true;
	const bool remembers_quiet_;
};

} // namespace jobqueue
