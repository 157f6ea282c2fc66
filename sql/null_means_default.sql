-- A null for an argument that has a default means the default: wrappers pass every argument
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;

CREATE FUNCTION nd_handler(payload jsonb) RETURNS void LANGUAGE sql AS '';
SELECT jobqueue.register_handler('nd-handled', 'nd_handler(jsonb)', queue => 'nd');

-- A call of each function that has a default which is not null; # is replaced by the argument in question.
CREATE TEMPORARY TABLE calls (function text, call text);
INSERT INTO calls VALUES
	('enqueue', 'enqueue(type => ''nd'' #)'),
	('enqueue_unique', 'enqueue_unique(type => ''nd'', unique_key => ''k'' #)'),
	('enqueue_many', 'enqueue_many(type => ''nd'', payloads => ''{1}'' #)'),
	('claim', 'claim(types => ''{nd}'' #)'),
	('complete_and_claim', 'complete_and_claim(ids => ''{}'', attempts => ''{}'', types => ''{nd}'' #)'),
	('claim_json', 'claim_json(types => ''{nd}'' #)'),
	('complete_and_claim_json', 'complete_and_claim_json(ids => ''{}'', attempts => ''{}'', types => ''{nd}'' #)'),
	('fail', 'fail(id => 1, attempt => 1, error => ''e'' #)'),
	('extend_lease', 'extend_lease(id => 1, attempt => 1 #)'),
	('retry', 'retry(id => 1 #)'),
	('cancel_tasks', 'cancel_tasks(type => ''nd'' #)'),
	('retry_failed', 'retry_failed(type => ''nd'' #)'),
	('delete_tasks', 'delete_tasks(type => ''nd'' #)'),
	('drain', 'drain(queue => ''nd'' #)'),
	('register_handler', 'register_handler(type => ''nd'', handler => ''nd_handler(jsonb)'' #)'),
	('schedule', 'schedule(name => ''nd'', cron => ''0 4 * * *'', type => ''nd'' #)'),
	('schedule_sql', 'schedule_sql(name => ''nd'', cron => ''0 4 * * *'', command => ''SELECT 1'' #)'),
	('next_runs', 'next_runs(cron => ''0 4 * * *'' #)');

-- The arguments that have such a default, of all functions.
CREATE TEMPORARY VIEW arguments AS
SELECT p.proname AS function, a.name AS argument, a.place, format_type(p.proargtypes[a.place - 1], NULL) AS type
FROM pg_proc p, LATERAL unnest(p.proargnames) WITH ORDINALITY a(name, place)
WHERE p.pronamespace = 'jobqueue'::regnamespace AND p.proname NOT LIKE '\_%' AND a.place <= p.pronargs
	AND pg_get_function_arg_default(p.oid, a.place::integer) NOT LIKE 'NULL%';
SELECT DISTINCT a.function AS "no call of it above" FROM arguments a
WHERE a.function NOT IN (SELECT c.function FROM calls c);

-- Runs a call, and undoes it. What it says is what it returns, and the rows that it leaves, without what differs each
-- time.
CREATE FUNCTION pg_temp.outcome(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	answer text;
	rows text;
BEGIN
	BEGIN
		EXECUTE format('SELECT string_agg(c::text, '';'') FROM jobqueue.%s c', call) INTO answer;
		SELECT string_agg(to_jsonb(r)::text, ';') INTO rows FROM (
			SELECT to_jsonb(t) - ARRAY['id'] AS r FROM jobqueue.tasks t WHERE t.type = 'nd' ORDER BY t.id) r;
		rows := concat(rows, (SELECT to_jsonb(h) FROM jobqueue.handlers h WHERE h.type = 'nd'),
			(SELECT to_jsonb(s) FROM jobqueue.schedules s WHERE s.name = 'nd'));
		RAISE EXCEPTION USING ERRCODE = 'UNDO0',
			MESSAGE = regexp_replace(concat(answer, rows), '\d\d\d\d-\d\d-\d\d[^"]*', 'time', 'g');
	EXCEPTION
		WHEN SQLSTATE 'UNDO0' THEN RETURN regexp_replace(sqlerrm, '^\(?\d+', 'id');
		WHEN OTHERS THEN RETURN sqlstate || ': ' || sqlerrm;
	END;
END $$;

-- claim and complete_and_claim take a null as the queue for "all queues"
SELECT o.function, o.argument, left(o.with_null, 60) AS with_null
FROM arguments a JOIN calls c USING (function), LATERAL (
	SELECT a.function, a.argument, pg_temp.outcome(replace(c.call, '#', '')) AS without,
		pg_temp.outcome(replace(c.call, '#', format(', %s => NULL', a.argument))) AS with_null) o
WHERE o.with_null IS DISTINCT FROM o.without OR a.argument = 'queue' AND a.function LIKE '%claim%'
ORDER BY a.function, a.place;
-- how many were tried, and what some of them say
SELECT count(*) > 30 AS tried FROM arguments;
SELECT pg_temp.outcome('enqueue(type => ''nd'', payload => NULL, priority => NULL, on_conflict => NULL,
	on_parent_failure => NULL, unique_scope => NULL)')
	= pg_temp.outcome('enqueue(''nd'', ''{}'', priority => 0)') AS same_task;
SELECT pg_temp.outcome('fail(1, 1, NULL)'), pg_temp.outcome('enqueue(NULL)');
SELECT pg_temp.outcome('enqueue_unique(''nd'', unique_key => NULL)');

-- the same with values that are no constants, row by row
SELECT count(DISTINCT id) FROM generate_series(1, 10) n, LATERAL jobqueue.enqueue('nd-rows',
	CASE WHEN n > 5 THEN '{"n": 1}'::jsonb END, priority => CASE WHEN n % 2 = 0 THEN 3 END) id;
SELECT payload, priority, count(*) FROM jobqueue.tasks WHERE type = 'nd-rows' GROUP BY payload, priority ORDER BY 1, 2;
SELECT jobqueue.delete_tasks(type => 'nd-rows', max_tasks => NULL);
-- another declaration counts at once, and its rollback, too
SELECT count(*) FROM jobqueue.next_runs('@daily', NULL);
BEGIN;
CREATE OR REPLACE FUNCTION jobqueue.next_runs(cron text, n integer DEFAULT 2, time_zone text DEFAULT 'UTC',
	after timestamptz DEFAULT pg_catalog.now())
	RETURNS SETOF timestamptz LANGUAGE C STABLE AS '$libdir/jobqueue', 'jobqueue_next_runs';
SELECT count(*) FROM jobqueue.next_runs('@daily', NULL);
ROLLBACK;
SELECT count(*) FROM jobqueue.next_runs('@daily', NULL);
SELECT jobqueue.unregister_handler('nd-handled');
DROP FUNCTION nd_handler;
