/*
 * start_pause.hpp -- was this server told, before it started, not to run the tasks in it? A copy of the data directory
 * cannot know that it is one: whoever makes it says so, with jobqueue.start_paused or with a file.
 *
 * C region.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

/* A file in the data directory; its content does not matter. */
inline constexpr const char *pause_file = "jobqueue.paused";

/* Called in the postmaster, once, after the settings are known: what is said later is for the next start. */
void look_for_start_pause();
/* What paused the start; null = nothing. A restart after a crash is no start. */
const char *start_paused_by() noexcept;

} // namespace jobqueue
