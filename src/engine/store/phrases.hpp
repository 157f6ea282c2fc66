/*
 * phrases.hpp -- the parts of statements that several stores share. Included by stores only.
 *
 * Statements run with the owner's rights. They need not qualify built-in names and operators, because a Session pins
 * the search path to pg_catalog and pg_temp; what belongs to the extension is always qualified.
 *
 * Each statement is written so that only one index can serve it, whatever the statistics said when it was planned: a
 * scan of a lane asks for "id NULLS FIRST", an order that the primary key does not have; a look-up by id compares the
 * status in another collation than the predicates of the partial indexes (status_is), so that none of them applies.
 * Session keeps the planner from sequential scans and sorts. test/tap/t/020_plans.pl asserts the plans.
 */
#pragma once

#include "pg/session.hpp"

namespace jobqueue::store::phrase {

/* When this installation was made. A restore may bring rows before the row that says so: these rows are older. */
inline constexpr auto installed = sql("(SELECT max(i.created_at) FROM jobqueue.incarnation i)");
inline constexpr auto finished = sql("ANY (ARRAY['completed', 'failed', 'cancelled'])");
inline constexpr auto in_server = sql("(coalesce(t.lease_expires_at, '-infinity') = 'infinity')");

template <typename Text> constexpr auto status_is(const Text &status) {
	return sql(R"(t.status COLLATE "C" = '{status}')", status);
}

/*
 * An interval as microseconds: at most some 95 years, so that the sum of a time and an interval from a table cannot
 * overflow. least() ignores nulls.
 */
template <typename Text> constexpr auto microseconds(const Text &interval) {
	return sql(R"(CASE WHEN {interval} IS NOT NULL
		THEN (least(date_part('epoch', {interval}), 3e9::float8) * 1e6::float8)::int8 END)",
			   interval, interval);
}

/* What the role of a handler may do by now */

/* The role has access to all queues. */
inline constexpr auto serves_all = sql(R"((
	jobqueue._serves_all(h.run_as_oid)
	OR EXISTS (SELECT 1 FROM jobqueue.access a
		WHERE a.role_oid = h.run_as_oid AND a.queue IS NULL AND a.access = ANY (ARRAY['consumer', 'manager']))))");

/*
 * The role has access to some queues only: it takes tasks from these, and decides nothing about those in other queues.
 */
inline constexpr auto keeps_to_its_queue = sql("(h.governed AND NOT {serves_all})", serves_all);

/* The handler decides about tasks in a queue that it does not itself take them from. */
template <typename Text> constexpr auto has_say_in(const Text &queue) {
	return sql("(NOT h.governed OR h.queue = {queue} OR {serves_all})", queue, serves_all);
}

/* The role has one of these levels of access to the queue, directly or as a member. As in engine/access.cpp. */
template <typename Queue, typename Levels> constexpr auto has_access_to(const Queue &queue, const Levels &levels) {
	return sql(R"(EXISTS (SELECT 1 FROM jobqueue.access a
		WHERE a.access = ANY (ARRAY[{levels}])
			AND (a.queue IS NULL OR a.queue = {queue})
			AND pg_has_role(h.run_as_oid, a.role_oid, 'USAGE')
			AND pg_get_userbyid(a.role_oid) = a.role
			AND has_type_privilege(a.role_oid, 'jobqueue.governed'::regtype::oid, 'USAGE')))",
			   levels, queue);
}
inline constexpr auto works_in_its_queue = has_access_to("h.queue", "'consumer', 'manager'");

/* has_say_in(), for tasks that somebody else takes. */
template <typename Text> constexpr auto has_say_for_others_in(const Text &queue) {
	return sql("(NOT h.governed OR (h.queue = {queue} AND {works_there}) OR {serves_all})", queue, works_in_its_queue,
			   serves_all);
}

/* The handler has a queue for dead letters, and its role may have them there. As register_handler() checks it. */
inline constexpr auto has_dead_letters =
	sql("(h.dead_letter_queue IS NOT NULL AND (NOT h.governed OR {serves_all} OR {manages_it}))", serves_all,
		has_access_to("h.dead_letter_queue", "'manager'"));

/* Adding tasks: $1 to $10 come from describe(). Where a statement has more, $11 is group_key and $12 says "blocked". */

inline constexpr auto insert_columns =
	sql("type, payload, queue, priority, run_at, status, max_attempts, metadata, created_by, timeout");
