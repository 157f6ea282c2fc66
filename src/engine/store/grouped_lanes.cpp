/*
 * grouped_lanes.cpp -- see grouped_lanes.hpp. C++ region.
 *
 * A step from one key to the next does not read what is in the group.
 */
#include "engine/store/grouped_lanes.hpp"

#include "engine/store/phrases.hpp"

namespace jobqueue::store {

template <typename Alias> static constexpr auto in_groups(const Alias &t) {
	return sql(R"({t}.group_key IS NOT NULL AND {t}.queue COLLATE "C" = $1 AND {t}.priority = $2)", t, t, t);
}

/*
 * Which task of a group is its head: the first that is pending, or the first at all, if a task that waits for its next
 * attempt keeps its place.
 */
namespace {

struct Pending {
	template <typename Alias> static constexpr auto of(const Alias &t) { return sql("{t}.status = 'pending'", t); }
};
struct PendingOrTried {
	template <typename Alias> static constexpr auto of(const Alias &t) {
		return sql("({t}.status = 'pending' OR {t}.status = 'scheduled' AND {t}.attempts > 0)", t, t, t);
	}
};

} // namespace

static constexpr auto head_columns =
	sql("t.group_key, t.id, t.type, t.origin_queue IS NOT NULL AS dead_letter, t.status = 'scheduled' AS held");

/* The head of the first group after a key. */
template <typename Whose, typename After> static constexpr auto next_head(const After &after) {
	return sql(R"(
		SELECT {columns}
		FROM jobqueue.tasks_live t
		WHERE {whose} AND {in_groups} AND t.group_key COLLATE "C" > {after} AND t.group_key COLLATE "C" < $5
		{in_order} LIMIT 1)",
			   head_columns, Whose::of("t"), in_groups("t"), after, phrase::group_order("t"));
}
template <typename Whose>
static constexpr auto group_heads_sql = sql(R"(
	WITH RECURSIVE head AS (
		SELECT h.*, 1 AS n FROM ({first}) h
		UNION ALL
		SELECT n.*, h.n + 1 FROM head h, LATERAL ({next}) n WHERE h.n < $4)
	SELECT h.group_key, h.id, h.type, h.dead_letter, h.held FROM head h)",
											next_head<Whose>("$3"), next_head<Whose>("h.group_key"));

/* The tasks of one group, from an id on: those before it are known to be gone. */
template <typename Whose, typename Alias> static constexpr auto in_group(const Alias &t) {
	return sql(R"({whose} AND {in_groups} AND {t}.group_key COLLATE "C" = u.key AND {t}.id >= u.low {in_order})",
			   Whose::of(t), in_groups(t), t, t, phrase::group_order(t));
}
template <typename Whose>
static constexpr auto heads_of_sql = sql(R"(
	SELECT h.group_key, h.id, h.type, h.dead_letter, h.held, u.low
	FROM unnest($3, $4) AS u(key, low),
		LATERAL (SELECT {columns} FROM jobqueue.tasks_live t WHERE {in_group} LIMIT 1) h)",
										 head_columns, in_group<Whose>("t"));

/* Reads again which task is the head, after the group was found free. The numbers show if a task was passed over. */
template <typename Whose>
static constexpr auto lock_in_groups_sql = sql(R"(
	SELECT {columns}, t.group_key, h.n
	FROM unnest($3, $4) AS u(key, low),
		LATERAL (
			SELECT o.place, row_number() OVER () AS n
			FROM (SELECT c.ctid AS place FROM jobqueue.tasks_live c WHERE {in_group} LIMIT $5) o) h
		JOIN jobqueue.tasks_live t ON t.ctid = h.place
	WHERE {pending}
	FOR UPDATE OF t SKIP LOCKED)",
											   phrase::candidate_columns, in_group<Whose>("c"),
											   phrase::status_is("pending"));

