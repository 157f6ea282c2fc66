-- cancel and retry: for tasks in every status
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all

-- cancel what waits
SELECT jobqueue.enqueue('cancel', '{"keep": 1}', 'cancel') AS pending,
	jobqueue.enqueue('cancel', queue => 'cancel', delay => '1 h') AS scheduled \gset
BEGIN;
SELECT jobqueue.cancel(:pending, 'not needed');
SELECT finished_at BETWEEN now() AND clock_timestamp(), updated_at BETWEEN now() AND clock_timestamp() FROM
	jobqueue.tasks WHERE id = :pending;
COMMIT;
SELECT jobqueue.cancel(:scheduled);
SELECT status, attempts, payload, last_error, pg_temp.leaf(id) FROM jobqueue.tasks WHERE id IN (:pending, :scheduled)
	ORDER BY id;
SELECT count(*) FROM jobqueue.claim('cancel');
SELECT jobqueue.cancel(:pending), jobqueue.cancel(:scheduled), jobqueue.cancel(-1);
INSERT INTO jobqueue.tasks (type, status, queue) VALUES ('cancel', 'blocked', 'cancel') RETURNING id \gset
SELECT jobqueue.cancel(:id);
SELECT status FROM jobqueue.tasks WHERE id = :id;
-- rolled back
SELECT jobqueue.enqueue('cancel', queue => 'cancel') AS id \gset
BEGIN;
SELECT jobqueue.cancel(:id);
ROLLBACK;
SELECT id = :id FROM jobqueue.claim('cancel');
-- what is claimed outside: the claim is lost
SELECT jobqueue.cancel(:id, 'too slow');
SELECT pg_temp.show(:id);
SELECT jobqueue.complete(:id, 1), jobqueue.fail(:id, 1, 'x'), jobqueue.extend_lease(:id, 1), jobqueue.release(:id, 1);
SELECT status, pg_temp.leaf(id) FROM jobqueue.tasks WHERE id = :id;
-- claimed by hand
INSERT INTO jobqueue.tasks (type, status, queue) VALUES ('cancel', 'processing', 'cancel') RETURNING id \gset
SELECT jobqueue.cancel(:id);
SELECT status, pg_temp.leaf(id) FROM jobqueue.tasks WHERE id = :id;
-- what is finished stays as it is
SELECT jobqueue.enqueue('cancel', queue => 'cancel') AS completed \gset
SELECT jobqueue.complete(id, attempts) FROM jobqueue.claim('cancel');
SELECT jobqueue.enqueue('cancel', queue => 'cancel') AS failed \gset
SELECT jobqueue.fail(id, attempts, 'x', retryable => false) FROM jobqueue.claim('cancel');
SELECT jobqueue.cancel(:completed), jobqueue.cancel(:failed);
SELECT status FROM jobqueue.tasks WHERE id IN (:completed, :failed) ORDER BY id;

-- retry: failed and cancelled ones, with their past
SELECT jobqueue.retry(:completed), jobqueue.retry(-1);
SELECT id AS cancelled FROM jobqueue.tasks WHERE id = :pending \gset
SELECT created_at AS failed_created_at FROM jobqueue.tasks WHERE id = :failed \gset
SELECT jobqueue.retry(:failed), jobqueue.retry(:cancelled);
SELECT status, attempts, finished_at, payload, last_error, pg_temp.leaf(id) FROM jobqueue.tasks WHERE id IN (:failed,
	:cancelled) ORDER BY id;
SELECT created_at = :'failed_created_at', count(*) OVER () FROM jobqueue.tasks WHERE id = :failed;
-- again: it waits already
SELECT jobqueue.retry(:failed);
SELECT count(*) FROM jobqueue.claim('cancel', 10);
SELECT pg_temp.show(:failed);
-- not while it is claimed
SELECT jobqueue.retry(:failed);
SELECT pg_temp.show(:failed);
SELECT jobqueue.complete(:failed, 2), jobqueue.complete(:cancelled, 1);
-- with attempts used up: one more, and only one
SELECT jobqueue.enqueue('cancel', queue => 'cancel', max_attempts => 1) AS id \gset
SELECT jobqueue.fail(id, attempts, 'first') FROM jobqueue.claim('cancel');
SELECT jobqueue.retry(:id);
SELECT jobqueue.fail(id, attempts, 'second') FROM jobqueue.claim('cancel');
SELECT pg_temp.show(:id);
-- with attempts left: no more than there were
SELECT jobqueue.enqueue('cancel', queue => 'cancel', max_attempts => 2) AS id \gset
SELECT jobqueue.fail(id, attempts, 'first', retryable => false) FROM jobqueue.claim('cancel');
SELECT jobqueue.retry(:id);
SELECT jobqueue.fail(id, attempts, 'second') FROM jobqueue.claim('cancel');
SELECT pg_temp.show(:id);
-- scheduled: at once; or at a time
SELECT jobqueue.enqueue('cancel', queue => 'cancel', delay => '1 h') AS id \gset
SELECT jobqueue.retry(:id);
SELECT status FROM jobqueue.tasks WHERE id = :id;
SELECT id = :id FROM jobqueue.claim('cancel');
SELECT jobqueue.fail(:id, 1, 'x', retryable => false);
SELECT jobqueue.retry(:id, '2100-01-01 UTC');
SELECT status, run_at = '2100-01-01 UTC', pg_temp.leaf(id) FROM jobqueue.tasks WHERE id = :id;
SELECT jobqueue.retry(:id, '2200-01-01 UTC');
SELECT status, run_at = '2200-01-01 UTC' FROM jobqueue.tasks WHERE id = :id;
SELECT count(*) FROM jobqueue.claim('cancel');
SELECT jobqueue.retry(:id, '2000-01-01 UTC');
SELECT id = :id FROM jobqueue.claim('cancel');

-- what is refused
SELECT command, pg_temp.try('SELECT jobqueue.' || command) FROM (VALUES
	($$cancel(NULL)$$),
	($$cancel()$$),
	($$retry(NULL)$$),
	($$retry(1, NULL)$$),
	($$retry(1, 'infinity')$$),
	($$retry(1, '-infinity')$$),
	($$retry(1, 'no time')$$)
) v(command);
DELETE FROM jobqueue.tasks;
