-- tasks.failures: what is kept of each failed attempt, the latest 20
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;

-- one failure, without what differs from run to run; that is checked
CREATE FUNCTION pg_temp.failure(failure jsonb, task jobqueue.tasks) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	ASSERT (failure->>'started_at')::timestamptz BETWEEN task.created_at AND task.updated_at,
		format('started at %s', failure->>'started_at');
	ASSERT (failure->>'seconds')::numeric BETWEEN 0 AND extract(epoch FROM task.updated_at - task.created_at),
		format('%s seconds', failure->>'seconds');
	ASSERT failure->>'worker' <> '', 'no worker';
	RETURN regexp_replace(jsonb_pretty(failure - '{started_at,seconds,worker}'::text[]), 'task \d+ of', 'task N of',
		'g');
END $$;
CREATE FUNCTION pg_temp.brief(task_id bigint) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT format('%s: %s %s', f->>'attempt', f->>'sqlstate', f->>'message') FROM jobqueue.tasks,
		jsonb_array_elements(failures) f WHERE id = task_id
$$;

CREATE SCHEMA f_schema;
CREATE DOMAIN f_schema.f_domain AS integer CONSTRAINT f_positive CHECK (value > 0);
CREATE TABLE f_schema.f_table (id integer CONSTRAINT f_key PRIMARY KEY,
	value integer CONSTRAINT f_value CHECK (value < 10), needed text NOT NULL);
CREATE FUNCTION f_work(task jobqueue.tasks) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	CASE task.payload->>'do'
	WHEN 'raise' THEN
		RAISE EXCEPTION 'attempt % has no luck', task.attempts USING ERRCODE = 'XY123', DETAIL = 'a detail',
			HINT = 'a hint', SCHEMA = 's', TABLE = 't', COLUMN = 'c', DATATYPE = 'd', CONSTRAINT = 'k';
	WHEN 'key' THEN
		INSERT INTO f_schema.f_table VALUES (1, 1, ''), (1, 1, '');
	WHEN 'check' THEN
		INSERT INTO f_schema.f_table VALUES (2, 99, '');
	WHEN 'null' THEN
		INSERT INTO f_schema.f_table VALUES (3, 1, NULL);
	WHEN 'domain' THEN
		PERFORM (-1)::f_schema.f_domain;
	WHEN 'parse' THEN
		EXECUTE 'SELECT no_such_column';
	WHEN 'odd' THEN
		RAISE EXCEPTION '%', E'quote " \\ '' \001 \t ä 🙂 \u2028 {}[] $1 %s';
	WHEN 'empty' THEN
		RAISE EXCEPTION '';
	WHEN 'long' THEN
		RAISE EXCEPTION '%', repeat('ä', 100000) USING DETAIL = repeat('ö', 100000), HINT = repeat('ü', 100000);
	WHEN 'twice' THEN
		IF task.attempts <= 2 THEN
			RAISE EXCEPTION 'attempt % has no luck', task.attempts;
		END IF;
	WHEN 'snooze' THEN
		IF task.attempts = 1 THEN
			PERFORM jobqueue.snooze('0');
		ELSE
			RAISE EXCEPTION 'attempt % has no luck', task.attempts;
		END IF;
	WHEN 'discard' THEN
		PERFORM jobqueue.discard('no use');
	END CASE;
	RETURN 'luck';
END $$;

-- what is known of an error
SELECT jobqueue.register_handler('f', 'f_work(jobqueue.tasks)', first_delay => '0', max_attempts => 1);
SELECT array_agg(jobqueue.enqueue('f', jsonb_build_object('do', what)) ORDER BY n) AS ids
	FROM unnest('{raise,key,check,"null",domain,parse,odd,empty,discard}'::text[]) WITH ORDINALITY u(what, n) \gset
SELECT count(w.id) FROM unnest(:'ids'::bigint[]) id, LATERAL jobqueue.wait_for(id, '60 s') w;
SELECT status, last_sqlstate = failures->-1->>'sqlstate' AND last_error = failures->-1->>'message',
	pg_temp.failure(failures->0, tasks) FROM jobqueue.tasks WHERE id = ANY (:'ids') ORDER BY id;
SELECT DISTINCT jsonb_array_length(failures), (SELECT string_agg(k, ' ' ORDER BY k)
	FROM unnest('{attempt,started_at,seconds,worker,sqlstate,message}'::text[]) k WHERE failures->0 ? k)
	FROM jobqueue.tasks WHERE id = ANY (:'ids');
SELECT DISTINCT jsonb_typeof(failures->0->'attempt'), jsonb_typeof(failures->0->'seconds'),
	failures->0->>'worker' = claimed_by FROM jobqueue.tasks WHERE id = ANY (:'ids');
-- long ones are cut, in whole characters
SELECT jobqueue.enqueue('f', '{"do": "long"}') AS id \gset
SELECT count(jobqueue.wait_for(:id, '60 s'));
SELECT failures->0->>'message' ~ '^ä+$', length(failures->0->>'message') <= 2000, failures->0->>'detail' ~ '^ö+$',
	octet_length(failures->0->>'detail') <= 2000, failures->0->>'hint' ~ '^ü+$',
	octet_length(failures->0->>'hint') <= 2000, last_error ~ '^ä+$', octet_length(last_error) <= 8192,
		pg_column_size(failures) < 20000 FROM jobqueue.tasks WHERE id = :id;
