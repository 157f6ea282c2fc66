/*
 * row_changes.cpp -- see row_changes.hpp. C region.
 */
#include "pg/row_changes.hpp"

#include "pg/compat.hpp"

extern "C" {
#include "catalog/pg_trigger.h"
#include "executor/executor.h"
#include "storage/bufmgr.h"
}

namespace jobqueue {

bool may_change_rows(Relation table, const char *own_trigger, int checks) {
	const TupleConstr *constraints = RelationGetDescr(table)->constr;
	if (XactReadOnly || IsolationUsesXactSnapshot() || table->rd_rel->relforcerowsecurity ||
		table->rd_rules != nullptr ||
		(constraints != nullptr && (constraints->has_generated_stored || constraints->num_check != checks)))
		return false;
	const TriggerDesc *triggers = table->trigdesc;
	for (int i = 0; triggers != nullptr && i < triggers->numtriggers; i++) {
		const Trigger &trigger = triggers->triggers[i];
		if ((TRIGGER_FOR_UPDATE(trigger.tgtype) || TRIGGER_FOR_DELETE(trigger.tgtype)) &&
			strcmp(trigger.tgname, own_trigger) != 0)
			return false;
	}
	return true;
}

RowChanges begin_row_changes(Relation table) {
	RowChanges changes = {};
	const auto columns = static_cast<Size>(RelationGetNumberOfAttributes(table));
	changes.table = table;
	changes.blocks = RelationGetNumberOfBlocks(table); /* it does not shrink while we hold a lock on it */
	changes.estate = CreateExecutorState();
	changes.target = makeNode(ResultRelInfo);
	InitResultRelInfo(changes.target, table, 0, nullptr, 0);
	changes.old_row = table_slot_create(table, nullptr);
	changes.new_row = MakeSingleTupleTableSlot(RelationGetDescr(table), &TTSOpsHeapTuple);
	changes.values = static_cast<Datum *>(palloc(mul_size(sizeof(Datum), columns)));
	changes.nulls = static_cast<bool *>(palloc(columns));
	return changes;
}

bool fetch_row(RowChanges &changes, const ItemPointerData &tid) {
	ItemPointerData newest = tid;
	if (ItemPointerGetBlockNumber(&tid) >= changes.blocks ||
		!table_tuple_fetch_row_version(changes.table, &newest, SnapshotSelf, changes.old_row))
		return false;
	slot_getallattrs(changes.old_row);
	std::copy_n(changes.old_row->tts_values, RelationGetNumberOfAttributes(changes.table), changes.values);
	std::copy_n(changes.old_row->tts_isnull, RelationGetNumberOfAttributes(changes.table), changes.nulls);
	return true;
}

/* The lock may be our own: a transaction that locks a row and then claims it gets it. */
static bool lock_at_once(RowChanges &changes) {
	TM_FailureData failure;
	ItemPointerData tid = changes.old_row->tts_tid;
	return table_tuple_lock(changes.table, &tid, SnapshotSelf, changes.old_row, GetCurrentCommandId(true),
							LockTupleExclusive, LockWaitSkip, 0, &failure) == TM_Ok;
}

/* Might somebody have held a lock on the row, or have been about to change it, when it was fetched? */
static bool may_be_held(const RowChanges &changes) {
	const HeapTupleHeader header = reinterpret_cast<BufferHeapTupleTableSlot *>(changes.old_row)->base.tuple->t_data;
	return (header->t_infomask & HEAP_XMAX_INVALID) == 0;
}

/*
 * An update that does not wait is for rows that nobody holds: for other rows, an assertion of the server fails. A
 * holder may still have come since the look, so with assertions each row is locked first; without, this is not needed.
 * The suite ubsan runs the isolation tests with a library that checks the same on any server.
 */
#if defined(USE_ASSERT_CHECKING) || defined(JOBQUEUE_INJECTION)
static constexpr bool lock_each = true;
#else
static constexpr bool lock_each = false;
#endif

HeapTuple update_row(RowChanges &changes, bool locked) {
	HeapTuple row = heap_form_tuple(RelationGetDescr(changes.table), changes.values, changes.nulls);
	ExecStoreHeapTuple(row, changes.new_row, false);
	if (changes.target->ri_NumIndices == 0)
		ExecOpenIndices(changes.target, false);
	const auto update = [&changes](bool wait) {
		const TM_Result result =
			compat::update_row(changes.target, changes.estate, changes.old_row->tts_tid, changes.new_row, wait);
		if (lock_each && !wait && result == TM_BeingModified)
			elog(PANIC, "jobqueue updated a locked row without waiting");
		return result;
	};
	const bool lock_first = !locked && (lock_each || may_be_held(changes));
	if (lock_first && !lock_at_once(changes))
		return nullptr;
	TM_Result result = update(locked || lock_first);
	if (result == TM_BeingModified && !locked && !lock_first && lock_at_once(changes))
		result = update(true);
	if (result != TM_Ok && locked)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("a row of \"%s\" was changed although it is locked", RelationGetRelationName(changes.table))));
	if (result != TM_Ok)
		return nullptr;
	row->t_self = changes.new_row->tts_tid;
	ResetPerTupleExprContext(changes.estate);
	return row;
}

bool delete_row(RowChanges &changes) {
	TM_FailureData failure;
	return table_tuple_delete(changes.table, &changes.old_row->tts_tid, GetCurrentCommandId(true), SnapshotSelf,
							  InvalidSnapshot, true, &failure, false) == TM_Ok;
}

void end_row_changes(RowChanges &changes) {
	ExecDropSingleTupleTableSlot(changes.old_row);
	ExecDropSingleTupleTableSlot(changes.new_row);
	ExecCloseIndices(changes.target);
	FreeExecutorState(changes.estate);
	CommandCounterIncrement();
}

} // namespace jobqueue
