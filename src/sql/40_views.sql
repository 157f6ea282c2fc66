-- These views are cheap enough to poll: they read the ends of indexes, and never the history. Counts stop at 100000.

-- The queues that the current user may see in each of the views below, null = all: because of a right that was granted
-- by hand, or because of jobqueue.access. This is plain SQL and not a function, because a reader of a view needs the
-- right to execute the functions in it.
CREATE VIEW jobqueue._watched_queues AS
WITH marked AS (
	SELECT a.grantee FROM pg_catalog.pg_type t, pg_catalog.aclexplode(t.typacl) a
	WHERE t.oid OPERATOR(pg_catalog.=) 'jobqueue.governed'::pg_catalog.regtype
		AND a.grantee OPERATOR(pg_catalog.<>) t.typowner
)
SELECT c.relname AS view, NULL::pg_catalog.text AS queue
FROM pg_catalog.pg_class c
WHERE c.relnamespace OPERATOR(pg_catalog.=) 'jobqueue'::pg_catalog.regnamespace AND c.relkind OPERATOR(pg_catalog.=) 'v'
	AND (pg_catalog.pg_has_role(c.relowner, 'USAGE') OR pg_catalog.pg_has_role('pg_read_all_data', 'USAGE')
		OR EXISTS (
		SELECT 1 FROM pg_catalog.aclexplode(c.relacl) a
		WHERE a.privilege_type OPERATOR(pg_catalog.=) 'SELECT' AND a.grantee NOT IN (SELECT m.grantee FROM marked m)
			AND CASE WHEN a.grantee OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN true
				ELSE pg_catalog.pg_has_role(a.grantee, 'USAGE') END))
UNION ALL
SELECT v.view, a.queue FROM jobqueue.access a
JOIN pg_catalog.pg_roles r ON r.rolname OPERATOR(pg_catalog.=) a.role AND r.oid OPERATOR(pg_catalog.=) a.role_oid
CROSS JOIN (VALUES ('queue_status'::pg_catalog.name), ('worker_status'), ('running_tasks')) v(view)
WHERE a.access OPERATOR(pg_catalog.=) ANY (ARRAY['consumer', 'manager']) AND pg_catalog.pg_has_role(r.oid, 'USAGE')
	AND r.oid IN (SELECT m.grantee FROM marked m);
COMMENT ON VIEW jobqueue._watched_queues IS 'internal: the queues that the current user may look into';
COMMENT ON COLUMN jobqueue._watched_queues.view IS 'in which view';
COMMENT ON COLUMN jobqueue._watched_queues.queue IS 'name of the queue; null = all';

