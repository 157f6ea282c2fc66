/*
 * own_objects.hpp -- what an administrator may do to any table, and would break ours, is refused when it is done, with the
 * reason, rather than when the next task is claimed.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

/* Raises if the command would. Who does not own the table is told so by the server. C region. */
void refuse_to_break(Node *command);
/* After it: ENABLE TRIGGER ALL, as a restore of the data alone does it, leaves ours firing always. C region. */
void keep_triggers(Node *command);

} // namespace jobqueue
