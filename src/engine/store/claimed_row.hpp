/*
 * claimed_row.hpp -- the row of a task, as the claim of a worker leaves it: what its handler sees.
 *
 * C++ region; needs a Session, throws PgError. Strings that are returned are copies; Datums live as long as the
 * Session.
 */
#pragma once

#include "pg/session.hpp"

namespace jobqueue::store {

/* The row of a pending task as the given worker's claim would leave it. Nothing is written. */
Datum as_claimed(Datum row, int32 max_attempts, std::string_view claimed_by);

/*
 * The row of a task that begin_attempts() has begun; or the row as begin_attempts() would leave it, if this
 * transaction has locked the task. None if the task has changed meanwhile. "attempts" is their number before this one.
 */
std::optional<Datum> row_as_claimed(int64 id, int32 attempts, std::string_view claimed_by);

} // namespace jobqueue::store
