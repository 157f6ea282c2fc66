/*
 * capacity.cpp -- jobqueue._shared_capacity: who holds how much of the resources that all databases share and whose
 * size is fixed. C region.
 */
#include "pg/compat.hpp"
#include "pg/guard.hpp"
#include "shared/positions.hpp"
#include "shared/ring.hpp"
#include "shared/running_tasks.hpp"

namespace jobqueue {

namespace {

/* A row of the result. A row about a resource as a whole has no database. */
struct Row {
	const char *resource;
	Oid database = InvalidOid;
	Oid role = InvalidOid;
	const char *queue = "";
	int64 held = 0;
	int64 share = 0; /* 0 = the holder has no share of its own */
	int64 capacity = 0;
};

struct Rows {
	ReturnSetInfo *info;

	void add(const Row &row) {
		Datum values[7] = {CStringGetTextDatum(row.resource), ObjectIdGetDatum(row.database),
						   ObjectIdGetDatum(row.role),		  CStringGetTextDatum(row.queue),
						   Int64GetDatum(row.held),			  Int64GetDatum(row.share),
						   Int64GetDatum(row.capacity)};
		bool nulls[7] = {
			false, !OidIsValid(row.database), !OidIsValid(row.role), row.queue[0] == '\0', false, row.share == 0,
			false};
		tuplestore_putvalues(info->setResult, info->setDesc, values, nulls);
	}
};

} // namespace

static constexpr const char *resource_names[resource_kinds] = {"running tasks", "names"};

static void add_limits(Rows &rows) {
	int64 used[resource_kinds];
	size_t most = 256;
	auto *held = static_cast<Held *>(palloc(most * sizeof(Held)));
	size_t count;
	while ((count = list_shares({held, most}, &used)) > most) {
		most = count + count / 4;
		held = static_cast<Held *>(repalloc(held, most * sizeof(Held)));
	}
	for (size_t i = 0; i < resource_kinds; i++) {
		rows.add({.resource = resource_names[i], .held = used[i], .capacity = capacities[i].all});
		for (size_t j = 0; j < count; j++)
			if (held[j].held[i] > 0)
				rows.add({.resource = resource_names[i],
						  .database = held[j].holder.database,
						  .role = held[j].holder.role == unknown_role ? InvalidOid : held[j].holder.role,
						  .queue = held[j].queue,
						  .held = held[j].held[i],
						  .share = share_now(static_cast<Resource>(i), held[j].holder),
						  .capacity = capacities[i].all});
	}
	pfree(held);
}

/* Counts by database and role. */
struct Tally {
	PositionsHeld held[1024];
	size_t count = 0;
	int64 others = 0; /* those for which "held" has no room */

	void clear() {
		count = 0;
		others = 0;
	}
	void add(Oid database, Oid role) {
		for (size_t i = 0; i < count; i++)
			if (held[i].database == database && held[i].role == role) {
				held[i].count++;
				return;
			}
		if (count < std::size(held))
			held[count++] = {database, role, 1};
		else
			others++;
	}
	void report(Rows &rows, const char *resource, int64 capacity) const {
		int64 used = others;
		for (size_t i = 0; i < count; i++)
			used += held[i].count;
		rows.add({.resource = resource, .held = used, .capacity = capacity});
		for (size_t i = 0; i < count; i++)
			rows.add({.resource = resource,
					  .database = held[i].database,
					  .role = held[i].role,
					  .held = held[i].count,
					  .capacity = capacity});
	}
};

static void list_capacity(FunctionCallInfo fcinfo) {
	InitMaterializedSRF(fcinfo, 0);
	if (shared() == nullptr)
		return;
	Rows rows = {reinterpret_cast<ReturnSetInfo *>(fcinfo->resultinfo)};
	add_limits(rows);

	auto *tally = static_cast<Tally *>(palloc0(sizeof(Tally)));
	tally->count = count_positions(tally->held);
	tally->report(rows, "positions", most_positions);
	tally->clear();
	for (WaiterSlot &slot : shared()->waiter)
		if (const Oid database = pg_atomic_read_u32(&slot.database); database > 1)
			tally->add(database, compat::role_of(static_cast<int>(pg_atomic_read_u32(&slot.procno))));
	tally->report(rows, "waiters", max_waiters);
	tally->clear();
	for (const Death &death : shared()->deaths)
		if (OidIsValid(death.database))
			tally->add(death.database, InvalidOid);
	tally->report(rows, "ends of workers", max_deaths);
	tally->clear();
	for (DatabaseSlot &slot : database_slots())
		if (const Oid database = pg_atomic_read_u32(&slot.database); OidIsValid(database))
			tally->add(database, InvalidOid);
	tally->report(rows, "databases", shared()->database_limit);
	tally->clear();
	for (WorkerSlot &slot : worker_slots())
		if (worker_state(&slot) != WorkerState::free)
			tally->add(pg_atomic_read_u32(&slot.database), pg_atomic_read_u32(&slot.role));
	tally->report(rows, "workers", shared()->worker_count);
	pfree(tally);
	rows.add({.resource = "announcements",
			  .held = static_cast<int64>(std::min(ring_head(), ring_size)),
			  .capacity = static_cast<int64>(ring_size)});
}

} // namespace jobqueue

JOBQUEUE_FUNCTION(jobqueue_shared_capacity) {
	using namespace jobqueue;
	guard([fcinfo] { list_capacity(fcinfo); });
	return 0;
}
