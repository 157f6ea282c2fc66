/*
 * row_changes.hpp -- updates and deletes rows by their places: what the statement would leave behind, new version,
 * index entries, WAL, without what the executor does for each row on the way there. Used for claims from outside
 * (engine/store/held_claims.cpp).
 *
 * C region.
 */
#pragma once

#include "pg/server.hpp"

namespace jobqueue {

struct RowChanges {
	Relation table; /* open, in RowExclusiveLock */
	BlockNumber blocks;
	EState *estate;
	ResultRelInfo *target;
	TupleTableSlot *old_row, *new_row;
	Datum *values; /* of the row that is being changed */
	bool *nulls;
};

/*
 * May it be done without a statement? Not where somebody else has a say in it, or wants to see it: row triggers but the
 * one of this name, statement triggers, checks beyond "checks", rules, generated columns, row security that binds the
 * owner; nor in a transaction that only reads, or has one snapshot, in which conflicts are errors.
 */
bool may_change_rows(Relation table, const char *own_trigger, int checks);

RowChanges begin_row_changes(Relation table);
/* Fetches the newest version of the row at this tid into "values" and "nulls", if there is one. */
bool fetch_row(RowChanges &changes, const ItemPointerData &tid);
/*
 * "values" and "nulls" replace the row that was fetched. They satisfy the constraints. The new version is allocated in
 * the current memory context, and says where it is; null if somebody else has changed the row or holds a lock on it,
 * for which it does not wait. "locked": this transaction holds that lock.
 */
HeapTuple update_row(RowChanges &changes, bool locked);
/* The row that was fetched is deleted; false if somebody has changed it in the meantime. Waits for who is about to. */
bool delete_row(RowChanges &changes);
/* Statements that follow see it. */
void end_row_changes(RowChanges &changes);

} // namespace jobqueue
