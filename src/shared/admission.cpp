/*
 * admission.cpp -- see admission.hpp. C region; the transaction callbacks allocate nothing and cannot ereport.
 */
#include "shared/admission.hpp"

#include "shared/counting.hpp"

namespace jobqueue {

using namespace counting;

/* Claims that a transaction has ended make room for new ones in it. If there are more than this, they do not. */
static constexpr int most_credits = 4096;

namespace {

/* What the current transaction has done with a task. The end of the transaction acts on it. */
struct Note {
	int64 task;
	uint64 names[counted_kinds];
	SubTransactionId admitted_in; /* Invalid: not in this transaction */
	SubTransactionId ended_in;	  /* Invalid: not ended */
	bool begun;
	bool again; /* admitted once more after its claim ended */
	int64 tokens_ns[counted_kinds];
};

} // namespace

static Note *notes = nullptr;
static int note_count = 0;
static int note_capacity = 0;
static int ended_count = 0;
static bool registered = false;

/* A task is counted for the role that claims it. */
static Holder own_holder(const Admission &admission) noexcept {
	return holder_of(MyDatabaseId, GetOuterUserId(), admission.queue_hash);
}

bool admission_is_ready(DatabaseSlot *slot, uint64 configuration) noexcept {
	return slot != nullptr && pg_atomic_read_u64(&slot->admission_ready) >= configuration;
}

void set_admission_ready(DatabaseSlot *slot, uint64 configuration) noexcept {
	atomic_max(&slot->admission_ready, configuration);
}

/* How many tasks of this name the transaction has ended: they make room for others in it. */
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
		const CountedName *entry = find_name(name);
		if (rule.max_running > 0) {
			const int32 running = entry ? entry->running - own_credit(name) : 0;
			count = std::min<int64>(count, std::max(rule.max_running - running, 0));
		}
		if (rule.rate.is_limit())
			count = std::min(count, tokens(bucket_of(entry, rule), rule, now, again_at));
	}
	LWLockRelease(shared()->admission_lock);
	return static_cast<int>(count);
}

/* The transaction */

/* Tasks that a prepared transaction has ended stay counted; once it is committed, the scheduler's poll finds them. */
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
			if (CountedTask *task = find_task(note.task)) {
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

/* Makes room for one more note. May ereport. */
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

/* Notes are asked for in the order in which they were made, so the search goes on after the latest one. */
static Note *find_note(int64 task) noexcept {
	static constinit int latest = 0;
	for (int i = 0; i < note_count; i++) {
		latest = latest + 1 < note_count ? latest + 1 : 0;
		if (notes[latest].task == task)
			return &notes[latest];
	}
	return nullptr;
}

/* The note of a task whose claim has ended in this transaction, and that is now claimed once more; else null. */
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
		const CountedName *entry = find_name(admission.names[i]);
		verdict.by = static_cast<Counted>(i);
		if (rule.max_running > 0 && entry && entry->running - own_credit(admission.names[i]) >= rule.max_running)
			verdict.admitted = false;
		else if (rule.rate.is_limit() && entry == nullptr && !has_room_for_bucket(holder))
			refuse();
		else if (rule.rate.is_limit() && tokens(bucket_of(entry, rule), rule, now, &verdict.again_at) == 0)
			verdict.admitted = false;
	}
	if (verdict.admitted && !enter_task(admission, TaskState::admitted, holder))
		refuse();
	for (size_t i = 0; i < counted_kinds && verdict.admitted; i++) {
		const Rule &rule = admission.rules[i];
		if (!rule.rate.is_limit())
			continue;
		if (CountedName *entry = enter_name(admission.names[i], holder, admission.queue)) {
			entry->bucket = bucket_of(entry, rule);
			entry->bucket.take(rule.rate, now);
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
		note.tokens_ns[i] = admission.rules[i].rate.token_ns;
	if (!again)
		note.admitted_in = GetCurrentSubTransactionId();
	return verdict;
}

/* The caller holds the lock. */
static void put_back_tokens(Note &note) noexcept {
	for (size_t i = 0; i < counted_kinds; i++)
		if (const int64 token_ns = std::exchange(note.tokens_ns[i], 0); token_ns != 0)
			if (CountedName *entry = find_name(note.names[i]))
				entry->bucket.put_back(token_ns);
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
	Freed unannounced; /* otherwise we would hear of it, and look again and again in vain */
	LWLockAcquire(shared()->admission_lock, LW_EXCLUSIVE);
	put_back_tokens(*note);
	if (!note->again)
		forget_task(id, unannounced);
	LWLockRelease(shared()->admission_lock);
	if (note->again)
		return; /* it stays counted until the end of the transaction settles it */
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
	if (CountedTask *old = find_task(task)) {
		const CountedTask copy = *old;
		find_task(task, HASH_REMOVE);
		bool found;
		if (CountedTask *renamed = find_task(id, HASH_ENTER_NULL, &found)) {
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
	if (shared() == nullptr || counting::is_empty())
		return;
	LWLockAcquire(shared()->admission_lock, LW_SHARED);
	const CountedTask *task = find_task(id);
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

bool is_noted(int64 task) noexcept {
	return find_note(task) != nullptr;
}

} // namespace jobqueue
