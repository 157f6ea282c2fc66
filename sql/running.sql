-- Handlers run in the server: SQL, PL/pgSQL and C functions, their results, and all the ways that tasks come
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all
-- a superuser is told what it means
CREATE FUNCTION super_handler(payload jsonb) RETURNS void LANGUAGE sql AS '';
SELECT jobqueue.register_handler('super', 'super_handler(jsonb)');
SELECT jobqueue.unregister_handler('super');
DROP FUNCTION super_handler;
SET client_min_messages = warning;

CREATE TABLE effects (what text, task bigint, note text);
CREATE FUNCTION sql_handler(payload jsonb) RETURNS void LANGUAGE sql AS $$INSERT INTO effects
	VALUES ('sql', 0, payload->>'note')$$;
CREATE FUNCTION sql_task_handler(task jobqueue.tasks) RETURNS void LANGUAGE sql AS $$INSERT INTO effects
	VALUES ('sql task', task.id, task.payload->>'note')$$;
CREATE FUNCTION plpgsql_handler(payload jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO effects VALUES ('plpgsql', 0, payload->>'note');
	RETURN payload || '{"seen": true}';
END $$;
CREATE FUNCTION plpgsql_task_handler(task jobqueue.tasks) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO effects VALUES ('plpgsql task', task.id, task.payload->>'note');
	RETURN format('%s: %s, attempt %s in %s', task.type, task.status, task.attempts, task.queue);
END $$;
SELECT jobqueue.register_handler('run-' || n, f::regprocedure)
	FROM unnest(ARRAY['sql_handler(jsonb)', 'sql_task_handler(jobqueue.tasks)',
	'plpgsql_handler(jsonb)', 'plpgsql_task_handler(jobqueue.tasks)']) WITH ORDINALITY h(f, n);
SELECT array_agg(jobqueue.enqueue('run-' || n, jsonb_build_object('note', 'no. ' || n)) ORDER BY n) AS ids
	FROM generate_series(1, 4) n \gset
SELECT n, w.status, w.attempts, w.result, w.finished_at >= w.processed_at AND w.processed_at >= w.created_at AS times,
	w.lease_expires_at, w.last_error
FROM unnest(:'ids'::bigint[]) WITH ORDINALITY t(id, n), LATERAL jobqueue.wait_for(t.id, '5 s') w ORDER BY n;
SELECT what, note, task = ANY (:'ids') AS knows_its_id FROM effects ORDER BY note;
SELECT pg_temp.leaf(id) FROM unnest(:'ids'::bigint[]) id GROUP BY 1;
TRUNCATE effects;
SELECT count(jobqueue.unregister_handler('run-' || n)) FROM generate_series(1, 4) n;

-- a C function is a handler, too
SELECT jobqueue.register_handler('run-c', 'pg_catalog.jsonb_pretty(jsonb)');
SELECT jobqueue.enqueue('run-c', '{"a": 1}') AS id \gset
SELECT status, result FROM jobqueue.wait_for(:id, '10 s');
SELECT jobqueue.unregister_handler('run-c');

-- results of all kinds become jsonb
CREATE TYPE result_pair AS (a integer, "B" text);
CREATE DOMAIN result_domain AS integer CHECK (value > 0);
DO $$
DECLARE
	result_type text;
	body text;
	n integer := 0;
BEGIN
	FOR result_type, body IN VALUES ('integer', '42'), ('bigint', '9007199254740993'), ('boolean', 'false'),
		('text', '''a "b" ä'''),
		('numeric', '1.50'), ('float8', '0.25'), ('jsonb', '''{"x": [1]}'''), ('jsonb', '''null'''),
			('json', '''{"y": 2}'''), ('integer', 'NULL'), ('integer[]', '''{1,NULL,3}'''),
		('result_pair', 'ROW(1, ''x'')::result_pair'), ('result_pair[]', 'ARRAY[ROW(1, ''x''), NULL]::result_pair[]'),
			('date', '''2020-02-02'''),
		('timestamptz', '''2020-02-02 12:00 UTC'''), ('uuid', '''00000000-0000-0000-0000-000000000001'''),
			('bytea', '''\x01ff'''), ('result_domain', '7'), ('void', 'NULL')
	LOOP
		n := n + 1;
		EXECUTE format('CREATE FUNCTION result_%s(payload jsonb) RETURNS %s LANGUAGE plpgsql AS $f$BEGIN RETURN%s; '
			'END$f$', n, result_type,
			CASE WHEN result_type <> 'void' THEN ' ' || body ELSE '' END);
		PERFORM jobqueue.register_handler('result-' || n, format('result_%s(jsonb)', n)::regprocedure);
	END LOOP;
END $$;
SELECT array_agg(jobqueue.enqueue('result-' || n, max_attempts => 1) ORDER BY n) AS ids FROM generate_series(1, 19) n
	\gset
SELECT n, w.status, w.result, jsonb_typeof(w.result), w.last_error FROM unnest(:'ids'::bigint[])
	WITH ORDINALITY t(id, n), LATERAL jobqueue.wait_for(t.id, '5 s') w ORDER BY n;
SELECT count(jobqueue.unregister_handler(type)) FROM jobqueue.handlers;
DO $$BEGIN FOR n IN 1..19 LOOP EXECUTE format('DROP ROUTINE result_%s', n); END LOOP; END$$;
DROP TYPE result_pair;
DROP DOMAIN result_domain;

-- current_task
CREATE FUNCTION current_handler(payload jsonb) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('id', id, 'type', type, 'payload', t.payload, 'status', status, 'attempts', attempts,
		'queue', queue,
		'created_by', created_by, 'metadata', metadata, 'processed', processed_at IS NOT NULL)
	FROM jobqueue.current_task() t
$$;
SELECT jobqueue.register_handler('current', 'current_handler(jsonb)');
SELECT jobqueue.enqueue('current', '{"p": 1}', 'current-queue', metadata => '{"m": 1}') AS id \gset
SELECT status, (result->>'id')::bigint = :id, result - 'id' FROM jobqueue.wait_for(:id, '10 s');
SELECT jobqueue.current_task() IS NULL, (jobqueue.current_task()).id;

-- dropped and made again under the same name: the name counts
CREATE FUNCTION remade_handler(payload jsonb) RETURNS text LANGUAGE sql AS $$SELECT 'old'$$;
SELECT jobqueue.register_handler('remade', 'remade_handler(jsonb)');
SELECT jobqueue.enqueue('remade') AS id \gset
SELECT result FROM jobqueue.wait_for(:id, '10 s');
DROP FUNCTION remade_handler;
-- not there at all: the task is not lost
SELECT jobqueue.enqueue('remade') AS id \gset
\set settled '(SELECT status = ''scheduled'' AND last_error IS NOT NULL FROM jobqueue.tasks WHERE id = ' :id ')'
CALL pg_temp.wait_until(:'settled');
SELECT last_sqlstate FROM jobqueue.tasks WHERE id = :id;
CREATE FUNCTION remade_handler(payload jsonb) RETURNS text LANGUAGE sql AS $$SELECT 'new'$$;
SELECT jobqueue.retry(:id);
SELECT status, result FROM jobqueue.wait_for(:id, '10 s');
CREATE OR REPLACE FUNCTION remade_handler(payload jsonb) RETURNS text LANGUAGE sql AS $$SELECT 'replaced'$$;
SELECT jobqueue.enqueue('remade') AS id \gset
SELECT status, result FROM jobqueue.wait_for(:id, '10 s');

-- tasks by any way, in any queue; delayed ones at their time; a hundred in one commit
SELECT jobqueue.enqueue('remade', queue => 'another queue') AS a, jobqueue.enqueue('remade', delay => '100 ms') AS b
	\gset
INSERT INTO jobqueue.tasks (type) VALUES ('remade') RETURNING id AS c \gset
INSERT INTO jobqueue.tasks (type, queue, run_at) VALUES ('remade', 'insert-queue', clock_timestamp() + interval
	'100 ms') RETURNING id AS d \gset
INSERT INTO jobqueue.tasks (type, status, run_at) VALUES ('remade', 'scheduled', clock_timestamp() + interval '100 ms')
	RETURNING id AS e \gset
SELECT w.status, w.result, w.attempts, coalesce(w.processed_at >= w.run_at, true)
	FROM unnest(ARRAY[:a, :b, :c, :d, :e]) t(id), LATERAL jobqueue.wait_for(t.id, '10 s') w;
COPY jobqueue.tasks (type, queue) FROM stdin;
remade	copied
remade	copied
\.
SELECT array_agg(jobqueue.enqueue('remade', queue => 'hundred')) AS ids FROM generate_series(1, 100) \gset
CALL pg_temp.wait_until($$(SELECT count(*) FROM jobqueue.tasks WHERE type = 'remade' AND queue IN ('copied', 'hundred')
	AND status = 'completed') = 102$$);

-- enqueued before there is a handler: run as soon as there is one
SELECT jobqueue.enqueue('later-handled') AS id \gset
SELECT jobqueue.register_handler('later-handled', 'remade_handler(jsonb)');
SELECT status, result FROM jobqueue.wait_for(:id, '10 s');

-- priority: with one worker at it, the urgent first
CREATE SEQUENCE turns;
CREATE FUNCTION order_handler(task jobqueue.tasks) RETURNS bigint LANGUAGE sql AS $$SELECT nextval('public.turns')$$;
SELECT jobqueue.register_handler('ordered', 'order_handler(jobqueue.tasks)', queue => 'ordered');
SELECT jobqueue.pause_queue('ordered');
ALTER SYSTEM SET jobqueue.max_workers = 1;
SELECT pg_reload_conf();
-- sent away, they are not all replaced
SET client_min_messages = error; -- one may have gone by itself meanwhile
SELECT count(pg_terminate_backend(pid)) > 0 FROM jobqueue.worker_status;
SET client_min_messages = warning;
CALL pg_temp.wait_until($$(SELECT count(*) FROM jobqueue.worker_status) <= 1$$);
SELECT array_agg(jobqueue.enqueue('ordered', to_jsonb(n), priority => (n % 3)::smallint)) AS ids
	FROM generate_series(1, 9) n \gset
SELECT jobqueue.resume_queue('ordered');
SELECT count(jobqueue.wait_for(id, '10 s')) FROM unnest(:'ids'::bigint[]) id;
SELECT string_agg(payload::text, ' ' ORDER BY result::bigint) FROM jobqueue.tasks WHERE type = 'ordered'
	AND status = 'completed';
-- queues take turns: a thousand tasks of one, though more urgent, do not hold up a few of another
SELECT count(jobqueue.pause_queue(q)) FROM unnest('{turns-a,turns-b}'::text[]) q;
SELECT count(jobqueue.enqueue('ordered', queue => 'turns-a', priority => -5)) FROM generate_series(1, 1000);
SELECT count(jobqueue.enqueue('ordered', queue => 'turns-b')) FROM generate_series(1, 5);
SELECT count(jobqueue.resume_queue(q)) FROM unnest('{turns-a,turns-b}'::text[]) q;
CALL pg_temp.wait_until($$(SELECT count(*) FROM jobqueue.tasks_live WHERE queue LIKE 'turns-%') = 0$$);
SELECT count(*) < 500 FROM jobqueue.tasks WHERE queue = 'turns-a' AND result::bigint < (SELECT max(result::bigint)
	FROM jobqueue.tasks WHERE queue = 'turns-b');
DELETE FROM jobqueue.queues WHERE queue LIKE 'turns-%';
ALTER SYSTEM RESET jobqueue.max_workers;
SELECT pg_reload_conf();

-- a drain() that is rolled back leaves nothing behind, and workers go on
BEGIN;
SELECT jobqueue.enqueue('ordered', '"drained"', queue => 'drained') \g /dev/null
SELECT type, payload, status FROM jobqueue.drain();
ROLLBACK;
SELECT count(*) FROM jobqueue.tasks WHERE queue = 'drained';
SELECT jobqueue.enqueue('ordered', '"run"', queue => 'drained') AS id \gset
SELECT payload, status, attempts, claimed_by LIKE 'drain%' FROM jobqueue.wait_for(:id, '60 s');
-- one that is committed counts as much as a worker's
BEGIN;
SELECT jobqueue.enqueue('ordered', '"drained"', queue => 'drained') AS id \gset
SELECT payload, status FROM jobqueue.drain();
COMMIT;
SELECT payload, status, attempts, claimed_by LIKE 'drain%' FROM jobqueue.wait_for(:id, '60 s');
SELECT count(jobqueue.unregister_handler(type)) FROM jobqueue.handlers;

DROP TABLE effects;
DROP SEQUENCE turns;
DROP FUNCTION sql_handler, sql_task_handler, plpgsql_handler, plpgsql_task_handler, current_handler, remade_handler,
	order_handler;
DELETE FROM jobqueue.tasks;
