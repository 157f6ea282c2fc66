-- Time limits of attempts: of the type, of the task, of the role; and handlers that do not obey
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;

CREATE TABLE t_effects (what text);
CREATE FUNCTION t_sleeps(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.t_effects VALUES ('begun');
	PERFORM pg_sleep((payload->>'seconds')::float8);
	RETURN 'slept';
END $$;
CREATE FUNCTION pg_temp.settled(task_id bigint) RETURNS boolean LANGUAGE sql AS $$
	SELECT status NOT IN ('pending', 'processing') FROM jobqueue.tasks WHERE id = task_id
$$;
CREATE FUNCTION pg_temp.ended(task_id bigint) RETURNS text LANGUAGE sql AS $$
	SELECT format('%s attempts=%s of %s; %s/%s; took that long: %s', status, attempts, max_attempts, last_sqlstate,
		last_error,
		(failures->-1->>'seconds')::numeric >= (payload->>'limit')::numeric)
	FROM jobqueue.tasks WHERE id = task_id
$$;

-- the type's limit: rolled back, and tried again by the type's policy
SELECT jobqueue.register_handler('t', 't_sleeps(jsonb)', timeout => '300 ms', backoff => 'fixed',
	first_delay => '1 hour', max_delay => '1 hour', jitter => 0);
SELECT jobqueue.enqueue('t', '{"seconds": 600, "limit": 0.3}') AS id \gset
CALL pg_temp.wait_until(format('pg_temp.settled(%s)', :id));
SELECT pg_temp.ended(:id);
SELECT count(*) FROM t_effects;
SELECT failures->0->>'sqlstate', failures->0->>'message', failures->0->>'context' LIKE '%t_sleeps%' FROM jobqueue.tasks
	WHERE id = :id;
-- what is done in time is not touched
SELECT jobqueue.alter_handler('t', timeout => '1 hour');
SELECT jobqueue.enqueue('t', '{"seconds": 0.2}') AS id \gset
SELECT status, attempts, result, failures FROM jobqueue.wait_for(:id, '60 s');
-- the task's own limit comes first, be it shorter or longer
SELECT jobqueue.enqueue('t', '{"seconds": 600, "limit": 0.15}', timeout => '150 ms') AS id \gset
CALL pg_temp.wait_until(format('pg_temp.settled(%s)', :id));
SELECT pg_temp.ended(:id);
SELECT timeout FROM jobqueue.tasks WHERE id = :id;
SELECT jobqueue.alter_handler('t', timeout => '20 ms');
SELECT jobqueue.enqueue('t', '{"seconds": 0.3}', timeout => '1 mon') AS id \gset
SELECT status, attempts, result, failures, timeout FROM jobqueue.wait_for(:id, '60 s');
-- also for tasks enqueued together, and by a plain INSERT; the last attempt is the last
SELECT array_agg(id ORDER BY id) AS ids FROM jobqueue.enqueue_many('t',
	'{"{\"seconds\": 600, \"limit\": 0.05}","{\"seconds\": 600, \"limit\": 0.05}"}', max_attempts => 1,
		timeout => '50 ms') id \gset
INSERT INTO jobqueue.tasks (type, payload, max_attempts, timeout) VALUES ('t', '{"seconds": 600, "limit": 1.05}', 1,
	'1.05 s') RETURNING id \gset
SELECT count(jobqueue.wait_for(id, '60 s')) FROM unnest(:'ids'::bigint[] || :id::bigint) id;
SELECT pg_temp.ended(t.id) FROM unnest(:'ids'::bigint[] || :id::bigint) WITH ORDINALITY t(id, n) ORDER BY n;
-- each attempt has its time
SELECT jobqueue.alter_handler('t', timeout => '30 ms', first_delay => '0', max_attempts => 3);
SELECT jobqueue.enqueue('t', '{"seconds": 600, "limit": 0.03}') AS id \gset
SELECT count(jobqueue.wait_for(:id, '60 s'));
SELECT pg_temp.ended(:id);
SELECT f->>'attempt', f->>'sqlstate', f->>'message' FROM jobqueue.tasks,
	jsonb_array_elements(failures) f WHERE id = :id;
-- no limit any more
SELECT jobqueue.alter_handler('t', timeout => '0');
SELECT jobqueue.enqueue('t', '{"seconds": 0.3}') AS id \gset
SELECT status, attempts, result FROM jobqueue.wait_for(:id, '60 s');
SELECT count(*) FROM t_effects;
TRUNCATE t_effects;
-- an error that it raises itself is not the timeout
CREATE FUNCTION t_raises(payload jsonb) RETURNS void LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'my own'
	USING ERRCODE = 'query_canceled'; END$$;
SELECT jobqueue.register_handler('t', 't_raises(jsonb)', timeout => '1 hour', max_attempts => 1);
SELECT jobqueue.enqueue('t') AS id \gset
SELECT status, last_sqlstate, last_error FROM jobqueue.wait_for(:id, '60 s');

-- a procedure: what it has committed stays, and the clock goes on
CREATE PROCEDURE t_commits(payload jsonb) LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.t_effects VALUES ('committed');
	COMMIT;
	INSERT INTO public.t_effects VALUES ('not committed');
	PERFORM pg_sleep(600);
END $$;
SELECT jobqueue.register_handler('t', 't_commits(jsonb)', timeout => '1 s', max_attempts => 1);
SELECT jobqueue.enqueue('t', '{"limit": 1}') AS id \gset
SELECT count(jobqueue.wait_for(:id, '60 s'));
SELECT pg_temp.ended(:id);
SELECT * FROM t_effects;
TRUNCATE t_effects;

-- the role's own limits are in force, as in any session
CREATE ROLE t_role LOGIN;
ALTER ROLE t_role SET statement_timeout = '1 s';
ALTER ROLE t_role SET lock_timeout = '50 ms';
GRANT INSERT ON t_effects TO t_role;
CREATE FUNCTION t_locks(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$BEGIN PERFORM pg_advisory_xact_lock(4721);
	RETURN 'locked'; END$$;
CREATE FUNCTION t_settings(payload jsonb) RETURNS text LANGUAGE sql AS $$SELECT current_setting('statement_timeout') ||
	', ' || current_setting('lock_timeout')$$;
SELECT jobqueue.register_handler('t-settings', 't_settings(jsonb)', run_as => 't_role'),
	jobqueue.register_handler('t-sleeps', 't_sleeps(jsonb)', run_as => 't_role', max_attempts => 1),
	jobqueue.register_handler('t-locks', 't_locks(jsonb)', run_as => 't_role', max_attempts => 1);
SELECT jobqueue.enqueue('t-settings') AS id \gset
SELECT status, result FROM jobqueue.wait_for(:id, '60 s');
SELECT jobqueue.enqueue('t-sleeps', '{"seconds": 600, "limit": 1}') AS id \gset
SELECT count(jobqueue.wait_for(:id, '60 s'));
SELECT pg_temp.ended(:id);
-- whichever comes first
SELECT jobqueue.enqueue('t-sleeps', '{"seconds": 600, "limit": 0.05}', timeout => '50 ms') AS a,
	jobqueue.enqueue('t-sleeps', '{"seconds": 600, "limit": 1}', timeout => '1 hour') AS b \gset
SELECT count(jobqueue.wait_for(id, '60 s')) FROM unnest(ARRAY[:a, :b]) id;
SELECT pg_temp.ended(:a);
SELECT pg_temp.ended(:b);
SELECT pg_advisory_lock(4721);
SELECT jobqueue.enqueue('t-locks', '{"limit": 0.05}') AS id \gset
SELECT count(jobqueue.wait_for(:id, '60 s'));
SELECT pg_temp.ended(:id);
SELECT pg_advisory_unlock(4721);
SELECT jobqueue.enqueue('t-locks') AS id \gset
SELECT status, result FROM jobqueue.wait_for(:id, '60 s');

-- one that catches the interrupt and comes to an end is done
CREATE FUNCTION t_catches(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_sleep(600);
	RETURN 'not reached';
EXCEPTION WHEN query_canceled THEN
	RETURN 'caught';
END $$;
SELECT jobqueue.register_handler('t', 't_catches(jsonb)', timeout => '500 ms');
SELECT jobqueue.enqueue('t') AS id \gset
SELECT status, attempts, result, failures FROM jobqueue.wait_for(:id, '60 s');

-- one that catches it and goes on is terminated, after the grace; others go on
ALTER SYSTEM SET jobqueue.timeout_grace = '300ms';
SELECT pg_reload_conf();
CREATE FUNCTION t_goes_on(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.t_effects VALUES ('begun');
	PERFORM jobqueue.set_progress(0.5);
	LOOP
		BEGIN
			PERFORM pg_sleep(600);
		EXCEPTION WHEN query_canceled THEN
			INSERT INTO public.t_effects VALUES ('caught');
		END;
	END LOOP;
END $$;
SELECT jobqueue.register_handler('t', 't_goes_on(jsonb)', timeout => '500 ms', max_attempts => 2, first_delay => '0');
SELECT jobqueue.enqueue('t', '{"limit": 0.8}') AS id \gset
SELECT count(jobqueue.wait_for(:id, '60 s'));
SELECT pg_temp.ended(:id);
SELECT crashes, lease_expires_at, f->>'attempt', f->>'sqlstate', f->>'message' FROM jobqueue.tasks,
	jsonb_array_elements(failures) f WHERE id = :id;
SELECT count(*) FROM t_effects;
SELECT jobqueue.enqueue('t-settings') AS id \gset
SELECT status, result FROM jobqueue.wait_for(:id, '60 s');
-- the same when it is cancelled by cancel(); its task is cancelled, whatever the handler does
DELETE FROM jobqueue.tasks;
SELECT jobqueue.alter_handler('t', timeout => '0');
SELECT jobqueue.enqueue('t') AS id \gset
CALL pg_temp.wait_until(format('EXISTS (SELECT 1 FROM jobqueue.running_tasks WHERE id = %s AND progress = 0.5)', :id));
SELECT pid AS worker FROM jobqueue.running_tasks WHERE id = :id \gset
SELECT jobqueue.cancel(:id, 'enough');
SELECT status, attempts, last_error FROM jobqueue.wait_for(:id, '60 s');
CALL pg_temp.wait_until(format('NOT EXISTS (SELECT 1 FROM pg_stat_activity WHERE pid = %s)', :worker));
SELECT count(*) FROM jobqueue.tasks WHERE status IN ('pending', 'scheduled', 'processing');
SELECT count(*) FROM t_effects;
ALTER SYSTEM RESET jobqueue.timeout_grace;
SELECT pg_reload_conf();

SELECT count(jobqueue.unregister_handler(type)) FROM jobqueue.handlers;
DROP TABLE t_effects;
DROP FUNCTION t_sleeps, t_raises, t_locks, t_settings, t_catches, t_goes_on;
DROP PROCEDURE t_commits;
DROP ROLE t_role;
DELETE FROM jobqueue.tasks;
