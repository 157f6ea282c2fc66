/*
 * announcements.hpp -- how the news of new tasks gets from a committing transaction to those who wait for it.
 *
 * While it runs, a transaction notes what it does in memory of its own backend. When it commits, the notes go into a
 * ring in shared memory, and sleepers are woken. Readers keep a position in the ring each; one that falls behind by
 * more than the ring holds is told so, and looks at the tables instead.
 */
#pragma once

#include "shared/id_ranges.hpp"
#include "shared/state.hpp"

namespace jobqueue {

enum class AnnouncementKind : uint32 {
	tasks,	   /* tasks in this queue and priority, with ids in the range given */
	statement, /* likewise, in unknown queues */
	returned,  /* likewise, but they were there before: nobody outside wants to know */
	sweep,	   /* the lowest waiting task of a queue and priority, found by the scheduler's safety net */
	capacity,  /* a task ended that was counted under a limit of its queue, type or group: another may begin */
};

struct News {
	AnnouncementKind kind;
	Oid database;
	int16 priority;
	bool grouped; /* they belong to groups */
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

/*
 * Notes of the current transaction. C region: they may ereport (the first one registers the callbacks); what follows
 * at commit does not. Where the library is not preloaded, or with notify_mode immediate, new tasks are notified in the
 * transaction itself.
 */
/* "group" is empty for a task that has none. */
void note_task(std::string_view queue, int16 priority, int64 id, std::string_view type, std::string_view group);
/* Plain SQL is about to add tasks, with ids from this one on. */
void note_statement(int64 from);
/* Tasks were claimed: they are there again if the transaction aborts. */
void note_claimed(std::string_view queue, int16 priority, IdRange ids, bool grouped);
/* A task that was locked, and not claimed after all, can be had again when the transaction commits. */
void note_returned(std::string_view queue, int16 priority, int64 id, std::string_view group);
/* Something is due at this time. */
void note_due(TimestampTz at);
/* A task ended: whoever waits for it wants to know. */
void note_finished(int64 id);
/* Tasks are added that wait for these: call it before their rows are written. */
void note_parents(std::span<const int64> ids);
/* May there be tasks that wait for one of these? noexcept. */
bool may_be_parents(IdRange ids) noexcept;
/* A task was cancelled while it may be running in a worker. */
void note_cancelled(int64 id);
/* Rows were finished by hand; the scheduler archives them. */
void note_archive();
/* Handlers, queues or the incarnation changed. */
void note_configuration();
/* Databases came or changed: the launcher looks at pg_database. */
void note_rescan();
/* Something was committed by others in an unknown way (COMMIT PREPARED): look at everything. */
void note_everything();
/* This database is held free of our processes until the transaction ends, either way. */
void note_let_go(DatabaseSlot *slot);

/*
 * What the current transaction has noted and not yet announced: its own claims must see its own tasks. noexcept.
 */
/* Ids in a lane of tasks without group. */
IdRange own_ids(uint64 queue_hash, int16 priority) noexcept;
/* Was a subtransaction rolled back that had claimed? */
bool own_aborted() noexcept;
/* Has it given tasks of groups back? */
bool own_returned_groups() noexcept;
/* Has it changed handlers, queues or the incarnation? */
bool own_configuration() noexcept;
/* Did it add tasks to unknown queues? */
bool own_statements() noexcept;
void visit_own_lanes(void (*visit)(void *arg, const char *queue, int16 priority, bool grouped), void *arg);

/* C region; called at start, under AddinShmemInitLock. */
void startup_ring();

/* Reading. */
uint64 ring_head() noexcept;
enum class Read { news, end, overrun };
/* Reads the announcement at "position" if there is one; "overrun" if the ring has gone round. */
Read read_announcement(uint64 position, News *out) noexcept;
/*
 * Reads on from "position" to the end: take(news) for what concerns this database; lost() where the ring has gone round,
 * after which it goes on from the end. C++ region.
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

/* Announces at once, outside of any transaction. For processes. */
void announce(const News &news) noexcept;
/* Sees to it that a worker of each role that may handle the type (0 = any) looks; true if one was woken. */
bool wake_workers(Oid database, uint64 type_hash) noexcept;
/* Wakes one idle worker of the role; false if there is none. */
bool wake_worker_of(Oid database, Oid role) noexcept;

} // namespace jobqueue