/* Of each pair, the second is for lanes where a task that waits for its next attempt keeps its place. */
static constinit Statement group_heads_statements[] = {
	Statement{group_heads_sql<Pending>, TEXTOID, INT2OID, TEXTOID, INT4OID, TEXTOID},
	Statement{group_heads_sql<PendingOrTried>, TEXTOID, INT2OID, TEXTOID, INT4OID, TEXTOID}};
static constinit Statement heads_of_statements[] = {
	Statement{heads_of_sql<Pending>, TEXTOID, INT2OID, TEXTARRAYOID, INT8ARRAYOID},
	Statement{heads_of_sql<PendingOrTried>, TEXTOID, INT2OID, TEXTARRAYOID, INT8ARRAYOID}};
static constinit Statement lock_in_groups_statements[] = {
	Statement{lock_in_groups_sql<Pending>, TEXTOID, INT2OID, TEXTARRAYOID, INT8ARRAYOID, INT4OID, BOOLOID},
	Statement{lock_in_groups_sql<PendingOrTried>, TEXTOID, INT2OID, TEXTARRAYOID, INT8ARRAYOID, INT4OID, BOOLOID}};

static std::vector<GroupHead> heads_from(const Rows &rows) {
	std::vector<GroupHead> heads;
	heads.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++)
		heads.push_back(
			{rows.text_at(i, 1), rows.int64_at(i, 2), rows.text_at(i, 3), rows.bool_at(i, 4), rows.bool_at(i, 5)});
	return heads;
}

std::vector<GroupHead> group_heads(const Lane &lane, std::string_view after, std::optional<std::string_view> before,
								   int count, bool held) {
	/* No text comes after this one: it is valid in no encoding, and longer than what could begin so in another. */
	static constexpr std::string_view after_all = "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff";
	Params params;
	params.add(std::string_view(lane.queue)).add(lane.priority).add(after).add(static_cast<int32>(count));
	return heads_from(group_heads_statements[held].run(params.add(before.value_or(after_all))));
}

std::vector<GroupHead> heads_of(const Lane &lane, std::span<const std::string> groups, std::span<const int64> lows,
								bool held) {
	Params params;
	params.add(std::string_view(lane.queue)).add(lane.priority).add(groups);
	const Rows rows = heads_of_statements[held].run(params.add(lows));
	std::vector<GroupHead> heads = heads_from(rows);
	for (uint64 i = 0; i < rows.size(); i++)
		heads[i].low = rows.int64_at(i, 6);
	return heads;
}

std::vector<Candidate> lock_in_groups(const Lane &lane, std::span<const GroupHead> heads, const TypeFilter &filter,
									  int each, bool held) {
	std::vector<std::string> keys;
	std::vector<int64> lows;
	for (const GroupHead &head : heads) {
		keys.push_back(head.group);
		lows.push_back(head.low);
	}
	Params params;
	params.add(std::string_view(lane.queue)).add(lane.priority).add(std::span<const std::string>(keys));
	params.add(std::span<const int64>(lows));
	params.add(static_cast<int32>(each));
	params.add(!filter.rows_for.empty());
	const Rows rows = lock_in_groups_statements[held].run(params);
	std::vector<Candidate> candidates;
	candidates.reserve(rows.size());
	size_t head = 0;
	int64 in_order = 0; /* position in this group, from its head on */
	for (uint64 i = 0; i < rows.size(); i++) {
		const int64 number = rows.int64_at(i, 14);
		std::string group = rows.text_at(i, 13);
		if (candidates.empty() || candidates.back().group != group)
			in_order = 0;
		while (head < heads.size() && heads[head].group != group)
			head++;
		if (head == heads.size())
			throw Error(ERRCODE_INTERNAL_ERROR, "the tasks of groups came in another order than they were asked for");
		const bool passed = number != in_order + 1 || (number == 1 && rows.int64_at(i, 1) != heads[head].id);
		if (!passed)
			in_order = number;
		candidates.push_back(candidate_at(rows, i, filter.rows_for));
		candidates.back().group = std::move(group);
		candidates.back().passed = passed;
	}
	return candidates;
}

} // namespace jobqueue::store
