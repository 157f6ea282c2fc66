-- Schedules: they add tasks at the times of a cron expression or an interval.

CREATE TABLE jobqueue.schedules (
	name           text        NOT NULL CONSTRAINT schedules_pkey PRIMARY KEY
		CONSTRAINT schedules_name_not_empty CHECK (name OPERATOR(pg_catalog.<>) '')
		CONSTRAINT schedules_name_length CHECK (pg_catalog.octet_length(name) OPERATOR(pg_catalog.<=) 255),
	cron           text        NOT NULL CONSTRAINT schedules_cron_length CHECK (
		pg_catalog.octet_length(cron) OPERATOR(pg_catalog.<=) 1000),
	type           text        NOT NULL CONSTRAINT schedules_type_not_empty CHECK (type OPERATOR(pg_catalog.<>) '')
		CONSTRAINT schedules_type_length CHECK (pg_catalog.octet_length(type) OPERATOR(pg_catalog.<=) 255),
	payload        jsonb       NOT NULL DEFAULT '{}' CONSTRAINT schedules_payload_length CHECK (
		pg_catalog.pg_column_size(payload) OPERATOR(pg_catalog.<=) 1048580),
	command        text        CONSTRAINT schedules_command_length CHECK (
		pg_catalog.octet_length(command) OPERATOR(pg_catalog.<=) 1000000),
	time_zone      text        NOT NULL DEFAULT 'UTC' CONSTRAINT schedules_time_zone_length CHECK (
		pg_catalog.octet_length(time_zone) OPERATOR(pg_catalog.<=) 63),
	queue          text        CONSTRAINT schedules_queue_length CHECK (
		pg_catalog.octet_length(queue) OPERATOR(pg_catalog.>=) 1
		AND pg_catalog.octet_length(queue) OPERATOR(pg_catalog.<=) 63),
	priority       smallint    NOT NULL DEFAULT 0,
	timeout        interval    CONSTRAINT schedules_timeout_positive CHECK (
		timeout OPERATOR(pg_catalog.>) '0'::interval),
	on_misfire     text        NOT NULL DEFAULT 'once' CONSTRAINT schedules_on_misfire_known CHECK (
		on_misfire OPERATOR(pg_catalog.=) ANY (ARRAY['skip', 'once', 'all'])),
	misfire_limit  integer     NOT NULL DEFAULT 10 CONSTRAINT schedules_misfire_limit_range CHECK (
		misfire_limit OPERATOR(pg_catalog.>) 0 AND misfire_limit OPERATOR(pg_catalog.<=) 10000),
	on_overlap     text        NOT NULL DEFAULT 'allow' CONSTRAINT schedules_on_overlap_known CHECK (
		on_overlap OPERATOR(pg_catalog.=) ANY (ARRAY['allow', 'skip', 'queue'])),
	next_run_at    timestamptz,
	last_run_at    timestamptz,
	last_task_id   bigint,
	held           timestamptz[] NOT NULL DEFAULT '{}',
	last_error     text        CONSTRAINT schedules_last_error_length CHECK (
		pg_catalog.octet_length(last_error) OPERATOR(pg_catalog.<=) 8192),
	paused_at      timestamptz,
	created_by     name        NOT NULL DEFAULT CURRENT_USER,
	created_by_oid oid         NOT NULL DEFAULT 0,
	governed       boolean     NOT NULL DEFAULT false,
	anchor         timestamptz NOT NULL DEFAULT pg_catalog.now(),
	incarnation    uuid        NOT NULL,
	created_at     timestamptz NOT NULL DEFAULT pg_catalog.now(),
	updated_at     timestamptz NOT NULL DEFAULT pg_catalog.now()
);
-- Each index begins with the role, because roles take turns. Schedules that have failed are tried again separately.
CREATE INDEX schedules_next ON jobqueue.schedules (created_by, next_run_at)
	WHERE paused_at IS NULL AND last_error IS NULL;
CREATE INDEX schedules_held ON jobqueue.schedules (created_by, name)
	WHERE paused_at IS NULL AND last_error IS NULL AND held OPERATOR(pg_catalog.<>) '{}';
CREATE INDEX schedules_failing ON jobqueue.schedules (created_by, name)
	WHERE paused_at IS NULL AND last_error IS NOT NULL;

COMMENT ON TABLE jobqueue.schedules IS 'tasks that are added at certain times: see schedule()';
COMMENT ON COLUMN jobqueue.schedules.name IS 'name of the schedule';
COMMENT ON COLUMN jobqueue.schedules.cron IS 'when: a cron expression or an interval';
COMMENT ON COLUMN jobqueue.schedules.type IS 'type of its tasks';
COMMENT ON COLUMN jobqueue.schedules.payload IS 'their payload';
COMMENT ON COLUMN jobqueue.schedules.command IS
	'the SQL command that its tasks run; null = it has a type and a payload of its own';
