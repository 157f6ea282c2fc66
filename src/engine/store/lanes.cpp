/*
 * lanes.cpp -- see lanes.hpp. C++ region.
 */
#include "engine/store/lanes.hpp"

#include "engine/store/phrases.hpp"

namespace jobqueue::store {

/*
 * Loose index scans: a step goes from one lane to the next, without reading what is in them. Looking between two known
 * lanes must not touch either, because the first entries of a lane may be dead by the million. (A comparison of rows
 * would not do: as an upper bound it stops a scan only where its first column decides.)
 */
template <typename Condition> static constexpr auto first_lane(const Condition &condition) {
	return sql(R"((
		SELECT t.queue, t.priority, t.id
		FROM jobqueue.tasks_live t
		WHERE t.status = 'pending' AND t.group_key IS NULL AND {condition}
		ORDER BY t.queue COLLATE "C", t.priority, t.id NULLS FIRST LIMIT 1))",
			   condition);
}
template <typename Condition> static constexpr auto first_group_lane(const Condition &condition) {
	return sql(R"((
		SELECT t.queue, t.priority, t.id
		FROM jobqueue.tasks_live t
		WHERE t.status = 'pending' AND t.group_key IS NOT NULL AND {condition}
		{in_order} LIMIT 1))",
			   condition, phrase::group_order("t"));
}

static constexpr auto new_priorities_sql =
	sql(R"(
	SELECT n.queue, n.priority FROM unnest($1, $2, $3) AS g(queue, low, high), LATERAL {first_lane} n)",
		first_lane(R"(t.queue COLLATE "C" = g.queue AND t.priority > g.low AND t.priority < g.high)"));
static constexpr auto new_queues_sql =
	sql(R"(
	SELECT n.queue, n.priority FROM unnest($1, $2) AS g(low, high), LATERAL {first_lane} n)",
		first_lane(R"(t.queue COLLATE "C" > g.low AND t.queue COLLATE "C" < g.high)"));
static constexpr auto last_queues_sql = sql(R"(
	SELECT n.queue, n.priority FROM {first_lane} n)",
											first_lane(R"(t.queue COLLATE "C" > $1)"));

/*
 * The first $1 priorities of each queue, also by a loose scan: one step for each queue, and one for each of these
 * lanes, however many lanes there are.
 */
template <typename Make> static constexpr auto first_lanes_sql_of(Make first) {
	return sql(R"(
	WITH RECURSIVE queues AS (
		SELECT n.queue FROM {first} n
		UNION ALL
		SELECT n.queue FROM queues f, LATERAL {next_queue} n)
	SELECT q.queue, h.priority
	FROM queues q, LATERAL (
		WITH RECURSIVE p AS (
			SELECT n.priority, 1 AS k FROM {first_of_queue} n
			UNION ALL
			SELECT n.priority, p.k + 1 FROM p, LATERAL {next_priority} n WHERE p.k < $1)
		SELECT p.priority FROM p) h)",
			   first(R"(t.queue COLLATE "C" > '')"), first(R"(t.queue COLLATE "C" > f.queue)"),
			   first(R"(t.queue COLLATE "C" = q.queue)"),
			   first(R"(t.queue COLLATE "C" = q.queue AND t.priority > p.priority)"));
}
/* The next $3 lanes after a queue and priority. */
template <typename Make> static constexpr auto lane_heads_sql_of(Make first) {
	return sql(R"(
	WITH RECURSIVE lanes AS (
		SELECT n.queue, n.priority, n.id FROM ({first} UNION ALL {first_of_queue} LIMIT 1) n
		UNION ALL
		SELECT n.queue, n.priority, n.id FROM lanes l, LATERAL ({next} UNION ALL {next_of_queue} LIMIT 1) n)
	SELECT l.queue, l.priority, l.id FROM lanes l LIMIT $3)",
			   first(R"(t.queue COLLATE "C" = $1 AND t.priority > $2)"), first(R"(t.queue COLLATE "C" > $1)"),
			   first(R"(t.queue COLLATE "C" = l.queue AND t.priority > l.priority)"),
			   first(R"(t.queue COLLATE "C" > l.queue)"));
}
static constexpr auto plain_lane = [](const auto &condition) { return first_lane(condition); };
static constexpr auto group_lane = [](const auto &condition) { return first_group_lane(condition); };
static constexpr auto first_lanes_sql = first_lanes_sql_of(plain_lane);
static constexpr auto first_group_lanes_sql = first_lanes_sql_of(group_lane);
static constexpr auto lane_heads_sql = lane_heads_sql_of(plain_lane);
static constexpr auto group_lane_heads_sql = lane_heads_sql_of(group_lane);

