-- pause_queue and resume_queue: nothing more is claimed from a paused queue
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all

SELECT array_agg(jobqueue.enqueue('paused', queue => q) ORDER BY q) AS ids FROM unnest('{pq-1,pq-2}'::text[]) q \gset
SELECT jobqueue.pause_queue('pq-1');
SELECT jobqueue.pause_queue('pq-1');
SELECT queue, paused_at BETWEEN now() - interval '1 min' AND now() FROM jobqueue.queues WHERE queue LIKE 'pq%';
SELECT queue, waiting, paused FROM jobqueue.queue_status WHERE queue LIKE 'pq%' ORDER BY queue;
SELECT count(*) FROM jobqueue.claim('pq-1');
SELECT count(*) FROM jobqueue.claim('pq-1', types => '{paused}');
SELECT queue FROM jobqueue.claim(NULL, 10);
-- enqueued meanwhile, and scheduled ones that become due: they wait, too
SELECT jobqueue.enqueue('paused', '"later"', 'pq-1') AS later, jobqueue.enqueue('paused', '"due"', 'pq-1',
	delay => '10 ms') AS due \gset
SELECT count(*) FROM jobqueue.claim('pq-1', 10);
-- what is claimed already goes on
SELECT jobqueue.complete((:'ids'::bigint[])[2], 1);
SELECT jobqueue.resume_queue('pq-1');
SELECT jobqueue.resume_queue('pq-1');
SELECT jobqueue.resume_queue('pq-never-paused');
CALL pg_temp.wait_until($$(SELECT count(*) FROM jobqueue.claim('pq-1', 10)) = 0
	AND NOT EXISTS (SELECT 1 FROM jobqueue.tasks_live WHERE type = 'paused' AND status <> 'processing')$$);
SELECT queue, paused FROM jobqueue.queue_status WHERE queue LIKE 'pq%' ORDER BY queue;
-- rolled back
BEGIN;
SELECT jobqueue.pause_queue('pq-2');
SELECT jobqueue.enqueue('paused', queue => 'pq-2') > 0;
ROLLBACK;
SELECT jobqueue.enqueue('paused', queue => 'pq-2') > 0;
SELECT count(*) FROM jobqueue.claim('pq-2');
DELETE FROM jobqueue.tasks;

-- all queues, also those that do not exist yet; each is resumed alone, or all together
SELECT jobqueue.pause_queue(NULL);
SELECT jobqueue.enqueue('paused', queue => 'pq-unheard-of') + jobqueue.enqueue('paused') +
	jobqueue.enqueue('paused', queue => 'pq-1') > 0;
SELECT count(*) FROM jobqueue.claim('pq-unheard-of');
SELECT count(*) FROM jobqueue.claim();
SELECT count(*) FROM jobqueue.claim(NULL, 10);
SELECT count(*) FROM jobqueue.claim(NULL, 10, types => '{paused}');
SELECT bool_and(paused) FROM jobqueue.queue_status;
SELECT jobqueue.pause_queue(NULL);
SELECT jobqueue.resume_queue(NULL);
SELECT jobqueue.resume_queue(NULL);
SELECT bool_or(paused) FROM jobqueue.queue_status;
SELECT queue FROM jobqueue.claim(NULL, 10) ORDER BY queue COLLATE "C";

-- workers
SET client_min_messages = warning;
CREATE FUNCTION pq_handler(payload jsonb) RETURNS text LANGUAGE sql AS $$SELECT 'ran'$$;
SELECT jobqueue.register_handler('pq', 'pq_handler(jsonb)', queue => 'pq-1');
SELECT jobqueue.pause_queue('pq-1');
SELECT jobqueue.enqueue('pq') AS a, jobqueue.enqueue('pq', queue => 'pq-2') AS b \gset
INSERT INTO jobqueue.tasks (type, queue) VALUES ('pq', 'pq-1') RETURNING id AS c \gset
SELECT status, result FROM jobqueue.wait_for(:b, '10 s');
SELECT status, attempts FROM jobqueue.tasks WHERE id IN (:a, :c);
SELECT status FROM jobqueue.wait_for(:a, '100 ms');
-- woken by the resumption, not by the next poll
SELECT clock_timestamp() AS resumed_at \gset
SELECT jobqueue.resume_queue('pq-1');
SELECT status, finished_at - :'resumed_at' < '3 s' FROM jobqueue.wait_for(:a, '10 s');
SELECT status FROM jobqueue.wait_for(:c, '10 s');
SELECT jobqueue.pause_queue(NULL);
SELECT jobqueue.enqueue('pq', queue => 'pq-3') AS d \gset
SELECT status FROM jobqueue.wait_for(:d, '100 ms');
SELECT clock_timestamp() AS resumed_at \gset
SELECT jobqueue.resume_queue(NULL);
SELECT status, finished_at - :'resumed_at' < '3 s' FROM jobqueue.wait_for(:d, '10 s');
-- a delayed task of a paused queue
SELECT jobqueue.pause_queue('pq-1');
SELECT jobqueue.enqueue('pq', delay => '10 ms') AS e \gset
SELECT status FROM jobqueue.wait_for(:e, '200 ms');
SELECT jobqueue.resume_queue('pq-1');
SELECT status, attempts FROM jobqueue.wait_for(:e, '10 s');
SELECT jobqueue.unregister_handler('pq');
DROP FUNCTION pq_handler;

SELECT command, pg_temp.try('SELECT jobqueue.' || command) FROM (VALUES
	($$pause_queue('')$$),
	($$pause_queue(repeat('q', 64))$$),
	($$pause_queue(repeat('ä', 32))$$),
	($$pause_queue()$$),
	($$resume_queue('')$$),
	($$resume_queue(repeat('q', 64))$$),
	($$resume_queue()$$)
) v(command);
SELECT count(*) FROM jobqueue.queues WHERE paused_at IS NOT NULL;
DELETE FROM jobqueue.tasks;
