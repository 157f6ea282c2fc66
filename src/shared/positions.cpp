/*
 * positions.cpp -- see positions.hpp. C region; nothing here can ereport once the hash table exists.
 */
#include "shared/positions.hpp"

#include "pg/clock.hpp"
#include "shared/ring.hpp"

extern "C" {
#include "utils/hsearch.h"
}

namespace jobqueue {

namespace {

struct Entry {
	LaneKey key;
	uint64 types; /* of the scope */
	IdRanges unread;
	uint64 sequence;
	SteadyTime swept_at;
	int64 sweep_us;
	SteadyTime used_at;
};

} // namespace

/*
 * A sweep may make a scope read over many tasks of other scopes. So a position takes sweeps over so rarely that the
 * reading afterwards takes at most one part in this many of the time.
 */
static constexpr int64 sweep_share = 50;

static HTAB *table = nullptr;

Size positions_size() {
	return hash_estimate_size(most_positions, sizeof(Entry));
}

void startup_positions() {
	HASHCTL control = {};
	control.keysize = sizeof(LaneKey);
	control.entrysize = sizeof(Entry);
	table = ShmemInitHash("jobqueue positions", most_positions, most_positions, &control,
						  HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
}

/* The place with most of the entries; "place_of" says in which place an entry is, if it counts. */
template <size_t places, typename PlaceOf> static size_t fullest(PlaceOf &&place_of) noexcept {
	static std::array<int32, places> counts;
	counts.fill(0);
	HASH_SEQ_STATUS scan;
	hash_seq_init(&scan, table);
	while (auto *entry = static_cast<Entry *>(hash_seq_search(&scan)))
		if (const std::optional<size_t> place = place_of(*entry))
			counts[*place]++;
	return static_cast<size_t>(std::max_element(counts.begin(), counts.end()) - counts.begin());
}

/*
 * Makes room: forgets positions that were not used for long. A lost position costs one reading from the start. The
 * database with most entries loses some, and in it the queue with most of them: so a user who makes many lanes loses
 * their own positions.
 */
static void evict() noexcept {
	constexpr size_t places = 1024;
	const size_t database =
		fullest<places>([](const Entry &entry) { return std::optional(entry.key.database % places); });
	const size_t queue = fullest<places>([database](const Entry &entry) {
		return entry.key.database % places == database ? std::optional(entry.key.queue_hash % places) : std::nullopt;
	});
	const auto is_there = [=](const Entry &entry) {
		return entry.key.database % places == database && entry.key.queue_hash % places == queue;
	};
	HASH_SEQ_STATUS scan;
	SteadyTime oldest = PG_INT64_MAX, youngest = 0;
	hash_seq_init(&scan, table);
	while (auto *entry = static_cast<Entry *>(hash_seq_search(&scan))) {
		if (!is_there(*entry))
			continue;
		oldest = std::min(oldest, entry->used_at);
		youngest = std::max(youngest, entry->used_at);
	}
	const SteadyTime limit = oldest + (youngest - oldest) / 2;
	hash_seq_init(&scan, table);
	while (auto *entry = static_cast<Entry *>(hash_seq_search(&scan)))
		if (is_there(*entry) && entry->used_at <= limit)
			hash_search(table, &entry->key, HASH_REMOVE, nullptr);
}

size_t count_positions(std::span<PositionsHeld> out) noexcept {
	size_t count = 0;
	LWLockAcquire(shared()->positions_lock, LW_SHARED);
	HASH_SEQ_STATUS scan;
	hash_seq_init(&scan, table);
	while (auto *entry = static_cast<Entry *>(hash_seq_search(&scan))) {
		const auto known = out.begin() + static_cast<ptrdiff_t>(count);
		auto place = std::find_if(out.begin(), known, [entry](const PositionsHeld &held) {
			return held.database == entry->key.database && held.role == entry->key.role;
		});
		if (place == known) {
			if (count == out.size())
				continue;
			*place = {entry->key.database, entry->key.role, 0};
			count++;
		}
		place->count++;
	}
	LWLockRelease(shared()->positions_lock);
	return count;
}

static bool concerns(const News &news, const Entry &entry) noexcept {
	return news.database == entry.key.database && !news.grouped && news.kind != AnnouncementKind::capacity &&
		   (news.kind == AnnouncementKind::statement ||
			(news.queue_hash == entry.key.queue_hash && news.priority == entry.key.priority)) &&
		   (news.type_hash == 0 || (type_mask(news.type_hash) & entry.types) != 0);
}

static void take_over(Entry *entry, SteadyTime now, bool *swept) noexcept {
	News news;
	for (;;) {
		switch (read_announcement(entry->sequence, &news)) {
		case Read::end:
			return;
		case Read::overrun:
			entry->unread.set_all();
			entry->sequence = ring_head();
			return;
		case Read::news:
			break;
		}
		entry->sequence++;
		if (!concerns(news, *entry))
			continue;
		if (news.kind == AnnouncementKind::sweep) {
			if (now - entry->swept_at < sweep_share * entry->sweep_us)
				continue;
			entry->swept_at = now;
			*swept = true;
		}
		entry->unread.add(news.ids);
	}
}

/* Adds what was announced since "from" and concerns the entry; false if that is not known, or there was a sweep. */
static bool catch_up(IdRanges *unread, uint64 from, const Entry &entry) noexcept {
	News news;
	for (; from < entry.sequence; from++) {
		if (read_announcement(from, &news) != Read::news)
			return false;
		if (!concerns(news, entry))
			continue;
		if (news.kind == AnnouncementKind::sweep)
			return false;
		unread->add(news.ids);
	}
	return true;
}

Position enter_lane(const LaneKey &key, uint64 types) noexcept {
	Position position = {};
	position.unread.set_all();
	if (shared() == nullptr)
		return position;
	const SteadyTime now = steady_now();
	LWLockAcquire(shared()->positions_lock, LW_EXCLUSIVE);
	bool found;
	auto *entry = static_cast<Entry *>(hash_search(table, &key, HASH_ENTER_NULL, &found));
	if (entry == nullptr) {
		evict();
		entry = static_cast<Entry *>(hash_search(table, &key, HASH_ENTER_NULL, &found));
	}
	if (entry != nullptr) {
		if (!found) {
			entry->unread.set_all();
			entry->sequence = ring_head();
			entry->swept_at = 0;
			entry->sweep_us = 0;
		}
		entry->types = types;
		entry->used_at = now;
		take_over(entry, now, &position.swept);
		position.unread = entry->unread;
		position.sequence = entry->sequence;
	}
	LWLockRelease(shared()->positions_lock);
	return position;
}

void leave_lane(const LaneKey &key, const Position &position, const IdRanges &unread, int64 microseconds) noexcept {
	if (shared() == nullptr)
		return;
	LWLockAcquire(shared()->positions_lock, LW_EXCLUSIVE);
	auto *entry = static_cast<Entry *>(hash_search(table, &key, HASH_FIND, nullptr));
	if (entry != nullptr) {
		/* After catching up both sets are right: keep the one that leaves less to read. */
		IdRanges mine = unread;
		if (catch_up(&mine, position.sequence, *entry) && mine.is_shorter_than(entry->unread))
			entry->unread = mine;
		if (position.swept)
			entry->sweep_us = microseconds;
	}
	LWLockRelease(shared()->positions_lock);
}

bool keep_positions(Oid database) noexcept {
	constexpr uint64 most_reads = 50000;
	uint64 reads = 0;
	bool swept = false;
	LWLockAcquire(shared()->positions_lock, LW_EXCLUSIVE);
	const uint64 head = ring_head();
	HASH_SEQ_STATUS scan;
	hash_seq_init(&scan, table);
	while (auto *entry = static_cast<Entry *>(hash_seq_search(&scan))) {
		if (entry->key.database != database || entry->sequence >= head)
			continue;
		if (reads >= most_reads) {
			hash_seq_term(&scan);
			break;
		}
		reads += head - entry->sequence;
		take_over(entry, 0, &swept);
	}
	LWLockRelease(shared()->positions_lock);
	return reads < most_reads;
}

} // namespace jobqueue
