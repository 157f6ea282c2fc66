-- queue_status and worker_status
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;
CREATE FUNCTION v_handler(payload jsonb) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(60)';
-- no queue but the default one
SELECT * FROM jobqueue.queue_status ORDER BY queue COLLATE "C";

-- what waits, is scheduled, and runs; what is finished counts nowhere
SELECT count(jobqueue.enqueue('v', queue => 'v-a')) FROM generate_series(1, 10) n;
SELECT count(jobqueue.enqueue('v', queue => 'v-a', delay => '1 h')) FROM generate_series(1, 3);
SELECT count(jobqueue.enqueue('v', queue => 'v-b', delay => '1 h')) FROM generate_series(1, 2);
SELECT count(jobqueue.enqueue('v', queue => 'v-c')) FROM generate_series(1, 4);
SELECT count(*) FROM jobqueue.claim('v-c', 3);
UPDATE jobqueue.tasks SET status = 'processing' WHERE queue = 'v-c' AND status = 'pending';
SELECT count(jobqueue.enqueue('v', queue => 'v-done')) FROM generate_series(1, 4);
SELECT jobqueue.complete(id, attempts) FROM jobqueue.claim('v-done', 2);
SELECT jobqueue.fail(id, attempts, 'x', retryable => false) FROM jobqueue.claim('v-done');
SELECT jobqueue.cancel(id) FROM jobqueue.tasks WHERE queue = 'v-done' AND status = 'pending';
SELECT jobqueue.pause_queue('v-paused'), jobqueue.pause_queue('v-a');
INSERT INTO jobqueue.tasks (type, queue, run_at) VALUES ('v', 'v-ahead', now() + interval '1 h');
SELECT count(*) FROM jobqueue.claim('v-ahead');
SELECT queue, waiting, scheduled, running, oldest_waiting IS NOT NULL, paused,
	unhandled_types FROM jobqueue.queue_status ORDER BY queue COLLATE "C";
SELECT jobqueue.resume_queue('v-paused'), jobqueue.resume_queue('v-a');
DELETE FROM jobqueue.tasks;

-- types without a handler that is visible to workers: registered in this transaction only, so that no worker takes part
INSERT INTO jobqueue.tasks (type, queue) VALUES ('v-handled', 'v-e'), ('v-unhandled', 'v-e'), ('v-Unhandled', 'v-e'),
	('v-unhandled', 'v-e');
BEGIN;
SELECT jobqueue.register_handler('v-handled', 'v_handler(jsonb)', queue => 'v-f');
SELECT queue, waiting, unhandled_types FROM jobqueue.queue_status WHERE queue IN ('v-e', 'v-f') ORDER BY queue;
SELECT jobqueue.register_handler('v-unhandled', 'v_handler(jsonb)'), jobqueue.register_handler('v-Unhandled',
	'v_handler(jsonb)');
SELECT queue, waiting, unhandled_types FROM jobqueue.queue_status WHERE queue = 'v-e';
ROLLBACK;
SELECT queue, waiting, unhandled_types FROM jobqueue.queue_status WHERE queue = 'v-e';
DELETE FROM jobqueue.tasks;

-- the oldest is the oldest of all priorities
INSERT INTO jobqueue.tasks (type, queue, priority, created_at) VALUES ('v', 'v-o', 0, '2020-01-03 UTC'),
	('v', 'v-o', 5, '2020-01-01 UTC'), ('v', 'v-o', -5, '2020-01-02 UTC');
SELECT waiting, oldest_waiting = '2020-01-01 UTC' FROM jobqueue.queue_status WHERE queue = 'v-o';
DELETE FROM jobqueue.tasks;
-- names of all kinds
INSERT INTO jobqueue.tasks (type, queue) SELECT 'v', q FROM
	unnest(ARRAY['a b', 'A', 'a', 'ä', '"q"', 'a-b', 'B', '_', '1']) q, generate_series(1, 2);
SELECT count(*), bool_and(waiting = 2), bool_and(NOT paused) FROM jobqueue.queue_status WHERE queue
	IN ('a b', 'A', 'a', 'ä', '"q"', 'a-b', 'B', '_', '1');
SELECT count(*) = count(DISTINCT queue) FROM jobqueue.queue_status;
DELETE FROM jobqueue.tasks;

-- a worker that runs, and that has run
SELECT jobqueue.register_handler('v-sleep', 'v_handler(jsonb)', queue => 'v-sleep');
SELECT jobqueue.enqueue('v-sleep') AS id \gset
CALL pg_temp.wait_until($$EXISTS (SELECT 1 FROM jobqueue.worker_status w JOIN pg_stat_activity a USING (pid)
	WHERE w.state = 'running' AND a.wait_event = 'PgSleep')
	AND EXISTS (SELECT 1 FROM jobqueue.tasks WHERE type = 'v-sleep' AND status = 'processing')$$);
SELECT role = current_user, state, task_id = :id, task_type, queue, attempt, started_at <= state_since,
	state_since <= clock_timestamp()
FROM jobqueue.worker_status WHERE state = 'running';
SELECT running, waiting FROM jobqueue.queue_status WHERE queue = 'v-sleep';
-- pg_stat_activity says the same
SELECT a.backend_type, a.usename = current_user, a.datname = current_database(),
	strpos(a.query || a.application_name, :'id') > 0 AS "names the task",
	strpos(a.query || a.application_name, 'v-sleep') > 0 AS "and its type"
FROM jobqueue.worker_status w JOIN pg_stat_activity a USING (pid) WHERE w.state = 'running';
SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobqueue launcher';
SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobqueue scheduler' AND datname = current_database();
SELECT jobqueue.cancel(:id);
CALL pg_temp.wait_until($$NOT EXISTS (SELECT 1 FROM jobqueue.worker_status WHERE state <> 'idle')$$);
SELECT state, task_id, task_type, queue, attempt FROM jobqueue.worker_status GROUP BY 1, 2, 3, 4, 5;
SELECT jobqueue.unregister_handler('v-sleep');
DROP FUNCTION v_handler;

-- cheap: no scan of the history, nor of the whole backlog
INSERT INTO jobqueue.tasks (type) SELECT 'v' FROM generate_series(1, 5000);
ANALYZE jobqueue.tasks_live;
DO $$
DECLARE
	line text;
	plan text := '';
BEGIN
	FOR line IN EXPLAIN SELECT * FROM jobqueue.queue_status LOOP plan := plan || line || E'\n'; END LOOP;
	FOR line IN EXPLAIN SELECT * FROM jobqueue.worker_status LOOP plan := plan || line || E'\n'; END LOOP;
	ASSERT plan !~ 'tasks_history|tasks_failed', plan;
END $$;
DELETE FROM jobqueue.tasks;
DELETE FROM jobqueue.queues WHERE queue LIKE 'v-%';
