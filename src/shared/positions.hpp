/*
 * positions.hpp -- where to start reading the index of what is next, so that the cost of a claim does not grow with the
 * dead entries in front of the first task.
 *
 * A lane is a queue and a priority. A position belongs to a lane and to a scope, which is what a claimer may take (the
 * types of a role, say). It is a pair (unread, sequence) with one invariant: every task of the lane and the scope that
 * can be claimed and is not in the set "unread" is announced in the ring at "sequence" or later. Usually that set is
 * all ids from some id on. Tasks of an older transaction that commits late add their own few ids to it, far below, and
 * the ids between are not read again. So a claimer first takes over what has been announced since, which may add to the
 * set, then reads the index in these ranges, and afterwards sets the pair to what it has not read and to where the ring
 * was when it began. Tasks that nobody announced (replicated rows, rows that somebody had locked) are found by the
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
	Oid role;			/* whose handlers; names that collide in a hash must not be another's. 0: claims from outside */
	uint32 padding = 0; /* it is compared bytewise */
};

struct Position {
	IdRanges unread;
	uint64 sequence; /* of the ring when it was taken */
	bool swept;		 /* added to by a sweep: tell leave_lane how long the reading took */
};

inline constexpr long most_positions = 8192;

Size positions_size();
void startup_positions();

/* Take the snapshot for reading after this. "types" is the scope's type_mask. Where nothing is shared: all ids. */
Position enter_lane(const LaneKey &key, uint64 types) noexcept;
/*
 * "unread": what is left of the position's set. Of what was taken out, the snapshot could see no task of the lane and
 * scope that is neither claimed nor locked. "microseconds" is what the reading took.
 */
void leave_lane(const LaneKey &key, const Position &position, const IdRanges &unread, int64 microseconds) noexcept;

/*
 * Takes over what was announced into all positions of a database: one that is not used while the ring goes round once
 * would have to begin at the start. A part of it, if that is much, for claims wait meanwhile; false if there is more.
 */
bool keep_positions(Oid database) noexcept;

/* Whose they are; the role is that of the handlers, or none for claims from outside. */
struct PositionsHeld {
	Oid database;
	Oid role;
	int64 count;
};
/* Fills "out", as far as it goes; returns how many there are in it. */
size_t count_positions(std::span<PositionsHeld> out) noexcept;

} // namespace jobqueue
