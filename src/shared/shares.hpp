/*
 * shares.hpp -- who holds how much of the space of fixed size that all databases share, and how much they may hold.
 *
 * A tenant is a database, in it a role, and for that a queue. Each may hold 7/8 of what the others on its level have
 * left, and the last eighth of the whole is for tenants that hold very little. So a tenant that takes all it can get
 * leaves room for the next one, however many do so, and a tenant that comes later always finds some.
 *
 * The numbers are kept for counting.cpp, under its lock. noexcept, any region.
 */
#pragma once

#include "shared/state.hpp"

namespace jobqueue {

struct Holder {
	Oid database;
	Oid role;		   /* of the session; unknown_role after a start of the server */
	uint64 queue_hash; /* 0 = all queues together */

	bool operator==(const Holder &) const = default;
};
inline constexpr Oid unknown_role = 1; /* no role has this OID */

/* What is held. */
enum class Resource { tasks, names };
inline constexpr size_t resource_kinds = 2;

struct Capacity {
	int64 all;
	int64 small; /* a holder with less than this gets more as long as there is any */

	/* How much a holder may have, if it has "own", its role and database have this much, and all have "in_use". */
	constexpr int64 share(int64 in_use, int64 of_database, int64 of_role, int64 own) const noexcept {
		const int64 common = all - all / 8;
		const int64 for_database = part(common - (in_use - of_database));
		const int64 for_role = part(for_database - (of_database - of_role));
		return std::max(part(for_role - (of_role - own)), std::min(small, all - in_use + own));
	}

private:
	static constexpr int64 part(int64 left) noexcept { return left > 0 ? left / 8 * 7 : 0; }
};

inline constexpr Capacity capacities[resource_kinds] = {{65536, 64}, {131072, 192}};
/* A holder that is alone may have more than half; small ones find room when three have taken all that they may. */
static_assert(capacities[0].share(0, 0, 0, 0) > 32768 && capacities[1].share(0, 0, 0, 0) > 65536);
static_assert(capacities[0].share(65536 - 4096, 0, 0, 0) >= 64 && capacities[0].share(65536, 0, 0, 0) == 0);

struct Held {
	Holder holder;
	char queue[queue_name_size];
	int32 held[resource_kinds];
};

Size shares_size();
/* C region; called at start, under AddinShmemInitLock. */
void startup_shares();

int64 share_of(Resource resource, const Holder &holder) noexcept;
int64 held_by(Resource resource, const Holder &holder) noexcept;
int64 in_use(Resource resource) noexcept;
/* The holder to count for: if there are very many queues, further queues of a role are counted together. */
Holder holder_of(Oid database, Oid role, uint64 queue_hash) noexcept;
/* "queue" is the queue's name, which take_refused() and list_held() return. */
void change_held(Resource resource, const Holder &holder, int32 change, const char *queue = "") noexcept;

/* This holder was refused because there was no room. */
void note_refused(const Holder &holder) noexcept;
/* Was a holder of this database refused since the last call, and which one? */
bool take_refused(Oid database, Held *who) noexcept;

/* Holders by queue: fills "out", as far as it goes; returns how many there are. */
size_t list_held(std::span<Held> out) noexcept;

} // namespace jobqueue
