/*
 * claimer.hpp -- finds and locks the next tasks: knows the lanes (queue and priority) of this database, learns new ones
 * from announcements, and reads each from its shared start position.
 *
 * C++ region; lock(), has_work() and more_after() need a Session. One for each worker, for each role in the scheduler,
 * and for each backend that calls claim().
 */
#pragma once

#include "engine/access.hpp"
#include "shared/positions.hpp"

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

	const store::TypeFilter &filter_for(std::string_view queue) const noexcept {
		return queues.contains(queue) ? filter : elsewhere;
	}
	void ask_for_rows(const std::string &claimant) { filter.rows_for = elsewhere.rows_for = claimant; }
};
/* The scope of a set of types; their order matters not. */
Scope scope_of_types(std::vector<std::string> types);
/* Of the handlers of one role, and the queues in which it has access. */
Scope scope_of_handlers(std::span<const store::Handler> handlers, Queues allowed);
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
	/* "remembers_quiet": always used with the same scope, so that a lane found empty is left alone until news come. */
	explicit Claimer(bool remembers_quiet) : remembers_quiet_(remembers_quiet) {}

	/* Takes in what was announced. True if there may be something to claim. */
	bool absorb(const Scope &scope);
	/* Has anything been announced since absorb()? */
	bool is_behind() const noexcept;
	/* Looks at every lane again: the scope or the pauses changed. */
	void forget_quiet();

	/*
	 * Locks up to "count" tasks, of one queue or of all in turn, and puts aside those whose time has not come. Notes
	 * what is needed if the transaction aborts.
	 */
	Locked lock(const Scope &scope, const store::Pauses &pauses, const std::optional<std::string> &queue, int count);
	/* Is there anything to claim? */
	bool has_work(const Scope &scope, const store::Pauses &pauses);
	/* Is there more than what was locked? */
	bool more_after(const Scope &scope, const Locked &locked);

	/* Of the announcements absorbed since the last call: did plain statements add tasks? */
	bool took_statements() { return std::exchange(statements_, false); }

private:
	struct KnownLane {
		store::Lane lane;
		uint64 queue_hash;
		bool quiet = false;
	};
	void learn(std::string_view queue, int16 priority, bool news);
	void discover();
	bool is_closed(const Scope &scope, KnownLane &known, const store::Pauses &pauses) const;
	LaneKey key_of(const Scope &scope, const KnownLane &lane) const;
	size_t first_to_read() const;

	std::vector<KnownLane> lanes_; /* sorted by queue (bytewise) and priority */
	std::string last_queue_;
	uint64 position_ = 0; /* in the ring */
	size_t lane_limit_ = 8192;
	bool started_ = false;
	bool undiscovered_ = true;
	bool statements_ = false;
	const bool remembers_quiet_;
};

} // namespace jobqueue
