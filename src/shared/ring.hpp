/*
 * ring.hpp -- the ring in shared memory through which committed transactions announce new tasks, and more, to those who
 * wait for it. Each reader keeps a position in the ring; a reader that falls behind by more than the ring holds is told
 * so, and looks at the tables instead.
 *
 * noexcept, any region, unless it says otherwise.
 */
#pragma once

#include "shared/id_ranges.hpp"
#include "shared/state.hpp"

namespace jobqueue {

enum class AnnouncementKind : uint32 {
	tasks,	   /* tasks in a queue and priority, with ids in the range given */
	statement, /* tasks in unknown queues, with ids in the range given */
	returned,  /* tasks in a queue and priority that were there before: no NOTIFY is sent */
	sweep,	   /* the lowest waiting task of a queue and priority, found by the scheduler's pass over all */
	capacity,  /* a task that was counted under a limit of its queue, type or group has ended: another may begin */
};

struct News {
	AnnouncementKind kind;
	Oid database;
	int16 priority;
	bool grouped; /* the tasks belong to groups */
	IdRange ids;
	uint64 queue_hash;
	uint64 type_hash; /* 0 = several, or not known */
	char queue[queue_name_size];
	char group[queue_name_size]; /* empty = several, or too long */
};

struct Announcement {
	pg_atomic_uint64 sequence; /* position + 1; 0 while being overwritten */
	News news;
};

/* C region; called at start, under AddinShmemInitLock. */
void startup_ring();

uint64 ring_head() noexcept;
enum class Read { news, end, overrun };
/* Reads the announcement at "position" if there is one; "overrun" if the ring has gone round. */
Read read_announcement(uint64 position, News *out) noexcept;
/*
 * Reads from "position" to the end of the ring. Calls take(news) for each announcement of this database, and lost() if
 * the ring has gone round; then it goes on from the end. C++ region.
 */
template <typename Take, typename Lost> void follow_ring(uint64 &position, Take &&take, Lost &&lost) {
	News news;
	for (;;) {
		switch (read_announcement(position, &news)) {
		case Read::end:
			return;
		case Read::overrun:
			position = ring_head();
			lost();
			break;
		case Read::news:
			position++;
			if (news.database == MyDatabaseId)
				take(news);
			break;
		}
	}
}

/* Announces at once, without waiting for a commit. Wakes nobody. */
void announce(const News &news) noexcept;

Size ring_bytes();

} // namespace jobqueue
