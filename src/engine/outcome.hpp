/*
 * outcome.hpp -- how a claim ends: the same for workers, for callers of complete() and fail(), and for claims whose
 * holder is gone. C++ region; everything needs a Session.
 */
#pragma once

#include "engine/task_store.hpp"

namespace jobqueue {

/* The history leaf that finished tasks go to now; 0 = they are not kept. */
int history_slot();

/* Claims that are still good become completed tasks; returns their ids. */
std::vector<int64> end_completed(std::span<const int64> ids, std::span<const int32> attempts,
								 std::optional<Datum> results, bool in_server);

struct FailureOptions {
	bool retryable = true;
	std::optional<int64> retry_in_us; /* none: by the retry policy */
};
/* A claim that lock_claim has locked ends in failure. Returns the task's new status. */
const char *end_failed(const store::Claim &claim, const store::Failure &failure, const FailureOptions &options);

/* A task that is not finished ends cancelled; false if there is none. */
bool end_cancelled(int64 id, const std::optional<std::string> &reason);
/* The reason with which the latest handler cancelled its own task: that was rolled back with it, and is said again. */
std::optional<std::string> take_own_reason();

/* A locked claim ends through nobody's fault: the task waits again, and the attempt does not count. */
void end_released(const store::Claim &claim);

/*
 * A locked claim whose holder is gone: the task waits again at once. "charged": the attempt counts, and it may have
 * been the last one.
 */
void end_abandoned(const store::Claim &claim, const store::Failure &failure, bool charged);

/* A locked claim whose lease has ended: abandoned, and charged. */
void end_expired(const store::Claim &claim);

} // namespace jobqueue
