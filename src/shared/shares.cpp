/*
 * shares.cpp -- see shares.hpp. C region; nothing here can ereport once the hash table exists.
 */
#include "shared/shares.hpp"

extern "C" {
#include "utils/hsearch.h"
}

namespace jobqueue {

namespace {

struct Share {
	Holder key;
	int32 held[resource_kinds];
	bool refused;
	char queue[queue_name_size];
};

constexpr long most_shares = 16384;
/* Entries beyond these are kept for databases, and for roles with all their queues. */
constexpr long most_queues = most_shares - 4096;
constexpr uint64 several_queues = 1;

} // namespace

static HTAB *shares = nullptr;
/* The entry for what all hold together. */
static constexpr Holder everybody = {InvalidOid, InvalidOid, 0};

Size shares_size() {
	return hash_estimate_size(most_shares, sizeof(Share));
}

void startup_shares() {
	HASHCTL control = {};
	control.keysize = sizeof(Holder);
	control.entrysize = sizeof(Share);
	shares =
		ShmemInitHash("jobqueue shares", most_shares, most_shares, &control, HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
}

static Share *find(const Holder &holder) noexcept {
	return static_cast<Share *>(hash_search(shares, &holder, HASH_FIND, nullptr));
}

static Share *enter(const Holder &holder, const char *queue) noexcept {
	bool found;
	auto *share = static_cast<Share *>(hash_search(shares, &holder, HASH_ENTER_NULL, &found));
	if (share != nullptr && !found) {
		std::fill(std::begin(share->held), std::end(share->held), 0);
		share->refused = false;
		strlcpy(share->queue, queue, sizeof(share->queue));
	}
	return share;
}

int64 held_by(Resource resource, const Holder &holder) noexcept {
	const Share *const share = find(holder);
	return share ? share->held[static_cast<size_t>(resource)] : 0;
}

int64 in_use(Resource resource) noexcept {
	return held_by(resource, everybody);
}

int64 share_of(Resource resource, const Holder &holder) noexcept {
	return capacities[static_cast<size_t>(resource)].share(
		in_use(resource), held_by(resource, {holder.database, InvalidOid, 0}),
		held_by(resource, {holder.database, holder.role, 0}), held_by(resource, holder));
}

Holder holder_of(Oid database, Oid role, uint64 queue_hash) noexcept {
	const Holder holder = {database, role, queue_hash};
	if (hash_get_num_entries(shares) < most_queues || find(holder) != nullptr)
		return holder;
	return {database, role, several_queues};
}

static bool is_empty(const Share *share) noexcept {
	return !share->refused &&
		   std::all_of(std::begin(share->held), std::end(share->held), [](int32 n) { return n == 0; });
}

static void change_one(Resource resource, const Holder &holder, int32 change, const char *queue = "") noexcept {
	Share *const share = change > 0 ? enter(holder, queue) : find(holder);
	if (share == nullptr)
		return;
	int32 &held = share->held[static_cast<size_t>(resource)];
	held = std::max(held + change, 0);
	if (is_empty(share))
		hash_search(shares, &holder, HASH_REMOVE, nullptr);
}

void change_held(Resource resource, const Holder &holder, int32 change, const char *queue) noexcept {
	const Holder own = holder; /* a copy: "holder" may be in an entry that is removed here */
	change_one(resource, everybody, change);
	change_one(resource, {own.database, InvalidOid, 0}, change);
	change_one(resource, {own.database, own.role, 0}, change);
	change_one(resource, own, change, own.queue_hash == several_queues ? "" : queue);
}

void note_refused(const Holder &holder) noexcept {
	if (Share *share = enter({holder.database, InvalidOid, 0}, ""))
		share->refused = true;
	if (Share *share = find(holder))
		share->refused = true;
}

bool take_refused(Oid database, Held *who) noexcept {
	Share *const whole = find({database, InvalidOid, 0});
	if (whole == nullptr || !std::exchange(whole->refused, false))
		return false;
	*who = {{database, InvalidOid, 0}, "", {}};
	HASH_SEQ_STATUS scan;
	hash_seq_init(&scan, shares);
	while (auto *share = static_cast<Share *>(hash_seq_search(&scan))) {
		if (share->key.database != database)
			continue;
		if (std::exchange(share->refused, false)) {
			who->holder = share->key;
			memcpy(who->queue, share->queue, sizeof(who->queue));
			std::copy(std::begin(share->held), std::end(share->held), who->held);
		}
		if (is_empty(share))
			hash_search(shares, &share->key, HASH_REMOVE, nullptr);
	}
	return true;
}

size_t list_held(std::span<Held> out) noexcept {
	size_t count = 0;
	HASH_SEQ_STATUS scan;
	hash_seq_init(&scan, shares);
	while (auto *share = static_cast<Share *>(hash_seq_search(&scan))) {
		if (share->key.queue_hash == 0)
			continue;
		if (count < out.size()) {
			out[count].holder = share->key;
			memcpy(out[count].queue, share->queue, sizeof(share->queue));
			std::copy(std::begin(share->held), std::end(share->held), out[count].held);
		}
		count++;
	}
	return count;
}

} // namespace jobqueue
