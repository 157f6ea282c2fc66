/*
 * sequences.hpp -- how far a sequence has come, read as nextval() reads it: without a statement, and whatever its ACL.
 *
 * C region.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

/*
 * The sequence gives no lower value from now on. PG_INT64_MIN if the value is not known: the sequence counts down,
 * cycles, or is cached.
 */
int64 lowest_next_value(Oid sequence);

} // namespace jobqueue
