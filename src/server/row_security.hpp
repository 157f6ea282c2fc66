/*
 * row_security.hpp -- the hook of the planner that asks which rows of a table a role meets in plain SQL.
 */
#pragma once

namespace jobqueue {

/* C region; called by _PG_init. */
void install_row_security();

} // namespace jobqueue
