-- Many tasks at once: cancel_tasks, retry_failed, delete_tasks, purge_queue
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;

-- One task of each status in two queues and of two types, at hours that the payload tells. No handler: nobody runs
-- them.
CREATE PROCEDURE pg_temp.set_up() LANGUAGE plpgsql AS $$
DECLARE
	task record;
BEGIN
	DELETE FROM jobqueue.tasks;
	FOR task IN SELECT *, row_number() OVER (ORDER BY s, q COLLATE "C", t COLLATE "C") AS n
		FROM unnest('{pending,scheduled,blocked,processing,completed,failed,cancelled}'::text[])
		WITH ORDINALITY w(status, s),
		unnest('{b-one,b-two}'::text[]) q, unnest('{b,B}'::text[]) t ORDER BY n
	LOOP
		INSERT INTO jobqueue.tasks (type, queue, status, slot, created_at, payload, run_at, lease_expires_at, attempts,
			max_attempts, finished_at)
		VALUES (task.t, task.q, task.status, CASE task.status WHEN 'completed' THEN 2 WHEN 'cancelled' THEN 3
			WHEN 'failed' THEN -1 ELSE 0 END, '2020-01-01 00:00+00'::timestamptz + task.n * interval '1 hour',
			to_jsonb(format('%s %s %s', left(task.status, 4), right(task.q, 3), task.t)),
				CASE task.status WHEN 'scheduled' THEN 'infinity'::timestamptz END,
			CASE task.status WHEN 'processing' THEN now() + interval '1 hour' END,
				CASE WHEN task.s > 3 THEN 1 ELSE 0 END, CASE WHEN task.s > 3 THEN 1 END,
					CASE WHEN task.s > 4 THEN now() END);
	END LOOP;