CREATE VIEW jobqueue.queue_status WITH (security_barrier) AS
WITH RECURSIVE
lane AS (
	(SELECT t.queue, t.priority, t.created_at FROM jobqueue.tasks_live t
	 WHERE t.status OPERATOR(pg_catalog.=) 'pending' AND t.group_key IS NULL
	 ORDER BY t.queue COLLATE pg_catalog."C", t.priority, t.id NULLS FIRST LIMIT 1)
	UNION ALL
	SELECT n.queue, n.priority, n.created_at FROM lane l, LATERAL (
		SELECT t.queue, t.priority, t.created_at FROM jobqueue.tasks_live t
		WHERE t.status OPERATOR(pg_catalog.=) 'pending' AND t.group_key IS NULL
			AND (t.queue COLLATE pg_catalog."C", t.priority) OPERATOR(pg_catalog.>) (l.queue, l.priority)
		ORDER BY t.queue COLLATE pg_catalog."C", t.priority, t.id NULLS FIRST LIMIT 1) n
),
-- the first 1000 groups
grouped AS (
	SELECT t.queue, t.created_at, 1 AS n, t.priority, t.group_key FROM (
		SELECT t.* FROM jobqueue.tasks_live t
		WHERE t.status OPERATOR(pg_catalog.=) 'pending' AND t.group_key IS NOT NULL
		ORDER BY t.queue COLLATE pg_catalog."C", t.priority, t.group_key COLLATE pg_catalog."C", t.id NULLS FIRST
		LIMIT 1) t
	UNION ALL
	SELECT n.queue, n.created_at, l.n OPERATOR(pg_catalog.+) 1, n.priority, n.group_key FROM grouped l, LATERAL (
		SELECT t.queue, t.created_at, t.priority, t.group_key FROM jobqueue.tasks_live t
		WHERE t.status OPERATOR(pg_catalog.=) 'pending' AND t.group_key IS NOT NULL AND l.n OPERATOR(pg_catalog.<) 1000
			AND (t.queue COLLATE pg_catalog."C", t.priority, t.group_key COLLATE pg_catalog."C")
				OPERATOR(pg_catalog.>) (l.queue, l.priority, l.group_key)
		ORDER BY t.queue COLLATE pg_catalog."C", t.priority, t.group_key COLLATE pg_catalog."C", t.id NULLS FIRST
		LIMIT 1) n
),
waiting AS (
	SELECT l.queue, pg_catalog.min(l.created_at) AS oldest_waiting
	FROM (SELECT l.queue, l.created_at FROM lane l UNION ALL SELECT g.queue, g.created_at FROM grouped g) l
	GROUP BY l.queue
),
scheduled AS (
	SELECT s.queue, pg_catalog.count(*) AS n FROM (
		SELECT t.queue FROM jobqueue.tasks_live t WHERE t.status OPERATOR(pg_catalog.=) 'scheduled'
		ORDER BY t.run_at, t.id LIMIT 100000) s GROUP BY s.queue
),
running AS (
	SELECT r.queue, pg_catalog.count(*) AS n FROM (
		SELECT t.queue FROM jobqueue.tasks_live t WHERE t.status OPERATOR(pg_catalog.=) 'processing'
		ORDER BY t.lease_expires_at LIMIT 100000) r GROUP BY r.queue
),
known AS (
	SELECT w.queue FROM waiting w
	UNION SELECT s.queue FROM scheduled s
	UNION SELECT r.queue FROM running r
	UNION SELECT h.queue FROM jobqueue.handlers h
	UNION SELECT q.queue FROM jobqueue.queues q
	UNION SELECT 'default'
)
SELECT k.queue,
	coalesce((SELECT pg_catalog.count(*) FROM (
		(SELECT 1 FROM jobqueue.tasks_live t
		 WHERE t.status OPERATOR(pg_catalog.=) 'pending' AND t.group_key IS NULL
			AND t.queue COLLATE pg_catalog."C" OPERATOR(pg_catalog.=) k.queue)
		UNION ALL
		(SELECT 1 FROM jobqueue.tasks_live t
		 WHERE t.status OPERATOR(pg_catalog.=) 'pending' AND t.group_key IS NOT NULL
			AND t.queue COLLATE pg_catalog."C" OPERATOR(pg_catalog.=) k.queue)
		LIMIT 100000) c), 0) AS waiting,
	coalesce(s.n, 0) AS scheduled,
	coalesce(r.n, 0) AS running,
	w.oldest_waiting,
	(q.paused_at IS NOT NULL OR (
		SELECT pg_catalog.count(*) OPERATOR(pg_catalog.<>) 1 OR pg_catalog.bool_or(i.paused_at IS NOT NULL)
			OR pg_catalog.bool_or(i.database OPERATOR(pg_catalog.<>) d.oid)
		FROM jobqueue.incarnation i, pg_catalog.pg_database d
		WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database())) AS paused,
	(SELECT pg_catalog.array_agg(DISTINCT c.type ORDER BY c.type) FROM (
		(SELECT t.type FROM jobqueue.tasks_live t
		 WHERE t.status OPERATOR(pg_catalog.=) 'pending' AND t.group_key IS NULL
			AND t.queue COLLATE pg_catalog."C" OPERATOR(pg_catalog.=) k.queue
		 ORDER BY t.priority, t.id NULLS FIRST LIMIT 1000)
		UNION ALL
		(SELECT t.type FROM jobqueue.tasks_live t
		 WHERE t.status OPERATOR(pg_catalog.=) 'pending' AND t.group_key IS NOT NULL
			AND t.queue COLLATE pg_catalog."C" OPERATOR(pg_catalog.=) k.queue
		 ORDER BY t.priority, t.group_key COLLATE pg_catalog."C", t.id NULLS FIRST LIMIT 1000)) c
	 WHERE NOT EXISTS (SELECT 1 FROM jobqueue.handlers h WHERE h.type OPERATOR(pg_catalog.=) c.type
		AND (NOT h.governed OR EXISTS (SELECT 1 FROM jobqueue.access a
			WHERE a.access OPERATOR(pg_catalog.=) ANY (ARRAY['consumer', 'manager'])
				AND (a.queue IS NULL OR a.queue OPERATOR(pg_catalog.=) k.queue)
				AND pg_catalog.pg_has_role(h.run_as_oid, a.role_oid, 'USAGE'))
			-- The same as _serves_all(), which not every reader of this view may call.
			OR EXISTS (SELECT 1 FROM pg_catalog.pg_proc p, pg_catalog.aclexplode(p.proacl) g
				WHERE p.pronamespace OPERATOR(pg_catalog.=) (
						SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname OPERATOR(pg_catalog.=) 'jobqueue')
					AND p.proname OPERATOR(pg_catalog.=) ANY (ARRAY['register_handler', 'claim']::pg_catalog.name[])
					AND g.privilege_type OPERATOR(pg_catalog.=) 'EXECUTE'
					AND (g.grantee OPERATOR(pg_catalog.=) 0 OR pg_catalog.pg_has_role(h.run_as_oid, g.grantee, 'USAGE'))
					AND NOT EXISTS (SELECT 1 FROM jobqueue.access a
						WHERE a.role_oid OPERATOR(pg_catalog.=) g.grantee))))) AS unhandled_types
