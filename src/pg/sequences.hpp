/*
 * sequences.hpp -- how far a sequence has come, read as nextval() reads it: neither a statement nor the sequence's ACL.
 *
 * C region.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

/*
 * The sequence gives no lower value from now on. PG_INT64_MIN if that is not known: it counts down, cycles, or is
 * cached.
 */
int64 lowest_next_value(Oid sequence);

} // namespace jobqueue
