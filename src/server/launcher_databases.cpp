/*
 * launcher_databases.cpp -- which databases there are, and which of them need a slot in shared memory. See
 * launcher.hpp. C++ region.
 */
#include "server/launcher.hpp"

#include "pg/debug.hpp"
#include "pg/guard.hpp"
#include "pg/transaction.hpp"
#include "shared/databases.hpp"
#include "shared/workers.hpp"

namespace jobqueue {

static constexpr int64 rescan_interval_us = USECS_PER_MINUTE;
/* A paused database is looked into after so long: the change that lets it run again may not have been announced. */
static constexpr int64 paused_look_us = 20 * USECS_PER_SEC;
/* The interval doubles after each look in vain, up to so many times, until something is announced there. */
static constexpr int most_vain_looks = 4;
static constexpr int64 look_again_us = 30 * USECS_PER_SEC;

int64 Launcher::look_interval_us(const Child &child) noexcept {
	return paused_look_us << std::min(child.vain_looks, most_vain_looks);
}

Child *Launcher::child_of(Oid database) {
	const auto found = std::find_if(children_.begin(), children_.end(),
									[database](const Child &child) { return child.database == database; });
	return found == children_.end() ? nullptr : &*found;
}

/* Reads which databases there are, and forgets those that are gone. */
void Launcher::scan() {
	constexpr size_t most = 4096;
	struct List {
		Oid *oids;
		size_t count;
	};
	std::vector<Oid> databases(most);
	List list = {databases.data(), 0};
	in_transaction(Durability::asynchronous, [&list] {
		guard([&list] {
			Relation relation = table_open(DatabaseRelationId, AccessShareLock);
			TableScanDesc scan = table_beginscan_catalog(relation, 0, nullptr);
			while (HeapTuple tuple = heap_getnext(scan, ForwardScanDirection)) {
				auto *form = reinterpret_cast<Form_pg_database>(GETSTRUCT(tuple));
				constexpr int invalid_database = -2; /* in datconnlimit: the database is half dropped */
				if (form->datallowconn && !form->datistemplate && form->datconnlimit != invalid_database &&
					list.count < most)
					list.oids[list.count++] = form->oid;
			}
			table_endscan(scan);
			table_close(relation, AccessShareLock);
		});
	});
	databases.resize(list.count);
	const auto exists = [&databases](Oid database) {
		return std::find(databases.begin(), databases.end(), database) != databases.end();
	};
	std::erase_if(absent_, [&](Oid database) { return !exists(database); });
	std::erase_if(unknown_, [&](Oid database) { return !exists(database); });
	std::erase_if(children_, [&](const Child &child) { return child.parked && !exists(child.database); });
	for (DatabaseSlot &slot : database_slots()) {
		const Oid database = pg_atomic_read_u32(&slot.database);
		const Child *child = child_of(database);
		if (OidIsValid(database) && !exists(database) && !(child && child->handle) && !has_workers(database)) {
			std::erase_if(children_, [database](const Child &c) { return c.database == database; });
			guard([&slot] { release_database(&slot); });
		}
	}
	for (const Oid database : databases) {
		const bool known = child_of(database) != nullptr ||
						   std::find(absent_.begin(), absent_.end(), database) != absent_.end() ||
						   std::find(unknown_.begin(), unknown_.end(), database) != unknown_.end();
		if (!known)
			unknown_.push_back(database);
	}
	next_scan_ = steady_now() + rescan_interval_us;
}

/* If the wall clock was set, all retired schedulers are started, to find out for themselves when they are needed. */
void Launcher::watch_clock() {
	if (clock_.look() == 0)
		return;
	for (DatabaseSlot &slot : database_slots())
		if (pg_atomic_read_u32(&slot.database) != InvalidOid && scheduler_state(&slot) == SchedulerState::retired)
			pg_atomic_write_u64(&slot.next_run, 0);
	look_at_parked();
}

/* May the database give its slot up? Only if nothing in the slot would be lost. */
bool Launcher::may_park(const Child &child, DatabaseSlot *slot) {
	const SchedulerState state = scheduler_state(slot);
	return child.handle == nullptr && (state == SchedulerState::retired || state == SchedulerState::paused) &&
		   pg_atomic_read_u32(&slot->wanted) == 0 && pg_atomic_read_u32(&slot->let_go) == 0 &&
		   pg_atomic_read_u32(&slot->orphans) == 0 && pg_atomic_read_u32(&slot->by_hand) == 0 &&
		   pg_atomic_read_u32(&slot->dependencies_written) == 0 &&
		   pg_atomic_read_u64(&slot->database_waiting_since) == 0 &&
		   pg_atomic_read_u64(&slot->due_at) == PG_INT64_MAX && !has_workers(child.database);
}

void Launcher::look_at(Child &child) {
	child.next_run = 0;
	child.next_look = at_once;
	child.started_at = long_ago;
}

/* A database with nothing to run gives its slot up. A backend that announces something takes another, and wakes us. */
void Launcher::park(Child &child, DatabaseSlot *slot) {
	child.state = scheduler_state(slot);
	const bool paused = child.state == SchedulerState::paused;
	child.next_run = paused ? DT_NOEND : static_cast<TimestampTz>(pg_atomic_read_u64(&slot->next_run));
	child.next_look = paused ? child.started_at + look_interval_us(child) : never;
	child.served_since = pg_atomic_read_u64(&slot->served_since);
	child.paused_reported = pg_atomic_read_u32(&slot->paused_reported);
	child.parked = true;
	if (const Oid database = child.database; is_debugging(DEBUG1))
		guard([database] {
			ereport(DEBUG1,
					(errmsg_internal("database %u: its slot is free for others: there is nothing to do", database)));
		});
	guard([slot] { release_database(slot); });
	/* A backend that announces something now finds the slot gone; or it has set "wanted" before, which is seen here. */
	pg_memory_barrier();
	if (pg_atomic_read_u32(&slot->wanted) != 0)
		look_at(child);
}

/* The database has a slot again, which a backend may have taken. A new slot gets what the old one said. */
void Launcher::unpark(Child &child, DatabaseSlot *slot) {
	child.parked = false;
	if (scheduler_state(slot) != SchedulerState::none)
		return;
	if (pg_atomic_read_u64(&slot->served_since) == 0)
		pg_atomic_write_u64(&slot->served_since, child.served_since);
	pg_atomic_write_u32(&slot->paused_reported, child.paused_reported);
	pg_atomic_write_u64(&slot->next_run, static_cast<uint64>(child.next_run));
	/* The low half of a new slot's configuration is 0 until it changes: until then it equals paused_configuration. */
	const uint64 configuration = pg_atomic_read_u64(&slot->configuration);
	pg_atomic_write_u64(&slot->paused_configuration, configuration & ~static_cast<uint64>(PG_UINT32_MAX));
	pg_atomic_write_u32(&slot->state, static_cast<uint32>(child.state));
}

/* Parks paused databases, and, when slots are short, databases that have nothing to run at the moment. */
void Launcher::share_slots(SteadyTime now) {
	if (pg_atomic_read_u32(&shared()->database_missed) != 0 && now - missed_at_ > look_again_us) {
		/* A backend had something to announce and got no slot. It is not known in which database. */
		missed_at_ = now;
		pg_atomic_write_u32(&shared()->database_missed, 0);
		warn_of_slots();
		look_at_parked();
		absent_.clear();
		next_scan_ = at_once;
	}
	const auto slots = database_slots();
	const auto used = std::count_if(slots.begin(), slots.end(), [](DatabaseSlot &slot) {
		return pg_atomic_read_u32(&slot.database) != InvalidOid;
	});
	auto to_park = used - (shared()->database_limit - std::max(shared()->database_limit / 8, 2));
	const TimestampTz wall = GetCurrentTimestamp();
	std::vector<std::pair<TimestampTz, Child *>> candidates;
	for (Child &child : children_) {
		if (child.parked || child.handle != nullptr)
			continue;
		DatabaseSlot *slot = guard([&child] { return find_database(child.database); });
		if (slot == nullptr || !may_park(child, slot))
			continue;
		const bool paused = scheduler_state(slot) == SchedulerState::paused &&
							pg_atomic_read_u64(&slot->configuration) == pg_atomic_read_u64(&slot->paused_configuration);
		if (paused && (to_park > 0 || now - child.announced_at > paused_look_us)) {
			park(child, slot);
			to_park--;
		} else if (scheduler_state(slot) == SchedulerState::retired) {
			const auto next_run = static_cast<TimestampTz>(pg_atomic_read_u64(&slot->next_run));
			if (next_run > wall)
				candidates.emplace_back(next_run, &child);
		}
	}
	std::sort(candidates.begin(), candidates.end(), std::greater<>());
	for (const auto &[next_run, child] : candidates) {
		if (to_park-- <= 0)
			break;
		const Child *const found = child;
		DatabaseSlot *slot = guard([found] { return find_database(found->database); });
		if (slot != nullptr)
			park(*child, slot);
	}
}

/* Has parked databases looked at: something may have been announced there that nobody has heard. */
void Launcher::look_at_parked() {
	for (Child &child : children_)
		if (child.parked)
			look_at(child);
}

} // namespace jobqueue
