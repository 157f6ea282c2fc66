/*
 * sequences.hpp -- how far a sequence has come, read as nextval() reads it: neither a statement nor the sequence's ACL.
 *
 * C region.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

/* No value that it gives from now on is lower; PG_INT64_MIN if that cannot be said: it counts down, cycles, or is cached. */
int64 lowest_next_value(Oid sequence);

} // namespace jobqueue
