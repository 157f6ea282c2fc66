/*
 * row_security.hpp -- the planner's hook that says which rows of a table a role sees in plain SQL.
 */
#pragma once

namespace jobqueue {

/* C region; called by _PG_init. */
void install_row_security();

} // namespace jobqueue
