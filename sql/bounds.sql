-- Every text that a user can give has a bound, at every door; what records an event is cut instead of refused.
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\set VERBOSITY terse
\i :helpers
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS jobqueue;
\set ECHO queries

-- B2: every text and jsonb column of every table has a check of its length or its words, but for payloads and results
SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND
	NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
WHERE c.relnamespace = 'jobqueue'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
	AND coalesce(e.typname, t.typname) IN ('text', 'varchar', 'bpchar', 'json', 'jsonb', 'xml', 'bytea', 'cstring',
	'citext')
	AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c'
	AND a.attnum = ANY (k.conkey)
		AND pg_get_constraintdef(k.oid) ~
		format('(octet_length|pg_column_size)\(%1$s\)|\(%1$s .*=.* ANY |_check_task\(', a.attname))
ORDER BY 1, 2;
SELECT conrelid::regclass, conname FROM pg_constraint WHERE connamespace = 'jobqueue'::regnamespace AND contype = 'c'
	AND NOT convalidated;

-- B2: what is as long as it may be is taken, one byte more is refused, by the functions
CREATE FUNCTION pg_temp.tried(command text, n integer) RETURNS text LANGUAGE sql AS $$
	SELECT regexp_replace(pg_temp.try(replace(command, '#', format('repeat(''x'', %s)', n))), '^([0-9]+|\([0-9]+,t\))$',
		'ok')
$$;
CREATE FUNCTION bnd_f(payload jsonb) RETURNS void LANGUAGE sql AS '';
SELECT d.door, pg_temp.tried('SELECT jobqueue.' || d.door, d.most) AS longest,
	pg_temp.tried('SELECT jobqueue.' || d.door, d.most + 1) AS longer
FROM (VALUES
	('enqueue(#)', 255),
	('enqueue(#, unique_key => ''k'')', 255),
	('enqueue(''bnd'', group_key => #)', 1024),
	('enqueue(''bnd'', unique_key => #)', 1024),
	('enqueue(repeat(''t'', 255), unique_key => # || ''é'')', 1022),
	('enqueue(''bnd'', queue => #)', 63),
	('enqueue(''bnd'', metadata => to_jsonb(#))', 65528),
	('enqueue_unique(#, unique_key => ''k2'')', 255),
	('enqueue_unique(''bnd'', unique_key => #, unique_for => ''1 day'', metadata => ''{"a": 1}'') IS NOT NULL', 1024),
	('enqueue_many(#, ''{1}'')', 255),
	('enqueue_many(''bnd'', ''{1}'', group_key => #)', 1024),
	('enqueue_many(''bnd'', ''{1}'', metadata => to_jsonb(#))', 65528),
	('enqueue_flow(jsonb_build_object(''a'', jsonb_build_object(''type'', #))) IS NULL', 255),
	('enqueue_flow(jsonb_build_object(''a'', jsonb_build_object(''type'', ''bnd'', ''group_key'', #))) IS NULL', 1024),
	('enqueue_flow(jsonb_build_object(''a'', jsonb_build_object(''type'', ''bnd'', ''queue'', #))) IS NULL', 63),
	('enqueue_flow(jsonb_build_object(''a'', jsonb_build_object(''type'', ''bnd'', ''metadata'', #))) IS NULL', 65528),
	('enqueue_flow(jsonb_build_object(#, ''{"type": "bnd"}''::jsonb)) IS NULL', 255),
	('enqueue_flow(jsonb_build_array(jsonb_build_object(''name'', #, ''type'', ''bnd''))) IS NULL', 255),
	('claim(''nowhere'', claimed_by => #)', 255),
	('complete_and_claim(''{}'', ''{}'', queue => ''nowhere'', claimed_by => #)', 255),
	('register_handler(#, ''bnd_f(jsonb)'')', 255),
	('register_handler(''bnd'', ''bnd_f(jsonb)'', dead_letter_queue => #)', 63),
	('register_handler(''bnd'', ''bnd_f(jsonb)'', on_failure => #)', 255),
	('schedule(#, ''@daily'', ''bnd'')', 255),
	('schedule(''bnd'', ''@daily'', #)', 255),
	('schedule(''bnd'', ''* * * * '' || replace(#, ''x'', '' '') || ''*'', ''bnd'')', 991),
	('schedule(''bnd'', ''@daily'', ''bnd'', payload => to_jsonb(#))', 1048568),
	('schedule(''bnd'', ''@daily'', ''bnd'', queue => #)', 63),
	('schedule_sql(''bnd'', ''@daily'', ''SELECT 1 -- '' || #)', 999988),
	('enqueue_sql(''SELECT 1 -- '' || #)', 999988),
	('next_runs(''* * * * '' || replace(#, ''x'', '' '') || ''*'', 0)', 991)
) d(door, most);
SELECT door, pg_temp.tried('SELECT jobqueue.' || door, 64) FROM unnest(ARRAY[
	'schedule(''bnd'', ''@daily'', ''bnd'', time_zone => #)',
		'schedule_sql(''bnd'', ''@daily'', ''SELECT 1'', time_zone => #)', 'next_runs(''@daily'', time_zone => #)'])
			door;
