-- Limits: group_key, group_limit, max_running, rates; of queues and of types; for claims from outside and for workers
CREATE TEMP TABLE other_queues AS SELECT queue FROM jobqueue.queues;
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
CREATE FUNCTION pg_temp.put(q text, p text, g text DEFAULT NULL, priority int DEFAULT 0, type text DEFAULT 'out')
	RETURNS bigint LANGUAGE sql AS $$
	SELECT jobqueue.enqueue(type, to_jsonb(p), q, group_key => g, priority => priority)
$$;
-- All that claims get, one after the other.
CREATE FUNCTION pg_temp.take_all(q text, t text[] DEFAULT NULL) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	taken text;
	everything text[];
BEGIN
	LOOP
		taken := pg_temp.take(q, 100, t);
		EXIT WHEN taken = '-';
		everything := everything || string_to_array(taken, ' ');
	END LOOP;
	RETURN coalesce((SELECT string_agg(e, ' ' ORDER BY e) FROM unnest(everything) e), '-');
END $$;
-- After a change of the configuration nothing is claimed until it has been counted what is running.
CREATE PROCEDURE pg_temp.counted() LANGUAGE plpgsql AS $$
DECLARE
	met boolean;
BEGIN
	PERFORM jobqueue.enqueue('canary', queue => 'canary', group_key => 'canary');
	CALL pg_temp.wait_until($c$(SELECT bool_or(jobqueue.complete(id, attempts)) FROM jobqueue.claim('canary'))$c$, met);
	IF met IS DISTINCT FROM true THEN
		RAISE 'nothing can be claimed';
	END IF;
END $$;
-- All are gone; not by hand, for that is noticed only at the next poll.
CREATE PROCEDURE pg_temp.clear() LANGUAGE plpgsql AS $$
BEGIN
	PERFORM jobqueue.cancel(id) FROM jobqueue.tasks_live;
	DELETE FROM jobqueue.tasks;
END $$;
\set ECHO all

