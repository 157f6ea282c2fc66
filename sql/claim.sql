-- claim: which tasks, in which order, for how long
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all

-- nothing there
SELECT count(*) FROM jobqueue.claim();
SELECT count(*) FROM jobqueue.claim('claim-empty', 100);

-- what a claim changes
SELECT jobqueue.enqueue('c', '{"n": 1}', metadata => '{"m": 1}') AS id \gset
BEGIN;
SELECT id = :id, type, payload, metadata, status, attempts, processed_at BETWEEN now() AND clock_timestamp(),
	updated_at BETWEEN now() AND clock_timestamp(),
	lease_expires_at BETWEEN now() + interval '5 min' AND clock_timestamp() + interval '5 min', finished_at,
		pg_temp.leaf(id)
FROM jobqueue.claim();
COMMIT;
-- the row that was returned is the row that is stored
SELECT jobqueue.enqueue('c') AS id \gset
SELECT c AS claimed FROM jobqueue.claim() c \gset
SELECT t::text = :'claimed' FROM jobqueue.tasks t WHERE id = :id;
-- by default, the name and pid of the session
SET application_name = 'the claimer';
SELECT jobqueue.enqueue('c') AS id \gset
SELECT claimed_by LIKE '%the claimer%', claimed_by LIKE '%' || pg_backend_pid() || '%' FROM jobqueue.claim();
SELECT jobqueue.enqueue('c') AS id \gset
SELECT claimed_by FROM jobqueue.claim(claimed_by => 'worker 7');
RESET application_name;

-- lower priority first, then first in, first out; never twice; no more than asked for
SELECT count(jobqueue.enqueue('order', to_jsonb(n), 'order', (ARRAY[5, 0, -5])[n % 3 + 1]::smallint))
	FROM generate_series(1, 9) n;
SELECT payload, priority FROM jobqueue.claim('order', 4);
SELECT payload, priority FROM jobqueue.claim('order', 1);
-- urgent ones that come later, after the others were begun
SELECT jobqueue.enqueue('order', '"urgent"', 'order', (-32768)::smallint) > 0;
SELECT jobqueue.enqueue('order', '"last"', 'order', 32767::smallint) > 0;
SELECT payload, priority FROM jobqueue.claim('order', 100);
SELECT count(*) FROM jobqueue.claim('order', 100);

-- one queue, or all: the most urgent of all queues first
SELECT jobqueue.enqueue('qa', '1', 'claim-a') + jobqueue.enqueue('qb', '2', 'claim-b', (-1)::smallint) +
	jobqueue.enqueue('qa', '3', 'claim-a', 1::smallint)
	+ jobqueue.enqueue('qd', '4') > 0;
SELECT payload FROM jobqueue.claim('claim-b', 10);
SELECT payload FROM jobqueue.claim(max_tasks => 10);
SELECT jobqueue.enqueue('qb', '5', 'claim-b') > 0;
SELECT payload, queue FROM jobqueue.claim(NULL, 10);

-- only some types, without losing sight of the others
SELECT count(jobqueue.enqueue('type-' || n % 3, to_jsonb(n), 'claim-types')) FROM generate_series(1, 9) n;
SELECT type, payload FROM jobqueue.claim('claim-types', 2, types => '{type-2}');
SELECT type, payload FROM jobqueue.claim('claim-types', 10, types => '{type-2,type-0}');
SELECT count(*) FROM jobqueue.claim('claim-types', 10, types => '{type-2,no-such-type}');
SELECT type, payload FROM jobqueue.claim('claim-types', 1);
SELECT type, payload FROM jobqueue.claim(NULL, 10, types => '{type-1}');
SELECT count(*) FROM jobqueue.claim('claim-types', 10);

-- scheduled, blocked and finished tasks are not handed out
SELECT jobqueue.enqueue('not-yet', delay => '1 h') AS later \gset
INSERT INTO jobqueue.tasks (type, status) VALUES ('blocked', 'blocked'), ('completed', 'completed'),
	('failed', 'failed'), ('cancelled', 'cancelled');
SELECT type FROM jobqueue.claim(max_tasks => 10);
SELECT type FROM jobqueue.claim(NULL, 10, types => '{not-yet,blocked,completed,failed,cancelled}');

-- a scheduled task can be claimed when its time has come, not before; nobody has to do anything for it
SELECT jobqueue.enqueue('due', '1', 'due', delay => '300 ms') AS id \gset
CALL pg_temp.wait_until($$EXISTS (SELECT 1 FROM jobqueue.claim('due'))$$);
SELECT processed_at >= run_at, processed_at < run_at + interval '10 s' FROM jobqueue.tasks WHERE id = :id;

-- the claim is the transaction's: rolled back, the task is there again, and the first in line
SELECT count(jobqueue.enqueue('back', to_jsonb(n), 'back')) FROM generate_series(1, 4) n;
BEGIN;
SELECT payload FROM jobqueue.claim('back', 2);
ROLLBACK;
SELECT payload, attempts FROM jobqueue.claim('back', 1);
BEGIN;
SELECT payload FROM jobqueue.claim('back', 1);
SAVEPOINT s;
SELECT payload FROM jobqueue.claim('back', 2);
ROLLBACK TO s;
COMMIT;
SELECT payload, attempts FROM jobqueue.claim('back', 10);
-- likewise in an exception block
SELECT jobqueue.enqueue('block', queue => 'block') > 0;
DO $$
BEGIN
	PERFORM jobqueue.claim('block');
	RAISE division_by_zero;
