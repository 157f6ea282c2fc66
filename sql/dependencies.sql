-- after, on_parent_failure, parent_results: tasks that run after others
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;

CREATE TABLE d_effects (n bigserial, what text, parents text);
-- Notes its name and its parents, and returns the name; fails, or waits for a lock, if it is told to.
CREATE FUNCTION d_note(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.d_effects (what, parents) SELECT payload->>'n',
		string_agg(concat_ws(' ', r.status, r.result), ', ' ORDER BY r.parent_id) FROM jobqueue.parent_results() r;
	IF payload ? 'gate' THEN
		PERFORM pg_advisory_xact_lock_shared(4711);
	END IF;
	IF payload ? 'fail' THEN
		RAISE EXCEPTION 'told to';
	END IF;
	RETURN payload->>'n';
END $$;
SELECT jobqueue.register_handler('d-note', 'd_note(jsonb)', max_attempts => 1);
CREATE FUNCTION pg_temp.add(name text, VARIADIC after bigint[]) RETURNS bigint LANGUAGE sql AS $$
	SELECT jobqueue.enqueue('d-note', jsonb_build_object('n', name), after => after)
$$;
CREATE FUNCTION pg_temp.state(task_id bigint) RETURNS text LANGUAGE sql AS $$
	SELECT concat_ws(' ', status, regexp_replace(last_error, '\d+', 'N'), result) FROM jobqueue.tasks WHERE id = task_id
$$;

-- one after the other, whichever was enqueued first in a transaction; results at hand
BEGIN;
SELECT jobqueue.enqueue('d-note', '{"n": "one"}') AS one \gset
SELECT pg_temp.add('two', :one) AS two \gset
SELECT pg_temp.add('three', :one, :two, :two, :one) AS three \gset
SELECT status, run_at FROM jobqueue.tasks WHERE id = :three;
COMMIT;
SELECT status, result FROM jobqueue.wait_for(:three, '60 s');
SELECT what, parents FROM d_effects ORDER BY n;
TRUNCATE d_effects;
-- parents that have ended already, one of them long ago, and none at all
SELECT pg_temp.add('four', :one, :three) AS four \gset
SELECT status, result FROM jobqueue.wait_for(:four, '60 s');
SELECT jobqueue.enqueue('d-note', '{"n": "five"}', after => '{}') AS five \gset
SELECT status, result FROM jobqueue.wait_for(:five, '60 s');
SELECT what, parents FROM d_effects ORDER BY n;
TRUNCATE d_effects;

-- refused
SELECT pg_temp.try($$SELECT jobqueue.enqueue('d-note', after => ARRAY[1, NULL])$$);
SELECT pg_temp.try($$SELECT jobqueue.enqueue('d-note', after => ARRAY[0])$$);
SELECT regexp_replace(pg_temp.try(format('SELECT jobqueue.enqueue(''d-note'', after => ARRAY[%s])', last_value + 1000)),
	'task \d+', 'task N') FROM jobqueue.tasks_id_seq;
SELECT pg_temp.try($$SELECT jobqueue.enqueue('d-note', on_parent_failure => 'explode')$$);
SELECT pg_temp.try($$SELECT count(*) FROM jobqueue.enqueue_many('d-note', '{"{}"}', after => ARRAY[-1])$$);

-- what becomes of a child when its parent fails: cancel, which goes on to its own children; run; wait
SELECT jobqueue.enqueue('d-note', '{"n": "bad", "fail": true}') AS bad \gset
SELECT jobqueue.enqueue('d-note', '{"n": "cancel"}', after => ARRAY[:bad]) AS child \gset
SELECT jobqueue.enqueue('d-note', '{"n": "grandchild"}', after => ARRAY[:child, :one]) AS grandchild \gset
SELECT jobqueue.enqueue('d-note', '{"n": "run"}', after => ARRAY[:bad, :one], on_parent_failure => 'run') AS run \gset
SELECT jobqueue.enqueue('d-note', '{"n": "wait"}', after => ARRAY[:bad], on_parent_failure => 'wait') AS wait \gset
SELECT jobqueue.enqueue('d-note', '{"n": "wait for the grandchild"}', after => ARRAY[:grandchild],
	on_parent_failure => 'wait') AS wait2 \gset
SELECT status FROM jobqueue.wait_for(:grandchild, '60 s');
SELECT status FROM jobqueue.wait_for(:run, '60 s');
SELECT pg_temp.state(:bad), pg_temp.state(:child), pg_temp.state(:grandchild), pg_temp.state(:run);
CALL pg_temp.wait_until('(SELECT count(*) FROM jobqueue.dependencies) = 2');
SELECT pg_temp.state(:wait), pg_temp.state(:wait2);
-- retry of the parent lets the one go, and retry of those that were cancelled the other
UPDATE jobqueue.tasks_failed SET payload = '{"n": "better"}' WHERE id = :bad;
SELECT jobqueue.retry(:bad), jobqueue.retry(:wait);
SELECT status, result FROM jobqueue.wait_for(:wait, '60 s');
SELECT pg_temp.state(:wait2);
SELECT jobqueue.retry(:child);
SELECT status, result FROM jobqueue.wait_for(:child, '60 s');
SELECT jobqueue.retry(:grandchild);
SELECT status, result FROM jobqueue.wait_for(:wait2, '60 s');
SELECT what, parents FROM d_effects ORDER BY n;
TRUNCATE d_effects;
-- a parent that is gone for good, while a child waits for its retry
SELECT jobqueue.enqueue('d-note', '{"n": "bad", "fail": true}') AS bad \gset
SELECT jobqueue.enqueue('d-note', '{"n": "wait"}', after => ARRAY[:bad], on_parent_failure => 'wait') AS wait \gset
SELECT status FROM jobqueue.wait_for(:bad, '60 s');
SELECT jobqueue.delete_tasks(type => 'd-note', status => 'failed');
SELECT status, regexp_replace(last_error, '\d+', 'N') FROM jobqueue.wait_for(:wait, '60 s');
-- a failed attempt that is retried is not an end, and neither is a dead letter
SELECT jobqueue.register_handler('d-again', 'd_note(jsonb)', max_attempts => 1, dead_letter_queue => 'd-dead');
SELECT jobqueue.enqueue('d-again', '{"n": "again", "fail": true}') AS again \gset
SELECT jobqueue.enqueue('d-note', '{"n": "after again"}', after => ARRAY[:again]) AS child \gset
CALL pg_temp.wait_until(format('EXISTS (SELECT FROM jobqueue.tasks WHERE id = %s AND queue = ''d-dead'')', :again));
SELECT jobqueue.enqueue('d-note', '{"n": "later"}', after => ARRAY[:child], on_parent_failure => 'run') AS later \gset
SELECT pg_temp.state(:child);
SELECT jobqueue.purge_queue('d-dead');
SELECT status FROM jobqueue.wait_for(:later, '60 s');
SELECT pg_temp.state(:child);

-- a running parent; what people do to a child that is blocked
TRUNCATE d_effects;
SELECT pg_advisory_lock(4711);
SELECT jobqueue.enqueue('d-note', '{"n": "gate", "gate": true}') AS gate \gset
SELECT jobqueue.enqueue('d-note', '{"n": "delayed"}', after => ARRAY[:gate], delay => '1 hour') AS delayed \gset
SELECT pg_temp.add('cancelled', :gate) AS cancelled \gset
SELECT jobqueue.enqueue('d-note', '{"n": "purged"}', queue => 'd-purged', after => ARRAY[:gate]) AS purged \gset
SELECT jobqueue.enqueue('d-note', '{"n": "deleted"}', queue => 'd-deleted', after => ARRAY[:gate]) AS deleted \gset
SELECT pg_temp.add('last', :gate, :cancelled, :purged, :deleted) AS last \gset
SELECT jobqueue.enqueue('d-note', '{"n": "last of all"}', after => ARRAY[:gate, :cancelled, :purged, :deleted],
	on_parent_failure => 'run') AS all \gset
SELECT jobqueue.retry(:cancelled);
SELECT jobqueue.cancel(:cancelled, 'not needed'), jobqueue.purge_queue('d-purged'),
	jobqueue.delete_tasks(queue => 'd-deleted');
SELECT status, regexp_replace(last_error, '\d+', 'N') FROM jobqueue.wait_for(:last, '60 s');
SELECT pg_temp.state(:delayed), pg_temp.state(:all), pg_temp.state(:cancelled);
SELECT pg_advisory_unlock(4711);
SELECT status FROM jobqueue.wait_for(:all, '60 s');
CALL pg_temp.wait_until(format('(SELECT status FROM jobqueue.tasks WHERE id = %s) = ''scheduled''', :delayed));
SELECT jobqueue.retry(:delayed);
SELECT status FROM jobqueue.wait_for(:delayed, '60 s');
SELECT what, parents FROM d_effects ORDER BY n;
TRUNCATE d_effects;

-- in a handler: its own task is a parent like any other; procedures, also after a COMMIT; batches have no task of their
-- own
CREATE FUNCTION d_spawn(t jobqueue.tasks) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM jobqueue.enqueue('d-proc', '{"n": "spawned"}', after => ARRAY[t.id]);
	RETURN 'spawner';
END $$;
CREATE PROCEDURE d_proc(payload jsonb) LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.d_effects (what, parents) SELECT 'before', string_agg(r.result::text, ' ') FROM
		jobqueue.parent_results() r;
	COMMIT;
	INSERT INTO public.d_effects (what, parents) SELECT 'after', string_agg(r.result::text, ' ') FROM
		jobqueue.parent_results() r;
	PERFORM jobqueue.enqueue('d-batch', after => ARRAY[(jobqueue.current_task()).id]);
END $$;
CREATE FUNCTION d_batch(tasks jobqueue.tasks[]) RETURNS void LANGUAGE sql AS $$
	INSERT INTO public.d_effects (what, parents) SELECT 'batch', count(r)::text FROM jobqueue.parent_results() r
$$;
SELECT jobqueue.register_handler('d-spawn', 'd_spawn(jobqueue.tasks)');
SELECT jobqueue.register_handler('d-proc', 'd_proc(jsonb)');
SELECT jobqueue.register_handler('d-batch', 'd_batch(jobqueue.tasks[])', batch_size => 10);
SELECT jobqueue.enqueue('d-spawn') AS id \gset
CALL pg_temp.wait_until('EXISTS (SELECT FROM d_effects WHERE what = ''batch'')');
SELECT what, parents FROM d_effects ORDER BY n;
SELECT * FROM jobqueue.parent_results();
TRUNCATE d_effects;

-- outside workers; a claim that is over gets nothing
SELECT jobqueue.enqueue('d-out', queue => 'd-out') AS one \gset
SELECT count(*) FROM jobqueue.enqueue_many('d-out', '{"{\"n\": 1}", "{\"n\": 2}"}', queue => 'd-out',
	after => ARRAY[:one]);
SELECT id = :one AS first FROM jobqueue.claim('d-out', 10);
SELECT count(*) FROM jobqueue.claim('d-out', 10);
SELECT jobqueue.complete(:one, 1, '"done"');
CALL pg_temp.wait_until('(SELECT count(*) = 2 FROM jobqueue.tasks WHERE queue = ''d-out'' AND status = ''pending'')');
SELECT id AS two, payload FROM jobqueue.claim('d-out', 1) \gset
SELECT parent_id = :one AS one, name, status, result FROM jobqueue.parent_results(:two, 1);
SELECT * FROM jobqueue.parent_results(:two, 2);
SELECT jobqueue.complete(:two, 1);
SELECT * FROM jobqueue.parent_results(:two, 1);
SELECT jobqueue.purge_queue('d-out');

-- nothing of it for tasks that are rolled back
BEGIN;
SELECT pg_temp.add('never', :gate) > 0;
ROLLBACK;
-- drain() lets children go, too
BEGIN;
CREATE FUNCTION d_drained(payload jsonb) RETURNS text LANGUAGE sql AS 'SELECT payload->>$$n$$';
SELECT jobqueue.register_handler('d-drained', 'd_drained(jsonb)');
SELECT jobqueue.enqueue('d-drained', '{"n": 1}', queue => 'd-drain') AS one \gset
SELECT jobqueue.enqueue('d-drained', '{"n": 2}', queue => 'd-drain', after => ARRAY[:one]) AS two \gset
SELECT jobqueue.enqueue('d-drained', '{"n": 3}', queue => 'd-drain', after => ARRAY[:two]) AS three \gset
SELECT status, result FROM jobqueue.drain('d-drain');
ROLLBACK;

SELECT jobqueue.unregister_handler(t) FROM unnest('{d-note,d-again,d-spawn,d-proc,d-batch}'::text[]) t;
DROP TABLE d_effects;
DROP FUNCTION d_note, d_spawn, d_batch;
DROP PROCEDURE d_proc;
DELETE FROM jobqueue.tasks;