inline constexpr auto queue_of_type = sql(R"(
	coalesce($3, (SELECT h.queue FROM jobqueue.handlers h WHERE h.type = $1 AND {has_say}), 'default'))",
										  has_say_in("ANY ($10)"));
inline constexpr auto status_by_time = sql("CASE WHEN $5 > clock_timestamp() THEN 'scheduled' ELSE 'pending' END");
inline constexpr auto status_or_blocked =
	sql("CASE WHEN $12 THEN 'blocked' WHEN $5 > clock_timestamp() THEN 'scheduled' ELSE 'pending' END");

template <typename Payload, typename Queue, typename Status>
constexpr auto insert_values(const Payload &payload, const Queue &queue, const Status &status) {
	return sql("$1, {payload}, {queue}, $4, $5, {status}, $6, $7, $8, $9", payload, queue, status);
}

/* A statement with these parameters. */
template <typename Text, typename... More>
constexpr Statement insert_statement(const Text &text, Oid payload, More... more) {
	return Statement{text,	  TEXTOID,	payload, TEXTOID,	  INT2OID,		TIMESTAMPTZOID,
					 INT4OID, JSONBOID, NAMEOID, INTERVALOID, TEXTARRAYOID, more...};
}

/*
 * Tasks whose unique key nobody else can have: the predicate of the index. "t" is the table's alias with a dot, or
 * empty.
 */
template <typename Text> constexpr auto holds_key(const Text &t) {
	return sql(R"({t}unique_key IS NOT NULL
		AND coalesce({t}unique_scope, 'live') = ANY (ARRAY['live', 'waiting'])
		AND NOT {t}status = {finished})",
			   t, t, t, finished);
}

/* Claiming */

/* Needs a FilterInForce. */
inline constexpr auto is_wanted = sql("jobqueue._is_wanted(t.type, t.origin_queue IS NOT NULL)");

inline constexpr auto max_attempts =
	sql("coalesce(t.max_attempts, (SELECT h.max_attempts FROM jobqueue.handlers h WHERE h.type = t.type), 20)");
inline constexpr auto max_attempts_outside = sql(R"(coalesce(t.max_attempts,
		(SELECT h.max_attempts FROM jobqueue.handlers h WHERE h.type = t.type AND {has_say}), 20))",
												 has_say_for_others_in("t.queue"));

/* A task that holds its unique key only while it waits gives the key up when it starts. */
inline constexpr auto started_scope =
	sql("CASE WHEN t.unique_scope = 'waiting' THEN 'started' ELSE t.unique_scope END");

/* The row of a larger task is read when it is needed: otherwise a batch would hold the payload of each task twice. */
inline constexpr auto is_small =
	sql("(jobqueue._raw_size(t.payload) <= 32768 AND coalesce(jobqueue._raw_size(t.metadata), 0) <= 32768)");

/*
 * The columns that candidate_at() reads; $6 asks for the row, and for what as_claimed() needs besides. The row is not a
 * list of columns, because an administrator may have added some.
 */
inline constexpr auto candidate_columns = sql(R"(
	t.id, t.run_at, t.run_at > clock_timestamp(), t.ctid,
	t.unique_key IS NULL AND t.failures IS NULL AND t.timeout IS NULL AND t.origin_queue IS NULL,
	t.type, t.attempts, t.max_attempts, t.payload,
	CASE WHEN $6 AND {is_small} THEN t::jobqueue.tasks END, CASE WHEN $6 THEN {max_attempts} END,
	t.origin_queue IS NOT NULL)",
											  is_small, max_attempts);

/* The order of tasks_live_group. */
template <typename Text> constexpr auto group_order(const Text &t) {
	return sql(R"(ORDER BY {t}.queue COLLATE "C", {t}.priority, {t}.group_key COLLATE "C", {t}.id NULLS FIRST)", t, t,
			   t, t);
}

/* Ending a claim */

/* The columns that stay when a row moves between leaves, and those that the move changes. */
inline constexpr auto kept_columns =
	sql("id, type, payload, created_at, processed_at, queue, priority, attempts, max_attempts, claimed_by, unique_key, "
		"group_key, created_by, metadata, timeout, origin_queue, progress, progress_message, unique_scope");
inline constexpr auto changed_columns =
	sql("status, updated_at, run_at, finished_at, lease_expires_at, last_error, last_sqlstate, result, crashes, "
		"failures, slot");

