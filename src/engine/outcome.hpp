/*
 * outcome.hpp -- how a claim ends: the same for workers, for callers of complete() and fail(), and for claims whose
 * holder is gone. C++ region; everything needs a Session.
 */
#pragma once

#include "engine/store/administration.hpp"
#include "engine/store/attempts.hpp"
#include "engine/store/claims.hpp"
#include "engine/store/due_tasks.hpp"
#include "engine/store/outcome.hpp"

namespace jobqueue {

/* Why an attempt ended, where no error of the handler's says it. */
namespace sqlstate {
inline constexpr const char *lease_expired = "JQ001";
inline constexpr const char *worker_ended = "JQ002";
inline constexpr const char *discarded = "JQ003";
inline constexpr const char *timed_out = "JQ004";
inline constexpr const char *crashed = "JQ005";
} // namespace sqlstate
inline constexpr int errcode_discarded = MAKE_SQLSTATE('J', 'Q', '0', '0', '3');

/* The history leaf that finished tasks go to now; 0 = they are not kept. */
int history_leaf();

/* Claims that are still good become completed tasks; returns their ids. */
std::vector<int64> end_completed(std::span<const int64> ids, std::span<const int32> attempts,
								 std::optional<Datum> results, bool in_server);

/* Tasks that ran under their locks alone become completed tasks; false if one of them is not what it was. */
bool end_locked(std::span<const store::Finished> tasks, std::string_view claimed_by);

/*
 * Attempts in the server whose handler has returned: completed with these results, or snoozed, if there is only one.
 * False if the claim of one of them is over.
 */
bool end_succeeded(std::span<const store::Attempt> tasks, std::span<const std::optional<Datum>> results);

struct FailureOptions {
	bool retryable = true;
	bool discarded = false; /* the handler's own word: not to be tried again, and no dead letter either */
	std::optional<int64> retry_in_us = std::nullopt; /* none: by the policy of its type */
};
/*
 * A locked claim ends in failure: tried again, handed to the dead-letter queue of its type, or failed. Returns the
 * task's new status.
 */
const char *end_failed(const store::Claim &claim, store::Failure failure, const FailureOptions &options);

/* What a handler's error says, with details of bounded length. */
store::Failure failure_of(const PgError &error);

/* A task that is not finished ends cancelled; false if there is none. */
bool end_cancelled(int64 id, const std::optional<std::string> &reason);
/* Tasks that were deleted, whatever their status: nobody need wait for them. */
void end_removed(std::span<const store::Removed> tasks);
/* That the latest handler cancelled its own task: it was rolled back with it, and has to be said again. */
struct OwnCancel {
	std::optional<std::string> reason;
};
std::optional<OwnCancel> take_own_cancel();
/*
 * A handler has returned, but its claim is over, and its transaction has been rolled back. If the claim is good again,
 * the handler itself ended it: by cancel(), which it has said, or by hand, which is an error.
 */
void end_by_own_hand(int64 id, int32 attempt, const std::optional<OwnCancel> &cancel);

/* A task that was scheduled can be claimed now. */
void announce_due(const store::Due &task);

/* A locked claim ends through nobody's fault: the task waits again, and the attempt does not count. */
void end_released(const store::Claim &claim);
/* Likewise, until a time. */
void end_snoozed(const store::Claim &claim, TimestampTz until);
/* Likewise an attempt in the server, for so long; false if its claim is over. */
bool end_snoozed(const store::Attempt &task, int64 snooze_us);

/*
 * A locked claim whose holder is gone ends in failure: the task waits again at once if it has attempts left. Returns
 * its status.
 */
const char *end_abandoned(const store::Claim &claim, store::Failure failure);

/* A locked claim whose lease has ended: abandoned. */
void end_expired(const store::Claim &claim);

} // namespace jobqueue
