/*
 * name_hash.hpp -- hashes of the names that users choose (queues, types, groups), by which shared memory knows them.
 *
 * The key is a secret of this start of the server. So nobody can choose a name that has the same hash as another user's
 * name, and would then share its limits and turns. The hashes mean nothing after the next start, and are never written
 * to disk. noexcept, safe in any region.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

struct NameKey {
	uint64 words[2];
};

/* The postmaster draws the key for all; a process without shared memory draws one of its own at first use. */
NameKey draw_name_key() noexcept;
void set_name_key(const NameKey &key) noexcept;

/* SipHash-2-4 of the name. "seed" says what kind of thing has it, or is the hash to continue from. Never returns 0. */
uint64 hash_name(std::string_view name, uint64 seed = 0) noexcept;

} // namespace jobqueue
