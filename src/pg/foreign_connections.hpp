/*
 * foreign_connections.hpp -- connections to other servers that a handler has left open in the process: dblink keeps them
 * for the session, open transactions included, and nothing that resets a session knows of them. (postgres_fdw keeps its
 * own, but ends what it began with the transaction.)
 *
 * C region.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

/* Has this process loaded dblink? Cheap. */
bool dblink_is_loaded();
/* Closes all connections of dblink. For a transaction of its own, which does nothing else, and is rolled back. */
void close_dblink_connections();

} // namespace jobqueue
