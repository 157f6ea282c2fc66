/*
 * pauses.hpp -- the statements about queues that are paused, and those for dead letters.
 *
 * C++ region; needs a Session, throws PgError. Strings that are returned are copies; Datums live as long as the
 * Session.
 */
#pragma once

#include "pg/session.hpp"

namespace jobqueue::store {

/* Queues from which workers claim nothing: paused ones, and those for dead letters. */
struct Pauses {
	bool all = false;
	std::vector<std::string> queues;
	std::vector<std::string> dead_letter_queues; /* not paused for claim() */
};
Pauses pauses();
/* Without a queue: all queues. True if something changed. */
bool pause(const std::optional<std::string> &queue);
bool resume(const std::optional<std::string> &queue);

} // namespace jobqueue::store
