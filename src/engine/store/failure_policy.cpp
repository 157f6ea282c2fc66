/*
 * failure_policy.cpp -- see failure_policy.hpp. C++ region.
 */
#include "engine/store/failure_policy.hpp"

#include "engine/store/phrases.hpp"

namespace jobqueue::store {

static constexpr auto failure_policy_sql =
	sql(R"(
	SELECT h.backoff, {first_delay}, {max_delay}, h.jitter::float8,
		coalesce($2 = ANY (h.discard_sqlstates) OR left($2, 2) = ANY (h.discard_sqlstates), false),
		CASE WHEN {has_dead_letters} THEN h.dead_letter_queue END, h.on_failure, h.run_as,
		coalesce((SELECT a.oid FROM pg_roles a WHERE a.rolname = h.run_as AND a.oid = h.run_as_oid), 0::oid)
	FROM jobqueue.handlers h
	WHERE h.type = $1 AND ($4 OR {has_say}))",
		phrase::microseconds("h.first_delay"), phrase::microseconds("h.max_delay"), phrase::has_dead_letters,
		phrase::has_say_for_others_in("$3"));
static constinit Statement failure_policy_statement{failure_policy_sql, TEXTOID, TEXTOID, TEXTOID, BOOLOID};

FailurePolicy failure_policy(const Claim &claim, std::string_view sqlstate) {
	Params params;
	params.add(std::string_view(claim.type)).add(sqlstate).add(std::string_view(claim.queue)).add(claim.in_server);
	const Rows rows = failure_policy_statement.run(params);
	if (rows.empty())
		return {};
	FailurePolicy policy;
	policy.backoff = rows.text_at(0, 1);
	policy.first_delay_us = rows.int64_at(0, 2);
	policy.max_delay_us = rows.int64_at(0, 3);
	policy.jitter = DatumGetFloat8(rows.datum(0, 4));
	policy.discard = rows.bool_at(0, 5);
	if (!rows.is_null(0, 6))
		policy.dead_letter_queue = rows.text_at(0, 6);
	if (!rows.is_null(0, 7))
		policy.on_failure = rows.text_at(0, 7);
	policy.run_as = rows.name_at(0, 8);
	policy.role = DatumGetObjectId(rows.datum(0, 9));
	return policy;
}

/*
 * The report leaves out a large payload: it can be read from the task. The mark in the metadata counts only for types
 * that handlers add on failure.
 */
static constinit Statement failure_report_statement{R"(
	SELECT
		jsonb_build_object('id', t.id, 'type', t.type, 'queue', t.queue,
			'payload', CASE WHEN pg_column_size(t.payload) <= 262144 THEN t.payload END,
			'created_by', t.created_by, 'attempts', t.attempts, 'error', left($2, 8192), 'sqlstate', $3,
			'dead_letter_queue', $4),
		jsonb_build_object('on_failure_of', t.id)
	FROM jobqueue.tasks_live t
	WHERE t.id = $1 AND NOT (coalesce(t.metadata ? 'on_failure_of', false)
		AND EXISTS (SELECT 1 FROM jobqueue.handlers h WHERE h.on_failure = t.type)))",
													INT8OID, TEXTOID, TEXTOID, TEXTOID};

std::optional<FailureReport> failure_report(int64 id, const Failure &failure,
											const std::optional<std::string> &dead_letter_queue) {
	Params params;
	params.add(id).add(std::string_view(failure.message)).add(std::string_view(failure.sqlstate));
	const Rows rows = failure_report_statement.run(params.add(dead_letter_queue));
	return rows.empty() ? std::nullopt : std::optional(FailureReport{rows.datum(0, 1), rows.datum(0, 2)});
}

} // namespace jobqueue::store
