/*
 * phrases.hpp -- the vocabulary of our statements: operators by their full names, and the phrases that several of them
 * share. Included by the stores only.
 *
 * Every name is qualified and so is every operator: what runs here runs with the owner's rights.
 *
 * Each statement is written so that only one index can serve it, whatever the statistics said when it was planned:
 * a scan of a lane asks for "id NULLS FIRST", an order that the primary key does not have; a look-up by id compares the
 * status in another collation than the predicates of the partial indexes (STATUS_IS), so that none of them applies.
 * Session keeps the planner from sequential scans and sorts. test/tap/t/020_plans.pl asserts the plans.
 */
#pragma once

#define EQ " OPERATOR(pg_catalog.=) "
#define LT " OPERATOR(pg_catalog.<) "
#define GT " OPERATOR(pg_catalog.>) "
#define GE " OPERATOR(pg_catalog.>=) "
#define LE " OPERATOR(pg_catalog.<=) "
#define PLUS " OPERATOR(pg_catalog.+) "
#define MINUS " OPERATOR(pg_catalog.-) "
#define TIMES " OPERATOR(pg_catalog.*) "
#define CONCAT " OPERATOR(pg_catalog.||) "
#define CCOLL " COLLATE pg_catalog.\"C\" "
#define NOW "pg_catalog.clock_timestamp()"
/* When this database was made what it is. A restore may bring rows before the one that tells us so: they are older. */
#define INSTALLED "(SELECT pg_catalog.max(i.created_at) FROM jobqueue.incarnation i)"
#define FINISHED "ANY (ARRAY['completed', 'failed', 'cancelled'])"
#define STATUS_IS(status) "t.status" CCOLL EQ "'" status "'"
#define IN_SERVER "(coalesce(t.lease_expires_at, '-infinity')" EQ "'infinity')"
/* At most some 95 years: who writes more into a table shall not make the sum overflow. (least() passes over nulls.) */
#define MICROSECONDS(interval)                                                                                         \
	"CASE WHEN " interval " IS NOT NULL THEN (least(pg_catalog.date_part('epoch', " interval                           \
	"), 3e9::pg_catalog.float8)" TIMES "1e6::pg_catalog.float8)::pg_catalog.int8 END"

/* Access to all queues by now, of the role of a handler that it has registered for itself. */
#define SERVES_ALL                                                                                                     \
	"(jobqueue._serves_all(h.run_as_oid) OR EXISTS (SELECT 1 FROM jobqueue.access a WHERE a.role_oid" EQ               \
	"h.run_as_oid AND a.queue IS NULL AND a.access" EQ "ANY (ARRAY['consumer', 'manager'])))"
/* Its role has access to some queues only: it takes tasks from these, and has no say in any but its own. */
#define KEEPS_TO_ITS_QUEUE "(h.governed AND NOT " SERVES_ALL ")"
/* May a handler say what becomes of tasks in a queue that it does not itself take them from? */
#define HAS_SAY_IN(queue) "(NOT h.governed OR h.queue" EQ queue " OR " SERVES_ALL ")"
/* Has the role of a handler such access to a queue by now, itself or as a member? As access.cpp has it. */
#define HAS_ACCESS_TO(queue, levels)                                                                                   \
	"EXISTS (SELECT 1 FROM jobqueue.access a WHERE a.access" EQ "ANY (ARRAY[" levels                                   \
	"]) AND (a.queue IS NULL OR a.queue" EQ queue ") AND pg_catalog.pg_has_role(h.run_as_oid, a.role_oid, 'USAGE') "   \
	"AND pg_catalog.pg_get_userbyid(a.role_oid)" EQ                                                                    \
	"a.role AND pg_catalog.has_type_privilege(a.role_oid, 'jobqueue.governed'::pg_catalog.regtype::pg_catalog.oid, "   \
	"'USAGE'))"
#define WORKS_IN_ITS_QUEUE HAS_ACCESS_TO("h.queue", "'consumer', 'manager'")
/* HAS_SAY_IN, of tasks that somebody else takes. */
#define HAS_SAY_FOR_OTHERS_IN(queue)                                                                                   \
	"(NOT h.governed OR (h.queue" EQ queue " AND " WORKS_IN_ITS_QUEUE ") OR " SERVES_ALL ")"
/* Has a handler dead letters, and may its role by now have them there? As register_handler() asks it. */
#define HAS_DEAD_LETTERS                                                                                               \
	"(h.dead_letter_queue IS NOT NULL AND (NOT h.governed OR " SERVES_ALL                                              \
	" OR " HAS_ACCESS_TO("h.dead_letter_queue", "'manager'") "))"