-- arguments
SELECT pg_temp.try($$SELECT jobqueue.alter_queue('lq', $$ || a || ')') AS said,
	a FROM unnest('{weight => 1001, weight => -1, max_running => -1,
	rate_limit => -1, rate_period => ''-1 s'', rate_burst => -1, group_limit => -1, group_rate_limit => -1, '
		'group_rate_period => ''-1 s'',
	group_rate_burst => -1, aging => ''-1 s'', rate_period => ''178000000 years''}'::text[]) a;
SELECT pg_temp.try($$SELECT jobqueue.alter_queue('')$$);
SELECT pg_temp.try($$SELECT jobqueue.alter_queue(NULL)$$);
SELECT pg_temp.try($$SELECT jobqueue.alter_queue(repeat('x', 64))$$);
SELECT count(*) FROM jobqueue.queues WHERE queue ~ '^lq';
SELECT pg_temp.try($$SELECT jobqueue.enqueue('out', group_key => '')$$);

-- what the table shows: what is left out stays, 0 means none
\pset null -
SELECT jobqueue.alter_queue('lq', 1, 1000, 2, '3 s', 4, 5, false, 6, '7 s', 8, '9 s');
SELECT max_running, weight, rate_limit, rate_period, rate_burst, group_limit, group_hold_on_retry, group_rate_limit,
	group_rate_period, group_rate_burst, aging,
	paused_at, rate_changed_at IS NOT NULL FROM jobqueue.queues WHERE queue ~ '^lq';
SELECT jobqueue.alter_queue('lq', max_running => 11, group_hold_on_retry => true, aging => '0');
SELECT jobqueue.alter_queue('lq');
SELECT max_running, weight, rate_limit, rate_period, rate_burst, group_limit, group_hold_on_retry, group_rate_limit,
	group_rate_period, group_rate_burst, aging,
	paused_at, rate_changed_at IS NOT NULL FROM jobqueue.queues WHERE queue ~ '^lq';
SELECT jobqueue.alter_queue('lq', 0, 0, 0, '0', 0, 0, NULL, 0, '0', 0, '0');
SELECT max_running, weight, rate_limit, rate_period, rate_burst, group_limit, group_hold_on_retry, group_rate_limit,
	group_rate_period, group_rate_burst, aging FROM jobqueue.queues WHERE queue ~ '^lq';
DELETE FROM jobqueue.queues WHERE queue NOT IN (SELECT queue FROM other_queues);
SET client_min_messages = warning;
CREATE FUNCTION lq_handler(payload jsonb) RETURNS text LANGUAGE sql AS $$SELECT payload #>> '{}'$$;
SELECT pg_temp.try($$SELECT jobqueue.register_handler('lq', 'lq_handler(jsonb)', $$ || a || ')') AS said, a
FROM unnest(
'{max_running => -1, rate_limit => -1, rate_period => ''-1 s'', rate_burst => -1, group_limit => -1}'::text[]) a;
SELECT jobqueue.register_handler('lq', 'lq_handler(jsonb)', max_running => 1, rate_limit => 2, rate_period => '3 s',
	rate_burst => 4, group_limit => 5);
SELECT max_running, rate_limit, rate_period, rate_burst, group_limit FROM jobqueue.handlers;
SELECT pg_temp.try($$SELECT jobqueue.alter_handler('lq', $$ || a || ')') AS said, a
FROM unnest(
'{max_running => -1, rate_limit => -1, rate_period => ''-1 s'', rate_burst => -1, group_limit => -1}'::text[]) a;
SELECT jobqueue.alter_handler('lq', rate_limit => 7);
SELECT max_running, rate_limit, rate_period, rate_burst, group_limit FROM jobqueue.handlers;
SELECT jobqueue.alter_handler('lq', max_running => 0, rate_limit => 0, rate_period => '0', rate_burst => 0,
	group_limit => 0);
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
SELECT queue, max_running FROM jobqueue.queues WHERE queue ~ '^lq' ORDER BY 1;
SET ROLE regress_lq_all;
SELECT pg_temp.try($$SELECT jobqueue.alter_queue('lq-two', max_running => 1)$$);
SELECT queue, max_running FROM jobqueue.queues WHERE queue ~ '^lq' ORDER BY 1;
RESET ROLE;
SET ROLE regress_lq_one;
SELECT queue, max_running FROM jobqueue.queues WHERE queue ~ '^lq' ORDER BY 1;
RESET ROLE;
SELECT jobqueue.revoke_access('regress_lq_all', 'manager');
SELECT jobqueue.revoke_access('regress_lq_one', 'manager', queue => 'lq-one');
SELECT jobqueue.revoke_access('regress_lq_consumer', 'consumer');
DROP ROLE regress_lq_none, regress_lq_all, regress_lq_one, regress_lq_consumer;
DELETE FROM jobqueue.queues WHERE queue NOT IN (SELECT queue FROM other_queues);

CALL pg_temp.counted();
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
CALL pg_temp.clear();

-- group_hold_on_retry => false: the next of the group does not wait
SELECT jobqueue.alter_queue('gf', group_hold_on_retry => false);
SELECT count(pg_temp.put('gf', 'a' || n, 'a')) FROM generate_series(1, 4) n;
CALL pg_temp.counted();
SELECT pg_temp.take('gf', 100);
SELECT jobqueue.fail(id, attempts, 'no', retry_in => '1 h') FROM jobqueue.tasks WHERE payload = '"a1"';
SELECT pg_temp.take('gf', 100);
SELECT jobqueue.snooze(id, attempts, '1 h') FROM jobqueue.tasks WHERE payload = '"a2"';
SELECT pg_temp.take('gf', 100);
-- changed meanwhile: now those two hold it back
SELECT jobqueue.alter_queue('gf', group_hold_on_retry => true);
SELECT pg_temp.done('a3');
CALL pg_temp.counted();
SELECT pg_temp.take('gf', 100);
SELECT jobqueue.retry(id) FROM jobqueue.tasks WHERE payload = '"a1"';
SELECT jobqueue.retry(id) FROM jobqueue.tasks WHERE payload = '"a2"';
SELECT pg_temp.take('gf', 100);
CALL pg_temp.clear();

-- lower priorities first; the same key in another queue is another group
SELECT count(pg_temp.put('gp', 'a' || n, 'a', 3 - n)) FROM generate_series(1, 3) n;
SELECT count(pg_temp.put('gp-2', 'other a' || n, 'a', n)) FROM generate_series(1, 2) n;
SELECT pg_temp.take(NULL, 100);
SELECT pg_temp.done('a3');
SELECT pg_temp.done('other a1');
SELECT pg_temp.take('gp', 100), pg_temp.take('gp-2', 100);
CALL pg_temp.clear();

-- more than one at once; changed while some run; of a type
SELECT count(pg_temp.put('gl', 'a' || n, 'a')) FROM generate_series(1, 9) n;
SELECT jobqueue.alter_queue('gl', group_limit => 3);
CALL pg_temp.counted();
SELECT pg_temp.take_all('gl');
SELECT jobqueue.alter_queue('gl', group_limit => 4);
CALL pg_temp.counted();
SELECT pg_temp.take_all('gl');
SELECT jobqueue.alter_queue('gl', group_limit => 2);
CALL pg_temp.counted();
SELECT pg_temp.done('a1'), pg_temp.done('a2');
SELECT pg_temp.take('gl', 100);
SELECT pg_temp.done('a3');
CALL pg_temp.counted();
SELECT pg_temp.take_all('gl');
SELECT pg_temp.take('gl', 100);
-- that of the type comes first
CALL pg_temp.clear();
SELECT jobqueue.unregister_handler('lq');
SELECT jobqueue.pause_queue('gy');
SELECT jobqueue.register_handler('lq-type', 'lq_handler(jsonb)', group_limit => 3);
SELECT count(pg_temp.put('gy', 'b' || n, 'b', type => 'lq-type')) FROM generate_series(1, 5) n;
CALL pg_temp.counted();
BEGIN;
SELECT jobqueue.resume_queue('gy');
SELECT pg_temp.take_all('gy', '{lq-type}');
ROLLBACK;
SELECT jobqueue.unregister_handler('lq-type');
CALL pg_temp.clear();
CALL pg_temp.counted();

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
SELECT t2.payload FROM jobqueue.tasks t, jobqueue.complete_and_claim(ARRAY[t.id], ARRAY[t.attempts], NULL, 'gt', 10) t2
	WHERE t.payload = '"a1"';
SELECT t2.payload FROM jobqueue.tasks t, jobqueue.complete_and_claim(ARRAY[t.id], ARRAY[t.attempts], NULL, 'gt', 10) t2
	WHERE t.payload = '"a2"';
SELECT pg_temp.take('gt', 100);
-- a subtransaction that fails
DO $$ BEGIN PERFORM pg_temp.done('a3'); PERFORM pg_temp.take('gt'); RAISE division_by_zero;
	EXCEPTION WHEN division_by_zero THEN END $$;
SELECT pg_temp.take('gt', 100);
SELECT pg_temp.done('a3');
SELECT pg_temp.take('gt', 100);
CALL pg_temp.clear();

-- max_running of a queue
SELECT count(pg_temp.put('mr', 'm' || n)) FROM generate_series(1, 12) n;
SELECT jobqueue.alter_queue('mr', max_running => 3);
CALL pg_temp.counted();
SELECT pg_temp.take('mr', 2);
SELECT pg_temp.take('mr', 2), pg_temp.take('mr', 2);
SELECT pg_temp.done('m1');
SELECT pg_temp.take(NULL, 100);
SELECT jobqueue.alter_queue('mr', max_running => 5);
CALL pg_temp.counted();
SELECT pg_temp.take('mr', 100);
SELECT jobqueue.alter_queue('mr', max_running => 1);
CALL pg_temp.counted();
SELECT pg_temp.done('m2'), pg_temp.done('m3'), pg_temp.done('m4');
SELECT pg_temp.take('mr', 100);
SELECT pg_temp.done('m5');
SELECT pg_temp.take('mr', 100);
SELECT jobqueue.release(id, attempts) FROM jobqueue.tasks WHERE payload = '"m6"';
CALL pg_temp.counted();
SELECT pg_temp.take('mr', 100);
SELECT jobqueue.snooze(id, attempts, '1 h') FROM jobqueue.tasks WHERE payload = '"m6"';
SELECT pg_temp.take('mr', 100);
SELECT jobqueue.cancel(id) FROM jobqueue.tasks WHERE payload = '"m7"';
SELECT pg_temp.take('mr', 100);
-- a change that is not committed is good for its own transaction
BEGIN;
SELECT jobqueue.alter_queue('mr', max_running => 3);
SELECT pg_temp.take('mr', 100);
ROLLBACK;
SELECT pg_temp.take('mr', 100);
SELECT jobqueue.alter_queue('mr', max_running => 0);
CALL pg_temp.counted();
SELECT pg_temp.take('mr', 100);
CALL pg_temp.clear();

-- what waits for its next attempt does not run, and holds up its group alone
SELECT jobqueue.alter_queue('mw', max_running => 1);
SELECT count(pg_temp.put('mw', g || n, g)) FROM unnest('{a,b,c}'::text[]) g, generate_series(1, 2) n;
CALL pg_temp.counted();
SELECT pg_temp.take('mw', 100);
SELECT jobqueue.fail(id, attempts, 'no', retry_in => '1 h') FROM jobqueue.tasks WHERE payload = '"a1"';
SELECT pg_temp.take('mw', 100);
SELECT jobqueue.snooze(id, attempts, '1 h') FROM jobqueue.tasks WHERE payload = '"b1"';
SELECT pg_temp.take('mw', 100);
CALL pg_temp.clear();

-- of a type, in all queues; other types of the queue are not held up
SELECT jobqueue.register_handler('mt', 'lq_handler(jsonb)', max_running => 2);
SELECT jobqueue.pause_queue(q) FROM unnest('{mt-1,mt-2}'::text[]) q;
SELECT count(pg_temp.put('mt-' || q, 'm' || q || n, type => 'mt')) FROM generate_series(1, 3) n,
	generate_series(1, 2) q;
SELECT count(pg_temp.put('mt-1', 'other' || n)) FROM generate_series(1, 2) n;
CALL pg_temp.counted();
BEGIN;
SELECT jobqueue.resume_queue(q) FROM unnest('{mt-1,mt-2}'::text[]) q;
SELECT pg_temp.take('mt-1', 100);
SELECT pg_temp.take('mt-1', 1, '{mt}');
SELECT pg_temp.take('mt-2', 100, '{mt}');
SELECT pg_temp.take('mt-1', 100, '{mt}');
ROLLBACK;
SELECT jobqueue.unregister_handler('mt');
CALL pg_temp.clear();

-- a rate: what may begin at once is the burst; what is given back has cost its token
SELECT count(pg_temp.put('rl', 'r' || n)) FROM generate_series(1, 9) n;
SELECT jobqueue.alter_queue('rl', rate_limit => 1, rate_period => '1 d', rate_burst => 4);
CALL pg_temp.counted();
SELECT pg_temp.take('rl', 2);
SELECT jobqueue.release(id, attempts) FROM jobqueue.tasks WHERE payload = '"r1"';
SELECT pg_temp.take('rl', 100);
SELECT pg_temp.take('rl', 100);
SELECT jobqueue.alter_queue('rl', rate_limit => 0);
CALL pg_temp.counted();
SELECT pg_temp.take('rl', 100);
CALL pg_temp.clear();
-- one that is raised does not wait for what the old one would have
SELECT count(pg_temp.put('rr', 'r' || n)) FROM generate_series(1, 9) n;
SELECT jobqueue.alter_queue('rr', rate_limit => 1, rate_period => '1 d', rate_burst => 2);
CALL pg_temp.counted();
SELECT pg_temp.take('rr', 100);
SELECT jobqueue.alter_queue('rr', rate_limit => 100, rate_period => '1 s');
CALL pg_temp.wait_until($$pg_temp.take('rr', 1) = 'r3'$$);
CALL pg_temp.clear();
-- of each group
SELECT count(pg_temp.put('rg', g || n, g)) FROM unnest('{a,b}'::text[]) g, generate_series(1, 4) n;
SELECT jobqueue.alter_queue('rg', group_limit => 10, group_rate_limit => 2, group_rate_period => '1 d');
CALL pg_temp.counted();
SELECT pg_temp.take_all('rg');
SELECT pg_temp.take('rg', 100);
CALL pg_temp.clear();

-- aging: after ten steps it comes before what is more important
SELECT jobqueue.alter_queue('ag', aging => '10 ms');
SELECT count(pg_temp.put('ag', 'n' || n)) FROM generate_series(1, 3) n;
CALL pg_temp.counted();
SELECT pg_temp.take('ag', 1);
SELECT pg_temp.put('ag', 'low', priority => 10) > 0;
CALL pg_temp.wait_until($$(SELECT clock_timestamp() > created_at + interval '200 ms' FROM jobqueue.tasks
	WHERE payload = '"low"')$$);
SELECT count(pg_temp.put('ag', 'n' || n)) FROM generate_series(4, 6) n;
SELECT pg_temp.take('ag'), pg_temp.take('ag'), pg_temp.take('ag');
CALL pg_temp.clear();

-- expired leases make room
SELECT count(pg_temp.put('ex', 'e' || n, 'e')) FROM generate_series(1, 2) n;
SELECT jobqueue.alter_queue('ex', max_running => 1);
CALL pg_temp.counted();
SELECT count(*) FROM jobqueue.claim('ex', 10, lease => '1 ms');
CALL pg_temp.wait_until($$EXISTS (SELECT 1 FROM jobqueue.tasks_live WHERE payload = '"e1"'
	AND status <> 'processing')$$);
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
CALL pg_temp.clear();

-- workers: the tasks of a group run in order, each once, with max_running 1 as well
CREATE TABLE lq_ledger (seq serial, grp text, n int, seen int);
CREATE FUNCTION lq_note(task jobqueue.tasks) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.lq_ledger (grp, n, seen) SELECT task.group_key, (task.payload #>> '{}')::int,
		(SELECT coalesce(max(l.n), 0) FROM public.lq_ledger l WHERE l.grp = task.group_key);
END $$;
SELECT jobqueue.register_handler('lq-note', 'lq_note(jobqueue.tasks)', queue => 'lw');
SELECT count(jobqueue.enqueue('lq-note', to_jsonb(n), group_key => 'g' || g)) FROM generate_series(1, 20) n,
	generate_series(1, 10) g;
CALL pg_temp.wait_until($$NOT EXISTS (SELECT 1 FROM jobqueue.tasks_live WHERE type = 'lq-note')$$);
SELECT count(*), count(DISTINCT (grp, n)), bool_and(seen = n - 1) FROM lq_ledger;
-- an outside claim holds the group back from the workers
TRUNCATE lq_ledger;
SELECT jobqueue.enqueue('out', '1', 'lw', group_key => 'g1') AS id \gset
CALL pg_temp.counted();
SELECT pg_temp.take('lw', 1);
SELECT count(jobqueue.enqueue('lq-note', to_jsonb(n), group_key => 'g' || g)) FROM generate_series(2, 4) n,
	generate_series(1, 2) g;
CALL pg_temp.wait_until($$(SELECT count(*) FROM lq_ledger) = 3$$);
SELECT grp, array_agg(n ORDER BY seq) FROM lq_ledger GROUP BY grp;
SELECT status, count(*) FROM jobqueue.tasks WHERE group_key = 'g1' AND finished_at IS NULL GROUP BY 1 ORDER BY 1;
SELECT jobqueue.complete(:id, 1);
CALL pg_temp.wait_until($$(SELECT count(*) FROM lq_ledger) = 6$$);
SELECT grp, array_agg(n ORDER BY seq) FROM lq_ledger GROUP BY grp ORDER BY grp;

-- drain runs them in order as well
BEGIN;
SELECT count(jobqueue.enqueue('lq-note', to_jsonb(n), group_key => 'd')) FROM generate_series(1, 5) n;
SELECT string_agg(payload::text, ' ') FROM jobqueue.drain('lw');
SELECT array_agg(n ORDER BY seq), bool_and(seen = n - 1) FROM lq_ledger WHERE grp = 'd';
ROLLBACK;
SELECT jobqueue.unregister_handler('lq-note');
DROP TABLE lq_ledger;
DROP FUNCTION lq_note;
DROP FUNCTION lq_handler;
CALL pg_temp.clear();
DELETE FROM jobqueue.queues WHERE queue NOT IN (SELECT queue FROM other_queues);
