/*
 * claimer.hpp -- finds and locks the next tasks: knows the lanes (queue and priority) of this database, learns new ones
 * from announcements, and reads each from its shared start position.
 *
 * Types under limits of their own are read by themselves: while they are held back, the position of the others moves on.
 * Tasks of groups are in lanes of their own, which are read from group to group, one after the other all around; a group
 * that can give nothing is left alone until something is announced of it.
 *
 * Of a queue with very many priorities, only the most urgent ones that have tasks are known, and which these are up to.
 * When they have nothing more to give, the next ones are found with one scan of the index.
 *
 * C++ region; lock(), has_work() and more_after() need a Session. One for each worker, for each role in the scheduler,
 * and for each backend that calls claim().
 */
#pragma once

#include "engine/access.hpp"
#include "engine/flow.hpp"
#include "shared/announcements.hpp"
#include "shared/positions.hpp"
#include "pg/clock.hpp"

#include <map>
#include <set>

namespace jobqueue {

/* What a claimer may take, and a number that stands for it in shared memory. */
struct Scope {
	store::TypeFilter filter;
	uint64 key = 0;
	uint64 types = ~0ULL;  /* type_mask: news of other types do not concern it */
	Oid role = InvalidOid; /* whose handlers */
	/* The filter is for these queues ... */
	Queues queues = {};
	store::TypeFilter elsewhere = {}; /* ... and this one for the others */
	bool is_limited = false;		  /* it is for one type, which is under limits */
	bool by_handler = false;		  /* it takes the tasks of handlers, for them */
	std::vector<Scope> limited = {};  /* one for each type under limits; the filters above are without them */
	/* Queues that have a filter of their own, because there are handlers that have a say there only. */
	std::map<std::string, store::TypeFilter, std::less<>> special = {};

	/* That, with the types under limits. */
	store::TypeFilter whole_filter_for(std::string_view queue) const;
	const store::TypeFilter &filter_for(std::string_view queue) const noexcept {
		if (!special.empty())
			if (const auto found = special.find(queue); found != special.end())
				return found->second;
		return queues.contains(queue) ? filter : elsewhere;
	}
	/* Whose tasks it takes. */
	Claims claims() const noexcept { return by_handler ? Claims::by_handler : Claims::outside; }
	/* Of a limited scope: its type. */
	std::string_view limited_type() const noexcept {
		if (!is_limited)
			return {};
		if (!special.empty())
			return special.begin()->second.types.front();
		return filter.types.empty() ? elsewhere.types.front() : filter.types.front();
	}
	void ask_for_rows(const std::string &claimant) {
		filter.rows_for = elsewhere.rows_for = claimant;
		for (auto &one : special)
			one.second.rows_for = claimant;
		for (Scope &scope : limited)
			scope.ask_for_rows(claimant);
	}
};
/* The scope of a set of types; their order matters not. */
Scope scope_of_types(std::vector<std::string> types);
/* Of the handlers of one role, and the queues in which it has access. */
Scope scope_of_handlers(std::span<const store::Handler> handlers, Queues allowed);
/* Types under limits get scopes of their own. The last thing to do to a scope. "queue": for claims from this one only. */
void separate_limited(Scope &scope, const Flow &flow, const std::optional<std::string> &queue = {});
/* In this queue, the scope does not take these types (sorted): they have handlers there. After limit_scope(). */
void leave_to_handlers(Scope &scope, const std::string &queue, std::span<const std::string> types);
/* In queues that are not allowed, only the types in "elsewhere" (sorted) remain. */
void limit_scope(Scope &scope, Queues allowed, std::vector<std::string> elsewhere = {});

struct Locked {
	std::vector<store::Candidate> tasks; /* in claim order */
	std::vector<store::Lane> lanes;		 /* where they came from, by their "lane" */
	IdRanges unread;					 /* there may be more here, in the last lane */

	bool empty() const noexcept { return tasks.empty(); }
	const store::Lane &lane_of(const store::Candidate &task) const { return lanes[task.lane]; }
};

class Claimer {
public:
	/*
	 * "remembers_quiet": always used with the same scope, so that a lane found empty is left alone until news come; and
	 * tasks under limits are run one at a time, so that there is no use in locking more.
	 */
	explicit Claimer(bool remembers_quiet) : remembers_quiet_(remembers_quiet) {}

	/* Takes in what was announced. True if there may be something to claim. */
	bool absorb(const Scope &scope);
	/* When there may be something to claim that is only waiting for its time; never if nothing is. */
	SteadyTime next_time() const noexcept;
	/* Has anything been announced since absorb()? */
	bool is_behind() const noexcept;
	/* Looks at every lane again: the scope or the pauses changed. */
	void forget_quiet();

	/*
	 * Locks up to "count" tasks, of one queue or of all in turn, and puts aside those whose time has not come. Notes
	 * what is needed if the transaction aborts. "by_place": for who begins them by their places, those without limits and
	 * groups need not be locked.
	 */
	Locked lock(const Scope &scope, const Conditions &conditions, const std::optional<std::string> &queue, int count,
				bool by_place = false);
	/* Is there anything to claim? */
	bool has_work(const Scope &scope, const Conditions &conditions);
	/* Is there more than what was locked? */
	bool more_after(const Scope &scope, const Locked &locked);

	/* Of the announcements absorbed since the last call: did plain statements add tasks? */
	bool took_statements() { return std::exchange(statements_, false); }

private:
	/* What is known of the tasks of a lane that are read together. */
	struct Part {
		bool quiet = false;		   /* nothing to be had until something is announced */
		bool held_up = false;	   /* though it may have tasks */
		SteadyTime wait_until = 0; /* nor before this time */
		size_t closed_in = 0;	   /* nor in this turn of lock() */