/* A new task: $1 to $10 come from describe(), and if the statement says so $11 is its group_key, $12 whether it is blocked. */
#define INSERT_COLUMNS                                                                                                 \
	"INSERT INTO jobqueue.tasks_live (type, payload, queue, priority, run_at, status, max_attempts, metadata, "        \
	"created_by, timeout"
#define QUEUE_OF_TYPE                                                                                                  \
	"coalesce($3, (SELECT h.queue FROM jobqueue.handlers h WHERE h.type" EQ                                            \
	"$1 AND " HAS_SAY_IN("ANY ($10)") "), "                                                                            \
									  "'default')"
#define QUEUE_GIVEN "$3"
#define INSERT_VALUES(payload, queue, first_case)                                                                      \
	"$1, " payload ", " queue ", $4, $5, CASE " first_case "WHEN $5" GT NOW                                            \
	" THEN 'scheduled' ELSE 'pending' END, $6, $7, $8, $9"
#define INSERT_RETURNING " RETURNING id, queue, status"
#define INSERT_TYPES(payload)                                                                                          \
	TEXTOID, payload, TEXTOID, INT2OID, TIMESTAMPTZOID, INT4OID, JSONBOID, NAMEOID, INTERVALOID, TEXTARRAYOID
#define FROM_PAYLOADS " FROM pg_catalog.unnest($2) WITH ORDINALITY AS u(payload, n) ORDER BY u.n"
#define IF_BLOCKED "WHEN $12 THEN 'blocked' "

/* Tasks whose unique key nobody else can have: the predicate of the index. */
#define HOLDS_KEY(t)                                                                                                   \
	t "unique_key IS NOT NULL AND coalesce(" t "unique_scope, 'live')" EQ "ANY (ARRAY['live', 'waiting']) AND NOT " t  \
	  "status" EQ FINISHED

/* Claiming */

#define WANTED "jobqueue._is_wanted(t.type, t.origin_queue IS NOT NULL)"
#define MAX_ATTEMPTS                                                                                                   \
	"coalesce(t.max_attempts, (SELECT h.max_attempts FROM jobqueue.handlers h WHERE h.type" EQ "t.type), 20)"
#define MAX_ATTEMPTS_OUTSIDE                                                                                           \
	"coalesce(t.max_attempts, (SELECT h.max_attempts FROM jobqueue.handlers h WHERE h.type" EQ                         \
	"t.type AND " HAS_SAY_FOR_OTHERS_IN("t.queue") "), 20)"
/* A task that holds its unique key while it waits gives it up when it starts. */
#define STARTED_SCOPE "CASE WHEN t.unique_scope" EQ "'waiting' THEN 'started' ELSE t.unique_scope END"
/*
 * From these as_claimed() makes the row of a claimed task. Columns are not listed: where nobody refuses that, an
 * administrator may have added some.
 */
#define ROW_IF_ASKED_FOR                                                                                               \
	"CASE WHEN $6 AND " IS_SMALL " THEN t::jobqueue.tasks END, CASE WHEN $6 THEN " MAX_ATTEMPTS " END"

/* Of one that is not, the row is read when it is needed: it would be there twice, for each of the tasks of a group. */
#define IS_SMALL "(jobqueue._raw_size(t.payload)" LE "32768 AND coalesce(jobqueue._raw_size(t.metadata), 0)" LE "32768)"
#define PLAIN "t.unique_key IS NULL AND t.failures IS NULL AND t.timeout IS NULL AND t.origin_queue IS NULL"
/* See candidate_at(). */
#define CANDIDATE_COLUMNS                                                                                              \
	"t.id, t.run_at, t.run_at" GT NOW ", t.ctid, " PLAIN                                                               \
	", t.type, t.attempts, t.max_attempts, t.payload, " ROW_IF_ASKED_FOR ", t.origin_queue IS NOT NULL"
#define GROUP_ORDER(t) "ORDER BY " t ".queue" CCOLL ", " t ".priority, " t ".group_key" CCOLL ", " t ".id NULLS FIRST "

/* Ending a claim */

/* Moves rows between leaves: what stays, and what the move changes. */
#define KEPT_COLUMNS                                                                                                   \
	"id, type, payload, created_at, processed_at, queue, priority, attempts, max_attempts, claimed_by, unique_key, "   \
	"group_key, created_by, metadata, timeout, origin_queue, progress, progress_message, unique_scope"
#define CHANGED_COLUMNS                                                                                                \
	", status, updated_at, run_at, finished_at, lease_expires_at, last_error, last_sqlstate, result, crashes, "        \
	"failures, slot"
