/*
 * throttling.cpp -- see throttling.hpp. C++ region.
 */
#include "engine/store/throttling.hpp"

#include "engine/store/phrases.hpp"

namespace jobqueue::store {

#define RATE(prefix)                                                                                                   \
	"coalesce(" prefix "rate_limit, 0), coalesce(" MICROSECONDS(prefix "rate_period") ", 1000000), "                   \
																					  "coalesce(" prefix               \
																					  "rate_burst, " prefix            \
																					  "rate_limit, 0)"

static constinit Statement queue_settings_statement{
	"SELECT q.queue, coalesce(q.max_running, 0), coalesce(q.weight, 1), coalesce(" MICROSECONDS("q.aging") ", 0), " RATE(
		"q.") ", coalesce(q.group_limit, 0), coalesce(q.group_hold_on_retry, true), " RATE("q.group_") ", "
																									   "coalesce(q.rate_changed_at, '-infinity') FROM jobqueue.queues q WHERE coalesce(q.max_running, q.weight, "
																									   "q.rate_limit, q.group_limit, q.group_rate_limit) IS NOT NULL OR q.aging IS NOT NULL "
																									   "OR q.group_hold_on_retry IS NOT NULL"};
static constinit Statement type_settings_statement{"SELECT h.type, coalesce(h.max_running, 0), " RATE(
	"h.") ", coalesce(h.group_limit, 0), coalesce(h.rate_changed_at, '-infinity'), CASE WHEN " KEEPS_TO_ITS_QUEUE
		  " THEN CASE WHEN " WORKS_IN_ITS_QUEUE " THEN h.queue ELSE '' END END "
		  "FROM jobqueue.handlers h WHERE coalesce(h.max_running, h.rate_limit, h.group_limit) IS NOT NULL"};

static RateSettings rate_at(const Rows &rows, uint64 row, int column) {
	return {rows.int32_at(row, column), rows.int64_at(row, column + 1), rows.int32_at(row, column + 2)};
}

std::vector<QueueSettings> queue_settings() {
	Params none;
	const Rows rows = queue_settings_statement.run_on_latest(none);
	std::vector<QueueSettings> settings;
	for (uint64 i = 0; i < rows.size(); i++)
		settings.push_back({rows.text_at(i, 1), rows.int32_at(i, 2), rows.int32_at(i, 3), rows.int64_at(i, 4),
							rate_at(rows, i, 5), rows.int32_at(i, 8), rows.bool_at(i, 9), rate_at(rows, i, 10),
							DatumGetTimestampTz(rows.datum(i, 13))});
	std::sort(settings.begin(), settings.end(), [](const auto &a, const auto &b) { return a.queue < b.queue; });
	return settings;
}

std::vector<TypeSettings> type_settings() {
	Params none;
	const Rows rows = type_settings_statement.run_on_latest(none);
	std::vector<TypeSettings> settings;
	for (uint64 i = 0; i < rows.size(); i++)
		settings.push_back({rows.text_at(i, 1), rows.is_null(i, 8) ? std::nullopt : std::optional(rows.text_at(i, 8)),
							rows.int32_at(i, 2), rate_at(rows, i, 3), rows.int32_at(i, 6),
							DatumGetTimestampTz(rows.datum(i, 7))});
	std::sort(settings.begin(), settings.end(), [](const auto &a, const auto &b) { return a.type < b.type; });
	return settings;
}

/* What a column becomes: null = it stays, or nothing if all of it is replaced; 0 = nothing. */
#define CHANGED(t, column, parameter, nothing)                                                                         \
	"CASE WHEN " parameter " IS NULL AND " STAYS " THEN " t column " WHEN NOT " parameter EQ nothing                   \
	" THEN " parameter " END"
#define CHANGE(t, column, parameter, nothing) column " = " CHANGED(t, column, parameter, nothing)
#define DIFFERS(t, column, parameter, nothing) "(" CHANGED(t, column, parameter, nothing) ") IS DISTINCT FROM " t column
#define NO_TIME "'0'::pg_catalog.interval"
static constinit Statement add_queue_statement{
	"INSERT INTO jobqueue.queues (queue) VALUES ($1) ON CONFLICT (queue) DO NOTHING", TEXTOID};
#define STAYS "true"
#define CHANGE_QUEUE                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                           \
	"UPDATE jobqueue.queues q SET " CHANGE("q.", "max_running",                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                \
										   "$2", "0") ", " CHANGE("q.", "weight",                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                              \
																  "$3", "0") ", " CHANGE("q.", "rate_limit", "$4", "0") ", " CHANGE("q.", "rate_period", "$5", NO_TIME) ", " CHANGE("q.", "rate_burst", "$6", "0") ", " CHANGE("q.", "group_limit", "$7", "0") ", "                                                                                                                                                                                                                                                                                                                                                                                                                                                                                                            \
																																																															   "group_hold_on_retry = coalesce($8, q.group_hold_on_retry), " CHANGE("q.",                                                                                                                                                                                                                                                                                                                                                                                                                                      \
																																																																																	"group_rate_limit", "$9", "0") ", " CHANGE("q.",                                                                                                                                                                                                                                                                                                                                                                                           \
																																																																																											   "group_rate_period",                                                                                                                                                                                                                                                                                                                                                                            \
																																																																																											   "$10",                                                                                                                                                                                                                                                                                                                                                                                          \
																																																																																											   NO_TIME) ", " CHANGE("q.", "group_rate_burst", "$11", "0") ", " CHANGE("q.",                                                                                                                                                                                                                                                                                                                    \
																																																																																																													  "aging",                                                                                                                                                                                                                                                                                                                 \
																																																																																																													  "$12", NO_TIME) ", rate_changed_at = CASE WHEN " DIFFERS("q.",                                                                                                                                                                                                                                                           \
																																																																																																																											   "rate_limit",                                                                                                                                                                                                                                                   \
																																																																																																																											   "$4",                                                                                                                                                                                                                                                           \
																																																																																																																											   "0") " OR " DIFFERS("q.",                                                                                                                                                                                                                                       \
																																																																																																																																   "rate_period", "$5", NO_TIME) " OR " DIFFERS("q.",                                                                                                                                                                                          \
																																																																																																																																												"rate_burst", "$6", "0") " OR " DIFFERS("q.",                                                                                                                                                  \
																																																																																																																																																						"group_rate_limit",                                                                                                                                    \
																																																																																																																																																						"$9",                                                                                                                                                  \
																																																																																																																																																						"0") " OR " DIFFERS("q.",                                                                                                                              \
																																																																																																																																																											"group_rate_period", "$10", NO_TIME) " OR " DIFFERS("q.",                                                                          \
																																																																																																																																																																								"group_rate_burst", "$11", "0") " THEN " NOW                                   \
																																																																																																																																																																																" ELSE q.rate_changed_at END WHERE q.queue" EQ \
																																																																																																																																																																																"$1"
static constinit Statement change_queue_statement{CHANGE_QUEUE, TEXTOID, INT4OID,	 INT4OID, INT4OID,
												  INTERVALOID,	INT4OID, INT4OID,	 BOOLOID, INT4OID,
												  INTERVALOID,	INT4OID, INTERVALOID};
#undef STAYS
#define STAYS "NOT $7"
#define CHANGE_TYPE                                                                                                                                                                        \
	"UPDATE jobqueue.handlers h SET " CHANGE("h.", "max_running", "$2", "0") ", " CHANGE("h.", "rate_limit", "$3", "0") ", " CHANGE(                                                       \
		"h.", "rate_period", "$4",                                                                                                                                                         \
		NO_TIME) ", " CHANGE("h.", "rate_burst", "$5",                                                                                                                                     \
							 "0") ", " CHANGE("h.", "group_limit", "$6",                                                                                                                   \
											  "0") ", rate_changed_at = CASE WHEN " DIFFERS("h.", "rate_limit", "$3",                                                                      \
																							"0") " OR " DIFFERS("h.",                                                                      \
																												"rate_period",                                                             \
																												"$4",                                                                      \
																												NO_TIME) " OR " DIFFERS("h.",                                              \
																																		"rate_burst",                                      \
																																		"$5",                                              \
																																		"0") " THEN " NOW                                  \
																																			 " ELSE h.rate_changed_at END WHERE h.type" EQ \
																																			 "$1"
static constinit Statement change_type_statement{CHANGE_TYPE, TEXTOID, INT4OID, INT4OID,
												 INTERVALOID, INT4OID, INT4OID, BOOLOID};

void change_queue(const QueueChange &change) {
	Params queue, params;
	const auto add = [&params](const std::optional<Datum> &value) { params.add_datum(value.value_or(0), !value); };
	add_queue_statement.run(queue.add(std::string_view(change.queue)));
	params.add(std::string_view(change.queue)).add(change.max_running).add(change.weight).add(change.rate_limit);
	add(change.rate_period);
	params.add(change.rate_burst).add(change.group_limit).add(change.group_hold_on_retry);
	params.add(change.group_rate_limit);
	add(change.group_rate_period);
	params.add(change.group_rate_burst);
	add(change.aging);
	change_queue_statement.run(params);
}

void change_type(const TypeChange &change, bool replaces) {
	Params params;
	params.add(std::string_view(change.type)).add(change.max_running).add(change.rate_limit);
	params.add_datum(change.rate_period.value_or(0), !change.rate_period);
	change_type_statement.run(params.add(change.rate_burst).add(change.group_limit).add(replaces));
}

#define COUNTED_COLUMNS                                                                                                \
	"SELECT t.id, t.queue, t.type, coalesce(t.group_key, ''), " IN_SERVER ", CASE WHEN " IN_SERVER                     \
	" THEN coalesce((SELECT h.run_as_oid FROM jobqueue.handlers h WHERE h.type" EQ                                     \
	"t.type), 0::pg_catalog.oid) ELSE 0::pg_catalog.oid END FROM jobqueue.tasks_live t "
#define IS_CLAIMED "WHERE t.status" EQ "'processing' AND t.lease_expires_at IS NOT NULL AND "
#define IS_LIMITED(groups)                                                                                             \
	"(" groups "t.group_key IS NOT NULL OR t.queue" CCOLL EQ "ANY ($1) OR t.type" CCOLL EQ                             \
	"ANY ($2)) ORDER BY t.lease_expires_at"
static constinit Statement claimed_statement{COUNTED_COLUMNS IS_CLAIMED IS_LIMITED("$3 AND "), TEXTARRAYOID,
											 TEXTARRAYOID, BOOLOID};
static constinit Statement claimed_ids_statement{"SELECT t.id FROM jobqueue.tasks_live t " IS_CLAIMED IS_LIMITED(""),
												 TEXTARRAYOID, TEXTARRAYOID};
static constinit Statement claimed_of_statement{COUNTED_COLUMNS IS_CLAIMED "t.id" EQ "ANY ($1)", INT8ARRAYOID};
static constinit Statement still_claimed_statement{
	"SELECT t.id FROM jobqueue.tasks_live t WHERE t.id" EQ "ANY ($1) AND " STATUS_IS("processing"), INT8ARRAYOID};
static std::vector<CountedTask> counted_tasks(const Rows &rows) {
	std::vector<CountedTask> tasks;
	tasks.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++)
		tasks.push_back({rows.int64_at(i, 1), rows.text_at(i, 2), rows.text_at(i, 3), rows.text_at(i, 4),
						 rows.bool_at(i, 5), DatumGetObjectId(rows.datum(i, 6))});
	return tasks;
}

std::vector<CountedTask> claimed_tasks(std::span<const std::string> queues, std::span<const std::string> types,
									   bool groups) {
	Params params;
	return counted_tasks(claimed_statement.run_on_latest(params.add(queues).add(types).add(groups)));
}

std::vector<int64> claimed_ids(std::span<const std::string> queues, std::span<const std::string> types) {
	Params params;
	return claimed_ids_statement.run_on_latest(params.add(queues).add(types)).ids();
}

std::vector<CountedTask> claimed_tasks(std::span<const int64> ids) {
	Params params;
	return counted_tasks(claimed_of_statement.run_on_latest(params.add(ids)));
}

std::vector<int64> still_claimed(std::span<const int64> ids) {
	Params params;
	return still_claimed_statement.run_on_latest(params.add(ids)).ids();
}

} // namespace jobqueue::store
