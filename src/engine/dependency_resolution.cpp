/*
 * dependency_resolution.cpp -- see dependency_resolution.hpp. C++ region, except the code that looks into an index.
 */
#include "engine/dependency_resolution.hpp"

#include "engine/outcome.hpp"
#include "engine/set_aside.hpp"
#include "engine/store/adding.hpp"
#include "engine/store/watching.hpp"
#include "pg/clock.hpp"
#include "pg/compat.hpp"
#include "shared/databases.hpp"
#include "shared/transaction_notes.hpp"

#include <map>

extern "C" {
#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
}

namespace jobqueue {

static constexpr int parents_at_once = 1000;
static constexpr int dependencies_at_once = 5000;

/* What a table has with an id. */
enum class Row {
	none,
	settled,
	in_progress, /* a transaction that has not ended added, changed or removed it */
};

/* C region. */
static Row look_up(const char *name, const char *primary_key, int64 id) {
	const Oid schema = get_namespace_oid("jobqueue", false);
	Relation table = table_open(get_relname_relid(name, schema), AccessShareLock);
	Relation index = index_open(get_relname_relid(primary_key, schema), AccessShareLock);
	SnapshotData snapshot;
	InitDirtySnapshot(snapshot);
	TupleTableSlot *slot = table_slot_create(table, nullptr);
	ScanKeyData key;
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(id));
	IndexScanDesc scan = compat::begin_index_scan(table, index, &snapshot, 1);
	index_rescan(scan, &key, 1, nullptr, 0);
	Row found = Row::none;
	while (found != Row::in_progress && index_getnext_slot(scan, ForwardScanDirection, slot))
		found = TransactionIdIsValid(snapshot.xmin) || TransactionIdIsValid(snapshot.xmax) ? Row::in_progress
																						   : Row::settled;
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
	table_close(table, AccessShareLock);
	return found;
}

namespace {

/* What to do about a child. */
struct Child {
	std::vector<size_t> dependencies; /* indexes into those that were read */
	const store::Parent *failed = nullptr;
	bool locked = false;
};

/* One batch of dependencies on parents that have ended. */
class Batch {
public:
	Batch(std::span<const store::Parent> parents, std::span<const store::OpenDependency> open)
		: parents_(parents), open_(open) {}
	void run(Pass &pass);

private:
	const store::Parent &parent_of(const store::OpenDependency &open) const {
		return *std::lower_bound(parents_.begin(), parents_.end(), open.parent,
								 [](const store::Parent &parent, int64 id) { return parent.id < id; });
	}
	void cancel();

	const std::span<const store::Parent> parents_;
	const std::span<const store::OpenDependency> open_;
	std::map<int64, Child> children_;
	std::vector<std::pair<int64, const store::Parent *>> to_cancel_;
};

bool has_failed(const store::Parent &parent) noexcept {
	return parent.state == store::ParentState::failed || parent.state == store::ParentState::cancelled;
}

void Batch::run(Pass &pass) {
	std::vector<int64> ids;
	for (size_t i = 0; i < open_.size(); i++) {
		Child &child = children_[open_[i].child];
		child.dependencies.push_back(i);
		if (child.failed == nullptr && has_failed(parent_of(open_[i])))
			child.failed = &parent_of(open_[i]);
	}
	for (const auto &[id, child] : children_)
		ids.push_back(id);

	std::vector<store::OpenDependency> ended;
	std::map<int64, int32> waits_for; /* of the children that go on waiting, or are free */
	for (const store::Dependent &dependent : store::lock_dependents(ids)) {
		Child &child = children_[dependent.id];
		child.locked = true;
		if (child.failed != nullptr && dependent.policy == "cancel") {
			to_cancel_.emplace_back(dependent.id, child.failed);
			continue;
		}
		const store::Parent *lost = nullptr;
		const size_t before = ended.size();
		for (const size_t i : child.dependencies) {
			const store::Parent &parent = parent_of(open_[i]);
			if (!has_failed(parent) || dependent.policy == "run") {
				if (parent.is_kept)
					ended.push_back(open_[i]);
				else
					pass.again.add(IdRange{parent.id, parent.id});
			} else if (parent.gone) {
				lost = &parent; /* nobody can retry the parent */
			}
		}
		if (lost != nullptr) {
			ended.resize(before);
			to_cancel_.emplace_back(dependent.id, lost);
		} else if (ended.size() > before) {
			waits_for[dependent.id] = dependent.waits_for;
		}
	}

	/* Some children were passed over: they are locked, or wait for nothing any more. */
	std::vector<int64> passed;
	for (const auto &[id, child] : children_)
		if (!child.locked)
			passed.push_back(id);
	if (!passed.empty()) {
		std::vector<int64> over = store::not_blocked(passed);
		std::sort(over.begin(), over.end());
		for (const int64 id : passed) {
			const bool is_over = std::binary_search(over.begin(), over.end(), id);
			for (const size_t i : children_[id].dependencies) {
				if (is_over)
					ended.push_back(open_[i]);
				else
					pass.again.add(IdRange{open_[i].parent, open_[i].parent});
			}
		}
	}

	pass.any |= !ended.empty() || !to_cancel_.empty();
	pass.count += static_cast<int64>(ended.size() + to_cancel_.size());
	if (!ended.empty()) {
		for (const auto &[parent, child] : store::resolve(ended))
			if (const auto counted = waits_for.find(child); counted != waits_for.end())
				counted->second--;
	}
	if (!waits_for.empty()) {
		std::vector<int64> counted, free;
		std::vector<int32> counts;
		for (const auto &[id, count] : waits_for) {
			counted.push_back(id);
			counts.push_back(count);
			if (count <= 0)
				free.push_back(id);
		}
		store::set_waits_for(counted, counts);
		if (!free.empty())
			for (const store::Released &task : store::release(free))
				guard([&task] {
					if (task.due)
						note_due(*task.due);
					else
						note_task(task.queue, task.priority, task.id, task.type, task.group);
				});
	}
	cancel();
}

void Batch::cancel() {
	std::vector<int64> ids;
	for (const auto &[id, parent] : to_cancel_) {
		ids.push_back(id);
		const char *const what = parent->state == store::ParentState::failed ? " failed" : " was cancelled";
		end_cancelled(id, "parent task " + std::to_string(parent->id) + what);
	}
	if (!ids.empty())
		store::forget_dependencies(ids);
}

} // namespace

