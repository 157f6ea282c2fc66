/*
 * throttling.cpp -- see throttling.hpp. C++ region.
 */
#include "engine/store/throttling.hpp"

#include "engine/store/phrases.hpp"

namespace jobqueue::store {

/* What rate_at() reads. "prefix" is that of the columns' names. */
template <typename Prefix> static constexpr auto rate(const Prefix &prefix) {
	return sql("coalesce({prefix}rate_limit, 0), coalesce({period}, 1000000), "
			   "coalesce({prefix}rate_burst, {prefix}rate_limit, 0)",
			   prefix, phrase::microseconds(sql("{prefix}rate_period", prefix)), prefix, prefix);
}
static constexpr auto queue_settings_sql = sql(R"(
	SELECT q.queue, coalesce(q.max_running, 0), coalesce(q.weight, 1), coalesce({aging}, 0), {rate},
		coalesce(q.group_limit, 0), coalesce(q.group_hold_on_retry, true), {group_rate},
		coalesce(q.rate_changed_at, '-infinity')
	FROM jobqueue.queues q
	WHERE coalesce(q.max_running, q.weight, q.rate_limit, q.group_limit, q.group_rate_limit) IS NOT NULL
		OR q.aging IS NOT NULL OR q.group_hold_on_retry IS NOT NULL)",
											   phrase::microseconds("q.aging"), rate("q."), rate("q.group_"));
static constexpr auto type_settings_sql = sql(R"(
	SELECT h.type, coalesce(h.max_running, 0), {rate}, coalesce(h.group_limit, 0),
		coalesce(h.rate_changed_at, '-infinity'),
		CASE WHEN {keeps_to_its_queue} THEN CASE WHEN {works_in_its_queue} THEN h.queue ELSE '' END END
	FROM jobqueue.handlers h
	WHERE coalesce(h.max_running, h.rate_limit, h.group_limit) IS NOT NULL)",
											  rate("h."), phrase::keeps_to_its_queue, phrase::works_in_its_queue);
static constinit Statement queue_settings_statement{queue_settings_sql};
static constinit Statement type_settings_statement{type_settings_sql};

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

/*
 * The new value of a column that is given as a parameter. Null: the column stays, if "stays" holds, and otherwise
 * becomes null. The value "nothing", which is 0: the column becomes null.
 */
template <typename Column, typename Stays, typename Parameter, typename Nothing>
static constexpr auto changed(const Column &column, const Stays &stays, const Parameter &parameter,
							  const Nothing &nothing) {
	return sql("CASE WHEN {parameter} IS NULL AND {stays} THEN {column} "
			   "WHEN NOT {parameter} = {nothing} THEN {parameter} END",
			   parameter, stays, column, parameter, nothing, parameter);
}
template <typename Column, typename Changed>
static constexpr auto differs(const Column &column, const Changed &changed) {
	return sql("({changed}) IS DISTINCT FROM {column}", changed, column);
}

namespace of_queue {

template <typename Column, typename Parameter, typename Nothing>
static constexpr auto changed(const Column &column, const Parameter &parameter, const Nothing &nothing) {
	return store::changed(column, "true", parameter, nothing);
}
static constexpr char no_time[] = "'0'::interval";
static constexpr auto rate_limit = changed("q.rate_limit", "$4", "0");
static constexpr auto rate_period = changed("q.rate_period", "$5", no_time);
static constexpr auto rate_burst = changed("q.rate_burst", "$6", "0");
static constexpr auto group_rate_limit = changed("q.group_rate_limit", "$9", "0");
static constexpr auto group_rate_period = changed("q.group_rate_period", "$10", no_time);
static constexpr auto group_rate_burst = changed("q.group_rate_burst", "$11", "0");
static constexpr auto sql_text =
	sql(R"(
	UPDATE jobqueue.queues q
	SET max_running = {max_running},
		weight = {weight},
		rate_limit = {rate_limit},
		rate_period = {rate_period},
		rate_burst = {rate_burst},
		group_limit = {group_limit},
		group_hold_on_retry = coalesce($8, q.group_hold_on_retry),
		group_rate_limit = {group_rate_limit},
		group_rate_period = {group_rate_period},
		group_rate_burst = {group_rate_burst},
		aging = {aging},
		rate_changed_at = CASE
			WHEN {rate_limit_differs} OR {rate_period_differs} OR {rate_burst_differs}
				OR {group_rate_limit_differs} OR {group_rate_period_differs} OR {group_rate_burst_differs}
			THEN clock_timestamp() ELSE q.rate_changed_at END
	WHERE q.queue = $1)",
		changed("q.max_running", "$2", "0"), changed("q.weight", "$3", "0"), rate_limit, rate_period, rate_burst,
		changed("q.group_limit", "$7", "0"), group_rate_limit, group_rate_period, group_rate_burst,
		changed("q.aging", "$12", no_time), differs("q.rate_limit", rate_limit), differs("q.rate_period", rate_period),
		differs("q.rate_burst", rate_burst), differs("q.group_rate_limit", group_rate_limit),
		differs("q.group_rate_period", group_rate_period), differs("q.group_rate_burst", group_rate_burst));

} // namespace of_queue

