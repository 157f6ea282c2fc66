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

/* Moves tasks that were finished by hand to their leaf; if none are named, those from a place on. */
struct Archived {
	int64 count;
	Place last;
};
Archived archive_finished(int leaf, const Place &from, const Batch &batch);
std::vector<int64> finished_ids(const Place &from, const Batch &batch);
/* Removes failed tasks that finished before that time; returns how many. */
int64 purge_failed(TimestampTz before, const Batch &batch);
std::vector<int64> purgeable_ids(TimestampTz before, const Batch &batch);

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
/* For a leaf that cannot be emptied at once: removes rows after an id, in the order of the ids, except locked ones. */
struct Thinned {
	int64 last;
	int64 count;
};
Thinned thin_history(int leaf, int64 after, int count);
bool history_is_empty(int leaf);
/* Tells people who has a lock on the leaf. */
std::string holders_of_history(int leaf);

} // namespace jobqueue::store
