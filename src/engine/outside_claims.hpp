/*
 * outside_claims.hpp -- claims of programs outside the server: what claim() takes, and what it does itself where no
 * scheduler runs. C++ region.
 */
#pragma once

#include "engine/access.hpp"

namespace jobqueue {

struct ClaimRequest {
	std::optional<std::string> queue;
	int count = 0;
	TimestampTz lease = 0;
	std::optional<std::vector<std::string>> types; /* sorted; none = all that no handler serves */
	std::string claimant;
};
/*
 * Claims up to "count" tasks of the queues that are allowed. Where no scheduler runs, it first makes scheduled tasks
 * due and ends leases. The rows, jobqueue.tasks, live as long as the Session that it needs.
 */
std::vector<HeapTuple> claim_for_outside(const ClaimRequest &request, Queues allowed);

} // namespace jobqueue
