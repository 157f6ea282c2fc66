-- Workers outside the server: complete, fail, extend_lease, release
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all

-- complete
SELECT jobqueue.enqueue('out', queue => 'out') AS id \gset
-- it has not been claimed yet: attempt 0 names no claim
SELECT jobqueue.complete(:id, 0), jobqueue.complete(:id, 1), jobqueue.fail(:id, 0, 'x'), jobqueue.release(:id, 0),
	jobqueue.extend_lease(:id, 0);
SELECT pg_temp.show(:id);
SELECT attempts FROM jobqueue.claim('out');
SELECT jobqueue.complete(:id, 0), jobqueue.complete(:id, 2), jobqueue.complete(:id, -1), jobqueue.complete(-1, 1),
	jobqueue.complete(9223372036854775807, 1);
SELECT pg_temp.show(:id);
BEGIN;
SELECT jobqueue.complete(:id, 1, '{"done": [1, 2]}');
SELECT finished_at BETWEEN now() AND clock_timestamp(), updated_at BETWEEN now() AND clock_timestamp(),
	processed_at < now(), result, claimed_by IS NOT NULL, created_by = current_user
FROM jobqueue.tasks WHERE id = :id;
COMMIT;
SELECT pg_temp.show(:id);
SELECT jobqueue.complete(:id, 1), jobqueue.fail(:id, 1, 'x'), jobqueue.release(:id, 1), jobqueue.extend_lease(:id, 1);
SELECT pg_temp.show(:id);
-- without result; with the JSON null, which is a result
SELECT jobqueue.enqueue('out', queue => 'out') AS a, jobqueue.enqueue('out', queue => 'out') AS b \gset
SELECT id = :a FROM jobqueue.claim('out');
SELECT jobqueue.complete(:a, 1);
SELECT id = :b FROM jobqueue.claim('out');
SELECT jobqueue.complete(:b, 1, 'null');
SELECT pg_temp.show(:a);
SELECT pg_temp.show(:b);
-- rolled back: still claimed
SELECT jobqueue.enqueue('out', queue => 'out') AS id \gset
SELECT attempts FROM jobqueue.claim('out');
BEGIN;
SELECT jobqueue.complete(:id, 1);
ROLLBACK;
SELECT pg_temp.show(:id);
SELECT jobqueue.complete(:id, 1);

-- complete_many: those that the caller still holds
SELECT array_agg(id ORDER BY id) AS ids FROM jobqueue.enqueue_many('out', '{1,2,3,4,5}', queue => 'out') id \gset
SELECT count(*) FROM jobqueue.claim('out', 3);
SELECT array_position(:'ids'::bigint[], id) FROM jobqueue.complete_many(:'ids', '{1,2,1,1,0}') id ORDER BY 1;
SELECT array_position(:'ids'::bigint[], id), status, attempts FROM jobqueue.tasks WHERE id = ANY (:'ids') ORDER BY id;
SELECT count(*) FROM jobqueue.complete_many(:'ids', '{1,2,1,1,0}');
-- results go to their tasks, whatever the order; what is unknown or named twice does no harm
SELECT count(*) FROM jobqueue.claim('out', 2);
SELECT array_position(:'ids'::bigint[], id) FROM jobqueue.complete_many(
	ARRAY[(:'ids'::bigint[])[5], -1, (:'ids'::bigint[])[2], (:'ids'::bigint[])[5]], '{1,1,1,1}',
		ARRAY['"five"', '"nobody"', '"two"', '"five"']::jsonb[]) id ORDER BY 1;
SELECT array_position(:'ids'::bigint[], id), status, result FROM jobqueue.tasks WHERE id = ANY (:'ids') ORDER BY id;
SELECT jobqueue.complete((:'ids'::bigint[])[4], 1);
SELECT count(*) FROM jobqueue.complete_many('{}', '{}');
SELECT count(*) FROM jobqueue.complete_many('{}', '{}', '{}');
-- a result for some of them only
SELECT array_agg(id ORDER BY id) AS ids FROM jobqueue.enqueue_many('out', '{1,2}', queue => 'out') id \gset
SELECT count(*) FROM jobqueue.claim('out', 2);
SELECT count(*) FROM jobqueue.complete_many(:'ids', '{1,1}', ARRAY[NULL, '2']::jsonb[]);
SELECT status, result FROM jobqueue.tasks WHERE id = ANY (:'ids') ORDER BY id;

-- fail: tried again later, 5 s the first time (a fifth more or less), then twice as long, an hour at most
SELECT jobqueue.enqueue('out', queue => 'out', max_attempts => 40) AS id \gset
CREATE TEMPORARY TABLE waits (attempt int, status text, run_at timestamptz, wait interval);
DO $$
DECLARE
	task jobqueue.tasks;
	new_status text;
