/*
 * own_objects.hpp -- changes that an administrator may make to any table, but that would break the extension's tables,
 * are refused at once, with the reason, rather than when the next task is claimed.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

/* Raises an error if the command would break a table. If the caller does not own it, the server refuses. C region. */
void refuse_to_break(Node *command);
/* After ENABLE TRIGGER ALL, which a restore of data alone runs: makes our triggers fire always again. C region. */
void keep_triggers(Node *command);

} // namespace jobqueue
