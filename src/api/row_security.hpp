/*
 * row_security.hpp -- which rows of our tables a role meets in plain SQL.
 */
#pragma once

namespace jobqueue {

/* C region; called by _PG_init. */
void install_row_security();

} // namespace jobqueue
