/*
 * quotas.cpp -- see quotas.hpp. C++ region.
 */
#include "engine/store/quotas.hpp"

namespace jobqueue::store {

static constinit Statement limits_statement{
	"SELECT l.role, l.max_workers, l.max_queued, l.max_payload FROM jobqueue.limits l"};

std::vector<Quota> quotas() {
	Params none;
	const Rows rows = limits_statement.run_on_latest(none);
	const auto number = [&rows](uint64 row, int column) {
		return rows.is_null(row, column) ? std::nullopt : std::optional(rows.int32_at(row, column));
	};
	std::vector<Quota> limits;
	for (uint64 i = 0; i < rows.size(); i++)
		limits.push_back({rows.name_at(i, 1), number(i, 2), number(i, 3), number(i, 4)});
	return limits;
}

} // namespace jobqueue::store
