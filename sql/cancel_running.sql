-- cancel interrupts a handler that runs: its effects are rolled back
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;
CREATE TABLE cancel_effects (what text);
CREATE FUNCTION cancel_sleeper(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO cancel_effects VALUES ('begun');
	PERFORM pg_sleep(60);
END $$;
-- one that will not listen: it catches even a cancel, by name
CREATE FUNCTION cancel_catcher(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	BEGIN
		PERFORM pg_sleep(60);
	EXCEPTION WHEN query_canceled THEN
		INSERT INTO cancel_effects VALUES ('caught');
	END;
END $$;
SELECT jobqueue.register_handler('sleeper', 'cancel_sleeper(jsonb)');
SELECT jobqueue.register_handler('catcher', 'cancel_catcher(jsonb)');

-- an administrator's cancel of the process names no task: an error like another, and the task is tried again
SELECT jobqueue.enqueue('sleeper') AS id \gset
CALL pg_temp.wait_until($$EXISTS (SELECT 1 FROM jobqueue.worker_status w JOIN pg_stat_activity a USING (pid)
	WHERE w.task_type = 'sleeper' AND a.wait_event = 'PgSleep') AND EXISTS (SELECT 1 FROM jobqueue.tasks
	WHERE status = 'processing')$$);
SELECT count(pg_cancel_backend(pid)) FROM jobqueue.worker_status WHERE task_type = 'sleeper';
CALL pg_temp.wait_until($$NOT EXISTS (SELECT 1 FROM jobqueue.worker_status WHERE state = 'running')$$);
SELECT status, last_sqlstate FROM jobqueue.tasks WHERE id = :id;
SELECT count(*) FROM cancel_effects;
SELECT jobqueue.cancel(:id);

-- a person's cancel: the task ends
SELECT jobqueue.enqueue('sleeper') AS id \gset
CALL pg_temp.wait_until($$EXISTS (SELECT 1 FROM jobqueue.worker_status w JOIN pg_stat_activity a USING (pid)
	WHERE w.task_type = 'sleeper' AND a.wait_event = 'PgSleep') AND EXISTS (SELECT 1 FROM jobqueue.tasks
	WHERE status = 'processing')$$);
SELECT status, attempts, lease_expires_at = 'infinity', claimed_by IS NOT NULL,
	processed_at IS NOT NULL FROM jobqueue.tasks WHERE id = :id;
-- it runs already
SELECT jobqueue.retry(:id);
SELECT jobqueue.cancel(:id, 'enough');
SELECT status, finished_at IS NOT NULL, lease_expires_at FROM jobqueue.wait_for(:id, '10 s');
SELECT pg_temp.leaf(:id), count(*) FROM cancel_effects;
SELECT jobqueue.cancel(:id);
-- the worker is there for the next task, which is not cancelled by mistake
CALL pg_temp.wait_until($$NOT EXISTS (SELECT 1 FROM jobqueue.worker_status WHERE state = 'running')$$);

-- rolled back: it goes on
SELECT jobqueue.enqueue('sleeper') AS id \gset
CALL pg_temp.wait_until($$EXISTS (SELECT 1 FROM jobqueue.worker_status w JOIN pg_stat_activity a USING (pid)
	WHERE w.task_type = 'sleeper' AND a.wait_event = 'PgSleep') AND EXISTS (SELECT 1 FROM jobqueue.tasks
	WHERE status = 'processing')$$);
BEGIN;
SELECT jobqueue.cancel(:id);
ROLLBACK;
SELECT status FROM jobqueue.wait_for(:id, '200 ms');
SELECT status FROM jobqueue.tasks WHERE id = :id;
SELECT jobqueue.cancel(:id);
SELECT status FROM jobqueue.wait_for(:id, '10 s');
CALL pg_temp.wait_until($$NOT EXISTS (SELECT 1 FROM jobqueue.worker_status WHERE state = 'running')$$);

-- caught by the handler: cancelled nevertheless, without its effects
SELECT jobqueue.enqueue('catcher') AS id \gset
CALL pg_temp.wait_until($$EXISTS (SELECT 1 FROM jobqueue.worker_status w JOIN pg_stat_activity a USING (pid)
	WHERE w.task_type = 'catcher' AND a.wait_event = 'PgSleep')$$);
SELECT jobqueue.cancel(:id);
SELECT status FROM jobqueue.wait_for(:id, '10 s');
CALL pg_temp.wait_until($$NOT EXISTS (SELECT 1 FROM jobqueue.worker_status WHERE state = 'running')$$);
SELECT count(*) FROM cancel_effects;

-- retried after that: runs again
SELECT jobqueue.retry(:id);
CALL pg_temp.wait_until($$EXISTS (SELECT 1 FROM jobqueue.worker_status w JOIN pg_stat_activity a USING (pid)
	WHERE w.task_type = 'catcher' AND a.wait_event = 'PgSleep')$$);
SELECT attempts FROM jobqueue.tasks WHERE id = :id;
SELECT jobqueue.cancel(:id);
SELECT status FROM jobqueue.wait_for(:id, '10 s');
CALL pg_temp.wait_until($$NOT EXISTS (SELECT 1 FROM jobqueue.worker_status WHERE state = 'running')$$);

SELECT count(jobqueue.unregister_handler(type)) FROM jobqueue.handlers;
DROP TABLE cancel_effects;
DROP FUNCTION cancel_sleeper, cancel_catcher;
DELETE FROM jobqueue.tasks;
