/*
 * shared_memory.hpp -- asks the server for shared memory, and sets up all that is in it. C region.
 */
#pragma once

namespace jobqueue {

/* Called by _PG_init while the postmaster loads its libraries. */
void install_shared_memory_hooks();

} // namespace jobqueue
