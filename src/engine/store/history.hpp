/*
 * history.hpp -- the statements that move finished tasks to the history, and remove them from it.
 *
 * C++ region; needs a Session, throws PgError. Strings that are returned are copies; Datums live as long as the
 * Session.
 */
#pragma once

#include "engine/store/batch.hpp"
#include "pg/session.hpp"

namespace jobqueue::store {

/* The next tasks that were finished by hand, in order. */
Page finished(const Cursor &cursor, const Batch &batch);
/* Moves those of these tasks that are finished to their leaf, except locked ones; returns how many. */
int64 archive(std::span<const int64> ids, int leaf);
/* The next failed tasks that finished before that time, in order. */
Page purgeable(const Cursor &cursor, TimestampTz before, const Batch &batch);
/* Removes those of these tasks, except locked ones; returns how many. */
int64 purge(std::span<const int64> ids, TimestampTz before);

struct Ring {
	int leaf;
	TimestampTz since;
};
/* Before the ring turns for the first time, it has no row: leaf 1, since the installation. */
Ring history_ring();
void set_history_ring(const Ring &ring);
/* Empties a leaf. Throws 55P03 if somebody reads it at the moment, so that nobody waits for this transaction. */
void empty_history(int leaf);
/* A history leaf with rows in it; 0 if there is none. */
int occupied_history();

/* Like empty_history(), but waits for those who read the leaf, as long as lock_timeout allows. */
void empty_history_patiently(int leaf);
/*
 * For a leaf that cannot be emptied at once: looks at so many rows after an id, in the order of the ids, and removes
 * them, except locked ones.
 */
struct Thinned {
	int64 last;
	int64 looked_at;
};
Thinned thin_history(int leaf, int64 after, int count);
bool history_is_empty(int leaf);
/* Tells people who has a lock on the leaf. */
std::string holders_of_history(int leaf);

} // namespace jobqueue::store
