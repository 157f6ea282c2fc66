/*
 * databases.hpp -- which database has which slot in shared memory.
 */
#pragma once

#include "shared/state.hpp"

namespace jobqueue {

/* This database's slot; null if it has none, or the library is not preloaded. Safe in signal handlers. */
DatabaseSlot *find_database(Oid database);
/* Likewise, taken if it has none; null when all are taken. C region (takes an LWLock). */
DatabaseSlot *attach_database(Oid database);
/* Gives the slot back. C region (takes an LWLock). */
void release_database(DatabaseSlot *slot);

/* Among these tasks may be some that have ended and that others wait for. */
void add_ended(DatabaseSlot *slot, const IdRanges &ids) noexcept;
IdRanges take_ended(DatabaseSlot *slot) noexcept;

} // namespace jobqueue
