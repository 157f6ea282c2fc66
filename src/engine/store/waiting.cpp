/*
 * waiting.cpp -- see waiting.hpp. C++ region, except the scan.
 */
#include "engine/store/waiting.hpp"

#include "engine/store/phrases.hpp"
#include "pg/compat.hpp"

extern "C" {
#include "access/genam.h"
#include "access/tableam.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
}

namespace jobqueue::store {

static constexpr const char *index_name = "tasks_live_waiting_of";

/* False if there is no such index. C region. */
static bool scan_waiting(const char *role, int64 after, int64 most, Counted *counted) {
	const Oid schema = get_namespace_oid("jobqueue", false);
	const Oid index_oid = get_relname_relid(index_name, schema);
	if (!OidIsValid(index_oid))
		return false;
	Relation table = table_open(get_relname_relid("tasks_live", schema), AccessShareLock);
	Relation index = index_open(index_oid, AccessShareLock);
	const bool usable = index->rd_index->indisvalid && index->rd_index->indrelid == RelationGetRelid(table);
	if (usable) {
		constexpr AttrNumber column_of_id = 1;
		NameData name;
		namestrcpy(&name, role);
		ScanKeyData keys[2];
		ScanKeyEntryInitialize(&keys[0], 0, 1, BTEqualStrategyNumber, InvalidOid, index->rd_indcollation[0], F_NAMEEQ,
							   NameGetDatum(&name));
		ScanKeyEntryInitialize(&keys[1], 0, 2, BTGreaterStrategyNumber, InvalidOid, InvalidOid, F_INT8GT,
							   Int64GetDatum(after));
		SnapshotData snapshot;
		InitDirtySnapshot(snapshot);
		TupleTableSlot *slot = table_slot_create(table, nullptr);
		IndexScanDesc scan = compat::begin_index_scan(table, index, &snapshot, 2);
		index_rescan(scan, keys, 2, nullptr, 0);
		counted->last_id = after;
		while (index_getnext_slot(scan, ForwardScanDirection, slot)) {
			bool isnull;
			const int64 id = DatumGetInt64(slot_getattr(slot, column_of_id, &isnull));
			if (counted->count > 0 && id == counted->last_id)
				continue; /* two versions of a row */
			counted->last_id = id;
			if (++counted->count < most)
				continue;
			counted->all = false;
			break;
		}
		index_endscan(scan);
		ExecDropSingleTupleTableSlot(slot);
	}
	index_close(index, AccessShareLock);
	table_close(table, AccessShareLock);
	return usable;
}

static constinit Statement count_waiting_statement{R"(
	SELECT count(*)
	FROM (SELECT 1 FROM jobqueue.tasks_live t
		WHERE t.created_by = $1 AND t.status = ANY (ARRAY['pending', 'scheduled', 'blocked'])
		LIMIT $2) w)",
												   NAMEOID, INT8OID};

int64 count_waiting(std::string_view created_by, int64 most) {
	Params params;
	return count_waiting_statement.run(params.add_name(created_by).add(most + 1)).int64_at(0, 1);
}

Counted count_waiting_after(const std::string &role, int64 id, int64 most) {
	Counted counted;
	Counted *const result = &counted;
	const char *const name = role.c_str();
	if (!guard([=] { return scan_waiting(name, id, most, result); }))
		counted = {count_waiting(role, PG_INT32_MAX), id, true};
	return counted;
}

int64 count_waiting_by_role(const std::string &role, int64 most) {
	Counted counted;
	Counted *const result = &counted;
	const char *const name = role.c_str();
	return guard([=] { return scan_waiting(name, PG_INT64_MIN, most + 1, result); }) ? counted.count
																					 : count_waiting(role, most);
}

static constinit Statement index_statement{"SELECT jobqueue._index_waiting()"};

void index_waiting() {
	Params none;
	index_statement.run(none);
}

} // namespace jobqueue::store
