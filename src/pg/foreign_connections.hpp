/*
 * foreign_connections.hpp -- connections to other servers that a handler has left open in the process. dblink keeps
 * them for the session, with their open transactions, and no command that resets a session closes them. (postgres_fdw
 * keeps its connections too, but ends with the transaction what it began in it.)
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
