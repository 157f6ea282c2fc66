/*
 * injection.hpp -- points in the code at which a test stops, fails or ends a process: where a kill at a random time
 * nearly never hits. They are in a library that was built with "make INJECTION=1", and in no other.
 *
 * A test writes a word into the file jobqueue.injection/<process>.<point> in the data directory, where the process is
 * "launcher", "scheduler", "worker" or "backend". The process that comes to the point removes the file, and then
 *
 *   error   raises an error
 *   exit    ends, as after FATAL
 *   kill    kills itself, so that the server restarts all its processes
 *   wait    waits until there is a file <process>.<point>.go, which it removes
 *
 * C++ region; throws PgError.
 */
#pragma once

#include "pg/guard.hpp"

namespace jobqueue {

#ifdef JOBQUEUE_INJECTION
namespace detail {
/* C region. */
void injection_point(const char *name);
} // namespace detail
inline void injection_point(const char *name) {
	guard([name] { detail::injection_point(name); });
}
#else
inline void injection_point(const char *) noexcept {}
#endif

} // namespace jobqueue