/* One text for each of the eight leaves of the history: make("1") to make("8"). */
template <typename Make> constexpr auto for_each_leaf(Make make) {
	return std::array{make("1"), make("2"), make("3"), make("4"), make("5"), make("6"), make("7"), make("8")};
}
/* The statements of these texts, which are constants with static storage. */
template <typename Texts, typename... Types>
constexpr auto leaf_statements(Statement::Join join, const Texts &texts, Types... types) {
	return [&]<size_t... leaf>(std::index_sequence<leaf...>) {
		return std::array{Statement{join, texts[leaf], types...}...};
	}
	(std::make_index_sequence<8>());
}
template <typename Texts, typename... Types> constexpr auto leaf_statements(const Texts &texts, Types... types) {
	return leaf_statements(Statement::Join::loop, texts, types...);
}

/*
 * How many attempts have failed so far; snoozed and released ones have not. The latest 20 failures are kept, and all
 * attempts before the first of these count as failed.
 */
inline constexpr auto failed_attempts = sql(R"(CASE
		WHEN t.failures IS NULL THEN 0
		WHEN jsonb_array_length(t.failures) < 20
				OR coalesce(jsonb_typeof((t.failures -> 0 -> 'attempt')), '') <> 'number'
			THEN jsonb_array_length(t.failures)
		ELSE 19 + int4((t.failures -> 0 -> 'attempt')) END)");

/* The columns that claims_of() reads. */
inline constexpr auto claim_columns = sql(R"(
	t.id, t.type, t.queue, t.priority, t.attempts, t.max_attempts, t.claimed_by, t.crashes, t.origin_queue IS NOT NULL,
	{in_server}, coalesce(t.group_key, ''), {failed_attempts})",
										  in_server, failed_attempts);

/* Configuration */

/* to_regprocedure() would need the right to look into the schema: the extension's owner need not be a superuser. */
template <typename Text> constexpr auto owner_of(const Text &signature) {
	return sql(R"(coalesce((
		SELECT p.proowner FROM pg_namespace n JOIN pg_proc p ON p.pronamespace = n.oid
		WHERE starts_with({signature}, quote_ident(n.nspname) || '.')
			AND (pg_identify_object('pg_proc'::regclass, p.oid, 0)).identity = {signature}
		LIMIT 1), 0::oid))",
			   signature, signature);
}
template <typename Text> constexpr auto oid_of(const Text &role) {
	return sql("coalesce((SELECT a.oid FROM pg_roles a WHERE a.rolname = {role}), 0::oid)", role);
}

/* Subscriptions that bring tasks into this database. */
inline constexpr auto by_subscription = sql(R"(
	FROM pg_subscription_rel r
	WHERE r.srrelid = ANY (ARRAY['jobqueue.tasks'::regclass, 'jobqueue.tasks_live'::regclass]::oid[]))");
inline constexpr auto is_replicated =
	sql("EXISTS (SELECT 1 {by_subscription} AND NOT r.srsubid = ANY (i.adopted_subscriptions))", by_subscription);

/* Schedules */

/* The latest task of the schedule is not finished. A dead letter waits for people and does not delay its schedule. */
inline constexpr auto schedule_is_busy = sql(R"(EXISTS (SELECT 1 FROM jobqueue.tasks_live t
		WHERE t.id = s.last_task_id AND t.origin_queue IS NULL AND NOT t.status COLLATE "C" = {finished}))",
											 finished);

/* The columns that schedules_from() reads. */
inline constexpr auto select_schedules = sql(R"(
	SELECT s.name, s.cron, s.type, s.created_by_oid, s.command IS NOT NULL, s.time_zone, s.queue, s.priority, s.timeout,
		s.on_misfire, s.misfire_limit, s.on_overlap, s.created_by,
		coalesce((SELECT a.oid FROM pg_roles a WHERE a.oid = s.created_by_oid AND a.rolname = s.created_by), 0::oid),
		s.governed, s.anchor, s.next_run_at, s.last_run_at, s.last_task_id, s.held, s.paused_at IS NOT NULL, {is_busy},
		s.last_error IS NOT NULL
	FROM jobqueue.schedules s)",
											 schedule_is_busy);

/* Neither a copy nor a restore that is half done fires anything, even before it is recognized as one. */
inline constexpr auto schedule_is_active = sql(R"(
	s.paused_at IS NULL AND s.incarnation = (
		SELECT i.id FROM jobqueue.incarnation i
		WHERE i.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
			AND NOT EXISTS (SELECT 1 FROM jobqueue.incarnation o WHERE o.id <> i.id)))");

} // namespace jobqueue::store::phrase