DELETE FROM jobqueue.tasks;

-- in their order; kept when it works in the end
SELECT jobqueue.enqueue('f', '{"do": "twice"}', max_attempts => 5) AS id \gset
SELECT status, attempts, result, last_error FROM jobqueue.wait_for(:id, '60 s');
SELECT pg_temp.brief(:id);
SELECT pg_temp.leaf(:id), (f->>'started_at')::timestamptz > lag((f->>'started_at')::timestamptz) OVER (ORDER BY n)
	FROM jobqueue.tasks, jsonb_array_elements(failures) WITH ORDINALITY AS e(f, n) WHERE id = :id ORDER BY n;
-- no more than 20: the latest
SELECT jobqueue.enqueue('f', '{"do": "raise"}', max_attempts => 20) AS a,
	jobqueue.enqueue('f', '{"do": "raise"}', max_attempts => 25) AS b \gset
SELECT status, attempts, jsonb_array_length(failures) FROM jobqueue.wait_for(:a, '60 s');
SELECT status, attempts, jsonb_array_length(failures) FROM jobqueue.wait_for(:b, '60 s');
SELECT jsonb_path_query_array(failures, '$[*].attempt') FROM jobqueue.tasks WHERE id IN (:a, :b) ORDER BY id;
SELECT failures->-1->>'message', last_error FROM jobqueue.tasks WHERE id = :b;
-- a person's retry adds to them
SELECT jobqueue.retry(:a);
CALL pg_temp.wait_until(format('(SELECT status = ''failed'' AND attempts = 21 FROM jobqueue.tasks WHERE id = %s)', :a));
SELECT jsonb_path_query_array(failures, '$[*].attempt') FROM jobqueue.tasks WHERE id = :a;
-- snooze is none, cancel is none, success is none
SELECT jobqueue.enqueue('f', '{"do": "snooze"}') AS id \gset
SELECT count(jobqueue.wait_for(:id, '60 s'));
SELECT pg_temp.brief(:id);
SELECT jobqueue.enqueue('f', '{"do": "snooze"}', delay => '1 hour') AS id \gset
SELECT jobqueue.cancel(:id, 'no');
SELECT status, last_error, failures FROM jobqueue.tasks WHERE id = :id;
DELETE FROM jobqueue.tasks;

-- outside workers: what they say, and what becomes of leases
SELECT jobqueue.enqueue('f-out', queue => 'f-out', max_attempts => 4) AS id \gset
SELECT attempts FROM jobqueue.claim('f-out', claimed_by => 'first');
SELECT jobqueue.fail(:id, 1, 'no luck', sqlstate => '08006', retry_in => '0');
SELECT attempts FROM jobqueue.claim('f-out', claimed_by => 'second');
SELECT jobqueue.fail(:id, 2, E'{"odd": \t "message"}', retry_in => '0');
-- given back, which is no failure
SELECT attempts FROM jobqueue.claim('f-out', claimed_by => 'third');
SELECT jobqueue.release(:id, 3);
SELECT attempts FROM jobqueue.claim('f-out', claimed_by => 'fourth', lease => '1 ms');
CALL pg_temp.wait_until(format('(SELECT status FROM jobqueue.tasks WHERE id = %s) = ''pending''', :id));
SELECT attempts FROM jobqueue.claim('f-out', claimed_by => 'fifth');
SELECT jobqueue.discard(:id, 5, 'no use');
SELECT pg_temp.failure(f, tasks), f->>'worker' FROM jobqueue.tasks, jsonb_array_elements(failures) f WHERE id = :id;
SELECT status, attempts, last_error, last_sqlstate FROM jobqueue.tasks WHERE id = :id;
-- the lease ran out at the last attempt
SELECT jobqueue.enqueue('f-out', queue => 'f-out', max_attempts => 1) AS id \gset
SELECT attempts FROM jobqueue.claim('f-out', claimed_by => 'nobody', lease => '1 ms');
SELECT status, last_sqlstate, last_error FROM jobqueue.wait_for(:id, '60 s');
SELECT pg_temp.brief(:id);
-- 20 of them, too
SELECT jobqueue.enqueue('f-out', queue => 'f-out', max_attempts => 100) AS id \gset
DO $$
BEGIN
	FOR n IN 1..30 LOOP
		PERFORM jobqueue.fail(id, attempts, 'no. ' || n, retry_in => '0') FROM jobqueue.claim('f-out');
	END LOOP;
END $$;
SELECT status, attempts, jsonb_array_length(failures), failures->0->>'message',
	failures->19->>'message' FROM jobqueue.tasks WHERE id = :id;
SELECT jobqueue.complete(id, attempts) FROM jobqueue.claim('f-out');
SELECT status, jsonb_array_length(failures) FROM jobqueue.tasks WHERE id = :id;

SELECT count(jobqueue.unregister_handler(type)) FROM jobqueue.handlers;
DROP FUNCTION f_work;
DROP SCHEMA f_schema CASCADE;
DELETE FROM jobqueue.tasks;