/* The rows after a priority, and whether each is wanted: at most $3 rows, in one scan. */
static constexpr auto ahead_sql = sql(R"(
	SELECT t.priority, {is_wanted}
	FROM jobqueue.tasks_live t
	WHERE t.status = 'pending' AND t.group_key IS NULL AND t.queue COLLATE "C" = $1 AND t.priority > $2
	ORDER BY t.queue COLLATE "C", t.priority, t.id NULLS FIRST LIMIT $3)",
									  phrase::is_wanted);
static constexpr auto group_ahead_sql = sql(R"(
	SELECT t.priority, {is_wanted}
	FROM jobqueue.tasks_live t
	WHERE t.status = 'pending' AND t.group_key IS NOT NULL AND t.queue COLLATE "C" = $1 AND t.priority > $2
	{in_order} LIMIT $3)",
											phrase::is_wanted, phrase::group_order("t"));

static constinit Statement new_priorities_statement{new_priorities_sql, TEXTARRAYOID, INT4ARRAYOID, INT4ARRAYOID};
static constinit Statement new_queues_statement{new_queues_sql, TEXTARRAYOID, TEXTARRAYOID};
static constinit Statement last_queues_statement{last_queues_sql, TEXTOID};
static constinit Statement first_lanes_statement{first_lanes_sql, INT4OID};
static constinit Statement first_group_lanes_statement{first_group_lanes_sql, INT4OID};
static constinit Statement lane_heads_statement{lane_heads_sql, TEXTOID, INT4OID, INT4OID};
static constinit Statement group_lane_heads_statement{group_lane_heads_sql, TEXTOID, INT4OID, INT4OID};
static constinit Statement ahead_statement{ahead_sql, TEXTOID, INT4OID, INT4OID};
static constinit Statement group_ahead_statement{group_ahead_sql, TEXTOID, INT4OID, INT4OID};

static void append_lanes(std::vector<Lane> &lanes, const Rows &rows, bool grouped = false) {
	for (uint64 i = 0; i < rows.size(); i++)
		lanes.push_back({rows.text_at(i, 1), rows.int16_at(i, 2), grouped});
}

/* One step: finds at most one lane in each gap between known lanes. */
static std::vector<Lane> look_between(std::span<const Lane> known, const QueueEnds &ends) {
	constexpr int32 below_all = PG_INT16_MIN - 1, above_all = PG_INT16_MAX + 1;
	std::vector<std::string> queues, low_queues, high_queues;
	std::vector<int32> lows, highs;
	const auto add_gap = [&](const std::string &queue, int32 low, int32 high) {
		if (low + 1 >= high)
			return;
		queues.push_back(queue);
		lows.push_back(low);
		highs.push_back(high);
	};
	const auto end_of = [&ends](const std::string &queue) {
		const auto end = ends.find(queue);
		return end == ends.end() ? above_all : end->second + 1;
	};
	const Lane *previous = nullptr;
	for (const Lane &lane : known) {
		const bool same_queue = previous && previous->queue == lane.queue;
		if (!same_queue) {
			if (previous)
				add_gap(previous->queue, previous->priority, end_of(previous->queue));
			low_queues.push_back(previous ? previous->queue : std::string()); /* no queue has an empty name */
			high_queues.push_back(lane.queue);
		}
		add_gap(lane.queue, same_queue ? previous->priority : below_all, lane.priority);
		previous = &lane;
	}
	add_gap(previous->queue, previous->priority, end_of(previous->queue));

	std::vector<Lane> found;
	Params priorities, between, last;
	priorities.add(std::span<const std::string>(queues)).add(std::span<const int32>(lows));
	append_lanes(found, new_priorities_statement.run(priorities.add(std::span<const int32>(highs))));
	between.add(std::span<const std::string>(low_queues)).add(std::span<const std::string>(high_queues));
	append_lanes(found, new_queues_statement.run(between));
	append_lanes(found, last_queues_statement.run(last.add(std::string_view(previous->queue))));
	return found;
}