		bool is_open(SteadyTime now) const noexcept { return !quiet && wait_until <= now; }
	};
	/* How far the reading of a lane of groups has come. */
	struct Round {
		std::string latest;				/* the group looked at last */
		std::vector<std::string> hints; /* groups of which something was announced */
		bool unfinished = true;			/* the others may have something, too */
		int ends = 0;					/* how often the last group was passed since something was found */
		double yield = 1;				/* tasks that a group gives at a time */
		bool any_end = false;			/* some wait for the end of a task that may be in another group */
		/*
		 * Groups of which much was taken have a long way of dead entries before their first task. Once that was
		 * noticed, they are read from these ids on: who adds or gives back a task before says so.
		 */
		std::map<std::string, int64, std::less<>> lows;
		SteadyTime swept_at = 0;
		/* Groups that wait for a token of their own: they are not looked at until it comes. */
		std::map<std::string, SteadyTime, std::less<>> waiting;
		std::set<std::pair<SteadyTime, std::string>> due;

		bool wait(const std::string &group, SteadyTime again_at);
		void wake(SteadyTime now);
	};
	struct KnownLane {
		store::Lane lane;
		uint64 queue_hash;
		Part main = {};
		std::vector<Part> limited = {}; /* of the limited scopes */
		Round round = {};
		SteadyTime waiting_since = 0; /* without having been served */

		bool is_quiet() const noexcept { return main.quiet && limited.empty(); }
		/* It has no tasks for us: if it comes to have some, that is announced. */
		bool is_empty() const noexcept {
			const auto has_nothing = [](const Part &part) { return part.quiet && !part.held_up; };
			return has_nothing(main) && std::all_of(limited.begin(), limited.end(), has_nothing) &&
				   (!lane.grouped || (!round.unfinished && !round.any_end && round.hints.empty() && round.due.empty()));
		}
	};
	/* Of a queue with so many priorities that not all are known. */
	struct Ahead {
		int32 known_up_to;
		bool quiet = false;			 /* nothing to be had beyond until something is announced, or ends */
		size_t closed_in = SIZE_MAX; /* nor in this turn of lock() */
	};
	struct Reading;
	void look_everywhere();
	void learn(const store::Lane &lane, bool news, std::string_view group, uint64 type_hash);
	void note_capacity(const Scope &scope, const News &news);
	void lower(const News &news);
	size_t groups_for(const Round &round, size_t tasks) const;
	static void find_deep(KnownLane &known, std::span<store::GroupHead> heads, bool held);
	static std::vector<store::GroupHead> read_heads(KnownLane &known, std::span<const std::string> groups, bool held);
	static std::vector<store::GroupHead> next_heads(KnownLane &known, const std::string &after, int count, bool held,
													bool *last);
	template <typename Visit> bool any_part(Visit &&visit) const;
	void discover();
	std::span<KnownLane> lanes_of(std::string_view queue);
	void forget_lanes();
	void forget_above(const std::string &queue, int32 priority);
	void bound_lanes(const std::string &queue);
	std::vector<store::Lane> look_ahead(const Scope &scope, const std::string &queue);
	template <typename Visit>
	bool visit_ahead(const Scope &scope, const Conditions &conditions, const std::optional<std::string> &queue,
					 Visit &&visit);
	void read_ahead(Reading &reading, const std::optional<std::string> &queue);
	static bool is_closed(const Scope &scope, std::string_view queue, const store::Pauses &pauses);
	bool is_closed(const Scope &scope, KnownLane &known, const store::Pauses &pauses) const;
	LaneKey key_of(const Scope &scope, const KnownLane &lane) const;
	size_t first_to_read() const;
	bool in_turn(const Flow &flow) const;
	std::vector<size_t> reading_order(const Flow &flow) const;
	void note_waiting(const Flow &flow);
	void close(Part &part, SteadyTime again_at) const noexcept;
	void close_queue(const std::string &queue, SteadyTime again_at);
	void close_type(size_t limited, SteadyTime again_at);
	void read_lane(Reading &reading, KnownLane &known);
	void read_part(Reading &reading, KnownLane &known, size_t which);
	void read_groups(Reading &reading, KnownLane &known);
	size_t take_groups(Reading &reading, KnownLane &known, std::span<const store::GroupHead> heads,
					   SteadyTime *again_at);
	bool has_work_in(const Scope &scope, const Conditions &conditions, KnownLane &known, Part &part);
	bool has_work_in_groups(const Scope &scope, const Conditions &conditions, KnownLane &known);
	bool may_admit(const Conditions &conditions) const;
	Verdict admit_task(const Conditions &conditions, const Admission &admission);
	void served(const Flow &flow, KnownLane &known, size_t tasks);

	std::vector<KnownLane> lanes_; /* sorted */
	std::map<std::string, Ahead, std::less<>> ahead_;
	std::string last_ahead_; /* the queue looked at last in it */
	bool reads_ahead_ = false;
	std::set<uint64> forgotten_groups_; /* queues, by their hashes, of which lanes of groups are not known any more */
	std::string last_queue_;
	std::map<std::string, double, std::less<>> passes_; /* of queues with weights: how much each has had */
	uint64 position_ = 0;								/* in the ring */
	size_t lane_limit_ = 8192;
	size_t turn_ = 0; /* calls of lock() */
	size_t grouped_lanes_ = 0;
	std::optional<store::Lane> deferred_; /* it comes first next time */
	bool started_ = false;
	bool undiscovered_ = true;
	bool statements_ = false;
	const bool remembers_quiet_;
};

} // namespace jobqueue
