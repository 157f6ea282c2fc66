/*
 * durability.hpp -- waiting until what is committed is safe. C region. Used by api/watch.
 */
#pragma once

#include "pg/clock.hpp"
#include "pg/server.hpp"

namespace jobqueue {

/*
 * Waits until everything that is in the write-ahead log now is as safe as a commit of this session's would be: on disk,
 * and with the synchronous standbys if there are any and synchronous_commit asks for them. False if it is not at
 * "deadline" (never: waits for ever). On a standby there is nothing to wait for.
 */
bool wait_until_safe(SteadyTime deadline);

} // namespace jobqueue
