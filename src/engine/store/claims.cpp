/*
 * claims.cpp -- see claims.hpp. C++ region.
 */
#include "engine/store/claims.hpp"

#include "engine/store/phrases.hpp"

namespace jobqueue::store {

std::vector<Claim> claims_of(const Rows &rows) {
	std::vector<Claim> claims;
	claims.reserve(rows.size());
	for (uint64 i = 0; i < rows.size(); i++)
		claims.push_back({rows.int64_at(i, 1), rows.text_at(i, 2), rows.text_at(i, 3), rows.int16_at(i, 4),
						  rows.int32_at(i, 5), rows.int32_at(i, 6), rows.text_at(i, 7), rows.int32_at(i, 8),
						  rows.bool_at(i, 9), rows.bool_at(i, 10), rows.text_at(i, 11), rows.int32_at(i, 12)});
	return claims;
}

static constexpr auto lock_claim_sql = sql(R"(
	SELECT {columns}
	FROM jobqueue.tasks_live t
	WHERE t.id = $1 AND t.attempts = $2 AND {processing} AND {in_server} = $3
	FOR UPDATE)",
										   phrase::claim_columns, phrase::status_is("processing"), phrase::in_server);
static constinit Statement lock_claim_statement{lock_claim_sql, INT8OID, INT4OID, BOOLOID};

std::optional<Claim> lock_claim(int64 id, int32 attempt, bool in_server) {
	Params params;
	std::vector<Claim> claims = claims_of(lock_claim_statement.run(params.add(id).add(attempt).add(in_server)));
	return claims.empty() ? std::nullopt : std::optional(std::move(claims[0]));
}

static constexpr auto failed_attempts_sql = sql(R"(
	SELECT {failed_attempts} FROM jobqueue.tasks_live t WHERE t.id = $1)",
												phrase::failed_attempts);
static constinit Statement failed_attempts_statement{failed_attempts_sql, INT8OID};

int32 failed_attempts(int64 id) {
	Params params;
	const Rows rows = failed_attempts_statement.run(params.add(id));
	return rows.empty() ? 0 : rows.int32_at(0, 1);
}

static constinit Statement lock_free_statement{R"(
	SELECT t.id FROM jobqueue.tasks_live t WHERE t.id = ANY ($1) ORDER BY t.id FOR UPDATE SKIP LOCKED)",
											   INT8ARRAYOID};

std::vector<int64> lock_free(std::span<const int64> ids) {
	Params params;
	return lock_free_statement.run(params.add(ids)).ids();
}

/*
 * After an attempt that has ended, the task waits with this number, or is processing with a higher one. If the server
 * forgot the start of the attempt, it may also have forgotten that the task had become due just before.
 */
static constexpr auto lock_crashed_sql =
	sql(R"(
	UPDATE jobqueue.tasks_live t
	SET status = 'processing', attempts = $2, max_attempts = {max_attempts},
		processed_at = CASE WHEN t.attempts < $2 THEN clock_timestamp() ELSE t.processed_at END,
		unique_scope = {started_scope}, lease_expires_at = 'infinity', updated_at = clock_timestamp()
	WHERE t.id = $1
		AND ({processing} AND t.attempts <= $2 AND {in_server} OR ({pending} OR {scheduled}) AND t.attempts < $2)
	RETURNING {columns})",
		phrase::max_attempts, phrase::started_scope, phrase::status_is("processing"), phrase::in_server,
		phrase::status_is("pending"), phrase::status_is("scheduled"), phrase::claim_columns);
static constinit Statement lock_crashed_statement{lock_crashed_sql, INT8OID, INT4OID};

std::optional<Claim> lock_crashed_claim(int64 id, int32 attempt) {
	Params params;
	std::vector<Claim> claims = claims_of(lock_crashed_statement.run(params.add(id).add(attempt)));
	return claims.empty() ? std::nullopt : std::optional(std::move(claims[0]));
}

/*
 * A restore may bring tasks before the row that says that it is a restore. So tasks that were attempted before this
 * installation was made are left alone.
 */
template <typename IsProcessing, typename Now>
static constexpr auto expired_if(const IsProcessing &is_processing, const Now &now) {
	return sql(R"(
	FROM jobqueue.tasks_live t
	WHERE t.lease_expires_at < {now} AND {is_processing} AND t.processed_at >= {installed})",
			   now, is_processing, phrase::installed);
}
static constexpr auto expired_sql = sql(R"(
	SELECT t.lease_expires_at, t.id {expired} AND (t.lease_expires_at, t.id) >= ($1, $2)
		AND (t.lease_expires_at + '0'::interval, t.id) > ($3, $4) AND NOT t.id = ANY ($7)
	ORDER BY t.lease_expires_at, t.id LIMIT $6)",
										expired_if("t.status = 'processing'", "$5"));
