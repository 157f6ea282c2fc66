/*
 * counting.cpp -- see counting.hpp. C region.
 */
#include "shared/counting.hpp"

#include "shared/databases.hpp"
#include "shared/wake_ups.hpp"

namespace jobqueue {

/* How many of these a holder may have is in shares.hpp. */
static constexpr long most_running = capacities[static_cast<size_t>(Resource::tasks)].all;
/* Names with tasks that run, or with a token bucket that is not full. */
static constexpr long most_names = capacities[static_cast<size_t>(Resource::names)].all;

static HTAB *tasks = nullptr;
static HTAB *names = nullptr;
/* Set in the postmaster; its children inherit it. */
static SteadyTime started_at = at_once;

Size counting_size() {
	return add_size(add_size(hash_estimate_size(most_running, sizeof(counting::CountedTask)),
							 hash_estimate_size(most_names, sizeof(counting::CountedName))),
					shares_size());
}

void startup_counting() {
	started_at = steady_now();
	startup_shares();
	HASHCTL control = {};
	control.keysize = sizeof(counting::TaskKey);
	control.entrysize = sizeof(counting::CountedTask);
	tasks = ShmemInitHash("jobqueue running tasks", most_running, most_running, &control,
						  HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
	control.keysize = sizeof(counting::LimitedNameKey);
	control.entrysize = sizeof(counting::CountedName);
	names =
		ShmemInitHash("jobqueue limits", most_names, most_names, &control, HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
}

} // namespace jobqueue

namespace jobqueue::counting {

bool is_empty() noexcept {
	return hash_get_num_entries(tasks) == 0;
}

void scan_tasks(HASH_SEQ_STATUS *scan) noexcept {
	hash_seq_init(scan, tasks);
}

void scan_names(HASH_SEQ_STATUS *scan) noexcept {
	hash_seq_init(scan, names);
}

CountedTask *find_task(int64 id, HASHACTION action, bool *found) noexcept {
	const TaskKey key = {id, MyDatabaseId};
	return static_cast<CountedTask *>(hash_search(tasks, &key, action, found));
}

CountedName *find_name(uint64 name, HASHACTION action, bool *found) noexcept {
	const LimitedNameKey key = {name, MyDatabaseId};
	return static_cast<CountedName *>(hash_search(names, &key, action, found));
}

void remove_task(CountedTask *task) noexcept {
	change_held(Resource::tasks, task->holder, -1);
	hash_search(tasks, &task->key, HASH_REMOVE, nullptr);
}

static void remove_name(CountedName *entry) noexcept {
	change_held(Resource::names, entry->holder, -1);
	hash_search(names, &entry->key, HASH_REMOVE, nullptr);
}

/* Buckets */

TokenBucket bucket_of(const CountedName *entry, const Rule &rule) noexcept {
	if (entry == nullptr || entry->bucket.was_never_used())
		return rule.changed_at > started_at ? TokenBucket() : TokenBucket::empty_at(started_at * 1000, rule.rate);
	return entry->used_at < rule.changed_at ? entry->bucket.after_change(rule.changed_at * 1000, rule.rate)
											: entry->bucket;
}

int64 tokens(const TokenBucket &bucket, const Rule &rule, int64 now, SteadyTime *again_at) noexcept {
	const int64 count = bucket.tokens(rule.rate, now);
	if (count == 0)
		*again_at = std::max(*again_at == never ? at_once : *again_at, (bucket.next_token_at(rule.rate) + 999) / 1000);
	return count;
}

/* Room */

static bool is_gone(uint64 database) noexcept {
	static uint64 latest = InvalidOid; /* the database of the latest call in this run of evict() */
	static bool is_there = false;
	if (database == InvalidOid || database != latest) {
		latest = database;
		is_there = find_database(static_cast<Oid>(database)) != nullptr;
	}
	return !is_there;
}

/* Makes room: forgets full buckets of names under which nothing runs, and databases that are gone. */
static void evict() noexcept {
	const int64 now = now_ns();
	if (now - shared()->admission_evicted_ns < no_room_us * 1000)
		return;
	shared()->admission_evicted_ns = now;
	is_gone(InvalidOid);
	HASH_SEQ_STATUS scan;
	hash_seq_init(&scan, tasks);
	while (auto *task = static_cast<CountedTask *>(hash_seq_search(&scan)))
		if (is_gone(task->key.database))
			remove_task(task);
	hash_seq_init(&scan, names);
	while (auto *entry = static_cast<CountedName *>(hash_seq_search(&scan)))
		/* A bucket that has become full is as good as one that was never used. */
		if (is_gone(entry->key.database) ||
			(entry->running == 0 && entry->bucket.full_at() <= now &&
			 (entry->bucket.was_never_used() || entry->bucket.full_at() >= started_at * 1000)))
			remove_name(entry);
}

/* A holder with fewer names may add one for its bucket; the rest of its share is for names under which tasks run. */
static int64 share_for_buckets(const Holder &holder) noexcept {
	return share_of(Resource::names, holder) / 4 * 3;
}

bool has_room_for_bucket(const Holder &holder) noexcept {
	if (held_by(Resource::names, holder) >= share_for_buckets(holder))
		evict();
	return held_by(Resource::names, holder) < share_for_buckets(holder);
}

static bool may_hold_names(const Holder &holder, int count) noexcept {
	if (count == 0)
		return true;
	if (held_by(Resource::names, holder) + count > share_of(Resource::names, holder))
		evict();
	return held_by(Resource::names, holder) + count <= share_of(Resource::names, holder);
}

CountedName *enter_name(uint64 name, const Holder &holder, const char *queue) noexcept {
	bool found;
	CountedName *entry = find_name(name, HASH_ENTER_NULL, &found);
	if (entry == nullptr) {
		evict();
		entry = find_name(name, HASH_ENTER_NULL, &found);
	}
	if (entry != nullptr && !found) {
		entry->running = 0;
		entry->bucket = {};
		entry->used_at = 0;
		entry->holder = holder;
		change_held(Resource::names, holder, 1, queue);
	}
	return entry;
}

/* Tasks */

void count_under(const CountedTask &task, int32 change) noexcept {
	for (const uint64 name : task.names) {
		if (name == 0)
			continue;
		CountedName *entry = change > 0 ? enter_name(name, task.holder, "") : find_name(name);
		if (entry == nullptr)
			continue;
		entry->running += change;
		if (entry->running <= 0 && entry->bucket.was_never_used())
			remove_name(entry);
	}
}

/* Does the holder's share have room for the entries of the task that are not there yet? */
static bool is_within_share(const Admission &admission, const Holder &holder) noexcept {
	if (find_task(admission.task) == nullptr && held_by(Resource::tasks, holder) >= share_of(Resource::tasks, holder)) {
		evict();
		if (held_by(Resource::tasks, holder) >= share_of(Resource::tasks, holder))
			return false;
	}
	const auto missing = std::count_if(std::begin(admission.names), std::end(admission.names),
									   [](uint64 name) { return name != 0 && find_name(name) == nullptr; });
	return may_hold_names(holder, static_cast<int>(missing));
}

bool enter_task(const Admission &admission, TaskState state, const Holder &holder) noexcept {
	if (state == TaskState::admitted && !is_within_share(admission, holder))
		return false;
	for (const uint64 name : admission.names)
		if (name != 0 && enter_name(name, holder, admission.queue) == nullptr)
			return false;
	bool found;
	CountedTask *task = find_task(admission.task, HASH_ENTER_NULL, &found);
	if (task == nullptr) {
		evict();
		task = find_task(admission.task, HASH_ENTER_NULL, &found);
	}
	if (task == nullptr)
		return false;
	if (found) {
		count_under(*task, -1);
		change_held(Resource::tasks, task->holder, -1);
	}
	task->holder = holder;
	change_held(Resource::tasks, holder, 1, admission.queue);
	std::copy(std::begin(admission.names), std::end(admission.names), task->names);
	task->queue_hash = admission.queue_hash;
	memcpy(task->group, admission.group, sizeof(task->group));
	task->serial = ++shared()->admission_serial;
	task->state = state;
	task->admitted_by = MyProcPid;
	count_under(*task, 1);
	return true;
}

/* What ended tasks make room for */

void Freed::flush() noexcept {
	if (!any)
		return;
	any = false;
	announce(news);
	pg_memory_barrier();
	wake_workers(MyDatabaseId, 0);
	if (DatabaseSlot *slot = find_database(MyDatabaseId))
		wake_scheduler(slot);
}

void Freed::add(const CountedTask &task) noexcept {
	if (any && news.queue_hash == task.queue_hash) {
		if (strcmp(news.group, task.group) != 0)
			news.group[0] = '\0';
		news.type_hash |= task.names[static_cast<size_t>(Counted::type)];
		return;
	}
	if (any)
		announce(news); /* a claimer that reads this now must wait for the lock that we hold */
	any = true;
	news = {};
	news.kind = AnnouncementKind::capacity;
	news.database = MyDatabaseId;
	news.queue_hash = task.queue_hash;
	news.type_hash = task.names[static_cast<size_t>(Counted::type)]; /* if not 0, it may concern other queues */
	memcpy(news.group, task.group, sizeof(news.group));
}

void forget_task(int64 id, Freed &freed) noexcept {
	CountedTask *task = find_task(id);
	if (task == nullptr)
		return;
	freed.add(*task);
	count_under(*task, -1);
	remove_task(task);
}

} // namespace jobqueue::counting