FROM known k
LEFT JOIN waiting w ON w.queue OPERATOR(pg_catalog.=) k.queue
LEFT JOIN scheduled s ON s.queue OPERATOR(pg_catalog.=) k.queue
LEFT JOIN running r ON r.queue OPERATOR(pg_catalog.=) k.queue
LEFT JOIN jobqueue.queues q ON q.queue OPERATOR(pg_catalog.=) k.queue
WHERE EXISTS (SELECT 1 FROM jobqueue._watched_queues m
	WHERE m.view OPERATOR(pg_catalog.=) 'queue_status' AND (m.queue IS NULL OR m.queue OPERATOR(pg_catalog.=) k.queue));
COMMENT ON VIEW jobqueue.queue_status IS
	'what waits and runs in each queue; counts stop at 100000, unhandled_types looks at the first 1000 tasks';
COMMENT ON COLUMN jobqueue.queue_status.queue IS 'name of the queue';
COMMENT ON COLUMN jobqueue.queue_status.waiting IS 'tasks that can be claimed now; 100000 = that many or more';
COMMENT ON COLUMN jobqueue.queue_status.scheduled IS
	'tasks whose run_at is in the future, among the next 100000 of all queues';
COMMENT ON COLUMN jobqueue.queue_status.running IS
	'tasks that are claimed, in the server or outside; 100000 = that many or more';
COMMENT ON COLUMN jobqueue.queue_status.oldest_waiting IS 'when the oldest waiting task was enqueued';
COMMENT ON COLUMN jobqueue.queue_status.paused IS
	'whether no task is claimed from it; true for all queues of a restored copy, until adopt()';
COMMENT ON COLUMN jobqueue.queue_status.unhandled_types IS
	'types without a handler that serves the queue, among the first 1000 waiting tasks; null = none';

-- What a worker is doing is shown to roles that may see the task's queue.
CREATE VIEW jobqueue.worker_status WITH (security_barrier) AS
SELECT w.pid, w.role, w.state, w.task_id, t.type AS task_type, t.queue, t.attempts AS attempt, w.started_at,
	w.state_since, w.progress, w.progress_message
FROM jobqueue._workers() w
LEFT JOIN jobqueue.tasks_live t ON t.id OPERATOR(pg_catalog.=) w.task_id
	AND EXISTS (SELECT 1 FROM jobqueue._watched_queues m
	WHERE m.view OPERATOR(pg_catalog.=) 'worker_status'
		AND (m.queue IS NULL OR m.queue OPERATOR(pg_catalog.=) t.queue));
COMMENT ON VIEW jobqueue.worker_status IS 'the worker processes of this database and what they are doing';
COMMENT ON COLUMN jobqueue.worker_status.pid IS 'process id, as in pg_stat_activity; null while it starts';
COMMENT ON COLUMN jobqueue.worker_status.role IS 'the role whose handlers it runs';
COMMENT ON COLUMN jobqueue.worker_status.state IS
	'starting, idle, running, or stuck: it responds neither to cancellation nor to termination';
COMMENT ON COLUMN jobqueue.worker_status.task_id IS 'the task it is running';
COMMENT ON COLUMN jobqueue.worker_status.task_type IS 'that task''s type';
COMMENT ON COLUMN jobqueue.worker_status.queue IS 'that task''s queue';
COMMENT ON COLUMN jobqueue.worker_status.attempt IS 'which attempt this is';
COMMENT ON COLUMN jobqueue.worker_status.started_at IS 'when the process was started';
COMMENT ON COLUMN jobqueue.worker_status.state_since IS 'since when it has been in this state';
COMMENT ON COLUMN jobqueue.worker_status.progress IS '0 to 1, as the handler reported last';
COMMENT ON COLUMN jobqueue.worker_status.progress_message IS 'the message of that report';

