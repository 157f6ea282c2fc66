/*
 * throttling.hpp -- what decides which tasks may begin, and in what order: pauses, limits on how many run and how fast
 * they begin (by queue, type and group), weights and aging. Read with the configuration; counted in shared/admission.
 *
 * C++ region; what reads tables needs a Session.
 */
#pragma once

#include "engine/store/pauses.hpp"
#include "engine/store/throttling.hpp"
#include "shared/admission.hpp"
#include "shared/running_tasks.hpp"

namespace jobqueue {

struct QueueThrottling {
	std::string queue;
	uint64 name; /* for counting */
	Rule rule;
	int32 weight = 1;
	int64 aging_us = 0;	   /* waiting for so long makes up for one step of priority; 0 = never */
	int32 group_limit = 1; /* tasks of a group at once */
	bool holds_group = true;
	Rule group_rate;
};
struct TypeThrottling {
	std::string type;
	uint64 name;
	Rule rule;
	int32 group_limit = 0;					 /* 0: as the queue says */
	std::optional<std::string> only_in = {}; /* the queue that its handler keeps to; none = it has a say in all */

	bool has_say_in(std::string_view queue) const noexcept { return !only_in || *only_in == queue; }
};
/* Who claims. A handler's limits hold for the tasks that it runs; for others' claims, only where it has a say. */
enum class Claims { outside, by_handler };

/* How far a pass that corrects the counts has come: first over what is claimed, then over what is counted. */
struct CountCorrection {
	store::Place claims;		  /* claims up to this place, by the ends of their leases, have been looked at */
	std::vector<Running> counted; /* when all that is claimed had been looked at */
	size_t looked_at = 0;		  /* of these */
	bool claims_seen = false;
};

class Throttling {
public:
	Throttling() = default;
	static Throttling read();

	const QueueThrottling *queue(std::string_view name) const noexcept;
	/*
	 * The limits that the type's handler sets for such a task in this queue; null if it sets none, or has no say there.
	 */
	const TypeThrottling *type(std::string_view name, std::string_view queue, Claims claims) const noexcept;
	/* Types whose tasks are counted. */
	const std::vector<TypeThrottling> &types() const noexcept { return types_; }
	bool has_weights() const noexcept { return has_weights_; }
	/* Do weights or aging say in which order lanes are read? */
	bool has_order() const noexcept { return has_weights_ || has_aging_; }

	/* Does a group in this queue wait while its first task waits for its next attempt? */
	bool holds_groups(std::string_view queue) const noexcept {
		const QueueThrottling *const throttling = this->queue(queue);
		return throttling == nullptr || (throttling->holds_group && throttling->group_limit == 1);
	}
	/* The names under which a task is counted; "group" is empty if it has none. */
	Admission admission_of(int64 task, const std::string &queue, std::string_view type, std::string_view group,
						   Claims claims) const;
	/*
	 * Counts the running tasks, and notes that this is done, unless it was done as of this configuration. If "before"
	 * is given, only those tasks are looked for that have come under a limit since. Needs a Session.
	 */
	void make_ready(DatabaseSlot *slot, uint64 configuration, const Throttling *before) const;
	/*
	 * A step of a pass that corrects the counts: tasks may have begun or ended by hand, which is not announced. Looks
	 * at so many tasks at most. True if there is more to do. Needs a Session.
	 */
	bool correct_counts(CountCorrection &pass, int most) const;

private:
	/* What is counted, as far as it was not "before". */
	store::Limited limited(const Throttling *before) const;
	void count_claimed(std::span<const int64> claimed) const;
	bool limits_queue(std::string_view name) const noexcept;
	bool limits_type_as(const TypeThrottling &other) const noexcept;

	std::vector<QueueThrottling> queues_; /* sorted, as are the types */
	std::vector<TypeThrottling> types_;
	bool has_weights_ = false;
	bool has_aging_ = false;
};

/* What a claimer must know of queues and types. */
struct Conditions {
	store::Pauses pauses;
	Throttling throttling;
	uint64 configuration = 0; /* as of which they were read, or later */
	bool counts = true;		  /* if false, limits are ignored: nobody else can run anything */

	/* Needs a Session. */
	static Conditions read(uint64 configuration);
	bool is_for_dead_letters(std::string_view queue) const noexcept;
	/* Is it known what is running? Before it is, nothing under a limit may begin. */
	bool may_admit() const;
	/* Counts the task under its limits, if they let it begin. */
	Verdict admit(const Admission &admission) const;
};

} // namespace jobqueue
