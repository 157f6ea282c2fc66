-- Schedules: what is understood and what is refused, next_runs, who may what, and the policies for missed and
-- overlapping times
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;
SET timezone = 'UTC';
SET datestyle = 'ISO';

-- syntax errors say where
CREATE FUNCTION pg_temp.refusal(cron text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	hint text;
BEGIN
	PERFORM jobqueue.next_runs(cron);
	RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN sqlstate || ': ' || sqlerrm || coalesce(' -- ' || nullif(hint, ''), '');
END $$;
SELECT quote_literal(cron), pg_temp.refusal(cron) FROM unnest(ARRAY[
	'', '   ', '*', '* * * *', '* * * * * * *', '60 * * * *', '* 24 * * *', '* * 0 * *', '* * 32 * *', '* * * 0 *',
		'* * * 13 *', '* * * * 8',
	'60 * * * * *', '-1 * * * *', '1- * * * *', '-5 * * * *', '1--2 * * * *', '1-2-3 * * * *', '5-1 * * * *',
		'0 22-2 * * *', '* * * * fri-tue',
	', * * * *', '1, * * * *', '1,,2 * * * *', '*/0 * * * *', '*/x * * * *', '*/ * * * *', '/5 * * * *',
		'*/5/5 * * * *', '*/90 * * * *', '* */25 * * *',
	'*5 * * * *', '** * * * *', '1a * * * *', '1.5 * * * *', '1:30 * * * *', '* * * january *', '* * * foo *',
		'* * * * monday', '* * * * foo', '* * mon * *', 'jan * * * *',
	'? * * * *', '* ? * * *', '* * * ? *', '* * 15W * *', '* * LW * *', '* * L-0 * *', '* * L-31 * *', '* * L-x * *',
		'* L * * *', '* * * L *', '* * * * L',
	'* * * * 1#0', '* * * * 1#6', '* * * * 1#', '* * * * #1', '* * * * 8#1', '* * * * 8L', '* * 1#1 * *',
		'* * * * 1#1-2', '$ * * * *', '0 0 30 2 *', '0 0 31 2,4,6,9,11 *',
	'0 0 */9 * 0#5', '@reboot', '@every 5m', '@fortnightly', '@', '@daily *', '99999999999999999999 * * * *',
		'H * * * *', '* * * * * 2027', E'*\t*\n* * 8',
	'0 seconds', '0.5 seconds', '-1 minute', '1 month -1 day', '2000 years', '1 furlong', '90', 'P', 'infinity',
		'seconds 90', repeat('1', 1001),
	repeat('9', 100) || ' * * * *']) cron;
SELECT pg_temp.try($$SELECT jobqueue.next_runs(NULL)$$),
	pg_temp.try($$SELECT jobqueue.next_runs('@daily', -1)$$),
	pg_temp.try($$SELECT jobqueue.next_runs('@daily', 10001)$$);
SELECT pg_temp.try($$SELECT jobqueue.next_runs('@daily', time_zone => 'Europe/Berln')$$),
	pg_temp.try($$SELECT jobqueue.next_runs('@daily', time_zone => '')$$),
	pg_temp.try($$SELECT jobqueue.next_runs('@daily', time_zone => repeat('x', 1000))$$),
		pg_temp.try($$SELECT jobqueue.next_runs('@daily', after => 'infinity')$$);

-- next_runs; test/cron has many more
SELECT jobqueue.next_runs('30 2 * * *', 2, 'Europe/Berlin', '2026-03-28 12:00');
SELECT jobqueue.next_runs('30 2 * * *', 2, 'Europe/Berlin', '2026-10-24 12:00');
SELECT jobqueue.next_runs('0 * * * *', 3, 'Europe/Berlin', '2026-10-24 23:30');
SELECT count(*), count(DISTINCT t), min(t), max(t) FROM jobqueue.next_runs('@daily', after => '2026-01-01') t;
SELECT count(*) FROM jobqueue.next_runs('@daily', 0);
SELECT jobqueue.next_runs('  0   0 29 2 * ', 2, after => '2096-01-01');
SELECT jobqueue.next_runs('0 0 29 2 mon#5', 2, after => '2026-01-01');
SELECT jobqueue.next_runs('* * * * * *', 2, after => '2026-01-01 00:00:00.999999');
SELECT jobqueue.next_runs('* * * * * *', 2, after => '1969-12-31 23:59:58.5');
SELECT jobqueue.next_runs('@daily', 1, after => '4000-01-01 BC');
SELECT jobqueue.next_runs('@yearly', 3, after => '198000-06-01');
SELECT jobqueue.next_runs('100 years', 3, after => '198000-06-01');
SELECT count(*) FROM jobqueue.next_runs('@yearly', after => '294276-12-31') UNION ALL SELECT count(*)
	FROM jobqueue.next_runs('1 second', after => '294276-12-31') UNION ALL SELECT count(*)
	FROM jobqueue.next_runs('1 month', after => '294276-12-31');
SELECT jobqueue.next_runs('1 second', 1, after => '4713-01-01 BC'), jobqueue.next_runs('1 month', 1, 'Asia/Tokyo',
	'4713-01-01 BC'), jobqueue.next_runs('* * * * *', 1, 'Asia/Tokyo', '4713-01-01 BC');
-- intervals count from a moment; with days and months they keep its time of day
SELECT jobqueue.next_runs('90 seconds', 3, after => '2026-01-01 00:00:00.25');
SELECT jobqueue.next_runs('1 hour', 3, 'Europe/Berlin', '2026-10-24 23:30');
SELECT jobqueue.next_runs('1 day', 3, 'Europe/Berlin', '2026-03-28 01:30');
SELECT jobqueue.next_runs('1 day', 3, 'Europe/Berlin', '2026-10-24 00:30');
SELECT jobqueue.next_runs('1 month', 4, 'UTC', '2026-01-31 10:00');
SELECT jobqueue.next_runs('1 mon 1 day 02:00', 2, 'UTC', '2026-01-31 10:00');
SELECT jobqueue.next_runs('PT5M', 2, after => '2026-01-01'), jobqueue.next_runs('1 day 2 hours 3 minutes', 2,
	after => '2026-01-01');
SELECT t FROM (SELECT t, n FROM jobqueue.next_runs('1 day', 10000, 'Europe/Berlin', '2026-01-01 00:00')
	WITH ORDINALITY r(t, n)) r WHERE n IN (1, 5000, 10000);

-- schedule: what it leaves, and what it refuses
SELECT jobqueue.schedule('s-plain', '0 3 * * *', 's-note');
SELECT name, cron, type, payload, command, time_zone, queue, priority, timeout, on_misfire, misfire_limit, on_overlap,
	next_run_at > now(), last_run_at, last_task_id, held, last_error,
	paused_at, created_by = current_user, created_by_oid = current_user::regrole, governed FROM jobqueue.schedules;
SELECT jobqueue.schedule('s-plain', '5 minutes', 's-other', '[1]', 'Asia/Tokyo', 's-queue', 7, 'all', 3, 'queue');
SELECT name, cron, type, payload, time_zone, queue, priority, on_misfire, misfire_limit, on_overlap,
	next_run_at = anchor + interval '5 minutes' FROM jobqueue.schedules;
SELECT anchor, next_run_at FROM jobqueue.schedules \gset
-- the same times again: it goes on as it was
SELECT jobqueue.schedule('s-plain', '5 minutes', 's-note', time_zone => 'Asia/Tokyo');
SELECT type, anchor = :'anchor' AND next_run_at = :'next_run_at' FROM jobqueue.schedules;
SELECT jobqueue.schedule('s-plain', '5 minutes', 's-note');
SELECT anchor > :'anchor' AND next_run_at > :'next_run_at' FROM jobqueue.schedules;
SELECT pg_temp.try(format('SELECT jobqueue.schedule(%s)', a)) FROM unnest(ARRAY[
	$$NULL, '@daily', 't'$$, $$'', '@daily', 't'$$, $$'n', NULL, 't'$$, $$'n', '@daily', NULL$$, $$'n', '@daily', ''$$,
	$$'n', '@daily', 't', time_zone => 'Mars'$$, $$'n', '@daily', 't',
		queue => ''$$, $$'n', '@daily', 't', queue => repeat('q', 64)$$,
	$$'n', '@daily', 't', priority => 40000$$, $$'n', '@daily', 't',
		on_misfire => 'some'$$,
	$$'n', '@daily', 't', misfire_limit => 0$$, $$'n', '@daily', 't', misfire_limit => 10001$$, $$'n', '@daily', 't',
		on_overlap => 'never'$$, $$'n', '61 * * * *', 't'$$]) a;
-- pause, resume, unschedule
SELECT jobqueue.pause_schedule('s-plain'), jobqueue.pause_schedule('s-plain'), jobqueue.pause_schedule('s-none');
SELECT jobqueue.schedule('s-plain', '5 minutes', 's-note');
SELECT paused_at IS NOT NULL AS "is not resumed by that" FROM jobqueue.schedules;
SELECT jobqueue.resume_schedule('s-plain'), jobqueue.resume_schedule('s-plain'), jobqueue.resume_schedule('s-none');
SELECT jobqueue.unschedule('s-plain'), jobqueue.unschedule('s-plain'), count(*) FROM jobqueue.schedules;
SELECT pg_temp.try($$SELECT jobqueue.unschedule(NULL)$$), pg_temp.try($$SELECT jobqueue.pause_schedule('')$$),
	pg_temp.try($$SELECT jobqueue.resume_schedule(NULL)$$);
BEGIN;
SELECT jobqueue.schedule('s-gone', '1 second', 's-note');
ROLLBACK;
SELECT count(*) FROM jobqueue.schedules;

-- whose they are
CREATE ROLE s_manager;
CREATE ROLE s_colleague IN ROLE s_manager;
CREATE ROLE s_stranger;
-- from 16 on, a member may be as good as none
SELECT current_setting('server_version_num')::integer >= 160000 AS has_options \gset
\if :has_options
GRANT s_manager TO s_stranger WITH INHERIT FALSE, SET FALSE;
\endif
CREATE ROLE s_limited;
CREATE ROLE s_producer;
CREATE FUNCTION s_work(payload jsonb) RETURNS void LANGUAGE sql AS '';
SELECT jobqueue.register_handler('s-foreign', 's_work(jsonb)', queue => 's-b', max_attempts => 1);
SELECT jobqueue.grant_access('s_manager', 'manager'), jobqueue.grant_access('s_stranger', 'manager'),
	jobqueue.grant_access('s_limited', 'manager', 's-a'), jobqueue.grant_access('s_producer', 'producer');
SET ROLE s_producer;
SELECT pg_temp.try($$SELECT jobqueue.schedule('s-mine', '@yearly', 's-note')$$),
	pg_temp.try($$SELECT jobqueue.unschedule('s-mine')$$), pg_temp.try($$SELECT name FROM jobqueue.schedules$$),
	pg_temp.try($$SELECT count(*) FROM jobqueue.next_runs('@yearly')$$);
SET ROLE s_manager;
SELECT jobqueue.schedule('s-mine', '@yearly', 's-note', queue => 's-b');
SELECT pg_temp.try($$UPDATE jobqueue.schedules SET created_by = 'postgres'$$),
	pg_temp.try($$DELETE FROM jobqueue.schedules$$);
SET ROLE s_stranger;
SELECT name, created_by FROM jobqueue.schedules;
SELECT pg_temp.try($$SELECT jobqueue.schedule('s-mine', '@yearly', 's-note')$$),
	pg_temp.try($$SELECT jobqueue.unschedule('s-mine')$$), pg_temp.try($$SELECT jobqueue.pause_schedule('s-mine')$$),
	pg_temp.try($$SELECT jobqueue.resume_schedule('s-mine')$$);
SET ROLE s_colleague;
SELECT jobqueue.pause_schedule('s-mine'), jobqueue.resume_schedule('s-mine');
SET ROLE s_limited;
SELECT count(*) FROM jobqueue.schedules;
SELECT pg_temp.try(format('SELECT jobqueue.schedule(%s)', a)) FROM unnest(ARRAY[
	$$'s-a', '@yearly', 's-note', queue => 's-a'$$, $$'s-b', '@yearly', 's-note', queue => 's-b'$$, $$'s-d', '@yearly',
		's-note'$$, $$'s-f', '@yearly', 's-foreign'$$,
	$$'s-f', '@yearly', 's-foreign', queue => 's-a'$$, $$'s-mine', '@yearly', 's-note', queue => 's-a'$$]) a;
SELECT name, queue, governed FROM jobqueue.schedules;
RESET ROLE;
SELECT jobqueue.pause_schedule('s-mine'), jobqueue.unschedule('s-mine');

-- firing: as its role, with its time; a role that has lost its access fires no more schedules
UPDATE jobqueue.schedules SET next_run_at = date_trunc('year', now()) WHERE name = 's-a';
CALL pg_temp.wait_until($$EXISTS (SELECT FROM jobqueue.tasks WHERE type = 's-note')$$);
SELECT type, payload, status, queue, created_by, metadata->>'schedule',
	(metadata->>'scheduled_for')::timestamptz = date_trunc('year', now()),
		run_at = date_trunc('year', now()) FROM jobqueue.tasks WHERE type = 's-note';
SELECT last_task_id = t.id, last_run_at = date_trunc('year', now()), next_run_at = date_trunc('year', now()) + interval
	'1 year' FROM jobqueue.schedules, jobqueue.tasks t WHERE t.type = 's-note';
SELECT jobqueue.revoke_access('s_limited', 'manager');
UPDATE jobqueue.schedules SET next_run_at = date_trunc('year', now()) WHERE name = 's-a';
CALL pg_temp.wait_until($$EXISTS (SELECT FROM jobqueue.schedules WHERE last_error IS NOT NULL)$$);
SELECT name, last_error, next_run_at < now() FROM jobqueue.schedules;
-- another of that name does not fire it, and takes it up only as an owner of everything would
DROP ROLE s_limited;
CREATE ROLE s_limited;
SELECT jobqueue.grant_access('s_limited', 'manager', 's-a');
CALL pg_temp.wait_until($$EXISTS (SELECT FROM jobqueue.schedules WHERE last_error LIKE '%no longer exists%')$$);
SELECT last_error FROM jobqueue.schedules;
SET ROLE s_limited;
SELECT pg_temp.try($$SELECT jobqueue.schedule('s-a', '@yearly', 's-note', queue => 's-a')$$);
RESET ROLE;
SELECT jobqueue.unschedule('s-a'), count(*) FROM jobqueue.tasks WHERE type = 's-note';
DELETE FROM jobqueue.tasks WHERE type = 's-note';
-- limit_role
SELECT jobqueue.limit_role('s_manager', max_queued => 2, max_payload => 10);
SET ROLE s_manager;
SELECT pg_temp.try($$SELECT jobqueue.schedule('s-long', '@yearly', 's-note', '"0123456789"')$$);
SELECT jobqueue.schedule('s-many', '1 second', 's-note');
RESET ROLE;
CALL pg_temp.wait_until($$EXISTS (SELECT FROM jobqueue.schedules WHERE last_error IS NOT NULL)$$);
SELECT s.last_error, count(t.id) FROM jobqueue.schedules s, jobqueue.tasks t WHERE t.type = 's-note' GROUP BY 1;
DELETE FROM jobqueue.tasks WHERE type = 's-note';
CALL pg_temp.wait_until($$EXISTS (SELECT FROM jobqueue.schedules WHERE last_error IS NULL)$$);
SELECT jobqueue.unschedule('s-many');
DELETE FROM jobqueue.tasks WHERE type = 's-note';

-- times that nobody saw were missed: the first four, of which the latest is two minutes ago; the fifth is to come, in a
-- second
SELECT jobqueue.schedule('s-' || policy, '2 minutes', 's-' || policy, on_misfire => policy)
	FROM unnest('{skip,once,all}'::text[]) policy;
SELECT jobqueue.schedule('s-two', '2 minutes', 's-two', on_misfire => 'all', misfire_limit => 2);
SELECT jobqueue.schedule('s-overlap', '2 minutes', 's-overlap', on_misfire => 'all', on_overlap => 'skip');
SELECT jobqueue.schedule('s-queue', '2 minutes', 's-queue', on_misfire => 'all', on_overlap => 'queue',
	misfire_limit => 3);
SELECT jobqueue.schedule('s-paused', '2 minutes', 's-paused', on_misfire => 'all');
SELECT jobqueue.pause_schedule('s-paused');
BEGIN;
SELECT now() - interval '599 seconds' AS since \gset
UPDATE jobqueue.schedules SET anchor = :'since', next_run_at = :'since'::timestamptz + interval '2 minutes'
	WHERE cron = '2 minutes';
COMMIT;
CALL pg_temp.wait_until($$(SELECT count(DISTINCT type) = 6 FROM jobqueue.tasks WHERE type LIKE 's-%')$$);
SELECT type, count(*), array_agg(extract(epoch FROM (metadata->>'scheduled_for')::timestamptz - :'since')::integer
	ORDER BY id) FROM jobqueue.tasks WHERE type LIKE 's-%' GROUP BY type ORDER BY type;
SELECT name, extract(epoch FROM next_run_at - :'since')::integer AS next,
	cardinality(held) FROM jobqueue.schedules WHERE cron = '2 minutes' AND name <> 's-paused' ORDER BY name;
SELECT jobqueue.resume_schedule('s-paused');
SELECT next_run_at > now() AND next_run_at <= now() + interval '2 minutes' AS "a paused one misses nothing"
	FROM jobqueue.schedules WHERE name = 's-paused';
-- what is held back comes in turn, each when the one before is finished, however it ends
SELECT status FROM jobqueue.tasks WHERE type = 's-queue';
SELECT jobqueue.cancel(id) FROM jobqueue.tasks WHERE type = 's-queue';
CALL pg_temp.wait_until($$(SELECT count(*) = 2 FROM jobqueue.tasks WHERE type = 's-queue')$$);
SELECT jobqueue.complete(id, attempts) FROM jobqueue.claim(types => '{s-queue}');
CALL pg_temp.wait_until($$(SELECT count(*) = 3 FROM jobqueue.tasks WHERE type = 's-queue')$$);
DELETE FROM jobqueue.tasks WHERE type = 's-queue' AND status = 'pending';
CALL pg_temp.wait_until($$EXISTS (SELECT FROM jobqueue.tasks WHERE type = 's-queue' AND status = 'pending')$$);
SELECT array_agg(status || ' ' || extract(epoch FROM (metadata->>'scheduled_for')::timestamptz - :'since')::integer
	ORDER BY id) FROM jobqueue.tasks WHERE type = 's-queue';
SELECT held FROM jobqueue.schedules WHERE name = 's-queue';

-- a row that was spoilt by hand does not stop the others, and says why
SELECT jobqueue.schedule('s-bad-' || n, '1 second', 's-bad') FROM generate_series(1, 3) n;
SELECT jobqueue.schedule('s-good', '1 second', 's-good');
UPDATE jobqueue.schedules SET cron = '* * * * 9' WHERE name = 's-bad-1';
UPDATE jobqueue.schedules SET time_zone = 'Mars' WHERE name = 's-bad-2';
UPDATE jobqueue.schedules SET next_run_at = '-infinity' WHERE name = 's-bad-3';
CALL pg_temp.wait_until($$(SELECT count(*) = 3 FROM jobqueue.schedules WHERE last_error IS NOT NULL)
	AND (SELECT count(*) >= 2 FROM jobqueue.tasks WHERE type = 's-good')$$);
SELECT name, last_error FROM jobqueue.schedules WHERE name LIKE 's-bad%' ORDER BY name;
SELECT count(*) FROM jobqueue.tasks WHERE type = 's-bad';
-- an expression that was changed by hand is gone by
UPDATE jobqueue.schedules SET cron = '@yearly', next_run_at = now() WHERE name = 's-good';
CALL pg_temp.wait_until($$(SELECT next_run_at > now() FROM jobqueue.schedules WHERE name = 's-good')$$);
SELECT next_run_at = date_trunc('year', now()) + interval '1 year' FROM jobqueue.schedules WHERE name = 's-good';

-- the statement of the reference that moves the jobs of pg_cron
CREATE SCHEMA cron
	CREATE TABLE job (jobid bigint, schedule text, command text, database text DEFAULT current_database(),
		username text DEFAULT CURRENT_USER, active boolean DEFAULT true, jobname text);
INSERT INTO cron.job (jobid, schedule, command, jobname) VALUES (1, '30 3 * * 6', 'DELETE FROM events', NULL),
	(2, '30 seconds', 'SELECT 1', 's-pg'), (3, '0 12 $ * *', 'SELECT 2', NULL);
INSERT INTO cron.job (jobid, schedule, command, database, active) VALUES (4, '@daily', 'SELECT 3', 'elsewhere', true),
	(5, '@daily', 'SELECT 4', current_database(), false);
SET cron.timezone = 'GMT';
-- E4: one name of two users, and jobs that are refused: the others are taken
CREATE ROLE s_user;
SELECT jobqueue.grant_access('s_user', 'sql');
INSERT INTO cron.job (jobid, schedule, command, jobname, username) VALUES (6, '1 hour', 'SELECT 5', 's-pg', 's_user'),
	(7, '@daily', 'SELECT 6; SELECT 7', 's-two', CURRENT_USER), (8, '@daily', 'SELECT 8', 's-who', 's_nobody_at_all'),
	(9, '@reboot', 'SELECT 9', 's-boot', CURRENT_USER), (10, '@daily', 'SELECT 10', 's-last', 's_user');
CREATE PROCEDURE pg_temp.migrate() LANGUAGE plpgsql AS $migrate$
DECLARE
	job record;
	title text;
BEGIN
	FOR job IN SELECT * FROM cron.job WHERE active AND database = current_database() ORDER BY jobid LOOP
		title := coalesce(job.jobname, 'pg_cron ' || job.jobid);
		IF EXISTS (SELECT FROM jobqueue.schedules WHERE name = title AND created_by <> job.username) THEN
			title := format('%s (%s, job %s)', title, job.username, job.jobid);
		END IF;
		BEGIN
			PERFORM jobqueue.schedule_sql(title, job.schedule, job.command, current_setting('cron.timezone'),
				on_misfire => 'skip', on_overlap => 'queue', run_as => job.username);
		EXCEPTION WHEN OTHERS THEN
			RAISE WARNING 'job % of %, "%", is not taken: %', job.jobid, job.username, title, sqlerrm;
		END;
	END LOOP;
END $migrate$;
CALL pg_temp.migrate();
SELECT name, cron, payload, time_zone, on_misfire, on_overlap, created_by = 's_user' AS "s_user's" FROM
	jobqueue.schedules WHERE type = 'sql' ORDER BY name;
CALL pg_temp.migrate(); -- again
SELECT count(*) FROM jobqueue.schedules WHERE type = 'sql';
-- what a superuser takes from another role is not taken without a word
SET client_min_messages = notice;
SELECT jobqueue.schedule_sql('s-last', '@daily', 'SELECT 11');
SET client_min_messages = warning;
SET client_min_messages = error;
DROP SCHEMA cron CASCADE;
RESET client_min_messages;

SELECT count(jobqueue.unschedule(name)) FROM jobqueue.schedules;
SELECT jobqueue.revoke_access('s_user', 'sql');
DROP ROLE s_user;
DELETE FROM jobqueue.tasks WHERE type LIKE 's-%';
SELECT jobqueue.unregister_handler('s-foreign');
SELECT jobqueue.revoke_access(r, l) FROM (VALUES ('s_manager', 'manager'), ('s_stranger', 'manager'),
	('s_limited', 'manager'), ('s_producer', 'producer')) v(r, l);
SELECT jobqueue.limit_role('s_manager');
DROP FUNCTION s_work(jsonb);
DROP ROLE s_manager, s_colleague, s_stranger, s_limited, s_producer;

-- commands
SELECT jobqueue.schedule_sql('s-cmd', '1 second', 'SELECT 1; SELECT 2');
SELECT jobqueue.schedule_sql('s-cmd', '1 second', 'SELECT 1', run_as => 's_nobody_at_all');
SELECT jobqueue.schedule_sql('s-cmd', '1 second', 'COMMIT');
CREATE ROLE s_command;
SELECT jobqueue.schedule_sql('s-cmd', '1 second', 'SELECT 1', run_as => 's_command');
SELECT jobqueue.grant_access('s_command', 'sql', 's-commands');
SELECT jobqueue.schedule_sql('s-cmd', '1 second', 'SELECT 1', run_as => 's_command');
SELECT jobqueue.schedule_sql('s-cmd', '1 second', 'CREATE TABLE s_made AS SELECT current_user AS by',
	queue => 's-commands');
SELECT jobqueue.schedule('s-type', '1 second', 'sql:1');
DO $$ BEGIN
	WHILE NOT EXISTS (SELECT 1 FROM jobqueue.tasks WHERE queue = 's-commands' AND status = 'completed') LOOP
		PERFORM pg_sleep(0.01);
		COMMIT;
	END LOOP;
END $$;
SELECT type ~ '^sql:', status, result, metadata->>'schedule', created_by = current_user FROM jobqueue.tasks WHERE queue
	= 's-commands' AND status = 'completed' LIMIT 1;
SELECT count(*) FROM s_made;
SELECT jobqueue.unschedule('s-cmd');
SELECT count(*) >= 0 FROM jobqueue.cancel_tasks(queue => 's-commands');
DROP TABLE s_made;
SELECT count(jobqueue.unregister_handler(type)) FROM jobqueue.handlers WHERE type LIKE 'sql:%';
SELECT jobqueue.revoke_access('s_command', 'sql');
DROP ROLE s_command;
