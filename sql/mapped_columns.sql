-- A mapper of objects names the columns of its model in an INSERT: a producer may, if enqueue() would write the same
\getenv abs_srcdir PG_ABS_SRCDIR
\set helpers :abs_srcdir '/sql/helpers.inc'
\set ECHO none
\i :helpers
\set ECHO all
SET client_min_messages = warning;
CREATE ROLE regress_mapper NOLOGIN;
SELECT jobqueue.grant_access('regress_mapper', 'producer', 'mapped');
SELECT jobqueue.pause_queue('mapped');
SET ROLE regress_mapper;

-- every column but the id, with the values that a model has for a new object
INSERT INTO jobqueue.tasks (type, payload, status, created_at, updated_at, processed_at, queue, priority, run_at,
	attempts, max_attempts, finished_at, lease_expires_at, claimed_by, last_error, last_sqlstate, result, unique_key,
	group_key, created_by, metadata, timeout, crashes, failures, origin_queue, progress, progress_message, unique_scope,
	slot)
VALUES ('mapped', '{"a": 1}', 'pending', clock_timestamp() - interval '59 min', clock_timestamp() + interval '59 min',
	NULL, 'mapped', 3, NULL, 0, 5, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, 'regress_mapper', '{}', '1 minute',
	0, NULL, NULL, NULL, NULL, NULL, 0) RETURNING type, payload, status, queue, attempts;
INSERT INTO jobqueue.tasks (type, queue, status, run_at)
	VALUES ('mapped', 'mapped', 'scheduled', now() + interval '1 day') RETURNING status;
RESET ROLE;

-- what enqueue() would not have written, for each column; a column with another value is its own business
CREATE TEMPORARY TABLE forged (column_name text, value text);
INSERT INTO forged VALUES ('id', '1'), ('id', '(SELECT max(id) + 1000 FROM jobqueue.tasks)'), ('type', '''sql:x'''),
	('status', '''processing'''), ('status', '''completed'''), ('status', '''failed'''), ('status', '''cancelled'''),
	('status', '''blocked'''), ('created_at', 'now() - interval ''1 h'''), ('created_at', 'now() + interval ''1 h'''),
	('created_at', '''-infinity'''), ('updated_at', 'now() - interval ''1 h'''), ('updated_at', '''infinity'''),
	('processed_at', 'now()'), ('queue', '''elsewhere'''), ('attempts', '1'), ('attempts', '-1'),
	('finished_at', 'now()'),
	('lease_expires_at', '''infinity'''), ('claimed_by', '''me'''), ('last_error', '''e'''),
	('last_sqlstate', '''22000'''),
	('result', '''1'''), ('unique_key', '''k'''), ('group_key', '''g'''), ('created_by', '''postgres'''),
	('crashes', '1'),
	('failures', '''[]'''), ('origin_queue', '''q'''), ('progress', '0.5'), ('progress_message', '''m'''),
	('unique_scope', '''live'''), ('slot', '1'), ('slot', '-1');
SELECT attname AS "no forgery of it above" FROM pg_attribute WHERE attrelid = 'jobqueue.tasks'::regclass AND attnum > 0
	AND attname NOT IN (SELECT column_name FROM forged)
	AND attname NOT IN ('payload', 'priority', 'run_at', 'max_attempts', 'metadata', 'timeout');
CREATE FUNCTION pg_temp.forge(column_name text, value text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	columns text[] := ARRAY[column_name];
	vals text[] := ARRAY[value];
BEGIN
	IF column_name <> 'type' THEN columns := columns || 'type'::text; vals := vals || '''mapped'''::text; END IF;
	IF column_name <> 'queue' THEN columns := columns || 'queue'::text; vals := vals || '''mapped'''::text; END IF;
	SET LOCAL ROLE regress_mapper;
	BEGIN
		EXECUTE format('INSERT INTO jobqueue.tasks (%s) VALUES (%s)', array_to_string(columns, ', '),
			array_to_string(vals, ', '));
		RESET ROLE;
		RETURN 'taken';
	EXCEPTION WHEN OTHERS THEN
		RESET ROLE;
		RETURN sqlstate;
	END;
END $$;
SELECT column_name, value, pg_temp.forge(column_name, value) FROM forged;

SELECT jobqueue.delete_tasks(type => 'mapped');
SELECT jobqueue.revoke_access('regress_mapper', 'producer'), jobqueue.resume_queue('mapped');
DELETE FROM jobqueue.queues WHERE queue = 'mapped';
DROP ROLE regress_mapper;
