/*
 * databases.hpp -- which database has which slot in shared memory.
 */
#pragma once

#include "shared/state.hpp"

namespace jobqueue {

/* This database's slot; null if it has none, or the library is not preloaded. Safe in signal handlers. */
DatabaseSlot *find_database(Oid database);
/* This database's slot; takes one if it has none; null if all are taken. C region (takes an LWLock). */
DatabaseSlot *attach_database(Oid database);
/* Gives the slot back. C region (takes an LWLock). */
void release_database(DatabaseSlot *slot);

/* Notes tasks that may have ended and that others may wait for; take_ended() returns and clears the notes. */
void add_ended(DatabaseSlot *slot, const IdRanges &ids) noexcept;
IdRanges take_ended(DatabaseSlot *slot) noexcept;

} // namespace jobqueue