COMMENT ON COLUMN jobqueue.schedules.time_zone IS 'the time zone of the expression';
COMMENT ON COLUMN jobqueue.schedules.queue IS 'queue of its tasks; null = the handler''s, else default';
COMMENT ON COLUMN jobqueue.schedules.priority IS 'priority of its tasks';
COMMENT ON COLUMN jobqueue.schedules.timeout IS 'timeout of its tasks; null = the handler''s value';
COMMENT ON COLUMN jobqueue.schedules.on_misfire IS 'what happens to times that were missed: skip, once or all';
COMMENT ON COLUMN jobqueue.schedules.misfire_limit IS
	'the maximum number of tasks for missed times (all), and of times held back; the latest ones count';
COMMENT ON COLUMN jobqueue.schedules.on_overlap IS
	'what happens while its previous task is not finished: allow, skip or queue';
COMMENT ON COLUMN jobqueue.schedules.next_run_at IS 'when it fires next; null = never again';
COMMENT ON COLUMN jobqueue.schedules.last_run_at IS 'the time for which it added its latest task';
COMMENT ON COLUMN jobqueue.schedules.last_task_id IS 'that task';
COMMENT ON COLUMN jobqueue.schedules.held IS
	'times whose tasks are added when the previous task is finished (on_overlap queue)';
COMMENT ON COLUMN jobqueue.schedules.last_error IS 'why it does not fire; null = no error';
COMMENT ON COLUMN jobqueue.schedules.paused_at IS 'when it was paused; null = it is not';
COMMENT ON COLUMN jobqueue.schedules.created_by IS 'the role that it belongs to, which adds its tasks';
COMMENT ON COLUMN jobqueue.schedules.created_by_oid IS
	'the OID of that role: another role that takes over the name gets nothing; set again by adopt()';
COMMENT ON COLUMN jobqueue.schedules.governed IS
	'made by a role whose access jobqueue.access limited at that time; its rights are checked at each firing';
COMMENT ON COLUMN jobqueue.schedules.anchor IS 'when the expression was given; intervals count from here';
COMMENT ON COLUMN jobqueue.schedules.incarnation IS
	'the installation in which it was made; schedules of another one do not fire';
COMMENT ON COLUMN jobqueue.schedules.created_at IS 'when it was first made';
COMMENT ON COLUMN jobqueue.schedules.updated_at IS 'when it was last made or replaced';

SELECT pg_catalog.pg_extension_config_dump('jobqueue.schedules', '');

CREATE FUNCTION jobqueue.schedule(name text, cron text, type text, payload jsonb DEFAULT '{}',
	time_zone text DEFAULT 'UTC', queue text DEFAULT NULL, priority integer DEFAULT 0, on_misfire text DEFAULT 'once',
	misfire_limit integer DEFAULT 10, on_overlap text DEFAULT 'allow')
	RETURNS void LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_schedule';
COMMENT ON FUNCTION jobqueue.schedule(text, text, text, jsonb, text, text, integer, text, integer, text) IS
	'adds a task of a type at the times of a cron expression or an interval; a second call replaces it';

CREATE FUNCTION jobqueue.unschedule(name text)
	RETURNS boolean LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_unschedule';
COMMENT ON FUNCTION jobqueue.unschedule(text) IS 'removes a schedule; its tasks stay; false if there was none';

CREATE FUNCTION jobqueue.pause_schedule(name text)
	RETURNS boolean LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_pause_schedule';
COMMENT ON FUNCTION jobqueue.pause_schedule(text) IS
	'pauses a schedule: it adds no tasks, and misses no times; false if it was already paused, or does not '
	'exist';

CREATE FUNCTION jobqueue.resume_schedule(name text)
	RETURNS boolean LANGUAGE C VOLATILE AS 'MODULE_PATHNAME', 'jobqueue_resume_schedule';
COMMENT ON FUNCTION jobqueue.resume_schedule(text) IS
	'ends pause_schedule: the schedule fires from now on; false if it was not paused, or does not exist';

CREATE FUNCTION jobqueue.next_runs(cron text, n integer DEFAULT 5, time_zone text DEFAULT 'UTC',
	after timestamptz DEFAULT pg_catalog.now())
	RETURNS SETOF timestamptz LANGUAGE C STABLE AS 'MODULE_PATHNAME', 'jobqueue_next_runs';
COMMENT ON FUNCTION jobqueue.next_runs(text, integer, text, timestamptz) IS
	'the first n times after "after" at which such a schedule fires; intervals count from there';

CREATE FUNCTION jobqueue._schedules_changed() RETURNS trigger
	LANGUAGE C AS 'MODULE_PATHNAME', 'jobqueue_schedules_changed';
COMMENT ON FUNCTION jobqueue._schedules_changed() IS
	'internal: makes the scheduler look at schedules that were changed by hand';
CREATE TRIGGER schedules_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON jobqueue.schedules
	FOR EACH STATEMENT EXECUTE FUNCTION jobqueue._schedules_changed();
ALTER TABLE jobqueue.schedules ENABLE ALWAYS TRIGGER schedules_changed;
