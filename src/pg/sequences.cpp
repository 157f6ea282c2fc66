/*
 * sequences.cpp -- see sequences.hpp. C region.
 */
#include "pg/sequences.hpp"

extern "C" {
#include "catalog/pg_sequence.h"
#include "storage/bufmgr.h"
}

namespace jobqueue {

/* A sequence is a table of one row, which is overwritten in place. */
static int64 last_value(Oid sequence) {
	Relation relation = relation_open(sequence, AccessShareLock);
	Buffer buffer = ReadBuffer(relation, 0);
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	Page page = BufferGetPage(buffer);
	auto *row = reinterpret_cast<HeapTupleHeader>(PageGetItem(page, PageGetItemId(page, FirstOffsetNumber)));
	const auto *data = reinterpret_cast<FormData_pg_sequence_data *>(reinterpret_cast<char *>(row) + row->t_hoff);
	const int64 value = data->last_value;
	UnlockReleaseBuffer(buffer);
	relation_close(relation, NoLock);
	return value;
}

int64 lowest_next_value(Oid sequence) {
	HeapTuple definition = SearchSysCache1(SEQRELID, ObjectIdGetDatum(sequence));
	if (!HeapTupleIsValid(definition))
		return PG_INT64_MIN;
	const auto *form = reinterpret_cast<Form_pg_sequence>(GETSTRUCT(definition));
	const bool in_order = form->seqincrement > 0 && form->seqcache == 1 && !form->seqcycle;
	ReleaseSysCache(definition);
	return in_order ? last_value(sequence) : PG_INT64_MIN;
}

} // namespace jobqueue
