-- drain: waiting tasks run here and now, in the transaction of an application's test
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;
\set SHOW_CONTEXT never

CREATE ROLE dr_app LOGIN;
CREATE ROLE dr_other LOGIN;
SELECT count(jobqueue.grant_access('dr_app', a)) FROM unnest('{producer,consumer,manager}'::text[]) a;
CREATE TABLE dr_effects (what text, by name DEFAULT current_user);
GRANT ALL ON dr_effects TO dr_app, dr_other;
CREATE FUNCTION dr_work(task jobqueue.tasks) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.dr_effects VALUES (coalesce(task.payload->>'do', 'nothing'));
	CASE coalesce(task.payload->>'do', 'nothing')
	WHEN 'raise' THEN
		RAISE EXCEPTION 'attempt % has no luck', task.attempts USING ERRCODE = 'XY123', DETAIL = 'a detail';
	WHEN 'snooze' THEN
		IF task.attempts <= 2 THEN
			PERFORM jobqueue.snooze('1 hour');
		END IF;
	WHEN 'snooze and forget' THEN
		BEGIN
			PERFORM jobqueue.snooze('1 hour');
			PERFORM 1 / 0;
		EXCEPTION WHEN division_by_zero THEN
		END;
	WHEN 'discard' THEN
		PERFORM jobqueue.discard('no use');
	WHEN 'cancel' THEN
		PERFORM jobqueue.cancel(task.id, 'my own will');
	WHEN 'enqueue' THEN
		PERFORM jobqueue.enqueue(task.type, jsonb_build_object('do', task.payload->'next'));
	WHEN 'progress' THEN
		PERFORM jobqueue.set_progress(0.5, 'half');
	WHEN 'drain' THEN
		PERFORM jobqueue.drain();
	ELSE
	END CASE;
	RETURN jsonb_build_object('attempt', task.attempts, 'current', (jobqueue.current_task()).id = task.id);
END $$;
CREATE FUNCTION pg_temp.brief(task jobqueue.tasks) RETURNS text LANGUAGE sql AS $$
	SELECT format('%s: %s, attempts %s of %s, result %s, error %s/%s, lease %s, in %s',
		coalesce((task).payload->>'do', 'nothing'), (task).status, (task).attempts, (task).max_attempts,
			coalesce((task).result::text, '-'),
		coalesce((task).last_sqlstate, '-'), coalesce((task).last_error, '-'), (task).lease_expires_at IS NOT NULL,
			(task).queue)
$$;
CREATE FUNCTION pg_temp.wait_of(task_id bigint) RETURNS interval LANGUAGE sql AS $$
	SELECT ceil(extract(epoch FROM run_at - updated_at) / 60) * interval '1 minute' FROM jobqueue.tasks
		WHERE id = task_id AND status = 'scheduled'
$$;
SELECT jobqueue.register_handler('dr', 'dr_work(jobqueue.tasks)', run_as => 'dr_app', backoff => 'fixed',
	first_delay => '1 hour', max_delay => '1 hour', jitter => 0, max_attempts => 3);
SET ROLE dr_app;

-- as a test would use it
BEGIN;
SELECT jobqueue.enqueue('dr', '{"do": "nothing"}') AS id \gset
SELECT pg_temp.brief(d) FROM jobqueue.drain() d;
SELECT pg_temp.brief(t), tableoid::regclass IS NOT NULL, finished_at IS NOT NULL, claimed_by IS NOT NULL,
	failures FROM jobqueue.tasks t WHERE id = :id;
SELECT * FROM dr_effects;
-- nothing is left to do
SELECT count(*) FROM jobqueue.drain();
SELECT (jobqueue.current_task()).id;
ROLLBACK;
SELECT count(*) FROM jobqueue.tasks;
SELECT count(*) FROM dr_effects;

-- all that handlers may say of their task
BEGIN;
SELECT jobqueue.enqueue('dr', jsonb_build_object('do', what))
	FROM unnest('{nothing,raise,snooze,snooze and forget,discard,cancel,progress,drain}'::text[]) what \g /dev/null