/*
 * Has a parent without a visible row really vanished? It has not while the transaction that adds it has not ended: the
 * child's transaction knew the id earlier. Then this process hears of the parent when it has ended. If the transaction
 * that adds it is rolled back, the next full pass finds out.
 */
static bool has_vanished(int64 id) {
	if (guard([id] { return look_up("tasks_live", "tasks_live_pkey", id); }) != Row::none)
		return false;
	/* The task may have appeared, and gone, since we looked. */
	const std::vector<store::Parent> again = store::look_at_parents({id, id}, 1);
	return !again.empty() && again[0].state == store::ParentState::vanished;
}

/* Passes over those whose outcomes others are writing, because their transactions may last. */
static void keep_outcomes(std::vector<store::Parent> &parents) {
	std::vector<int64> ids;
	for (store::Parent &parent : parents) {
		if (parent.is_kept ||
			guard([&parent] { return look_up("parents", "parents_pkey", parent.id); }) == Row::in_progress)
			continue;
		parent.is_kept = true;
		ids.push_back(parent.id);
	}
	if (!ids.empty())
		store::keep_outcomes(ids);
}

/* Leaves only those that have ended, and keeps their outcomes. */
static void leave_ended(std::vector<store::Parent> &parents) {
	std::erase_if(parents, [](const store::Parent &parent) {
		return parent.state == store::ParentState::live ||
			   (parent.state == store::ParentState::vanished && !has_vanished(parent.id));
	});
	keep_outcomes(parents);
}

Pass resolve_some(IdRange range, int64 child, std::span<const int64> but) {
	Pass pass{.parent = range.low};
	std::vector<store::Parent> parents = store::look_at_parents(range, parents_at_once);
	pass.done = parents.size() < static_cast<size_t>(parents_at_once);
	if (parents.empty())
		return pass;
	const bool same = parents.front().id == range.low;
	const int64 last = parents.back().id;
	leave_ended(parents);
	std::vector<int64> ids;
	for (const store::Parent &parent : parents)
		ids.push_back(parent.id);
	std::vector<store::OpenDependency> open;
	if (!ids.empty())
		open = store::open_dependencies(ids, same && ids.front() == range.low ? child : -1, dependencies_at_once);
	if (open.size() == static_cast<size_t>(dependencies_at_once)) {
		pass.done = false;
		pass.parent = open.back().parent;
		pass.child = open.back().child;
	} else {
		pass.parent = last + 1;
	}
	if (!but.empty())
		std::erase_if(open, [but](const store::OpenDependency &one) {
			return std::binary_search(but.begin(), but.end(), one.child);
		});
	if (!open.empty())
		Batch(parents, open).run(pass);
	return pass;
}

