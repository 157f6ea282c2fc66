/*
 * failure_policy.hpp -- the statements that tell what becomes of a failed attempt.
 *
 * C++ region; needs a Session, throws PgError. Strings that are returned are copies; Datums live as long as the
 * Session.
 */
#pragma once

#include "engine/store/outcome.hpp"

namespace jobqueue::store {

/* What becomes of a type's failed attempts. */
struct FailurePolicy {
	std::string backoff = "exponential";
	int64 first_delay_us = 5 * USECS_PER_SEC;
	int64 max_delay_us = USECS_PER_HOUR;
	double jitter = 0.2;
	bool discard = false; /* this SQLSTATE is not to be tried again */
	std::optional<std::string> dead_letter_queue;
	std::optional<std::string> on_failure; /* type of the task to add when one has failed for good */
	std::string run_as;					   /* the handler's role, which adds that task */
	Oid role = InvalidOid;				   /* its OID; InvalidOid if it no longer exists */
};
/* Returns the defaults for a type without handler, or with one that has no say in the queue. */
FailurePolicy failure_policy(const Claim &claim, std::string_view sqlstate);

/* What the task gets that is added when one has failed for good. Both are jsonb. */
struct FailureReport {
	Datum payload;
	Datum metadata;
};
/*
 * None if the task was itself added for a failure: one failure leads to one such task. Call before the task leaves its
 * row.
 */
std::optional<FailureReport> failure_report(int64 id, const Failure &failure,
											const std::optional<std::string> &dead_letter_queue);

} // namespace jobqueue::store
