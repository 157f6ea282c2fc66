/*
 * admission.cpp -- see admission.hpp. C region; the transaction callbacks allocate nothing and cannot ereport.
 */
#include "shared/admission.hpp"

#include "shared/announcements.hpp"
#include "shared/shares.hpp"

extern "C" {
#include "utils/hsearch.h"
}

namespace jobqueue {

namespace {

/* See shares.hpp for who may have how many of them. */
constexpr long most_running = capacities[static_cast<size_t>(Resource::tasks)].all;
/* Names with tasks that run, or with a token bucket that is not full. */
constexpr long most_names = capacities[static_cast<size_t>(Resource::names)].all;
constexpr int64 no_room_us = USECS_PER_SEC;
/* Own claims that have ended make room for new ones in the same transaction; beyond so many nobody looks. */
constexpr int most_credits = 4096;

struct TaskKey {
	int64 task;
	uint64 database;
};
enum class TaskState : uint32 {
	admitted, /* by a transaction that is under way */
	begun,	  /* processing */
};
struct Task {
	TaskKey key;
	uint64 names[counted_kinds];
	uint64 queue_hash;
	uint64 serial;
	TaskState state;
	int32 admitted_by; /* process */
	Holder holder;
	char group[queue_name_size];
};

struct CountedName {
	uint64 name;
	uint64 database;
};
/*
 * A token that was taken comes back token_ns after the one before it, but not sooner than token_ns + head_start_ns() after
 * it was taken. So a task may begin a little later than its token is taken, and no window has more that begin than it may.
 */
struct Bucket {
	int64 full_at_ns;	/* when the latest one is back; 0 = never used */
	int32 taken;		/* the latest that come back token_ns after one another; at most what the bucket holds */
	int64 full_once_ns; /* when those before them are back */
};
struct Name {
	CountedName key;
	Bucket bucket;
	SteadyTime used_at;
	Holder holder; /* who brought it here */
	int32 running;
};

/* What the current transaction has done, and what its end makes of it. */
struct Note {
	int64 task;
	uint64 names[counted_kinds];
	SubTransactionId admitted_in; /* Invalid: not in this transaction */
	SubTransactionId ended_in;	  /* Invalid: not ended */
	bool begun;
	bool again; /* admitted once more, after its end */
	int64 tokens_ns[counted_kinds];
};

} // namespace

/* Whoever claims. */
static Holder own_holder(const Admission &admission) noexcept {
	return holder_of(MyDatabaseId, GetOuterUserId(), admission.queue_hash);
}

static HTAB *tasks = nullptr;
static HTAB *names = nullptr;
/* Set in the postmaster, whose children have it. */
static SteadyTime started_at = at_once;

static Note *notes = nullptr;
static int note_count = 0;
static int note_capacity = 0;
static int ended_count = 0;
static bool registered = false;

Size admission_size() {
	return add_size(
		add_size(hash_estimate_size(most_running, sizeof(Task)), hash_estimate_size(most_names, sizeof(Name))),
		shares_size());
}

void startup_admission() {
	started_at = steady_now();
	startup_shares();
	HASHCTL control = {};
	control.keysize = sizeof(TaskKey);
	control.entrysize = sizeof(Task);
	tasks = ShmemInitHash("jobqueue running tasks", most_running, most_running, &control,
						  HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
	control.keysize = sizeof(CountedName);
	control.entrysize = sizeof(Name);
	names =
		ShmemInitHash("jobqueue limits", most_names, most_names, &control, HASH_ELEM | HASH_BLOBS | HASH_FIXED_SIZE);
}

static Task *find_task(int64 id, HASHACTION action = HASH_FIND, bool *found = nullptr) noexcept {
	const TaskKey key = {id, MyDatabaseId};
	return static_cast<Task *>(hash_search(tasks, &key, action, found));
}

static Name *find_name(uint64 name, HASHACTION action = HASH_FIND, bool *found = nullptr) noexcept {
	const CountedName key = {name, MyDatabaseId};
	return static_cast<Name *>(hash_search(names, &key, action, found));
}

static void remove_task(Task *task) noexcept {
	change_held(Resource::tasks, task->holder, -1);
	hash_search(tasks, &task->key, HASH_REMOVE, nullptr);
}

static void remove_name(Name *entry) noexcept {
	change_held(Resource::names, entry->holder, -1);
	hash_search(names, &entry->key, HASH_REMOVE, nullptr);
}

/* Buckets */

static int64 now_ns() noexcept {
	return steady_now() * 1000;
}

static int64 head_start_ns(const Rule &rule) noexcept {
	constexpr int64 longest = 50'000'000;
	/* Not so much that whoever always takes the next token at once would have to wait longer for it. */
	return std::min(longest, std::max(rule.token_ns / 50, rule.token_ns * (rule.rate_burst - 1) / 3));
}

/* One that is empty at that time. */
static Bucket empty_at(int64 time, const Rule &rule) noexcept {
	return {time + rule.token_ns * rule.rate_burst, rule.rate_burst, 0};
}

static Bucket bucket_of(const Name *entry, const Rule &rule) noexcept {
	if (entry == nullptr || entry->bucket.full_at_ns == 0) {
		return rule.changed_at > started_at ? Bucket{} : empty_at(started_at * 1000, rule);
	}
	/* A bucket that was emptied under another rule owes no more than it would hold under this one. */
	if (entry->used_at < rule.changed_at) {
		const Bucket empty = empty_at(rule.changed_at * 1000, rule);
		return {std::min(entry->bucket.full_at_ns, empty.full_at_ns), rule.rate_burst, 0};
	}
	return entry->bucket;
}

static int64 divide_up(int64 time, int64 by) noexcept {
	return time > 0 ? (time + by - 1) / by : 0;
}

/* Tokens in the bucket, and if there is none, when the next one comes. */
static int64 tokens(const Bucket &bucket, const Rule &rule, int64 now, SteadyTime *again_at) noexcept {
	const int64 count = rule.rate_burst - divide_up(bucket.full_once_ns - now, rule.token_ns) -
						std::min<int64>(bucket.taken, divide_up(bucket.full_at_ns - now, rule.token_ns));
	if (count > 0)
		return count;
	const int64 missing = rule.rate_burst - 1; /* when the next one comes */
	const int64 next_ns = bucket.taken > missing ? bucket.full_at_ns - rule.token_ns * missing
												 : bucket.full_once_ns - rule.token_ns * (missing - bucket.taken);
	*again_at = std::max(*again_at == never ? at_once : *again_at, (next_ns + 999) / 1000);
	return 0;
}

static void take_token(Bucket *bucket, const Rule &rule, int64 now) noexcept {
	const int64 earliest = now + head_start_ns(rule);
	if (bucket->full_at_ns > earliest) {
		bucket->full_at_ns += rule.token_ns;
		bucket->taken = std::min(bucket->taken + 1, rule.rate_burst);
		return;
	}
	if (bucket->taken > 0)
		bucket->full_once_ns = bucket->full_at_ns;
	bucket->full_at_ns = earliest + rule.token_ns;
	bucket->taken = 1;
}

static void put_back_token(Bucket *bucket, int64 token_ns) noexcept {
	bucket->full_at_ns -= token_ns;
	bucket->taken = std::max(bucket->taken - 1, 0);
}

static bool is_gone(uint64 database) noexcept {
	static uint64 latest = InvalidOid; /* what was looked for last, in this run of evict() */
	static bool is_there = false;
	if (database == InvalidOid || database != latest) {
		latest = database;
		is_there = find_database(static_cast<Oid>(database)) != nullptr;
	}
	return !is_there;
}

/* Makes room: forgets full buckets of names under which nothing runs, and databases that are no more. */
static void evict() noexcept {
	const int64 now = now_ns();
	if (now - shared()->admission_evicted_ns < no_room_us * 1000)
		return;
	shared()->admission_evicted_ns = now;
	is_gone(InvalidOid);
	HASH_SEQ_STATUS scan;
	hash_seq_init(&scan, tasks);
	while (auto *task = static_cast<Task *>(hash_seq_search(&scan)))
		if (is_gone(task->key.database))
			remove_task(task);
	hash_seq_init(&scan, names);
	while (auto *entry = static_cast<Name *>(hash_seq_search(&scan)))
		/* One that has been full is as good as one that was never used. */
		if (is_gone(entry->key.database) ||
			(entry->running == 0 && entry->bucket.full_at_ns <= now &&
			 (entry->bucket.full_at_ns == 0 || entry->bucket.full_at_ns >= started_at * 1000)))
			remove_name(entry);
}

/* Buckets that are not full take so much of it at most: the rest is for names under which something runs. */
static int64 share_for_buckets(const Holder &holder) noexcept {
	return share_of(Resource::names, holder) / 4 * 3;
}

static bool has_room_for_bucket(const Holder &holder) noexcept {
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

static Name *enter_name(uint64 name, const Holder &holder, const char *queue) noexcept {
	bool found;
	Name *entry = find_name(name, HASH_ENTER_NULL, &found);
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

/* The table */

bool admission_is_ready(DatabaseSlot *slot, uint64 configuration) noexcept {
	return slot != nullptr && pg_atomic_read_u64(&slot->admission_ready) >= configuration;
}

void set_admission_ready(DatabaseSlot *slot, uint64 configuration) noexcept {
	atomic_max(&slot->admission_ready, configuration);
}

/* Those of the name that this transaction has ended: they make room for others of its own. */
static int32 own_credit(uint64 name) noexcept {
	int32 credit = 0;
	if (ended_count > 0 && ended_count <= most_credits)
		for (int i = 0; i < note_count; i++)
			if (notes[i].ended_in != InvalidSubTransactionId &&
				std::find(std::begin(notes[i].names), std::end(notes[i].names), name) != std::end(notes[i].names))
				credit++;
	return credit;
}

int count_admissible(std::span<const std::pair<uint64, Rule>> limits, int wanted, SteadyTime *again_at) noexcept {
	int64 count = wanted;
	*again_at = never;
	if (shared() == nullptr)
		return 0;
	const int64 now = now_ns();
	LWLockAcquire(shared()->admission_lock, LW_SHARED);
	for (const auto &[name, rule] : limits) {
		if (!rule.is_limit())
			continue;
		const Name *entry = find_name(name);
		if (rule.max_running > 0) {
			const int32 running = entry ? entry->running - own_credit(name) : 0;
			count = std::min<int64>(count, std::max(rule.max_running - running, 0));
		}
		if (rule.token_ns > 0)
			count = std::min(count, tokens(bucket_of(entry, rule), rule, now, again_at));
	}
	LWLockRelease(shared()->admission_lock);
	return static_cast<int>(count);
}

static void count_under(const Task &task, int32 change) noexcept {
	for (const uint64 name : task.names) {
		if (name == 0)
			continue;
		Name *entry = change > 0 ? enter_name(name, task.holder, "") : find_name(name);
		if (entry == nullptr)
			continue;
		entry->running += change;
		if (entry->running <= 0 && entry->bucket.full_at_ns == 0)
			remove_name(entry);
	}
}

/* What the task needs that is not there is in the share of who claims it. */
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

/* False if there is no room: then nobody is let in. What runs already is counted whoever's it is. */
static bool fill_in(const Admission &admission, TaskState state, const Holder &holder) noexcept {
	if (state == TaskState::admitted && !is_within_share(admission, holder))
		return false;
	for (const uint64 name : admission.names)
		if (name != 0 && enter_name(name, holder, admission.queue) == nullptr)
			return false;
	bool found;
	Task *task = find_task(admission.task, HASH_ENTER_NULL, &found);
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

namespace {

/* What ended tasks make room for: announced after they are gone, for who asked before has been told no. */
struct Freed {
	News news = {};
	bool any = false;

	void flush() noexcept {
		if (!any)
			return;
		any = false;
		announce(news);
		pg_memory_barrier();
		wake_workers(MyDatabaseId, 0);
		if (DatabaseSlot *slot = find_database(MyDatabaseId))
			wake_scheduler(slot);
	}
	void add(const Task &task) noexcept {
		if (any && news.queue_hash == task.queue_hash) {
			if (strcmp(news.group, task.group) != 0)
				news.group[0] = '\0';
			news.type_hash |= task.names[static_cast<size_t>(Counted::type)];
			return;
		}
		if (any)
			announce(news); /* who reads it now waits for the lock */
		any = true;
		news = {};
		news.kind = AnnouncementKind::capacity;
		news.database = MyDatabaseId;
		news.queue_hash = task.queue_hash;
		news.type_hash = task.names[static_cast<size_t>(Counted::type)]; /* not 0: it may concern other queues */
		memcpy(news.group, task.group, sizeof(news.group));
	}
};

} // namespace

static void forget_task(int64 id, Freed &freed) noexcept {
	Task *task = find_task(id);
	if (task == nullptr)
		return;
	freed.add(*task);
	count_under(*task, -1);
	remove_task(task);
}

/* The transaction */

/* What a prepared transaction has ended is found by the scheduler's poll, once it is committed. */
static void end_transaction(bool committed, bool prepared) noexcept {
	Freed freed;
	LWLockAcquire(shared()->admission_lock, LW_EXCLUSIVE);
	for (int i = 0; i < note_count; i++) {
		const Note &note = notes[i];
		const bool fresh = note.admitted_in != InvalidSubTransactionId;
		const bool ended = note.ended_in != InvalidSubTransactionId && !prepared;
		if (committed ? ended || ((fresh || note.again) && !note.begun) : fresh) {
			forget_task(note.task, freed);
		} else if (committed || note.again) {
			if (Task *task = find_task(note.task)) {
				task->state = TaskState::begun;
				task->serial = ++shared()->admission_serial;
			}
		}
	}
	LWLockRelease(shared()->admission_lock);
	freed.flush();
	note_count = ended_count = 0;
}

static void at_transaction_event(XactEvent event, void *) {
	if (note_count == 0)
		return;
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_PREPARE)
		end_transaction(true, event == XACT_EVENT_PREPARE);
	else if (event == XACT_EVENT_ABORT)
		end_transaction(false, false);
}

static void at_subtransaction_event(SubXactEvent event, SubTransactionId mine, SubTransactionId parent, void *) {
	if (note_count == 0 || (event != SUBXACT_EVENT_ABORT_SUB && event != SUBXACT_EVENT_COMMIT_SUB))
		return;
	const bool aborted = event == SUBXACT_EVENT_ABORT_SUB;
	Freed freed;
	int kept = 0;
	if (aborted)
		LWLockAcquire(shared()->admission_lock, LW_EXCLUSIVE);
	for (int i = 0; i < note_count; i++) {
		Note &note = notes[i];
		if (aborted && note.admitted_in >= mine && note.admitted_in != InvalidSubTransactionId) {
			ended_count -= note.ended_in != InvalidSubTransactionId;
			forget_task(note.task, freed);
			continue;
		}
		if (note.admitted_in >= mine)
			note.admitted_in = parent;
		if (note.ended_in >= mine && note.ended_in != InvalidSubTransactionId) {
			note.ended_in = aborted ? InvalidSubTransactionId : parent;
			ended_count -= aborted;
			if (aborted && note.admitted_in == InvalidSubTransactionId && !note.again)
				continue;
		}
		notes[kept++] = note;
	}
	note_count = kept;
	if (aborted)
		LWLockRelease(shared()->admission_lock);
	freed.flush();
}

/* Room for one more note. May ereport. */
static void prepare_note() {
	if (!registered) {
		RegisterXactCallback(at_transaction_event, nullptr);
		RegisterSubXactCallback(at_subtransaction_event, nullptr);
		registered = true;
	}
	if (note_count < note_capacity)
		return;
	const int capacity = std::max(64, 2 * note_capacity);
	const Size size = mul_size(static_cast<Size>(capacity), sizeof(Note));
	notes = static_cast<Note *>(notes ? repalloc_huge(notes, size) : MemoryContextAllocHuge(TopMemoryContext, size));
	note_capacity = capacity;
}

/* They are asked for in the order in which they were made. */
static Note *find_note(int64 task) noexcept {
	static constinit int latest = 0;
	for (int i = 0; i < note_count; i++) {
		latest = latest + 1 < note_count ? latest + 1 : 0;
		if (notes[latest].task == task)
			return &notes[latest];
	}
	return nullptr;
}

/* It was claimed, and its claim has ended, in this transaction; now it is claimed once more. */
static Note *find_ended_note(int64 task) noexcept {
	Note *const note = ended_count > 0 ? find_note(task) : nullptr;
	return note != nullptr && note->ended_in != InvalidSubTransactionId ? note : nullptr;
}

Verdict admit(const Admission &admission) {
	Verdict verdict = {true, never};
	if (shared() == nullptr)
		return {false, never};
	prepare_note();
	const int64 now = now_ns();
	LWLockAcquire(shared()->admission_lock, LW_EXCLUSIVE);
	const Holder holder = own_holder(admission);
	const auto refuse = [&verdict, &holder] {
		note_refused(holder);
		verdict = {false, steady_now() + no_room_us};
	};
	Note *const again = find_ended_note(admission.task);
	if (again == nullptr && find_task(admission.task) != nullptr)
		verdict = {false, never, Counted::group}; /* it ends before that does */
	for (size_t i = 0; i < counted_kinds && verdict.admitted; i++) {
		const Rule &rule = admission.rules[i];
		if (!rule.is_limit())
			continue;
		const Name *entry = find_name(admission.names[i]);
		verdict.by = static_cast<Counted>(i);
		if (rule.max_running > 0 && entry && entry->running - own_credit(admission.names[i]) >= rule.max_running)
			verdict.admitted = false;
		else if (rule.token_ns > 0 && entry == nullptr && !has_room_for_bucket(holder))
			refuse();
		else if (rule.token_ns > 0 && tokens(bucket_of(entry, rule), rule, now, &verdict.again_at) == 0)
			verdict.admitted = false;
	}
	if (verdict.admitted && !fill_in(admission, TaskState::admitted, holder))
		refuse();
	for (size_t i = 0; i < counted_kinds && verdict.admitted; i++) {
		const Rule &rule = admission.rules[i];
		if (rule.token_ns == 0)
			continue;
		if (Name *entry = enter_name(admission.names[i], holder, admission.queue)) {
			entry->bucket = bucket_of(entry, rule);
			take_token(&entry->bucket, rule, now);
			entry->used_at = now / 1000;
		}
	}
	LWLockRelease(shared()->admission_lock);
	if (!verdict.admitted)
		return verdict;
	if (again != nullptr) {
		again->ended_in = InvalidSubTransactionId;
		ended_count--;
	}
	Note &note = again ? *again : notes[note_count++];
	if (!again)
		note = {};
	note.task = admission.task;
	note.begun = false;
	note.again = again != nullptr;
	std::copy(std::begin(admission.names), std::end(admission.names), note.names);
	for (size_t i = 0; i < counted_kinds; i++)
		note.tokens_ns[i] = admission.rules[i].token_ns;
	if (!again)
		note.admitted_in = GetCurrentSubTransactionId();
	return verdict;
}

/* Under the lock. */
static void put_back_tokens(Note &note) noexcept {
	for (size_t i = 0; i < counted_kinds; i++)
		if (const int64 token_ns = std::exchange(note.tokens_ns[i], 0); token_ns != 0)
			if (Name *entry = find_name(note.names[i]))
				put_back_token(&entry->bucket, token_ns);
}

void return_tokens(int64 id) noexcept {
	Note *note = find_note(id);
	if (note == nullptr)
		return;
	LWLockAcquire(shared()->admission_lock, LW_EXCLUSIVE);
	put_back_tokens(*note);
	LWLockRelease(shared()->admission_lock);
}

void take_back(int64 id) noexcept {
	Note *note = find_note(id);
	if (note == nullptr)
		return;
	Freed unannounced; /* or we would hear of it, look again, and again in vain */
	LWLockAcquire(shared()->admission_lock, LW_EXCLUSIVE);
	put_back_tokens(*note);
	if (!note->again)
		forget_task(id, unannounced);
	LWLockRelease(shared()->admission_lock);
	if (note->again)
		return; /* it goes with the transaction */
	*note = notes[--note_count];
}

void note_begun(int64 task, int64 id) {
	Note *note = find_note(task);
	if (note == nullptr)
		return;
	note->begun = true;
	if (task == id)
		return;
	LWLockAcquire(shared()->admission_lock, LW_EXCLUSIVE);
	if (Task *old = find_task(task)) {
		const Task copy = *old;
		hash_search(tasks, &old->key, HASH_REMOVE, nullptr);
		bool found;
		if (Task *renamed = find_task(id, HASH_ENTER_NULL, &found)) {
			if (found) {
				count_under(*renamed, -1);
				change_held(Resource::tasks, renamed->holder, -1);
			}
			const TaskKey key = renamed->key;
			*renamed = copy;
			renamed->key = key;
		}
	}
	LWLockRelease(shared()->admission_lock);
	note->task = id;
}

void note_ended(int64 id) {
	if (shared() == nullptr || hash_get_num_entries(tasks) == 0)
		return;
	LWLockAcquire(shared()->admission_lock, LW_SHARED);
	const Task *task = find_task(id);
	const bool counted = task != nullptr;
	uint64 counted_as[counted_kinds] = {};
	if (counted)
		std::copy(std::begin(task->names), std::end(task->names), counted_as);
	LWLockRelease(shared()->admission_lock);
	if (!counted)
		return;
	Note *note = find_note(id);
	if (note == nullptr) {
		prepare_note();
		note = &notes[note_count++];
		*note = {};
		note->task = id;
		std::copy(std::begin(counted_as), std::end(counted_as), note->names);
	}
	if (note->ended_in == InvalidSubTransactionId)
		ended_count++;
	note->ended_in = GetCurrentSubTransactionId();
}

/* The scheduler */

void count_running(const Admission &admission) noexcept {
	LWLockAcquire(shared()->admission_lock, LW_EXCLUSIVE);
	const Holder holder =
		holder_of(MyDatabaseId, OidIsValid(admission.role) ? admission.role : unknown_role, admission.queue_hash);
	if (Task *task = find_task(admission.task)) {
		for (size_t i = 0; i < counted_kinds; i++) {
			if (task->names[i] != 0 || admission.names[i] == 0 ||
				enter_name(admission.names[i], task->holder, admission.queue) == nullptr)
				continue;
			task->names[i] = admission.names[i];
			find_name(admission.names[i])->running++;
		}
	} else if (!fill_in(admission, TaskState::begun, holder)) {
		note_refused(holder);
	}
	LWLockRelease(shared()->admission_lock);
}

bool was_without_room(Held *who) noexcept {
	LWLockAcquire(shared()->admission_lock, LW_EXCLUSIVE);
	const bool was = take_refused(MyDatabaseId, who);
	LWLockRelease(shared()->admission_lock);
	return was;
}

size_t list_shares(std::span<Held> out, int64 (*used)[resource_kinds]) noexcept {
	LWLockAcquire(shared()->admission_lock, LW_SHARED);
	for (size_t i = 0; i < resource_kinds; i++)
		(*used)[i] = in_use(static_cast<Resource>(i));
	const size_t count = list_held(out);
	LWLockRelease(shared()->admission_lock);
	return count;
}

int64 share_now(Resource resource, const Holder &holder) noexcept {
	LWLockAcquire(shared()->admission_lock, LW_SHARED);
	const int64 share = share_of(resource, holder);
	LWLockRelease(shared()->admission_lock);
	return share;
}

size_t list_running(std::span<Running> out) noexcept {
	size_t count = 0;
	LWLockAcquire(shared()->admission_lock, LW_SHARED);
	HASH_SEQ_STATUS scan;
	hash_seq_init(&scan, tasks);
	while (auto *task = static_cast<Task *>(hash_seq_search(&scan))) {
		/* Who admits a task sees to it until its transaction ends; unless it could not. */
		if (task->key.database != MyDatabaseId ||
			(task->state == TaskState::admitted && BackendPidGetProc(task->admitted_by) != nullptr))
			continue;
		if (count < out.size())
			out[count] = {task->key.task, task->serial};
		count++;
	}
	LWLockRelease(shared()->admission_lock);
	return count;
}

void check_counts() noexcept {
	LWLockAcquire(shared()->admission_lock, LW_EXCLUSIVE);
	HASH_SEQ_STATUS scan;
	hash_seq_init(&scan, names);
	while (auto *entry = static_cast<Name *>(hash_seq_search(&scan)))
		if (entry->key.database == MyDatabaseId)
			entry->running = 0;
	hash_seq_init(&scan, tasks);
	while (auto *task = static_cast<Task *>(hash_seq_search(&scan)))
		if (task->key.database == MyDatabaseId)
			count_under(*task, 1);
	LWLockRelease(shared()->admission_lock);
}

void discount(const Running &running) noexcept {
	if (find_note(running.id) != nullptr)
		return; /* our own transaction is about to say what becomes of it */
	Freed freed;
	LWLockAcquire(shared()->admission_lock, LW_EXCLUSIVE);
	const Task *task = find_task(running.id);
	if (task != nullptr && task->serial == running.serial)
		forget_task(running.id, freed);
	LWLockRelease(shared()->admission_lock);
	freed.flush();
}

} // namespace jobqueue
