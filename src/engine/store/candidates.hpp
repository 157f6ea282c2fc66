/*
 * candidates.hpp -- the statements that find and lock the pending tasks of a lane that belong to no group.
 *
 * C++ region; needs a Session, throws PgError. Strings that are returned are copies; Datums live as long as the
 * Session.
 */
#pragma once

#include "engine/store/lanes.hpp"
#include "engine/store/type_filter.hpp"
#include "pg/session.hpp"
#include "shared/id_ranges.hpp"

namespace jobqueue::store {

/* A pending task that is locked, and so almost claimed. Datums live as long as the Session. */
struct Candidate {
	int64 id;
	std::optional<TimestampTz> not_before; /* its time has not come: it must be put aside */
	ItemPointerData tid;
	uint32 lane; /* for the claimer */
	bool plain;	 /* no unique key, no earlier failure, no timeout of its own: it may be fused */
	std::string type;
	int32 attempts;
	int32 max_attempts; /* 0 = as its handler says */
	Datum payload;		/* jsonb */
	Datum row;			/* jobqueue.tasks, if asked for, and small; else 0 */
	bool dead_letter;
	std::string group = {}; /* its key; empty = none */
	int64 admitted_as = 0;	/* id under which limits count it; 0 = it is not counted */
	bool passed = false;	/* locked, but of no use: another task comes before it */
	bool limited = false;	/* under limits of its own, which say when it begins: it is not fused */
	bool locked = true;		/* by this transaction */
	int64 bytes = 0;		/* of the payload */
};

/* Locks up to "count" pending tasks of a lane, in order, passing over locked ones. */
std::vector<Candidate> lock_pending(const Lane &lane, IdRange ids, const TypeFilter &filter, int count);
/* The same, but if possible locks nothing and passes over nothing; then only ids, tids and sizes are known. */
std::vector<Candidate> see_pending(const Lane &lane, IdRange ids, const TypeFilter &filter, int count);

/* Since when the first pending task of a lane has waited; now, if there is none. */
TimestampTz waiting_since(const Lane &lane);
/* The first pending task in the lane that the filter lets through. */
std::optional<int64> first_pending(const Lane &lane, IdRange ids, const TypeFilter &filter);
/* Pending tasks whose time has not come become scheduled. */
void put_aside(std::span<const int64> ids);

/* For stores: reads phrase::candidate_columns. "claimed_by" is empty where rows are not asked for. */
Candidate candidate_at(const Rows &rows, uint64 row, std::string_view claimed_by);

} // namespace jobqueue::store
