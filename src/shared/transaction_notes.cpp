/*
 * transaction_notes.cpp -- see transaction_notes.hpp. C region.
 *
 * The commit and abort branches of the transaction callback run where an error would be a PANIC: they are noexcept,
 * allocate nothing, and call nothing that can ereport.
 */
#include "shared/transaction_notes.hpp"

#include "pg/settings.hpp"
#include "shared/databases.hpp"
#include "shared/ring.hpp"
#include "shared/wake_ups.hpp"

namespace jobqueue {

/* Notes of the current transaction: a fixed number, so that commit needs no memory; further ones are merged. */
namespace {

struct Lane {
	uint64 queue_hash;
	uint64 type_hash;
	IdRange ids;
	int16 priority;
	bool grouped;
	char queue[queue_name_size];
	char group[queue_name_size]; /* empty = several, or too long */
};

struct LaneList {
	static constexpr int capacity = 32;
	int count;
	bool overflow; /* more lanes, or unknown ones: announced as a statement */
	IdRange overflow_ids;
	Lane lanes[capacity];

	IdRange ids_of(uint64 queue_hash, int16 priority) const noexcept {
		IdRange ids = overflow ? overflow_ids : IdRange{};
		for (int i = 0; i < count; i++)
			if (!lanes[i].grouped && lanes[i].queue_hash == queue_hash && lanes[i].priority == priority)
				ids.add(lanes[i].ids);
		return ids;
	}

	void add_overflow(IdRange ids) noexcept {
		if (!overflow)
			overflow_ids = {};
		overflow_ids.add(ids);
		overflow = true;
	}

