/*
 * watching.cpp -- see watching.hpp. C++ region.
 */
#include "engine/store/watching.hpp"

namespace jobqueue::store {

static constinit Statement look_statement{
	"SELECT t, t.status, t.queue, t.created_by, t.xmin FROM jobqueue.tasks t WHERE t.id = $1", INT8OID};

std::optional<Look> look(int64 id) {
	Params params;
	const Rows rows = look_statement.run(params.add(id));
	if (rows.empty())
		return std::nullopt;
	return Look{rows.datum(0, 1), rows.text_at(0, 2), rows.text_at(0, 3), rows.name_at(0, 4),
				DatumGetTransactionId(rows.datum(0, 5))};
}

static constinit Statement queues_of_tasks_statement{
	"SELECT DISTINCT t.queue FROM jobqueue.tasks t WHERE t.id = ANY ($1)", INT8ARRAYOID};

std::vector<std::string> queues_of_tasks(std::span<const int64> ids) {
	Params params;
	const Rows rows = queues_of_tasks_statement.run(params.add(ids));
	std::vector<std::string> queues;
	for (uint64 i = 0; i < rows.size(); i++)
		queues.push_back(rows.text_at(i, 1));
	return queues;
}

} // namespace jobqueue::store
