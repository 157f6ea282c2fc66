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
 * Completes claims that are still what "ids" and "attempts" say. "results" is jsonb[]. "slot" is the leaf of the
 * history; 0 deletes the tasks.
 */
std::vector<int64> complete(std::span<const int64> ids, std::span<const int32> attempts, std::optional<Datum> results,
							bool in_server, int leaf);

/* A task that ran under its lock alone, and was never processing in the eyes of others. */
struct Finished {
	int64 id;
	ItemPointerData tid;
	TimestampTz processed_at;
	std::optional<Datum> result; /* jsonb */
};
/*
 * Locked pending tasks become completed, as if they had been claimed by "claimed_by". Returns how many: others were
 * changed by this transaction itself. "leaf" 0: delete instead of keeping.
 */
uint64 complete_locked(std::span<const Finished> tasks, std::string_view claimed_by, int leaf);

struct Failure {
	std::string message;
	std::string sqlstate;
	bool crash = false;								 /* it took its worker or the server down */
	std::vector<std::string> keys = {}, values = {}; /* what else is known: detail, hint, context and so on */
};
/* A locked claim ends, and the task waits: at once, or until a time. Without failure, it costs no attempt. */
void put_back(int64 id, std::optional<TimestampTz> run_at, const std::optional<Failure> &failure);
/* A locked claim ends, and the task has failed. */
void give_up(int64 id, const Failure &failure);
/* A locked claim ends, and the task waits in another queue, which no worker serves. */
void dead_letter(int64 id, std::string_view queue, const Failure &failure);

} // namespace jobqueue::store
