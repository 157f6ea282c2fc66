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

/* Why an attempt ended, if no error of the handler says it. */
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

/* Completes the tasks whose claims are still valid; returns their ids. */
std::vector<int64> end_completed(std::span<const int64> ids, std::span<const int32> attempts,
								 std::optional<Datum> results, bool in_server);

/* Completes tasks that ran under their row locks alone; false if one of them is not what it was. */
bool end_locked(std::span<const store::Finished> tasks, std::string_view claimed_by);

/*
 * Ends attempts in the server whose handler has returned: completes them with these results, or snoozes the task, if
 * there is only one. False if the claim of one of them is over.
 */
bool end_succeeded(std::span<const store::Attempt> tasks, std::span<const std::optional<Datum>> results);

struct FailureOptions {
	bool retryable = true;
	bool discarded = false; /* the handler decided so: no further attempt, and no dead letter either */
	std::optional<int64> retry_in_us = std::nullopt; /* none: by the policy of its type */
};
/*
 * Ends a locked claim in failure: the task is tried again, moved to the dead-letter queue of its type, or failed.
 * Returns the task's new status.
 */
const char *end_failed(const store::Claim &claim, store::Failure failure, const FailureOptions &options);

/* What a handler's error says, with details of bounded length. */
store::Failure failure_of(const PgError &error);

/* Cancels a task that is not finished; false if there is none. */
bool end_cancelled(int64 id, const std::optional<std::string> &reason);
/* Announces the end of tasks that were deleted, whatever their status: nobody need wait for them. */
void end_removed(std::span<const store::Removed> tasks);
/* The latest handler cancelled its own task. This was rolled back with the handler, and has to be done again. */
struct OwnCancel {
	std::optional<std::string> reason;
};
std::optional<OwnCancel> take_own_cancel();
/*
 * For a handler that has returned although its claim is over; its transaction has been rolled back. If the claim is
 * valid again, the handler itself ended it: by cancel(), then "cancel" is given, or by hand, which is an error.
 */
void end_by_own_hand(int64 id, int32 attempt, const std::optional<OwnCancel> &cancel);

/* Announces that a task that was scheduled can be claimed now. */
void announce_due(const store::Due &task);
/* Makes those of these tasks due that are scheduled for this time or earlier, and announces them. Returns how many. */
int64 make_due(std::span<const int64> ids, TimestampTz now);

/* Ends a locked claim through nobody's fault: the task waits again, and the attempt does not count. */
void end_released(const store::Claim &claim);
/* The same, but the task waits until a time. */
void end_snoozed(const store::Claim &claim, TimestampTz until);
/* The same for an attempt in the server: the task waits for so long; false if its claim is over. */
bool end_snoozed(const store::Attempt &task, int64 snooze_us);

/*
 * Ends a locked claim whose holder is gone in failure: the task waits again at once if it has attempts left. Returns
 * its status.
 */
const char *end_abandoned(const store::Claim &claim, store::Failure failure);

/* Ends those of these claims whose leases have ended, as those whose holders are gone. Returns how many. */
int64 end_expired(std::span<const int64> ids, TimestampTz now);

} // namespace jobqueue