static constexpr auto lock_expired_sql = sql(R"(
	SELECT {columns} {expired} AND t.id = ANY ($1)
	FOR UPDATE SKIP LOCKED)",
											 phrase::claim_columns, expired_if(phrase::status_is("processing"), "$2"));
static constexpr auto in_server_sql = sql(R"(
	SELECT {columns}
	FROM jobqueue.tasks_live t
	WHERE t.status = 'processing' AND t.lease_expires_at = 'infinity' AND t.processed_at >= {installed}
	ORDER BY t.lease_expires_at)",
										  phrase::claim_columns, phrase::installed);

static constinit Statement expired_statement{expired_sql, TIMESTAMPTZOID, INT8OID, TIMESTAMPTZOID,
											 INT8OID,	  TIMESTAMPTZOID, INT4OID, INT8ARRAYOID};
static constinit Statement lock_expired_statement{lock_expired_sql, INT8ARRAYOID, TIMESTAMPTZOID};
static constinit Statement in_server_statement{in_server_sql};

Page expired(const Cursor &cursor, TimestampTz now, const Batch &batch) {
	Params params;
	add_cursor(params, cursor);
	return page_of(expired_statement.run(params.add_time(now).add(batch.count).add(batch.except)));
}

std::vector<Claim> lock_expired(std::span<const int64> ids, TimestampTz now) {
	Params params;
	return claims_of(lock_expired_statement.run(params.add(ids).add_time(now)));
}

std::vector<Claim> claims_in_server() {
	Params none;
	return claims_of(in_server_statement.run(none));
}

static constexpr auto extend_sql = sql(R"(
	UPDATE jobqueue.tasks_live t SET lease_expires_at = $3, updated_at = clock_timestamp()
	WHERE t.id = $1 AND t.attempts = $2 AND {processing} AND NOT {in_server}
	RETURNING t.id)",
									   phrase::status_is("processing"), phrase::in_server);
static constinit Statement extend_statement{extend_sql, INT8OID, INT4OID, TIMESTAMPTZOID};

bool extend_lease(int64 id, int32 attempt, TimestampTz lease) {
	Params params;
	return !extend_statement.run(params.add(id).add(attempt).add_time(lease)).empty();
}

static constexpr auto progress_sql = sql(R"(
	UPDATE jobqueue.tasks_live t SET progress = $3, progress_message = $4, updated_at = clock_timestamp()
	WHERE t.id = $1 AND t.attempts = $2 AND {processing} AND NOT {in_server}
	RETURNING t.id)",
										 phrase::status_is("processing"), phrase::in_server);
static constinit Statement progress_statement{progress_sql, INT8OID, INT4OID, FLOAT4OID, TEXTOID};

bool set_progress(int64 id, int32 attempt, float fraction, const std::optional<std::string> &message) {
	Params params;
	params.add(id).add(attempt).add_datum(Float4GetDatum(fraction), false);
	params.add(message);
	return !progress_statement.run(params).empty();
}

static constexpr auto next_lease_sql = sql(R"(
	SELECT t.lease_expires_at
	FROM jobqueue.tasks_live t
	WHERE t.status = 'processing' AND (t.lease_expires_at, t.id) >= ($1, $2) AND t.lease_expires_at < 'infinity'
		AND NOT t.id = ANY ($3) AND t.processed_at >= {installed}
	ORDER BY t.lease_expires_at, t.id LIMIT 1)",
										   phrase::installed);
static constinit Statement next_lease_statement{next_lease_sql, TIMESTAMPTZOID, INT8OID, INT8ARRAYOID};

TimestampTz next_lease(const Place &from, std::span<const int64> except) {
	Params params;
	add_place(params, from);
	const Rows rows = next_lease_statement.run(params.add(except));
	return rows.empty() ? DT_NOEND : DatumGetTimestampTz(rows.datum(0, 1));
}

static constinit Statement lock_one_free_statement{R"(
	SELECT t.id FROM jobqueue.tasks_live t WHERE t.id = $1 FOR UPDATE SKIP LOCKED)",
												   INT8OID};
static constinit Statement is_live_statement{"SELECT t.id FROM jobqueue.tasks_live t WHERE t.id = $1", INT8OID};

bool lock_unless_locked(int64 id) {
	Params to_lock, to_look_for;
	return !lock_one_free_statement.run(to_lock.add(id)).empty() || is_live_statement.run(to_look_for.add(id)).empty();
}

} // namespace jobqueue::store
