-- wait_for, and tasks that workers finish: woken, not polled; and where nothing is kept
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;
CREATE FUNCTION wr_handler(payload jsonb) RETURNS void LANGUAGE sql
	AS $$SELECT pg_sleep(coalesce((payload->>'sleep')::float8, 0))$$;
SELECT jobqueue.register_handler('wr', 'wr_handler(jsonb)');
-- many, one after the other: a wait that sleeps between looks would show
DO $$
DECLARE
	task bigint;
	began timestamptz := clock_timestamp();
BEGIN
	FOR n IN 1..50 LOOP
		task := jobqueue.enqueue('wr', '{"sleep": 0.002}');
		COMMIT;
		ASSERT (SELECT status FROM jobqueue.wait_for(task, '10 s')) = 'completed';
		COMMIT;
	END LOOP;
	ASSERT clock_timestamp() - began < '5 s', clock_timestamp() - began;
END $$;
SELECT count(*) FROM jobqueue.tasks WHERE type = 'wr' AND status = 'completed' AND attempts = 1;

-- retention 0: deleted when it is completed; a session that waits for it does not wait for ever
ALTER SYSTEM SET jobqueue.completed_retention = 0;
SELECT pg_reload_conf();
\c -
\set ECHO none
\i :helpers
\set ECHO all
SHOW jobqueue.completed_retention;
SET client_min_messages = error; -- one may have gone by itself meanwhile
SELECT count(pg_terminate_backend(pid)) > 0 FROM jobqueue.worker_status WHERE pid IS NOT NULL;
SET client_min_messages = warning;
SELECT jobqueue.enqueue('wr', '{"sleep": 0.1}') AS id \gset
SELECT clock_timestamp() AS began \gset
\set VERBOSITY sqlstate
SELECT count(*) FROM (SELECT jobqueue.wait_for(:id, '10 s')) w;
\set VERBOSITY default
SELECT clock_timestamp() - :'began' < '8 s' AS "it did not wait for the timeout";
CALL pg_temp.wait_until($$NOT EXISTS (SELECT 1 FROM jobqueue.tasks WHERE type = 'wr' AND payload ? 'sleep'
	AND payload->>'sleep' = '0.1')$$);
-- completed outside, cancelled, or finished by hand: likewise; failed tasks stay
SELECT jobqueue.enqueue('wr-out') AS a \gset
SELECT jobqueue.complete(id, attempts) FROM jobqueue.claim();
SELECT jobqueue.enqueue('wr-out') AS b \gset
SELECT jobqueue.cancel(:b);
INSERT INTO jobqueue.tasks (type) VALUES ('wr-out') RETURNING id AS c \gset
UPDATE jobqueue.tasks SET status = 'completed' WHERE id = :c;
SELECT jobqueue.enqueue('wr-failed') AS d \gset
SELECT jobqueue.fail(id, attempts, 'x', retryable => false) FROM jobqueue.claim();
CALL pg_temp.wait_until($$NOT EXISTS (SELECT 1 FROM jobqueue.tasks WHERE type = 'wr-out')$$);
SELECT status FROM jobqueue.tasks WHERE id = :d;
ALTER SYSTEM RESET jobqueue.completed_retention;
SELECT pg_reload_conf();
SELECT jobqueue.unregister_handler('wr');
DROP FUNCTION wr_handler;
DELETE FROM jobqueue.tasks;