namespace of_type {

template <typename Column, typename Parameter, typename Nothing>
static constexpr auto changed(const Column &column, const Parameter &parameter, const Nothing &nothing) {
	return store::changed(column, "NOT $7", parameter, nothing);
}
static constexpr auto rate_limit = changed("h.rate_limit", "$3", "0");
static constexpr auto rate_period = changed("h.rate_period", "$4", "'0'::interval");
static constexpr auto rate_burst = changed("h.rate_burst", "$5", "0");
static constexpr auto sql_text = sql(R"(
	UPDATE jobqueue.handlers h
	SET max_running = {max_running},
		rate_limit = {rate_limit},
		rate_period = {rate_period},
		rate_burst = {rate_burst},
		group_limit = {group_limit},
		rate_changed_at = CASE WHEN {rate_limit_differs} OR {rate_period_differs} OR {rate_burst_differs}
			THEN clock_timestamp() ELSE h.rate_changed_at END
	WHERE h.type = $1)",
									 changed("h.max_running", "$2", "0"), rate_limit, rate_period, rate_burst,
									 changed("h.group_limit", "$6", "0"), differs("h.rate_limit", rate_limit),
									 differs("h.rate_period", rate_period), differs("h.rate_burst", rate_burst));

} // namespace of_type

static constinit Statement add_queue_statement{
	"INSERT INTO jobqueue.queues (queue) VALUES ($1) ON CONFLICT (queue) DO NOTHING", TEXTOID};
static constinit Statement change_queue_statement{of_queue::sql_text, TEXTOID, INT4OID,	   INT4OID, INT4OID,
												  INTERVALOID,		  INT4OID, INT4OID,	   BOOLOID, INT4OID,
												  INTERVALOID,		  INT4OID, INTERVALOID};
static constinit Statement change_type_statement{of_type::sql_text, TEXTOID, INT4OID, INT4OID,
												 INTERVALOID,		INT4OID, INT4OID, BOOLOID};

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

static constexpr auto claimed_of_sql = sql(R"(
	SELECT t.id, t.queue, t.type, coalesce(t.group_key, ''), {in_server},
		CASE WHEN {in_server}
			THEN coalesce((SELECT h.run_as_oid FROM jobqueue.handlers h WHERE h.type = t.type), 0::oid)
			ELSE 0::oid END
	FROM jobqueue.tasks_live t
	WHERE t.id = ANY ($1) AND {processing} AND t.lease_expires_at IS NOT NULL)",
										   phrase::in_server, phrase::in_server, phrase::status_is("processing"));
static constexpr auto still_claimed_sql = sql(
	"SELECT t.id FROM jobqueue.tasks_live t WHERE t.id = ANY ($1) AND {processing}", phrase::status_is("processing"));

static constinit Statement claimed_after_statement{
	R"(
	SELECT t.lease_expires_at, t.id,
		$3 AND t.group_key IS NOT NULL OR t.queue COLLATE "C" = ANY ($1) OR t.type COLLATE "C" = ANY ($2)
	FROM jobqueue.tasks_live t
	WHERE t.status = 'processing' AND (t.lease_expires_at, t.id) > ($4, $5)
	ORDER BY t.lease_expires_at, t.id LIMIT $6)",	  TEXTARRAYOID, TEXTARRAYOID, BOOLOID, TIMESTAMPTZOID,
	INT8OID, INT4OID};
static constinit Statement claimed_of_statement{claimed_of_sql, INT8ARRAYOID};
static constinit Statement still_claimed_statement{still_claimed_sql, INT8ARRAYOID};

std::vector<int64> claimed_after(Place &place, int most, const Limited &limited, bool *last) {
	Params params;
	add_place(params.add(limited.queues).add(limited.types).add(limited.groups), place);
	const Rows rows = claimed_after_statement.run_on_latest(params.add(most));
	std::vector<int64> ids;
	for (uint64 i = 0; i < rows.size(); i++) {
		place = {DatumGetTimestampTz(rows.datum(i, 1)), rows.int64_at(i, 2)};
		if (rows.bool_at(i, 3))
			ids.push_back(place.id);
	}
	*last = rows.size() < static_cast<uint64>(most);
	return ids;
}

std::vector<CountedTask> claimed_tasks(std::span<const int64> ids) {
	Params params;
	const Rows rows = claimed_of_statement.run_on_latest(params.add(ids));
	std::vector<CountedTask> tasks;
	tasks.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++)
		tasks.push_back({rows.int64_at(i, 1), rows.text_at(i, 2), rows.text_at(i, 3), rows.text_at(i, 4),
						 rows.bool_at(i, 5), DatumGetObjectId(rows.datum(i, 6))});
	return tasks;
}

std::vector<int64> still_claimed(std::span<const int64> ids) {
	Params params;
	return still_claimed_statement.run_on_latest(params.add(ids)).ids();
}

} // namespace jobqueue::store
