/*
 * held_claims.cpp -- see held_claims.hpp. C++ region.
 */
#include "engine/store/held_claims.hpp"

#include "pg/guard.hpp"
#include "pg/row_changes.hpp"

namespace jobqueue::store {

static constexpr int default_max_attempts = 20;
static constexpr int all_columns = 30, all_checks = 1; /* if nobody has added any */
/* The map must not grow for ever in a backend that claims tasks and lets others complete them. */
static constexpr size_t most_places = 100000;

static std::unordered_map<int64, ItemPointerData> &places() {
	static auto *places = new std::unordered_map<int64, ItemPointerData>;
	return *places;
}

namespace {

/* The columns that are read or changed. */
struct Columns {
	AttrNumber id, status, attempts, max_attempts, processed_at, updated_at, lease_expires_at, claimed_by, progress,
		progress_message, unique_scope;
};

} // namespace

/* The table of live tasks; null, and closed again, if its rows cannot be changed here. C region. */
static Relation open_live() {
	Relation table =
		table_open(get_relname_relid("tasks_live", get_namespace_oid("jobqueue", false)), RowExclusiveLock);
	/* Callers get the rows as they are. */
	if (RelationGetNumberOfAttributes(table) == all_columns && may_change_rows(table, "task_updated", all_checks))
		return table;
	table_close(table, NoLock);
	return nullptr;
}

/* C region. */
static Columns columns_of(Relation table) {
	TupleDesc layout = RelationGetDescr(table);
	const auto number = [layout](const char *name) { return static_cast<AttrNumber>(SPI_fnumber(layout, name)); };
	return {number("id"),			number("status"),			number("attempts"),			number("max_attempts"),
			number("processed_at"), number("updated_at"),		number("lease_expires_at"), number("claimed_by"),
			number("progress"),		number("progress_message"), number("unique_scope")};
}

bool may_begin_by_tid() {
	return !XactReadOnly && guard([] {
		Relation table = open_live();
		if (table != nullptr)
			table_close(table, NoLock);
		return table != nullptr;
	});
}

std::optional<std::vector<HeapTuple>> begin_by_tid(std::span<const Candidate> tasks, TimestampTz lease,
												   std::string_view claimed_by) {
	if (std::ranges::any_of(tasks, [](const Candidate &task) { return task.attempts == PG_INT32_MAX; }))
		return std::nullopt; /* the statement reports the error */
	std::vector<HeapTuple> begun(tasks.size());
	const bool done = guard([&] {
		Relation table = open_live();
		if (table == nullptr)
			return false;
		const Columns columns = columns_of(table);
		const Datum processing = CStringGetTextDatum("processing");
		const Datum started = CStringGetTextDatum("started");
		const Datum claimant =
			PointerGetDatum(cstring_to_text_with_len(claimed_by.data(), static_cast<int>(claimed_by.size())));
		RowChanges changes = begin_row_changes(table);
		const auto set = [&changes](AttrNumber column, Datum value) {
			changes.values[column - 1] = value;
			changes.nulls[column - 1] = false;
		};
		for (size_t i = 0; i < tasks.size(); i++) {
			if (!fetch_row(changes, tasks[i].tid)) {
				if (tasks[i].locked)
					elog(ERROR, "a task that is locked is not where it was");
				begun[i] = nullptr;
				continue;
			}
			const Datum now = TimestampTzGetDatum(GetCurrentTimestamp());
			set(columns.status, processing);
			set(columns.attempts, Int32GetDatum(DatumGetInt32(changes.values[columns.attempts - 1]) + 1));
			if (changes.nulls[columns.max_attempts - 1])
				set(columns.max_attempts, Int32GetDatum(default_max_attempts));
			set(columns.processed_at, now);
			set(columns.updated_at, now);
			set(columns.lease_expires_at, TimestampTzGetDatum(lease));
			set(columns.claimed_by, claimant);
			changes.nulls[columns.progress - 1] = changes.nulls[columns.progress_message - 1] = true;
			if (!changes.nulls[columns.unique_scope - 1] &&
				strcmp(TextDatumGetCString(changes.values[columns.unique_scope - 1]), "waiting") == 0)
				set(columns.unique_scope, started);
			begun[i] = update_row(changes, tasks[i].locked);
		}
		end_row_changes(changes);
		table_close(table, NoLock);
		return true;
	});
	if (!done)
		return std::nullopt;
	if (places().size() > most_places)
		places().clear();
	for (size_t i = 0; i < tasks.size(); i++)
		if (begun[i] != nullptr)
			places()[tasks[i].id] = begun[i]->t_self;
	return begun;
}

std::vector<int64> complete_by_tid(std::span<const int64> ids, std::span<const int32> attempts) {
	struct Known {
		int64 id;
		int32 attempt;
		ItemPointerData tid;
	};
	std::vector<Known> known;
	for (size_t i = 0; i < ids.size(); i++)
		if (const auto found = places().find(ids[i]); found != places().end()) {
			known.push_back({ids[i], attempts[i], found->second});
			places().erase(found);
		}
	if (known.empty())
		return {};
	std::vector<int64> done(known.size());
	done.resize(guard([&]() -> size_t {
		Relation table = open_live();
		if (table == nullptr)
			return 0;
		const Columns columns = columns_of(table);
		RowChanges changes = begin_row_changes(table);
		const auto is_null = [&changes](AttrNumber column) { return changes.nulls[column - 1]; };
		const auto value = [&changes](AttrNumber column) { return changes.values[column - 1]; };
		size_t count = 0;
		for (const Known &claim : known) {
			/*
			 * A claim is named by id and attempt; one without a lease that ends is a worker's in the server, or by
			 * hand.
			 */
			if (fetch_row(changes, claim.tid) && DatumGetInt64(value(columns.id)) == claim.id &&
				DatumGetInt32(value(columns.attempts)) == claim.attempt && !is_null(columns.lease_expires_at) &&
				!TIMESTAMP_NOT_FINITE(DatumGetTimestampTz(value(columns.lease_expires_at))) &&
				strcmp(TextDatumGetCString(value(columns.status)), "processing") == 0 && delete_row(changes))
				done[count++] = claim.id;
		}
		end_row_changes(changes);
		table_close(table, NoLock);
		return count;
	}));
	return done;
}

} // namespace jobqueue::store
