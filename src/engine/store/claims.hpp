/*
 * claims.hpp -- the statements about claims: locking them, and what a worker outside does to its own while it lasts.
 *
 * C++ region; needs a Session, throws PgError. Strings that are returned are copies; Datums live as long as the
 * Session.
 */
#pragma once

#include "engine/store/batch.hpp"
#include "pg/session.hpp"

namespace jobqueue::store {

struct Claim {
	int64 id;
	std::string type;
	std::string queue;
	int16 priority;
	int32 attempt;
	int32 max_attempts;
	std::string claimed_by;
	int32 crashes;
	bool dead_letter;
	bool in_server;
	std::string group; /* empty = none */
	int32 failed;	   /* attempts so far, without this one */
};
/* How many attempts of a task have failed so far. */
int32 failed_attempts(int64 id);
/* Locks the task of a claim, unless the claim is over. */
std::optional<Claim> lock_claim(int64 id, int32 attempt, bool in_server);
/* Locks those of these tasks that nobody else has locked, and returns them. */
std::vector<int64> lock_free(std::span<const int64> ids);
/*
 * Like lock_claim(), for a worker's claim that is known to have existed when the server crashed, but may itself have
 * been forgotten: workers commit their claims without waiting for the disk. Then the claim is made again.
 */
std::optional<Claim> lock_crashed_claim(int64 id, int32 attempt);
/* The next claims whose leases ended before "now", in order. */
Page expired(const Cursor &cursor, TimestampTz now, const Batch &batch);
/* Locks those of these claims whose leases ended before "now", except locked ones. */
std::vector<Claim> lock_expired(std::span<const int64> ids, TimestampTz now);
/* Claims of workers, dead or alive. Not locked. */
std::vector<Claim> claims_in_server();

bool extend_lease(int64 id, int32 attempt, TimestampTz lease);
bool set_progress(int64 id, int32 attempt, float fraction, const std::optional<std::string> &message);

/* When the first lease from a place on ends, except those of some tasks; DT_NOEND if never. */
TimestampTz next_lease(const Place &from, std::span<const int64> except);

/* Locks a task, if it is live; false, without waiting, if somebody else has locked it. */
bool lock_unless_locked(int64 id);

/* For stores: reads phrase::claim_columns. */
std::vector<Claim> claims_of(const Rows &rows);

} // namespace jobqueue::store