Pass resolve_these(std::span<const int64> children) {
	Pass pass{.parent = 0, .done = true};
	std::vector<store::OpenDependency> open = store::open_dependencies_of(children);
	std::vector<int64> ids;
	for (const store::OpenDependency &one : open)
		if (ids.empty() || ids.back() != one.parent)
			ids.push_back(one.parent);
	if (ids.empty())
		return pass;
	std::vector<store::Parent> parents = store::look_at_these_parents(ids);
	leave_ended(parents);
	std::ranges::sort(parents, {}, &store::Parent::id);
	std::erase_if(open, [&parents](const store::OpenDependency &one) {
		return !std::ranges::binary_search(parents, one.parent, {}, &store::Parent::id);
	});
	if (!open.empty())
		Batch(parents, open).run(pass);
	return pass;
}

std::vector<int64> children_to_resolve(IdRange parents, int64 child, std::span<const int64> but) {
	return store::waiting_children(parents, child, parents_at_once, {dependencies_at_once, {}, but});
}

bool resolve_all() {
	bool any = false;
	for (Pass pass{.parent = 0}; !pass.done;) {
		pass = resolve_some({pass.parent, PG_INT64_MAX}, pass.child);
		any |= pass.any;
	}
	return any;
}

void resolve_in_turn() {
	constexpr int64 share = 20; /* takes 1/20 of the time, if there is nothing to do */
	static constinit int64 parent = 0, child = -1;
	static constinit SteadyTime next = 0;
	const SteadyTime began = steady_now();
	if (began < next || store::open_parents(0).empty()) /* the step below looks at finished tasks, too */
		return;
	static SetAside *aside = nullptr; /* for the life of the backend */
	if (aside == nullptr)
		aside = new SetAside("unblock");
	Pass pass;
	const Progress progress = step_in_subtransaction(
		*aside, dependencies_at_once,
		[&pass](const store::Batch &rows) {
			pass =
				rows.only.empty() ? resolve_some({parent, PG_INT64_MAX}, child, rows.except) : resolve_these(rows.only);
			return pass.count;
		},
		[](const store::Batch &rows) {
			return children_to_resolve({parent, PG_INT64_MAX}, child, rows.except);
		});
	if (aside->took_batch()) {
		parent = pass.done ? 0 : pass.parent;
		child = pass.done ? -1 : pass.child;
	}
	if (progress != Progress::more && !pass.any)
		next = began + share * (steady_now() - began);
}

/*
 * A transaction that widens the bounds says so first, and is counted until it has ended. So a transaction that did so
 * before is either still counted, or its rows are seen; if one has done so since, this starts anew.
 */
void narrow_parent_bounds(DatabaseSlot *slot) {
	const uint64 widened = pg_atomic_read_u64(&slot->parents_widened);
	pg_memory_barrier();
	if (pg_atomic_read_u32(&slot->dependencies_written) != 0)
		return;
	pg_memory_barrier();
	const IdRange open = store::open_parents(static_cast<int64>(pg_atomic_read_u64(&slot->parents_low)));
	pg_atomic_write_u64(&slot->parents_low, open.empty() ? PG_INT64_MAX : static_cast<uint64>(open.low));
	pg_atomic_write_u64(&slot->parents_high, open.empty() ? 0 : static_cast<uint64>(open.high));
	pg_memory_barrier();
	if (pg_atomic_read_u64(&slot->parents_widened) == widened)
		return;
	pg_atomic_write_u64(&slot->parents_low, 0);
	pg_atomic_write_u64(&slot->parents_high, PG_INT64_MAX);
}

/* Maintenance */

Swept sweep_dependents(int64 after, const store::Batch &batch) {
	const std::vector<store::KnownDependent> known = store::dependents(after, batch);
	std::vector<int64> over, free;
	for (const store::KnownDependent &dependent : known) {
		if (dependent.over)
			over.push_back(dependent.id);
		if ((dependent.over || dependent.dormant) && dependent.waits_for > 0)
			free.push_back(dependent.id);
	}
	if (!free.empty()) {
		store::forget_dependencies(free);
		store::set_waits_for(free, std::vector<int32>(free.size(), -1));
	}
	if (!over.empty())
		store::remove_dependents(over);
	return {static_cast<int64>(known.size()), known.empty() ? after : known.back().id};
}

std::vector<int64> dependents_after(int64 after, const store::Batch &batch) {
	std::vector<int64> ids;
	for (const store::KnownDependent &dependent : store::dependents(after, batch))
		ids.push_back(dependent.id);
	return ids;
}

void sweep_parents(DatabaseSlot *slot) {
	/* Transactions that are adding children may need parents that nobody else needs. */
	if (pg_atomic_read_u32(&slot->dependencies_written) == 0)
		store::remove_unneeded_parents();
}

} // namespace jobqueue
