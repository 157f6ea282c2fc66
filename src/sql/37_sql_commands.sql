-- SQL commands as tasks. The handlers of their types have no function: workers run the commands themselves.

CREATE FUNCTION jobqueue.enqueue_sql(command text, queue text DEFAULT 'default', timeout interval DEFAULT NULL,
	run_at timestamptz DEFAULT NULL)
	RETURNS bigint LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_enqueue_sql';
COMMENT ON FUNCTION jobqueue.enqueue_sql(text, text, interval, timestamptz) IS
	'adds an SQL command as a task that runs as the caller, also one that cannot run in a transaction block; '
	'returns its id';

CREATE FUNCTION jobqueue.schedule_sql(name text, cron text, command text, time_zone text DEFAULT 'UTC',
	queue text DEFAULT 'default', timeout interval DEFAULT NULL, on_misfire text DEFAULT 'once',
	misfire_limit integer DEFAULT 10, on_overlap text DEFAULT 'skip', run_as name DEFAULT CURRENT_USER)
	RETURNS void LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_schedule_sql';
COMMENT ON FUNCTION jobqueue.schedule_sql(text, text, text, text, text, interval, text, integer, text, name) IS
	'makes or replaces a schedule whose tasks are an SQL command, which runs as the caller, or as a role it is '
	'a member of';
