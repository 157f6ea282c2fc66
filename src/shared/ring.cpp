/*
 * ring.cpp -- see ring.hpp. C region.
 */
#include "shared/ring.hpp"

namespace jobqueue {

static Announcement *ring = nullptr;

Size ring_bytes() {
	return mul_size(ring_size, sizeof(Announcement));
}

uint64 ring_head() noexcept {
	return pg_atomic_read_u64(&shared()->announced);
}

void startup_ring() {
	bool found;
	ring = static_cast<Announcement *>(ShmemInitStruct("jobqueue announcements", ring_bytes(), &found));
	if (!found) {
		memset(static_cast<void *>(ring), 0, ring_size * sizeof(Announcement));
		for (uint64 i = 0; i < ring_size; i++)
			pg_atomic_init_u64(&ring[i].sequence, 0);
	}
}

void announce(const News &news) noexcept {
	/* Locked for a few instructions. Without it, a writer that is preempted would leave a gap before later entries. */
	SpinLockAcquire(&shared()->ring_lock);
	const uint64 position = pg_atomic_read_u64(&shared()->announced);
	Announcement &entry = ring[position & (ring_size - 1)];
	pg_atomic_write_u64(&entry.sequence, 0);
	pg_write_barrier();
	entry.news = news;
	pg_write_barrier();
	pg_atomic_write_u64(&entry.sequence, position + 1);
	pg_write_barrier();
	pg_atomic_write_u64(&shared()->announced, position + 1);
	SpinLockRelease(&shared()->ring_lock);
}

Read read_announcement(uint64 position, News *out) noexcept {
	const uint64 head = ring_head();
	if (position >= head)
		return Read::end;
	pg_read_barrier();
	Announcement &entry = ring[position & (ring_size - 1)];
	if (head - position > ring_size || pg_atomic_read_u64(&entry.sequence) != position + 1)
		return Read::overrun;
	pg_read_barrier();
	*out = entry.news;
	pg_read_barrier();
	return pg_atomic_read_u64(&entry.sequence) == position + 1 ? Read::news : Read::overrun;
}

} // namespace jobqueue
