/*
 * claimed_row.cpp -- see claimed_row.hpp. C++ region.
 */
#include "engine/store/claimed_row.hpp"

#include "engine/store/phrases.hpp"

namespace jobqueue::store {

Datum as_claimed(Datum row, int32 max_attempts, std::string_view claimed_by) {
	return guard([&] {
		HeapTupleHeader header = DatumGetHeapTupleHeader(row);
		TupleDesc layout = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(header), HeapTupleHeaderGetTypMod(header));
		HeapTupleData tuple = {};
		tuple.t_len = HeapTupleHeaderGetDatumLength(header);
		tuple.t_data = header;
		ItemPointerSetInvalid(&tuple.t_self);
		struct Change {
			const char *column;
			Datum value;
			bool is_null;
		};
		bool is_null;
		const Datum attempts = SPI_getbinval(&tuple, layout, SPI_fnumber(layout, "attempts"), &is_null);
		const Datum now = TimestampTzGetDatum(GetCurrentTimestamp());
		const char *const scope = SPI_getvalue(&tuple, layout, SPI_fnumber(layout, "unique_scope"));
		const bool starts = scope != nullptr && strcmp(scope, "waiting") == 0; /* see phrase::started_scope */
		const Change changes[] = {
			{"status", CStringGetTextDatum("processing"), false},
			{"updated_at", now, false},
			{"processed_at", now, false},
			{"attempts", Int32GetDatum(DatumGetInt32(attempts) + 1), false},
			{"max_attempts", Int32GetDatum(max_attempts), false},
			{"lease_expires_at", TimestampTzGetDatum(DT_NOEND), false},
			{"claimed_by",
			 PointerGetDatum(cstring_to_text_with_len(claimed_by.data(), static_cast<int>(claimed_by.size()))), false},
			{"progress", 0, true},
			{"progress_message", 0, true},
			{"unique_scope", CStringGetTextDatum("started"), false}, /* must be the last: left out below */
		};
		int columns[std::size(changes)];
		Datum values[std::size(changes)];
		bool nulls[std::size(changes)];
		const int count = static_cast<int>(std::size(changes)) - (starts ? 0 : 1);
		for (int i = 0; i < count; i++) {
			columns[i] = SPI_fnumber(layout, changes[i].column);
			values[i] = changes[i].value;
			nulls[i] = changes[i].is_null;
		}
		const Datum claimed =
			heap_copy_tuple_as_datum(heap_modify_tuple_by_cols(&tuple, layout, count, columns, values, nulls), layout);
		ReleaseTupleDesc(layout);
		return claimed;
	});
}

static constexpr auto row_sql = sql(R"(
	SELECT t::jobqueue.tasks, {max_attempts}, {processing}
	FROM jobqueue.tasks_live t
	WHERE t.id = $1 AND ({pending} AND t.attempts = $2 OR {processing} AND t.attempts = $2 + 1))",
									phrase::max_attempts, phrase::status_is("processing"), phrase::status_is("pending"),
									phrase::status_is("processing"));
static constinit Statement row_statement{row_sql, INT8OID, INT4OID};

std::optional<Datum> row_as_claimed(int64 id, int32 attempts, std::string_view claimed_by) {
	Params params;
	const Rows rows = row_statement.run(params.add(id).add(attempts));
	if (rows.empty())
		return std::nullopt;
	if (rows.bool_at(0, 3))
		return rows.datum(0, 1);
	return as_claimed(rows.datum(0, 1), rows.int32_at(0, 2), claimed_by);
}

} // namespace jobqueue::store
