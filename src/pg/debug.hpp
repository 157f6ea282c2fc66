/*
 * debug.hpp -- is anybody interested in debug messages? Asked before one is made, so that it costs one comparison or
 * two where nobody is. noexcept, any region.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

/* "level": DEBUG1 to DEBUG5. A background process has no client, and client_min_messages is never so low there. */
inline bool is_debugging(int level) noexcept {
	return log_min_messages <= level || client_min_messages <= level;
}

} // namespace jobqueue