SELECT pg_temp.try(format($$SELECT jobqueue.register_handler('bnd', 'bnd_f(jsonb)',
	discard_sqlstates => (SELECT array_agg(%L::text) FROM generate_series(1, %s)))$$, 'XX000', n))
FROM unnest('{1000,1001}'::int[]) n;
-- D3: whatever the door, the same answer
SELECT pg_temp.try($$SELECT jobqueue.enqueue_flow(jsonb_build_object('a',
	jsonb_build_object('type', 'bnd', 'group_key', repeat('g', 100000))))$$);
-- a trigger's argument is one, too
CREATE TEMP TABLE bnd_rows (i integer);
DO $$ BEGIN
	EXECUTE format('CREATE TRIGGER t AFTER INSERT ON bnd_rows FOR EACH ROW EXECUTE FUNCTION jobqueue.enqueue_row(%L)',
		repeat('x', 256)); END $$;
SELECT pg_temp.try('INSERT INTO bnd_rows VALUES (1) RETURNING i');

-- B2: nothing but these is written by plain statements either; characters count by their bytes
CREATE FUNCTION pg_temp.written(col text, value text, n integer) RETURNS text LANGUAGE sql AS $$
	SELECT coalesce(substring(t from '^\d{5}: .*'), 'ok')
		FROM pg_temp.try(
		format('INSERT INTO jobqueue.tasks (type, run_at, %I) VALUES (''bnd'', now() + ''1 day'', %s) RETURNING '
			'''x''', col, format(value, n))) t
$$;
SELECT w.col, pg_temp.written(w.col, w.value, w.most) AS longest, pg_temp.written(w.col, w.value, w.most + 1) AS longer
FROM (VALUES ('queue', 'repeat(''x'', %s)', 63), ('unique_key', 'repeat(''y'', %s)', 1024),
('group_key', 'repeat(''x'', %s)', 1024), ('claimed_by', 'repeat(''x'', %s)', 255),
	('last_error', 'repeat(''x'', %s)', 8192), ('last_sqlstate', 'repeat(''x'', %s)', 5),
		('metadata', 'to_jsonb(repeat(''x'', %s))', 65528), ('failures', 'jsonb_build_array(repeat(''x'', %s))',
			1048568),
	('origin_queue', 'repeat(''x'', %s)', 63), ('progress_message', 'repeat(''x'', %s)', 199),
		('claimed_by', 'repeat(''ä'', %s)', 127), ('attempts', '%s', 2000000000)) w(col, value, most);
SELECT pg_temp.try($$INSERT INTO jobqueue.tasks (type) VALUES (repeat('x', 256)) RETURNING 1$$),
	pg_temp.try($$INSERT INTO jobqueue.tasks (type) VALUES ('') RETURNING 1$$),
	pg_temp.try($$INSERT INTO jobqueue.tasks (type, unique_key) VALUES (repeat('é', 5000), 'k') RETURNING 1$$);