END $$;
-- What a call does: its result, and which tasks it changed, from what to what. Undone.
CREATE FUNCTION pg_temp.changes(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	CREATE TEMPORARY TABLE before ON COMMIT DROP AS SELECT id, payload, status FROM jobqueue.tasks;
	EXECUTE 'SELECT jobqueue.' || command INTO result;
	RAISE EXCEPTION USING ERRCODE = 'UNDO0', MESSAGE = result || ': ' || coalesce((
		SELECT string_agg(format('%s > %s', b.payload->>0, coalesce(left(t.status, 4), 'gone')), ', ' ORDER BY b.id)
		FROM before b LEFT JOIN jobqueue.tasks t USING (id) WHERE t.status IS DISTINCT FROM b.status), 'nothing');
EXCEPTION
	WHEN SQLSTATE 'UNDO0' THEN RETURN sqlerrm;
	WHEN OTHERS THEN RETURN sqlstate || ': ' || sqlerrm;
END $$;
CALL pg_temp.set_up();
SELECT count(*), count(DISTINCT tableoid) FROM jobqueue.tasks;

-- every filter, and some together
SELECT command, pg_temp.changes(command) FROM (VALUES
	($$cancel_tasks(queue => 'b-one')$$),
	($$cancel_tasks(type => 'B')$$),
	($$cancel_tasks(status => 'pending')$$),
	($$cancel_tasks(status => 'scheduled')$$),
	($$cancel_tasks(status => 'blocked')$$),
	($$cancel_tasks(status => 'processing')$$),
	($$cancel_tasks(since => '2020-01-01 12:00+00')$$),
	($$cancel_tasks(since => '2020-01-01 12:00:00.000001+00')$$),
	($$cancel_tasks(until => '2020-01-01 03:00+00')$$),
	($$cancel_tasks(until => '2020-01-01 03:00:00.000001+00')$$),
	($$cancel_tasks(since => '2020-01-01 02:00+00', until => '2020-01-01 05:00+00')$$),
	($$cancel_tasks(since => '-infinity', until => 'infinity', max_tasks => 2)$$),
	($$cancel_tasks(since => '2020-01-01 05:00+00', until => '2020-01-01 02:00+00')$$),
	($$cancel_tasks('b-two', 'B', 'pending', '2020-01-01 03:00+00', '2020-01-01 03:00:01+00', 1)$$),
	($$cancel_tasks('b-two', 'B', 'pending', '2020-01-01 03:00:01+00')$$),
	($$cancel_tasks(queue => 'b-two', max_tasks => 3)$$),
	($$cancel_tasks(queue => 'b-none')$$),
	($$cancel_tasks(queue => 'B-one')$$),
	($$cancel_tasks(type => '')$$),
	($$retry_failed(queue => 'b-one')$$),
	($$retry_failed(type => 'b')$$),
	($$retry_failed(since => '-infinity')$$),
	($$retry_failed(since => '2020-01-01 23:00+00')$$),
	($$retry_failed(until => '2020-01-01 23:00+00')$$),
	($$retry_failed('b-two', 'B', '2020-01-01 23:00+00', '2020-01-01 23:00:01+00', 1)$$),
	($$retry_failed(until => 'infinity', max_tasks => 3)$$),
	($$retry_failed(queue => 'b-none')$$),
	($$delete_tasks(queue => 'b-one')$$),
	($$delete_tasks(type => 'B')$$),
	($$delete_tasks(status => 'pending')$$),
	($$delete_tasks(status => 'scheduled')$$),
	($$delete_tasks(status => 'blocked')$$),
	($$delete_tasks(status => 'completed')$$),
	($$delete_tasks(status => 'failed')$$),
	($$delete_tasks(status => 'cancelled')$$),
	($$delete_tasks(since => '2020-01-02 00:00+00')$$),
	($$delete_tasks(until => '2020-01-01 03:00+00')$$),
	($$delete_tasks('b-two', 'B', 'completed', '2020-01-01 19:00+00', '2020-01-01 19:00:01+00', 1)$$),
	($$delete_tasks(queue => 'b-two', max_tasks => 7)$$),
	($$delete_tasks(queue => 'b-none')$$),
	($$purge_queue('b-one')$$),
	($$purge_queue('b-none')$$)
) v(command);

-- what is refused
SELECT command, pg_temp.changes(command) FROM (VALUES
	($$cancel_tasks()$$),
	($$cancel_tasks(max_tasks => 10)$$),
	($$cancel_tasks(NULL, NULL, NULL, NULL, NULL)$$),
	($$retry_failed()$$),
	($$retry_failed(max_tasks => 10)$$),
	($$delete_tasks()$$),
	($$delete_tasks(max_tasks => 10)$$),
	($$cancel_tasks(status => 'completed')$$),
	($$cancel_tasks(status => 'failed')$$),
	($$cancel_tasks(status => 'cancelled')$$),
	($$cancel_tasks(status => 'done')$$),
	($$cancel_tasks(status => '')$$),
	($$cancel_tasks(status => 'PENDING')$$),
	($$delete_tasks(status => 'processing')$$),
	($$delete_tasks(status => 'done')$$),
	($$cancel_tasks(queue => '')$$),
	($$cancel_tasks(queue => repeat('q', 64))$$),
	($$cancel_tasks(queue => repeat('q', 63))$$),
	($$cancel_tasks(queue => 'b-one', max_tasks => 0)$$),
	($$cancel_tasks(queue => 'b-one', max_tasks => -1)$$),
	($$cancel_tasks(queue => 'b-one', max_tasks => 1000001)$$),
	($$retry_failed(queue => 'b-one', max_tasks => 0)$$),
	($$delete_tasks(queue => 'b-one', max_tasks => 0)$$),
	($$purge_queue(NULL)$$),
	($$purge_queue('')$$),
	($$purge_queue(repeat('q', 64))$$)
) v(command);
SELECT jobqueue.delete_tasks(status => 'processing');
SELECT jobqueue.cancel_tasks();

-- what they leave behind: cancelled as by cancel(), retried as by retry()
SELECT jobqueue.cancel_tasks(queue => 'b-one', type => 'b'), jobqueue.retry_failed(queue => 'b-two');
SELECT payload->>0, pg_temp.show(id) FROM jobqueue.tasks WHERE (queue, type) = ('b-one', 'b')
	OR (queue, status) = ('b-two', 'pending') ORDER BY id;
-- an outside worker's claim is over then
SELECT jobqueue.complete(id, attempts), jobqueue.extend_lease(id, attempts) FROM jobqueue.tasks
	WHERE payload->>0 = 'proc one b';
-- one that was retried can be claimed, once
SELECT type, attempts, max_attempts FROM jobqueue.claim('b-two', 100) WHERE attempts > 1 ORDER BY id;
-- twice: nothing more to do
SELECT jobqueue.cancel_tasks(queue => 'b-one', type => 'b'), jobqueue.retry_failed(queue => 'b-two');
-- all but what is being processed
CALL pg_temp.set_up();
SELECT jobqueue.delete_tasks(since => '-infinity'), count(*) FROM jobqueue.tasks;
SELECT status, count(*) FROM jobqueue.tasks GROUP BY status;
DELETE FROM jobqueue.tasks;
-- more than the default of 1000
INSERT INTO jobqueue.tasks (type, queue) SELECT 'b', 'b-many' FROM generate_series(1, 2500);
SELECT jobqueue.cancel_tasks(queue => 'b-many');
SELECT status, count(*) FROM jobqueue.tasks GROUP BY status ORDER BY status;
SELECT max(id) FILTER (WHERE status = 'cancelled') < min(id) FILTER (WHERE status = 'pending') AS "the oldest first"
	FROM jobqueue.tasks;
SELECT jobqueue.delete_tasks(queue => 'b-many', status => 'cancelled'), jobqueue.purge_queue('b-many');
SELECT count(*) FROM jobqueue.tasks;

-- a key that another task has taken meanwhile: the task stays failed, and that is said
SET client_min_messages = notice;
INSERT INTO jobqueue.tasks (type, queue, unique_key) SELECT 'b', 'b-key', k FROM unnest('{one,two,three}'::text[]) k;
SELECT jobqueue.fail(id, attempts, 'no luck', retryable => false) FROM jobqueue.claim('b-key', 3);
INSERT INTO jobqueue.tasks (type, queue, unique_key) VALUES ('b', 'b-other', 'one'), ('b', 'b-other', 'three'),
	('B', 'b-other', 'two');
SELECT unique_key, jobqueue.retry(id) FROM jobqueue.tasks WHERE queue = 'b-key' AND unique_key = 'one';
SELECT jobqueue.retry_failed(queue => 'b-key');
SELECT unique_key, status, pg_temp.leaf(id) FROM jobqueue.tasks WHERE queue = 'b-key' ORDER BY id;
SELECT jobqueue.retry_failed(queue => 'b-key');
-- it is free again
SELECT jobqueue.purge_queue('b-other');
SELECT jobqueue.retry_failed(queue => 'b-key', max_tasks => 1);
SELECT unique_key, jobqueue.retry(id) FROM jobqueue.tasks WHERE queue = 'b-key' AND unique_key = 'three';
SELECT unique_key, status, pg_temp.leaf(id) FROM jobqueue.tasks WHERE queue = 'b-key' ORDER BY id;
DELETE FROM jobqueue.tasks;
-- two that want the same key: the first gets it
INSERT INTO jobqueue.tasks (type, queue, unique_key, status, slot, attempts, max_attempts, finished_at) SELECT 'b',
	'b-key', 'same', 'failed', -1, 1, 1, now() FROM generate_series(1, 3);
SELECT jobqueue.retry_failed(type => 'b');
SELECT status, count(*), min(id) = (SELECT min(id) FROM jobqueue.tasks) FROM jobqueue.tasks GROUP BY status
	ORDER BY status DESC;
DELETE FROM jobqueue.tasks;
SET client_min_messages = warning;

-- handlers that run: cancel interrupts them, delete and purge leave them alone
CREATE TABLE b_effects (what text);
CREATE FUNCTION b_sleeps(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.b_effects VALUES ('begun');
	PERFORM jobqueue.set_progress(0.5);
	PERFORM pg_sleep(600);
END $$;
SELECT jobqueue.register_handler('b-sleeps', 'b_sleeps(jsonb)', queue => 'b-run');
SELECT jobqueue.enqueue('b-sleeps') AS a, jobqueue.enqueue('b-sleeps') AS b,
	jobqueue.enqueue('b-sleeps', delay => '1 hour') AS c \gset
CALL pg_temp.wait_until($$(SELECT count(*) FROM jobqueue.running_tasks WHERE progress = 0.5) = 2$$);
SELECT jobqueue.purge_queue('b-run');
SELECT jobqueue.delete_tasks(queue => 'b-run');
SELECT jobqueue.delete_tasks(type => 'b-sleeps');
SELECT count(*) FROM jobqueue.running_tasks;
BEGIN;
SELECT jobqueue.cancel_tasks(type => 'b-sleeps');
ROLLBACK;
SELECT count(*) FROM jobqueue.running_tasks;
SELECT jobqueue.cancel_tasks(type => 'b-sleeps', status => 'processing');
SELECT status, count(*) FROM jobqueue.tasks GROUP BY status;
CALL pg_temp.wait_until($$NOT EXISTS (SELECT 1 FROM jobqueue.worker_status WHERE state = 'running')$$);
SELECT count(*) FROM b_effects;
SELECT jobqueue.delete_tasks(type => 'b-sleeps'), jobqueue.unregister_handler('b-sleeps');

-- what another session has locked is skipped: a handler holds the lock, and waits for this session
CREATE FUNCTION b_locks(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM id FROM jobqueue.tasks WHERE tasks.payload = 'true' FOR UPDATE;
	PERFORM jobqueue.set_progress(1);
	PERFORM pg_advisory_xact_lock(4731);
END $$;
SELECT jobqueue.register_handler('b-locks', 'b_locks(jsonb)');
INSERT INTO jobqueue.tasks (type, queue, payload) SELECT 'b', 'b-locked', to_jsonb(n <= 2) FROM generate_series(1, 5) n;
INSERT INTO jobqueue.tasks (type, queue, payload, status, slot, attempts, max_attempts, finished_at) SELECT 'b',
	'b-locked', to_jsonb(n <= 2), 'failed', -1, 1, 1, now() FROM generate_series(1, 6) n;
SELECT pg_advisory_lock(4731);
SELECT jobqueue.enqueue('b-locks') AS id \gset
CALL pg_temp.wait_until($$EXISTS (SELECT 1 FROM jobqueue.running_tasks WHERE progress = 1)$$);
SELECT jobqueue.cancel_tasks(queue => 'b-locked', max_tasks => 1);
SELECT jobqueue.retry_failed(queue => 'b-locked', max_tasks => 2);
SELECT jobqueue.delete_tasks(queue => 'b-locked', status => 'failed');
SELECT jobqueue.delete_tasks(queue => 'b-locked', status => 'pending', max_tasks => 1);
SELECT jobqueue.purge_queue('b-locked');
SELECT status, payload, count(*) FROM jobqueue.tasks WHERE type = 'b' GROUP BY 1, 2 ORDER BY 1, 2;
SELECT pg_advisory_unlock(4731);
SELECT status FROM jobqueue.wait_for(:id, '60 s');
SELECT jobqueue.purge_queue('b-locked'), jobqueue.delete_tasks(queue => 'b-locked');

SELECT count(jobqueue.unregister_handler(type)) FROM jobqueue.handlers;
DROP FUNCTION b_sleeps, b_locks;
DROP TABLE b_effects;
DELETE FROM jobqueue.tasks;
