-- A transaction sees its own tasks: claim() in the transaction that added them or gave them back
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all

BEGIN;
SELECT jobqueue.enqueue('same', '1', 'same') > 0;
SELECT payload FROM jobqueue.claim('same');
ROLLBACK;

BEGIN;
SELECT jobqueue.enqueue_many('same', '{1,2}', 'same') > 0;
INSERT INTO jobqueue.tasks (type, payload, queue) VALUES ('same', '3', 'same');
SELECT payload FROM jobqueue.claim('same', 10);
-- more urgent than what was claimed
SELECT jobqueue.enqueue('same', '4', 'same', (-1)::smallint) > 0;
SELECT payload FROM jobqueue.claim('same', 10);
COMMIT;

DELETE FROM jobqueue.tasks;
SELECT jobqueue.enqueue('same', '5', 'same') AS id \gset
BEGIN;
SELECT payload FROM jobqueue.claim('same');
SELECT jobqueue.release(:id, 1);
SELECT payload, attempts FROM jobqueue.claim('same');
SELECT jobqueue.fail(:id, 2, 'x', retry_in => '1 h');
SELECT jobqueue.retry(:id);
SELECT payload, attempts FROM jobqueue.claim('same');
COMMIT;

-- given back by ROLLBACK TO SAVEPOINT: in its old place
SELECT count(jobqueue.enqueue('same-back', to_jsonb(n), 'same-back')) FROM generate_series(1, 4) n;
BEGIN;
SELECT payload FROM jobqueue.claim('same-back');
SAVEPOINT s;
SELECT payload FROM jobqueue.claim('same-back', 2);
ROLLBACK TO s;
SELECT payload FROM jobqueue.claim('same-back');
COMMIT;

-- a loop that enqueues and works off, in one transaction
DO $$
DECLARE
	done integer := 0;
	task jobqueue.tasks;
BEGIN
	PERFORM jobqueue.enqueue('same-loop', to_jsonb(n), 'same-loop') FROM generate_series(1, 10) n;
	LOOP
		SELECT * INTO task FROM jobqueue.claim('same-loop');
		EXIT WHEN NOT FOUND;
		ASSERT jobqueue.complete(task.id, task.attempts);
		done := done + 1;
	END LOOP;
	RAISE NOTICE '% done', done;
END $$;
DELETE FROM jobqueue.tasks;