SELECT pg_temp.try(
	format('INSERT INTO jobqueue.schedules (name, cron, type, incarnation, %I) VALUES (''b'', ''@daily'', ''b'', '
		'gen_random_uuid(), repeat(''x'', %s)) RETURNING 1', c, n))
FROM (VALUES ('command', 1000001), ('time_zone', 64), ('last_error', 8193), ('queue', 64)) v(c, n);
SELECT pg_temp.try($$INSERT INTO jobqueue.unique_keys VALUES ('t', repeat('x', 1025), 1, now()) RETURNING 1$$),
	pg_temp.try($$INSERT INTO jobqueue.unique_keys VALUES (repeat('x', 256), 'k', 1, now()) RETURNING 1$$);
CREATE TEMP TABLE long AS SELECT repeat('x', 300) AS type;
SELECT pg_temp.try($$INSERT INTO jobqueue.tasks (type) SELECT type FROM long RETURNING 1$$);
\set VERBOSITY default
\set SHOW_CONTEXT never
INSERT INTO jobqueue.tasks (type) VALUES (repeat('x', 256));
-- E15: a task that failed is brought back by retry(), and an UPDATE that tries says so
INSERT INTO jobqueue.tasks_failed (id, type, status, slot) VALUES (-7, 'bnd', 'failed', -1);
UPDATE jobqueue.tasks SET status = 'pending' WHERE id = -7;
DELETE FROM jobqueue.tasks WHERE id = -7;
\set VERBOSITY terse

-- B2: what tells of an event is cut where a character ends, with a mark
SELECT jobqueue.enqueue('bnd-cut', queue => 'bnd-cut') IS NOT NULL FROM generate_series(1, 4);
CREATE TEMP TABLE c AS SELECT id, attempts, row_number() OVER (ORDER BY id) AS n FROM jobqueue.claim('bnd-cut', 10);
SELECT jobqueue.set_progress(id, attempts, 0.5, repeat('ä', 1000)) FROM c WHERE n = 1;
SELECT octet_length(progress_message), right(progress_message, 4) FROM jobqueue.tasks JOIN c USING (id) WHERE n = 1;
SELECT jobqueue.fail(id, attempts, repeat('ä', 20000000)) FROM c WHERE n = 1;
SELECT jobqueue.discard(id, attempts, repeat('ä', 20000)) FROM c WHERE n = 2;
SELECT jobqueue.fail(id, attempts, repeat('x', 8192)) FROM c WHERE n = 3;
SELECT jobqueue.cancel(id, repeat('ä', 20000)) FROM c WHERE n = 4;
SELECT n, status, octet_length(last_error), right(last_error, 4), octet_length(failures->0->>'message'),
	right(failures->0->>'message', 4) FROM jobqueue.tasks JOIN c USING (id) ORDER BY n;
-- a worker's name that is taken is told in the error when its lease ends
SELECT jobqueue.enqueue('bnd-lease', queue => 'bnd-lease') IS NOT NULL;
SELECT count(*) FROM jobqueue.claim('bnd-lease', lease => '1 millisecond', claimed_by => repeat('é', 127));
CALL pg_temp.wait_until($$EXISTS (SELECT FROM jobqueue.tasks WHERE type = 'bnd-lease'
	AND last_error LIKE 'the lease expired: é%')$$);

-- E15: so many attempts that they cannot be counted: claims go on, and there is no overflow
SELECT pg_temp.try(
	format('INSERT INTO jobqueue.tasks (type, queue, attempts, max_attempts) VALUES (''bnd-many'', ''bnd-many'', %s, '
		'2147483647) RETURNING 1', n)) FROM unnest('{2147483647,2000000001,2000000000}'::bigint[]) n;
