/*
 * row_changes.hpp -- updates and deletes rows by their tids. Leaves behind what the statement would (new version, index
 * entries, WAL), without what the executor does for each row on the way there. Used for claims from outside
 * (engine/store/held_claims.cpp).
 *
 * C region.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

struct RowChanges {
	Relation table; /* open, with RowExclusiveLock */
	BlockNumber blocks;
	EState *estate;
	ResultRelInfo *target;
	TupleTableSlot *old_row, *new_row;
	Datum *values; /* of the row that is being changed */
	bool *nulls;
};

/*
 * May rows be changed without a statement? Not if others have a say in the change, or want to see it: row triggers but
 * the one of this name, statement triggers, checks beyond "checks", rules, generated columns, row security that binds
 * the owner; nor in a transaction that only reads, or has one snapshot, in which conflicts are errors.
 */
bool may_change_rows(Relation table, const char *own_trigger, int checks);

RowChanges begin_row_changes(Relation table);
/* Fetches the newest version of the row at this tid into "values" and "nulls", if there is one. */
bool fetch_row(RowChanges &changes, const ItemPointerData &tid);
/*
 * Replaces the row that was fetched by "values" and "nulls", which satisfy the constraints. The new version is
 * allocated in the current memory context, and says where it is; null if somebody else has changed the row or holds a
 * lock on it, for which this does not wait. "locked": this transaction holds that lock.
 */
HeapTuple update_row(RowChanges &changes, bool locked);
/*
 * Deletes the row that was fetched; false if somebody has changed it meanwhile. Waits for whoever is about to change
 * it.
 */
bool delete_row(RowChanges &changes);
/* Makes the changes visible to statements that follow. */
void end_row_changes(RowChanges &changes);

} // namespace jobqueue