	/* An empty "group" with "grouped" stands for several groups. */
	void add(std::string_view queue, int16 priority, IdRange ids, uint64 type_hash, bool grouped,
			 std::string_view group) noexcept {
		const uint64 hash = hash_name(queue);
		for (int i = count - 1; i >= 0; i--) {
			Lane &lane = lanes[i];
			if (lane.queue_hash == hash && lane.priority == priority && lane.grouped == grouped) {
				if (group != lane.group)
					lane.group[0] = '\0';
				lane.ids.add(ids);
				if (lane.type_hash != type_hash)
					lane.type_hash = 0;
				return;
			}
		}
		if (count == capacity || queue.size() >= queue_name_size) {
			add_overflow(ids);
			return;
		}
		Lane &lane = lanes[count++];
		lane = {};
		lane.queue_hash = hash;
		lane.type_hash = type_hash;
		lane.ids = ids;
		lane.priority = priority;
		lane.grouped = grouped;
		queue.copy(lane.queue, queue.size());
		if (group.size() < sizeof(lane.group))
			group.copy(lane.group, group.size());
	}
};

struct Notes {
	bool any;
	DatabaseSlot *database; /* null: nothing was noted that concerns this database */
	DatabaseSlot *let_go;
	LaneList tasks;
	LaneList claimed;
	LaneList returned;
	SubTransactionId claimed_in; /* the youngest subtransaction that claimed */
	bool subtransaction_aborted; /* a subtransaction that claimed, or one around it, was rolled back */
	bool everything;
	bool from_scratch;
	bool configuration;
	bool rescan;
	bool archive;
	bool finished;
	int64 finished_low, finished_high;
	bool waits; /* tasks were added that wait for others, "parents" */
	IdRanges parents;
	int64 due_at;
	int cancel_count;
	int64 cancelled[1024]; /* for further ones, the workers notice it when they finish */
};

} // namespace

static constinit Notes notes = {};
static constinit bool registered = false;

/* The commit and abort branches. */

static void announce_lane(const Lane &lane, AnnouncementKind kind) noexcept {
	News news = {};
	news.kind = kind;
	news.database = MyDatabaseId;
	news.priority = lane.priority;
	news.grouped = lane.grouped;
	news.ids = lane.ids;
	news.queue_hash = lane.queue_hash;
	news.type_hash = lane.type_hash;
	memcpy(news.queue, lane.queue, sizeof(news.queue));
	memcpy(news.group, lane.group, sizeof(news.group));
	announce(news);
}

static void announce_statement(IdRange ids) noexcept {
	News news = {};
	news.kind = AnnouncementKind::statement;
	news.database = MyDatabaseId;
	news.ids = ids;
	announce(news);
}

static void announce_list(const LaneList &list, AnnouncementKind kind) noexcept {
	for (int i = 0; i < list.count; i++)
		announce_lane(list.lanes[i], kind);
	if (list.overflow)
		announce_statement(list.overflow_ids);
	pg_memory_barrier();
	for (int i = 0; i < list.count; i++)
		wake_workers(MyDatabaseId, list.lanes[i].type_hash);
	if (list.overflow)
		wake_workers(MyDatabaseId, 0);
}

bool may_be_parents(IdRange ids) noexcept {
	DatabaseSlot *const slot = shared() ? notes.database ? notes.database : find_database(MyDatabaseId) : nullptr;
	return slot == nullptr ||
		   (static_cast<uint64>(std::max<int64>(ids.high, 0)) >= pg_atomic_read_u64(&slot->parents_low) &&
			static_cast<uint64>(std::max<int64>(ids.low, 0)) <= pg_atomic_read_u64(&slot->parents_high));
}

/* Called when the transaction has ended: what it wrote is visible, or gone. */
static void end_writing_dependencies() noexcept {
	if (!notes.waits)
		return;
	uint32 count = pg_atomic_read_u32(&notes.database->dependencies_written);
	while (count > 0 && !pg_atomic_compare_exchange_u32(&notes.database->dependencies_written, &count, count - 1)) {
	}
}

/* Tells the scheduler which tasks to look at because others may wait for them; true if there are any. */
static bool announce_ended(DatabaseSlot *slot) noexcept {
	IdRanges ids = notes.parents;
	if (notes.everything) {
		pg_atomic_fetch_add_u64(&slot->parents_widened, 1);
		atomic_min(&slot->parents_low, 0);
		atomic_max(&slot->parents_high, PG_INT64_MAX);
		ids.set_all();
	} else if (notes.finished && may_be_parents({notes.finished_low, notes.finished_high}))
		ids.add(IdRange{notes.finished_low, notes.finished_high});
	if (ids.empty())
		return false;
	add_ended(slot, ids);
	return true;
}

static void publish(bool committed) noexcept {
	DatabaseSlot *slot = notes.database;
	end_writing_dependencies();
	if (slot && pg_atomic_read_u32(&slot->database) != MyDatabaseId) {
		/* The launcher looked while CREATE EXTENSION was not yet committed, found nothing, and gave the slot away. */
		slot = find_database(MyDatabaseId);
		if (slot == nullptr)
			ask_launcher(Rescan::from_scratch);
	}
	bool look = false;
	if (!committed || notes.subtransaction_aborted) {
		announce_list(notes.claimed, AnnouncementKind::tasks);
		look |= notes.claimed.count > 0 || notes.claimed.overflow;
	}
	if (committed && slot) {
		/* This comes first: a worker woken for a task must know what this transaction has changed of its handler. */
		if (notes.configuration || notes.everything) {
			pg_atomic_fetch_add_u64(&slot->configuration, 1);
			pg_memory_barrier();
			for (WorkerSlot &worker : worker_slots())
				if (pg_atomic_read_u32(&worker.database) == MyDatabaseId)
					wake_worker_of(MyDatabaseId, pg_atomic_read_u32(&worker.role));
		}
		announce_list(notes.tasks, AnnouncementKind::tasks);
		announce_list(notes.returned, AnnouncementKind::returned);
		look |= notes.tasks.count > 0 || notes.tasks.overflow;
		if (notes.everything) {
			atomic_min(&slot->due_at, static_cast<uint64>(all_due));
			announce_statement({PG_INT64_MIN, PG_INT64_MAX});
			pg_memory_barrier();
			wake_workers(MyDatabaseId, 0);
		}
		if (notes.due_at != 0)
			atomic_min(&slot->due_at, static_cast<uint64>(notes.due_at));
		if (notes.finished)
			wake_waiters(notes.finished_low, notes.finished_high);
		look |= announce_ended(slot);
		for (int i = 0; i < notes.cancel_count; i++)
			interrupt_workers(notes.cancelled[i]);
		if (notes.archive)
			pg_atomic_write_u32(&slot->by_hand, 1);
		look |= notes.everything || notes.configuration || notes.due_at != 0 || notes.archive || notes.cancel_count > 0;
	}
	if (slot && look) {
		wake_scheduler(slot);
		pg_memory_barrier();
		if (pg_atomic_read_u32(&slot->database) != MyDatabaseId)
			ask_launcher(Rescan::from_scratch);
	}
	if (committed && notes.rescan)
		ask_launcher(notes.from_scratch ? Rescan::from_scratch : Rescan::changes);
}

/* Ends note_let_go(), unless another process holds the database free by now. */
static void take_back_database() noexcept {
	if (notes.let_go == nullptr)
		return;
	auto me = static_cast<uint32>(MyProcPid);
	pg_atomic_compare_exchange_u32(&notes.let_go->let_go, &me, 0);
	wake_launcher();
}

static void forget() noexcept {
	notes.any = false;
	notes.database = notes.let_go = nullptr;
	notes.tasks.count = notes.claimed.count = notes.returned.count = 0;
	notes.tasks.overflow = notes.claimed.overflow = notes.returned.overflow = false;
	notes.subtransaction_aborted = notes.everything = notes.from_scratch = notes.configuration = notes.rescan = false;
	notes.archive = notes.finished = notes.waits = false;
	notes.parents = IdRanges();
	notes.due_at = 0;
	notes.claimed_in = InvalidSubTransactionId;
	notes.cancel_count = 0;
}

static void at_transaction_event(XactEvent event, void *) {
	if (!notes.any)
		return;
	switch (event) {
	case XACT_EVENT_PRE_COMMIT:
		/* A database without anything to run may have lost its slot meanwhile. */
		if (notes.database && pg_atomic_read_u32(&notes.database->database) != MyDatabaseId)
			notes.database = attach_database(MyDatabaseId);
		break;
	case XACT_EVENT_COMMIT:
		publish(true);
		take_back_database();
		forget();
		break;
	case XACT_EVENT_ABORT:
		publish(false);
		take_back_database();
		forget();
		break;
	case XACT_EVENT_PREPARE: /* its COMMIT PREPARED announces, see server/utility_hook */
		if (notes.configuration)
			pg_atomic_write_u32(&shared()->prepared, 1);
		end_writing_dependencies();
		take_back_database();
		forget();
		break;
	default:
		break;
	}
}

static void at_subtransaction_event(SubXactEvent event, SubTransactionId mine, SubTransactionId, void *) {
	if (event == SUBXACT_EVENT_ABORT_SUB && notes.any && mine <= notes.claimed_in)
		notes.subtransaction_aborted = true;
}

static bool begin_note() {
	if (shared() == nullptr)
		return false;
	if (!registered) {
		RegisterXactCallback(at_transaction_event, nullptr);
		RegisterSubXactCallback(at_subtransaction_event, nullptr);
		registered = true;
	}
	notes.any = true;
	return true;
}

/* Begins a note that concerns this database. */
static bool begin_database_note() {
	if (!begin_note())
		return false;
	if (notes.database == nullptr)
		notes.database = attach_database(MyDatabaseId);
	return true;
}

/* Sends NOTIFY in the transaction if no scheduler will send it afterwards. */
static void notify_if_nobody_else_does(std::string_view queue) {
	if (settings::notify_mode == static_cast<int>(NotifyMode::immediate) ||
		(shared() == nullptr && settings::notify_mode != static_cast<int>(NotifyMode::off)))
		Async_Notify("task_queue", pnstrdup(queue.data(), queue.size()));
}

void note_task(std::string_view queue, int16 priority, int64 id, std::string_view type, std::string_view group) {
	notify_if_nobody_else_does(queue);
	if (!begin_database_note())
		return;
	notes.tasks.add(queue, priority, {id, id}, type.empty() ? 0 : hash_name(type), !group.empty(), group);
}

void note_statement(int64 from) {
	notify_if_nobody_else_does("");
	if (!begin_database_note())
		return;
	notes.tasks.add_overflow({from, PG_INT64_MAX});
}

void note_claimed(std::string_view queue, int16 priority, IdRange ids, bool grouped) {
	if (!begin_database_note())
		return;
	notes.claimed.add(queue, priority, ids, 0, grouped, {});
	notes.claimed_in = std::max(notes.claimed_in, GetCurrentSubTransactionId());
}

void note_returned(std::string_view queue, int16 priority, int64 id, std::string_view group) {
	if (begin_database_note())
		notes.returned.add(queue, priority, {id, id}, 0, !group.empty(), group);
}

void note_due(TimestampTz at) {
	if (!begin_database_note() || at == DT_NOEND)
		return;
	at = std::max(at, all_due); /* times before the year 2000 are negative */
	notes.due_at = notes.due_at == 0 ? at : std::min(notes.due_at, at);
}

IdRange own_ids(uint64 queue_hash, int16 priority) noexcept {
	IdRange ids = notes.tasks.ids_of(queue_hash, priority);
	if (notes.subtransaction_aborted)
		ids.add(notes.claimed.ids_of(queue_hash, priority));
	return ids;
}

bool own_aborted() noexcept {
	return notes.subtransaction_aborted;
}

bool own_returned_groups() noexcept {
	return std::any_of(notes.returned.lanes, notes.returned.lanes + notes.returned.count,
					   [](const Lane &lane) { return lane.grouped; });
}

bool own_configuration() noexcept {
	return notes.configuration;
}

bool own_statements() noexcept {
	return notes.tasks.overflow;
}

void visit_own_lanes(void (*visit)(void *arg, const char *queue, int16 priority, bool grouped), void *arg) {
	for (int i = 0; i < notes.tasks.count; i++)
		visit(arg, notes.tasks.lanes[i].queue, notes.tasks.lanes[i].priority, notes.tasks.lanes[i].grouped);
}

void note_finished(int64 id) {
	if (!begin_database_note())
		return;
	notes.finished_low = notes.finished ? std::min(notes.finished_low, id) : id;
	notes.finished_high = notes.finished ? std::max(notes.finished_high, id) : id;
	notes.finished = true;
}

void note_parents(std::span<const int64> ids) {
	if (ids.empty() || !begin_database_note() || notes.database == nullptr)
		return;
	DatabaseSlot *const slot = notes.database;
	if (!notes.waits)
		pg_atomic_fetch_add_u32(&slot->dependencies_written, 1);
	notes.waits = true;
	pg_atomic_fetch_add_u64(&slot->parents_widened, 1);
	for (const int64 id : ids)
		notes.parents.add(IdRange{id, id});
	const auto [low, high] = std::minmax_element(ids.begin(), ids.end());
	atomic_min(&slot->parents_low, static_cast<uint64>(*low));
	atomic_max(&slot->parents_high, static_cast<uint64>(*high));
}

void note_cancelled(int64 id) {
	if (begin_database_note() && notes.cancel_count < static_cast<int>(std::size(notes.cancelled)))
		notes.cancelled[notes.cancel_count++] = id;
}

void note_archive() {
	if (begin_database_note())
		notes.archive = true;
}

void note_configuration() {
	if (begin_database_note())
		notes.configuration = true;
}

void note_rescan() {
	if (begin_note())
		notes.rescan = true;
}

void note_everything() {
	if (!begin_note())
		return;
	/* For a database without a slot no process is started, unless CREATE EXTENSION may have been prepared in it. */
	if (notes.database == nullptr)
		notes.database = find_database(MyDatabaseId);
	notes.everything = notes.database != nullptr;
	notes.from_scratch = !notes.everything && pg_atomic_read_u32(&shared()->prepared) != 0;
	notes.rescan = true;
}

void note_let_go(DatabaseSlot *slot) {
	if (begin_note())
		notes.let_go = slot;
}

} // namespace jobqueue