SELECT jobqueue.enqueue('bnd-many', queue => 'bnd-many') IS NOT NULL;
CREATE TEMP TABLE m AS SELECT id, attempts FROM jobqueue.claim('bnd-many', 10);
SELECT attempts FROM m ORDER BY 1;
SELECT jobqueue.release(id, attempts) FROM m ORDER BY attempts;
SELECT status, attempts, last_sqlstate, last_error FROM jobqueue.tasks WHERE type = 'bnd-many' ORDER BY attempts;

-- E8, C14: time zones are names of pg_timezone_names: no POSIX rules, no abbreviations, nothing outside of the
-- directory
SELECT z, pg_temp.try(format('SELECT count(*) FROM jobqueue.next_runs(''@daily'', 1, %L)', z)) = '1' AS run,
	pg_temp.try(format('SELECT jobqueue.schedule(''bnd-z'', ''@daily'', ''bnd'', time_zone => %L)', z)) = '' AS schedule
FROM unnest(ARRAY['UTC', 'GMT', 'Europe/Berlin', 'europe/BERLIN', 'Etc/GMT+3', 'EST5EDT', 'Asia/Kathmandu',
	'Europe/Berlin2', 'Europe/Berlin ', '5', '-5', '+05:30', 'Foo1', 'FOO1BAR', '<+03>-3', 'UTC+3', 'UTC0',
		'CET-1CEST,M3.5.0,M10.5.0/3', 'CEST', 'PDT',
	'Europe', 'Europe/', '../zoneinfo/UTC', '/usr/share/zoneinfo/UTC', ':UTC', 'UTC/', '.', '..', 'zone.tab', '',
		'posix', 'localtime2']) z;
SELECT pg_temp.try($$SELECT jobqueue.next_runs('@daily', 1, 'Foo1')$$);
CREATE TEMP TABLE zones AS SELECT total_bytes FROM pg_backend_memory_contexts WHERE name = 'Timezones';
SELECT count(*) FROM generate_series(1, 1000) i WHERE pg_temp.try(
	format('SELECT jobqueue.next_runs(''@daily'', 1, ''AAA%s:%s'')', i % 24, i % 60)) LIKE
		'22023: time zone % is not known';
SELECT total_bytes = (SELECT total_bytes FROM zones) FROM pg_backend_memory_contexts WHERE name = 'Timezones';
SELECT count(*) FROM pg_timezone_names n WHERE pg_temp.try(
	format('SELECT count(*) FROM jobqueue.next_runs(''@daily'', 1, %L)', n.name)) <> '1';
\set VERBOSITY default
SELECT jobqueue.next_runs('@daily', 1, 'Europe/Berlin2');
-- E15: what a cron expression says of the time zone is said elsewhere
SELECT jobqueue.next_runs('CRON_TZ=Europe/Berlin 0 9 * * *');
SELECT jobqueue.next_runs('tz=UTC 0 9 * * *');
SELECT jobqueue.schedule('bnd-z', 'CRON_TZ=Europe/Berlin 0 9 * * *', 'bnd');
-- E15: the hint for a range that ends before it begins can be followed
SELECT jobqueue.next_runs('0 0 * * 7-1');
SELECT jobqueue.next_runs('0 0 * * 0-1', 1, after => '2026-01-03') = jobqueue.next_runs('0 0 * * sun,mon', 1, after =>
	'2026-01-03');
SELECT jobqueue.next_runs('0 0 * * 6-1');
SELECT jobqueue.next_runs('0 0 * * 7-7', 1, after => '2026-01-03') = jobqueue.next_runs('0 0 * * sun', 1, after =>
	'2026-01-03');
\set VERBOSITY terse

SELECT count(jobqueue.unschedule(name)) > 0 FROM jobqueue.schedules WHERE name ~ '^(bnd|x+$)';
SELECT count(jobqueue.unregister_handler(type)) > 0 FROM jobqueue.handlers WHERE type ~ '^(bnd|x+$)';
DELETE FROM jobqueue.handlers WHERE type LIKE 'sql:%';
DELETE FROM jobqueue.unique_keys;
DELETE FROM jobqueue.tasks;
DROP FUNCTION bnd_f(jsonb);
