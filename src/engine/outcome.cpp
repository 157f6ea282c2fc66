/*
 * outcome.cpp -- see outcome.hpp. C++ region.
 */
#include "engine/outcome.hpp"

#include "engine/executor.hpp"
#include "engine/retry_policy.hpp"
#include "pg/settings.hpp"
#include "shared/announcements.hpp"

extern "C" {
#include "common/pg_prng.h"
}

namespace jobqueue {

int history_slot() {
	if (settings::completed_retention_s == 0)
		return 0;
	if (shared() != nullptr) {
		DatabaseSlot *slot = guard([] { return find_database(MyDatabaseId); });
		const uint32 current = slot ? pg_atomic_read_u32(&slot->history_slot) : 0;
		if (current != 0)
			return static_cast<int>(current);
	}
	return store::history_ring().slot;
}

std::vector<int64> end_completed(std::span<const int64> ids, std::span<const int32> attempts,
								 std::optional<Datum> results, bool in_server) {
	std::vector<int64> done = store::complete(ids, attempts, results, in_server, history_slot());
	for (const int64 id : done)
		guard([id] { note_finished(id); });
	return done;
}

static void announce_task(const store::Claim &claim) {
	guard([&claim] { note_task(claim.queue, claim.priority, claim.id, claim.type); });
}

const char *end_failed(const store::Claim &claim, const store::Failure &failure, const FailureOptions &options) {
	if (!options.retryable || claim.attempt >= claim.max_attempts) {
		store::give_up(claim.id, failure);
		guard([&claim] { note_finished(claim.id); });
		return "failed";
	}
	const int64 delay =
		options.retry_in_us.value_or(RetryPolicy{}.delay_us(claim.attempt, pg_prng_double(&pg_global_prng_state)));
	if (delay <= 0) {
		store::put_back(claim.id, std::nullopt, failure, true);
		announce_task(claim);
		return "pending";
	}
	const TimestampTz run_at = GetCurrentTimestamp() + delay;
	store::put_back(claim.id, run_at, failure, true);
	guard([run_at] { note_due(run_at); });
	return "scheduled";
}

static constinit char own_reason[1024] = {};
static constinit bool own_reason_given = false;

std::optional<std::string> take_own_reason() {
	return std::exchange(own_reason_given, false) ? std::optional(std::string(own_reason)) : std::nullopt;
}

bool end_cancelled(int64 id, const std::optional<std::string> &reason) {
	if (reason && current_task_id() == id) {
		const int length = guard([&reason] {
			return pg_mbcliplen(reason->data(), static_cast<int>(reason->size()), sizeof(own_reason) - 1);
		});
		memcpy(own_reason, reason->data(), static_cast<size_t>(length));
		own_reason[length] = '\0';
		own_reason_given = true;
	}
	const std::optional<store::Lane> lane = store::cancel(id, reason, history_slot());
	if (!lane)
		return false;
	guard([&lane, id] {
		note_claimed(lane->queue, lane->priority, id); /* if this is rolled back, it can be claimed again */
		note_finished(id);
		note_cancelled(id);
	});
	return true;
}

void end_released(const store::Claim &claim) {
	store::put_back(claim.id, std::nullopt, std::nullopt, false);
	announce_task(claim);
}

void end_abandoned(const store::Claim &claim, const store::Failure &failure, bool charged) {
	if (charged)
		end_failed(claim, failure, {.retryable = true, .retry_in_us = 0});
	else
		end_released(claim);
}

void end_expired(const store::Claim &claim) {
	end_abandoned(claim, {"the lease expired: " + claim.claimed_by + " did not report back", "JQ001"}, true);
}

} // namespace jobqueue
