/*
 * grouped_lanes.cpp -- see grouped_lanes.hpp. C++ region.
 *
 * A step from one key to the next does not read what is in the group.
 */
#include "engine/store/grouped_lanes.hpp"

#include "engine/store/phrases.hpp"

namespace jobqueue::store {

#define IN_GROUPS(t) t ".group_key IS NOT NULL AND " t ".queue" CCOLL EQ "$1 AND " t ".priority" EQ "$2 "
/* Whose turn it is in a group: the first that is pending; or the first at all, if one that is tried again holds it. */
#define PENDING(t) t ".status" EQ "'pending' AND "
#define PENDING_OR_TRIED(t)                                                                                            \
	"(" t ".status" EQ "'pending' OR " t ".status" EQ "'scheduled' AND " t ".attempts" GT "0) AND "
#define HEAD_COLUMNS                                                                                                   \
	"t.group_key, t.id, t.type, t.origin_queue IS NOT NULL AS dead_letter, t.status" EQ "'scheduled' AS held"
#define NEXT_HEAD(whose, after)                                                                                        \
	"SELECT " HEAD_COLUMNS " FROM jobqueue.tasks_live t WHERE " whose("t")                                             \
		IN_GROUPS("t") "AND t.group_key" CCOLL GT after " AND t.group_key" CCOLL LT "$5 " GROUP_ORDER("t") "LIMIT 1"
#define GROUP_HEADS(whose)                                                                                             \
	"WITH RECURSIVE head AS (SELECT h.*, 1 AS n FROM (" NEXT_HEAD(                                                     \
		whose, "$3") ") h UNION ALL "                                                                                  \
					 "SELECT n.*, h.n" PLUS "1 FROM head h, LATERAL (" NEXT_HEAD(                                      \
						 whose, "h.group_key") ") n WHERE h.n" LT "$4) "                                               \
											   "SELECT h.group_key, h.id, h.type, h.dead_letter, h.held FROM head h"
static constinit Statement group_heads_statements[] = {
	Statement{GROUP_HEADS(PENDING), TEXTOID, INT2OID, TEXTOID, INT4OID, TEXTOID},
	Statement{GROUP_HEADS(PENDING_OR_TRIED), TEXTOID, INT2OID, TEXTOID, INT4OID, TEXTOID}};
/* What is asked of one group: its tasks from an id on, of which those before are known to be gone. */
#define IN_GROUP(whose, t)                                                                                             \
	whose(t) IN_GROUPS(t) "AND " t ".group_key" CCOLL EQ "u.key AND " t ".id" GE "u.low " GROUP_ORDER(t)
#define HEADS_OF(whose)                                                                                                \
	"SELECT h.group_key, h.id, h.type, h.dead_letter, h.held, u.low FROM unnest($3, $4) AS u(key, low), LATERAL ("     \
	"SELECT " HEAD_COLUMNS " FROM jobqueue.tasks_live t WHERE " IN_GROUP(whose, "t") "LIMIT 1) h"
static constinit Statement heads_of_statements[] = {
	Statement{HEADS_OF(PENDING), TEXTOID, INT2OID, TEXTARRAYOID, INT8ARRAYOID},
	Statement{HEADS_OF(PENDING_OR_TRIED), TEXTOID, INT2OID, TEXTARRAYOID, INT8ARRAYOID}};
/* Which is the head is read again, later than the group was found free; the numbers tell if one was passed over. */
#define LOCK_IN_GROUPS(whose)                                                                                          \
	"SELECT " CANDIDATE_COLUMNS ", t.group_key, h.n "                                                                  \
	"FROM unnest($3, $4) AS u(key, low), LATERAL (SELECT o.place, pg_catalog.row_number() OVER () AS n FROM ("         \
	"SELECT c.ctid AS place FROM jobqueue.tasks_live c WHERE " IN_GROUP(                                               \
		whose, "c") "LIMIT $5) o) h "                                                                                  \
					"JOIN jobqueue.tasks_live t ON t.ctid" EQ                                                          \
					"h.place WHERE " STATUS_IS("pending") " FOR UPDATE OF t SKIP LOCKED"
#define LOCK_IN_GROUPS_TYPES TEXTOID, INT2OID, TEXTARRAYOID, INT8ARRAYOID, INT4OID, BOOLOID
static constinit Statement lock_in_groups_statements[] = {
	Statement{LOCK_IN_GROUPS(PENDING), LOCK_IN_GROUPS_TYPES},
	Statement{LOCK_IN_GROUPS(PENDING_OR_TRIED), LOCK_IN_GROUPS_TYPES}};

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
	int64 in_order = 0; /* of this group, from its head on */
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
