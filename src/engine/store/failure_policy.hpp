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
	std::optional<std::string> on_failure; /* when it has failed for good, a task of this type is added by ... */
	std::string run_as;					   /* the handler's role */
	Oid role = InvalidOid;				   /* likewise; invalid if it is no more */
};
/* The defaults for a type without handler, or with one that has no say in the queue. */
FailurePolicy failure_policy(const Claim &claim, std::string_view sqlstate);

/* What is told to the task that is added when one has failed for good. jsonb, both. */
struct FailureReport {
	Datum payload;
	Datum metadata;
};
/* None if it was itself added for such a reason: one failure leads to one such task. Before the task leaves its row. */
std::optional<FailureReport> failure_report(int64 id, const Failure &failure,
											const std::optional<std::string> &dead_letter_queue);

} // namespace jobqueue::store