CREATE VIEW jobqueue.running_tasks WITH (security_barrier) AS
SELECT t.id, t.type, t.queue, t.attempts AS attempt, t.processed_at, t.claimed_by,
	CASE WHEN pg_catalog.isfinite(t.lease_expires_at) THEN t.lease_expires_at END AS lease_expires_at,
	w.pid, CASE WHEN w.pid IS NULL THEN t.progress ELSE w.progress END AS progress,
	CASE WHEN w.pid IS NULL THEN t.progress_message ELSE w.progress_message END AS progress_message
FROM (SELECT * FROM jobqueue.tasks_live r WHERE r.status OPERATOR(pg_catalog.=) 'processing'
	ORDER BY r.lease_expires_at LIMIT 100000) t
LEFT JOIN jobqueue._workers() w ON w.task_id OPERATOR(pg_catalog.=) t.id
WHERE EXISTS (SELECT 1 FROM jobqueue._watched_queues m
	WHERE m.view OPERATOR(pg_catalog.=) 'running_tasks'
		AND (m.queue IS NULL OR m.queue OPERATOR(pg_catalog.=) t.queue));
COMMENT ON VIEW jobqueue.running_tasks IS
	'the tasks that are claimed, in the server or outside, and how far they have come';
COMMENT ON COLUMN jobqueue.running_tasks.id IS 'the task';
COMMENT ON COLUMN jobqueue.running_tasks.type IS 'its type';
COMMENT ON COLUMN jobqueue.running_tasks.queue IS 'its queue';
COMMENT ON COLUMN jobqueue.running_tasks.attempt IS 'which attempt this is';
COMMENT ON COLUMN jobqueue.running_tasks.processed_at IS 'when the attempt started';
COMMENT ON COLUMN jobqueue.running_tasks.claimed_by IS 'who claimed it';
COMMENT ON COLUMN jobqueue.running_tasks.lease_expires_at IS
	'when an outside claim expires; null in the server, and for a claim by hand';
COMMENT ON COLUMN jobqueue.running_tasks.pid IS 'the worker process that runs it; null outside';
COMMENT ON COLUMN jobqueue.running_tasks.progress IS '0 to 1, as reported last with set_progress()';
COMMENT ON COLUMN jobqueue.running_tasks.progress_message IS 'the message of that report';

CREATE VIEW jobqueue.shared_capacity AS
SELECT c.resource, d.datname AS database, r.rolname AS role, c.queue, c.held, c.share, c.capacity,
	CASE
		WHEN c.resource OPERATOR(pg_catalog.=) ANY (ARRAY['running tasks', 'names'])
			THEN 'tasks of groups, and of limited queues and types, wait; beyond a share, those of its holder'
		WHEN c.resource OPERATOR(pg_catalog.=) 'positions'
			THEN 'the queue with most positions loses old ones, and is read once from the start'
		WHEN c.resource OPERATOR(pg_catalog.=) 'waiters' THEN 'wait_for looks at its task every 20 ms'
		WHEN c.resource OPERATOR(pg_catalog.=) 'ends of workers'
			THEN 'the database with most entries loses one; the reason of that end is then not known'
		WHEN c.resource OPERATOR(pg_catalog.=) 'databases' THEN 'databases take turns'
		WHEN c.resource OPERATOR(pg_catalog.=) 'workers' THEN 'tasks wait for a worker'
		WHEN c.resource OPERATOR(pg_catalog.=) 'announcements'
			THEN 'the oldest are overwritten; a process that has not read them looks at the tables'
	END AS when_full
FROM jobqueue._shared_capacity() c
LEFT JOIN pg_catalog.pg_database d ON d.oid OPERATOR(pg_catalog.=) c.database
LEFT JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) c.role;
COMMENT ON VIEW jobqueue.shared_capacity IS
	'who holds how much of the fixed-size areas in shared memory; for the extension''s owner';
COMMENT ON COLUMN jobqueue.shared_capacity.resource IS 'what is held';
COMMENT ON COLUMN jobqueue.shared_capacity.database IS 'the database that holds it; null = all together';
COMMENT ON COLUMN jobqueue.shared_capacity.role IS 'the role that holds it; null = all, or not known';
COMMENT ON COLUMN jobqueue.shared_capacity.queue IS 'for which queue, if that counts; null = several';
COMMENT ON COLUMN jobqueue.shared_capacity.held IS 'how much is held';
COMMENT ON COLUMN jobqueue.shared_capacity.share IS
	'how much may be held at present: a holder above this gets no more; null = there are no shares';
COMMENT ON COLUMN jobqueue.shared_capacity.capacity IS 'how much there is for all';
COMMENT ON COLUMN jobqueue.shared_capacity.when_full IS 'what happens when nothing is left';