BEGIN
	FOR n IN 1..30 LOOP
		SELECT * INTO task FROM jobqueue.claim('out');
		new_status := jobqueue.fail(task.id, task.attempts, 'no. ' || n, 'XX' || lpad(n::text, 3, '0'));
		INSERT INTO waits SELECT n, new_status, run_at, run_at - clock_timestamp() FROM jobqueue.tasks WHERE id =
			task.id;
		ASSERT jobqueue.retry(task.id);
		COMMIT;
	END LOOP;
END $$;
SELECT attempt, status FROM waits WHERE status <> 'scheduled';
SELECT attempt, wait FROM waits
WHERE wait NOT BETWEEN 0.75 * least(interval '5 s' * 2 ^ (attempt - 1), '1 h')
AND 1.25 * least(interval '5 s' * 2 ^ (attempt - 1), '1 h');
-- not all alike: tasks that failed together do not come back together
SELECT count(DISTINCT extract(epoch FROM wait)::int) > 5 FROM waits WHERE attempt > 15;
SELECT status, attempts, max_attempts, last_error, last_sqlstate, finished_at,
	lease_expires_at FROM jobqueue.tasks WHERE id = :id;
DELETE FROM jobqueue.tasks;

-- the attempts are used up: failed, and kept
SELECT jobqueue.enqueue('out', '{"keep": "me"}', queue => 'out', max_attempts => 2) AS id \gset
SELECT attempts FROM jobqueue.claim('out');
BEGIN;
SELECT jobqueue.fail(:id, 1, 'first', '22012', retry_in => '10 min');
SELECT status, run_at BETWEEN now() + interval '10 min' AND clock_timestamp() + interval '10 min',
	updated_at BETWEEN now() AND clock_timestamp() FROM jobqueue.tasks WHERE id = :id;
COMMIT;
SELECT pg_temp.show(:id);
SELECT jobqueue.fail(:id, 1, 'stale'), jobqueue.complete(:id, 1), jobqueue.release(:id, 1),
	jobqueue.extend_lease(:id, 1);
SELECT count(*) FROM jobqueue.claim('out');
SELECT jobqueue.retry(:id);
SELECT attempts FROM jobqueue.claim('out');
SELECT jobqueue.fail(:id, 2, 'second');
SELECT pg_temp.show(:id);
SELECT payload, finished_at IS NOT NULL FROM jobqueue.tasks WHERE id = :id;
SELECT jobqueue.fail(:id, 2, 'stale'), jobqueue.complete(:id, 2), jobqueue.release(:id, 2),
	jobqueue.extend_lease(:id, 2);
-- not worth another try
SELECT jobqueue.enqueue('out', queue => 'out') AS id \gset
SELECT attempts FROM jobqueue.claim('out');
SELECT jobqueue.fail(:id, 1, 'hopeless', retryable => false);
SELECT pg_temp.show(:id);
-- not even when a time is given
SELECT jobqueue.enqueue('out', queue => 'out', max_attempts => 1) AS id \gset
SELECT attempts FROM jobqueue.claim('out');
SELECT jobqueue.fail(:id, 1, 'too often', retry_in => '1 s');
SELECT pg_temp.show(:id);
-- without max_attempts: 20
SELECT jobqueue.enqueue('out', queue => 'out') AS id \gset
UPDATE jobqueue.tasks SET attempts = 18 WHERE id = :id;
SELECT attempts FROM jobqueue.claim('out');
SELECT jobqueue.fail(:id, 19, 'nearly');
SELECT jobqueue.retry(:id);
SELECT attempts FROM jobqueue.claim('out');
SELECT jobqueue.fail(:id, 20, 'over');
-- at once
SELECT jobqueue.enqueue('out', queue => 'out') AS id \gset
SELECT attempts FROM jobqueue.claim('out');
SELECT jobqueue.fail(:id, 1, 'at once', retry_in => '0') IN ('pending', 'scheduled');
CALL pg_temp.wait_until($$EXISTS (SELECT 1 FROM jobqueue.claim('out'))$$);
SELECT pg_temp.show(:id);
-- completed after an error
SELECT jobqueue.complete(:id, 2);
SELECT pg_temp.show(:id);

-- extend_lease: from now, shorter as well as longer
SELECT jobqueue.enqueue('out', queue => 'out') AS id \gset
SELECT attempts FROM jobqueue.claim('out', lease => '1 h');
BEGIN;
SELECT jobqueue.extend_lease(:id, 1);
SELECT lease_expires_at BETWEEN now() + interval '5 min' AND clock_timestamp() + interval '5 min' FROM jobqueue.tasks
	WHERE id = :id;