/* Reads the first lanes of each queue, and notes where there are more. */
static void discover_first(DiscoveredLanes &discovered, bool grouped) {
	Params params;
	const Rows rows =
		(grouped ? first_group_lanes_statement : first_lanes_statement).run(params.add(lanes_at_once + 1));
	std::vector<Lane> lanes;
	append_lanes(lanes, rows, grouped);
	std::sort(lanes.begin(), lanes.end());
	int count = 0;
	for (size_t i = 0; i < lanes.size(); i++) {
		const Lane &lane = lanes[i];
		const bool same_queue = i > 0 && lanes[i - 1].queue == lane.queue;
		count = same_queue ? count + 1 : 1;
		if (count <= lanes_at_once) {
			discovered.lanes.push_back(lane);
			continue;
		}
		const int32 end = lanes[i - 1].priority;
		const auto known = discovered.ends.try_emplace(lane.queue, end).first;
		known->second = std::min(known->second, end);
	}
}

/* Discovers lanes of tasks without group. */
static void discover_plain_lanes(DiscoveredLanes &discovered, std::span<const Lane> known, const QueueEnds &ends) {
	discovered.from_scratch = known.empty();
	/* If a few steps do not find the end, there are many new lanes. */
	std::vector<Lane> all(known.begin(), known.end());
	for (int step = 0; !discovered.from_scratch; step++) {
		const std::vector<Lane> found = look_between(all, ends);
		if (found.empty())
			return;
		discovered.from_scratch = step == 8;
		discovered.lanes.insert(discovered.lanes.end(), found.begin(), found.end());
		all.insert(all.end(), found.begin(), found.end());
		std::sort(all.begin(), all.end());
	}
	discovered.lanes.clear();
	discover_first(discovered, false);
}

DiscoveredLanes discover_lanes(std::span<const Lane> known, const QueueEnds &ends) {
	std::vector<Lane> plain(known.begin(), known.end());
	std::erase_if(plain, [](const Lane &lane) { return lane.grouped; });
	DiscoveredLanes discovered;
	discover_plain_lanes(discovered, plain, ends);
	discover_first(discovered, true);
	return discovered;
}

LanesAhead lanes_ahead(std::string_view queue, int32 after, bool grouped, const TypeFilter &filter) {
	constexpr int32 most_rows = 8192;
	Params params;
	const FilterInForce in_force(filter);
	const Rows rows =
		(grouped ? group_ahead_statement : ahead_statement).run(params.add(queue).add(after).add(most_rows));
	LanesAhead ahead;
	const auto add = [&ahead](int16 priority) {
		if (ahead.priorities.empty() || ahead.priorities.back() != priority)
			ahead.priorities.push_back(priority);
	};
	for (uint64 i = 0; i < rows.size(); i++)
		if (rows.bool_at(i, 2))
			add(rows.int16_at(i, 1));
	if (rows.size() == static_cast<uint64>(most_rows)) {
		ahead.end = rows.int16_at(rows.size() - 1, 1);
		add(static_cast<int16>(*ahead.end)); /* there may be more in this lane */
	}
	return ahead;
}

std::vector<LaneHead> lane_heads(bool grouped, std::string_view queue, int32 priority, int count) {
	Params params;
	params.add(queue).add(priority).add(count);
	const Rows rows = (grouped ? group_lane_heads_statement : lane_heads_statement).run(params);
	std::vector<LaneHead> heads;
	heads.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++)
		heads.push_back({{rows.text_at(i, 1), rows.int16_at(i, 2), grouped}, rows.int64_at(i, 3)});
	return heads;
}

} // namespace jobqueue::store
