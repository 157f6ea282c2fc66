/*
 * row_security.hpp -- which rows of our tables a role meets in plain SQL.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

/* C region; called by _PG_init. */
void install_row_security();
/* This table was changed: if who has access depends on it, so do plans of other sessions. C region. */
void forget_policies(Relation changed);

} // namespace jobqueue
