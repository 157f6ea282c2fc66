/*
 * sql_text.hpp -- the vocabulary of our statements: operators by their full names, and the phrases that several of them
 * share. Included by the stores, engine/..._store.cpp, only.
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
