-- Tasks that go to another queue instead of failing, which only a claim by its name serves; and their way back
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;

CREATE TABLE d_state (healthy boolean);
INSERT INTO d_state VALUES (false);
CREATE FUNCTION d_work(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	IF payload ? 'discard' THEN
		PERFORM jobqueue.discard('not worth it');
	ELSIF NOT (SELECT healthy FROM public.d_state) THEN
		RAISE EXCEPTION 'no luck' USING ERRCODE = '22012';
	END IF;
	RETURN 'luck';
END $$;
-- without its id
CREATE FUNCTION pg_temp.letter(task_id bigint) RETURNS text LANGUAGE sql AS $$
	SELECT format('%s in %s (%s), from %s; priority %s, attempts %s of %s; error %s/%s, %s failures; run_at %s, '
		'lease %s, finished %s',
		status, queue, pg_temp.leaf(id), coalesce(origin_queue, '-'), priority, attempts, max_attempts,
			coalesce(last_sqlstate, '-'), coalesce(last_error, '-'),
		coalesce(jsonb_array_length(failures), 0), run_at IS NOT NULL, lease_expires_at IS NOT NULL,
			finished_at IS NOT NULL)
	FROM jobqueue.tasks WHERE id = task_id
$$;
CREATE FUNCTION pg_temp.is_letter(task_id bigint) RETURNS boolean LANGUAGE sql AS $$
	SELECT status = 'pending' AND origin_queue IS NOT NULL FROM jobqueue.tasks WHERE id = task_id
$$;

-- its attempts used up: to the dead letters, as it is
SELECT jobqueue.register_handler('d', 'd_work(jsonb)', max_attempts => 2, first_delay => '0',
	dead_letter_queue => 'd-dead');
SELECT jobqueue.enqueue('d', '{"a": 1}', queue => 'd-origin', priority => -3, metadata => '{"m": 1}') AS id \gset
CALL pg_temp.wait_until(format('pg_temp.is_letter(%s)', :id));
SELECT pg_temp.letter(:id);
SELECT type, payload, metadata, created_by = current_user, jsonb_path_query_array(failures, '$[*].attempt'),
	result FROM jobqueue.tasks WHERE id = :id;
-- it is not served, and neither are other tasks in it; the next queue is served
SELECT jobqueue.enqueue('d', queue => 'd-dead') AS direct, jobqueue.enqueue('d', queue => 'd-dead', delay => '1 ms') AS
	delayed, jobqueue.enqueue('d', '{"discard": 1}') AS other \gset
SELECT status FROM jobqueue.wait_for(:other, '60 s');
CALL pg_temp.wait_until(format('(SELECT status FROM jobqueue.tasks WHERE id = %s) = ''pending''', :delayed));
SELECT status, attempts FROM jobqueue.tasks WHERE id IN (:direct, :delayed) ORDER BY id;
SELECT pg_temp.letter(:id);
SELECT queue, waiting, running, unhandled_types FROM jobqueue.queue_status WHERE queue IN ('d-dead', 'd-origin');
-- a claim from all queues passes over them; one from that queue takes all, though the type has a handler
SELECT count(*) FROM jobqueue.claim(NULL, 100);
SELECT count(*) FROM jobqueue.claim(NULL, 100, types => '{d}');
SELECT count(*) FROM jobqueue.claim('d-dead', 100, types => '{d-no-such-type}');
SELECT id = :id AS letter, id = :direct AS direct, queue, origin_queue, attempts,
	max_attempts FROM jobqueue.claim('d-dead', 2) ORDER BY priority;
SELECT id = :delayed, attempts FROM jobqueue.claim('d-dead', 2, types => '{d}');
-- completed there
SELECT jobqueue.complete(:id, 3, '"by hand"'), jobqueue.complete(:direct, 1), jobqueue.fail(:delayed, 1, 'once'),
	jobqueue.cancel(:delayed);
SELECT pg_temp.letter(:id);

-- it fails there, too: tried again there, in the end for good
SELECT jobqueue.enqueue('d') AS id \gset
CALL pg_temp.wait_until(format('pg_temp.is_letter(%s)', :id));
SELECT id = :id FROM jobqueue.claim('d-dead');
SELECT jobqueue.fail(:id, 3, 'still not');
SELECT pg_temp.letter(:id);
SELECT id = :id FROM jobqueue.claim('d-dead');
SELECT jobqueue.fail(:id, 4, 'never', retryable => false);
SELECT pg_temp.letter(:id);
SELECT queue, count(*) FROM jobqueue.claim(NULL, 100) GROUP BY 1;
-- back to where it came from, all the same
SELECT jobqueue.pause_queue('default');
SELECT jobqueue.retry(:id);
SELECT pg_temp.letter(:id);
SELECT jobqueue.cancel(:id);
SELECT jobqueue.resume_queue('default');

-- released, snoozed, and taken back with its lease: it stays a dead letter
SELECT jobqueue.enqueue('d') AS id \gset
CALL pg_temp.wait_until(format('pg_temp.is_letter(%s)', :id));
SELECT jobqueue.release(id, attempts) FROM jobqueue.claim('d-dead');
SELECT pg_temp.letter(:id);
SELECT jobqueue.snooze(id, attempts, '0') FROM jobqueue.claim('d-dead');
CALL pg_temp.wait_until(format('pg_temp.is_letter(%s)', :id));
SELECT pg_temp.letter(:id);
SELECT id = :id FROM jobqueue.claim('d-dead', lease => '1 ms', claimed_by => 'me');
CALL pg_temp.wait_until(format('pg_temp.is_letter(%s)', :id));
SELECT pg_temp.letter(:id);
-- and if the type has no handler any more, or another dead_letter_queue
SELECT jobqueue.unregister_handler('d');
SELECT count(*) FROM jobqueue.claim(NULL, 100);
SELECT jobqueue.register_handler('d', 'd_work(jsonb)', max_attempts => 2, first_delay => '0');
SELECT jobqueue.enqueue('d', '{"discard": 1}', queue => 'd-dead') AS other \gset
SELECT status, queue FROM jobqueue.wait_for(:other, '60 s');
SELECT pg_temp.letter(:id);
SELECT id = :id FROM jobqueue.claim('d-dead');
SELECT jobqueue.release(:id, 6);
SELECT jobqueue.alter_handler('d', dead_letter_queue => 'd-dead');

-- retry: back to its queue, where it runs
UPDATE d_state SET healthy = true;
SELECT jobqueue.retry(:id);
SELECT status, queue, origin_queue, result, attempts, last_error FROM jobqueue.wait_for(:id, '60 s');
UPDATE d_state SET healthy = false;
-- later
SELECT jobqueue.enqueue('d', queue => 'd-origin') AS id \gset
CALL pg_temp.wait_until(format('pg_temp.is_letter(%s)', :id));
SELECT jobqueue.retry(:id, run_at => now() + interval '1 hour');
SELECT pg_temp.letter(:id);
SELECT jobqueue.cancel(:id);
-- retry_failed, too; failed ones, and dead letters
DELETE FROM jobqueue.tasks;
SELECT jobqueue.enqueue('d', queue => 'd-origin') AS a, jobqueue.enqueue('d', queue => 'd-origin-2') AS b,
	jobqueue.enqueue('d', '{"discard": 1}', queue => 'd-dead') AS direct \gset
CALL pg_temp.wait_until(format('pg_temp.is_letter(%s) AND pg_temp.is_letter(%s)', :a, :b));
SELECT id = :direct, jobqueue.fail(id, attempts, 'x', retryable => false) FROM jobqueue.claim('d-dead', 3)
	WHERE id = :direct;
SELECT jobqueue.release(id, attempts) FROM jobqueue.tasks WHERE id IN (:a, :b);
UPDATE d_state SET healthy = true;
SELECT jobqueue.retry_failed(queue => 'd-origin');
SELECT jobqueue.retry_failed(queue => 'd-dead', type => 'd-other');
SELECT jobqueue.retry_failed(queue => 'd-dead', max_tasks => 1);
SELECT status, queue, origin_queue FROM jobqueue.tasks WHERE id = :direct;
SELECT jobqueue.retry_failed(queue => 'd-dead');
SELECT w.status, w.queue, w.origin_queue, w.result FROM unnest(ARRAY[:a, :b]) WITH ORDINALITY t(id, n),
	LATERAL jobqueue.wait_for(t.id, '60 s') w ORDER BY n;
UPDATE d_state SET healthy = false;
DELETE FROM jobqueue.tasks;

-- cancelled, and then wanted after all: back to its queue
SELECT jobqueue.enqueue('d', queue => 'd-origin') AS id \gset
CALL pg_temp.wait_until(format('pg_temp.is_letter(%s)', :id));
SELECT jobqueue.cancel(:id, 'no');
SELECT pg_temp.letter(:id);
SELECT jobqueue.retry(:id, run_at => now() + interval '1 hour');
SELECT pg_temp.letter(:id);
SELECT jobqueue.cancel(:id);

-- which failures lead there: errors that are not tried again, as well; what the handler discards, not
SELECT jobqueue.alter_handler('d', max_attempts => 20, discard_sqlstates => '{22012}');
SELECT jobqueue.enqueue('d') AS a, jobqueue.enqueue('d', '{"discard": 1}') AS b \gset
CALL pg_temp.wait_until(format('pg_temp.is_letter(%s)', :a));
SELECT pg_temp.letter(:a);
SELECT status FROM jobqueue.wait_for(:b, '60 s');
SELECT pg_temp.letter(:b);
BEGIN;
SELECT jobqueue.enqueue('d', queue => 'd-out') AS a, jobqueue.enqueue('d', queue => 'd-out') AS b \gset
SELECT jobqueue.fail(id, attempts, 'x', retryable => false) FROM jobqueue.claim('d-out', types => '{d}');
SELECT jobqueue.discard(id, attempts, 'x') FROM jobqueue.claim('d-out', types => '{d}');
SELECT pg_temp.letter(:a);
SELECT pg_temp.letter(:b);
-- the queue of dead letters itself has none
SELECT jobqueue.enqueue('d', queue => 'd-dead') AS id \gset
SELECT jobqueue.fail(id, attempts, 'x', retryable => false) FROM jobqueue.claim('d-dead', 10) WHERE id = :id;
SELECT pg_temp.letter(:id);
ROLLBACK;

-- a dead letter keeps its unique key
DELETE FROM jobqueue.tasks;
INSERT INTO jobqueue.tasks (type, unique_key) VALUES ('d', 'only one') RETURNING id \gset
CALL pg_temp.wait_until(format('pg_temp.is_letter(%s)', :id));
SELECT pg_temp.try($$INSERT INTO jobqueue.tasks (type, unique_key) VALUES ('d', 'only one')$$);
SELECT unique_key FROM jobqueue.tasks WHERE id = :id;
-- people may cancel, delete and purge dead letters like others
SELECT jobqueue.purge_queue('d-dead');
SELECT count(*) FROM jobqueue.tasks;

SELECT count(jobqueue.unregister_handler(type)) FROM jobqueue.handlers;
DELETE FROM jobqueue.queues;
DROP FUNCTION d_work;
DROP TABLE d_state;
DELETE FROM jobqueue.tasks;