SELECT pg_temp.brief(d), pg_temp.wait_of(d.id) FROM jobqueue.drain() d;
-- what failed or was cancelled has left nothing
SELECT what FROM dr_effects ORDER BY 1;
SELECT failures->0->>'sqlstate', failures->0->>'detail', failures->0->>'message' FROM jobqueue.tasks WHERE failures IS
	NOT NULL ORDER BY id;
-- those that wait are left alone, unless they are asked for: then until the end
SELECT count(*) FROM jobqueue.drain();
SELECT pg_temp.brief(d) FROM jobqueue.drain(include_scheduled => true) d;
SELECT count(*) FROM jobqueue.tasks WHERE status NOT IN ('completed', 'failed', 'cancelled');
ROLLBACK;

-- handlers that enqueue more; priority; delays; queues; how many
BEGIN;
SELECT jobqueue.enqueue('dr', '{"do": "enqueue", "next": "first"}') \g /dev/null
SELECT pg_temp.brief(d) FROM jobqueue.drain() d;
SELECT jobqueue.enqueue('dr', '{"do": "low"}', priority => 5), jobqueue.enqueue('dr', '{"do": "high"}', priority => -5),
	jobqueue.enqueue('dr', '{"do": "other queue"}', queue => 'dr-other'),
	jobqueue.enqueue('dr', '{"do": "later"}', delay => '1 day'), jobqueue.enqueue('dr', '{"do": "sooner"}',
		delay => '1 hour') \g /dev/null
SELECT pg_temp.brief(d) FROM jobqueue.drain(queue => 'default', max_tasks => 1) d;
SELECT pg_temp.brief(d) FROM jobqueue.drain('default') d;
SELECT count(*) FROM jobqueue.drain(queue => 'dr-none');
SELECT pg_temp.brief(d) FROM jobqueue.drain(queue => 'dr-other', include_scheduled => true) d;
SELECT pg_temp.brief(d) FROM jobqueue.drain(max_tasks => 1, include_scheduled => true) d;
SELECT pg_temp.brief(d) FROM jobqueue.drain(include_scheduled => true) d;
ROLLBACK;
-- one that waits again and again: the number is what ends it
BEGIN;
SELECT jobqueue.enqueue('dr', '{"do": "raise"}', max_attempts => 1000) \g /dev/null
SELECT max(attempts), count(*) FROM jobqueue.drain(max_tasks => 7, include_scheduled => true);
ROLLBACK;

-- an error is the task's, unless the test wants to see it
BEGIN;
SELECT jobqueue.enqueue('dr', '{"do": "raise"}', max_attempts => 1) \g /dev/null
SELECT pg_temp.brief(d) FROM jobqueue.drain() d;
ROLLBACK;
BEGIN;
SELECT jobqueue.enqueue('dr', '{"do": "raise"}') \g /dev/null
SAVEPOINT before;
SELECT count(*) FROM jobqueue.drain(raise_errors => true);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO before;
-- as if it had not been tried
SELECT status, attempts, last_error FROM jobqueue.tasks;
SELECT count(*) FROM dr_effects;
ROLLBACK;

-- savepoints: back, and once more
BEGIN;
SELECT jobqueue.enqueue('dr') \g /dev/null
SAVEPOINT a;
SELECT pg_temp.brief(d) FROM jobqueue.drain() d;
ROLLBACK TO a;
SELECT status, attempts FROM jobqueue.tasks;
SELECT pg_temp.brief(d) FROM jobqueue.drain() d;
RELEASE a;
SAVEPOINT b;
SELECT jobqueue.enqueue('dr') \g /dev/null
ROLLBACK TO b;
SELECT count(*) FROM jobqueue.drain();
SELECT count(*) FROM dr_effects;
ROLLBACK;

-- in a function; in a block that is rolled back
BEGIN;
DO $$
DECLARE
	n integer;
BEGIN
	PERFORM jobqueue.enqueue('dr');
	BEGIN
		SELECT count(*) INTO n FROM jobqueue.drain();
		RAISE EXCEPTION 'back' USING ERRCODE = 'XY999';
	EXCEPTION WHEN SQLSTATE 'XY999' THEN
	END;
	ASSERT n = 1, 'once';
	SELECT count(*) INTO n FROM jobqueue.drain();
	ASSERT n = 1, 'twice';
