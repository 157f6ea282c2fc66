/*
 * positions.hpp -- where to start reading the index of what is next, so that the cost of a claim does not grow with
 * the dead entries in front of the first task.
 *
 * A lane is a queue and a priority; a position belongs to a lane and to a scope, which is what a claimer may take (the
 * types of a role, say). It is a pair (from, sequence) with one invariant: every task of the lane and the scope that
 * can be claimed and has an id below "from" is announced in the ring at "sequence" or later. So a claimer first takes
 * over what has been announced since, which may lower "from", then reads the index from there, and afterwards sets the
 * pair to where it ended and to where the ring was when it began. Tasks that nobody announced (replicated rows, rows
 * that somebody had locked) are found by the scheduler's sweep.
 *
 * noexcept, any region; LWLocks are taken inside.
 */
#pragma once

#include "shared/state.hpp"

namespace jobqueue {

struct LaneKey {
	uint64 scope;
	uint64 queue_hash;
	Oid database;
	int32 priority;
};

struct Position {
	int64 from;		 /* read ids from here on; PG_INT64_MAX = nothing to read */
	uint64 sequence; /* of the ring when it was taken */
	bool swept;		 /* lowered by a sweep: tell leave_lane how long the reading took */
};

Size positions_size();
void startup_positions();

/* Take the snapshot for reading after this. "types" is the scope's type_mask. Where nothing is shared: from the start. */
Position enter_lane(const LaneKey &key, uint64 types) noexcept;
/*
 * "next": no task of the lane and scope that the snapshot could see, and that is neither claimed nor locked, has an id
 * below. "microseconds" is what the reading took.
 */
void leave_lane(const LaneKey &key, const Position &position, int64 next, int64 microseconds) noexcept;

/*
 * Takes over what was announced into all positions of a database: one that is not used while the ring goes round once
 * would have to begin at the start.
 */
void keep_positions(Oid database) noexcept;

} // namespace jobqueue
