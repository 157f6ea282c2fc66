/*
 * outcome.hpp -- the statements that end claims. "in_server" tells claims of workers in the server from those outside;
 * neither can end a claim of the other.
 *
 * C++ region; needs a Session, throws PgError. Strings that are returned are copies; Datums live as long as the
 * Session.
 */
#pragma once

#include "engine/store/claims.hpp"

namespace jobqueue::store {

/*
 * Completes claims that are still what "ids" and "attempts" say. "results" is jsonb[]. "leaf" is that of the history; 0
 * deletes the tasks.
 */
std::vector<int64> complete(std::span<const int64> ids, std::span<const int32> attempts, std::optional<Datum> results,
							bool in_server, int leaf);

/* A task that ran under its row lock alone: others never saw it as processing. */
struct Finished {
	int64 id;
	ItemPointerData tid;
	TimestampTz processed_at;
	std::optional<Datum> result; /* jsonb */
};
/*
 * Completes locked pending tasks, as if they had been claimed by "claimed_by". Returns how many; the others were
 * changed by this transaction itself. "leaf" 0: delete instead of keeping.
 */
uint64 complete_locked(std::span<const Finished> tasks, std::string_view claimed_by, int leaf);

struct Failure {
	std::string message;
	std::string sqlstate;
	bool crash = false;								 /* it took its worker or the server down */
	std::vector<std::string> keys = {}, values = {}; /* what else is known: detail, hint, context and so on */
};
/* Ends a locked claim; the task waits, until a time if one is given. Without failure, the claim costs no attempt. */
void put_back(int64 id, std::optional<TimestampTz> run_at, const std::optional<Failure> &failure);
/* Ends locked claims that have failed without a crash, each with its message; the tasks wait. */
struct FailedClaim {
	int64 id;
	std::string message;
};
void put_back(std::span<const FailedClaim> claims, std::string_view sqlstate);
/* Ends a locked claim; the task has failed. */
void give_up(int64 id, const Failure &failure);
/* Ends a locked claim; the task waits in another queue, which no worker serves. */
void dead_letter(int64 id, std::string_view queue, const Failure &failure);

} // namespace jobqueue::store
