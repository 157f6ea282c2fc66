/*
 * own_objects.hpp -- changes that an administrator may make to any table, but that would break the extension's tables,
 * are refused at once, with the reason, rather than when the next task is claimed.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

/* Raises if the command would. Who does not own the table is told so by the server. C region. */
void refuse_to_break(Node *command);
/* After it: ENABLE TRIGGER ALL, as a restore of the data alone does it, leaves ours firing always. C region. */
void keep_triggers(Node *command);

} // namespace jobqueue
