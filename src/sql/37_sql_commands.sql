-- SQL commands as tasks. There is no function behind the handlers of their types: workers run the commands themselves.

CREATE FUNCTION jobqueue.enqueue_sql(command text, queue text DEFAULT 'default', timeout interval DEFAULT NULL,
	run_at timestamptz DEFAULT NULL)
	RETURNS bigint LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_enqueue_sql';
COMMENT ON FUNCTION jobqueue.enqueue_sql(text, text, interval, timestamptz) IS
	'adds an SQL command as a task that runs as the caller, also one that cannot run in a transaction block; returns its id';
