/*
 * positions.hpp -- where a claim starts to read the index of waiting tasks, so that its cost does not grow with the
 * dead entries in front of the first task.
 *
 * A lane is a queue and a priority. A position belongs to a lane and a scope; a scope is what a claimer may take, for
 * example the types of a role. A position is a pair (unread, sequence) with one invariant: every task of the lane and
 * the scope that can be claimed and is not in the set "unread" is announced in the ring at "sequence" or later. Usually
 * that set is all ids from some id on. Tasks of an older transaction that commits late add their own few ids to it, far
 * below, and the ids between are not read again. So a claimer first takes over what has been announced since, which may
 * add to the set; then it reads the index in these ranges; then it sets the pair to what it has not read and to where
 * the ring was when it began. Tasks that nobody announced (replicated rows, rows that were locked) are found by the
 * scheduler's sweep.
 *
 * noexcept, any region; LWLocks are taken inside.
 */
#pragma once

#include "shared/id_ranges.hpp"
#include "shared/state.hpp"

namespace jobqueue {

struct LaneKey {
	uint64 scope;
	uint64 queue_hash;
	Oid database;
	int32 priority;
	Oid role;			/* of the handlers, 0 = claims from outside; so names of two roles cannot collide in a hash */
	uint32 padding = 0; /* the key is compared bytewise */
};

struct Position {
	IdRanges unread;
	uint64 sequence; /* where the ring was when "unread" was taken */
	bool swept;		 /* a sweep has added to "unread": leave_lane() notes how long the reading took */
};

inline constexpr long most_positions = 8192;

Size positions_size();
void startup_positions();

/* The snapshot for reading is taken after this. "types" is the scope's type_mask. Without shared memory: all ids. */
Position enter_lane(const LaneKey &key, uint64 types) noexcept;
/*
 * "unread" is what is left of the position's set. Among the ids taken out of it, the snapshot saw no task of the lane
 * and scope that is neither claimed nor locked. "microseconds" is how long the reading took.
 */
void leave_lane(const LaneKey &key, const Position &position, const IdRanges &unread, int64 microseconds) noexcept;

/*
 * Takes over what was announced into all positions of a database: a position that is not used while the ring goes round
 * once would have to begin at the start. If there is much, only a part, because claims wait meanwhile; then false.
 */
bool keep_positions(Oid database) noexcept;

/* How many positions there are for a role's handlers in a database; without a role: for claims from outside. */
struct PositionsHeld {
	Oid database;
	Oid role;
	int64 count;
};
/* Fills "out", as far as it goes; returns how many there are in it. */
size_t count_positions(std::span<PositionsHeld> out) noexcept;

} // namespace jobqueue