SELECT jobqueue.extend_lease(:id, 1, '2 h');
SELECT lease_expires_at BETWEEN now() + interval '2 h' AND clock_timestamp() + interval '2 h' FROM jobqueue.tasks
	WHERE id = :id;
COMMIT;
SELECT jobqueue.extend_lease(:id, 2), jobqueue.extend_lease(:id, 0), jobqueue.extend_lease(-1, 1);
SELECT jobqueue.cancel(:id);
SELECT jobqueue.extend_lease(:id, 1), jobqueue.complete(:id, 1), jobqueue.fail(:id, 1, 'x'), jobqueue.release(:id, 1);
SELECT status, result FROM jobqueue.tasks WHERE id = :id;

-- release: first in line again, and it costs nothing
SELECT array_agg(id ORDER BY id) AS ids, min(id) AS id FROM jobqueue.enqueue_many('out', '{1,2}', queue => 'out',
	max_attempts => 1) id \gset
SELECT payload FROM jobqueue.claim('out');
SELECT jobqueue.release(:id, 1);
SELECT pg_temp.show(:id);
SELECT jobqueue.release(:id, 1), jobqueue.complete(:id, 1), jobqueue.extend_lease(:id, 1), jobqueue.fail(:id, 1, 'x');
SELECT pg_temp.show(:id);
SELECT payload, attempts FROM jobqueue.claim('out');
SELECT jobqueue.release(:id, 1), jobqueue.complete(:id, 1);
SELECT jobqueue.fail(:id, 2, 'the one and only error');
SELECT pg_temp.show(:id);
-- also where max_attempts is the default: as many errors as ever
SELECT jobqueue.enqueue('out-default', queue => 'out-default') AS id \gset
SELECT attempts FROM jobqueue.claim('out-default');
SELECT jobqueue.release(:id, 1);
UPDATE jobqueue.tasks SET attempts = 19 WHERE id = :id;
SELECT attempts FROM jobqueue.claim('out-default');
SELECT jobqueue.fail(:id, 20, 'the 19th error'), jobqueue.retry(:id);
SELECT attempts FROM jobqueue.claim('out-default');
SELECT jobqueue.fail(:id, 21, 'the 20th error');
-- a handler's max_attempts is the default of its type, for all claims
CREATE FUNCTION out_handler(payload jsonb) RETURNS void LANGUAGE sql AS '';
SELECT jobqueue.enqueue('out-handled', queue => 'out') AS id \gset
BEGIN;
SET LOCAL client_min_messages = warning;
SELECT jobqueue.register_handler('out-handled', 'out_handler(jsonb)', max_attempts => 1);
SELECT attempts FROM jobqueue.claim('out', types => '{out-handled}');
SELECT jobqueue.fail(:id, 1, 'x');
ROLLBACK;
DROP FUNCTION out_handler;

-- what is refused
SELECT command, pg_temp.try('SELECT * FROM jobqueue.' || command) FROM (VALUES
	($$complete(NULL, 1)$$),
	($$complete(1, NULL)$$),
	($$complete(1, 1, 'no JSON')$$),
	($$complete_many(NULL, '{1}')$$),
	($$complete_many('{1}', NULL)$$),
	($$complete_many('{1,2}', '{1}')$$),
	($$complete_many('{1}', '{1,2}')$$),
	($$complete_many('{1}', '{1}', '{1,2}')$$),
	($$complete_many('{1}', '{1}', '{}')$$),
	($$complete_many('{NULL}', '{1}')$$),
	($$complete_many('{1}', '{NULL}')$$),
	($$complete_many('{1}', '{1}', '{no JSON}')$$),
	($$fail(NULL, 1, 'x')$$),
	($$fail(1, NULL, 'x')$$),
	($$fail(1, 1, NULL)$$),
	($$fail(1, 1, 'x', 'too long')$$),
	($$fail(1, 1, 'x', 'x')$$),
	($$fail(1, 1, 'x', '')$$),
	($$fail(1, 1, 'x', '0a000')$$),
	($$fail(1, 1, 'x', retry_in => '-1 s')$$),
	($$fail(1, 1, 'x', retry_in => '170000000 years')$$),
	($$fail(1, 1, 'x', retryable => NULL)$$),
	($$extend_lease(NULL, 1)$$),
	($$extend_lease(1, NULL)$$),
	($$extend_lease(1, 1, NULL)$$),
	($$extend_lease(1, 1, '0')$$),
	($$extend_lease(1, 1, '-1 s')$$),
	($$extend_lease(1, 1, '170000000 years')$$),
	($$release(NULL, 1)$$),
	($$release(1, NULL)$$)
) v(command);
DELETE FROM jobqueue.tasks;