END $$;
SELECT count(*) FROM dr_effects;
ROLLBACK;

-- from one snapshot, too; not where nothing may be written
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT jobqueue.enqueue('dr') \g /dev/null
SELECT pg_temp.brief(d) FROM jobqueue.drain() d;
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT jobqueue.enqueue('dr', '{"do": "raise"}') \g /dev/null
SELECT pg_temp.brief(d) FROM jobqueue.drain() d;
ROLLBACK;

-- a limit of the caller's own statement is no failure of the task
BEGIN;
SELECT jobqueue.enqueue('dr', '{"do": "raise"}', max_attempts => 1000000) \g /dev/null
SET LOCAL statement_timeout = '200 ms';
SAVEPOINT before;
SELECT count(*) FROM jobqueue.drain(include_scheduled => true);
ROLLBACK TO before;
SELECT status, attempts FROM jobqueue.tasks;
ROLLBACK;
RESET ROLE;

-- a back-off function; one that raises: the other settings
CREATE FUNCTION dr_backoff(attempt integer, error text) RETURNS interval LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.dr_effects VALUES ('asked');
	IF attempt > 1 THEN
		RAISE EXCEPTION 'no idea';
	END IF;
	RETURN attempt * interval '7 hours';
END $$;
SELECT jobqueue.alter_handler('dr', backoff_function => 'dr_backoff(integer, text)');
SET ROLE dr_app;
BEGIN;
SELECT jobqueue.enqueue('dr', '{"do": "raise"}') AS id \gset
SELECT pg_temp.brief(d), pg_temp.wait_of(d.id) FROM jobqueue.drain() d;
SELECT count(*) FROM dr_effects;
SELECT pg_temp.brief(d), pg_temp.wait_of(d.id) FROM jobqueue.drain(include_scheduled => true, max_tasks => 1) d;
SELECT count(*) FROM dr_effects;
ROLLBACK;
RESET ROLE;
-- dead letters: there they stay; errors that are not tried again
SELECT jobqueue.alter_handler('dr', backoff => 'fixed', discard_sqlstates => '{XY}', dead_letter_queue => 'dr-dead');
SET ROLE dr_app;
BEGIN;
SELECT jobqueue.enqueue('dr', '{"do": "raise"}'), jobqueue.enqueue('dr', '{"do": "discard"}'),
	jobqueue.enqueue('dr', queue => 'dr-dead') \g /dev/null
SELECT pg_temp.brief(d), d.origin_queue FROM jobqueue.drain() d;
SELECT count(*) FROM jobqueue.drain(include_scheduled => true);
SELECT count(*) FROM jobqueue.drain('dr-dead', include_scheduled => true);
SELECT status, queue, count(*) FROM jobqueue.tasks GROUP BY 1, 2 ORDER BY 1, 2;
ROLLBACK;
RESET ROLE;
SELECT jobqueue.alter_handler('dr', discard_sqlstates => '{}', dead_letter_queue => '');

-- only the caller's own handlers: others' code does not get its rights
SELECT jobqueue.register_handler('dr-other', 'dr_work(jobqueue.tasks)', run_as => 'dr_other'),
	jobqueue.register_handler('dr-super', 'dr_work(jobqueue.tasks)');
GRANT dr_other TO dr_app;
SET ROLE dr_app;
BEGIN;
SELECT jobqueue.enqueue('dr-other'), jobqueue.enqueue('dr-super'), jobqueue.enqueue('dr-unhandled'),
	jobqueue.enqueue('dr'), jobqueue.enqueue('dr-other', delay => '1 hour') \g /dev/null
SELECT d.type FROM jobqueue.drain(include_scheduled => true) d;
SELECT * FROM dr_effects;
SELECT type, status FROM jobqueue.tasks ORDER BY id;
RESET ROLE;
SELECT d.type FROM jobqueue.drain() d;
SELECT * FROM dr_effects ORDER BY by;
ROLLBACK;
RESET ROLE;
REVOKE dr_other FROM dr_app;
-- one that may not be executed
REVOKE EXECUTE ON FUNCTION dr_work FROM PUBLIC;
SET ROLE dr_app;
BEGIN;
SELECT jobqueue.enqueue('dr') \g /dev/null
SELECT pg_temp.brief(d) FROM jobqueue.drain() d;
ROLLBACK;
RESET ROLE;
GRANT EXECUTE ON FUNCTION dr_work TO PUBLIC;