EXCEPTION WHEN division_by_zero THEN
END $$;
SELECT type, attempts FROM jobqueue.claim('block');

-- claimed and completed in one transaction
SELECT jobqueue.enqueue('one', queue => 'one') > 0;
BEGIN;
SELECT jobqueue.complete(id, attempts) FROM jobqueue.claim('one');
COMMIT;
SELECT status, pg_temp.leaf(id) FROM jobqueue.tasks WHERE type = 'one';

-- attempts count claims, and only ever grow
SELECT jobqueue.enqueue('again', queue => 'again') AS id \gset
SELECT attempts FROM jobqueue.claim('again');
SELECT jobqueue.release(:id, 1);
SELECT attempts FROM jobqueue.claim('again');
SELECT jobqueue.fail(:id, 2, 'x', retry_in => '0');
CALL pg_temp.wait_until($$EXISTS (SELECT 1 FROM jobqueue.claim('again'))$$);
SELECT attempts, status FROM jobqueue.tasks WHERE id = :id;

-- a lease that ran out: the task comes back without anybody's doing, and the old claim is worth nothing
SELECT jobqueue.enqueue('lease', queue => 'lease') AS id \gset
SELECT attempts, lease_expires_at BETWEEN now() AND clock_timestamp() + interval '50 ms'
	FROM jobqueue.claim('lease', lease => '50 ms');
CALL pg_temp.wait_until($$EXISTS (SELECT 1 FROM jobqueue.claim('lease', lease => '1 h'))$$);
SELECT status, attempts, lease_expires_at > now(), last_error LIKE '%lease%' FROM jobqueue.tasks WHERE id = :id;
SELECT jobqueue.complete(:id, 1), jobqueue.fail(:id, 1, 'late'), jobqueue.extend_lease(:id, 1),
	jobqueue.release(:id, 1);
SELECT status, attempts, lease_expires_at > now(), result FROM jobqueue.tasks WHERE id = :id;
SELECT jobqueue.complete(:id, 2, '"the second"');
SELECT status, attempts, lease_expires_at, result FROM jobqueue.tasks WHERE id = :id;
-- with the last attempt gone, it is there to see
SELECT jobqueue.enqueue('lease-last', queue => 'lease', max_attempts => 1) AS id \gset
SELECT attempts FROM jobqueue.claim('lease', lease => '20 ms');
CALL pg_temp.wait_until($$(SELECT count(*) FROM jobqueue.claim('lease')) = 0
	AND EXISTS (SELECT 1 FROM jobqueue.tasks WHERE type = 'lease-last' AND status = 'failed')$$);
SELECT attempts, last_error IS NOT NULL, finished_at IS NOT NULL, pg_temp.leaf(id) FROM jobqueue.tasks WHERE id = :id;

-- types with a handler are left to the server, unless asked for by name
CREATE FUNCTION claim_handler(payload jsonb) RETURNS void LANGUAGE sql AS '';
SELECT jobqueue.enqueue('handled', '1', 'claim-mixed') + jobqueue.enqueue('unhandled', '2', 'claim-mixed')
	+ jobqueue.enqueue('handled', '3', 'claim-mixed') + jobqueue.enqueue('handled', '4', 'claim-mixed') > 0;
-- in this transaction only, so that no worker takes part
BEGIN;
SET LOCAL client_min_messages = warning;
SELECT jobqueue.register_handler('handled', 'claim_handler(jsonb)');
SELECT type, payload FROM jobqueue.claim('claim-mixed', 10);
SELECT count(*) FROM jobqueue.claim(NULL, 10);
SELECT type, payload FROM jobqueue.claim('claim-mixed', 1, types => '{handled}');
SELECT type, payload FROM jobqueue.claim(NULL, 1, types => '{handled,unhandled}');
ROLLBACK;
SELECT type, payload FROM jobqueue.claim('claim-mixed', 10);
DROP FUNCTION claim_handler;

-- under other isolation levels
SELECT jobqueue.enqueue('level', queue => 'level') > 0;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT type FROM jobqueue.claim('level');
ROLLBACK;
BEGIN READ ONLY;
SELECT pg_temp.try($$SELECT id FROM jobqueue.claim('level')$$) ~ '^25006: ';
ROLLBACK;

-- what is refused
SELECT command, pg_temp.try('SELECT id FROM jobqueue.claim(' || command || ')') FROM (VALUES
	($$max_tasks => NULL$$),
	($$max_tasks => 0$$),
	($$max_tasks => -1$$),
	($$lease => NULL$$),
	($$lease => '0'$$),
	($$lease => '-1 s'$$),
	($$lease => '-1 month'$$),
	($$lease => '170000000 years'$$),
	($$lease => 'no interval'$$),
	($$''$$),
	($$repeat('q', 64)$$),
	($$types => '{}'$$),
	($$types => '{NULL}'$$),
	($$types => '{a,""}'$$),
	($$claimed_by => ''$$),
	($$max_tasks => 2147483647$$)
) v(command);
DELETE FROM jobqueue.tasks;
