/*
 * pauses.cpp -- see pauses.hpp. C++ region.
 */
#include "engine/store/pauses.hpp"

#include "engine/store/phrases.hpp"

namespace jobqueue::store {

static constexpr auto paused_all_sql = sql(R"(
	SELECT 1 FROM jobqueue.incarnation i
	WHERE i.paused_at IS NOT NULL OR i.database = 0::oid OR {is_replicated}
	LIMIT 1)",
										   phrase::is_replicated);
static constexpr auto dead_letter_queues_sql = sql(
	"SELECT DISTINCT h.dead_letter_queue FROM jobqueue.handlers h WHERE {has_dead_letters}", phrase::has_dead_letters);

static constinit Statement paused_all_statement{paused_all_sql};
static constinit Statement paused_queues_statement{
	"SELECT q.queue FROM jobqueue.queues q WHERE q.paused_at IS NOT NULL"};
static constinit Statement dead_letter_queues_statement{dead_letter_queues_sql};

Pauses pauses() {
	Params none;
	Pauses result;
	result.all = !paused_all_statement.run(none).empty();
	const Rows rows = paused_queues_statement.run(none);
	for (uint64 i = 0; i < rows.size(); i++)
		result.queues.push_back(rows.text_at(i, 1));
	const Rows dead_letters = dead_letter_queues_statement.run(none);
	for (uint64 i = 0; i < dead_letters.size(); i++)
		result.dead_letter_queues.push_back(dead_letters.text_at(i, 1));
	return result;
}

static constinit Statement pause_all_statement{R"(
	UPDATE jobqueue.incarnation i SET paused_at = clock_timestamp() WHERE i.paused_at IS NULL RETURNING i.id)"};
static constinit Statement pause_statement{R"(
	INSERT INTO jobqueue.queues AS q (queue, paused_at) VALUES ($1, clock_timestamp())
	ON CONFLICT (queue) DO UPDATE SET paused_at = clock_timestamp() WHERE q.paused_at IS NULL
	RETURNING q.queue)",
										   TEXTOID};
static constinit Statement resume_everything_statement{
	"UPDATE jobqueue.incarnation i SET paused_at = NULL WHERE i.paused_at IS NOT NULL RETURNING i.id"};
static constinit Statement resume_all_queues_statement{
	"UPDATE jobqueue.queues q SET paused_at = NULL WHERE q.paused_at IS NOT NULL RETURNING q.queue"};
static constinit Statement resume_statement{R"(
	UPDATE jobqueue.queues q SET paused_at = NULL WHERE q.queue = $1 AND q.paused_at IS NOT NULL RETURNING q.queue)",
											TEXTOID};

bool pause(const std::optional<std::string> &queue) {
	Params params;
	if (!queue)
		return !pause_all_statement.run(params).empty();
	return !pause_statement.run(params.add(std::string_view(*queue))).empty();
}

bool resume(const std::optional<std::string> &queue) {
	Params params;
	if (queue)
		return !resume_statement.run(params.add(std::string_view(*queue))).empty();
	const bool everything = !resume_everything_statement.run(params).empty();
	const bool queues = !resume_all_queues_statement.run(params).empty();
	return everything || queues;
}

} // namespace jobqueue::store
