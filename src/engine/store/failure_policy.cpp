/*
 * failure_policy.cpp -- see failure_policy.hpp. C++ region.
 */
#include "engine/store/failure_policy.hpp"

#include "engine/store/phrases.hpp"

namespace jobqueue::store {

static constinit Statement failure_policy_statement{
	"SELECT h.backoff, " MICROSECONDS("h.first_delay") ", " MICROSECONDS(
		"h.max_delay") ", h.jitter::pg_catalog.float8, "
					   "coalesce($2" EQ "ANY (h.discard_sqlstates) OR pg_catalog.left($2, 2)" EQ
					   "ANY (h.discard_sqlstates), false), CASE WHEN " HAS_DEAD_LETTERS
					   " THEN h.dead_letter_queue END, h.on_failure, h.run_as, "
					   "coalesce((SELECT a.oid FROM pg_catalog.pg_roles a WHERE a.rolname" EQ "h.run_as AND a.oid" EQ
					   "h.run_as_oid), 0::pg_catalog.oid) "
					   "FROM jobqueue.handlers h WHERE h.type" EQ "$1 AND ($4 OR " HAS_SAY_FOR_OTHERS_IN("$3") ")",
	TEXTOID, TEXTOID, TEXTOID, BOOLOID};

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

/* A payload that is large is to be had from the task. The mark is believed where it matters, of types that are added so. */
static constinit Statement failure_report_statement{
	"SELECT pg_catalog.jsonb_build_object('id', t.id, 'type', t.type, 'queue', t.queue, 'payload', "
	"CASE WHEN pg_catalog.pg_column_size(t.payload)" LE "262144 THEN t.payload END, 'created_by', t.created_by, "
	"'attempts', t.attempts, 'error', pg_catalog.left($2, 8192), 'sqlstate', $3, 'dead_letter_queue', $4), "
	"pg_catalog.jsonb_build_object('on_failure_of', t.id) FROM jobqueue.tasks_live t WHERE t.id" EQ
	"$1 AND NOT (coalesce(t.metadata OPERATOR(pg_catalog.?) 'on_failure_of', false) AND EXISTS "
	"(SELECT 1 FROM jobqueue.handlers h WHERE h.on_failure" EQ "t.type))",
	INT8OID, TEXTOID, TEXTOID, TEXTOID};

std::optional<FailureReport> failure_report(int64 id, const Failure &failure,
											const std::optional<std::string> &dead_letter_queue) {
	Params params;
	params.add(id).add(std::string_view(failure.message)).add(std::string_view(failure.sqlstate));
	const Rows rows = failure_report_statement.run(params.add(dead_letter_queue));
	return rows.empty() ? std::nullopt : std::optional(FailureReport{rows.datum(0, 1), rows.datum(0, 2)});
}

} // namespace jobqueue::store
