-- Limits: group_key, group_limit, max_running, rates; of queues and of types; for claims from outside and for workers
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
-- What a claim gets: the payloads, in order of ids.
CREATE FUNCTION pg_temp.take(q text, n int DEFAULT 1, t text[] DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
	SELECT coalesce(string_agg(c.payload #>> '{}', ' ' ORDER BY c.id), '-') FROM jobqueue.claim(q, n, types => t) c
$$;
-- The claimed task with this payload is done.
CREATE FUNCTION pg_temp.done(p text) RETURNS boolean LANGUAGE sql AS $$
	SELECT jobqueue.complete(id, attempts) FROM jobqueue.tasks WHERE payload = to_jsonb(p) AND status = 'processing'
$$;
CREATE FUNCTION pg_temp.put(q text, p text, g text DEFAULT NULL, priority int DEFAULT 0, type text DEFAULT 'out') RETURNS bigint LANGUAGE sql AS $$
	SELECT jobqueue.enqueue(type, to_jsonb(p), q, group_key => g, priority => priority)
$$;
\set ECHO all

-- arguments
SELECT pg_temp.try($$SELECT jobqueue.alter_queue('lq', $$ || a || ')') AS said, a FROM unnest('{weight => 1001, weight => -1, max_running => -1,
	rate_limit => -1, rate_period => ''-1 s'', rate_burst => -1, group_limit => -1, group_rate_limit => -1, group_rate_period => ''-1 s'',
	group_rate_burst => -1, aging => ''-1 s'', rate_period => ''178000000 years''}'::text[]) a;
SELECT pg_temp.try($$SELECT jobqueue.alter_queue('')$$);
SELECT pg_temp.try($$SELECT jobqueue.alter_queue(NULL)$$);
SELECT pg_temp.try($$SELECT jobqueue.alter_queue(repeat('x', 64))$$);
SELECT count(*) FROM jobqueue.queues;
SELECT pg_temp.try($$SELECT jobqueue.enqueue('out', group_key => '')$$);

-- what the table shows: what is left out stays, 0 means none
\pset null -
SELECT jobqueue.alter_queue('lq', 1, 1000, 2, '3 s', 4, 5, false, 6, '7 s', 8, '9 s');
SELECT max_running, weight, rate_limit, rate_period, rate_burst, group_limit, group_hold_on_retry, group_rate_limit, group_rate_period, group_rate_burst, aging,
	paused_at, limits_changed_at = now() FROM jobqueue.queues;
SELECT jobqueue.alter_queue('lq', max_running => 11, group_hold_on_retry => true, aging => '0');
SELECT jobqueue.alter_queue('lq');
SELECT max_running, weight, rate_limit, rate_period, rate_burst, group_limit, group_hold_on_retry, group_rate_limit, group_rate_period, group_rate_burst, aging,
	paused_at, limits_changed_at = now() FROM jobqueue.queues;
SELECT jobqueue.alter_queue('lq', 0, 0, 0, '0', 0, 0, NULL, 0, '0', 0, '0');
SELECT max_running, weight, rate_limit, rate_period, rate_burst, group_limit, group_hold_on_retry, group_rate_limit, group_rate_period, group_rate_burst, aging FROM jobqueue.queues;
DELETE FROM jobqueue.queues;
SET client_min_messages = warning;
CREATE FUNCTION lq_handler(payload jsonb) RETURNS text LANGUAGE sql AS $$SELECT payload #>> '{}'$$;
SELECT pg_temp.try($$SELECT jobqueue.register_handler('lq', 'lq_handler(jsonb)', $$ || a || ')') AS said, a
FROM unnest('{max_running => -1, rate_limit => -1, rate_period => ''-1 s'', rate_burst => -1, group_limit => -1}'::text[]) a;
SELECT jobqueue.register_handler('lq', 'lq_handler(jsonb)', max_running => 1, rate_limit => 2, rate_period => '3 s', rate_burst => 4, group_limit => 5);
SELECT max_running, rate_limit, rate_period, rate_burst, group_limit FROM jobqueue.handlers;
SELECT pg_temp.try($$SELECT jobqueue.alter_handler('lq', $$ || a || ')') AS said, a
FROM unnest('{max_running => -1, rate_limit => -1, rate_period => ''-1 s'', rate_burst => -1, group_limit => -1}'::text[]) a;
SELECT jobqueue.alter_handler('lq', rate_limit => 7);
SELECT max_running, rate_limit, rate_period, rate_burst, group_limit FROM jobqueue.handlers;
SELECT jobqueue.alter_handler('lq', max_running => 0, rate_limit => 0, rate_period => '0', rate_burst => 0, group_limit => 0);
SELECT max_running, rate_limit, rate_period, rate_burst, group_limit FROM jobqueue.handlers;
-- registered again: replaced
SELECT jobqueue.alter_handler('lq', max_running => 3);
SELECT jobqueue.register_handler('lq', 'lq_handler(jsonb)', queue => 'lq');
SELECT max_running, rate_limit, rate_period, rate_burst, group_limit FROM jobqueue.handlers;

-- who may
CREATE ROLE regress_lq_none;
CREATE ROLE regress_lq_all;
CREATE ROLE regress_lq_one;
CREATE ROLE regress_lq_consumer;
SELECT jobqueue.grant_access('regress_lq_all', 'manager');
SELECT jobqueue.grant_access('regress_lq_one', 'manager', queue => 'lq-one');
SELECT jobqueue.grant_access('regress_lq_consumer', 'consumer');
SET ROLE regress_lq_none;
SELECT pg_temp.try($$SELECT jobqueue.alter_queue('lq-one', max_running => 1)$$);
SET ROLE regress_lq_consumer;
SELECT pg_temp.try($$SELECT jobqueue.alter_queue('lq-one', max_running => 1)$$);
SET ROLE regress_lq_one;
SELECT pg_temp.try($$SELECT jobqueue.alter_queue('lq-one', max_running => 1)$$);
SELECT pg_temp.try($$SELECT jobqueue.alter_queue('lq-two', max_running => 1)$$);
SELECT pg_temp.try($$UPDATE jobqueue.queues SET max_running = 5$$);
SELECT queue, max_running FROM jobqueue.queues ORDER BY 1;
SET ROLE regress_lq_all;
SELECT pg_temp.try($$SELECT jobqueue.alter_queue('lq-two', max_running => 1)$$);
SELECT queue, max_running FROM jobqueue.queues ORDER BY 1;
RESET ROLE;
SET ROLE regress_lq_one;
SELECT queue, max_running FROM jobqueue.queues ORDER BY 1;
RESET ROLE;
SELECT jobqueue.revoke_access('regress_lq_all');
SELECT jobqueue.revoke_access('regress_lq_one');
SELECT jobqueue.revoke_access('regress_lq_consumer');
DROP ROLE regress_lq_none, regress_lq_all, regress_lq_one, regress_lq_consumer;
DELETE FROM jobqueue.queues;

-- groups, claimed from outside: one of each group at once, and tasks without a group as ever
SELECT count(pg_temp.put('go', g || n, nullif(g, '-'))) FROM unnest('{a,b,-}'::text[]) g, generate_series(1, 3) n;
SELECT pg_temp.take('go', 100);
SELECT pg_temp.take('go', 100);
SELECT group_key, payload, status FROM jobqueue.tasks ORDER BY id;
SELECT pg_temp.done('a1');
SELECT pg_temp.take('go', 100);
SELECT pg_temp.done('b1');
SELECT pg_temp.done('a2');
SELECT pg_temp.take('go', 1), pg_temp.take('go', 1), pg_temp.take('go', 1);
SELECT waiting, running FROM jobqueue.queue_status WHERE queue = 'go';
-- given back: it is the first again
SELECT jobqueue.release(id, attempts) FROM jobqueue.tasks WHERE payload = '"b2"';
SELECT pg_temp.take('go', 100);
-- snoozed, failed with a retry: the group waits
SELECT jobqueue.snooze(id, attempts, '1 h') FROM jobqueue.tasks WHERE payload = '"b2"';
SELECT pg_temp.take('go', 100);
SELECT jobqueue.retry(id) FROM jobqueue.tasks WHERE payload = '"b2"';
SELECT pg_temp.take('go', 100);
SELECT jobqueue.fail(id, attempts, 'no', retry_in => '1 h') FROM jobqueue.tasks WHERE payload = '"b2"';
SELECT pg_temp.take('go', 100);
-- cancelled while it waits: the next one goes on
SELECT jobqueue.cancel(id) FROM jobqueue.tasks WHERE payload = '"b2"';
SELECT pg_temp.take('go', 100);
-- failed for good
SELECT jobqueue.fail(id, attempts, 'no', retryable => false) FROM jobqueue.tasks WHERE payload = '"b3"';
SELECT pg_temp.put('go', 'b4', 'b') > 0;
SELECT pg_temp.take('go', 100);
-- a running one that is cancelled
SELECT pg_temp.put('go', 'b5', 'b') > 0;
SELECT pg_temp.take('go', 100);
SELECT jobqueue.cancel(id) FROM jobqueue.tasks WHERE payload = '"b4"';
SELECT pg_temp.take('go', 100);
DELETE FROM jobqueue.tasks;

-- group_hold_on_retry => false: the next of the group does not wait
SELECT jobqueue.alter_queue('gf', group_hold_on_retry => false);
SELECT count(pg_temp.put('gf', 'a' || n, 'a')) FROM generate_series(1, 4) n;
SELECT pg_temp.take('gf', 100);
SELECT jobqueue.fail(id, attempts, 'no', retry_in => '1 h') FROM jobqueue.tasks WHERE payload = '"a1"';
SELECT pg_temp.take('gf', 100);
SELECT jobqueue.snooze(id, attempts, '1 h') FROM jobqueue.tasks WHERE payload = '"a2"';
SELECT pg_temp.take('gf', 100);
-- changed meanwhile: now those two hold it back
SELECT jobqueue.alter_queue('gf', group_hold_on_retry => true);
SELECT pg_temp.done('a3');
SELECT pg_temp.take('gf', 100);
SELECT jobqueue.retry(id) FROM jobqueue.tasks WHERE payload = '"a1"';
SELECT jobqueue.retry(id) FROM jobqueue.tasks WHERE payload = '"a2"';
SELECT pg_temp.take('gf', 100);
DELETE FROM jobqueue.tasks;

-- lower priorities first; the same key in another queue is another group
SELECT count(pg_temp.put('gp', 'a' || n, 'a', 3 - n)) FROM generate_series(1, 3) n;
SELECT count(pg_temp.put('gp-2', 'other a' || n, 'a', n)) FROM generate_series(1, 2) n;
SELECT pg_temp.take(NULL, 100);
SELECT pg_temp.done('a3');
SELECT pg_temp.done('other a1');
SELECT pg_temp.take('gp', 100), pg_temp.take('gp-2', 100);
DELETE FROM jobqueue.tasks;

-- more than one at once; changed while some run; of a type
SELECT count(pg_temp.put('gl', 'a' || n, 'a')) FROM generate_series(1, 9) n;
SELECT jobqueue.alter_queue('gl', group_limit => 3);
SELECT pg_temp.take('gl', 100);
SELECT jobqueue.alter_queue('gl', group_limit => 4);
SELECT pg_temp.take('gl', 100);
SELECT jobqueue.alter_queue('gl', group_limit => 2);
SELECT pg_temp.done('a1'), pg_temp.done('a2');
SELECT pg_temp.take('gl', 100);
SELECT pg_temp.done('a3');
SELECT pg_temp.take('gl', 100);
SELECT jobqueue.register_handler('lq-type', 'lq_handler(jsonb)', queue => 'gl', group_limit => 3);
SELECT count(pg_temp.put('gl', 'b' || n, 'b', type => 'lq-type')) FROM generate_series(1, 5) n;
SELECT jobqueue.pause_queue('gl');
SELECT pg_temp.take('gl', 100);
SELECT jobqueue.unregister_handler('lq-type');
SELECT jobqueue.register_handler('lq-type', 'lq_handler(jsonb)', queue => 'elsewhere', group_limit => 3);
DELETE FROM jobqueue.tasks;
SELECT jobqueue.resume_queue('gl');

-- in one transaction: what it has done with its claims counts for itself at once
SELECT count(pg_temp.put('gt', 'a' || n, 'a')) FROM generate_series(1, 5) n;
BEGIN;
SELECT pg_temp.take('gt', 100);
SELECT pg_temp.take('gt', 100);
SELECT pg_temp.done('a1');
SELECT pg_temp.take('gt', 100);
SAVEPOINT s;
SELECT pg_temp.done('a2');
SELECT pg_temp.take('gt', 100);
ROLLBACK TO s;
SELECT pg_temp.take('gt', 100);
SELECT pg_temp.done('a2');
SELECT pg_temp.take('gt', 100);
ROLLBACK;
SELECT pg_temp.take('gt', 100);
-- complete_and_claim makes room for its own
SELECT t2.payload FROM jobqueue.tasks t, jobqueue.complete_and_claim(ARRAY[t.id], ARRAY[t.attempts], NULL, 'gt', 10) t2 WHERE t.payload = '"a1"';
SELECT t2.payload FROM jobqueue.tasks t, jobqueue.complete_and_claim(ARRAY[t.id], ARRAY[t.attempts], NULL, 'gt', 10) t2 WHERE t.payload = '"a2"';
SELECT pg_temp.take('gt', 100);
-- a subtransaction that fails
DO $$ BEGIN PERFORM pg_temp.done('a3'); PERFORM pg_temp.take('gt'); RAISE division_by_zero; EXCEPTION WHEN division_by_zero THEN END $$;
SELECT pg_temp.take('gt', 100);
SELECT pg_temp.done('a3');
SELECT pg_temp.take('gt', 100);
DELETE FROM jobqueue.tasks;

-- max_running of a queue
SELECT count(pg_temp.put('mr', 'm' || n)) FROM generate_series(1, 12) n;
SELECT jobqueue.alter_queue('mr', max_running => 3);
SELECT pg_temp.take('mr', 2), pg_temp.take('mr', 2), pg_temp.take('mr', 2);
SELECT pg_temp.done('m1');
SELECT pg_temp.take(NULL, 100);
SELECT jobqueue.alter_queue('mr', max_running => 5);
SELECT pg_temp.take('mr', 100);
SELECT jobqueue.alter_queue('mr', max_running => 1);
SELECT pg_temp.done('m2'), pg_temp.done('m3'), pg_temp.done('m4'), pg_temp.done('m5');
SELECT pg_temp.take('mr', 100);
SELECT jobqueue.release(id, attempts) FROM jobqueue.tasks WHERE payload = '"m6"';
SELECT pg_temp.take('mr', 100);
SELECT jobqueue.snooze(id, attempts, '1 h') FROM jobqueue.tasks WHERE payload = '"m6"';
SELECT pg_temp.take('mr', 100);
SELECT jobqueue.cancel(id) FROM jobqueue.tasks WHERE payload = '"m7"';
SELECT pg_temp.take('mr', 100);
BEGIN;
SELECT jobqueue.alter_queue('mr', max_running => 3);
SELECT pg_temp.take('mr', 100);
ROLLBACK;
SELECT pg_temp.take('mr', 100);
SELECT jobqueue.alter_queue('mr', max_running => 0);
SELECT pg_temp.take('mr', 100);
DELETE FROM jobqueue.tasks;

-- of a type, in all queues; other types of the queue are not held up
SELECT jobqueue.register_handler('mt', 'lq_handler(jsonb)', max_running => 2);
SELECT jobqueue.pause_queue(q) FROM unnest('{mt-1,mt-2}'::text[]) q;
SELECT count(pg_temp.put('mt-' || q, 'm' || q || n, type => 'mt')) FROM generate_series(1, 3) n, generate_series(1, 2) q;
SELECT count(pg_temp.put('mt-1', 'other' || n)) FROM generate_series(1, 2) n;
BEGIN;
SELECT jobqueue.resume_queue(q) FROM unnest('{mt-1,mt-2}'::text[]) q;
SELECT pg_temp.take('mt-1', 100);
SELECT pg_temp.take('mt-2', 100);
SELECT pg_temp.take('mt-2', 100, '{mt}');
ROLLBACK;
SELECT jobqueue.unregister_handler('mt');
DELETE FROM jobqueue.tasks;

-- a rate: what may begin at once is the burst; what is given back has cost its token
SELECT count(pg_temp.put('rl', 'r' || n)) FROM generate_series(1, 9) n;
SELECT jobqueue.alter_queue('rl', rate_limit => 1, rate_period => '1 d', rate_burst => 4);
SELECT pg_temp.take('rl', 2);
SELECT jobqueue.release(id, attempts) FROM jobqueue.tasks WHERE payload = '"r1"';
SELECT pg_temp.take('rl', 100);
SELECT pg_temp.take('rl', 100);
SELECT jobqueue.alter_queue('rl', rate_limit => 0);
SELECT pg_temp.take('rl', 100);
DELETE FROM jobqueue.tasks;
-- of each group
SELECT count(pg_temp.put('rg', g || n, g)) FROM unnest('{a,b}'::text[]) g, generate_series(1, 4) n;
SELECT jobqueue.alter_queue('rg', group_limit => 10, group_rate_limit => 2, group_rate_period => '1 d');
SELECT pg_temp.take('rg', 3);
SELECT pg_temp.take('rg', 100);
SELECT pg_temp.take('rg', 100);
DELETE FROM jobqueue.tasks;

-- expired leases make room
SELECT count(pg_temp.put('ex', 'e' || n, 'e')) FROM generate_series(1, 2) n;
SELECT jobqueue.alter_queue('ex', max_running => 1);
SELECT count(*) FROM jobqueue.claim('ex', 10, lease => '1 ms');
CALL pg_temp.wait_until($$EXISTS (SELECT 1 FROM jobqueue.tasks_live WHERE payload = '"e1"' AND status <> 'processing')$$);
SELECT pg_temp.take('ex', 100);
SELECT jobqueue.extend_lease(id, attempts) FROM jobqueue.tasks WHERE payload = '"e1"';
DELETE FROM jobqueue.tasks WHERE status = 'processing';
-- deleted by hand, changed by hand: set right within a poll interval
SELECT pg_temp.put('ex', 'e3', 'e') > 0;
CALL pg_temp.wait_until($$pg_temp.take('ex', 100) = 'e2'$$);
UPDATE jobqueue.tasks SET status = 'completed' WHERE payload = '"e2"';
CALL pg_temp.wait_until($$pg_temp.take('ex', 100) = 'e3'$$);
UPDATE jobqueue.tasks SET status = 'pending' WHERE payload = '"e3"';
CALL pg_temp.wait_until($$pg_temp.take('ex', 100) = 'e3'$$);
DELETE FROM jobqueue.tasks;

-- workers: the tasks of a group run in order, each once, with max_running 1 as well
CREATE TABLE lq_ledger (seq serial, grp text, n int, seen int);
CREATE FUNCTION lq_note(task jobqueue.tasks) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.lq_ledger (grp, n, seen) SELECT task.group_key, (task.payload #>> '{}')::int,
		(SELECT coalesce(max(l.n), 0) FROM public.lq_ledger l WHERE l.grp = task.group_key);
END $$;
SELECT jobqueue.register_handler('lq-note', 'lq_note(jobqueue.tasks)', queue => 'lw');
SELECT count(jobqueue.enqueue('lq-note', to_jsonb(n), group_key => 'g' || g)) FROM generate_series(1, 20) n, generate_series(1, 10) g;
CALL pg_temp.wait_until($$NOT EXISTS (SELECT 1 FROM jobqueue.tasks_live WHERE type = 'lq-note')$$);
SELECT count(*), count(DISTINCT (grp, n)), bool_and(seen = n - 1) FROM lq_ledger;
-- an outside claim holds the group back from the workers
TRUNCATE lq_ledger;
SELECT jobqueue.pause_queue('lw');
SELECT count(jobqueue.enqueue('lq-note', to_jsonb(n), group_key => 'g' || g)) FROM generate_series(1, 3) n, generate_series(1, 2) g;
BEGIN;
SELECT jobqueue.resume_queue('lw');
SELECT id, attempts FROM jobqueue.claim('lw', 1) \gset
COMMIT;
CALL pg_temp.wait_until($$(SELECT count(*) FROM lq_ledger) = 3$$);
SELECT grp, array_agg(n ORDER BY seq) FROM lq_ledger GROUP BY grp;
SELECT status, count(*) FROM jobqueue.tasks WHERE type = 'lq-note' AND group_key = 'g1' AND finished_at IS NULL GROUP BY 1 ORDER BY 1;
SELECT jobqueue.complete(:id, :attempts);
CALL pg_temp.wait_until($$(SELECT count(*) FROM lq_ledger) = 5$$);
SELECT grp, array_agg(n ORDER BY seq) FROM lq_ledger GROUP BY grp ORDER BY grp;

-- drain, too
SELECT jobqueue.unregister_handler(type) FROM jobqueue.handlers WHERE type LIKE 'lq%' ORDER BY type;
DROP TABLE lq_ledger;
DROP FUNCTION lq_note;
DROP FUNCTION lq_handler;
DELETE FROM jobqueue.tasks;
DELETE FROM jobqueue.queues;
