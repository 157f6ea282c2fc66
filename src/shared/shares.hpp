/*
 * shares.hpp -- who holds how much of what is shared by all databases and has a fixed size, and how much that may be.
 *
 * A tenant is a database, in it a role, and for that a queue. Each may hold 7/8 of what the others on its level have
 * left of it, and a last eighth of the whole is for those who hold next to nothing: whoever takes what he can get
 * leaves room for the next one, however many do so, and nobody who comes later finds nothing.
 *
 * What is counted here is what counting.cpp counts, under its lock. noexcept, any region.
 */
#pragma once

#include "shared/state.hpp"

namespace jobqueue {

struct Holder {
	Oid database;
	Oid role;		   /* whose session; unknown_role after a start of the server */
	uint64 queue_hash; /* 0: not by queue */

	bool operator==(const Holder &) const = default;
};
inline constexpr Oid unknown_role = 1; /* no role has this OID */

/* What is held. */
enum class Resource { tasks, names };
inline constexpr size_t resource_kinds = 2;

struct Capacity {
	int64 all;
	int64 small; /* whoever holds less than this gets more as long as there is any */

	/* How much somebody may hold, who and whose role and database hold so much, of what is in use by all. */
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
/* Alone, anybody may hold more than half; and the small ones find room when three have taken all they may. */
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
/* Whom to count it for: the queues of a role are counted together where there are very many. */
Holder holder_of(Oid database, Oid role, uint64 queue_hash) noexcept;
/* "queue": its name, for who wants to know. */
void change_held(Resource resource, const Holder &holder, int32 change, const char *queue = "") noexcept;

/* Somebody was refused for want of room. */
void note_refused(const Holder &holder) noexcept;
/* Was anybody of this database since this was asked last, and who? */
bool take_refused(Oid database, Held *who) noexcept;

/* Those by queue: fills "out", as far as it goes; returns how many there are. */
size_t list_held(std::span<Held> out) noexcept;

} // namespace jobqueue
