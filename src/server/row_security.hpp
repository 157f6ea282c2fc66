/*
 * row_security.hpp -- the planner's hook that says which rows of a table a role sees in plain SQL.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

/*
 * Is row_security off, and does the command read a table of ours as pg_dump does, for a role that may read all of it?
 * pg_dump turns row_security off, so that the server refuses to read a table whose rows a policy might hide. Here it
 * hides none, so such a command may run with row_security on. C region.
 */
bool is_dump_of_own_table(const Node *command);
/* Until AtEOXact_GUC(true, the result), or the end of the (sub)transaction. C region. */
int turn_on_row_security();

/* C region; called by _PG_init. */
void install_row_security();

} // namespace jobqueue
