-- wait_for: what it returns, how long it waits, what it refuses
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all

-- finished already: at once
SELECT jobqueue.enqueue('wait', queue => 'wait') AS completed \gset
SELECT jobqueue.complete(id, attempts, '"r"') FROM jobqueue.claim('wait');
SELECT jobqueue.enqueue('wait', queue => 'wait') AS failed \gset
SELECT jobqueue.fail(id, attempts, 'e', retryable => false) FROM jobqueue.claim('wait');
SELECT jobqueue.enqueue('wait', queue => 'wait') AS cancelled \gset
SELECT jobqueue.cancel(:cancelled);
SELECT id = :completed, status, result FROM jobqueue.wait_for(:completed);
SELECT id = :failed, status, last_error FROM jobqueue.wait_for(:failed);
SELECT id = :cancelled, status FROM jobqueue.wait_for(:cancelled, '0');
SELECT w::text = t::text FROM jobqueue.tasks t, jobqueue.wait_for(:completed) w WHERE t.id = :completed;

-- not in time: null, and not much later
SELECT jobqueue.enqueue('wait', queue => 'wait') AS id \gset
SELECT clock_timestamp() AS began \gset
SELECT jobqueue.wait_for(:id, '300 ms') IS NULL;
SELECT clock_timestamp() - :'began' BETWEEN '300 ms' AND '5 s';
SELECT clock_timestamp() AS began \gset
SELECT jobqueue.wait_for(:id, '0') IS NULL;
SELECT clock_timestamp() - :'began' < '3 s';
-- the same while it is scheduled, or processing
SELECT jobqueue.enqueue('wait', queue => 'wait', delay => '1 h') AS later \gset
SELECT jobqueue.wait_for(:later, '10 ms') IS NULL;
SELECT count(*) FROM jobqueue.claim('wait');
SELECT jobqueue.wait_for(:id, '10 ms') IS NULL;

-- interrupted
\set VERBOSITY sqlstate
SET statement_timeout = '100 ms';
SELECT jobqueue.wait_for(:id);
RESET statement_timeout;

-- what is refused: what can never end while it waits
BEGIN;
SELECT jobqueue.enqueue('wait') AS own \gset
SELECT jobqueue.wait_for(:own, '10 s');
ROLLBACK;
BEGIN;
SAVEPOINT s;
INSERT INTO jobqueue.tasks (type) VALUES ('wait') RETURNING id AS own \gset
RELEASE s;
SELECT jobqueue.wait_for(:own, '10 s');
ROLLBACK;
SELECT jobqueue.wait_for(jobqueue.enqueue('wait'), '10 s');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT jobqueue.wait_for(:id, '10 s');
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT jobqueue.wait_for(:id, '10 s');
ROLLBACK;
\set VERBOSITY default

SELECT command, pg_temp.try('SELECT jobqueue.' || command) FROM (VALUES
	($$wait_for(NULL)$$),
	($$wait_for(NULL, '1 s')$$),
	($$wait_for(-1)$$),
	($$wait_for(9223372036854775807, '10 s')$$),
	($$wait_for(1, '-1 s')$$),
	($$wait_for(1, '-1 month')$$),
	($$wait_for(1, 'no interval')$$),
	($$wait_for()$$)
) v(command);

-- a producer waits for its own tasks, not for others'
CREATE ROLE w_producer;
CREATE ROLE w_other;
SELECT jobqueue.grant_access('w_producer', 'producer'), jobqueue.grant_access('w_other', 'producer');
SET ROLE w_other;
SELECT jobqueue.enqueue('wait-role', '{"secret": 1}', 'wait-role') AS others \gset
RESET ROLE;
SELECT jobqueue.complete(id, attempts) FROM jobqueue.claim('wait-role');
SET ROLE w_producer;
SELECT jobqueue.enqueue('wait-role', '{"own": 1}', 'wait-role') AS own \gset
RESET ROLE;
SELECT jobqueue.complete(id, attempts, '"for its producer"') FROM jobqueue.claim('wait-role');
SET ROLE w_producer;
SELECT status, payload, result FROM jobqueue.wait_for(:own, '10 s');
\set VERBOSITY sqlstate
SELECT status, payload FROM jobqueue.wait_for(:others, '10 s');
SELECT status, payload FROM jobqueue.wait_for(:completed, '10 s');
\set VERBOSITY default
RESET ROLE;
-- a role that may read all tasks may wait for all
SELECT jobqueue.grant_access('w_producer', 'consumer');
SET ROLE w_producer;
SELECT status, payload FROM jobqueue.wait_for(:others, '10 s');
RESET ROLE;
SELECT jobqueue.revoke_access('w_producer', 'consumer'), jobqueue.revoke_access('w_producer', 'producer'),
	jobqueue.revoke_access('w_other', 'producer');
DROP ROLE w_producer, w_other;
DELETE FROM jobqueue.tasks;