-- paused queues wait, and do not delay other queues
SELECT jobqueue.pause_queue('dr-paused');
SET ROLE dr_app;
BEGIN;
SELECT jobqueue.enqueue('dr', '{"do": "paused"}', queue => 'dr-paused'),
	jobqueue.enqueue('dr', '{"do": "paused, later"}', queue => 'dr-paused', delay => '1 hour'),
		jobqueue.enqueue('dr', '{"do": "later"}', delay => '2 hours') \g /dev/null
SELECT pg_temp.brief(d) FROM jobqueue.drain(include_scheduled => true) d;
SELECT payload->>'do', status FROM jobqueue.tasks ORDER BY id;
ROLLBACK;
RESET ROLE;
SELECT jobqueue.resume_queue('dr-paused');

-- what a handler sets is neither the next one's nor the caller's, as in a worker
CREATE FUNCTION dr_settings(payload jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	before text := format('%s, %s', nullif(current_setting('dr.local', true), ''),
		nullif(current_setting('dr.session', true), ''));
BEGIN
	PERFORM set_config('dr.local', 'set', true), set_config('dr.session', 'set', false);
	RETURN before;
END $$;
SELECT jobqueue.register_handler('dr-settings', 'dr_settings(jsonb)', run_as => 'dr_app');
SET ROLE dr_app;
BEGIN;
SELECT jobqueue.enqueue('dr-settings'), jobqueue.enqueue('dr-settings') \g /dev/null
SELECT d.status, d.result FROM jobqueue.drain() d;
SELECT nullif(current_setting('dr.local', true), ''), nullif(current_setting('dr.session', true), '');
ROLLBACK;
RESET ROLE;

-- procedures: a plain one runs; one that commits cannot, and is told so
CREATE PROCEDURE dr_plain(payload jsonb) LANGUAGE sql AS $$INSERT INTO dr_effects VALUES ('plain')$$;
CREATE PROCEDURE dr_commits(payload jsonb) LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.dr_effects VALUES ('commits');
	COMMIT; END$$;
CREATE PROCEDURE dr_rolls_back(payload jsonb) LANGUAGE plpgsql AS $$BEGIN INSERT INTO public.dr_effects
	VALUES ('rolls back'); ROLLBACK; END$$;
SELECT jobqueue.register_handler(p, ('dr_' || p || '(jsonb)')::regprocedure, run_as => 'dr_app', max_attempts => 1)
	FROM unnest('{plain,commits,rolls_back}'::text[]) p;
SET ROLE dr_app;
BEGIN;
SELECT jobqueue.enqueue(p) FROM unnest('{plain,commits,rolls_back}'::text[]) p \g /dev/null
SELECT d.type, pg_temp.brief(d) FROM jobqueue.drain() d;
SELECT what FROM dr_effects;
ROLLBACK;

-- arguments
SELECT command, pg_temp.try('SELECT jobqueue.' || command) FROM (VALUES
	($$drain(max_tasks => 0)$$),
	($$drain(max_tasks => -1)$$),
	($$drain(queue => '')$$),
	($$drain(queue => repeat('q', 64))$$),
	($$drain(include_scheduled => NULL)$$),
	($$drain(raise_errors => NULL)$$),
	($$drain(NULL, NULL)$$)
) v(command);
RESET ROLE;
-- none of this has been announced
SELECT count(*) FROM jobqueue.tasks;
SELECT count(*) FROM dr_effects;

SELECT count(jobqueue.unregister_handler(type)) FROM jobqueue.handlers;
SELECT count(jobqueue.revoke_access('dr_app', a)) FROM unnest('{producer,consumer,manager}'::text[]) a;
DROP FUNCTION dr_work, dr_backoff, dr_settings;
DROP PROCEDURE dr_plain, dr_commits, dr_rolls_back;
DROP TABLE dr_effects;
DROP ROLE dr_app, dr_other;
DELETE FROM jobqueue.queues;
DELETE FROM jobqueue.tasks;
