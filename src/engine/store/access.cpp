/*
 * access.cpp -- see access.hpp. C++ region.
 */
#include "engine/store/access.hpp"

namespace jobqueue::store {

static constinit Statement access_statement{"SELECT a.role, a.role_oid, a.access, a.queue FROM jobqueue.access a"};

std::vector<AccessEntry> access_entries() {
	Params none;
	const Rows rows = access_statement.run_on_latest(none);
	std::vector<AccessEntry> entries;
	entries.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++)
		entries.push_back({rows.name_at(i, 1), DatumGetObjectId(rows.datum(i, 2)), rows.text_at(i, 3),
						   rows.is_null(i, 4) ? std::nullopt : std::optional(rows.text_at(i, 4))});
	return entries;
}

} // namespace jobqueue::store