/*
 * How many attempts have failed so far: those that were snoozed or released have not. Of the failures the latest 20 are
 * kept; what came before the first of these counts as failed.
 */
#define FIRST_FAILED(t) "(" t "failures OPERATOR(pg_catalog.->) 0 OPERATOR(pg_catalog.->) 'attempt')"
#define FAILED_ATTEMPTS(t)                                                                                             \
	"CASE WHEN " t "failures IS NULL THEN 0 WHEN pg_catalog.jsonb_array_length(" t "failures)" LT "20 OR "             \
	"coalesce(pg_catalog.jsonb_typeof(" FIRST_FAILED(t) "), '') OPERATOR(pg_catalog.<>) 'number' "                     \
														"THEN pg_catalog.jsonb_array_length(" t                        \
														"failures) ELSE 19" PLUS                                       \
														"pg_catalog.int4(" FIRST_FAILED(t) ") END"

#define CLAIM_COLUMNS                                                                                                                \
	"t.id, t.type, t.queue, t.priority, t.attempts, t.max_attempts, t.claimed_by, t.crashes, t.origin_queue IS NOT NULL, " IN_SERVER \
	", coalesce(t.group_key, ''), " FAILED_ATTEMPTS("t.")

/* Configuration */

/* Not by to_regprocedure(): the extension's owner need not be a superuser, and then may not look into every schema. */
#define OWNER_OF(signature)                                                                                            \
	"coalesce((SELECT p.proowner FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_proc p ON p.pronamespace" EQ        \
	"n.oid WHERE pg_catalog.starts_with(" signature ", pg_catalog.quote_ident(n.nspname)" CONCAT "'.') AND "           \
	"(pg_catalog.pg_identify_object('pg_catalog.pg_proc'::pg_catalog.regclass, p.oid, 0)).identity" EQ signature       \
	" LIMIT 1), 0::pg_catalog.oid)"
#define OID_OF(role) "coalesce((SELECT a.oid FROM pg_catalog.pg_roles a WHERE a.rolname" EQ role "), 0::pg_catalog.oid)"
/* Subscriptions that bring tasks into this database. */
#define BY_SUBSCRIPTION                                                                                                \
	"FROM pg_catalog.pg_subscription_rel r WHERE r.srrelid" EQ                                                         \
	"ANY (ARRAY['jobqueue.tasks'::pg_catalog.regclass, 'jobqueue.tasks_live'::pg_catalog.regclass]::pg_catalog.oid[])"
#define IS_REPLICATED "EXISTS (SELECT 1 " BY_SUBSCRIPTION " AND NOT r.srsubid" EQ "ANY (i.adopted_subscriptions))"

/* Schedules */

/* A dead letter waits for people: it does not hold up its schedule. */
#define SCHEDULE_BUSY                                                                                                  \
	"EXISTS (SELECT 1 FROM jobqueue.tasks_live t WHERE t.id" EQ                                                        \
	"s.last_task_id AND t.origin_queue IS NULL AND NOT t.status" CCOLL EQ FINISHED ")"
#define SCHEDULE_ROLE                                                                                                  \
	"coalesce((SELECT a.oid FROM pg_catalog.pg_roles a WHERE a.oid" EQ "s.created_by_oid AND a.rolname" EQ             \
	"s.created_by), 0::pg_catalog.oid)"
#define SCHEDULE_COLUMNS                                                                                                    \
	"SELECT s.name, s.cron, s.type, s.created_by_oid, s.command IS NOT NULL, s.time_zone, s.queue, s.priority, "            \
	"s.timeout, s.on_misfire, s.misfire_limit, s.on_overlap, s.created_by, " SCHEDULE_ROLE                                  \
	", s.governed, s.anchor, s.next_run_at, s.last_run_at, s.last_task_id, s.held, s.paused_at IS NOT NULL, " SCHEDULE_BUSY \
	", s.last_error IS NOT NULL FROM jobqueue.schedules s WHERE "
/* Neither a copy nor a restore that is half done fires anything, even before it is known to be one. */
#define OWN_SCHEDULE                                                                                                   \
	"s.incarnation" EQ "(SELECT i.id FROM jobqueue.incarnation i WHERE i.database" EQ                                  \
	"(SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname" EQ                                                   \
	"pg_catalog.current_database()) AND NOT EXISTS (SELECT 1 FROM jobqueue.incarnation o WHERE o.id "                  \
	"OPERATOR(pg_catalog.<>) i.id))"
#define ACTIVE_SCHEDULE "s.paused_at IS NULL AND " OWN_SCHEDULE
